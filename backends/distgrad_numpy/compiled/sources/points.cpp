// Convolutions of points, and their adjoints: products of rows that lie apart, as with a stride.
//
// What is not seen with a stride is never read. A block of rows is copied together when it is about
// to be multiplied, and stays in the second cache for all columns; so does a block of results until
// it is written among the zeros that belong between. A number is summed in parts of the terms that
// follow from shapes, each in the order of the terms, by whatever thread it is computed.
#include "crew.hpp"
#include "products.hpp"

namespace distgrad {

constexpr index_t PART = 256;   // terms at once, at most: a panel of them stays in the second cache
constexpr index_t BLOCK = 192;  // rows of a block, at most
constexpr index_t ABREAST = 256;  // rows of a kernel's cotangent at once, given by their columns

// Terms cut into parts as equal as they can be.
struct Parts {
    index_t terms, number;

    explicit Parts(index_t terms) : terms(terms), number((terms + PART - 1) / PART) {}
    index_t first(index_t part) const { return part * terms / number; }
};

inline void copy(index_t count, const float* from, float* to) {
    __builtin_memcpy(to, from, count * sizeof(float));
}

// Rows beside a panel of VECTORS vectors. Those on the left are `step` apart, or TURNED and lie in
// groups, number by number. Results are asked for while their sums are made: they lie in memory.
template <int VECTORS, bool TURNED>
APART void rows_beside(index_t rows, index_t terms, const float* left, index_t step,
                       const float* right, index_t width, float* c, index_t row, bool add) {
    in_groups(rows, [&](index_t i, auto some) {
        constexpr int count = decltype(some)::count;
        float* const to = c + i * row;
#pragma GCC unroll 8
        for (int r = 0; r < count; ++r)
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; ++j) __builtin_prefetch(to + r * row + j * LANES, 1);
        if constexpr (TURNED)
            tile<count, VECTORS, true>(terms, left + i * terms, count, right, width, to, row, add);
        else
            tile<count, VECTORS, false>(terms, left + i * step, step, right, width, to, row, add);
    });
}

template <bool TURNED>
void multiply(index_t rows, index_t terms, const float* left, index_t step, const float* right,
              index_t width, float* c, index_t row, bool add) {
    auto* work = width > 3 * LANES   ? rows_beside<4, TURNED>
                 : width > 2 * LANES ? rows_beside<3, TURNED>
                                     : rows_beside<2, TURNED>;
    work(rows, terms, left, step, right, width, c, row, add);
}

// Rows beside all panels, as `points_panels` leaves them, which have `depth` terms from which some
// are taken.
void multiply_all(index_t rows, index_t first, index_t terms, index_t depth, index_t columns,
                  const float* left, index_t step, const float* panels, float* c) {
    for (index_t j = 0; j < columns; j += PANEL) {
        const index_t width = width_of(j, columns);
        multiply<false>(rows, terms, left, step, panels + j * depth + first * width, width, c + j,
                        columns, first > 0);
    }
}

// Lay some numbers of each position, which belong to COUNT rows, side by side.
template <int COUNT>
APART void gather(index_t terms, const float* __restrict from, const index_t* __restrict places,
                  float* __restrict to) {
    for (index_t k = 0; k < terms; ++k)
#pragma GCC unroll 8
        for (int i = 0; i < COUNT; ++i) to[k * COUNT + i] = from[places[k] + i];
}

}  // namespace distgrad

using namespace distgrad;

// Whether points with so many channels are computed: whole vectors of them, and wide ones. Of AVX2's
// registers BLAS makes a quarter more.
KERNEL int points_fit(index_t channels) {
    return LANES >= 16 && channels > 0 && arranged_columns(channels) == channels;
}

KERNEL index_t points_panel() { return PANEL; }
KERNEL index_t points_block() { return BLOCK; }
KERNEL index_t points_group() { return GROUP; }
KERNEL index_t points_abreast() { return ABREAST; }

