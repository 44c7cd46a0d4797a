// One step of an LSTM or a GRU between two products of matrices: a thread for each unit.
//
// Kernels take the arrays of all steps and the number of one: to cut an array on the host takes a
// good part of the time of a launch.

__device__ inline A squashed(A x) {
    return (A)0.5 * (tanh((A)0.5 * x) + 1);  // by tanh, which cannot overflow
}

// Where numbers of a step begin, and the state before it.
__device__ inline const T* at_step(const T* all, long long size, long long step) {
    return all + step * size;
}

__device__ inline T* at_step(T* all, long long size, long long step) { return all + step * size; }

__device__ inline const T* before_step(const T* first, const T* all, long long size, long long step) {
    return step ? all + (step - 1) * size : first;
}

#define EACH_UNIT                                                                                 \
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < size;                \
         i += gridDim.x * (long long)blockDim.x)

// Gates hold what the inputs add to their sums, then their values: input, forget, candidate, output.
extern "C" __global__ void lstm_step(
    T* all_gates, const T* product, const T* first, T* all_cells, T* all_outputs, long long step,
    long long batch, long long units
) {
    const long long size = batch * units;
    const T* before = before_step(first, all_cells, size, step);
    T *gates = at_step(all_gates, 4 * size, step), *cells = at_step(all_cells, size, step);
    T* outputs = at_step(all_outputs, size, step);
    EACH_UNIT {
        const long long at = i / units * 4 * units + i % units;
        A sums[4];
        for (int k = 0; k < 4; ++k) sums[k] = (A)gates[at + k * units] + (A)product[at + k * units];
        const A input = squashed(sums[0]), forget = squashed(sums[1]);
        const A candidate = tanh(sums[2]), output = squashed(sums[3]);
        const A cell = forget * (A)before[i] + input * candidate;
        gates[at] = (T)input;
        gates[at + units] = (T)forget;
        gates[at + 2 * units] = (T)candidate;
        gates[at + 3 * units] = (T)output;
        cells[i] = (T)cell;
        outputs[i] = (T)(output * tanh(cell));
    }
}

// Cotangents of the sums, from those of the output (`to_h` has what came by the next step) and of
// the cell; `to_c` becomes the cotangent of the cell before.
extern "C" __global__ void lstm_step_vjp(
    const T* all_gates, const T* all_cells, const T* first, const T* all_g_outputs,
    const T* all_g_cells, const T* all_g_gates, const T* to_h, T* to_c, T* all_sums, long long step,
    long long batch, long long units
) {
    const long long size = batch * units;
    const T* before = before_step(first, all_cells, size, step);
    const T *gates = at_step(all_gates, 4 * size, step), *cells = at_step(all_cells, size, step);
    const T* g_outputs = at_step(all_g_outputs, size, step);
    const T* g_cells = at_step(all_g_cells, size, step);
    const T* g_gates = at_step(all_g_gates, 4 * size, step);
    T* sums = at_step(all_sums, 4 * size, step);
    EACH_UNIT {
        const long long at = i / units * 4 * units + i % units;
        const A input = (A)gates[at], forget = (A)gates[at + units];
        const A candidate = (A)gates[at + 2 * units], output = (A)gates[at + 3 * units];
        const A squeezed = tanh((A)cells[i]);
        const A h = (A)g_outputs[i] + (A)to_h[i];
        const A c = (A)g_cells[i] + (A)to_c[i] + h * output * (1 - squeezed * squeezed);
        sums[at] = (T)((c * candidate + (A)g_gates[at]) * input * (1 - input));
        sums[at + units] =
            (T)((c * (A)before[i] + (A)g_gates[at + units]) * forget * (1 - forget));
        sums[at + 2 * units] =
            (T)((c * input + (A)g_gates[at + 2 * units]) * (1 - candidate * candidate));
        sums[at + 3 * units] =
            (T)((h * squeezed + (A)g_gates[at + 3 * units]) * output * (1 - output));
        to_c[i] = (T)(c * forget);
    }
}

// Gates become reset, update, candidate and memory, four side by side where inputs have three.
extern "C" __global__ void gru_step(
    const T* all_inputs, const T* product, const T* bias, const T* first, T* all_gates,
    T* all_outputs, long long step, long long batch, long long units
) {
    const long long size = batch * units;
    const T* inputs = at_step(all_inputs, 3 * size, step);
    const T* before = before_step(first, all_outputs, size, step);
    T *gates = at_step(all_gates, 4 * size, step), *outputs = at_step(all_outputs, size, step);
    EACH_UNIT {
        const long long unit = i % units;
        const long long at = i / units * 3 * units + unit, to = i / units * 4 * units + unit;
        A past[3];
        for (int k = 0; k < 3; ++k)
            past[k] = (A)product[at + k * units] + (A)bias[unit + k * units];
        const A reset = squashed((A)inputs[at] + past[0]);
        const A update = squashed((A)inputs[at + units] + past[1]);
        const A candidate = tanh((A)inputs[at + 2 * units] + reset * past[2]);
        gates[to] = (T)reset;
        gates[to + units] = (T)update;
        gates[to + 2 * units] = (T)candidate;
        gates[to + 3 * units] = (T)past[2];
        outputs[i] = (T)(candidate + update * ((A)before[i] - candidate));
    }
}

// Cotangents of the sums of the inputs and of those of the past. What came to the output by the step
// behind is `to_h` and, but for the last step, `product`; `to_h` becomes what goes on to the output
// before, without the product.
extern "C" __global__ void gru_step_vjp(
    const T* all_gates, const T* first, const T* all_outputs, const T* all_g_outputs,
    const T* all_g_gates, const T* product, T* to_h, T* all_own, T* all_past, long long step,
    long long batch, long long units
) {
    const long long size = batch * units;
    const T* before = before_step(first, all_outputs, size, step);
    const T *gates = at_step(all_gates, 4 * size, step);
    const T* g_outputs = at_step(all_g_outputs, size, step);
    const T* g_gates = at_step(all_g_gates, 4 * size, step);
    T *to_own = at_step(all_own, 3 * size, step), *to_past = at_step(all_past, 3 * size, step);
    EACH_UNIT {
        const long long unit = i % units;
        const long long to = i / units * 3 * units + unit, at = i / units * 4 * units + unit;
        const A reset = (A)gates[at], update = (A)gates[at + units];
        const A candidate = (A)gates[at + 2 * units], memory = (A)gates[at + 3 * units];
        const A g = (A)g_outputs[i] + (A)to_h[i] + (product ? (A)product[i] : 0);
        const A to_n =
            (g * (1 - update) + (A)g_gates[at + 2 * units]) * (1 - candidate * candidate);
        const A to_r = (to_n * memory + (A)g_gates[at]) * reset * (1 - reset);
        const A to_z = (g * ((A)before[i] - candidate) + (A)g_gates[at + units]) * update *
                       (1 - update);
        to_own[to] = to_past[to] = (T)to_r;
        to_own[to + units] = to_past[to + units] = (T)to_z;
        to_own[to + 2 * units] = (T)to_n;
        to_past[to + 2 * units] = (T)(to_n * reset + (A)g_gates[at + 3 * units]);
        to_h[i] = (T)(g * update);
    }
}
