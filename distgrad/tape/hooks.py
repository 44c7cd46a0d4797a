"""gradient_hook: look at a cotangent on its way back, or put another in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from distgrad.dtypes import DType, is_complex, is_differentiable
from distgrad.eager import asarray, beside
from distgrad.errors import DTypeError, ShapeError
from distgrad.ops.elementwise.complex_numbers import real
from distgrad.ops.shaping.structure import astype
from distgrad.tape.calls import Rules, announce
from distgrad.tensor import Operators, Tensor


def gradient_hook(x: Any, hook: Callable[[Tensor], Any]) -> Tensor:
    """Return the same values, whose cotangent passes through a function on its way back.

    Parameters
    ----------
    x : Tensor, Variable, array or scalar
        The values; they are not copied. Compute with what is returned: the hook sees the cotangent
        of that, and not of `x` itself.
    hook : callable
        ``hook(cotangent)`` returns a cotangent of the same shape and dtype to go on with, or None
        to leave it as it is. It receives the sum of what all uses of the result give, of the shape
        and dtype of `x`, and is not called where that is nothing.

    Returns
    -------
    Tensor
        Of an identity of its own.

    Raises
    ------
    TypeError
        If `hook` cannot be called.
    ShapeError, DTypeError
        In the backward pass, if the hook returns another shape or dtype.

    Notes
    -----
    The hook is part of the derivative: higher orders differentiate what it computes. Forward mode
    passes by, with the tangent of `x`. Under `vmap` the hook sees the cotangent of one example. In
    `distgrad.function` it is traced once with the backward graph, so that what else it does, such
    as printing, happens then and not at each step. A persistent tape, and higher orders, may call
    it more than once for one gradient. PyTorch's counterpart is ``Tensor.register_hook``.

    Examples
    --------
    >>> import distgrad as dg
    >>> x = dg.Variable([3.0, 4.0])
    >>> with dg.GradientTape() as tape:
    ...     y = dg.gradient_hook(x * x, lambda g: dg.clip(g, -1.0, 1.0))
    ...     z = dg.sum(10.0 * y)
    >>> tape.gradient(z, x).tolist()
    [6.0, 8.0]
    """
    if not callable(hook):
        raise TypeError(
            f"gradient_hook: hook is a {type(hook).__name__}; expected a function of a cotangent"
        )
    tensor = x.read() if isinstance(x, Operators) else asarray(x)
    if not is_differentiable(tensor.dtype):
        raise DTypeError(
            f"gradient_hook: x has dtype {tensor.dtype}, which has no gradient; expected a "
            "floating dtype"
        )
    pull = partial(_through, hook, tensor.dtype)
    rules = Rules("gradient_hook", pull, _unchanged, reads=False, functions=(hook,))
    return announce(rules, [tensor], [tensor])[0]


def _through(
    hook: Callable[[Tensor], Any],
    dtype: DType,
    primals: list[Any],
    cotangents: list[Any],
    needs: Sequence[Any],
) -> list[Any]:
    """Return the cotangent that the hook gives, checked."""
    cotangent = cotangents[0]
    if cotangent.dtype != dtype:  # wider, from a computation in mixed precision
        if is_complex(cotangent.dtype) and not is_complex(dtype):
            cotangent = real(cotangent)
        cotangent = astype(cotangent, dtype)
    given = hook(cotangent)
    if given is None:
        return [cotangent]
    found = beside(given, cotangent)
    if found.shape != cotangent.shape:
        raise ShapeError(
            f"gradient_hook: the hook returned shape {found.shape} for a cotangent of shape "
            f"{cotangent.shape}; expected the same shape, or None to leave it as it is"
        )
    if found.dtype != cotangent.dtype:
        raise DTypeError(
            f"gradient_hook: the hook returned {found.dtype} for a cotangent of {cotangent.dtype}; "
            "expected the same dtype: convert it with astype"
        )
    return [found]


def _unchanged(primals: list[Any], tangents: list[Any]) -> list[Any]:
    return tangents
