// Products of dense matrices, either of which may be given by its columns, and a bias.
//
// The right side is laid out a panel at a time, and stays in the cache while the rows of a block go
// by. A number is summed in parts of DEPTH terms, each in the order of the terms: it follows from
// its row and its column alone, wherever these stand, and by whatever thread it is computed.
#include "products.hpp"

#include "crew.hpp"

namespace distgrad {

constexpr index_t DEPTH = 128;  // terms of a part: with them a panel nearly stays in the first cache
constexpr index_t ROWS = 240;   // of a block: with DEPTH terms each they stay in the second cache
constexpr index_t CLOSE = 64;   // numbers: columns so close to each other are read where they are
constexpr index_t SHORT = 64;   // terms: columns so short are read where they are, too
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

// Lay the columns of COUNT rows side by side.
template <int COUNT>
APART void gather(index_t terms, const float* __restrict from, index_t step, float* __restrict to) {
    for (index_t k = 0; k < terms; ++k)
#pragma GCC unroll 8
        for (int i = 0; i < COUNT; ++i) to[k * COUNT + i] = from[k * step + i];
}

// All rows, as `gather` left them, beside a panel.
template <int VECTORS>
APART void gathered(index_t rows, index_t terms, const float* left, const float* right,
                    index_t width, float* c, index_t row, bool add) {
    in_groups(rows, [&](index_t i, auto some) {
        constexpr int count = decltype(some)::count;
        tile<count, VECTORS, true>(terms, left + i * terms, count, right, width, c + i * row, row,
                                   add);
    });
}

// What is left to do where a panel ends: take over its sums, and add the bias.
inline void finish(index_t rows, index_t columns, const float* from, index_t step, bool add,
                   const float* bias, float* c, index_t row) {
    for (index_t i = 0; i < rows; ++i, c += row) {
        if (from)
            for (index_t j = 0; j < columns; ++j) {
                const float sum = from[i * step + j];
                c[j] = add ? c[j] + sum : sum;
            }
        if (bias)
            for (index_t j = 0; j < columns; ++j) c[j] += bias[j];
    }
}

// One part of the terms of one block of rows; c has `columns` columns.
struct Part {
    index_t rows, terms, columns;
    const float* left;
    index_t step;
    bool gathered, add;

    template <bool TURNED>
    void times(const float* right, index_t width, float* c, index_t row, bool adding) const {
        if (gathered) {
            auto* work = width > 3 * LANES   ? distgrad::gathered<4>
                         : width > 2 * LANES ? distgrad::gathered<3>
                                             : distgrad::gathered<2>;
            work(rows, terms, left, right, width, c, row, adding);
        } else {
            panel<TURNED>(rows, terms, left, step, right, width, width, c, row, adding);
        }
    }
};

template <bool TURNED>
void multiply(index_t begin, index_t end, index_t rows, index_t depth, index_t columns,
              bool right_turned, const float* a, const float* b, const float* bias, float* scratch,
              float* c) {
    float* const right = scratch;
    float* const edge = right + DEPTH * PANEL;
    float* const left = edge + ROWS * PANEL;
    const index_t step = TURNED ? rows : depth;
    const bool gathers = TURNED && rows > CLOSE && depth > SHORT && columns > 2 * PANEL;
    for (index_t i = begin; i < end; i += ROWS)
        for (index_t k = 0; k < depth; k += DEPTH) {
            Part part{least(ROWS, end - i), least(DEPTH, depth - k), columns,
                      TURNED ? a + k * rows + i : a + i * depth + k, step, gathers, k > 0};
            if (gathers) {
                in_groups(part.rows, [&](index_t r, auto some) {
                    gather<decltype(some)::count>(part.terms, part.left + r, step,
                                                  left + r * part.terms);
                });
                part.left = left;
            }
            const bool last = k + DEPTH >= depth;
            for (index_t j = 0; j < columns; j += PANEL) {
                const index_t width = width_of(j, columns), count = least(width, columns - j);
                if (right_turned)
                    arrange_transpose(part.terms, count, b + j * depth + k, right, depth);
                else
                    arrange(part.terms, count, b + k * columns + j, right, columns);
                float* const to = c + i * columns + j;
                const float* own = bias && last ? bias + j : nullptr;
                if (count < width) {  // the panel's zeros are no columns of c
                    part.times<TURNED>(right, width, edge, width, false);
                    finish(part.rows, count, edge, width, part.add, own, to, columns);
                } else {
                    part.times<TURNED>(right, width, to, columns, part.add);
                    if (own) finish(part.rows, count, nullptr, 0, false, own, to, columns);
                }
            }
        }
}

}  // namespace distgrad

using namespace distgrad;

// How many numbers the scratch of a worker has.
KERNEL index_t product_room(int left_turned) {
    return DEPTH * PANEL + ROWS * PANEL + (left_turned ? ROWS * DEPTH : 0);
}

// How many columns are computed for some; 0 where BLAS is quicker, which is told what a processor
// has: of AVX2's registers it makes a quarter more than this does.
KERNEL index_t product_columns(index_t columns) {
    return LANES < 16 ? 0 : arranged_columns(columns);
}

// Some rows of c (rows, columns) = a (rows, depth) b (depth, columns) + bias, if there is one. A
// matrix that is turned is given by its columns. Each worker has its own scratch.
static void matrix_product(const Piece& piece, index_t rows, index_t depth, index_t columns,
                           int left_turned, int right_turned, const float* a, const float* b,
                           const float* bias, float* scratch, float* c) {
    auto* work = left_turned ? multiply<true> : multiply<false>;
    work(piece.begin, piece.end, rows, depth, columns, right_turned, a, b, bias,
         scratch + piece.worker * product_room(left_turned), c);
}

SHARED(matrix_product)
