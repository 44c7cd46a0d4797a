"""Connectionist temporal classification: the loss of labels whose places in time are not known."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Slice, Spec
from distgrad.core.seam import apply
from distgrad.dtypes import as_dtype, float32, int64, is_differentiable
from distgrad.errors import DTypeError, ShapeError
from distgrad.ops.creation import full_like
from distgrad.ops.neural.softmax import log_softmax
from distgrad.ops.picking.along import lines_index
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.rules import batching
from distgrad.ops.rules.dual import derivative
from distgrad.ops.rules.families import sum_of
from distgrad.ops.shaping.structure import astype, permute_dims, zeros_like

# The logarithm of what cannot be: finite, so that no difference of two of them is NaN, and so low
# that no sequence of possible steps comes near it.
_NEVER = -1e30

_ALL = Slice(None, None, None)


class _Paths(NamedTuple):
    """The states that paths go through: the labels with a blank before, between and after them."""

    states: Array  # (B, S): the class of each state
    skips: Array  # (B, S): whether a path may come from two states before
    place: Array  # (S,): 0, 1, 2, ...
    length: Array  # (B, 1): how many states each example has
    running: Array  # (B, T): which steps each example has
    steps: Array  # (B, 1): how many


def _spec(
    log_probabilities: Spec, labels: Spec, steps: Spec, label_lengths: Spec, *, blank: int
) -> Spec:
    shape = tuple(log_probabilities.shape)
    lead = shape[:-2]
    if len(shape) < 2 or 0 in shape[-2:]:
        raise ShapeError(
            f"ctc_loss: logits (..., steps, classes) of one or more steps and classes expected, "
            f"got shape {shape}"
        )
    dtype = as_dtype(log_probabilities.dtype)
    if not is_differentiable(dtype) or dtype.kind == "c":
        raise DTypeError(f"ctc_loss: logits are {dtype}; expected real floating numbers")
    if tuple(labels.shape)[:-1] != lead or len(labels.shape) != len(lead) + 1:
        raise ShapeError(
            f"ctc_loss: labels of shape {(*lead, 'length')} expected for logits of shape {shape}, "
            f"got {tuple(labels.shape)}; pad them to one length, and give label_lengths="
        )
    for name, given in (("logit_lengths", steps), ("label_lengths", label_lengths)):
        if tuple(given.shape) != lead:
            raise ShapeError(
                f"ctc_loss: {name} of shape {lead} expected for logits of shape {shape}, got "
                f"{tuple(given.shape)}"
            )
    if not 0 <= blank < shape[-1]:
        raise ValueError(
            f"ctc_loss: blank is {blank}; expected a class, 0 to {shape[-1] - 1} for logits of "
            f"shape {shape}"
        )
    return Spec(lead, dtype)


# --- the composition: all examples side by side, one step at a time -------------------------------


def _flat(
    xp: Namespace, scores: Array, labels: Array, steps: Array, lengths: Array
) -> tuple[Array, Array, Array, Array]:
    """Return the operands with one leading axis, in dtypes to compute in."""
    shape = tuple(scores.shape)
    size = prod(shape[:-2])
    if as_dtype(scores.dtype).itemsize < float32.itemsize:
        scores = xp.astype(scores, dtype=float32)
    return (
        xp.reshape(scores, shape=(size, *shape[-2:])),
        xp.reshape(xp.astype(labels, dtype=int64), shape=(size, labels.shape[-1])),
        # More steps than there are: all of them.
        xp.minimum(xp.reshape(xp.astype(steps, dtype=int64), shape=(size, 1)), shape[-2]),
        xp.minimum(xp.reshape(xp.astype(lengths, dtype=int64), shape=(size, 1)), labels.shape[-1]),
    )


def _paths(
    xp: Namespace, labels: Array, steps: Array, lengths: Array, count: int, blank: int
) -> _Paths:
    size, width = labels.shape
    blanks = xp.zeros_like(lengths) + blank
    if width:
        place = xp.arange(start=0, stop=width, step=1, dtype=int64)
        own = xp.where(place < lengths, labels, blank)  # what stands behind the end may be anything
        pairs = xp.concat(
            xp.expand_dims(xp.zeros_like(own) + blank, axis=-1),
            xp.expand_dims(own, axis=-1),
            axis=-1,
        )
        states = xp.concat(xp.reshape(pairs, shape=(size, 2 * width)), blanks, axis=-1)
    else:
        states = blanks
    time = xp.arange(start=0, stop=count, step=1, dtype=int64)
    place = xp.arange(start=0, stop=2 * width + 1, step=1, dtype=int64)
    return _Paths(states, _skips(xp, states, blank), place, 2 * lengths + 1, time < steps, steps)


def _skips(xp: Namespace, states: Array, blank: int) -> Array:
    """Return whether a path may come to each state from two before: equal labels need a blank."""
    if states.shape[1] < 3:
        return xp.not_equal(states, states)
    first = xp.getitem(states, index=(_ALL, Slice(None, 2, None)))
    never = xp.not_equal(first, first)
    later = xp.getitem(states, index=(_ALL, Slice(2, None, None)))
    earlier = xp.getitem(states, index=(_ALL, Slice(None, -2, None)))
    over = xp.logical_and(xp.not_equal(later, blank), xp.not_equal(later, earlier))
    return xp.concat(never, over, axis=-1)


def _emitted(xp: Namespace, scores: Array, paths: _Paths) -> Array:
    """Return the log-probability of each state's class at each step, (B, T, S)."""
    picked = xp.take_along_axis(scores, xp.expand_dims(paths.states, axis=1), axis=2)
    return xp.maximum(picked, _NEVER)


