#!/usr/bin/env python3
"""Fit a logistic regression by Newton's method on any number of MPI ranks, to the last digits.

    python scripts/fit_newton.py
    mpirun -n 4 python scripts/fit_newton.py --data digits --metrics newton.jsonl

The minimum of mean cross-entropy + l2/2 |weights|² is unique, so that scikit-learn's coefficients
have to come out: the summary says by how much they differ at most. A step is one of Newton-CG: it
solves for the direction by conjugate gradients, which need products of the Hessian with vectors
and never the Hessian, and searches along it. Loss, gradients and products are averaged over the
examples of all ranks; SciPy decides on numbers that are the same everywhere.
"""

import argparse
import contextvars
import math
import sys
from dataclasses import dataclass

import numpy as np

import distgrad as dg
from distgrad.data.missing import MissingDataError, needed
from distgrad.training import Averaged, EarlyStopping, Job, JobError, Trained, run_job, train

# It ends when the gradient has not become smaller by this in two steps: the rest is rounding.
STALLED = {"patience": 2, "at_least": 1e-12}

EPILOG = """Each step takes all examples, and searches along a line for how far to go, so that
--global-batch and --learning-rate make no sense here: they are refused. --micro-batches and
--deterministic cut the examples as in the other jobs."""


def main() -> int:
    """Run the job as one of its ranks and return the exit status."""
    return run_job(
        fit,
        name="fit_newton",
        description=(__doc__ or "").splitlines()[0],
        steps=30,
        global_batch=1,
        learning_rate=1.0,
        add_arguments=add_arguments,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's own arguments, and take defaults from those that it refuses."""
    parser.add_argument("--data", choices=("breast-cancer", "digits"), default="breast-cancer")
    parser.add_argument("--l2", type=float, default=1e-3, help="weight of half the squared weights")
    parser.set_defaults(dtype="float64", global_batch=None, learning_rate=None)
    parser.epilog = EPILOG


@dataclass(frozen=True)
class Examples:
    """Features of mean 0 and variance 1, shape (n, k); labels (n,), from 0 to classes - 1."""

    features: np.ndarray
    labels: np.ndarray
    classes: int


def load(name: str, dtype: str) -> Examples:
    """Return 569 tumours of two kinds (30 measures each), or 1797 digits of 64 pixels."""
    try:
        source = needed("sklearn.datasets", "the data come", "pip install 'distgrad[examples]'")
    except MissingDataError as error:
        raise JobError(str(error)) from error
    data = source.load_digits() if name == "digits" else source.load_breast_cancer()
    deviation = data.data.std(axis=0)
    features = (data.data - data.data.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return Examples(features.astype(dtype), data.target.astype(np.int64), len(data.target_names))


class Regression:
    """Logits that are linear in the features: one for two classes, else one for each class."""

    def __init__(self, examples: Examples, l2: float) -> None:
        dtype, features = examples.features.dtype, examples.features.shape[1]
        self.classes, self.l2 = examples.classes, l2
        outputs = 1 if examples.classes == 2 else examples.classes
        self.weights = dg.Variable(np.zeros((features, outputs), dtype), name="weights")
        self.biases = dg.Variable(np.zeros(outputs, dtype), name="biases")
        self.variables = [self.weights, self.biases]

    def losses(self, piece: dict[str, np.ndarray]) -> dg.Tensor:
        """Return each example's cross-entropy and the penalty, shape (n,)."""
        logits = dg.asarray(piece["features"]) @ self.weights + self.biases
        penalty = 0.5 * self.l2 * dg.sum(dg.square(self.weights))
        if self.classes == 2:
            labels = piece["labels"].astype(piece["features"].dtype)
            return dg.sigmoid_cross_entropy(labels=labels, logits=logits[:, 0]) + penalty
        return dg.softmax_cross_entropy(labels=piece["labels"], logits=logits) + penalty

    def right(self, piece: dict[str, np.ndarray]) -> np.ndarray:
        """Return for each example whether its class has the largest logit."""
        logits = piece["features"] @ self.weights.numpy() + self.biases.numpy()
        found = logits[:, 0] > 0 if self.classes == 2 else np.argmax(logits, axis=1)
        return found == piece["labels"]


class AveragedLoss:
    """The loss over all ranks' examples, of which a tape gets gradients and Hessian products.

    Ranks average in `Job.gradients`, which records on tapes of its own. To the optimizer's tape the
    loss is one function with a rule, dL = g · dw, whose g has a rule again, dg = H dw.
    """

    def __init__(self, job: Job, model: Regression, batch: dict[str, np.ndarray]) -> None:
        self._job, self._model, self._batch = job, model, batch
        self._at: tuple[bytes, Averaged] | None = None
        self.passes, self.scale = 0, 1.0

        @dg.custom_jvp
        def gradient(*weights: dg.Tensor) -> tuple[dg.Tensor, ...]:
            return tuple(dg.stop_gradient(each) for each in self.averaged().gradients)

        @gradient.defjvp
        def gradient_jvp(primals: tuple, tangents: tuple) -> tuple:
            return gradient(*primals), self._product(tangents)

        @dg.custom_jvp
        def loss(*weights: dg.Tensor) -> dg.Tensor:
            return dg.asarray(np.float64(self.averaged().loss), dtype=weights[0].dtype)

        @loss.defjvp
        def loss_jvp(primals: tuple, tangents: tuple) -> tuple:
            slopes = zip(gradient(*primals), tangents, strict=True)
            return loss(*primals), sum(dg.sum(g * t) for g, t in slopes)

        self._loss = loss

    def __call__(self) -> dg.Tensor:
        """Return the loss at the variables' values, times the scale."""
        return self.scale * self._loss(*self._model.variables)

    def averaged(self) -> Averaged:
        """Return loss and gradients at the variables' values; all ranks call it."""
        place = b"".join(each.numpy().tobytes() for each in self._model.variables)
        if self._at is None or self._at[0] != place:
            self._at = place, self._alone(self._model.losses)
        return self._at[1]

    def _product(self, direction: tuple) -> tuple[dg.Tensor, ...]:
        """Return the Hessian times a direction: the gradient of the slope in that direction."""
        tangents = [dg.asarray(each.numpy()) for each in direction]

        def slopes(piece: dict[str, np.ndarray]) -> dg.Tensor:
            with dg.ForwardAccumulator(self._model.variables, tangents) as forward:
                losses = self._model.losses(piece)
            return forward.jvp(losses)

        return tuple(self._alone(slopes).gradients)

    def _alone(self, function: object) -> Averaged:
        """Average in a context of its own, in which the optimizer's tapes do not listen."""
        self.passes += 1
        given = self._job.gradients, function, self._batch, self._model.variables
        return contextvars.Context().run(*given)


def fit(job: Job) -> None:
    """Fit, compare and report."""
    arguments = job.arguments
    for name in ("global_batch", "learning_rate"):
        if getattr(arguments, name) is not None:
            raise JobError(
                f"--{name.replace('_', '-')}: Newton's method takes all examples and searches for "
                "the length of a step; leave it out"
            )
    if not 0 < arguments.l2 < math.inf:
        raise JobError(
            f"--l2 {arguments.l2}: expected more than 0, or there may be no minimum, and finite"
        )
    examples = load(arguments.data, arguments.dtype)
    arguments.global_batch, arguments.learning_rate = len(examples.labels), 1.0
    model = Regression(examples, arguments.l2)
    batch = {"features": examples.features, "labels": examples.labels}
    loss = AveragedLoss(job, model, batch)

    def step(number: int) -> dict[str, float]:
        passes = loss.passes
        # SciPy takes a curvature g·Hg below 7e-16 for none, which it is long before rounding ends
        # the descent: multiplied by this, the loss has the same minimum and a visible curvature.
        norm = loss.averaged().grad_norm
        loss.scale = norm**-0.5 if norm else 1.0
        # Newton-CG carries nothing from one step to the next, so a checkpoint is the variables.
        found = dg.optimizers.NewtonCG(iterations=1).minimize(loss, model.variables)
        return {
            **loss.averaged().record(),
            "products": found.products,
            "passes": loss.passes - passes,
        }

    def compare() -> dict[str, float]:
        difference = job.first_rank(lambda: largest_difference(model, examples))
        right = float(np.mean(model.right(batch)))
        return {
            "accuracy": right,
            "largest_difference": float(job.sum_over_ranks([difference or 0.0])[0]),
        }

    def facts(trained: Trained) -> dict[str, str]:
        difference, norms = trained.final["largest_difference"], trained.history.column("grad_norm")
        return {
            "gradient": " to ".join(f"{each:.1e}" for each in (*norms[:1], *norms[-1:])),
            "against scikit-learn": f"coefficients differ by {difference:.1e} at most",
        }

    train(
        job,
        step,
        variables=model.variables,
        state={"model": model},
        evaluate=compare,
        early_stopping=EarlyStopping("grad_norm", **STALLED),
        title="Logistic regression, by Newton's method",
        show={"grad_norm": "{:.1e}".format, "products": "{:.0f} products".format},
        facts=facts,
    )


def largest_difference(model: Regression, examples: Examples) -> float:
    """Return how far scikit-learn's coefficients are from ours at most."""
    linear_model = needed("sklearn.linear_model", "the peer comes", "pip install scikit-learn")
    weight = 1 / (model.l2 * len(examples.labels))  # scikit-learn's is that of the losses' sum
    peer = linear_model.LogisticRegression(
        C=weight, tol=1e-12, max_iter=10_000, solver="newton-cholesky"
    )
    peer.fit(examples.features.astype(np.float64), examples.labels)
    # A number added to all biases changes no probability: they are compared about their mean.
    ours, theirs = model.biases.numpy(), peer.intercept_
    if model.classes > 2:
        ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    gaps = [model.weights.numpy().T - peer.coef_, ours - theirs]
    return float(max(np.max(np.abs(gap)) for gap in gaps))


if __name__ == "__main__":
    sys.exit(main())
