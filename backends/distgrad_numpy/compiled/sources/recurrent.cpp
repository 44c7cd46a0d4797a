// LSTM and GRU over all steps of some examples: for each a product and one pass over the gates.
#include "bounded.hpp"
#include "crew.hpp"
#include "products.hpp"
using namespace distgrad;

constexpr index_t ROWS = 24;  // examples whose sums wait for the pass over the gates, on the stack

inline void copy(float* to, const float* from, index_t count) {
    if (count == LANES)
        __builtin_memcpy(to, from, sizeof(float) * LANES);
    else
        __builtin_memcpy(to, from, sizeof(float) * count);
}

// sums (rows, GATES, LANES) = bias, and `given` (rows, GATES, units) added, of `count` units.
template <int GATES>
APART void start(index_t rows, index_t units, index_t count, const float* bias, const float* given,
                 float* sums) {
    for (index_t row = 0; row < rows; ++row, sums += GATES * LANES) {
        __builtin_memcpy(sums, bias, sizeof(float) * GATES * LANES);
        if (!given) continue;
        for (index_t part = 0; part < GATES; ++part)
            for (index_t v = 0; v < count; ++v)
                sums[part * LANES + v] += given[(row * GATES + part) * units + v];
    }
}

// sums (rows, GATES, LANES) += a weights, of one panel of `arrange_gates`.
template <int GATES>
APART void add_product(index_t rows, index_t depth, const float* a, const float* weights,
                       float* sums) {
    constexpr index_t WIDTH = GATES * LANES;
    for (index_t k = 0; k < depth; k += DEEP)
        beside<GATES, false>(rows, least(DEEP, depth - k), a + k, depth, weights + k * WIDTH, WIDTH,
                             sums, WIDTH, true);
}

// How many columns `arrange_gates` makes of each gate's units, and `arrange_turned` of all units.
KERNEL index_t gate_columns(index_t units) { return whole(units); }
KERNEL index_t turned_columns(index_t units) { return arranged_columns(units); }

// Lay weights of (depth, gates units) out in panels of LANES units with all gates side by side.
KERNEL void arrange_gates(index_t depth, index_t units, index_t gates, const float* from,
                          float* __restrict to) {
    for (index_t first = 0; first < units; first += LANES) {
        const index_t count = least(LANES, units - first);
        for (index_t k = 0; k < depth; ++k)
            for (index_t gate = 0; gate < gates; ++gate, to += LANES) {
                const float* part = from + (k * gates + gate) * units + first;
                for (index_t i = 0; i < LANES; ++i) to[i] = i < count ? part[i] : 0.0f;
            }
    }
}

// Lay the transpose of (rows, columns) out in panels: a right side of `columns` terms.
KERNEL void arrange_turned(index_t rows, index_t columns, const float* from, float* to) {
    arrange_transpose(columns, rows, from, to);
}

// Rows begin <= r < end of a (rows, depth) times what `arrange_turned` made; c has all its columns.
static void rows_product(index_t begin, index_t end, index_t depth, index_t columns, const float* a,
                         const float* panels, float* c) {
    const index_t wide = arranged_columns(columns);
    for (index_t row = begin; row < end; row += 4 * ROWS)
        product(least(4 * ROWS, end - row), depth, columns, a + row * depth, depth, panels,
                c + row * wide, wide, false);
}

