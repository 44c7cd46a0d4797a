"""What the host finds in CUDA kernels that a device forbids, and would hardly tell of."""

import numpy as np
import pytest

WIDE = "struct alignas(16) Load { float at[4]; };\n"
RIGHT = {
    "a barrier between": """
        __shared__ float all[64];
        all[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
        y[threadIdx.x] = all[63 - threadIdx.x];
        __syncthreads();
        all[63 - threadIdx.x] = 1;""",
    "a barrier of a warp between": """
        __shared__ float all[64];
        all[threadIdx.x] = x[threadIdx.x];
        __syncwarp();
        y[threadIdx.x] = all[threadIdx.x ^ 1];""",
    "several readers": "y[threadIdx.x] = x[0] + x[1];",
    "numbers shown by the warp": "y[threadIdx.x] = __shfl_xor_sync(~0u, x[threadIdx.x], 16);",
    "wide loads": """
        Load own = *(const Load*)(x + 4 * (threadIdx.x % 16));
        if (threadIdx.x < 16) *(Load*)(y + 4 * threadIdx.x) = own;""",
}
WRONG = {
    "no barrier between writing and reading": (
        """
        __shared__ float all[64];
        all[threadIdx.x] = x[threadIdx.x];
        y[threadIdx.x] = all[threadIdx.x / 2];""",
        "no barrier between",
    ),
    "no barrier between reading and writing": (
        """
        __shared__ float all[64];
        all[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
        y[threadIdx.x] = all[63 - threadIdx.x];
        all[threadIdx.x] = 1;""",
        "no barrier between",
    ),
    "a barrier of the warp alone": (
        """
        __shared__ float all[64];
        all[threadIdx.x] = x[threadIdx.x];
        __syncwarp();
        y[threadIdx.x] = all[63 - threadIdx.x];""",
        "nobody has written",
    ),
    "a number shown in place of a barrier": (
        """
        __shared__ float all[64];
        all[threadIdx.x] = x[threadIdx.x];
        float shown = __shfl_xor_sync(~0u, 1.0f, 1);
        y[threadIdx.x] = all[threadIdx.x ^ 1] + shown;""",
        "no barrier between",
    ),
    "two threads that write the same": ("y[threadIdx.x / 2] = 1;", "no barrier between"),
    "two blocks that write the same": ("y[threadIdx.x] = 1;", "of block 0 writes"),
    "a number from a thread that shows none": (
        "if (threadIdx.x < 16) y[threadIdx.x] = __shfl_xor_sync(0xffffu, x[threadIdx.x], 16);",
        "which shows none",
    ),
    "shared memory that nobody has written": (
        """
        __shared__ float all[64];
        if (threadIdx.x < 60) all[threadIdx.x] = x[threadIdx.x];
        y[threadIdx.x] = all[threadIdx.x];""",
        "nobody has written",
    ),
    "a read behind the end": ("y[threadIdx.x] = x[threadIdx.x + 1];", "no array's"),
    "a read before the beginning": ("y[threadIdx.x] = x[(int)threadIdx.x - 1];", "no array's"),
    "a write behind the end": ("y[threadIdx.x + 1] = 0;", "writes 4 bytes that are no array's"),
    "a wide load at an odd place": (
        "Load own = *(const Load*)(x + 1); y[threadIdx.x] = own.at[0];",
        "no multiple of 16 bytes",
    ),
    "a wide store at an odd place": (
        "Load own = {{1, 2, 3, 4}}; if (!threadIdx.x) *(Load*)(y + 2) = own;",
        "writes an array at no multiple of 16 bytes",
    ),
}


def run(runner, body, blocks=1):
    x, y = np.ones(64, np.float32), np.zeros(64, np.float32)
    text = f'{WIDE}extern "C" __global__ void watched(const float* x, float* y) {{ {body} }}\n'
    runner.run(text, "watched", (blocks,), 64, (x, y))


@pytest.mark.parametrize("what", RIGHT)
def test_nothing_is_said_of_what_a_device_allows(what, watched_runner):
    run(watched_runner, RIGHT[what])


@pytest.mark.parametrize("what", WRONG)
def test_what_a_device_forbids_is_found(what, watched_runner):
    body, says = WRONG[what]

    with pytest.raises(AssertionError, match=says):
        run(watched_runner, body, 1 + ("two blocks" in what))
