// Random numbers from Philox4x64-10, bit for bit those of distgrad/backend/philox.py.
//
// A thread computes one block of four words, for one stream, and writes what of it is asked for.
// Compiled without fused multiply-add: each step is rounded by itself, as on the host.

typedef unsigned long long Word;

struct Block {
    Word words[4];
};

__device__ inline Block philox_of(
    const Word* key, Word x0, Word x1, Word x2, Word x3
) {
    Word low = key[0], high = key[1];
    // The constants of Philox4x64, from table 2 of the reference named in philox.py.
    for (int round = 0; round < 10; ++round) {
        const Word high0 = __umul64hi(x0, 0xD2E7470EE14C6C93ull);
        const Word low0 = x0 * 0xD2E7470EE14C6C93ull;
        const Word high1 = __umul64hi(x2, 0xCA5A826395121157ull);
        const Word low1 = x2 * 0xCA5A826395121157ull;
        x0 = high1 ^ x1 ^ low;
        x1 = low1;
        x2 = high0 ^ x3 ^ high;
        x3 = low0;
        low += 0x9E3779B97F4A7C15ull;
        high += 0xBB67AE8584CAA73Bull;
    }
    return Block{{x0, x1, x2, x3}};
}

__device__ inline Block philox(const Word* stream, Word block, Word part) {
    return philox_of(stream, block, stream[2], part, 0);
}

// New streams made of streams: by an index of each (`domain` 1 of philox.py, which looks at keys
// only), or so many of each (`domain` 2; `indices` is null).
extern "C" __global__ void new_streams(
    const Word* streams, const Word* indices, Word* out, long long count, long long each, int domain
) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count;
         i += gridDim.x * (long long)blockDim.x) {
        const Word* own = streams + 3 * (indices ? i : i / each);
        const Word index = indices ? indices[i] : (Word)(i % each);
        const Block found = philox_of(own, index, indices ? 0 : own[2], 0, (Word)domain);
        out[3 * i] = found.words[0];
        out[3 * i + 1] = found.words[1];
        out[3 * i + 2] = 0;
    }
}

// Give each number of each stream to `write(block, place in the block, place in the output)`;
// there are `per` numbers in a block.
template <class Write>
__device__ void for_each_number(
    const Word* streams, long long lead, long long start, long long count, int per, Write write
) {
    const long long first = start / per;
    const long long blocks = count ? (start + count - 1) / per - first + 1 : 0;
    const long long stride = gridDim.x * (long long)blockDim.x;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < lead * blocks;
         i += stride) {
        const long long own = i / blocks, block = first + i % blocks;
        const Block found = philox(streams + 3 * own, (Word)block, 0);
        for (int k = 0; k < per; ++k) {
            const long long place = block * per + k - start;
            if (place >= 0 && place < count) write(found, k, own * count + place);
        }
    }
}

// Two words of 32 bits are one of 64, its lower half first.
__device__ inline unsigned int half_word(const Block& block, int k) {
    return (unsigned int)(block.words[k / 2] >> (32 * (k % 2)));
}

extern "C" __global__ void bits64(
    const Word* streams, Word* out, long long lead, long long start, long long count
) {
    for_each_number(streams, lead, start, count, 4, [=](const Block& block, int k, long long at) {
        out[at] = block.words[k];
    });
}

extern "C" __global__ void bits32(
    const Word* streams, unsigned int* out, long long lead, long long start, long long count
) {
    for_each_number(streams, lead, start, count, 8, [=](const Block& block, int k, long long at) {
        out[at] = half_word(block, k);
    });
}

// The upper bits of a word, as many as the digits of T, over 2 to that power; then, if
// `is_scaled`, in [low, low + span), `top` being the greatest number below its end.
extern "C" __global__ void uniform(
    const Word* streams, T* out, long long lead, long long start, long long count,
    int is_scaled, T low, T span, T top
) {
    const int per = sizeof(T) == 8 ? 4 : 8;
    for_each_number(streams, lead, start, count, per, [=](const Block& block, int k, long long at) {
        T value = sizeof(T) == 8 ? (T)((double)(block.words[k % 4] >> 11) * 0x1p-53)
                                 : (T)((float)(half_word(block, k) >> 8) * 0x1p-24f);
        if (is_scaled) {
            value = value * span;
            value = value + low;
            if (span > 0 && value > top) value = top;
        }
        out[at] = value;
    });
}

// Box and Muller's transform: the radius comes from an even word, the angle from the odd one.
extern "C" __global__ void normal(
    const Word* streams, T* out, long long lead, long long start, long long count
) {
    const bool wide = sizeof(T) == 8;
    for_each_number(
        streams, lead, start, count, wide ? 4 : 8, [=](const Block& block, int k, long long at) {
            const int even = k - k % 2;
            T radius, angle;
            if (wide) {
                radius = (T)block.words[even % 4] * (T)0x1p-64 + (T)0x1p-65;
                angle = (T)(block.words[(even + 1) % 4] >> 11) * (T)(6.283185307179586 * 0x1p-53);
            } else {
                radius = (T)half_word(block, even) * (T)0x1p-32 + (T)0x1p-33;
                angle = (T)(half_word(block, even + 1) >> 8) * (T)(6.283185307179586 * 0x1p-24);
            }
            radius = sqrt(fabs(log(radius) * (T)-2));
            out[at] = radius * (k % 2 ? sin(angle) : cos(angle));
        });
}

extern "C" __global__ void bernoulli(
    const Word* streams, bool* out, long long lead, long long start, long long count,
    Word threshold
) {
    for_each_number(streams, lead, start, count, 8, [=](const Block& block, int k, long long at) {
        out[at] = half_word(block, k) < threshold;
    });
}

// low + floor(w span / 2^64) modulo 2^64; a span of 0 stands for 2^64.
extern "C" __global__ void integers(
    const Word* streams, Word* out, long long lead, long long start, long long count, Word low,
    Word span
) {
    for_each_number(streams, lead, start, count, 4, [=](const Block& block, int k, long long at) {
        out[at] = (span ? __umul64hi(block.words[k], span) : block.words[k]) + low;
    });
}
