"""Samples of the elementwise operations, of one argument and of two."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from distgrad.testing.inputs import (
    ANY,
    SHIFTED,
    Interval,
    Sample,
    frozen,
    integers,
    layouts,
    pairs,
    values,
)

_UNARY: dict[str, Interval] = {
    **dict.fromkeys("negative positive conj real imag square".split(), ANY),
    **dict.fromkeys("abs sign".split(), (-21.0, 20.0)),  # their slope grows as 1/|x|
    **dict.fromkeys("floor ceil round trunc signbit isnan isinf isfinite".split(), ANY),
    **dict.fromkeys("zeros_like ones_like".split(), ANY),
    **dict.fromkeys("exp expm1 sin cos sinh cosh tanh asinh atan".split(), ANY),
    **dict.fromkeys("sigmoid softplus".split(), ANY),
    "tan": (-0.9, 0.95),
    **dict.fromkeys("log log2 log10 reciprocal".split(), (0.4, 3.0)),
    "log1p": (-0.5, 2.0),
    "sqrt": (0.4, 3.0),
    "asin": (-0.8, 0.75),
    "acos": (-0.8, 0.75),
    "atanh": (-0.8, 0.75),
    "acosh": (1.3, 3.0),
}


def _unary() -> Iterator[Sample]:
    for name, interval in _UNARY.items():
        for layout, x in layouts(interval):
            yield Sample(name, layout, (x,))
    for layout, x in layouts(ANY):
        yield Sample("logical_not", layout, (frozen(x > 0),))


_BINARY: dict[str, tuple[Interval, Interval]] = {
    **dict.fromkeys("add subtract multiply maximum minimum logaddexp".split(), (ANY, SHIFTED)),
    "copysign": (ANY, SHIFTED),
    **dict.fromkeys("equal not_equal less less_equal greater greater_equal".split(), (ANY, ANY)),
    "hypot": ((0.3, 2.0), (-1.9, 2.15)),
    "nextafter": (ANY, SHIFTED),
    "divide": (ANY, (0.5, 2.0)),
    "pow": ((0.5, 2.0), ANY),
    "remainder": ((-5.0, 5.0), (1.1, 2.3)),
    "floor_divide": ((-5.0, 5.0), (1.1, 2.3)),
    "atan2": ((0.3, 2.0), ANY),
}


def _binary() -> Iterator[Sample]:
    for name, intervals in _BINARY.items():
        for variant, a, b in pairs(*intervals):
            yield Sample(name, variant, (a, b))
    for name in ("equal", "less_equal", "greater_equal"):
        steps = frozen(np.floor(values((3, 4), *ANY)))
        yield Sample(name, "ties", (steps, frozen(steps[:1].copy())))
    for exponent in (2, 0, 1, -1.5, 3):
        yield Sample("pow", f"exponent-{exponent}", (values((3, 4), 0.5, 2.0), exponent))
    negative_base = values((3, 4), -2.0, -0.5)
    yield Sample("pow", "negative-base", (negative_base, 3))
    yield Sample("pow", "integer-exponents", (negative_base, integers((3, 4), 0, 4)))
    for name in ("logical_and", "logical_or", "logical_xor"):
        for variant, a, b in pairs(ANY, SHIFTED):
            if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
                yield Sample(name, variant, (frozen(a > 0), frozen(b > 0)))


def _bitwise() -> Iterator[Sample]:
    bits, places = integers((3, 4), -9, 9), integers((4,), 0, 5)
    truth, other = (frozen(values((3, 4), *each) > 0) for each in (ANY, SHIFTED))
    for name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
        yield Sample(name, "integers", (bits, places))
        yield Sample(name, "scalar", (bits, 6))
        yield Sample(name, "bool", (truth, other))
        yield Sample(name, "widths", (frozen(bits.astype("int16")), frozen(bits.astype("int32"))))
        yield Sample(name, "empty", (frozen(bits[:0]), places))
    for name in ("bitwise_left_shift", "bitwise_right_shift"):
        yield Sample(name, "integers", (bits, places))
        yield Sample(name, "scalar", (bits, 2))
        yield Sample(name, "no-axes", (frozen(np.array(-9)), places))
    for x in (bits, truth, frozen(bits.astype("uint8"))):
        yield Sample("bitwise_invert", x.dtype.name, (x,))


FAMILIES = (_unary, _binary, _bitwise)
# Where a complex operand has a derivative.
TAKE_COMPLEX = frozenset(
    (
        "negative positive conj real imag square reciprocal abs sign exp expm1 log log1p log2 "
        "log10 sqrt sin cos tan "
        "asin acos atan sinh cosh tanh asinh acosh atanh sigmoid add subtract multiply divide pow "
    ).split()
)
