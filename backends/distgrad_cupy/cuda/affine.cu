// A bias onto rows that a product has written, and relu of the sums, in one pass: rounded once, and
// in place where the product is not wider than the result. Backwards, the mask of relu and the sums of
// columns, which are the bias' cotangent, in one pass, too.

const unsigned int WIDE = 16 / sizeof(T);  // elements of a load

template <class E>
struct alignas(16) Several {
    E at[WIDE];
};

__device__ __forceinline__ T with_bias(A y, A bias, bool rectified) {
    const A sum = y + bias;
    return (T)(!rectified || sum >= (A)0 || sum != sum ? sum : (A)0);  // NaN stays NaN
}

// `count` numbers in rows of `width`; null stands for no bias.
extern "C" __global__ void add_bias(
    const A* y, const T* bias, T* out, unsigned int count, unsigned int width, int rectified
) {
    const unsigned int first = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned int stride = gridDim.x * blockDim.x;
    const unsigned long long joined =
        (unsigned long long)y | (unsigned long long)bias | (unsigned long long)out;
    if (width % WIDE == 0 && joined % 16 == 0) {
        const unsigned int loads = count / WIDE, of_row = width / WIDE;
        for (unsigned int i = first; i < loads; i += stride) {
            const Several<A> sums = ((const Several<A>*)y)[i];
            Several<T> own, added;
            if (bias) added = ((const Several<T>*)bias)[i % of_row];
#pragma unroll
            for (int j = 0; j < WIDE; ++j)
                own.at[j] = with_bias(sums.at[j], bias ? (A)added.at[j] : (A)0, rectified);
            ((Several<T>*)out)[i] = own;
        }
        return;
    }
    for (unsigned int i = first; i < count; i += stride)
        out[i] = with_bias(y[i], bias ? (A)bias[i % width] : (A)0, rectified);
}

// --- cotangents ----------------------------------------------------------------------------------

const int THREADS = 256;
const int AT_ONCE = 8;   // rows that a thread has under way
const int JOINED = 32;   // columns whose parts a block joins

// Add up what the threads t, t + lanes, t + 2 lanes, ... of a block have, into that of t < lanes.
__device__ inline A sum_of_lane(A* shared, A own, int lanes) {
    shared[threadIdx.x] = own;
    __syncthreads();
    for (int half = THREADS / 2; half >= lanes; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    return shared[threadIdx.x % lanes];
}

// Sums of columns over `length` rows for each block, whose neighbours are `lanes` columns. Where y is
// not null a number counts only where y is above 0, and is written so. One part is all there is.
extern "C" __global__ void sum_columns(
    const T* g, const T* y, T* masked, A* parts, T* sums, long long rows, long long width,
    long long length, int lanes
) {
    __shared__ A shared[THREADS];
    const long long column = blockIdx.x * (long long)lanes + threadIdx.x % lanes;
    const long long begin = blockIdx.y * length, step = THREADS / lanes;
    const long long end = begin + length < rows ? begin + length : rows;
    A sum = 0;
    if (column < width)
        for (long long row = begin + threadIdx.x / lanes; row < end; row += step * AT_ONCE) {
            T own[AT_ONCE];
#pragma unroll
            for (int j = 0; j < AT_ONCE; ++j) {
                const long long at = (row + j * step) * width + column;
                const bool counts = row + j * step < end && (!y || (A)y[at] > (A)0);
                own[j] = counts ? g[at] : (T)0;
            }
#pragma unroll
            for (int j = 0; j < AT_ONCE; ++j) {
                sum += (A)own[j];
                if (y && row + j * step < end) masked[(row + j * step) * width + column] = own[j];
            }
        }
    sum = sum_of_lane(shared, sum, lanes);
    if (threadIdx.x >= lanes || column >= width) return;
    if (gridDim.y == 1) sums[column] = (T)sum;
    else parts[blockIdx.y * width + column] = sum;
}

extern "C" __global__ void join_columns(const A* parts, T* sums, long long width, int count) {
    __shared__ A shared[THREADS];
    const long long column = blockIdx.x * (long long)JOINED + threadIdx.x % JOINED;
    A sum = 0;
    if (column < width)
        for (int part = threadIdx.x / JOINED; part < count; part += THREADS / JOINED)
            sum += parts[part * width + column];
    sum = sum_of_lane(shared, sum, JOINED);
    if (threadIdx.x < JOINED && column < width) sums[column] = (T)sum;
}
