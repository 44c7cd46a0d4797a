"""scripts/train_digits.py learns, tells what it does, and computes the same on any ranks."""

import importlib.util
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distgrad.data import Draws

pytest.importorskip("sklearn")

CHECKOUT = Path(__file__).resolve().parents[2]
JOB = CHECKOUT / "scripts" / "train_digits.py"
MPIRUN = Path(sys.executable).parent / "mpirun"

# Relative differences of two loss curves. Both rest on rounding alone: eps is 1.2e-7 and 2.2e-16.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def load_job():
    """Return scripts/train_digits.py as a module: `scripts` is no package."""
    specification = importlib.util.spec_from_file_location("train_digits", JOB)
    module = importlib.util.module_from_spec(specification)
    sys.modules["train_digits"] = module  # dataclasses look their module up by name
    specification.loader.exec_module(module)
    return module


job = load_job()


def command(ranks: int, *arguments: object) -> list[str]:
    """Return the words that start the job; one rank is started without a launcher."""
    launcher = [str(MPIRUN), "-n", str(ranks)] if ranks > 1 else []
    return [*launcher, sys.executable, str(JOB), *map(str, arguments)]


def run(ranks: int, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Run the job and return what it printed."""
    return subprocess.run(
        command(ranks, *arguments),
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "DISTGRAD_PROGRESS": "lines", **environment},
    )


def metrics_of(folder: Path, ranks: int, *arguments: object) -> list[dict]:
    """Return the metrics of a job that has to succeed, a dict a line."""
    path = folder / f"{ranks}.jsonl"
    result = run(ranks, "--metrics", path, "--quiet", *arguments)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- the data ------------------------------------------------------------------------------------


def test_a_fifth_of_every_class_is_held_out():
    train, test = job.load(0, "float32")

    assert len(train) + len(test) == 1797
    shares = np.bincount(test.labels) / np.bincount([*train.labels, *test.labels])
    assert np.all(np.abs(shares - 0.2) < 0.005)
    assert train.images.dtype == np.float32
    assert train.images.max() == 1


def test_the_seed_decides_what_is_held_out():
    splits = [job.load(seed, "float64")[1].labels.tolist() for seed in (0, 0, 1)]

    assert splits[0] == splits[1] != splits[2]


def test_shifted_images_move_by_whole_pixels_and_lose_their_border():
    image = np.arange(64.0).reshape(1, 8, 8) + 1
    images = np.repeat(image, 3, axis=0)

    still, down, left = job.shift(images, np.array([[0, 0], [1, 0], [0, -1]]))

    np.testing.assert_array_equal(still, image[0])
    np.testing.assert_array_equal(down[1:], image[0, :-1])
    np.testing.assert_array_equal(down[0], 0)
    np.testing.assert_array_equal(left[:, :-1], image[0, :, 1:])
    np.testing.assert_array_equal(left[:, -1], 0)


def test_a_third_of_the_images_is_drawn_to_be_shifted():
    image = np.zeros((8, 8))
    image[3, 4] = 1
    digits = {"images": np.repeat(image[None], 9000, axis=0), "labels": np.zeros(9000, int)}
    draws = Draws(0, depth=0, epoch=0, places=np.arange(9000))

    shifted = job.shift_some(digits, draws)

    moved = np.argwhere(shifted["images"])[:, 1:] - (3, 4)
    assert set(np.unique(moved)) == {-1, 0, 1}
    # A third is drawn, and one in nine of those stays where it is.
    assert abs(np.mean(np.any(moved != 0, axis=1)) - 8 / 27) < 0.02
    assert shifted["labels"] is digits["labels"]


# --- one loss curve ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("batch", "steps"),
    [
        pytest.param(50, 60, id="3 and 4 ranks don't divide the batch"),
        pytest.param(3, 20, id="the fourth rank has nothing"),
    ],
)
def test_the_loss_curve_is_the_same_on_1_to_4_ranks(tmp_path, dtype, batch, steps):
    arguments = ("--steps", steps, "--global-batch", batch, "--dtype", dtype)

    jobs = {ranks: metrics_of(tmp_path, ranks, *arguments) for ranks in (1, 2, 3, 4)}

    for ranks, metrics in jobs.items():
        assert [line["ranks"] for line in metrics[:-1]] == [ranks] * steps
        for name in ("loss", "grad_norm"):
            np.testing.assert_allclose(
                [line[name] for line in metrics[:-1]],
                [line[name] for line in jobs[1][:-1]],
                rtol=TOLERANCE[dtype],
                err_msg=f"{name} on {ranks} ranks",
            )
        assert metrics[-1]["test_accuracy"] == jobs[1][-1]["test_accuracy"]


def test_the_same_job_gives_the_same_bits_again(tmp_path):
    arguments = ("--steps", 20, "--seed", 3)

    digests = [metrics_of(tmp_path, 2, *arguments)[-1]["variables_sha256"] for _ in range(2)]
    other = metrics_of(tmp_path, 2, "--steps", 20, "--seed", 4)[-1]["variables_sha256"]

    assert digests[0] == digests[1] != other


# --- what it tells -------------------------------------------------------------------------------


def test_metrics_hold_a_line_a_step_and_a_last_one(tmp_path):
    *lines, last = metrics_of(tmp_path, 2, "--steps", 12, "--global-batch", 33)

    assert [line["step"] for line in lines] == list(range(1, 13))
    for line in lines:
        assert line["examples"] == 33
        assert line["loss"] > 0
        assert line["grad_norm"] > 0
        assert line["bytes_sent"] > 0
        assert 0 <= line["exposed_comm_seconds"] <= line["comm_seconds"] + 1e-9
        assert line["comm_seconds"] < line["seconds"]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert last["final"] is True
    assert 0 < last["test_accuracy"] <= 1
    assert len(bytes.fromhex(last["variables_sha256"])) == 32


def test_one_process_sends_nothing(tmp_path):
    *lines, _ = metrics_of(tmp_path, 1, "--steps", 3)

    assert [line["bytes_sent"] for line in lines] == [0, 0, 0]


def test_97_percent_of_the_digits_held_out_are_recognised(tmp_path):
    last = metrics_of(tmp_path, 2)[-1]

    assert last["test_accuracy"] >= 0.97


def test_a_log_gets_plain_lines_and_a_summary(tmp_path):
    result = run(2, "--steps", 40)

    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    lines = result.stdout.splitlines()
    assert sum(line.startswith("step ") for line in lines) == 10
    summary = result.stdout[result.stdout.index("Handwritten digits") :]
    for words in ("40 steps", "ranks          2", "test accuracy", "examples/s", "Try next:"):
        assert words in summary


def test_a_quiet_job_prints_nothing():
    result = run(2, "--steps", 3, "--quiet")

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_a_terminal_behind_mpirun_sees_a_bar_while_the_job_runs():
    terminal, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("DISTGRAD_PROGRESS", None)
    words = command(2, "--steps", 400)
    chunks = []
    with subprocess.Popen(words, stdin=child, stdout=child, stderr=child, env=environment) as ran:
        os.close(child)
        try:
            while chunk := os.read(terminal, 65536):
                chunks.append(chunk)
        except OSError:  # the terminal ends with the last process on it
            pass
        os.close(terminal)

    assert ran.returncode == 0
    text = b"".join(chunks).decode()
    assert text.count("\x1b[1A\r\x1b[2K") >= 3
    assert "400/400" in text
    assert "Try next:" in text
    with_frames = [chunk for chunk in chunks if b"examples/s" in chunk]
    assert len(with_frames) >= 3, "the frames came in one piece, at the end"


def test_a_job_that_lost_a_rank_goes_on_with_another_number_of_ranks(tmp_path):
    words = ("--deterministic", "--steps", 12, "--global-batch", 97)
    whole = metrics_of(tmp_path, 1, *words)
    saved = ("--checkpoint-dir", tmp_path / "saved", "--checkpoint-every", 2)
    path = tmp_path / "parts.jsonl"
    words = (*words, *saved, "--metrics", path, "--quiet")

    lost = run(2, *words, DISTGRAD_FAULTS="kill:rank=1,step=8")
    steps_before = len(path.read_text().splitlines())
    result = run(3, *words, "--resume", "--report", tmp_path / "report.html")

    assert lost.returncode != 0
    assert 1 < steps_before < 12
    assert result.returncode == 0, result.stderr
    parts = [json.loads(line) for line in path.read_text().splitlines()]
    assert parts[-1] == whole[-1]
    assert [line["loss"] for line in parts[:-1]] == [line["loss"] for line in whole[:-1]]
    assert "Handwritten digits, trained" in (tmp_path / "report.html").read_text()


# --- what it refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [(), ("--dtype", "float64")])
def test_deterministic_jobs_agree_to_the_bit_on_any_ranks_and_micro_batches(tmp_path, extra):
    words = ("--deterministic", "--steps", 12, "--global-batch", 97, *extra)

    curves = []
    for ranks, pieces in ((1, 1), (1, 5), (2, 1), (3, 2), (5, 1)):
        records = metrics_of(tmp_path, ranks, *words, "--micro-batches", pieces)
        curves.append([(r["loss"], r["grad_norm"]) for r in records[:-1]])
        curves[-1].append((records[-1]["variables_sha256"], records[-1]["test_accuracy"]))

    assert all(curve == curves[0] for curve in curves)


def test_micro_batches_change_the_curve_by_rounding_alone(tmp_path):
    words = ("--steps", 12, "--global-batch", 97, "--dtype", "float64")

    whole, pieces = (
        [r["loss"] for r in metrics_of(tmp_path, 2, *words, "--micro-batches", n)[:-1]]
        for n in (1, 4)
    )

    np.testing.assert_allclose(pieces, whole, rtol=TOLERANCE["float64"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--global-batch", "0"], "argument --global-batch: expected a whole number of at least 1"),
        (["--steps", "-1"], "argument --steps: expected a whole number of at least 1, got '-1'"),
        (["--steps", "many"], "expected a whole number of at least 1, got 'many'"),
        (["--seed", "-1"], "argument --seed: expected a whole number of at least 0, got '-1'"),
        (["--learning-rate", "0"], "expected a positive number, got '0'"),
        (["--learning-rate", "nan"], "expected a positive number, got 'nan'"),
        (["--dtype", "float16"], "invalid choice: 'float16'"),
        (["--resume"], "argument --resume: there is nothing to resume without --checkpoint-dir"),
        (["--backend", "abacus"], "--backend abacus: "),
        (
            ["--metrics", "/nowhere/m.jsonl"],
            "--metrics /nowhere/m.jsonl: No such file or directory",
        ),
        (
            ["--learning-rate", "1e38", "--steps", "50"],
            "training diverged in step",
        ),
    ],
)
def test_what_cannot_be_done_is_said_once_by_all_ranks_together(arguments, message):
    result = run(2, *arguments)

    assert result.returncode != 0
    assert result.stderr.count(message) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "Handwritten digits" not in result.stdout


def test_missing_scikit_learn_is_named_with_the_remedy(tmp_path):
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").write_text("raise ImportError('not here')\n")

    result = run(1, PYTHONPATH=str(tmp_path))

    assert result.returncode == 1
    assert "pip install 'distgrad[examples]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_launcher_of_another_mpi_is_named_once():
    # What each of three processes sees whose launcher this environment's MPI does not understand.
    foreign = {"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "0"}

    first = run(1, "--steps", 1, **foreign)
    second = run(1, "--steps", 1, **{**foreign, "OMPI_COMM_WORLD_RANK": "1"})

    assert (first.returncode, second.returncode) == (1, 1)
    assert "Open MPI's mpirun started 3 processes" in first.stderr
    assert (first.stderr.count("\n"), second.stderr) == (1, "")


def test_help_is_printed_once():
    result = run(2, "--help")

    assert result.returncode == 0
    assert result.stdout.count("usage: train_digits") == 1
