"""NumPy's functions that put elements in order on tensors: sorting and partitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.numpy_functions.arguments import (
    as_parameter,
    as_tensor,
    host,
    hosted,
    known_values,
    one_axis,
)
from distgrad.ops.elementwise.complex_numbers import imag, real
from distgrad.ops.ordering import sorting
from distgrad.ops.picking.along import take_along_axis
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.shaping.structure import astype, reshape


def _line(a: Any, axis: Any) -> tuple[Any, int]:
    """Return a tensor and the axis to sort along; None is the flattened tensor."""
    x = as_tensor(a)
    if axis is None:
        return reshape(x, (-1,)), 0
    return x, one_axis("axis", axis, x.ndim)


def _sort(
    a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None
) -> Any:
    x, place = _line(a, axis)
    if _is_complex(x):
        return take_along_axis(x, _order(x, place), axis=place)
    return sorting.sort(x, axis=place)


def _argsort(
    a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None
) -> Any:
    return _order(*_line(a, axis))


def _order(x: Any, place: int) -> Any:
    if not _is_complex(x):
        return sorting.argsort(x, axis=place)
    # Complex numbers by their real parts, and by the imaginary ones where those are equal.
    minor = sorting.argsort(imag(x), axis=place)
    major = sorting.argsort(take_along_axis(real(x), minor, axis=place), axis=place)
    return take_along_axis(minor, major, axis=place)


def _partition(
    a: Any, kth: Any, axis: Any = -1, kind: str = "introselect", order: Any = None
) -> Any:
    x, place = _line(a, axis)
    positions = _argpartition(x, kth, place)
    return take_along_axis(x, positions, axis=place)


def _argpartition(
    a: Any, kth: Any, axis: Any = -1, kind: str = "introselect", order: Any = None
) -> Any:
    x, place = _line(a, axis)
    if x.read().kernels.level:
        return _order(x, place)  # sorted lines are partitioned in every place
    # By NumPy's own selection, so that the order of the rest is NumPy's too.
    return as_parameter(np.argpartition(host(x), hosted(kth), axis=place))


def _sort_complex(a: Any) -> Any:
    x = _sort(a)
    return x if _is_complex(x) else astype(x, np.result_type(x.dtype, np.complex64))


def _is_complex(x: Any) -> bool:
    return bool(np.dtype(x.dtype).kind == "c")


def _trim_zeros(filt: Any, trim: str = "fb", axis: Any = None) -> Any:
    x = as_tensor(filt)
    kept = np.nonzero(known_values("trim_zeros", x))[0]
    if x.ndim != 1:
        raise TypeError(f"trim_zeros: an array of shape {x.shape}; expected one axis for tensors")
    start = kept[0] if "f" in trim.lower() and kept.size else (0 if kept.size else x.shape[0])
    stop = kept[-1] + 1 if "b" in trim.lower() and kept.size else x.shape[0]
    return getitem(x, slice(int(start), int(stop)))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sort": _sort,
    "argsort": _argsort,
    "partition": _partition,
    "sort_complex": _sort_complex,
    "trim_zeros": _trim_zeros,
}
