"""Connectionist temporal classification: the loss of labels whose places in time are not known."""

from __future__ import annotations

from typing import Any

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply, operands
from distgrad.dtypes import as_dtype, int64, is_differentiable
from distgrad.errors import DTypeError, ShapeError
from distgrad.ops.creation import full_like
from distgrad.ops.neural.alignments import loss_composed, slope_composed
from distgrad.ops.neural.softmax import log_softmax
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.rules import batching
from distgrad.ops.rules.dual import derivative
from distgrad.ops.rules.families import sum_of
from distgrad.ops.shaping.structure import astype, permute_dims, zeros_like
from distgrad.shapes import Shape, shape_given


def _spec(
    log_probabilities: Spec, labels: Spec, steps: Spec, label_lengths: Spec, *, blank: int
) -> Spec:
    shape = tuple(log_probabilities.shape)
    lead = shape[:-2]
    _check_logits(shape)
    dtype = as_dtype(log_probabilities.dtype)
    if not is_differentiable(dtype) or dtype.kind == "c":
        raise DTypeError(f"ctc_loss: logits are {dtype}; expected real floating numbers")
    if tuple(labels.shape)[:-1] != lead or len(labels.shape) != len(lead) + 1:
        raise ShapeError(
            f"ctc_loss: labels of shape {(*lead, 'length')} expected for logits of shape {shape}, "
            f"got {tuple(labels.shape)}; pad them to one length, and give label_lengths="
        )
    for name, given in (("logit_lengths", steps), ("label_lengths", label_lengths)):
        if tuple(given.shape) != lead:
            raise ShapeError(
                f"ctc_loss: {name} of shape {lead} expected for logits of shape {shape}, got "
                f"{tuple(given.shape)}"
            )
    if not 0 <= blank < shape[-1]:
        raise ValueError(
            f"ctc_loss: blank is {blank}; expected a class, 0 to {shape[-1] - 1} for logits of "
            f"shape {shape}"
        )
    return Spec(lead, dtype)


def _check_logits(shape: Shape) -> None:
    if len(shape) < 2 or 0 in shape[-2:]:
        raise ShapeError(
            f"ctc_loss: logits (..., steps, classes) of one or more steps and classes expected, "
            f"got shape {shape}"
        )


def _scaled(xp: Namespace, g: Array, slope: Array) -> Array:
    return xp.expand_dims(xp.expand_dims(g, axis=-1), axis=-1) * slope


def _vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    return xp.ctc_vjp(g, *xs, **params), None, None, None


def _jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    slope = xp.ctc_vjp(xp.ones_like(y), *xs, **params)
    return xp.sum(tangents[0] * slope, axis=(-2, -1))


CTC = Op(
    "ctc", Kind.OPAQUE, _spec, _vjp, _jvp, Keep.INPUTS, loss_composed, batching.trailing("ctc")
)


def _pull_spec(g: Spec, *rest: Spec, blank: int) -> Spec:
    _spec(*rest, blank=blank)
    return Spec(tuple(rest[0].shape), as_dtype(rest[0].dtype))


def _pull_compose(xp: Namespace, g: Array, scores: Array, *rest: Array, blank: int) -> Array:
    slope = slope_composed(xp, scores, *rest, blank=blank)
    return xp.astype(_scaled(xp, g, slope), dtype=scores.dtype)


def _curved(xp: Namespace, xs: Any, along: Array, params: Any) -> Array:
    """Return the derivative of the pullback along a direction of the log-probabilities."""
    return derivative(_pull_compose, xp, xs, (None, along, None, None, None), params)


