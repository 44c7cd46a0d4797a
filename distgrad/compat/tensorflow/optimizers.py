"""tf.optimizers: the optimizers by Keras's signatures, formulas and defaults; a layer of names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import distgrad as dg
from distgrad import optimizers
from distgrad.compat.tensorflow import schedules
from distgrad.compat.tensorflow.conversion import native
from distgrad.compat.tensorflow.missing import refuse_argument
from distgrad.compat.tensorflow.slices import IndexedSlices

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Lamb", "Optimizer", "RMSprop", "schedules"]


class Optimizer:
    """What they have in common: `apply_gradients`, clipping, and a count of steps.

    Parameters
    ----------
    rule : Rule
        The library's optimizer.
    weight_decay : float, optional
        Times the learning rate, what each step takes from each variable.
    clipnorm, clipvalue, global_clipnorm : float, optional
        Bounds of the norm of each gradient, of its elements, of all together; one of them.
    """

    def __init__(
        self,
        rule: Any,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        clipvalue: float | None = None,
        name: str | None = None,
        **unoffered: Any,
    ) -> None:
        for argument, value in unoffered.items():
            if argument not in _KNOWN:
                raise ValueError(
                    f"Argument(s) not recognized: {argument}; a misspelling? learning_rate is it, "
                    "and not lr"
                )
            if argument not in _WITHOUT_EFFECT or value not in (None, False):
                refuse_argument(type(self).__name__, argument, value, "None")
        given = {"norm": clipnorm, "global_norm": global_clipnorm, "value": clipvalue}
        bounds = {kind: float(bound) for kind, bound in given.items() if bound is not None}
        if len(bounds) > 1:
            raise ValueError(
                "Only one of `clipnorm`, `clipvalue` and `global_clipnorm` can be set. Received: "
                f"clipnorm={clipnorm}, clipvalue={clipvalue}, global_clipnorm={global_clipnorm}"
            )
        self.name = name or type(self).__name__.lower()
        self.weight_decay = weight_decay
        self._rule = rule
        parts = [optimizers.clipping(**bounds), rule] if bounds else [rule]
        self._optimizer = optimizers.Optimizer(optimizers.chain(*parts))

    def build(self, variables: Iterable[Any]) -> None:
        """Create the state for all variables that will be changed."""
        self._optimizer.build(list(variables))

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, Any]]) -> Any:
        """Change variables by one step.

        Parameters
        ----------
        grads_and_vars : iterable of (gradient, Variable)
            As ``zip(tape.gradient(loss, variables), variables)``; gradients of None are skipped.

        Raises
        ------
        ValueError
            If no variable has a gradient.
        """
        pairs = list(grads_and_vars)
        if all(gradient is None for gradient, _ in pairs):
            raise ValueError(
                "No gradients provided for any variable: "
                f"{[getattr(variable, 'name', variable) for _, variable in pairs][:8]}"
            )
        variables = [variable for _, variable in pairs]
        self._optimizer.build(variables)
        gradients = [_native(gradient) for gradient, _ in pairs]
        if self.weight_decay is not None:
            # Before the step, as Keras does it: of each variable that the step is about.
            rate = self._now()
            for gradient, variable in zip(gradients, variables, strict=True):
                if gradient is not None:
                    dg.Variable.assign_sub(variable, native(variable) * (self.weight_decay * rate))
        self._optimizer.apply(gradients, variables)
        return self.iterations

    def apply(self, grads: Iterable[Any], trainable_variables: Iterable[Any] | None = None) -> None:
        """Change variables by one step, gradients and variables in two lists."""
        known = list(self._optimizer._variables.values())
        variables = known if trainable_variables is None else list(trainable_variables)
        self.apply_gradients(zip(grads, variables, strict=True))

    @property
    def iterations(self) -> Any:
        """How many steps were made: a variable from the first step on."""
        made = self._optimizer.variables
        return made[0] if made else 0

    @property
    def variables(self) -> list[Any]:
        """The variables of the state."""
        return self._optimizer.variables

    @property
    def learning_rate(self) -> Any:
        """The learning rate now; may be assigned unless it is a schedule."""
        return self._now()

    @learning_rate.setter
    def learning_rate(self, rate: Any) -> None:
        self._rule.learning_rate = _rate(rate)

    def _now(self) -> Any:
        rate = self._rule.learning_rate
        return rate(native(self.iterations)) if callable(rate) else rate


# Keras takes these for other ways of running, which change no result.
_WITHOUT_EFFECT = (
    *("use_ema", "ema_overwrite_frequency", "loss_scale_factor"),
    *("gradient_accumulation_steps", "jit_compile"),
)

_KNOWN = (*_WITHOUT_EFFECT, "ema_momentum")


class SGD(Optimizer):
    """Stochastic gradient descent, with Keras's form of momentum; see `distgrad.optimizers.SGD`."""

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | None = None,
        **settings: Any,
    ) -> None:
        rule = optimizers.SGD(
            *(_rate(learning_rate), momentum, nesterov and momentum > 0), rate_in_velocity=True
        )
        super().__init__(rule, weight_decay, **settings)


class Adam(Optimizer):
    """Adam with Keras's epsilon, that of the uncorrected moment; see `distgrad.optimizers.Adam`."""

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        weight_decay: float | None = None,
        **settings: Any,
    ) -> None:
        rule = optimizers.Adam(
            *(_rate(learning_rate), beta_1, beta_2, epsilon),
            amsgrad=amsgrad,
            epsilon_placement="uncorrected",
        )
        super().__init__(rule, weight_decay, **settings)


class AdamW(Adam):
    """Adam with a decay of the weights past the moments; see `distgrad.optimizers.AdamW`."""

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay, **settings)


class RMSprop(Optimizer):
    """RMSprop with Keras's epsilon inside of the root; see `distgrad.optimizers.RMSprop`."""

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        weight_decay: float | None = None,
        **settings: Any,
    ) -> None:
        rule = optimizers.RMSprop(
            *(_rate(learning_rate), rho, momentum, epsilon, centered),
            epsilon_inside_root=True,
            rate_in_velocity=True,
        )
        super().__init__(rule, weight_decay, **settings)


class Adagrad(Optimizer):
    """Adagrad with Keras's epsilon inside of the root; see `distgrad.optimizers.Adagrad`."""

    def __init__(
        self,
        learning_rate: Any = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        **settings: Any,
    ) -> None:
        rule = optimizers.Adagrad(
            *(_rate(learning_rate), epsilon, initial_accumulator_value), epsilon_inside_root=True
        )
        super().__init__(rule, weight_decay, **settings)


class Lamb(Optimizer):
    """LAMB: Adam with a rate for each variable by its norm; see `distgrad.optimizers.LAMB`."""

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        **settings: Any,
    ) -> None:
        rule = optimizers.LAMB(_rate(learning_rate), beta_1, beta_2, epsilon)
        super().__init__(rule, weight_decay, **settings)


def _native(gradient: Any) -> Any:
    if gradient is None:
        return None
    return gradient.native() if isinstance(gradient, IndexedSlices) else native(gradient)


def _rate(rate: Any) -> Any:
    """Return a learning rate for the library: tensors as they are inside, what is callable too."""
    if callable(rate):
        schedule: Callable[[Any], Any] = rate
        return lambda step: native(schedule(step))
    return rate
