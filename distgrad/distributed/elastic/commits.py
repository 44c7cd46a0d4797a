"""Keep the last two states of a training in memory, to go back to one that all ranks have.

A rank that has completed step k knows that every other has begun it, since gradients of a step need
all ranks. So the last commits of any two ranks are one apart at most, and of two kept ones each
rank has that of the rank which is furthest behind.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.distributed.verbs.communicator import Array
from distgrad.errors import CommunicationError
from distgrad.random import Generator
from distgrad.variable import Variable

_KEPT = 2


class Commits:
    """The last states of a nest.

    Parameters
    ----------
    state : nest
        Of variables, of what has `variables` (models, with the generators that their layers hold,
        optimizers), of `distgrad.random.Generator`, and of what has `state_dict` and
        `load_state_dict`.

    Raises
    ------
    TypeError
        If a leaf is nothing of that.
    """

    def __init__(self, state: Any) -> None:
        self._leaves = tree.flatten(state)[0]
        self._kept: list[tuple[int, dict[int, Array], list[Any]]] = []
        for position, (path, leaf) in enumerate(zip(tree.paths(state), self._leaves, strict=True)):
            if _variables_of(leaf) is None and _reader_of(leaf) is None:
                raise TypeError(
                    f"ElasticJob: state[{path or position}] is a {type(leaf).__name__}; expected a "
                    "Variable, a Generator, or what has variables, or state_dict and "
                    "load_state_dict"
                )
        models = [leaf for leaf in self._leaves if hasattr(leaf, "named_generators")]
        self._leaves += [each for model in models for _, each in model.named_generators()]

    @property
    def newest(self) -> int:
        """The step of the last commit."""
        return self._kept[-1][0]

    def commit(self, step: int) -> None:
        """Keep a copy of the state as it is after so many steps."""
        # Its arrays are used again: a model is copied into memory that is there already.
        spare = self._kept.pop(0)[1] if len(self._kept) == _KEPT else {}
        arrays: dict[int, Array] = {}
        for variable in self._variables():
            host = variable.backend.to_host(variable.array)
            out = spare.get(variable.key)
            if out is None or out.shape != host.shape or out.dtype != host.dtype:
                arrays[variable.key] = np.array(host)
            else:
                np.copyto(out, host)
                arrays[variable.key] = out
        others = [
            None if read is None else copy.deepcopy(read())
            for read in map(_reader_of, self._leaves)
        ]
        self._kept.append((step, arrays, others))

    def restore(self, step: int) -> None:
        """Return to the commit of a step, and forget a later one.

        Raises
        ------
        CommunicationError
            If there is no such commit, or a variable was made after it.
        """
        while self._kept and self._kept[-1][0] > step:
            self._kept.pop()
        if not self._kept or self._kept[-1][0] != step:
            raise CommunicationError(
                f"ElasticJob: the survivors have no commit in common (one is at step {step}); does "
                "every step average gradients, or call another collective operation?"
            )
        _, arrays, others = self._kept[-1]
        for variable in self._variables():
            if variable.key not in arrays:
                raise CommunicationError(
                    f"ElasticJob: {variable.name} was made after the commit of step {step}, so "
                    "that nobody knows its value then; make it before the run "
                    "(optimizer.build(variables))"
                )
            variable.assign(np.array(arrays[variable.key]))
        for leaf, kept in zip(self._leaves, others, strict=True):
            if _reader_of(leaf) is not None:
                _write(leaf, copy.deepcopy(kept))

    def _variables(self) -> list[Variable]:
        # Asked for anew: an optimizer makes its variables when it first needs them.
        return [each for leaf in self._leaves for each in _variables_of(leaf) or ()]


def _variables_of(leaf: Any) -> list[Variable] | None:
    if isinstance(leaf, Variable):
        return [leaf]
    held = getattr(leaf, "variables", None)
    if isinstance(held, dict):
        held = list(held.values())
    if isinstance(held, (list, tuple)) and all(isinstance(each, Variable) for each in held):
        return list(held)
    return None


def _reader_of(leaf: Any) -> Callable[[], Any] | None:
    """Return what reads the state of a leaf that is more than variables; None for the others."""
    if _variables_of(leaf) is not None:
        return None
    if isinstance(leaf, Generator):
        return lambda: leaf.state
    if callable(getattr(leaf, "state_dict", None)) and hasattr(leaf, "load_state_dict"):
        reader: Callable[[], Any] = leaf.state_dict
        return reader
    return None


def _write(leaf: Any, state: Any) -> None:
    if isinstance(leaf, Generator):
        leaf.state = state
    else:
        leaf.load_state_dict(state)
