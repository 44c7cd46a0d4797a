"""Adam and its kin: steps by running estimates of the gradient's first and second moment."""

from __future__ import annotations

from typing import Any

from distgrad.optimizers.rules import Rate, Rule, Slot, check
from distgrad.optimizers.vocabulary import Vocabulary

_PLACES = ("corrected", "uncorrected", "inside")


class Adam(Rule):
    """Adam: the running mean of the gradient over the root of that of its square.

    Parameters
    ----------
    learning_rate : float, schedule or Tensor
        Step size, in units of the parameters.
    beta_1, beta_2 : float in [0, 1)
        How much of the first and second moment stays per step; dimensionless.
    epsilon : float > 0
        Keeps the quotient finite; in units of the gradient, or of its square inside of the root.
    weight_decay : float
        Times the parameter, added to its gradient (and so to the moments; see `AdamW`).
    amsgrad : bool
        Whether the largest second moment so far counts [2]_.
    epsilon_placement : {"corrected", "uncorrected", "inside"}
        Where `epsilon` is added: to the root of the corrected second moment (the paper's algorithm,
        PyTorch, Optax), to the root of the uncorrected one (the paper's "epsilon hat"; TensorFlow,
        Keras), or to the corrected moment inside of the root.
    lazy : bool
        Whether rows without a gradient stay as they are, see `Optimizer.apply`.

    Raises
    ------
    ValueError
        If a number lies outside of its range, or there is no such placement.

    Notes
    -----
    Algorithm 1 of [1]_: m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g²;
    x ← x - η m̂ / (√v̂ + ε) with m̂ = m / (1 - β₁ᵗ) and v̂ = v / (1 - β₂ᵗ).

    Warning: with "uncorrected", x ← x - η √(1 - β₂ᵗ) / (1 - β₁ᵗ) · m / (√v + ε), the same `epsilon`
    weighs more in early steps: in the first one as ε / √(1 - β₂), 30 times as much. Keras's default
    is 1e-7 there, PyTorch's 1e-8 with "corrected".

    References
    ----------
    .. [1] Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, arXiv:1412.6980.
    .. [2] Reddi, Kale and Kumar, "On the convergence of Adam and beyond", ICLR 2018,
       arXiv:1904.09237; as in PyTorch and Keras the maximum is of uncorrected moments.

    Examples
    --------
    >>> import distgrad as dg
    >>> x = dg.Variable(1.0)
    >>> dg.optimizers.Adam(0.25).apply(dg.asarray(7.0), x)
    >>> float(x)
    0.75
    """

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        epsilon_placement: str = "corrected",
        lazy: bool = False,
    ) -> None:
        super().__init__(learning_rate, lazy=lazy)
        kind = type(self).__name__
        check(kind, "beta_1", beta_1, below=1.0)
        check(kind, "beta_2", beta_2, below=1.0)
        check(kind, "epsilon", epsilon, positive=True)
        check(kind, "weight_decay", weight_decay)
        if epsilon_placement not in _PLACES:
            raise ValueError(
                f"{kind}: epsilon_placement is {epsilon_placement!r}; expected one of "
                f"{', '.join(_PLACES)}"
            )
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.weight_decay, self.amsgrad = weight_decay, amsgrad
        self.epsilon_placement = epsilon_placement
        self.slots = (
            Slot("first_moment"),
            Slot("second_moment", real=True),
            *((Slot("largest_second_moment", real=True),) if amsgrad else ()),
        )

    def numbers(self, step: Any) -> tuple[Any, ...]:
        """Return the rate over the first correction, the root of the second one, and the rate."""
        rate = self.rate(step)
        correction = 1 - self.beta_2**step
        return rate / (1 - self.beta_1**step), correction**0.5, rate

    def change(
        self, f: Vocabulary, x: Any, g: Any, slots: tuple[Any, ...], numbers: tuple[Any, ...]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the step and the moments."""
        if self.weight_decay:
            g = g + self.weight_decay * x
        return self._step(f, g, slots, numbers)

    def _step(
        self, f: Vocabulary, g: Any, slots: tuple[Any, ...], numbers: tuple[Any, ...]
    ) -> tuple[Any, tuple[Any, ...]]:
        rate, root, _ = numbers
        m = self.beta_1 * slots[0] + (1 - self.beta_1) * g
        v = self.beta_2 * slots[1] + (1 - self.beta_2) * f.squared(g)
        after: tuple[Any, ...] = (m, v)
        if self.amsgrad:
            v = f.maximum(slots[2], v)
            after = (*after, v)
        # One number in front and one behind in place of two corrected arrays: two passes fewer.
        if self.epsilon_placement == "corrected":
            return m * (-rate * root) / (f.sqrt(v) + self.epsilon * root), after
        if self.epsilon_placement == "uncorrected":
            return m * (-rate * root) / (f.sqrt(v) + self.epsilon), after
        return m * (-rate * root) / f.sqrt(v + self.epsilon * root * root), after


class AdamW(Adam):
    """AdamW: Adam with a decay of the weights that goes past the moments.

    Parameters
    ----------
    learning_rate, beta_1, beta_2, epsilon, amsgrad, epsilon_placement, lazy
        As for `Adam`.
    weight_decay : float
        Times the learning rate, the part of each parameter that a step takes away.

    Raises
    ------
    ValueError
        If a number lies outside of its range.

    Notes
    -----
    x ← x - η λ x - η m̂ / (√v̂ + ε), with λ the weight decay [1]_.

    Warning: as in PyTorch (default 0.01) and Keras (0.004) the decay is multiplied by the learning
    rate; in the paper by the schedule's factor alone, so that its λ is ours times the base rate.

    References
    ----------
    .. [1] Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019,
       arXiv:1711.05101, algorithm 2.
    """

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        epsilon_placement: str = "corrected",
        lazy: bool = False,
    ) -> None:
        super().__init__(
            *(learning_rate, beta_1, beta_2, epsilon, weight_decay, amsgrad),
            epsilon_placement=epsilon_placement,
            lazy=lazy,
        )

    def change(
        self, f: Vocabulary, x: Any, g: Any, slots: tuple[Any, ...], numbers: tuple[Any, ...]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the step with the decay, and the moments."""
        step, after = self._step(f, g, slots, numbers)
        return step - (numbers[2] * self.weight_decay) * x, after


class LAMB(Adam):
    """LAMB: Adam with steps in proportion to the norm of each parameter, for large batches.

    Parameters
    ----------
    learning_rate, beta_1, beta_2, epsilon, amsgrad, epsilon_placement
        As for `Adam`; the rate is dimensionless here.
    weight_decay : float
        Times the parameter, added to Adam's direction before its norm is taken.

    Raises
    ------
    ValueError
        If a number lies outside of its range.

    Notes
    -----
    r = m̂ / (√v̂ + ε) + λ x; x ← x - η (‖x‖ / ‖r‖) r, where the quotient is 1 if a norm is zero
    [1]_. Each leaf is one layer of the paper.

    Warning: as in the paper's later versions both moments are corrected, and no bounds are put on
    ‖x‖ (φ is the identity); TensorFlow Addons and Apex add a clipping by the global norm in front:
    ``chain(clipping(global_norm=1.0), LAMB(...))``. Rows of `IndexedSlices` become dense.

    References
    ----------
    .. [1] You et al., "Large batch optimization for deep learning: training BERT in 76 minutes",
       ICLR 2020, arXiv:1904.00962, algorithm 2.
    """

    elementwise = False

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        epsilon_placement: str = "corrected",
    ) -> None:
        super().__init__(
            *(learning_rate, beta_1, beta_2, epsilon, weight_decay, amsgrad),
            epsilon_placement=epsilon_placement,
        )

    def numbers(self, step: Any) -> tuple[Any, ...]:
        """Return Adam's numbers for a rate of 1, and the rate."""
        _, root, rate = super().numbers(step)
        return 1 / (1 - self.beta_1**step), root, rate

    def change(
        self, f: Vocabulary, x: Any, g: Any, slots: tuple[Any, ...], numbers: tuple[Any, ...]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the step and the moments."""
        direction, after = self._step(f, g, slots, numbers)
        if self.weight_decay:
            direction = direction - self.weight_decay * x
        of_x, of_step = f.norm(x), f.norm(direction)
        known = (of_x > 0) & (of_step > 0)
        # A safe divisor where the quotient is not taken.
        ratio = f.where(known, of_x / f.where(known, of_step, 1.0), 1.0)
        ratio = ratio.astype(of_x.dtype)
        return direction * (numbers[2] * ratio), after
