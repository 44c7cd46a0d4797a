// Pooling with the channels last, of three spatial axes: fewer have leading axes of length 1.
#include "channels.hpp"
#include "crew.hpp"

using namespace distgrad;

struct Pool {
    index_t lengths[3];   // of the input
    index_t channels;
    index_t windows[3];   // how many there are
    index_t taps[3];      // how many each has
    index_t strides[3];
    index_t before[3];    // padding
};

// The taps of a window that lie inside the input, along an axis.
struct Range {
    index_t begin, first, last;  // where tap 0 lies; the taps inside
    Range(const Pool& p, int axis, index_t window) {
        begin = window * p.strides[axis] - p.before[axis];
        first = begin < 0 ? -begin : 0;
        last = p.lengths[axis] - begin < p.taps[axis] ? p.lengths[axis] - begin : p.taps[axis];
        if (first > p.taps[axis]) first = p.taps[axis];
        if (last < first) last = first;
    }
};

// A line of windows: all along the last axis at one place of the axes before.
struct Line {
    index_t example, at[2];
    Line(const Pool& p, index_t number) {
        at[1] = number % p.windows[1];
        number /= p.windows[1];
        at[0] = number % p.windows[0];
        example = number / p.windows[0];
    }
};

static inline index_t row_of(const Pool& p, index_t example, index_t a, index_t b) {
    return ((example * p.lengths[0] + a) * p.lengths[1] + b) * p.lengths[2] * p.channels;
}

// What a window sees, and where its result is to go.
struct Window {
    const Pool& p;
    index_t example;
    const Range &a, &b, &w;
};

// Go through the taps of a window that lie inside the input.
template <class Tap>
static inline void over_taps(const Window& seen, const real* x, const Tap& tap) {
    const Pool& p = seen.p;
    for (index_t ta = seen.a.first; ta < seen.a.last; ++ta)
        for (index_t tb = seen.b.first; tb < seen.b.last; ++tb) {
            const real* from = x + row_of(p, seen.example, seen.a.begin + ta, seen.b.begin + tb) +
                                seen.w.begin * p.channels;
            const index_t number = (ta * p.taps[1] + tb) * p.taps[2];
            for (index_t t = seen.w.first; t < seen.w.last; ++t) tap(from + t * p.channels, number + t);
        }
}

struct Greatest {
    const Window seen;
    const real* x;
    real* y;
    template <class V, int N>
    inline void on(index_t c) const {
        V most[N];
        UNROLLED(int j = 0; j < N; ++j) most[j] = V{} - __builtin_inff();
        over_taps(seen, x + c, [&](const real* at, index_t) INLINE {
            UNROLLED(int j = 0; j < N; ++j) {
                const V v = load<V>(at + j * LENGTH<V>);
                most[j] = ((v > most[j]) | (v != v)) ? v : most[j];
            }
        });
        UNROLLED(int j = 0; j < N; ++j) store(y + c + j * LENGTH<V>, most[j]);
    }
};

struct Average {
    const Window seen;
    const real* x;
    real* y;
    const real factor;
    template <class V, int N>
    inline void on(index_t c) const {
        V sum[N];
        UNROLLED(int j = 0; j < N; ++j) sum[j] = V{};
        over_taps(seen, x + c, [&](const real* at, index_t) INLINE {
            UNROLLED(int j = 0; j < N; ++j) sum[j] += load<V>(at + j * LENGTH<V>);
        });
        UNROLLED(int j = 0; j < N; ++j) store(y + c + j * LENGTH<V>, sum[j] * factor);
    }
};

// The first tap that lies outside the input, or -1; its number among all.
static index_t padding_of(const Window& seen) {
    const Pool& p = seen.p;
    for (index_t number = 0; number < p.taps[0] * p.taps[1] * p.taps[2]; ++number) {
        const index_t t = number % p.taps[2], tb = number / p.taps[2] % p.taps[1];
        const index_t ta = number / p.taps[2] / p.taps[1];
        if (ta < seen.a.first || ta >= seen.a.last || tb < seen.b.first || tb >= seen.b.last ||
            t < seen.w.first || t >= seen.w.last)
            return number;
    }
    return -1;
}