def _shifted(xp: Namespace, x: Array, by: int) -> Array:
    """Return (B, S) moved to later states, with what cannot be in front."""
    width = x.shape[1]
    if by >= width:
        return xp.zeros_like(x) + _NEVER
    front = xp.zeros_like(xp.getitem(x, index=(_ALL, Slice(None, by, None)))) + _NEVER
    return xp.concat(front, xp.getitem(x, index=(_ALL, Slice(None, width - by, None))), axis=1)


def _walk(
    xp: Namespace, emitted: Array, skips: Array, running: Array, place: Array
) -> tuple[list[Array], Array]:
    """Walk forward through time.

    Returns
    -------
    list of array, each of shape (B, S)
        After each step the logarithm of the probability of being in each state, given that one is
        in any: what has been passed stays small in size, and so precise.
    array, shape (B, 1)
        The logarithm of the probability that was divided by.
    """
    first = xp.getitem(emitted, index=(_ALL, 0))
    here = xp.where(xp.equal(place, 0), xp.zeros_like(first), _NEVER)
    total = xp.zeros_like(xp.getitem(here, index=(_ALL, Slice(None, 1, None))))
    history = []
    for t in range(emitted.shape[1]):
        ways = (here, _shifted(xp, here, 1), xp.where(skips, _shifted(xp, here, 2), _NEVER))
        joined = xp.concat(*(xp.expand_dims(way, axis=0) for way in ways), axis=0)
        there = xp.logsumexp(joined, axis=0) + xp.getitem(emitted, index=(_ALL, t))
        norm = xp.logsumexp(there, axis=-1, keepdims=True)
        goes_on = xp.getitem(running, index=(_ALL, Slice(t, t + 1, None)))
        here = xp.where(goes_on, there - norm, here)
        total = xp.where(goes_on, total + norm, total)
        history.append(here)
    return history, total


def _log_likelihood(xp: Namespace, last: Array, total: Array, paths: _Paths) -> Array:
    """Return the logarithm of the probability of having arrived at one of the last two states."""
    ends = xp.logical_and(paths.place >= paths.length - 2, paths.place < paths.length)
    return total + xp.logsumexp(xp.where(ends, last, _NEVER), axis=-1, keepdims=True)


def _compose(
    xp: Namespace, scores: Array, labels: Array, steps: Array, lengths: Array, *, blank: int
) -> Array:
    shape, dtype = tuple(scores.shape), scores.dtype
    flat, labels, steps, lengths = _flat(xp, scores, labels, steps, lengths)
    paths = _paths(xp, labels, steps, lengths, shape[-2], blank)
    emitted = _emitted(xp, flat, paths)
    history, total = _walk(xp, emitted, paths.skips, paths.running, paths.place)
    found = _log_likelihood(xp, history[-1], total, paths)
    loss = xp.where(found > _NEVER / 2, -found, np.inf)
    return xp.astype(xp.reshape(loss, shape=shape[:-2]), dtype=dtype)


