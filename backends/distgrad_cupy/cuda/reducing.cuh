// Reductions over the threads of a block, in an order that never changes.
//
// Whoever includes this says with `T` how elements are stored and with `A` in what they are added.

struct Sum {
    static __device__ A of(A a, A b) { return a + b; }
};

struct Greatest {
    // NaN stays NaN, which fmax would lose.
    static __device__ A of(A a, A b) { return (a >= b || a != a) ? a : b; }
};

// Return to every thread the reduction of all threads' values. The block has whole warps, all of
// whose threads call this; `partial` is shared memory for a value of each warp.
template <class Operation>
__device__ A over_block(A value, A* partial) {
    for (int distance = 16; distance > 0; distance /= 2)
        value = Operation::of(value, __shfl_xor_sync(0xffffffffu, value, distance));
    __syncthreads();  // an earlier reduction's values may still be read
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    A total = partial[0];
    for (unsigned int warp = 1; warp < blockDim.x / 32; ++warp)
        total = Operation::of(total, partial[warp]);
    return total;
}
