// Moments of columns, and what is normalized by them. Rows lie one behind the other, so that a few
// short ones are one line: vectors of any length are filled. Sums over a block of lines, added in
// float, are added up in double.
#include "crew.hpp"
#include "real.hpp"

using namespace distgrad;

// A line is so many rows that it is `length` long; the last may be shorter. All that belongs to a
// column is repeated for each row of a line.
static inline index_t shortest(index_t a, index_t b) { return a < b ? a : b; }

// A column's part of a line, which is all of it where a line is ONE row.
template <bool ONE>
static inline double folded(const real* line, index_t column, index_t columns, index_t length) {
    double total = (double)line[column];
    if (!ONE)
        for (index_t i = column + columns; i < length; i += columns) total += (double)line[i];
    return total;
}

// Add lines to one, four at a time.
static inline void add_lines(
    const real* __restrict x, index_t lines, index_t length, real* __restrict sum) {
    index_t line = 0;
    for (; line + 4 <= lines; line += 4) {
        const real* __restrict at = x + line * length;
#pragma omp simd
        for (index_t i = 0; i < length; ++i)
            sum[i] += (at[i] + at[i + length]) + (at[i + 2 * length] + at[i + 3 * length]);
    }
    for (; line < lines; ++line) {
        const real* __restrict at = x + line * length;
#pragma omp simd
        for (index_t i = 0; i < length; ++i) sum[i] += at[i];
    }
}

// Add deviations from a line, and their squares.
static inline void add_deviations(
    const real* __restrict x, index_t lines, index_t length, index_t used,
    const real* __restrict centre, real* __restrict sum, real* __restrict squares) {
    index_t line = 0;
    for (; line + 2 <= lines; line += 2) {
        const real* __restrict at = x + line * length;
#pragma omp simd
        for (index_t i = 0; i < used; ++i) {
            const real c = at[i] - centre[i], d = at[i + length] - centre[i];
            sum[i] += c + d;
            squares[i] += c * c + d * d;
        }
    }
    for (; line < lines; ++line) {
        const real* __restrict at = x + line * length;
#pragma omp simd
        for (index_t i = 0; i < used; ++i) {
            const real c = at[i] - centre[i];
            sum[i] += c;
            squares[i] += c * c;
        }
    }
}

struct Block {
    index_t columns, length;
    double rows, before;  // of the block, and of those before it
    real *centre, *sum, *square;
};

template <bool ONE>
static void find_centre(const Block& b, double share) {
    const index_t columns = b.columns, length = b.length;
    real* __restrict centre = b.centre;
    const real* __restrict sum = b.sum;
#pragma omp simd
    for (index_t i = 0; i < columns; ++i)
        centre[i] = (real)(folded<ONE>(sum, i, columns, length) * share);
    for (index_t i = columns; i < length; ++i) centre[i] = centre[i - columns];
}

// Merge a block's moments, about its centre, with those of the blocks before it.
template <bool ONE>
static void merge(const Block& b, double* __restrict mean, double* __restrict squares) {
    const index_t columns = b.columns, length = b.length;
    const double share = 1 / b.rows, rows = b.rows;
    const double old = b.before / (rows + b.before), fresh = rows / (rows + b.before);
    const double between = rows * old;
    const real* __restrict centre = b.centre;
    const real* __restrict sum = b.sum;
    const real* __restrict square = b.square;
#pragma omp simd
    for (index_t i = 0; i < columns; ++i) {
        // Nothing deviates from infinity by a number.
        const bool finite = fabs(centre[i]) <= LARGEST;
        const double apart = folded<ONE>(sum, i, columns, length) * share;
        const double rest = finite ? apart : 0.0;
        const double own = (double)centre[i] + rest;
        const double about = folded<ONE>(square, i, columns, length) - rest * rest * rows;
        const double gap = own - mean[i];
        mean[i] = b.before > 0 ? mean[i] * old + own * fresh : own;
        squares[i] = b.before > 0 ? squares[i] + about + gap * gap * between : about;
    }
}

