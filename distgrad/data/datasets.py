"""Data sets: examples by their number, from arrays and files, read when a batch asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.data.draws import Draws

Array = np.ndarray[Any, Any]


class Dataset:
    """Examples that are found by their number; those of files and of users derive from this.

    A subclass has `__len__` and `read`; `map`, `subset` and whatever takes a data set follow.
    Several threads may call `read` at once.
    """

    _depth = 0  # how many maps stand in the chain

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} has no __len__; a Dataset needs one")

    def read(self, places: Array) -> Any:
        """Return examples by their numbers.

        Parameters
        ----------
        places : numpy.ndarray of int64, shape (n,)
            Numbers from 0 up to the length; in any order, and one may stand there twice.

        Returns
        -------
        nest of numpy.ndarray, each of shape (n, ...)
        """
        raise NotImplementedError(f"{type(self).__name__} has no read; a Dataset needs one")

    def take(self, places: Array, seed: int = 0, epoch: int = 0) -> Any:
        """Return examples as a training sees them, with what was mapped over them.

        Parameters
        ----------
        places : numpy.ndarray of int64, shape (n,)
            Their numbers.
        seed, epoch : int
            Fix what random maps draw: each epoch has numbers of its own.
        """
        return self.read(places)

    def __getitem__(self, place: int | slice) -> Any:
        """Return one example, or those of a slice; random maps draw with seed 0."""
        if isinstance(place, slice):
            return self.take(np.arange(*place.indices(len(self))))
        index = range(len(self))[place]
        return tree.map(lambda leaf: leaf[0], self.take(np.array([index])))

    def map(self, function: Callable[..., Any], *, random: bool = False) -> Dataset:
        """Return the data set with a function applied to its examples, a batch at a time.

        Parameters
        ----------
        function : callable
            ``function(examples)`` or, with `random`, ``function(examples, draws)``: from a nest of
            arrays (n, ...) to one. It must treat each example by itself, since which examples
            stand side by side depends on the number of ranks.
        random : bool
            Whether it draws, by the `Draws` that it is given: a stream for each example, so that
            ``draws.uniform((2,))`` has the shape (n, 2). An example's numbers depend on seed, epoch
            and its own number alone.

        Examples
        --------
        >>> import numpy as np
        >>> noisy = from_arrays(np.zeros(4)).map(
        ...     lambda x, draws: x + draws.uniform(), random=True
        ... )
        >>> whole, one = noisy.take(np.arange(4), seed=1), noisy.take(np.array([2]), seed=1)
        >>> bool(whole[2] == one[0])
        True
        """
        return _Mapped(self, function, random)

    def subset(self, places: Any) -> Dataset:
        """Return the data set of some of the examples.

        Parameters
        ----------
        places : sequence of int, slice, or boolean array of the length of the data set
            Which ones, in which order.

        Raises
        ------
        IndexError
            If a number is out of range.
        """
        chosen = np.arange(len(self))[places if isinstance(places, slice) else np.asarray(places)]
        return _Subset(self, chosen)


class _Mapped(Dataset):
    def __init__(self, inner: Dataset, function: Callable[..., Any], random: bool) -> None:
        self._inner, self._function, self._random = inner, function, random
        self._depth = inner._depth + 1

    def __len__(self) -> int:
        return len(self._inner)

    def read(self, places: Array) -> Any:
        return self.take(places)

    def take(self, places: Array, seed: int = 0, epoch: int = 0) -> Any:
        examples = self._inner.take(places, seed, epoch)
        if not self._random:
            return self._function(examples)
        draws = Draws(seed, depth=self._depth, epoch=epoch, places=places)
        return self._function(examples, draws)


class _Subset(Dataset):
    def __init__(self, inner: Dataset, places: Array) -> None:
        self._inner, self._places = inner, places
        self._depth = inner._depth

    def __len__(self) -> int:
        return len(self._places)

    def read(self, places: Array) -> Any:
        return self._inner.read(self._places[places])

    def take(self, places: Array, seed: int = 0, epoch: int = 0) -> Any:
        return self._inner.take(self._places[places], seed, epoch)


class _Arrays(Dataset):
    def __init__(self, function: str, nest: Any) -> None:
        leaves, self._treedef = tree.flatten(nest)
        self._leaves = [leaf if hasattr(leaf, "shape") else np.asarray(leaf) for leaf in leaves]
        self._length = common_length(function, tree.paths(nest), self._leaves)

    def __len__(self) -> int:
        return self._length

    def read(self, places: Array) -> Any:
        return tree.unflatten(self._treedef, [np.asarray(leaf[places]) for leaf in self._leaves])


def from_arrays(nest: Any) -> Dataset:
    """Return the data set of arrays, whose first axis counts the examples.

    Parameters
    ----------
    nest : nest of arrays (n, ...)
        Such as ``{"image": images, "label": labels}``; read, never copied as a whole.

    Raises
    ------
    ValueError
        If there is no array, one has no axes, or their lengths differ.

    Examples
    --------
    >>> data = from_arrays((np.eye(3), np.arange(3)))
    >>> len(data), data.read(np.array([2, 0]))[1]
    (3, array([2, 0]))
    """
    return _Arrays("from_arrays", nest)


def from_npy(paths: Any) -> Dataset:
    """Return the data set of .npy files, which are mapped into memory and not read as a whole.

    Parameters
    ----------
    paths : nest of paths
        One file for each leaf; the first axis of each array counts the examples.

    Raises
    ------
    ValueError
        If a file is no .npy file, holds Python objects, or the lengths differ.
    OSError
        If a file cannot be read.
    """
    return _Arrays("from_npy", tree.map(_mapped_file, paths))


def _mapped_file(path: Any) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"from_npy: {path}: expected a .npy file of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"from_npy: {path}: expected a .npy file, got an .npz archive")
    return array


def common_length(function: str, paths: Sequence[str], leaves: Sequence[Any]) -> int:
    """Return how many examples arrays have; raise a ValueError where they differ."""
    if not leaves:
        raise ValueError(f"{function}: there is no array; expected a nest of arrays of examples")
    lengths: dict[str, int] = {}
    for path, leaf in zip(paths, leaves, strict=True):
        if not leaf.shape:
            raise ValueError(
                f"{function}: {path or 'the array'} has no axis that counts examples; expected "
                "shape (n, ...)"
            )
        lengths[path] = int(leaf.shape[0])
    first = next(iter(lengths))
    for path, length in lengths.items():
        if length != lengths[first]:
            raise ValueError(
                f"{function}: {first} has {lengths[first]} examples, {path} has {length}; expected "
                "the same first axis in all"
            )
    return lengths[first]
