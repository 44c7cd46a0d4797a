// Stacks of small matrices, LANES of them side by side: every step is one of vectors, with the pivots
// of each matrix chosen by masks. LAPACK takes one matrix after the other, and a call for each.
//
// A function writes 1 to `failed` where a matrix has not what it needs (a pivot is 0, or something is
// not finite); what it wrote besides says nothing then.
#include "channels.hpp"
#include "crew.hpp"

using namespace distgrad;
using distgrad::otherwise::log;  // of a double

typedef reals lanes;
typedef wholes masks;
constexpr index_t LANES = LENGTH<lanes>;

static INLINED lanes size_of(lanes x) { return x < 0 ? -x : x; }

static INLINED bool any(masks found) {
    whole_t joined = 0;
    for (index_t l = 0; l < LANES; ++l) joined |= found[l];
    return joined;
}

// Whether all lanes are finite: nothing but those is 0 less itself.
static INLINED bool finite(lanes x) { return !any(x - x != lanes{}); }

// COUNT numbers of up to LANES matrices, and those of `beyond` for matrices that are not there.
static inline void load_all(
    index_t count, index_t matrices, const real* from, const real* beyond, lanes* to) {
    for (index_t e = 0; e < count; ++e) {
        real each[LANES];
        for (index_t l = 0; l < LANES; ++l) each[l] = l < matrices ? from[l * count + e] : beyond[e];
        __builtin_memcpy(to + e, each, sizeof each);
    }
}

static inline void store_all(index_t count, index_t matrices, const lanes* from, real* to) {
    for (index_t e = 0; e < count; ++e)
        for (index_t l = 0; l < matrices; ++l) to[l * count + e] = from[e][l];
}

// The matrix of ones on the diagonal.
template <int N>
static inline void unit(real* to) {
    for (int i = 0; i < N * N; ++i) to[i] = i % (N + 1) == 0;
}

template <int N>
static inline void load_matrices(index_t matrices, const real* from, lanes (*a)[N]) {
    real ones[N * N];
    unit<N>(ones);
    load_all(N * N, matrices, from, ones, a[0]);
}

// Gauss' elimination with the largest pivot of each column; what stands to the right of the matrices,
// K columns of it, goes along. Returns the determinants; `least` becomes that pivot of the least size.
template <int N>
static inline lanes eliminate(lanes (*a)[N], lanes* b, index_t k, lanes& least) {
    lanes determinant = lanes{} + 1;
    least = lanes{} + LARGEST;
    for (int p = 0; p < N; ++p) {
        lanes most = size_of(a[p][p]);
        masks row = masks{} + p;
        for (int r = p + 1; r < N; ++r) {
            const lanes size = size_of(a[r][p]);
            row = size > most ? masks{} + r : row;
            most = size > most ? size : most;
        }
        least = most < least ? most : least;
        for (int r = p + 1; r < N; ++r) {
            const masks swapped = row == r;
            for (int c = p; c < N; ++c) {
                const lanes upper = a[p][c], lower = a[r][c];
                a[p][c] = swapped ? lower : upper;
                a[r][c] = swapped ? upper : lower;
            }
            for (index_t c = 0; c < k; ++c) {
                const lanes upper = b[p * k + c], lower = b[r * k + c];
                b[p * k + c] = swapped ? lower : upper;
                b[r * k + c] = swapped ? upper : lower;
            }
        }
        determinant *= row == p ? a[p][p] : -a[p][p];
        for (int r = p + 1; r < N; ++r) {
            const lanes factor = a[r][p] / a[p][p];
            for (int c = p + 1; c < N; ++c) a[r][c] -= factor * a[p][c];
            for (index_t c = 0; c < k; ++c) b[r * k + c] -= factor * b[p * k + c];
        }
    }
    return determinant;
}

// Solve upper or lower triangular systems in place.
template <int N>
static inline void substitute(const lanes (*a)[N], lanes* b, index_t k, bool lower) {
    for (int step = 0; step < N; ++step) {
        const int i = lower ? step : N - 1 - step;
        for (index_t c = 0; c < k; ++c) {
            lanes rest = b[i * k + c];
            for (int j = lower ? 0 : i + 1; j < (lower ? i : N); ++j) rest -= a[i][j] * b[j * k + c];
            b[i * k + c] = rest / a[i][i];
        }
    }
}

