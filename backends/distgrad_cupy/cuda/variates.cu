// Gamma and Poisson numbers by rejection, each element with counters of its own: the words, and the
// order of every step, are those of distgrad/backend/philox.py and counts.py.
//
// Compiled without fused multiply-add and computed in double precision, so that decisions differ
// from the host's only where its logarithm rounds otherwise on the very edge of one.

// The domain of words for those who try again, see philox.py.
__device__ inline Block again(const Word* stream, Word place, Word attempt) {
    return philox_of(stream, place, stream[2], attempt, 3);
}

__device__ inline double normal_of(Word radii, Word angles, bool is_odd) {
    double radius = (double)radii * 0x1p-64 + 0x1p-65;
    radius = sqrt(fabs(log(radius) * -2.0));
    const double angle = (double)(angles >> 11) * (6.283185307179586 * 0x1p-53);
    return radius * (is_odd ? sin(angle) : cos(angle));
}

// A uniform number in (0, 1] for a place of a draw, from one of its parts.
__device__ inline double uniform_of(const Word* stream, Word place, Word part) {
    const Block block = philox(stream, place / 4, part);
    return 1 - (double)(block.words[place % 4] >> 11) * 0x1p-53;
}

// Marsaglia and Tsang's method, of scale 1.
__device__ inline double gamma_of(const Word* stream, Word place, double concentration) {
    const bool is_small = concentration < 1;
    const double d = (is_small ? concentration + 1 : concentration) - 1.0 / 3.0;
    const double c = 1 / sqrt(9 * d);
    const Block first = philox(stream, place / 4, 1);
    const int even = place % 4 - place % 2;
    double x = normal_of(first.words[even], first.words[even + 1], place % 2);
    double u = uniform_of(stream, place, 2);
    double cube;
    for (Word attempt = 1;; ++attempt) {
        const double base = 1 + c * x > 0 ? 1 + c * x : 0;
        cube = base * base * base;
        if (cube > 0 && log(u) < x * x / 2 + d - d * cube + d * log(cube)) break;
        const Block next = again(stream, place, attempt);
        x = normal_of(next.words[0], next.words[1], false);
        u = ((double)(next.words[2] >> 11) + 1) * 0x1p-53;
    }
    const double value = d * cube;
    return is_small ? value * pow(uniform_of(stream, place, 0), 1 / concentration) : value;
}

extern "C" __global__ void gamma_numbers(
    const Word* streams, const T* concentrations, T* out, long long lead, long long start,
    long long count
) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < lead * count;
         i += gridDim.x * (long long)blockDim.x) {
        const double own = (double)(A)concentrations[i];
        double value = own;
        if (!(own > 0)) value = 1e300 * 1e300 * 0;  // NaN
        else if (own - own == 0) value = gamma_of(streams + 3 * (i / count), start + i % count, own);
        out[i] = (T)(A)value;
    }
}

// The logarithms of 0!, 1!, ... 9!, as counts.py adds them up.
__device__ const double LOG_FACTORIALS[] = {
    0.0, 0.0, 0.6931471805599453, 1.791759469228055, 3.1780538303479453,
    4.787491742782046, 6.579251212010101, 8.525161361065415, 10.60460290274525, 12.80182748008147
};

// log(rate^k e^-rate / k!); from 10 on by Stirling's series.
__device__ inline double log_probability(double k, double rate) {
    if (k < 10) return k * log(rate) - rate - LOG_FACTORIALS[(int)k];
    const double t = (rate - k) / k;
    const double q = 1 / (k * k);
    const double series =
        (1.0 / 12 - q * (1.0 / 360 - q * (1.0 / 1260 - q / 1680))) / k;
    return k * (log1p(t) - t) - 0.5 * log(2 * 3.141592653589793 * k) - series;
}

// The first count whose cumulated probability reaches u.
__device__ inline double inverted(double rate, double u) {
    double term = exp(-rate), total = term;
    int count = 0;
    bool grows = true;
    for (int k = 1; k < 130 && u > total && grows; ++k) {
        term *= rate / k;
        total += term;
        count = k;
        grows = term > 0x1p-60 || k < rate;
    }
    return count;
}

// Hoermann's transformed rejection, algorithm PTRS.
__device__ inline double poisson_of(const Word* stream, Word place, double rate) {
    for (Word attempt = 0;; ++attempt) {
        const Block block = again(stream, place, attempt);
        double u = (double)(block.words[0] >> 11) * 0x1p-53 + 0x1p-54;
        const double v = (double)(block.words[1] >> 11) * 0x1p-53 + 0x1p-54;
        if (rate < 10) return inverted(rate, u);
        const double b = 0.931 + 2.53 * sqrt(rate);
        const double a = -0.059 + 0.02483 * b;
        u = u - 0.5;
        const double us = 0.5 - fabs(u);
        const double k = floor((2 * a / us + b) * u + rate + 0.43);
        if (us >= 0.07 && v <= 0.9277 - 3.6224 / (b - 2)) return k;
        if (k < 0 || (us < 0.013 && v > us)) continue;
        const double inverse_alpha = 1.1239 + 1.1328 / (b - 3.4);
        const double bound = log(v * inverse_alpha / (a / (us * us) + b));
        if (bound <= log_probability(k, rate)) return k;
    }
}

// Counts as integers, up to `largest`, or as floating numbers: the other pointer is null. A rate
// that is none is noted in `wrong`, and gives -1 or NaN.
extern "C" __global__ void poisson_numbers(
    const Word* streams, const T* rates, long long* integers, double* numbers, int* wrong,
    long long lead, long long start, long long count, long long largest
) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < lead * count;
         i += gridDim.x * (long long)blockDim.x) {
        const double rate = (double)(A)rates[i];
        const bool is_rate = rate >= 0 && rate <= 0x1p62;
        double found = 1e300 * 1e300 * 0;  // NaN
        if (is_rate) found = poisson_of(streams + 3 * (i / count), start + i % count, rate);
        else atomicExch(wrong, 1);
        if (numbers) numbers[i] = found;
        // (double)largest may be the next power of two, which the integers do not hold.
        else integers[i] = !is_rate ? -1 : found >= (double)largest ? largest : (long long)found;
    }
}
