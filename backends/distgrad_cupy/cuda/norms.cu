// Layer norm and RMS norm over the rows of a matrix: a block for each row, its sums in two passes,
// over registers as far as a row fits into them.
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

// The mean of a row that is held, and one over its deviation.
__device__ inline void moments_held(
    const A (&held)[HELD], int width, bool wide, int centred, double epsilon, A* partial, A& mean,
    A& inverse
) {
    A sum = 0, squares = 0;
    if (centred) each_held(width, wide, [&](int j, int) { sum += held[j]; });
    mean = centred ? over_block<Sum>(sum, partial) / width : (A)0;
    each_held(width, wide, [&](int j, int) {
        const A deviation = held[j] - mean;
        squares += deviation * deviation;
    });
    inverse = 1 / sqrt(over_block<Sum>(squares, partial) / width + (A)epsilon);
}

extern "C" __global__ void row_norm(
    const T* x, const T* scale, const T* shift, T* y,
    long long rows, long long width, int centred, double epsilon
) {
    __shared__ A partial[32];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const T* own = x + row * width;
        if (is_held(width)) {
            const bool wide = are_wide(width, x, y, 0);
            A held[HELD], mean, inverse;
            load_held(own, width, wide, held);
            moments_held(held, width, wide, centred, epsilon, partial, mean, inverse);
            each_held(width, wide, [&](int j, int k) {
                A value = (held[j] - mean) * inverse;
                if (scale) value *= (A)scale[k];
                if (shift) value += (A)shift[k];
                held[j] = value;
            });
            store_held(y + row * width, width, wide, held);
            continue;
        }
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
        A mean, inverse, sum = 0, along = 0;
        if (is_held(width)) {
            const bool wide = are_wide(width, g, x, result);
            A held[HELD], scaled[HELD];
            load_held(own, width, wide, held);
            load_held(cotangent, width, wide, scaled);
            moments_held(held, width, wide, centred, epsilon, partial, mean, inverse);
            each_held(width, wide, [&](int j, int k) {
                if (scale) scaled[j] *= (A)scale[k];
                held[j] = (held[j] - mean) * inverse;
                sum += scaled[j];
                along += scaled[j] * held[j];
            });
            sum = centred ? over_block<Sum>(sum, partial) / width : (A)0;
            along = over_block<Sum>(along, partial) / width;
            each_held(width, wide, [&](int j, int) {
                held[j] = inverse * (scaled[j] - sum - held[j] * along);
            });
            store_held(result + row * width, width, wide, held);
            if (threadIdx.x == 0) {
                means[row] = mean;
                inverses[row] = inverse;
            }
            continue;
        }
        mean = mean_of_row(own, width, centred, partial);
        inverse = inverse_deviation(own, width, mean, epsilon, partial);
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
