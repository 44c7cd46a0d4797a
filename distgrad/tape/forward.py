"""ForwardAccumulator: carry tangents along with the operations of a block (forward mode)."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any

from distgrad import tree
from distgrad.core.op import Keep, Op
from distgrad.core.seam import LISTENERS, Listener
from distgrad.debug import user_stacklevel
from distgrad.dtypes import is_complex, is_differentiable
from distgrad.eager import beside
from distgrad.errors import DTypeError, ShapeError, UnconnectedError
from distgrad.ops.shaping.structure import astype
from distgrad.sparse import IndexedSlices, made
from distgrad.tape.arguments import UnconnectedGradients, unconnected_policy, value_of
from distgrad.tape.backward import as_tensors
from distgrad.tensor import Operators, Tensor
from distgrad.variable import Variable


class ForwardAccumulator:
    """Compute Jacobian-vector products of the operations of a block, as they run.

    Each value computed from the primals gets a tangent, its derivative in the direction of their
    tangents. A tangent lives as long as its value.

    Parameters
    ----------
    primals : Tensor, Variable or nest of them
        Where to differentiate.
    tangents : nest like `primals`
        The direction: for each primal an array of its shape, which is brought to its dtype.

    Raises
    ------
    ValueError
        If the nests differ in structure, or a primal is given multiple times.
    ShapeError
        If a tangent has not its primal's shape.
    TypeError
        If a primal is no Tensor or Variable.
    DTypeError
        If a tangent is complex, and its primal real.

    Warns
    -----
    UserWarning
        If a primal holds integers or truth values: it has no tangent.

    Examples
    --------
    >>> import distgrad as dg
    >>> x = dg.Variable([1.0, 2.0])
    >>> with dg.ForwardAccumulator(x, [1.0, 0.0]) as accumulator:
    ...     y = dg.sum(x**3)
    >>> print(accumulator.jvp(y))
    dg.Tensor(3.0, shape=(), dtype=float32)

    Notes
    -----
    Accumulators and tapes nest in both orders. What computes the tangents is heard by those that
    were entered before this accumulator, and by nobody else: so a derivative of a derivative never
    mixes their perturbations.
    """

    def __init__(self, primals: Any, tangents: Any) -> None:
        for name, nest in (("primals", primals), ("tangents", tangents)):
            if nest is None:
                raise TypeError(
                    f"ForwardAccumulator: {name} is None; expected a Tensor, a Variable or a nest "
                    "of them"
                )
        leaves, treedef = tree.flatten(primals)
        try:
            given = treedef.flatten_up_to(tangents) if treedef.num_nodes > 1 else [tangents]
        except ValueError as error:
            raise ValueError(
                "ForwardAccumulator: primals and tangents: The two structures don't have the same "
                f"nested structure ({error})"
            ) from error
        self._tangents: dict[int, Tensor] = {}
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._recording = False
        for position, (primal, tangent) in enumerate(zip(leaves, given, strict=True)):
            self._start(position, primal, tangent)

    def _start(self, position: int, primal: Any, tangent: Any) -> None:
        if not isinstance(primal, Operators) or isinstance(primal, IndexedSlices):
            raise TypeError(
                f"ForwardAccumulator: primal {position} is a {type(primal).__name__}; expected a "
                "Tensor or a Variable: convert it with dg.asarray and compute with that"
            )
        value: Any = primal
        if not is_differentiable(value.dtype):
            warnings.warn(
                f"ForwardAccumulator: primal {position} has dtype {value.dtype}; expected a "
                "floating dtype (e.g. float32): it has no tangent; convert it with astype first",
                stacklevel=user_stacklevel(),
            )
            return
        if value.key in self._tangents:
            raise ValueError(
                f"ForwardAccumulator: primal {position} was specified as a primal multiple times; "
                "add the tangents and pass it once"
            )
        direction = beside(tangent, value_of(primal))
        if direction.shape != primal.shape:
            raise ShapeError(
                f"ForwardAccumulator: tangent {position} has shape {direction.shape}, its primal "
                f"{primal.shape}; expected the same shape"
            )
        if direction.dtype != primal.dtype:
            if is_complex(direction.dtype) and not is_complex(primal.dtype):
                raise DTypeError(
                    f"ForwardAccumulator: tangent {position} is {direction.dtype}, its primal "
                    f"{primal.dtype}; expected a real tangent for a real primal"
                )
            direction = astype(direction, primal.dtype)
        self._tangents[value.key] = direction

    def __enter__(self) -> ForwardAccumulator:
        if self._recording:
            raise ValueError(
                "Accumulator is already recording; leave its block first, or make a second one"
            )
        LISTENERS.set((*LISTENERS.get(), self))
        self._recording = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        LISTENERS.set(tuple(each for each in LISTENERS.get() if each is not self))
        self._recording = False

    def jvp(
        self,
        target: Any,
        unconnected_gradients: UnconnectedGradients | str = UnconnectedGradients.NONE,
    ) -> Any:
        """Return the tangents of values computed in the block; nothing is computed here.

        Parameters
        ----------
        target : Tensor, Variable or nest of them
            The values.
        unconnected_gradients : {"none", "zero", "error"} or UnconnectedGradients
            What to return for a value that does not depend on the primals.

        Returns
        -------
        nest of Tensor or None
            In the structure of `target`.
        """
        policy = unconnected_policy(unconnected_gradients)
        leaves, treedef = tree.flatten(target)
        return tree.unflatten(treedef, [self._tangent_of(leaf, policy) for leaf in leaves])

    def _tangent_of(self, value: Any, policy: UnconnectedGradients) -> Any:
        if isinstance(value, IndexedSlices):
            rows = self._tangent_of(value.values, policy)
            return None if rows is None else made(rows, value.indices, value.dense_shape)
        if not isinstance(value, Operators):
            raise TypeError(
                f"jvp: target is a {type(value).__name__}; expected a Tensor or a Variable"
            )
        holder: Any = value
        tangent = self._tangents.get(holder.key)
        if tangent is not None and holder.dtype.name == "bfloat16" != tangent.dtype.name:
            return astype(tangent, holder.dtype)  # raw numbers of Python's widen it on the way
        if tangent is not None or policy is UnconnectedGradients.NONE:
            return tangent
        if policy is UnconnectedGradients.ERROR:
            raise UnconnectedError(
                "jvp: the value does not depend on the primals of this accumulator, or was "
                "computed outside its block"
            )
        tensor = holder.read()
        return Tensor(tensor.kernels.zeros_like(tensor.array), tensor.kernels)

    # --- what the seam calls --------------------------------------------------------------------

    def hear_read(self, variable: Variable) -> None:
        """Take no notice: a variable has a tangent from the start, or none (called by the seam)."""

    def follows(self, key: int) -> bool:
        """Return whether the value of an identity has a tangent."""
        return key in self._tangents

    def hear(
        self,
        op: Op,
        keys: Sequence[int],
        arrays: tuple[Any, ...],
        params: dict[str, Any],
        output: Any,
        kernels: Any,
    ) -> None:
        """Compute the tangent of one operation's result (called by the seam)."""
        tangents = [self._tangents.get(key) for key in keys]
        if op.jvp is None or all(tangent is None for tangent in tangents):
            return
        if op.keep is Keep.SPECS and op.outputs == 1 and not is_differentiable(output.dtype):
            return  # a cast to integers
        listeners = LISTENERS.get()
        outside = listeners[: _position(listeners, self)]
        LISTENERS.set(outside)
        try:
            # A tangent of a transformation's level is lifted by the evaluator alone.
            if outside or any(t is not None and t.kernels.level for t in tangents):
                xs = as_tensors(arrays, keys, kernels)
                result = op.jvp(kernels.recorded, tangents, output, xs, params)
            else:
                raw = [None if tangent is None else tangent.array for tangent in tangents]
                y = output.array if op.outputs == 1 else tuple(each.array for each in output)
                result = op.jvp(kernels, raw, y, arrays, params)
        finally:
            LISTENERS.set(listeners)
        if op.outputs == 1:
            self._follow(output, result)
        else:
            for each, tangent in zip(output, result, strict=True):
                if tangent is not None and is_differentiable(each.dtype):
                    self._follow(each, tangent)

    def _follow(self, value: Tensor, tangent: Any) -> None:
        if not isinstance(tangent, Tensor):
            kernels = value.kernels
            if tangent.__class__ is not kernels.array_type:
                tangent = kernels.backend.asarray(tangent)
            tangent = Tensor(tangent, kernels)
        self._tangents[value.key] = tangent
        # The array and not the tensor: a tape keeps arrays, and makes tensors of them again.
        with suppress(TypeError):  # a foreign array without weak references keeps its tangent
            self._alive[value.key] = weakref.ref(value.array, partial(self._forget, value.key))

    def _forget(self, key: int, _: Any) -> None:
        self._tangents.pop(key, None)
        self._alive.pop(key, None)


def _position(listeners: tuple[Listener, ...], one: Any) -> int:
    """Return where a listener stands, by identity."""
    return next(place for place, listener in enumerate(listeners) if listener is one)
