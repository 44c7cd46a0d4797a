"""Formulas over contiguous arrays: CUDA that reads and writes 16 bytes of an array at a time.

A device reaches the bandwidth of its memory only with many bytes under way. CuPy's own kernels load
one element for each thread, a quarter of that in single and an eighth in half precision; here each
thread has a few elements side by side. Arrays are of one shape, or rows that repeat in it, such as
a bias, and each one line in memory; others stay with CuPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from distgrad.backend.scalar_code import C_TYPES, Formula
from distgrad.dtypes import is_real_floating
from distgrad_cupy.running import THREADS, Runner, headers, line_of

Array = Any
Shape = tuple[int, ...]

BYTES = 16  # of the widest load
_MOST_BLOCKS = 2**31 - 1  # along the first axis of a grid
# Elements from which rows that repeat are worth a kernel of their own, which has to be compiled.
_MANY_FOR_ROWS = 1 << 16
WHOLE, ROW, ONE = "whole", "row", "one"  # see `Repeats`


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


def kernel_source(formula: Formula, name: str, seen: Sequence[str] = ()) -> str:
    """Return the CUDA of a formula over arrays, behind `element_source`.

    Parameters
    ----------
    formula : Formula
        What to compute.
    name : str
        Of the kernel.
    seen : sequence of str, optional
        For each input `WHOLE`, `ROW` or `ONE`, see `Repeats`; all whole by default.

    Notes
    -----
    The kernel takes a pointer for each input and each output, or the number that an input is, the
    number of elements, and where there are rows, their length. Arrays that do not begin at a
    multiple of 16 bytes, or have rows of another length, are read element by element.
    """
    given = [(f"p{place}", C_TYPES[d.name]) for place, (_, d) in enumerate(formula.inputs)]
    out = [(f"q{place}", C_TYPES[d.name]) for place, (_, d) in enumerate(formula.outputs)]
    numbers = {f"p{i}" for i, (name, _) in enumerate(formula.inputs) if name in formula.numbers}
    rows = {f"p{place}" for place, how in enumerate(seen) if how == ROW} - numbers
    ones = {f"p{place}" for place, how in enumerate(seen) if how == ONE} - numbers
    loaded = [each for each in given if each[0] not in numbers | ones]
    parameters = [f"const {kind}{'' if each in numbers else '*'} {each}" for each, kind in given]
    parameters += [f"{kind}* {each}" for each, kind in out]
    parameters += ["long long count", *["long long width"] * bool(rows)]
    whole = aligned([each for each, _ in (*loaded, *out)])
    place = {each: "i % width" if each in rows else "i" for each, _ in loaded}
    alone = {each: f"*{each}" if each in ones else each for each, _ in given}
    one = [
        f"{each}[j % width]" if each in rows
        else f"{each}[j]" if each in place
        else alone[each]
        for each, _ in given
    ]  # fmt: skip
    one += [f"{each}[j]" for each, _ in out]
    handed = [(each if each in place else alone[each], kind) for each, kind in given]
    return f"""
extern "C" __global__ void {name}({", ".join(parameters)}) {{
    const long long stride = gridDim.x * (long long)blockDim.x * WIDTH;
    const bool aligned = {whole}{" && width % WIDTH == 0" if rows else ""};
    for (long long i = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * WIDTH; i < count;
         i += stride) {{
        if (aligned && i + WIDTH <= count) {{
{several(loaded, out, handed, "            ", place)}
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
    places: Mapping[str, str] = MappingProxyType({}),
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
    places : mapping of str to str
        By pointer where the elements stand that are loaded, if not at `i`.
    """
    loaded = {each for each, _ in inputs}
    lines = [
        f"const Several<{kind}> {each}s = *(const Several<{kind}>*)({each} + {place});"
        for each, kind in inputs
        for place in [places.get(each, "i")]
    ]
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


class Repeats(NamedTuple):
    """How arrays are seen over the elements of the largest one.

    Attributes
    ----------
    seen : tuple of str
        For each array whether it is as large (`WHOLE`), repeats along leading axes (`ROW`), or is
        one number (`ONE`).
    shape : tuple of int
        Of the largest.
    width : int
        The length of what repeats; 0 where nothing does.
    """

    seen: tuple[str, ...]
    shape: Shape
    width: int


def repeats_of(shapes: Sequence[Shape]) -> Repeats | None:
    """Return how arrays of some shapes are seen; None where they broadcast in another way."""
    whole = max(shapes, key=lambda shape: (prod(shape), len(shape)))
    seen, width = [], 0
    for shape in shapes:
        if shape == whole:
            seen.append(WHOLE)
            continue
        if len(shape) > len(whole):
            return None
        if prod(shape) == 1:
            seen.append(ONE)
            continue
        core = shape[next(axis for axis, n in enumerate(shape) if n != 1) :]
        length = prod(core)
        if core != whole[len(whole) - len(core) :] or width not in (0, length):
            return None
        seen.append(ROW)
        width = length
    return Repeats(tuple(seen), whole, width)


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
        self._formula = formula
        self._name = f"distgrad_{formula.name}"
        self._each = width_of(formula) * THREADS
        self._outputs = [dtype for _, dtype in formula.outputs]
        self._arrays = [
            p for p, (name, _) in enumerate(formula.inputs) if not self._is_number(name)
        ]
        self._texts: dict[tuple[str, ...], str] = {}
        self._otherwise = otherwise

    def _is_number(self, name: str) -> bool:
        return name in self._formula.numbers

    def __call__(self, *operands: Array) -> Any:
        """Return what the formula makes of arrays, or numbers: one, or a tuple of several."""
        run = self._run
        array_type, device = run.module.ndarray, run.device
        seen: tuple[str, ...]
        arrays = [operands[place] for place in self._arrays]
        for each in arrays:
            if not isinstance(each, array_type) or line_of(each, device) is None:
                return self._otherwise(*operands)
        shape, seen, width = arrays[0].shape, (), 0
        if not all(each.shape == shape for each in arrays):
            found = repeats_of([each.shape for each in arrays])
            if found is None or prod(found.shape) < _MANY_FOR_ROWS:
                return self._otherwise(*operands)
            seen, shape, width = found
        made = [run.module.empty(shape, dtype) for dtype in self._outputs]
        count = prod(shape)
        if count:
            grid = (min(-(-count // self._each), _MOST_BLOCKS),)
            arguments = (*operands, *made, np.int64(count), *[np.int64(width)] * bool(width))
            run.launch_text(self._text(seen), self._name, grid, THREADS, arguments)
        return made[0] if len(made) == 1 else tuple(made)

    def _text(self, seen: tuple[str, ...]) -> str:
        """Return the source for arrays that are seen in some way."""
        text = self._texts.get(seen)
        if text is None:
            of_inputs = [WHOLE] * len(self._formula.inputs)  # so they are where nothing is said
            for place, how in zip(self._arrays, seen, strict=False):
                of_inputs[place] = how
            kernel = kernel_source(self._formula, self._name, of_inputs)
            text = self._texts[seen] = element_source(self._formula) + kernel
        return text
