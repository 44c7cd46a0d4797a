// Convolutions of float32 with channels last, as products of matrices that are never written out.
//
// What a window sees is a few runs of contiguous numbers, at offsets that are the same for all
// windows of a padded input. So the sums of a strip of windows and a block of channels stay in
// registers while the runs are read where they lie, and where each window begins is read from a
// table: strides, dilation, and the number of axes are all in the tables, see sweeps.py.
#include "crew.hpp"
#include "windows.hpp"

// As many windows as are looked at before the next channels: their cotangents stay in the cache.
constexpr index_t TILE = 128;

constexpr int strip_of(int vectors) { return SUMS / vectors < 12 ? SUMS / vectors : 12; }

// Write rows of sums, or add them to what is there; only so many channels of the last block count.
template <int VECTORS>
static inline void put(float* to, const Vector* sums, index_t channels, bool add) {
    if (channels >= VECTORS * WIDTH) {
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j)
            store(to + j * WIDTH, add ? load(to + j * WIDTH) + sums[j] : sums[j]);
        return;
    }
    const float* numbers = (const float*)sums;
#pragma GCC unroll 1
    for (index_t i = 0; i < channels; ++i) to[i] = add ? to[i] + numbers[i] : numbers[i];
}

template <int VECTORS>
struct Wide {
    static constexpr int vectors = VECTORS;
};

// Call what is compiled for each number of vectors with the one that is wanted.
template <typename Call>
static inline void with_vectors(index_t vectors, Call call) {
    if (vectors == 1) call(Wide<1>());
    if (vectors == 2) call(Wide<2>());
    if constexpr (WIDEST > 2) {
        if (vectors == 3) call(Wide<3>());
        if (vectors == 4) call(Wide<4>());
    }
}

// --- the convolution -----------------------------------------------------------------------------

// Sums over the runs of a chunk, of a strip of windows and a block of channels.
template <int VECTORS, int STRIP>
static inline void sum_strip(const float* const* windows, const Runs& runs, const float* w,
                             Vector (&result)[STRIP][VECTORS]) {
    // A copy of its own, so that the compiler keeps it in registers.
    Vector sums[STRIP][VECTORS];
#pragma GCC unroll 12
    for (int i = 0; i < STRIP; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j) sums[i][j] = Vector{};
    for (index_t r = 0; r < runs.number; ++r) {
        const float* from[STRIP];
#pragma GCC unroll 12
        for (int i = 0; i < STRIP; ++i) from[i] = windows[i] + runs.offsets[r];
        const index_t length = runs.lengths[r];
#pragma GCC unroll 1
        for (index_t k = 0; k < length; ++k, w += VECTORS * WIDTH) {
            Vector weights[VECTORS];
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; ++j) weights[j] = *(const Vector*)(w + j * WIDTH);
#pragma GCC unroll 12
            for (int i = 0; i < STRIP; ++i) {
                const float x = from[i][k];
#pragma GCC unroll 4
                for (int j = 0; j < VECTORS; ++j) sums[i][j] += x * weights[j];
            }
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < STRIP; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j) result[i][j] = sums[i][j];
}

// All windows of a block, over the runs of a chunk, for a block of channels.
template <int VECTORS>
static void sum_windows(const Sweep& s, const float* x, index_t windows, const Runs& runs,
                        const float* w, float* y, index_t channels, bool add) {
    constexpr int STRIP = strip_of(VECTORS);
    for (index_t first = 0; first < windows; first += STRIP) {
        const index_t strip = least(windows - first, STRIP);
        const float* from[STRIP];
        for (index_t i = 0; i < STRIP; ++i) from[i] = x + s.places[first + least(i, strip - 1)];
        Vector sums[STRIP][VECTORS];
        sum_strip<VECTORS, STRIP>(from, runs, w, sums);
#pragma GCC unroll 1
        for (index_t i = 0; i < strip; ++i)
            put<VECTORS>(y + s.ends[first + i], sums[i], channels, add);
    }
}

// Channels are cut into blocks as equal as they can be.
struct Channels {
    index_t vectors, blocks;

    explicit Channels(index_t channels)
        : vectors((channels + WIDTH - 1) / WIDTH), blocks((vectors + WIDEST - 1) / WIDEST) {}
    index_t first(index_t block) const { return block * vectors / blocks; }
};

KERNEL index_t width() { return WIDTH; }
KERNEL index_t widest() { return WIDEST; }

