"""tf.nn's cross-entropies from logits."""

from __future__ import annotations

from typing import Any

import distgrad as dg
from distgrad.compat.tensorflow.conversion import at_home, axes, dtype_of, floating, operands
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.values import Tensor, compute, convert_to_tensor


@at_home
def sigmoid_cross_entropy_with_logits(
    labels: Any = None, logits: Any = None, name: str | None = None
) -> Tensor:
    """Return the cross-entropy between labels and the sigmoid of logits, element by element.

    Raises
    ------
    ValueError
        If one is missing, or the shapes differ.
    """
    given = _both(labels, logits)
    x, z = operands("logistic_loss", *given)
    return compute(lambda a, b: dg.sigmoid_cross_entropy(labels=b, logits=a), x, z)


@at_home
def weighted_cross_entropy_with_logits(
    labels: Any, logits: Any, pos_weight: Any, name: str | None = None
) -> Tensor:
    """Return `sigmoid_cross_entropy_with_logits` with positive labels weighted."""
    x, z, q = operands("logistic_loss", *_both(labels, logits), pos_weight)
    return compute(
        lambda a, b, w: dg.nn.weighted_sigmoid_cross_entropy(labels=b, logits=a, positive_weight=w),
        *(x, z, q),
    )


def _both(labels: Any, logits: Any) -> tuple[Tensor, Tensor]:
    if labels is None or logits is None:
        raise ValueError("Both `labels` and `logits` must be provided.")
    x = Tensor(floating("logits", logits))
    z = convert_to_tensor(labels, dtype_hint=x.dtype)
    if z.shape != x.shape:
        raise ValueError(
            f"`logits` and `labels` must have the same shape, received ({x.shape} vs {z.shape})."
        )
    return x, z


@at_home
def softmax_cross_entropy_with_logits(
    labels: Any, logits: Any, axis: int = -1, name: str | None = None
) -> Tensor:
    """Return the cross-entropy between probabilities and the softmax of logits, per example.

    Parameters
    ----------
    labels : Tensor or array
        Probabilities along `axis`, of the shape of `logits`; the gradient flows into them too.
    logits : Tensor, Variable or array
        Unnormalised log-probabilities.
    axis : int
        The axis of the classes.
    """
    x = Tensor(floating("logits", logits))
    z = convert_to_tensor(labels, dtype_hint=x.dtype)
    a, b = operands("SoftmaxCrossEntropyWithLogits", x, z)
    return compute(lambda v, p: dg.softmax_cross_entropy(labels=p, logits=v, axis=axes(axis)), a, b)


@at_home
def sparse_softmax_cross_entropy_with_logits(
    labels: Any, logits: Any, name: str | None = None
) -> Tensor:
    """Return the cross-entropy between classes and the softmax of logits, one for each example.

    Raises
    ------
    ValueError
        If `labels` has not the shape of `logits` without the last axis.
    InvalidArgumentError
        If labels are no integers, or one is no class.
    """
    x = Tensor(floating("logits", logits))
    classes = convert_to_tensor(labels)
    if dtype_of(classes).kind not in "iu":
        raise InvalidArgumentError(
            f"Value for attr 'Tlabels' of {classes.dtype.name} is not in the list of allowed "
            "values: int32, int64; use softmax_cross_entropy_with_logits for probabilities"
        )
    if classes.shape != x.shape[:-1]:
        raise ValueError(
            "`labels.shape` must equal `logits.shape` except for the last dimension. Received: "
            f"labels.shape={classes.shape} and logits.shape={x.shape}"
        )
    return compute(
        lambda v, c: dg.softmax_cross_entropy(labels=c, logits=v), x.read(), classes.read()
    )
