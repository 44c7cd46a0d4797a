"""Python's operators for arrays that are no numbers: those of transformations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

_BINARY = {
    "add": "add",
    "subtract": "sub",
    "multiply": "mul",
    "divide": "truediv",
    "floor_divide": "floordiv",
    "remainder": "mod",
    "pow": "pow",
    "matmul": "matmul",
    "bitwise_and": "and",
    "bitwise_or": "or",
    "bitwise_xor": "xor",
    "bitwise_left_shift": "lshift",
    "bitwise_right_shift": "rshift",
}
_PLAIN = {
    "negative": "neg",
    "positive": "pos",
    "abs": "abs",
    "bitwise_invert": "invert",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
    "equal": "eq",
    "not_equal": "ne",
}


class KernelOperators:
    """What rules may write with operators, computed by the operation of that name.

    Subclasses define ``compute(name, operands)``.
    """

    __slots__ = ()

    __array_ufunc__ = None  # a NumPy array on the left gives way to the operators here
    __hash__ = None  # type: ignore[assignment]  # == is elementwise

    def compute(self, name: str, operands: Sequence[Any]) -> Any:
        """Return the result of an operation of the vocabulary, by its name."""
        raise TypeError(f"{type(self).__name__} does not compute {name}")

    def __getattr__(self, name: str) -> NoReturn:
        # Of protocols others ask whether they are there; of an array's own they take it to be one.
        raise AttributeError(name if name.startswith("__") else self._no_array(f"has no {name!r}"))

    def __array__(self, *arguments: Any, **options: Any) -> NoReturn:
        raise TypeError(self._no_array("becomes no array of NumPy's"))

    def _no_array(self, what: str) -> str:
        return (
            f"a {type(self).__name__}, which stands for an array in dg.function or dg.vmap, "
            f"{what}: there are no numbers yet; compute with functions of dg's, or call what takes "
            "t.array, such as a kernel of your own, outside of it"
        )


def _operator(name: str, *, reflected: bool = False) -> Callable[..., Any]:
    def operator(self: KernelOperators, *others: Any) -> Any:
        return self.compute(name, (*others, self) if reflected else (self, *others))

    return operator


for _name, _symbol in (_BINARY | _PLAIN).items():
    setattr(KernelOperators, f"__{_symbol}__", _operator(_name))
for _name, _symbol in _BINARY.items():
    setattr(KernelOperators, f"__r{_symbol}__", _operator(_name, reflected=True))
