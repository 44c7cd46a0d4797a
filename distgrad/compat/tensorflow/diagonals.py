"""Diagonals of matrices, one or a band of them: taken out, put in, and made matrices of.

A band has its diagonals as rows, the highest first. Shorter ones are filled up on one side, which
`align` says for those above the main one and for those below it, such as ``"RIGHT_LEFT"``.
"""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

import distgrad as dg
from distgrad.compat.tensorflow.conversion import axes, converted, home_of, native, together
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.structure import pad, stack
from distgrad.compat.tensorflow.values import Tensor, compute, convert_to_tensor
from distgrad.entering import beside


def diag_part(
    input: Any,
    name: str = "diag_part",
    k: Any = 0,
    padding_value: Any = 0,
    align: str = "RIGHT_LEFT",
) -> Tensor:
    """Return diagonals of matrices in the last two axes.

    Parameters
    ----------
    input : Tensor, Variable or array
        The matrices.
    k : int, or pair of ints
        Which diagonal, above the main one for k > 0; or the lowest and the highest of a band.
    padding_value : scalar
        What fills up the shorter diagonals of a band.
    align : {"RIGHT_LEFT", "LEFT_RIGHT", "LEFT_LEFT", "RIGHT_RIGHT"}
        On which sides the diagonals above and below the main one stand.
    """
    x = matrices("diag_part", input)
    rows, columns = x.shape[-2:]
    low, high = _band(k)
    places = _places(rows, columns, low, high, align)
    lines = []
    for offset, start, length, longest in places:
        steps = np.arange(length)
        picked = (steps - builtins.min(offset, 0), steps + builtins.max(offset, 0))
        line = x[(..., *(beside(each, native(x)) for each in picked))]
        filled = [[0, 0]] * (len(x.shape) - 2) + [[start, longest - start - length]]
        lines.append(pad(line, filled, constant_values=padding_value))
    return lines[0] if low == high else stack(lines, axis=-2)


def diag(
    diagonal: Any,
    name: str = "diag",
    k: Any = 0,
    num_rows: int = -1,
    num_cols: int = -1,
    padding_value: Any = 0,
    align: str = "RIGHT_LEFT",
) -> Tensor:
    """Return matrices with values on their diagonals.

    Parameters
    ----------
    diagonal : Tensor, Variable or array
        The values along the last axis; of a band of diagonals, along the last two.
    k, align
        Which diagonals, and how they stand in a band: see `diag_part`.
    num_rows, num_cols : int
        The matrices' size; by default as small as can be, and square if neither is given.
    padding_value : scalar
        What stands elsewhere.

    Raises
    ------
    InvalidArgumentError
        If the values are not those of such diagonals.
    """
    values = converted(diagonal)
    if not values.ndim:
        raise InvalidArgumentError("diagonal must be at least 1-dim, received shape: []")
    low, high = _band(k)
    longest = values.shape[-1]
    rows, columns = longest - builtins.min(high, 0), longest + builtins.max(low, 0)
    if num_rows == num_cols == -1:
        rows = columns = builtins.max(rows, columns)
    else:
        rows = rows if num_rows == -1 else int(num_rows)
        columns = columns if num_cols == -1 else int(num_cols)
    with home_of(values):
        filler = dg.astype(converted(padding_value), values.dtype)
    return _filled("diag", filler, values, (rows, columns), (low, high), align)


def set_diag(
    input: Any, diagonal: Any, name: str = "set_diag", k: Any = 0, align: str = "RIGHT_LEFT"
) -> Tensor:
    """Return matrices with their diagonals replaced; `k` and `align` as for `diag_part`.

    Raises
    ------
    InvalidArgumentError
        If there is no such diagonal, or the values are not as many as it has.
    """
    x, values = together("MatrixSetDiag", input, diagonal)
    matrices("set_diag", x)
    low, high = _band(k)
    rows, columns = x.shape[-2:]
    lengths = [length for _, _, length, _ in _places(rows, columns, low, high, align)]
    band = () if low == high else (high - low + 1,)
    expected = (*x.shape[:-2], *band, builtins.max(lengths))
    if tuple(values.shape) != expected:
        raise InvalidArgumentError(
            f"set_diag: diagonal has shape {tuple(values.shape)}; expected {expected}"
        )
    return _filled("set_diag", x, values, (rows, columns), (low, high), align)


