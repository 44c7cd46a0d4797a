// What Bessel functions share: integrals on paths of steepest descent, by the trapezoidal rule.
//
// The integrands are analytic and fall off on both sides, so that the error of the rule is
// exponentially small in 1 / step: L. Trefethen and J. Weideman, "The exponentially convergent
// trapezoidal rule", SIAM Review 56 (2014). Steps are such that it stays below the last digit.

const double PI = 3.141592653589793;
const double DROP = 40;  // exp(-DROP) is below the last digit
const int MOST = 1 << 15;  // steps: no integral takes half as many

__device__ inline double infinite() { return 1e300 * 1e300; }
__device__ inline double none() { return infinite() * 0; }  // NaN

// sin(pi v)
__device__ inline double sine_of_turns(double v) {
    const double nearest = rint(v);
    const double value = sin(PI * (v - nearest));
    return fmod(nearest, 2.0) == 0 ? value : -value;
}

__device__ inline double cosine_of_turns(double v) {
    const double nearest = rint(v), rest = fabs(v - nearest);
    const double value = rest > 0.25 ? sin(PI * (0.5 - rest)) : cos(PI * rest);
    return fmod(nearest, 2.0) == 0 ? value : -value;
}

// sinh(s) - s; with sign -1 s - sin(s).
__device__ inline double cubic(double s, int sign) {
    if (fabs(s) > 0.5) return sign > 0 ? sinh(s) - s : s - sin(s);
    double total = 1;
    for (int n = 17; n > 3; n -= 2) total = 1 + sign * total * s * s / (n * (n - 1));
    return total * s * s * s / 6;
}

// exp(a + b) value, where the power alone may leave the range of numbers.
__device__ inline double scaled(double a, double b, double value) {
    const double sum = a + b, half = exp(0.5 * sum);
    const double part = sum - a, rest = (a - (sum - part)) + (b - part);
    return half * (fabs(rest) < 1e-6 ? value * (1 + rest) : value) * half;
}

// 1 / pi times the integral of exp(-g(b)) over b from 0 to pi, with
//
//   g = r - s(u) cos(b) + v (u - t),   s(u) = r cosh(u - t) + v sinh(u - t),   s(t) = r,
//
// on the path on which the exponent is real. For I_v (`sign` 1) it is sinh(u) = v b / (x sin(b))
// and r = sqrt(v^2 + x^2), DLMF 10.32.12; for J_v of v above x (`sign` -1) it is
// cosh(u) = v b / (x sin(b)) and r = sqrt(v^2 - x^2), DLMF 10.9.17.
__device__ inline double descent(double v, double x, double r, double step, int sign) {
    double total = 0.5;
    for (int k = 1; k < MOST && k * step < PI; ++k) {
        const double b = k * step, half = sin(0.5 * b), short_of = 2 * half * half;
        const double beyond = cubic(b, -1) / sin(b), ratio = 1 + beyond;  // b / sin(b)
        const double wide = ratio * v;
        const double other =
            sign > 0 ? hypot(x, wide) : sqrt((v - x + v * beyond) * (wide + x));
        const double run = v * beyond * (ratio + 1) / (ratio * r + other);  // sinh(u - t)
        const double rise = run * run / (1 + sqrt(1 + run * run));  // cosh(u - t) - 1
        const double fallen = r * (short_of - rise * (1 - short_of))
            + v * (run * short_of - cubic(asinh(run), 1));
        if (!(fallen < DROP)) break;
        total += exp(-fallen);
    }
    return total * step / PI;
}

// The power series of I_v (`sign` 1) or J_v (-1) without its first factor, DLMF 10.25.2 and 10.2.2.
__device__ inline double power_series(double v, double x, int sign) {
    double term = 1, total = 1;
    for (int k = 1; fabs(term) > fabs(total) * 1e-18; ++k) {
        term *= sign * 0.25 * x * x / (k * (k + v));
        total += term;
    }
    return total;
}

// (x / 2)^v / gamma(v + 1)
__device__ inline double leading_power(double v, double x) {
    return pow(x, v) * exp2(-v) / tgamma(v + 1);
}

template <double function(double, double)>
__device__ inline void for_each(const T* v, const T* x, T* out, long long count) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count;
         i += gridDim.x * (long long)blockDim.x)
        out[i] = (T)(A)function((double)(A)v[i], (double)(A)x[i]);
}