// The mean of each column and the sum of the squares of deviations from it, of `count` numbers,
// block by block: about the mean of the block's first lines, a ninth of it at least. The squares about
// the block's own mean are those less what comes of the two means being apart, which is 8 times the
// rest at most, for a ninth of the numbers is so far away: little enough for float. Blocks are merged
// with those before them (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
// computing sample variances", 1979). `memory` has 3 lines, `mean` and `squares` a column each.
static void add_moments(
    index_t count, index_t columns, index_t length, index_t lines, const real* from, real* memory,
    double* mean, double* squares) {
    const index_t step = lines * length;
    real *centre = memory, *sum = memory + length, *square = memory + 2 * length;
    for (index_t begin = 0; begin < count; begin += step) {
        const index_t size = shortest(step, count - begin);
        const index_t whole = size / length, used = size - whole * length;
        const real* x = from + begin;
        const Block block = {columns, length, (double)(size / columns), (double)(begin / columns),
                             centre,  sum,    square};
        for (index_t i = 0; i < length; ++i) sum[i] = square[i] = 0;
        const index_t first = whole ? (whole + 7) / 8 : 1;
        add_lines(x, first, whole ? length : used, sum);
        const double share = (double)columns / (double)(whole ? first * length : used);
        columns == length ? find_centre<true>(block, share) : find_centre<false>(block, share);
        for (index_t i = 0; i < length; ++i) sum[i] = 0;
        add_deviations(x, whole, length, length, centre, sum, square);
        if (used) add_deviations(x + whole * length, 1, length, used, centre, sum, square);
        columns == length ? merge<true>(block, mean, squares) : merge<false>(block, mean, squares);
    }
}

// (x - mean) factor + shift; shift may be null.
static void normalize_rows(
    index_t count, index_t length, const real* from, const real* means, const real* factors,
    const real* shifts, real* to) {
    for (index_t begin = 0; begin < count; begin += length) {
        const real* __restrict x = from + begin;
        const real* __restrict mean = means;
        const real* __restrict factor = factors;
        const real* __restrict shift = shifts;
        real* __restrict y = to + begin;
        const index_t used = shortest(length, count - begin);
        if (shift) {
#pragma omp simd
            for (index_t i = 0; i < used; ++i) y[i] = (x[i] - mean[i]) * factor[i] + shift[i];
        } else {
#pragma omp simd
            for (index_t i = 0; i < used; ++i) y[i] = (x[i] - mean[i]) * factor[i];
        }
    }
}

// g factor; and for each column the sums of g (x - mean) and of g, which begin with zero. `memory`
// has 2 lines.
static void pull_rows(
    index_t count, index_t columns, index_t length, index_t lines, const real* cotangents,
    const real* from, const real* means, const real* factors, real* to, real* memory,
    double* sums) {
    const index_t step = lines * length;
    for (index_t first = 0; first < count; first += step) {
        const index_t last = shortest(first + step, count);
        real* __restrict deviated = memory;
        real* __restrict total = memory + length;
        for (index_t i = 0; i < 2 * length; ++i) memory[i] = 0;
        for (index_t begin = first; begin < last; begin += length) {
            const real* __restrict g = cotangents + begin;
            const real* __restrict x = from + begin;
            const real* __restrict mean = means;
            const real* __restrict factor = factors;
            real* __restrict y = to + begin;
            const index_t used = shortest(length, last - begin);
#pragma omp simd
            for (index_t i = 0; i < used; ++i) {
                deviated[i] += g[i] * (x[i] - mean[i]);
                total[i] += g[i];
                y[i] = g[i] * factor[i];
            }
        }
        for (index_t i = 0; i < columns; ++i) {
            sums[i] += folded<false>(deviated, i, columns, length);
            sums[i + columns] += folded<false>(total, i, columns, length);
        }
    }
}

