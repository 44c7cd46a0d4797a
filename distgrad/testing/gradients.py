"""Check derivatives against differences, along random directions and to any order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from distgrad import tree
from distgrad.dtypes import DType, is_complex, is_differentiable
from distgrad.eager import asarray
from distgrad.errors import GradientCheckError
from distgrad.ops.elementwise.arithmetic import multiply
from distgrad.ops.elementwise.complex_numbers import conj, real
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.shaping.structure import zeros_like
from distgrad.promotion import finfo
from distgrad.tape.forward import ForwardAccumulator
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tensor import Operators, Tensor

Point: TypeAlias = list[Tensor]
Scalar: TypeAlias = Callable[[Point], Tensor]  # of the differentiable arguments

_MODES = ("reverse", "forward")
_LISTED = 1000  # entries that are searched for the worst one once a check has failed


# --- tolerances: the one place where they come from -----------------------------------------------


def precision(dtype: DType) -> float:
    """Return the relative spacing of a dtype's numbers, of its parts where it is complex."""
    return finfo(dtype).eps


def rounding_tolerance(dtype: DType) -> float:
    """Return how far two ways of computing the same may differ, relative to the largest value.

    The samples add up to 60 terms, and each addition errs by at most eps/2 of what it adds to; a
    formula's other steps are few. So 64 eps.
    """
    return 64 * precision(dtype)


def half_tolerance(dtype: DType) -> float:
    """Return how far half precision may lie from single, relative to 1 and to the largest value.

    Sums are added up in single precision, so only a formula's steps round: each errs by at most
    eps/2, also of what the kernel returned, and the samples' values and directions are about 1.
    So 8 eps, of which 4 are met.
    """
    return 8 * precision(dtype)


def difference_step(dtype: DType) -> float:
    """Return the step of `difference` at which its two errors are equal.

    The formula leaves out h^4 f'''''/30 and rounds f to eps, which it divides by h; both are eps to
    the power 4/5 at h = eps^(1/5).
    """
    step: float = precision(dtype) ** 0.2
    return step


def difference_tolerance(dtype: DType) -> float:
    """Return how far a derivative may lie from its difference, relative to the terms added.

    That is eps^(4/5), see `difference_step`, times 1000 for fifth derivatives: those of log and
    tan reach some hundreds on the samples' intervals. 3e-10 in float64, 3e-3 in float32: a wrong
    rule errs by far more.
    """
    tolerance: float = 1000 * precision(dtype) ** 0.8
    return tolerance


def difference(function: Callable[[float], Any], step: float) -> Any:
    """Return the derivative of a function of one number at 0, from four of its values.

    Notes
    -----
    ``(f(-2h) - 8 f(-h) + 8 f(h) - f(2h)) / 12h``, exact for polynomials of degree 4 [1]_.

    References
    ----------
    .. [1] Abramowitz and Stegun, "Handbook of Mathematical Functions", table 25.2.
    """
    far, near = function(-2 * step) - function(2 * step), function(step) - function(-step)
    return (far + 8 * near) / (12 * step)


# --- the check -----------------------------------------------------------------------------------


