"""Linear algebra: factorisations and systems by a module's ``linalg``, or by NumPy's on the host.

Narrow dtypes are computed in float32, and integers in float64. What a module's errors say of one
matrix is said of it by its place in the stack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.dtypes import as_dtype, complex64, complex128, float32, float64, result_type
from distgrad.errors import LinAlgError, ShapeError

_WIDE = frozenset((float32, float64, complex64, complex128))
_BLOCK = 64  # rows of a triangular system that are solved at once
_PADE_BOUND = 4.25  # up to this norm the approximant of degree 13 errs by rounding alone [Higham]
_PADE = (
    64764752532480000.0,
    32382376266240000.0,
    7771770303897600.0,
    1187353796428800.0,
    129060195264000.0,
    10559470521600.0,
    670442572800.0,
    33522128640.0,
    1323241920.0,
    40840800.0,
    960960.0,
    16380.0,
    182.0,
    1.0,
)

_CAUSES = {
    "cholesky": "is not positive definite; is it symmetric, and with no eigenvalue at or below 0?",
    "inv": "is singular, so it has no inverse; take linalg.pinv for the pseudo-inverse",
    "solve": "is singular, so the system has no unique solution; take linalg.lstsq for the best",
}


# --- in which dtype, and by whom ------------------------------------------------------------------


def _widened(backend: Any, *arrays: Any) -> tuple[tuple[Any, ...], Any]:
    """Return arrays in a dtype that factorisations take, and that of the result if narrower."""
    dtypes = [as_dtype(array.dtype) for array in arrays]
    joint = dtypes[0] if len(dtypes) == 1 else result_type(*dtypes)
    if joint in _WIDE:
        if all(dtype == joint for dtype in dtypes):
            return arrays, None
        return tuple(_cast(backend, array, joint) for array in arrays), None
    is_narrow = joint.kind not in "biu"
    wide = float32 if is_narrow else float64
    return tuple(_cast(backend, a, wide) for a in arrays), joint if is_narrow else None


def _cast(backend: Any, array: Any, dtype: Any) -> Any:
    if backend.speaks_numpy:
        return array.astype(dtype, copy=False)
    return backend.module.astype(array, backend.own_dtype(dtype), copy=False)


def _computed(backend: Any, name: str, *arrays: Any, **params: Any) -> Any:
    """Return what the module's function gives, or NumPy's where the module has none."""
    function = getattr(getattr(backend.module, "linalg", None), name, None)
    try:
        if function is not None:
            return function(*arrays, **params)
        result = getattr(np.linalg, name)(*(backend.to_host(a) for a in arrays), **params)
    except np.linalg.LinAlgError as error:
        raise _explained(backend, name, arrays[0], error) from error
    if isinstance(result, tuple):
        return tuple(backend.asarray(each) for each in result)
    return backend.asarray(result)


def _explained(backend: Any, name: str, matrices: Any, error: Exception) -> Exception:
    """Return the error that says which matrix of a stack has not what the operation needs.

    Whoever finds no fault in a single matrix gets the module's own words: the shapes do not fit.
    """
    if not _is_square(matrices):
        return error
    cause = _CAUSES.get(name)
    if cause is None:
        return LinAlgError(f"{name}: {error}; is there a NaN or an infinity in the matrix?")
    stack = matrices.shape[:-2]
    for place in np.ndindex(*stack):
        one = matrices[(*place, Ellipsis)] if place else matrices
        if not _succeeds(name, backend.to_host(one)):
            where = (
                f"matrix {place[0] if len(place) == 1 else place} of the stack"
                if place
                else ("the matrix")
            )
            return LinAlgError(f"{name}: {where} {cause}")
    return LinAlgError(f"{name}: a matrix {cause}")


def _is_square(matrices: Any) -> bool:
    return len(matrices.shape) >= 2 and matrices.shape[-1] == matrices.shape[-2]


def _succeeds(name: str, host: Any) -> bool:
    try:
        np.linalg.cholesky(host) if name == "cholesky" else np.linalg.inv(host)
    except np.linalg.LinAlgError:
        return False
    return True


def _one_result(name: str) -> Callable[..., Any]:
    def kernel(backend: Any, *arrays: Any) -> Any:
        wide, narrow = _widened(backend, *arrays)
        result = _computed(backend, name, *wide)
        return result if narrow is None else _cast(backend, result, narrow)

    return kernel


# --- factorisations -------------------------------------------------------------------------------


def eigh(backend: Any, a: Any, upper: bool = False) -> tuple[Any, ...]:
    """Return eigenvalues and eigenvectors of the Hermitian matrices with these triangles."""
    results, narrow = _of_triangle(backend, "eigh", a, upper)
    return tuple(results) if narrow is None else tuple(_cast(backend, r, narrow) for r in results)


def eigvalsh(backend: Any, a: Any, upper: bool = False) -> Any:
    """Return the eigenvalues of the Hermitian matrices with these triangles."""
    result, narrow = _of_triangle(backend, "eigvalsh", a, upper)
    return result if narrow is None else _cast(backend, result, narrow)


def _of_triangle(backend: Any, name: str, a: Any, upper: bool) -> tuple[Any, Any]:
    """Return what comes of one triangle of matrices, and the dtype it is to have if narrower.

    LAPACK answers otherwise for the upper triangle than for its adjoint: with other signs.
    """
    (wide,), narrow = _widened(backend, a)
    if not upper:
        return _computed(backend, name, wide), narrow
    if backend.speaks_numpy:
        return _computed(backend, name, wide, UPLO="U"), narrow
    module = backend.module  # the array API standard has no argument for the triangle
    turned = module.matrix_transpose(wide)
    if as_dtype(wide.dtype).kind == "c":
        turned = module.conj(turned)
    return _computed(backend, name, turned), narrow


def svd(backend: Any, a: Any, full_matrices: bool = False) -> tuple[Any, ...]:
    """Return left singular vectors, singular values and adjoint right singular vectors."""
    (wide,), narrow = _widened(backend, a)
    results = _computed(backend, "svd", wide, full_matrices=full_matrices)
    return tuple(results) if narrow is None else tuple(_cast(backend, r, narrow) for r in results)


def svdvals(backend: Any, a: Any) -> Any:
    """Return the singular values alone."""
    (wide,), narrow = _widened(backend, a)
    if hasattr(getattr(backend.module, "linalg", None), "svdvals"):
        values = _computed(backend, "svdvals", wide)
    else:
        values = _computed(backend, "svd", wide, compute_uv=False)
    return values if narrow is None else _cast(backend, values, narrow)


def qr(backend: Any, a: Any, mode: str) -> tuple[Any, ...]:
    """Return orthonormal columns and the upper triangle."""
    (wide,), narrow = _widened(backend, a)
    results = _computed(backend, "qr", wide, mode=mode)
    return tuple(results) if narrow is None else tuple(_cast(backend, r, narrow) for r in results)


def slogdet(backend: Any, a: Any) -> tuple[Any, ...]:
    """Return sign and logarithm of determinants."""
    (wide,), narrow = _widened(backend, a)
    results = _computed(backend, "slogdet", wide)
    return tuple(results) if narrow is None else tuple(_cast(backend, r, narrow) for r in results)


def eig(backend: Any, a: Any) -> tuple[Any, ...]:
    """Return eigenvalues and eigenvectors, complex both."""
    (wide,), _ = _widened(backend, a)
    dtype = _complex_like(wide)
    return tuple(_cast(backend, each, dtype) for each in _computed(backend, "eig", wide))


def eigvals(backend: Any, a: Any) -> Any:
    """Return the eigenvalues, complex."""
    (wide,), _ = _widened(backend, a)
    return _cast(backend, _computed(backend, "eigvals", wide), _complex_like(wide))


def _complex_like(a: Any) -> Any:
    return complex64 if as_dtype(a.dtype) in (float32, complex64) else complex128


def cofactor(backend: Any, a: Any) -> Any:
    """Return the matrices of cofactors, by the inverse where it is good enough."""
    (wide,), narrow = _widened(backend, a)
    result = _cofactor_by_inverse(backend, wide)
    if result is None:
        result = _cofactor_by_singular_values(backend, wide)
    return result if narrow is None else _cast(backend, result, narrow)


def _cofactor_by_inverse(backend: Any, a: Any) -> Any:
    """Return det(A) A^-T; None if a matrix of the stack is near a singular one."""
    module = backend.module
    if not a.shape[-1]:
        return None
    try:
        inverse = module.linalg.inv(a)
    except np.linalg.LinAlgError:
        return None
    sizes = [module.max(module.sum(module.abs(x), axis=-2), axis=-1) for x in (a, inverse)]
    conditions = backend.to_host(sizes[0] * sizes[1])
    # Half of the digits are left at this condition number; NaN and infinity fail the comparison.
    if not np.all(conditions < np.finfo(as_dtype(a.dtype)).eps ** -0.5):
        return None
    turned = module.matrix_transpose(inverse)
    determinant = module.linalg.det(a)[..., None, None]
    # Where the determinant overflows, minors of 0 stay 0.
    return module.where(turned == 0, turned, determinant * turned)


def _cofactor_by_singular_values(backend: Any, a: Any) -> Any:
    """Return det(U V^H) conj(U) adj(S) V^T."""
    module, size = backend.module, a.shape[-1]
    # A matrix with NaN or infinity has no singular values, and keeps no other from having its own.
    is_lost = ~module.all(module.isfinite(a), axis=(-2, -1))[..., None, None]
    safe = module.where(is_lost, module.eye(size, dtype=a.dtype), a)
    left, values, right = module.linalg.svd(safe, full_matrices=False)
    ones = module.eye(size, dtype=values.dtype)
    # Row i without the i-th value: the product along it is that of all others.
    others = module.prod(values[..., None, :] * (1 - ones) + ones, axis=-1)
    turn = module.linalg.det(module.matmul(left, right))[..., None, None]
    if as_dtype(a.dtype).kind == "c":
        left, right = module.conj(left), module.conj(right)
    found = turn * module.matmul(left * others[..., None, :], right)
    return module.where(is_lost, module.full_like(found, float("nan")), found)


# --- triangular systems ---------------------------------------------------------------------------


def solve_triangular(backend: Any, a: Any, b: Any, lower: bool, unit_diagonal: bool) -> Any:
    """Return the solution of triangular systems, block by block of rows.

    What was solved is taken off the rest by products; only blocks on the diagonal are solved.
    """
    (a, b), narrow = _widened(backend, a, b)
    module, size = backend.module, a.shape[-1]
    if b.shape[-2] != size:  # blocks of rows would leave the others out
        raise ShapeError(
            f"solve_triangular: (..., n, n) and (..., n, k) expected, got {tuple(a.shape)} and "
            f"{tuple(b.shape)}"
        )
    ones = module.eye(min(size, _BLOCK), dtype=a.dtype)
    starts = list(range(0, size, _BLOCK))
    parts: dict[int, Any] = {}
    for start in starts if lower else reversed(starts):
        stop = min(start + _BLOCK, size)
        block = a[..., start:stop, start:stop]
        if unit_diagonal:
            inner = module.tril(block, k=-1) if lower else module.triu(block, k=1)
            block = inner + ones[: stop - start, : stop - start]
        else:
            block = module.tril(block) if lower else module.triu(block)
        rest = b[..., start:stop, :]
        for other, solved in parts.items():
            columns = a[..., start:stop, other : other + solved.shape[-2]]
            rest = rest - module.matmul(columns, solved)
        try:
            parts[start] = module.linalg.solve(block, rest)
        except np.linalg.LinAlgError as error:
            if not _is_square(a):
                raise
            raise LinAlgError(
                "solve_triangular: there is a 0 on a diagonal, so the system has no unique solution"
            ) from error
    if not parts:
        result = b + module.matmul(a, b)  # no rows: nothing but shapes to be joined
    else:
        found = [parts[start] for start in starts]
        result = found[0] if len(found) == 1 else _stacked_rows(backend, found)
    return result if narrow is None else _cast(backend, result, narrow)


def _stacked_rows(backend: Any, parts: list[Any]) -> Any:
    join = backend.module.concatenate if backend.speaks_numpy else backend.module.concat
    return join(parts, axis=-2)


# --- the exponential ------------------------------------------------------------------------------


def expm(backend: Any, a: Any) -> Any:
    """Return the exponential of matrices: scale, take a Padé approximant, and square back."""
    (a,), narrow = _widened(backend, a)
    module, size = backend.module, a.shape[-1]
    if not size:
        return a
    sums = module.sum(module.abs(a), axis=-2)
    norms = module.max(sums, axis=-1)
    largest = float(np.max(backend.to_host(norms), initial=0.0))
    if not np.isfinite(largest):
        return a * float("nan")
    halvings = module.zeros_like(norms)  # of each matrix of the stack
    steps = 0
    while largest > _PADE_BOUND:
        largest /= 2
        steps += 1
        halvings = module.where(norms > _PADE_BOUND * 2.0 ** (steps - 1), halvings + 1, halvings)
    scaled = a * (2.0**-halvings)[..., None, None]
    result = _pade(backend, scaled)
    for step in range(steps):
        squared = module.matmul(result, result)
        result = module.where((halvings > step)[..., None, None], squared, result)
    return result if narrow is None else _cast(backend, result, narrow)


def _pade(backend: Any, a: Any) -> Any:
    module = backend.module
    ones = module.eye(a.shape[-1], dtype=a.dtype)
    second = module.matmul(a, a)
    fourth = module.matmul(second, second)
    sixth = module.matmul(fourth, second)
    odd = module.matmul(sixth, _PADE[13] * sixth + _PADE[11] * fourth + _PADE[9] * second)
    odd = odd + _PADE[7] * sixth + _PADE[5] * fourth + _PADE[3] * second + _PADE[1] * ones
    odd = module.matmul(a, odd)
    even = module.matmul(sixth, _PADE[12] * sixth + _PADE[10] * fourth + _PADE[8] * second)
    even = even + _PADE[6] * sixth + _PADE[4] * fourth + _PADE[2] * second + _PADE[0] * ones
    return module.linalg.solve(even - odd, even + odd)


LINALG: dict[str, Callable[..., Any]] = {
    **{name: _one_result(name) for name in ("cholesky", "inv", "solve", "det")},
    "eigh": eigh,
    "eigvalsh": eigvalsh,
    "svd": svd,
    "svdvals": svdvals,
    "qr": qr,
    "slogdet": slogdet,
    "cofactor": cofactor,
    "eig": eig,
    "eigvals": eigvals,
    "solve_triangular": solve_triangular,
    "expm": expm,
}
