// Normal numbers of random words, by the transform of Box and Muller.
#include "crew.hpp"
#include "vector.hpp"

using namespace distgrad;

namespace {

constexpr int LANES = 16;  // pairs at a time: always as many, so that a number's bits are its own

// The sine and cosine of 0 <= x < 2 pi: of what is left after quarter turns, and turned back.
inline void sine_and_cosine(float x, float& sine, float& cosine) {
    const float turns = __builtin_rintf(x * 0.636619772f);
    float r = x - turns * 1.5703125f;  // pi / 2 in three parts, of which the first is exact
    r = r - turns * 4.83751297e-4f;
    r = r - turns * 7.54978995e-8f;
    const float z = r * r;
    float s = 2.75573192e-6f;
    s = s * z - 1.98412698e-4f;
    s = s * z + 8.33333333e-3f;
    s = s * z - 1.66666667e-1f;
    s = s * z * r + r;
    float c = -2.75573192e-7f;
    c = c * z + 2.48015873e-5f;
    c = c * z - 1.38888889e-3f;
    c = c * z + 4.16666667e-2f;
    c = c * z - 0.5f;
    c = c * z + 1.0f;
    const int quarter = (int)turns & 3;
    const bool swapped = quarter & 1;
    const float first = swapped ? c : s, second = swapped ? s : c;
    sine = quarter >= 2 ? -first : first;
    cosine = quarter == 1 || quarter == 2 ? -second : second;
}

inline void draw(const unsigned* words, float* out) {
    float even[LANES], odd[LANES];
#pragma omp simd
    for (int i = 0; i < LANES; ++i) {
        // In (0, 1]: all bits of a word count, so that the tail reaches to 6.8 deviations.
        const float u = (float)words[2 * i] * 0x1p-32f + 0x1p-33f;
        const float radius = sqrt(fabs(log(u) * -2.0f));
        float sine, cosine;
        sine_and_cosine((float)(int)(words[2 * i + 1] >> 8) * 3.74507039e-7f, sine, cosine);
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
static void normal(index_t begin, index_t end, const unsigned* words, float* out) {
    index_t done = begin;
    for (; done + LANES <= end; done += LANES) draw(words + 2 * done, out + 2 * done);
    if (done < end) {
        unsigned last[2 * LANES] = {};
        float made[2 * LANES];
        for (index_t i = 2 * done; i < 2 * end; ++i) last[i - 2 * done] = words[i];
        draw(last, made);
        for (index_t i = 2 * done; i < 2 * end; ++i) out[i] = made[i - 2 * done];
    }
}

SHARED(normal)