// The number of the first tap that sees the greatest; 255 where none does. Padding is -infinity.
struct Places {
    const Window seen;
    const real *x, *y;
    byte_t* places;
    const int padding;
    template <class V, int N>
    inline void on(index_t c) const {
        integers<V> place[N];
        V most[N];
        UNROLLED(int j = 0; j < N; ++j) {
            place[j] = integers<V>{} + 255;
            most[j] = load<V>(y + c + j * LENGTH<V>);
        }
        over_taps(seen, x + c, [&](const real* at, index_t number) INLINE {
            const int own = (int)number;
            UNROLLED(int j = 0; j < N; ++j) {
                const V v = load<V>(at + j * LENGTH<V>);
                const integers<V> numbers = integers<V>{} + own;
                const integers<V> next = ((v == most[j]) | (v != v)) ? numbers : place[j];
                place[j] = next < place[j] ? next : place[j];
            }
        });
        if (padding >= 0)
            UNROLLED(int j = 0; j < N; ++j) {
                const integers<V> numbers = integers<V>{} + padding;
                const integers<V> next = most[j] == V{} - __builtin_inff() ? numbers : place[j];
                place[j] = next < place[j] ? next : place[j];
            }
        UNROLLED(int j = 0; j < N; ++j) store_bytes(places + c + j * LENGTH<V>, place[j]);
    }
};

// Go through windows of lines from one to another: window(what it sees, its number of all).
template <class Each>
static inline void over_windows(index_t begin, index_t end, const Pool& p, const Each& each) {
    for (index_t line = begin; line < end; ++line) {
        const Line l(p, line);
        const Range a(p, 0, l.at[0]), b(p, 1, l.at[1]);
        for (index_t n = 0; n < p.windows[2]; ++n) {
            const Range w(p, 2, n);
            each(Window{p, l.example, a, b, w}, line * p.windows[2] + n);
        }
    }
}

static void max_pool(index_t begin, index_t end, const Pool* p, const real* x, real* y) {
    over_windows(begin, end, *p, [=](const Window& seen, index_t number) INLINE {
        over_channels(p->channels, Greatest{seen, x, y + number * p->channels});
    });
}

// `weights` has a factor for each window of an example, or one for all.
static void avg_pool(
    index_t begin, index_t end, const Pool* p, int single, const real* weights, const real* x,
    real* y) {
    const index_t each = p->windows[0] * p->windows[1] * p->windows[2];
    over_windows(begin, end, *p, [=](const Window& seen, index_t number) INLINE {
        const real factor = weights[single ? 0 : number - seen.example * each];
        over_channels(p->channels, Average{seen, x, y + number * p->channels, factor});
    });
}

static void pool_places(
    index_t begin, index_t end, const Pool* p, const real* x, const real* y, byte_t* places) {
    const index_t all = p->taps[0] * p->taps[1] * p->taps[2];
    over_windows(begin, end, *p, [=](const Window& seen, index_t number) INLINE {
        const index_t inside = (seen.a.last - seen.a.first) * (seen.b.last - seen.b.first) *
                               (seen.w.last - seen.w.first);
        const int padding = inside < all ? (int)padding_of(seen) : -1;
        const index_t at = number * p->channels;
        over_channels(p->channels, Places{seen, x, y + at, places + at, padding});
    });
}

// --- cotangents ------------------------------------------------------------------------------------

// The windows that see a place of an axis; window w does so by its tap `place` - w stride.
struct Cover {
    index_t place, first, last;
    Cover(const Pool& p, int axis, index_t at) {
        place = at + p.before[axis];
        const index_t reach = place - p.taps[axis] + 1, stride = p.strides[axis];
        first = reach > 0 ? (reach + stride - 1) / stride : 0;
        last = place / stride + 1 < p.windows[axis] ? place / stride + 1 : p.windows[axis];
    }
    // Go on to the next place; divisions take longer than all else here.
    void advance(const Pool& p, int axis) {
        ++place;
        if (first * p.strides[axis] + p.taps[axis] <= place) ++first;
        if (last < p.windows[axis] && last * p.strides[axis] <= place) ++last;
    }
};