def _slope(
    xp: Namespace, scores: Array, labels: Array, steps: Array, lengths: Array, *, blank: int
) -> Array:
    """Return the derivative of the loss in the log-probabilities.

    That is minus the probability of being in a state of a class at a step, given the labels; with
    beta the walk from the end, it is the softmax of alpha + beta over the states of a step.
    """
    shape, dtype = tuple(scores.shape), scores.dtype
    count, classes = shape[-2:]
    flat, labels, steps, lengths = _flat(xp, scores, labels, steps, lengths)
    paths = _paths(xp, labels, steps, lengths, count, blank)
    emitted = _emitted(xp, flat, paths)
    # From the end: each example's own last step and last state come first. Both walks at once.
    time = xp.arange(start=0, stop=count, step=1, dtype=int64)
    times = xp.expand_dims(xp.maximum(paths.steps - 1 - time, 0), axis=-1)
    places = xp.maximum(paths.length - 1 - paths.place, 0)
    across = xp.expand_dims(places, axis=1)

    def turned(x: Array) -> Array:
        return xp.take_along_axis(xp.take_along_axis(x, times, axis=1), across, axis=2)

    backwards = _skips(xp, xp.take_along_axis(paths.states, places, axis=1), blank)
    history, total = _walk(
        xp,
        xp.concat(emitted, turned(emitted), axis=0),
        xp.concat(paths.skips, backwards, axis=0),
        xp.concat(paths.running, paths.running, axis=0),
        paths.place,
    )
    size = flat.shape[0]
    walks = xp.concat(*(xp.expand_dims(each, axis=1) for each in history), axis=1)
    alpha = xp.getitem(walks, index=(Slice(None, size, None),))
    beta = turned(xp.getitem(walks, index=(Slice(size, None, None),)))
    inside = xp.expand_dims(paths.place < paths.length, axis=1)
    posterior = xp.softmax(xp.where(inside, alpha + beta - emitted, _NEVER), axis=-1)

    last = xp.getitem(history[-1], index=(Slice(None, size, None),))
    found = _log_likelihood(xp, last, xp.getitem(total, index=(Slice(None, size, None),)), paths)
    counts = xp.logical_and(paths.running, found > _NEVER / 2)
    posterior = xp.where(xp.expand_dims(counts, axis=-1), posterior, 0)
    # A product with one-hot rows would take states times classes for each example.
    states = xp.broadcast_to(
        xp.expand_dims(paths.states, axis=1), shape=(size, count, paths.states.shape[1])
    )
    grids, index = lines_index(xp, states, 2)
    slope = -xp.scatter_add(posterior, *grids, index=index, shape=(size, count, classes))
    return xp.astype(xp.reshape(slope, shape=shape), dtype=dtype)


# --- the operations -------------------------------------------------------------------------------


def _scaled(xp: Namespace, g: Array, slope: Array) -> Array:
    return xp.expand_dims(xp.expand_dims(g, axis=-1), axis=-1) * slope


def _vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    return xp.ctc_vjp(g, *xs, **params), None, None, None


def _jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    slope = xp.ctc_vjp(xp.ones_like(y), *xs, **params)
    return xp.sum(tangents[0] * slope, axis=(-2, -1))


CTC = Op("ctc", Kind.OPAQUE, _spec, _vjp, _jvp, Keep.INPUTS, _compose, batching.trailing("ctc"))


def _pull_spec(g: Spec, *rest: Spec, blank: int) -> Spec:
    _spec(*rest, blank=blank)
    return Spec(tuple(rest[0].shape), as_dtype(rest[0].dtype))


def _pull_compose(xp: Namespace, g: Array, scores: Array, *rest: Array, blank: int) -> Array:
    return xp.astype(_scaled(xp, g, _slope(xp, scores, *rest, blank=blank)), dtype=scores.dtype)


def _curved(xp: Namespace, xs: Any, along: Array, params: Any) -> Array:
    """Return the derivative of the pullback along a direction of the log-probabilities."""
    return derivative(_pull_compose, xp, xs, (None, along, None, None, None), params)


