// Pooling over windows of an input (batch, depth, height, width, channels): a thread for each number.
//
// Fewer spatial axes are ones of length 1 in front. Cotangents are gathered, not scattered: an
// element of the input asks each window that shows it, so that nothing is added by atomics.

struct Geometry {
    int in[3], out[3], window[3], stride[3], before[3], channels;
};

#define GEOMETRY                                                                                  \
    int i0, int i1, int i2, int o0, int o1, int o2, int w0, int w1, int w2, int s0, int s1,       \
        int s2, int b0, int b1, int b2, int channels
#define GEOMETRY_OF_ARGUMENTS                                                                     \
    Geometry{{i0, i1, i2}, {o0, o1, o2}, {w0, w1, w2}, {s0, s1, s2}, {b0, b1, b2}, channels}

struct Position {
    long long example;
    int at[3], channel;
};

__device__ inline Position position_of(long long i, const int* lengths, int channels) {
    Position p;
    p.channel = (int)(i % channels);
    i /= channels;
    for (int axis = 2; axis >= 0; --axis) {
        p.at[axis] = (int)(i % lengths[axis]);
        i /= lengths[axis];
    }
    p.example = i;
    return p;
}

__device__ inline long long place_of(
    const Position& p, int a, int b, int c, const int* lengths, int channels
) {
    return (((p.example * lengths[0] + a) * lengths[1] + b) * lengths[2] + c) * channels + p.channel;
}

// Call `see(place in the input, number of the tap)` for each tap of a window that lies within.
template <class See>
__device__ void for_each_tap(const Geometry& geometry, const Position& p, See see) {
    int start[3];
    for (int axis = 0; axis < 3; ++axis)
        start[axis] = p.at[axis] * geometry.stride[axis] - geometry.before[axis];
    int tap = 0;
    for (int a = start[0]; a < start[0] + geometry.window[0]; ++a)
        for (int b = start[1]; b < start[1] + geometry.window[1]; ++b)
            for (int c = start[2]; c < start[2] + geometry.window[2]; ++c, ++tap)
                if (a >= 0 && a < geometry.in[0] && b >= 0 && b < geometry.in[1] && c >= 0 &&
                    c < geometry.in[2])
                    see(place_of(p, a, b, c, geometry.in, geometry.channels), tap);
}

// The first window along an axis that shows an element; the last one is element / stride.
__device__ inline int first_window(int element, int window, int stride) {
    return element < window ? 0 : (element - window) / stride + 1;
}

// Call `see(place in the output, number of the tap)` for each window that shows an element, in order.
template <class See>
__device__ void for_each_window(const Geometry& geometry, const Position& p, See see) {
    int element[3], first[3], last[3];
    for (int axis = 0; axis < 3; ++axis) {
        element[axis] = p.at[axis] + geometry.before[axis];
        first[axis] = first_window(element[axis], geometry.window[axis], geometry.stride[axis]);
        last[axis] = element[axis] / geometry.stride[axis];
        if (last[axis] >= geometry.out[axis]) last[axis] = geometry.out[axis] - 1;
    }
    for (int a = first[0]; a <= last[0]; ++a)
        for (int b = first[1]; b <= last[1]; ++b)
            for (int c = first[2]; c <= last[2]; ++c) {
                int tap = element[0] - a * geometry.stride[0];
                tap = tap * geometry.window[1] + element[1] - b * geometry.stride[1];
                tap = tap * geometry.window[2] + element[2] - c * geometry.stride[2];
                see(place_of(p, a, b, c, geometry.out, geometry.channels), tap);
            }
}

#define EACH(count)                                                                               \
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < (count);             \
         i += gridDim.x * (long long)blockDim.x)

extern "C" __global__ void max_pool(const T* x, T* y, long long count, GEOMETRY) {
    const Geometry geometry = GEOMETRY_OF_ARGUMENTS;
    EACH(count) {
        bool any = false;
        A top = (A)(-1e300 * 1e300);
        for_each_tap(
            geometry, position_of(i, geometry.out, channels), [&](long long place, int) {
                const A value = (A)x[place];
                // NaN is greater than any number.
                if (!any || value > top || value != value) top = top != top && any ? top : value;
                any = true;
            });
        y[i] = (T)top;
    }
}

