"""Losses beside targets of another shape: those that would pair everything with everything."""

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn

LABELS = np.array([0, 1, 0, 1])

LOSSES = {
    "mean_squared_error": lambda t, p: nn.mean_squared_error(targets=t, predictions=p, axis=None),
    "mean_absolute_error": lambda t, p: nn.mean_absolute_error(targets=t, predictions=p, axis=None),
    "huber": lambda t, p: nn.huber(targets=t, predictions=p),
    "smooth_l1": lambda t, p: nn.smooth_l1(targets=t, predictions=p),
    "hinge": lambda t, p: nn.hinge(labels=t, scores=p),
    "squared_hinge": lambda t, p: nn.squared_hinge(labels=t, scores=p),
    "soft_margin": lambda t, p: nn.soft_margin(labels=t, scores=p),
    "kl_divergence": lambda t, p: nn.kl_divergence(probabilities=t, log_predictions=p),
    "binary_cross_entropy": lambda t, p: nn.binary_cross_entropy(labels=t, probabilities=p),
    "weighted_sigmoid_cross_entropy": lambda t, p: nn.weighted_sigmoid_cross_entropy(
        labels=t, logits=p, positive_weight=2.0
    ),
    "gaussian_negative_log_likelihood": lambda t, p: nn.gaussian_negative_log_likelihood(
        targets=t, means=p, variances=1.0
    ),
    "poisson_negative_log_likelihood": lambda t, p: nn.poisson_negative_log_likelihood(
        targets=t, log_rates=p
    ),
    "margin_ranking": lambda t, p: nn.margin_ranking(labels=t, a=p, b=p),
}


@pytest.mark.parametrize("name", LOSSES)
def test_targets_without_the_last_axis_are_refused_by_name(name):
    column = np.full((4, 1), 0.5)

    with pytest.raises(
        dg.errors.ShapeError, match=rf"^{name}: \w+ have shape \(4,\), \w+ \(4, 1\)"
    ):
        LOSSES[name](np.ones(4), column)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 3), (4, 1), (4, 3)], ids=str)
def test_targets_that_broadcast_to_the_predictions_give_the_loss_of_the_broadcast(name, shape):
    targets, predictions = np.ones(shape), np.full((4, 3), 0.5)

    given = LOSSES[name](targets, predictions)

    whole = LOSSES[name](np.broadcast_to(targets, (4, 3)), predictions)
    np.testing.assert_array_equal(given.numpy(), whole.numpy())


# Not kl_divergence: a sum over classes, of which one prediction has none.
@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"kl_divergence"}))
def test_one_prediction_without_axes_is_one_for_all_targets(name):
    loss = LOSSES[name]

    given = loss(np.ones(4), np.array(0.5))

    np.testing.assert_array_equal(given.numpy(), loss(np.ones(4), np.full(4, 0.5)).numpy())


def test_a_weight_and_a_variance_are_held_to_the_same():
    column = np.full((4, 1), 0.5)

    with pytest.raises(dg.errors.ShapeError, match=r"positive_weight have shape \(4,\)"):
        nn.weighted_sigmoid_cross_entropy(labels=1.0, logits=column, positive_weight=np.ones(4))
    with pytest.raises(dg.errors.ShapeError, match=r"variances have shape \(4,\), means \(4, 1\)"):
        nn.gaussian_negative_log_likelihood(targets=1.0, means=column, variances=np.ones(4))
    with pytest.raises(
        dg.errors.ShapeError, match=r"targets have shape \(4,\), variances \(4, 1\)"
    ):
        nn.gaussian_negative_log_likelihood(targets=np.ones(4), means=0.0, variances=column)


def test_labels_of_classes_and_of_pairs_are_held_to_the_same():
    with pytest.raises(dg.errors.ShapeError, match=r"labels have shape \(4,\), .* \(1,\)"):
        nn.negative_log_likelihood(labels=LABELS, log_probabilities=np.zeros((1, 2)))
    with pytest.raises(dg.errors.ShapeError, match=r"labels have shape \(4,\), pairs \(4, 1\)"):
        nn.cosine_embedding(labels=LABELS, a=np.ones((4, 1, 3)), b=np.ones((4, 1, 3)))


def test_a_traced_loss_refuses_them_too():
    loss = dg.function(lambda t, p: nn.mean_squared_error(targets=t, predictions=p))

    with pytest.raises(dg.errors.ShapeError, match="targets have shape"):
        loss(np.ones(4), np.ones((4, 1)))
