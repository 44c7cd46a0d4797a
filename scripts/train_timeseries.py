#!/usr/bin/env python3
"""Train a recurrent network to forecast carbon dioxide half a year ahead, on any number of ranks.

    python scripts/train_timeseries.py
    mpirun -n 4 python scripts/train_timeseries.py --cell lstm --metrics forecast.jsonl

The series is that of Mauna Loa, 2284 weeks from 1958 to 2001, which statsmodels brings. From two
years the network forecasts the next 26 weeks, and is compared, on years that come after all that it
has seen, with two forecasts that need no training: the value stays as it is, and the year repeats
itself from where it stands now. With --deterministic the losses agree to the bit for every number
of ranks, else to rounding.
"""

import argparse
import math
import sys

import numpy as np

import distgrad as dg
from distgrad.data import Dataset, from_arrays
from distgrad.data.memory import refuse_larger
from distgrad.data.packaged import MissingDataError, carbon_dioxide
from distgrad.training import Job, JobError, Trained, run_job, train

YEAR = 52  # weeks
PAST = 2 * YEAR  # what a forecast is made from
AHEAD = YEAR // 2  # weeks that are forecast
MONTH = 4  # weeks that the network reads at once, so as to go over 26 steps and not over 104
TEST_FRACTION = 0.2  # the last years
SCALE = 3.0  # ppm; about how far half a year goes
CELLS = {"gru": dg.nn.GRU, "lstm": dg.nn.LSTM}


def main() -> int:
    """Run the job as one of its ranks and return the exit status."""
    return run_job(
        train_forecaster,
        name="train_timeseries",
        description=(__doc__ or "").splitlines()[0],
        steps=600,
        global_batch=64,
        learning_rate=5e-3,
        add_arguments=add_arguments,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this job has of its own."""
    parser.add_argument("--cell", choices=sorted(CELLS), default="gru", help="which recurrence")
    parser.add_argument("--units", type=int, default=48, help="the width of the recurrence")


def load(dtype: str) -> tuple[Dataset, Dataset]:
    """Return the windows to train on and those to test on, which come later in time."""
    try:
        _, series = carbon_dioxide()
    except MissingDataError as error:
        raise JobError(str(error)) from error
    cut = round((1 - TEST_FRACTION) * len(series))
    # What is forecast in a window for training ends before the first week that is tested.
    return (
        from_arrays(windows(series, PAST, cut - AHEAD + 1, dtype)),
        from_arrays(windows(series, cut, len(series) - AHEAD + 1, dtype)),
    )


def windows(series: np.ndarray, first: int, stop: int, dtype: str) -> dict[str, np.ndarray]:
    """Return what forecasts from the weeks first to stop are made from, and compared with.

    Parameters
    ----------
    series : shape (weeks,)
        Parts per million.
    first, stop : int
        The first week that is forecast goes from `first` up to, but without, `stop`.
    dtype : str
        Of the result.

    Returns
    -------
    dict of arrays
        ``past`` (n, 26, 4), ``future`` and ``repeated`` (n, 26), all in units of `SCALE` and
        counted from the last known week; `repeated` are the values of a year before, moved by what
        the year has brought since.
    """
    origins = np.arange(first, stop)
    known = series[origins - 1][:, None]
    a_year_ago = series[origins - 1 - YEAR][:, None]
    past = series[origins[:, None] + np.arange(-PAST, 0)] - known
    ahead = origins[:, None] + np.arange(AHEAD)
    found = {
        "past": past.reshape(len(origins), PAST // MONTH, MONTH),
        "future": series[ahead] - known,
        "repeated": series[ahead - YEAR] - a_year_ago,
    }
    return {name: (values / SCALE).astype(dtype) for name, values in found.items()}


class Forecaster(dg.nn.Module):
    """A recurrence over the past and a linear layer from its last state to all weeks ahead."""

    def __init__(self, cell: str, units: int) -> None:
        self.recurrence = CELLS[cell](units)
        self.head = dg.nn.Dense(AHEAD)

    def call(self, past: np.ndarray) -> dg.Tensor:
        """Return the values of the weeks ahead (n, 26), in units of `SCALE`."""
        return self.head(self.recurrence(past))


def train_forecaster(job: Job) -> None:
    """Train, test and report; raise JobError where the job cannot do what it was asked."""
    arguments = job.arguments
    if arguments.units < 1:
        raise JobError(f"--units {arguments.units}: expected a whole number of at least 1")
    train_set, test_set = load(arguments.dtype)
    weights = 3 * arguments.units**2  # from units to units, in each of three gates
    refuse_larger(f"a model of {weights:,} parameters", 4 * weights)
    model = Forecaster(arguments.cell, arguments.units)
    model.build(dg.asarray(train_set[:1]["past"]), seed=job.generator.fold_in(1))
    rate = dg.optimizers.schedules.cosine(arguments.learning_rate, arguments.steps)
    optimizer = dg.optimizers.Adam(rate)
    optimizer.build(model.trainable_variables)
    batches = job.loader(train_set)

    def squares_of(weeks: dict[str, np.ndarray]) -> dg.Tensor:
        forecast = model(dg.asarray(weeks["past"]))
        return dg.square(forecast - dg.asarray(weeks["future"]))

    def step(number: int) -> dict[str, float]:
        averaged = job.gradients(squares_of, next(batches), model.trainable_variables)
        optimizer.apply(averaged.gradients, model.trainable_variables)
        return averaged.record()

    def test() -> dict[str, float]:
        def squares(weeks: dict[str, np.ndarray]) -> dict[str, object]:
            return {
                "test_error": squares_of(weeks),
                "year_repeated_error": np.square(weeks["repeated"] - weeks["future"]),
                "value_stays_error": np.square(weeks["future"]),
            }

        means = job.evaluate(squares, test_set)
        return {name: SCALE * math.sqrt(mean) for name, mean in means.items()}

    def facts(trained: Trained) -> dict[str, str]:
        errors = trained.final
        better = 100 * (1 - errors["test_error"] / errors["year_repeated_error"])
        return {
            "test error": f"{errors['test_error']:.3f} ppm (root mean square over "
            f"{AHEAD} weeks from {len(test_set)} weeks on, {len(train_set):,} seen)",
            "year repeated error": f"{errors['year_repeated_error']:.3f} ppm; the network's is "
            f"{better:.0f} % smaller",
            "value stays error": f"{errors['value_stays_error']:.3f} ppm",
        }

    train(
        job,
        step,
        variables=model.variables,
        state={"model": model, "optimizer": optimizer, "data": batches},
        evaluate=test,
        title="Carbon dioxide, forecast half a year ahead",
        facts=facts,
    )


if __name__ == "__main__":
    sys.exit(main())
