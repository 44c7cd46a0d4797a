"""What a nest holds, by path: variables, arrays, generators, shards and Python's values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.dtypes import as_dtype
from distgrad.eager import asarray
from distgrad.errors import DTypeError, ShapeError
from distgrad.random import Generator
from distgrad.tensor import Tensor
from distgrad.variable import Variable

Array = np.ndarray[Any, Any]


class Shard:
    """The rows that one rank holds of a tensor that the ranks hold together.

    Parameters
    ----------
    value : Variable, Tensor or numpy.ndarray, shape (n, ...)
        The rows; there may be none of them.
    start : int
        The place of the first one among all rows.
    rows : int
        How many rows all ranks have together.

    Raises
    ------
    ShapeError
        If the value has no axes, or does not lie within `rows`.

    Notes
    -----
    Every rank saves its own rows. To load, give the shards as they are cut now: their number and
    sizes need not be those of the ranks that saved. Without a shard, the whole tensor is read.

    Examples
    --------
    >>> import distgrad as dg
    >>> moment = dg.checkpoint.Shard(dg.zeros((2, 3)), start=4, rows=9)
    >>> moment.shape
    (9, 3)
    """

    __slots__ = ("rows", "start", "value")

    def __init__(self, value: Any, *, start: int, rows: int) -> None:
        shape = tuple(value.shape)
        if not shape or start < 0 or start + shape[0] > rows:
            raise ShapeError(
                f"Shard: a value of shape {shape} from row {start} on does not lie in {rows} rows; "
                "expected value of shape (n, ...), start >= 0, and start + n <= rows"
            )
        self.value, self.start, self.rows = value, start, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole tensor."""
        return (self.rows, *self.value.shape[1:])

    @property
    def dtype(self) -> Any:
        """The dtype."""
        return self.value.dtype


@dataclass(frozen=True)
class Leaf:
    """A place of a nest that is saved under a path.

    Attributes
    ----------
    path : str
        Such as ``model/dense/kernel``.
    kind : {"array", "generator", "value"}
        What it is: numbers, a generator's state, one of Python's values.
    shape : tuple of int
        Of all ranks together.
    dtype : str
        Its name; of a value, its type's name.
    value : object
        What stands there.
    held : bool
        Whether it is not itself in the nest, but something that has `variables`.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    value: Any
    held: bool = False

    @property
    def rows(self) -> tuple[int, int] | None:
        """The rows that this rank holds of a shard; None where every rank holds all."""
        if not isinstance(self.value, Shard):
            return None
        return self.value.start, self.value.start + self.value.value.shape[0]

    @property
    def accompanies(self) -> bool:
        """Whether it is a model's generator, which is no weight, and older checkpoints lack."""
        return self.held and self.kind == "generator"

    def describe(self) -> str:
        """Return dtype and shape, such as ``float32[3, 4]``."""
        return self.dtype if self.kind == "value" else f"{self.dtype}{list(self.shape)}"

    def host(self) -> Array:
        """Return the numbers that this rank holds, on the host; not to be changed."""
        value = self.value.value if isinstance(self.value, Shard) else self.value
        if isinstance(value, Generator):
            return np.array(value.state, np.uint64)
        if isinstance(value, (Variable, Tensor)):
            array: Array = value.kernels.backend.to_host(value.array)
            return array
        return np.asarray(value)


def collect(nest: Any) -> dict[str, Leaf]:
    """Return the leaves of a nest by path.

    Raises
    ------
    TypeError
        If something in the nest cannot be saved.
    ValueError
        If two leaves have the same path.
    """
    found: dict[str, Leaf] = {}
    leaves, _ = tree.flatten(nest)
    for path, given in zip(tree.paths(nest), leaves, strict=True):
        for leaf in _leaves_of(path, given):
            if leaf.path in found:
                raise ValueError(
                    f"checkpoint: two leaves have the path {leaf.path!r}; give them different keys"
                )
            found[leaf.path] = leaf
    return found


