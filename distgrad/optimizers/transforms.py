"""Transforms of gradients: pure pairs of `init` and `update` that chain, and what joins them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from distgrad import tree
from distgrad.dtypes import is_differentiable, is_numpys_real
from distgrad.eager import asarray
from distgrad.errors import DTypeError, ShapeError
from distgrad.ops.creation import zeros
from distgrad.ops.elementwise.selection import where
from distgrad.ops.shaping.structure import astype
from distgrad.optimizers.clipping import clip_by_global_norm, clip_by_norm, clip_by_value
from distgrad.optimizers.description import described
from distgrad.sparse import IndexedSlices
from distgrad.tensor import Tensor


@runtime_checkable
class Transform(Protocol):
    """What turns gradients into updates, and holds nothing itself."""

    def init(self, parameters: Any) -> Any:
        """Return the state before the first step, a nest of tensors, for a nest of parameters."""
        ...

    def update(self, gradients: Any, state: Any, parameters: Any) -> tuple[Any, Any]:
        """Return the updates, which are to be added to the parameters, and the next state.

        Both nests, gradients and updates, have the structure of `parameters`, with None where there
        is no gradient.
        """
        ...


class Chain:
    """Transforms one after the other; made by `chain`."""

    def __init__(self, parts: tuple[Transform, ...]) -> None:
        self.parts = parts

    def __repr__(self) -> str:
        return f"chain({', '.join(map(described, self.parts))})"

    def init(self, parameters: Any) -> tuple[Any, ...]:
        """Return the states of the parts."""
        return tuple(part.init(parameters) for part in self.parts)

    def update(self, gradients: Any, state: Any, parameters: Any) -> tuple[Any, tuple[Any, ...]]:
        """Return what the last part makes of the gradients, and the states of all."""
        states = []
        for part, before in zip(self.parts, state, strict=True):
            gradients, after = part.update(gradients, before, parameters)
            states.append(after)
        return gradients, tuple(states)


def chain(*transforms: Transform) -> Chain:
    """Return transforms one after the other as one: each gets what the one before it returns.

    Parameters
    ----------
    *transforms : Transform or Optimizer
        The last one is an optimizer as a rule, such as `Adam`: it multiplies by the learning rate.

    Returns
    -------
    Chain
        A transform; `Optimizer` gives it a stateful face.

    Raises
    ------
    TypeError
        If one of them has no `init` and `update`.

    Examples
    --------
    >>> import distgrad as dg
    >>> from distgrad.optimizers import SGD, apply_updates, chain, clipping
    >>> transform = chain(clipping(global_norm=1.0), SGD(0.5))
    >>> x = {"w": dg.asarray([3.0, 4.0])}
    >>> updates, state = transform.update(x, transform.init(x), x)
    >>> [round(value, 3) for value in apply_updates(x, updates)["w"].tolist()]
    [2.7, 3.6]
    """
    parts: list[Transform] = []
    for given in transforms:
        if not isinstance(given, Transform):
            raise TypeError(
                f"chain: expected transforms, with init and update; got {type(given).__name__}"
            )
        inner = getattr(given, "transform", given)
        parts += inner.parts if isinstance(inner, Chain) else [inner]
    return Chain(tuple(parts))


def apply_updates(parameters: Any, updates: Any) -> Any:
    """Return parameters plus updates, in the dtypes of the parameters.

    Parameters
    ----------
    parameters : nest of Tensor, Variable or array
        Where the step starts.
    updates : nest of Tensor, IndexedSlices or None
        In the same structure; where it is None the parameter stays.

    Returns
    -------
    nest of Tensor
    """
    leaves, treedef = tree.flatten(parameters)
    changes = tree.flatten_like(treedef, updates)
    moved = []
    for x, change in zip(leaves, changes, strict=True):
        tensor = asarray(x)
        if change is not None:
            total = tensor + change
            tensor = total if total.dtype == tensor.dtype else astype(total, tensor.dtype)
        moved.append(tensor)
    return tree.unflatten(treedef, moved)


class Clipping:
    """Clipping as a transform; made by `clipping`.

    Attributes
    ----------
    norm_of : {"", "each", "all"}
        The norm of what is bounded: of no array, since elements are; of each; of all together.
    bound : float
        The largest norm, if there is one.
    """

    def __init__(
        self, words: str, clip: Callable[[Any], Any], norm_of: str = "", bound: float = np.inf
    ) -> None:
        self._words, self._clip = words, clip
        self.norm_of, self.bound = norm_of, bound

    def __repr__(self) -> str:
        return self._words

    def init(self, parameters: Any) -> tuple[()]:
        """Return nothing: clipping remembers nothing."""
        return ()

    def update(self, gradients: Any, state: Any, parameters: Any) -> tuple[Any, Any]:
        """Return the clipped gradients."""
        if not tree.flatten(gradients)[0]:
            return gradients, state
        return self._clip(gradients), state


def clipping(
    *,
    value: float | tuple[float, float] | None = None,
    norm: float | None = None,
    global_norm: float | None = None,
) -> Transform:
    """Return a transform that clips what it gets, for a `chain`.

    Parameters
    ----------
    value : float or pair of floats, optional
        The bound of the magnitude of each element, or the lowest and the highest value; see
        `clip_by_value`.
    norm : float, optional
        The largest norm of each gradient; see `clip_by_norm`.
    global_norm : float, optional
        The largest norm of all together; see `clip_by_global_norm`.

    Returns
    -------
    Transform

    Raises
    ------
    ValueError
        Unless exactly one argument is given, and it is positive.

    Notes
    -----
    In front of an optimizer it clips gradients, behind it the updates.
    """
    given = [each for each in (value, norm, global_norm) if each is not None]
    if len(given) != 1:
        raise ValueError(
            f"clipping: {len(given)} bounds given; expected one of value=, norm=, global_norm=: "
            "chain several clippings"
        )
    if value is not None:
        low, high = value if isinstance(value, tuple) else (-value, value)
        if not low < high:
            raise ValueError(f"clipping: value is {value}; expected a positive number, or a pair")
        words = f"clipping(value={value})"
        return Clipping(words, lambda gradients: clip_by_value(gradients, low, high))
    bound = given[0]
    if not isinstance(bound, (int, float)) or not bound > 0:
        raise ValueError(f"clipping: the norm is {bound}; expected a positive number")
    if norm is not None:
        words = f"clipping(norm={norm})"
        return Clipping(words, lambda gradients: clip_by_norm(gradients, bound), "each", bound)
    words = f"clipping(global_norm={global_norm})"
    return Clipping(words, lambda gradients: clip_by_global_norm(gradients, bound)[0], "all", bound)


class Accumulation:
    """Gradients averaged over steps; made by `accumulate`."""

    def __init__(self, steps: int, inner: Transform) -> None:
        self._steps, self.inner = steps, inner

    def __repr__(self) -> str:
        return f"accumulate({self._steps}, {described(self.inner)})"

    def init(self, parameters: Any) -> dict[str, Any]:
        """Return a mean of nothing, a count, and the state of what gets the mean."""
        return {
            "mean": tree.map(lambda x: _zeros_like(asarray(x)), parameters),
            "count": _zeros_like(counter(parameters)),
            "inner": self.inner.init(parameters),
        }

    def update(self, gradients: Any, state: Any, parameters: Any) -> tuple[Any, dict[str, Any]]:
        """Return the updates of the mean if it is complete, else None for each."""
        leaves, treedef = tree.flatten(parameters)
        found = checked_gradients("accumulate", treedef, gradients, leaves, tree.paths(parameters))
        means = tree.flatten(state["mean"])[0]
        share = 1.0 / self._steps
        added = [
            mean if g is None else mean + share * astype(asarray(g), mean.dtype)
            for mean, g in zip(means, found, strict=True)
        ]
        count = asarray(state["count"]) + 1
        if not count.kernels.level and int(count) < self._steps:
            kept = {"mean": tree.unflatten(treedef, added), "count": count, "inner": state["inner"]}
            return tree.unflatten(treedef, [None] * len(leaves)), kept
        updates, inner = self.inner.update(
            tree.unflatten(treedef, added), state["inner"], parameters
        )
        if not count.kernels.level:
            empty = [_zeros_like(mean) for mean in means]
            zero = _zeros_like(count)
            return updates, {
                "mean": tree.unflatten(treedef, empty),
                "count": zero,
                "inner": inner,
            }
        # A graph computes both sides: nobody knows the count before it runs.
        full = count >= self._steps

        def chosen(new: Any, old: Any) -> Any:
            return where(full, asarray(new), asarray(old))

        return tree.map(lambda u: where(full, u, _zeros_like(u)), updates), {
            "mean": tree.unflatten(treedef, [where(full, _zeros_like(m), m) for m in added]),
            "count": where(full, _zeros_like(count), count),
            "inner": tree.map(chosen, inner, state["inner"]),
        }


def accumulate(steps: int, inner: Transform) -> Transform:
    """Return a transform that averages the gradients of several steps, and then makes one update.

    Parameters
    ----------
    steps : int
        How many gradients make one update; 1 or more.
    inner : Transform or Optimizer
        What gets the average. Its own count of steps goes on with each update only.

    Returns
    -------
    Transform
        Its updates are None (in a graph: zero) while it collects. A gradient of None counts as
        zero, and `IndexedSlices` become dense.

    Raises
    ------
    ValueError
        If `steps` is less than 1.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"accumulate: steps is {steps!r}; expected a whole number, 1 or more")
    if not isinstance(inner, Transform):
        raise TypeError(
            f"accumulate: inner has no init and update; got {type(inner).__name__}: "
            "accumulate(4, Adam(1e-3))"
        )
    return Accumulation(steps, getattr(inner, "transform", inner))


