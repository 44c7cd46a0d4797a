// Convolution of each channel by itself, with the channels last, of three spatial axes: fewer have
// leading axes of length 1. What a window sees follows from tables, so that nothing is divided here.
#include "channels.hpp"
#include "crew.hpp"

using namespace distgrad;

struct Convolution {
    index_t lengths[3];   // of the input
    index_t windows[3];   // of the output
    index_t taps[3];
    index_t dilations[3];
    index_t channels;
};

// What a window sees along an axis: where tap 0 lies, and the taps inside the input.
struct Taps {
    index_t begin, first, last;
};

// The windows that see the input through a tap: tap t of window w lies at begin + w stride.
struct Windows {
    index_t begin, first, last;
};

// A place of the input is seen by the windows of these numbers, each through that tap.
struct Seen {
    index_t window, tap;
};

// --- windows ---------------------------------------------------------------------------------------

// Some windows side by side, whose taps along the last axis are all inside the input.
template <class V, int N, int WINDOWS>
static inline INLINE void convolve(
    const Convolution& p, const real* x, const real* w, real* y, index_t example, const Taps& a,
    const Taps& b, const Taps* c, index_t at) {
    V sums[WINDOWS][N];
    UNROLLED(int i = 0; i < WINDOWS; ++i) UNROLLED(int j = 0; j < N; ++j) sums[i][j] = V{};
    for (index_t ta = a.first; ta < a.last; ++ta)
        for (index_t tb = b.first; tb < b.last; ++tb) {
            const index_t pa = a.begin + ta * p.dilations[0], pb = b.begin + tb * p.dilations[1];
            const real* row =
                x + ((example * p.lengths[0] + pa) * p.lengths[1] + pb) * p.lengths[2] * p.channels;
            const real* weights = w + (ta * p.taps[1] + tb) * p.taps[2] * p.channels;
            const real* from[WINDOWS];
            UNROLLED(int i = 0; i < WINDOWS; ++i) from[i] = row + c[i].begin * p.channels + at;
            for (index_t t = c->first; t < c->last; ++t) {
                V weight[N];
                UNROLLED(int j = 0; j < N; ++j)
                    weight[j] = load<V>(weights + t * p.channels + at + j * LENGTH<V>);
                const index_t ahead = t * p.dilations[2] * p.channels;
                UNROLLED(int i = 0; i < WINDOWS; ++i) UNROLLED(int j = 0; j < N; ++j)
                    sums[i][j] += load<V>(from[i] + ahead + j * LENGTH<V>) * weight[j];
            }
        }
    UNROLLED(int i = 0; i < WINDOWS; ++i) UNROLLED(int j = 0; j < N; ++j)
        store(y + i * p.channels + at + j * LENGTH<V>, sums[i][j]);
}

constexpr int SIDE = 4;  // windows at a time

struct Line {
    const Convolution& p;
    const real *x, *w;
    real* y;
    index_t example;
    const Taps &a, &b, *c;
    template <class V, int N>
    inline void on(index_t at) const {
        const index_t whole = p.taps[2], windows = p.windows[2];
        for (index_t n = 0; n < windows;) {
            real* to = y + n * p.channels;
            if (n + SIDE <= windows && c[n].first == 0 && c[n].last == whole &&
                c[n + SIDE - 1].first == 0 && c[n + SIDE - 1].last == whole) {
                convolve<V, N, SIDE>(p, x, w, to, example, a, b, c + n, at);
                n += SIDE;
            } else {
                convolve<V, N, 1>(p, x, w, to, example, a, b, c + n, at);
                n += 1;
            }
        }
    }
};

// Lines of windows: all along the last axis at one place of the axes before.
static void convolve_lines(
    index_t begin, index_t end, const Convolution* convolution, const Taps* along_a,
    const Taps* along_b, const Taps* along_c, const real* x, const real* w, real* y) {
    const Convolution& p = *convolution;
    for (index_t line = begin; line < end; ++line) {
        const index_t b = line % p.windows[1], a = line / p.windows[1] % p.windows[0];
        const index_t example = line / p.windows[1] / p.windows[0];
        over_channels<2>(
            p.channels, Line{p, x, w, y + line * p.windows[2] * p.channels, example, along_a[a],
                             along_b[b], along_c});
    }
}

// --- the input from windows ------------------------------------------------------------------------

struct Place {
    const Convolution& p;
    const real *y, *w;
    real* x;
    index_t example;
    const Seen *a, *a_end, *b, *b_end, *c, *c_end;
    template <class V, int N>
    inline void on(index_t at) const {
        V sums[N];
        UNROLLED(int j = 0; j < N; ++j) sums[j] = V{};
        for (const Seen* i = a; i < a_end; ++i)
            for (const Seen* k = b; k < b_end; ++k) {
                const real* from =
                    y + ((example * p.windows[0] + i->window) * p.windows[1] + k->window) *
                            p.windows[2] * p.channels + at;
                const real* weights = w + (i->tap * p.taps[1] + k->tap) * p.taps[2] * p.channels + at;
                for (const Seen* l = c; l < c_end; ++l)
                    UNROLLED(int j = 0; j < N; ++j)
                        sums[j] += load<V>(from + l->window * p.channels + j * LENGTH<V>) *
                                   load<V>(weights + l->tap * p.channels + j * LENGTH<V>);
            }
        UNROLLED(int j = 0; j < N; ++j) store(x + at + j * LENGTH<V>, sums[j]);
    }
};

