#!/usr/bin/env python3
"""Train a network to write digits, against a critic that tells them from real ones.

    python scripts/train_gan.py
    mpirun -n 4 python scripts/train_gan.py --steps 2000 --metrics gan.jsonl

A Wasserstein GAN with gradient penalty on the 1797 scanned digits of scikit-learn, 8 x 8 pixels. In
a step the critic is updated several times, then the writer once. The penalty is on the norm of the
critic's gradient with respect to images, so the critic's update takes second-order gradients: one
tape inside another. With --deterministic the losses agree to the bit for every number of ranks,
else to rounding.

Gulrajani et al., "Improved training of Wasserstein GANs", arXiv:1704.00028, algorithm 1.
"""

import argparse
import sys

import numpy as np

import distgrad as dg
from distgrad.data import from_arrays
from distgrad.data.packaged import MissingDataError, digits
from distgrad.training import Job, JobError, Trained, run_job, train

PIXELS = 64
CLASSES = 10
NOISE = 16  # numbers that the writer makes an image of
HELD_OUT = 3  # every third digit is compared with, and not trained on
PENALTY = 10.0  # algorithm 1's lambda, which holds for pixels from -1 to 1, too
# Adam's decays and epsilon. After 300 steps the samples are at a distance of 1.6 with these, at a
# rate of 1e-3, and of 2.2 with those of algorithm 1 (0, 0.9, 1e-8) at half of it.
B1, B2, EPSILON = 0.5, 0.9, 1e-3
TINY = 1e-12  # under the root, whose derivative at zero is infinite

# Each purpose has random numbers of its own.
WEIGHTS, CRITIC, WRITER, SAMPLES = range(1, 5)


