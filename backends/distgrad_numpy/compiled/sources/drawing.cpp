// Normal numbers of random words, by the transform of Box and Muller.
#include "crew.hpp"
#include "real.hpp"

using namespace distgrad;
using distgrad::otherwise::log;  // of a double

namespace {

constexpr int LANES = 16;  // pairs at a time: always as many, so that a number's bits are its own

// The sine and cosine of what is left after quarter turns, |r| <= pi / 4; by Taylor's series.
INLINED void sine_and_cosine_of_rest(float r, float& sine, float& cosine) {
    const float z = r * r;
    const float s = polynomial(z, -1.66666667e-1f, 8.33333333e-3f, -1.98412698e-4f, 2.75573192e-6f);
    sine = multiply_add(s * z, r, r);
    cosine = polynomial(z, 1.0f, -0.5f, 4.16666667e-2f, -1.38888889e-3f, 2.48015873e-5f, -2.75573192e-7f);
}

// In double by minimax fits, off by less than 2^-55.
INLINED void sine_and_cosine_of_rest(double r, double& sine, double& cosine) {
    const double z = r * r;
    const double s = polynomial(
        z, -0.16666666666666664622, 0.0083333333333309472945, -0.00019841269836756772528,
        2.7557316101617874437e-6, -2.505113165023518147e-8, 1.5918115263265975194e-10);
    const double c = polynomial(
        z, 0.041666666666666665388, -0.0013888888888887396492, 0.000024801587298764560771,
        -2.7557317271145145962e-7, 2.0876146146558611582e-9, -1.1382623647474604629e-11);
    sine = multiply_add(s * z, r, r);
    cosine = multiply_add(c * z, z, multiply_add(z, -0.5, 1.0));
}

// What is left of 0 <= x < 2 pi after so many quarter turns: pi / 2 in parts, the first one exact.
INLINED float rest_of_quarters(float x, float turns) {
    return ((x - turns * 1.5703125f) - turns * 4.83751297e-4f) - turns * 7.54978995e-8f;
}
INLINED double rest_of_quarters(double x, double turns) {
    return multiply_add(turns, -6.077100506506192e-11, x - turns * 1.5707963267341256);
}

// The sine and cosine of 0 <= x < 2 pi: of the rest after quarter turns, and turned back.
INLINED void sine_and_cosine(real x, real& sine, real& cosine) {
    constexpr real ROUNDER = sizeof(real) == 4 ? 12582912.0 : WHOLE;  // leaves whole numbers
    const real turns = (x * (real)0.636619772367581343 + ROUNDER) - ROUNDER;
    real s, c;
    sine_and_cosine_of_rest(rest_of_quarters(x, turns), s, c);
    const bool swapped = turns == 1 || turns == 3;
    const real first = swapped ? c : s, second = swapped ? s : c;
    sine = turns >= 2 && turns < 4 ? -first : first;
    cosine = turns == 1 || turns == 2 ? -second : second;
}

// Random words, and what becomes of them: numbers in (0, 1], of which all bits of a word count, so
// that the tail reaches to 6.8 deviations (in double to 9.5); and angles in [0, 2 pi).
template <class T>
struct Random;

template <>
struct Random<float> {
    typedef unsigned word;
    static INLINED float portion(word w) { return (float)w * 0x1p-32f + 0x1p-33f; }
    static INLINED float angle(word w) { return (float)(int)(w >> 8) * 3.74507039e-7f; }
};

template <>
struct Random<double> {
    typedef unsigned long long word;
    // A word as a number, by the bits of sums: not all processors convert vectors of words.
    static INLINED double number(word w) {
        const double high = double_of((index_t)(w >> 32 | 0x4530000000000000));  // + 2^84
        const double low = double_of((index_t)((w & 0xffffffff) | 0x4330000000000000));  // + 2^52
        return (high - 19342813118337666422669312.0) + low;  // 2^84 + 2^52
    }
    static INLINED double portion(word w) { return number(w) * 0x1p-64 + 0x1p-65; }
    static INLINED double angle(word w) { return number(w >> 11) * 6.97573699601726349e-16; }
};

typedef Random<real> Of;
typedef Of::word word_t;

inline void draw(const word_t* words, real* out) {
    real even[LANES], odd[LANES];
#pragma omp simd
    for (int i = 0; i < LANES; ++i) {
        const real radius = sqrt(fabs(log(Of::portion(words[2 * i])) * -2));
        real sine, cosine;
        sine_and_cosine(Of::angle(words[2 * i + 1]), sine, cosine);
        even[i] = radius * cosine;
        odd[i] = radius * sine;
    }
    for (int i = 0; i < LANES; ++i) {
        out[2 * i] = even[i];
        out[2 * i + 1] = odd[i];
    }
}

}  // namespace

// Of the words of some pairs, as many normal numbers.
static void normal(index_t begin, index_t end, const word_t* words, real* out) {
    index_t done = begin;
    for (; done + LANES <= end; done += LANES) draw(words + 2 * done, out + 2 * done);
    if (done < end) {
        word_t last[2 * LANES] = {};
        real made[2 * LANES];
        for (index_t i = 2 * done; i < 2 * end; ++i) last[i - 2 * done] = words[i];
        draw(last, made);
        for (index_t i = 2 * done; i < 2 * end; ++i) out[i] = made[i - 2 * done];
    }
}

SHARED(normal)
