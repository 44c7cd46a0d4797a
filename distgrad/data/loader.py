"""Batches of a data set, one after the other, prepared ahead by threads, from any place on."""

from __future__ import annotations

import operator
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from distgrad import tree
from distgrad.data.datasets import Dataset
from distgrad.data.memory import refuse_larger
from distgrad.data.order import Order
from distgrad.errors import ShapeError

LAST = ("across", "keep", "drop")

Rows = Callable[[int], tuple[int, int]]


@dataclass(frozen=True)
class _Batch:
    """Which places of the endless row of epochs a batch has, and where the next one starts."""

    start: int
    stop: int
    after: int


class Loader:
    """Gives the batches of a data set without an end, in an order that the seed fixes.

    Parameters
    ----------
    dataset : Dataset
        The examples.
    batch : int
        How many of them a batch has, over all ranks together.
    seed : int
        Fixes the order, and what random maps draw.
    shuffle : bool
        Whether each epoch has an order of its own.
    last : {"across", "keep", "drop"}
        What becomes of the examples at the end of an epoch that fill no batch: they share one with
        the first ones of the next epoch (so that all batches are of one size and no example is left
        out), make a smaller one, or are left out.
    rows : callable, optional
        ``rows(size) -> (start, stop)``: which rows of a batch of this size this process needs. Only
        those are read; in place of each array stand `PartialRows` of the whole batch's shape. By
        default the whole batch is read.
    threads : int
        How many threads read and map; 0 does it when a batch is asked for.
    ahead : int
        How many batches are prepared ahead at most.

    Attributes
    ----------
    waited : float
        Seconds for which `next` has waited for batches so far.

    Raises
    ------
    TypeError
        If a number is none.
    ValueError
        If a number makes no sense, or ``last="drop"`` leaves no batch. From `next`, if a map does
        not return a row for each example (a ShapeError).
    MemoryError
        From `next`, if a batch over several epochs takes more than the machine has.

    Notes
    -----
    The batches do not depend on threads, on `ahead`, nor on how many processes take their rows. An
    error in a thread is raised by the `next` that would have given its batch, with the traceback of
    the thread; `next` after that tries the same batch again. `close`, or the end of the last
    reference, ends the threads.

    `state` is the seed, the epoch and the number of examples of it that were given: a few integers,
    from which `load_state` goes on.

    Examples
    --------
    >>> from distgrad.data import from_arrays
    >>> loader = Loader(from_arrays(np.arange(10)), 4, seed=3, threads=0)
    >>> first, second = next(loader), next(loader)
    >>> state = loader.state()
    >>> state["epoch"], state["position"]
    (0, 8)
    >>> third = next(loader)
    >>> loader.load_state(state)
    >>> bool((next(loader) == third).all())
    True
    """

    def __init__(
        self,
        dataset: Dataset,
        batch: int,
        *,
        seed: int,
        shuffle: bool = True,
        last: str = "across",
        rows: Rows | None = None,
        threads: int = 1,
        ahead: int = 2,
    ) -> None:
        batch = _at_least(1, "batch", batch)
        threads = _at_least(0, "threads", threads)
        ahead = _at_least(1, "ahead", ahead)
        if last not in LAST:
            raise ValueError(f"Loader: last is {last!r}; expected one of {', '.join(LAST)}")
        if last == "drop" and batch > len(dataset):
            raise ValueError(
                f"Loader: a batch of {batch} is larger than the data set of {len(dataset)} "
                "examples, and last='drop' leaves none; take a smaller batch or last='across'"
            )
        self.dataset, self.batch, self.last = dataset, batch, last
        self.order = Order(len(dataset), seed=seed, shuffle=shuffle)
        self.waited = 0.0
        self._rows = rows
        self._threads, self._ahead = threads, ahead
        self._place = 0  # in the endless row of epochs, of the next batch that is given
        self._next = 0  # of the next one that is prepared
        self._waiting: deque[tuple[_Batch, Any]] = deque()
        self._pool: Any = None
        self._process = 0  # whose threads those of the pool are
        self._at_end: Any = None  # ends the pool with the last reference to this

    def __iter__(self) -> Iterator[Any]:
        """Return the loader itself: its batches have no end."""
        return self

    def __next__(self) -> Any:
        """Return the next batch."""
        started = time.perf_counter()
        if not self._threads:
            batch = self._cut(self._place)
            found = self._read(batch)
        else:
            self._prepare()
            batch, future = self._waiting[0]
            try:
                found = future.result()
            except BaseException:
                self._forget()
                del future  # it holds the error, whose traceback holds what is here
                raise
            self._waiting.popleft()
        self._place = batch.after
        if self._threads:
            self._prepare()
        self.waited += time.perf_counter() - started
        return found

    @property
    def epoch(self) -> int:
        """The epoch of the next batch's first example."""
        return self._place // len(self.dataset)

    @property
    def batches_an_epoch(self) -> float:
        """How many batches an epoch has; with ``last="across"`` that need not be a whole number."""
        share = len(self.dataset) / self.batch
        return {"across": share, "keep": float(np.ceil(share)), "drop": float(int(share))}[
            self.last
        ]

    def state(self) -> dict[str, int]:
        """Return where the loader stands, as JSON and checkpoints can hold it."""
        epoch, position = divmod(self._place, len(self.dataset))
        return {
            "seed": self.order.seed,
            "examples": len(self.dataset),
            "epoch": epoch,
            "position": position,
        }

    def load_state(self, state: Mapping[str, int]) -> None:
        """Go on from where a `state` was taken.

        Raises
        ------
        ValueError
            If it is that of another data set's length, or of another seed.
        """
        for name, own in (("seed", self.order.seed), ("examples", len(self.dataset))):
            if state[name] != own:
                raise ValueError(
                    f"load_state: the state is of a loader with {name} {state[name]}; this one has "
                    f"{own}, so that its order is another one"
                )
        self._forget()
        self._place = self._next = state["epoch"] * len(self.dataset) + state["position"]

    def close(self) -> None:
        """End the threads; `next` starts them again."""
        self._forget()
        pool, self._pool = self._pool, None
        if pool is not None:
            self._at_end.detach()  # or it would hold this pool for as long as the loader lives
            pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _forget(self) -> None:
        """Drop what was prepared ahead."""
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
        self._next = self._place

    def _prepare(self) -> None:
        """Have threads prepare batches until enough are ahead."""
        if self._pool is not None and self._process != os.getpid():
            # A forked process has no threads: it would wait for ever for what they prepare.
            self._at_end.detach()
            self._pool = None
            self._waiting.clear()
            self._next = self._place
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="distgrad-data")
            self._process = os.getpid()
            self._at_end = weakref.finalize(self, _end, self._pool)
        while len(self._waiting) < self._ahead:
            batch = self._cut(self._next)
            work = _Work(self.dataset, self.order, self._rows)
            self._waiting.append((batch, self._pool.submit(work.read, batch)))
            self._next = batch.after

    def _cut(self, place: int) -> _Batch:
        """Return the batch that starts at a place."""
        if self.last == "across":
            return _Batch(place, place + self.batch, place + self.batch)
        end = (place // len(self.dataset) + 1) * len(self.dataset)
        stop = min(place + self.batch, end)
        if self.last == "drop":
            if place + self.batch > end:  # only after a state of another batch size
                return self._cut(end)
            return _Batch(place, stop, stop if stop + self.batch <= end else end)
        return _Batch(place, stop, stop)

    def _read(self, batch: _Batch) -> Any:
        return _Work(self.dataset, self.order, self._rows).read(batch)


def _end(pool: Any) -> None:
    pool.shutdown(wait=False, cancel_futures=True)


def _at_least(least: int, name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"Loader: {name} is {value!r}; expected an integer") from None
    if number < least:
        raise ValueError(f"Loader: {name} is {number}; expected {least} or more")
    return number


@dataclass(frozen=True)
class _Work:
    """What a thread needs to read a batch; not the loader, whose end is to end the threads."""

    dataset: Dataset
    order: Order
    rows: Rows | None

    def read(self, batch: _Batch) -> Any:
        size = batch.stop - batch.start
        first, stop = (0, size) if self.rows is None else self.rows(size)
        parts: list[Any] = []
        place, end = batch.start + first, batch.start + stop
        length = self.order.length
        while place < end or not parts:  # an empty part too, for the shapes
            epoch = place // length
            until = min(end, (epoch + 1) * length)
            chosen = self.order.places(place, until)
            parts.append(self._taken(chosen, epoch))
            if place == batch.start + first and until < end:  # epochs over epochs may follow
                self._refuse_huge(parts[0], len(chosen), stop - first, size)
            place = until
        whole = parts[0]
        if len(parts) > 1:
            whole = tree.map(lambda *each: np.concatenate(each), parts[0], *parts[1:])
        if self.rows is None:
            return whole
        return tree.map(lambda leaf: PartialRows(leaf, first, size), whole)

    def _refuse_huge(self, part: Any, examples: int, rows: int, size: int) -> None:
        """Refuse rows that together take more memory than there is, by what some of them take."""
        each = sum(getattr(leaf, "nbytes", 0) for leaf in tree.flatten(part)[0]) / examples
        # Those read so far, and all in a row.
        refuse_larger(f"Loader: a batch of {size} examples, {rows} of them here,", 2 * each * rows)

    def _taken(self, chosen: Any, epoch: int) -> Any:
        """Return the examples at some places, once there is one for each."""
        try:
            found = self.dataset.take(chosen, self.order.seed, epoch)
        except StopIteration as error:
            raise RuntimeError(
                "Loader: the data set raised StopIteration, which would end the loop over the "
                "batches without a word; expected its read and maps to return examples"
            ) from error
        for number, leaf in enumerate(tree.flatten(found)[0]):
            shape = getattr(leaf, "shape", None)
            if shape is not None and shape[:1] != (len(chosen),):
                raise ShapeError(
                    f"Loader: {tree.paths(found)[number] or 'the array'} has shape {tuple(shape)} "
                    f"for {len(chosen)} examples; expected one row for each: leave examples out by "
                    "subset, before the map"
                )
        return found


class PartialRows:
    """Some rows of a batch in place of the whole: what one rank reads of the global batch.

    It has the shape of the whole batch, and gives slices of the rows that are there, as
    `distgrad.distributed.shard`, `micro_batches` and `logical_shards` ask for them.

    Parameters
    ----------
    rows : numpy.ndarray, shape (n, ...)
        The rows that are there.
    start : int
        The place of the first one in the batch.
    size : int
        How many rows the whole batch has.
    """

    __slots__ = ("dtype", "rows", "shape", "start")

    def __init__(self, rows: Any, start: int, size: int) -> None:
        self.rows, self.start = rows, start
        self.shape: tuple[int, ...] = (size, *rows.shape[1:])
        self.dtype = rows.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        stop = self.start + len(self.rows)
        return f"<rows {self.start} to {stop} of a batch, {self.dtype}{list(self.shape)}>"

    def __getitem__(self, chosen: slice) -> Any:
        """Return the rows of a slice as an array.

        Raises
        ------
        IndexError
            If it has rows that are not there.
        """
        if not isinstance(chosen, slice) or chosen.step not in (None, 1):
            raise IndexError(f"PartialRows: expected a slice of rows in a row, got {chosen!r}")
        start, stop, _ = chosen.indices(self.shape[0])
        stop = max(start, stop)
        there = self.start, self.start + len(self.rows)
        if stop > start and not there[0] <= start <= stop <= there[1]:
            raise IndexError(
                f"PartialRows: rows {start} to {stop} were asked for, but this rank has read "
                f"{there[0]} to {there[1]} of {self.shape[0]}; a Loader with rows=None reads all"
            )
        return self.rows[max(start - self.start, 0) : max(stop - self.start, 0)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Return the whole batch, if all of it is there."""
        return np.asarray(self[: self.shape[0]], dtype)
