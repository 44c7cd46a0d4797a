// A bias onto rows that a product has written, and relu of the sums, in one pass: rounded once, and
// in place where the product is not wider than the result.

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