def check_gradients(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int = 2,
    modes: Iterable[str] = _MODES,
    *,
    seed: int = 0,
) -> None:
    """Check the derivatives of a function against differences.

    Each order is differentiated in every combination of the modes (so for two modes and order 2:
    reverse over reverse, reverse over forward, forward over reverse, forward over forward) along
    random directions, and compared with differences of the order before.

    Parameters
    ----------
    f : callable
        ``f(*args)`` returns a tensor or a nest of tensors, computed with distgrad's operations. It
        is called many times and must return the same each time.
    args : sequence
        Nests of tensors, variables, arrays or scalars; floating and complex arrays, tensors and
        variables are differentiated, the rest is passed on as it is. Best in float64.
    order : int
        The highest order of derivative, 1 or more.
    modes : iterable of {"reverse", "forward"}
        How to differentiate: by `GradientTape`, by `ForwardAccumulator`.
    seed : int
        Of the random directions.

    Raises
    ------
    GradientCheckError
        If a derivative does not agree with the differences; the message names order, modes,
        argument and the entry that is worst.
    ValueError
        If `order` or `modes` is none of the above, or nothing can be differentiated.
    TypeError
        If `args` is no tuple or list, or `f` returns anything but tensors.

    Notes
    -----
    The function must be differentiable around its arguments: at kinks, differences mix both sides.
    Random projections find any wrong entry with probability 1 at the cost of a few evaluations; the
    single entries are compared only once they have failed.

    Examples
    --------
    >>> import distgrad as dg
    >>> check_gradients(lambda x: dg.sum(x**3), [dg.asarray([1.0, 2.0], dtype="float64")])
    """
    chosen = _checked_modes(modes)
    if not isinstance(args, (tuple, list)):
        raise TypeError(
            f"check_gradients: args is a {type(args).__name__}; expected a tuple or list with one "
            "for each argument of the function, such as (x,)"
        )
    if order < 1:
        raise ValueError(f"check_gradients: order is {order}; expected 1 or more")
    leaves, treedef = tree.flatten(list(args))
    places = [place for place, leaf in enumerate(leaves) if _is_floating(leaf)]
    if not places:
        raise ValueError(
            "check_gradients: args hold no floating array, tensor or variable; "
            "expected at least one to differentiate with respect to"
        )
    point = [asarray(leaves[place]) for place in places]
    random = np.random.default_rng(seed)

    def call(inputs: Point) -> Any:
        filled = list(leaves)
        for place, tensor in zip(places, inputs, strict=True):
            filled[place] = tensor
        return f(*tree.unflatten(treedef, filled))

    scalar = _projection(call, point, random)
    paths = tree.paths(list(args))
    names = [f"argument {paths[place]}" for place in places]
    directions = [[_random_like(x, random) for x in point] for _ in range(order)]
    for count in range(1, order + 1):
        paths_of_modes = list(product(chosen, repeat=count))
        for position, name in enumerate(names):
            _check_argument(scalar, point, directions[:count], position, paths_of_modes, name)


def _checked_modes(modes: Iterable[str]) -> tuple[str, ...]:
    chosen = (modes,) if isinstance(modes, str) else tuple(modes)
    unknown = [mode for mode in chosen if mode not in _MODES]
    if unknown or not chosen:
        raise ValueError(
            f"check_gradients: modes is {chosen}; expected one or both of 'reverse' and 'forward'"
        )
    return chosen


def _is_floating(leaf: Any) -> bool:
    if not isinstance(leaf, (Operators, np.ndarray)):
        return False
    return is_differentiable(leaf.dtype)


def _projection(call: Callable[[Point], Any], point: Point, random: np.random.Generator) -> Scalar:
    """Return the function's outputs, multiplied by random weights and added up."""
    outputs = _floating_outputs(call(point))
    weights = [_random_like(output, random) for output in outputs]

    def scalar(inputs: Point) -> Tensor:
        return _inner(weights, _floating_outputs(call(inputs)))

    return scalar


def _floating_outputs(nest: Any) -> list[Tensor]:
    outputs = tree.flatten(nest)[0]
    for output in outputs:
        if not isinstance(output, Operators):
            raise TypeError(
                f"check_gradients: f returned a {type(output).__name__}; expected Tensors, "
                "computed with distgrad's operations"
            )
    floating = [output.read() for output in outputs if is_differentiable(output.dtype)]
    if not floating:
        raise TypeError("check_gradients: f returned no floating Tensor; expected at least one")
    return floating


def _random_like(tensor: Tensor, random: np.random.Generator) -> Tensor:
    """Return a direction of length 1 at most: a step along it is no longer than is said."""
    direction = random.uniform(-1, 1, tensor.shape)
    if is_complex(tensor.dtype):
        direction = direction + 1j * random.uniform(-1, 1, tensor.shape)
    direction = direction / max(1.0, float(np.linalg.norm(direction.ravel())))
    return asarray(direction, dtype=tensor.dtype, backend=tensor.backend)


def _inner(weights: Sequence[Any], tensors: Sequence[Any]) -> Tensor:
    """Return the real inner product, Re sum(conj(w) t): how the gradient is defined."""
    terms = [
        sum_over(real(multiply(conj(weight), tensor)))
        for weight, tensor in zip(weights, tensors, strict=True)
    ]
    total: Tensor = sum(terms[1:], start=terms[0])
    return total


