// The functions of cuSOLVER that CuPy calls, by the host's LAPACK.
#include "libraries.h"

static const int NEEDS_NO_ROOM = 16;  // elements that callers allocate nevertheless
static const int INVALID_VALUE = 3;

PUBLIC int cusolverDnCreate(void** made) {
    *made = new Handle;
    return 0;
}

PUBLIC int cusolverDnDestroy(void* handle) {
    delete (Handle*)handle;
    return 0;
}

PUBLIC int cusolverDnSetStream(void* handle, void* stream) {
    ((Handle*)handle)->stream = stream;
    return 0;
}

PUBLIC int cusolverDnGetStream(void* handle, void** stream) {
    *stream = ((Handle*)handle)->stream;
    return 0;
}

PUBLIC int cusolverDnCreateParams(void** made) {
    static int nothing;
    *made = &nothing;
    return 0;
}

PUBLIC int cusolverDnDestroyParams(void*) { return 0; }
PUBLIC int cusolverDnCreateGesvdjInfo(void** made) { return cusolverDnCreateParams(made); }
PUBLIC int cusolverDnDestroyGesvdjInfo(void*) { return 0; }
PUBLIC int cusolverDnCreateSyevjInfo(void** made) { return cusolverDnCreateParams(made); }
PUBLIC int cusolverDnDestroySyevjInfo(void*) { return 0; }

PUBLIC int cusolverGetProperty(int which, int* value) {
    *value = which == 0 ? 11 : 7;  // the major version, and the others
    return 0;
}

// --- spectra and singular values ------------------------------------------------------------------

template <class T>
void decompose_symmetric(int with_vectors, int triangle, int n, T* a, int la, Real<T>* w, int* info) {
    char job = with_vectors ? 'V' : 'N', triangle_ = letter_of_triangle(triangle);
    int room = 1 + 6 * n + 2 * n * n, whole_room = 3 + 5 * n;
    std::vector<T> work(room);
    std::vector<Real<T>> real_work(room);
    std::vector<int> whole_work(whole_room);
    if constexpr (is_complex<T>)
        fortran<T>("heevd", &job, &triangle_, &n, a, &la, w, work.data(), &room, real_work.data(),
                   &room, whole_work.data(), &whole_room, info);
    else
        fortran<T>("syevd", &job, &triangle_, &n, a, &la, w, work.data(), &room, whole_work.data(),
                   &whole_room, info);
}

template <class T>
void decompose_general(int with_vectors, int n, T* a, int la, std::complex<Real<T>>* w, T* v, int lv,
                       int* info) {
    char left = 'N', right = with_vectors ? 'V' : 'N';
    int room = 8 * n + 16, one = 1;
    std::vector<T> work(room);
    std::vector<Real<T>> real(2 * n + 1), imaginary(n);
    if constexpr (is_complex<T>) {
        fortran<T>("geev", &left, &right, &n, a, &la, w, (T*)nullptr, &one, v, &lv, work.data(),
                   &room, real.data(), info);
    } else {
        fortran<T>("geev", &left, &right, &n, a, &la, real.data(), imaginary.data(), (T*)nullptr,
                   &one, v, &lv, work.data(), &room, info);
        for (int i = 0; i < n; ++i) w[i] = {real[i], imaginary[i]};
    }
}

template <class T>
void find_singular(char job_u, char job_v, int m, int n, T* a, int la, Real<T>* s, T* u, int lu,
                   T* vt, int lv, int* info) {
    int room = 8 * (m + n) + 16;
    std::vector<T> work(room);
    std::vector<Real<T>> real_work(5 * (m + n) + 1);
    if constexpr (is_complex<T>)
        fortran<T>("gesvd", &job_u, &job_v, &m, &n, a, &la, s, u, &lu, vt, &lv, work.data(), &room,
                   real_work.data(), info);
    else
        fortran<T>("gesvd", &job_u, &job_v, &m, &n, a, &la, s, u, &lu, vt, &lv, work.data(), &room,
                   info);
}

// As Jacobi's method leaves them: V itself, whole or of the first columns.
template <class T>
void find_singular_by_jacobi(int with_vectors, int economic, int m, int n, const T* a, int la,
                             Real<T>* s, T* u, int lu, T* v, int lv, int* info) {
    const int few = m < n ? m : n;
    std::vector<T> own((size_t)m * n), left((size_t)m * m), right((size_t)n * n);
    for (long j = 0; j < n; ++j)
        for (long i = 0; i < m; ++i) own[i + j * m] = a[i + j * la];
    const char job = with_vectors ? 'A' : 'N';
    find_singular<T>(job, job, m, n, own.data(), m, s, left.data(), m, right.data(), n, info);
    if (!with_vectors) return;
    for (long j = 0; j < (economic ? few : m); ++j)
        for (long i = 0; i < m; ++i) u[i + j * lu] = left[i + j * m];
    for (long j = 0; j < (economic ? few : n); ++j)
        for (long i = 0; i < n; ++i) v[i + j * lv] = conjugate(right[j + i * n]);
}

