// Rows added up by where they belong, in the order in which they came: no atomics, the same sums
// each time. A thread for each column of each run of equal positions.

// The places of positions in their stable order, by counting how many come before each: for as many
// as a block's threads can look at one after the other. Sorting would wait for the device.
extern "C" __global__ void order_of_positions(
    const long long* positions, long long* order, long long count
) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count;
         i += gridDim.x * (long long)blockDim.x) {
        const long long own = positions[i];
        long long before = 0;
        for (long long k = 0; k < i; ++k) before += positions[k] <= own;
        for (long long k = i + 1; k < count; ++k) before += positions[k] < own;
        order[before] = i;
    }
}

// Onto what stands in the result, or in place of it.
extern "C" __global__ void add_runs(
    const T* values, const long long* positions, const long long* order, T* result,
    long long count, long long rows, long long width, int onto
) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count * width;
         i += gridDim.x * (long long)blockDim.x) {
        const long long place = i / width, column = i % width;
        const long long position = positions[order[place]];
        // Only the first of a run adds it up.
        if (place > 0 && positions[order[place - 1]] == position) continue;
        if (position < 0 || position >= rows) continue;
        T* target = result + position * width + column;
        A sum = onto ? (A)*target : (A)0;
        for (long long k = place; k < count && positions[order[k]] == position; ++k)
            sum += (A)values[order[k] * width + column];
        *target = (T)sum;
    }
}
