"""GradientTape: hear operations, keep what their rules need, and give gradients of nests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from distgrad import tree
from distgrad.core.seam import LISTENERS
from distgrad.core.spans import COMPUTE, span
from distgrad.dtypes import is_differentiable
from distgrad.sparse import IndexedSlices, carrier
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
from distgrad.tape.jacobian_tape import JacobianTape, warn_unrecorded
from distgrad.tensor import Tensor

Gradient = Tensor | IndexedSlices
OnReady = Callable[[int, Gradient | None], bool | None]


class GradientTape(JacobianTape):
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
        target : Tensor, Variable, IndexedSlices or nest of them
            What to differentiate. Elements are summed, and so are several targets.
        sources : Tensor, Variable or nest of them
            With respect to what: watched values, or any value computed on the tape.
        output_gradients : nest like `target`, optional
            The cotangent of each target, of its shape; None stands for ones.
        unconnected_gradients : {"none", "zero", "error"} or UnconnectedGradients
            What to return for a source that the target does not depend on.
        on_ready : callable, optional
            ``on_ready(position, gradient)``: called during the walk as soon as the gradient of the
            source at this position of the flattened `sources` is final; None if unconnected. If it
            returns True it has taken the gradient of a watched value, and the tape lets go of it:
            in the result stands None.

        Returns
        -------
        nest of Tensor, IndexedSlices or None
            In the structure of `sources`, each gradient of its source's shape and dtype. It is
            an `IndexedSlices` where nothing but `gather` and `embedding` picked from the source.

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

        Warns
        -----
        UserWarning
            If the tape knows none of the targets and `unconnected_gradients` is ``"none"``: every
            gradient is None, and the message says why. A target that was cut off on purpose, such
            as by `stop_gradient`, is known.

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
        unknown = ""
        if policy is UnconnectedGradients.NONE and wanted and not seeds:
            unknown = self._why_unrecorded(targets)
        reasons = [""] * len(wanted)
        if policy is UnconnectedGradients.ERROR:  # now, while the tape still knows
            reasons = self._reasons(targets, wanted)
        try:
            LISTENERS.set(others)
            # A cotangent of a transformation's level is lifted by the evaluator alone.
            recorded = bool(others) or any(
                each.kernels.level for each in (*targets, *seeds.values())
            )
            with span("backward", COMPUTE):
                gradients = self._differentiate(seeds, wanted, recorded, on_ready)
        finally:
            if self._persistent:
                LISTENERS.set(listeners)
            else:
                self._recording = False
                self._release()
        results = [
            unconnected(policy, position, source, reasons[position]) if found is None else found
            for position, (source, found) in enumerate(zip(wanted, gradients, strict=True))
        ]
        if unknown:
            warn_unrecorded("gradient", unknown)
        return tree.unflatten(treedef, results)

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
    ) -> list[Gradient | None]:
        """Return the gradient of each source; the tape itself does not hear how it is computed."""
        history = self._history_of(seeds.keys()) if self._persistent else None
        records = self.records if history is None else history.reached(seeds.keys())
        holders = {source.key: source for source in wanted}
        connected = None if self.roots <= holders.keys() else connected_to(records, holders.keys())
        finished: dict[int, Gradient | None] = dict.fromkeys(holders)

        def finish(key: int, cotangent: Any) -> None:
            if cotangent is not None:
                finished[key] = as_gradient(holders[key], cotangent)

        announce = None
        if on_ready:
            positions: dict[int, list[int]] = {key: [] for key in holders}
            for position, source in enumerate(wanted):
                positions[source.key].append(position)

            def announce(key: int, cotangent: Any) -> bool:
                finish(key, cotangent)
                taken = False
                for position in positions[key]:
                    taken = bool(on_ready(position, finished[key])) or taken
                # What was computed on the tape, the walk still needs.
                taken = taken and cotangent is not None and key in self.roots
                if taken:
                    finished[key] = None
                return taken

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
            asked = [source for source, _ in pairs]

            def again(positions: Sequence[int]) -> list[Tensor]:
                some = [asked[position] for position in positions]
                found = backpropagate(
                    records,
                    dict(seeds),
                    {source.key for source in some},
                    connected=connected,
                    recorded=True,
                    consume=False,
                )
                return [carrier(as_gradient(source, found[source.key])) for source in some]

            read = [seed.key for seed in seeds.values()]
            self._record(history, read, [carrier(gradient) for _, gradient in pairs], again)
        return gradients
