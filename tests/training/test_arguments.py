"""A job's arguments are those of every job, and nonsense is refused by one rank for all."""

from pathlib import Path

import pytest

from distgrad.training import JobParser


def parser(*, is_first=True):
    return JobParser(
        "job", "An example.", is_first=is_first, steps=10, global_batch=32, learning_rate=0.1
    )


def test_a_job_has_its_own_defaults():
    arguments = vars(parser().parse_args([]))

    assert arguments == {
        "steps": 10,
        "global_batch": 32,
        "micro_batches": 1,
        "learning_rate": 0.1,
        "seed": 0,
        "dtype": "float32",
        "backend": "numpy",
        "deterministic": False,
        "checkpoint_dir": None,
        "checkpoint_every": 100,
        "resume": False,
        "metrics": None,
        "tensorboard": None,
        "report": None,
        "timeline": None,
        "quiet": False,
    }


def test_every_argument_is_read():
    words = (
        "--steps 7 --global-batch 5 --micro-batches 2 --learning-rate 1e-3 --seed 9 "
        "--dtype float64 --deterministic --backend cupy --checkpoint-dir there "
        "--checkpoint-every 3 --resume --tensorboard events --report r.html --timeline t"
    )

    arguments = parser().parse_args([*words.split(), "--metrics", "a file.jsonl", "--quiet"])

    assert vars(arguments) == {
        "steps": 7,
        "global_batch": 5,
        "micro_batches": 2,
        "learning_rate": 1e-3,
        "seed": 9,
        "dtype": "float64",
        "backend": "cupy",
        "deterministic": True,
        "checkpoint_dir": Path("there"),
        "checkpoint_every": 3,
        "resume": True,
        "metrics": Path("a file.jsonl"),
        "tensorboard": Path("events"),
        "report": Path("r.html"),
        "timeline": Path("t"),
        "quiet": True,
    }


REFUSED = [
    ("--metrics a --report ./a", "argument --report: --metrics writes to a already; name another"),
    ("--timeline a --metrics a", "argument --timeline: --metrics writes to a already"),
    ("--steps 0", "argument --steps: expected a whole number of at least 1, got '0'"),
    ("--steps 1.5", "argument --steps: expected a whole number of at least 1, got '1.5'"),
    ("--global-batch -4", "argument --global-batch: expected a whole number of at least 1"),
    ("--learning-rate -1", "argument --learning-rate: expected a positive number, got '-1'"),
    ("--learning-rate inf", "argument --learning-rate: expected a positive number, got 'inf'"),
    ("--learning-rate fast", "expected a positive number, got 'fast'"),
    ("--seed -1", "argument --seed: expected a whole number of at least 0, got '-1'"),
    (f"--seed {2**128}", f"argument --seed: expected a whole number below {2**128}, got"),
    (f"--steps {10**15}", "argument --steps: expected a whole number below 1000000000000000"),
    ("--checkpoint-dir=", "argument --checkpoint-dir: expected a path, got an empty one"),
    ("--metrics=", "argument --metrics: expected a path, got an empty one"),
    ("--dtype int8", "argument --dtype: invalid choice: 'int8'"),
    ("--step 3", "unrecognized arguments: --step 3"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_nonsense_is_refused_with_what_was_expected(capsys, words, message):
    with pytest.raises(SystemExit) as raised:
        parser().parse_args(words.split())

    assert raised.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("words", "code"), [("--steps 0", 2), ("--help", 0)])
def test_the_other_ranks_end_alike_without_a_word(capsys, words, code):
    with pytest.raises(SystemExit) as raised:
        parser(is_first=False).parse_args(words.split())

    assert raised.value.code == code
    assert capsys.readouterr() == ("", "")


def test_there_is_nothing_to_resume_without_a_directory(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["--resume"])

    assert "nothing to resume without --checkpoint-dir" in capsys.readouterr().err


def test_several_outlets_may_write_to_one_device():
    found = parser().parse_args("--metrics /dev/stdout --report /dev/stdout".split())

    assert found.metrics == found.report == Path("/dev/stdout")
