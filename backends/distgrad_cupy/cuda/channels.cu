// Moments of channels, and what is normalized by them: batch norm, forwards and back.
//
// An array is `leads` times `outer` times `per` times `inner`, its channels are leads times per: those
// on the last axis have inner = 1, those before an image its size, and where each example has its own,
// such as groups of channels, there are as many leads as examples. A channel has n = outer * inner
// elements, which are gone through in parts, by blocks of THREADS whose neighbours are `lanes`
// channels; parts are joined in one order. Behind held.cuh.

const int THREADS = 256;
const int JOINING = 64;  // threads that join the parts of a channel
const int AT_ONCE = 8;   // elements that a thread has under way

struct Shape {
    long long channels, inner, n, per;

    // Where the p-th element of a channel lies.
    __device__ long long place(long long channel, long long p) const {
        const long long lead = per == channels ? 0 : channel / per, own = channel - lead * per;
        const long long first = lead * n * per;
        if (inner == 1) return first + p * per + own;
        // Quick where 32 bits suffice.
        const long long row = n <= 0x7fffffff ? (unsigned)p / (unsigned)inner : p / inner;
        return first + (row * per + own) * inner + (p - row * inner);
    }

    // The channel of the element at a place; that of its neighbours follows from `inner`.
    __device__ long long channel_at(long long place) const {
        if (n * channels <= 0x7fffffff) return channel_of<unsigned>(place);
        return channel_of<unsigned long long>(place);
    }

    template <class Whole> __device__ long long channel_of(Whole place) const {
        const Whole own = place / (Whole)inner % (Whole)per;
        return per == channels ? own : place / (Whole)(n * per) * (Whole)per + own;
    }
};

// How many elements were seen, their mean, and the sum of squared deviations from it.
struct Moments {
    A count, mean, squares;
};

// Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
// variances", 1979.
__device__ inline Moments joined(Moments a, Moments b) {
    if (b.count == 0) return a;
    if (a.count == 0) return b;  // else the square of a great mean, times nothing, is no number
    const A count = a.count + b.count, apart = b.mean - a.mean, share = b.count / count;
    return {count, a.mean + apart * share, a.squares + b.squares + apart * (apart * (a.count * share))};
}

struct Sums {
    A plain, along;  // of g, and of g times the deviation
};

__device__ inline Sums joined(Sums a, Sums b) { return {a.plain + b.plain, a.along + b.along}; }

// Join what the threads t, t + lanes, t + 2 lanes, ... of a block have, into that of t < lanes.
template <class Value>
__device__ void join_block(Value* shared, Value own, int threads, int lanes) {
    shared[threadIdx.x] = own;
    __syncthreads();
    for (int half = threads / 2; half >= lanes; half /= 2) {
        if (threadIdx.x < half)
            shared[threadIdx.x] = joined(shared[threadIdx.x], shared[threadIdx.x + half]);
        __syncthreads();
    }
}

// Call `use(first, step, end)` for the elements of this thread's channel in this block's part.
template <class Value, class Use>
__device__ void each_part(Value* parts, Shape shape, long long length, int lanes, Use use) {
    __shared__ Value shared[THREADS];
    const long long channel = blockIdx.x * (long long)lanes + threadIdx.x % lanes;
    const long long begin = blockIdx.y * length;
    const long long end = begin + length < shape.n ? begin + length : shape.n;
    Value own = {};
    if (channel < shape.channels)
        own = use(channel, begin + threadIdx.x / lanes, (long long)(THREADS / lanes), end);
    join_block(shared, own, THREADS, lanes);
    if (threadIdx.x < lanes && channel < shape.channels)
        parts[blockIdx.y * shape.channels + channel] = shared[threadIdx.x];
}