def rebuild(nest: Any, replace: Callable[[Leaf], Any]) -> Any:
    """Return a nest of the same structure, with what `replace` gives for each leaf."""
    leaves, treedef = tree.flatten(nest)
    rebuilt = []
    for path, given in zip(tree.paths(nest), leaves, strict=True):
        if _holds_variables(given):
            for leaf in _leaves_of(path, given):
                replace(leaf)
            rebuilt.append(given)
        else:
            rebuilt.append(replace(_leaf(path, given)))
    return tree.unflatten(treedef, rebuilt)


def place(leaf: Leaf, loaded: Any) -> Any:
    """Put what was read where it belongs, and return what stands there now.

    Variables and generators are assigned; in place of a tensor stands a new one on its backend,
    in place of an array a new array.
    """
    target = leaf.value
    if isinstance(target, Shard):
        inner = place(Leaf(leaf.path, "array", (), leaf.dtype, target.value), loaded)
        return (
            target if inner is target.value else Shard(inner, start=target.start, rows=target.rows)
        )
    if isinstance(target, Variable):
        return target.assign(loaded)
    if isinstance(target, Generator):
        target.state = loaded
        return target
    if isinstance(target, Tensor):
        return asarray(loaded, backend=target.backend)
    return loaded[()] if isinstance(target, np.generic) else loaded


def _leaves_of(path: str, given: Any) -> Iterator[Leaf]:
    """Yield the leaves that are saved for what stands in a nest."""
    for own_path, value in _expand(path, given):
        yield _leaf(own_path, value, held=value is not given)


def _expand(path: str, given: Any) -> Iterator[tuple[str, Any]]:
    """Yield what is saved: of a model or an optimizer its variables by name, and generators."""
    if not _holds_variables(given):
        yield path, given
        return
    if _is_cut(given):
        for name, (variable, start, rows) in given.cut_variables().items():
            whole = rows is None
            value = variable if whole else Shard(variable, start=start, rows=rows)
            yield f"{path}/{name}" if path else name, value
        return
    held = given.variables
    if callable(
        getattr(given, "named_variables", None)
    ):  # a module, whose paths begin with its own
        own = f"{getattr(given, 'path', '')}/"
        pairs = [*given.named_variables(), *getattr(given, "named_generators", list)()]
        named = {each.removeprefix(own): value for each, value in pairs}
    elif isinstance(held, dict):
        named = {str(key): value for key, value in held.items()}
    else:
        names = [variable.name for variable in held]
        if len(set(names)) < len(names):  # such as many that nobody named
            names = [f"{position}" for position in range(len(held))]
        named = dict(zip(names, held, strict=True))
    for name, value in named.items():
        yield f"{path}/{name}" if path else name, value


def _is_cut(given: Any) -> bool:
    """Return whether something says by itself which rows of its variables this rank holds."""
    return callable(getattr(given, "cut_variables", None))


def _holds_variables(given: Any) -> bool:
    """Return whether something is no array itself, but has `variables`."""
    if _is_cut(given):
        return True
    held = getattr(given, "variables", None)
    if not isinstance(held, (dict, list, tuple)):
        return False
    values = held.values() if isinstance(held, dict) else held
    return all(isinstance(each, Variable) for each in values)


def _leaf(path: str, value: Any, *, held: bool = False) -> Leaf:
    if isinstance(value, (Variable, Tensor, Shard, np.ndarray, np.generic)):
        try:
            dtype = as_dtype(value.dtype)
        except DTypeError as error:
            raise DTypeError(f"checkpoint: {path!r}: {error}") from error
        inner = value.value if isinstance(value, Shard) else value
        if isinstance(inner, Tensor) and inner.kernels.level:
            raise TypeError(
                f"checkpoint: {path!r} is a symbol of a transformation, such as vmap or function; "
                "expected numbers: save outside of it"
            )
        return Leaf(path, "array", tuple(value.shape), dtype.name, value, held)
    if isinstance(value, Generator):
        return Leaf(path, "generator", np.shape(value.state), "uint64", value, held)
    if type(value) in (bool, int, float, str):
        return Leaf(path, "value", (), type(value).__name__, value)
    raise TypeError(
        f"checkpoint: {path!r} is a {type(value).__name__}; expected a variable, a tensor, a NumPy "
        "array, a Shard, a Generator, a bool, an int, a float, a str, or what has `variables`"
    )
