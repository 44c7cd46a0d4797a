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

// Lay the columns of COUNT rows side by side.
template <int COUNT>
APART void gather(index_t terms, const float* __restrict from, index_t step, float* __restrict to) {
    for (index_t k = 0; k < terms; ++k)
        __builtin_memcpy(to + k * COUNT, from + k * step, COUNT * sizeof(float));
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

// What is left to do where a panel ends: take over its sums, add the bias, and put 0 for what is less.
inline void finish(index_t rows, index_t columns, const float* from, index_t step, bool add,
                   const float* bias, bool rectified, float* c, index_t row) {
    for (index_t i = 0; i < rows; ++i, c += row) {
        if (from)
            for (index_t j = 0; j < columns; ++j) {
                const float sum = from[i * step + j];
                c[j] = add ? c[j] + sum : sum;
            }
        if (bias)
            for (index_t j = 0; j < columns; ++j) c[j] += bias[j];
        if (rectified)
            for (index_t j = 0; j < columns; ++j) c[j] = c[j] < 0.0f ? 0.0f : c[j];  // NaN stays
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

// Some rows of some columns of c: the first of these columns begins a panel.
struct Cut {
    index_t row, rows_end, column, columns_end;
};

template <bool TURNED>
void multiply(const Cut& cut, index_t rows, index_t depth, index_t columns, bool right_turned,
              bool rectified, const float* a, const float* b, const float* bias, float* scratch,
              float* c) {
    float* const right = scratch;
    float* const edge = right + DEPTH * PANEL;
    float* const left = edge + ROWS * PANEL;
    const index_t step = TURNED ? rows : depth;
    const bool gathers = TURNED && rows > CLOSE && depth > SHORT && columns > 2 * PANEL;
    for (index_t i = cut.row; i < cut.rows_end; i += ROWS)
        for (index_t k = 0; k < depth; k += DEPTH) {
            Part part{least(ROWS, cut.rows_end - i), least(DEPTH, depth - k), columns,
                      TURNED ? a + k * rows + i : a + i * depth + k, step, gathers, k > 0};
            if (gathers) {
                in_groups(part.rows, [&](index_t r, auto some) {
                    gather<decltype(some)::count>(part.terms, part.left + r, step,
                                                  left + r * part.terms);
                });
                part.left = left;
            }
            const bool last = k + DEPTH >= depth;
            for (index_t j = cut.column; j < cut.columns_end; j += PANEL) {
                const index_t width = width_of(j, columns), count = least(width, columns - j);
                if (right_turned)
                    arrange_transpose(part.terms, count, b + j * depth + k, right, depth);
                else
                    arrange(part.terms, count, b + k * columns + j, right, columns);
                float* const to = c + i * columns + j;
                const float* own = bias && last ? bias + j : nullptr;
                if (count < width) {  // the panel's zeros are no columns of c
                    part.times<TURNED>(right, width, edge, width, false);
                    finish(part.rows, count, edge, width, part.add, own, last && rectified, to,
                           columns);
                } else {
                    part.times<TURNED>(right, width, to, columns, part.add);
                    if (own || (last && rectified))
                        finish(part.rows, count, nullptr, 0, false, own, rectified, to, columns);
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

// How many panels columns have.
KERNEL index_t product_panels(index_t columns) { return (columns + PANEL - 1) / PANEL; }

// How many columns are computed for some; 0 where BLAS is quicker, which is told what a processor
// has: of AVX2's registers it makes a quarter more than this does.
KERNEL index_t product_columns(index_t columns) {
    return LANES < 16 ? 0 : arranged_columns(columns);
}

// Some rows of c (rows, columns) = a (rows, depth) b (depth, columns) + bias, if there is one, or
// where it is taken by columns some panels of these; where it is to be rectified, 0 for what is less.
// A matrix that is turned is given by its columns. Each worker has its own scratch.
static void matrix_product(const Piece& piece, int by_columns, index_t rows, index_t depth,
                           index_t columns, int left_turned, int right_turned, int rectified,
                           const float* a, const float* b, const float* bias, float* scratch,
                           float* c) {
    const index_t begin = piece.begin, end = piece.end;
    const Cut cut = by_columns ? Cut{0, rows, begin * PANEL, least(end * PANEL, columns)}
                               : Cut{begin, end, 0, columns};
    auto* work = left_turned ? multiply<true> : multiply<false>;
    work(cut, rows, depth, columns, right_turned, rectified, a, b, bias,
         scratch + piece.worker * product_room(left_turned), c);
}

SHARED(matrix_product)
