// Pieces of work shared out among threads that wait for it, without the interpreter in between.
//
// A crew is memory that a caller and its helpers see. The caller opens a piece of work, and each who
// has joined takes the pieces of its own share, which lie side by side as those of the last work did
// that this core's cache may still hold; and then what others have left of theirs. When there are no
// more the caller closes the work and waits until all have gone. A helper that comes too late finds
// it closed, and touches nothing.
#pragma once
#include "vector.hpp"

// The part of a range to work on, its place among the parts, and which of the crew does it: 0 is the
// caller, helpers count from 1.
struct Piece {
    index_t begin, end, number, worker;
};

struct Crew {
    struct Helper {
        alignas(64) index_t next;  // piece of its share
        alignas(64) int asleep;
        void* bed;
    };
    // Work is `open` or not; it has a number, and so many helpers are `inside`.
    static constexpr index_t INSIDE = 0xffff, OPEN = 1 << 16, NUMBER = 1 << 17;

    alignas(64) index_t state;
    index_t most;  // helpers of this work: those up to that number
    void (*work)(const void*, const Piece&);
    const void* given;
    index_t count, each;
    alignas(64) index_t next;   // of the caller's own share
    alignas(64) index_t taken;  // whether someone is giving work already
    void (*wake)(Helper&);
    void (*wait_for_helpers)(Crew&);
    Helper* helpers;
    index_t available;  // helpers
    int ended;

    index_t parts() const { return (count + each - 1) / each; }

    index_t& next_of(index_t worker) { return worker ? helpers[worker - 1].next : next; }
    index_t share_of(index_t worker) const { return worker * parts() / (most + 1); }

    // Take pieces until none is left.
    void take(index_t worker) {
        for (index_t n = 0; n <= most; ++n) {
            const index_t owner = (worker + n) % (most + 1), last = share_of(owner + 1);
            for (;;) {
                const index_t number = __atomic_fetch_add(&next_of(owner), 1, __ATOMIC_RELAXED);
                if (number >= last) break;
                const index_t begin = number * each, end = begin + each;
                work(given, Piece{begin, end < count ? end : count, number, worker});
            }
        }
    }
};

// Call work(piece) for all pieces of a range, on whichever threads; without a crew, or where it is at
// work for another caller, on this one.
template <typename Work>
static inline void share_out(Crew* crew, index_t count, index_t each, const Work& work) {
    const index_t all = (count + each - 1) / each;
    if (crew == nullptr || all < 2 || __atomic_exchange_n(&crew->taken, 1, __ATOMIC_ACQUIRE)) {
        for (index_t n = 0; n < all; ++n) {
            const index_t begin = n * each, end = begin + each;
            work(Piece{begin, end < count ? end : count, n, 0});
        }
        return;
    }
    Crew& c = *crew;
    c.work = [](const void* given, const Piece& piece) { (*(const Work*)given)(piece); };
    c.given = &work;
    c.count = count, c.each = each;
    const index_t most = c.available < all - 1 ? c.available : all - 1;
    __atomic_store_n(&c.most, most, __ATOMIC_RELAXED);
    for (index_t n = 0; n <= most; ++n)
        __atomic_store_n(&c.next_of(n), c.share_of(n), __ATOMIC_RELAXED);
    const index_t closed = __atomic_load_n(&c.state, __ATOMIC_RELAXED);
    __atomic_store_n(&c.state, (closed + Crew::NUMBER) | Crew::OPEN, __ATOMIC_SEQ_CST);
    for (index_t n = 0; n < most; ++n)
        if (__atomic_load_n(&c.helpers[n].asleep, __ATOMIC_SEQ_CST)) c.wake(c.helpers[n]);
    c.take(0);
    if (__atomic_and_fetch(&c.state, ~Crew::OPEN, __ATOMIC_ACQ_REL) & Crew::INSIDE)
        c.wait_for_helpers(c);
    __atomic_store_n(&c.taken, 0, __ATOMIC_RELEASE);
}

// A function of a range, or of a piece, as one that a crew does: run(crew, count, each, ...). It is
// compiled by itself: inside of the loop over pieces its own loops came out slower.
template <typename Function>
static inline Function by_itself(Function f) {
    asm("" : "+r"(f));
    return f;
}

template <auto F>
struct Shared;
template <typename... Given, void (*F)(index_t, index_t, Given...)>
struct Shared<F> {
    static void run(Crew* crew, index_t count, index_t each, Given... given) {
        const auto f = by_itself(F);
        share_out(crew, count, each, [&](const Piece& p) { f(p.begin, p.end, given...); });
    }
};
template <typename... Given, void (*F)(const Piece&, Given...)>
struct Shared<F> {
    static void run(Crew* crew, index_t count, index_t each, Given... given) {
        const auto f = by_itself(F);
        share_out(crew, count, each, [&](const Piece& p) { f(p, given...); });
    }
};

// Have a function `name` found from outside as `name_shared`, the place of what a crew does.
#define SHARED(name)                                                                          \
    extern "C" {                                                                              \
    __attribute__((visibility("default"))) extern const decltype(&Shared<name>::run) name##_shared; \
    const decltype(&Shared<name>::run) name##_shared = &Shared<name>::run;                    \
    }
