"""Distances between vectors, and losses that keep them, or scores, a margin apart.

Each gives a value for each pair, and reduces no further, as the other losses do.
"""

from __future__ import annotations

from typing import Any

from distgrad.nn.losses import check_pair, cosine_similarity
from distgrad.ops.elementwise.arithmetic import add, minimum, multiply, negative, subtract
from distgrad.ops.elementwise.comparison import greater
from distgrad.ops.elementwise.selection import where
from distgrad.ops.linalg.norms import vector_norm
from distgrad.ops.neural.kinks import relu
from distgrad.ops.neural.softmax import softplus


def pairwise_distance(a: Any, b: Any, /, *, order: float = 2, axis: int = -1) -> Any:
    """Return the distances of pairs of vectors along an axis.

    Parameters
    ----------
    a, b : Tensor, Variable or array
        Of shapes that broadcast.
    order : float
        That of the norm: 2 for Euclid's, 1 for the sum of the parts, infinity for the greatest.
    axis : int
        The axis of the vectors.

    Notes
    -----
    The derivative of Euclid's distance at 0 is 0: nothing is added to the difference, as PyTorch
    does to keep away from it.
    """
    return vector_norm(subtract(a, b), axis=axis, ord=order)


def triplet_margin(
    *,
    anchors: Any,
    positives: Any,
    negatives: Any,
    margin: float = 1.0,
    order: float = 2,
    swap: bool = False,
    axis: int = -1,
) -> Any:
    """Return max(d(anchor, positive) - d(anchor, negative) + margin, 0) for triplets of vectors.

    Parameters
    ----------
    anchors, positives, negatives : Tensor, Variable or array
        What is compared, what should be near, and what far.
    margin : float
        How much farther the negative should be.
    order, axis
        As for `pairwise_distance`.
    swap : bool
        Whether to take d(positive, negative) where it is the smaller of the two distances to the
        negative ("hard negative").

    References
    ----------
    Schroff, Kalenichenko and Philbin, "FaceNet", CVPR 2015, arXiv:1503.03832. For the swap: Balntas
    et al., "Learning shallow convolutional feature descriptors with triplet losses", BMVC 2016.
    """
    near = pairwise_distance(anchors, positives, order=order, axis=axis)
    far = pairwise_distance(anchors, negatives, order=order, axis=axis)
    if swap:
        far = minimum(far, pairwise_distance(positives, negatives, order=order, axis=axis))
    return relu(add(subtract(near, far), margin))


def cosine_embedding(*, labels: Any, a: Any, b: Any, margin: float = 0.0, axis: int = -1) -> Any:
    """Return 1 - cos for pairs of vectors that belong together, max(cos - margin, 0) for others.

    Parameters
    ----------
    labels : Tensor or array
        1 for what belongs together, -1 for what does not: a number for each pair.
    a, b : Tensor, Variable or array
        Of shapes that broadcast.
    margin : float in [-1, 1]
        How alike the others may be.
    axis : int
        The axis of the vectors.
    """
    cosine = cosine_similarity(a, b, axis=axis)
    check_pair("cosine_embedding", "labels", labels, "pairs", cosine)
    return where(greater(labels, 0), subtract(1.0, cosine), relu(subtract(cosine, margin)))


def margin_ranking(*, labels: Any, a: Any, b: Any, margin: float = 0.0) -> Any:
    """Return max(margin - label (a - b), 0) for pairs of scores; the derivative at the margin is 0.

    Parameters
    ----------
    labels : Tensor or array
        1 where the first score should be the higher one, -1 where the second should.
    a, b : Tensor, Variable or array
        The scores.
    margin : float
        By how much.
    """
    difference = subtract(a, b)
    check_pair("margin_ranking", "labels", labels, "pairs", difference)
    return relu(subtract(margin, multiply(labels, difference)))


def soft_margin(*, labels: Any, scores: Any) -> Any:
    """Return log(1 + exp(-label score)), element by element; labels are -1 or 1, as for `hinge`."""
    check_pair("soft_margin", "labels", labels, "scores", scores)
    return softplus(negative(multiply(labels, scores)))
