// Functions of single elements in float32, off by up to 2 units in the last place; erf by up to 5.
#pragma once
#include "vector.hpp"

namespace distgrad {

INLINED int bits_of(float x) {
    int bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINED float float_of(int bits) {
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

// 2^n for -126 <= n <= 127.
INLINED float power_of_two(int n) { return float_of((n + 127) << 23); }

constexpr float LOG2E = 1.44269504f, LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;

// x - n ln(2), the whole n being the nearest to x / ln(2).
INLINED float rest_of(float x, float n) {
    return multiply_add(n, -LN2_LOW, multiply_add(n, -LN2_HIGH, x));
}

// exp(r) - 1 for |r| <= ln(2) / 2: Taylor's series, off by less than 2^-25 r.
INLINED float expm1_of_rest(float r) {
    const float p =
        polynomial(r, 0.5f, 1.0f / 6, 1.0f / 24, 1.0f / 120, 1.0f / 720, 1.0f / 5040);
    return multiply_add(p * r, r, r);
}

// exp(x) = 2^n exp(r); the power in two factors, so that subnormal results and infinity come out.
INLINED float exp(float x) {
    x = x < -104.0f ? -104.0f : x;  // NaN stays
    x = x > 89.0f ? 89.0f : x;
    const float n = __builtin_rintf(x * LOG2E);
    const int whole = (int)n, half = whole >> 1;
    return (1.0f + expm1_of_rest(rest_of(x, n))) * power_of_two(half) * power_of_two(whole - half);
}

// exp(x) for x <= 0. What 2^n lacks of being normal is made up for by a constant factor.
INLINED float exp_of_negative(float x) {
    x = x < -104.0f ? -104.0f : x;  // NaN stays
    const float n = __builtin_rintf(x * LOG2E);
    const float power = float_of(((int)n + (127 + 64)) << 23);
    return (1.0f + expm1_of_rest(rest_of(x, n))) * power * 5.42101086e-20f;
}

// exp(x) - 1 = 2^n (exp(r) - 1) + (2^n - 1).
INLINED float expm1(float x) {
    const float least = x < -20.0f ? -20.0f : x;
    const float bounded = least > 89.0f ? 89.0f : least;
    const float n = __builtin_rintf(bounded * LOG2E);
    const int whole = (int)n, half = whole >> 1;
    // 2^128 is no float: half of it, twice.
    const float one = power_of_two(half), other = power_of_two(whole - half);
    const float p = expm1_of_rest(rest_of(bounded, n));
    const float y = multiply_add(p, one, one - power_of_two(half - whole)) * other;
    return x == 0.0f ? x : y;  // -0 stays
}

// log(x) for x > 0: x = 2^e m with m in [2/3, 4/3); 2 atanh(s) with s = (m - 1) / (m + 1).
INLINED float log(float x) {
    const bool tiny = x < 1.17549435e-38f;
    const float normal = tiny ? x * 8388608.0f : x;
    const int bits = bits_of(normal), e = (bits - 0x3f2aaaab) >> 23;
    const float m = float_of(bits - (e << 23));
    const float exponent = (float)e - (tiny ? 23.0f : 0.0f);
    const float f = m - 1.0f, s = f / (2.0f + f), z = s * s;
    const float p = polynomial(z, 2.0f / 3, 2.0f / 5, 2.0f / 7, 2.0f / 9);
    // log(m) = f - s (f - z p): f is exact.
    const float low = multiply_add(exponent, LN2_LOW, f - s * multiply_add(-z, p, f));
    const float y = multiply_add(exponent, LN2_HIGH, low);
    const float infinity = __builtin_inff(), nan = __builtin_nanf("");
    return x > 3.4028235e38f ? infinity : x > 0.0f ? y : x == 0.0f ? -infinity : nan;
}

// erf(x), by the fit of distgrad.ops.elementwise.error_function.
INLINED float erf(float x) {
    float near = x < -4.0f ? -4.0f : x;
    near = near > 4.0f ? 4.0f : near;
    const float z = near * near;
    const float p = polynomial(z, 1.12837915f, 0.190779987f, 0.0527897896f, 0.00377944958f,
                               0.000284805848f, 2.04200955e-06f);
    const float q = polynomial(z, 1.0f, 0.502407082f, 0.114255945f, 0.0149971146f, 0.00116517573f,
                               3.8004337e-05f);
    const float y = near * (p / q);
    return y > 1.0f ? 1.0f : y < -1.0f ? -1.0f : y;
}

}  // namespace distgrad