def main() -> int:
    """Run the job as one of its ranks and return the exit status."""
    return run_job(
        train_pair,
        name="train_gan",
        description=(__doc__ or "").splitlines()[0],
        steps=1000,
        global_batch=64,
        learning_rate=1e-3,
        add_arguments=add_arguments,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this job has of its own."""
    parser.add_argument("--critic-steps", type=int, default=4, help="of the critic, in each step")


def load(dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images (n, 64) with pixels from -1 to 1, their labels, and which are held out."""
    try:
        images, labels = digits()
    except MissingDataError as error:
        raise JobError(str(error)) from error
    pixels = (2 * images.reshape(len(images), PIXELS) - 1).astype(dtype)
    return pixels, labels, np.arange(len(labels)) % HELD_OUT == 0


class Writer(dg.nn.Module):
    """Makes images (n, 64) of noise (n, 16)."""

    def __init__(self) -> None:
        self.layers = dg.nn.Sequential(
            dg.nn.Dense(128, dg.nn.silu), dg.nn.Dense(128, dg.nn.silu), dg.nn.Dense(PIXELS, dg.tanh)
        )

    def call(self, noise: dg.Tensor) -> dg.Tensor:
        """Return images."""
        return self.layers(noise)


class Critic(dg.nn.Module):
    """Scores images (n, 64): the higher, the more they look real.

    silu, since the penalty is differentiated: ReLU's second derivative is zero.
    """

    def __init__(self) -> None:
        self.layers = dg.nn.Sequential(
            dg.nn.Dense(256, dg.nn.silu), dg.nn.Dense(256, dg.nn.silu), dg.nn.Dense(1, bias=False)
        )

    def call(self, images: dg.Tensor) -> dg.Tensor:
        """Return scores (n,)."""
        return self.layers(images)[:, 0]


class Judge:
    """Measures how near samples come to the digits that are held out.

    Parameters
    ----------
    pixels, labels, held_out
        What `load` returns.
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, held_out: np.ndarray) -> None:
        from sklearn.linear_model import LogisticRegression

        self.real, self.seen = pixels[held_out], pixels[~held_out]
        self.classifier = LogisticRegression(max_iter=500).fit(self.seen, labels[~held_out])

    def figures(self, samples: np.ndarray) -> dict[str, float]:
        """Return distance, confidence and variety of samples; of the digits seen to compare with.

        `frechet_distance` is that between two normal distributions, with the moments of the samples
        and of the digits held out; `confidence` the mean of a classifier's highest probability,
        which is low where an image looks like no digit; `classes` how many digits are written
        equally often: exp of the entropy of the classifier's mean answer.
        """
        answers = self.classifier.predict_proba(samples)
        shares = answers.mean(axis=0)
        return {
            "frechet_distance": frechet_distance(samples, self.real),
            "frechet_distance_of_seen": frechet_distance(self.seen, self.real),
            "confidence": float(answers.max(axis=1).mean()),
            "classes": float(np.exp(-np.sum(shares * np.log(shares + TINY)))),
        }


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Wasserstein-2 distance of the normal distributions with two samples' moments.

    Notes
    -----
    The root of |m - n|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), for means m, n and covariances A, B:
    Dowson and Landau, "The Fréchet distance between multivariate normal distributions", 1982.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    one, two = np.cov(first.T), np.cov(second.T)
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ two @ root), 0)).sum()
    apart = np.sum((first.mean(axis=0) - second.mean(axis=0)) ** 2)
    squared = apart + np.trace(one) + np.trace(two) - 2 * overlap
    return float(np.sqrt(max(squared, 0.0)))


def train_pair(job: Job) -> None:
    """Train, test and report; raise JobError where the job cannot do what it was asked."""
    arguments = job.arguments
    if arguments.critic_steps < 1:
        raise JobError(f"--critic-steps {arguments.critic_steps}: expected 1 or more")
    pixels, labels, held_out = load(arguments.dtype)
    judge = Judge(pixels, labels, held_out)
    seen = pixels[~held_out]
    writer, critic = Writer(), Critic()
    seed = job.generator.fold_in(WEIGHTS)
    writer.build(dg.zeros((1, NOISE), dtype=arguments.dtype), seed=seed)
    critic.build(dg.asarray(seen[:1]), seed=seed)
    optimizers = {}
    for name, model, turns in (("writer", writer, 1), ("critic", critic, arguments.critic_steps)):
        updates = turns * arguments.steps
        rate = dg.optimizers.schedules.polynomial(arguments.learning_rate, 0.0, updates)
        optimizers[name] = dg.optimizers.Adam(rate, B1, B2, EPSILON)
        optimizers[name].build(model.trainable_variables)
    batches = job.loader(from_arrays(seen))
    size = arguments.global_batch
    places = np.arange(size)  # of the examples in the global batch

    def written(generator: dg.random.Generator, mine: np.ndarray) -> dg.Tensor:
        rows = range(int(mine[0]), int(mine[-1]) + 1)
        fresh = generator.fold_in(0)  # each piece is to take its rows of one and the same draw
        return writer(fresh.normal((size, NOISE), dtype=arguments.dtype, rows=rows))

    def critic_step(generator: dg.random.Generator) -> dict[str, float]:
        def losses_of(piece: dict[str, np.ndarray]) -> tuple[dg.Tensor, dict[str, dg.Tensor]]:
            real, mine = dg.asarray(piece["real"]), piece["places"]
            fake = dg.stop_gradient(written(generator, mine))
            rows = range(int(mine[0]), int(mine[-1]) + 1)
            share = generator.fold_in(1).uniform((size, 1), dtype=arguments.dtype, rows=rows)
            between = real + share * (fake - real)
            with dg.GradientTape() as inner:
                inner.watch(between)
                score = dg.sum(critic(between))  # of each image by itself
            slopes = inner.gradient(score, between)
            norms = dg.sqrt(dg.sum(dg.square(slopes), axis=1) + TINY)
            distance, penalty = critic(real) - critic(fake), dg.square(norms - 1)
            figures = {"critic_distance": distance, "penalty": penalty}
            return PENALTY * penalty - distance, figures

        batch = {"real": next(batches), "places": places}
        averaged = job.gradients(losses_of, batch, critic.trainable_variables)
        optimizers["critic"].apply(averaged.gradients, critic.trainable_variables)
        return averaged.record()

    def step(number: int) -> dict[str, float]:
        for turn in range(arguments.critic_steps):
            record = critic_step(job.generator.fold_in(CRITIC).fold_in(number).fold_in(turn))
        generator = job.generator.fold_in(WRITER).fold_in(number)
        averaged = job.gradients(
            lambda mine: -critic(written(generator, mine)), places, writer.trainable_variables
        )
        optimizers["writer"].apply(averaged.gradients, writer.trainable_variables)
        return {**record, "writer_loss": averaged.loss}

    def test() -> dict[str, float]:
        noise = job.generator.fold_in(SAMPLES).normal((len(seen), NOISE), dtype=arguments.dtype)
        return judge.figures(writer(noise).numpy())

    def facts(trained: Trained) -> dict[str, str]:
        final = trained.final
        return {
            "frechet distance": f"{final['frechet_distance']:.3f} of {len(seen):,} samples from "
            "the digits held out",
            "frechet distance of seen": f"{final['frechet_distance_of_seen']:.3f} of real digits",
            "confidence": f"{100 * final['confidence']:.1f} % that a sample is its likeliest digit",
            "classes": f"{final['classes']:.1f} of {CLASSES} are written",
        }

    train(
        job,
        step,
        variables=[*writer.variables, *critic.variables],
        state={"writer": writer, "critic": critic, "optimizers": optimizers, "data": batches},
        evaluate=test,
        title="Digits, written by a network",
        show={"critic_distance": "{:.3f}".format},
        facts=facts,
    )


if __name__ == "__main__":
    sys.exit(main())
