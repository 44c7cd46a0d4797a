"""Whether a rank ended in good order is known to `distgrad run`, whatever its launcher returns."""

import sys

import pytest

from distgrad.distributed.launching.supervision import run_job
from distgrad.distributed.safety.roll import ROLL, Roll, missing

JOIN = "from distgrad.distributed.safety.roll import Roll; line = Roll(1); "


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("", 0),
        (JOIN + "line.sign_off()", 0),
        (JOIN, 1),
        (JOIN + "raise SystemExit(7)", 7),
    ],
)
def test_a_rank_that_joined_has_to_end_in_good_order(capfd, script, code):
    found = run_job(None, 1, [sys.executable, "-c", script])

    assert found == code
    assert ("rank 1 did not end in good order" in capfd.readouterr().err) is (code == 1)


def test_nobody_misses_ranks_that_were_lost_and_gone_on_without(tmp_path, monkeypatch):
    lines = []
    for rank in range(3):
        monkeypatch.setenv(ROLL, str(tmp_path))
        lines.append(Roll(rank))
    lines[0].sign_off()

    assert missing(tmp_path) == [1, 2]

    lines[1].sign_off(lost_others=True)

    assert missing(tmp_path) == []


def test_a_rank_on_another_machine_leaves_no_line(tmp_path, monkeypatch):
    monkeypatch.setenv(ROLL, str(tmp_path / "elsewhere"))

    Roll(0).sign_off()

    assert not list(tmp_path.iterdir())
