// Modified Bessel functions of any real order. With R = sqrt(x^2 + v^2) and t = asinh(v / x),
//
//   K_v(x) = exp(v t - R) / 2 * integral of exp(-g(s)) over all s,         DLMF 10.32.9
//   I_v(x) = exp(R - v t) / pi * integral of exp(-g(b)) from 0 to pi,      DLMF 10.32.12
//
// where g is 0 at the saddle point, which is t.

// exp(s) - 1 - s
__device__ inline double growth_beyond_line(double s) {
    if (fabs(s) > 0.5) return expm1(s) - s;
    double total = 1;
    for (int k = 15; k > 2; --k) total = 1 + total * s / k;
    return total * s * s / 2;
}

// v t - R + x
__device__ inline double exponent_of(double v, double x, double r) {
    if (v == 0) return 0;
    const double ratio = v / x;
    const double t = ratio - ratio == 0 ? asinh(ratio) : log(v) - log(x) + log(2.0);
    return v * t - v * (v / (r + x));
}

// K_v(x), or exp(x) times it, of v of 0 or more and positive x.
__device__ inline double second_kind(double v, double x, bool is_scaled) {
    const double r = hypot(x, v), rest = x * (x / (r + v));  // R - v
    // For an integrand that falls off like exp(-R s^2 / 2), and no slower than hyperbolic functions
    // let it: the error stays below 1e-17 for every R.
    const double step = 1 / (4 + 1.5 * sqrt(r));
    double total = 0.5;
    for (int side = -1; side <= 1; side += 2)
        for (int k = 1; k < MOST; ++k) {
            const double s = side * k * step, half = sinh(0.5 * s);
            const double fallen = 2 * rest * half * half + v * growth_beyond_line(s);
            if (!(fallen < DROP)) break;
            total += 0.5 * exp(-fallen);
        }
    return scaled(is_scaled ? 0 : -x, exponent_of(v, x, r), total * step);
}

// I_v(x), or exp(-x) times it, of v of 0 or more and positive x.
__device__ inline double first_kind(double v, double x, bool is_scaled) {
    if (x <= 30 && v < 150) {
        const double value = leading_power(v, x) * power_series(v, x, 1);
        return is_scaled ? value * exp(-x) : value;
    }
    const double r = hypot(x, v);
    const double value = descent(v, x, r, 1 / (1.5 * sqrt(r)), 1);
    return scaled(is_scaled ? 0 : x, -exponent_of(v, x, r), value);
}

__device__ inline double first(double v, double x, bool is_scaled) {
    const double order = fabs(v), size = fabs(x);
    const bool is_whole = rint(v) == v, ends = size - size != 0;
    if (v != v || x != x || (x < 0 && !is_whole)) return none();
    if (order - order != 0) return ends ? none() : 0;
    const double sign = x < 0 && fmod(v, 2.0) != 0 ? -1 : 1;
    if (ends) return is_scaled ? 0 : sign * infinite();
    if (size == 0) {
        if (v >= 0 || is_whole) return v == 0;
        return fmod(floor(order), 2.0) == 0 ? infinite() : -infinite();  // the sign of gamma(v + 1)
    }
    double value = first_kind(order, size, is_scaled);
    if (v < 0 && !is_whole) {  // DLMF 10.27.2
        const double other = second_kind(order, size, is_scaled) * 2 / PI * sine_of_turns(order);
        value += is_scaled ? other * exp(-2 * size) : other;
    }
    return sign * value;
}

__device__ inline double second(double v, double x, bool is_scaled) {
    if (v != v || !(x >= 0)) return none();
    if (v - v != 0) return x - x == 0 ? infinite() : none();
    if (x == 0) return infinite();
    return x - x == 0 ? second_kind(fabs(v), x, is_scaled) : 0;
}

__device__ inline double first_plain(double v, double x) { return first(v, x, false); }
__device__ inline double first_scaled(double v, double x) { return first(v, x, true); }
__device__ inline double second_plain(double v, double x) { return second(v, x, false); }
__device__ inline double second_scaled(double v, double x) { return second(v, x, true); }

extern "C" __global__ void iv(const T* v, const T* x, T* out, long long count) {
    for_each<first_plain>(v, x, out, count);
}

extern "C" __global__ void ive(const T* v, const T* x, T* out, long long count) {
    for_each<first_scaled>(v, x, out, count);
}

extern "C" __global__ void kv(const T* v, const T* x, T* out, long long count) {
    for_each<second_plain>(v, x, out, count);
}

extern "C" __global__ void kve(const T* v, const T* x, T* out, long long count) {
    for_each<second_scaled>(v, x, out, count);
}
