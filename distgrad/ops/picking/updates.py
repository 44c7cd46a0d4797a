"""Updates: arrays with other values at the places of a subscript, as functions of both."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply
from distgrad.dtypes import as_dtype, bool_, int64, result_type
from distgrad.errors import DTypeError
from distgrad.ops.creation import full_beside
from distgrad.ops.elementwise.arithmetic import add, divide, maximum, minimum, multiply, pow
from distgrad.ops.picking.indexing import GETITEM, SCATTER_ADD, Index, encode, getitem
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import fit
from distgrad.ops.shaping.structure import astype, broadcast_to
from distgrad.shapes import Shape

_SCALARS = (bool, int, float, complex)


def _may_repeat(arrays: Any) -> bool:
    """Return whether index arrays can name a place twice; masks and slices cannot."""
    return any(as_dtype(array.dtype) != bool_ for array in arrays)


# --- values in place of others --------------------------------------------------------------------


def _index_set_spec(x: Spec, value: Any, *arrays: Spec, index: Index) -> Spec:
    GETITEM.spec(x, *arrays, index=index)
    return Spec(tuple(x.shape), x.dtype)


def _index_set_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    _, value, *arrays = xs
    to_x = to_value = None
    if needs[0]:
        to_x = xp.index_set(g, 0, *arrays, **params)
    if needs[1]:
        to_value = xp.getitem(g, *arrays, **params)
        if _may_repeat(arrays):
            to_value = xp.where(_last(xp, g, to_value, arrays, params), to_value, 0)
        to_value = fit(xp, to_value, value)
    return (to_x, to_value, *(None for _ in arrays))


def _last(xp: Namespace, x: Array, picked: Array, arrays: Any, params: Any) -> Array:
    """Return which of the values stay: of those for one place the last, as the kernel has it."""
    shape = tuple(picked.shape)
    numbers = xp.reshape(xp.arange(start=0, stop=prod(shape), step=1, dtype=int64), shape=shape)
    none = xp.full(shape=tuple(x.shape), fill_value=-1, dtype=int64)
    standing = xp.getitem(xp.index_set(none, numbers, *arrays, **params), *arrays, **params)
    return xp.equal(standing, numbers)


def _index_set_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    to_x, to_value = tangents[:2]
    base = xp.zeros_like(y) if to_x is None else to_x
    return xp.index_set(base, 0 if to_value is None else to_value, *xs[2:], **params)


INDEX_SET = Op(
    "index_set",
    Kind.OPAQUE,
    _index_set_spec,
    _index_set_vjp,
    _index_set_jvp,
    Keep.POSITIONS,
    batch=batching.index_set,
)


# --- values joined where they meet ----------------------------------------------------------------


def _scatter_spec(values: Spec, *arrays: Spec, index: Index, shape: Shape) -> Spec:
    return Spec(shape, values.dtype)


def _others(xp: Namespace, values: Array, arrays: Any, index: Index, shape: Shape) -> Array:
    """Return for each value the product of the *other* ones that go to its place."""
    if not _may_repeat(arrays):
        return xp.ones_like(values)
    where = {"index": index, "shape": shape}
    zero = xp.equal(values, 0)
    safe = xp.where(zero, 1, values)
    zeros = xp.getitem(
        xp.scatter_add(xp.astype(zero, dtype=int64), *arrays, **where), *arrays, index=index
    )
    number = xp.getitem(
        xp.scatter_add(xp.astype(xp.ones_like(zero), dtype=int64), *arrays, **where),
        *arrays,
        index=index,
    )
    rest = xp.getitem(xp.scatter_multiply(safe, *arrays, **where), *arrays, index=index) / safe
    # A zero among the others makes their product 0; where there are none, it is 1, without the
    # rounding of a quotient and without its second derivative.
    among = xp.greater(zeros - xp.astype(zero, dtype=int64), 0)
    return xp.where(xp.equal(number, 1), 1, xp.where(among, 0, rest))


def _scatter_multiply_vjp(
    xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any
) -> Any:
    values, *arrays = xs
    others = _others(xp, values, arrays, **params)
    if g.dtype in xp.complex_dtypes:
        others = xp.conj(others)
    to_values = xp.getitem(g, *arrays, index=params["index"]) * others
    return (to_values, *(None for _ in arrays))


def _scatter_multiply_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    values, *arrays = xs
    others = _others(xp, values, arrays, **params)
    return xp.scatter_add(tangents[0] * others, *arrays, **params)


SCATTER_MULTIPLY = Op(
    "scatter_multiply",
    Kind.OPAQUE,
    _scatter_spec,
    _scatter_multiply_vjp,
    _scatter_multiply_jvp,
    batch=batching.scatter("scatter_multiply"),
)


def _scatter_extremum(name: str) -> Op:
    """Return the operation that keeps the largest or smallest value of each place."""

    def shares(xp: Namespace, y: Array, xs: Any, params: Any) -> Array:
        values, *arrays = xs
        hit = xp.equal(values, xp.getitem(y, *arrays, index=params["index"]))
        weight = xp.astype(hit, dtype=y.dtype)
        total = xp.scatter_add(weight, *arrays, **params)
        # Every place that is picked has a winner, but for NaN, which equals nothing.
        return weight / xp.maximum(xp.getitem(total, *arrays, index=params["index"]), 1)

    def vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
        to_values = xp.getitem(g, *xs[1:], index=params["index"]) * shares(xp, y, xs, params)
        return (to_values, *(None for _ in xs[1:]))

    def jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
        return xp.scatter_add(tangents[0] * shares(xp, y, xs, params), *xs[1:], **params)

    return Op(name, Kind.OPAQUE, _scatter_spec, vjp, jvp, Keep.BOTH, batch=batching.scatter(name))


SCATTER_MAX = _scatter_extremum("scatter_max")
SCATTER_MIN = _scatter_extremum("scatter_min")


# --- the functions --------------------------------------------------------------------------------


class Updates:
    """What ``x.at`` returns: subscript it to say where, and call a method to say what.

    Parameters
    ----------
    x : Tensor or Variable
        What is to be updated; it stays as it is.

    Examples
    --------
    >>> import distgrad as dg
    >>> x = dg.asarray([1.0, 2.0, 3.0])
    >>> x.at[1].set(5.0).tolist(), x.at[[0, 0]].add(1.0).tolist(), x.tolist()
    ([1.0, 5.0, 3.0], [3.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    """

    __slots__ = ("_x",)

    def __init__(self, x: Any) -> None:
        self._x = x

    def __getitem__(self, key: Any) -> Places:
        return Places(self._x, key)


class Places:
    """The places of an array that a subscript names; each method returns an updated copy.

    Parameters
    ----------
    x : Tensor or Variable
        The array.
    key : int, slice, None, Ellipsis, integer or bool array, or a tuple of these
        The subscript.

    Notes
    -----
    Values are broadcast to what the subscript picks and converted to the array's dtype. Where an
    index names a place several times, `add`, `multiply`, `divide`, `power`, `min` and `max` take
    every value into account, and `set` the last one; on a GPU it is any of them, as in JAX.
    Gradients flow to the array and to the values. At equal values `min` and `max` prefer the array,
    and equal values for one place share. Second derivatives of `multiply` leave out what two values
    for one place have to do with each other where one of them is 0.

    An index outside of the array raises `PositionError` (JAX leaves such updates out).
    """

    __slots__ = ("_key", "_x")

    def __init__(self, x: Any, key: Any) -> None:
        self._x = x
        self._key = key

    def get(self) -> Any:
        """Return the values at the places, ``x[key]``."""
        return getitem(self._x, self._key)

    def set(self, values: Any) -> Any:
        """Return the array with other values at the places.

        Parameters
        ----------
        values : Tensor, Variable, array or scalar
            Of the same kind of dtype as the array.

        Raises
        ------
        PositionError
            If the subscript does not fit the array.
        ShapeError
            If the values do not broadcast to what it picks.
        DTypeError
            If the values are complex or floating and the array is not.
        """
        index, arrays = encode(self._key)
        return apply(INDEX_SET, self._x, self._fitted("set", values), *arrays, index=index)

    def add(self, values: Any) -> Any:
        """Return the array with values added at the places; errors as for `set`."""
        return add(self._x, self._scattered("add", SCATTER_ADD, values))

    def multiply(self, values: Any) -> Any:
        """Return the array multiplied by values at the places; errors as for `set`."""
        return multiply(self._x, self._scattered("multiply", SCATTER_MULTIPLY, values))

    def divide(self, values: Any) -> Any:
        """Return the array, floating, divided by values at the places; errors as for `set`."""
        return divide(self._x, self._scattered("divide", SCATTER_MULTIPLY, values))

    def power(self, values: Any) -> Any:
        """Return the array raised to the power of values at the places; errors as for `set`."""
        return pow(self._x, self._scattered("power", SCATTER_MULTIPLY, values))

    def min(self, values: Any) -> Any:
        """Return the array with no more than values at the places; errors as for `set`."""
        return minimum(self._x, self._scattered("min", SCATTER_MIN, values))

    def max(self, values: Any) -> Any:
        """Return the array with no less than values at the places; errors as for `set`."""
        return maximum(self._x, self._scattered("max", SCATTER_MAX, values))

    def _scattered(self, method: str, op: Op, values: Any) -> Any:
        index, arrays = encode(self._key)
        fitted = self._fitted(method, values)
        if type(fitted) in _SCALARS:
            fitted = full_beside(self._x, self._picked(), fitted, as_dtype(self._x.dtype))
        return apply(op, fitted, *arrays, index=index, shape=tuple(self._x.shape))

    def _fitted(self, method: str, values: Any) -> Any:
        """Return values in the array's dtype and the shape of what is picked; a scalar as it is."""
        dtype = self._x.dtype
        if isinstance(values, (list, tuple)):  # to the array's backend
            values = add(full_beside(self._x, (), 0, as_dtype(dtype)), values)
        is_scalar = type(values) in _SCALARS
        given = result_type(dtype, values) if is_scalar else as_dtype(values.dtype)
        if given == dtype and is_scalar:
            return values
        if given != dtype:
            if not np.can_cast(given, dtype, "same_kind"):
                raise DTypeError(
                    f"at[...].{method}: the values are {given}, the array is {dtype}; expected the "
                    "same kind of number; convert one of them with dg.astype"
                )
            values = astype(values, dtype)
        shape = self._picked()
        return values if tuple(values.shape) == shape else broadcast_to(values, shape)

    def _picked(self) -> Shape:
        """Return the shape of what is picked, of one element where a mask is yet to be computed."""
        index, arrays = encode(self._key)
        masks = [array for array in arrays if _spec_of(array).dtype == bool_]
        if masks and not any(map(_is_awaited, masks)):  # only its values tell what a mask picks
            return tuple(self.get().shape)
        return GETITEM.spec(_spec_of(self._x), *map(_spec_of, arrays), index=index).shape


def _is_awaited(array: Any) -> bool:
    """Return whether an array's values belong to a transformation, such as a trace."""
    kernels = getattr(array, "kernels", None)
    return kernels is not None and kernels.level > 0


def _spec_of(array: Any) -> Spec:
    host = array if hasattr(array, "shape") else np.asarray(array)
    return Spec(tuple(host.shape), as_dtype(host.dtype))


OPS = (INDEX_SET, SCATTER_MULTIPLY, SCATTER_MAX, SCATTER_MIN)
