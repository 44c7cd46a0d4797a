// Softmax, cross-entropy and norms over rows: a row is read from memory once, and stays in the cache
// while it is gone through again.
#include "crew.hpp"
#include "reductions.hpp"

using namespace distgrad;
using distgrad::otherwise::log;  // of a double; once for a row

// What a pointer points to.
template <class P>
struct Pointed;
template <class T>
struct Pointed<T*> {
    typedef T type;
};
template <class P>
using Of = typename Pointed<P>::type;

// --- softmax ---------------------------------------------------------------------------------------

// The powers of a row's numbers less a number, which are stored or not; and their sum.
template <bool STORES>
static inline double powers(const real* __restrict x, real* __restrict y, real top, index_t width) {
    double total = 0;
    for (index_t begin = 0; begin < width; begin += TERMS) {
        const index_t end = begin + TERMS < width ? begin + TERMS : width;
        real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (index_t i = begin; i < end; ++i) {
            const real power = exp_of_negative(x[i] - top);
            if (STORES) y[i] = power;
            sum += power;
        }
        total += (double)sum;
    }
    return total;
}

static void softmax(index_t begin, index_t end, index_t width, const real* from, real* to) {
    for (index_t row = begin; row < end; ++row) {
        const real* __restrict x = from + row * width;
        real* __restrict y = to + row * width;
        const real factor = (real)(1 / powers<true>(x, y, greatest_of(x, width), width));
#pragma omp simd
        for (index_t i = 0; i < width; ++i) y[i] *= factor;
    }
}

static void softmax_vjp(
    index_t begin, index_t end, index_t width, const real* cotangents, const real* weights, real* to) {
    for (index_t row = begin; row < end; ++row) {
        const real* __restrict g = cotangents + row * width;
        const real* __restrict y = weights + row * width;
        real* __restrict x = to + row * width;
        const real inner = (real)sum_of<real>(width, [=](index_t i) INLINE { return g[i] * y[i]; });
#pragma omp simd
        for (index_t i = 0; i < width; ++i) x[i] = y[i] * (g[i] - inner);
    }
}

static void log_softmax(index_t begin, index_t end, index_t width, const real* from, real* to) {
    for (index_t row = begin; row < end; ++row) {
        const real* __restrict x = from + row * width;
        real* __restrict y = to + row * width;
        real top = greatest_of(x, width);
        double total = 0;
        if (fabs(top) <= LARGEST)
            total = powers<false>(x, nullptr, top, width);
        else {  // there is nothing to subtract: infinities are the result themselves
            top = 0;
            for (index_t i = 0; i < width; ++i) total += (double)exp(x[i]);
        }
        const real rest = log((real)total);
#pragma omp simd
        for (index_t i = 0; i < width; ++i) y[i] = (x[i] - top) - rest;
    }
}

// --- cross-entropy ---------------------------------------------------------------------------------

static void label_cross_entropy(
    index_t begin, index_t end, index_t width, const real* from, const index_t* labels, real* to) {
    for (index_t row = begin; row < end; ++row) {
        const real* __restrict x = from + row * width;
        const real top = greatest_of(x, width);
        to[row] = log((real)powers<false>(x, nullptr, top, width)) - (x[labels[row]] - top);
    }
}

static void label_cross_entropy_vjp(
    index_t begin, index_t end, index_t width, const real* cotangents, const real* from,
    const index_t* labels, real* to) {
    for (index_t row = begin; row < end; ++row) {
        const real* __restrict x = from + row * width;
        real* __restrict y = to + row * width;
        const real g = cotangents[row];
        const real factor = (real)(g / powers<true>(x, y, greatest_of(x, width), width));
#pragma omp simd
        for (index_t i = 0; i < width; ++i) y[i] *= factor;
        y[labels[row]] -= g;
    }
}

// --- norms -----------------------------------------------------------------------------------------