// Examples begin <= b < end of x (steps, batch, inputs); weights and biases lie as `arrange_gates`
// leaves them. Without x, given (steps, batch, 4 units) has its products with the kernel.
static void lstm(index_t begin, index_t end, index_t steps, index_t batch, index_t inputs,
                 index_t units, const float* x, const float* given, const float* h, const float* c,
                 const float* kernel, const float* recurrent, const float* bias, float* gates,
                 float* outputs, float* cells) {
    float sums[ROWS * 4 * LANES] __attribute__((aligned(64)));
    float before[LANES] = {}, values[6][LANES];
    for (index_t t = 0; t < steps; ++t) {
        for (index_t first = begin; first < end; first += ROWS) {
            const index_t rows = least(ROWS, end - first), place = t * batch + first;
            for (index_t u = 0; u < units; u += LANES) {
                const index_t count = least(LANES, units - u);
                const float* ready = given ? given + 4 * place * units + u : nullptr;
                start<4>(rows, units, count, bias + 4 * u, ready, sums);
                if (x)
                    add_product<4>(rows, inputs, x + place * inputs, kernel + 4 * u * inputs, sums);
                add_product<4>(rows, units, h + first * units, recurrent + 4 * u * units, sums);
                for (index_t row = 0; row < rows; ++row) {
                    const index_t at = (place + row) * units + u;
                    const float* own = sums + row * 4 * LANES;
                    copy(before, c + (first + row) * units + u, count);
#pragma omp simd
                    for (int v = 0; v < LANES; ++v) {
                        const float i = gate(own[v]), f = gate(own[v + LANES]);
                        const float g = squash(own[v + 2 * LANES]), o = gate(own[v + 3 * LANES]);
                        const float cell = f * before[v] + i * g;
                        values[0][v] = i;
                        values[1][v] = f;
                        values[2][v] = g;
                        values[3][v] = o;
                        values[4][v] = cell;
                        values[5][v] = o * squash(cell);
                    }
                    float* to = gates + (place + row) * 4 * units + u;
                    for (index_t part = 0; part < 4; ++part)
                        copy(to + part * units, values[part], count);
                    copy(cells + at, values[4], count);
                    copy(outputs + at, values[5], count);
                }
            }
        }
        h = outputs + t * batch * units;
        c = cells + t * batch * units;
    }
}

// sums (steps, batch, 4 units): the cotangents of the gates' sums. to_h (batch, turned_columns) and
// to_c (batch, units) are zero at first, and hold those of h and c in the end.
static void lstm_vjp(index_t begin, index_t end, index_t steps, index_t batch, index_t units,
                     const float* c, const float* recurrent, const float* cells, const float* gates,
                     const float* g_outputs, const float* g_cells, float* to_h, float* to_c,
                     float* sums) {
    const index_t wide = arranged_columns(units);
    for (index_t t = steps - 1; t >= 0; --t) {
        const float* earlier = t ? cells + (t - 1) * batch * units : c;
        for (index_t row = begin; row < end; ++row) {
            const index_t at = (t * batch + row) * units;
            const float *own = gates + 4 * at, *before = earlier + row * units;
            const float *cell = cells + at, *g_output = g_outputs + at;
            const float *to_output = to_h + row * wide, *g_cell = g_cells ? g_cells + at : nullptr;
            float *to_cell = to_c + row * units, *sum = sums + 4 * at;
            // Not in the loop below: vectors of what is not there, masked out, cost a hundred cycles.
            if (g_cell)
                for (index_t u = 0; u < units; ++u) to_cell[u] += g_cell[u];
#pragma omp simd
            for (index_t u = 0; u < units; ++u) {
                const float i = own[u], f = own[u + units];
                const float g = own[u + 2 * units], o = own[u + 3 * units];
                const float squashed = squash(cell[u]), to_out = to_output[u] + g_output[u];
                float to = to_cell[u];
                // c also has the cotangent that comes by way of h = o tanh(c).
                to += to_out * (o * (1.0f - squashed * squashed));
                sum[u] = to * (g * (i * (1.0f - i)));
                sum[u + units] = to * (before[u] * (f * (1.0f - f)));
                sum[u + 2 * units] = to * (i * (1.0f - g * g));
                sum[u + 3 * units] = to_out * (squashed * (o * (1.0f - o)));
                to_cell[u] = to * f;
            }
        }
        product(end - begin, 4 * units, units, sums + (t * batch + begin) * 4 * units, 4 * units,
                recurrent, to_h + begin * wide, wide, false);
    }
}

