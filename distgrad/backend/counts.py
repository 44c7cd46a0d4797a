"""Poisson-distributed counts on the host, exact and vectorised, from the words of a stream."""

from __future__ import annotations

import numpy as np

from distgrad.backend.philox import AGAIN, Host, Stream, blocks

LARGEST_RATE = 2.0**62  # the counts of larger ones need not fit into int64

_INVERTED = 10.0  # below this rate the search from 0 is quicker, and rejection does not serve
_MOST = 130  # no count of such a rate is larger: their probabilities add up to less than 1e-90
_LOG_FACTORIALS = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, 10.0)))])


def poisson(stream: Stream, start: int, rate: Host) -> Host:
    """Return Poisson-distributed counts as float64.

    Parameters
    ----------
    stream : Stream
        The draw.
    start : int
        The place of the first number in the draw.
    rate : float64, one axis
        From 0 to 2^62.

    References
    ----------
    Hörmann, "The transformed rejection method for generating Poisson random variables", Insurance:
    Mathematics and Economics 12 (1993), algorithm PTRS.
    """
    counts = np.zeros(len(rate))
    few = np.flatnonzero(rate < _INVERTED)
    counts[few] = _inverted(rate[few], _pair(stream, few + start, 0)[0])
    waiting = np.flatnonzero(rate >= _INVERTED)
    attempt = 0
    while waiting.size:  # a third at rate 10, a tenth at large ones, tries again
        tried, accepted = _tried(rate[waiting], *_pair(stream, waiting + start, attempt))
        counts[waiting] = tried
        waiting = waiting[~accepted]
        attempt += 1
    return counts


def _pair(stream: Stream, places: Host, attempt: int) -> tuple[Host, Host]:
    """Return two uniform numbers for each place, from the middles of 2^53 cells of (0, 1)."""
    words = blocks(stream[:2], (places.astype(np.uint64), stream.draw, attempt, AGAIN))
    u, v = ((each >> np.uint64(11)).astype(np.float64) * 2.0**-53 + 2.0**-54 for each in words[:2])
    return u, v


def _inverted(rate: Host, u: Host) -> Host:
    """Return the first count whose cumulated probability reaches u."""
    counts = np.zeros(len(rate))
    term = np.exp(-rate)
    total = term.copy()
    waiting = np.flatnonzero(u > total)
    for k in range(1, _MOST):
        if not waiting.size:
            break
        term[waiting] *= rate[waiting] / k
        total[waiting] += term[waiting]
        counts[waiting] = k
        # Behind the mode, a sum that no longer grows by rounding has reached what 1 is here.
        grows = (term[waiting] > 2.0**-60) | (k < rate[waiting])
        waiting = waiting[(u[waiting] > total[waiting]) & grows]
    return counts


def _tried(rate: Host, u: Host, v: Host) -> tuple[Host, Host]:
    """Return counts proposed by one step of PTRS, and where they are accepted."""
    b = 0.931 + 2.53 * np.sqrt(rate)
    a = -0.059 + 0.02483 * b
    inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
    u = u - 0.5
    us = 0.5 - np.abs(u)
    k = np.floor((2 * a / us + b) * u + rate + 0.43)
    quick = (us >= 0.07) & (v <= 0.9277 - 3.6224 / (b - 2))
    refused = (k < 0) | ((us < 0.013) & (v > us))
    bound = np.log(v * inverse_alpha / (a / (us * us) + b))
    slow = bound <= log_probability(np.maximum(k, 0.0), rate)
    return k, quick | (~refused & slow)


def log_probability(k: Host, rate: Host) -> Host:
    """Return log(rate^k e^-rate / k!), without cancellation where both are large.

    Notes
    -----
    With Stirling's series [1]_ for k from 10 on, and t = (rate - k) / k, this is
    ``k (log(1 + t) - t) - log(2 pi k) / 2 - 1/(12 k) + 1/(360 k^3) - 1/(1260 k^5) + 1/(1680 k^7)``.

    References
    ----------
    .. [1] NIST Digital Library of Mathematical Functions, 5.11.1.
    """
    large = np.maximum(k, 10.0)
    t = (rate - large) / large
    q = 1 / (large * large)
    series = (1 / 12 - q * (1 / 360 - q * (1 / 1260 - q / 1680))) / large
    by_series = large * (np.log1p(t) - t) - 0.5 * np.log(2 * np.pi * large) - series
    small = np.minimum(k, 9.0)
    by_table = small * np.log(rate) - rate - _LOG_FACTORIALS[small.astype(np.intp)]
    return np.where(k < 10, by_table, by_series)
