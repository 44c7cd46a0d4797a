// Sums, and the greatest number, of many terms: several partial results at once, which vectors of any
// width hold; float terms are added in float over a few thousand at most, and in double from there.
#pragma once

#include "channels.hpp"

namespace distgrad {

constexpr index_t TERMS = 1 << 12;

// The sum of term(i) for 0 <= i < count, which may also store what it has computed.
template <class T, class Term>
inline double sum_of(index_t count, Term term) {
    double total = 0;
    for (index_t begin = 0; begin < count; begin += TERMS) {
        const index_t end = begin + TERMS < count ? begin + TERMS : count;
        const index_t part = (end - begin) / 4, rest = begin + 4 * part;
        T a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
        for (index_t i = begin; i < begin + part; ++i) {
            a += term(i);
            b += term(i + part);
            c += term(i + 2 * part);
            d += term(i + 3 * part);
        }
        T last = 0;
        for (index_t i = rest; i < end; ++i) last += term(i);
        total += (double)(((a + b) + (c + d)) + last);
    }
    return total;
}

// The greatest number, -infinity of none; NaN are passed over. By hand: compilers make vectors of sums
// alone.
inline real greatest_of(const real* x, index_t count) {
    constexpr index_t WIDTH = LENGTH<reals>;
    const real least = -__builtin_inff();
    reals most[4] = {reals{} + least, reals{} + least, reals{} + least, reals{} + least};
    index_t i = 0;
    for (; i + 4 * WIDTH <= count; i += 4 * WIDTH)
        UNROLLED(int j = 0; j < 4; ++j) {
            const reals v = load<reals>(x + i + j * WIDTH);
            most[j] = v > most[j] ? v : most[j];
        }
    most[0] = most[0] > most[1] ? most[0] : most[1];
    most[2] = most[2] > most[3] ? most[2] : most[3];
    most[0] = most[0] > most[2] ? most[0] : most[2];
    real lanes[WIDTH];
    store(lanes, most[0]);
    for (index_t half = WIDTH / 2; half; half /= 2)
        for (index_t j = 0; j < half; ++j)
            lanes[j] = lanes[j] > lanes[j + half] ? lanes[j] : lanes[j + half];
    real top = lanes[0];
    for (; i < count; ++i) top = x[i] > top ? x[i] : top;
    return top;
}

}  // namespace distgrad
