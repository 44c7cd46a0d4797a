"""Templates: each operation on single elements as an expression of C++."""

from __future__ import annotations

from typing import NamedTuple


class Template(NamedTuple):
    """An operation in C++: its text with ``{0}``, ``{1}`` for operands, and its result's kind.

    Attributes
    ----------
    text : str
        The expression.
    result : str
        ``"operand"`` for the type of the operands, ``"truth"`` for bool.
    """

    text: str
    result: str = "operand"


def _calls(*names: str, **renamed: str) -> dict[str, Template]:
    return {n: Template(f"{n}({{0}})") for n in names} | {
        name: Template(f"{own}({{0}})") for name, own in renamed.items()
    }


# Written in C++, where host compilers and NVRTC overload these functions for float and double.
TEMPLATES: dict[str, Template] = {
    "add": Template("{0} + {1}"),
    "subtract": Template("{0} - {1}"),
    "multiply": Template("{0} * {1}"),
    "divide": Template("{0} / {1}"),
    "negative": Template("-{0}"),
    "positive": Template("{0}"),
    "reciprocal": Template("1 / {0}"),
    "square": Template("{0} * {0}"),
    "pow": Template("pow({0}, {1})"),
    "abs": Template("fabs({0})"),
    # NaN stays NaN; 0 keeps its sign.
    "sign": Template("{0} > 0 ? {1} : ({0} < 0 ? -{1} : {0})"),
    "maximum": Template("({0} >= {1} || {0} != {0}) ? {0} : {1}"),
    "minimum": Template("({0} <= {1} || {0} != {0}) ? {0} : {1}"),
    "round": Template("rint({0})"),
    # Not inf - inf where both are the same infinity. Vector code has no calls in branches.
    "logaddexp": Template("fmax({0}, {1}) + log1p(exp(-fabs({0} == {1} ? 0 : {0} - {1})))"),
    "atan2": Template("atan2({0}, {1})"),
    "hypot": Template("hypot({0}, {1})"),
    "copysign": Template("copysign({0}, {1})"),
    **_calls(*"floor ceil trunc exp expm1 log log1p log2 log10 sqrt cbrt exp2 erf erfc".split()),
    **_calls(*"sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh".split()),
    **_calls(gammaln="lgamma"),
    "equal": Template("{0} == {1}", "truth"),
    "not_equal": Template("{0} != {1}", "truth"),
    "less": Template("{0} < {1}", "truth"),
    "less_equal": Template("{0} <= {1}", "truth"),
    "greater": Template("{0} > {1}", "truth"),
    "greater_equal": Template("{0} >= {1}", "truth"),
    "logical_and": Template("{0} && {1}", "truth"),
    "logical_or": Template("{0} || {1}", "truth"),
    "logical_not": Template("!({0})", "truth"),
    "bitwise_and": Template("{0} && {1}", "truth"),
    "bitwise_or": Template("{0} || {1}", "truth"),
    "bitwise_invert": Template("!({0})", "truth"),
    "isnan": Template("{0} != {0}", "truth"),
    "isinf": Template("fabs({0}) > {inf}", "truth"),
    "isfinite": Template("fabs({0}) <= {max}", "truth"),
}