// A place of the input, and the windows that see it.
struct Place {
    const Pool& p;
    index_t example;
    const Cover &a, &b, &w;
};

// Go through the windows that see a place in order: see(number of all windows, number of the tap).
template <class See>
static inline void over_seers(const Place& at, const See& see) {
    const Pool& p = at.p;
    for (index_t wa = at.a.first; wa < at.a.last; ++wa)
        for (index_t wb = at.b.first; wb < at.b.last; ++wb) {
            const index_t ta = at.a.place - wa * p.strides[0], tb = at.b.place - wb * p.strides[1];
            const index_t line = (at.example * p.windows[0] + wa) * p.windows[1] + wb;
            const index_t number = (ta * p.taps[1] + tb) * p.taps[2] + at.w.place;
            for (index_t w = at.w.first; w < at.w.last; ++w)
                see(line * p.windows[2] + w, number - w * p.strides[2]);
        }
}

struct Chosen {
    const Place at;
    const real* g;
    const byte_t* places;
    real* x;
    template <class V, int N>
    inline void on(index_t c) const {
        V sum[N];
        UNROLLED(int j = 0; j < N; ++j) sum[j] = V{};
        over_seers(at, [&](index_t window, index_t tap) INLINE {
            const index_t from = window * at.p.channels + c;
            const int own = (int)tap;
            UNROLLED(int j = 0; j < N; ++j) {
                const integers<V> place = load_bytes<V>(places + from + j * LENGTH<V>);
                const V v = load<V>(g + from + j * LENGTH<V>);
                sum[j] += place == own ? v : V{};
            }
        });
        UNROLLED(int j = 0; j < N; ++j) store(x + c + j * LENGTH<V>, sum[j]);
    }
};

struct Shares {
    const Place at;
    const real *g, *weights;
    const index_t before;  // windows of the examples before, or -1: one weight for all
    real* x;
    template <class V, int N>
    inline void on(index_t c) const {
        V sum[N];
        UNROLLED(int j = 0; j < N; ++j) sum[j] = V{};
        over_seers(at, [&](index_t window, index_t) INLINE {
            const real* from = g + window * at.p.channels + c;
            const real factor = weights[before < 0 ? 0 : window - before];
            UNROLLED(int j = 0; j < N; ++j) sum[j] += load<V>(from + j * LENGTH<V>) * factor;
        });
        UNROLLED(int j = 0; j < N; ++j) store(x + c + j * LENGTH<V>, sum[j]);
    }
};

// Go through the places of lines of the input: each(place, its number of all).
template <class Each>
static inline void over_places(index_t begin, index_t end, const Pool& p, const Each& each) {
    for (index_t line = begin; line < end; ++line) {
        const index_t example = line / (p.lengths[0] * p.lengths[1]);
        const Cover a(p, 0, line / p.lengths[1] % p.lengths[0]), b(p, 1, line % p.lengths[1]);
        Cover w(p, 2, 0);
        for (index_t place = 0; place < p.lengths[2]; ++place, w.advance(p, 2))
            each(Place{p, example, a, b, w}, line * p.lengths[2] + place);
    }
}

static void max_pool_vjp(
    index_t begin, index_t end, const Pool* p, const real* g, const byte_t* places, real* x) {
    over_places(begin, end, *p, [=](const Place& at, index_t number) INLINE {
        over_channels(p->channels, Chosen{at, g, places, x + number * p->channels});
    });
}

static void avg_pool_vjp(
    index_t begin, index_t end, const Pool* p, int single, const real* weights, const real* g,
    real* x) {
    const index_t each = p->windows[0] * p->windows[1] * p->windows[2];
    over_places(begin, end, *p, [=](const Place& at, index_t number) INLINE {
        const index_t before = single ? -1 : at.example * each;
        over_channels(p->channels, Shares{at, g, weights, before, x + number * p->channels});
    });
}

SHARED(max_pool)
SHARED(avg_pool)
SHARED(pool_places)
SHARED(max_pool_vjp)
SHARED(avg_pool_vjp)
