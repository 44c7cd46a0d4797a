"""Classes drawn at random, in a way that lets gradients through."""

from __future__ import annotations

from typing import Any

from distgrad.entering import asarray
from distgrad.ops.elementwise.arithmetic import add, divide, subtract
from distgrad.ops.neural.softmax import one_hot, softmax
from distgrad.ops.reducing.reductions import argmax
from distgrad.ops.shaping.arrangement import moveaxis
from distgrad.random import Generator
from distgrad.random.source import numbers_for
from distgrad.tape.cutting import stop_gradient


def gumbel_softmax(
    logits: Any,
    /,
    *,
    generator: Generator,
    temperature: float = 1.0,
    hard: bool = False,
    axis: int = -1,
) -> Any:
    """Return probabilities near one class drawn with probabilities softmax(logits).

    Parameters
    ----------
    logits : Tensor, Variable or array
        Unnormalised log-probabilities, real floating.
    generator : Generator
        Where the choices come from.
    temperature : float > 0
        Low for probabilities near 0 and 1, and steep gradients; high for even ones.
    hard : bool
        Whether to return the class itself, one-hot, with the gradients of the probabilities
        ("straight through").
    axis : int
        The axis of the classes.

    Raises
    ------
    ValueError
        If the temperature is not positive.

    Notes
    -----
    ``softmax((logits + noise) / temperature)`` with Gumbel's noise; the greatest of the sums is a
    class with exactly the probabilities of the softmax, whatever the temperature.

    References
    ----------
    Jang, Gu and Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017,
    arXiv:1611.01144. Maddison, Mnih and Teh, "The concrete distribution", arXiv:1611.00712.
    """
    if not temperature > 0:
        raise ValueError(f"gumbel_softmax: temperature is {temperature}; expected a number above 0")
    scores = asarray(logits)
    drawn = generator.gumbel(scores.shape, dtype=scores.dtype)
    noise = numbers_for("gumbel_softmax", scores, drawn)
    soft = softmax(divide(add(scores, noise), temperature), axis=axis)
    if not hard:
        return soft
    classes = scores.shape[axis]
    chosen = moveaxis(one_hot(argmax(soft, axis=axis), classes, dtype=soft.dtype), -1, axis)
    return add(subtract(chosen, stop_gradient(soft)), soft)
