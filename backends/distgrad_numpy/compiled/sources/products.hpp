// Products of small matrices whose right side lies in panels, a few registers wide.
//
// BLAS arranges both sides anew in every call, which for the products of one step of a recurrence,
// or of one block of attention, takes as long as the product. Here the right side is arranged once.
// A number of a result is summed in the order of its terms, whatever rows it is computed with.
#pragma once

#include "vector.hpp"

namespace distgrad {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int SUMS = 24;  // of 32 registers; the others hold the factors
#else
constexpr int SUMS = 12;  // of 16
#endif

constexpr index_t PANEL = 4 * LANES;  // columns of a panel: four vectors side by side, or fewer
constexpr index_t DEEP = 512;         // terms at once: so much of a panel stays in the second cache

// Not inlined, for the compiler's time: a call is nothing beside the loop in it.
#define APART __attribute__((noinline))

typedef float vector_t __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline index_t least(index_t a, index_t b) { return a < b ? a : b; }
inline index_t most(index_t a, index_t b) { return a > b ? a : b; }
inline index_t whole(index_t columns) { return (columns + LANES - 1) / LANES * LANES; }

// How wide the panel is that begins at a column: of two vectors at least, the rest being zeros.
inline index_t width_of(index_t first, index_t columns) {
    return most(2 * LANES, least(PANEL, whole(columns - first)));
}

// c = a b, or c += a b: ROWS rows, VECTORS vectors wide. Rows of b are `width` numbers apart.
// a has rows `step` apart; TURNED: it is given by columns, which are `step` apart.
template <int ROWS, int VECTORS, bool TURNED>
APART void tile(index_t depth, const float* __restrict a, index_t step, const float* __restrict b,
                index_t width, float* __restrict c, index_t row, bool add) {
    vector_t sums[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j) sums[i][j] = vector_t{};
    for (index_t k = 0; k < depth; ++k, b += width) {
        vector_t right[VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j) right[j] = *(const vector_t*)(b + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; ++i) {
            const float left = TURNED ? a[k * step + i] : a[i * step + k];
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; ++j) sums[i][j] += left * right[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j) {
            vector_t* place = (vector_t*)(c + i * row + j * LANES);
            *place = add ? *place + sums[i][j] : sums[i][j];
        }
}

// All rows beside a panel of VECTORS vectors.
template <int VECTORS, bool TURNED>
inline void beside(index_t rows, index_t depth, const float* a, index_t step, const float* b,
                   index_t width, float* c, index_t row, bool add) {
    constexpr int MOST = SUMS / VECTORS > 8 ? 8 : SUMS / VECTORS;
    const auto go = [&](int count, auto* work) {
        for (; rows >= count; rows -= count) {
            work(depth, a, step, b, width, c, row, add);
            a += TURNED ? count : count * step;
            c += count * row;
        }
    };
    go(MOST, tile<MOST, VECTORS, TURNED>);
    if constexpr (MOST > 4) go(4, tile<4, VECTORS, TURNED>);
    if constexpr (MOST > 2) go(2, tile<2, VECTORS, TURNED>);
    go(1, tile<1, VECTORS, TURNED>);
}

// All rows beside a panel of 2 to 4 vectors.
template <bool TURNED = false>
APART void panel(index_t rows, index_t depth, const float* a, index_t step, const float* b,
                 index_t width, index_t columns, float* c, index_t row, bool add) {
    auto* work = columns > 3 * LANES   ? beside<4, TURNED>
                 : columns > 2 * LANES ? beside<3, TURNED>
                                       : beside<2, TURNED>;
    work(rows, depth, a, step, b, width, c, row, add);
}

constexpr int GROUP = SUMS / 4;  // rows that are computed at once beside a whole panel

template <int COUNT>
struct Rows {
    static constexpr int count = COUNT;
};

// Call work(first row, Rows) for all rows, as many at once as the registers hold.
template <class Work>
inline void in_groups(index_t rows, Work work) {
    index_t i = 0;
    for (; i + GROUP <= rows; i += GROUP) work(i, Rows<GROUP>{});
    if constexpr (GROUP > 4)
        for (; i + 4 <= rows; i += 4) work(i, Rows<4>{});
    for (; i + 2 <= rows; i += 2) work(i, Rows<2>{});
    for (; i < rows; ++i) work(i, Rows<1>{});
}

// The whole product with a right side as `arrange` leaves it; c has all the panels' columns.
inline void product(index_t rows, index_t depth, index_t columns, const float* a, index_t step,
                    const float* panels, float* c, index_t row, bool add) {
    for (index_t j = 0; j < columns; j += PANEL) {
        const index_t width = width_of(j, columns);
        for (index_t k = 0; k < depth; k += DEEP)
            panel(rows, least(DEEP, depth - k), a + k, step, panels + k * width, width, width,
                  c + j, row, add || k);
        panels += depth * width;
    }
}

// Lay a matrix, whose rows are `step` apart, out in panels of PANEL columns; the last has zeros
// beside it.
APART inline void arrange(index_t depth, index_t columns, const float* from, float* __restrict to,
                          index_t step) {
    for (index_t j = 0; j < columns; j += PANEL) {
        const index_t width = width_of(j, columns), count = least(width, columns - j);
        if (count == PANEL) {
            for (index_t k = 0; k < depth; ++k, to += PANEL)
                for (index_t i = 0; i < PANEL; ++i) to[i] = from[k * step + j + i];
            continue;
        }
        for (index_t k = 0; k < depth; ++k, to += width) {
            for (index_t i = 0; i < count; ++i) to[i] = from[k * step + j + i];
            for (index_t i = count; i < width; ++i) to[i] = 0.0f;
        }
    }
}

inline void arrange(index_t depth, index_t columns, const float* from, float* to) {
    arrange(depth, columns, from, to, columns);
}

#if defined(__clang__)
template <int... PLACES>
struct Places {};
template <int COUNT, int... PLACES>
struct CountedPlaces : CountedPlaces<COUNT - 1, COUNT - 1, PLACES...> {};
template <int... PLACES>
struct CountedPlaces<0, PLACES...> : Places<PLACES...> {};

template <int STEP, int... PLACES>
inline void exchange_at(vector_t& a, vector_t& b, Places<PLACES...>) {
    const vector_t first = __builtin_shufflevector(
        a, b, (PLACES & STEP ? LANES + PLACES - STEP : PLACES)...);
    b = __builtin_shufflevector(a, b, (PLACES & STEP ? LANES + PLACES : PLACES + STEP)...);
    a = first;
}

template <int STEP>
inline void exchange_two(vector_t& a, vector_t& b) {
    exchange_at<STEP>(a, b, CountedPlaces<LANES>());
}
#else
template <int STEP>
inline void exchange_two(vector_t& a, vector_t& b) {
    typedef int places_t __attribute__((vector_size(4 * LANES)));
    places_t low, high;
    for (int i = 0; i < LANES; ++i) {
        low[i] = i & STEP ? LANES + i - STEP : i;
        high[i] = i & STEP ? LANES + i : i + STEP;
    }
    const vector_t first = __builtin_shuffle(a, b, low);
    b = __builtin_shuffle(a, b, high);
    a = first;
}
#endif

// Transpose LANES vectors: exchange the two off-diagonal quarters, then those of each quarter.
template <int STEP>
inline void exchange(vector_t (&rows)[LANES]) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i)
        if (!(i & STEP)) exchange_two<STEP>(rows[i], rows[i + STEP]);
    if constexpr (STEP > 1) exchange<STEP / 2>(rows);
}

