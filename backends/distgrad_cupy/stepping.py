"""Steps of optimizers on the device: one launch for all parameters, in the arrays' own memory.

Where the arrays lie travels as a kernel's argument, in a table by value. Nothing is copied to the
device for it, so nothing has to be kept there until the kernel has run, and gradients may lie
elsewhere at every step, as those of a new backward pass do. Parameters whose arrays are not each
one line in memory go to a kernel of CuPy's, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from distgrad.backend.scalar_code import C_TYPES, Formula
from distgrad.optimizers.fused import Kernel, Repeated, Steps
from distgrad.optimizers.in_place import Change
from distgrad_cupy.contiguous import aligned, element_source, several, width_of
from distgrad_cupy.running import THREADS, Runner, line_of, refuse_elsewhere
from distgrad_cupy.transfers import UncapturableError

# Bytes of a table of arrays: arguments of a kernel have 4096 at most, with the numbers of a step.
_TABLE_BYTES = 3840
# How often each thread of a block goes on: long enough to be worth the look into the table, short
# enough that a million parameters occupy every multiprocessor.
_TURNS = 4


def steps(run: Runner, otherwise: Callable[[Formula], Callable[..., Any]]) -> Steps:
    """Return what the backend has as ``change_in_place``.

    Parameters
    ----------
    run : Runner
        What starts kernels.
    otherwise : callable
        Returns a formula as a kernel that takes arrays however they lie, its outputs behind its
        inputs.
    """
    return Steps(partial(_takes, run.module.ndarray), partial(_compiled, run, otherwise))


def _takes(array_type: Any, arrays: tuple[Any, ...]) -> bool:
    shape = arrays[0].shape
    return all(isinstance(each, array_type) and each.shape == shape for each in arrays)


def _compiled(
    run: Runner, otherwise: Callable[[Formula], Callable[..., Any]], formula: Formula, count: int
) -> Kernel:
    return _Kernel(run, Together(run, formula, count), partial(otherwise, formula))


class _Kernel:
    """The step of a formula on all parameters whose arrays have its dtypes.

    Parameters
    ----------
    run : Runner
        What starts kernels.
    together : Together
        The step for arrays that lie in one line each.
    otherwise : callable
        Makes the kernel for others.
    """

    def __init__(
        self, run: Runner, together: Together, otherwise: Callable[[], Callable[..., Any]]
    ) -> None:
        self._run, self._together = run, together
        self._apart = cache(otherwise)

    def __call__(self, changes: Sequence[Change], numbers: Sequence[float]) -> bool:
        """Change parameters and their slots."""
        self._check()
        left = self._together(changes, numbers)
        if left:
            values, apart = self._together.exact(numbers), self._apart()
            for change in left:
                arrays = change.arrays
                apart(*arrays, *values, arrays[0], *arrays[2:])
        return True

    def repeated(self, changes: Sequence[Change]) -> Repeated | None:
        """Return what does the same again, see `distgrad.optimizers.fused.Repeated`."""
        prepared = self._together.prepared(changes)
        if prepared is None:
            return None

        def again(own: list[Any], gradients: list[Any], numbers: Sequence[float]) -> bool:
            self._check()
            return {*map(type, numbers)} == {float} and prepared(gradients, numbers)

        return again

    def _check(self) -> None:
        if self._run.is_capturing:
            raise UncapturableError(
                "a step of an optimizer is captured in a CUDA graph, which would repeat this very "
                "step, its count and its rate; call optimizer.apply outside of it, or within a "
                "dg.function"
            )


class Together:
    """The step of a rule on many parameters whose arrays have the same dtypes.

    Parameters
    ----------
    run : Runner
        What starts kernels.
    formula : Formula
        Of one element, see `distgrad.optimizers.fused.formula_of`.
    count : int
        How many of its inputs, the last ones, are the numbers of a step.
    """

    def __init__(self, run: Runner, formula: Formula, count: int) -> None:
        self._run = run
        self._name = f"distgrad_{formula.name}"
        arrays = len(formula.inputs) - count
        rows = (_TABLE_BYTES - 4) // (8 * arrays + 12)
        self.rows = rows - 1 + rows % 2  # odd: the table then ends at a multiple of 8 bytes
        self.piece = _TURNS * width_of(formula) * THREADS
        self._table = np.dtype(
            [
                ("places", "u8", (arrays, self.rows)),
                ("sizes", "i8", self.rows),
                ("ends", "i4", self.rows),
                ("count", "i4"),
            ]
        )
        # Its fields are nothing to CuPy, which would describe each of them at every launch.
        self._plain = np.dtype((np.void, self._table.itemsize))
        self._types = [dtype.type for _, dtype in formula.inputs[arrays:]]
        self.text = element_source(formula) + _source(formula, arrays, self)

    def exact(self, numbers: Sequence[float]) -> list[Any]:
        """Return the numbers of a step in the dtypes in which the kernel takes them."""
        return [kind(number) for kind, number in zip(self._types, numbers, strict=True)]

    def __call__(self, changes: Sequence[Change], numbers: Sequence[float]) -> list[Change]:
        """Change the arrays of parameters; return those whose arrays do not lie in one line each.

        Parameters
        ----------
        changes : sequence of Change
            The arrays, of the formula's dtypes.
        numbers : sequence of float
            Those of the step.

        Raises
        ------
        ValueError
            If an array lies on another device; none is changed then.
        """
        device = self._run.device
        left: list[Change] = []
        places: list[list[int | None]] = []
        sizes: list[int] = []
        for change in changes:
            own = [line_of(each, device) for each in change.arrays]
            if None in own:
                refuse_elsewhere(self._run, self._name, change.arrays)
                left.append(change)
            elif change.x.size:
                places.append(own)
                sizes.append(change.x.size)
        values = self.exact(numbers)
        for first in range(0, len(sizes), self.rows):
            part = slice(first, first + self.rows)
            self._launch(*self._filled(places[part], sizes[part]), values)
        return left

    def prepared(
        self, changes: Sequence[Change]
    ) -> Callable[[list[Any], Sequence[float]], bool] | None:
        """Return what takes the step again, with other gradients, on the current device.

        Parameters
        ----------
        changes : sequence of Change
            Of which all but the gradients will be the same arrays.

        Returns
        -------
        callable or None
            Takes the gradients and the numbers of a step; returns whether it could. None where an
            array does not lie in one line.
        """
        device = self._run.device
        dtype, sizes = changes[0].gradient.dtype, [change.x.size for change in changes]
        places = [[line_of(each, device) for each in change.arrays] for change in changes]
        if not all(sizes) or any(None in own for own in places):
            return None
        parts = [slice(first, first + self.rows) for first in range(0, len(sizes), self.rows)]
        tables = [(part, *self._filled(places[part], sizes[part])) for part in parts]

        def again(gradients: list[Any], numbers: Sequence[float]) -> bool:
            if self._run.device != device:
                return False
            lines = [line_of(each, device) for each in gradients if each.dtype == dtype]
            if len(lines) != len(sizes) or None in lines:
                return False
            values = self.exact(numbers)
            for part, first, blocks in tables:
                table, own = first.copy(), lines[part]
                table["places"][1, : len(own)] = own
                self._launch(table, blocks, values)
            return True

        return again

    def _filled(self, places: list[list[int | None]], sizes: list[int]) -> tuple[Any, int]:
        """Return the table of some parameters, and how many blocks they take."""
        table, count = np.zeros((), self._table), len(sizes)
        lengths = np.array(sizes, np.int64)
        ends = np.cumsum(-(-lengths // self.piece))
        table["places"][:, :count] = np.array(places, np.uint64).T
        table["sizes"][:count] = lengths
        table["ends"][:count] = ends
        table["count"] = count
        return table, int(ends[-1])

    def _launch(self, table: Any, blocks: int, numbers: list[Any]) -> None:
        plain = table.view(self._plain)
        self._run.launch_text(self.text, self.name, (blocks,), THREADS, (plain, *numbers))

    @property
    def name(self) -> str:
        """The kernel's name."""
        return self._name


