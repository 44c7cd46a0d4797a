"""Linear algebra: factorisations, systems, eigenvalues, determinants and norms, by subject."""

from distgrad.ops.linalg import (
    determinants,
    eigen,
    exponential,
    norms,
    pseudo_inverse,
    singular,
    solving,
    triangular,
)

OPS = (
    *triangular.OPS,
    *eigen.OPS,
    *singular.OPS,
    *pseudo_inverse.OPS,
    *solving.OPS,
    *determinants.OPS,
    *norms.OPS,
    *exponential.OPS,
)

__all__ = ["OPS"]