// `arrange` of the transpose of (columns, depth), whose rows are `step` apart.
APART inline void arrange_transpose(index_t depth, index_t columns, const float* from,
                                    float* __restrict to, index_t step) {
    for (index_t j = 0; j < columns; j += PANEL) {
        const index_t width = width_of(j, columns);
        for (index_t i = 0; i < width; i += LANES) {
            const index_t count = most(0, least(LANES, columns - j - i));
            const float* part = from + (j + i) * step;
            index_t k = 0;
            for (; count == LANES && k + LANES <= depth; k += LANES) {
                vector_t rows[LANES];
#pragma GCC unroll 16
                for (int l = 0; l < LANES; ++l) rows[l] = *(const vector_t*)(part + l * step + k);
                exchange<LANES / 2>(rows);
#pragma GCC unroll 16
                for (int l = 0; l < LANES; ++l) *(vector_t*)(to + (k + l) * width + i) = rows[l];
            }
            for (; k < depth; ++k)
                for (index_t l = 0; l < LANES; ++l)
                    to[k * width + i + l] = l < count ? part[l * step + k] : 0.0f;
        }
        to += depth * width;
    }
}

inline void arrange_transpose(index_t depth, index_t columns, const float* from, float* to) {
    arrange_transpose(depth, columns, from, to, depth);
}

// How many columns `arrange` makes of some.
inline index_t arranged_columns(index_t columns) {
    const index_t last = columns / PANEL * PANEL;
    return last < columns ? last + width_of(last, columns) : last;
}

}  // namespace distgrad
