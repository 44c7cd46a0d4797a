"""dg.linalg: linear algebra, by the names of the array API standard and of NumPy."""

from distgrad.errors import LinAlgError
from distgrad.ops.linalg.determinants import SlogdetResult, det, logdet, slogdet
from distgrad.ops.linalg.eigen import EighResult, EigResult, eig, eigh, eigvals, eigvalsh
from distgrad.ops.linalg.exponential import expm
from distgrad.ops.linalg.least_squares import LstsqResult, lstsq
from distgrad.ops.linalg.norms import cond, matrix_norm, norm, vector_norm
from distgrad.ops.linalg.parts import adjoint, diagonal, trace
from distgrad.ops.linalg.products import cross, matrix_power, multi_dot, outer
from distgrad.ops.linalg.pseudo_inverse import matrix_rank, pinv
from distgrad.ops.linalg.singular import SVDResult, svd, svdvals
from distgrad.ops.linalg.solving import inv, solve, solve_triangular
from distgrad.ops.linalg.tensor_systems import tensorinv, tensorsolve
from distgrad.ops.linalg.triangular import QRResult, cholesky, qr
from distgrad.ops.products.contractions import matmul, tensordot, vecdot
from distgrad.ops.shaping.structure import matrix_transpose

__all__ = [
    "EigResult",
    "EighResult",
    "LinAlgError",
    "LstsqResult",
    "QRResult",
    "SVDResult",
    "SlogdetResult",
    "adjoint",
    "cholesky",
    "cond",
    "cross",
    "det",
    "diagonal",
    "eig",
    "eigh",
    "eigvals",
    "eigvalsh",
    "expm",
    "inv",
    "logdet",
    "lstsq",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "multi_dot",
    "norm",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "solve_triangular",
    "svd",
    "svdvals",
    "tensordot",
    "tensorinv",
    "tensorsolve",
    "trace",
    "vecdot",
    "vector_norm",
]
