"""Look at what a sharded optimizer is given, before anything travels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad import tree
from distgrad.core.seam import LISTENERS, VALUES
from distgrad.distributed.averaging.buffers import buffers_of
from distgrad.distributed.averaging.gradient_tape import DistributedGradientTape
from distgrad.distributed.sharded.holdings import Holdings
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.dtypes import is_differentiable
from distgrad.errors import TapeError, TraceError
from distgrad.optimizers.transforms import checked_gradients
from distgrad.tensor import Tensor
from distgrad.variable import Variable

_WHO = "ShardedOptimizer"


def is_cut(variable: Variable) -> bool:
    """Return whether a variable is cut over ranks: trainable, and of numbers with derivatives."""
    return variable.trainable and is_differentiable(variable.dtype)


def variables_of(method: str, variables: Any, who: str = _WHO) -> list[Variable]:
    """Return the variables of a nest; `who` is the optimizer that asks.

    Raises
    ------
    TypeError
        If something else is among them.
    ValueError
        If one is there twice.
    TraceError
        Within a trace.
    """
    leaves: list[Variable] = tree.flatten(variables)[0]
    seen: set[int] = set()
    for leaf in leaves:
        if not isinstance(leaf, Variable):
            raise TypeError(f"{who}.{method}: expected variables, got {type(leaf).__name__}")
        if leaf.key in seen:
            raise ValueError(
                f"{who}.{method}: the variable {leaf.name!r} is there twice; expected each one once"
            )
        seen.add(leaf.key)
    if VALUES.get() is not None:
        raise TraceError(
            f"{who}.{method}: within dg.function; ranks are spoken to outside of it, with the "
            "gradients that the traced function returns"
        )
    return leaves


def gradients_by_position(holdings: Holdings, gradients: Any, variables: Any) -> list[Any]:
    """Return the gradient of each variable of all, None where there is none.

    Raises
    ------
    ValueError
        If the structures differ, or a variable that is not cut has a gradient.
    ShapeError, DTypeError
        If a gradient does not fit its variable.
    """
    leaves, treedef = tree.flatten(variables)
    names = [leaf.name for leaf in leaves]
    found = checked_gradients(_WHO, treedef, gradients, leaves, names)
    placed: list[Any] = [None] * len(holdings.leaves)
    for leaf, gradient in zip(leaves, found, strict=True):
        if holdings.knows(leaf):
            placed[holdings.position(leaf)] = gradient
        elif gradient is not None:
            raise ValueError(
                f"{_WHO}: the variable {leaf.name!r} is not trainable, but has a gradient; leave "
                "it out, or make it trainable before the optimizer is built"
            )
    return placed


_INSTEAD = "or make the optimizer with stage=1, average=None"


def refuse_averages(
    comm: Communicator,
    gradients: Sequence[Any],
    names: Sequence[str],
    who: str = _WHO,
    instead: str = _INSTEAD,
) -> None:
    """Raise a `TapeError` if a gradient lies in a buffer in which ranks have averaged it.

    That shows where the average has its variable's dtype on NumPy's backend; others are copies.
    """
    pool = buffers_of(comm)
    for gradient, name in zip(gradients, names, strict=True):
        if isinstance(gradient, Tensor) and pool.lent(gradient.array):
            raise TapeError(
                f"{who}: the gradient of {name!r} is an average over ranks already; pass "
                f"gradients of a plain GradientTape, {instead}"
            )


def refuse_tape(tape: Any, targets: Any, who: str = _WHO) -> None:
    """Refuse a tape that averages itself, and one whose target another tape records.

    Raises
    ------
    TypeError, TapeError
        Then.
    """
    if isinstance(tape, DistributedGradientTape):
        raise TypeError(
            f"{who}: a DistributedGradientTape averages over ranks, and so would this; pass the "
            "plain GradientTape"
        )
    others = [each for each in LISTENERS.get() if each is not tape]
    leaves = tree.flatten(targets)[0]
    if any(each.follows(t.key) for each in others for t in leaves if hasattr(t, "key")):
        raise TapeError(
            f"{who}: another tape records the loss, but no derivative goes through the reduction "
            "over ranks; take higher derivatives on each rank first"
        )
