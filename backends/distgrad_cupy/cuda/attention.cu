// The rows of attention's scores between two products of matrices: a block for each row.
//
// A row belongs to a head and a query. Scores may lie where their weights go.

// Which of the scores count, and what is added to them; the mask's axes of length 1 have step 0.
struct Mask {
    const void* values;
    int kind;  // 0: none; 1: bool, true where a key is seen; 2: added to the scores
    long long lengths[4], steps[4], down, along;
    int causal;
    long long offset;
};

#define MASK                                                                                      \
    const void* mask, int kind, long long l0, long long l1, long long l2, long long l3,           \
        long long m0, long long m1, long long m2, long long m3, long long down, long long along,  \
        int causal, long long offset
#define MASK_OF_ARGUMENTS                                                                         \
    Mask{mask, kind, {l0, l1, l2, l3}, {m0, m1, m2, m3}, down, along, causal, offset}

// Where the mask's row of a head and a query begins.
__device__ inline long long mask_row(const Mask& mask, long long head, long long query) {
    long long place = query * mask.down;
    for (int axis = 3; axis >= 0; --axis) {
        place += head % mask.lengths[axis] * mask.steps[axis];
        head /= mask.lengths[axis];
    }
    return place;
}

__device__ inline bool is_seen(const Mask& mask, long long row, long long query, long long key) {
    if (mask.causal && key > query + mask.offset) return false;
    return mask.kind != 1 || ((const bool*)mask.values)[row + key * mask.along];
}

__device__ inline A masked(const Mask& mask, long long row, long long key, A score) {
    return mask.kind == 2 ? score + (A)((const T*)mask.values)[row + key * mask.along] : score;
}

// How many keys of a row a thread holds in registers at most; rows of more are read for each sum.
const int HELD = 8;

// Call `use(j, k)` for each key k that this thread holds as its j-th.
template <class Use>
__device__ __forceinline__ void each_held(int keys, Use use) {
#pragma unroll
    for (int j = 0; j < HELD; ++j) {
        const int k = threadIdx.x + j * blockDim.x;
        if (k < keys) use(j, k);
    }
}

// Softmax of each row of scores times the scale, 0 where a key is not seen, and the logarithm of
// its sum; both are 0 in a row that sees nothing. Null stands for logarithms that nobody reads.
extern "C" __global__ void attention_weights(
    const A* scores, T* weights, T* logarithms, long long rows, long long keys, long long head,
    long long queries, long long query, double scale, MASK
) {
    __shared__ A partial[32];
    const Mask own = MASK_OF_ARGUMENTS;
    const A lowest = (A)(-1e300 * 1e300);
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const A* score = scores + row * keys;
        const long long at = query + row % queries;
        const long long place = own.kind ? mask_row(own, head + row / queries, at) : 0;
        A top = lowest, any = 0;
        if (keys <= (long long)HELD * blockDim.x) {
            A held[HELD], sum = 0;
            unsigned int seen = 0;
            each_held(keys, [&](int j, int k) {
                held[j] = score[k] * (A)scale;
                if (!is_seen(own, place, at, k)) return;
                held[j] = masked(own, place, k, held[j]);
                seen |= 1u << j;
                top = Greatest::of(top, held[j]);
            });
            top = over_block<Greatest>(top, partial);
            any = over_block<Greatest>((A)(seen ? 1 : 0), partial);
            each_held(keys, [&](int j, int) {
                if (seen >> j & 1) sum += held[j] = exp(held[j] - top);
            });
            sum = over_block<Sum>(sum, partial);
            each_held(keys, [&](int j, int k) {
                weights[row * keys + k] = (T)(seen >> j & 1 ? held[j] / sum : (A)0);
            });
            if (logarithms && threadIdx.x == 0)
                logarithms[row] = (T)(any != 0 ? top + log(sum) : (A)0);
            continue;
        }
        for (long long k = threadIdx.x; k < keys; k += blockDim.x)
            if (is_seen(own, place, at, k)) {
                top = Greatest::of(top, masked(own, place, k, score[k] * (A)scale));
                any = 1;
            }
        top = over_block<Greatest>(top, partial);
        any = over_block<Greatest>(any, partial);
        A sum = 0;
        for (long long k = threadIdx.x; k < keys; k += blockDim.x)
            if (is_seen(own, place, at, k))
                sum += exp(masked(own, place, k, score[k] * (A)scale) - top);
        sum = over_block<Sum>(sum, partial);
        for (long long k = threadIdx.x; k < keys; k += blockDim.x) {
            A weight = 0;
            if (is_seen(own, place, at, k))
                weight = exp(masked(own, place, k, score[k] * (A)scale) - top) / sum;
            weights[row * keys + k] = (T)weight;
        }
        if (logarithms && threadIdx.x == 0)
            logarithms[row] = (T)(any != 0 ? top + log(sum) : (A)0);
    }
}

// factor weights (to_weights - sum(to_weights weights) + to_logarithm), into `to_scores`, which may
// be `to_weights` itself.
extern "C" __global__ void attention_scores_vjp(
    const A* to_weights, const T* weights, const T* to_logarithms, T* to_scores, long long rows,
    long long keys, double factor
) {
    __shared__ A partial[32];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const A* cotangent = to_weights + row * keys;
        const T* weight = weights + row * keys;
        A sum = 0;
        if (keys <= (long long)HELD * blockDim.x) {
            A given[HELD], own[HELD];
            each_held(keys, [&](int j, int k) {
                given[j] = cotangent[k];
                own[j] = (A)weight[k];
                sum += given[j] * own[j];
            });
            sum = over_block<Sum>(sum, partial) - (A)to_logarithms[row];
            each_held(keys, [&](int j, int k) {
                to_scores[row * keys + k] = (T)((A)factor * own[j] * (given[j] - sum));
            });
            continue;
        }
        for (long long k = threadIdx.x; k < keys; k += blockDim.x)
            sum += cotangent[k] * (A)weight[k];
        const A centre = over_block<Sum>(sum, partial) - (A)to_logarithms[row];
        for (long long k = threadIdx.x; k < keys; k += blockDim.x)
            to_scores[row * keys + k] =
                (T)((A)factor * (A)weight[k] * (cotangent[k] - centre));
    }
}
