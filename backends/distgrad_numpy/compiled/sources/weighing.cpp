// Two arrays are replaced by their sum, each times its factor before.
#include "vector.hpp"

template <class T>
static inline void add(
    index_t size, T first_factor, T second_factor, T* __restrict first, T* __restrict second) {
#pragma omp simd
    for (index_t i = 0; i < size; ++i) {
        const T left = first[i] * first_factor, right = second[i] * second_factor;
        first[i] = second[i] = left + right;
    }
}

KERNEL void add_weighed_float32(
    index_t size, float first_factor, float second_factor, float* first, float* second) {
    add(size, first_factor, second_factor, first, second);
}

KERNEL void add_weighed_float64(
    index_t size, double first_factor, double second_factor, double* first, double* second) {
    add(size, first_factor, second_factor, first, second);
}
