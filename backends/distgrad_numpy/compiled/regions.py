"""Regions of traced functions in one pass over memory: all of a plan in one library.

The code of a region follows from its formula, see `distgrad.graph.regions`. It goes over the
elements in pieces that vectors hold whole: of what is repeated in the result, and of what is left
at the end, copies of a piece's length are made first. So an element's bits do not depend on its
place.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from distgrad.backend.scalar_code import C_TYPES, Formula
from distgrad.graph.compiling import MOST_LOOPS, Region, loops_of
from distgrad_numpy.compiled import compiler, crew, library
from distgrad_numpy.compiled import vector_functions as functions
from distgrad_numpy.compiled.elementwise import PIECE, reading, stored_type

Array = np.ndarray[Any, Any]
Kernel = Callable[..., Any]
Shape = tuple[int, ...]


class RegionKernels:
    """What the NumPy backend has as ``fusion``, see `distgrad.graph.compiling.Fuses`."""

    fewest = 1 << 12  # elements; below, NumPy has less overhead
    reduces = True

    def takes(self, formula: Formula) -> bool:
        """Return whether a formula is of single or double precision, and all of it vector code."""
        return library.is_on() and functions.are_there(formula)

    def kernels(self, name: str, regions: Sequence[Region]) -> list[Kernel] | None:
        """Return kernels for the regions of a plan; None where they cannot be compiled."""
        codes = [_text(region) for region in regions]  # the same for the same formula
        names = {code: f"run{i}" for i, code in enumerate(dict.fromkeys(codes))}
        text = functions.head()
        text += "".join(code.replace(_NAME, each) for code, each in names.items())
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        found = library.from_source(
            f"{compiler.FUSED}{digest}", text, exact=True, further=functions.options(), alone=True
        )
        if found is None:
            return None
        pairs = zip(codes, regions, strict=True)
        return [_kernel(found, names[code], region) for code, region in pairs]


# How a region reads an input: in its own order, as one number, or repeated.
_WHOLE, _ONE, _REPEATED = "whole", "one", "repeated"
_NAME = "NAME_OF_KERNEL"  # in its code, until it has one


def _ways(region: Region) -> list[str]:
    size = prod(region.shape)
    ways = {1: _ONE, size: _WHOLE}
    return [ways.get(prod(shape), _REPEATED) for shape in region.shapes]


def _text(region: Region) -> str:
    """Return the code of a region: a function, named `_NAME`, of a piece of its elements."""
    formula = region.formula
    copies, reads, steps = [], [], 0
    parameters = ["const Piece& piece", "const index_t* loops"]
    for (x, dtype), way in zip(formula.inputs, _ways(region), strict=True):
        kind = stored_type(dtype)
        parameters.append(f"const {kind}* from_{x}")
        if way == _ONE:
            copies.append(reading(x, dtype, f"*from_{x}"))
            continue
        place = f"whole(copy_{x}, from_{x}, at, n)"
        if way == _REPEATED:
            steps += 1
            place = f"repeated(copy_{x}, from_{x}, at, n, loops, {steps})"
        copies.append(f"{kind} copy_{x}[LANES]; const {kind}* at_{x} = {place};")
        reads.append(reading(x, dtype, f"at_{x}[i]"))
    before, results, writes, after, at_end = [], [], [], [], []
    for (y, dtype), total in zip(formula.outputs, region.totals, strict=True):
        kind = C_TYPES[dtype.name]
        results.append(f"{kind} {y};")
        writes.append(f"at_{y}[i] = {y};")
        if total is None:
            parameters.append(f"{kind}* to_{y}")
            place = f"n < LANES ? copy_{y} : to_{y} + at"
            copies.append(f"{kind} copy_{y}[LANES]; {kind}* at_{y} = {place};")
            after.append(f"if (n < LANES) put(to_{y} + at, copy_{y}, n);")
        else:
            parameters.append(f"double* to_{y}")
            before.append(f"Total<{kind}> total_{y};")
            copies.append(f"{kind} at_{y}[LANES];")
            after.append(f"total_{y}.add(at_{y}, n);")
            at_end.append(f"to_{y}[piece.number] = total_{y}.all();")
    return "\n".join(
        [
            f"KERNEL void {_NAME}({', '.join(parameters)}) {{",
            *before,
            "for (index_t at = piece.begin; at < piece.end; at += LANES) {",
            "const index_t n = piece.end - at < LANES ? piece.end - at : LANES;",
            *copies,
            "#pragma omp simd\nfor (int i = 0; i < LANES; ++i) {",
            *reads,
            *results,
            formula.body,
            *writes,
            "}",
            *after,
            "}",
            *at_end,
            "}",
            f"SHARED({_NAME})\n",
        ]
    )


def _kernel(found: ctypes.CDLL, name: str, region: Region) -> Kernel:
    """Return a region's kernel: it takes arrays of any layout, and allocates its results."""
    formula, shape = region.formula, region.shape
    size = prod(shape)
    repeated = [s for s, way in zip(region.shapes, _ways(region), strict=True) if way == _REPEATED]
    loops = _table(shape, repeated)
    places = [ctypes.c_void_p] * (1 + len(formula.inputs) + len(formula.outputs))
    run = crew.shared_of(found, name, places)
    pieces = -(-size // PIECE)
    dtypes = [np.dtype(dtype) for _, dtype in formula.inputs]
    ends: list[tuple[Shape, Any, Callable[[Array], Array] | None]] = []
    for (_, dtype), total in zip(formula.outputs, region.totals, strict=True):
        ends.append(
            (shape, dtype, None)
            if total is None
            else ((pieces,), np.dtype(np.float64), _finishing(*total, dtype, size))
        )
    address = library.address

    def kernel(*arrays: Array) -> Any:
        given = [
            x
            if x.__class__ is np.ndarray and x.dtype is dtype and x.flags.c_contiguous
            else np.ascontiguousarray(x, dtype)
            for x, dtype in zip(arrays, dtypes, strict=True)
        ]
        made = [np.empty(length, dtype) for length, dtype, _ in ends]
        run(size, PIECE, address(loops), *map(address, given), *map(address, made))
        results = [
            each if finish is None else finish(each)
            for each, (_, _, finish) in zip(made, ends, strict=True)
        ]
        return results[0] if len(results) == 1 else tuple(results)

    return kernel


def _finishing(name: str, shape: Shape, dtype: Any, size: int) -> Callable[[Array], Array]:
    """Return what makes the total of all pieces of those of each."""

    def finish(totals: Array) -> Array:
        whole = totals.sum() / size if name == "mean" else totals.sum()
        with np.errstate(over="ignore"):  # beyond single precision
            return np.full(shape, whole, dtype)

    return finish


def _table(shape: Shape, repeated: Sequence[Shape]) -> Array:
    """Return the lengths of loops over a shape, and how far repeated arrays move along each."""
    loops = loops_of(shape, repeated)
    rows = [[length for length, _ in loops]]
    for place in range(len(repeated)):
        steps, step = [], 1
        for length, moving in reversed(loops):
            steps.append(step if moving[place] else 0)
            step *= length if moving[place] else 1
        rows.append(steps[::-1])
    missing = MOST_LOOPS - len(loops)
    outer = [[1] * missing] + [[0] * missing for _ in repeated]
    return np.array([o + row for o, row in zip(outer, rows, strict=True)], np.int64)