// The largest sum of the sizes of a row.
template <int N>
static inline lanes norm_of(const lanes* a) {
    lanes most = {};
    for (int i = 0; i < N; ++i) {
        lanes sum = {};
        for (int j = 0; j < N; ++j) sum += size_of(a[i * N + j]);
        most = sum > most ? sum : most;
    }
    return most;
}

constexpr index_t COLUMNS = 16;  // of right sides, at most

template <int N>
struct Of {
    // What is asked for, matrix by matrix: of n, from a and b, with k columns, to `out` and `second`.
    static bool det(index_t n, index_t, const real* a, const real*, real* out, real*) {
        lanes m[N][N], least;
        load_matrices<N>(n, a, m);
        const lanes found = eliminate<N>(m, nullptr, 0, least);
        store_all(1, n, &found, out);
        return finite(found) && !any(found == lanes{});
    }

    static bool slogdet(index_t n, index_t, const real* a, const real*, real* out, real* second) {
        lanes m[N][N], least;
        load_matrices<N>(n, a, m);
        lanes sign = eliminate<N>(m, nullptr, 0, least), total = {};
        // Its sign is right also where it overflows; not where it is too small.
        masks odd = sign < 0;
        if (any(sign == lanes{})) return false;
        for (int i = 0; i < N; ++i) {
            real each[LANES];
            const lanes size = size_of(m[i][i]);
            __builtin_memcpy(each, &size, sizeof each);
#pragma omp simd
            for (index_t l = 0; l < LANES; ++l) each[l] = log(each[l]);
            lanes logarithm;
            __builtin_memcpy(&logarithm, each, sizeof each);
            total += logarithm;
        }
        sign = odd ? lanes{} - 1 : lanes{} + 1;
        store_all(1, n, &sign, out);
        store_all(1, n, &total, second);
        return finite(total);
    }

    static bool solve(index_t n, index_t k, const real* a, const real* b, real* out, real*) {
        lanes m[N][N], right[N * COLUMNS], least;
        const real zeros[N * COLUMNS] = {};
        load_matrices<N>(n, a, m);
        load_all(N * k, n, b, zeros, right);
        eliminate<N>(m, right, k, least);
        substitute<N>(m, right, k, false);
        store_all(N * k, n, right, out);
        return !any(least == lanes{}) && all_finite(right, N * k);
    }

    static bool inv(index_t n, index_t, const real* a, const real*, real* out, real*) {
        lanes m[N][N], right[N * N], least;
        load_matrices<N>(n, a, m);
        invert(m, right, least);
        store_all(N * N, n, right, out);
        return !any(least == lanes{}) && all_finite(right, N * N);
    }

    // det(A) A^-T, where half of the digits are left: see distgrad.backend.adapters.linalg.
    static bool cofactor(index_t n, index_t, const real* a, const real*, real* out, real*) {
        lanes m[N][N], right[N * N], turned[N * N], least;
        load_matrices<N>(n, a, m);
        const lanes norm = norm_of<N>(m[0]);
        const lanes determinant = invert(m, right, least);
        const lanes condition = norm * norm_of<N>(right);
        const real bound = sizeof(real) == 4 ? 2896.0 : 67108864.0;  // eps^-1/2
        for (int i = 0; i < N; ++i)
            for (int j = 0; j < N; ++j) turned[j * N + i] = determinant * right[i * N + j];
        store_all(N * N, n, turned, out);
        return !any((condition < bound) == 0) && all_finite(turned, N * N);
    }