#define SPECTRA(LETTER, T, FAMILY)                                                                 \
    PUBLIC int cusolverDn##LETTER##FAMILY##evd_bufferSize(                                         \
        void*, int, int, int, const T*, int, const Real<T>*, int* room) {                          \
        *room = NEEDS_NO_ROOM;                                                                     \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cusolverDn##LETTER##FAMILY##evd(                                                    \
        void* handle, int job, int triangle, int n, T* a, int la, Real<T>* w, T*, int, int* info) { \
        submit(handle, [=] { decompose_symmetric<T>(job, triangle, n, a, la, w, info); });         \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cusolverDn##LETTER##FAMILY##evj_bufferSize(                                         \
        void*, int, int, int, const T*, int, const Real<T>*, int* room, void*) {                   \
        *room = NEEDS_NO_ROOM;                                                                     \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cusolverDn##LETTER##FAMILY##evj(                                                    \
        void* handle, int job, int triangle, int n, T* a, int la, Real<T>* w, T*, int, int* info,  \
        void*) {                                                                                   \
        submit(handle, [=] { decompose_symmetric<T>(job, triangle, n, a, la, w, info); });         \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cusolverDn##LETTER##FAMILY##evjBatched_bufferSize(                                  \
        void*, int, int, int, const T*, int, const Real<T>*, int* room, void*, int) {              \
        *room = NEEDS_NO_ROOM;                                                                     \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cusolverDn##LETTER##FAMILY##evjBatched(                                             \
        void* handle, int job, int triangle, int n, T* a, int la, Real<T>* w, T*, int, int* info,  \
        void*, int count) {                                                                        \
        submit(handle, [=] {                                                                       \
            for (long i = 0; i < count; ++i)                                                       \
                decompose_symmetric<T>(job, triangle, n, a + i * la * n, la, w + i * n, info + i); \
        });                                                                                        \
        return 0;                                                                                  \
    }
SPECTRA(S, float, sy)
SPECTRA(D, double, sy)
SPECTRA(C, complex64, he)
SPECTRA(Z, complex128, he)

#define SINGULAR(LETTER, T)                                                                        \
    PUBLIC int cusolverDn##LETTER##gesvd_bufferSize(void*, int, int, int* room) {                  \
        *room = NEEDS_NO_ROOM;                                                                     \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cusolverDn##LETTER##gesvd(                                                          \
        void* handle, char job_u, char job_v, int m, int n, T* a, int la, Real<T>* s, T* u, int lu, \
        T* vt, int lv, T*, int, Real<T>*, int* info) {                                             \
        if (m < n) return INVALID_VALUE;                                                           \
        submit(handle, [=] {                                                                       \
            find_singular<T>(job_u, job_v, m, n, a, la, s, u, lu, vt, lv, info);                   \
        });                                                                                        \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cusolverDn##LETTER##gesvdjBatched_bufferSize(                                       \
        void*, int, int, int, const T*, int, const Real<T>*, const T*, int, const T*, int,         \
        int* room, void*, int) {                                                                   \
        *room = NEEDS_NO_ROOM;                                                                     \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cusolverDn##LETTER##gesvdjBatched(                                                  \
        void* handle, int job, int m, int n, T* a, int la, Real<T>* s, T* u, int lu, T* v, int lv, \
        T*, int, int* info, void*, int count) {                                                    \
        if (m > 32 || n > 32) return INVALID_VALUE;                                                \
        const long few = m < n ? m : n;                                                            \
        submit(handle, [=] {                                                                       \
            for (long i = 0; i < count; ++i)                                                       \
                find_singular_by_jacobi<T>(job, 0, m, n, a + i * la * n, la, s + i * few,          \
                                           u + i * lu * m, lu, v + i * lv * n, lv, info + i);      \
        });                                                                                        \
        return 0;                                                                                  \
    }
FOR_EACH_TYPE(SINGULAR)

// The codes of cudaDataType, of which the functions for 64 bit take one.
enum { FLOAT = 0, DOUBLE = 1, COMPLEX64 = 4, COMPLEX128 = 5 };

PUBLIC int cusolverDnXsyevd_bufferSize(
    void*, void*, int, int, int64_t, int, const void*, int64_t, int, const void*, int,
    size_t* device_room, size_t* host_room) {
    *device_room = *host_room = NEEDS_NO_ROOM;
    return 0;
}

PUBLIC int cusolverDnXsyevd(
    void* handle, void*, int job, int triangle, int64_t n, int type, void* a, int64_t la, int,
    void* w, int, void*, size_t, void*, size_t, int* info) {
    submit(handle, [=] {
        const auto run = [=](auto* typed) {
            typedef std::remove_reference_t<decltype(*typed)> T;
            decompose_symmetric<T>(job, triangle, n, typed, la, (Real<T>*)w, info);
        };
        switch (type) {
            case FLOAT: return run((float*)a);
            case DOUBLE: return run((double*)a);
            case COMPLEX64: return run((complex64*)a);
            case COMPLEX128: return run((complex128*)a);
        }
    });
    return 0;
}

