"""The loss of label sequences: all alignments counted, PyTorch's values, precision, refusals."""

import itertools

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, PositionError, ShapeError
from distgrad.nn import ctc_loss
from distgrad.testing import check_gradients
from distgrad.testing.inputs import values

LOGITS = values((4, 5, 3), -2.1, 2.0)
# A repeat that needs a blank between, padding that is no class, no label at all, a full row.
LABELS = np.array([[1, 1], [2, -7], [9, 9], [2, 1]])
LABEL_LENGTHS, LOGIT_LENGTHS = np.array([2, 1, 0, 2]), np.array([5, 4, 3, 2])
LENGTHS = {"label_lengths": LABEL_LENGTHS, "logit_lengths": LOGIT_LENGTHS}


def by_enumeration(logits, labels, blank):
    """Return minus the log of the sum of the probabilities of all paths with these labels."""
    chances = np.exp(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    total = 0.0
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        merged = [label for label, _ in itertools.groupby(path)]
        if [label for label in merged if label != blank] == list(labels):
            total += np.prod([chances[t, label] for t, label in enumerate(path)])
    return -np.log(total)


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("wrap", [lambda f: f, dg.function], ids=["eager", "traced"])
def test_it_is_the_sum_over_all_paths(blank, wrap):
    labels = LABELS if blank == 0 else np.where(LABELS == 2, 0, LABELS)
    expected = [
        by_enumeration(x[:steps], row[:length], blank)
        for x, row, length, steps in zip(LOGITS, labels, LABEL_LENGTHS, LOGIT_LENGTHS, strict=True)
    ]

    loss = wrap(lambda x: ctc_loss(labels=labels, logits=x, blank=blank, **LENGTHS))(LOGITS)

    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-12)


def test_derivatives_agree_with_differences_to_second_order():
    weights = dg.asarray(values((4,), 0.5, 2.0))

    check_gradients(
        lambda x: weights * ctc_loss(labels=LABELS, logits=x, **LENGTHS), [dg.asarray(LOGITS)]
    )


def test_lengths_are_the_whole_axes_unless_given_and_time_may_come_first():
    labels = [[1, 2], [2, 1], [1, 1], [2, 2]]
    whole = {"label_lengths": [2] * 4, "logit_lengths": [5] * 4}

    loss = ctc_loss(labels=labels, logits=LOGITS, **whole)
    turned = ctc_loss(labels=labels, logits=LOGITS.transpose(1, 0, 2), time_major=True)

    assert np.array_equal(loss.numpy(), turned.numpy())


def test_examples_do_not_see_each_other():
    loss = ctc_loss(labels=LABELS, logits=LOGITS, **LENGTHS).numpy()
    x = dg.asarray(LOGITS)
    mapped = dg.vmap(
        lambda x, labels, length, steps: ctc_loss(
            labels=labels[None],
            logits=x[None],
            label_lengths=length[None],
            logit_lengths=steps[None],
        )[0]
    )(x, LABELS, LABEL_LENGTHS, LOGIT_LENGTHS)

    np.testing.assert_allclose(mapped.numpy(), loss, rtol=1e-13)


def test_what_has_no_alignment_is_infinite_and_its_gradient_is_0():
    x = dg.asarray(LOGITS[:2, :3])

    with dg.GradientTape() as tape:
        tape.watch(x)
        # Two equal labels need three steps.
        loss = ctc_loss(labels=[[1, 1], [1, 2]], logits=x, logit_lengths=[2, 2])
        mean = dg.sum(dg.where(dg.isfinite(loss), loss, 0.0))
    gradient = tape.gradient(mean, x).numpy()

    assert loss.numpy()[0] == np.inf
    assert np.array_equal(gradient[0], np.zeros((3, 3)))
    assert np.array_equal(gradient[:, 2], np.zeros((2, 3)))  # behind the end
    assert np.abs(gradient[1, :2]).max() > 0.1