// The sums of COUNT terms at each place of a row: term(i, sums) adds those of the places from i on, as
// many as there are numbers in one of `sums`. By hand: a row is short, and compilers' own code around
// their loops takes as long as these.
template <int COUNT, class Term>
static inline void totals_of(index_t width, double* total, Term term) {
    constexpr index_t STEP = LENGTH<reals>;
    constexpr int PARTS = COUNT > 2 ? 2 : 4;
    for (int t = 0; t < COUNT; ++t) total[t] = 0;
    for (index_t begin = 0; begin < width; begin += TERMS) {
        const index_t end = begin + TERMS < width ? begin + TERMS : width;
        reals sums[PARTS][COUNT] = {};
        real rest[COUNT] = {};
        index_t i = begin;
        for (; i + PARTS * STEP <= end; i += PARTS * STEP)
            UNROLLED(int part = 0; part < PARTS; ++part) term(i + part * STEP, sums[part]);
        for (; i + STEP <= end; i += STEP) term(i, sums[0]);
        for (; i < end; ++i) term(i, rest);
        UNROLLED(int t = 0; t < COUNT; ++t) {
            reals sum = sums[0][t] + sums[1][t];
            if (PARTS > 2) sum += sums[PARTS - 2][t] + sums[PARTS - 1][t];
            real lanes[STEP];
            store(lanes, sum);
            UNROLLED(index_t half = STEP / 2; half; half /= 2)
                UNROLLED(index_t j = 0; j < half; ++j) lanes[j] += lanes[j + half];
            total[t] += (double)(lanes[0] + rest[t]);
        }
    }
}

__attribute__((noinline)) static real mean_of(const real* x, index_t width) {
    double total;
    totals_of<1>(width, &total, [=](index_t i, auto* sums) INLINE {
        sums[0] += load<Of<decltype(sums)>>(x + i);
    });
    return (real)(total / width);
}

// The mean, or zero, and 1 / sqrt(mean((x - mean)^2) + epsilon).
static inline void moments_of(
    const real* x, index_t width, real epsilon, bool centred, real& mean, real& inverse) {
    const real centre = centred ? mean_of(x, width) : 0;
    double squares;
    totals_of<1>(width, &squares, [=](index_t i, auto* sums) INLINE {
        const auto c = load<Of<decltype(sums)>>(x + i) - centre;
        sums[0] += c * c;
    });
    mean = centre;
    inverse = 1 / sqrt((real)(squares / width) + epsilon);
}

// scale and shift may be null.
static void norm(
    index_t begin, index_t end, index_t width, double epsilon, int centred, const real* from,
    const real* scaled, const real* shifted, real* to) {
    for (index_t row = begin; row < end; ++row) {
        const real* __restrict x = from + row * width;
        const real* __restrict scale = scaled;
        const real* __restrict shift = shifted;
        real* __restrict y = to + row * width;
        real mean, inverse;
        moments_of(x, width, (real)epsilon, centred, mean, inverse);
        if (shift) {
#pragma omp simd
            for (index_t i = 0; i < width; ++i) y[i] = (x[i] - mean) * inverse * scale[i] + shift[i];
        } else if (scale) {
#pragma omp simd
            for (index_t i = 0; i < width; ++i) y[i] = (x[i] - mean) * inverse * scale[i];
        } else {
#pragma omp simd
            for (index_t i = 0; i < width; ++i) y[i] = (x[i] - mean) * inverse;
        }
    }
}

// Of so many rows, terms for the cotangents of scale and shift are added in float.
constexpr index_t ROWS = 64;

// What the cotangents of a row are computed from.
struct Row {
    real mean, inverse, even, share;
};

template <bool SCALED>
__attribute__((noinline)) static Row row_of(
    const real* g, const real* x, const real* scale, index_t width, real epsilon, bool centred) {
    const real mean = centred ? mean_of(x, width) : 0;
    double totals[3];
    totals_of<3>(width, totals, [=](index_t i, auto* sums) INLINE {
        typedef Of<decltype(sums)> V;
        const V c = load<V>(x + i) - mean;
        const V k = SCALED ? load<V>(g + i) * load<V>(scale + i) : load<V>(g + i);
        sums[0] += c * c;
        sums[1] += k;
        sums[2] += k * c;
    });
    const real r = 1 / sqrt((real)(totals[0] / width) + epsilon);
    return {mean, r, centred ? (real)(totals[1] / width) : 0, (real)(totals[2] / width) * r * r};
}

