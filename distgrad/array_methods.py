"""The methods of NumPy's arrays, with NumPy's arguments, on whatever can be read as a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from distgrad.dtypes import DTypeLike, as_dtype
from distgrad.errors import DTypeError
from distgrad.ops.elementwise import complex_numbers
from distgrad.ops.elementwise.arithmetic import positive
from distgrad.ops.reducing import reductions
from distgrad.ops.shaping import structure

_numpy: Any = np  # whose stubs know arrays alone; its functions take whatever has its protocol
_NOT_GIVEN: Any = np._NoValue  # NumPy's own mark, which its functions take


def _in_place(name: str, remedy: str) -> Callable[..., NoReturn]:
    def method(self: Any, *arguments: Any, **options: Any) -> NoReturn:
        raise TypeError(
            f"t.{name}: NumPy's method changes the array, and tensors do not change; take {remedy}"
        )

    method.__name__ = name
    method.__doc__ = f"Raise: tensors do not change; take ``{remedy}``."
    return method


class ArrayMethods:
    """Methods, each NumPy's function of the same name, which is differentiated.

    They reach it by NumPy's protocol, which `distgrad.numpy_functions` answers. The most frequent
    ones call their operation without that detour.
    """

    __slots__ = ()

    shape: Any
    dtype: Any
    ndim: Any
    numpy: Callable[[], Any]

    # --- what is picked of the numbers ----------------------------------------------------------

    @property
    def real(self) -> Any:
        """The real part."""
        return complex_numbers.real(self)

    @property
    def imag(self) -> Any:
        """The imaginary part."""
        return complex_numbers.imag(self)

    @property
    def itemsize(self) -> int:
        """The memory of one element, in bytes."""
        return int(self.dtype.itemsize)

    def conj(self) -> Any:
        """Return the complex conjugate; see `distgrad.conj`."""
        return complex_numbers.conj(self)

    conjugate = conj

    def astype(
        self,
        dtype: DTypeLike,
        order: str = "K",
        casting: Any = "unsafe",
        subok: bool = True,
        copy: bool = True,
    ) -> Any:
        """Return the value in another dtype; see `distgrad.astype`.

        Parameters
        ----------
        dtype : dtype
            The dtype wanted.
        casting : {"no", "equiv", "safe", "same_kind", "unsafe"}
            Which conversions are allowed.
        order, subok, copy
            NumPy's arguments on memory, which tensors do not share with anybody: ignored.

        Raises
        ------
        DTypeError
            If `casting` forbids it.
        """
        if casting != "unsafe" and not np.can_cast(self.dtype, as_dtype(dtype), casting):
            raise DTypeError(
                f"astype: cannot cast from {self.dtype} to {as_dtype(dtype)} by the rule "
                f"{casting!r}; expected a dtype that it allows, or casting='unsafe'"
            )
        return structure.astype(self, dtype)

    def copy(self, order: str = "C") -> Any:
        """Return the value as a tensor of its own, from which gradients come back."""
        return positive(self)

    # --- shapes ---------------------------------------------------------------------------------

    @property
    def T(self) -> Any:
        """The transpose: the axes in the opposite order."""
        return structure.permute_dims(self, tuple(reversed(range(self.ndim))))

    @property
    def mT(self) -> Any:
        """The value with its last two axes exchanged."""
        return structure.matrix_transpose(self)

    def reshape(self, *shape: Any, order: str = "C", copy: bool | None = None) -> Any:
        """Return the elements in another shape, given as one tuple or as several integers."""
        wanted = shape[0] if len(shape) == 1 else shape
        if order == "C":
            return structure.reshape(self, wanted)
        return _numpy.reshape(self, wanted, order=order)

    def ravel(self, order: str = "C") -> Any:
        """Return the elements as one line; see `numpy.ravel`."""
        return _numpy.ravel(self, order=order)

    def flatten(self, order: str = "C") -> Any:
        """Return the elements as one line; see `numpy.ravel`."""
        return _numpy.ravel(self, order=order)

    def transpose(self, *axes: Any) -> Any:
        """Return the value with its axes in another order, by default the opposite one."""
        order = axes[0] if len(axes) == 1 else axes or None
        return _numpy.transpose(self, (order,) if isinstance(order, int) else order)

    def swapaxes(self, axis1: int, axis2: int, /) -> Any:
        """Return the value with two axes exchanged; see `numpy.swapaxes`."""
        return _numpy.swapaxes(self, axis1, axis2)

    def squeeze(self, axis: Any = None) -> Any:
        """Return the value without axes of length 1; see `numpy.squeeze`."""
        return _numpy.squeeze(self, axis=axis)

    def repeat(self, repeats: Any, axis: Any = None) -> Any:
        """Return the value with its elements repeated; see `numpy.repeat`."""
        return _numpy.repeat(self, repeats, axis=axis)

    # --- reductions -----------------------------------------------------------------------------

    def sum(
        self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False,
        initial: Any = _NOT_GIVEN, where: Any = _NOT_GIVEN,
    ) -> Any:  # fmt: skip
        """Return the sum over axes; see `numpy.sum`."""
        if dtype is None and out is None and initial is _NOT_GIVEN and where is _NOT_GIVEN:
            return reductions.sum(self, axis=axis, keepdims=keepdims)
        return _numpy.sum(self, axis, dtype, out, keepdims, initial, where)

    def prod(
        self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False,
        initial: Any = _NOT_GIVEN, where: Any = _NOT_GIVEN,
    ) -> Any:  # fmt: skip
        """Return the product over axes; see `numpy.prod`."""
        return _numpy.prod(self, axis, dtype, out, keepdims, initial, where)

    def mean(
        self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False, *,
        where: Any = _NOT_GIVEN,
    ) -> Any:  # fmt: skip
        """Return the mean over axes; see `numpy.mean`."""
        if dtype is None and out is None and where is _NOT_GIVEN:
            return reductions.mean(self, axis=axis, keepdims=keepdims)
        return _numpy.mean(self, axis, dtype, out, keepdims, where=where)

    def var(
        self, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0,
        keepdims: bool = False, *, where: Any = _NOT_GIVEN, mean: Any = _NOT_GIVEN,
    ) -> Any:  # fmt: skip
        """Return the variance over axes; see `numpy.var`."""
        return _numpy.var(self, axis, dtype, out, ddof, keepdims, where=where, mean=mean)

    def std(
        self, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0,
        keepdims: bool = False, *, where: Any = _NOT_GIVEN, mean: Any = _NOT_GIVEN,
    ) -> Any:  # fmt: skip
        """Return the standard deviation over axes; see `numpy.std`."""
        return _numpy.std(self, axis, dtype, out, ddof, keepdims, where=where, mean=mean)

    def max(
        self, axis: Any = None, out: Any = None, keepdims: bool = False,
        initial: Any = _NOT_GIVEN, where: Any = _NOT_GIVEN,
    ) -> Any:  # fmt: skip
        """Return the largest element over axes; see `numpy.max`."""
        if out is None and initial is _NOT_GIVEN and where is _NOT_GIVEN:
            return reductions.max(self, axis=axis, keepdims=keepdims)
        return _numpy.max(self, axis, out, keepdims, initial, where)

    def min(
        self, axis: Any = None, out: Any = None, keepdims: bool = False,
        initial: Any = _NOT_GIVEN, where: Any = _NOT_GIVEN,
    ) -> Any:  # fmt: skip
        """Return the smallest element over axes; see `numpy.min`."""
        if out is None and initial is _NOT_GIVEN and where is _NOT_GIVEN:
            return reductions.min(self, axis=axis, keepdims=keepdims)
        return _numpy.min(self, axis, out, keepdims, initial, where)

    def all(
        self, axis: Any = None, out: Any = None, keepdims: bool = False, *,
        where: Any = _NOT_GIVEN,
    ) -> Any:  # fmt: skip
        """Return whether all elements over axes are true; see `numpy.all`."""
        return _numpy.all(self, axis, out, keepdims, where=where)

    def any(
        self, axis: Any = None, out: Any = None, keepdims: bool = False, *,
        where: Any = _NOT_GIVEN,
    ) -> Any:  # fmt: skip
        """Return whether an element over axes is true; see `numpy.any`."""
        return _numpy.any(self, axis, out, keepdims, where=where)

    def argmax(self, axis: Any = None, out: Any = None, *, keepdims: bool = False) -> Any:
        """Return the position of the largest element; see `numpy.argmax`."""
        return _numpy.argmax(self, axis, out, keepdims=keepdims)

    def argmin(self, axis: Any = None, out: Any = None, *, keepdims: bool = False) -> Any:
        """Return the position of the smallest element; see `numpy.argmin`."""
        return _numpy.argmin(self, axis, out, keepdims=keepdims)

    def cumsum(self, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
        """Return the running sum; see `numpy.cumsum`."""
        return _numpy.cumsum(self, axis, dtype, out)

    def cumprod(self, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
        """Return the running product; see `numpy.cumprod`."""
        return _numpy.cumprod(self, axis, dtype, out)

    def trace(
        self, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Any = None
    ) -> Any:
        """Return the sum along a diagonal; see `numpy.trace`."""
        return _numpy.trace(self, offset, axis1, axis2, dtype, out)

    # --- elements -------------------------------------------------------------------------------

    def clip(self, min: Any = None, max: Any = None, out: Any = None) -> Any:
        """Return the elements kept within bounds; see `numpy.clip`."""
        return _numpy.clip(self, min, max, out)

    def round(self, decimals: int = 0, out: Any = None) -> Any:
        """Return the elements rounded to decimals; see `numpy.round`."""
        return _numpy.round(self, decimals, out)

    def dot(self, b: Any, out: Any = None) -> Any:
        """Return the product of arrays; see `numpy.dot`."""
        return _numpy.dot(self, b, out)

    def take(self, indices: Any, axis: Any = None, out: Any = None, mode: Any = "raise") -> Any:
        """Return the elements at positions; see `numpy.take`."""
        return _numpy.take(self, indices, axis, out, mode)

    def compress(self, condition: Any, axis: Any = None, out: Any = None) -> Any:
        """Return the slices along an axis where a condition holds; see `numpy.compress`."""
        return _numpy.compress(condition, self, axis, out)

    def choose(self, choices: Any, out: Any = None, mode: Any = "raise") -> Any:
        """Return elements of arrays, this value saying of which; see `numpy.choose`."""
        return _numpy.choose(self, choices, out, mode)

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
        """Return a diagonal; see `numpy.diagonal`."""
        return _numpy.diagonal(self, offset, axis1, axis2)

    def nonzero(self) -> Any:
        """Return the positions of the elements that are not 0, one tensor for each axis."""
        return _numpy.nonzero(self)

    def argsort(
        self, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None
    ) -> Any:
        """Return the positions of the elements in ascending order; see `numpy.argsort`."""
        return _numpy.argsort(self, axis, kind, order, stable=stable)

    def argpartition(
        self, kth: Any, axis: Any = -1, kind: Any = "introselect", order: Any = None
    ) -> Any:
        """Return the positions that partition the elements; see `numpy.argpartition`."""
        return _numpy.argpartition(self, kth, axis, kind, order)

    def searchsorted(self, v: Any, side: Any = "left", sorter: Any = None) -> Any:
        """Return where elements go into this sorted line; see `numpy.searchsorted`."""
        return _numpy.searchsorted(self, v, side, sorter)

    def tobytes(self, order: Any = "C") -> bytes:
        """Return the memory of the values, which no tape follows."""
        return bytes(np.asarray(self.numpy()).tobytes(order))

    # --- what would change the array ------------------------------------------------------------

    sort = _in_place("sort", "np.sort(t)")
    partition = _in_place("partition", "np.partition(t, kth)")
    put = _in_place("put", "t.at[indices].set(values)")
    fill = _in_place("fill", "np.full_like(t, value)")
    resize = _in_place("resize", "np.resize(t, shape)")
