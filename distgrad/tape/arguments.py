"""Check what is passed to a tape and bring results into the form that was asked for."""

from __future__ import annotations

import warnings
from enum import Enum
from typing import Any

from distgrad import tree
from distgrad.debug import user_stacklevel
from distgrad.dtypes import is_complex, is_differentiable, is_numpys_real
from distgrad.eager import as_host, asarray, beside, holds_tensors
from distgrad.errors import ShapeError, UnconnectedError
from distgrad.ops.elementwise.complex_numbers import real
from distgrad.ops.picking.gathering import Rows, gather
from distgrad.ops.shaping.structure import astype
from distgrad.sparse import IndexedSlices, made
from distgrad.tensor import Operators, Tensor
from distgrad.variable import Variable

_FROM_PYTHON = (bool, int, float, complex, list, tuple)


class UnconnectedGradients(Enum):
    """What the gradient is of a source that the target does not depend on.

    ``NONE``: None. ``ZERO``: zeros of the source's shape and dtype. ``ERROR``: an
    `UnconnectedError` that names the source.
    """

    NONE = "none"
    ZERO = "zero"
    ERROR = "error"


def unconnected_policy(given: UnconnectedGradients | str) -> UnconnectedGradients:
    """Return the policy for unconnected sources from the enum or its value."""
    try:
        return UnconnectedGradients(given)
    except ValueError:
        raise ValueError(
            f"Unknown value for unconnected_gradients: {given!r}; "
            "expected 'none', 'zero' or 'error'"
        ) from None


def unconnected(
    policy: UnconnectedGradients,
    position: int,
    source: Any,
    why: str,
    method: str = "gradient",
) -> Tensor | None:
    """Return what stands for the gradient of a source that the target does not depend on.

    Parameters
    ----------
    policy : UnconnectedGradients
        What was asked for.
    position : int
        Of the source among the sources.
    source : Tensor or Variable
        The source.
    why : str
        The explanation, for an error.
    method : str
        Who asks, for the message.

    Raises
    ------
    UnconnectedError
        If the policy is to raise.
    """
    if policy is UnconnectedGradients.NONE:
        return None
    if policy is UnconnectedGradients.ZERO:
        tensor = value_of(source)
        return Tensor(tensor.kernels.zeros_like(tensor.array), tensor.kernels)
    name = f"source {position}"
    if isinstance(source, Variable):
        name += f", variable {source.name!r}"
    raise UnconnectedError(f"{method}: {name}: {why}")


