// Sums, largest and smallest of lines, and of columns: of (outer, rows, columns) over the rows.
//
// A line is taken in LANES results side by side, which are put together at last; a long one by halves,
// so that the error of a sum grows with the logarithm of its length. A block of columns stays in
// registers for all rows. NaN goes on to the result.
#include "crew.hpp"

namespace distgrad {

struct Sum {
    static constexpr bool SUMS = true;
    template <class T>
    static T of(T a, T b) {
        return a + b;
    }
};

struct Largest {
    static constexpr bool SUMS = false;
    template <class T>
    static T of(T a, T b) {
        return b >= a || b != b ? b : a;
    }
};

struct Smallest {
    static constexpr bool SUMS = false;
    template <class T>
    static T of(T a, T b) {
        return b <= a || b != b ? b : a;
    }
};

constexpr index_t LANES = 64, PART = 4096;  // numbers side by side, and of a line at once

template <class Combine, class T>
static T of_line(index_t n, const T* x) {
    if (n > PART) {
        const index_t half = (n / 2 + PART - 1) / PART * PART;
        return Combine::of(of_line<Combine>(half, x), of_line<Combine>(n - half, x + half));
    }
    if (n < LANES) {
        T total = x[0];
        for (index_t i = 1; i < n; ++i) total = Combine::of(total, x[i]);
        return total;
    }
    T lanes[LANES];
    for (index_t c = 0; c < LANES; ++c) lanes[c] = x[c];
    index_t i = LANES;
    for (; i + LANES <= n; i += LANES)
        for (index_t c = 0; c < LANES; ++c) lanes[c] = Combine::of(lanes[c], x[i + c]);
    for (index_t c = 0; i < n; ++i, ++c) lanes[c] = Combine::of(lanes[c], x[i]);
    for (index_t width = LANES / 2; width; width /= 2)
        for (index_t c = 0; c < width; ++c) lanes[c] = Combine::of(lanes[c], lanes[c + width]);
    return lanes[0];
}

// W columns over all rows; sums in parts, so that the error does not grow with the number of rows.
template <int W, class Combine, class T>
inline void of_columns(index_t rows, index_t columns, T divisor, const T* x, T* out) {
    const index_t each = Combine::SUMS ? 128 : rows;
    T total[W];
    for (index_t first = 0; first < rows; first += each) {
        const index_t behind = first + each < rows ? first + each : rows;
        T part[W];
        for (int c = 0; c < W; ++c) part[c] = x[first * columns + c];
        for (index_t r = first + 1; r < behind; ++r)
            for (int c = 0; c < W; ++c) part[c] = Combine::of(part[c], x[r * columns + c]);
        for (int c = 0; c < W; ++c) total[c] = first ? Combine::of(total[c], part[c]) : part[c];
    }
    for (int c = 0; c < W; ++c) out[c] = total[c] / divisor;
}

// Lines begin <= j < end where there is one column; else columns begin <= j < end of each outer part.
template <class Combine, class T>
inline void reduce(index_t begin, index_t end, index_t outer, index_t rows, index_t columns,
                   double divisor, const T* x, T* out) {
    if (columns == 1) {
        for (index_t j = begin; j < end; ++j)
            out[j] = of_line<Combine>(rows, x + j * rows) / (T)divisor;
        return;
    }
    for (index_t part = 0; part < outer; ++part, x += rows * columns, out += columns) {
        index_t j = begin;
        for (; j + 64 <= end; j += 64)
            of_columns<64, Combine>(rows, columns, (T)divisor, x + j, out + j);
        for (; j + 32 <= end; j += 32)
            of_columns<32, Combine>(rows, columns, (T)divisor, x + j, out + j);
        for (; j + 8 <= end; j += 8)
            of_columns<8, Combine>(rows, columns, (T)divisor, x + j, out + j);
        for (; j < end; ++j) of_columns<1, Combine>(rows, columns, (T)divisor, x + j, out + j);
    }
}

}  // namespace distgrad

using namespace distgrad;

#define REDUCTION(name, Combine, T)                                                               \
    static void name(index_t begin, index_t end, index_t outer, index_t rows, index_t columns,    \
                     double divisor, const T* x, T* out) {                                        \
        reduce<Combine>(begin, end, outer, rows, columns, divisor, x, out);                       \
    }                                                                                             \
    SHARED(name)

REDUCTION(sum_float32, Sum, float)
REDUCTION(sum_float64, Sum, double)
REDUCTION(max_float32, Largest, float)
REDUCTION(max_float64, Largest, double)
REDUCTION(min_float32, Smallest, float)
REDUCTION(min_float64, Smallest, double)
