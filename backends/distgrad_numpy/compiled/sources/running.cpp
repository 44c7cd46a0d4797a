// Running sums and products, products of lines, and what passes back through running products.
//
// Lines are computed several at a time, each in its own order: one number after the other, a line
// would wait for every sum. Of (outer, length, inner), a line is `outer` and `inner` fixed; where
// inner is 1, lines begin `length` apart, and else they lie side by side.
#include "crew.hpp"

namespace distgrad {

struct Add {
    template <class T>
    static T of(T a, T b) {
        return a + b;
    }
};

struct Multiply {
    template <class T>
    static T of(T a, T b) {
        return a * b;
    }
};

// What W lines have been combined to, step by step. Lines are `apart` numbers apart, or side by side.
template <class Combine>
struct Cumulate {
    template <int W, bool BESIDE, class T>
    static void lines(index_t length, index_t apart, index_t step, const T* x, T* out) {
        const index_t gap = BESIDE ? 1 : apart;
        T total[W];
        for (int c = 0; c < W; ++c) out[c * gap] = total[c] = x[c * gap];
        for (index_t k = 1; k < length; ++k) {
            x += step, out += step;
            for (int c = 0; c < W; ++c) out[c * gap] = total[c] = Combine::of(total[c], x[c * gap]);
        }
    }
};

// The cotangent of what W lines were multiplied up from: h[k] = g[k] + x[k + 1] h[k + 1] is what the
// products from k on hand back, and those before k multiply it.
struct Uncumulate {
    template <int W, bool BESIDE, class T>
    static void lines(index_t length, index_t apart, index_t step, const T* x, const T* g, T* out) {
        const index_t gap = BESIDE ? 1 : apart;
        T h[W] = {}, before[W];
        for (index_t k = length - 1; k >= 0; --k)
            for (int c = 0; c < W; ++c) {
                const T behind = k + 1 < length ? x[(k + 1) * step + c * gap] * h[c] : T(0);
                out[k * step + c * gap] = h[c] = g[k * step + c * gap] + behind;
            }
        for (int c = 0; c < W; ++c) before[c] = 1;
        for (index_t k = 0; k < length; ++k)
            for (int c = 0; c < W; ++c) {
                out[k * step + c * gap] *= before[c];
                before[c] *= x[k * step + c * gap];
            }
    }
};

// Lines begin <= j < end: of all, or of each outer part.
template <class Way, class T, class... Given>
inline void all_lines(index_t begin, index_t end, index_t outer, index_t length, index_t inner,
                      index_t step, const Given*... given) {
    if (inner == 1) {
        index_t j = begin;
        for (; j + 8 <= end; j += 8)
            Way::template lines<8, false>(length, length, step, (T*)given + j * length...);
        for (; j < end; ++j)
            Way::template lines<1, false>(length, length, step, (T*)given + j * length...);
        return;
    }
    for (index_t part = 0; part < outer; ++part) {
        index_t j = begin + part * length * inner;
        const index_t behind = end + part * length * inner;
        for (; j + 64 <= behind; j += 64)
            Way::template lines<64, true>(length, inner, step, (T*)given + j...);
        for (; j + 8 <= behind; j += 8)
            Way::template lines<8, true>(length, inner, step, (T*)given + j...);
        for (; j < behind; ++j)
            Way::template lines<1, true>(length, inner, step, (T*)given + j...);
    }
}

// The products of W lines, each number after the other.
template <int W, class T>
inline void short_products(index_t length, const T* x, T* out) {
    T total[W];
    for (int c = 0; c < W; ++c) total[c] = 1;
    for (index_t k = 0; k < length; ++k)
        for (int c = 0; c < W; ++c) total[c] *= x[c * length + k];
    for (int c = 0; c < W; ++c) out[c] = total[c];
}

// The product of a line, in LANES products that are multiplied at last.
template <class T>
inline T long_product(index_t length, const T* x) {
    constexpr int LANES = 32;
    T lanes[LANES];
    for (int c = 0; c < LANES; ++c) lanes[c] = 1;
    index_t k = 0;
    for (; k + LANES <= length; k += LANES)
        for (int c = 0; c < LANES; ++c) lanes[c] *= x[k + c];
    for (; k < length; ++k) lanes[k % LANES] *= x[k];
    for (int width = LANES / 2; width; width /= 2)
        for (int c = 0; c < width; ++c) lanes[c] *= lanes[c + width];
    return lanes[0];
}

// Those of the lines begin <= j < end. How a line is computed follows from its length alone.
template <class T>
inline void products_of(index_t begin, index_t end, index_t length, const T* x, T* out) {
    index_t j = begin;
    if (length < 256) {
        for (; j + 8 <= end; j += 8) short_products<8>(length, x + j * length, out + j);
        for (; j < end; ++j) short_products<1>(length, x + j * length, out + j);
    }
    for (; j < end; ++j) out[j] = long_product(length, x + j * length);
}

}  // namespace distgrad

using namespace distgrad;

#define RUNNING(T, dtype)                                                                          \
    static void cumulative_sum_##dtype(index_t begin, index_t end, index_t outer, index_t length,  \
                                       index_t inner, index_t step, const T* x, T* out) {          \
        all_lines<Cumulate<Add>, T>(begin, end, outer, length, inner, step, x, out);               \
    }                                                                                              \
    static void cumulative_prod_##dtype(index_t begin, index_t end, index_t outer, index_t length, \
                                        index_t inner, index_t step, const T* x, T* out) {         \
        all_lines<Cumulate<Multiply>, T>(begin, end, outer, length, inner, step, x, out);          \
    }                                                                                              \
    static void cumulative_prod_vjp_##dtype(index_t begin, index_t end, index_t outer,             \
                                            index_t length, index_t inner, index_t step,           \
                                            const T* x, const T* g, T* out) {                      \
        all_lines<Uncumulate, T>(begin, end, outer, length, inner, step, x, g, out);               \
    }                                                                                              \
    static void prod_##dtype(index_t begin, index_t end, index_t length, const T* x, T* out) {     \
        products_of(begin, end, length, x, out);                                                   \
    }                                                                                              \
    SHARED(cumulative_sum_##dtype)                                                                 \
    SHARED(cumulative_prod_##dtype)                                                                \
    SHARED(cumulative_prod_vjp_##dtype)                                                            \
    SHARED(prod_##dtype)

RUNNING(float, float32)
RUNNING(double, float64)
