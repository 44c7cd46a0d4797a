"""Stop a training early, once it gets no better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class EarlyStopping:
    """Says when a figure has not become better for some time.

    Parameters
    ----------
    figure : str
        A name in the step's record, or one of the evaluation.
    patience : int
        How many looks without getting better are one too many. A look is a step whose record has
        the figure: of an evaluation, those where it is made.
    best : {"min", "max"}
        Which way is better.
    at_least : float
        By how much it has to become better to count.

    Raises
    ------
    ValueError
        If there is no such way, or a number makes no sense.

    Notes
    -----
    The figures are the same on every rank, and so is the decision. What it remembers is part of a
    checkpoint: give it to `train`.

    Examples
    --------
    >>> stopping = EarlyStopping("loss", patience=2)
    >>> [stopping.look({"loss": loss}) for loss in (3.0, 2.0, 2.5, 2.1)]
    [False, False, False, True]
    """

    def __init__(
        self, figure: str, *, patience: int, best: str = "min", at_least: float = 0.0
    ) -> None:
        if best not in ("min", "max"):
            raise ValueError(f"EarlyStopping: best is {best!r}; expected 'min' or 'max'")
        if patience < 1 or not at_least >= 0:
            raise ValueError(
                f"EarlyStopping: patience is {patience}, at_least {at_least}; expected 1 or more, "
                "and 0 or more"
            )
        self.figure, self.patience, self.best, self.at_least = figure, patience, best, at_least
        self.best_value: float | None = None
        self.best_step = 0
        self._waited = 0

    def look(self, record: Mapping[str, Any]) -> bool:
        """Take in a step's record; return whether it is time to stop."""
        value = record.get(self.figure)
        if value is None:
            return False
        sign = 1.0 if self.best == "min" else -1.0
        if math.isfinite(value) and (
            self.best_value is None or sign * value < sign * self.best_value - self.at_least
        ):
            self.best_value, self.best_step, self._waited = float(value), record.get("step", 0), 0
        else:
            self._waited += 1
        return self.is_over

    @property
    def is_over(self) -> bool:
        """Whether it is time to stop, as the last `look` has said."""
        return self._waited >= self.patience

    def state(self) -> dict[str, Any]:
        """Return what it remembers, as a checkpoint can hold it."""
        found = self.best_value is not None
        return {
            "found": found,
            "best_value": self.best_value if found else 0.0,
            "best_step": self.best_step,
            "waited": self._waited,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Remember what a `state` says."""
        self.best_value = state["best_value"] if state["found"] else None
        self.best_step, self._waited = state["best_step"], state["waited"]
