"""The vocabulary on numpy.ndarray: ufuncs where NumPy has them, methods where they are quicker."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from distgrad.backend.adapters import ADAPTERS
from distgrad.backend.kit import ArrayModuleBackend
from distgrad.backend.powers import is_product, product_of
from distgrad_numpy import (
    affine,
    attention,
    blocked,
    complex_numbers,
    convolution,
    ctc,
    halves,
    normalization,
    onednn,
    ordering,
    pooling,
    products,
    recurrent,
    rows,
    selection,
    softmaxes,
)
from distgrad_numpy.compiled import drawing, elementwise
from distgrad_numpy.compiled import kernels as compiled
from distgrad_numpy.compiled.regions import RegionKernels
from distgrad_numpy.compiled.stepping import steps
from distgrad_numpy.memory import keep_what_is_freed
from distgrad_numpy.rows import add_rows
from distgrad_numpy.weighing import add_weighed

Array = np.ndarray[Any, Any]


class NumPyBackend(ArrayModuleBackend):
    """NumPy as a backend."""

    def __init__(self) -> None:
        super().__init__("numpy", np, _kernels())
        self._kernels["random_normal"] = drawing.preferred(partial(ADAPTERS["random_normal"], self))
        running = {name: partial(ADAPTERS[name], self) for name in compiled.RUNNING}
        for name, own in compiled.preferred(running).items():
            self._kernels[name] = halves.in_single(own)
        matrices = {name: partial(ADAPTERS[name], self) for name in compiled.MATRICES}
        self._kernels |= compiled.preferred(matrices)
        slow = ((name, self.kernel(name)) for name in (*blocked.KERNELS, *SLOW_IN_NUMPY))
        self._kernels |= elementwise.preferred({name: own for name, own in slow if own})
        self.change_in_place = steps()
        self.pullback = elementwise.pullbacks(affine.PULLBACKS | compiled.PULLBACKS)
        self.fusion = RegionKernels()
        keep_what_is_freed()

    def asarray(self, value: Any, *, dtype: np.dtype[Any] | None = None, copy: bool = False) -> Any:
        """Return a value as a NumPy array; a scalar of NumPy's becomes one of no dimensions."""
        return np.array(value, dtype=dtype) if copy else np.asarray(value, dtype=dtype)

    def to_host(self, array: Array) -> Array:
        """Return the array itself: it is on the host already."""
        return array

    def device(self, array: Array) -> str:
        """Return ``"cpu"``."""
        return "cpu"

    def add_rows(self, array: Array, indices: Array, rows: Array) -> Array:
        """Return the array with rows added in place at positions along its first axis."""
        return add_rows(array, indices, rows)

    def add_weighed(self, first: Array, second: Array, factors: tuple[float, float]) -> None:
        """Put the sum of two flat arrays, each times its factor, into both."""
        add_weighed(first, second, factors)


_FLOATING = (np.dtype(np.float32), np.dtype(np.float64))

# Of which NumPy's own loops take 2 to 20 times as long as vector code does.
SLOW_IN_NUMPY = (
    "copysign cos exp2 hypot logaddexp maximum minimum reciprocal sign sin where".split()
)


def _kernels() -> dict[str, Callable[..., Any]]:
    """Return the kernels: compiled where that is quickest, then oneDNN's, then those of NumPy."""
    own = {
        **KERNELS,
        **affine.KERNELS,
        **attention.KERNELS,
        **blocked.KERNELS,
        **complex_numbers.KERNELS,
        **convolution.KERNELS,
        **ctc.KERNELS,
        **normalization.KERNELS,
        **ordering.KERNELS,
        **pooling.KERNELS,
        **products.KERNELS,
        **recurrent.KERNELS,
        **rows.KERNELS,
        **selection.KERNELS,
        **softmaxes.KERNELS,
    }
    for name in ("label_cross_entropy", "lstm_vjp", "gru_vjp", "scatter_add"):
        own[name] = halves.in_single(own[name])
    return compiled.preferred(onednn.preferred(own))


def create() -> NumPyBackend:
    """Return the backend; the value of the entry point ``numpy``."""
    return NumPyBackend()


# --- reductions: the ufunc's own method skips the wrapper's argument handling ---------------------


def _reduction(ufunc: np.ufunc) -> Callable[..., Any]:
    def kernel(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
        return ufunc.reduce(x, axis=axis, keepdims=keepdims)

    return kernel


def _mean(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    half = x.dtype == halves.HALF  # summed in float32, as np.mean does
    add: Any = np.add
    total = add.reduce(x, axis=axis, dtype=np.float32 if half else None, keepdims=keepdims)
    results = np.size(total)
    if x.size:
        mean = total / (x.size // results)
    else:
        with np.errstate(invalid="ignore"):  # NaN without np.mean's warning
            mean = np.true_divide(total, 0)
    return mean.astype(halves.HALF) if half else mean


# --- structure ----------------------------------------------------------------------------------


def _reshape(x: Array, shape: tuple[int, ...]) -> Array:
    return x.reshape(shape)


def _broadcast_to(x: Array, shape: tuple[int, ...]) -> Array:
    if x.size != 1 or x.ndim > len(shape) or x.dtype.kind not in "fc":
        return np.broadcast_to(x, shape)
    # One number seen as many, as the gradient of a sum: in a third of the time.
    seen: Array = np.ndarray(shape, x.dtype, x, 0, (0,) * len(shape))
    seen.flags.writeable = False
    return seen


def _permute_dims(x: Array, axes: tuple[int, ...]) -> Array:
    return x.transpose(axes)


def _matrix_transpose(x: Array) -> Array:
    return x.swapaxes(-1, -2)


def _astype(x: Array, dtype: Any) -> Array:
    return x.astype(dtype)


# --- arithmetic and selection --------------------------------------------------------------------


def _pow(x: Any, exponent: Any) -> Any:
    if x.__class__ is np.ndarray and x.dtype in _FLOATING and is_product(exponent):
        return product_of(x, exponent)
    return np.pow(x, exponent)


def _multiply_no_nan(x: Any, y: Any) -> Any:
    with np.errstate(invalid="ignore"):  # 0 times infinity is what this is about
        product = np.multiply(x, y)
        # Hardly ever is there one; a minimum finds it in a fifth of the time of a mask.
        spoilt = product.size and np.isnan(np.minimum.reduce(product, axis=None))
    return np.where(np.equal(y, 0), product.dtype.type(0), product) if spoilt else product


KERNELS: dict[str, Callable[..., Any]] = {
    "sum": halves.reduction(np.add),
    "max": _reduction(np.maximum),
    "min": _reduction(np.minimum),
    "prod": halves.reduction(np.multiply),
    "all": _reduction(np.logical_and),
    "any": _reduction(np.logical_or),
    "mean": _mean,
    "reshape": _reshape,
    "broadcast_to": _broadcast_to,
    "permute_dims": _permute_dims,
    "matrix_transpose": _matrix_transpose,
    "astype": _astype,
    "multiply_no_nan": _multiply_no_nan,
    "pow": _pow,
}