def _source(formula: Formula, arrays: int, step: Together) -> str:
    """Return the CUDA of the kernel, behind that of one element.

    Notes
    -----
    Parameters are cut into pieces, one for each block; `ends` says which piece comes after the last
    one of a parameter. Outputs are the parameter and all arrays behind the gradient, as they come.
    """
    inputs = [
        (f"p{place}", C_TYPES[d.name]) for place, (_, d) in enumerate(formula.inputs[:arrays])
    ]
    numbers = [(name, C_TYPES[dtype.name]) for name, dtype in formula.inputs[arrays:]]
    kinds = [C_TYPES[dtype.name] for _, dtype in formula.outputs]
    outputs = [(f"q{place}", kind) for place, kind in enumerate(kinds)]
    changed = [place for place in range(arrays) if place != 1]
    pointers = [
        f"const {kind}* {each} = (const {kind}*)table.places[{place}][row];"
        for place, (each, kind) in enumerate(inputs)
    ]
    pointers += [
        f"{kind}* {each} = ({kind}*)table.places[{place}][row];"
        for place, (each, kind) in zip(changed, outputs, strict=True)
    ]
    parameters = "".join(f", {kind} {name}" for name, kind in numbers)
    one = [f"{each}[i]" for each, _ in inputs]
    one += [name for name, _ in numbers]
    one += [f"{each}_next" for each, _ in outputs]
    made = " ".join(f"{kind} {each}_next;" for each, kind in outputs)
    stored = " ".join(f"{each}[i] = {each}_next;" for each, _ in outputs)
    lines = "\n    ".join(pointers)
    return f"""
struct Table {{
    unsigned long long places[{arrays}][{step.rows}];
    long long sizes[{step.rows}];
    int ends[{step.rows}];
    int count;
}};

extern "C" __global__ void {step.name}(Table table{parameters}) {{
    const int piece = blockIdx.x;
    int row = 0, last = table.count - 1;
    while (row < last) {{  // the first row whose pieces end behind this one
        const int middle = (row + last) / 2;
        if (piece < table.ends[middle]) last = middle;
        else row = middle + 1;
    }}
    const long long start = (piece - (row ? table.ends[row - 1] : 0)) * (long long){step.piece};
    const long long size = table.sizes[row];
    const long long end = size - start < {step.piece} ? size : start + {step.piece};
    {lines}
    long long whole = start;
    if ({aligned([each for each, _ in inputs])}) {{
        whole = end - (end - start) % WIDTH;
        for (long long i = start + threadIdx.x * WIDTH; i < whole; i += blockDim.x * WIDTH) {{
{several(inputs, outputs, [*inputs, *numbers], "            ")}
        }}
    }}
    for (long long i = whole + threadIdx.x; i < end; i += blockDim.x) {{
        {made}
        compute({", ".join(one)});
        {stored}
    }}
}}
"""
