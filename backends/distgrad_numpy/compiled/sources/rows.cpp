// Softmax, cross-entropy and norms over rows: a row is read from memory once, and stays in the cache
// while it is gone through again.
#include "reductions.hpp"

using namespace distgrad;

// --- softmax ---------------------------------------------------------------------------------------

// exp(x) for x <= 0. What 2^n lacks of being normal is made up for by a constant factor.
static inline float exp_of_negative(float x) {
    x = x < -104.0f ? -104.0f : x;  // NaN stays
    const float n = __builtin_rintf(x * LOG2E);
    const float r = (x - n * LN2_HIGH) - n * LN2_LOW;
    return (1.0f + expm1_of_rest(r)) * float_of(((int)n + (127 + 64)) << 23) * 5.42101086e-20f;
}

// The powers of a row's numbers less a number, which are stored or not; and their sum.
template <bool STORES>
static inline double powers(const float* __restrict x, float* __restrict y, float top, index_t width) {
    double total = 0;
    for (index_t begin = 0; begin < width; begin += TERMS) {
        const index_t end = begin + TERMS < width ? begin + TERMS : width;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (index_t i = begin; i < end; ++i) {
            const float power = exp_of_negative(x[i] - top);
            if (STORES) y[i] = power;
            sum += power;
        }
        total += (double)sum;
    }
    return total;
}

KERNEL void softmax(index_t begin, index_t end, index_t width, const float* from, float* to) {
    for (index_t row = begin; row < end; ++row) {
        const float* __restrict x = from + row * width;
        float* __restrict y = to + row * width;
        const float factor = (float)(1 / powers<true>(x, y, greatest_of(x, width), width));
#pragma omp simd
        for (index_t i = 0; i < width; ++i) y[i] *= factor;
    }
}

KERNEL void softmax_vjp(
    index_t begin, index_t end, index_t width, const float* cotangents, const float* weights, float* to) {
    for (index_t row = begin; row < end; ++row) {
        const float* __restrict g = cotangents + row * width;
        const float* __restrict y = weights + row * width;
        float* __restrict x = to + row * width;
        const float inner = (float)sum_of<float>(width, [=](index_t i) INLINE { return g[i] * y[i]; });
#pragma omp simd
        for (index_t i = 0; i < width; ++i) x[i] = y[i] * (g[i] - inner);
    }
}

KERNEL void log_softmax(index_t begin, index_t end, index_t width, const float* from, float* to) {
    for (index_t row = begin; row < end; ++row) {
        const float* __restrict x = from + row * width;
        float* __restrict y = to + row * width;
        float top = greatest_of(x, width);
        double total = 0;
        if (__builtin_fabsf(top) <= 3.4028235e38f)
            total = powers<false>(x, nullptr, top, width);
        else {  // there is nothing to subtract: infinities are the result themselves
            top = 0;
            for (index_t i = 0; i < width; ++i) total += (double)exp(x[i]);
        }
        const float rest = log((float)total);
#pragma omp simd
        for (index_t i = 0; i < width; ++i) y[i] = (x[i] - top) - rest;
    }
}

// --- cross-entropy ---------------------------------------------------------------------------------

KERNEL void label_cross_entropy(
    index_t begin, index_t end, index_t width, const float* from, const index_t* labels, float* to) {
    for (index_t row = begin; row < end; ++row) {
        const float* __restrict x = from + row * width;
        const float top = greatest_of(x, width);
        to[row] = log((float)powers<false>(x, nullptr, top, width)) - (x[labels[row]] - top);
    }
}

KERNEL void label_cross_entropy_vjp(
    index_t begin, index_t end, index_t width, const float* cotangents, const float* from,
    const index_t* labels, float* to) {
    for (index_t row = begin; row < end; ++row) {
        const float* __restrict x = from + row * width;
        float* __restrict y = to + row * width;
        const float g = cotangents[row];
        const float factor = (float)(g / powers<true>(x, y, greatest_of(x, width), width));
#pragma omp simd
        for (index_t i = 0; i < width; ++i) y[i] *= factor;
        y[labels[row]] -= g;
    }
}

// --- norms -----------------------------------------------------------------------------------------

// The mean, or zero, and 1 / sqrt(mean((x - mean)^2) + epsilon).
static inline void moments_of(
    const float* __restrict x, index_t width, float epsilon, bool centred, float& mean, float& inverse) {
    const float centre =
        centred ? (float)(sum_of<float>(width, [=](index_t i) INLINE { return x[i]; }) / width) : 0.0f;
    const double squares = sum_of<float>(width, [=](index_t i) INLINE {
        const float c = x[i] - centre;
        return c * c;
    });
    mean = centre;
    inverse = 1.0f / sqrt((float)(squares / width) + epsilon);
}

// scale and shift may be null.
KERNEL void norm(
    index_t begin, index_t end, index_t width, float epsilon, int centred, const float* from,
    const float* scaled, const float* shifted, float* to) {
    for (index_t row = begin; row < end; ++row) {
        const float* __restrict x = from + row * width;
        const float* __restrict scale = scaled;
        const float* __restrict shift = shifted;
        float* __restrict y = to + row * width;
        float mean, inverse;
        moments_of(x, width, epsilon, centred, mean, inverse);
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

// With c the deviations, r what standardizes them, k = g scale: r (k - mean(k) - c r^2 mean(k c)).
// The sums of g c r, and of g, over all rows are added to `sums`, each `width` long; `partial` is
// memory of the same size for the sums over a few rows. Without a scale both are null.
KERNEL void norm_vjp(
    index_t begin, index_t end, index_t width, float epsilon, int centred, const float* cotangents,
    const float* from, const float* scaled, float* to, float* partial, double* sums) {
    for (index_t first = begin; first < end; first += ROWS) {
        const index_t last = first + ROWS < end ? first + ROWS : end;
        float* __restrict to_scale = partial;
        float* __restrict to_shift = partial + width;
        if (scaled)
            for (index_t i = 0; i < 2 * width; ++i) partial[i] = 0;
        for (index_t row = first; row < last; ++row) {
            const float* __restrict g = cotangents + row * width;
            const float* __restrict x = from + row * width;
            const float* __restrict scale = scaled;
            float* __restrict y = to + row * width;
            float mean, r;
            moments_of(x, width, epsilon, centred, mean, r);
            double plain, along;
            if (scale)
                sums_of<float>(
                    width,
                    [=](index_t i, float& a, float& b) INLINE {
                        const float k = g[i] * scale[i];
                        a += k;
                        b += k * (x[i] - mean);
                    },
                    plain, along);
            else
                sums_of<float>(
                    width,
                    [=](index_t i, float& a, float& b) INLINE {
                        a += g[i];
                        b += g[i] * (x[i] - mean);
                    },
                    plain, along);
            const float even = centred ? (float)(plain / width) : 0.0f;
            const float share = (float)(along / width) * r * r;
            if (scale) {
#pragma omp simd
                for (index_t i = 0; i < width; ++i) {
                    const float c = x[i] - mean;
                    y[i] = (g[i] * scale[i] - even - c * share) * r;
                    to_scale[i] += g[i] * (c * r);
                    to_shift[i] += g[i];
                }
            } else {
#pragma omp simd
                for (index_t i = 0; i < width; ++i) y[i] = (g[i] - even - (x[i] - mean) * share) * r;
            }
        }
        if (scaled)
            for (index_t i = 0; i < 2 * width; ++i) sums[i] += (double)partial[i];
    }
}
