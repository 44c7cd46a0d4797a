// What cuBLAS, cuSOLVER and cuFFT on a host have in common: handles, streams, LAPACK's functions.
#pragma once
#include <complex>
#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#define PUBLIC extern "C" __attribute__((visibility("default")))

typedef std::complex<float> complex64;
typedef std::complex<double> complex128;

template <class T> struct Parts { typedef T real; static const char letter; };
template <class T> struct Parts<std::complex<T>> { typedef T real; static const char letter; };
template <> inline const char Parts<float>::letter = 's';
template <> inline const char Parts<double>::letter = 'd';
template <> inline const char Parts<complex64>::letter = 'c';
template <> inline const char Parts<complex128>::letter = 'z';
template <class T> using Real = typename Parts<T>::real;
template <class T> constexpr bool is_complex = !std::is_same_v<T, Real<T>>;

template <class T> T conjugate(T x) {
    if constexpr (is_complex<T>) return std::conj(x);
    else return x;
}

struct Handle { void* stream = nullptr; int mode = 0; };

extern "C" void emulated_submit(void* stream, void (*work)(void*), void* state, bool is_awaited);
extern "C" void* emulated_known(const char* name);
extern "C" void emulated_check(const char* what, const void* place, long bytes);

// Give work to a handle's stream. It is kept, since a graph does it again and again. Another rank
// may wait for some.
static inline void submit(void* handle, std::function<void()> work, bool is_awaited = false) {
    const auto run = [](void* state) { (*(std::function<void()>*)state)(); };
    void* state = new std::function<void()>(std::move(work));
    emulated_submit(((Handle*)handle)->stream, run, state, is_awaited);
}

// Call a function of LAPACK or BLAS, whose parameters are all addresses; the name without its letter.
template <class T, class... Given>
void fortran(const char* name, Given... given) {
    void* function = emulated_known((Parts<T>::letter + std::string(name)).c_str());
    ((void (*)(Given...))function)(given...);
}

// The letters of LAPACK for what cuBLAS counts.
static inline char letter_of_side(int side) { return side ? 'R' : 'L'; }
static inline char letter_of_triangle(int triangle) { return triangle ? 'U' : 'L'; }
static inline char letter_of_turn(int turn) { return "NTC"[turn]; }

#define FOR_EACH_TYPE(DEFINED) \
    DEFINED(S, float) DEFINED(D, double) DEFINED(C, complex64) DEFINED(Z, complex128)