// Taps are numbered by 8 bits where these suffice, else by 32.
__device__ inline int tap_at(const void* places, int wide, long long i) {
    return wide ? ((const int*)places)[i] : (int)((const unsigned char*)places)[i];
}

// Which tap of each window is the greatest, the first of equal ones.
extern "C" __global__ void pool_places(
    const T* x, const T* y, void* places, int wide, long long count, GEOMETRY
) {
    const Geometry geometry = GEOMETRY_OF_ARGUMENTS;
    EACH(count) {
        const A top = (A)y[i];
        int found = -1;
        for_each_tap(
            geometry, position_of(i, geometry.out, channels), [&](long long place, int tap) {
                const A value = (A)x[place];
                if (found < 0 && (value == top || (value != value && top != top))) found = tap;
            });
        found = found < 0 ? 0 : found;
        if (wide)
            ((int*)places)[i] = found;
        else
            ((unsigned char*)places)[i] = (unsigned char)found;
    }
}

extern "C" __global__ void max_pool_vjp(
    const T* g, const void* places, int wide, T* result, long long count, GEOMETRY
) {
    const Geometry geometry = GEOMETRY_OF_ARGUMENTS;
    EACH(count) {
        A sum = 0;
        for_each_window(
            geometry, position_of(i, geometry.in, channels), [&](long long place, int tap) {
                if (tap_at(places, wide, place) == tap) sum += (A)g[place];
            });
        result[i] = (T)sum;
    }
}

extern "C" __global__ void max_pool_jvp(
    const T* t, const void* places, int wide, T* result, long long count, GEOMETRY
) {
    const Geometry geometry = GEOMETRY_OF_ARGUMENTS;
    EACH(count) {
        A found = 0;
        const int wanted = tap_at(places, wide, i);
        for_each_tap(
            geometry, position_of(i, geometry.out, channels), [&](long long place, int tap) {
                if (tap == wanted) found = (A)t[place];
            });
        result[i] = (T)found;
    }
}

// How many numbers the mean of a window is over: taps within the input or the counted padding.
__device__ inline A taps_counted(
    const Geometry& geometry, const int* at, const int* counted, const int* counted_behind
) {
    A taps = 1;
    for (int axis = 0; axis < 3; ++axis) {
        const int start = at[axis] * geometry.stride[axis] - geometry.before[axis];
        int end = start + geometry.window[axis];
        if (end > geometry.in[axis] + counted_behind[axis])
            end = geometry.in[axis] + counted_behind[axis];
        taps *= (A)(end - (start > -counted[axis] ? start : -counted[axis]));
    }
    return taps;
}

extern "C" __global__ void avg_pool(
    const T* x, T* y, int c0, int c1, int c2, int d0, int d1, int d2, long long count, GEOMETRY
) {
    const Geometry geometry = GEOMETRY_OF_ARGUMENTS;
    const int counted[3] = {c0, c1, c2}, behind[3] = {d0, d1, d2};
    EACH(count) {
        const Position p = position_of(i, geometry.out, channels);
        A sum = 0;
        for_each_tap(geometry, p, [&](long long place, int) { sum += (A)x[place]; });
        y[i] = (T)(sum / taps_counted(geometry, p.at, counted, behind));
    }
}

extern "C" __global__ void avg_pool_vjp(
    const T* g, T* result, int c0, int c1, int c2, int d0, int d1, int d2, long long count, GEOMETRY
) {
    const Geometry geometry = GEOMETRY_OF_ARGUMENTS;
    const int counted[3] = {c0, c1, c2}, behind[3] = {d0, d1, d2};
    EACH(count) {
        A sum = 0;
        for_each_window(
            geometry, position_of(i, geometry.in, channels), [&](long long place, int) {
                const Position window = position_of(place, geometry.out, channels);
                sum += (A)g[place] / taps_counted(geometry, window.at, counted, behind);
            });
        result[i] = (T)sum;
    }
}
