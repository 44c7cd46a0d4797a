// How the gamma distribution's integral moves with its shape parameter: the formulas are those of
// distgrad/backend/incomplete_gamma.py, which says where they come from; in double precision.

const int NODES = 48;
const int HIGHEST = 4;  // order of a derivative
const double DROP = 40;  // what is left out is exp(-40) of the integrand
const double FAR = 16;  // from here on the polygamma functions' asymptotic series serve

// The rule of Gauss and Legendre with 48 points on [-1, 1]: the positive points and their weights.
__device__ const double POINTS[] = {
    0.03238017096286937, 0.0970046992094627, 0.1612223560688917, 0.22476379039468905,
    0.28736248735545555, 0.3487558862921607, 0.4086864819907167, 0.4669029047509584,
    0.523160974722233, 0.5772247260839727, 0.6288673967765136, 0.6778723796326639,
    0.7240341309238146, 0.7671590325157404, 0.8070662040294426, 0.8435882616243935,
    0.8765720202742479, 0.9058791367155696, 0.9313866907065543, 0.9529877031604308,
    0.9705915925462473, 0.9841245837228269, 0.9935301722663508, 0.9987710072524261
};
__device__ const double WEIGHTS[] = {
    0.06473769681268365, 0.06446616443594982, 0.06392423858464787, 0.06311419228625373,
    0.06203942315989242, 0.0607044391658936, 0.059114839698395344, 0.057277292100402916,
    0.05519950369998403, 0.05289018948519344, 0.0503590355538542, 0.04761665849249024,
    0.04467456085669423, 0.04154508294346455, 0.0382413510658305, 0.034777222564770394,
    0.031167227832798097, 0.027426509708357034, 0.023570760839324047, 0.019616160457356056,
    0.015579315722943226, 0.011477234579234614, 0.007327553901276135, 0.0031533460523098414
};

// Bernoulli's numbers B_2k: Abramowitz and Stegun, "Handbook", table 23.2.
__device__ const double BERNOULLI[] = {
    1.0 / 6, -1.0 / 30, 1.0 / 42, -1.0 / 30, 5.0 / 66, -691.0 / 2730, 7.0 / 6
};

// Of positive numbers: the recurrence up to 16, then Abramowitz and Stegun 6.3.18 and 6.4.11.
__device__ inline double polygamma(int order, double a) {
    double factorial = 1;  // of the order
    for (int k = 2; k <= order; ++k) factorial *= k;
    const double sign = order % 2 ? 1 : -1;
    double total = 0, far = a;
    while (far < FAR) {
        double power = 1 / far;
        for (int k = 0; k < order; ++k) power /= far;
        total += power;
        far += 1;
    }
    double power = 1;  // far^-order
    for (int k = 0; k < order; ++k) power /= far;
    double series = order ? factorial * power * (1.0 / order + 0.5 / far) : 0.5 / far - log(far);
    double ratio = factorial * (order + 1) / 2;  // (2k + order - 1)! / (2k)!
    for (int k = 1; k <= 7; ++k) {
        power /= far * far;
        series += BERNOULLI[k - 1] * ratio * power;
        ratio *= (2.0 * k + order) * (2 * k + order + 1) / ((2.0 * k + 1) * (2 * k + 2));
    }
    return sign * (total * factorial + series);
}

// s at which a s - x (1 - exp(-s)), convex, has grown to DROP or little more.
__device__ inline double reach_below(double a, double x) {
    const double straight = fmin((DROP + x) / a, DROP / fmax(a - x, 0.0));
    double s = fmin(straight, (DROP + sqrt(DROP * DROP + 8 * DROP * x)) / (2 * x));
    for (int k = 0; k < 4; ++k) {  // Newton's steps come from the right, and stay there
        const double fallen = (a - x) * s + x * (expm1(-s) + s);
        s -= (fallen - DROP) / (a - x - x * expm1(-s));
    }
    return s;
}

// s at which x (exp(s) - 1) - a s, convex, has grown to DROP or little more.
__device__ inline double reach_above(double a, double x) {
    const double wide = log1p(DROP / x);
    double s = fmin(fmin(DROP / fmax(x - a, 0.0), sqrt(2 * DROP / x)), 2 + wide + log1p(wide));
    for (int k = 0; k < 4; ++k) {
        const double fallen = (x - a) * s + x * (expm1(s) - s);
        s -= (fallen - DROP) / (x - a + x * expm1(s));
    }
    return s;
}

// The factor B_n of the density at a, by the complete Bell polynomials of the slopes at a + 1, of
// which the first is given apart.
__device__ inline double bell(int order, double a, double first, const double* slopes) {
    if (order == 1) return first + 1 / a;
    double found[HIGHEST + 1];
    found[0] = 1;
    for (int n = 0; n < order; ++n) {
        double total = 0, choose = 1;
        for (int k = 0; k <= n; ++k) {
            total += choose * found[n - k] * (k ? slopes[k] : first);
            choose = choose * (n - k) / (k + 1);
        }
        found[n + 1] = total;
    }
    return found[order] + order / a * found[order - 1];
}

// R_n(a, x) = -(d^n P / da^n) / f of positive finite numbers.
__device__ inline double slope_of(int order, double a, double x) {
    const bool above = x > a;
    // Below 1 the lower integrand falls off slowly: P(a) = P(a + 1) + x^a exp(-x) / gamma(a + 1).
    const bool raised = !above && a < 1;
    const double shape = a + raised;
    double slopes[HIGHEST];
    slopes[0] = log(x) - polygamma(0, shape + 1);
    for (int k = 1; k < order; ++k) slopes[k] = -polygamma(k, shape + 1);
    const double length = above ? reach_above(shape, x) : reach_below(shape, x);
    double total = 0;
    for (int k = 0; k < NODES; ++k) {
        const double point = k < NODES / 2 ? -POINTS[k] : POINTS[k - NODES / 2];
        const double s = (above ? 0.5 : -0.5) * length * (1 + point);
        // The exponent a s - x (exp(s) - 1) in two parts that have one sign.
        const double exponent = (shape - x) * s - x * (expm1(s) - s);
        total += WEIGHTS[k % (NODES / 2)] * exp(exponent) * bell(order, shape, slopes[0] + s, slopes);
    }
    const double value = x * ((above ? 0.5 : -0.5) * length * total);
    return raised ? (value - bell(order, shape, slopes[0], slopes)) * (x / a) : value;
}

extern "C" __global__ void gammainc_ratio(
    const T* shapes, const T* numbers, T* out, long long count, int order
) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count;
         i += gridDim.x * (long long)blockDim.x) {
        const double a = (double)(A)shapes[i], x = (double)(A)numbers[i];
        double value = a > 0 && x == 0 ? 0 : 1e300 * 1e300 * 0;  // NaN
        if (a > 0 && x > 0 && a - a == 0 && x - x == 0) value = slope_of(order, a, x);
        out[i] = (T)(A)value;
    }
}
