"""Connectionist temporal classification: both walks through time at once, in arrays that stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from distgrad.errors import PositionError

Array = np.ndarray[Any, Any]

# As in the composition: the logarithm of what cannot be, so that no difference is NaN.
_NEVER = -1e30


class _Problem(NamedTuple):
    """The operands with one leading axis, and the states: labels with blanks between them."""

    scores: Array  # (B, T, C)
    states: Array  # (B, S)
    ends: Array  # (B,): how many states there are
    steps: Array  # (B,)
    blank: int


def _problem(scores: Array, labels: Array, steps: Array, lengths: Array, blank: int) -> _Problem:
    count, classes = scores.shape[-2:]
    flat = scores.reshape(-1, count, classes)
    flat = flat.astype(np.float32) if flat.dtype.itemsize < 4 else flat
    size, width = flat.shape[0], labels.shape[-1]
    rows = labels.reshape(size, width)
    steps, lengths = steps.reshape(size).astype(np.int64), lengths.reshape(size).astype(np.int64)
    states = np.full((size, 2 * width + 1), blank, np.int64)
    inside = np.arange(width) < lengths[:, None]
    states[:, 1::2] = np.where(inside, rows, blank)
    return _Problem(flat, states, 2 * lengths + 1, steps, blank)


def _check(scores: Array, labels: Array, steps: Array, lengths: Array, blank: int) -> None:
    """Raise for what a walk would take for something else."""
    count, classes = scores.shape[-2:]
    bounded = (("logit_lengths", steps, count), ("label_lengths", lengths, labels.shape[-1]))
    for name, given, most in bounded:
        if given.size and not (given.min() >= 0 and given.max() <= most):
            wrong = given[(given < 0) | (given > most)].ravel()[0]
            raise ValueError(f"ctc_loss: {name} has {wrong}; expected 0 to {most}")
    named = labels[np.arange(labels.shape[-1]) < lengths[..., None]]
    if not named.size:
        return
    if not (named.min() >= 0 and named.max() < classes):
        wrong = named[(named < 0) | (named >= classes)][0]
        raise PositionError(
            f"ctc_loss: label {wrong} is no class; expected 0 to {classes - 1}; give "
            "label_lengths= if it is padding"
        )
    if (named == blank).any():
        raise ValueError(
            f"ctc_loss: a label is {blank}, which is the blank; expected other classes; give "
            "label_lengths= if it is padding, or blank="
        )


def _emitted(problem: _Problem) -> Array:
    """Return the log-probability of each state's class at each step, (T, B, S)."""
    picked = np.take_along_axis(problem.scores, problem.states[:, None, :], axis=2)
    bounded: Array = np.maximum(picked.transpose(1, 0, 2), _NEVER)
    return bounded


def _walk(
    emitted: Array, states: Array, running: Array, blank: int, kept: bool
) -> tuple[Array, Array]:
    """Walk through time.

    Parameters
    ----------
    emitted : array, shape (T, R, S)
        Log-probabilities.
    states : array of int, shape (R, S)
        The class of each state.
    running : array of bool, shape (T, R, 1)
        Which rows have the step.
    blank : int
        The class of the blank.
    kept : bool
        Whether to keep all steps.

    Returns
    -------
    array, shape (T, R, S), or (1, R, S)
        The logarithm of the probability of being in each state after each step, or after the
        last, over that of the likeliest one.
    array, shape (R,)
        The logarithm of what was divided by.
    """
    count, rows, width = emitted.shape
    dtype = emitted.dtype
    # Two states that cannot be stand in front, so that moving by one or two is a view.
    history = np.full((count + 1 if kept else 2, rows, width + 2), _NEVER, dtype)
    history[0, :, 2] = 0
    penalty = np.full((rows, width), _NEVER, dtype)
    over = (states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2])
    penalty[:, 2:][over] = 0
    total = np.zeros((rows, 1), dtype)
    top, second, third = (np.empty((rows, width), dtype) for _ in range(3))
    everyone: Any = running.all(axis=(1, 2))
    for t in range(count):
        before, after = (history[t], history[t + 1]) if kept else history[:: 1 - 2 * (t % 2)]
        here, there = before[:, 2:], after[:, 2:]
        np.add(before[:, :-2], penalty, out=third)
        np.maximum(here, before[:, 1:-1], out=top)
        np.maximum(top, third, out=top)
        np.subtract(here, top, out=there)
        np.exp(there, out=there)
        np.subtract(before[:, 1:-1], top, out=second)
        there += np.exp(second, out=second)
        third -= top
        there += np.exp(third, out=third)
        np.log(there, out=there)
        there += top
        there += emitted[t]
        norm = there.max(axis=1, keepdims=True)
        there -= norm
        if everyone[t]:
            total += norm
        else:
            np.copyto(there, here, where=~running[t])
            total += np.where(running[t], norm, 0)
    result = history[1:] if kept else history[count % 2][None]
    return result[..., 2:], total[:, 0]