// For each column the sums of g (x - mean) and of g, which begin with zero. `memory` has 2 lines.
static void add_sums(
    index_t count, index_t columns, index_t length, index_t lines, const real* cotangents,
    const real* from, const real* means, real* memory, double* sums) {
    const index_t step = lines * length;
    real* __restrict deviated = memory;
    real* __restrict total = memory + length;
    const real* __restrict mean = means;
    for (index_t first = 0; first < count; first += step) {
        const index_t last = shortest(first + step, count);
        for (index_t i = 0; i < 2 * length; ++i) memory[i] = 0;
        index_t begin = first;
        for (; begin + 4 * length <= last; begin += 4 * length) {
            const real* __restrict g = cotangents + begin;
            const real* __restrict x = from + begin;
#pragma omp simd
            for (index_t i = 0; i < length; ++i) {
                const real* __restrict h = g + 2 * length;
                const real* __restrict z = x + 2 * length;
                const real centre = mean[i];
                deviated[i] += (g[i] * (x[i] - centre) + g[i + length] * (x[i + length] - centre)) +
                               (h[i] * (z[i] - centre) + h[i + length] * (z[i + length] - centre));
                total[i] += (g[i] + g[i + length]) + (h[i] + h[i + length]);
            }
        }
        for (; begin < last; begin += length) {
            const real* __restrict g = cotangents + begin;
            const real* __restrict x = from + begin;
            const index_t used = shortest(length, last - begin);
#pragma omp simd
            for (index_t i = 0; i < used; ++i) {
                deviated[i] += g[i] * (x[i] - mean[i]);
                total[i] += g[i];
            }
        }
        for (index_t i = 0; i < columns; ++i) {
            sums[i] += folded<false>(deviated, i, columns, length);
            sums[i + columns] += folded<false>(total, i, columns, length);
        }
    }
}

// g factor + ((x - mean) slope + offset); `lines` has a line of each of the four.
static void write_rows(
    index_t count, index_t length, const real* cotangents, const real* from, const real* lines,
    real* to) {
    const real* __restrict mean = lines;
    const real* __restrict factor = lines + length;
    const real* __restrict slope = lines + 2 * length;
    const real* __restrict offset = lines + 3 * length;
    index_t begin = 0;
    for (; begin + 2 * length <= count; begin += 2 * length) {
        const real* __restrict g = cotangents + begin;
        const real* __restrict x = from + begin;
        real* __restrict y = to + begin;
        real* __restrict z = to + begin + length;
#pragma omp simd
        for (index_t i = 0; i < length; ++i) {
            const real centre = mean[i], a = factor[i], b = slope[i], c = offset[i];
            y[i] = g[i] * a + ((x[i] - centre) * b + c);
            z[i] = g[i + length] * a + ((x[i + length] - centre) * b + c);
        }
    }
    for (; begin < count; begin += length) {
        const real* __restrict g = cotangents + begin;
        const real* __restrict x = from + begin;
        real* __restrict y = to + begin;
        const index_t used = shortest(length, count - begin);
#pragma omp simd
        for (index_t i = 0; i < used; ++i)
            y[i] = g[i] * factor[i] + ((x[i] - mean[i]) * slope[i] + offset[i]);
    }
}

// --- by a crew -------------------------------------------------------------------------------------

// How an array is cut: each of its outer parts into pieces of so many rows.
struct Cut {
    index_t rows, step, columns, length, lines;
};

// The numbers of one piece: where they begin, and how many they are.
struct Part {
    index_t outer, at, count;
    Part(const Cut& cut, index_t number) {
        const index_t pieces = (cut.rows + cut.step - 1) / cut.step;
        outer = number / pieces;
        const index_t first = number % pieces * cut.step;
        at = (outer * cut.rows + first) * cut.columns;
        count = shortest(cut.step, cut.rows - first) * cut.columns;
    }
};

// Each worker has its own lines of `memory`, and each piece its own sums.
static void moments(
    const Piece& piece, const Cut* cut, const real* from, real* memory, double* means,
    double* squares) {
    const Part part(*cut, piece.number);
    const index_t columns = cut->columns, length = cut->length, to = piece.number * columns;
    add_moments(part.count, columns, length, cut->lines, from + part.at,
                memory + piece.worker * 3 * length, means + to, squares + to);
}

static void normalize(
    const Piece& piece, const Cut* cut, const real* from, const real* means, const real* factors,
    const real* shifts, real* to) {
    const Part part(*cut, piece.number);
    const index_t line = part.outer * cut->length;
    normalize_rows(part.count, cut->length, from + part.at, means + line, factors + line,
                   shifts ? shifts + line : nullptr, to + part.at);
}

static void normalize_vjp(
    const Piece& piece, const Cut* cut, const real* cotangents, const real* from,
    const real* means, const real* factors, real* to, real* memory, double* sums) {
    const Part part(*cut, piece.number);
    const index_t columns = cut->columns, length = cut->length, line = part.outer * length;
    pull_rows(part.count, columns, length, cut->lines, cotangents + part.at, from + part.at,
              means + line, factors + line, to + part.at, memory + piece.worker * 2 * length,
              sums + piece.number * 2 * columns);
}

