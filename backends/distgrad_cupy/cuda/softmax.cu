// Softmax and cross-entropy over the rows of a matrix: a block for each row.

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

// Infinities are the result themselves where the logarithm of a sum is taken off.
__device__ inline A finite_or_zero(A top) {
    return top - top == 0 ? top : (A)0;
}

extern "C" __global__ void softmax(const T* x, T* y, long long rows, long long width) {
    __shared__ A partial[32];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const T* own = x + row * width;
        T* result = y + row * width;
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
        const A top = finite_or_zero(greatest_of_row(own, width, partial));
        const A sum = log(sum_of_powers(own, width, top, partial));
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
        const A top = greatest_of_row(own, width, partial);
        const A sum = sum_of_powers(own, width, top, partial);
        const A factor = (A)g[row];
        for (long long k = threadIdx.x; k < width; k += blockDim.x)
            result[row * width + k] =
                (T)(factor * (exp((A)own[k] - top) / sum - (A)(labels[row] == k ? 1 : 0)));
    }
}