def _pull_vjp(xp: Namespace, a: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    to_g = to_scores = None
    if needs[0]:
        slope = xp.ctc_vjp(xp.ones_like(xs[0]), *xs[1:], **params)
        to_g = xp.sum(a * slope, axis=(-2, -1))
    if needs[1]:  # the Hessian of each example's loss is symmetric
        to_scores = _curved(xp, xs, a, params)
    return to_g, to_scores, None, None, None


def _pull_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    along_g, along_scores = tangents[:2]
    terms = []
    if along_g is not None:
        terms.append(xp.ctc_vjp(along_g, *xs[1:], **params))
    if along_scores is not None:
        terms.append(_curved(xp, xs, along_scores, params))
    return sum_of(terms)


CTC_VJP = Op(
    "ctc_vjp",
    Kind.OPAQUE,
    _pull_spec,
    _pull_vjp,
    _pull_jvp,
    Keep.INPUTS,
    _pull_compose,
    batching.trailing("ctc_vjp"),
)


def ctc_loss(
    *,
    labels: Any,
    logits: Any,
    label_lengths: Any = None,
    logit_lengths: Any = None,
    blank: int = 0,
    time_major: bool = False,
) -> Any:
    """Return minus the log-probability of label sequences under any alignment in time.

    Parameters
    ----------
    labels : Tensor or array of int, shape (B, L)
        The classes of each example, in order, without blanks; padded to one length by anything.
    logits : Tensor, Variable or array, shape (B, T, C), or (T, B, C) with `time_major`
        Unnormalised log-probabilities of each class at each step, real floating. Log-probabilities
        may stand here as well: their softmax is what they are of.
    label_lengths : Tensor or array of int, shape (B,), optional
        How many labels each example has; all of them by default. 0 means nothing but blanks.
    logit_lengths : Tensor or array of int, shape (B,), optional
        How many steps each example has; all of them by default.
    blank : int
        The class of the blank: 0 in PyTorch, and in TensorFlow for dense labels.
    time_major : bool
        Whether the first axis of `logits` is time.

    Returns
    -------
    Tensor, shape (B,)
        In nats. Infinite where no alignment exists, as where there are more labels than steps; the
        gradient is 0 there. ``dg.where(dg.isfinite(loss), loss, 0)`` leaves such examples out.

    Raises
    ------
    ShapeError
        If shapes do not fit.
    DTypeError
        If labels or lengths are no integers, or logits are not real floating.
    ValueError
        If `blank` is no class; on the CPU also if a length is negative or beyond its axis, or if
        labels are the blank.
    IndexError
        If a label is no class, on the CPU.

    Notes
    -----
    A path names one class at each step; its labels are what is left if repeats are merged and then
    blanks are left out. The loss is minus the logarithm of the sum of all paths' probabilities, by
    the recursion over the labels l' with a blank before, between and after them,
    ``alpha_t(s) = (alpha_{t-1}(s) + alpha_{t-1}(s-1) [+ alpha_{t-1}(s-2)]) p_t(l'_s)``, in which
    the last term is there if l'_s is no blank and not l'_{s-2} [1]_. It runs on logarithms, brought
    to sum 1 at each step; the gradient, ``softmax(logits) - posterior``, takes the posterior as a
    softmax over states, so that it is precise for sequences of any length.

    References
    ----------
    .. [1] Graves, Fernández, Gomez and Schmidhuber, "Connectionist temporal classification:
       labelling unsegmented sequence data with recurrent neural networks", ICML 2006, section 4.

    Examples
    --------
    >>> import distgrad as dg
    >>> logits = dg.zeros((1, 3, 4))
    >>> loss = dg.nn.ctc_loss(labels=[[2, 3]], logits=logits)  # 5 of 64 paths
    >>> print(f"{dg.exp(-loss)[0] * 64:.3f}")
    5.000
    """
    scores = log_softmax(logits, axis=-1)
    if time_major:
        if len(scores.shape) != 3:
            raise ShapeError(
                f"ctc_loss: logits of shape {tuple(scores.shape)}; expected (steps, batch, classes)"
            )
        scores = permute_dims(scores, (1, 0, 2))
    labels = _as_integers("labels", labels)
    if label_lengths is None or logit_lengths is None:
        # Beside the logits, wherever those are.
        each = astype(zeros_like(sum_over(scores, axis=(-2, -1))), int64)
        if label_lengths is None:
            label_lengths = full_like(each, np.shape(labels)[-1])
        if logit_lengths is None:
            logit_lengths = full_like(each, scores.shape[-2])
    steps = _as_integers("logit_lengths", logit_lengths)
    lengths = _as_integers("label_lengths", label_lengths)
    return apply(CTC, scores, labels, steps, lengths, blank=int(blank))


def _as_integers(name: str, given: Any) -> Any:
    array = given if hasattr(given, "dtype") else np.asarray(given)
    if as_dtype(array.dtype).kind in "iu":
        return array
    if array.shape[-1:] == (0,):  # of an empty list NumPy makes floating numbers
        return np.zeros(array.shape, np.int64)
    raise DTypeError(f"ctc_loss: {name} are {array.dtype}; expected integers")


OPS = (CTC, CTC_VJP)
