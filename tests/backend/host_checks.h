// What a kernel does to memory, watched on a host: accesses beyond its arrays, of places that are
// no multiple of their size, and of two threads to one place with no barrier between them.
//
// The compiler calls the functions at the end at every access of code that it instruments for
// threads (-fsanitize=thread); nothing else of that is linked. A device forbids what is found here,
// and is silent about most of it: two threads race even where they write the same.
#pragma once
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(__GNUC__) && !defined(__clang__)  // quick, also where the kernels are compiled in haste
#define UNWATCHED __attribute__((no_sanitize("thread"), optimize("O2")))
#else
#define UNWATCHED __attribute__((no_sanitize("thread")))
#endif
// Not among what kernels declare as shared, which has no first value.
#define OF_THE_SHIM __attribute__((section(".data")))

extern char __bss_start __attribute__((visibility("hidden")));
extern char _end __attribute__((visibility("hidden")));
extern char __ehdr_start __attribute__((visibility("hidden")));

namespace shim {

// Who is at work: counted through the grid, and through the block; how many barriers the block, and
// how many the warp has passed.
struct Moment {
    unsigned block, thread, of_block, of_warp;
};

struct Cell {  // what was done to one byte
    Moment written, read;
    bool is_written, is_read;
};

struct Array {
    const char *begin, *end;
    Cell* cells;
};

static Moment now OF_THE_SHIM = {1, 0, 0, 0};
static bool watches OF_THE_SHIM = false;
static unsigned faults OF_THE_SHIM = 0;
static char first_fault[256] OF_THE_SHIM = "none";
static Array* arrays OF_THE_SHIM = nullptr;
static size_t array_count OF_THE_SHIM = 0;
static Cell* of_shared OF_THE_SHIM = nullptr;
static const char *stack_begin OF_THE_SHIM = nullptr, *stack_end OF_THE_SHIM = nullptr;
static const char *host_begin OF_THE_SHIM = nullptr, *host_end OF_THE_SHIM = nullptr;
static const char *dynamic_begin OF_THE_SHIM = nullptr, *dynamic_end OF_THE_SHIM = nullptr;

// While one lives, a kernel's own code runs.
struct Watched {
    UNWATCHED Watched() { watches = array_count > 0; }
    UNWATCHED ~Watched() { watches = false; }
};

// While one lives, it is the shim's.
struct Unwatched {
    bool before;
    UNWATCHED Unwatched() : before(watches) { watches = false; }
    UNWATCHED ~Unwatched() { watches = before; }
};

UNWATCHED static inline void fault(const char* what, ...) {
    if (faults++) return;
    const int used = snprintf(first_fault, sizeof first_fault, "thread %u of block %u ", now.thread, now.block - 1);
    va_list given;
    va_start(given, what);
    vsnprintf(first_fault + used, sizeof first_fault - used, what, given);
    va_end(given);
}

UNWATCHED static inline bool is_before(const Moment& then) {
    if (then.block != now.block) return false;
    if (then.thread == now.thread || then.of_block < now.of_block) return true;
    return then.thread / 32 == now.thread / 32 && then.of_warp < now.of_warp;
}

// Note an access to a byte of an array of so many bytes, or of shared memory.
UNWATCHED static inline void touch(Cell& cell, bool writes, size_t at, size_t size) {
    const char* verb = writes ? "writes" : "reads";
    if (cell.is_written && !is_before(cell.written))
        fault("%s byte %zu of %zu, which thread %u of block %u writes, with no barrier between", verb,
            at, size, cell.written.thread, cell.written.block - 1);
    if (writes && cell.is_read && !is_before(cell.read))
        fault("%s byte %zu of %zu, which thread %u of block %u reads, with no barrier between", verb,
            at, size, cell.read.thread, cell.read.block - 1);
    if (writes) {
        cell.written = now;
        cell.is_written = true;
        cell.is_read = false;
        return;
    }
    // Of readers side by side the first is kept; that one may also be the one who writes.
    if (!cell.is_read || is_before(cell.read)) cell.read = now;
    cell.is_read = true;
}

#ifdef EMULATED  // all of the device's memory
extern "C" bool emulated_block(const void* place, const char** begin, const char** end);

static Array last[8] OF_THE_SHIM = {};  // what was asked for, one in the place of another

UNWATCHED static inline const Array* array_around(const char* at) {
    static unsigned oldest OF_THE_SHIM = 0;
    for (const Array& each : last)
        if (at >= each.begin && at < each.end) return &each;
    Array& found = last[oldest++ % 8];
    return emulated_block(at, &found.begin, &found.end) ? &found : nullptr;
}
#else
UNWATCHED static inline const Array* array_around(const char* at) {
    size_t low = 0, high = array_count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (arrays[middle].begin <= at) low = middle + 1;
        else high = middle;
    }
    return low && at < arrays[low - 1].end ? &arrays[low - 1] : nullptr;
}
#endif

