"""GradientTape: hear operations, keep what their rules need, and give gradients of nests."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from distgrad import tree
from distgrad.core.op import Keep, Kind, Op, Spec
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
from distgrad.tape.records import kept, spec_of
from distgrad.tensor import Operators, Tensor
from distgrad.variable import Variable

OnReady = Callable[[int, Tensor | None], None]


class GradientTape:
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
        self._stopped = 0
        self._watch_accessed = watch_accessed_variables
        self._recording = False
        self._entered = False
        self._spent = False
        self._clear()

    def _clear(self) -> None:
        self._records: list[Any] = []
        self._roots: set[int] = set()  # watched values
        self._followed: set[int] = set()  # those, and all that depend on them
        self._variables: dict[int, Variable] = {}

    # --- recording ------------------------------------------------------------------------------

    def __enter__(self) -> GradientTape:
        if self._recording:
            raise ValueError(
                "Tape is still recording, This can happen if you try to re-enter an "
                "already-active tape; leave its block first, or make a second GradientTape"
            )
        if self._spent:
            self._clear()
            self._spent = False
        self._entered = True
        self._resume()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._recording:
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

        Warns
        -----
        UserWarning
            If a value is not floating: it has no gradient.
        """
        for value in tree.flatten(tensor)[0]:
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
            self._follow(value)

    def _follow(self, value: Any) -> None:
        key = value.key
        self._roots.add(key)
        self._followed.add(key)
        if isinstance(value, Variable):
            self._variables[key] = value

    def hear_read(self, variable: Variable) -> None:
        """Watch a trainable variable that is about to be read (called by the seam)."""
        if not self._watch_accessed or not variable.trainable or variable.key in self._variables:
            return
        if is_differentiable(variable.dtype):
            self._follow(variable)

    def follows(self, key: int) -> bool:
        """Return whether the value of an identity is watched, or depends on one that is."""
        return key in self._followed

    def hear(
        self,
        op: Op,
        keys: Sequence[int],
        arrays: tuple[Any, ...],
        params: dict[str, Any],
        output: Any,
        kernels: Any,
    ) -> None:
        """Record one operation, if it involves a followed value (called by the seam)."""
        followed = self._followed
        follows: Sequence[int]
        if len(keys) == 2:
            first, second = keys
            if first in followed:
                follows = keys if second in followed else (first, 0)
            elif second in followed:
                follows = (0, second)
            else:
                return
        elif len(keys) == 1:
            if keys[0] not in followed:
                return
            follows = keys
        else:
            follows = [key if key in followed else 0 for key in keys]
            if not any(follows):
                return
        if op.vjp is None:
            return
        keep = op.keep
        if output.__class__ is tuple:
            self._hear_several(op, follows, keys, arrays, params, output, kernels)
            return
        # What is kept most often is spelled out here; the rest is in `kept`.
        if keep is Keep.INPUTS:
            xs, y = arrays, None
        elif keep is Keep.OUTPUT:
            xs, y = None, output.array
        elif keep is Keep.SPECS and not is_differentiable(output.dtype):
            return  # a cast to integers: where the dtype changes, specs are kept
        else:
            xs, y = kept(op, follows, arrays, output.array)
        key = output.key
        self._records.append((op, follows, key, keys, xs, y, params, kernels))
        followed.add(key)

    def _hear_several(
        self,
        op: Op,
        follows: Sequence[int],
        keys: Sequence[int],
        arrays: tuple[Any, ...],
        params: dict[str, Any],
        outputs: tuple[Tensor, ...],
        kernels: Any,
    ) -> None:
        xs, y = kept(op, follows, arrays, tuple(each.array for each in outputs))
        if y is None:
            y = tuple(spec_of(each.array) for each in outputs)
        names = tuple(each.key for each in outputs)
        self._records.append((op, follows, names, keys, xs, y, params, kernels))
        self._followed.update(names)

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
            raise ValueError("Tape is not recording: its block has been left")
        if self._recording:
            self._pause()
        self._stopped += 1
        try:
            yield
        finally:
            self._stopped -= 1
            if not self._stopped:
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
        """Release all that the tape holds; it gives no more gradients."""
        if self._recording:
            self._pause()
        variables = self._variables
        self._clear()
        self._variables = variables
        self._spent = True

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
        if self._spent or not self._entered:
            raise TapeError(
                "A non-persistent GradientTape can only be used to compute one set of gradients "
                "(or jacobians); make it with persistent=True, or record anew"
                if self._spent
                else "gradient: this tape has recorded nothing, its block was never entered"
            )
        targets, target_treedef = target_leaves(target)
        wanted, treedef = source_leaves(sources)
        seeds = self._seeds(targets, target_treedef, output_gradients)
        listeners = LISTENERS.get()
        others = tuple(each for each in listeners if each is not self)
        LISTENERS.set(others)
        try:
            gradients = self._differentiate(seeds, wanted, bool(others), on_ready)
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

    def _release(self) -> None:
        self._records, self._spent = [], True

    def _seeds(self, targets: list[Any], treedef: Any, output_gradients: Any) -> dict[int, Tensor]:
        """Return the cotangents to start from, by the identity of their target."""
        seeds: dict[int, Tensor] = {}
        given = matching_seeds(targets, treedef, output_gradients)
        for target, seed in zip(targets, given, strict=True):
            if target.key in self._followed:
                seeds[target.key] = seeds[target.key] + seed if target.key in seeds else seed
        return seeds

    def _differentiate(
        self, seeds: dict[int, Tensor], wanted: list[Any], recorded: bool, on_ready: OnReady | None
    ) -> list[Tensor | None]:
        """Return the gradient of each source; the tape itself does not hear how it is computed."""
        records = self._records
        holders = {source.key: source for source in wanted}
        connected = None if self._roots <= holders.keys() else connected_to(records, holders.keys())
        history = list(records) if self._persistent else None
        finished: dict[int, Tensor | None] = dict.fromkeys(holders)

        def finish(key: int, cotangent: Any) -> None:
            if cotangent is not None:
                finished[key] = as_gradient(holders[key], cotangent)

        def finish_and_tell(key: int, cotangent: Any) -> None:
            finish(key, cotangent)
            if on_ready:
                for position, source in enumerate(wanted):
                    if source.key == key:
                        on_ready(position, finished[key])

        found = backpropagate(
            records,
            dict(seeds) if recorded else {key: seed.array for key, seed in seeds.items()},
            holders.keys(),
            connected=connected,
            recorded=recorded,
            consume=not self._persistent,
            on_final=finish_and_tell if on_ready else None,
        )
        if not on_ready:
            for key, cotangent in found.items():
                finish(key, cotangent)
        gradients = [finished[source.key] for source in wanted]
        if history is not None:
            self._record_gradient(history, seeds, wanted, gradients, connected)
        return gradients

    def _record_gradient(
        self,
        history: list[Any],
        seeds: dict[int, Tensor],
        wanted: list[Any],
        gradients: list[Tensor | None],
        connected: set[int] | None,
    ) -> None:
        """Record how gradients came about as one record, unfolded only if they are differentiated.

        Its inputs are all that the walk read. Its VJP walks again, now with recorded operations
        under an inner tape, and differentiates that.
        """
        pairs = [(s.key, s, g) for s, g in zip(wanted, gradients, strict=True) if g is not None]
        if not pairs:
            return
        residuals = {seed.key: seed for seed in seeds.values() if self.follows(seed.key)}
        for _, _, output, keys, xs, y, _, kernels in history:
            for key, x in zip(keys, xs or (), strict=False):
                if key in self._followed and x.__class__ is kernels.array_type:
                    residuals.setdefault(key, Tensor(x, kernels, key))
            if y.__class__ is kernels.array_type:
                residuals.setdefault(output, Tensor(y, kernels, output))
        if not residuals:
            return
        inputs = list(residuals.values())
        sources = [key for key, _, _ in pairs]
        holders = [source for _, source, _ in pairs]

        def vjp(
            xp: Any, g: Any, y: Any, xs: Any, params: dict[str, Any], needs: Sequence[int]
        ) -> list[Any]:
            raw = g[0].__class__ is not Tensor
            with GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(inputs)
                again = backpropagate(
                    history,
                    dict(seeds),
                    set(sources),
                    connected=connected,
                    recorded=True,
                    consume=False,
                )
                outputs = [
                    as_gradient(holder, again[key])
                    for key, holder in zip(sources, holders, strict=True)
                ]
            cotangents = [
                Tensor(each, output.kernels) if raw else each
                for each, output in zip(g, outputs, strict=True)
            ]
            pulled = inner.gradient(outputs, inputs, cotangents)
            return [None if p is None else (p.array if raw else p) for p in pulled]

        first = pairs[0][2]
        outputs = tuple(gradient for _, _, gradient in pairs)
        op = Op("gradient", Kind.OPAQUE, lambda *specs: specs, vjp, outputs=None)
        names = tuple(g.key for g in outputs)
        specs = tuple(Spec(g.array.shape, g.array.dtype) for g in outputs)
        keys = tuple(residuals)
        self._records.append((op, keys, names, keys, None, specs, {}, first.kernels))
        self._followed.update(names)


def stop_gradient(x: Any) -> Tensor:
    """Return the same values with no path back to where they came from.

    Parameters
    ----------
    x : Tensor, Variable, array or scalar
        The values; they are not copied.
    """
    tensor = x.read() if isinstance(x, Operators) else asarray(x)
    return Tensor(tensor.array, tensor.kernels)