// As `lstm`, with a bias for each product.
static void gru(index_t begin, index_t end, index_t steps, index_t batch, index_t inputs,
                index_t units, const float* x, const float* given, const float* h,
                const float* kernel, const float* recurrent, const float* bias,
                const float* past_bias, float* gates, float* outputs) {
    float sums[ROWS * 3 * LANES] __attribute__((aligned(64)));
    float past_sums[ROWS * 3 * LANES] __attribute__((aligned(64)));
    float before[LANES] = {}, values[5][LANES];
    for (index_t t = 0; t < steps; ++t) {
        for (index_t first = begin; first < end; first += ROWS) {
            const index_t rows = least(ROWS, end - first), place = t * batch + first;
            for (index_t u = 0; u < units; u += LANES) {
                const index_t count = least(LANES, units - u);
                const float* ready = given ? given + 3 * place * units + u : nullptr;
                start<3>(rows, units, count, bias + 3 * u, ready, sums);
                start<3>(rows, units, count, past_bias + 3 * u, nullptr, past_sums);
                if (x)
                    add_product<3>(rows, inputs, x + place * inputs, kernel + 3 * u * inputs, sums);
                add_product<3>(rows, units, h + first * units, recurrent + 3 * u * units,
                               past_sums);
                for (index_t row = 0; row < rows; ++row) {
                    const float *own = sums + row * 3 * LANES, *past = past_sums + row * 3 * LANES;
                    copy(before, h + (first + row) * units + u, count);
#pragma omp simd
                    for (int v = 0; v < LANES; ++v) {
                        const float r = gate(own[v] + past[v]);
                        const float z = gate(own[v + LANES] + past[v + LANES]);
                        const float memory = past[v + 2 * LANES];
                        const float n = squash(own[v + 2 * LANES] + r * memory);
                        values[0][v] = r;
                        values[1][v] = z;
                        values[2][v] = n;
                        values[3][v] = memory;
                        values[4][v] = n + z * (before[v] - n);
                    }
                    float* to = gates + (place + row) * 4 * units + u;
                    for (index_t part = 0; part < 4; ++part)
                        copy(to + part * units, values[part], count);
                    copy(outputs + (place + row) * units + u, values[4], count);
                }
            }
        }
        h = outputs + t * batch * units;
    }
}

// own, past (steps, batch, 3 units): the cotangents of both sums; to_h as in `lstm_vjp`.
static void gru_vjp(index_t begin, index_t end, index_t steps, index_t batch, index_t units,
                    const float* h, const float* recurrent, const float* outputs,
                    const float* gates, const float* g_outputs, float* to_h, float* to_own,
                    float* to_past) {
    const index_t wide = arranged_columns(units);
    for (index_t t = steps - 1; t >= 0; --t) {
        const float* earlier = t ? outputs + (t - 1) * batch * units : h;
        for (index_t row = begin; row < end; ++row) {
            const index_t at = (t * batch + row) * units;
            const float *kept = gates + 4 * at, *before = earlier + row * units;
            const float* g_output = g_outputs + at;
            float *to_output = to_h + row * wide, *own = to_own + 3 * at, *past = to_past + 3 * at;
#pragma omp simd
            for (index_t u = 0; u < units; ++u) {
                const float r = kept[u], z = kept[u + units];
                const float n = kept[u + 2 * units], memory = kept[u + 3 * units];
                const float to = to_output[u] + g_output[u];
                const float to_n = to * ((1.0f - z) * (1.0f - n * n));
                const float to_r = to_n * (memory * (r * (1.0f - r)));
                const float to_z = to * ((before[u] - n) * (z * (1.0f - z)));
                own[u] = to_r;
                own[u + units] = to_z;
                own[u + 2 * units] = to_n;
                past[u] = to_r;
                past[u + units] = to_z;
                past[u + 2 * units] = to_n * r;
                to_output[u] = to * z;
            }
        }
        product(end - begin, 3 * units, units, to_past + (t * batch + begin) * 3 * units,
                3 * units, recurrent, to_h + begin * wide, wide, true);
    }
}

SHARED(rows_product)
SHARED(lstm)
SHARED(lstm_vjp)
SHARED(gru)
SHARED(gru_vjp)
