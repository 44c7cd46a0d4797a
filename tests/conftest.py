"""What all tests share: each leaves the set of backends in use as it found it."""

import gc
import os
import shutil

import pytest

from distgrad import backends_in_force

HAS_COMPILER = any(
    map(shutil.which, os.environ.get("CXX", "").split()[:1] or ("c++", "g++", "clang++"))
)
if not HAS_COMPILER:
    # Nothing warns of it then, in the processes that tests start neither.
    os.environ["DISTGRAD_C_KERNELS"] = "0"


@pytest.fixture(autouse=True)
def backends_in_use():
    before = dict(backends_in_force._kernels)
    yield
    # Those of `vmap` are made once for each level, and remembered elsewhere as well.
    levels = {key: each for key, each in backends_in_force._kernels.items() if each.level}
    backends_in_force._kernels.clear()
    backends_in_force._kernels.update(before | levels)


@pytest.fixture
def only_references_count():
    """Switch the cycle collector off: what dies now, dies because nobody refers to it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def pytest_collection_modifyitems(items):
    """Leave out the tests of compiled kernels where nothing compiles."""
    if HAS_COMPILER:
        return
    for item in items:
        if item.get_closest_marker("needs_compiler"):
            item.add_marker(pytest.mark.skip(reason="no C++ compiler is installed"))