// The cotangents of N rows from place i on, for as many places as there are numbers in a V.
template <class V, int N, bool SCALED>
static inline void pull_at(
    index_t i, index_t width, const Row* rows, const real* g, const real* x, const real* scale,
    real* y, real* to_scale, real* to_shift) {
    V along = {}, plain = {}, factor = {};
    if (SCALED) along = load<V>(to_scale + i), plain = load<V>(to_shift + i), factor = load<V>(scale + i);
    UNROLLED(int n = 0; n < N; ++n) {
        const V own = load<V>(g + n * width + i), c = load<V>(x + n * width + i) - rows[n].mean;
        const V k = SCALED ? own * factor : own;
        store(y + n * width + i, (k - rows[n].even - c * rows[n].share) * rows[n].inverse);
        if (SCALED) along += own * (c * rows[n].inverse), plain += own;
    }
    if (SCALED) store(to_scale + i, along), store(to_shift + i, plain);
}

template <int N, bool SCALED>
static void pull_rows(
    index_t width, real epsilon, bool centred, const real* g, const real* x, const real* scale,
    real* y, real* to_scale, real* to_shift) {
    constexpr index_t STEP = LENGTH<reals>;
    Row rows[N];
    for (int n = 0; n < N; ++n)
        rows[n] = row_of<SCALED>(g + n * width, x + n * width, scale, width, epsilon, centred);
    index_t i = 0;
    for (; i + STEP <= width; i += STEP)
        pull_at<reals, N, SCALED>(i, width, rows, g, x, scale, y, to_scale, to_shift);
    for (; i < width; ++i)
        pull_at<real, N, SCALED>(i, width, rows, g, x, scale, y, to_scale, to_shift);
}

template <bool SCALED>
static void pull_block(
    index_t rows, index_t width, real epsilon, bool centred, const real* g, const real* x,
    const real* scale, real* y, real* to_scale, real* to_shift) {
    index_t row = 0;
    for (; row + 4 <= rows; row += 4)
        pull_rows<4, SCALED>(
            width, epsilon, centred, g + row * width, x + row * width, scale, y + row * width, to_scale,
            to_shift);
    for (; row < rows; ++row)
        pull_rows<1, SCALED>(
            width, epsilon, centred, g + row * width, x + row * width, scale, y + row * width, to_scale,
            to_shift);
}

// With c the deviations, r what standardizes them, k = g scale: r (k - mean(k) - c r^2 mean(k c)).
// The sums of g c r, and of g, over the rows of each piece are added to two rows of `totals`, which is
// zero; each worker has two rows of `partials` for the sums over a few rows. Without a scale both are
// null.
static void norm_vjp(
    const Piece& piece, index_t width, double wide_epsilon, int centred, const real* cotangents,
    const real* from, const real* scale, real* to, real* partials, double* totals) {
    const real epsilon = (real)wide_epsilon;
    real* partial = partials + piece.worker * 2 * width;
    double* sums = totals + piece.number * 2 * width;
    for (index_t first = piece.begin; first < piece.end; first += ROWS) {
        const index_t rows = first + ROWS < piece.end ? ROWS : piece.end - first;
        const real* g = cotangents + first * width;
        const real* x = from + first * width;
        real* y = to + first * width;
        if (!scale) {
            pull_block<false>(rows, width, epsilon, centred, g, x, nullptr, y, nullptr, nullptr);
            continue;
        }
        for (index_t i = 0; i < 2 * width; ++i) partial[i] = 0;
        pull_block<true>(rows, width, epsilon, centred, g, x, scale, y, partial, partial + width);
        for (index_t i = 0; i < 2 * width; ++i) sums[i] += (double)partial[i];
    }
}

SHARED(softmax)
SHARED(softmax_vjp)
SHARED(log_softmax)
SHARED(label_cross_entropy)
SHARED(label_cross_entropy_vjp)
SHARED(norm)
SHARED(norm_vjp)