UNWATCHED __attribute__((noinline)) static void look_at(
    const char* at, size_t size, bool writes, bool is_aligned) {
    const Unwatched unwatched;
    const char* verb = writes ? "writes" : "reads";
    if (of_shared && at >= &__bss_start && at < &_end) {
        if (is_aligned && (size_t)at % size) fault("%s shared memory at no multiple of %zu bytes", verb, size);
        for (size_t i = 0; i < size; ++i) {
            Cell& cell = of_shared[at + i - &__bss_start];
            if (cell.is_written && cell.written.block != now.block) cell = Cell();
            if (!writes && !cell.is_written) fault("reads shared memory that nobody has written");
            touch(cell, writes, at + i - &__bss_start, &_end - &__bss_start);
        }
        return;
    }
    if (at >= &__ehdr_start && at < &_end) return;  // constants, and variables of the shim
    if (const Array* array = array_around(at)) {
        if (at + size > array->end) fault("%s %zu bytes, some of them behind the end of an array", verb, size);
        if (is_aligned && (size_t)at % size) fault("%s an array at no multiple of %zu bytes", verb, size);
        if (!array->cells) return;
        for (const char* each = at; each < at + size && each < array->end; ++each)
            touch(array->cells[each - array->begin], writes, each - array->begin, array->end - array->begin);
        return;
    }
    if (at >= dynamic_begin && at < dynamic_end) return;
    fault("%s %zu bytes that are no array's", verb, size);
}

UNWATCHED static inline void access(const void* address, size_t size, bool writes, bool is_aligned) {
    const char* at = (const char*)address;
    const bool is_own = (at >= stack_begin && at < stack_end) ||  // the thread's, and its arguments
        (at >= host_begin && at < host_end);
    if (watches && !is_own) look_at(at, size, writes, is_aligned);
}

}  // namespace shim

// Watch a launch, whose arrays are those that begin and end here: sorted, and none within another.
extern "C" UNWATCHED void shim_watch(const char** begins, const char** ends, size_t count) {
    using namespace shim;
    for (size_t i = 0; i < array_count; ++i) free(arrays[i].cells);
    free(arrays);
    arrays = (Array*)calloc(count + 1, sizeof(Array));
    array_count = count;
    for (size_t i = 0; i < count; ++i)
        arrays[i] = {begins[i], ends[i], (Cell*)calloc(ends[i] - begins[i] + 1, sizeof(Cell))};
    free(of_shared);
    of_shared = (Cell*)calloc(&_end - &__bss_start + 1, sizeof(Cell));
    faults = 0;
    now.block = 0;
}

// Return what was found first, or null.
extern "C" UNWATCHED const char* shim_fault() { return shim::faults ? shim::first_fault : nullptr; }

#ifdef WATCHED  // what the compiler calls

#define ACCESS(size)                                                                        \
    extern "C" UNWATCHED void __tsan_read##size(void* at) { shim::access(at, size, false, true); } \
    extern "C" UNWATCHED void __tsan_write##size(void* at) { shim::access(at, size, true, true); } \
    extern "C" UNWATCHED void __tsan_unaligned_read##size(void* at) { shim::access(at, size, false, false); } \
    extern "C" UNWATCHED void __tsan_unaligned_write##size(void* at) { shim::access(at, size, true, false); }
ACCESS(1) ACCESS(2) ACCESS(4) ACCESS(8) ACCESS(16)
extern "C" UNWATCHED void __tsan_read_range(void* at, unsigned long size) { shim::access(at, size, false, false); }
extern "C" UNWATCHED void __tsan_write_range(void* at, unsigned long size) { shim::access(at, size, true, false); }
extern "C" UNWATCHED void __tsan_func_entry(void*) {}
extern "C" UNWATCHED void __tsan_func_exit() {}
extern "C" UNWATCHED void __tsan_init() {}
extern "C" UNWATCHED void __tsan_vptr_update(void**, void*) {}

#endif
