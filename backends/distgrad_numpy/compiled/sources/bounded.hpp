// Exponentials of bounded numbers, and functions that are constant beyond bounds: half the steps of
// those in vector.hpp, which reach to the ends of the range.
#pragma once

#include "vector.hpp"

namespace distgrad {

// Added to a number below 2^22, it leaves that rounded in the last bits.
constexpr float ROUNDER = 12582912.0f;

// exp(x) = 2^n exp(r) for -87 <= x <= 88; NaN stays.
inline float bounded_exp(float x) {
    const float shifted = x * LOG2E + ROUNDER, n = shifted - ROUNDER;
    const float r = (x - n * LN2_HIGH) - n * LN2_LOW;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * float_of((int)(((unsigned)bits_of(shifted) + 127u) << 23));
}

// exp(x) for x <= 0: zero below -87, where it is less than 2^-125.
inline float weight(float x) {
    const float y = bounded_exp(x < -87.0f ? -87.0f : x);
    return x < -87.0f ? 0.0f : y;
}

// 1 / (1 + exp(-x)), the same for all x below -87.
inline float gate(float x) {
    const float least = x < -87.0f ? -87.0f : x;
    return 1.0f / (1.0f + bounded_exp(-(least > 87.0f ? 87.0f : least)));
}

// tanh(x) = t / (t + 2) with t = exp(2x) - 1 = 2^n (exp(r) - 1) + (2^n - 1), and 1 beyond 9.2.
inline float squash(float x) {
    const float size = __builtin_fabsf(x), twice = size > 10.0f ? 20.0f : 2.0f * size;
    const float shifted = twice * LOG2E + ROUNDER, n = shifted - ROUNDER;
    const float r = (twice - n * LN2_HIGH) - n * LN2_LOW;
    const float power = float_of((int)(((unsigned)bits_of(shifted) + 127u) << 23));
    const float t = expm1_of_rest(r) * power + (power - 1.0f);
    return copysign(t / (t + 2.0f), x);
}

}  // namespace distgrad
