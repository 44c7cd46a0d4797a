// CUDA C++ on a host, for the sources that CuPy writes: its words, and its functions of numbers.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <tuple>
#include <type_traits>
#include <utility>

#include <cuda_runtime_api.h>
// A function of a header that is static, and not inline, is compiled again for every kernel, used or
// not: here that would be most of what a kernel takes to compile.
#define unused always_inline
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#undef unused
#define __CUDACC_VER_MAJOR__ 12  // from here on, as CuPy's headers ask for it
#define __noinline__  // a word of CUDA's, and to a host's compiler the name of an attribute

#define EMULATED
#define WATCHED
#include "host_threads.h"

static const int warpSize = 32;

// --- starting kernels ---------------------------------------------------------------------------

namespace shim {

static char* dynamic_shared;  // what `extern __shared__` names

// Blocks whose threads know nothing of each other need no contexts: this is what makes it quick.
template <class Given>
void run_apart(Place grid, Place block, const Given& given) {
    gridDim = grid;
    blockDim = block;
    stack_end = (const char*)__builtin_frame_address(0);
    stack_begin = stack_end - STACK;
    host_begin = (const char*)&given;
    host_end = host_begin + sizeof given;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = {x, y, z};
                now = {now.block + 1, 0, 0, 0};
                for (unsigned c = 0; c < block.z; ++c)
                    for (unsigned b = 0; b < block.y; ++b)
                        for (unsigned a = 0; a < block.x; ++a) {
                            threadIdx = {a, b, c};
                            const Watched watched;
                            given();
                            ++now.thread;
                        }
            }
}

// Where a kernel is started, as the driver hands it on.
struct Start {
    Place grid, block;
    unsigned shared;
};

// Give a launch dynamic shared memory, which nobody has written, and forget the one before.
static inline void begin_launch(unsigned shared) {
    static char* room OF_THE_SHIM = nullptr;
    free(room);
    room = (char*)malloc(shared + 16);
    memset(room, 0xFF, shared + 16);
    dynamic_shared = (char*)(((size_t)room + 15) / 16 * 16);
    dynamic_begin = dynamic_shared;
    dynamic_end = dynamic_begin + shared;
    array_count = 1;
    for (Array& each : last) each = Array();  // which may have been freed since
    faults = now.block = 0;
}

template <bool together, class... Types, size_t... I>
static int call(void (*kernel)(Types...), const Start* start, void** given, std::index_sequence<I...>) {
    begin_launch(start->shared);
    const std::tuple<std::decay_t<Types>...> arguments(*(std::decay_t<Types>*)given[I]...);
    const auto run = [=] { kernel(std::get<I>(arguments)...); };
    if constexpr (together) return launch(start->grid, start->block, true, run);
    else run_apart(start->grid, start->block, run);
    return 0;
}

// Run a kernel whose threads wait for each other, or never do; return how many wait for ever.
template <bool together, class... Types>
static int call(void (*kernel)(Types...), const Start* start, void** given) {
    return call<together>(kernel, start, given, std::index_sequence_for<Types...>{});
}

// Return how many bytes each parameter of a kernel has; 0 behind the last. Static, as one source's
// types may have the names of another's: the loader keeps one for all that are called alike.
template <class... Types>
static const size_t* sizes(void (*)(Types...)) {
    static const size_t found[] = {sizeof(Types)..., 0};
    return found;
}

}  // namespace shim

// --- threads that show each other numbers ---------------------------------------------------------

template <class Value>
Value __shfl_sync(unsigned, Value value, int from, int width = 32) {
    const unsigned own = shim::current;
    return shim::shown_by(own / width * width + from % width, value);
}

template <class Value>
Value __shfl_down_sync(unsigned, Value value, unsigned distance, int width = 32) {
    const unsigned own = shim::current;
    return shim::shown_by(own % width + distance < (unsigned)width ? own + distance : own, value);
}

template <class Value>
Value __shfl_up_sync(unsigned, Value value, unsigned distance, int width = 32) {
    const unsigned own = shim::current;
    return shim::shown_by(own % width >= distance ? own - distance : own, value);
}

// Threads run one after the other: whatever they do to memory is whole.
#define ATOMIC(name, joined)                    \
    template <class Number, class Other>        \
    Number name(Number* at, Other given) {      \
        const Number old = *at, value = given;  \
        *at = joined;                           \
        return old;                             \
    }
ATOMIC(atomicAdd, old + value)
ATOMIC(atomicSub, old - value)
ATOMIC(atomicMax, old < value ? value : old)
ATOMIC(atomicMin, value < old ? value : old)
ATOMIC(atomicAnd, old & value)
ATOMIC(atomicOr, old | value)
ATOMIC(atomicXor, old ^ value)
ATOMIC(atomicExch, value)

template <class Number>
Number atomicCAS(Number* at, Number expected, Number value) {
    const Number old = *at;
    if (old == expected) *at = value;
    return old;
}

static inline void __threadfence() {}

// --- functions of numbers -------------------------------------------------------------------------

