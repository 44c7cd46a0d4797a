// Threads of a CUDA block on a host: contexts that give way to each other at barriers.
#pragma once
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "host_checks.h"

struct Place { unsigned x = 0, y = 0, z = 0; };
static Place threadIdx OF_THE_SHIM, blockIdx OF_THE_SHIM, blockDim OF_THE_SHIM, gridDim OF_THE_SHIM;

namespace shim {

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done = false;
    unsigned synchronized = 0;  // how often with its warp, so that memory is, too
    Place place;
};

struct Barrier {
    unsigned arrived = 0, generation = 0;
};

struct Shown {
    alignas(16) char bytes[32];
    unsigned generation;  // of the warp's barrier, when it was shown
};

static const size_t STACK = 1 << 17;
static std::vector<Fiber> fibers;
static std::vector<Barrier> barriers;    // of the block, then of each warp
static std::vector<unsigned> alive;      // likewise: who has not returned yet
static std::vector<Shown> exchanged;     // what threads of a warp show each other
static ucontext_t scheduler;
static unsigned current OF_THE_SHIM;     // the thread that runs, counted through the block
static bool progressed;
static void (*body)(const void*);             // what each thread does, and with what
static const void* body_given;

// Say who goes on.
static inline void go_on_as(unsigned thread) {
    current = thread;
    threadIdx = fibers[thread].place;
    now = {now.block, thread, barriers[0].generation, fibers[thread].synchronized};
    stack_begin = fibers[thread].stack.get();
    stack_end = stack_begin + STACK;
}

static inline void give_way() {
    const unsigned own = current;
    swapcontext(&fibers[own].context, &scheduler);
    go_on_as(own);
}

static inline void open_where_all_came(unsigned which) {
    Barrier& barrier = barriers[which];
    if (barrier.arrived != alive[which]) return;
    barrier.arrived = 0;
    ++barrier.generation;
}

static inline void pass(unsigned which) {
    const Unwatched unwatched;
    if (barriers.empty()) {
        fprintf(stderr, "a thread waits for others in a kernel whose threads run apart\n");
        abort();
    }
    const unsigned generation = barriers[which].generation;
    progressed = true;
    ++barriers[which].arrived;
    open_where_all_came(which);
    while (barriers[which].generation == generation) give_way();
    go_on_as(current);
    progressed = true;
}

static void enter() {
    body(body_given);
    fibers[current].done = progressed = true;
    for (unsigned which : {0u, 1 + current / 32})
        if (--alive[which]) open_where_all_came(which);
    swapcontext(&fibers[current].context, &scheduler);
}

// Run one block; return how many threads wait for ever.
static inline int run_block(unsigned threads, bool backwards) {
    const unsigned warps = (threads + 31) / 32;
    barriers.assign(1 + warps, Barrier());
    alive.assign(1 + warps, 0);
    exchanged.assign(warps * 32, {{}, ~0u});
    for (unsigned i = 0; i < threads; ++i) {
        ++alive[0];
        ++alive[1 + i / 32];
        Fiber& fiber = fibers[i];
        fiber.done = false;
        fiber.synchronized = 0;
        fiber.place = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, enter, 0);
    }
    for (progressed = true; alive[0] && progressed;) {
        progressed = false;
        for (unsigned i = 0; i < threads; ++i) {
            current = backwards ? threads - 1 - i : i;
            if (!fibers[current].done) {
                go_on_as(current);
                swapcontext(&scheduler, &fibers[current].context);
            }
        }
    }
    return (int)alive[0];
}

// Run blocks one after the other; return how many threads of one wait for ever.
template <class Given>
int launch(Place grid, Place block, bool backwards, const Given& given) {
    body = [](const void* what) {
        const Watched watched;
        (*(const Given*)what)();
    };
    body_given = &given;
    host_begin = (const char*)&given;
    host_end = host_begin + sizeof given;
    const unsigned threads = block.x * block.y * block.z;
    while (fibers.size() < threads) {
        fibers.emplace_back();
        fibers.back().stack.reset(new char[STACK]);
    }
    gridDim = grid;
    blockDim = block;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = {x, y, z};
                ++now.block;
                if (int stuck = run_block(threads, backwards)) return stuck;
            }
    return 0;
}

// Return what another thread of the warp shows.
template <class Value>
Value shown_by(unsigned other, Value value) {
    static_assert(sizeof(Value) <= sizeof(Shown::bytes), "");
    const Unwatched unwatched;
    const unsigned own = current, warp = 1 + own / 32, generation = barriers[warp].generation;
    memcpy(exchanged[own].bytes, &value, sizeof(Value));
    exchanged[own].generation = generation;
    pass(warp);
    if (other / 32 != own / 32 || exchanged[other].generation != generation)
        fault("asks thread %u for a number, which shows none", other);
    memcpy(&value, exchanged[other].bytes, sizeof(Value));
    pass(warp);
    return value;
}

}  // namespace shim

static inline void __syncthreads() { shim::pass(0); }

static inline void __syncwarp(unsigned = 0xffffffffu) {
    const shim::Unwatched unwatched;
    shim::pass(1 + shim::current / 32);
    ++shim::fibers[shim::current].synchronized;
    shim::go_on_as(shim::current);
}

template <class Value>
Value __shfl_xor_sync(unsigned, Value value, int distance, int = 32) {
    return shim::shown_by(shim::current ^ distance, value);
}
