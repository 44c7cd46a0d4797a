"""Rule: an optimizer as a formula for one parameter, from which its transform follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.dtypes import is_complex
from distgrad.eager import asarray
from distgrad.errors import UnsupportedOptionError
from distgrad.ops.shaping.structure import astype
from distgrad.optimizers.description import call_of
from distgrad.optimizers.fused import repeated_by, signature_of
from distgrad.optimizers.in_place import (
    Change,
    change_arrays,
    change_rows,
    count_of,
    count_up,
    own_array,
)
from distgrad.optimizers.repeating import Repetition, can_be_repeated
from distgrad.optimizers.stateful import Optimizer
from distgrad.optimizers.transforms import checked_gradients, counter, home_of
from distgrad.optimizers.vocabulary import OF_TENSORS, Vocabulary, vocabulary_of
from distgrad.sparse import IndexedSlices
from distgrad.tensor import Operators

Number = Any  # a Python number, or within a graph a tensor of no dimensions
Rate = float | Callable[[Any], Any] | Operators

MASTER = "master"  # the slot with the float32 copy of a parameter in half precision
_NARROW = ("float16", "bfloat16")


@dataclass(frozen=True)
class Slot:
    """What a rule remembers of each parameter: an array of its shape.

    Parameters
    ----------
    name : str
        Its name in checkpoints, behind that of the variable.
    real : bool
        Whether it is real where the parameter is complex.
    initial : float
        The number that it is filled with.
    """

    name: str
    real: bool = False
    initial: float = 0.0


class Rule(Optimizer):
    """An optimizer that treats each parameter by one formula; base of `SGD`, `Adam` and the others.

    A subclass says its slots, the numbers of a step and the change of a parameter, in operators and
    functions of a `Vocabulary`: the same formula runs on tensors (pure, or in a graph) and on
    blocks of raw arrays (in place).

    Attributes
    ----------
    learning_rate : float, callable or Tensor
        The step size, or a schedule that gives it for the number of steps before; may be changed.
    slots : tuple of Slot
        What is remembered of each parameter.
    elementwise : bool
        Whether elements of a parameter know nothing of each other.
    lazy : bool
        Whether of a gradient that is `IndexedSlices` only the rows count, and the others (their
        slots too) stay as they are.
    exact_on_rows : bool
        Whether rows without a gradient stay as they are, so that few rows can be changed alone.
    """

    elementwise = True
    lazy: bool
    slots: tuple[Slot, ...] = ()
    learning_rate: Rate
    _again: Sequence[Repetition] = ()  # of the last step, if its like can be repeated

    def __init__(self, learning_rate: Rate, *, lazy: bool = False) -> None:
        super().__init__(self)
        self.lazy = lazy
        self._again = []
        kind = type(self).__name__
        if not callable(learning_rate) and not isinstance(learning_rate, Operators):
            check(kind, "learning_rate", learning_rate, positive=True)
        self.learning_rate = learning_rate

    def __repr__(self) -> str:
        return call_of(self)

    @property
    def exact_on_rows(self) -> bool:
        """Whether rows without a gradient stay as they are."""
        return False

    def numbers(self, step: Number) -> tuple[Number, ...]:
        """Return the numbers that a step needs, `step` being 1 for the first one: the rate."""
        return (self.rate(step),)

    def change(
        self, f: Vocabulary, x: Any, g: Any, slots: tuple[Any, ...], numbers: tuple[Number, ...]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return what is added to a parameter, and its next slots; nothing is changed in place."""
        raise NotImplementedError

    def rate(self, step: Number) -> Number:
        """Return the learning rate of a step: of a schedule after ``step - 1`` steps."""
        rate: Any = self.learning_rate
        if isinstance(step, Operators):
            return rate(step - 1) if callable(rate) else rate
        if isinstance(rate, Operators) or callable(rate):
            return float(rate(step - 1) if callable(rate) else rate)
        return rate

    # --- the transform --------------------------------------------------------------------------

    def init(self, parameters: Any) -> dict[str, Any]:
        """Return the first state: ``step``, a nest for each slot, and ``master``.

        The last has a float32 copy of each parameter in half precision, and None for the others.
        """
        state: dict[str, Any] = {"step": counter(parameters)}
        for slot in self.slots:
            state[slot.name] = tree.map(lambda x, slot=slot: _first(x, slot), parameters)
        state[MASTER] = tree.map(_master, parameters)
        return state

    def update(self, gradients: Any, state: Any, parameters: Any) -> tuple[Any, dict[str, Any]]:
        """Return the updates and the next state; see `Transform`."""
        leaves, treedef = tree.flatten(parameters)
        kind = type(self).__name__
        found = checked_gradients(kind, treedef, gradients, leaves, tree.paths(parameters))
        count = asarray(state["step"]) + 1
        numbers = self.numbers(astype(count, "float64") if count.kernels.level else int(count))
        before = [tree.flatten_like(treedef, state[slot.name]) for slot in self.slots]
        after: list[list[Any]] = [[] for _ in self.slots]
        updates: list[Any] = []
        masters = tree.flatten_like(treedef, state[MASTER])
        for place, master in enumerate(tuple(masters)):
            slots = tuple(slot[place] for slot in before)
            g = found[place]
            if g is None:
                new, change = slots, None
            else:
                own = asarray(leaves[place])
                x = own if master is None else asarray(master)
                if isinstance(g, IndexedSlices):
                    self._refuse_lazy_rows()
                    g = g.to_dense()
                g = g if g.dtype == x.dtype else astype(g, x.dtype)
                change, new = self.change(
                    OF_TENSORS,
                    x,
                    g,
                    tuple(asarray(slot) for slot in slots),
                    tuple(_fitting(number, x) for number in numbers),
                )
                if master is not None:
                    masters[place] = x + change
                    change = masters[place] - astype(own, x.dtype)
            updates.append(change)
            for values, value in zip(after, new, strict=True):
                values.append(value)
        result = {
            slot.name: tree.unflatten(treedef, values)
            for slot, values in zip(self.slots, after, strict=True)
        }
        result["step"], result[MASTER] = count, tree.unflatten(treedef, masters)
        return tree.unflatten(treedef, updates), result

    # --- in place ---------------------------------------------------------------------------------

    def fits_in_place(self, variables: dict[str, Any]) -> bool:
        """Return whether the arrays of variables can be changed in their own memory."""
        seen: Any = None
        for variable in variables.values():
            kernels = variable.kernels
            if kernels is not seen and vocabulary_of(kernels.backend, variable.array) is None:
                return False
            seen = kernels
        return True

    def change_in_place(
        self,
        gradients: dict[str, Any],
        state: dict[str, Any],
        variables: dict[str, Any],
        vocabulary: Callable[[Any, Any], Vocabulary | None] = vocabulary_of,
    ) -> None:
        """Do in the memory of variables and state what `update` does with values of their own.

        `vocabulary` gives the functions for a backend and an array; where a parameter is cut over
        ranks, its sums are those over all of them.
        """
        numbers = self.numbers(count_of(state["step"]) + 1)
        signature = signature_of(self)
        for again in self._again:
            if again.take(state, variables, signature, gradients, numbers):
                count_up(state["step"])
                return
        slots_of = [state[slot.name] for slot in self.slots]
        masters = state[MASTER]
        homes: dict[int, tuple[Vocabulary, list[Change]]] = {}  # by the kernels, a backend's
        for name, gradient in gradients.items():
            if gradient is None:
                continue
            variable = variables[name]
            x = own_array(variable)
            slots = tuple([own_array(of[name]) for of in slots_of])
            copy = masters[name]
            master = None if copy is None else own_array(copy)
            home = homes.get(id(variable.kernels))
            if home is None:
                f = vocabulary(variable.backend, x)
                assert f is not None  # noqa: S101  for the type checker: `fits_in_place` asked
                home = homes[id(variable.kernels)] = (f, [])
            f, changes = home
            if not isinstance(gradient, IndexedSlices):
                changes.append(Change(x, gradient.array, slots, master))
            elif self.lazy or self.exact_on_rows:
                change_rows(self, f, Change(x, None, slots, master), gradient, numbers)
            else:  # at once, so that one dense gradient is there at a time
                dense = gradient.to_dense().array
                change_arrays(self, f, [Change(x, dense, slots, master)], numbers)
        for f, changes in homes.values():
            change_arrays(self, f, changes, numbers)
        if len(homes) == 1 and vocabulary is vocabulary_of:
            ((f, changes),) = homes.values()
            run = repeated_by(f.fused, self, changes, len(numbers))
            if run is not None and len(changes) == len(variables) == len(gradients):
                owners = [of[name] for name in gradients for of in (variables, *slots_of)]
                if can_be_repeated(owners):
                    names = [*gradients]
                    self._again = [Repetition(state, variables, signature, names, owners, run)]
        count_up(state["step"])

    def _refuse_lazy_rows(self) -> None:
        if self.lazy:
            raise UnsupportedOptionError(
                f"{type(self).__name__}: lazy=True changes rows in the memory of variables, by "
                "apply outside of dg.function; here pass dense gradients, slices.to_dense()"
            )


