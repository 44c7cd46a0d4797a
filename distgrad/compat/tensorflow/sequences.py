"""tf.nn.ctc_loss: the loss of label sequences whose places in time are not known."""

from __future__ import annotations

from typing import Any

import distgrad as dg
from distgrad.compat.tensorflow.conversion import floating
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.missing import refuse_argument
from distgrad.compat.tensorflow.values import Tensor, compute, convert_to_tensor


def ctc_loss(
    labels: Any,
    logits: Any,
    label_length: Any,
    logit_length: Any,
    logits_time_major: bool = True,
    unique: Any = None,
    blank_index: int | None = None,
    name: str | None = None,
) -> Tensor:
    """Return minus the log-probability of label sequences under any alignment in time.

    Parameters
    ----------
    labels : Tensor or array of int, shape (batch, length)
        Dense labels; what stands behind an example's length does not matter.
    logits : Tensor, Variable or array, shape (steps, batch, classes)
        Unnormalised log-probabilities; (batch, steps, classes) unless `logits_time_major`.
    label_length, logit_length : Tensor or array of int, shape (batch,)
        How many labels and steps each example has.
    logits_time_major : bool
        Whether the first axis of the logits is time.
    unique
        None: what TensorFlow gains by it on TPUs is not needed here.
    blank_index : int, optional
        The class of the blank, 0 by default; counted from the end if negative.

    Raises
    ------
    InvalidArgumentError
        If the logits are not floating.
    UnimplementedError
        For `unique`.

    Notes
    -----
    Infinite, with a gradient of 0, where no alignment exists, as where there are more labels than
    steps; TensorFlow gives a large finite number there. float64 is taken, too.
    """
    if unique is not None:
        refuse_argument("ctc_loss", "unique", unique, "None")
    if label_length is None or logit_length is None:
        raise ValueError("`label_length` and `logit_length` are required for dense `labels`.")
    scores = floating("ctc_loss", logits)
    if scores.ndim != 3:
        raise InvalidArgumentError(
            f"ctc_loss: logits must have rank 3, got shape {list(scores.shape)}"
        )
    blank = 0 if blank_index is None else int(blank_index)
    integers = (convert_to_tensor(each) for each in (labels, label_length, logit_length))
    return compute(
        lambda x, z, lengths, steps: dg.nn.ctc_loss(
            labels=z,
            logits=x,
            label_lengths=lengths,
            logit_lengths=steps,
            blank=blank % x.shape[-1],
            time_major=bool(logits_time_major),
        ),
        *(scores, *integers),
    )
