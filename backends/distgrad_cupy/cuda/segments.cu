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

// Where the run of equal positions ends that begins at `place`: found in steps that double, then by
// halves. To ask at each element whether the run goes on would wait for memory each time.
__device__ inline long long end_of_run(
    const long long* positions, const long long* order, long long count, long long place
) {
    const long long position = positions[order[place]];
    long long inside = place, step = 1;
    while (place + step < count && positions[order[place + step]] == position) {
        inside = place + step;
        step *= 2;
    }
    long long outside = place + step < count ? place + step : count;
    while (outside - inside > 1) {
        const long long middle = inside + (outside - inside) / 2;
        if (positions[order[middle]] == position) inside = middle;
        else outside = middle;
    }
    return outside;
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
        const long long end = end_of_run(positions, order, count, place);
#pragma unroll 8  // so many loads under way; they are added up in their order
        for (long long k = place; k < end; ++k) sum += (A)values[order[k] * width + column];
        *target = (T)sum;
    }
}
