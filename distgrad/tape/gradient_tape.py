"""GradientTape: hear operations, keep what their rules need, and give gradients of nests."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from distgrad import tree
from distgrad.core.seam import LISTENERS
from distgrad.dtypes import is_differentiable
from distgrad.eager import asarray
from distgrad.errors import TapeError
from distgrad.tape.arguments import (
    UnconnectedGradients,
    as_gradient,
    matching_seeds,
    source_leaves,
    target_leaves,
    unconnected,
    unconnected_policy,
)
from distgrad.tape.backward import backpropagate, connected_to
from distgrad.tape.history import History, history_of, record_of_gradient
from distgrad.tape.recorder import Recorder
from distgrad.tensor import Operators, Tensor
from distgrad.variable import Variable

OnReady = Callable[[int, Tensor | None], None]


class GradientTape(Recorder):
    """Record the operations of a block for automatic differentiation in reverse mode.

    Within its ``with`` block the tape hears every operation of its thread that involves a watched
    value. Trainable variables are watched when they are read; tensors by `watch`.

    Parameters
    ----------
    persistent : bool
        Whether `gradient` may be called more than once. Such a tape also differentiates what its
        own `gradient` returned, and holds what it recorded until it is released.
    watch_accessed_variables : bool
        Whether trainable variables are watched by themselves when they are read.

    Examples
    --------
    >>> import distgrad as dg
    >>> x = dg.Variable(3.0)
    >>> with dg.GradientTape(persistent=True) as tape:
    ...     y = x * x * x
    >>> dy_dx = tape.gradient(y, x)
    >>> print(dy_dx)
    dg.Tensor(27.0, shape=(), dtype=float32)
    >>> print(tape.gradient(dy_dx, x))
    dg.Tensor(18.0, shape=(), dtype=float32)
    """

    def __init__(self, persistent: bool = False, watch_accessed_variables: bool = True) -> None:
        self._persistent = persistent
        self._watch_accessed = watch_accessed_variables
        self._entered = False  # ever
        self._inside = False  # its block, now
        self._recording = False
        self._stopped = 0  # how many blocks of stop_recording are open
        self._spent = False  # it has given its gradient, or was closed, and must be entered anew
        self._closed = False
        self._clear()

    def _clear(self) -> None:
        super().__init__()
        self._variables: dict[int, Variable] = {}
        self._history: History | None = None
        self._spent = self._closed = False

    def _release(self) -> None:
        variables = self._variables
        self._clear()
        self._variables, self._spent = variables, True

    # --- recording ------------------------------------------------------------------------------

    def __enter__(self) -> GradientTape:
        if self._recording:
            raise ValueError(
                "Tape is still recording, This can happen if you try to re-enter an "
                "already-active tape; leave its block first, or make a second GradientTape"
            )
        if self._spent:
            self._clear()
        self._entered = self._inside = True
        self._resume()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._inside = False
        self._pause()

    def _resume(self) -> None:
        LISTENERS.set((*LISTENERS.get(), self))
        self._recording = True

    def _pause(self) -> None:
        # Not the last one in every case: tapes may be left in another order than entered.
        LISTENERS.set(tuple(each for each in LISTENERS.get() if each is not self))
        self._recording = False

    def watch(self, tensor: Any) -> None:
        """Follow values, so that gradients with respect to them can be asked for.

        Parameters
        ----------
        tensor : Tensor, Variable or nest of them
            What to follow from now on; operations that ran before are not heard.

        Raises
        ------
        ValueError
            If the nest holds anything else.
        TapeError
            If the tape has given its gradient or was closed, and has not been entered anew.

        Warns
        -----
        UserWarning
            If a value is not floating: it has no gradient.
        """
        if self._spent:
            raise TapeError(
                f"watch: this tape {'is closed' if self._closed else 'has given its gradient'}; "
                "enter it anew first, or make another GradientTape"
            )
        for value in [None] if tensor is None else tree.flatten(tensor)[0]:
            if not isinstance(value, Operators):
                raise ValueError(
                    f"watch: Passed in object {value!r} of type {type(value).__name__!r}, not "
                    "Tensor or Variable; convert it first, x = dg.asarray(x), and compute with "
                    "that x"
                )
            if not is_differentiable(value.dtype):
                warnings.warn(
                    "watch: The dtype of the watched tensor must be floating (e.g. float32), got "
                    f"{value.dtype}: its gradient will be None; convert it with astype first",
                    stacklevel=2,
                )
                continue
            self._watch(value)

    def _watch(self, value: Any) -> None:
        self.follow(value.key)
        if isinstance(value, Variable):
            self._variables[value.key] = value

    def hear_read(self, variable: Variable) -> None:
        """Watch a trainable variable that is about to be read (called by the seam)."""
        if variable.key in self._variables or not (self._watch_accessed and variable.trainable):
            return
        # A tape whose gradient was asked for in another thread still listens, but is spent.
        if is_differentiable(variable.dtype) and not self._spent:
            self._watch(variable)

    @contextmanager
    def stop_recording(self) -> Iterator[None]:
        """Hear nothing within a ``with`` block; blocks may nest.

        Raises
        ------
        TapeError
            If the tape was never entered.
        ValueError
            If its block has been left.
        """
        if not self._entered:
            raise TapeError(
                "Trying to stop recording a tape which is not recording: enter it first, "
                "with dg.GradientTape() as tape"
            )
        if not self._recording and not self._stopped:
            raise ValueError(
                "Tape is not recording: its block has been left, or it has given its gradient"
            )
        if self._recording:
            self._pause()
        self._stopped += 1
        try:
            yield
        finally:
            self._stopped -= 1
            if self._inside and not self._stopped and not self._closed:
                if self._spent:  # a plain tape gave its gradient meanwhile: what follows is new
                    self._clear()
                self._resume()

    def reset(self) -> None:
        """Forget everything recorded and watched so far, and go on recording.

        Raises
        ------
        ValueError
            If the tape is not recording.
        """
        if not self._recording:
            raise ValueError("Tape is not recording: reset() belongs inside its block")
        self._clear()

    def close(self) -> None:
        """Release all that the tape holds; it gives no gradients until it is entered anew."""
        self._pause()
        self._release()
        self._closed = True

    def watched_variables(self) -> tuple[Variable, ...]:
        """Return the variables that the tape watches, in the order of their creation."""
        return tuple(self._variables[key] for key in sorted(self._variables))

    # --- gradients ------------------------------------------------------------------------------

    def gradient(
        self,
        target: Any,
        sources: Any,
        output_gradients: Any = None,
        unconnected_gradients: UnconnectedGradients | str = UnconnectedGradients.NONE,
        *,
        on_ready: OnReady | None = None,
    ) -> Any:
        """Return the gradient of a target with respect to sources.

        Parameters
        ----------
        target : Tensor, Variable or nest of them
            What to differentiate. Elements are summed, and so are several targets.
        sources : Tensor, Variable or nest of them
            With respect to what: watched values, or any value computed on the tape.
        output_gradients : nest like `target`, optional
            The cotangent of each target, of its shape; None stands for ones.
        unconnected_gradients : {"none", "zero", "error"} or UnconnectedGradients
            What to return for a source that the target does not depend on.
        on_ready : callable, optional
            ``on_ready(position, gradient)``: called during the walk as soon as the gradient of the
            source at this position of the flattened `sources` is final; None if unconnected.

        Returns
        -------
        nest of Tensor or None
            In the structure of `sources`, each gradient of its source's shape and dtype.

        Raises
        ------
        TapeError
            If the tape is not persistent and has given its gradient already.
        TypeError
            If a target or source is no Tensor or Variable.
        ShapeError
            If an output gradient has not its target's shape.
        UnconnectedError
            If a source is unconnected and that was to be an error.

        Notes
        -----
        For a complex source z = x + iy and a real target L the gradient is dL/dx + i dL/dy, the
        direction of steepest ascent, as in TensorFlow and PyTorch; JAX returns its conjugate.
        """
        policy = unconnected_policy(unconnected_gradients)
        self._refuse_if_spent()
        targets, target_treedef = target_leaves(target)
        wanted, treedef = source_leaves(sources)
        listeners = LISTENERS.get()
        others = tuple(each for each in listeners if each is not self)
        try:
            if self._persistent:  # what becomes of output_gradients belongs to the derivative
                LISTENERS.set((*others, self))
            cotangents = matching_seeds(targets, target_treedef, output_gradients)
            seeds = self._seeds(targets, cotangents, {source.key for source in wanted})
        finally:
            LISTENERS.set(listeners)
        try:
            LISTENERS.set(others)
            # A cotangent of a transformation's level is lifted by the evaluator alone.
            recorded = bool(others) or any(seed.kernels.level for seed in seeds.values())
            gradients = self._differentiate(seeds, wanted, recorded, on_ready)
        finally:
            if self._persistent:
                LISTENERS.set(listeners)
            else:
                self._recording = False
                self._release()
        results = [
            unconnected(policy, position, source, bool(seeds)) if found is None else found
            for position, (source, found) in enumerate(zip(wanted, gradients, strict=True))
        ]
        return tree.unflatten(treedef, results)

    def _refuse_if_spent(self) -> None:
        if self._closed:
            raise TapeError("gradient: this tape is closed; enter it anew, or close it later")
        if self._spent:
            raise TapeError(
                "A non-persistent GradientTape can only be used to compute one set of gradients "
                "(or jacobians); make it with persistent=True, or record anew"
            )
        if not self._entered:
            raise TapeError("gradient: this tape has recorded nothing, its block was never entered")

    def _seeds(
        self, targets: list[Any], cotangents: list[Tensor], wanted: Collection[int]
    ) -> dict[int, Tensor]:
        """Return the cotangents to start from, by the identity of their target.

        A target that the tape does not follow depends on no source but itself.
        """
        seeds: dict[int, Tensor] = {}
        for target, seed in zip(targets, cotangents, strict=True):
            key = target.key
            if key in self.followed or (key in wanted and is_differentiable(target.dtype)):
                seeds[key] = seeds[key] + seed if key in seeds else seed
        return seeds

    def _differentiate(
        self, seeds: dict[int, Tensor], wanted: list[Any], recorded: bool, on_ready: OnReady | None
    ) -> list[Tensor | None]:
        """Return the gradient of each source; the tape itself does not hear how it is computed."""
        history = self._history_of(seeds) if self._persistent else None
        records = self.records if history is None else history.records
        holders = {source.key: source for source in wanted}
        connected = None if self.roots <= holders.keys() else connected_to(records, holders.keys())
        finished: dict[int, Tensor | None] = dict.fromkeys(holders)

        def finish(key: int, cotangent: Any) -> None:
            if cotangent is not None:
                finished[key] = as_gradient(holders[key], cotangent)

        announce = None
        if on_ready:
            positions: dict[int, list[int]] = {key: [] for key in holders}
            for position, source in enumerate(wanted):
                positions[source.key].append(position)

            def announce(key: int, cotangent: Any) -> None:
                finish(key, cotangent)
                for position in positions[key]:
                    on_ready(position, finished[key])

        found = backpropagate(
            records,
            dict(seeds) if recorded else {key: seed.array for key, seed in seeds.items()},
            holders.keys(),
            connected=connected,
            recorded=recorded,
            consume=history is None,
            on_final=announce,
        )
        if announce is None:
            for key, cotangent in found.items():
                finish(key, cotangent)
        gradients = [finished[source.key] for source in wanted]
        pairs = [(s, g) for s, g in zip(wanted, gradients, strict=True) if g is not None]
        if history is not None and pairs:
            record = record_of_gradient(history, seeds, self.followed, pairs, connected)
            if record is not None:
                self.records.append(record)
                self.followed.update(record.output)
        return gradients

    def _history_of(self, seeds: dict[int, Tensor]) -> History:
        """Return a history that contains whatever computed the targets, the last one if it does."""
        history = self._history
        if history is None or any(key > history.until for key in seeds):
            history = self._history = history_of(self.records, self.followed)
        return history


def stop_gradient(x: Any) -> Tensor:
    """Return the same values with no path back to where they came from.

    Parameters
    ----------
    x : Tensor, Variable, array or scalar
        The values; they are not copied.
    """
    tensor = x.read() if isinstance(x, Operators) else asarray(x)
    return Tensor(tensor.array, tensor.kernels)
