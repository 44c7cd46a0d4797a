// Rows whose elements the threads of a block hold in registers: memory is read once, 16 bytes at a
// time where rows begin at multiples of that.
//
// Behind reducing.cuh, which says what `T` and `A` are.

const int WIDE = 16 / sizeof(T);  // elements of a load
const int HELD = 2 * WIDE;        // elements that a thread holds at most

struct alignas(16) Load {
    T at[WIDE];
};

// Whether the threads of this block hold a row.
__device__ inline bool is_held(long long width) {
    return width <= (long long)HELD * blockDim.x;
}

// Whether all rows of some arrays begin at multiples of 16 bytes.
__device__ inline bool are_wide(long long width, const void* a, const void* b, const void* c) {
    const unsigned long long joined =
        (unsigned long long)a | (unsigned long long)b | (unsigned long long)c;
    return width % WIDE == 0 && joined % 16 == 0;
}

// Call `use(j, k)` for each element k of a row that this thread holds as its j-th.
template <class Use>
__device__ __forceinline__ void each_held(int width, bool wide, Use use) {
#pragma unroll
    for (int j = 0; j < HELD; ++j) {
        const int first = threadIdx.x + j / WIDE * blockDim.x;
        const int k = wide ? first * WIDE + j % WIDE : (int)(threadIdx.x + j * blockDim.x);
        if (k < width) use(j, k);
    }
}

__device__ __forceinline__ void load_held(const T* row, int width, bool wide, A (&held)[HELD]) {
    if (!wide) {
        each_held(width, false, [&](int j, int k) { held[j] = (A)row[k]; });
        return;
    }
#pragma unroll
    for (int load = 0; load < HELD / WIDE; ++load) {
        const int k = (threadIdx.x + load * blockDim.x) * WIDE;
        if (k >= width) continue;
        const Load own = *(const Load*)(row + k);
#pragma unroll
        for (int j = 0; j < WIDE; ++j) held[load * WIDE + j] = (A)own.at[j];
    }
}

__device__ __forceinline__ void store_held(T* row, int width, bool wide, const A (&held)[HELD]) {
    if (!wide) {
        each_held(width, false, [&](int j, int k) { row[k] = (T)held[j]; });
        return;
    }
#pragma unroll
    for (int load = 0; load < HELD / WIDE; ++load) {
        const int k = (threadIdx.x + load * blockDim.x) * WIDE;
        if (k >= width) continue;
        Load own;
#pragma unroll
        for (int j = 0; j < WIDE; ++j) own.at[j] = (T)held[load * WIDE + j];
        *(Load*)(row + k) = own;
    }
}