// How many numbers the scratch of a worker has, for each of the three below.
KERNEL index_t points_room(int number, index_t columns) {
    return number == 0   ? BLOCK * PART
           : number == 1 ? BLOCK * columns
                         : PART * (ABREAST + PANEL);
}

// Lay some panels of a kernel (depth, columns) out, or of one that is turned, (columns, depth).
static void points_panels(index_t begin, index_t end, index_t depth, index_t columns, int turned,
                          const float* w, float* to) {
    for (index_t j = begin * PANEL; j < end * PANEL && j < columns; j += PANEL) {
        const index_t width = width_of(j, columns);
        if (turned)
            arrange_transpose(depth, width, w + j * depth, to + j * depth);
        else
            arrange(depth, width, w + j, to + j * depth, columns);
    }
}

// Some rows of y (positions, columns) = x w, where the rows of x are those at `places`.
static void points(const Piece& piece, index_t depth, index_t columns, const float* x,
                   const index_t* places, const float* panels, float* scratch, float* y) {
    const Parts parts(depth);
    float* const block = scratch + piece.worker * points_room(0, columns);
    for (index_t i = piece.begin; i < piece.end; i += BLOCK) {
        const index_t rows = least(BLOCK, piece.end - i);
        for (index_t part = 0; part < parts.number; ++part) {
            const index_t k = parts.first(part), terms = parts.first(part + 1) - k;
            for (index_t r = 0; r < rows; ++r)
                copy(terms, x + places[i + r] + k, block + r * terms);
            multiply_all(rows, k, terms, depth, columns, block, terms, panels, y + i * columns);
        }
    }
}

// Some rows of x = y w^T, written at `places`, each with the zeros up to the next one.
static void points_adjoint(const Piece& piece, index_t depth, index_t columns, const float* y,
                           const index_t* places, const float* panels, float* scratch, float* x) {
    const Parts parts(depth);
    float* const block = scratch + piece.worker * points_room(1, columns);
    for (index_t i = piece.begin; i < piece.end; i += BLOCK) {
        const index_t rows = least(BLOCK, piece.end - i);
        for (index_t part = 0; part < parts.number; ++part) {
            const index_t k = parts.first(part), terms = parts.first(part + 1) - k;
            multiply_all(rows, k, terms, depth, columns, y + i * depth + k, depth, panels, block);
        }
        for (index_t r = 0; r < rows; ++r) {
            const index_t end = places[i + r] + columns;
            copy(columns, block + r * columns, x + places[i + r]);
            __builtin_memset(x + end, 0, (places[i + r + 1] - end) * sizeof(float));
        }
    }
}

// Some parts of w (inputs, outputs) = x^T y, where the rows of x are those at `places`. A part is a
// panel of a block of rows; those of the same block follow each other.
static void points_kernel(const Piece& piece, index_t positions, index_t inputs, index_t outputs,
                          const float* x, const index_t* places, const float* y, float* scratch,
                          float* w) {
    const Parts parts(positions);
    const index_t panels = (outputs + PANEL - 1) / PANEL;
    float* const left = scratch + piece.worker * points_room(2, outputs);
    float* const right = left + PART * ABREAST;
    for (index_t n = piece.begin; n < piece.end; n = (n / panels + 1) * panels) {
        const index_t i = n / panels * ABREAST, rows = least(ABREAST, inputs - i);
        const index_t first = n % panels, last = least(panels, first + piece.end - n);
        for (index_t part = 0; part < parts.number; ++part) {
            const index_t p = parts.first(part), terms = parts.first(part + 1) - p;
            in_groups(rows, [&](index_t r, auto some) {
                gather<decltype(some)::count>(terms, x + i + r, places + p, left + r * terms);
            });
            for (index_t j = first * PANEL; j < last * PANEL && j < outputs; j += PANEL) {
                const index_t width = width_of(j, outputs);
                arrange(terms, width, y + p * outputs + j, right, outputs);
                multiply<true>(rows, terms, left, 0, right, width, w + i * outputs + j, outputs,
                               p > 0);
            }
        }
    }
}

SHARED(points_panels)
SHARED(points)
SHARED(points_adjoint)
SHARED(points_kernel)
