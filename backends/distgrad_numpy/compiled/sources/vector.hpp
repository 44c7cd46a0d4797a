// Functions of single elements that compilers turn into vector code: no calls, no branches.
// The names are those that host compilers and NVRTC overload, see distgrad.backend.scalar_code.
#pragma once

#define KERNEL extern "C" __attribute__((visibility("default")))

typedef long long index_t;

namespace distgrad {

inline float fabs(float x) { return __builtin_fabsf(x); }
inline double fabs(double x) { return __builtin_fabs(x); }
inline float sqrt(float x) { return __builtin_sqrtf(x); }
inline double sqrt(double x) { return __builtin_sqrt(x); }
inline float floor(float x) { return __builtin_floorf(x); }
inline double floor(double x) { return __builtin_floor(x); }
inline float ceil(float x) { return __builtin_ceilf(x); }
inline double ceil(double x) { return __builtin_ceil(x); }
inline float trunc(float x) { return __builtin_truncf(x); }
inline double trunc(double x) { return __builtin_trunc(x); }
inline float rint(float x) { return __builtin_rintf(x); }
inline double rint(double x) { return __builtin_rint(x); }
inline float copysign(float x, float y) { return __builtin_copysignf(x, y); }
inline double copysign(double x, double y) { return __builtin_copysign(x, y); }
inline float fmax(float x, float y) { return x > y || y != y ? x : y; }
inline double fmax(double x, double y) { return x > y || y != y ? x : y; }

inline int bits_of(float x) {
    int bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float float_of(int bits) {
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

// 2^n for -126 <= n <= 127.
inline float power_of_two(int n) { return float_of((n + 127) << 23); }

constexpr float LOG2E = 1.44269504f, LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;

// exp(r) - 1 for |r| <= ln(2) / 2: Taylor's series in Horner's form, off by less than 2^-25 r.
inline float expm1_of_rest(float r) {
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    return p * r * r + r;
}

// exp(x) = 2^n exp(r); the power in two factors, so that subnormal results and infinity come out.
inline float exp(float x) {
    x = x < -104.0f ? -104.0f : x;  // NaN stays
    x = x > 89.0f ? 89.0f : x;
    const float n = __builtin_rintf(x * LOG2E);
    const float r = (x - n * LN2_HIGH) - n * LN2_LOW;
    const int whole = (int)n, half = whole >> 1;
    return (1.0f + expm1_of_rest(r)) * power_of_two(half) * power_of_two(whole - half);
}

// exp(x) for x <= 0. What 2^n lacks of being normal is made up for by a constant factor.
inline float exp_of_negative(float x) {
    x = x < -104.0f ? -104.0f : x;  // NaN stays
    const float n = __builtin_rintf(x * LOG2E);
    const float r = (x - n * LN2_HIGH) - n * LN2_LOW;
    return (1.0f + expm1_of_rest(r)) * float_of(((int)n + (127 + 64)) << 23) * 5.42101086e-20f;
}

// exp(x) - 1 = 2^n (exp(r) - 1) + (2^n - 1).
inline float expm1(float x) {
    const float least = x < -20.0f ? -20.0f : x;
    const float bounded = least > 89.0f ? 89.0f : least;
    const float n = __builtin_rintf(bounded * LOG2E);
    const float r = (bounded - n * LN2_HIGH) - n * LN2_LOW;
    const int whole = (int)n, half = whole >> 1;
    // 2^128 is no float: half of it, twice.
    const float one = power_of_two(half), other = power_of_two(whole - half);
    const float y = (expm1_of_rest(r) * one + (one - power_of_two(half - whole))) * other;
    return x == 0.0f ? x : y;  // -0 stays
}

// log(x) for x > 0: x = 2^e m with m in [2/3, 4/3); 2 atanh(s) with s = (m - 1) / (m + 1).
inline float log(float x) {
    const bool tiny = x < 1.17549435e-38f;
    const float normal = tiny ? x * 8388608.0f : x;
    const int bits = bits_of(normal), e = (bits - 0x3f2aaaab) >> 23;
    const float m = float_of(bits - (e << 23));
    const float exponent = (float)e - (tiny ? 23.0f : 0.0f);
    const float f = m - 1.0f, s = f / (2.0f + f), z = s * s;
    float p = 2.0f / 9;
    p = p * z + 2.0f / 7;
    p = p * z + 2.0f / 5;
    p = p * z + 2.0f / 3;
    // log(m) = f - s (f - z p): f is exact.
    const float y = exponent * LN2_HIGH + (f - s * (f - z * p) + exponent * LN2_LOW);
    const float infinity = __builtin_inff(), nan = __builtin_nanf("");
    return x > 3.4028235e38f ? infinity : x > 0.0f ? y : x == 0.0f ? -infinity : nan;
}

// log(1 + x), with what 1 + x rounds away put back.
inline float log1p(float x) {
    const float u = 1.0f + x, rest = x - (u - 1.0f);
    const float y = log(u) + (__builtin_fabsf(x) < 1e30f ? rest / u : 0.0f);
    return u == 1.0f ? x : x == -1.0f ? -__builtin_inff() : y;
}

// tanh(x) = t / (t + 2) with t = exp(2x) - 1, which is 1 in float beyond 9.2.
inline float tanh(float x) {
    const float size = __builtin_fabsf(x);
    const float t = expm1(2.0f * (size > 10.0f ? 10.0f : size));
    return copysign(t / (t + 2.0f), x);
}

// 1 / (1 + exp(-x)), whose small values do not vanish.
inline float logistic(float x) {
    const float e = exp_of_negative(-__builtin_fabsf(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// erf(x), by the fit of distgrad.ops.elementwise.error_function.
inline float erf(float x) {
    float near = x < -4.0f ? -4.0f : x;
    near = near > 4.0f ? 4.0f : near;
    const float z = near * near;
    float p = 2.04200955e-06f, q = 3.8004337e-05f;
    p = p * z + 0.000284805848f;
    p = p * z + 0.00377944958f;
    p = p * z + 0.0527897896f;
    p = p * z + 0.190779987f;
    p = p * z + 1.12837915f;
    q = q * z + 0.00116517573f;
    q = q * z + 0.0149971146f;
    q = q * z + 0.114255945f;
    q = q * z + 0.502407082f;
    q = q * z + 1.0f;
    const float y = near * (p / q);
    return y > 1.0f ? 1.0f : y < -1.0f ? -1.0f : y;
}

}  // namespace distgrad
