// Special functions of one argument that CuPy lacks, each with the source of its formulas.

const double PI = 3.141592653589793;
const double ROOT_PI = 1.7724538509055159;

__device__ inline double infinite() { return 1e300 * 1e300; }
__device__ inline double none() { return infinite() * 0; }  // NaN

// --- Dawson's integral and the imaginary error function ------------------------------------------

// The integral of exp(t^2) from 0 to x, by its power series: positive terms.
__device__ inline double integral_of_growth(double x) {
    const double square = x * x;
    double term = 1, total = 1;
    for (int k = 1; k < 60 && term > total * 1e-17; ++k) {
        term *= square / k;
        total += term / (2 * k + 1);
    }
    return x * total;
}

// For x of 1 or more: G. Rybicki, "Dawson's integral and the sampling theorem", Computers in
// Physics 3 (1989); its error is exp(-(pi / 2h)^2), below 1e-17. From 12 on by DLMF 7.12.1, of an
// imaginary argument.
__device__ inline double dawson_of_large(double x) {
    if (x > 12) {
        double term = 1, total = 1;
        for (int k = 0; k < 12; ++k) {
            term *= (2 * k + 1) / (2 * x) / x;
            total += term;
        }
        return total / (2 * x);
    }
    const double h = 0.25;
    const int nearest = 2 * (int)rint(x / (2 * h));  // even, of the samples at odd multiples of h
    const double rest = x - nearest * h;
    double total = 0;
    for (int n = 27; n > 0; n -= 2) {
        const double below = rest + n * h, above = rest - n * h;
        total += exp(-below * below) / (nearest - n) + exp(-above * above) / (nearest + n);
    }
    return total / ROOT_PI;
}

__device__ inline double dawson(double x) {
    const double size = fabs(x);
    if (size < 1) return exp(-x * x) * integral_of_growth(x);
    return copysign(dawson_of_large(size), x);
}

__device__ inline double imaginary_error(double x) {
    const double size = fabs(x);
    if (size < 1) return 2 / ROOT_PI * integral_of_growth(x);
    if (size > 27) return x * infinite();
    // The square in two parts, since its rounding would be seen; what exp cannot hold comes last.
    const double square = size * size, rest = fma(size, size, -square);
    const double late = square > 700 ? 16 : 0;
    const double value = exp(square - late) * (1 + rest) * (2 / ROOT_PI * dawson_of_large(size));
    return copysign(value * exp(late), x);
}

// --- Fresnel's integrals -------------------------------------------------------------------------

// cos and sin of pi x^2 / 2, the square reduced modulo 4 before it is multiplied.
__device__ inline void turn_of(double x, double* cosine, double* sine) {
    const double square = x * x;
    const double turns = fmod(square, 4.0);
    const double nearest = rint(turns);
    const double angle = (turns - nearest + fma(x, x, -square)) * (PI / 2);
    const double c = cos(angle), s = sin(angle);
    const int quarter = (int)nearest % 4;
    *cosine = quarter == 0 ? c : quarter == 1 ? -s : quarter == 2 ? -c : s;
    *sine = quarter == 0 ? s : quarter == 1 ? c : quarter == 2 ? -s : -c;
}

