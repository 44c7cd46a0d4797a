"""Alignments of labels in time, composed of other operations: their likelihood and its slope.

All examples are side by side, one step of time after the other. Logarithms are brought to sum 1 at
each step, so that what has been passed stays precise.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from distgrad.core.op import Array, Namespace, Slice
from distgrad.dtypes import as_dtype, float32, int64
from distgrad.ops.picking.along import lines_index

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


def loss_composed(
    xp: Namespace, scores: Array, labels: Array, steps: Array, lengths: Array, *, blank: int
) -> Array:
    """Return the loss of log-probabilities, see `distgrad.nn.ctc_loss`."""
    shape, dtype = tuple(scores.shape), scores.dtype
    flat, labels, steps, lengths = _flat(xp, scores, labels, steps, lengths)
    paths = _paths(xp, labels, steps, lengths, shape[-2], blank)
    emitted = _emitted(xp, flat, paths)
    history, total = _walk(xp, emitted, paths.skips, paths.running, paths.place)
    found = _log_likelihood(xp, history[-1], total, paths)
    loss = xp.where(found > _NEVER / 2, -found, np.inf)
    return xp.astype(xp.reshape(loss, shape=shape[:-2]), dtype=dtype)


def slope_composed(
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