// Lines of the input. A place's windows are those from one start to the next in the axis' table.
static void spread_lines(
    index_t begin, index_t end, const Convolution* convolution, const index_t* starts_a,
    const Seen* seen_a, const index_t* starts_b, const Seen* seen_b, const index_t* starts_c,
    const Seen* seen_c, const real* y, const real* w, real* x) {
    const Convolution& p = *convolution;
    for (index_t line = begin; line < end; ++line) {
        const index_t b = line % p.lengths[1], a = line / p.lengths[1] % p.lengths[0];
        const index_t example = line / p.lengths[1] / p.lengths[0];
        for (index_t c = 0; c < p.lengths[2]; ++c)
            over_channels(
                p.channels,
                Place{p, y, w, x + (line * p.lengths[2] + c) * p.channels, example,
                      seen_a + starts_a[a], seen_a + starts_a[a + 1], seen_b + starts_b[b],
                      seen_b + starts_b[b + 1], seen_c + starts_c[c], seen_c + starts_c[c + 1]});
    }
}

// --- the cotangent of the kernel -------------------------------------------------------------------

// Add what a line of windows has for some taps side by side: sums over the windows that see through
// all of them, and then over the others.
template <class V, int N, int TAPS>
static inline INLINE void correlate(
    const real* row, const real* g, const Windows* taps, index_t stride, index_t channels,
    real* w) {
    V sums[TAPS][N];
    UNROLLED(int i = 0; i < TAPS; ++i) UNROLLED(int j = 0; j < N; ++j) sums[i][j] = V{};
    index_t first = taps[0].first, last = taps[0].last;
    for (int i = 1; i < TAPS; ++i) {
        first = taps[i].first > first ? taps[i].first : first;
        last = taps[i].last < last ? taps[i].last : last;
    }
    for (index_t n = first; n < last; ++n) {
        V cotangent[N];
        UNROLLED(int j = 0; j < N; ++j) cotangent[j] = load<V>(g + n * channels + j * LENGTH<V>);
        UNROLLED(int i = 0; i < TAPS; ++i) {
            const real* at = row + (taps[i].begin + n * stride) * channels;
            UNROLLED(int j = 0; j < N; ++j) sums[i][j] += load<V>(at + j * LENGTH<V>) * cotangent[j];
        }
    }
    UNROLLED(int i = 0; i < TAPS; ++i) {
        for (index_t n = taps[i].first; n < taps[i].last; ++n) {
            if (first < last && n == first) n = last;
            if (n >= taps[i].last) break;
            const real* at = row + (taps[i].begin + n * stride) * channels;
            UNROLLED(int j = 0; j < N; ++j)
                sums[i][j] += load<V>(at + j * LENGTH<V>) * load<V>(g + n * channels + j * LENGTH<V>);
        }
        UNROLLED(int j = 0; j < N; ++j) {
            real* to = w + i * channels + j * LENGTH<V>;
            store(to, load<V>(to) + sums[i][j]);
        }
    }
}

// Channels that do not fill the last vector are gone through one by one: sums must not be added twice.
template <class V, int N>
static inline void correlate_all(
    const Convolution& p, const real* row, const real* g, const Windows* taps, index_t stride,
    real* w) {
    index_t t = 0;
    for (; t + 3 <= p.taps[2]; t += 3)
        correlate<V, N, 3>(row, g, taps + t, stride, p.channels, w + t * p.channels);
    for (; t < p.taps[2]; ++t)
        correlate<V, N, 1>(row, g, taps + t, stride, p.channels, w + t * p.channels);
}

// Lines of windows; what those of a piece have for the kernel is added to its part of `sums`.
static void correlate_lines(
    const Piece& piece, const Convolution* convolution, const Taps* along_a, const Taps* along_b,
    const Windows* taps, index_t stride, const real* x, const real* y, real* sums) {
    const Convolution& p = *convolution;
    real* w = sums + piece.number * p.taps[0] * p.taps[1] * p.taps[2] * p.channels;
    for (index_t line = piece.begin; line < piece.end; ++line) {
        const Taps& b = along_b[line % p.windows[1]];
        const Taps& a = along_a[line / p.windows[1] % p.windows[0]];
        const index_t example = line / p.windows[1] / p.windows[0];
        const real* g = y + line * p.windows[2] * p.channels;
        for (index_t ta = a.first; ta < a.last; ++ta)
            for (index_t tb = b.first; tb < b.last; ++tb) {
                const index_t pa = a.begin + ta * p.dilations[0], pb = b.begin + tb * p.dilations[1];
                const real* row = x + ((example * p.lengths[0] + pa) * p.lengths[1] + pb) *
                                           p.lengths[2] * p.channels;
                real* to = w + (ta * p.taps[1] + tb) * p.taps[2] * p.channels;
                index_t c = 0;
                for (; c + 2 * LENGTH<reals> <= p.channels; c += 2 * LENGTH<reals>)
                    correlate_all<reals, 2>(p, row + c, g + c, taps, stride, to + c);
                for (; c + LENGTH<reals> <= p.channels; c += LENGTH<reals>)
                    correlate_all<reals, 1>(p, row + c, g + c, taps, stride, to + c);
                for (; c < p.channels; ++c)
                    correlate_all<real, 1>(p, row + c, g + c, taps, stride, to + c);
            }
    }
}

SHARED(convolve_lines)
SHARED(spread_lines)
SHARED(correlate_lines)