PUBLIC int cusolverDnXgeev_bufferSize(
    void*, void*, int, int, int64_t, int, const void*, int64_t, int, const void*, int, const void*,
    int64_t, int, const void*, int64_t, int, size_t* device_room, size_t* host_room) {
    *device_room = *host_room = NEEDS_NO_ROOM;
    return 0;
}

PUBLIC int cusolverDnXgeev(
    void* handle, void*, int, int job, int64_t n, int type, void* a, int64_t la, int, void* w, int,
    void*, int64_t, int, void* v, int64_t lv, int, void*, size_t, void*, size_t, int* info) {
    submit(handle, [=] {
        const auto run = [=](auto* typed) {
            typedef std::remove_reference_t<decltype(*typed)> T;
            decompose_general<T>(job, n, typed, la, (std::complex<Real<T>>*)w, (T*)v, lv, info);
        };
        switch (type) {
            case FLOAT: return run((float*)a);
            case DOUBLE: return run((double*)a);
            case COMPLEX64: return run((complex64*)a);
            case COMPLEX128: return run((complex128*)a);
        }
    });
    return 0;
}

// --- factors --------------------------------------------------------------------------------------

#define FACTORS(LETTER, T, FAMILY)                                                                 \
    PUBLIC int cusolverDn##LETTER##potrf_bufferSize(void*, int, int, T*, int, int* room) {         \
        *room = NEEDS_NO_ROOM;                                                                     \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cusolverDn##LETTER##potrf(                                                          \
        void* handle, int triangle, int n, T* a, int la, T*, int, int* info) {                     \
        submit(handle, [=] {                                                                       \
            char triangle_ = letter_of_triangle(triangle);                                         \
            int n_ = n, la_ = la;                                                                  \
            fortran<T>("potrf", &triangle_, &n_, a, &la_, info);                                   \
        });                                                                                        \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cusolverDn##LETTER##potrfBatched(                                                   \
        void* handle, int triangle, int n, T** a, int la, int* info, int count) {                  \
        submit(handle, [=] {                                                                       \
            char triangle_ = letter_of_triangle(triangle);                                         \
            int n_ = n, la_ = la;                                                                  \
            for (int i = 0; i < count; ++i)                                                        \
                fortran<T>("potrf", &triangle_, &n_, a[i], &la_, info + i);                        \
        });                                                                                        \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cusolverDn##LETTER##getrf_bufferSize(void*, int, int, T*, int, int* room) {         \
        *room = NEEDS_NO_ROOM;                                                                     \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cusolverDn##LETTER##getrf(                                                          \
        void* handle, int m, int n, T* a, int la, T*, int* pivots, int* info) {                    \
        submit(handle, [=] {                                                                       \
            int m_ = m, n_ = n, la_ = la;                                                          \
            fortran<T>("getrf", &m_, &n_, a, &la_, pivots, info);                                  \
        });                                                                                        \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cusolverDn##LETTER##getrs(                                                          \
        void* handle, int turn, int n, int columns, const T* a, int la, const int* pivots, T* b,   \
        int lb, int* info) {                                                                       \
        submit(handle, [=] {                                                                       \
            char turn_ = letter_of_turn(turn);                                                     \
            int n_ = n, columns_ = columns, la_ = la, lb_ = lb;                                    \
            fortran<T>("getrs", &turn_, &n_, &columns_, a, &la_, pivots, b, &lb_, info);           \
        });                                                                                        \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cusolverDn##LETTER##geqrf_bufferSize(void*, int, int n, T*, int, int* room) {       \
        *room = 32 * n + 1;                                                                        \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cusolverDn##LETTER##geqrf(                                                          \
        void* handle, int m, int n, T* a, int la, T* tau, T* work, int room, int* info) {          \
        submit(handle, [=] {                                                                       \
            int m_ = m, n_ = n, la_ = la, room_ = room;                                            \
            fortran<T>("geqrf", &m_, &n_, a, &la_, tau, work, &room_, info);                       \
        });                                                                                        \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cusolverDn##LETTER##FAMILY##gqr_bufferSize(                                         \
        void*, int, int n, int, const T*, int, const T*, int* room) {                              \
        *room = 32 * n + 1;                                                                        \
        return 0;                                                                                  \
    }                                                                                              \
    PUBLIC int cusolverDn##LETTER##FAMILY##gqr(                                                    \
        void* handle, int m, int n, int k, T* a, int la, const T* tau, T* work, int room,          \
        int* info) {                                                                               \
        submit(handle, [=] {                                                                       \
            int m_ = m, n_ = n, k_ = k, la_ = la, room_ = room;                                    \
            fortran<T>(#FAMILY "gqr", &m_, &n_, &k_, a, &la_, tau, work, &room_, info);            \
        });                                                                                        \
        return 0;                                                                                  \
    }
FACTORS(S, float, or)
FACTORS(D, double, or)
FACTORS(C, complex64, un)
FACTORS(Z, complex128, un)
