"""Dropout: noise that a network must not rely on, from explicit generators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distgrad.errors import ShapeError
from distgrad.nn.settings import share
from distgrad.ops.elementwise.arithmetic import add, multiply
from distgrad.ops.elementwise.selection import where
from distgrad.ops.neural.activations import SELU_ALPHA, SELU_SCALE
from distgrad.ops.neural.dropping import keep_some
from distgrad.ops.rules.families import shape_of
from distgrad.random import Generator
from distgrad.random.source import numbers_for


def dropout(
    x: Any,
    rate: float,
    /,
    *,
    generator: Generator | None = None,
    training: bool = True,
    rows: Sequence[int] | range | None = None,
    shape: Sequence[int] | None = None,
) -> Any:
    """Return x with elements made 0 at random, and the others scaled up to keep the mean.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real floating.
    rate : float in [0, 1]
        The probability.
    generator : Generator
        Where the choices come from. Not needed where nothing is dropped.
    training : bool
        Whether to drop anything; x is returned as it is otherwise.
    rows : range or sequence of int, optional
        The places that the examples of x, which lie along its first axis, have in the global batch:
        so the choices depend on the example, and not on how a batch is shared among ranks or split
        into parts. Their own places by default.
    shape : sequence of int, optional
        Of the choices, which broadcast to x: a 1 drops along an axis all or nothing.

    Raises
    ------
    ValueError
        If `rate` is no probability, or there is no generator.

    Notes
    -----
    A kept element is multiplied by 1 / (1 - rate). A tape keeps a byte for each choice.

    References
    ----------
    Srivastava et al., "Dropout", JMLR 15 (2014), section 10 for the scaling while training.
    """
    source = _source("dropout", rate, generator, training)
    if source is None:
        return x
    kept = _kept("dropout", x, rate, source, rows, shape)
    return keep_some(x, kept, scale=1 / (1 - rate) if rate < 1 else 1.0)


def alpha_dropout(
    x: Any,
    rate: float,
    /,
    *,
    generator: Generator | None = None,
    training: bool = True,
    rows: Sequence[int] | range | None = None,
) -> Any:
    """Return x with elements set to SELU's lower limit at random, mean 0 and variance 1 unchanged.

    Parameters
    ----------
    x, rate, generator, training, rows
        As for `dropout`; the rate is below 1.

    References
    ----------
    Klambauer et al., "Self-normalizing neural networks", arXiv:1706.02515, section 3.
    """
    source = _source("alpha_dropout", rate, generator, training)
    if source is None:
        return x
    if rate == 1:
        raise ValueError("alpha_dropout: rate is 1, which leaves no variance; expected less")
    limit = -SELU_ALPHA * SELU_SCALE
    share = 1 - rate
    scale = 1 / math.sqrt(share + limit * limit * share * rate)
    kept = _kept("alpha_dropout", x, rate, source, rows, None)
    return add(multiply(where(kept, x, limit), scale), -scale * limit * rate)


def _source(
    function: str, rate: float, generator: Generator | None, training: bool
) -> Generator | None:
    """Return where choices come from, or None where nothing is dropped."""
    share(function, "rate", rate)
    if not training or rate == 0:
        return None
    if generator is None:
        raise ValueError(
            f"{function}: there is no generator; expected generator=dg.random.Generator(seed), or "
            "training=False"
        )
    return generator


def _kept(
    function: str,
    x: Any,
    rate: float,
    generator: Generator,
    rows: Sequence[int] | range | None,
    shape: Sequence[int] | None,
) -> Any:
    """Return which elements are kept."""
    full = shape_of(x) if shape is None else tuple(shape)
    if rows is None:
        return numbers_for(function, x, generator.bernoulli(1 - rate, full))
    if not full or full[0] != len(rows):
        raise ShapeError(
            f"{function}: rows names {len(rows)} places, x has shape {shape_of(x)}; expected the "
            "place of each example along the first axis"
        )
    whole = (max(rows, default=-1) + 1, *full[1:])
    return numbers_for(function, x, generator.bernoulli(1 - rate, whole, rows=rows))
