"""The formula of a rule as C++ for one element, and the kernels in place that devices make of it.

A step of Adam on arrays is a dozen operations, each with a pass over memory of its own and a
temporary as large as the parameter. Run on the values of `distgrad.backend.scalar_code`, the same
formula becomes one kernel, which reads each array once and writes it once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from distgrad.backend.scalar_code import Formula, NoScalarCode, ScalarCode
from distgrad.ops import VOCABULARY
from distgrad.optimizers.in_place import Change
from distgrad.optimizers.in_place import Formula as Rule
from distgrad.optimizers.vocabulary import Vocabulary

# What a device makes of a formula and the count of its numbers: it runs the steps of parameters
# whose arrays have the formula's dtypes, and returns False where it cannot after all.
Kernel = Callable[[Sequence[Change], Sequence[float]], bool]

# The same for arrays of which all has been asked: parameters and slots one after the other, the
# gradients, and the numbers of the step. It may return False, with nothing changed, too.
Repeated = Callable[[list[Any], list[Any], Sequence[float]], bool]


class Steps:
    """What a backend has as ``change_in_place``, see `distgrad.optimizers.vocabulary`.

    Parameters
    ----------
    takes : callable
        ``takes(arrays)``: whether the kernels of the device take these arrays.
    compiled : callable
        ``compiled(formula, count)`` returns the kernel of a formula whose last `count` inputs are
        the numbers of a step, or None where there is none.
    """

    def __init__(
        self,
        takes: Callable[[tuple[Any, ...]], bool],
        compiled: Callable[[Formula, int], Kernel | None],
    ) -> None:
        self._takes = takes
        self._compiled = compiled
        self._known: dict[Any, Kernel | None] = {}

    def __call__(
        self, rule: Rule, changes: Sequence[Change], numbers: tuple[Any, ...]
    ) -> Sequence[Change]:
        """Change parameters and their slots by a rule; return those that no kernel can change."""
        for number in numbers:
            if number.__class__ is not float and not isinstance(number, (int, float, np.number)):
                return changes
        alike: dict[Any, list[Change]] = {}
        left: list[Change] = []
        for change in changes:
            if self._takes(change.arrays):
                alike.setdefault(_kind_of(change), []).append(change)
            else:
                left.append(change)
        signature = signature_of(rule) if alike else ()
        for kind, group in alike.items():
            key = (signature, len(numbers), kind)
            try:
                kernel = self._known[key]
            except KeyError:
                kernel = self._known[key] = self._kernel(rule, group[0], len(numbers))
            if kernel is None or not kernel(group, numbers):
                left += group
        return left

    def repeated(self, rule: Rule, changes: Sequence[Change], count: int) -> Repeated | None:
        """Return the kernel that took all of these changes, for steps on the same arrays.

        Parameters
        ----------
        rule : Rule
            Whose formula it is.
        changes : sequence of Change
            Those of one step, one at least, which has been taken.
        count : int
            How many numbers it had.
        """
        if changes[0].master is not None:
            return None  # which is not among the parameters and slots
        kind = _kind_of(changes[0])
        kernel = self._known.get((signature_of(rule), count, kind))
        repeated: Callable[..., Repeated | None] | None = getattr(kernel, "repeated", None)
        if repeated is None:
            return None
        alike = all(_kind_of(each) == kind and self._takes(each.arrays) for each in changes)
        return repeated(changes) if alike else None

    def _kernel(self, rule: Rule, change: Change, count: int) -> Kernel | None:
        x, gradient, slots, master = change
        dtypes = (x.dtype, gradient.dtype, [slot.dtype for slot in slots])
        try:
            formula = formula_of(rule, *dtypes, None if master is None else master.dtype, count)
        except NoScalarCode:
            return None
        return self._compiled(formula, count)


def _kind_of(change: Change) -> tuple[Any, ...]:
    """Return what changes have to have in common to be one kernel's."""
    return (*[each.dtype for each in change.arrays], change.master is None)


def repeated_by(
    fused: Callable[..., Sequence[Change]] | None, rule: Rule, changes: Sequence[Change], count: int
) -> Repeated | None:
    """Return what `Steps.repeated` does; None where a backend takes its steps in another way."""
    return fused.repeated(rule, changes, count) if changes and isinstance(fused, Steps) else None


def formula_of(
    rule: Rule,
    parameter: Any,
    gradient: Any,
    slots: Sequence[Any],
    master: Any,
    count: int,
) -> Formula:
    """Return what a rule does with one element of each array.

    Parameters
    ----------
    rule : Rule
        Whose formula it is; its elements know nothing of each other.
    parameter, gradient : dtype
        Of the parameter and of its gradient.
    slots : sequence of dtype
        Of the slots.
    master : dtype or None
        Of the copy that counts where the parameter is in half precision.
    count : int
        How many numbers a step has.

    Returns
    -------
    Formula
        It reads ``x``, ``g``, ``s0``, ``s1``, ..., ``master`` where there is one, and the numbers
        ``n0``, ``n1``, ..., and assigns ``x_next``, ``s0_next``, ..., ``master_next``.

    Raises
    ------
    NoScalarCode
        If the formula is not one of single real elements of one floating dtype.

    Notes
    -----
    Numbers of a step are rounded to the dtype of the parameter, where arrays would have them
    rounded after each product with another number.
    """
    if not rule.elementwise:
        raise NoScalarCode("the elements of a parameter know of each other")
    exact = np.dtype(parameter if master is None else master)
    writer = ScalarCode(VOCABULARY, exact)
    arrays = [("x", parameter), ("g", gradient)]
    arrays += [(f"s{place}", dtype) for place, dtype in enumerate(slots)]
    if master is not None:
        arrays.append(("master", master))
    numbers = [(f"n{place}", exact) for place in range(count)]
    of_slots = [writer.argument(*each) for each in arrays[2 : 2 + len(slots)]]
    x = writer.argument("x" if master is None else "master", exact)
    change, after = rule.change(
        _vocabulary(writer),
        x,
        writer.argument("g", gradient),
        tuple(of_slots),
        tuple(writer.argument(*each) for each in numbers),
    )
    value = x + change
    outputs = [("x_next", parameter, value)]
    outputs += [
        (f"s{place}_next", dtype, new)
        for place, (dtype, new) in enumerate(zip(slots, after, strict=True))
    ]
    if master is not None:
        outputs.append(("master_next", master, value))
    return Formula(
        f"{type(rule).__name__.lower()}_step",
        tuple((name, np.dtype(dtype)) for name, dtype in (*arrays, *numbers)),
        tuple((name, np.dtype(dtype)) for name, dtype, _ in outputs),
        writer.text({name: new for name, _, new in outputs}),
    )


def signature_of(rule: Rule) -> tuple[Any, ...]:
    """Return what of a rule its formula depends on: its class and its own numbers."""
    own = vars(rule)
    plain = [v for v in own.values() if v.__class__ in _PLAIN or isinstance(v, (int, float, str))]
    return (type(rule), *own, *plain)


# Classes of most attributes; asking for them is quicker than asking `isinstance`.
_PLAIN = frozenset((bool, int, float, str, type(None)))


def _vocabulary(writer: ScalarCode) -> Vocabulary:
    def same(x: Any) -> Any:
        return x

    return Vocabulary(writer.sqrt, writer.maximum, writer.where, _refuse, same, same)


def _refuse(x: Any) -> NoReturn:
    raise NoScalarCode("the formula sums over elements")
