"""tf.autodiff: the tape and the accumulator, which take and give TensorFlow's tensors."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import distgrad as dg
from distgrad import tree
from distgrad.compat.tensorflow.errors import NotATensorError
from distgrad.compat.tensorflow.values import unwrap_nest, wrap, wrap_nest
from distgrad.tensor import Operators


class UnconnectedGradients(Enum):
    """What the gradient is of a source that the target does not depend on."""

    NONE = "none"
    ZERO = "zero"


def _policy(given: UnconnectedGradients | str) -> Any:
    return given.value if isinstance(given, UnconnectedGradients) else given


class GradientTape(dg.GradientTape):
    """Record the operations of a block for automatic differentiation in reverse mode.

    See `distgrad.GradientTape`; this one takes and gives TensorFlow's tensors. Other than
    TensorFlow's, a persistent one also differentiates its own gradients after its block, and there
    are `close`, and ``unconnected_gradients="error"``.

    Parameters
    ----------
    persistent : bool
        Whether `gradient` may be called more than once.
    watch_accessed_variables : bool
        Whether trainable variables are watched by themselves when they are read.

    Examples
    --------
    >>> import distgrad.compat.tensorflow as tf
    >>> x = tf.Variable(3.0)
    >>> with tf.GradientTape() as tape:
    ...     y = x**2
    >>> print(tape.gradient(y, x))
    tf.Tensor(6.0, shape=(), dtype=float32)
    """

    def watch(self, tensor: Any) -> None:
        """Follow values, so that gradients with respect to them can be asked for.

        Raises
        ------
        ValueError
            If the nest holds anything but tensors and variables.
        """
        for value in [None] if tensor is None else tree.flatten(tensor)[0]:
            if not isinstance(value, Operators):
                raise ValueError(
                    f"Passed in object {value!r} of type {type(value).__name__!r}, not tf.Tensor "
                    "or tf.Variable or ExtensionType; convert it first, "
                    "x = tf.convert_to_tensor(x), and compute with that x"
                )
        super().watch(unwrap_nest(tensor))

    def gradient(
        self,
        target: Any,
        sources: Any,
        output_gradients: Any = None,
        unconnected_gradients: Any = UnconnectedGradients.NONE,
        **hooks: Any,
    ) -> Any:
        """Return the gradient of a target with respect to sources.

        Parameters, result and errors are those of `distgrad.GradientTape.gradient`.

        Raises
        ------
        NotATensorError
            If a target or source is no tensor: a `TypeError` and an `AttributeError`.
        """
        _refuse_others("target", target)
        _refuse_others("source", sources)
        if "on_ready" in hooks:
            hooks["on_ready"] = _with_handles(hooks["on_ready"])
        found = super().gradient(
            unwrap_nest(target),
            unwrap_nest(sources),
            unwrap_nest(output_gradients),
            _policy(unconnected_gradients),
            **hooks,
        )
        return wrap_nest(found)

    def jacobian(
        self,
        target: Any,
        sources: Any,
        unconnected_gradients: Any = UnconnectedGradients.NONE,
        parallel_iterations: int | None = None,
        experimental_use_pfor: bool = True,
        **options: Any,
    ) -> Any:
        """Return the Jacobian of a target with respect to sources, all rows at once.

        Parameters, result and errors are those of `distgrad.GradientTape.jacobian`.

        Raises
        ------
        RuntimeError
            If `experimental_use_pfor` is false and the tape is not persistent.
        """
        self._check_loop("jacobian", experimental_use_pfor)
        _refuse_others("target", target, "jacobian")
        _refuse_others("source", sources, "jacobian")
        found = super().jacobian(
            unwrap_nest(target),
            unwrap_nest(sources),
            _policy(unconnected_gradients),
            parallel_iterations,
            experimental_use_pfor,
            **options,
        )
        return wrap_nest(found)

    def batch_jacobian(
        self,
        target: Any,
        source: Any,
        unconnected_gradients: Any = UnconnectedGradients.NONE,
        parallel_iterations: int | None = None,
        experimental_use_pfor: bool = True,
        **options: Any,
    ) -> Any:
        """Return the Jacobian of each example of a batch with respect to its own input.

        Parameters, result and errors are those of `distgrad.GradientTape.batch_jacobian`.

        Raises
        ------
        RuntimeError
            If `experimental_use_pfor` is false and the tape is not persistent.
        """
        self._check_loop("batch_jacobian", experimental_use_pfor)
        found = super().batch_jacobian(
            unwrap_nest(target),
            unwrap_nest(source),
            _policy(unconnected_gradients),
            parallel_iterations,
            experimental_use_pfor,
            **options,
        )
        return wrap(found)

    def _check_loop(self, method: str, vectorised: bool) -> None:
        if not vectorised and not self._persistent:
            raise RuntimeError(
                f"GradientTape must be created with persistent=True to compute the {method} with "
                "eager execution enabled and with experimental_use_pfor set to False."
            )


def _with_handles(on_ready: Callable[[int, Any], None]) -> Callable[[int, Any], None]:
    def announce(position: int, gradient: Any) -> None:
        on_ready(position, wrap(gradient))

    return announce


def _refuse_others(argument: str, nest: Any, method: str = "gradient") -> None:
    if nest is None:  # the tape itself has the word on that
        return
    for position, leaf in enumerate(tree.flatten(nest)[0]):
        if not isinstance(leaf, Operators):
            raise NotATensorError(
                f"{method}: {argument} {position} is a {type(leaf).__name__}; expected a tf.Tensor "
                "or a tf.Variable: convert it with tf.convert_to_tensor and watch it before "
                "computing with it"
            )


class ForwardAccumulator(dg.ForwardAccumulator):
    """Compute Jacobian-vector products of the operations of a block, as they run.

    See `distgrad.ForwardAccumulator`; this one takes and gives TensorFlow's tensors. Nested ones
    are right to any order, where TensorFlow's eager ones are not.

    Parameters
    ----------
    primals : Tensor, Variable or nest of them
        Where to differentiate.
    tangents : nest like `primals`
        The direction.
    """

    def __init__(self, primals: Any, tangents: Any) -> None:
        super().__init__(unwrap_nest(primals), unwrap_nest(tangents))

    def jvp(
        self,
        primals: Any,
        unconnected_gradients: Any = UnconnectedGradients.NONE,
    ) -> Any:
        """Return the tangents of values computed in the block; nothing is computed here.

        Parameters
        ----------
        primals : Tensor, Variable or nest of them
            The values.
        unconnected_gradients : UnconnectedGradients or {"none", "zero"}
            What to return for a value that does not depend on the primals.
        """
        policy = UnconnectedGradients(unconnected_gradients).value
        return wrap_nest(super().jvp(unwrap_nest(primals), policy))


__all__ = ["ForwardAccumulator", "GradientTape"]
