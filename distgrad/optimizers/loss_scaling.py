"""Dynamic loss scaling: keep small gradients above half precision's smallest number."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad import tree
from distgrad.core.seam import VALUES
from distgrad.errors import TraceError
from distgrad.ops.elementwise.comparison import isfinite
from distgrad.ops.reducing.reductions import all as all_of
from distgrad.ops.shaping.structure import astype, stack
from distgrad.optimizers.rules import check
from distgrad.optimizers.stateful import Optimizer
from distgrad.sparse import IndexedSlices
from distgrad.tensor import Tensor
from distgrad.variable import Variable

_OUTSIDE = "call it outside of dg.function, with the gradients that the traced function returns"
_HANDED_IN = (
    "call it outside of dg.function, or multiply by an argument of the traced function and hand "
    "dg.asarray(float(scale.factor)) in"
)


class LossScale:
    """Multiplies a loss so that its gradients do not underflow, by a number that finds itself.

    Parameters
    ----------
    initial : float
        The first factor; powers of two lose no digits.
    growth_interval : int
        After how many finite steps in a row the factor grows.
    growth : float
        By what it is multiplied then; above 1.
    backoff : float in (0, 1)
        By what it is multiplied after a step whose gradients were not finite, which is skipped.
    smallest : float
        What it never falls below.

    Attributes
    ----------
    variables : list of Variable
        The factor and the count of finite steps, for checkpoints.

    Raises
    ------
    ValueError
        If a number lies outside of its range.

    Notes
    -----
    The defaults are PyTorch's (``GradScaler``); TensorFlow's has the same interval and an initial
    factor of 2¹⁵. Over several ranks pass averaged gradients: they are the same on each, and so is
    the decision to skip.

    References
    ----------
    .. [1] Micikevicius et al., "Mixed precision training", ICLR 2018, arXiv:1710.03740,
       section 3.2.

    Examples
    --------
    >>> import distgrad as dg
    >>> x = dg.Variable(3.0, dtype="float16")
    >>> scale, optimizer = dg.optimizers.LossScale(), dg.optimizers.SGD(0.5)
    >>> scale.apply(optimizer, dg.asarray(dg.inf, dtype="float16"), x)
    False
    >>> float(x), float(scale.factor)
    (3.0, 32768.0)
    """

    def __init__(
        self,
        initial: float = 65536.0,
        growth_interval: int = 2000,
        growth: float = 2.0,
        backoff: float = 0.5,
        smallest: float = 1.0,
    ) -> None:
        check("LossScale", "initial", initial, positive=True)
        check("LossScale", "growth_interval", growth_interval, positive=True)
        check("LossScale", "smallest", smallest, positive=True)
        check("LossScale", "backoff", backoff, positive=True)
        if not growth > 1 or not backoff < 1:
            raise ValueError(
                f"LossScale: growth is {growth} and backoff {backoff}; expected them above 1 and "
                "below 1"
            )
        self._interval, self._growth, self._backoff = growth_interval, growth, backoff
        self._smallest = smallest
        self.factor = Variable(
            np.float32(initial), trainable=False, name="loss_scale/factor", backend="numpy"
        )
        self._good = Variable(
            np.int64(0), trainable=False, name="loss_scale/finite_steps", backend="numpy"
        )

    @property
    def variables(self) -> list[Variable]:
        """The factor, and how many steps in a row were finite."""
        return [self.factor, self._good]

    def scale(self, loss: Any) -> Any:
        """Return a loss times the factor; to be called within the tape.

        A traced function takes ``dg.asarray(float(scale.factor))`` as an argument in its place.
        """
        self._refuse_traces("scale", _HANDED_IN)
        return loss * float(self.factor)

    def unscale(self, gradients: Any) -> Any:
        """Return gradients divided by the factor; those in half precision in float32."""
        self._refuse_traces("unscale")
        inverse = 1.0 / float(self.factor)

        def divided(gradient: Any) -> Any:
            half = np.dtype(gradient.dtype).name in ("float16", "bfloat16")
            if half and isinstance(gradient, IndexedSlices):
                gradient = gradient.to_dense()
            return (astype(gradient, "float32") if half else gradient) * inverse

        return tree.map(divided, gradients)

    def apply(self, optimizer: Optimizer, gradients: Any, variables: Any) -> bool:
        """Let an optimizer take a step with unscaled gradients, or skip it; adjust the factor.

        Parameters
        ----------
        optimizer : Optimizer
            Who takes the step.
        gradients : nest of Tensor, IndexedSlices or None
            Those of the scaled loss.
        variables : nest of Variable
            In the same structure.

        Returns
        -------
        bool
            Whether the step was taken: whether all gradients were finite.
        """
        if hasattr(optimizer, "apply_scaled"):  # it adds up over ranks, and then looks
            return bool(optimizer.apply_scaled(self, gradients, variables))
        unscaled = self.unscale(gradients)
        finite = self.adjust(unscaled)
        if finite:
            optimizer.apply(unscaled, variables)
        return finite

    def adjust(self, gradients: Any) -> bool:
        """Return whether gradients are all finite, and let the factor grow or fall accordingly."""
        self._refuse_traces("adjust")
        return self.note(_are_finite(tree.flatten(gradients)[0]))

    def note(self, finite: bool) -> bool:
        """Let the factor grow or fall after a step whose gradients were finite, or not."""
        self._refuse_traces("note")
        if not finite:
            self.factor.assign(max(float(self.factor) * self._backoff, self._smallest))
            self._good.assign(0)
            return False
        steps = int(self._good) + 1
        grown = float(self.factor) * self._growth
        if steps >= self._interval:
            if grown <= np.finfo(np.float32).max:
                self.factor.assign(grown)
            steps = 0
        self._good.assign(steps)
        return True

    def _refuse_traces(self, method: str, remedy: str = _OUTSIDE) -> None:
        if VALUES.get() is not None:
            raise TraceError(
                f"LossScale.{method}: whether a step is skipped is decided in Python; {remedy}"
            )


def _are_finite(gradients: list[Any]) -> bool:
    """Return whether all numbers of gradients are finite; each device is waited for once."""
    found: dict[str, list[Tensor]] = {}
    for gradient in gradients:
        whole: Tensor = gradient.values if isinstance(gradient, IndexedSlices) else gradient
        place = f"{whole.backend.name} {whole.device}"
        found.setdefault(place, []).append(all_of(isfinite(whole)))
    return all(bool(all_of(stack(each))) for each in found.values())
