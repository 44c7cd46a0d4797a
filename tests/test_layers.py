"""The floors hold, and the script that says so refuses every kind of tree that breaks them."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
SCRIPT = CHECKOUT / "scripts" / "check_layers.py"


def load_script():
    """Return scripts/check_layers.py as a module: `scripts` is no package."""
    specification = importlib.util.spec_from_file_location("check_layers", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    sys.modules["check_layers"] = module  # dataclasses look their module up by name
    specification.loader.exec_module(module)
    return module


check_layers = load_script()


def plant(root: Path, files: dict[str, str]) -> list[str]:
    """Write the files of a small tree and return what the script says about it."""
    for name, text in {"distgrad/__init__.py": "", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return check_layers.find_violations(root)


def test_this_tree_holds_its_floors():
    result = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=60
    )

    assert result.returncode == 0, result.stdout
    assert "no arrow up" in result.stdout


def test_this_tree_is_read_whole():
    modules, broken = check_layers.read_modules(CHECKOUT)

    assert not broken
    on_disk = [*CHECKOUT.glob("distgrad/**/*.py"), *CHECKOUT.glob("backends/**/*.py")]
    assert len(modules) == len(on_disk)


def test_a_clean_tree_passes(tmp_path):
    files = {
        "distgrad/__init__.py": "from distgrad.ops.sine import sine\n",
        "distgrad/errors.py": "",
        "distgrad/ops/__init__.py": "",
        "distgrad/ops/sine.py": "from ..errors import DistgradError\nimport numpy\n",
        "distgrad/testing/__init__.py": "import distgrad as dg\nfrom distgrad.ops import sine\n",
        "backends/distgrad_numpy/__init__.py": "from distgrad.errors import DistgradError\n",
    }

    assert plant(tmp_path, files) == []


@pytest.mark.parametrize(
    "statement",
    [
        "from distgrad.tensor import Tensor",
        "import distgrad.tensor",
        "from distgrad import tensor",
        "from .. import tensor",
        "from ..tensor import Tensor",
        "def late():\n    from distgrad.tensor import Tensor",
        "import typing\nif typing.TYPE_CHECKING:\n    from distgrad.tensor import Tensor",
        "import importlib\nimportlib.import_module('distgrad.tensor')",
    ],
)
def test_every_way_of_importing_from_above_is_refused(tmp_path, statement):
    files = {"distgrad/ops/sine.py": statement + "\n", "distgrad/tensor.py": ""}

    (violation,) = plant(tmp_path, files)

    line = len(statement.splitlines())
    assert violation == (
        f"distgrad/ops/sine.py:{line}: floor 3 (distgrad.ops.sine) imports distgrad.tensor "
        "on floor 4; arrows point down only"
    )


def test_a_backend_may_not_be_imported_from_below(tmp_path):
    files = {
        "distgrad/eager.py": "import distgrad_numpy\n",
        "backends/distgrad_numpy/__init__.py": "",
    }

    (violation,) = plant(tmp_path, files)

    assert violation.startswith("distgrad/eager.py:1: floor 5")
    assert "distgrad_numpy on floor 7" in violation


def test_lower_floors_may_not_import_the_face(tmp_path):
    (violation,) = plant(tmp_path, {"distgrad/tape/walk.py": "import distgrad as dg\n"})

    assert violation.startswith("distgrad/tape/walk.py:1: floor 6")
    assert "face" in violation


def test_a_module_on_no_floor_is_refused(tmp_path):
    (violation,) = plant(tmp_path, {"distgrad/utilities.py": ""})

    assert violation.startswith("distgrad/utilities.py:1: distgrad.utilities stands on no floor")


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("import marshal", "marshal"),
        ("def late():\n    import yaml", "yaml"),
        ("import socket", "socket"),
        ("from http import server", "http.server"),
        ("x = eval('1')", "eval"),
        ("import builtins\nbuiltins.exec('1')", "exec"),
        ("import numpy\nnumpy.load('a', allow_pickle=True)", "allow_pickle"),
    ],
)
def test_what_runs_code_from_data_is_refused(tmp_path, statement, named):
    (violation,) = plant(tmp_path, {"backends/distgrad_numpy/io.py": statement + "\n"})

    line = len(statement.splitlines())
    assert violation.startswith(f"backends/distgrad_numpy/io.py:{line}: ")
    assert named in violation


def test_a_method_named_eval_is_no_evaluation_of_text(tmp_path):
    assert plant(tmp_path, {"distgrad/nn/module.py": "def stop(model):\n    model.eval()\n"}) == []


@pytest.mark.parametrize("package", ["cupy", "mpi4py", "rich", "scipy"])
def test_importing_distgrad_may_not_bring_in_slow_packages(tmp_path, package):
    files = {
        "distgrad/__init__.py": "from distgrad.tape.walk import walk\n",
        "distgrad/tape/__init__.py": f"try:\n    import {package}.core\nfinally:\n    pass\n",
        "distgrad/tape/walk.py": f"def walk():\n    import {package}\n",
    }

    (violation,) = plant(tmp_path, files)

    assert violation.startswith("distgrad/tape/__init__.py:2: ")
    assert package in violation


def test_slow_packages_are_welcome_where_importing_distgrad_does_not_lead(tmp_path):
    files = {
        "distgrad/cli.py": "import rich\n",
        "distgrad/tape/__init__.py": "if TYPE_CHECKING:\n    import mpi4py\n",
    }

    assert plant(tmp_path, files) == []


def test_an_import_circle_is_refused_with_its_arrows(tmp_path):
    files = {
        "distgrad/ops/__init__.py": "from distgrad.ops.sine import sine\n",
        "distgrad/ops/sine.py": "\nfrom distgrad.ops.sums import total\n",
        "distgrad/ops/sums.py": "def late():\n    from distgrad.ops import sine_of\n",
    }

    (violation,) = plant(tmp_path, files)

    assert violation == (
        "import circle of 3 modules: distgrad/ops/__init__.py:1 imports distgrad.ops.sine; "
        "distgrad/ops/sine.py:2 imports distgrad.ops.sums; "
        "distgrad/ops/sums.py:2 imports distgrad.ops"
    )


def test_modules_that_share_a_name_below_form_no_circle(tmp_path):
    files = {
        "distgrad/ops/__init__.py": "from distgrad.ops import sine, sums\n",
        "distgrad/ops/sine.py": "from distgrad.ops import sums\n",
        "distgrad/ops/sums.py": "",
    }

    assert plant(tmp_path, files) == []


def test_the_face_may_fetch_late_what_imports_the_face(tmp_path):
    files = {
        "distgrad/__init__.py": "def __getattr__(name):\n    from distgrad import testing\n",
        "distgrad/testing/__init__.py": "import distgrad as dg\n",
    }

    assert plant(tmp_path, files) == []


def test_a_file_that_does_not_parse_is_named(tmp_path):
    (violation,) = plant(tmp_path, {"distgrad/errors.py": "class\n"})

    assert violation.startswith("distgrad/errors.py:1: ")


def test_a_violation_sets_the_exit_status(tmp_path):
    plant(
        tmp_path, {"distgrad/core/op.py": "import distgrad.ops\n", "distgrad/ops/__init__.py": ""}
    )

    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, timeout=60
    )

    assert result.returncode == 1
    assert "distgrad/core/op.py:1" in result.stdout


def test_a_folder_that_is_no_checkout_is_an_error(tmp_path):
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, timeout=60
    )

    assert result.returncode == 2
    assert "no checkout" in result.stderr