def check(
    kind: str,
    argument: str,
    value: Any,
    *,
    positive: bool = False,
    below: float | None = None,
) -> None:
    """Refuse an argument that is no number, negative, or not below a bound.

    Raises
    ------
    ValueError
        Then.
    """
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    fits = number and (value > 0 if positive else value >= 0) and bool(np.isfinite(value))
    if fits and (below is None or value < below):
        return
    expected = "a positive number" if positive else "a number that is not negative"
    if below is not None:
        expected = f"a number in [0, {below:g})"
    raise ValueError(f"{kind}: {argument} is {value!r}; expected {expected}")


def is_narrow(dtype: Any) -> bool:
    """Return whether parameters of a dtype get a float32 copy."""
    return np.dtype(dtype).name in _NARROW


# --- first values ---------------------------------------------------------------------------------


def _first(x: Any, slot: Slot) -> Any:
    dtype = np.dtype(np.float32) if is_narrow(x.dtype) else np.dtype(x.dtype)
    if slot.real and is_complex(dtype):
        dtype = np.empty(0, dtype).real.dtype
    return asarray(np.full(tuple(x.shape), slot.initial, dtype), backend=home_of(x))


def _master(x: Any) -> Any:
    if not is_narrow(x.dtype):
        return None
    raw = getattr(x, "array", x)  # of a variable in a graph too: the number that it has now
    backend = home_of(x)
    host = np.asarray(x) if backend is None else backend.to_host(raw)
    return asarray(np.asarray(host, np.float32), backend=backend)


def _fitting(number: Number, x: Any) -> Number:
    """Return a number that does not widen the parameter's dtype."""
    if not isinstance(number, Operators):
        return number
    dtype = np.empty(0, x.dtype).real.dtype if is_complex(x.dtype) else x.dtype
    return astype(asarray(number), dtype)
