// Functions of single elements in float64, off by less than a unit in the last place.
//
// Whole numbers are had by the bits of a sum with 1.5 * 2^52, since not all processors convert
// vectors of doubles to integers. The coefficients are minimax fits, by Remez' exchange.
#pragma once
#include "vector.hpp"

namespace distgrad {

constexpr double LOG2E_DOUBLE = 1.4426950408889634, WHOLE = 6755399441055744.0;
// ln(2) in two: the first has 20 zeros at its end, so that its product with a whole is exact.
constexpr double LN2_DOUBLE = 6.93147180369123816e-1, LN2_REST = 1.90821492927058770e-10;

INLINED index_t bits_of(double x) {
    index_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINED double double_of(index_t bits) {
    double x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

// The whole number nearest to x, for |x| < 2^31.
INLINED double nearest(double x) { return (x + WHOLE) - WHOLE; }

// 2^n for a whole -1022 <= n <= 1023.
INLINED double power_of_two(double n) {
    return double_of((index_t)((unsigned long long)bits_of(n + (WHOLE + 1023.0)) << 52));
}

// x - n ln(2).
INLINED double rest_of(double x, double n) {
    return multiply_add(n, -LN2_REST, multiply_add(n, -LN2_DOUBLE, x));
}

// exp(r) - 1 for |r| <= ln(2) / 2, off by less than 2^-55 r.
INLINED double expm1_of_rest(double r) {
    const double p = polynomial(
        r, 0.50000000000000055502, 0.16666666666666685992, 0.041666666666573622183,
        0.0083333333333145974497, 0.0013888888932379666245, 0.00019841269903016550189,
        0.000024801504444946857244, 2.7557227967164480444e-6, 2.762632691264908825e-7,
        2.511446874354828038e-8);
    return multiply_add(p * r, r, r);
}

// exp(x) = 2^n exp(r). By a constant factor 2^n is normal, where results are subnormal or infinite.
INLINED double exp(double x) {
    x = x < -746.0 ? -746.0 : x;  // NaN stays
    x = x > 710.0 ? 710.0 : x;
    const double n = nearest(x * LOG2E_DOUBLE), factor = 18446744073709551616.0;  // 2^64
    const double power = power_of_two(x < 0.0 ? n + 64.0 : n - 64.0);
    return (1.0 + expm1_of_rest(rest_of(x, n))) * power * (x < 0.0 ? 1.0 / factor : factor);
}

// exp(x) for x <= 0.
INLINED double exp_of_negative(double x) {
    x = x < -746.0 ? -746.0 : x;  // NaN stays
    const double n = nearest(x * LOG2E_DOUBLE), power = power_of_two(n + 64.0);
    return (1.0 + expm1_of_rest(rest_of(x, n))) * power * 5.42101086242752217e-20;  // 2^-64
}

}  // namespace distgrad
