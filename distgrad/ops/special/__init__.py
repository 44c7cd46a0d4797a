"""Special functions of mathematics and statistics, by subject; their public names: dg.special."""

from distgrad.ops.special import (
    bessel,
    elementary,
    gamma,
    incomplete,
    information,
    integrals,
    normal,
)

OPS = (
    *elementary.OPS,
    *gamma.OPS,
    *incomplete.OPS,
    *normal.OPS,
    *bessel.OPS,
    *information.OPS,
    *integrals.OPS,
)

__all__ = ["OPS"]
