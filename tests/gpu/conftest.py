"""Tests in this folder need a CUDA device; without one they are left out, and one says why.

Where `DISTGRAD_GPU=required` is set, as by `scripts/test gpu`, there is a device, and a run that
cannot use it has failed.
"""

import os
from pathlib import Path

import pytest

from distgrad.backend import load
from distgrad.errors import BackendUnavailableError


def pytest_configure():
    """Refuse to begin where a device is required and cannot be used."""
    reason = why_not() if os.environ.get("DISTGRAD_GPU") == "required" else ""
    if reason:
        raise pytest.UsageError(f"tests/gpu: {reason}")


def pytest_collection_modifyitems(config, items):
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker("gpu")
    reason = why_not() if here else ""
    if reason:
        first, *rest = here  # one line in the report says it for all of them
        first.add_marker(pytest.mark.skip(reason=f"tests/gpu: {reason}"))
        config.hook.pytest_deselected(items=rest)
        left_out = set(rest)
        items[:] = [item for item in items if item not in left_out]


def why_not():
    """Return why the CuPy backend does not work here; nothing where it does."""
    try:
        load("cupy")
    except BackendUnavailableError as error:
        return str(error)
    return ""


@pytest.fixture
def cupy_backend():
    """The CuPy backend, on the current device."""
    return load("cupy")
