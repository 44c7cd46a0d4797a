// Channels of one place, side by side in memory, in registers: a few vectors at a time. Code that is
// generic in `V` is written once for vectors and for single numbers.
#pragma once

#include "real.hpp"

namespace distgrad {

#if defined(__AVX512F__)
#define VECTOR 64
#elif defined(__AVX__)
#define VECTOR 32
#else
#define VECTOR 16
#endif

typedef unsigned char byte_t;
typedef real reals __attribute__((vector_size(VECTOR)));
typedef whole_t wholes __attribute__((vector_size(VECTOR)));
// As many narrower ones.
typedef int ints __attribute__((vector_size(VECTOR / sizeof(real) * sizeof(int))));
typedef short shorts __attribute__((vector_size(VECTOR / sizeof(real) * sizeof(short))));
typedef byte_t bytes __attribute__((vector_size(VECTOR / sizeof(real))));

template <class V>
struct Integers {
    typedef wholes type;
};
template <>
struct Integers<real> {
    typedef whole_t type;
};
template <class V>
using integers = typename Integers<V>::type;

// How many numbers there are in a V.
template <class V>
constexpr index_t LENGTH = sizeof(V) / sizeof(real);

template <class V>
inline V load(const real* from) {
    V x;  // by bytes: it may lie anywhere
    __builtin_memcpy(&x, from, sizeof x);
    return x;
}
template <class V>
inline void store(real* to, V x) {
    __builtin_memcpy(to, &x, sizeof x);
}

// Conversions by twice the width, or by half of it: gcc 12 makes others one by one.
template <class V>
inline integers<V> load_bytes(const byte_t* from);
template <>
inline wholes load_bytes<reals>(const byte_t* from) {
    bytes x;
    __builtin_memcpy(&x, from, sizeof x);
    const shorts twice = __builtin_convertvector(x, shorts);
    return __builtin_convertvector(__builtin_convertvector(twice, ints), wholes);
}
template <>
inline whole_t load_bytes<real>(const byte_t* from) {
    return *from;
}
inline void store_bytes(byte_t* to, wholes x) {
    const bytes narrow = __builtin_convertvector(__builtin_convertvector(x, ints), bytes);
    __builtin_memcpy(to, &narrow, sizeof narrow);
}
inline void store_bytes(byte_t* to, whole_t x) { *to = (byte_t)x; }

#define INLINE __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 4") for

// Do work on all channels: work.template operator()<V, N>(c) for N vectors, or one number, from
// channel c on. The last vector may cover channels again, so work must not depend on what it wrote.
template <int WIDEST = 4, class Work>
inline void over_channels(index_t channels, const Work& work) {
    const index_t wide = 4 * LENGTH<reals>, narrow = LENGTH<reals>;
    index_t c = 0;
    if (WIDEST == 4)
        for (; c + wide <= channels; c += wide) work.template on<reals, WIDEST>(c);
    for (; c + 2 * narrow <= channels; c += 2 * narrow) work.template on<reals, 2>(c);
    if (c + narrow <= channels) {
        work.template on<reals, 1>(c);
        c += narrow;
    }
    if (c == channels) return;
    if (channels >= narrow)
        work.template on<reals, 1>(channels - narrow);
    else
        for (; c < channels; ++c) work.template on<real, 1>(c);
}

}  // namespace distgrad