def test_a_class_that_is_ruled_out_leaves_everything_else_finite():
    ruled_out = np.array(LOGITS)
    ruled_out[..., 2] = -np.inf
    x = dg.asarray(ruled_out[:1])

    with dg.GradientTape() as tape:
        tape.watch(x)
        loss = ctc_loss(labels=[[1]], logits=x)
    expected = by_enumeration(np.where(np.isinf(ruled_out[0]), -1e3, ruled_out[0]), [1], 0)

    np.testing.assert_allclose(loss.numpy(), [expected], rtol=1e-12)
    assert np.isfinite(tape.gradient(loss, x).numpy()).all()


def test_long_sequences_keep_their_precision_in_float32():
    generator = np.random.default_rng(5)
    logits = generator.normal(0, 4, (1, 3000, 6))
    labels = generator.integers(1, 6, (1, 400))
    found = {}
    for dtype in ("float32", "float64"):
        x = dg.asarray(logits, dtype=dtype)
        with dg.GradientTape() as tape:
            tape.watch(x)
            loss = ctc_loss(labels=labels, logits=x)
        found[dtype] = loss.numpy(), tape.gradient(loss, x).numpy()

    (narrow, narrow_slope), (wide, wide_slope) = found.values()
    # 3000 additions of about 5, each off by half a last digit of what it adds to.
    np.testing.assert_allclose(narrow, wide, rtol=3000 * np.finfo("float32").eps / 20)
    np.testing.assert_allclose(narrow_slope, wide_slope, atol=5e-4)
    np.testing.assert_allclose(wide_slope.sum(-1), 0, atol=1e-10)


def test_values_and_gradients_are_those_of_pytorch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    generator = np.random.default_rng(3)
    logits = generator.normal(0, 2, (5, 30, 7))
    labels = generator.integers(0, 6, (5, 8))
    lengths, steps = np.array([8, 3, 0, 5, 1]), np.array([30, 9, 4, 21, 1])
    theirs = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.ctc_loss(
        torch.log_softmax(theirs, -1).transpose(0, 1),
        torch.tensor(labels),
        torch.tensor(steps),
        torch.tensor(lengths),
        blank=6,
        reduction="none",
    )
    expected.sum().backward()

    x = dg.asarray(logits)
    with dg.GradientTape() as tape:
        tape.watch(x)
        loss = ctc_loss(
            labels=labels, logits=x, label_lengths=lengths, logit_lengths=steps, blank=6
        )

    np.testing.assert_allclose(loss.numpy(), expected.detach().numpy(), rtol=1e-10)
    np.testing.assert_allclose(tape.gradient(loss, x).numpy(), theirs.grad.numpy(), atol=1e-10)


REFUSED = {
    "a label beyond the classes": ({"labels": [[1, 3]]}, PositionError, "label 3 is no class"),
    "a label that is the blank": ({"labels": [[1, 0]]}, ValueError, "label is 0, which is the bl"),
    "labels without lengths": ({"labels": [[1, -1]]}, PositionError, "label_lengths="),
    "more steps than there are": ({"logit_lengths": [6]}, ValueError, "logit_lengths has 6"),
    "a negative length": ({"label_lengths": [-1]}, ValueError, "label_lengths has -1"),
    "a blank that is no class": ({"blank": 3}, ValueError, "blank is 3"),
    "labels of one axis": ({"labels": [1, 2]}, ShapeError, "labels of shape"),
    "lengths of another batch": ({"logit_lengths": [5, 5]}, ShapeError, "logit_lengths of shape"),
    "floating labels": ({"labels": [[1.0, 2.0]]}, DTypeError, "labels are float32"),
    "time first of one axis": ({"logits": LOGITS[0], "time_major": True}, ShapeError, "steps, b"),
    "no steps": ({"logits": np.zeros((1, 0, 3))}, ShapeError, "one or more steps"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_task_is_refused(case):
    options, error, message = REFUSED[case]

    with pytest.raises(error, match=message):
        ctc_loss(**{"labels": [[1, 2]], "logits": LOGITS[:1], **options})
