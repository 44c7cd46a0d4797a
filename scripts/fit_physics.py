#!/usr/bin/env python3
"""Find a fluid's viscosity from noisy measurements, with a network that obeys Burgers' equation.

    python scripts/fit_physics.py
    mpirun -n 4 python scripts/fit_physics.py --noise 0.05 --metrics burgers.jsonl

The velocity u(x, t) obeys u_t + u u_x = v u_xx. Of an exact solution 1000 values are known, with
noise; the viscosity v is not. A network is fitted to the values, and to the equation in points
that are drawn anew in each step: the loss holds its second derivatives, and v is one variable more.
That u is 0 at both ends is known, and so it is put into the network: without that the viscosity is
found 10 times less exactly.
Half of an example is a measurement and half a point, both of which belong to its place in the
global batch, so the loss curve is the same for any number of ranks.
"""

import argparse
import sys
from itertools import pairwise

import numpy as np

import distgrad as dg
from distgrad.data import Draws, from_arrays
from distgrad.training import Job, JobError, Trained, run_job, train

VISCOSITY = 0.1  # what is to be found
FIRST_GUESS = 0.5
BARRIER = 1.5  # the constant a > 1 of the solution: close to 1 the wave is steep
MEASURED = 1000
# Of the squared misfit, beside the squared residual: with equal weights the network first becomes a
# flat line, which obeys the equation, and stays one for long.
MISFIT_WEIGHT = 30
# By how much faster than a weight the viscosity's logarithm moves: Adam's steps are all of a size,
# and it has further to go.
SPEED = 4
WIDTH, DEPTH = 32, 3
EXACT_GRID = 101  # points along each axis where network and solution are compared

POINTS = 17  # a purpose of random numbers, beside those of data and weights


def main() -> int:
    """Run the job as one of its ranks and return the exit status."""
    return run_job(
        fit,
        name="fit_physics",
        description=(__doc__ or "").splitlines()[0],
        steps=1500,
        global_batch=128,
        learning_rate=2e-2,
        add_arguments=lambda parser: parser.add_argument(
            "--noise", type=_share, default=0.01, help="of the measurements' standard deviation"
        ),
    )