// Write rows of weights in the order in which they are read: for each block of channels, by rows.
static void pack(index_t begin, index_t end, const float* w, const index_t* rows, index_t depth,
                 index_t step, index_t channels, float* to) {
    const Channels all(channels);
    for (index_t b = 0; b < all.blocks; ++b) {
        const index_t first = all.first(b) * WIDTH, wide = all.first(b + 1) * WIDTH - first;
        const index_t whole = least(wide, channels - first);
        for (index_t start = begin; start < end; start += 16) {
            const index_t stop = least(start + 16, end);
            if (step == 1) {
                for (index_t k = start; k < stop; ++k)
                    for (index_t j = 0; j < whole; ++j) to[k * wide + j] = w[rows[k] + first + j];
            } else {
                for (index_t j = 0; j < whole; ++j)
                    for (index_t k = start; k < stop; ++k)
                        to[k * wide + j] = w[rows[k] + (first + j) * step];
            }
            for (index_t k = start; k < stop; ++k)
                for (index_t j = whole; j < wide; ++j) to[k * wide + j] = 0;
        }
        to += depth * wide;
    }
}

// Write the sums of the windows of some blocks; each worker has so much room of its own.
static void convolve(const Piece& piece, const Sweep* sweep, const float* x, const float* weights,
                     float* y, float* memory, index_t room) {
    const Sweep& s = *sweep;
    const Channels all(s.outputs);
    float* scratch = memory + piece.worker * room;
    for (index_t number = piece.begin; number < piece.end; ++number) {
        Block block = block_of(s, number);
        see(s, block, x, scratch);
        float* out = y + block.first * s.out_example + block.position * s.out_position;
        const float* w = weights;
        for (index_t group = 0; group < s.groups; ++group)
            for (index_t b = 0; b < all.blocks; ++b) {
                const index_t first = all.first(b), vectors = all.first(b + 1) - first;
                const float* from = block.x + group * s.inner;
                float* to = out + group * s.outputs + first * WIDTH;
                const index_t rest = s.outputs - first * WIDTH;
                for (index_t c = 0; c < s.number_of_chunks; ++c) {
                    const index_t at = s.chunks[c];
                    const Runs runs{s.offsets + at, s.lengths + at, s.chunks[c + 1] - at};
                    with_vectors(vectors, [&](auto wide) {
                        sum_windows<wide.vectors>(s, from, block.windows, runs, w, to, rest, c > 0);
                    });
                    for (index_t r = 0; r < runs.number; ++r)
                        w += runs.lengths[r] * vectors * WIDTH;
                }
            }
    }
}

// --- the convolution, to few channels ------------------------------------------------------------

// Registers hold neighbours of one run instead of channels, of which they would stay half empty.

template <int FLOATS>
struct Part {
    typedef float Type __attribute__((vector_size(FLOATS * 4)));
};

// The sum of a register's floats, half to half.
template <int FLOATS>
static inline float total(const typename Part<FLOATS>::Type& x) {
    if constexpr (FLOATS == 2) {
        return x[0] + x[1];
    } else {
        typename Part<FLOATS / 2>::Type halves[2];
        __builtin_memcpy(halves, &x, sizeof x);
        return total<FLOATS / 2>(halves[0] + halves[1]);
    }
}

constexpr int FEW = 4;  // channels at a time

constexpr int strip_of_few(int channels) {
    return (SUMS - 4) / channels < 8 ? (SUMS - 4) / channels : 8;
}

