// Threads that wait for work: awake for a moment, since the next is near, and asleep from then on.
#include <pthread.h>
#include <sched.h>
#include <time.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "crew.hpp"

namespace {

struct Bed {
    pthread_mutex_t lock;
    pthread_cond_t bell;
#ifdef __linux__
    pid_t sleeper;
    cpu_set_t allowed;  // processors, before it was sent elsewhere
    bool is_sent;
#endif
};

// Let a sleeper wake on another processor than the caller's, which has work of its own. A kernel in a
// virtual machine takes processors that rest for ones that are not to be had, and so put helpers
// behind their callers, for as long as both had work. Whoever calls has the bed's lock.
inline void send_elsewhere([[maybe_unused]] Bed& bed) {
#ifdef __linux__
    const int own = sched_getcpu();
    if (own < 0 || own >= CPU_SETSIZE) return;
    if (!bed.is_sent && sched_getaffinity(bed.sleeper, sizeof bed.allowed, &bed.allowed)) return;
    cpu_set_t others = bed.allowed;
    CPU_CLR(own, &others);
    if (CPU_COUNT(&others) && !sched_setaffinity(bed.sleeper, sizeof others, &others))
        bed.is_sent = true;
#endif
}

// Let who is awake go to any of its processors again.
inline void set_free([[maybe_unused]] Bed& bed) {
#ifdef __linux__
    if (bed.is_sent) sched_setaffinity(bed.sleeper, sizeof bed.allowed, &bed.allowed);
    bed.is_sent = false;
#endif
}

inline void lie_down([[maybe_unused]] Bed& bed) {
#ifdef __linux__
    bed.sleeper = (pid_t)syscall(SYS_gettid);
#endif
}

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

index_t nanoseconds() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (index_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void wake(Crew::Helper& helper) {
    Bed& bed = *(Bed*)helper.bed;
    pthread_mutex_lock(&bed.lock);
    if (__atomic_load_n(&helper.asleep, __ATOMIC_RELAXED)) send_elsewhere(bed);
    pthread_cond_signal(&bed.bell);
    pthread_mutex_unlock(&bed.lock);
}

void wait_for_helpers(Crew& crew) {
    for (int turn = 0; __atomic_load_n(&crew.state, __ATOMIC_ACQUIRE) & Crew::INSIDE; ++turn) {
        relax();
        // Its processor may be another's for now: it gets on sooner if this one does not keep ours.
        if (turn >= 4096) sched_yield();
    }
}

// Join the work if it is open, for this helper, and not the one that it has done already.
bool join(Crew& crew, index_t helper, index_t& done) {
    index_t state = __atomic_load_n(&crew.state, __ATOMIC_SEQ_CST);
    while (state & Crew::OPEN && state / Crew::NUMBER != done) {
        // What is read here is this work's: it cannot change before the work is closed.
        if (helper > __atomic_load_n(&crew.most, __ATOMIC_RELAXED)) return false;
        if (__atomic_compare_exchange_n(&crew.state, &state, state + 1, false, __ATOMIC_ACQUIRE,
                                        __ATOMIC_RELAXED)) {
            done = state / Crew::NUMBER;
            return true;
        }
    }
    return false;
}

bool is_over(Crew& crew) { return __atomic_load_n(&crew.ended, __ATOMIC_SEQ_CST); }

// Wait for work, and join it; false at the end of the crew.
bool wait_for_work(Crew& crew, index_t number, index_t patience, index_t& done) {
    const index_t until = nanoseconds() + patience;
    do {
        for (int turn = 0; turn < 16; ++turn) {
            if (join(crew, number, done)) return true;
            relax();
        }
        if (is_over(crew)) return false;
    } while (nanoseconds() < until);
    Crew::Helper& helper = crew.helpers[number - 1];
    Bed& bed = *(Bed*)helper.bed;
    bool joined = false;
    pthread_mutex_lock(&bed.lock);
    lie_down(bed);
    // Who gives work looks for sleepers after it is open, and this looks for work after it sleeps.
    __atomic_store_n(&helper.asleep, 1, __ATOMIC_SEQ_CST);
    while (!is_over(crew) && !(joined = join(crew, number, done))) {
        set_free(bed);  // it came too late
        pthread_cond_wait(&bed.bell, &bed.lock);
    }
    __atomic_store_n(&helper.asleep, 0, __ATOMIC_SEQ_CST);
    set_free(bed);
    pthread_mutex_unlock(&bed.lock);
    return joined;
}

}  // namespace

// How much memory a crew of so many helpers takes, in bytes, from a line of the cache on.
KERNEL index_t room_for(index_t helpers) {
    return sizeof(Crew) + helpers * (index_t)(sizeof(Crew::Helper) + sizeof(Bed));
}

// Make zeroed memory a crew.
KERNEL void found(Crew* crew, index_t helpers) {
    crew->wake = wake;
    crew->wait_for_helpers = wait_for_helpers;
    crew->helpers = (Crew::Helper*)(crew + 1);
    crew->available = helpers;
    Bed* beds = (Bed*)(crew->helpers + helpers);
    for (index_t n = 0; n < helpers; ++n) {
        pthread_mutex_init(&beds[n].lock, nullptr);
        pthread_cond_init(&beds[n].bell, nullptr);
        crew->helpers[n].bed = beds + n;
    }
}

// Help until the end of the crew; wait so many nanoseconds for work before sleeping.
KERNEL void help(Crew* crew, index_t number, index_t patience) {
    index_t done = 0;
    while (wait_for_work(*crew, number, patience, done)) {
        crew->take(number);
        __atomic_fetch_sub(&crew->state, 1, __ATOMIC_RELEASE);
    }
}

// Have all helpers go.
KERNEL void end(Crew* crew) {
    __atomic_store_n(&crew->ended, 1, __ATOMIC_SEQ_CST);
    for (index_t n = 0; n < crew->available; ++n) wake(crew->helpers[n]);
}
