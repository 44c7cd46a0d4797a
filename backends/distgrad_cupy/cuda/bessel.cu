// Bessel functions of any real order, on paths of steepest descent.
//
// Where both oscillate they come together, as H = J + i Y, by DLMF 10.9.18: the integral of
// exp(x sinh(w) - v w) / (pi i) from -infinity to infinity + i pi. Where v is well above x, J is
// tiny and Y huge; each then has a path of its own.

// How far v lies above x: t = acosh(v / x), r = x sinh(t), and the exponent v t - r.
struct Barrier {
    double t, r, height;
};

__device__ inline Barrier barrier_of(double v, double x) {
    if (!(v > x)) return {0, 0, 0};
    const double r = sqrt(v - x) * sqrt(v + x);
    const double ratio = (v - x + r) / x;
    const double t = ratio - ratio == 0 ? log1p(ratio) : log(v) - log(x) + log(2.0);
    return {t, r, v * t - r};
}

// The path is that of an order w, which is v unless this is near x or above: with cos(beta) = w / x
// and r = x sin(beta) it is x cosh(a) sin(b) = w b + r - w beta, from 0 to pi, a + i b, through the
// saddle point i beta. Its parameter y is 0 there; both ends are infinitely far away.
__device__ inline void oscillating(double v, double x, double* j, double* second) {
    const double w = fmin(v, fmax(x - 2 * cbrt(x), 0.0)), excess = v - w;
    const double r = sqrt(x - w) * sqrt(x + w), beta = atan2(r, w), late = PI - beta;
    const Barrier barrier = barrier_of(v, x);
    // Apart from x itself, whose sine is exact, for orders that the path is made for.
    const double apart = excess > 0 ? 0 : x;
    const double phase = excess > 0 ? r - v * beta
        : v * atan2(v, r) - v * (v / (r + x)) - fmod(v, 4.0) * (PI / 2);
    const double step = fmin(1.0 / 14, 0.4 * PI / (sqrt(r) * beta * late));
    double cosines = 0, sines = 0;
    for (int side = -1; side <= 1; side += 2)
        for (int k = side > 0 ? 0 : 1; k < MOST; ++k) {
            const double y = side * k * step, fall = exp(-y);
            const double b = beta * late * -expm1(-y) / (beta + late * fall);  // from beta on
            const double angle = PI * beta / (beta + late * fall);
            const double rest = PI * late * fall / (beta + late * fall);
            const double sine = sin(fmin(angle, rest)), half = sin(0.5 * b);
            const double rise = (2 * (r / x) * half * half + w / x * cubic(b, -1)) / sine;
            const double root = copysign(sqrt(rise * (2 + rise)), y);  // sinh(a), rise cosh(a) - 1
            const double a = copysign(log1p(rise + fabs(root)), y);
            const double fallen = r * root * sin(b) + w * (2 * root * half * half - cubic(a, 1))
                + excess * a + barrier.height;
            if (!(fallen < DROP) && (side > 0 || !(a >= -barrier.t))) break;
            const double slope = k == 0 ? 1
                : (2 * sin(angle - 0.5 * b) * half - rise * cos(angle)) / (root * sine);
            const double weight = exp(-fallen) * angle * rest / PI;
            const double turned = phase - excess * b, c = cos(turned), s = sin(turned);
            cosines += weight * (c + slope * s);
            sines += weight * (s - slope * c);
        }
    const double c = cos(apart), s = sin(apart), factor = step / PI;
    *j = scaled(barrier.height, 0, factor * (c * cosines - s * sines));
    *second = scaled(barrier.height, 0, factor * (s * cosines + c * sines));
}

// J_v(x) and Y_v(x) of v of 0 or more and positive finite x.
__device__ inline double first_kind(double v, double x) {
    if (v < 150 && x * x <= 4 * (v + 1)) return leading_power(v, x) * power_series(v, x, -1);
    const Barrier barrier = barrier_of(v, x);
    if (v > x + cbrt(x)) {
        const double step = fmin(1 / (2 * sqrt(barrier.r)), 0.16 * barrier.t);
        return scaled(-barrier.height, 0, descent(v, x, barrier.r, step, -1));
    }
    double j, y;
    oscillating(v, x, &j, &y);
    return j;
}

__device__ inline double second_kind(double v, double x) {
    const Barrier barrier = barrier_of(v, x);
    if (barrier.height > 20.5) {
        // The saddle point at -t, whose integrand is real; what lies behind the other is J's size.
        const double step = 1 / (4 + 1.5 * sqrt(barrier.r));
        double total = 1;
        for (int side = -1; side <= 1; side += 2)
            for (int k = 1; k < MOST; ++k) {
                const double s = side * k * step, half = sinh(0.5 * s);
                const double fallen = 2 * barrier.r * half * half - v * cubic(s, 1);
                if (!(fallen < DROP)) break;
                total += exp(-fallen);
            }
        return -scaled(barrier.height, 0, total * step / PI);
    }
    double j, y;
    oscillating(v, x, &j, &y);
    return y;
}

// DLMF 10.2.3 for negative orders; a factor that is 0 takes no infinity.
__device__ inline double turned(double cosine, double one, double sine, double other) {
    return (cosine == 0 ? 0 : cosine * one) + (sine == 0 ? 0 : sine * other);
}

__device__ inline double first(double v, double x) {
    const double order = fabs(v), size = fabs(x);
    const bool is_whole = rint(v) == v, ends = size - size != 0;
    if (v != v || x != x || (x < 0 && !is_whole)) return none();
    if (order - order != 0) return ends ? none() : 0;
    if (ends) return 0;
    if (size == 0) {
        if (v >= 0 || is_whole) return v == 0;
        return fmod(floor(order), 2.0) == 0 ? infinite() : -infinite();  // the sign of gamma(v + 1)
    }
    double value = first_kind(order, size);
    if (v < 0) {
        const double sine = is_whole ? 0 : sine_of_turns(order);
        const double other = sine == 0 ? 0 : second_kind(order, size);
        value = turned(cosine_of_turns(order), value, -sine, other);
    }
    return x < 0 && fmod(v, 2.0) != 0 ? -value : value;
}

__device__ inline double second(double v, double x) {
    if (v != v || !(x >= 0)) return none();
    const double order = fabs(v);
    if (order - order != 0) return x - x == 0 ? -infinite() : none();
    if (x - x != 0) return 0;
    if (x == 0) return -infinite();
    const double value = second_kind(order, x);
    if (v >= 0) return value;
    const double sine = sine_of_turns(order);
    return turned(cosine_of_turns(order), value, sine, sine == 0 ? 0 : first_kind(order, x));
}

extern "C" __global__ void jv(const T* v, const T* x, T* out, long long count) {
    for_each<first>(v, x, out, count);
}

extern "C" __global__ void yv(const T* v, const T* x, T* out, long long count) {
    for_each<second>(v, x, out, count);
}
