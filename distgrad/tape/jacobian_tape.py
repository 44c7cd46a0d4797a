"""JacobianTape: the part of a tape that gives Jacobians, and derivatives of its own derivatives."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

from distgrad import tree
from distgrad.core.seam import LISTENERS
from distgrad.debug import user_stacklevel
from distgrad.dtypes import is_differentiable
from distgrad.tape.arguments import (
    UnconnectedGradients,
    source_leaves,
    target_leaves,
    unconnected,
    unconnected_policy,
    value_of,
    zeros_of,
)
from distgrad.tape.backward import connected_to
from distgrad.tape.history import Derivatives, History, history_of, record_of
from distgrad.tape.inspection import InspectableTape
from distgrad.tape.jacobians import Manner, check_batch, jacobian_shape, jacobians
from distgrad.tensor import Tensor


class JacobianTape(InspectableTape):
    """A tape that returns Jacobians, and records derivatives to be differentiated in turn."""

    def _clear(self) -> None:
        super()._clear()
        self._history: History | None = None
        self._derivatives = Derivatives()

    def jacobian(
        self,
        target: Any,
        sources: Any,
        unconnected_gradients: UnconnectedGradients | str = UnconnectedGradients.NONE,
        parallel_iterations: int | None = None,
        experimental_use_pfor: bool = True,
        *,
        chunk_size: int | None = None,
    ) -> Any:
        """Return the Jacobian of a target with respect to sources, all rows by one walk.

        Parameters
        ----------
        target : Tensor, Variable, IndexedSlices or nest of them
            What to differentiate.
        sources : Tensor, Variable or nest of them
            With respect to what: watched values, or any value computed on the tape.
        unconnected_gradients : {"none", "zero", "error"} or UnconnectedGradients
            What to return for a source that a target does not depend on.
        parallel_iterations : int, optional
            TensorFlow's name for `chunk_size`.
        experimental_use_pfor : bool
            False walks once for each row, without `vmap`: slow, and small in memory.
        chunk_size : int, optional
            How many rows to compute at once; fewer take less memory. All by default.

        Returns
        -------
        nest of Tensor or None
            In the structure of `sources`, each of shape ``(*target.shape, *source.shape)`` and of
            its source's dtype. For a nest of targets, that nest with such a nest for each target.

        Raises
        ------
        TapeError
            If the tape is not persistent and has given its gradient already.
        TypeError
            If a target or source is no Tensor or Variable.
        ValueError
            If `chunk_size` is less than 1.
        UnconnectedError
            If a source is unconnected and that was to be an error.

        Warns
        -----
        UserWarning
            If an operation has no batching rule, and its rows are computed one by one; or if the
            tape knows none of the targets, as `gradient` does.

        Notes
        -----
        Unlike TensorFlow's, a tape that is not persistent may also go without `vmap`, and a
        persistent tape differentiates the result further. A row is the gradient of one element of
        the target: of a complex one, the conjugate of its derivative (see `gradient`).
        """
        policy = unconnected_policy(unconnected_gradients)
        size = _rows_at_once("jacobian", chunk_size, parallel_iterations)
        self._refuse_if_spent("jacobian")
        targets, target_treedef = target_leaves(target, "jacobian")
        wanted, treedef = source_leaves(sources, "jacobian")
        manner = Manner(False, size, experimental_use_pfor)
        unknown = ""
        if policy is UnconnectedGradients.NONE and wanted and not self._knows(targets, wanted):
            unknown = self._why_unrecorded(targets)
        found = self._jacobians("jacobian", targets, wanted, policy, manner)
        if unknown:
            warn_unrecorded("jacobian", unknown)
        return tree.unflatten(target_treedef, [tree.unflatten(treedef, each) for each in found])

    def batch_jacobian(
        self,
        target: Any,
        source: Any,
        unconnected_gradients: UnconnectedGradients | str = UnconnectedGradients.NONE,
        parallel_iterations: int | None = None,
        experimental_use_pfor: bool = True,
        *,
        chunk_size: int | None = None,
    ) -> Tensor:
        """Return the Jacobian of each example of a batch with respect to its own input.

        Parameters
        ----------
        target : Tensor or Variable
            Of shape (b, ...); example i depends on example i of the source alone. That is not
            checked: where it does not hold, the result is a sum over examples.
        source : Tensor or Variable
            Of shape (b, ...).
        unconnected_gradients, parallel_iterations, experimental_use_pfor, chunk_size
            See `jacobian`. An unconnected source has zeros, also under ``"none"``, as in
            TensorFlow.

        Returns
        -------
        Tensor
            Of shape ``(b, *target.shape[1:], *source.shape[1:])``.

        Raises
        ------
        ShapeError
            If a rank is less than 2, or the lengths of the first axes differ.
        TapeError, TypeError, ValueError, UnconnectedError
            As `jacobian`; TypeError also if target or source is a nest.
        """
        policy = unconnected_policy(unconnected_gradients)
        size = _rows_at_once("batch_jacobian", chunk_size, parallel_iterations)
        self._refuse_if_spent("batch_jacobian")
        check_batch(target, source)
        targets = target_leaves(target, "batch_jacobian")[0]
        wanted = source_leaves(source, "batch_jacobian")[0]
        if policy is UnconnectedGradients.NONE:
            policy = UnconnectedGradients.ZERO
        manner = Manner(True, size, experimental_use_pfor)
        return self._jacobians("batch_jacobian", targets, wanted, policy, manner)[0][0]

    def _jacobians(
        self,
        method: str,
        targets: list[Any],
        wanted: list[Any],
        policy: UnconnectedGradients,
        manner: Manner,
    ) -> list[list[Any]]:
        """Return for each target the Jacobian for each source, in the way of `gradient`."""
        listeners = LISTENERS.get()
        reasons = [""] * len(wanted)
        try:
            # The tape does not hear how they are computed: one record stands for it.
            LISTENERS.set(tuple(each for each in listeners if each is not self))
            results = []
            for target in targets:
                if policy is UnconnectedGradients.ERROR:
                    reasons = self._reasons([target], wanted)
                found = self._jacobians_of(value_of(target), wanted, manner)
                results.append([found.get(source.key) for source in wanted])
                for position, source in enumerate(wanted):
                    if source.key not in found:
                        zeros = unconnected(policy, position, source, reasons[position], method)
                        if zeros is not None:
                            shape = jacobian_shape(target, source, manner)
                            zeros = zeros_of(shape, zeros)
                        results[-1][position] = zeros
        finally:
            if self._persistent:
                LISTENERS.set(listeners)
            else:
                self._recording = False
                self._release()
        return results

    def _jacobians_of(self, target: Any, wanted: list[Any], manner: Manner) -> dict[int, Tensor]:
        """Return the Jacobians of one target, and record them where they may be differentiated."""
        keys = {source.key for source in wanted}
        differentiable = target.key in keys and is_differentiable(target.dtype)
        if target.key not in self.followed and not differentiable:
            return {}
        history = self._history_of([target.key]) if self._persistent else None
        records = self.records if history is None else history.reached([target.key])
        connected = None if self.roots <= keys else connected_to(records, keys)
        found = jacobians(records, target, wanted, connected, manner)
        if history is not None and found:
            asked = [source for source in wanted if source.key in found]

            def again(positions: Sequence[int]) -> list[Tensor]:
                some = [asked[position] for position in positions]
                rows = jacobians(records, target, some, connected, manner)
                return [rows[source.key] for source in some]

            results = [found[source.key] for source in asked]
            self._record(history, (), results, again)
        return found

    def _knows(self, targets: list[Any], wanted: list[Any]) -> bool:
        """Return whether some target can have a gradient: it is followed, or itself a source."""
        keys = {source.key for source in wanted if is_differentiable(source.dtype)}
        return any(target.key in self.followed or target.key in keys for target in targets)

    # --- derivatives of derivatives ---------------------------------------------------------------

    def _record(
        self,
        history: History,
        seeds: Collection[int],
        results: list[Tensor],
        again: Callable[[Sequence[int]], list[Tensor]],
    ) -> None:
        """Record derivatives, so that they can be differentiated in turn; see `record_of`."""
        record = record_of(history, seeds, self.followed, results, again)
        if record is not None:
            self._derivatives.add(self, record, results, history.until)

    def _history_of(self, targets: Collection[int]) -> History:
        """Return a history that contains whatever computed the targets, the last one if it does."""
        history = self._history
        if history is None or any(key > history.until for key in targets):
            history = self._history = history_of(self.records, self.followed)
        return history


def warn_unrecorded(method: str, why: str) -> None:
    """Warn that no source has a gradient or Jacobian, on the line of the user's call."""
    warnings.warn(f"{method}: None for every source: {why}", stacklevel=user_stacklevel())


def _rows_at_once(
    method: str, chunk_size: int | None, parallel_iterations: int | None
) -> int | None:
    size = chunk_size if chunk_size is not None else parallel_iterations
    if size is not None and size < 1:
        raise ValueError(f"{method}: chunk_size is {size}; expected 1 or more, or None")
    return size