// All windows of a block, for a few channels, whose weights lie one channel after the other.
template <int CHANNELS>
static void sum_dots(const Sweep& s, const float* x, index_t windows, const float* w, float* y) {
    constexpr int STRIP = strip_of_few(CHANNELS);
    const Runs runs{s.offsets, s.lengths, s.chunks[s.number_of_chunks]};
    for (index_t first = 0; first < windows; first += STRIP) {
        const index_t strip = least(windows - first, STRIP);
        Vector sums[STRIP][CHANNELS];
        float rest[STRIP][CHANNELS];
#pragma GCC unroll 8
        for (int i = 0; i < STRIP; ++i)
#pragma GCC unroll 4
            for (int j = 0; j < CHANNELS; ++j) sums[i][j] = Vector{};
        for (int i = 0; i < STRIP; ++i)
            for (int j = 0; j < CHANNELS; ++j) rest[i][j] = 0;
        const float* weights = w;
        for (index_t r = 0; r < runs.number; ++r) {
            const float* from[STRIP];
#pragma GCC unroll 8
            for (int i = 0; i < STRIP; ++i)
                from[i] = x + s.places[first + least(i, strip - 1)] + runs.offsets[r];
            const index_t length = runs.lengths[r], whole = length / WIDTH * WIDTH;
#pragma GCC unroll 1
            for (index_t k = 0; k < whole; k += WIDTH) {
                Vector factors[CHANNELS];
#pragma GCC unroll 4
                for (int j = 0; j < CHANNELS; ++j) factors[j] = load(weights + j * s.depth + k);
#pragma GCC unroll 8
                for (int i = 0; i < STRIP; ++i) {
                    const Vector numbers = load(from[i] + k);
#pragma GCC unroll 4
                    for (int j = 0; j < CHANNELS; ++j) sums[i][j] += numbers * factors[j];
                }
            }
#pragma GCC unroll 1
            for (index_t k = whole; k < length; ++k)
#pragma GCC unroll 1
                for (int i = 0; i < STRIP; ++i)
                    for (int j = 0; j < CHANNELS; ++j)
                        rest[i][j] += from[i][k] * weights[j * s.depth + k];
            weights += length;
        }
#pragma GCC unroll 8
        for (int i = 0; i < STRIP; ++i)
#pragma GCC unroll 4
            for (int j = 0; j < CHANNELS; ++j) rest[i][j] += total<WIDTH>(sums[i][j]);
#pragma GCC unroll 1
        for (index_t i = 0; i < strip; ++i)
            for (int j = 0; j < CHANNELS; ++j) y[s.ends[first + i] + j] = rest[i][j];
    }
}

// Write rows of weights, one channel after the other.
static void pack_few(index_t begin, index_t end, const float* w, const index_t* rows, index_t depth,
                     index_t step, index_t channels, float* to) {
    for (index_t j = 0; j < channels; ++j, to += depth)
        for (index_t k = begin; k < end; ++k) to[k] = w[rows[k] + j * step];
}

// Write the sums of the windows of some blocks, to few channels.
static void convolve_few(const Piece& piece, const Sweep* sweep, const float* x,
                         const float* weights, float* y, float* memory, index_t room) {
    const Sweep& s = *sweep;
    float* scratch = memory + piece.worker * room;
    for (index_t number = piece.begin; number < piece.end; ++number) {
        Block block = block_of(s, number);
        see(s, block, x, scratch);
        float* out = y + block.first * s.out_example + block.position * s.out_position;
        for (index_t group = 0; group < s.groups; ++group)
            for (index_t channel = 0; channel < s.outputs; channel += FEW) {
                const float* from = block.x + group * s.inner;
                const float* w = weights + (group * s.outputs + channel) * s.depth;
                float* to = out + group * s.outputs + channel;
                switch (least(s.outputs - channel, FEW)) {
                    case 1: sum_dots<1>(s, from, block.windows, w, to); break;
                    case 2: sum_dots<2>(s, from, block.windows, w, to); break;
                    case 3: sum_dots<3>(s, from, block.windows, w, to); break;
                    case 4: sum_dots<4>(s, from, block.windows, w, to); break;
                }
            }
    }
}

// --- the cotangent of the weights ----------------------------------------------------------------

// Sums over a tile of windows of ROWS numbers that each sees side by side, times cotangents.
template <int VECTORS, int ROWS>
static void add_rows(const float* x, const index_t* places, index_t windows, const float* g,
                     float* w, index_t step, index_t channels, bool add) {
    Vector sums[ROWS][VECTORS];
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j) sums[i][j] = Vector{};
#pragma GCC unroll 1
    for (index_t p = 0; p < windows; ++p, g += VECTORS * WIDTH) {
        const float* from = x + places[p];
        Vector cotangents[VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j) cotangents[j] = *(const Vector*)(g + j * WIDTH);
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; ++i) {
            const float number = from[i];
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; ++j) sums[i][j] += number * cotangents[j];
        }
    }
    Vector result[ROWS][VECTORS];
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j) result[i][j] = sums[i][j];
#pragma GCC unroll 1
    for (int i = 0; i < ROWS; ++i) put<VECTORS>(w + i * step, result[i], channels, add);
}