    static bool cholesky(index_t n, index_t, const real* a, const real*, real* out, real*) {
        lanes m[N][N];
        load_matrices<N>(n, a, m);
        masks wrong = {};
        for (int j = 0; j < N; ++j) {
            for (int c = 0; c < j; ++c) m[j][j] -= m[j][c] * m[j][c];
            wrong |= (m[j][j] > 0) == 0;
            real each[LANES];
            __builtin_memcpy(each, &m[j][j], sizeof each);
#pragma omp simd
            for (index_t l = 0; l < LANES; ++l) each[l] = sqrt(each[l]);
            __builtin_memcpy(&m[j][j], each, sizeof each);
            for (int i = j + 1; i < N; ++i) {
                for (int c = 0; c < j; ++c) m[i][j] -= m[i][c] * m[j][c];
                m[i][j] /= m[j][j];
                m[j][i] = lanes{};
            }
        }
        store_all(N * N, n, m[0], out);
        return !any(wrong) && all_finite(m[0], N * N);
    }

    static bool lower(index_t n, index_t k, const real* a, const real* b, real* out, real*) {
        return triangular<true>(n, k, a, b, out);
    }
    static bool upper(index_t n, index_t k, const real* a, const real* b, real* out, real*) {
        return triangular<false>(n, k, a, b, out);
    }

private:
    template <bool LOWER>
    static bool triangular(index_t n, index_t k, const real* a, const real* b, real* out) {
        lanes m[N][N], right[N * COLUMNS];
        const real zeros[N * COLUMNS] = {};
        load_matrices<N>(n, a, m);
        load_all(N * k, n, b, zeros, right);
        substitute<N>(m, right, k, LOWER);
        store_all(N * k, n, right, out);
        return all_finite(right, N * k);
    }

    static lanes invert(lanes (*m)[N], lanes* right, lanes& least) {
        for (int i = 0; i < N * N; ++i) right[i] = lanes{} + (real)(i % (N + 1) == 0);
        const lanes determinant = eliminate<N>(m, right, N, least);
        substitute<N>(m, right, N, false);
        return determinant;
    }

    static bool all_finite(const lanes* x, index_t count) {
        lanes sum = {};
        for (index_t i = 0; i < count; ++i) sum += x[i] - x[i];
        return finite(sum);
    }
};

// Matrices `begin` to `end` of a stack, LANES at a time, which are of some size. Each has so many
// numbers on its right side, in k columns, and so many results.
#define OF_STACKS(name, function, right, results, second_results)                                    \
    static void name(                                                                                \
        index_t begin, index_t end, index_t size, index_t k, const real* a, const real* b, real* out, \
        real* second, int* failed) {                                                                 \
        for (index_t first = begin; first < end; first += LANES) {                                   \
            const index_t n = end - first < LANES ? end - first : LANES;                             \
            const real *from = a + first * size * size, *with = b + first * (right);                 \
            real *to = out + first * (results), *other = second + first * (second_results);          \
            bool done = false;                                                                       \
            switch (size) {                                                                          \
                case 2: done = Of<2>::function(n, k, from, with, to, other); break;                  \
                case 3: done = Of<3>::function(n, k, from, with, to, other); break;                  \
                case 4: done = Of<4>::function(n, k, from, with, to, other); break;                  \
                case 5: done = Of<5>::function(n, k, from, with, to, other); break;                  \
                case 6: done = Of<6>::function(n, k, from, with, to, other); break;                  \
                case 7: done = Of<7>::function(n, k, from, with, to, other); break;                  \
                case 8: done = Of<8>::function(n, k, from, with, to, other); break;                  \
            }                                                                                        \
            if (!done) {                                                                             \
                __atomic_store_n(failed, 1, __ATOMIC_RELAXED);                                       \
                return;                                                                              \
            }                                                                                        \
        }                                                                                            \
    }                                                                                                \
    SHARED(name)

OF_STACKS(det, det, 0, 1, 0)
OF_STACKS(slogdet, slogdet, 0, 1, 1)
OF_STACKS(inv, inv, 0, size * size, 0)
OF_STACKS(cofactor, cofactor, 0, size * size, 0)
OF_STACKS(cholesky, cholesky, 0, size * size, 0)
OF_STACKS(solve, solve, size * k, size * k, 0)
OF_STACKS(solve_lower, lower, size * k, size * k, 0)
OF_STACKS(solve_upper, upper, size * k, size * k, 0)
