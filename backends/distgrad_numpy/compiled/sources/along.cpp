// Positions along an axis: numbers are picked from there, or added there in the order in which they
// come. An array is (outer, length, inner), and what is picked or added (outer, count, inner).
#include "crew.hpp"

using namespace distgrad;

typedef int place_t;

struct Shape {
    index_t outer, length, inner, count;
};

constexpr index_t AHEAD = 8;  // rows whose places are fetched while others are added

// Outer parts `begin` to `end`; a number is as wide as a W.
template <class W>
static inline void pick(
    index_t begin, index_t end, const Shape& s, const place_t* places, const W* from, W* to) {
    for (index_t part = begin; part < end; ++part) {
        const W* x = from + part * s.length * s.inner;
        W* y = to + part * s.count * s.inner;
        if (s.inner == 1) {
#pragma omp simd
            for (index_t j = 0; j < s.count; ++j) y[j] = x[places[j]];
            continue;
        }
        for (index_t j = 0; j < s.count; ++j) {
            const W* row = x + places[j] * s.inner;
#pragma omp simd
            for (index_t i = 0; i < s.inner; ++i) y[j * s.inner + i] = row[i];
        }
    }
}

// The columns from `begin` to `end` of rows.
template <class T>
static inline void add_rows(
    index_t begin, index_t end, const Shape& s, const place_t* places, const T* rows, T* array) {
    for (index_t row = 0; row < s.count; ++row) {
        if (row + AHEAD < s.count)
            for (index_t i = begin; i < end && i < begin + 256; i += 64 / (index_t)sizeof(T))
                __builtin_prefetch(array + places[row + AHEAD] * s.inner + i, 1);
        const T* __restrict from = rows + row * s.inner;
        T* __restrict to = array + places[row] * s.inner;
#pragma omp simd
        for (index_t i = begin; i < end; ++i) to[i] += from[i];
    }
}

// Single numbers of N outer parts, at the same places of each.
template <int N, class T>
static inline void add_numbers(const Shape& s, const place_t* places, const T* values, T* array) {
    for (index_t j = 0; j < s.count; ++j) {
        const index_t place = places[j];
        for (int n = 0; n < N; ++n) array[n * s.length + place] += values[n * s.count + j];
    }
}

// Columns `begin` to `end` of one outer part, or outer parts `begin` to `end` of several.
template <class T>
static inline void add(
    index_t begin, index_t end, const Shape& s, const place_t* places, const T* values, T* array) {
    if (s.outer == 1) {
        add_rows(begin, end, s, places, values, array);
        return;
    }
    const index_t value_step = s.count * s.inner, step = s.length * s.inner;
    index_t part = begin;
    if (s.inner == 1)
        for (; part + 4 <= end; part += 4)
            add_numbers<4>(s, places, values + part * value_step, array + part * step);
    for (; part < end; ++part)
        add_rows(0, s.inner, s, places, values + part * value_step, array + part * step);
}

#define PICK(bits)                                                                                   \
    static void pick_##bits(                                                                         \
        index_t begin, index_t end, const Shape* shape, const place_t* places,                       \
        const __UINT##bits##_TYPE__* from, __UINT##bits##_TYPE__* to) {                              \
        pick(begin, end, *shape, places, from, to);                                                  \
    }                                                                                                \
    SHARED(pick_##bits)

PICK(8)
PICK(16)
PICK(32)
PICK(64)

#define ADD(name, T)                                                                                 \
    static void name(                                                                                \
        index_t begin, index_t end, const Shape* shape, const place_t* places, const T* values,      \
        T* array) {                                                                                  \
        add(begin, end, *shape, places, values, array);                                              \
    }                                                                                                \
    SHARED(name)

ADD(add_float32, float)
ADD(add_float64, double)
