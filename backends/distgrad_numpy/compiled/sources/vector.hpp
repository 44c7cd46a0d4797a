// Functions of single elements that compilers turn into vector code: no calls, no branches.
// The names are those that host compilers and NVRTC overload, see distgrad.backend.scalar_code.
#pragma once

#define KERNEL extern "C" __attribute__((visibility("default")))
// Of loops: a call left in a long one would keep it from becoming vector code.
#define INLINED inline __attribute__((always_inline))

typedef long long index_t;

namespace distgrad {

INLINED float fabs(float x) { return __builtin_fabsf(x); }
INLINED double fabs(double x) { return __builtin_fabs(x); }
INLINED float sqrt(float x) { return __builtin_sqrtf(x); }
INLINED double sqrt(double x) { return __builtin_sqrt(x); }
INLINED float floor(float x) { return __builtin_floorf(x); }
INLINED double floor(double x) { return __builtin_floor(x); }
INLINED float ceil(float x) { return __builtin_ceilf(x); }
INLINED double ceil(double x) { return __builtin_ceil(x); }
INLINED float trunc(float x) { return __builtin_truncf(x); }
INLINED double trunc(double x) { return __builtin_trunc(x); }
INLINED float rint(float x) { return __builtin_rintf(x); }
INLINED double rint(double x) { return __builtin_rint(x); }
INLINED float copysign(float x, float y) { return __builtin_copysignf(x, y); }
INLINED double copysign(double x, double y) { return __builtin_copysign(x, y); }
INLINED float fmax(float x, float y) { return x > y || y != y ? x : y; }
INLINED double fmax(double x, double y) { return x > y || y != y ? x : y; }

// x y + z, rounded once where the processor does that, whatever the compiler may contract.
INLINED float multiply_add(float x, float y, float z) {
#ifdef __FP_FAST_FMAF
    return __builtin_fmaf(x, y, z);
#else
    return x * y + z;
#endif
}

INLINED double multiply_add(double x, double y, double z) {
#ifdef __FP_FAST_FMA
    return __builtin_fma(x, y, z);
#else
    return x * y + z;
#endif
}

// A polynomial of x by its coefficients, the constant one first, in Horner's form.
template <class T>
INLINED T polynomial(T, T last) {
    return last;
}

template <class T, class... Higher>
INLINED T polynomial(T x, T constant, Higher... higher) {
    return multiply_add(polynomial(x, higher...), x, constant);
}

}  // namespace distgrad

#include "vector_double.hpp"
#include "vector_float.hpp"
#include "vector_otherwise.hpp"
