// The functions of cuBLAS that CuPy and distgrad call, by loops and by the host's LAPACK.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "libraries.h"

PUBLIC int cublasCreate_v2(void** made) {
    *made = new Handle;
    return 0;
}

PUBLIC int cublasDestroy_v2(void* handle) {
    delete (Handle*)handle;
    return 0;
}

PUBLIC int cublasSetStream_v2(void* handle, void* stream) {
    ((Handle*)handle)->stream = stream;
    return 0;
}

PUBLIC int cublasGetStream_v2(void* handle, void** stream) {
    *stream = ((Handle*)handle)->stream;
    return 0;
}

PUBLIC int cublasSetPointerMode_v2(void* handle, int mode) {
    ((Handle*)handle)->mode = mode;
    return 0;
}

PUBLIC int cublasGetPointerMode_v2(void* handle, int* mode) {
    *mode = ((Handle*)handle)->mode;
    return 0;
}

PUBLIC int cublasSetMathMode(void*, int) { return 0; }

PUBLIC int cublasGetMathMode(void*, int* mode) {
    *mode = 0;
    return 0;
}

PUBLIC int cublasSetWorkspace_v2(void*, void*, size_t) { return 0; }

// --- products -------------------------------------------------------------------------------------

// Matrices of one layout: where they begin, and how far columns and matrices are apart.
template <class T> struct Matrices {
    T* data;
    int leading, turn;
    long long apart;

    T at(int number, long row, long column) const {
        const T* one = data + number * apart;
        if (!turn) return one[row + column * leading];
        const T found = one[column + row * leading];
        if constexpr (std::is_class_v<T> && !is_complex<T>) return found;
        else return turn == 2 ? conjugate(found) : found;
    }

    // Return whether cuBLAS takes them, of which each has so many rows and columns when turned.
    bool fit(const char* what, int rows, int columns, int count) const {
        if (turn) std::swap(rows, columns);
        if (rows < 0 || columns < 0 || count < 0 || leading < (rows ? rows : 1)) return false;
        const long long last = (count - 1) * apart + (columns - 1) * (long long)leading + rows;
        if (rows && columns && count) emulated_check(what, data, last * sizeof(T));
        return true;
    }
};

static const int INVALID_VALUE = 7;

template <class A, class C>
bool all_fit(const Matrices<A>& a, const Matrices<A>& b, const Matrices<C>& c, int m, int n, int k, int count) {
    return c.fit("products written to", m, n, count) &&
        a.fit("multiplied from the left", m, k, count) &&
        b.fit("multiplied from the right", k, n, count);
}

// Add up in `Sum`, in the order of the terms.
template <class Sum, class In, class Out>
void multiply(int m, int n, int k, Sum alpha, Matrices<In> a, Matrices<In> b, Sum beta,
              Matrices<Out> c, int count) {
    for (int number = 0; number < count; ++number)
        for (long j = 0; j < n; ++j)
            for (long i = 0; i < m; ++i) {
                Sum sum = 0;
                for (long l = 0; l < k; ++l)
                    sum += (Sum)a.at(number, i, l) * (Sum)b.at(number, l, j);
                Out& out = c.data[number * c.apart + i + j * c.leading];
                out = (Out)(beta == (Sum)0 ? alpha * sum : alpha * sum + beta * (Sum)out);
            }
}

// Numbers of 16 bits, which are multiplied in single precision.
template <class Stored> struct Narrow {
    Stored stored;
    Narrow() = default;
    explicit Narrow(float x) : stored(x) {}
    operator float() const { return (float)stored; }
};

// The codes of cudaDataType.
enum { FLOAT = 0, DOUBLE = 1, HALF = 2, COMPLEX64 = 4, COMPLEX128 = 5, BFLOAT16 = 14 };
static const int NOT_SUPPORTED = 15;
static const int IN_HALF = 64, IN_HALF_PEDANTIC = 65;  // of cublasComputeType_t

