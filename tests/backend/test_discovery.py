"""Backends are found by the entry points of installed packages, one by name, on first use."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import array_api_strict
import pytest

import distgrad as dg
from distgrad.backend import ArrayModuleBackend, discovery, known, load, status
from distgrad.errors import BackendUnavailableError, UnknownBackendError


def create():
    return ArrayModuleBackend("foreign", array_api_strict)


def create_for_another_version():
    backend = create()
    backend.api_version = 99
    return backend


def create_on_a_missing_device():
    raise RuntimeError("no device answers")


@pytest.fixture
def offer(monkeypatch):
    """Return a function that makes an installed package offer a backend under a name."""
    points = dict(discovery._entry_points())
    monkeypatch.setattr(discovery, "_entry_points", lambda: points)

    def offer(name, value):
        points[name] = EntryPoint(name=name, value=value, group=discovery.GROUP)

    return offer


def python(code):
    """Return what a fresh interpreter prints, with no backend chosen by the environment."""
    environment = {k: v for k, v in os.environ.items() if k != "DISTGRAD_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_own_backends_are_offered_as_a_strangers_are():
    assert {"numpy", "cupy"} <= set(known())
    assert dg.list_backends() == known()


def test_listing_backends_imports_none_of_them():
    loaded = python(
        "import sys, distgrad as dg; dg.list_backends();"
        "print([m for m in ('distgrad_cupy', 'cupy', 'mpi4py', 'rich') if m in sys.modules])"
    )

    assert loaded == "[]"


def test_a_backend_is_loaded_once():
    assert load("numpy") is load("numpy")


def test_an_unknown_name_is_answered_with_the_nearest_and_all_names():
    with pytest.raises(UnknownBackendError) as caught:
        dg.set_backend("numpi")

    message = str(caught.value)
    assert "'numpi' is unknown" in message
    assert "cupy, numpy" in message
    assert "did you mean 'numpy'?" in message
    assert isinstance(caught.value, LookupError)


def test_without_any_entry_point_the_remedy_is_to_install(monkeypatch):
    monkeypatch.setattr(discovery, "_entry_points", dict)

    with pytest.raises(UnknownBackendError, match=r"pip install -e \."):
        load("anything")


def test_a_strangers_backend_is_found_by_name(offer):
    offer("foreign", f"{__name__}:create")

    with dg.use_backend("foreign") as backend:
        x = dg.asarray([1.0, 2.0])

    assert backend.name == "foreign"
    assert x.backend is backend


def test_a_backend_for_another_protocol_version_is_refused_with_both_versions(offer):
    offer("newer", f"{__name__}:create_for_another_version")

    with pytest.raises(BackendUnavailableError, match=r"version 99 .* expected 1; remedy:"):
        load("newer")


def test_a_backend_whose_device_is_missing_says_why_and_what_to_do(offer):
    offer("deviceless", f"{__name__}:create_on_a_missing_device")

    with pytest.raises(BackendUnavailableError) as caught:
        load("deviceless")

    assert "no device answers; remedy: reinstall the package" in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_status_says_of_each_backend_whether_it_works_or_why_not(offer):
    offer("broken", "no_such_package:create")

    found = {each.name: each for each in status()}

    assert found["numpy"].ok
    assert found["numpy"].reason == ""
    assert not found["broken"].ok
    assert "No module named 'no_such_package'" in found["broken"].reason
    assert "remedy" in found["broken"].reason


def test_the_environment_chooses_the_default():
    code = (
        "import os; os.environ['DISTGRAD_BACKEND'] = 'numqy'\n"
        "import distgrad as dg\n"
        "try: dg.zeros(3)\n"
        "except dg.errors.UnknownBackendError as error: print(error)"
    )

    assert "did you mean 'numpy'?" in python(code)


def test_use_backend_ends_with_its_block(offer):
    offer("foreign", f"{__name__}:create")

    with dg.use_backend("foreign"):
        inside = dg.zeros(3).backend.name
    outside = dg.zeros(3).backend.name

    assert (inside, outside) == ("foreign", "numpy")


def test_whatever_takes_a_name_takes_a_backend():
    backend = create()

    assert dg.asarray([1.0], backend=backend).backend is backend
    assert dg.Variable([1.0], backend=backend).backend is backend
    assert dg.asarray([1.0]).to(backend=backend).backend is backend