extern "C" __global__ void channel_moments(
    const T* x, Moments* parts, long long channels, long long inner, long long n, long long per,
    long long length, int lanes
) {
    const Shape shape = {channels, inner, n, per};
    each_part(parts, shape, length, lanes, [&](long long channel, long long p, long long step, long long end) {
        Moments own = {};
        for (; p < end; p += step * AT_ONCE) {
            A held[AT_ONCE], sum = 0, squares = 0;
            int count = 0;
#pragma unroll
            for (int j = 0; j < AT_ONCE; ++j) {
                const bool is_there = p + j * step < end;
                held[j] = is_there ? (A)x[shape.place(channel, p + j * step)] : (A)0;
                sum += held[j];
                count += is_there;
            }
            const A mean = sum / count;
#pragma unroll
            for (int j = 0; j < AT_ONCE; ++j)
                if (j < count) squares += (held[j] - mean) * (held[j] - mean);
            own = joined(own, {(A)count, mean, squares});
        }
        return own;
    });
}

__device__ inline A factor_of(A variance, const T* scale, long long channel, double epsilon) {
    const A inverse = 1 / sqrt(variance + (A)epsilon);
    return scale ? inverse * (A)scale[channel] : inverse;
}

// A block for each channel joins its parts. Null stands for a factor or a scale that is not there.
extern "C" __global__ void join_moments(
    const Moments* parts, const T* scale, A* means, A* variances, A* factors, long long channels,
    long long n, int count, double epsilon
) {
    __shared__ Moments shared[JOINING];
    for (long long channel = blockIdx.x; channel < channels; channel += gridDim.x) {
        Moments own = {};
        for (int part = threadIdx.x; part < count; part += JOINING)
            own = joined(own, parts[part * channels + channel]);
        join_block(shared, own, JOINING, 1);
        if (threadIdx.x == 0) {
            const A variance = shared[0].squares / n;
            means[channel] = shared[0].mean;
            variances[channel] = variance;
            if (factors) factors[channel] = factor_of(variance, scale, channel, epsilon);
        }
        __syncthreads();  // before the next channel's
    }
}

extern "C" __global__ void channel_factors(
    const A* variances, const T* scale, A* factors, long long channels, double epsilon
) {
    const long long channel = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (channel < channels) factors[channel] = factor_of(variances[channel], scale, channel, epsilon);
}

// Call `one(at, channel)` for every element, WIDE neighbours at a time as `several(at, channel, step)`
// where loads of 16 bytes lie within an array and, for inner > 1, within a channel.
template <class One, class Several>
__device__ void each_element(
    Shape shape, const void* a, const void* b, const void* c, One one, Several several
) {
    const long long size = shape.n * shape.channels;
    const bool wide = are_wide(shape.inner == 1 ? shape.per : shape.inner, a, b, c);
    const long long first = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    const long long step = (long long)gridDim.x * blockDim.x;
    if (wide)
        for (long long at = first * WIDE; at < size; at += step * WIDE)
            several(at, shape.channel_at(at), shape.inner == 1);
    else
        for (long long at = first; at < size; at += step) one(at, shape.channel_at(at));
}

// y = (x - mean) factor + shift.
extern "C" __global__ void normalize_channels(
    const T* x, const A* means, const A* factors, const T* shift, T* y, long long channels,
    long long inner, long long n, long long per
) {
    const Shape shape = {channels, inner, n, per};
    const auto value = [&](T own, long long channel) {
        const A scaled = ((A)own - means[channel]) * factors[channel];
        return (T)(shift ? scaled + (A)shift[channel] : scaled);
    };
    each_element(
        shape, x, y, 0, [&](long long at, long long channel) { y[at] = value(x[at], channel); },
        [&](long long at, long long channel, int step) {
            Load own = *(const Load*)(x + at);
#pragma unroll
            for (int j = 0; j < WIDE; ++j) own.at[j] = value(own.at[j], channel + j * step);
            *(Load*)(y + at) = own;
        }
    );
}

