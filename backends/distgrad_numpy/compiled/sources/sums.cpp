// Sums over rows, for each column: of (outer, rows, columns), whose columns lie side by side; of a
// cotangent also while it passes back through relu.
//
// A block of columns stays in registers for all rows. Rows are summed in parts of ROWS, so that the
// error does not grow with their number; a sum follows from the numbers of its column alone.
#include "products.hpp"

#include "crew.hpp"

namespace distgrad {

constexpr index_t ROWS = 128;  // that are summed before their sum is added to the others'

template <int VECTORS>
inline void add_up(index_t rows, index_t columns, const float* from, float divisor, float* to) {
    vector_t total[VECTORS] = {};
    for (index_t first = 0; first < rows; first += ROWS) {
        const index_t behind = least(first + ROWS, rows);
        vector_t part[VECTORS] = {};
        for (index_t r = first; r < behind; ++r)
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; ++j)
                part[j] += *(const vector_t*)(from + r * columns + j * LANES);
        for (int j = 0; j < VECTORS; ++j) total[j] += part[j];
    }
    for (int j = 0; j < VECTORS; ++j) *(vector_t*)(to + j * LANES) = total[j] / divisor;
}

// Fewer columns than a vector has.
inline void add_up_few(index_t rows, index_t columns, index_t count, const float* from,
                       float divisor, float* to) {
    float total[LANES] = {};
    for (index_t first = 0; first < rows; first += ROWS) {
        const index_t behind = least(first + ROWS, rows);
        float part[LANES] = {};
        for (index_t r = first; r < behind; ++r)
            for (index_t j = 0; j < count; ++j) part[j] += from[r * columns + j];
        for (int j = 0; j < LANES; ++j) total[j] += part[j];
    }
    for (index_t j = 0; j < count; ++j) to[j] = total[j] / divisor;
}

// Keep the numbers whose y is above 0, with zeros for the others, and add the columns up.
template <int VECTORS>
inline void rectify(index_t rows, index_t columns, const float* g, const float* y, float* kept,
                    float* sums) {
    vector_t total[VECTORS] = {};
    for (index_t first = 0; first < rows; first += ROWS) {
        const index_t behind = least(first + ROWS, rows);
        vector_t part[VECTORS] = {};
        for (index_t r = first; r < behind; ++r)
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; ++j) {
                const index_t place = r * columns + j * LANES;
                const vector_t from = *(const vector_t*)(g + place), zero = {};
                const vector_t some = *(const vector_t*)(y + place) > zero ? from : zero;
                *(vector_t*)(kept + place) = some;
                part[j] += some;
            }
        for (int j = 0; j < VECTORS; ++j) total[j] += part[j];
    }
    for (int j = 0; j < VECTORS; ++j) *(vector_t*)(sums + j * LANES) = total[j];
}

}  // namespace distgrad

using namespace distgrad;

// Columns begin <= j < end of each of the outer parts, each sum divided by a number.
static void sum_rows(index_t begin, index_t end, index_t outer, index_t rows, index_t columns,
                     float divisor, const float* x, float* out) {
    for (index_t part = 0; part < outer; ++part, x += rows * columns, out += columns) {
        index_t j = begin;
        for (; j + PANEL <= end; j += PANEL) add_up<4>(rows, columns, x + j, divisor, out + j);
        for (; j + LANES <= end; j += LANES) add_up<1>(rows, columns, x + j, divisor, out + j);
        if (j < end) add_up_few(rows, columns, end - j, x + j, divisor, out + j);
    }
}

SHARED(sum_rows)

// Columns begin <= j < end, which are whole vectors, of the cotangent of relu's operand, from the
// cotangent g of its result y; and their sums.
static void rectify_rows(index_t begin, index_t end, index_t rows, index_t columns, const float* g,
                         const float* y, float* kept, float* sums) {
    index_t j = begin;
    for (; j + PANEL <= end; j += PANEL)
        rectify<4>(rows, columns, g + j, y + j, kept + j, sums + j);
    for (; j + LANES <= end; j += LANES)
        rectify<1>(rows, columns, g + j, y + j, kept + j, sums + j);
}

SHARED(rectify_rows)