def _pull_vjp(xp: Namespace, a: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    to_g = to_scores = None
    if needs[0]:
        slope = xp.ctc_vjp(xp.ones_like(xs[0]), *xs[1:], **params)
        to_g = xp.sum(a * slope, axis=(-2, -1))
    if needs[1]:  # the Hessian of each example's loss is symmetric
        to_scores = _curved(xp, xs, a, params)
    return to_g, to_scores, None, None, None


def _pull_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    along_g, along_scores = tangents[:2]
    terms = []
    if along_g is not None:
        terms.append(xp.ctc_vjp(along_g, *xs[1:], **params))
    if along_scores is not None:
        terms.append(_curved(xp, xs, along_scores, params))
    return sum_of(terms)


CTC_VJP = Op(
    "ctc_vjp",
    Kind.OPAQUE,
    _pull_spec,
    _pull_vjp,
    _pull_jvp,
    Keep.INPUTS,
    _pull_compose,
    batching.trailing("ctc_vjp"),
)


def ctc_loss(
    *,
    labels: Any,
    logits: Any,
    label_lengths: Any = None,
    logit_lengths: Any = None,
    blank: int = 0,
    time_major: bool = False,
) -> Any:
    """Return minus the log-probability of label sequences under any alignment in time.

    Parameters
    ----------
    labels : Tensor or array of int, shape (B, L)
        The classes of each example, in order, without blanks; padded to one length by anything.
    logits : Tensor, Variable or array, shape (B, T, C), or (T, B, C) with `time_major`
        Unnormalised log-probabilities of each class at each step, real floating. Log-probabilities
        may stand here as well: their softmax is what they are of.
    label_lengths : Tensor or array of int, shape (B,), optional
        How many labels each example has; all of them by default. 0 means nothing but blanks.
    logit_lengths : Tensor or array of int, shape (B,), optional
        How many steps each example has; all of them by default.
    blank : int
        The class of the blank: 0 in PyTorch, and in TensorFlow for dense labels.
    time_major : bool
        Whether the first axis of `logits` is time.

    Returns
    -------
    Tensor, shape (B,)
        In nats. Infinite where no alignment exists, as where there are more labels than steps; the
        gradient is 0 there. ``dg.where(dg.isfinite(loss), loss, 0)`` leaves such examples out.

    Raises
    ------
    ShapeError
        If shapes do not fit.
    DTypeError
        If labels or lengths are no integers, or logits are not real floating.
    ValueError
        If `blank` is no class; on the CPU also if a length is negative or beyond its axis, or if
        labels are the blank.
    IndexError
        If a label is no class, on the CPU.

    Notes
    -----
    A path names one class at each step; its labels are what is left if repeats are merged and then
    blanks are left out. The loss is minus the logarithm of the sum of all paths' probabilities, by
    the recursion over the labels l' with a blank before, between and after them,
    ``alpha_t(s) = (alpha_{t-1}(s) + alpha_{t-1}(s-1) [+ alpha_{t-1}(s-2)]) p_t(l'_s)``, in which
    the last term is there if l'_s is no blank and not l'_{s-2} [1]_. It runs on logarithms, brought
    to sum 1 at each step; the gradient, ``softmax(logits) - posterior``, takes the posterior as a
    softmax over states, so that it is precise for sequences of any length.

    References
    ----------
    .. [1] Graves, Fernández, Gomez and Schmidhuber, "Connectionist temporal classification:
       labelling unsegmented sequence data with recurrent neural networks", ICML 2006, section 4.

    Examples
    --------
    >>> import distgrad as dg
    >>> logits = dg.zeros((1, 3, 4))
    >>> loss = dg.nn.ctc_loss(labels=[[2, 3]], logits=logits)  # 5 of 64 paths
    >>> print(f"{dg.exp(-loss)[0] * 64:.3f}")
    5.000
    """
    logits, labels, label_lengths, logit_lengths = operands(
        logits, labels, label_lengths, logit_lengths, joint=False
    )
    if time_major:
        if len(logits.shape) != 3:
            raise ShapeError(
                f"ctc_loss: logits of shape {tuple(logits.shape)}; expected (steps, batch, classes)"
            )
        logits = permute_dims(logits, (1, 0, 2))
    _check_logits(tuple(logits.shape))
    scores = log_softmax(logits, axis=-1)
    labels = _as_integers("labels", labels)
    if label_lengths is None or logit_lengths is None:
        # Beside the logits, wherever those are.
        each = astype(zeros_like(sum_over(scores, axis=(-2, -1))), int64)
        if label_lengths is None:
            label_lengths = full_like(each, shape_given(labels)[-1])
        if logit_lengths is None:
            logit_lengths = full_like(each, scores.shape[-2])
    steps = _as_integers("logit_lengths", logit_lengths)
    lengths = _as_integers("label_lengths", label_lengths)
    return apply(CTC, scores, labels, steps, lengths, blank=int(blank))


def _as_integers(name: str, array: Any) -> Any:
    if as_dtype(array.dtype).kind in "iu":
        return array
    if array.shape[-1:] == (0,):  # an empty list holds floating numbers
        return astype(array, int64)
    raise DTypeError(f"ctc_loss: {name} are {array.dtype}; expected integers")


OPS = (CTC, CTC_VJP)