def zeros_of(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return zeros of a shape, of the dtype and on the backend of a tensor."""
    kernels = like.kernels
    return Tensor(kernels.full(shape=shape, fill_value=0, dtype=like.array.dtype), kernels)


def target_leaves(target: Any, method: str = "gradient") -> tuple[list[Any], Any]:
    """Return the targets as a flat list, and their structure."""
    if target is None:
        raise TypeError(
            "Argument `target` should be a list or nested structure of Tensors or Variables to be "
            "differentiated, but received None."
        )
    leaves, treedef = tree.flatten(target)
    for position, leaf in enumerate(leaves):
        check_leaf(method, "target", position, leaf)
    return leaves, treedef


def source_leaves(sources: Any, method: str = "gradient") -> tuple[list[Any], Any]:
    """Return the sources as a flat list, and their structure; warn of those without derivative."""
    if sources is None:
        raise TypeError(
            "Argument `sources` should be a list or nested structure of Tensors or Variables, but "
            "received None."
        )
    leaves, treedef = tree.flatten(sources)
    for position, source in enumerate(leaves):
        value = source._value if source.__class__ is Variable else source
        if value.__class__ is Tensor and is_numpys_real(value.array.dtype):
            continue  # as most are
        check_leaf(method, "source", position, source)
        if isinstance(source, IndexedSlices):
            raise TypeError(
                f"{method}: source {position} is an IndexedSlices; expected a Tensor or a "
                "Variable: differentiate with respect to its .values"
            )
        if not is_differentiable(source.dtype):
            warnings.warn(
                f"{method}: source {position} has dtype {source.dtype}; expected a floating dtype "
                "(e.g. float32): its gradient is None; convert it with astype before the tape",
                stacklevel=user_stacklevel(),
            )
    return leaves, treedef


def check_leaf(method: str, argument: str, position: int, leaf: Any) -> None:
    """Raise a `TypeError` unless a target or source is a tensor, slices or a variable."""
    if not isinstance(leaf, Operators):
        raise TypeError(
            f"{method}: {argument} {position} is a {type(leaf).__name__}; expected a Tensor or a "
            "Variable: convert it with dg.asarray and watch it before computing with it"
        )


def matching_seeds(targets: list[Any], treedef: Any, output_gradients: Any) -> list[Tensor]:
    """Return a cotangent for each target: those given, checked, or ones; of slices, for the rows.

    Raises
    ------
    ValueError
        If `output_gradients` has not the structure of the targets.
    ShapeError
        If a cotangent has not its target's shape.
    """
    given: list[Any] = [None] * len(targets)
    if output_gradients is not None:
        given = _matched(treedef, output_gradients, len(targets))
    return [
        _ones_like(target) if cotangent is None else _checked(position, target, cotangent)
        for position, (target, cotangent) in enumerate(zip(targets, given, strict=True))
    ]


def _matched(treedef: Any, output_gradients: Any, count: int) -> list[Any]:
    if count == 1 and treedef.num_nodes == 1:  # one target that is no nest
        return [output_gradients]
    try:
        given: list[Any] = treedef.flatten_up_to(output_gradients)
    except ValueError as error:
        raise ValueError(
            "gradient: output_gradients has not the structure of target: expected one cotangent "
            f"for each of {count} targets, in the same nest ({error})"
        ) from error
    return given


def _ones_like(target: Any) -> Tensor:
    tensor = target.values if isinstance(target, IndexedSlices) else value_of(target)
    return Tensor(tensor.kernels.ones_like(tensor.array), tensor.kernels)


def _checked(position: int, target: Any, cotangent: Any) -> Tensor:
    tensor = value_of(target)
    if isinstance(cotangent, Operators):
        seed = beside(value_of(cotangent), tensor)
    else:
        # In double precision until it gets the target's dtype; copied, because gradients may share
        # the memory of an array that the caller goes on to change.
        python = isinstance(cotangent, _FROM_PYTHON) and not holds_tensors(cotangent)
        given = as_host(cotangent) if python else cotangent
        seed = asarray(given, backend=tensor.kernels.backend, copy=True)
    if seed.shape != tensor.shape:
        raise ShapeError(
            f"gradient: output_gradients {position} has shape {seed.shape}, its target "
            f"{tensor.shape}; expected the same shape"
        )
    if seed.dtype != tensor.dtype:
        if is_complex(seed.dtype) and not is_complex(tensor.dtype):
            raise TypeError(
                f"gradient: output_gradients {position} is {seed.dtype}, its target "
                f"{tensor.dtype}; expected a real cotangent for a real target"
            )
        seed = astype(seed, tensor.dtype)
    return gather(seed, target.indices) if isinstance(target, IndexedSlices) else seed


def as_gradient(source: Any, cotangent: Any) -> Tensor | IndexedSlices:
    """Return a cotangent as a tensor of its source's dtype; a real source gets the real part.

    `Rows` become slices, unless dense contributions are among them.
    """
    primal = value_of(source)
    kernels = primal.kernels
    kind = cotangent.__class__
    if kind is kernels.array_type and cotangent.dtype is primal.array.dtype:
        return Tensor(cotangent, kernels)
    if cotangent.__class__ is Rows:
        recorded = isinstance(cotangent.parts[0][0], Tensor)
        xp = kernels.recorded if recorded else kernels
        if cotangent.rest is None:
            values, indices = cotangent.joined(xp)
            rows: Any = as_gradient(source, values)
            places = indices if recorded else Tensor(indices, kernels)
            return made(rows, places, cotangent.shape)
        cotangent = cotangent.dense(xp)
    if isinstance(cotangent, Tensor):
        if cotangent.dtype == primal.dtype:
            return cotangent
        if is_complex(cotangent.dtype) and not is_complex(primal.dtype):
            cotangent = real(cotangent)
        return astype(cotangent, primal.dtype)
    if cotangent.__class__ is not kernels.array_type:
        cotangent = kernels.backend.asarray(cotangent)
    if cotangent.dtype != primal.array.dtype:
        if cotangent.dtype in kernels.complex_dtypes and (
            primal.array.dtype not in kernels.complex_dtypes
        ):
            cotangent = kernels.real(cotangent)
        cotangent = kernels.astype(cotangent, dtype=primal.array.dtype)
    return Tensor(cotangent, kernels)


def value_of(holder: Any) -> Tensor:
    """Return the tensor of a tensor or variable, without the tapes hearing of a read."""
    return holder._value if isinstance(holder, Variable) else holder
