// Convolutions over windows of an input (batch, depth, height, width, channels).
//
// Windows are unrolled as rows of matrices, which products turn into convolutions and their
// cotangents; groups of few channels, such as depthwise ones, are summed directly. Fewer spatial axes
// are ones of length 1 in front. Nothing is added by atomics. Numbers of rows, and of elements of one
// chunk of unrolled windows, are below 2^31: indices are divided by 32 bits, which take a fraction of
// the time of 64.

struct Slide {
    int in[3], out[3], window[3], stride[3], before[3], dilation[3];
};

#define SLIDE                                                                                     \
    int i0, int i1, int i2, int o0, int o1, int o2, int w0, int w1, int w2, int s0, int s1,       \
        int s2, int b0, int b1, int b2, int d0, int d1, int d2
#define SLIDE_OF_ARGUMENTS                                                                        \
    Slide{{i0, i1, i2}, {o0, o1, o2}, {w0, w1, w2}, {s0, s1, s2}, {b0, b1, b2}, {d0, d1, d2}}

// The example and the spatial position of a row of (batch, *lengths).
struct Row {
    unsigned int example;
    int at[3];
};

__device__ inline Row row_of(unsigned int row, const int* lengths) {
    Row r;
    for (int axis = 2; axis >= 0; --axis) {
        const unsigned int length = lengths[axis];
        r.at[axis] = (int)(row % length);
        row /= length;
    }
    r.example = row;
    return r;
}

__device__ inline long long place_of(
    unsigned int example, int a, int b, int c, const int* lengths, int channels
) {
    return (((long long)example * lengths[0] + a) * lengths[1] + b) * lengths[2] * channels +
           (long long)c * channels;
}

// Where a tap of a window looks along an axis; may lie outside.
__device__ inline int seen(const Slide& slide, int axis, int at, int tap) {
    return at * slide.stride[axis] + tap * slide.dilation[axis] - slide.before[axis];
}

__device__ inline bool within(int place, int length) {
    return (unsigned int)place < (unsigned int)length;
}

// Rows `first` to `first + rows` of windows as matrices (groups, rows, taps * inner).
extern "C" __global__ void unroll(
    const T* x, T* columns, unsigned int first, unsigned int rows, unsigned int taps,
    unsigned int inner, unsigned int groups, SLIDE
) {
    const Slide slide = SLIDE_OF_ARGUMENTS;
    const unsigned int depth = taps * inner, count = groups * rows * depth;
    for (unsigned int k = blockIdx.x * blockDim.x + threadIdx.x; k < count;
         k += gridDim.x * blockDim.x) {
        const unsigned int column = k % depth, line = k / depth;
        const unsigned int group = line / rows;
        const Row row = row_of(first + line - group * rows, slide.out);
        unsigned int tap = column / inner;
        const unsigned int channel = group * inner + column - tap * inner;
        const int c = seen(slide, 2, row.at[2], (int)(tap % slide.window[2]));
        tap /= slide.window[2];
        const int b = seen(slide, 1, row.at[1], (int)(tap % slide.window[1]));
        const int a = seen(slide, 0, row.at[0], (int)(tap / slide.window[1]));
        T value = (T)0.0f;
        if (within(a, slide.in[0]) && within(b, slide.in[1]) && within(c, slide.in[2]))
            value = x[place_of(row.example, a, b, c, slide.in, (int)(groups * inner)) + channel];
        columns[k] = value;
    }
}

#define EACH(count)                                                                               \
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < (count);             \
         i += gridDim.x * (long long)blockDim.x)

// A thread for each number of the output.
extern "C" __global__ void direct_conv(
    const T* x, const T* w, T* y, long long count, int inner, int outputs, int groups, SLIDE
) {
    const Slide slide = SLIDE_OF_ARGUMENTS;
    const int each = outputs / groups, channels = inner * groups;
    EACH(count) {
        const int output = (int)(i % outputs);
        const Row row = row_of((unsigned int)(i / outputs), slide.out);
        const int first = output / each * inner;
        const T* weight = w + output;
        A sum = 0;
        for (int ta = 0; ta < slide.window[0]; ++ta) {
            const int a = seen(slide, 0, row.at[0], ta);
            for (int tb = 0; tb < slide.window[1]; ++tb) {
                const int b = seen(slide, 1, row.at[1], tb);
                for (int tc = 0; tc < slide.window[2]; ++tc) {
                    const int c = seen(slide, 2, row.at[2], tc);
                    if (within(a, slide.in[0]) && within(b, slide.in[1]) &&
                        within(c, slide.in[2])) {
                        const T* own =
                            x + place_of(row.example, a, b, c, slide.in, channels) + first;
                        for (int k = 0; k < inner; ++k)
                            sum += (A)own[k] * (A)weight[(long long)k * outputs];
                    }
                    weight += (long long)inner * outputs;
                }
            }
        }
        y[i] = (T)sum;
    }
}

