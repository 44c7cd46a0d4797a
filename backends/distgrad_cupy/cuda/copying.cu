// Many arrays copied by one launch: a line of the grid for each, its addresses passed by value.

struct Copies {
    const void* source[120];
    void* target[120];
    long long bytes[120];
};

// By words of 8 bytes, which arrays of an allocator's own begin at; by bytes where one does not.
extern "C" __global__ void copy_arrays(Copies copies) {
    const char* source = (const char*)copies.source[blockIdx.y];
    char* target = (char*)copies.target[blockIdx.y];
    const long long bytes = copies.bytes[blockIdx.y];
    const long long first = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    const long long step = gridDim.x * (long long)blockDim.x;
    const bool aligned = ((unsigned long long)source | (unsigned long long)target) % 8 == 0;
    const long long words = aligned ? bytes / 8 : 0;
    for (long long i = first; i < words; i += step)
        ((unsigned long long*)target)[i] = ((const unsigned long long*)source)[i];
    for (long long i = words * 8 + first; i < bytes; i += step) target[i] = source[i];
}
