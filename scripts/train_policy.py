#!/usr/bin/env python3
"""Learn to balance a pole by policy gradients, with episodes shared among any number of MPI ranks.

    python scripts/train_policy.py
    mpirun -n 4 python scripts/train_policy.py --steps 100 --metrics policy.jsonl

The cart and its pole are those of Barto, Sutton and Anderson (1983), written in NumPy. A step
plays --global-batch episodes of at most 200 moves, and is one of REINFORCE with a learned baseline.
Where an episode starts and what it draws depend on seed, step and the episode's number alone, so
the loss curve is the same for any number of ranks. A move hangs on whether a number drawn is below
a probability, and so on its last digits: --dtype float64 is the default, in which runs with
different sums agree; in float32 they part sooner or later, unless they are --deterministic.
"""

import argparse
import sys

import numpy as np

import distgrad as dg
from distgrad.data import Dataset, Draws
from distgrad.training import Job, Trained, run_job, train

MOVES = 200
HIDDEN = 32
REWARD = 1 / 50  # of a move that keeps the pole up: returns are of the order of 1 then
DISCOUNT = 0.99
BASELINE_WEIGHT = 0.5
TESTED = 200  # episodes at the end, none of which was trained on

# Purposes of random numbers, and the number of the episodes' step that no training has.
PLAY, TEST_STEP = 23, 2**40

# Barto, Sutton and Anderson, appendix: kilograms, metres, newtons, seconds; half the pole's length.
GRAVITY, CART, POLE, HALF = 9.8, 1.0, 0.1, 0.5
CART_FRICTION, POLE_FRICTION = 0.0005, 0.000002
FORCE, INTERVAL = 10.0, 0.02
TRACK, LEAN = 2.4, np.deg2rad(12)


