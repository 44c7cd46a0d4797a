// Softmax and cross-entropy over the rows of a matrix: a block for each row.
//
// Rows are held in registers as far as they fit; longer ones are read once for each sum.

__device__ inline A greatest_of_row(const T* x, long long width, A* partial) {
    A top = (A)x[0];
    for (long long k = threadIdx.x; k < width; k += blockDim.x) top = Greatest::of(top, (A)x[k]);
    return over_block<Greatest>(top, partial);
}

__device__ inline A sum_of_powers(const T* x, long long width, A top, A* partial) {
    A sum = 0;
    for (long long k = threadIdx.x; k < width; k += blockDim.x) sum += exp((A)x[k] - top);
    return over_block<Sum>(sum, partial);
}

__device__ inline A greatest_held(const A (&held)[HELD], int width, bool wide, A* partial) {
    A top = (A)(-1e300 * 1e300);
    each_held(width, wide, [&](int j, int) { top = Greatest::of(top, held[j]); });
    return over_block<Greatest>(top, partial);
}

__device__ inline A sum_of_powers_held(
    const A (&held)[HELD], int width, bool wide, A top, A* partial
) {
    A sum = 0;
    each_held(width, wide, [&](int j, int) { sum += exp(held[j] - top); });
    return over_block<Sum>(sum, partial);
}

// Infinities are the result themselves where the logarithm of a sum is taken off.
__device__ inline A finite_or_zero(A top) {
    return top - top == 0 ? top : (A)0;
}

extern "C" __global__ void softmax(const T* x, T* y, long long rows, long long width) {
    __shared__ A partial[32];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const T* own = x + row * width;
        T* result = y + row * width;
        if (is_held(width)) {
            const bool wide = are_wide(width, x, y, 0);
            A held[HELD], sum = 0;
            load_held(own, width, wide, held);
            const A top = greatest_held(held, width, wide, partial);
            each_held(width, wide, [&](int j, int) { sum += held[j] = exp(held[j] - top); });
            sum = over_block<Sum>(sum, partial);
            each_held(width, wide, [&](int j, int) { held[j] /= sum; });
            store_held(result, width, wide, held);
            continue;
        }
        const A top = greatest_of_row(own, width, partial);
        const A sum = sum_of_powers(own, width, top, partial);
        for (long long k = threadIdx.x; k < width; k += blockDim.x)
            result[k] = (T)(exp((A)own[k] - top) / sum);
    }
}

extern "C" __global__ void log_softmax(const T* x, T* y, long long rows, long long width) {
    __shared__ A partial[32];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const T* own = x + row * width;
        T* result = y + row * width;
        if (is_held(width)) {
            const bool wide = are_wide(width, x, y, 0);
            A held[HELD];
            load_held(own, width, wide, held);
            const A top = finite_or_zero(greatest_held(held, width, wide, partial));
            const A sum = log(sum_of_powers_held(held, width, wide, top, partial));
            each_held(width, wide, [&](int j, int) { held[j] = (held[j] - top) - sum; });
            store_held(result, width, wide, held);
            continue;
        }
        const A top = finite_or_zero(greatest_of_row(own, width, partial));
        const A sum = log(sum_of_powers(own, width, top, partial));
        for (long long k = threadIdx.x; k < width; k += blockDim.x)
            result[k] = (T)(((A)own[k] - top) - sum);
    }
}

// y (g - sum(g y)), where y is a softmax.
extern "C" __global__ void softmax_vjp(
    const T* g, const T* y, T* result, long long rows, long long width
) {
    __shared__ A partial[32];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const T* cotangent = g + row * width;
        const T* weight = y + row * width;
        A sum = 0;
        if (is_held(width)) {
            const bool wide = are_wide(width, g, y, result);
            A given[HELD], weights[HELD];
            load_held(cotangent, width, wide, given);
            load_held(weight, width, wide, weights);
            each_held(width, wide, [&](int j, int) { sum += given[j] * weights[j]; });
            sum = over_block<Sum>(sum, partial);
            each_held(width, wide, [&](int j, int) { given[j] = weights[j] * (given[j] - sum); });
            store_held(result + row * width, width, wide, given);
            continue;
        }
        for (long long k = threadIdx.x; k < width; k += blockDim.x)
            sum += (A)cotangent[k] * (A)weight[k];
        sum = over_block<Sum>(sum, partial);
        for (long long k = threadIdx.x; k < width; k += blockDim.x)
            result[row * width + k] = (T)((A)weight[k] * ((A)cotangent[k] - sum));
    }
}

// The logarithm of the sum of a row's exponentials, less the logit at its label; NaN for a label
// that is no class, as a device cannot raise.
extern "C" __global__ void label_cross_entropy(
    const T* x, const long long* labels, T* loss, long long rows, long long width
) {
    __shared__ A partial[32];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const T* own = x + row * width;
        A top, sum;
        if (is_held(width)) {
            const bool wide = are_wide(width, x, 0, 0);
            A held[HELD];
            load_held(own, width, wide, held);
            top = finite_or_zero(greatest_held(held, width, wide, partial));
            sum = log(sum_of_powers_held(held, width, wide, top, partial));
        } else {
            top = finite_or_zero(greatest_of_row(own, width, partial));
            sum = log(sum_of_powers(own, width, top, partial));
        }
        const long long label = labels[row];
        const bool is_class = label >= 0 && label < width;
        if (threadIdx.x == 0)
            loss[row] = (T)(is_class ? sum - ((A)own[label] - top) : (A)(1e300 * 1e300 * 0));
    }
}

// g times the softmax less 1 at the label.
extern "C" __global__ void label_cross_entropy_vjp(
    const T* g, const T* x, const long long* labels, T* result, long long rows, long long width
) {
    __shared__ A partial[32];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const T* own = x + row * width;
        const A factor = (A)g[row];
        const long long label = labels[row];
        if (is_held(width)) {
            const bool wide = are_wide(width, x, result, 0);
            A held[HELD], sum = 0;
            load_held(own, width, wide, held);
            const A top = greatest_held(held, width, wide, partial);
            each_held(width, wide, [&](int j, int) { sum += held[j] = exp(held[j] - top); });
            sum = over_block<Sum>(sum, partial);
            each_held(width, wide, [&](int j, int k) {
                held[j] = factor * (held[j] / sum - (A)(label == k ? 1 : 0));
            });
            store_held(result + row * width, width, wide, held);
            continue;
        }
        const A top = greatest_of_row(own, width, partial);
        const A sum = sum_of_powers(own, width, top, partial);
        for (long long k = threadIdx.x; k < width; k += blockDim.x)
            result[row * width + k] =
                (T)(factor * (exp((A)own[k] - top) / sum - (A)(label == k ? 1 : 0)));
    }
}
