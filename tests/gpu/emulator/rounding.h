// Functions of numbers as inexact as CUDA lets a device's be: each result is off by up to as many
// units in the last place as the CUDA C++ Programming Guide, "Mathematical Functions", says that it
// may be. By how many follows from the bits of what is given, so that equal calls have equal
// results. Zeros, ones, infinities and NaN stay what they are, and bounded functions in their bounds.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace shim {

template <class Number>
using Bits = std::conditional_t<sizeof(Number) == 4, int32_t, int64_t>;

template <class Number>
uint64_t bits_of(Number x) {
    Bits<Number> bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint64_t)bits;
}

// Return a number that is up to `most` units in the last place away from an exact one.
template <class Number>
Number off(Number exact, int most, uint64_t given) {
    if (!std::isfinite(exact) || exact == 0 || std::fabs(exact) == 1) return exact;
    given = (given ^ 0x9E3779B97F4A7C15u) * 0xD2B74407B1CE6E93u;
    const int away = (int)((given >> 33) % (2 * most + 1)) - most;
    const Bits<Number> bits = (Bits<Number>)bits_of(exact) + away;
    Number found;
    memcpy(&found, &bits, sizeof found);
    const bool is_near = std::isfinite(found) && std::signbit(found) == std::signbit(exact);
    return is_near ? found : exact;
}

// What converts to a number is one, half precision too; complex ones do not.
template <class Given>
constexpr bool IS_NUMBER = std::is_convertible<Given, float>::value;

template <class Given>
auto floating(Given x) {
    if constexpr (std::is_floating_point<Given>::value) return x;
    else if constexpr (std::is_integral<Given>::value) return (double)x;
    else return (float)x;
}

template <class Number>
Number within_one(Number x) {
    return x > 1 ? 1 : x < -1 ? -1 : x;
}

}  // namespace shim

