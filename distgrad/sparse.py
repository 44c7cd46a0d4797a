"""IndexedSlices: some rows of an array, which is zero elsewhere, as gradients of gathers are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from distgrad import tree
from distgrad.core.op import Op, Placeholder
from distgrad.core.seam import apply
from distgrad.dtypes import DType, DTypeLike
from distgrad.eager import asarray, beside
from distgrad.errors import DTypeError, PositionError, ShapeError
from distgrad.ops.elementwise.arithmetic import ADD, DIVIDE, MULTIPLY, SUBTRACT
from distgrad.ops.picking.indexing import SCATTER_ADD
from distgrad.ops.shaping.structure import concat
from distgrad.tensor import Operators, Tensor

_ROWS = (Placeholder.ARRAY,)  # the index that picks along the first axis
_NUMBERS = (bool, int, float, complex, np.number, np.bool_)


class IndexedSlices(Operators):
    """Some rows of an array, each with its position; the array is zero everywhere else.

    What `GradientTape.gradient` returns for the `params` of `gather` and the table of `embedding`.
    It stands for the whole array wherever a value is taken: every function of the library accepts
    it, and computes with the dense array that `to_dense` returns. What keeps it sparse is

    - multiplying and dividing by a number or a tensor of no dimensions, and negation;
    - adding and subtracting another one of the same shape, which puts the rows end to end;
    - `Variable.assign_add` and `assign_sub`, which change the rows alone;
    - `distgrad.optimizers.clip_by_norm` and its like, and averages over ranks.

    Comparisons are refused, since what is compared could be meant to be the rows or the array.

    Parameters
    ----------
    values : Tensor, Variable, array or nested lists of shape (n, ...)
        The rows.
    indices : integer array of shape (n,)
        Where each row belongs along the first axis; negative ones count from the end, and rows of
        one place add up.
    dense_shape : tuple of int
        The shape of the array; its axes after the first are those of the rows.

    Attributes
    ----------
    values, indices : Tensor
        As given.
    dense_shape, shape : tuple of int
        The shape of the array.

    Raises
    ------
    ShapeError
        If the shapes do not fit together.
    DTypeError
        If positions are no integers.
    PositionError
        If a position lies outside of the array; CuPy's are not looked at.

    Notes
    -----
    In nests it is a leaf. As a `target` of a tape it is differentiated like the dense array. In a
    function under `distgrad.vmap` it becomes dense where it is returned.

    Examples
    --------
    >>> import distgrad as dg
    >>> slices = dg.IndexedSlices([[1.0, 2.0], [3.0, 4.0]], [2, 2], (3, 2))
    >>> (0.5 * slices).numpy().tolist()
    [[0.0, 0.0], [0.0, 0.0], [2.0, 3.0]]
    >>> slices.coalesce().values.tolist()
    [[4.0, 6.0]]
    """

    __slots__ = ("__weakref__", "dense_shape", "indices", "values")

    is_sparse = True
    values: Tensor
    indices: Tensor
    dense_shape: tuple[int, ...]

    def __init__(self, values: Any, indices: Any, dense_shape: Sequence[int]) -> None:
        rows = asarray(values)
        places = beside(np.empty(0, np.int64) if _is_empty(indices) else indices, rows)
        shape = tuple(int(length) for length in dense_shape)
        _check(rows, places, shape)
        self.values, self.indices, self.dense_shape = rows, places, shape

    # --- what it stands for ---------------------------------------------------------------------

    def to_dense(self) -> Tensor:
        """Return the array, by an operation that tapes hear."""
        dense: Tensor = apply(
            SCATTER_ADD, self.values, self.indices, index=_ROWS, shape=self.dense_shape
        )
        return dense

    def read(self) -> Tensor:
        """Return the array: whoever takes a value gets it dense."""
        return self.to_dense()

    def coalesce(self) -> IndexedSlices:
        """Return the same array with each position once, in ascending order.

        Raises
        ------
        TypeError
            Inside `distgrad.function` or `vmap`, if the positions are arguments: how many distinct
            ones there are is not known there.
        """
        kernels = self.indices.kernels
        if kernels.level:
            raise TypeError(
                "coalesce: the positions are not known inside dg.function or dg.vmap; take "
                "to_dense(), or coalesce outside"
            )
        host = kernels.backend.to_host(self.indices.array)
        unique, place_of = np.unique(host % max(self.dense_shape[0], 1), return_inverse=True)
        own = kernels.backend.asarray
        values = apply(
            SCATTER_ADD,
            self.values,
            Tensor(own(place_of.reshape(-1)), kernels),
            index=_ROWS,
            shape=(len(unique), *self.dense_shape[1:]),
        )
        indices = Tensor(own(unique.astype(host.dtype)), kernels)
        return made(values, indices, self.dense_shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.dense_shape

    @property
    def dtype(self) -> DType:
        """The dtype of the rows."""
        return self.values.dtype

    @property
    def ndim(self) -> int:
        """The number of axes of the array."""
        return len(self.dense_shape)

    @property
    def nbytes(self) -> int:
        """The memory of rows and positions, in bytes."""
        return self.values.nbytes + self.indices.nbytes

    @property
    def kernels(self) -> Any:
        """The vocabulary on the rows' backend."""
        return self.values.kernels

    @property
    def backend(self) -> Any:
        """The backend whose arrays hold the rows."""
        return self.values.backend

    @property
    def device(self) -> str:
        """Where the rows live."""
        return self.values.device

    @property
    def key(self) -> int:
        """The identity by which tapes know the rows."""
        return self.values.key

    def numpy(self) -> Any:
        """Return the array as a NumPy array of its own."""
        self._leave()
        return self._host()

    def _host(self) -> np.ndarray[Any, Any]:
        kernels = self.values.kernels
        if kernels.level or self.indices.kernels is not kernels:
            return self.to_dense()._host()
        dense = kernels.scatter_add(
            self.values.array, self.indices.array, index=_ROWS, shape=self.dense_shape
        )
        host: np.ndarray[Any, Any] = kernels.backend.to_host(dense)
        return host

    # --- arithmetic -----------------------------------------------------------------------------

    def combine(self, op: Op, first: Any, second: Any) -> Any:
        """Return what an operation on this and something else gives, where that is sparse too.

        Called by the evaluator; NotImplemented where the result is dense.
        """
        if op is MULTIPLY:
            slices, factor = (first, second) if first is self else (second, first)
            if _is_scalar(factor):
                return made(slices.values * factor, slices.indices, slices.dense_shape)
        elif op is DIVIDE:
            if first is self and _is_scalar(second):
                return made(self.values / second, self.indices, self.dense_shape)
        elif op is ADD or op is SUBTRACT:
            if isinstance(first, IndexedSlices) and isinstance(second, IndexedSlices):
                return first._joined(second if op is ADD else -second)
            if first is self and _is_zero(second):
                return self
            if op is ADD and _is_zero(first):  # the start of Python's sum
                return self
        return NotImplemented

    def _joined(self, other: IndexedSlices) -> Any:
        if self.dense_shape != other.dense_shape:
            return NotImplemented  # the dense arrays broadcast, or say why not
        return made(
            concat([self.values, other.values], axis=0),
            concat([self.indices, other.indices], axis=0),
            self.dense_shape,
        )

    def __neg__(self) -> IndexedSlices:
        return made(-self.values, self.indices, self.dense_shape)

    def __pos__(self) -> IndexedSlices:
        return self

    def astype(self, dtype: DTypeLike, *rules: Any, **options: Any) -> IndexedSlices:
        """Return the rows in another dtype."""
        return made(self.values.astype(dtype, *rules, **options), self.indices, self.dense_shape)

    def to(self, *, backend: Any = None, device: str | None = None) -> IndexedSlices:
        """Return the rows on another backend or device; see `Tensor.to`."""
        values = self.values.to(backend=backend, device=device)
        indices = self.indices.to(backend=backend, device=device)
        return made(values, indices, self.dense_shape)

    def __eq__(self, other: object) -> bool:
        return False if other is None else self._refuse_comparison()

    def __ne__(self, other: object) -> bool:
        return True if other is None else self._refuse_comparison()

    def _refuse_comparison(self, other: object = None) -> NoReturn:
        raise TypeError(
            "IndexedSlices are not compared: take g.to_dense() to compare the array, or g.values "
            "and g.indices to compare the rows"
        )

    __lt__ = __le__ = __gt__ = __ge__ = _refuse_comparison
    __hash__ = None  # type: ignore[assignment]  # as of a tensor

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_dense())

    def __len__(self) -> int:
        return self.dense_shape[0]

    def __copy__(self) -> IndexedSlices:
        return self  # immutable

    def __deepcopy__(self, memo: dict[int, Any]) -> IndexedSlices:
        return self

    def __str__(self) -> str:
        return (
            f"dg.IndexedSlices(indices={self.indices!s}, values={self.values!s}, "
            f"dense_shape={self.dense_shape})"
        )

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __repr__(self) -> str:
        return (
            f"<dg.IndexedSlices: dense_shape={self.dense_shape}, dtype={self.dtype}, "
            f"indices={self.indices!r}, values={self.values!r}>"
        )


