"""The CuPy backend where ml_dtypes is not installed, which only bfloat16 needs."""

import importlib.util
import subprocess
import sys

import pytest

if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

PROGRAM = """
import importlib, pkgutil, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ml_dtypes":
            raise ModuleNotFoundError("No module named 'ml_dtypes'", name="ml_dtypes")

sys.meta_path.insert(0, Missing())
import distgrad_cupy
for module in pkgutil.iter_modules(distgrad_cupy.__path__, "distgrad_cupy."):
    importlib.import_module(module.name)
from distgrad_cupy.backend import KERNELS
print(len(KERNELS))
"""


def test_all_of_the_backend_is_imported():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200
