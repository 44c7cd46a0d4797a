"""The page of faults is what its outcomes say."""

import importlib.util
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture
def script():
    """Return scripts/list_faults.py as a module: `scripts` is no package."""
    path = CHECKOUT / "scripts" / "list_faults.py"
    specification = importlib.util.spec_from_file_location("list_faults", path)
    module = importlib.util.module_from_spec(specification)
    sys.modules["list_faults"] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules["list_faults"]


def test_the_page_is_made_of_the_last_outcomes(script):
    page = (CHECKOUT / "docs" / "reliability.md").read_text()
    tables = page[page.index("## The faults") :]

    made = script.page(script.read_outcomes())

    # The first part names the machine that wrote it.
    assert tables == made[made.index("## The faults") :]


def test_no_recorded_outcome_is_other_than_expected(script):
    outcomes = script.read_outcomes()

    bad = [key for key, each in outcomes.items() if each["outcome"] == "not as expected"]
    assert bad == []


def test_every_recorded_outcome_kept_the_limit_of_its_case(script):
    limits = {case.name: case.limit for case in script.CASES}
    ended = {k: each for k, each in script.read_outcomes().items() if each["outcome"] == "ok"}

    assert ended
    for (fault, _, ranks), outcome in ended.items():
        limit = limits[fault]
        assert outcome["seconds"] <= limit.on(ranks), outcome
        assert outcome["after_fault"] or limit.since == "the start", outcome


def test_the_last_of_several_outcomes_counts(script, tmp_path, monkeypatch):
    lines = ('"outcome": "not as expected"', '"outcome": "ok", "seconds": 0.4, "after_fault": true')
    path = tmp_path / "outcomes.jsonl"
    path.write_text("".join(f'{{"fault": "F1", "mpi": "MPICH", "ranks": 2, {x}}}\n' for x in lines))
    monkeypatch.setattr(script, "OUTCOMES", path)

    page = script.page(script.read_outcomes())

    assert "| F1 | ok, 0.4 s | not run |" in page
    assert "1 outcomes as expected, 0 not." in page


def test_what_is_not_as_expected_is_told_and_is_an_exit_status(script, tmp_path, monkeypatch):
    def play(bench):
        raise script.UnexpectedEndError("nobody says 'boom'")

    case = script.Case(1, "a fault", "somehow", "an end", play)
    monkeypatch.setattr(script, "CASES", (case,))
    monkeypatch.setattr(script, "OUTCOMES", tmp_path / "outcomes.jsonl")
    monkeypatch.setattr(script, "PAGE", tmp_path / "page.md")

    assert script.main(["--ranks", "3"]) == 1
    assert "not as expected" in (tmp_path / "page.md").read_text()
    assert "nobody says" in (tmp_path / "outcomes.jsonl").read_text()