# --- what all of them share ---------------------------------------------------------------------


def checked_gradients(
    function: str, treedef: Any, gradients: Any, parameters: list[Any], names: list[str]
) -> list[Any]:
    """Return the leaves of gradients, None among them; refuse what does not fit the parameters.

    Raises
    ------
    ValueError
        If the structure differs.
    ShapeError, DTypeError
        If a gradient has another shape than its parameter, or another kind of number.
    """
    try:
        found = tree.flatten_like(treedef, gradients)
    except ValueError as error:
        count = len(tree.flatten(gradients)[0])
        raise ValueError(
            f"{function}: the gradients ({count} leaves) have not the structure of the "
            f"{len(parameters)} variables ({', '.join(names[:4])}{', …' if names[4:] else ''}); "
            "pass to tape.gradient the same nest"
        ) from error
    checked: list[Any] = []
    for gradient, x, name in zip(found, parameters, names, strict=True):
        if gradient is None:
            checked.append(None)
            continue
        if gradient.__class__ is Tensor:
            array, own_array = gradient.array, getattr(x, "array", x)
            alike = array.dtype is own_array.dtype and array.shape == own_array.shape
            if alike and is_numpys_real(array.dtype):  # then there is nothing more to ask
                checked.append(gradient)
                continue
        tensor = gradient if isinstance(gradient, IndexedSlices) else asarray(gradient)
        if tuple(tensor.shape) != tuple(x.shape):
            raise ShapeError(
                f"{function}: the gradient of {name!r} has shape {tuple(tensor.shape)}, the "
                f"variable {tuple(x.shape)}; expected the same shape: are gradients and variables "
                "in the same order?"
            )
        given, own = np.dtype(tensor.dtype), np.dtype(x.dtype)
        if not is_differentiable(own):
            raise DTypeError(
                f"{function}: the variable {name!r} has dtype {own}, which has no gradients; leave "
                "it out"
            )
        if not is_differentiable(given) or (given.kind == "c" and own.kind != "c"):
            raise DTypeError(
                f"{function}: the gradient of {name!r} has dtype {given}, the variable {own}; "
                f"expected the same kind of number: convert it with .astype({own.name!r})"
            )
        checked.append(tensor)
    return checked


def counter(parameters: Any) -> Tensor:
    """Return a count of steps that stands at zero, on the backend of the parameters."""
    leaves = tree.flatten(parameters)[0]
    if not leaves:
        raise ValueError("init: there are no parameters; expected a nest with one or more")
    count = np.zeros((), np.int64)
    home = home_of(leaves[0])
    return asarray(count, backend=home)


def home_of(parameter: Any) -> Any:
    """Return the backend on which the state of a parameter lives; None for the one in force."""
    kernels = getattr(parameter, "kernels", None)
    return None if kernels is None else kernels.backend


def _zeros_like(x: Any) -> Any:
    """Return zeros of the shape, dtype and backend of a tensor that no tape follows."""
    if x.kernels.level:
        return astype(zeros(tuple(x.shape)), x.dtype)
    return asarray(np.zeros(tuple(x.shape), x.dtype), backend=x.kernels.backend)