def _share(text: str) -> float:
    """Return a number of at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return number


def velocity(x: np.ndarray, t: np.ndarray, viscosity: float = VISCOSITY) -> np.ndarray:
    """Return an exact solution of Burgers' equation on 0 <= x <= 1, which is 0 at both ends.

    Notes
    -----
    By the Cole-Hopf transform u = -2 v φ_x / φ of the heat equation's solution
    φ = a + exp(-π² v t) cos(π x): Wood, "An exact solution for Burger's equation", Communications
    in Numerical Methods in Engineering 22 (2006).
    """
    decay = np.exp(-(np.pi**2) * viscosity * t)
    waves = decay * np.sin(np.pi * x), decay * np.cos(np.pi * x)
    return 2 * viscosity * np.pi * waves[0] / (BARRIER + waves[1])


def measure(seed: int, noise: float, dtype: str) -> dict[str, np.ndarray]:
    """Return velocities (n,) at random places (n,) and times (n,), with noise."""
    generator = np.random.default_rng((seed, *b"measurements"))
    x, t = generator.uniform(size=(2, MEASURED))
    u = velocity(x, t)
    u += noise * u.std() * generator.standard_normal(MEASURED)
    return {"x": x.astype(dtype), "t": t.astype(dtype), "u": u.astype(dtype)}


class Fluid:
    """A network for the velocity, and the logarithm of the viscosity: it stays positive so."""

    def __init__(self, seed: int, dtype: str) -> None:
        generator = np.random.default_rng((seed, *b"weights"))
        sizes = [2, *[WIDTH] * DEPTH, 1]
        self.layers = []
        for number, (rows, columns) in enumerate(pairwise(sizes)):
            weights = generator.standard_normal((rows, columns)) / np.sqrt(rows)
            self.layers.append(
                (
                    dg.Variable(weights.astype(dtype), name=f"{number}/weights"),
                    dg.Variable(np.zeros(columns, dtype), name=f"{number}/biases"),
                )
            )
        guess = np.array(np.log(FIRST_GUESS) / SPEED, dtype)
        self.guess = dg.Variable(guess, name="log_viscosity")
        self.variables = [*(v for layer in self.layers for v in layer), self.guess]

    def __call__(self, x: dg.Tensor, t: dg.Tensor) -> dg.Tensor:
        """Return u for x and t of shape (n,), shape (n,); it is 0 at both ends of the pipe."""
        h = 2 * dg.stack([x, t], axis=1) - 1
        for weights, biases in self.layers[:-1]:
            h = dg.tanh(h @ weights + biases)
        weights, biases = self.layers[-1]
        return x * (1 - x) * (h @ weights + biases)[:, 0]

    def residual(self, x: np.ndarray, t: np.ndarray) -> dg.Tensor:
        """Return u_t + u u_x - v u_xx, shape (n,): 0 where the equation holds."""
        x, t = dg.asarray(x), dg.asarray(t)
        one = dg.ones_like(x)

        def along_x(x: dg.Tensor) -> tuple[dg.Tensor, dg.Tensor]:
            return dg.jvp(lambda x: self(x, t), (x,), (one,))

        # Forward over forward mode: each point has a velocity of its own, so one tangent of ones
        # gives all u_x, and one more all u_xx. The walk back of training goes through both.
        (u, u_x), (_, u_xx) = dg.jvp(along_x, (x,), (one,))
        _, u_t = dg.jvp(lambda t: self(x, t), (t,), (one,))
        return u_t + u * u_x - dg.exp(SPEED * self.guess) * u_xx

    @property
    def viscosity(self) -> float:
        """The viscosity as it is known now."""
        return float(np.exp(SPEED * np.float64(self.guess.numpy())))


def fit(job: Job) -> None:
    """Fit network and viscosity, and compare both with the truth."""
    arguments = job.arguments
    measured = from_arrays(measure(arguments.seed, arguments.noise, arguments.dtype))
    if arguments.global_batch > MEASURED:
        raise JobError(f"--global-batch {arguments.global_batch}: {MEASURED} are measured")
    fluid = Fluid(arguments.seed, arguments.dtype)
    rate = dg.optimizers.schedules.cosine(arguments.learning_rate, arguments.steps)
    optimizer = dg.optimizers.Adam(rate)
    optimizer.build(fluid.variables)
    batches = job.loader(measured)
    places = np.arange(arguments.global_batch)

    def step(number: int) -> dict[str, float]:
        def losses(piece: dict) -> tuple[dg.Tensor, dict[str, dg.Tensor]]:
            known = piece["measured"]
            draws = Draws(arguments.seed, depth=POINTS, epoch=number, places=piece["place"])
            x, t = draws.uniform((2,)).astype(arguments.dtype).T
            misfit = dg.square(fluid(dg.asarray(known["x"]), dg.asarray(known["t"])) - known["u"])
            residual = dg.square(fluid.residual(x, t))
            return MISFIT_WEIGHT * misfit + residual, {"misfit": misfit, "residual": residual}

        batch = {"measured": next(batches), "place": places}
        averaged = job.gradients(losses, batch, fluid.variables)
        optimizer.apply(averaged.gradients, fluid.variables)
        return {**averaged.record(), "viscosity": fluid.viscosity}

    def compare() -> dict[str, float]:
        x, t = (each.ravel() for each in np.meshgrid(*[np.linspace(0, 1, EXACT_GRID)] * 2))
        grid = from_arrays({"x": x, "t": t})

        def gaps(piece: dict) -> dict[str, np.ndarray]:
            x, t = (dg.asarray(piece[name].astype(arguments.dtype)) for name in "xt")
            exact = velocity(piece["x"], piece["t"])
            gap = fluid(x, t).numpy() - exact
            return {"error": gap**2, "size": exact**2}

        means = job.evaluate(gaps, grid)
        return {
            "viscosity": fluid.viscosity,
            "viscosity_error": abs(fluid.viscosity / VISCOSITY - 1),
            "velocity_error": float(np.sqrt(means["error"] / means["size"])),
        }

    def facts(trained: Trained) -> dict[str, str]:
        final = trained.final
        return {
            "found": f"viscosity {final['viscosity']:.5f}, {100 * final['viscosity_error']:.2f} % "
            f"off the true {VISCOSITY}; at first it was taken for {FIRST_GUESS}",
            "velocity": f"{100 * final['velocity_error']:.2f} % off the exact solution (root mean "
            f"square, {EXACT_GRID} x {EXACT_GRID} points)",
        }

    train(
        job,
        step,
        variables=fluid.variables,
        state={"fluid": fluid, "optimizer": optimizer, "data": batches},
        evaluate=compare,
        title="Viscosity, from noisy velocities and Burgers' equation",
        show={"viscosity": "{:.4f}".format},
        facts=facts,
    )


if __name__ == "__main__":
    sys.exit(main())
