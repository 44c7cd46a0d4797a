// CUDA's words for sources of ours, on a host: those that need nothing of CuPy's headers.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "host_bfloat16.h"
#include "host_threads.h"

#ifdef __FLT16_MAX__
typedef _Float16 float16;  // CuPy's class on the device; rounded alike
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__
#define __shared__ static
#define __launch_bounds__(...)

using std::acos; using std::cos; using std::exp; using std::fabs; using std::fmax;
using std::fmin; using std::log; using std::log1p; using std::pow; using std::rint;
using std::sin; using std::sqrt; using std::tanh; using std::isnan;

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}

// Threads run one after the other: what they exchange is whole.
static inline int atomicExch(int* at, int value) {
    const shim::Unwatched unwatched;
    const int old = *at;
    *at = value;
    return old;
}
