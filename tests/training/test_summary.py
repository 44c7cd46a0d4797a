"""A summary is readable in a log and framed on a terminal."""

import io
import re

import pytest

from distgrad.training import show_summary

FACTS = {"ranks": "2", "test accuracy": "98.1 % of 359"}
HINTS = ["mpirun -n 4 python [job].py"]


def shown(columns):
    stream = io.StringIO()
    show_summary("Digits", FACTS, HINTS, columns=columns, stream=stream)
    return stream.getvalue()


def test_a_log_gets_plain_aligned_lines():
    assert shown(None) == (
        "\nDigits\n  ranks          2\n  test accuracy  98.1 % of 359\n"
        "Try next:\n  mpirun -n 4 python [job].py\n"
    )


def test_a_terminal_gets_the_same_facts_in_a_frame():
    pytest.importorskip("rich")

    lines = re.sub(r"\x1b\[[\d;]*m", "", shown(60)).splitlines()

    assert {len(line) for line in lines} == {60}
    text = "\n".join(lines)
    for words in ("Digits", "98.1 % of 359", "Try next:", "mpirun -n 4 python [job].py"):
        assert words in text