// The integral of sin or cos of pi t^2 / 2: below 1.2 by DLMF 7.6(i), above by the midpoint rule
// for the error function on the diagonal with the residue of its pole, M. Alazah, S. Chandler-Wilde
// and S. La Porte, "Computing Fresnel integrals via modified trapezium rules", Numerische
// Mathematik 128 (2014), whose error is exp(-(pi / h)^2).
__device__ inline double fresnel(double x, bool is_sine) {
    const double size = fabs(x), q = PI / 2 * x * x;
    if (size < 1.2) {
        double term = is_sine ? q : 1, total = term / (is_sine ? 3 : 1);
        for (int k = is_sine ? 1 : 0; k < 24; k += 2) {
            term *= -q * q / ((k + 1) * (k + 2));
            total += term / (2 * k + 5);
        }
        return x * total;
    }
    if (size > 1e17) return copysign(0.5, x);
    const double h = 0.5;
    double even = 0, odd = 0;
    for (int k = 12; k >= 0; --k) {
        const double t = (k + 0.5) * h, square = t * t;
        const double weight = exp(-square) / (square * square + q * q);
        even += weight * square;
        odd += weight * q;
    }
    even *= h * size / ROOT_PI;
    odd *= h * size / ROOT_PI;
    double cosine, sine;
    turn_of(size, &cosine, &sine);
    const double real = cosine * (even + odd) - sine * (odd - even);
    const double imaginary = sine * (even + odd) + cosine * (odd - even);
    const double p = fmin(PI * ROOT_PI * size / h, 100.0);
    const double pole = cosh(p) + cos(p);
    const double first = sinh(p) / pole - real, second = -sin(p) / pole - imaginary;
    return copysign(0.5 * (is_sine ? first + second : first - second), x);
}

__device__ inline double fresnel_of_sine(double x) { return fresnel(x, true); }
__device__ inline double fresnel_of_cosine(double x) { return fresnel(x, false); }

// --- the dilogarithm -----------------------------------------------------------------------------

// Li2(1 - exp(-u)) of small u, by Bernoulli's numbers: G. 't Hooft and M. Veltman, "Scalar one-loop
// integrals", Nuclear Physics B 153 (1979), appendix A. Here B_2k / (2k + 1)!.
__device__ const double DILOGARITHM[] = {
    1.0 / 36, -1.0 / 3600, 1.0 / 211680, -1.0 / 10886400, 1.0 / 526901760,
    -691.0 / 16999766784000.0, 1.0 / 1120863744000.0, -3617.0 / 181400588328960000.0,
    43867.0 / 97072790126247936000.0
};

__device__ inline double dilogarithm_series(double u) {
    const double square = u * u;
    double total = 0;
    for (int k = 8; k >= 0; --k) total = total * square + DILOGARITHM[k];
    return u * (1 - u / 4 + square * total);
}

// DLMF 25.12.3 and 25.12.6, of 1 - x.
__device__ inline double dilogarithm(double x) {
    if (!(x >= 0)) return none();
    if (x == 0) return PI * PI / 6;
    const double logarithm = log(x);
    if (x >= 0.5 && x <= 2) return dilogarithm_series(0 - logarithm);
    const double inner = x > 2 ? 1 / x : x;
    const double other = log1p(-inner);
    const double size = x > 2 ? -logarithm : logarithm;
    const double value = PI * PI / 6 - (size - size == 0 ? size * other : 0)
        - dilogarithm_series(-other);
    return x > 2 ? -0.5 * logarithm * logarithm - value : value;
}

// --- the complete elliptic integral of the second kind -------------------------------------------

// Of what m lacks to 1, by the arithmetic-geometric mean, DLMF 19.8(i); next to 1 by DLMF 19.12.2.
__device__ inline double elliptic_of_rest(double rest) {
    if (rest < 1e-6) {
        const double logarithm = rest > 0 ? 0.5 * log(16 / rest) : 0;
        return 1 + rest * (0.5 * (logarithm - 0.5) + 3.0 / 16 * rest * (logarithm - 13.0 / 12));
    }
    double a = 1, b = sqrt(rest), lost = (1 - rest) / 2;
    for (double weight = 1; a - b > 1e-9 * a; weight *= 2) {
        const double c = (a - b) / 2, next = (a + b) / 2;
        lost += weight * c * c;
        b = sqrt(a * b);
        a = next;
    }
    return PI / (a + b) * (1 - lost);
}

// Negative m by DLMF 19.7(i).
__device__ inline double elliptic(double m) {
    if (!(m <= 1)) return none();
    return m < 0 ? sqrt(1 - m) * elliptic_of_rest(1 / (1 - m)) : elliptic_of_rest(1 - m);
}

