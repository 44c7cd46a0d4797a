// Random numbers from Philox4x64-10, bit for bit those of distgrad/backend/philox.py.
//
// A thread computes one block of four words, for one stream, and writes what of it is asked for.
// Compiled without fused multiply-add: each step is rounded by itself, as on the host.

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

// So many numbers of a block, stored at once.
template <class Number, int PER>
struct Several {
    static const int BYTES = PER * sizeof(Number) < 16 ? PER * sizeof(Number) : 16;
    static const int EACH = BYTES / sizeof(Number);
    struct alignas(BYTES) Store {
        Number at[EACH];
    };
};

// Write what `make(block, place in the block)` gives for each number of each stream; there are `PER`
// in a block. A block all of whose numbers are wanted is stored 16 bytes at a time: threads of a warp
// write to places that are far apart.
template <int PER, class Number, class Make>
__device__ void for_each_number(
    const Word* streams, Number* out, long long lead, long long start, long long count, Make make
) {
    typedef Several<Number, PER> Wide;
    const long long first = start / PER;
    const long long blocks = count ? (start + count - 1) / PER - first + 1 : 0;
    const long long stride = gridDim.x * (long long)blockDim.x;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < lead * blocks;
         i += stride) {
        const long long own = i / blocks, block = first + i % blocks;
        const Block found = philox(streams + 3 * own, (Word)block, 0);
        const long long place = block * PER - start;
        Number* target = out + own * count + place;
        if (place >= 0 && place + PER <= count && (unsigned long long)target % Wide::BYTES == 0) {
#pragma unroll
            for (int store = 0; store < PER / Wide::EACH; ++store) {
                typename Wide::Store made;
#pragma unroll
                for (int k = 0; k < Wide::EACH; ++k) made.at[k] = make(found, store * Wide::EACH + k);
                *(typename Wide::Store*)(target + store * Wide::EACH) = made;
            }
        } else {
            for (int k = 0; k < PER; ++k)
                if (place + k >= 0 && place + k < count) target[k] = make(found, k);
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
    for_each_number<4>(streams, out, lead, start, count, [=](const Block& block, int k) {
        return block.words[k];
    });
}

extern "C" __global__ void bits32(
    const Word* streams, unsigned int* out, long long lead, long long start, long long count
) {
    for_each_number<8>(streams, out, lead, start, count, [=](const Block& block, int k) {
        return half_word(block, k);
    });
}

// How many numbers of T one block has.
const int NUMBERS = sizeof(T) == 8 ? 4 : 8;

// The upper bits of a word, as many as the digits of T, over 2 to that power; then, if
// `is_scaled`, in [low, low + span), `top` being the greatest number below its end.
extern "C" __global__ void uniform(
    const Word* streams, T* out, long long lead, long long start, long long count,
    int is_scaled, T low, T span, T top
) {
    for_each_number<NUMBERS>(streams, out, lead, start, count, [=](const Block& block, int k) {
        T value = sizeof(T) == 8 ? (T)((double)(block.words[k % 4] >> 11) * 0x1p-53)
                                 : (T)((float)(half_word(block, k) >> 8) * 0x1p-24f);
        if (is_scaled) {
            value = value * span;
            value = value + low;
            if (span > 0 && value > top) value = top;
        }
        return value;
    });
}

// Box and Muller's transform: the radius comes from an even word, the angle from the odd one.
extern "C" __global__ void normal(
    const Word* streams, T* out, long long lead, long long start, long long count
) {
    for_each_number<NUMBERS>(streams, out, lead, start, count, [=](const Block& block, int k) {
        const int even = k - k % 2;
        T radius, angle;
        if (sizeof(T) == 8) {
            radius = (T)block.words[even % 4] * (T)0x1p-64 + (T)0x1p-65;
            angle = (T)(block.words[(even + 1) % 4] >> 11) * (T)(6.283185307179586 * 0x1p-53);
        } else {
            radius = (T)half_word(block, even) * (T)0x1p-32 + (T)0x1p-33;
            angle = (T)(half_word(block, even + 1) >> 8) * (T)(6.283185307179586 * 0x1p-24);
        }
        radius = sqrt(fabs(log(radius) * (T)-2));
        return radius * (k % 2 ? sin(angle) : cos(angle));
    });
}

extern "C" __global__ void bernoulli(
    const Word* streams, bool* out, long long lead, long long start, long long count,
    Word threshold
) {
    for_each_number<8>(streams, out, lead, start, count, [=](const Block& block, int k) {
        return half_word(block, k) < threshold;
    });
}

// low + floor(w span / 2^64) modulo 2^64; a span of 0 stands for 2^64.
extern "C" __global__ void integers(
    const Word* streams, Word* out, long long lead, long long start, long long count, Word low,
    Word span
) {
    for_each_number<4>(streams, out, lead, start, count, [=](const Block& block, int k) {
        return (span ? __umul64hi(block.words[k], span) : block.words[k]) + low;
    });
}