// Sums of g and of g (x - mean) over each channel, in parts.
extern "C" __global__ void channel_sums(
    const T* g, const T* x, const A* means, Sums* parts, long long channels, long long inner,
    long long n, long long per, long long length, int lanes
) {
    const Shape shape = {channels, inner, n, per};
    each_part(parts, shape, length, lanes, [&](long long channel, long long p, long long step, long long end) {
        const A mean = means[channel];
        Sums own = {};
        for (; p < end; p += step * AT_ONCE) {
            Sums held = {};
#pragma unroll
            for (int j = 0; j < AT_ONCE; ++j) {
                if (p + j * step >= end) break;
                const long long at = shape.place(channel, p + j * step);
                held = joined(held, {(A)g[at], (A)g[at] * ((A)x[at] - mean)});
            }
            own = joined(own, held);
        }
        return own;
    });
}

// A block for each channel joins its sums, and says what follows from them: with f the factor, r one
// over the deviation, S = sum(g) and D = sum(g (x - mean)), the cotangents of scale (D r), shift (S),
// and of moments that were given, mean (-S f) and variance (-D f r^2 / 2). Where moments are x's own,
// `slopes` is not null and x gets slope (x - mean) + offset besides g f: what goes through the
// moments, with the cotangents that these have themselves, if any.
extern "C" __global__ void join_sums(
    const Sums* parts, const A* variances, const T* scale, const T* by_mean, const T* by_variance,
    A* factors, A* slopes, A* offsets, T* to_mean, T* to_variance, T* to_scale, T* to_shift,
    long long channels, long long n, int count, double epsilon
) {
    __shared__ Sums shared[JOINING];
    for (long long channel = blockIdx.x; channel < channels; channel += gridDim.x) {
        Sums own = {};
        for (int part = threadIdx.x; part < count; part += JOINING)
            own = joined(own, parts[part * channels + channel]);
        join_block(shared, own, JOINING, 1);
        if (threadIdx.x == 0) {
            const A plain = shared[0].plain, along = shared[0].along;
            const A inverse = factor_of(variances[channel], 0, channel, epsilon);
            const A factor = factor_of(variances[channel], scale, channel, epsilon);
            const A for_mean = -plain * factor;
            const A for_variance = along * factor * inverse * inverse * (A)-0.5;
            factors[channel] = factor;
            if (slopes) {
                const A more = by_variance ? (A)by_variance[channel] : (A)0;
                slopes[channel] = (for_variance + more) * 2 / n;
                offsets[channel] = (for_mean + (by_mean ? (A)by_mean[channel] : (A)0)) / n;
            }
            if (to_mean) to_mean[channel] = (T)for_mean;
            if (to_variance) to_variance[channel] = (T)for_variance;
            if (to_scale) to_scale[channel] = (T)(along * inverse);
            if (to_shift) to_shift[channel] = (T)plain;
        }
        __syncthreads();  // before the next channel's
    }
}

// g factor, and slope (x - mean) + offset besides where slopes are not null.
extern "C" __global__ void pull_channels(
    const T* g, const T* x, const A* means, const A* factors, const A* slopes, const A* offsets,
    T* result, long long channels, long long inner, long long n, long long per
) {
    const Shape shape = {channels, inner, n, per};
    const auto value = [&](T cotangent, T own, long long channel) {
        const A scaled = (A)cotangent * factors[channel];
        if (!slopes) return (T)scaled;
        return (T)(scaled + (((A)own - means[channel]) * slopes[channel] + offsets[channel]));
    };
    each_element(
        shape, g, x, result,
        [&](long long at, long long channel) { result[at] = value(g[at], x[at], channel); },
        [&](long long at, long long channel, int step) {
            Load given = *(const Load*)(g + at);
            const Load own = *(const Load*)(x + at);
#pragma unroll
            for (int j = 0; j < WIDE; ++j)
                given.at[j] = value(given.at[j], own.at[j], channel + j * step);
            *(Load*)(result + at) = given;
        }
    );
}
