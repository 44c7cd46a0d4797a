"""Let an optimizer take a step on this rank's parts: what looks at whole arrays asks all ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from distgrad.core.seam import LISTENERS
from distgrad.distributed.averaging.exchange import on_host
from distgrad.distributed.averaging.squares import squares, sums_of_squares
from distgrad.distributed.sharded.exact_sums import exact_sum
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.errors import UnsupportedOptionError
from distgrad.optimizers.rules import Rule
from distgrad.optimizers.stateful import Optimizer
from distgrad.optimizers.transforms import Accumulation, Chain, Clipping, Transform, apply_updates
from distgrad.optimizers.vocabulary import Vocabulary, vocabulary_of
from distgrad.variable import Variable


def check_optimizer(optimizer: Any) -> None:
    """Refuse an optimizer that cannot work on parts.

    Raises
    ------
    TypeError
        If it is no optimizer that is applied to gradients.
    UnsupportedOptionError
        If one of its transforms needs whole arrays, and is not known here.
    ValueError
        If it has a state already.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"ShardedOptimizer: got {type(optimizer).__name__}; expected an optimizer whose update "
            "of an element needs that element's gradient and state, such as dg.optimizers.Adam: "
            "LBFGS and NewtonCG take inner products of whole vectors, and are not sharded"
        )
    if optimizer.variables:
        raise ValueError(
            "ShardedOptimizer: the optimizer has a state for whole variables already; give a "
            "fresh one, and load a checkpoint that a ShardedOptimizer saved"
        )
    parts = parts_of(optimizer.transform)
    for place, part in enumerate(parts):
        _check_part(part, last=place == len(parts) - 1)


def parts_of(transform: Transform) -> tuple[Transform, ...]:
    """Return the parts of a chain, or a transform alone."""
    return transform.parts if isinstance(transform, Chain) else (transform,)


def _check_part(part: Any, *, last: bool, within: bool = False) -> None:
    name = type(part).__name__
    if isinstance(part, Clipping):
        if within and part.norm_of:
            raise UnsupportedOptionError(
                "ShardedOptimizer: clipping by norm within dg.optimizers.accumulate; put it in "
                "front, chain(clipping(...), accumulate(...)), or add gradients up with "
                "ShardedOptimizer.add"
            )
        return
    if isinstance(part, Accumulation):
        for each in parts_of(part.inner):
            _check_part(each, last=False, within=True)
        return
    if getattr(part, "lazy", False):
        raise UnsupportedOptionError(
            f"ShardedOptimizer: {name}(lazy=True) changes rows of whole variables; expected "
            "lazy=False"
        )
    if getattr(part, "elementwise", False) or (isinstance(part, Rule) and last):
        return
    raise UnsupportedOptionError(
        f"ShardedOptimizer: {name} is not known to treat elements one by one"
        f"{'' if last else ' here (a rule with norms has to be the last of a chain)'}; a transform "
        "of your own says so by an attribute elementwise = True"
    )


def take_step(
    optimizer: Optimizer,
    comm: Communicator,
    gradients: dict[str, Any],
    parts: list[Variable],
    *,
    exact: bool = False,
) -> None:
    """Change parts by one step; all ranks call this.

    Parameters
    ----------
    optimizer : Optimizer
        Built for the parts.
    comm : Communicator
        The ranks.
    gradients : dict of str to Tensor or None
        Of each part by its name, in one order on all ranks; None on all ranks or on none.
    parts : list of Variable
        In the same order.
    exact : bool
        Whether sums over ranks are to have the same bits however parts are cut.
    """
    transforms = parts_of(optimizer.transform)
    states = optimizer._state
    states = states if isinstance(optimizer.transform, Chain) else (states,)
    chosen = dict(zip(gradients, parts, strict=True))
    silent = LISTENERS.set(())
    try:
        for place, (part, state) in enumerate(zip(transforms, states, strict=True)):
            if isinstance(part, Clipping) and part.norm_of:
                gradients = _clipped(comm, part, gradients, exact)
            elif place == len(transforms) - 1 and isinstance(part, Rule):
                if _change_in_place(comm, part, state, gradients, chosen, exact):
                    break
                gradients = optimizer._forward(part, gradients, state)
            else:
                gradients = optimizer._forward(part, gradients, state)
        else:
            for name, variable in chosen.items():
                if gradients[name] is not None:
                    variable.assign(apply_updates([variable], [gradients[name]])[0])
        count = optimizer._iterations
        if count is not None:
            count.assign(int(count) + 1)
    finally:
        LISTENERS.reset(silent)


def _change_in_place(
    comm: Communicator,
    rule: Rule,
    state: Any,
    gradients: dict[str, Any],
    parts: dict[str, Variable],
    exact: bool,
) -> bool:
    """Let a rule change parts in their memory; return whether it can."""
    if not rule.fits_in_place(parts):
        if not rule.elementwise:
            raise UnsupportedOptionError(
                f"ShardedOptimizer: {type(rule).__name__} takes norms, which over ranks needs "
                "arrays that are changed in place: NumPy's or CuPy's"
            )
        return False
    if rule.elementwise:
        rule.change_in_place(gradients, state, parts)
        return True

    def over_ranks(backend: Any, array: Any) -> Vocabulary | None:
        local = vocabulary_of(backend, array)
        if local is None:
            return None

        def total(x: Any) -> Any:
            if exact:
                return x.dtype.type(exact_sum(comm, [backend.to_host(x)]))
            return x.dtype.type(comm.allreduce(np.array(float(local.sum(x))))[()])

        return replace(local, sum=total)

    rule.change_in_place(gradients, state, parts, over_ranks)
    return True


def _clipped(
    comm: Communicator, clipping: Clipping, gradients: dict[str, Any], exact: bool
) -> dict[str, Any]:
    """Return gradients clipped by their norms over all ranks."""
    if exact:
        each = (squares(on_host(gradient)) for gradient in gradients.values())  # one by one
        if clipping.norm_of == "all":
            totals = np.full(len(gradients), exact_sum(comm, each))
        else:
            totals = np.array([exact_sum(comm, [found]) for found in each])
    else:
        totals = comm.allreduce(sums_of_squares(list(gradients.values())))
        if clipping.norm_of == "all":
            totals[:] = totals.sum()
    with np.errstate(invalid="ignore"):
        norms = np.sqrt(totals)
        # An infinite norm minus itself is NaN: an overflow shows, as without shards.
        hidden = norms - norms if clipping.norm_of == "all" else np.zeros_like(norms)
    scales = clipping.bound / np.maximum(norms, clipping.bound) + hidden
    return {
        name: None if gradient is None else gradient * float(scale)
        for (name, gradient), scale in zip(gradients.items(), scales, strict=True)
    }
