"""Powers by small whole numbers as products: of one element and of arrays alike.

A C library's pow takes 20 times as long, and NumPy's of negative numbers 500 times. Of n factors
the product is off by up to n units in the last place.
"""

from __future__ import annotations

from typing import Any

_LEAST, _MOST = -4, 8  # beyond, pow is the more precise


def is_product(exponent: Any) -> bool:
    """Return whether a power by this exponent is computed as a product, or as a reciprocal's."""
    return (
        exponent.__class__ in (int, float)
        and _LEAST <= exponent <= _MOST
        and exponent == int(exponent)
        and exponent not in (0, 1)
    )


def product_of(x: Any, exponent: float) -> Any:
    """Return x to the power of an exponent for which `is_product` holds.

    Parameters
    ----------
    x : array or scalar
        Whatever can be multiplied, and divide 1 for a negative exponent.
    exponent : int or float
        A whole number.
    """
    left = abs(int(exponent))
    base = x if exponent > 0 else 1 / x
    found = None
    while True:
        if left & 1:
            found = base if found is None else found * base
        left >>= 1
        if not left:
            return found
        base = base * base
