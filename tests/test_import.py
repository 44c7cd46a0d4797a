"""`import distgrad` is light: little more than NumPy, no thread, no device, no job."""

import os
import subprocess
import sys

import pytest

import distgrad as dg


def run(code: str, **environment: str) -> str:
    """Return what a fresh interpreter prints."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_import_brings_in_nothing_that_is_not_needed():
    heavy = (
        "mpi4py cupy rich sklearn scipy ml_dtypes torch tensorflow jax array_api_strict "
        "importlib.metadata multiprocessing asyncio distgrad.distributed distgrad.training "
        "distgrad_cupy distgrad.nn distgrad.random distgrad.numpy_functions.dispatch numpy.random "
        "statistics"
    )
    code = f"import sys, distgrad; print([m for m in {heavy.split()} if m in sys.modules])"

    assert run(code) == "[]"


def test_what_is_imported_late_is_there_when_it_is_asked_for():
    code = (
        "import distgrad as dg, numpy as np\n"
        "print({'nn', 'random', 'distributed'} <= set(dir(dg)))\n"
        "print(np.mean(dg.asarray([1.0, 2.0])), np.hypot(dg.asarray(3.0), 4.0), dg.nn.relu(-1.0))"
    )

    assert run(code).split("\n")[0] == "True"
    assert run(code).split("\n")[1].startswith("dg.Tensor(1.5")


def test_the_names_shown_are_the_public_ones():
    shown = {name for name in dir(dg) if not name.startswith("__")}

    assert set(dg.__all__) - shown <= {"__array_api_version__", "__array_namespace_info__"}
    assert shown.isdisjoint({"Any", "TYPE_CHECKING", "import_module", "eager", "tensor"})
    assert all(hasattr(dg, name) for name in shown)


def test_the_import_starts_no_thread_and_forks_no_process():
    code = (
        "import os, sys, threading\n"
        "forks = []\n"
        "sys.addaudithook(lambda event, _: forks.append(event)"
        " if event in ('subprocess.Popen', 'os.fork', 'os.exec', 'socket.connect') else None)\n"
        "import distgrad\n"
        "print(threading.active_count(), forks)"
    )

    assert run(code) == "1 []"


def test_the_first_computation_loads_numpys_backend_alone():
    code = (
        "import sys, distgrad as dg; dg.sin(1.0); "
        "print('distgrad_numpy' in sys.modules, 'cupy' in sys.modules, 'mpi4py' in sys.modules)"
    )

    assert run(code) == "True False False"


def test_the_environment_variable_names_the_backend():
    code = (
        "import distgrad as dg\n"
        "try:\n    dg.asarray(1.0)\n"
        "except dg.errors.UnknownBackendError as error:\n    print(error)\n"
    )

    assert "'nowhere' is unknown" in run(code, DISTGRAD_BACKEND="nowhere")
    assert run(
        "import distgrad as dg; print(dg.asarray(1.0).backend.name)", DISTGRAD_BACKEND=""
    ) == ("numpy")


@pytest.mark.parametrize("name", dg.__all__)
def test_every_public_name_is_there(name):
    assert hasattr(dg, name)


def test_public_names_are_listed_once():
    assert len(set(dg.__all__)) == len(dg.__all__)
