"""tf.optimizers.schedules: learning rates that change with the step, by Keras's signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import distgrad as dg
from distgrad.compat.tensorflow.conversion import converted, native
from distgrad.compat.tensorflow.missing import refuse_argument
from distgrad.optimizers import schedules


class LearningRateSchedule:
    """A learning rate as a function of the step; one's own has ``__call__(step)``."""

    def __call__(self, step: Any) -> Any:
        """Return the learning rate after so many steps.

        Raises
        ------
        NotImplementedError
            Unless a class below says what it is.
        """
        raise NotImplementedError(
            f"Learning rate schedule '{type(self).__name__}' must override `__call__(self, step)`."
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments by which the schedule was made."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return a schedule by the arguments that `get_config` returned."""
        return cls(**config)


class _Known(LearningRateSchedule):
    """One that the library has."""

    _schedule: Any

    def __call__(self, step: Any) -> Any:
        """Return the learning rate after so many steps, in float32."""
        return converted(dg.astype(dg.asarray(self._schedule(native(step))), "float32"))


class ExponentialDecay(_Known):
    """``initial_learning_rate * decay_rate ** (step / decay_steps)``."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        name: str = "ExponentialDecay",
    ) -> None:
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps
        self.decay_rate, self.staircase, self.name = decay_rate, staircase, name
        self._schedule = schedules.exponential(
            initial_learning_rate, decay_steps, decay_rate, staircase
        )


class PiecewiseConstantDecay(_Known):
    """``values[i]`` up to the step ``boundaries[i]``, which belongs to it; then the last one."""

    def __init__(
        self,
        boundaries: Sequence[int],
        values: Sequence[float],
        name: str = "PiecewiseConstant",
    ) -> None:
        if len(boundaries) != len(values) - 1:
            raise ValueError(
                "The length of boundaries should be 1 less than the length of values. Received: "
                f"boundaries={boundaries} of length {len(boundaries)}, and values={values} of "
                f"length {len(values)}."
            )
        self.boundaries, self.values, self.name = list(boundaries), list(values), name
        self._schedule = schedules.piecewise([each + 1 for each in boundaries], values)


class PolynomialDecay(_Known):
    """From one rate to another by a power of the part that remains; see `schedules.polynomial`."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
        name: str = "PolynomialDecay",
    ) -> None:
        if cycle:
            refuse_argument("PolynomialDecay", "cycle", cycle, "False")
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps
        self.end_learning_rate, self.power = end_learning_rate, power
        self.cycle, self.name = cycle, name
        self._schedule = schedules.polynomial(
            initial_learning_rate, end_learning_rate, decay_steps, power
        )


class CosineDecay(_Known):
    """Half a cosine down to ``alpha`` times the highest rate, behind a straight line up to it."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        alpha: float = 0.0,
        name: str = "CosineDecay",
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ) -> None:
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps
        self.alpha, self.name = alpha, name
        self.warmup_target, self.warmup_steps = warmup_target, warmup_steps
        highest = initial_learning_rate if warmup_target is None else warmup_target
        fall = schedules.cosine(highest, decay_steps, end=alpha * highest)
        self._schedule = fall
        if warmup_target is not None and warmup_steps:
            rise = schedules.polynomial(initial_learning_rate, warmup_target, warmup_steps)

            def rise_and_fall(step: Any) -> Any:
                after = dg.maximum(dg.asarray(step) - warmup_steps, 0)
                return dg.where(dg.asarray(step) < warmup_steps, rise(step), fall(after))

            self._schedule = rise_and_fall


class InverseTimeDecay(_Known):
    """``initial_learning_rate / (1 + decay_rate * step / decay_steps)``."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        name: str = "InverseTimeDecay",
    ) -> None:
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps
        self.decay_rate, self.staircase, self.name = decay_rate, staircase, name

        def schedule(step: Any) -> Any:
            periods = step // decay_steps if staircase else step / decay_steps
            return initial_learning_rate / (1 + decay_rate * periods)

        self._schedule = schedule
