// Layer norm and RMS norm over the rows of a matrix: a block for each row, its sums in two passes.
//
// `centred` tells layer norm (1) from RMS norm (0). Null stands for a scale or shift that is not
// there. Pullbacks compute the moments again, and leave them for the sums over columns.

__device__ inline A mean_of_row(const T* x, long long width, int centred, A* partial) {
    if (!centred) return 0;
    A sum = 0;
    for (long long k = threadIdx.x; k < width; k += blockDim.x) sum += (A)x[k];
    return over_block<Sum>(sum, partial) / width;
}

__device__ inline A inverse_deviation(
    const T* x, long long width, A mean, double epsilon, A* partial
) {
    A squares = 0;
    for (long long k = threadIdx.x; k < width; k += blockDim.x) {
        const A deviation = (A)x[k] - mean;
        squares += deviation * deviation;
    }
    return 1 / sqrt(over_block<Sum>(squares, partial) / width + (A)epsilon);
}

extern "C" __global__ void row_norm(
    const T* x, const T* scale, const T* shift, T* y,
    long long rows, long long width, int centred, double epsilon
) {
    __shared__ A partial[32];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const T* own = x + row * width;
        const A mean = mean_of_row(own, width, centred, partial);
        const A inverse = inverse_deviation(own, width, mean, epsilon, partial);
        for (long long k = threadIdx.x; k < width; k += blockDim.x) {
            A value = ((A)own[k] - mean) * inverse;
            if (scale) value *= (A)scale[k];
            if (shift) value += (A)shift[k];
            y[row * width + k] = (T)value;
        }
    }
}

// With h the standardized row and k = g scale: inverse (k - mean(k) - h mean(k h)).
extern "C" __global__ void row_norm_vjp(
    const T* g, const T* x, const T* scale, T* result, A* means, A* inverses,
    long long rows, long long width, int centred, double epsilon
) {
    __shared__ A partial[32];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const T* own = x + row * width;
        const T* cotangent = g + row * width;
        const A mean = mean_of_row(own, width, centred, partial);
        const A inverse = inverse_deviation(own, width, mean, epsilon, partial);
        A sum = 0, along = 0;
        for (long long k = threadIdx.x; k < width; k += blockDim.x) {
            const A scaled = scale ? (A)cotangent[k] * (A)scale[k] : (A)cotangent[k];
            sum += scaled;
            along += scaled * (((A)own[k] - mean) * inverse);
        }
        sum = centred ? over_block<Sum>(sum, partial) / width : (A)0;
        along = over_block<Sum>(along, partial) / width;
        for (long long k = threadIdx.x; k < width; k += blockDim.x) {
            const A scaled = scale ? (A)cotangent[k] * (A)scale[k] : (A)cotangent[k];
            const A standard = ((A)own[k] - mean) * inverse;
            result[row * width + k] = (T)(inverse * (scaled - sum - standard * along));
        }
        if (threadIdx.x == 0) {
            means[row] = mean;
            inverses[row] = inverse;
        }
    }
}

// Sums of g h and of g over some rows, for each column: the cotangents of scale and shift, in
// parts of `length` rows each that are added up afterwards.
extern "C" __global__ void norm_columns(
    const T* g, const T* x, const A* means, const A* inverses, A* to_scale, A* to_shift,
    long long rows, long long width, long long length
) {
    const long long column = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (column >= width) return;
    const long long part = blockIdx.y;
    const long long end = (part + 1) * length < rows ? (part + 1) * length : rows;
    A scaled = 0, plain = 0;
    for (long long row = part * length; row < end; ++row) {
        const A cotangent = (A)g[row * width + column];
        scaled += cotangent * (((A)x[row * width + column] - means[row]) * inverses[row]);
        plain += cotangent;
    }
    to_scale[part * width + column] = scaled;
    to_shift[part * width + column] = plain;
}
