"""A step of an optimizer on the very arrays of the step before, of which all has been asked.

A training takes thousands of steps on the same variables. What is asked before each (does anybody
else see this array, has it gaps, which kernel takes its dtype, where does it lie) was a fifth of a
step of Adam on a small model. Here the answers are kept with weak references to the arrays, and
hold for as long as these are the arrays of the variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import call, is_
from typing import Any
from weakref import ref

from distgrad.optimizers.fused import Repeated
from distgrad.tensor import Tensor
from distgrad.variable import Variable, arrays_alone


class Repetition:
    """What a step found out about its arrays.

    Parameters
    ----------
    state, variables : dict
        Of the step; those of the next have to be the same objects.
    signature : tuple
        Of the rule, see `distgrad.optimizers.fused.signature_of`.
    names : list of str
        Of the parameters.
    owners : sequence of Variable
        Each parameter followed by its slots.
    run : callable
        The kernel, see `distgrad.optimizers.fused.Repeated`.
    """

    def __init__(
        self,
        state: dict[str, Any],
        variables: dict[str, Any],
        signature: tuple[Any, ...],
        names: list[str],
        owners: Sequence[Variable],
        run: Repeated,
    ) -> None:
        self._state = state
        self._variables = variables
        self._signature = signature
        self._names = names
        self._owners = owners
        self._arrays = [ref(owner.array) for owner in owners]
        self._run = run

    def take(
        self,
        state: dict[str, Any],
        variables: dict[str, Any],
        signature: tuple[Any, ...],
        gradients: dict[str, Any],
        numbers: Sequence[float],
    ) -> bool:
        """Take the next step if it is on the same arrays; otherwise change nothing.

        Parameters
        ----------
        state, variables, signature
            As they are now.
        gradients : dict
            By the names of the variables.
        numbers : sequence of float
            Those of the step.
        """
        if (
            state is not self._state
            or variables is not self._variables
            or [*gradients] != self._names
            or signature != self._signature
        ):
            return False
        for gradient in gradients.values():
            if gradient.__class__ is not Tensor:
                return False
        arrays = arrays_alone(self._owners)
        if arrays is None or not all(map(is_, arrays, map(call, self._arrays))):
            return False
        return self._run(arrays, [gradient.array for gradient in gradients.values()], numbers)


def can_be_repeated(owners: Sequence[Any]) -> bool:
    """Return whether a step on variables and slots can be: others decide who sees their arrays."""
    return {*map(type, owners)} == {Variable}