static void batch_norm_sums(
    const Piece& piece, const Cut* cut, const real* cotangents, const real* from,
    const real* means, real* memory, double* sums) {
    const Part part(*cut, piece.number);
    const index_t columns = cut->columns, length = cut->length;
    add_sums(part.count, columns, length, cut->lines, cotangents + part.at, from + part.at,
             means + part.outer * length, memory + piece.worker * 2 * length,
             sums + piece.number * 2 * columns);
}

static void batch_norm_vjp(
    const Piece& piece, const Cut* cut, const real* cotangents, const real* from,
    const real* lines, real* to) {
    const Part part(*cut, piece.number);
    write_rows(part.count, cut->length, cotangents + part.at, from + part.at,
               lines + 4 * part.outer * cut->length, to + part.at);
}

// --- between two passes of batch norm --------------------------------------------------------------

// One number for each column, repeated for each row of a line.
static void repeat(const Cut& cut, real* line) {
    for (index_t i = cut.columns; i < cut.length; ++i) line[i] = line[i - cut.columns];
}

// Mean and variance of each column, of those that each piece found; and lines of the means, of
// scale / sqrt(variance + epsilon) and of shift. Scale and shift may be null.
KERNEL void finish_moments(
    const Cut* given, const double* means, const double* squares, const real* scale,
    const real* shift, double epsilon, real* mean, real* variance, real* lines) {
    const Cut& cut = *given;
    const index_t columns = cut.columns, pieces = (cut.rows + cut.step - 1) / cut.step;
    real *factors = lines + cut.length, *shifts = lines + 2 * cut.length;
    for (index_t i = 0; i < columns; ++i) {
        double whole = 0, square = 0;
        for (index_t n = 0; n < pieces; ++n)
            whole += means[n * columns + i] * (double)shortest(cut.step, cut.rows - n * cut.step);
        whole /= (double)cut.rows;
        for (index_t n = 0; n < pieces; ++n) {
            const double apart = means[n * columns + i] - whole;
            const double rows = (double)shortest(cut.step, cut.rows - n * cut.step);
            square += squares[n * columns + i] + apart * apart * rows;
        }
        lines[i] = mean[i] = (real)whole;
        variance[i] = (real)(square / (double)cut.rows);
        const real inverse = 1 / sqrt(variance[i] + (real)epsilon);
        factors[i] = scale ? inverse * scale[i] : inverse;
        shifts[i] = shift ? shift[i] : 0;
    }
    repeat(cut, lines);
    repeat(cut, factors);
    repeat(cut, shifts);
}

// What the last pass of the pullback reads: lines of means, factors, slopes and offsets, from the
// sums of each piece, and the cotangents of scale and shift.
KERNEL void finish_sums(
    const Cut* given, const double* sums, const real* mean, const real* variance,
    const real* to_mean, const real* to_variance, const real* scale, double epsilon,
    real* lines, real* to_scale, real* to_shift) {
    const Cut& cut = *given;
    const index_t columns = cut.columns, pieces = (cut.rows + cut.step - 1) / cut.step;
    const double share = 1 / (double)cut.rows;
    real *factors = lines + cut.length, *slopes = factors + cut.length;
    real* offsets = slopes + cut.length;
    for (index_t i = 0; i < columns; ++i) {
        double deviated = 0, total = 0;
        for (index_t n = 0; n < pieces; ++n) {
            deviated += sums[2 * n * columns + i];
            total += sums[(2 * n + 1) * columns + i];
        }
        const double inverse = 1 / sqrt((double)variance[i] + epsilon);
        const double factor = scale ? inverse * (double)scale[i] : inverse;
        lines[i] = mean[i];
        factors[i] = (real)factor;
        slopes[i] = (real)((2 * (double)to_variance[i] - factor * inverse * inverse * deviated) * share);
        offsets[i] = (real)(((double)to_mean[i] - factor * total) * share);
        to_scale[i] = (real)(deviated * inverse);
        to_shift[i] = (real)total;
    }
    for (index_t n = 0; n < 4; ++n) repeat(cut, lines + n * cut.length);
}

SHARED(moments)
SHARED(normalize)
SHARED(normalize_vjp)
SHARED(batch_norm_sums)
SHARED(batch_norm_vjp)
