// Blocks of Philox4x64-10, bit for bit those of distgrad/backend/philox.py.

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
