"""Averages over the examples of a batch: sums of figures piece by piece, and what comes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import distgrad as dg
from distgrad import tree
from distgrad.distributed.averaging.squares import sums_of_squares
from distgrad.distributed.verbs.device_buffers import is_on_device
from distgrad.sparse import IndexedSlices
from distgrad.tensor import Tensor


@dataclass(frozen=True)
class Averaged:
    """The gradients of a global batch, and what was measured on the way; the same on every rank.

    Attributes
    ----------
    gradients : nest of Tensor or None
        In the structure of the variables.
    loss : float
        The mean over the examples of the global batch, in double precision.
    figures : dict of str to float
        The means of the further figures that the loss function returned.
    examples : int
        How many examples the global batch has.
    """

    gradients: Any
    loss: float
    examples: int
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def grad_norm(self) -> float:
        """The Euclidean norm of all gradients together, added up in double precision."""
        found = [each for each in tree.flatten(self.gradients)[0] if each is not None]
        own = [each for each in found if _is_of_numpy(each)]
        others = [each for each in found if not _is_of_numpy(each)]
        return math.sqrt(sum(map(_square, own)) + float(sums_of_squares(others).sum()))

    def record(self) -> dict[str, float]:
        """Return what a step function returns: loss, grad_norm, examples and the figures."""
        return {
            "loss": self.loss,
            "grad_norm": self.grad_norm,
            "examples": self.examples,
            **self.figures,
        }


class Sums:
    """The figures of a rank's pieces, each added up over the examples of its piece.

    What lies on a device is added up there, and read when `rows` are asked for: until then the
    device may compute on.

    Attributes
    ----------
    names : list of str
        The figures; empty before the first piece.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._rows: list[list[Any]] = []

    @property
    def rows(self) -> list[list[float]]:
        """For each piece the sum of each figure, in double precision."""
        self._rows = [[float(each) for each in row] for row in self._rows]
        return self._rows

    def add(self, found: Any, piece: Any) -> Any:
        """Take in what a function of the job returned; return the mean of its losses, if any.

        Raises
        ------
        ValueError
            If the names are not those of the piece before, or a figure has no value for each
            example.
        """
        examples = int(tree.flatten(piece)[0][0].shape[0])
        losses, figures = None, found
        if not isinstance(found, Mapping):
            losses, figures = found if isinstance(found, tuple) else (found, {})
            figures = {"loss": losses, **figures}
        names = list(figures)
        if self.names and names != self.names:
            raise ValueError(
                f"figures: a piece has {', '.join(names)}, the one before had "
                f"{', '.join(self.names)}; expected the same names each time"
            )
        self.names = names
        self._rows.append([_summed(name, value, examples) for name, value in figures.items()])
        if losses is None or not getattr(losses, "ndim", 0):
            return losses
        return dg.mean(losses)


def _summed(name: str, value: Any, examples: int) -> Any:
    """Return the sum of a figure over its examples: a number, or one on a device."""
    if is_on_device(getattr(value, "array", None)):
        return Tensor(_added_up(name, value.array, examples), value.kernels)
    return _added_up(
        name, np.asarray(value.numpy() if hasattr(value, "numpy") else value), examples
    )


def _added_up(name: str, array: Any, examples: int) -> Any:
    if not array.ndim:
        return array.astype(np.float64) * examples
    if array.shape[0] != examples:
        raise ValueError(
            f"figures: {name!r} has shape {array.shape} for {examples} examples; expected one "
            "value for each example along the first axis, or their mean"
        )
    return array.sum(dtype=np.float64) / max(array[:1].size, 1)


def _is_of_numpy(gradient: Any) -> bool:
    return not isinstance(gradient, IndexedSlices) and gradient.backend.name == "numpy"


def _square(gradient: Any) -> float:
    """Return the squared norm of a gradient on the host."""
    return float(np.sum(np.square(np.abs(gradient.numpy())), dtype=np.float64))
