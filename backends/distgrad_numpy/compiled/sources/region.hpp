// What regions of traced functions read and write, a piece of LANES elements at a time.
#pragma once
#include "vector.hpp"

namespace distgrad {

// A piece: whole vectors of every processor's, and few enough bytes for a cache of the first level.
constexpr index_t LANES = 128;

// So many elements of an array in its own order: where they are, or a copy that is filled up.
template <class T>
inline const T* whole(T* copy, const T* from, index_t at, index_t n) {
    if (n == LANES) return from + at;
    for (index_t i = 0; i < LANES; ++i) copy[i] = i < n ? from[at + i] : T(1);
    return copy;
}

// So many elements of an array that is repeated in the result. `loops` has the lengths of three loops
// over the result, and then for each such array how far it moves along each.
template <class T>
inline const T* repeated(T* copy, const T* from, index_t at, index_t n, const index_t* loops, int which) {
    const index_t inner = loops[2], middle = loops[1];
    const index_t* steps = loops + 3 * which;
    index_t column = at % inner, row = at / inner % middle, block = at / inner / middle, done = 0;
    while (done < n) {
        const T* line = from + block * steps[0] + row * steps[1];
        const index_t left = inner - column, count = left < n - done ? left : n - done;
        if (steps[2])
            for (index_t i = 0; i < count; ++i) copy[done + i] = line[column + i];
        else
            for (index_t i = 0; i < count; ++i) copy[done + i] = *line;
        done += count;
        column = 0;
        if (++row == middle) row = 0, ++block;
    }
    for (; done < LANES; ++done) copy[done] = T(1);
    return copy;
}

template <class T>
inline void put(T* to, const T* from, index_t n) {
    for (index_t i = 0; i < n; ++i) to[i] = from[i];
}

// The sum of many pieces, lane by lane: a few in the elements' own precision, and those in double.
template <class T>
struct Total {
    static constexpr int FEW = 16;
    T few[LANES];
    double sums[LANES];
    int count = 0;

    Total() {
        for (index_t i = 0; i < LANES; ++i) few[i] = 0, sums[i] = 0;
    }

    // Add the first n elements of a piece; the others are overwritten.
    void add(T* piece, index_t n) {
        for (index_t i = n; i < LANES; ++i) piece[i] = 0;
#pragma omp simd
        for (index_t i = 0; i < LANES; ++i) few[i] += piece[i];
        if (++count == FEW) flush();
    }

    void flush() {
#pragma omp simd
        for (index_t i = 0; i < LANES; ++i) sums[i] += few[i], few[i] = 0;
        count = 0;
    }

    double all() {
        flush();
        for (index_t width = LANES / 2; width; width /= 2)
            for (index_t i = 0; i < width; ++i) sums[i] += sums[i + width];
        return sums[0];
    }
};

}  // namespace distgrad
