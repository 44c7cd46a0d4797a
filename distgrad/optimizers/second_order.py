"""LBFGS and NewtonCG: whole minimisations by SciPy, with derivatives from the tape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.dtypes import is_complex, is_differentiable
from distgrad.eager import asarray
from distgrad.errors import DTypeError, ShapeError
from distgrad.ops.shaping.structure import astype
from distgrad.optimizers.rules import check
from distgrad.sparse import densified
from distgrad.tape.forward import ForwardAccumulator
from distgrad.tape.gradient_tape import GradientTape
from distgrad.variable import Variable

Loss = Callable[[], Any]


@dataclass(frozen=True)
class Minimum:
    """What a minimisation came to; the variables hold the point.

    Attributes
    ----------
    loss : float
        The loss there.
    gradient_norm : float
        The largest magnitude in its gradient.
    iterations, evaluations, products : int
        How many steps were made, how often the loss with its gradient was computed, and how many
        Hessian-vector products.
    converged : bool
        Whether the tolerance was reached.
    message : str
        SciPy's words on why it stopped.
    """

    loss: float
    gradient_norm: float
    iterations: int
    evaluations: int
    products: int
    converged: bool
    message: str


class _Minimizer:
    """What both have in common: the variables as one vector of float64, and SciPy called on it."""

    method = ""
    uses_products = False
    _options: dict[str, Any]

    def minimize(
        self,
        loss_fn: Loss,
        variables: Any,
        *,
        callback: Callable[[int, float], None] | None = None,
    ) -> Minimum:
        """Change variables until a loss is least.

        Parameters
        ----------
        loss_fn : callable
            Takes nothing, reads the variables and returns a real scalar; always the same one for
            the same values: over the whole data, without randomness.
        variables : Variable or nest of Variable
            Real ones; they are one vector to SciPy, in double precision. With float32 variables the
            loss is too coarse for the last line searches: `converged` may be false at the minimum.
        callback : callable, optional
            Called with the number of the step and the last loss computed.

        Returns
        -------
        Minimum
            Whether it converged, and the figures. On an error in `loss_fn` the variables keep the
            point at which it was raised.

        Raises
        ------
        ImportError
            If SciPy is not installed.
        TypeError
            If a leaf is no variable.
        DTypeError
            If a variable is complex or holds integers.
        ShapeError
            If the loss is no scalar.
        """
        kind = type(self).__name__
        try:
            optimize = import_module("scipy.optimize")
        except ImportError as error:
            raise ImportError(
                f"{kind} needs SciPy, which is not installed: pip install scipy"
            ) from error
        problem = _Problem(kind, loss_fn, tree.flatten(variables)[0])
        steps = 0

        def after_step(_: Any) -> None:
            nonlocal steps
            steps += 1
            if callback is not None:
                callback(steps, problem.loss)

        given: dict[str, Any] = {"jac": True, "callback": after_step, "options": self._options}
        if self.uses_products:
            given["hessp"] = problem.product
        result = optimize.minimize(
            problem.value_and_gradient, problem.vector(), method=self.method, **given
        )
        gradient = result.jac
        if gradient is None:  # SciPy's Newton-CG has none where it finds no first direction
            gradient = problem.value_and_gradient(result.x)[1]
        problem.place(result.x)
        return Minimum(
            float(result.fun),
            float(np.max(np.abs(gradient), initial=0.0)),
            int(result.nit),
            problem.evaluations,
            problem.products,
            bool(result.success),
            str(result.message),
        )


class LBFGS(_Minimizer):
    """Limited-memory BFGS: a quasi-Newton method for smooth losses over whole data.

    Parameters
    ----------
    iterations : int
        The most steps.
    tolerance : float
        The largest magnitude in the gradient at which it stops, in units of the gradient.
    history : int
        How many steps the approximation of the Hessian remembers.

    Notes
    -----
    SciPy's L-BFGS-B [1]_ without bounds; it searches along lines by Moré and Thuente's conditions.
    PyTorch's LBFGS takes one step of a fixed length by default, without such a search.

    References
    ----------
    .. [1] Byrd, Lu, Nocedal and Zhu, "A limited memory algorithm for bound constrained
       optimization", SIAM Journal on Scientific Computing 16(5), 1995.
    """

    method = "L-BFGS-B"

    def __init__(self, iterations: int = 1000, tolerance: float = 1e-6, history: int = 10) -> None:
        check("LBFGS", "iterations", iterations, positive=True)
        check("LBFGS", "tolerance", tolerance)
        check("LBFGS", "history", history, positive=True)
        self._options = {
            **{"maxiter": iterations, "gtol": tolerance, "maxcor": history},
            # The gradient decides, and not that the loss falls slowly; enough evaluations for that.
            **{"ftol": 0.0, "maxfun": 20 * iterations},
        }


class NewtonCG(_Minimizer):
    """Newton's method with conjugate gradients: Hessian-vector products, and no Hessian.

    Parameters
    ----------
    iterations : int
        The most steps.
    tolerance : float
        The mean change of the variables at which it stops, in their units.

    Notes
    -----
    SciPy's Newton-CG [1]_. Products are forward over reverse mode, see `distgrad.hvp`: each costs
    about two gradients.

    References
    ----------
    .. [1] Nocedal and Wright, "Numerical optimization", 2nd edition, Springer 2006, algorithm 7.1.
    """

    method = "Newton-CG"
    uses_products = True

    def __init__(self, iterations: int = 200, tolerance: float = 1e-8) -> None:
        check("NewtonCG", "iterations", iterations, positive=True)
        check("NewtonCG", "tolerance", tolerance)
        self._options = {"maxiter": iterations, "xtol": tolerance}


class _Problem:
    """A loss of variables as a function of one vector."""

    def __init__(self, kind: str, loss_fn: Loss, variables: list[Any]) -> None:
        for variable in variables:
            if not isinstance(variable, Variable):
                raise TypeError(f"{kind}: expected variables, got {type(variable).__name__}")
            if is_complex(variable.dtype) or not is_differentiable(variable.dtype):
                raise DTypeError(
                    f"{kind}: the variable {variable.name!r} has dtype {variable.dtype}; expected "
                    "real floating numbers: keep real and imaginary part as two variables"
                )
        if not variables:
            raise ValueError(f"{kind}: there are no variables; expected one or more")
        self._kind, self._loss_fn, self._variables = kind, loss_fn, variables
        self.loss = float("nan")
        self.evaluations = self.products = 0

    def vector(self) -> Any:
        """Return the values of the variables, end to end."""
        return _joined([variable.value() for variable in self._variables])

    def place(self, vector: Any) -> None:
        """Assign the parts of a vector to the variables."""
        for variable, part in zip(self._variables, self._parts(vector), strict=True):
            variable.assign(part)

    def value_and_gradient(self, vector: Any) -> tuple[float, Any]:
        """Return the loss at a point, and its gradient."""
        self.place(vector)
        self.evaluations += 1
        loss, gradients = self._differentiated()
        self.loss = float(loss)
        return self.loss, _joined(gradients)

    def product(self, vector: Any, direction: Any) -> Any:
        """Return the Hessian at a point times a direction."""
        self.place(vector)
        self.products += 1
        with ForwardAccumulator(self._variables, self._parts(direction)) as forward:
            gradients = self._differentiated()[1]
        return _joined([forward.jvp(g, unconnected_gradients="zero") for g in gradients])

    def _differentiated(self) -> tuple[Any, list[Any]]:
        with GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._variables)
            loss = asarray(self._loss_fn())
        if loss.shape != ():
            raise ShapeError(
                f"{self._kind}: the loss has shape {loss.shape}; expected a scalar: take its mean"
            )
        found = tape.gradient(loss, self._variables, unconnected_gradients="zero")
        return loss, [densified(gradient) for gradient in found]

    def _parts(self, vector: Any) -> list[Any]:
        parts, start = [], 0
        for variable in self._variables:
            size = int(np.prod(variable.shape, dtype=np.int64))
            part = asarray(
                np.asarray(vector[start : start + size], np.float64).reshape(variable.shape),
                backend=variable.backend,
            )
            parts.append(astype(part, variable.dtype))
            start += size
        return parts


def _joined(tensors: list[Any]) -> Any:
    return np.concatenate([np.asarray(t.numpy(), np.float64).reshape(-1) for t in tensors])
