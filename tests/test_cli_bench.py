"""The command `distgrad bench`: what it measures here, and what it says when it cannot."""

import json

import pytest

from distgrad.cli import main


def test_every_case_but_messages_is_measured(capsys):
    assert main(["bench", "--seconds", "0.001", "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert list(found["cases"]) == ["eager", "derivatives", "kernels", "training"]
    assert found["backend"] == "numpy"
    for lines in found["cases"].values():
        for line in lines:
            assert 0 < line["least"] <= line["median"]
            assert line["repetitions"] >= 3


def test_the_table_has_a_line_for_each_program(capsys):
    assert main(["bench", "eager", "derivatives", "--seconds", "0.001"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("distgrad ")
    assert [line for line in lines if not line.startswith(" ")][1:] == ["eager", "derivatives"]
    assert len(lines) == 3 + 2 + 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there is no case 'nothing'; expected some of eager, derivatives"),
        (["messages"], "one rank alone sends no messages; start several"),
        (["-n", "0"], "-n is 0; expected 1 or more"),
        (["--backend", "nupmy"], "did you mean 'numpy'"),
    ],
)
def test_what_cannot_be_measured_is_said(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_time_is_positive(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--seconds", "-1"])
    assert "expected a positive number" in capsys.readouterr().err