def made(values: Tensor, indices: Tensor, dense_shape: tuple[int, ...]) -> IndexedSlices:
    """Return the slices of rows and positions that are known to fit together."""
    slices = IndexedSlices.__new__(IndexedSlices)
    slices.values, slices.indices, slices.dense_shape = values, indices, dense_shape
    return slices


def densified(value: Any) -> Any:
    """Return slices as the array that they stand for; any other value as it is."""
    return value.to_dense() if isinstance(value, IndexedSlices) else value


def carrier(gradient: Any) -> Any:
    """Return the tensor under whose identity a gradient is recorded: of slices, the rows."""
    return gradient.values if isinstance(gradient, IndexedSlices) else gradient


def _is_empty(indices: Any) -> bool:
    return isinstance(indices, (list, tuple)) and not indices


def _is_scalar(value: Any) -> bool:
    if isinstance(value, _NUMBERS):
        return True
    if isinstance(value, (Operators, np.ndarray)):
        return value.shape == ()
    return False


def _is_zero(value: Any) -> bool:
    return isinstance(value, _NUMBERS) and value == 0


def _check(values: Tensor, indices: Tensor, shape: tuple[int, ...]) -> None:
    if indices.dtype.kind not in "iu":
        raise DTypeError(
            f"IndexedSlices: indices have dtype {indices.dtype}; expected integers: convert them "
            "with astype('int64')"
        )
    if indices.ndim != 1 or not values.shape or values.shape[0] != indices.shape[0]:
        raise ShapeError(
            f"IndexedSlices: values have shape {values.shape}, indices {indices.shape}; expected "
            "(n, ...) and (n,), a position for each row"
        )
    if not shape or values.shape[1:] != shape[1:]:
        raise ShapeError(
            f"IndexedSlices: values have shape {values.shape}, dense_shape is {shape}; expected "
            "the same axes after the first"
        )
    host = indices.array
    if isinstance(host, np.ndarray) and host.size:
        wrong = host[(host < -shape[0]) | (host >= shape[0])]
        if wrong.size:
            raise PositionError(
                f"IndexedSlices: index {wrong[0]} is out of bounds for dense_shape {shape}; "
                f"expected from {-shape[0]} to {shape[0] - 1}"
            )


# --- nests whose slices are taken apart ---------------------------------------------------------


class _Opened:
    """Slices as a node of a nest, with values and indices as leaves; rebuilt, they are slices."""

    def __init__(self, slices: IndexedSlices) -> None:
        self.slices = slices


tree.register(
    _Opened,
    lambda node: (
        (node.slices.values, node.slices.indices),
        node.slices.dense_shape,
        ("values", "indices"),
    ),
    lambda dense_shape, children: made(children[0], children[1], dense_shape),
)


def opened(nest: Any) -> Any:
    """Return a nest in which slices are nodes and their tensors leaves; see `tree.unflatten`."""
    return tree.map(lambda x: _Opened(x) if isinstance(x, IndexedSlices) else x, nest)
