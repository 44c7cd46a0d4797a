// Functions of single elements that a C library's vector mathematics has as well, and quicker: for
// where there is none. Off by up to 3 units in the last place.
#pragma once
#include "vector.hpp"

namespace distgrad::otherwise {

// log(1 + x), with what 1 + x rounds away put back.
INLINED float log1p(float x) {
    const float u = 1.0f + x, rest = x - (u - 1.0f);
    const float y = log(u) + (__builtin_fabsf(x) < 1e30f ? rest / u : 0.0f);
    return u == 1.0f ? x : x == -1.0f ? -__builtin_inff() : y;
}

// tanh(x) = t / (t + 2) with t = exp(2x) - 1, which is 1 in float beyond 9.2.
INLINED float tanh(float x) {
    const float size = __builtin_fabsf(x);
    const float t = expm1(2.0f * (size > 10.0f ? 10.0f : size));
    return copysign(t / (t + 2.0f), x);
}

// exp(x) - 1 = 2^n (exp(r) - 1) + (2^n - 1).
INLINED double expm1(double x) {
    const double least = x < -40.0 ? -40.0 : x;
    const double bounded = least > 710.0 ? 710.0 : least;
    const double n = nearest(bounded * LOG2E_DOUBLE), half = nearest(0.5 * n);
    const double one = power_of_two(half), other = power_of_two(n - half);
    const double p = expm1_of_rest(rest_of(bounded, n));
    const double y = multiply_add(p, one, one - power_of_two(half - n)) * other;
    return x == 0.0 ? x : y;  // -0 stays
}

// log(x) for x > 0: x = 2^e m, m about between the roots of 1/2 and 2; 2 atanh((m - 1) / (m + 1)).
INLINED double log(double x) {
    constexpr index_t LEAST = 0x3fe6a09e00000000;  // the bits of the least m
    const bool tiny = x < 2.2250738585072014e-308;
    const double normal = tiny ? x * 18014398509481984.0 : x;  // 2^54
    const index_t bits = bits_of(normal) + (0x3ff0000000000000 - LEAST);
    const double m = double_of((bits & 0x000fffffffffffff) + LEAST);
    // The bits of 2^52 + (e + 1023).
    const double exponent = double_of((index_t)((unsigned long long)bits >> 52) | 0x4330000000000000) -
                            (tiny ? 4503599627371519.0 + 54.0 : 4503599627371519.0);
    const double f = m - 1.0, s = f / (2.0 + f), z = s * s;
    const double p = polynomial(
        z, 0.66666666666667344594, 0.39999999999414324894, 0.28571428742474351733,
        0.22222198563515921912, 0.18183564865997740992, 0.15314035834864837338,
        0.14796105583635168606);
    // log(m) = f - s (f - z p): f is exact.
    const double low = f - multiply_add(s, multiply_add(-z, p, f), -exponent * LN2_REST);
    const double y = multiply_add(exponent, LN2_DOUBLE, low);
    const double infinity = __builtin_inf(), nan = __builtin_nan("");
    return x > 1.7976931348623157e308 ? infinity : x > 0.0 ? y : x == 0.0 ? -infinity : nan;
}

// log(1 + x), with what 1 + x rounds away put back.
INLINED double log1p(double x) {
    const double u = 1.0 + x, rest = x - (u - 1.0);
    const double y = log(u) + (__builtin_fabs(x) < 1e300 ? rest / u : 0.0);
    return u == 1.0 ? x : x == -1.0 ? -__builtin_inf() : y;
}

// tanh(x) = t / (t + 2) with t = exp(2x) - 1; from 20 on it is 1.
INLINED double tanh(double x) {
    const double size = __builtin_fabs(x);
    const double t = expm1(2.0 * (size > 20.0 ? 20.0 : size));
    return copysign(t / (t + 2.0), x);
}

// erf(x): up to 1 a fit of erf(x) / x in x^2, then one of log(erfc(x)) in x - 2; from 6 on it is 1.
INLINED double erf(double x) {
    const double size = __builtin_fabs(x), z = x * x;
    const double near = polynomial(
        z, 1.1283791670955125657, -0.37612638903183519538, 0.11283791670944184664,
        -0.02686617064311145687, 0.0052239776061183892181, -0.00085483259293106648012,
        0.00012055293576794631797, -0.000014924712300141320018, 1.6447131550187658879e-6,
        -1.6206313610721435589e-7, 1.3710979812333939561e-8, -7.7794674847301343348e-10);
    const double t = (size > 6.0 ? 6.0 : size) - 2.0;
    const double power = polynomial(
        t, -5.3649412646166323065, -4.4181608059943329309, -0.92375084182404018238,
        -0.016465118140581238147, 0.0035707563437279650795, -0.00073239935184852761379,
        0.00013530938107239578447, -0.000020706542669884563612, 1.9520043227007046084e-6,
        2.0380563203475819439e-7, -1.7287715191620114111e-7, 5.7660142405559055223e-8,
        -1.4232703518448334338e-8, 2.6254230103263101077e-9, -1.5306639569724277931e-10,
        -8.5282234072425989276e-11, 1.7705478508322569771e-11);
    const double n = nearest(power * LOG2E_DOUBLE);
    const double rest = (1.0 + expm1_of_rest(rest_of(power, n))) * power_of_two(n);
    return size < 1.0 ? x * near : copysign(1.0 - rest, x);
}

}  // namespace distgrad::otherwise