PUBLIC int cublasGemmStridedBatchedEx(
    void* handle, int turn_a, int turn_b, int m, int n, int k, const void* alpha, const void* a,
    int type_a, int leading_a, long long apart_a, const void* b, int type_b, int leading_b,
    long long apart_b, const void* beta, void* c, int type_c, int leading_c, long long apart_c,
    int count, int computed_in, int) {
    const auto given = [&](auto* in, auto* out, auto scale, auto old) {
        typedef std::remove_reference_t<decltype(*in)> In;
        typedef std::remove_reference_t<decltype(*out)> Out;
        Matrices<In> first = {(In*)a, leading_a, turn_a, apart_a};
        Matrices<In> second = {(In*)b, leading_b, turn_b, apart_b};
        Matrices<Out> result = {(Out*)c, leading_c, 0, apart_c};
        if (!all_fit(first, second, result, m, n, k, count)) return INVALID_VALUE;
        submit(handle, [=] { multiply(m, n, k, scale, first, second, old, result, count); });
        return 0;
    };
    const auto scale = [=](const void* place) {
        const bool is_half = computed_in == IN_HALF || computed_in == IN_HALF_PEDANTIC;
        return is_half ? __half2float(*(const __half*)place) : *(const float*)place;
    };
    if (type_a != type_b) return NOT_SUPPORTED;
    switch (type_a << 8 | type_c) {
        case FLOAT << 8 | FLOAT:
            return given((float*)0, (float*)0, scale(alpha), scale(beta));
        case DOUBLE << 8 | DOUBLE:
            return given((double*)0, (double*)0, *(const double*)alpha, *(const double*)beta);
        case COMPLEX64 << 8 | COMPLEX64:
            return given((complex64*)0, (complex64*)0, *(const complex64*)alpha,
                         *(const complex64*)beta);
        case COMPLEX128 << 8 | COMPLEX128:
            return given((complex128*)0, (complex128*)0, *(const complex128*)alpha,
                         *(const complex128*)beta);
        case HALF << 8 | HALF:
            return given((Narrow<__half>*)0, (Narrow<__half>*)0, scale(alpha), scale(beta));
        case HALF << 8 | FLOAT:
            return given((Narrow<__half>*)0, (float*)0, scale(alpha), scale(beta));
        case BFLOAT16 << 8 | BFLOAT16:
            return given((Narrow<__nv_bfloat16>*)0, (Narrow<__nv_bfloat16>*)0, scale(alpha),
                         scale(beta));
        case BFLOAT16 << 8 | FLOAT:
            return given((Narrow<__nv_bfloat16>*)0, (float*)0, scale(alpha), scale(beta));
        default:
            return NOT_SUPPORTED;
    }
}

PUBLIC int cublasGemmEx(
    void* handle, int turn_a, int turn_b, int m, int n, int k, const void* alpha, const void* a,
    int type_a, int leading_a, const void* b, int type_b, int leading_b, const void* beta, void* c,
    int type_c, int leading_c, int computed_in, int how) {
    return cublasGemmStridedBatchedEx(
        handle, turn_a, turn_b, m, n, k, alpha, a, type_a, leading_a, 0, b, type_b, leading_b, 0,
        beta, c, type_c, leading_c, 0, 1, computed_in, how);
}

#define PRODUCTS(LETTER, T)                                                                        \
    PUBLIC int cublas##LETTER##gemm_v2(                                                            \
        void* handle, int turn_a, int turn_b, int m, int n, int k, const T* alpha, T* a, int la,   \
        T* b, int lb, const T* beta, T* c, int lc) {                                               \
        const T scale = *alpha, old = *beta;                                                       \
        Matrices<T> first = {a, la, turn_a, 0}, second = {b, lb, turn_b, 0}, result = {c, lc, 0, 0}; \
        if (!all_fit(first, second, result, m, n, k, 1)) return INVALID_VALUE;                     \
        submit(handle, [=] { multiply(m, n, k, scale, first, second, old, result, 1); });          \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cublas##LETTER##gemmBatched(                                                        \
        void* handle, int turn_a, int turn_b, int m, int n, int k, const T* alpha, T** a, int la,  \
        T** b, int lb, const T* beta, T** c, int lc, int count) {                                  \
        const T scale = *alpha, old = *beta;                                                       \
        submit(handle, [=] {                                                                       \
            for (int i = 0; i < count; ++i)                                                        \
                multiply(m, n, k, scale, Matrices<T>{a[i], la, turn_a, 0},                         \
                         Matrices<T>{b[i], lb, turn_b, 0}, old, Matrices<T>{c[i], lc, 0, 0}, 1);   \
        });                                                                                        \
        return 0;                                                                                  \
    }
FOR_EACH_TYPE(PRODUCTS)

// --- sums of matrices -----------------------------------------------------------------------------