// A function of one number: how far it may be off in single precision, and in double.
#define INEXACT(name, single, twice, kept)                                                   \
    static inline float inexact_##name(float x) {                                            \
        return kept(shim::off((float)name((double)x), single, shim::bits_of(x)));            \
    }                                                                                        \
    static inline double inexact_##name(double x) {                                          \
        return kept(shim::off((double)name(x), twice, shim::bits_of(x)));                    \
    }                                                                                        \
    template <class Other, class = std::enable_if_t<shim::IS_NUMBER<Other>>>                 \
    auto inexact_##name(Other x) { return inexact_##name(shim::floating(x)); }               \
    static inline float inexact_##name##f(float x) { return inexact_##name(x); }             \
    namespace std { using ::inexact_##name; }

// Likewise of two numbers.
#define INEXACT_OF_TWO(name, single, twice)                                                  \
    template <class A, class B, class = std::enable_if_t<                                    \
        shim::IS_NUMBER<A> && shim::IS_NUMBER<B>>>                                           \
    auto inexact_##name(A a, B b) {                                                          \
        const auto exact = name(shim::floating(a), shim::floating(b));                       \
        const int most = sizeof exact == 4 ? single : twice;                                 \
        const uint64_t given = shim::bits_of((double)a) * 31 + shim::bits_of((double)b);     \
        return shim::off(exact, most, given);                                                \
    }                                                                                        \
    static inline float inexact_##name##f(float a, float b) { return inexact_##name(a, b); } \
    namespace std { using ::inexact_##name; }

INEXACT(exp, 1, 1, ) INEXACT(exp2, 2, 1, ) INEXACT(expm1, 1, 1, )
INEXACT(log, 1, 1, ) INEXACT(log2, 1, 1, ) INEXACT(log10, 2, 1, ) INEXACT(log1p, 1, 1, )
INEXACT(sin, 2, 2, shim::within_one) INEXACT(cos, 2, 2, shim::within_one) INEXACT(tan, 4, 2, )
INEXACT(asin, 2, 2, ) INEXACT(acos, 2, 2, ) INEXACT(atan, 2, 2, )
INEXACT(sinh, 3, 2, ) INEXACT(cosh, 2, 1, ) INEXACT(tanh, 2, 1, shim::within_one)
INEXACT(asinh, 3, 3, ) INEXACT(acosh, 4, 3, ) INEXACT(atanh, 3, 2, )
INEXACT(erf, 2, 2, shim::within_one) INEXACT(erfc, 4, 5, ) INEXACT(erfcx, 4, 4, )
INEXACT(erfinv, 2, 5, ) INEXACT(erfcinv, 4, 6, ) INEXACT(normcdf, 5, 5, )
INEXACT(normcdfinv, 5, 8, ) INEXACT(lgamma, 6, 4, ) INEXACT(tgamma, 5, 10, )
INEXACT(cbrt, 1, 1, ) INEXACT(rsqrt, 2, 1, ) INEXACT(sinpi, 1, 2, ) INEXACT(cospi, 1, 2, )
INEXACT(cyl_bessel_i0, 6, 6, ) INEXACT(cyl_bessel_i1, 6, 6, )
INEXACT_OF_TWO(pow, 4, 2) INEXACT_OF_TWO(atan2, 3, 2) INEXACT_OF_TWO(hypot, 3, 2)

#undef INEXACT
#undef INEXACT_OF_TWO

// From here on everybody's, also by `std::` and with the letter of single precision.
#define exp inexact_exp
#define expf inexact_expf
#define exp2 inexact_exp2
#define exp2f inexact_exp2f
#define expm1 inexact_expm1
#define expm1f inexact_expm1f
#define log inexact_log
#define logf inexact_logf
#define log2 inexact_log2
#define log2f inexact_log2f
#define log10 inexact_log10
#define log10f inexact_log10f
#define log1p inexact_log1p
#define log1pf inexact_log1pf
#define sin inexact_sin
#define sinf inexact_sinf
#define cos inexact_cos
#define cosf inexact_cosf
#define tan inexact_tan
#define tanf inexact_tanf
#define asin inexact_asin
#define asinf inexact_asinf
#define acos inexact_acos
#define acosf inexact_acosf
#define atan inexact_atan
#define atanf inexact_atanf
#define sinh inexact_sinh
#define sinhf inexact_sinhf
#define cosh inexact_cosh
#define coshf inexact_coshf
#define tanh inexact_tanh
#define tanhf inexact_tanhf
#define asinh inexact_asinh
#define asinhf inexact_asinhf
#define acosh inexact_acosh
#define acoshf inexact_acoshf
#define atanh inexact_atanh
#define atanhf inexact_atanhf
#define erf inexact_erf
#define erff inexact_erff
#define erfc inexact_erfc
#define erfcf inexact_erfcf
#define erfcx inexact_erfcx
#define erfcxf inexact_erfcxf
#define erfinv inexact_erfinv
#define erfinvf inexact_erfinvf
#define erfcinv inexact_erfcinv
#define erfcinvf inexact_erfcinvf
#define normcdf inexact_normcdf
#define normcdff inexact_normcdff
#define normcdfinv inexact_normcdfinv
#define normcdfinvf inexact_normcdfinvf
#define lgamma inexact_lgamma
#define lgammaf inexact_lgammaf
#define tgamma inexact_tgamma
#define tgammaf inexact_tgammaf
#define cbrt inexact_cbrt
#define cbrtf inexact_cbrtf
#define rsqrt inexact_rsqrt
#define rsqrtf inexact_rsqrtf
#define sinpi inexact_sinpi
#define sinpif inexact_sinpif
#define cospi inexact_cospi
#define cospif inexact_cospif
#define cyl_bessel_i0 inexact_cyl_bessel_i0
#define cyl_bessel_i0f inexact_cyl_bessel_i0f
#define cyl_bessel_i1 inexact_cyl_bessel_i1
#define cyl_bessel_i1f inexact_cyl_bessel_i1f
#define pow inexact_pow
#define powf inexact_powf
#define atan2 inexact_atan2
#define atan2f inexact_atan2f
#define hypot inexact_hypot
#define hypotf inexact_hypotf