def _log_likelihood(problem: _Problem, last: Array, total: Array) -> Array:
    place, ends = np.arange(last.shape[1]), problem.ends[:, None]
    arrived = np.where((place >= ends - 2) & (place < ends), last, _NEVER)
    top = arrived.max(axis=1)
    found: Array = total + top + np.log(np.exp(arrived - top[:, None]).sum(axis=1))
    return found


def _running(problem: _Problem) -> Array:
    running: Array = np.arange(problem.scores.shape[1])[:, None] < problem.steps
    return running[..., None]


def _ctc(scores: Array, labels: Array, steps: Array, lengths: Array, *, blank: int) -> Array:
    _check(scores, labels, steps, lengths, blank)
    problem = _problem(scores, labels, steps, lengths, blank)
    emitted, running = _emitted(problem), _running(problem)
    history, total = _walk(emitted, problem.states, running, blank, kept=False)
    found = _log_likelihood(problem, history[-1], total)
    loss = np.where(found > _NEVER / 2, -found, np.inf)
    return loss.astype(scores.dtype).reshape(scores.shape[:-2])


def _ctc_vjp(
    g: Array, scores: Array, labels: Array, steps: Array, lengths: Array, *, blank: int
) -> Array:
    problem = _problem(scores, labels, steps, lengths, blank)
    size, count, _ = problem.scores.shape
    width = problem.states.shape[1]
    emitted, running = _emitted(problem), _running(problem)
    # From the end: each example's own last step and last state come first.
    times = np.maximum(problem.steps - 1 - np.arange(count)[:, None], 0)[:, :, None]
    places = np.maximum(problem.ends[:, None] - 1 - np.arange(width), 0)[None]

    def turned(x: Array) -> Array:
        return np.take_along_axis(np.take_along_axis(x, times, axis=0), places, axis=2)

    states = np.take_along_axis(problem.states, places[0], axis=1)
    history, total = _walk(
        np.concatenate((emitted, turned(emitted)), axis=1),
        np.concatenate((problem.states, states)),
        np.concatenate((running, running), axis=1),
        blank,
        kept=True,
    )
    found = _log_likelihood(problem, history[-1, :size], total[:size])
    posterior = history[:, :size] + turned(history[:, size:])
    posterior -= emitted
    posterior[:, np.arange(width) >= problem.ends[:, None]] = _NEVER
    posterior -= posterior.max(axis=2, keepdims=True)
    np.exp(posterior, out=posterior)
    posterior /= posterior.sum(axis=2, keepdims=True)
    possible = running & (found > _NEVER / 2)[None, :, None]
    posterior *= possible

    pulled = np.zeros(problem.scores.shape, np.result_type(g.dtype, posterior.dtype))
    factors = g.reshape(size)
    for row in range(size):  # of each example, only the classes among its labels
        named, positions = np.unique(problem.states[row], return_inverse=True)
        sums = posterior[:, row] @ np.eye(len(named), dtype=posterior.dtype)[positions.ravel()]
        pulled[row][:, named] = sums * -factors[row]
    return pulled.reshape(scores.shape).astype(scores.dtype, copy=False)


KERNELS: dict[str, Callable[..., Any]] = {"ctc": _ctc, "ctc_vjp": _ctc_vjp}