// CuPy copies a matrix from one order into the other by them.
#define SUMS(LETTER, T)                                                                            \
    PUBLIC int cublas##LETTER##geam(                                                               \
        void* handle, int turn_a, int turn_b, int m, int n, const T* alpha, T* a, int la,          \
        const T* beta, T* b, int lb, T* c, int lc) {                                               \
        const T scale = *alpha, other = *beta;                                                     \
        Matrices<T> first = {a, la, turn_a, 0}, second = {b, lb, turn_b, 0}, result = {c, lc, 0, 0}; \
        const bool adds = other != (T)0;                                                           \
        if (!result.fit("sums written to", m, n, 1) || !first.fit("added", m, n, 1) ||             \
            (adds && !second.fit("added", m, n, 1)))                                               \
            return INVALID_VALUE;                                                                  \
        submit(handle, [=] {                                                                       \
            for (long j = 0; j < n; ++j)                                                           \
                for (long i = 0; i < m; ++i)                                                       \
                    result.data[i + j * lc] = scale * first.at(0, i, j) +                          \
                        (adds ? other * second.at(0, i, j) : (T)0);                                \
        });                                                                                        \
        return 0;                                                                                  \
    }
FOR_EACH_TYPE(SUMS)

// --- systems --------------------------------------------------------------------------------------

template <class T>
void solve_triangular(int side, int triangle, int turn, int diagonal, int m, int n, T alpha, T* a,
                      int la, T* b, int lb) {
    char side_ = letter_of_side(side), triangle_ = letter_of_triangle(triangle);
    char turn_ = letter_of_turn(turn), diagonal_ = diagonal ? 'U' : 'N';
    fortran<T>("trsm", &side_, &triangle_, &turn_, &diagonal_, &m, &n, &alpha, a, &la, b, &lb);
}

// The inverse of what was factorized; `info` names a pivot that is zero.
template <class T>
int invert(int n, const T* factors, int la, int* pivots, T* inverse, int lc) {
    std::vector<T> own((size_t)n * n);
    for (long j = 0; j < n; ++j)
        for (long i = 0; i < n; ++i) {
            own[i + j * n] = factors[i + j * la];
            inverse[i + j * lc] = (T)(i == j);
        }
    for (int i = 0; i < n; ++i)
        if (own[i + (size_t)i * n] == (T)0) return i + 1;
    char turn = 'N';
    int info;
    fortran<T>("getrs", &turn, &n, &n, own.data(), &n, pivots, inverse, &lc, &info);
    return info;
}

#define SYSTEMS(LETTER, T)                                                                         \
    PUBLIC int cublas##LETTER##trsm_v2(                                                            \
        void* handle, int side, int triangle, int turn, int diagonal, int m, int n,                \
        const T* alpha, T* a, int la, T* b, int lb) {                                              \
        const T scale = *alpha;                                                                    \
        submit(handle, [=] {                                                                       \
            solve_triangular<T>(side, triangle, turn, diagonal, m, n, scale, a, la, b, lb);        \
        });                                                                                        \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cublas##LETTER##trsmBatched(                                                        \
        void* handle, int side, int triangle, int turn, int diagonal, int m, int n,                \
        const T* alpha, T** a, int la, T** b, int lb, int count) {                                 \
        const T scale = *alpha;                                                                    \
        submit(handle, [=] {                                                                       \
            for (int i = 0; i < count; ++i)                                                        \
                solve_triangular<T>(side, triangle, turn, diagonal, m, n, scale, a[i], la, b[i], lb); \
        });                                                                                        \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cublas##LETTER##getrfBatched(                                                       \
        void* handle, int n, T** a, int la, int* pivots, int* info, int count) {                   \
        submit(handle, [=] {                                                                       \
            int n_ = n, la_ = la;                                                                  \
            for (int i = 0; i < count; ++i)                                                        \
                fortran<T>("getrf", &n_, &n_, a[i], &la_, pivots + i * n, info + i);               \
        });                                                                                        \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cublas##LETTER##getrsBatched(                                                       \
        void* handle, int turn, int n, int columns, T** a, int la, int* pivots, T** b, int lb,     \
        int* info, int count) {                                                                    \
        *info = 0; /* on the host, as for what is wrong with the arguments */                      \
        submit(handle, [=] {                                                                       \
            char turn_ = letter_of_turn(turn);                                                     \
            int n_ = n, columns_ = columns, la_ = la, lb_ = lb, unused;                            \
            for (int i = 0; i < count; ++i)                                                        \
                fortran<T>("getrs", &turn_, &n_, &columns_, a[i], &la_, pivots + i * n, b[i],      \
                           &lb_, &unused);                                                         \
        });                                                                                        \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cublas##LETTER##getriBatched(                                                       \
        void* handle, int n, T** a, int la, int* pivots, T** c, int lc, int* info, int count) {    \
        submit(handle, [=] {                                                                       \
            for (int i = 0; i < count; ++i)                                                        \
                info[i] = invert<T>(n, a[i], la, pivots + i * n, c[i], lc);                        \
        });                                                                                        \
        return 0;                                                                                  \
    }
FOR_EACH_TYPE(SYSTEMS)