using std::abs; using std::acos; using std::acosh; using std::asin; using std::asinh;
using std::atan; using std::atan2; using std::atanh; using std::cbrt; using std::ceil;
using std::copysign; using std::cos; using std::cosh; using std::erf; using std::erfc;
using std::exp; using std::exp2; using std::expm1; using std::fabs; using std::floor;
using std::fma; using std::fmax; using std::fmin; using std::fmod; using std::frexp;
using std::hypot; using std::isfinite; using std::isinf; using std::isnan; using std::ldexp;
using std::lgamma; using std::log; using std::log10; using std::log1p; using std::log2;
using std::modf; using std::nextafter; using std::pow; using std::rint; using std::round;
using std::signbit; using std::sin; using std::sinh; using std::sqrt; using std::tan;
using std::tanh; using std::tgamma; using std::trunc;

template <class A, class B>
std::common_type_t<A, B> max(A a, B b) {
    const std::common_type_t<A, B> x = a, y = b;
    if constexpr (std::is_floating_point_v<decltype(x)>) return std::fmax(x, y);
    return x < y ? y : x;
}

template <class A, class B>
std::common_type_t<A, B> min(A a, B b) {
    const std::common_type_t<A, B> x = a, y = b;
    if constexpr (std::is_floating_point_v<decltype(x)>) return std::fmin(x, y);
    return y < x ? y : x;
}

template <class To, class From>
To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

static inline int __float_as_int(float x) { return same_bits<int>(x); }
static inline float __int_as_float(int x) { return same_bits<float>(x); }
static inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
static inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return same_bits<double>(x); }

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}

template <class Number>
Number __ldg(const Number* at) { return *at; }

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }

static inline double rsqrt(double x) { return 1 / sqrt(x); }
static inline float rsqrt(float x) { return 1 / sqrt(x); }

static inline double sinpi(double x) {
    const double turns = fmod(fabs(x), 2);
    const double found = fmod(turns, 1) == 0 ? 0 : turns == 0.5 ? 1 : turns == 1.5 ? -1
        : sin(M_PI * turns);
    return x < 0 ? -found : found;
}

static inline double cospi(double x) {
    const double turns = fmod(fabs(x), 2);
    return turns == 0.5 || turns == 1.5 ? 0 : cos(M_PI * turns);
}

static inline double normcdf(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }
static inline double cyl_bessel_i0(double x) { return std::cyl_bessel_i(0.0, fabs(x)); }
static inline double cyl_bessel_i1(double x) { return copysign(std::cyl_bessel_i(1.0, fabs(x)), x); }

// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.23, where erfc underflows.
static inline double erfcx(double x) {
    if (x < 25) return exp(x * x) * erfc(x);
    const double y = 1 / (2 * x * x);
    return (1 - y * (1 - 3 * y * (1 - 5 * y))) / (x * 1.7724538509055160);
}

// Halley's steps from Winitzki's approximation (A handy approximation for the error function and
// its inverse, 2008); of the complement where y is close to 1.
static inline double erfinv(double y) {
    if (!(fabs(y) < 1)) return fabs(y) == 1 ? y * INFINITY : NAN;
    const double logarithm = log1p(-y * y), a = 0.147, t = 2 / (M_PI * a) + logarithm / 2;
    double x = copysign(sqrt(sqrt(t * t - logarithm / a) - t), y);
    for (int step = 0; step < 4; ++step) {
        const double excess = y > 0 ? (1 - y) - erfc(x) : erfc(-x) - (1 + y);
        const double newton = excess * 0.88622692545275801 * exp(x * x);
        x -= newton / (1 + x * newton);
    }
    return x;
}

static inline double erfcinv(double y) {
    if (!(y > 0 && y < 2)) return y == 0 ? INFINITY : y == 2 ? -INFINITY : NAN;
    if (y > 0.25) return erfinv(1 - y);
    const double logarithm = -log(y);
    double x = sqrt(fmax(logarithm - 0.5 * log(logarithm + 1) - 0.57, 0.1));
    for (int step = 0; step < 60; ++step) {
        const double found = erfc(x);
        const double newton = (found - y) * 0.88622692545275801 * exp(x * x);
        const double forward = found == 0 ? -0.01 * x : fmax(-1, fmin(1, newton / (1 + x * newton)));
        x += forward;
        if (fabs(forward) < 1e-16 * x) break;
    }
    return x;
}

static inline double normcdfinv(double y) { return -M_SQRT2 * erfcinv(2 * y); }

#define IN_SINGLE(name) static inline float name##f(float x) { return (float)name((double)x); }
IN_SINGLE(rsqrt) IN_SINGLE(sinpi) IN_SINGLE(cospi) IN_SINGLE(normcdf) IN_SINGLE(normcdfinv)
IN_SINGLE(erfcx) IN_SINGLE(erfinv) IN_SINGLE(erfcinv)
IN_SINGLE(cyl_bessel_i0) IN_SINGLE(cyl_bessel_i1)

#include "rounding.h"  // what follows, and what CuPy gives, calls inexact functions
#include <cupy/complex.cuh>
#include <cupy/carray.cuh>
#include <cupy/atomics.cuh>
