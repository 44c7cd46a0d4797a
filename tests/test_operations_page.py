"""The list of operations in the reference is made from the declarations, and up to date."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from distgrad.ops import VOCABULARY

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = CHECKOUT / "docs" / "reference" / "operations.md"


@pytest.fixture(scope="module")
def script():
    """Return scripts/list_operations.py as a module: `scripts` is no package."""
    path = CHECKOUT / "scripts" / "list_operations.py"
    specification = importlib.util.spec_from_file_location("list_operations", path)
    module = importlib.util.module_from_spec(specification)
    sys.modules["list_operations"] = module
    specification.loader.exec_module(module)
    return module


def rows():
    """Return the cells of each operation's line on the page, by its name."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    cells = [re.split(r"(?<!\\) \| ", line[2:-2]) for line in lines]
    return {each[0].strip("`"): each[1:] for each in cells}


def test_the_page_is_up_to_date(script):
    assert PAGE.read_text() == script.render(), "run scripts/list_operations.py"


def test_every_operation_has_one_line_of_nine_cells():
    lines = rows()

    assert lines.keys() == VOCABULARY.keys()
    assert {len(cells) for cells in lines.values()} == {8}


def test_what_a_tape_keeps_is_said_as_declared():
    lines = rows()

    assert [lines[name][2] for name in ("sin", "tanh", "multiply", "sum", "floor")] == [
        *("inputs", "output", "1: 2; 2: 1", "shapes", "")
    ]


def test_conventions_come_from_the_docstring_and_from_the_table(script):
    lines = rows()

    assert "at a tie the gradient goes to `x1`" in lines["maximum"][-1]
    assert "1/k each ([conventions]" in lines["max"][-1]
    assert lines["random_normal"][-1] == "none"


def test_the_check_refuses_a_page_that_differs(script, tmp_path, monkeypatch, capsys):
    page = tmp_path / "operations.md"
    page.write_text("an older one\n")
    monkeypatch.setattr(sys, "argv", ["list_operations.py", "--check", str(page)])

    status = script.main()

    assert status == 1
    assert "run scripts/list_operations.py" in capsys.readouterr().err
    assert page.read_text() == "an older one\n"
