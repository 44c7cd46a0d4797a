"""Compiled kernels of a cache of the test's own, and a machine without a compiler."""

import pytest

from distgrad_numpy.compiled import library


@pytest.fixture
def without():
    """A function that calls another with NumPy's kernels."""

    def call(function):
        before = library.switch(False)
        try:
            return function()
        finally:
            library.switch(before)

    return call


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of this test's own, and a process that has loaded nothing yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DISTGRAD_CACHE_DIR", str(folder))
    monkeypatch.setattr(library, "_state", library._State())
    return folder
