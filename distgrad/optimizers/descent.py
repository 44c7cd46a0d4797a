"""Descent along the gradient with one rate for all, or one that each element's past decides."""

from __future__ import annotations

from typing import Any

from distgrad.optimizers.rules import Rate, Rule, Slot, check
from distgrad.optimizers.vocabulary import Vocabulary


class SGD(Rule):
    """Stochastic gradient descent, with momentum.

    Parameters
    ----------
    learning_rate : float, schedule or Tensor
        Step size, in units of the parameters over those of the gradients.
    momentum : float in [0, 1)
        How much of the velocity stays; dimensionless, per step.
    nesterov : bool
        Whether the gradient counts as if taken one step ahead.
    weight_decay : float
        Times the parameter, added to its gradient.
    rate_in_velocity : bool
        Whether the rate multiplies what goes into the velocity (TensorFlow, Keras) instead of what
        comes out of it (PyTorch).
    lazy : bool
        Whether rows without a gradient stay as they are, see `Optimizer.apply`.

    Raises
    ------
    ValueError
        If a number lies outside of its range, or `nesterov` comes without momentum.

    Notes
    -----
    With g the gradient (and ``weight_decay * x`` added to it), μ the momentum and η the rate:
    v ← μ v + g, then x ← x - η v, or with Nesterov's momentum x ← x - η (g + μ v) [1]_ [2]_.

    Warning: the two forms of momentum agree only while the rate stays the same. After a change of
    the rate the velocity of Keras's form, v ← μ v - η g, still has the old one. PyTorch's
    ``dampening`` is not offered.

    References
    ----------
    .. [1] Polyak, "Some methods of speeding up the convergence of iteration methods", USSR
       Computational Mathematics and Mathematical Physics 4(5), 1964.
    .. [2] Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in
       deep learning", ICML 2013, equations 1 to 4.

    Examples
    --------
    >>> import distgrad as dg
    >>> x = dg.Variable([3.0, 4.0])
    >>> dg.optimizers.SGD(0.5).apply(dg.asarray([2.0, 4.0]), x)
    >>> x.numpy().tolist()
    [2.0, 2.0]
    """

    def __init__(
        self,
        learning_rate: Rate = 1e-2,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        rate_in_velocity: bool = False,
        lazy: bool = False,
    ) -> None:
        super().__init__(learning_rate, lazy=lazy)
        check("SGD", "momentum", momentum, below=1.0)
        check("SGD", "weight_decay", weight_decay)
        if nesterov and not momentum:
            raise ValueError("SGD: nesterov=True without momentum; expected momentum above zero")
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay
        self.rate_in_velocity = rate_in_velocity
        self.slots = (Slot("velocity"),) if momentum else ()

    @property
    def exact_on_rows(self) -> bool:
        """Whether rows without a gradient stay: without velocity and decay."""
        return not self.momentum and not self.weight_decay

    def change(
        self, f: Vocabulary, x: Any, g: Any, slots: tuple[Any, ...], numbers: tuple[Any, ...]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the step and the velocity."""
        (rate,) = numbers
        if self.weight_decay:
            g = g + self.weight_decay * x
        if not slots:
            return -rate * g, ()
        if self.rate_in_velocity:
            v = self.momentum * slots[0] - rate * g
            return (self.momentum * v - rate * g if self.nesterov else v), (v,)
        v = self.momentum * slots[0] + g
        return -rate * (g + self.momentum * v if self.nesterov else v), (v,)


class RMSprop(Rule):
    """RMSprop: each element's gradient over the root of its mean square.

    Parameters
    ----------
    learning_rate : float, schedule or Tensor
        Step size, in units of the parameters.
    decay : float in [0, 1)
        How much of the mean square stays per step; ``alpha`` in PyTorch, ``rho`` in Keras.
    momentum : float in [0, 1)
        How much of the velocity stays; dimensionless.
    epsilon : float > 0
        Keeps the quotient finite; in units of the gradient, or of its square inside of the root.
    centered : bool
        Whether the mean is subtracted, so that the root is of the variance.
    weight_decay : float
        Times the parameter, added to its gradient.
    epsilon_inside_root : bool
        Whether `epsilon` is added to the mean square (TensorFlow, Keras) or to its root (PyTorch).
    rate_in_velocity : bool
        Whether the rate multiplies what goes into the velocity (TensorFlow, Keras).
    lazy : bool
        Whether rows without a gradient stay as they are, see `Optimizer.apply`.

    Raises
    ------
    ValueError
        If a number lies outside of its range.

    Notes
    -----
    s ← ρ s + (1 - ρ) g² [1]_; centered [2]_ a ← ρ a + (1 - ρ) g, and s - a² takes the place of s;
    x ← x - η v with v ← μ v + g / (√s + ε), or √(s + ε) with `epsilon_inside_root`.

    Warning: the defaults are PyTorch's. Keras's are learning_rate=1e-3, decay=0.9, epsilon=1e-7
    with both switches on; the place of `epsilon` shows where gradients are near its root.

    References
    ----------
    .. [1] Tieleman and Hinton, "Lecture 6.5: RMSprop", Coursera, 2012.
    .. [2] Graves, "Generating sequences with recurrent neural networks", arXiv:1308.0850, 2013,
       equations 38 to 45.
    """

    def __init__(
        self,
        learning_rate: Rate = 1e-2,
        decay: float = 0.99,
        momentum: float = 0.0,
        epsilon: float = 1e-8,
        centered: bool = False,
        weight_decay: float = 0.0,
        *,
        epsilon_inside_root: bool = False,
        rate_in_velocity: bool = False,
        lazy: bool = False,
    ) -> None:
        super().__init__(learning_rate, lazy=lazy)
        check("RMSprop", "decay", decay, below=1.0)
        check("RMSprop", "momentum", momentum, below=1.0)
        check("RMSprop", "epsilon", epsilon, positive=True)
        check("RMSprop", "weight_decay", weight_decay)
        self.decay, self.momentum, self.epsilon = decay, momentum, epsilon
        self.centered, self.weight_decay = centered, weight_decay
        self.epsilon_inside_root, self.rate_in_velocity = epsilon_inside_root, rate_in_velocity
        self.slots = (
            Slot("mean_square", real=True),
            *((Slot("mean"),) if centered else ()),
            *((Slot("velocity"),) if momentum else ()),
        )

    def change(
        self, f: Vocabulary, x: Any, g: Any, slots: tuple[Any, ...], numbers: tuple[Any, ...]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the step, the mean square, and what else is remembered."""
        (rate,) = numbers
        if self.weight_decay:
            g = g + self.weight_decay * x
        s = self.decay * slots[0] + (1 - self.decay) * f.squared(g)
        after = [s]
        spread = s
        if self.centered:
            mean = self.decay * slots[1] + (1 - self.decay) * g
            after.append(mean)
            # Rounding can take the difference below zero, where the root would be NaN.
            spread = f.maximum(s - f.squared(mean), 0.0)
        if self.epsilon_inside_root:
            direction = g / f.sqrt(spread + self.epsilon)
        else:
            direction = g / (f.sqrt(spread) + self.epsilon)
        if not self.momentum:
            return -rate * direction, tuple(after)
        if self.rate_in_velocity:
            v = self.momentum * slots[-1] + rate * direction
            return -v, (*after, v)
        v = self.momentum * slots[-1] + direction
        return -rate * v, (*after, v)


class Adagrad(Rule):
    """Adagrad: each element's gradient over the root of the sum of its squares so far.

    Parameters
    ----------
    learning_rate : float, schedule or Tensor
        Step size, in units of the parameters.
    epsilon : float > 0
        Keeps the quotient finite; in units of the gradient, or of its square inside of the root.
    initial_accumulator : float >= 0
        Where the sums start, in units of the gradient's square.
    weight_decay : float
        Times the parameter, added to its gradient.
    epsilon_inside_root : bool
        Whether `epsilon` is added to the sum (TensorFlow, Keras) or to its root (PyTorch).
    lazy : bool
        Whether rows without a gradient stay as they are, see `Optimizer.apply`.

    Raises
    ------
    ValueError
        If a number lies outside of its range.

    Notes
    -----
    s ← s + g², x ← x - η g / (√s + ε), or √(s + ε) with `epsilon_inside_root` [1]_.

    Warning: the defaults are PyTorch's. Keras's are learning_rate=1e-3, initial_accumulator=0.1 and
    epsilon=1e-7 inside of the root. PyTorch's ``lr_decay`` is a schedule here.

    References
    ----------
    .. [1] Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and stochastic
       optimization", JMLR 12, 2011, figure 1 with diagonal matrices.
    """

    def __init__(
        self,
        learning_rate: Rate = 1e-2,
        epsilon: float = 1e-10,
        initial_accumulator: float = 0.0,
        weight_decay: float = 0.0,
        *,
        epsilon_inside_root: bool = False,
        lazy: bool = False,
    ) -> None:
        super().__init__(learning_rate, lazy=lazy)
        check("Adagrad", "epsilon", epsilon, positive=True)
        check("Adagrad", "initial_accumulator", initial_accumulator)
        check("Adagrad", "weight_decay", weight_decay)
        self.epsilon, self.weight_decay = epsilon, weight_decay
        self.epsilon_inside_root = epsilon_inside_root
        self.slots = (Slot("sum_of_squares", real=True, initial=initial_accumulator),)

    @property
    def exact_on_rows(self) -> bool:
        """Whether rows without a gradient stay: without decay."""
        return not self.weight_decay

    def change(
        self, f: Vocabulary, x: Any, g: Any, slots: tuple[Any, ...], numbers: tuple[Any, ...]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the step and the sum of squares."""
        (rate,) = numbers
        if self.weight_decay:
            g = g + self.weight_decay * x
        s = slots[0] + f.squared(g)
        if self.epsilon_inside_root:
            return -rate * g / f.sqrt(s + self.epsilon), (s,)
        return -rate * g / (f.sqrt(s) + self.epsilon), (s,)
