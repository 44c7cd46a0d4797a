"""Progress shows a bar on a terminal, plain lines elsewhere, and nothing where it is quiet."""

import io
import re

import pytest

from distgrad.training import Progress

pytest.importorskip("rich")

STEPS = 40


def run(steps=STEPS, **settings):
    """Return what a job of `steps` quick steps prints."""
    stream = io.StringIO()
    with Progress(steps, stream=stream, **settings) as progress:
        for step in range(1, steps + 1):
            progress.update(step, examples=10, figures={"loss": f"{1 / step:.4f}"})
    return stream.getvalue()


def test_a_log_gets_ten_plain_lines():
    lines = run(columns=None).splitlines()

    assert [re.match(r"step (\d+)/40", line)[1] for line in lines] == [
        str(4 * tenth) for tenth in range(1, 11)
    ]
    assert "\x1b" not in "".join(lines)
    assert re.fullmatch(
        r"step 40/40 \(100 %\): loss 0\.0250, [\d,]+ examples/s, 0 s left", lines[-1]
    )


def test_a_short_job_gets_a_line_for_every_step():
    assert len(run(steps=3, columns=None).splitlines()) == 3


def test_a_slow_job_shows_a_sign_of_life_between_the_tenths(monkeypatch):
    clock = iter(range(0, 10_000, 6))  # a step takes six seconds
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))

    lines = run(steps=100, columns=None).splitlines()

    assert len(lines) == 50  # one every twelve seconds: none waits longer than ten and a step
    assert lines[0].startswith("step 2/100 (2 %)")
    assert lines[0].endswith("2 examples/s, 9:48 left")


def test_a_quiet_job_prints_nothing():
    assert run(columns=None, quiet=True) == ""
    assert run(columns=80, quiet=True) == ""


def test_a_terminal_sees_one_line_that_is_drawn_anew(monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))

    frames = run(columns=100).split("\x1b[1A\r\x1b[2K")

    assert len(frames) == STEPS
    for frame in frames:
        # Open MPI forwards whole lines: a frame that does not end one would be seen too late.
        assert frame.count("\n") == 1
        assert frame.endswith("\n")
    assert "loss \x1b[1m0.0250" in frames[-1]
    assert "40/40" in frames[-1]


def test_the_last_step_is_shown_though_it_comes_soon_after_another():
    text = run(columns=100)

    assert "40/40" in text.splitlines()[-1]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_frame_is_never_wider_than_the_terminal(columns):
    lines = re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", run(columns=columns)).splitlines()

    assert max(map(len, lines)) <= columns


def test_without_rich_a_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    text = run(columns=100)

    assert len(text.splitlines()) == 10
    assert "\x1b" not in text
