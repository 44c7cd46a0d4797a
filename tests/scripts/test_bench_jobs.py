"""`scripts/bench jobs` runs what the page documents, and says where a result is another one."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs" / "how-to" / "run-the-jobs.md").read_text()


@pytest.fixture(scope="module")
def script():
    """Return scripts/benchmarks/jobs.py as a module."""
    path = CHECKOUT / "scripts" / "benchmarks" / "jobs.py"
    specification = importlib.util.spec_from_file_location("bench_jobs", path)
    module = importlib.util.module_from_spec(specification)
    sys.modules["bench_jobs"] = module  # dataclasses look their module up by name
    specification.loader.exec_module(module)
    yield module
    del sys.modules["bench_jobs"]


def test_every_job_has_a_result_that_is_looked_at(script):
    jobs = {path.name for path in (CHECKOUT / "scripts").glob("*.py")}
    jobs = {name for name in jobs if name.startswith(("train_", "fit_"))}

    assert {command.split()[0] for command in script.JOBS} == jobs


def test_the_page_has_a_row_for_every_result_and_none_of_them_is_beyond_its_limit(script):
    table = PAGE[PAGE.index("| job | figure |") :]
    rows = re.findall(r"^\| (?:`(.+?)`)? ?\| (.+?) \| (.+?) \|", table, re.MULTILINE)
    expected = [
        ("" if number else command, figure.key.replace("_", " "))
        for command, figures in script.JOBS.items()
        for number, figure in enumerate(figures)
    ]

    assert [row[:2] for row in rows[: len(expected)]] == expected
    assert "beyond" not in table
    assert "failed" not in table


def test_documented_results_are_within_their_own_limits(script):
    for figures in script.JOBS.values():
        for figure in figures:
            assert figure.is_reached(figure.documented)
            assert not figure.is_reached(float("nan"))


def test_a_result_beyond_its_limit_and_a_job_that_fails_are_shown(script):
    command = "train_policy.py"

    good = script.rows(command, {1: {"test_return": 198.7, "clock": 4.2}})
    low = script.rows(command, {1: {"test_return": 120.0, "clock": 4.2}})
    failed = script.rows(command, {2: "no data"})

    assert good[1]
    assert "| 198.7 moves | 4 |" in good[0][0]
    assert not low[1]
    assert "120.0 moves **(beyond)**" in low[0][0]
    assert not failed[1]
    assert "failed: no data" in failed[0][0]


def test_an_unknown_job_is_an_error_that_names_those_that_there_are(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jobs", "--only", "train_dogs"])

    with pytest.raises(SystemExit):
        script.main()

    assert "train_dogs; there are: fit_newton, fit_physics" in capsys.readouterr().err


def test_a_job_that_fails_is_told_in_its_own_words(script):
    with pytest.raises(RuntimeError, match="resume: there is nothing to resume"):
        script.run_job("train_policy.py --resume", 1)
