"""A model of what a message costs, piece by piece in its length, fitted to measured reductions.

A straight line, latency and seconds a byte, is wrong by up to 70 % for messages beyond the caches;
so each range of lengths has a line of its own, of as few ranges as predict what was not fitted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from distgrad.distributed.planning.algorithms import ALGORITHMS, Round
from distgrad.errors import DistgradError

# Where lines may meet: messages within a page or two, beyond the L2 cache, beyond the last one.
_KNOTS = (
    (),
    (65_536.0,),
    (8_192.0, 524_288.0),
    (8_192.0, 262_144.0, 4_194_304.0),
)
_NATIVE = ("rabenseifner", "ring", "doubling")  # what MPIs choose from
_BETTER = 0.8  # by which share the error must fall for one line more


class PlanningError(DistgradError, ValueError):
    """Nothing can be predicted from what is given: too few measurements, or none of what."""


class Sample(NamedTuple):
    """One measured allreduce."""

    ranks: int
    nbytes: int
    seconds: float


@dataclass(frozen=True)
class Link:
    """What a message costs.

    Attributes
    ----------
    knots : tuple of float
        The lengths at which one line ends and the next one begins, in bytes.
    latencies, byte_seconds : tuple of float
        Of each line: seconds, and seconds a byte.
    """

    knots: tuple[float, ...]
    latencies: tuple[float, ...]
    byte_seconds: tuple[float, ...]

    @classmethod
    def straight(cls, latency: float, bandwidth: float) -> Link:
        """Return the link of a latency in seconds and a bandwidth in bytes a second."""
        return cls((), (latency,), (1 / bandwidth,))

    @property
    def latency(self) -> float:
        """Seconds of a message without content."""
        return self.latencies[0]

    @property
    def bandwidth(self) -> float:
        """Bytes a second of long messages; infinite if their length costs nothing."""
        return 1 / self.byte_seconds[-1] if self.byte_seconds[-1] else math.inf

    def seconds(self, nbytes: float, sharing: int = 1) -> float:
        """Return what one message costs, if as many ranks share the way."""
        line = _line(self.knots, nbytes)
        return self.latencies[line] + self.byte_seconds[line] * nbytes * sharing


def _line(knots: Sequence[float], nbytes: float) -> int:
    return sum(nbytes > knot for knot in knots)


@dataclass(frozen=True)
class Network:
    """The ways that messages go: within a machine, and between machines.

    Attributes
    ----------
    within, between : Link
        What a message costs there; the same one, where nothing is known of machines.
    per_node : int
        How many ranks a machine has.
    """

    within: Link
    between: Link
    per_node: int

    def seconds(self, rounds: Sequence[Round]) -> float:
        """Return what rounds of messages cost."""
        return sum(
            each.number
            * (
                self.between.seconds(each.nbytes, each.sharing)
                if each.crosses
                else self.within.seconds(each.nbytes)
            )
            for each in rounds
        )

    def allreduce(self, algorithm: str, nbytes: float, ranks: int) -> float:
        """Return the seconds of one allreduce."""
        return self.seconds(ALGORITHMS[algorithm](nbytes, ranks, self.per_node))


@dataclass(frozen=True)
class Fit:
    """A link that was fitted to measurements, and how well it predicts what it was not fitted to.

    Attributes
    ----------
    link : Link
        The model.
    algorithm : str
        The one whose formula fits what the MPI does best.
    error, worst_error : float
        The median and the largest relative error of held-out samples: each size in turn, and the
        largest number of ranks where there are several.
    """

    link: Link
    algorithm: str
    error: float
    worst_error: float


def fit(samples: Sequence[Sample]) -> Fit:
    """Return the model that predicts held-out samples best.

    Parameters
    ----------
    samples : sequence of Sample
        Of one kind of link.

    Raises
    ------
    PlanningError
        If there are fewer than four lengths.

    Notes
    -----
    The unknown α and β enter the sum over an algorithm's messages linearly. Squares of relative
    errors are minimised, by non-negative least squares: no message takes less than nothing.
    """
    lengths = sorted({sample.nbytes for sample in samples})
    if len(lengths) < 4:
        raise PlanningError(
            f"plan: {len(lengths)} lengths of messages were measured; expected 4 or more"
        )
    best: Fit | None = None
    for algorithm in _NATIVE:
        for knots in _KNOTS:
            errors = _held_out(samples, algorithm, knots)
            error = float(np.median(errors))
            if best is None or error < _threshold(best, algorithm, knots) * best.error:
                link = _fitted(samples, algorithm, knots)
                best = Fit(link, algorithm, error, float(np.max(errors)))
    if best is None:
        raise PlanningError(
            "plan: no latency and bandwidth fit the times that were measured; measure again while "
            "nothing else runs on the machines"
        )
    return best


def _threshold(best: Fit, algorithm: str, knots: tuple[float, ...]) -> float:
    same = algorithm == best.algorithm and len(knots) > len(best.link.knots)
    return _BETTER if same else 1.0


def _held_out(samples: Sequence[Sample], algorithm: str, knots: tuple[float, ...]) -> list[float]:
    """Return the relative errors of samples that the model was not fitted to."""
    lengths = sorted({sample.nbytes for sample in samples})
    most = max(sample.ranks for sample in samples)
    folds = [set(lengths[start::3]) for start in range(3)]
    groups = [([s for s in samples if s.nbytes in fold]) for fold in folds]
    if len({sample.ranks for sample in samples}) > 1:
        groups.append([s for s in samples if s.ranks == most])
    errors = []
    for held in groups:
        link = _fitted([s for s in samples if s not in held], algorithm, knots)
        errors += [abs(_predicted(link, algorithm, s) / s.seconds - 1) for s in held]
    return errors


def _predicted(link: Link, algorithm: str, sample: Sample) -> float:
    return Network(link, link, sample.ranks).allreduce(algorithm, sample.nbytes, sample.ranks)


def _fitted(samples: Sequence[Sample], algorithm: str, knots: tuple[float, ...]) -> Link:
    lines = len(knots) + 1
    rows = np.zeros((len(samples), 2 * lines))
    for row, sample in zip(rows, samples, strict=True):
        for each in ALGORITHMS[algorithm](sample.nbytes, sample.ranks, sample.ranks):
            line = _line(knots, each.nbytes)
            row[line] += each.number
            row[lines + line] += each.number * each.nbytes
        row[:] /= sample.seconds
    found = nonnegative_least_squares(rows, np.ones(len(samples)))
    latencies, byte_seconds = found[:lines].tolist(), found[lines:].tolist()
    for line in range(lines):  # a line that no sample reached goes on as its neighbour
        if line and not rows[:, line].any():
            latencies[line], byte_seconds[line] = latencies[line - 1], byte_seconds[line - 1]
    return Link(knots, tuple(latencies), tuple(byte_seconds))


def nonnegative_least_squares(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the x ≥ 0 that makes ``matrix @ x`` come closest to the target.

    References
    ----------
    .. [1] Lawson and Hanson, "Solving Least Squares Problems", 1974, algorithm NNLS (23.10).
    """
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1
    a = matrix / scale
    x = np.zeros(a.shape[1])
    free = np.zeros(a.shape[1], bool)
    for _ in range(10 * a.shape[1]):
        slope = a.T @ (target - a @ x)
        slope[free] = -np.inf
        if slope.max(initial=-np.inf) <= 1e-10:
            break
        free[int(np.argmax(slope))] = True
        while True:
            z = np.zeros_like(x)
            z[free] = np.linalg.lstsq(a[:, free], target, rcond=None)[0]
            if (z[free] > 0).all():
                x = z
                break
            blocked = free & (z <= 0)
            step = float(np.min(x[blocked] / (x[blocked] - z[blocked])))
            x = x + step * (z - x)
            free &= x > 1e-15
            x[~free] = 0
    result: np.ndarray = x / scale
    return result
