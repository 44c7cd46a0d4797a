"""Eigenvalues and eigenvectors, of Hermitian matrices and of any square ones."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply
from distgrad.ops.linalg.matrices import (
    adjoint,
    as_column,
    as_row,
    check_square,
    complex_of,
    cotangent_of_triangle,
    diagonal_of,
    floating_of,
    hermitian_from_triangle,
    inverse_gaps,
    product_of,
    real_of,
    with_diagonal,
)
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import brought_back, conjugate, real_cotangent


class EighResult(NamedTuple):
    """Eigenvalues and eigenvectors of Hermitian matrices."""

    eigenvalues: Any
    eigenvectors: Any


class EigResult(NamedTuple):
    """Eigenvalues and eigenvectors of square matrices; complex, both."""

    eigenvalues: Any
    eigenvectors: Any


# --- Hermitian matrices ---------------------------------------------------------------------------


def _eigh_spec(a: Spec, *, upper: bool = False) -> tuple[Spec, Spec]:
    check_square("eigh", a)
    shape = tuple(a.shape)
    return Spec(shape[:-1], real_of(a)), Spec(shape, floating_of(a))


def _eigh_vjp(xp: Namespace, g: Any, y: Any, xs: Any, params: Any, needs: Any) -> Any:
    to_values, to_vectors = g
    values, vectors = y
    inner = inverse_gaps(xp, values) * xp.matmul(adjoint(xp, vectors), to_vectors)
    on_diagonal = real_cotangent(xp, to_values)
    inner = inner + with_diagonal(xp, on_diagonal, tuple(vectors.shape))
    to_a = product_of(xp, vectors, inner, adjoint(xp, vectors))
    return (cotangent_of_triangle(xp, to_a, **params),)


def _eigh_jvp(xp: Namespace, tangents: Any, y: Any, xs: Any, params: Any) -> Any:
    values, vectors = y
    pushed = hermitian_from_triangle(xp, tangents[0], **params)
    inner = product_of(xp, adjoint(xp, vectors), pushed, vectors)
    moved = real_cotangent(xp, diagonal_of(xp, inner))
    return moved, xp.matmul(vectors, inverse_gaps(xp, values) * inner)


EIGH = Op(
    "eigh",
    Kind.OPAQUE,
    _eigh_spec,
    _eigh_vjp,
    _eigh_jvp,
    Keep.OUTPUT,
    batch=batching.trailing("eigh"),
    outputs=2,
)


def eigh(a: Any, /, UPLO: Literal["L", "U"] = "L") -> EighResult:
    """Return the eigenvalues and eigenvectors of Hermitian (real: symmetric) matrices.

    Parameters
    ----------
    a : Tensor, Variable or array
        Of shape (..., n, n); one triangle is read, the other one and the imaginary parts on the
        diagonal are not looked at.
    UPLO : {"L", "U"}
        Which triangle is read: the lower one, or the upper one.

    Returns
    -------
    eigenvalues : Tensor
        Of shape (..., n), real, in ascending order.
    eigenvectors : Tensor
        Of shape (..., n, n), orthonormal; column i belongs to eigenvalue i.

    Raises
    ------
    MatrixShapeError
        If the matrices are not square.
    LinAlgError
        If the iteration does not converge.

    Notes
    -----
    With ``A = V diag(w) V^H``: ``dw = Re diag(V^H dA V)`` and ``dV = V (F * (V^H dA V))``, where
    ``F[i, j] = 1 / (w[j] - w[i])`` and 0 on the diagonal [1]_. The gradient arrives in the triangle
    that is read, as in TensorFlow: it is the derivative of exactly what is computed. Build the
    matrix as ``(B + B^H) / 2`` for a symmetric gradient.

    Where eigenvalues coincide (differ by less than 8 eps times the largest) the vectors within
    their space are arbitrary, and F is taken as 0, as in TensorFlow. The gradient is finite, and
    right for functions that take these vectors together, as the projection on their space, and
    these values alike. It leaves out what a function like ``V f(w) V^H`` gains from the values'
    parting: ``f'(w)`` within that space. The phase of each complex vector is arbitrary too; its
    derivative is taken as 0.

    References
    ----------
    .. [1] Giles, "Collected matrix derivative results for forward and reverse mode algorithmic
       differentiation", 2008, section 3.1.
    """
    return EighResult(*apply(EIGH, a, **_triangle("eigh", UPLO)))


def _triangle(operation: str, name: str) -> dict[str, bool]:
    """Return the metadata of the operation for a triangle."""
    if not isinstance(name, str) or name.upper() not in ("L", "U"):
        raise ValueError(f"{operation}: UPLO is {name!r}; expected 'L' or 'U'")
    return {"upper": True} if name.upper() == "U" else {}


def _eigvalsh_spec(a: Spec, *, upper: bool = False) -> Spec:
    check_square("eigvalsh", a)
    return Spec(tuple(a.shape[:-1]), real_of(a))


def _eigvalsh_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    _, vectors = xp.eigh(xs[0], **params)
    weighted = vectors * as_row(xp, real_cotangent(xp, g))
    return (cotangent_of_triangle(xp, xp.matmul(weighted, adjoint(xp, vectors)), **params),)


def _eigvalsh_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    _, vectors = xp.eigh(xs[0], **params)
    pushed = xp.matmul(hermitian_from_triangle(xp, tangents[0], **params), vectors)
    return xp.sum(real_cotangent(xp, conjugate(xp, vectors) * pushed), axis=-2)


EIGVALSH = Op(
    "eigvalsh",
    Kind.OPAQUE,
    _eigvalsh_spec,
    _eigvalsh_vjp,
    _eigvalsh_jvp,
    batch=batching.trailing("eigvalsh"),
)


def eigvalsh(a: Any, /, UPLO: Literal["L", "U"] = "L") -> Any:
    """Return the eigenvalues of Hermitian (real: symmetric) matrices, in ascending order.

    Parameters, exceptions and derivative as for `eigh`; quicker, as the vectors are computed only
    if a gradient is asked for. The derivative is finite and right also where eigenvalues coincide,
    for functions that are symmetric in them, such as their sum.
    """
    return apply(EIGVALSH, a, **_triangle("eigvalsh", UPLO))


# --- any square matrices --------------------------------------------------------------------------


def _eig_spec(a: Spec) -> tuple[Spec, Spec]:
    check_square("eig", a)
    shape, dtype = tuple(a.shape), complex_of(a)
    return Spec(shape[:-1], dtype), Spec(shape, dtype)


def _eig_vjp(xp: Namespace, g: Any, y: Any, xs: Any, params: Any, needs: Any) -> Any:
    to_values, to_vectors = g
    values, vectors = y
    back = adjoint(xp, vectors)
    wanted = xp.matmul(back, to_vectors)
    lengths = xp.real(diagonal_of(xp, wanted))
    wanted = wanted - xp.matmul(back, vectors) * as_row(xp, lengths)
    inner = xp.conj(inverse_gaps(xp, values)) * wanted
    inner = inner + with_diagonal(xp, to_values, tuple(vectors.shape))
    return (brought_back(xp, xp.solve(back, xp.matmul(inner, back)), xs[0]),)


def _eig_jvp(xp: Namespace, tangents: Any, y: Any, xs: Any, params: Any) -> Any:
    values, vectors = y
    inner = xp.solve(vectors, xp.matmul(tangents[0], vectors))
    turn = inverse_gaps(xp, values) * inner
    lengths = xp.real(xp.sum(xp.conj(vectors) * xp.matmul(vectors, turn), axis=-2))
    return diagonal_of(xp, inner), xp.matmul(vectors, turn) - vectors * as_row(xp, lengths)


EIG = Op(
    "eig",
    Kind.OPAQUE,
    _eig_spec,
    _eig_vjp,
    _eig_jvp,
    Keep.BOTH,
    batch=batching.trailing("eig"),
    outputs=2,
)


def eig(a: Any, /) -> EigResult:
    """Return the eigenvalues and right eigenvectors of square matrices.

    Parameters
    ----------
    a : Tensor, Variable or array
        Of shape (..., n, n).

    Returns
    -------
    eigenvalues : Tensor
        Of shape (..., n), complex (as of real matrices too, unlike NumPy, which decides by the
        values), in no order.
    eigenvectors : Tensor
        Of shape (..., n, n), complex; column i, of length 1, belongs to eigenvalue i.

    Raises
    ------
    MatrixShapeError
        If the matrices are not square.
    LinAlgError
        If the iteration does not converge; in the derivative, if the matrix is defective, that is
        its eigenvectors are linearly dependent.

    Notes
    -----
    ``dw = diag(V^-1 dA V)`` and ``dV = V (F * (V^-1 dA V))`` less what would change the vectors'
    lengths, with F as in `eigh` [1]_ [2]_. Where eigenvalues coincide F is taken as 0. The phase of
    each complex vector is arbitrary, and its derivative is taken as 0: only functions that do not
    depend on it have a meaningful gradient.

    References
    ----------
    .. [1] Giles, "Collected matrix derivative results for forward and reverse mode algorithmic
       differentiation", 2008, section 3.1.
    .. [2] Boeddeker et al., "On the computation of complex-valued gradients with application to
       statistically optimum beamforming", 2017, section 4.2.
    """
    return EigResult(*apply(EIG, a))


def _eigvals_spec(a: Spec) -> Spec:
    check_square("eigvals", a)
    return Spec(tuple(a.shape[:-1]), complex_of(a))


def _eigvals_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    back = adjoint(xp, xp.eig(xs[0])[1])
    return (brought_back(xp, xp.solve(back, as_column(xp, g) * back), xs[0]),)


def _eigvals_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    _, vectors = xp.eig(xs[0])
    return diagonal_of(xp, xp.solve(vectors, xp.matmul(tangents[0], vectors)))


EIGVALS = Op(
    "eigvals",
    Kind.OPAQUE,
    _eigvals_spec,
    _eigvals_vjp,
    _eigvals_jvp,
    batch=batching.trailing("eigvals"),
)


def eigvals(a: Any, /) -> Any:
    """Return the eigenvalues of square matrices, complex and in no order; see `eig`."""
    return apply(EIGVALS, a)


OPS = (EIGH, EIGVALSH, EIG, EIGVALS)
