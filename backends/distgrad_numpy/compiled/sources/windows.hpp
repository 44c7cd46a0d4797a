// Blocks of the windows of an input, as tables say where they lie, see sweeps.py; and registers.
#pragma once
#include "vector.hpp"

// How many floats a register has, and how many registers of sums fit beside weights and one number.
#if defined(__AVX512F__)
constexpr index_t WIDTH = 16, SUMS = 24, WIDEST = 4;
#elif defined(__AVX__)
constexpr index_t WIDTH = 8, SUMS = 12, WIDEST = 2;
#elif defined(__aarch64__)
constexpr index_t WIDTH = 4, SUMS = 24, WIDEST = 4;
#else
constexpr index_t WIDTH = 4, SUMS = 12, WIDEST = 2;
#endif

typedef float Vector __attribute__((vector_size(WIDTH * 4)));
typedef float Loose __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));

static inline Vector load(const float* from) { return *(const Loose*)from; }
static inline void store(float* to, Vector x) { *(Loose*)to = x; }
static inline index_t least(index_t a, index_t b) { return a < b ? a : b; }

// Runs that a window sees, from where it begins.
struct Runs {
    const index_t *offsets, *lengths;
    index_t number;
};

// The fields of distgrad_numpy.compiled.sweeps.Sweep, in floats where they are distances.
struct Sweep {
    // The input, whose windows are those of a padded copy of a block of it, unless it needs none.
    index_t examples, spatial[3], channels, copied, begin[3], seen[3];
    // A block of windows: so many examples, or a part of one along an axis; windows at a position.
    index_t block_examples, block_positions, positions, each, axis, stride;
    // Where results lie: the distance of examples and positions, and of windows of a block.
    index_t out_example, out_position;
    const index_t *places, *ends;
    // Runs, and how many of them make up a chunk whose weights stay in the cache.
    const index_t *offsets, *lengths, *chunks;
    index_t number_of_chunks, depth;
    // Runs may be gathered first, so that a window is one run, so far from the next one's.
    const index_t *gathered_places, *gathered_offsets, *gathered_lengths;
    index_t gathered, apart;
    index_t groups, inner, outputs;
};

// The windows of one block, and what they see.
struct Block {
    const float* x;
    index_t first, examples, position, positions, windows;
};

static inline Block block_of(const Sweep& s, index_t number) {
    const index_t parts = (s.positions + s.block_positions - 1) / s.block_positions;
    Block block{};
    block.first = number / parts * s.block_examples;
    block.examples = least(s.block_examples, s.examples - block.first);
    block.position = number % parts * s.block_positions;
    block.positions = least(s.block_positions, s.positions - block.position);
    block.windows = block.examples * block.positions * s.each;
    return block;
}

// Copy what a block's windows see, with zeros where there is padding.
static inline void pad(const Sweep& s, const Block& block, const float* x, float* to) {
    index_t begin[3], rows[3];
    for (int a = 0; a < 3; ++a) {
        begin[a] = s.begin[a] + (a == s.axis ? block.position * s.stride : 0);
        rows[a] = s.seen[a] - (a == s.axis ? (s.block_positions - block.positions) * s.stride : 0);
    }
    const index_t c = s.channels, row = s.seen[2] * c;
    // Which part of a row is inside.
    const index_t low = begin[2] < 0 ? least(-begin[2], rows[2]) : 0;
    const index_t last = least(s.spatial[2] - begin[2], rows[2]);
    const index_t high = last < low ? low : last;
    for (index_t e = 0; e < block.examples; ++e)
        for (index_t i = 0; i < rows[0]; ++i)
            for (index_t j = 0; j < rows[1]; ++j) {
                float* target = to + ((e * s.seen[0] + i) * s.seen[1] + j) * row;
                const index_t d = begin[0] + i, h = begin[1] + j, example = block.first + e;
                if (d < 0 || h < 0 || d >= s.spatial[0] || h >= s.spatial[1]) {
                    __builtin_memset(target, 0, rows[2] * c * sizeof(float));
                    continue;
                }
                const index_t line = (example * s.spatial[0] + d) * s.spatial[1] + h;
                const float* from = x + (line * s.spatial[2] + begin[2]) * c;
                __builtin_memset(target, 0, low * c * sizeof(float));
                __builtin_memcpy(target + low * c, from + low * c,
                                 (high - low) * c * sizeof(float));
                __builtin_memset(target + high * c, 0, (rows[2] - high) * c * sizeof(float));
            }
}

// Set where a block's windows lie: in the input itself, a padded copy, or gathered one by one.
static inline void see(const Sweep& s, Block& block, const float* x, float* scratch) {
    if (s.copied) {
        pad(s, block, x, scratch);
        block.x = scratch;
    } else {
        index_t at[3] = {s.begin[0], s.begin[1], s.begin[2]};
        at[s.axis] += block.position * s.stride;
        const index_t line = (block.first * s.spatial[0] + at[0]) * s.spatial[1] + at[1];
        block.x = x + (line * s.spatial[2] + at[2]) * s.channels;
    }
    if (s.gathered == 0) return;
    float* columns = scratch;
    if (s.copied) columns += s.block_examples * s.seen[0] * s.seen[1] * s.seen[2] * s.channels;
    for (index_t p = 0; p < block.windows; ++p) {
        float* to = columns + p * s.apart;
        for (index_t r = 0; r < s.gathered; ++r) {
            const float* run = block.x + s.gathered_places[p] + s.gathered_offsets[r];
            for (index_t k = 0; k < s.gathered_lengths[r]; ++k) *to++ = run[k];
        }
    }
    block.x = columns;
}
