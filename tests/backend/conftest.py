"""A stranger's backend, of a name and an array-API module; and a compiler for the host."""

import ctypes
import shutil
import subprocess
import sys

import array_api_strict
import pytest

from distgrad.backend import ArrayModuleBackend

STRICT = ArrayModuleBackend("strict", array_api_strict)


@pytest.fixture
def strict():
    """The backend over array-api-strict, the consortium's minimal implementation."""
    return STRICT


@pytest.fixture
def compiled_cxx(tmp_path):
    """A function that compiles C++ for the host, and returns the loaded library."""

    def compiled(source):
        code, library = tmp_path / "code.cpp", tmp_path / "code.so"
        code.write_text(source)
        found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
        compiler = [found] if found else [sys.executable, "-m", "ziglang", "c++"]
        command = [*compiler, "-std=c++17", "-O1", "-shared", "-fPIC", "-o", library, code]
        subprocess.run(command, check=True, timeout=300)
        return ctypes.CDLL(str(library))

    return compiled