def _derivative(modes: Sequence[str], scalar: Scalar, directions: Sequence[Point]) -> Scalar:
    """Return the derivative of a scalar along directions, by the first mode, the second, ..."""
    for mode, direction in zip(modes, directions, strict=True):
        scalar = (_by_reverse if mode == "reverse" else _by_forward)(scalar, direction)
    return scalar


def _by_reverse(scalar: Scalar, direction: Point) -> Scalar:
    def derivative(point: Point) -> Tensor:
        with GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(point)
            value = scalar(point)
        gradients = tape.gradient(value, point, unconnected_gradients="zero")
        for x, gradient in zip(point, gradients, strict=True):
            if (gradient.shape, gradient.dtype) != (x.shape, x.dtype):
                raise GradientCheckError(
                    f"reverse: the gradient of an argument {x.dtype}{x.shape} is "
                    f"{gradient.dtype}{gradient.shape}; expected the same shape and dtype"
                )
        return _inner(direction, gradients)

    return derivative


def _by_forward(scalar: Scalar, direction: Point) -> Scalar:
    def derivative(point: Point) -> Tensor:
        with ForwardAccumulator(point, direction) as accumulator:
            value = scalar(point)
        tangent: Tensor = accumulator.jvp(value, unconnected_gradients="zero")
        return tangent

    return derivative


def _check_argument(
    scalar: Scalar,
    point: Point,
    directions: Sequence[Point],
    position: int,
    paths: Sequence[tuple[str, ...]],
    name: str,
) -> None:
    """Compare the derivatives in one argument, by every path of modes, with one difference.

    Raises
    ------
    GradientCheckError
        If they do not agree.
    """
    *below, last = directions
    along = [zeros_like(x) for x in point]
    along[position] = last[position]
    # Whatever is computed from a narrow argument is no more precise than that.
    dtype = max((x.dtype for x in point), key=precision)
    lower = _derivative(paths[0][:-1], scalar, below)
    expected = _by_differences(lower, point, along, dtype) if point[position].size else 0.0
    # A difference errs in proportion to the values that it is computed from.
    allowed = difference_tolerance(dtype) * max(1.0, abs(expected), abs(float(lower(point))))
    for path in paths:
        given = float(_derivative(path, scalar, [*below, along])(point))
        if not abs(given - expected) <= allowed and point[position].size:  # NaN fails too
            raise GradientCheckError(
                f"order {len(path)}, {' over '.join(reversed(path))}: {name}: "
                f"{_worst(scalar, point, below, position, path, dtype)}; along a random direction "
                f"the derivative is {given:.9g}, by differences {expected:.9g}"
            )


def _by_differences(scalar: Scalar, point: Point, direction: Point, dtype: DType) -> float:
    def moved(by: float) -> float:
        return float(scalar([x + v * by for x, v in zip(point, direction, strict=True)]))

    return float(difference(moved, difference_step(dtype)))


def _worst(
    scalar: Scalar,
    point: Point,
    below: Sequence[Point],
    position: int,
    path: tuple[str, ...],
    dtype: DType,
) -> str:
    """Say in which entry of one argument the derivative is farthest from its difference."""
    own = point[position]
    parts = (("", 1), (", imaginary part", 1j)) if is_complex(own.dtype) else (("", 1),)
    lower = _derivative(path[:-1], scalar, below)
    found = (-1.0, "")
    for flat in range(0, own.size, -(-own.size // _LISTED)):
        entry = tuple(int(i) for i in np.unravel_index(flat, own.shape))
        for part, one in parts:
            unit = np.zeros(own.shape, own.dtype)
            unit[entry] = one
            along = [zeros_like(x) for x in point]
            along[position] = asarray(unit, backend=own.backend)
            given = float(_derivative(path, scalar, [*below, along])(point))
            expected = _by_differences(lower, point, along, dtype)
            error = abs(given - expected)
            error = float("inf") if np.isnan(error) else error
            if error > found[0]:
                text = f"the derivative is {given:.9g}, by differences {expected:.9g}"
                found = (error, f"worst at entry {entry}{part}: {text}")
    return found[1]
