"""Say what an operation was asked where its kernel fails: then only, success costs nothing."""

from __future__ import annotations

from typing import Any, NoReturn

from distgrad.backend.protocol import Backend
from distgrad.core.op import Op, Spec
from distgrad.dtypes import as_dtype
from distgrad.entering import SCALARS
from distgrad.errors import DistgradError, MixedBackendError


def refuse_mixture(op: Op, one: Backend, other: Backend) -> NoReturn:
    """Raise the error for operands of two backends, which nothing moves unasked."""
    explain = getattr(one, "explain_mixture", None)
    if explain is not None:  # values of two transformations, which nothing moves
        explain(op.name)
    raise MixedBackendError(
        f"{op.name}: the operands belong to the backends {one.name!r} and {other.name!r}; "
        f"move one of them first, such as x.to(backend={one.name!r})"
    )


def explain_failure(
    op: Op, arrays: tuple[Any, ...], params: dict[str, Any], error: Exception
) -> NoReturn:
    """Raise the clearest error for a kernel that failed: the rule's own, if it objects."""
    if isinstance(error, DistgradError):
        raise error
    operands = [
        a if type(a) in SCALARS else Spec(tuple(a.shape), as_dtype(a.dtype)) for a in arrays
    ]
    try:
        op.spec(*operands, **params)
    except DistgradError as explanation:
        raise explanation from None  # it says all that the kernel's own error does, and more
    said = str(error)
    own = type(error) in _KINDS or type(error).__module__.startswith("numpy")
    named = said.startswith(f"{op.name}:") or any(isinstance(each, _Named) for each in error.args)
    if named or not own:
        raise error  # of a function that the kernel called, or one that says all there is to say
    kind = next(kind for kind in _KINDS if isinstance(error, kind))
    listed = ", ".join(
        f"{each.dtype}{list(each.shape)}" if isinstance(each, Spec) else repr(each)
        for each in operands
    )
    raise kind(_Named(f"{op.name} of {listed}: {said}")) from error


_KINDS = (TypeError, IndexError, ValueError)  # NumPy's own, of other arguments, are kinds of these


class _Named(str):
    """The message of an error that names the operation, which one around it does not repeat."""

    __slots__ = ()
