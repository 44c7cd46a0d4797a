// Rows added up by where they belong, in the order in which they came: no atomics, the same sums
// each time. A thread for each column of each run of equal positions.

extern "C" __global__ void add_runs(
    const T* values, const long long* positions, const long long* order, T* result,
    long long count, long long rows, long long width
) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count * width;
         i += gridDim.x * (long long)blockDim.x) {
        const long long place = i / width, column = i % width;
        const long long position = positions[order[place]];
        // Only the first of a run adds it up.
        if (place > 0 && positions[order[place - 1]] == position) continue;
        if (position < 0 || position >= rows) continue;
        A sum = 0;
        for (long long k = place; k < count && positions[order[k]] == position; ++k)
            sum += (A)values[order[k] * width + column];
        result[position * width + column] = (T)sum;
    }
}