// --- omega ---------------------------------------------------------------------------------------

// y + log(y) = x: F. Fritsch, R. Shafer and W. Crowley, "Solution of the transcendental equation
// w e^w = x", Communications of the ACM 16 (1973); of fourth order.
__device__ inline double omega(double x) {
    if (x < -50) return exp(x);
    if (!(x < 1e20)) return x;
    const double power = exp(x < 1 ? x : 0.0);
    double y = x < -2 ? power : x < 1 ? exp(2 * (x - 1) / 3) : x - log(x) + log(x) / x;
    for (int k = 0; k < 2; ++k) {
        // For small y not x - log(y), whose digits are lost.
        const double r = x < 1 ? log1p((power - y) / y) - y : x - log(y) - y;
        const double z = 2 * (1 + y) * (1 + y + 2 * r / 3);
        y *= 1 + r / (1 + y) * (z - r) / (z - 2 * r);
    }
    return y;
}

// --- the normal distribution's quantile of a logarithm -------------------------------------------

// exp(z^2) erfc(z) of z of 0 or more: the midpoint rule, with the residue of its pole, as for
// Fresnel's integrals above.
__device__ inline double scaled_complement(double z) {
    const double h = 0.5;
    double total = 0;
    for (int k = 12; k >= 0; --k) {
        const double t = (k + 0.5) * h;
        total += exp(-t * t) / (z + t * t / z);
    }
    total *= 2 * h / PI;
    return z < PI / h ? total + 2 * exp(z * z) / (1 + exp(2 * PI * z / h)) : total;
}

// t with log(ndtr(-t)) = p up to -log(2), by Newton's method: the logarithm is concave, and the
// first number too large, so each step comes nearer from one side.
__device__ inline double quantile_below(double p) {
    const double drop = -(p + 0.6931471805599453) - 2.3190468138462996e-17;  // -log(2) in two parts
    double t = sqrt(2.0) * sqrt(fmax(drop, 0.0));
    for (int k = 0; k < 8; ++k) {
        const double complement = scaled_complement(t * sqrt(0.5));
        const double lacks = drop - 0.5 * t * t + log(complement);
        t += lacks * complement * sqrt(PI / 2);
    }
    return t;
}

__device__ inline double quantile_of_log(double p) {
    if (!(p < 0)) return p == 0 ? infinite() : none();
    if (p - p != 0) return p;
    return p < -0.6931471805599453 ? -quantile_below(p) : quantile_below(log(-expm1(p)));
}

// --- the kernels ---------------------------------------------------------------------------------

template <double function(double)>
__device__ inline void for_each(const T* x, T* out, long long count) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count;
         i += gridDim.x * (long long)blockDim.x)
        out[i] = (T)(A)function((double)(A)x[i]);
}

extern "C" __global__ void dawsn(const T* x, T* out, long long count) {
    for_each<dawson>(x, out, count);
}

extern "C" __global__ void erfi(const T* x, T* out, long long count) {
    for_each<imaginary_error>(x, out, count);
}

extern "C" __global__ void fresnel_sin(const T* x, T* out, long long count) {
    for_each<fresnel_of_sine>(x, out, count);
}

extern "C" __global__ void fresnel_cos(const T* x, T* out, long long count) {
    for_each<fresnel_of_cosine>(x, out, count);
}

extern "C" __global__ void spence(const T* x, T* out, long long count) {
    for_each<dilogarithm>(x, out, count);
}

extern "C" __global__ void ellipe(const T* m, T* out, long long count) {
    for_each<elliptic>(m, out, count);
}

extern "C" __global__ void wrightomega(const T* x, T* out, long long count) {
    for_each<omega>(x, out, count);
}

extern "C" __global__ void ndtri_exp(const T* p, T* out, long long count) {
    for_each<quantile_of_log>(p, out, count);
}
