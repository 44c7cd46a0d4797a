"""The CuPy backend as far as it goes without a device: its imports, names and reasons."""

import importlib.util
import inspect
import json
import os
import subprocess
import sys

import pytest

from distgrad.backend import discovery
from distgrad.backend.adapters import ADAPTERS
from distgrad.errors import BackendUnavailableError
from distgrad.ops import VOCABULARY
from distgrad.testing.samples import samples

needs_cupy = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None, reason="CuPy is not installed"
)


def python(code):
    """Return what a fresh interpreter prints that sees no CUDA device."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_cupy
def test_it_imports_without_a_driver():
    assert python("import distgrad_cupy; print(distgrad_cupy.create.__name__)") == "create\n"


@needs_cupy
def test_without_a_device_loading_it_says_why_and_what_to_do():
    code = (
        "import distgrad as dg\n"
        "try: dg.set_backend('cupy')\n"
        "except dg.errors.BackendUnavailableError as error: print(error)"
    )

    message = python(code)

    assert "backend 'cupy' cannot be loaded: the" in message
    assert "NVIDIA driver" in message
    assert message.count("remedy:") == 1
    assert len(message.splitlines()) <= 2


def test_without_cupy_loading_it_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("distgrad_cupy")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed

    with pytest.raises(BackendUnavailableError) as caught:
        discovery.load.__wrapped__("cupy")  # not from the cache, where there is a device

    assert "cupy" in str(caught.value).partition("remedy")[0]
    assert "pip install 'distgrad[cuda12]'" in str(caught.value)
    assert isinstance(caught.value, ImportError)


@pytest.fixture
def functions():
    """What the CuPy backend would call for each operation, found without a device."""
    code = (
        "import json, cupy, distgrad_cupy.backend as b, distgrad.ops as ops\n"
        "print(json.dumps([n for n in ops.VOCABULARY if n in b.KERNELS or hasattr(cupy, n)]))"
    )
    return set(json.loads(python(code)))


@needs_cupy
def test_every_operation_has_a_kernel_an_adapter_or_a_composition(functions):
    composed = {name for name, op in VOCABULARY.items() if op.compose is not None}

    assert VOCABULARY.keys() - functions - ADAPTERS.keys() - composed == set()


@needs_cupy
def test_its_functions_take_the_arguments_of_the_vocabulary():
    import cupy

    from distgrad_cupy.backend import KERNELS

    for sample in samples():
        name = sample.operation
        if name in KERNELS or name in ADAPTERS:
            continue
        function = getattr(cupy, name, None)
        if inspect.isfunction(function):
            inspect.signature(function).bind(*sample.operands, **sample.params)


@needs_cupy
def test_special_functions_are_cupys_by_names_that_it_has():
    code = (
        "from distgrad_cupy import special\n"
        "print([n for n in special.NAMES if not callable(special.function(n))])"
    )

    assert python(code) == "[]\n"


def test_nothing_of_it_is_needed_for_numpy():
    code = (
        "import sys; sys.modules['cupy'] = None\n"
        "import distgrad as dg\n"
        "print(float(dg.sum(dg.ones(3))))"
    )

    assert python(code) == "3.0\n"
