// What CUDA has and a host has not: threads of a block as contexts that give way at barriers.
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

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

struct Place { unsigned x = 0, y = 0, z = 0; };
static Place threadIdx, blockIdx, blockDim, gridDim;

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}

namespace shim {

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done = false;
};

struct Barrier {
    unsigned arrived = 0, generation = 0;
};

static std::vector<Fiber> fibers;
static std::vector<Barrier> barriers;    // of the block, then of each warp
static std::vector<unsigned> alive;      // likewise: who has not returned yet
static std::vector<double> exchanged;    // what threads of a warp show each other
static ucontext_t scheduler;
static unsigned current;
static bool progressed;
static std::function<void()> body;

static inline void give_way() {
    const unsigned own = current;
    swapcontext(&fibers[own].context, &scheduler);
    threadIdx.x = own;
}

static inline void pass(unsigned which) {
    Barrier& barrier = barriers[which];
    const unsigned generation = barrier.generation;
    progressed = true;
    if (++barrier.arrived == alive[which]) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    while (barriers[which].generation == generation) give_way();
    progressed = true;
}

static void enter() {
    threadIdx.x = current;
    body();
    fibers[current].done = progressed = true;
    for (unsigned which : {0u, 1 + current / 32})
        if (--alive[which] && barriers[which].arrived == alive[which]) {
            barriers[which].arrived = 0;
            ++barriers[which].generation;
        }
    swapcontext(&fibers[current].context, &scheduler);
}

// Run one block; return how many threads wait for ever.
static inline int run_block(unsigned threads, bool backwards) {
    const unsigned warps = (threads + 31) / 32;
    barriers.assign(1 + warps, Barrier());
    alive.assign(1 + warps, 0);
    exchanged.assign(threads, 0);
    for (unsigned i = 0; i < threads; ++i) {
        ++alive[0];
        ++alive[1 + i / 32];
        Fiber& fiber = fibers[i];
        fiber.done = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = 1 << 16;
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, enter, 0);
    }
    for (progressed = true; alive[0] && progressed;) {
        progressed = false;
        for (unsigned i = 0; i < threads; ++i) {
            current = backwards ? threads - 1 - i : i;
            if (!fibers[current].done) {
                threadIdx.x = current;
                swapcontext(&scheduler, &fibers[current].context);
            }
        }
    }
    return (int)alive[0];
}

template <class Body>
int launch(unsigned gx, unsigned gy, unsigned gz, unsigned threads, int backwards, Body given) {
    body = given;
    while (fibers.size() < threads) {
        fibers.emplace_back();
        fibers.back().stack.reset(new char[1 << 16]);
    }
    gridDim = {gx, gy, gz};
    blockDim = {threads, 1, 1};
    for (unsigned z = 0; z < gz; ++z)
        for (unsigned y = 0; y < gy; ++y)
            for (unsigned x = 0; x < gx; ++x) {
                blockIdx = {x, y, z};
                if (int stuck = run_block(threads, backwards)) return stuck;
            }
    return 0;
}

}  // namespace shim

static inline void __syncthreads() { shim::pass(0); }

static inline void __syncwarp(unsigned = 0xffffffffu) { shim::pass(1 + threadIdx.x / 32); }

template <class Value>
Value __shfl_xor_sync(unsigned, Value value, int distance) {
    const unsigned own = threadIdx.x;
    shim::exchanged[own] = (double)value;  // exact: no wider numbers are shown than double
    __syncwarp();
    const Value other = (Value)shim::exchanged[own ^ distance];
    __syncwarp();
    return other;
}