// Which window shows an element by a tap; -1 if none does.
__device__ inline int window_of(const Slide& slide, int axis, int element, int tap) {
    const int reach = element + slide.before[axis] - tap * slide.dilation[axis];
    if (reach < 0 || reach % slide.stride[axis]) return -1;
    const int window = reach / slide.stride[axis];
    return window < slide.out[axis] ? window : -1;
}

// A thread for each number of the input, which asks the windows that show it.
extern "C" __global__ void direct_transpose(
    const T* y, const T* w, T* x, long long count, int inner, int outputs, int groups, SLIDE
) {
    const Slide slide = SLIDE_OF_ARGUMENTS;
    const int each = outputs / groups, channels = inner * groups;
    EACH(count) {
        const int channel = (int)(i % channels);
        const Row row = row_of((unsigned int)(i / channels), slide.in);
        const int first = channel / inner * each;
        const T* weight = w + (long long)(channel % inner) * outputs + first;
        A sum = 0;
        for (int ta = 0; ta < slide.window[0]; ++ta) {
            const int a = window_of(slide, 0, row.at[0], ta);
            for (int tb = 0; tb < slide.window[1]; ++tb) {
                const int b = window_of(slide, 1, row.at[1], tb);
                for (int tc = 0; tc < slide.window[2]; ++tc) {
                    const int c = window_of(slide, 2, row.at[2], tc);
                    if (a >= 0 && b >= 0 && c >= 0) {
                        const T* own =
                            y + place_of(row.example, a, b, c, slide.out, outputs) + first;
                        for (int k = 0; k < each; ++k) sum += (A)own[k] * (A)weight[k];
                    }
                    weight += (long long)inner * outputs;
                }
            }
        }
        x[i] = (T)sum;
    }
}

// A thread for each number of the kernel and each part of `length` rows of the output; the parts are
// added up afterwards, in their order.
extern "C" __global__ void direct_kernel(
    const T* x, const T* y, A* sums, long long count, unsigned int rows, unsigned int length,
    int inner, int outputs, int groups, SLIDE
) {
    const Slide slide = SLIDE_OF_ARGUMENTS;
    const int each = outputs / groups, channels = inner * groups;
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    const int output = (int)(i % outputs);
    const int line = (int)(i / outputs);
    const int channel = output / each * inner + line % inner;
    const int tap = line / inner;
    const int tc = tap % slide.window[2], tb = tap / slide.window[2] % slide.window[1];
    const int ta = tap / slide.window[2] / slide.window[1];
    const unsigned int start = blockIdx.y * length;
    const unsigned int end = rows - start < length ? rows : start + length;
    Row row = row_of(start, slide.out);
    A sum = 0;
    for (unsigned int r = start; r < end; ++r) {
        const int a = seen(slide, 0, row.at[0], ta), b = seen(slide, 1, row.at[1], tb);
        const int c = seen(slide, 2, row.at[2], tc);
        if (within(a, slide.in[0]) && within(b, slide.in[1]) && within(c, slide.in[2]))
            sum += (A)x[place_of(row.example, a, b, c, slide.in, channels) + channel] *
                   (A)y[(long long)r * outputs + output];
        // The next row's position, without a division.
        if (++row.at[2] == slide.out[2]) {
            row.at[2] = 0;
            if (++row.at[1] == slide.out[1]) {
                row.at[1] = 0;
                if (++row.at[0] == slide.out[0]) {
                    row.at[0] = 0;
                    ++row.example;
                }
            }
        }
    }
    sums[blockIdx.y * count + i] = sum;
}