// As above, of all the numbers of a run: strips of the most rows, and smaller ones for the rest.
template <int VECTORS>
static void add_run(const float* x, const index_t* places, index_t windows, const float* g,
                    index_t length, float* w, index_t step, index_t channels, bool add) {
    constexpr int MOST = strip_of(VECTORS), HALF = MOST / 2;
    for (index_t left = length; left > 0;) {
        const int rows = left >= MOST ? MOST : left >= HALF ? HALF : left >= 2 ? 2 : 1;
        if (rows == MOST)
            add_rows<VECTORS, MOST>(x, places, windows, g, w, step, channels, add);
        else if (rows == HALF)
            add_rows<VECTORS, HALF>(x, places, windows, g, w, step, channels, add);
        else if (rows == 2)
            add_rows<VECTORS, 2>(x, places, windows, g, w, step, channels, add);
        else
            add_rows<VECTORS, 1>(x, places, windows, g, w, step, channels, add);
        left -= rows, x += rows, w += rows * step;
    }
}

// Add the products of what the windows of some blocks see with their cotangents to a kernel's.
static void add_products(const Sweep* sweep, index_t begin, index_t end, index_t first_part,
                         index_t last_part, const float* x, const float* g, float* w,
                         float* scratch, float* tile) {
    const Sweep& s = *sweep;
    const Channels all(s.outputs);
    const index_t step = s.groups * s.outputs;
    for (index_t number = begin; number < end; ++number) {
        Block block = block_of(s, number);
        see(s, block, x, scratch);
        const float* cotangents = g + block.first * s.out_example + block.position * s.out_position;
        // Tiles as equal as they can be: each reads and writes all sums.
        const index_t tiles = (block.windows + TILE - 1) / TILE;
        for (index_t t = 0; t < tiles; ++t) {
            const index_t start = t * block.windows / tiles;
            const index_t windows = (t + 1) * block.windows / tiles - start;
            const bool add = number > begin || t > 0;
            for (index_t part = first_part; part < last_part; ++part) {
                const index_t group = part / all.blocks, b = part % all.blocks;
                const index_t first = all.first(b), vectors = all.first(b + 1) - first;
                const index_t at = group * s.outputs + first * WIDTH, wide = vectors * WIDTH;
                const index_t whole = least(s.outputs - first * WIDTH, wide);
                for (index_t p = 0; p < windows; ++p) {
                    const float* from = cotangents + s.ends[start + p] + at;
                    for (index_t j = 0; j < whole; ++j) tile[p * wide + j] = from[j];
                    for (index_t j = whole; j < wide; ++j) tile[p * wide + j] = 0;
                }
                float* to = w + at;
                for (index_t r = 0; r < s.chunks[s.number_of_chunks]; ++r) {
                    const float* from = block.x + group * s.inner + s.offsets[r];
                    const index_t* places = s.places + start;
                    const index_t length = s.lengths[r];
                    with_vectors(vectors, [&](auto wide) {
                        add_run<wide.vectors>(from, places, windows, tile, length, to, step, whole,
                                              add);
                    });
                    to += length * step;
                }
            }
        }
    }
}

// How the work is cut: so many blocks into chunks with sums of their own, parts of channels into cuts.
struct Cuts {
    index_t blocks, chunks, parts, cuts;
};

// The sums, of so many floats, of one chunk for one cut; a worker's room ends with that for a tile.
static void correlate(const Piece& piece, const Sweep* sweep, const Cuts* given, index_t size,
                      const float* x, const float* g, float* sums, float* memory, index_t room) {
    const Cuts& c = *given;
    const index_t chunk = piece.number / c.cuts, cut = piece.number % c.cuts;
    float* scratch = memory + piece.worker * room;
    add_products(sweep, chunk * c.blocks / c.chunks, (chunk + 1) * c.blocks / c.chunks,
                 cut * c.parts / c.cuts, (cut + 1) * c.parts / c.cuts, x, g, sums + chunk * size,
                 scratch, scratch + room - TILE * WIDEST * WIDTH);
}

// A range of the sum of so many arrays of one size, in their order.
static void add_up(index_t begin, index_t end, index_t number, index_t size, const float* from,
                   float* to) {
    for (index_t n = 0; n < number; ++n, from += size) {
#pragma omp simd
        for (index_t i = begin; i < end; ++i) to[i] = n ? to[i] + from[i] : from[i];
    }
}

static void clear(index_t begin, index_t end, float* to) {
    __builtin_memset(to + begin, 0, (end - begin) * sizeof(float));
}

SHARED(add_up)
SHARED(clear)
SHARED(pack)
SHARED(pack_few)
SHARED(convolve)
SHARED(convolve_few)
SHARED(correlate)
