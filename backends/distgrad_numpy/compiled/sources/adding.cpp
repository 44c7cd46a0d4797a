// Rows are added at places of an array, in the order in which they come.
#include "crew.hpp"

using namespace distgrad;

constexpr index_t AHEAD = 8;  // rows whose places are fetched while others are added

// The columns from `begin` to `end` of `count` rows, `width` numbers long.
template <class T>
static inline void add(
    index_t begin, index_t end, index_t width, index_t count, const index_t* places, const T* rows,
    T* array) {
    for (index_t row = 0; row < count; ++row) {
        if (row + AHEAD < count)
            for (index_t i = begin; i < end && i < begin + 256; i += 64 / (index_t)sizeof(T))
                __builtin_prefetch(array + places[row + AHEAD] * width + i, 1);
        const T* __restrict from = rows + row * width;
        T* __restrict to = array + places[row] * width;
#pragma omp simd
        for (index_t i = begin; i < end; ++i) to[i] += from[i];
    }
}

static void add_float32(
    index_t begin, index_t end, index_t width, index_t count, const index_t* places,
    const float* rows, float* array) {
    add(begin, end, width, count, places, rows, array);
}

static void add_float64(
    index_t begin, index_t end, index_t width, index_t count, const index_t* places,
    const double* rows, double* array) {
    add(begin, end, width, count, places, rows, array);
}

SHARED(add_float32)
SHARED(add_float64)