def matrices(name: str, value: Any) -> Tensor:
    """Return an operand of two axes or more.

    Raises
    ------
    InvalidArgumentError
        If it has fewer.
    """
    tensor = convert_to_tensor(value)
    if len(tensor.shape) < 2:
        raise InvalidArgumentError(
            f"{name}: input must be at least 2-dim, received shape: {list(tensor.shape)}"
        )
    return tensor


def _filled(
    name: str,
    matrix: dg.Tensor,
    values: dg.Tensor,
    size: tuple[int, int],
    band: tuple[int, int],
    align: str,
) -> Tensor:
    """Return matrices, or one number everywhere, with values on the diagonals."""
    low, high = band
    places = _places(*size, low, high, align)
    longest = places[0][-1]
    if values.shape[-1] != longest or (low < high and values.shape[-2:-1] != (len(places),)):
        raise InvalidArgumentError(
            f"{name}: diagonal has shape {tuple(values.shape)}; expected {len(places)} diagonal(s) "
            f"of {longest} numbers, for k from {low} to {high} of {size[0]} x {size[1]} matrices"
        )

    def of(result: dg.Tensor, given: dg.Tensor) -> Any:
        for row, (offset, start, length, _) in enumerate(places):
            line = given if low == high else given[..., row, start : start + length]
            on = beside(np.eye(*size, k=offset, dtype=bool), line)
            # The value that belongs in each row of this diagonal.
            source = np.clip(np.arange(size[0]) + builtins.min(offset, 0), 0, length - 1)
            column = dg.expand_dims(dg.take(line, beside(source, line), axis=-1), axis=-1)
            result = dg.where(on, column, result)
        return result

    if not longest:
        lead = tuple(values.shape[: -1 if low == high else -2])
        return compute(dg.broadcast_to, matrix, (*lead, *size))
    return compute(of, matrix, values)


def _band(k: Any) -> tuple[int, int]:
    """Return the lowest and the highest of the diagonals that are meant."""
    given = axes(k)
    offsets = given if isinstance(given, tuple) else (given,)
    low, high = offsets[0], offsets[-1]
    if len(offsets) > 2 or low > high:
        raise InvalidArgumentError(
            f"k is {k}; expected one diagonal, or the lowest and the highest of a band"
        )
    return low, high


def _places(
    rows: int, columns: int, low: int, high: int, align: str
) -> list[tuple[int, int, int, int]]:
    """Return of each diagonal, from the highest down, offset, start, length, and the longest's."""
    if align not in _ALIGNMENTS:
        raise InvalidArgumentError(f"align is {align!r}; expected one of {', '.join(_ALIGNMENTS)}")
    if any(offset and not -rows < offset < columns for offset in (low, high)):
        raise InvalidArgumentError(
            f"k from {low} to {high}: expected diagonals of the {rows} x {columns} matrices"
        )
    above, below = align.split("_")
    lengths = {
        offset: builtins.min(rows + builtins.min(offset, 0), columns - builtins.max(offset, 0))
        for offset in range(high, low - 1, -1)
    }
    longest = builtins.max(lengths.values())

    def start(offset: int, length: int) -> int:
        side = above if offset > 0 else below  # the main diagonal is as long as any
        return longest - length if side == "RIGHT" else 0

    return [(offset, start(offset, length), length, longest) for offset, length in lengths.items()]


_ALIGNMENTS = ("RIGHT_LEFT", "LEFT_RIGHT", "LEFT_LEFT", "RIGHT_RIGHT")


__all__ = ["diag", "diag_part", "matrices", "set_diag"]
