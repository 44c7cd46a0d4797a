"""An average over examples takes means: sums in disguise are refused, on one rank as on many."""

import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.errors import ShapeError


def gradient(target, **keywords):
    x = dg.Variable([1.0, 2.0, 3.0])
    average = keywords.pop("average", "examples")
    tape = dist.DistributedGradientTape(
        dg.GradientTape(), dist.SerialCommunicator(), average=average
    )
    with tape:
        y = target(x)
    return tape.gradient(y, x, **keywords)


def test_losses_of_single_examples_are_refused_with_the_remedy():
    with pytest.raises(ShapeError, match=r"target has shape \(3,\).*dg\.mean\(losses\)"):
        gradient(lambda x: x * x)


def test_sums_and_given_cotangents_are_taken():
    assert gradient(lambda x: x * x, average="sum").tolist() == [2.0, 4.0, 6.0]
    assert gradient(lambda x: x * x, output_gradients=[1.0, 0.0, 1.0]).tolist() == [2.0, 0.0, 6.0]
