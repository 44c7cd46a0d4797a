"""Formulas over contiguous arrays: CUDA that reads and writes 16 bytes of an array at a time.

A device reaches the bandwidth of its memory only with many bytes under way. CuPy's own kernels load
one element for each thread, a quarter of that in single and an eighth in half precision; here each
thread has a few elements side by side. Arrays that are not all of one shape and each one line in
memory stay with CuPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from distgrad.backend.scalar_code import C_TYPES, Formula
from distgrad.dtypes import is_real_floating
from distgrad_cupy.running import THREADS, Runner, headers, line_of

Array = Any

BYTES = 16  # of the widest load
_MOST_BLOCKS = 2**31 - 1  # along the first axis of a grid


def width_of(formula: Formula) -> int:
    """Return how many elements a thread has side by side: 16 bytes of the narrowest floats."""
    dtypes = [dtype for _, dtype in (*formula.inputs, *formula.outputs)]
    sizes = [dtype.itemsize for dtype in dtypes if is_real_floating(dtype)]
    return BYTES // min(sizes, default=BYTES)


def element_source(formula: Formula) -> str:
    """Return the CUDA of one element of a formula, and of the elements that are loaded at once.

    Notes
    -----
    There are then ``compute``, a function that takes the formula's inputs and its outputs by
    reference, ``WIDTH``, and ``Several<E>``, so many elements side by side.
    """
    given = [f"const {C_TYPES[dtype.name]}& {name}" for name, dtype in formula.inputs]
    made = [f"{C_TYPES[dtype.name]}& {name}" for name, dtype in formula.outputs]
    names = [dtype.name for _, dtype in (*formula.inputs, *formula.outputs)]
    return f"""{headers(names)}
const int WIDTH = {width_of(formula)};

template <class E>
struct alignas(sizeof(E) * WIDTH < {BYTES} ? sizeof(E) * WIDTH : {BYTES}) Several {{
    E at[WIDTH];
}};

__device__ __forceinline__ void compute({", ".join([*given, *made])}) {{
{formula.body}
}}
"""


def kernel_source(formula: Formula, name: str) -> str:
    """Return the CUDA of a formula over arrays, behind `element_source`.

    Notes
    -----
    The kernel takes a pointer for each input and each output, or the number that an input is, and
    the number of elements. Arrays that do not begin at a multiple of 16 bytes are read element by
    element.
    """
    given = [(f"p{place}", C_TYPES[d.name]) for place, (_, d) in enumerate(formula.inputs)]
    numbers = {f"p{i}" for i, (name, _) in enumerate(formula.inputs) if name in formula.numbers}
    own = [each for each in given if each[0] not in numbers]
    out = [(f"q{place}", C_TYPES[d.name]) for place, (_, d) in enumerate(formula.outputs)]
    parameters = [f"const {kind}{'' if each in numbers else '*'} {each}" for each, kind in given]
    parameters += [f"{kind}* {each}" for each, kind in out]
    one = [each if each in numbers else f"{each}[j]" for each, _ in given]
    one += [f"{each}[j]" for each, _ in out]
    return f"""
extern "C" __global__ void {name}({", ".join(parameters)}, long long count) {{
    const long long stride = gridDim.x * (long long)blockDim.x * WIDTH;
    const bool aligned = {aligned([each for each, _ in (*own, *out)])};
    for (long long i = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * WIDTH; i < count;
         i += stride) {{
        if (aligned && i + WIDTH <= count) {{
{several(own, out, given, "            ")}
        }} else {{
            for (long long j = i; j < i + WIDTH && j < count; ++j)
                compute({", ".join(one)});
        }}
    }}
}}
"""


def aligned(pointers: Sequence[str]) -> str:
    """Return an expression: whether all of some pointers are multiples of 16 bytes."""
    joined = " | ".join(f"(unsigned long long){each}" for each in pointers)
    return f"({joined}) % {BYTES} == 0"


def several(
    inputs: Sequence[tuple[str, str]],
    outputs: Sequence[tuple[str, str]],
    given: Sequence[tuple[str, str]],
    indent: str,
) -> str:
    """Return the lines that compute elements `i` to ``i + WIDTH - 1`` of arrays.

    Parameters
    ----------
    inputs, outputs : sequence of (str, str)
        Pointers and the types of their elements.
    given : sequence of (str, str)
        What `compute` takes as inputs: those of `inputs`, which are loaded, and others, which are
        handed on as they are.
    indent : str
        Before each line.
    """
    loaded = {each for each, _ in inputs}
    lines = [f"const Several<{k}> {e}s = *(const Several<{k}>*)({e} + i);" for e, k in inputs]
    lines += [f"Several<{kind}> {each}s;" for each, kind in outputs]
    taken = [f"{each}s.at[k]" if each in loaded else each for each, _ in given]
    taken += [f"{each}s.at[k]" for each, _ in outputs]
    lines += [
        "#pragma unroll",
        "for (int k = 0; k < WIDTH; ++k)",
        f"    compute({', '.join(taken)});",
    ]
    lines += [f"*(Several<{kind}>*)({each} + i) = {each}s;" for each, kind in outputs]
    return "\n".join(indent + line for line in lines)


class Contiguous:
    """A formula on arrays: the kernel of this module where it can be, else another one.

    Parameters
    ----------
    run : Runner
        What starts the kernel.
    formula : Formula
        What to compute for each element.
    otherwise : callable
        ``otherwise(*arrays)``: a kernel that broadcasts, for all other arrays.
    """

    def __init__(self, run: Runner, formula: Formula, otherwise: Callable[..., Any]) -> None:
        self._run = run
        self._name = f"distgrad_{formula.name}"
        self._text = element_source(formula) + kernel_source(formula, self._name)
        self._each = width_of(formula) * THREADS
        self._outputs = [dtype for _, dtype in formula.outputs]
        self._numbers = [name in formula.numbers for name, _ in formula.inputs]
        self._otherwise = otherwise

    def __call__(self, *arrays: Array) -> Any:
        """Return what the formula makes of arrays, or numbers: one, or a tuple of several."""
        run, shape = self._run, None
        array_type, device = run.module.ndarray, run.device
        for each, is_number in zip(arrays, self._numbers, strict=True):
            if is_number:
                continue
            if shape is None:
                shape = getattr(each, "shape", None)
            if (
                not isinstance(each, array_type)
                or each.shape != shape
                or line_of(each, device) is None
            ):
                return self._otherwise(*arrays)
        made = [run.module.empty(shape, dtype) for dtype in self._outputs]
        count = prod(shape)  # type: ignore[arg-type]  # of an array by now
        if count:
            grid = (min(-(-count // self._each), _MOST_BLOCKS),)
            arguments = (*arrays, *made, np.int64(count))
            run.launch_text(self._text, self._name, grid, THREADS, arguments)
        return made[0] if len(made) == 1 else tuple(made)