def main() -> int:
    """Run the job as one of its ranks and return the exit status."""
    return run_job(
        learn,
        name="train_policy",
        description=(__doc__ or "").splitlines()[0],
        steps=60,
        global_batch=48,
        learning_rate=1e-2,
        add_arguments=add_arguments,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let double precision be the default."""
    parser.set_defaults(dtype="float64")


def moved(state: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the states after a push to the right or left, and 0.02 s by Euler's method.

    Parameters
    ----------
    state : float64, shape (n, 4)
        The cart's place and velocity, the pole's angle from upright and angular velocity.
    right : bool, shape (n,)

    References
    ----------
    Barto, Sutton and Anderson, "Neuronlike adaptive elements that can solve difficult learning
    control problems", IEEE Transactions on Systems, Man, and Cybernetics 13 (1983), appendix.
    """
    _, speed, angle, spin = state.T
    sine, cosine = np.sin(angle), np.cos(angle)
    force = np.where(right, FORCE, -FORCE)
    rub = CART_FRICTION * np.sign(speed)
    push = (force + POLE * HALF * spin**2 * sine - rub) / (CART + POLE)
    turn = GRAVITY * sine - cosine * push - POLE_FRICTION * spin / (POLE * HALF)
    turn /= HALF * (4 / 3 - POLE * cosine**2 / (CART + POLE))
    pull = push - POLE * HALF * turn * cosine / (CART + POLE)
    return state + INTERVAL * np.stack([speed, pull, spin, turn], axis=1)


class Policy:
    """A layer of tanh; from it the logit of a push to the right, and what is still to be earned."""

    def __init__(self, seed: int, dtype: str) -> None:
        generator = np.random.default_rng((seed, *b"weights"))

        def weights(rows: int, columns: int, scale: float, name: str) -> dg.Variable:
            values = scale * generator.standard_normal((rows, columns)) / np.sqrt(rows)
            return dg.Variable(values.astype(dtype), name=f"{name}/weights")

        self.hidden = weights(4, 2 * HIDDEN, 1.0, "hidden")
        self.biases = dg.Variable(np.zeros(2 * HIDDEN, dtype), name="hidden/biases")
        self.push = weights(HIDDEN, 1, 0.1, "push")  # small: both moves are tried at first
        self.worth = weights(HIDDEN, 1, 0.1, "worth")
        self.variables = [self.hidden, self.biases, self.push, self.worth]

    def __call__(self, states: dg.Tensor) -> tuple[dg.Tensor, dg.Tensor]:
        """Return logits (n, moves) and worths (n, moves) of states (n, moves, 4)."""
        h = dg.tanh(states @ self.hidden + self.biases)
        return (h[..., :HIDDEN] @ self.push)[..., 0], (h[..., HIDDEN:] @ self.worth)[..., 0]

    def chances(self, states: np.ndarray) -> np.ndarray:
        """Return the probabilities of a push to the right for states (n, 4), by NumPy alone."""
        hidden, biases = self.hidden.numpy()[:, :HIDDEN], self.biases.numpy()[:HIDDEN]
        logits = np.tanh(states @ hidden + biases) @ self.push.numpy()
        return 1 / (1 + np.exp(-logits[:, 0]))


def scaled(states: np.ndarray) -> np.ndarray:
    """Return states in units of about their largest values."""
    return states / np.array([TRACK, 2.0, LEAN, 2.0])


def play(policy: Policy, seed: int, step: int, episodes: np.ndarray) -> dict[str, np.ndarray]:
    """Play episodes to their ends; return them with the moves padded to 200.

    Returns
    -------
    dict
        ``states`` (n, 200, 4), scaled; ``right`` (n, 200) and ``up`` (n, 200), whether the cart was
        pushed to the right, and whether the episode was still going on.
    """
    draws = Draws(seed, depth=PLAY, epoch=step, places=episodes)
    state = draws.uniform((4,), low=-0.05, high=0.05)
    numbers = draws.uniform((MOVES,))
    up = np.ones(len(episodes), bool)
    states, pushes, ups = [], [], []
    for move in range(MOVES):
        seen = scaled(state)
        right = numbers[:, move] < policy.chances(seen)
        states.append(seen)
        pushes.append(right)
        ups.append(up)
        # Who has fallen lies still, or its numbers would grow without bound.
        state = np.where(up[:, None], moved(state, right), state)
        up = up & (np.abs(state[:, 0]) <= TRACK) & (np.abs(state[:, 2]) <= LEAN)
    return {"states": np.stack(states, 1), "right": np.stack(pushes, 1), "up": np.stack(ups, 1)}


def earned(up: np.ndarray) -> np.ndarray:
    """Return the discounted rewards from each move on, shape (n, moves)."""
    total, sums = np.zeros(len(up)), np.empty(up.shape)
    for move in reversed(range(up.shape[1])):
        total = sums[:, move] = (REWARD + DISCOUNT * total) * up[:, move]
    return sums


class Episodes(Dataset):
    """The numbers of episodes: all that is known of one before it is played."""

    def __len__(self) -> int:
        return TESTED

    def read(self, places: np.ndarray) -> np.ndarray:
        """Return the numbers."""
        return places


def learn(job: Job) -> None:
    """Learn, test and report."""
    arguments = job.arguments
    policy = Policy(arguments.seed, arguments.dtype)
    rate = dg.optimizers.schedules.cosine(arguments.learning_rate, arguments.steps)
    optimizer = dg.optimizers.Adam(rate)
    optimizer.build(policy.variables)
    episodes = np.arange(arguments.global_batch)

    def step(number: int) -> dict[str, float]:
        def losses(mine: np.ndarray) -> tuple[dg.Tensor, dict[str, np.ndarray]]:
            played = play(policy, arguments.seed, number, mine)
            up = played["up"].astype(arguments.dtype)
            returns = dg.asarray(earned(played["up"]).astype(arguments.dtype))
            logits, worth = policy(dg.asarray(played["states"].astype(arguments.dtype)))
            # -log of the probability of the move that was made: REINFORCE multiplies it by how
            # much better it turned out than what was expected of the state (Williams, 1992).
            made = np.where(played["right"], 1, -1).astype(arguments.dtype)
            surprise = dg.softplus(-logits * dg.asarray(made))
            gap = returns - worth
            each = surprise * dg.stop_gradient(gap) + BASELINE_WEIGHT * dg.square(gap)
            return dg.sum(each * dg.asarray(up), axis=1) / MOVES, {"return": up.sum(axis=1)}

        averaged = job.gradients(losses, episodes, policy.variables)
        optimizer.apply(averaged.gradients, policy.variables)
        return averaged.record()

    def test() -> dict[str, float]:
        def lengths(mine: np.ndarray) -> dict[str, np.ndarray]:
            up = play(policy, arguments.seed, TEST_STEP, mine)["up"]
            return {"test_return": up.sum(axis=1), "balanced": up[:, -1]}

        return job.evaluate(lengths, Episodes())

    def facts(trained: Trained) -> dict[str, str]:
        final = trained.final
        return {
            "balances": f"{final['test_return']:.1f} of {MOVES} moves on average; to the end in "
            f"{100 * final['balanced']:.1f} % of {TESTED} episodes"
        }

    train(
        job,
        step,
        variables=policy.variables,
        state={"policy": policy, "optimizer": optimizer},
        evaluate=test,
        title="A pole on a cart, balanced",
        show={"return": "{:.1f} moves".format},
        facts=facts,
    )


if __name__ == "__main__":
    sys.exit(main())
