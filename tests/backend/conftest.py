"""A stranger's backend, of a name and an array-API module; compilers for the host, for CUDA too."""

import ctypes
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import array_api_strict
import numpy as np
import pytest

from distgrad.backend import ArrayModuleBackend
from distgrad.backends_in_force import kernels_of

# Modules are imported in search of doctests; this one is of use with CuPy alone.
collect_ignore = [] if importlib.util.find_spec("cupy") else ["cupy_manners.py"]

STRICT = ArrayModuleBackend("strict", array_api_strict)


@pytest.fixture
def strict():
    """The backend over array-api-strict, the consortium's minimal implementation."""
    return STRICT


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory):
    """A folder in which sources are compiled once for all tests."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def compiled_cxx(compiled_once, tmp_path):
    """A function that compiles C++ for the host, and loads it with variables of the test's own."""

    def compiled(source):
        made = Path(compile_for_host(source, compiled_once)._name)
        return ctypes.CDLL(shutil.copy(made, tmp_path))

    return compiled


def host_compiler():
    """Return the command of a C++ compiler."""
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    return [found] if found else [sys.executable, "-m", "ziglang", "c++"]


@cache
def watching():
    """Return how kernels are compiled so that each access is watched; by no options if it is not.

    Clang cuts loads of 16 bytes into smaller ones before it instruments them.
    """
    said = subprocess.run([*host_compiler(), "--version"], capture_output=True, text=True).stdout
    if "clang" in said:
        return ()
    return "-fsanitize=thread", "-DWATCHED", "-fno-tree-sra"


# --- CUDA sources on the host ---------------------------------------------------------------------
SHIM = Path(__file__).with_name("host_shim.h")
_MACRO = re.compile(r"#define ([A-Z]+) *\\\n((?:.*\\\n)*.*)\n")
_KERNEL = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\)')


def compile_for_host(source, folder, *watching):
    """Return the loaded library of a C++ source; compiled once for a folder."""
    digest = hashlib.sha256(repr((source, watching)).encode()).hexdigest()[:16]
    code, unit, library = (folder / f"{digest}.{kind}" for kind in ("cpp", "o", "so"))
    if not library.exists():
        code.write_text(source)
        compiler = host_compiler()
        options = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", f"-I{SHIM.parent}"]
        run = partial(subprocess.run, check=True, timeout=300)
        run([*compiler, *options, *watching, "-c", code, "-o", unit])
        run([*compiler, "-shared", unit, "-o", library])
    return ctypes.CDLL(str(library))


def host_source(text):
    """Return a CUDA source with the shim before it and, behind it, what starts each kernel."""
    starts = []
    # Parameters that several kernels have stand in a macro.
    macros = {
        name: " ".join(body.replace("\\", " ").split()) for name, body in _MACRO.findall(text)
    }
    for name, written in _KERNEL.findall(text):
        parameters = re.sub(r"\b[A-Z]{2,}\b", lambda word: macros[word.group()], written)
        names = [re.search(r"(\w+)\s*$", each).group(1) for each in parameters.split(",")]
        starts.append(
            f'extern "C" int run_{name}(unsigned gx, unsigned gy, unsigned gz, unsigned threads, '
            f"int backwards, {parameters}) {{\n"
            f"const auto run = [=] {{ {name}({', '.join(names)}); }};\n"
            "return shim::launch({gx, gy, gz}, {threads, 1, 1}, backwards, run); }\n"
        )
    text = re.sub(r"#include <cupy/b?float16.cuh>\n", "", text)
    return SHIM.read_text() + text + "".join(starts)


class HostRunner:
    """Runs CUDA kernels on NumPy's arrays, with a shim for threads and barriers; notes launches.

    Threads of a block are run one after the other, each to its next barrier, in both orders: where
    a barrier is missing, the two differ. Each access to memory is watched, see `host_checks.h`.

    Parameters
    ----------
    folder : pathlib.Path
        For compiled sources.
    namespace : callable
        Returns the vocabulary on NumPy's arrays.
    """

    module = np
    device = None
    is_capturing = False

    def __init__(self, folder, namespace):
        self.folder = folder
        self.namespace = namespace
        self.launched = []
        self.behind = []  # arrays that kernels change by addresses in a table

    def launch_text(self, text, name, grid, threads, arguments):
        self.run(text, name, grid, threads, arguments)

    def launch(self, source, name, elements, grid, threads, arguments):
        from distgrad_cupy.running import source_of

        self.run(source_of(source, elements), name, grid, threads, arguments)

    def matmul(self, a, b, out=None):
        product = self.wide_matmul(a, b).astype(a.dtype) if a.dtype.kind == "V" else a @ b
        if out is None:
            return product
        out[...] = product
        return out

    def wide_matmul(self, a, b):
        from distgrad_cupy.running import addition_dtype

        wide = addition_dtype(a.dtype.name)
        return np.matmul(a.astype(wide, copy=False), b.astype(wide, copy=False))

    def run(self, text, name, grid, threads, arguments):
        """Run a kernel of a text, in both orders of a block's threads."""
        library = compile_for_host(host_source(text), self.folder, *watching())
        self.launched.append(name)
        arrays = [each for each in arguments if isinstance(each, np.ndarray)]
        assert all(array.flags.c_contiguous for array in arrays)
        arrays += self.behind
        watched = [each for each in arrays if not _is_struct(each)]
        arrays = [array for array in arrays if array.flags.writeable]
        before = [array.copy() for array in arrays]
        function = getattr(library, f"run_{name}")
        dimensions = [ctypes.c_uint(n) for n in (*grid, 1, 1)[:3]]
        given = [_passed(each) for each in arguments]
        results = []
        for backwards in (0, 1):
            for array, old in zip(arrays, before, strict=True):
                array[...] = old
            _watch(library, watched)
            stuck = function(*dimensions, ctypes.c_uint(threads), backwards, *given)
            assert not stuck, f"{name}: {stuck} threads wait at a barrier that others never reach"
            assert not library.shim_fault(), f"{name}: {library.shim_fault().decode()}"
            results.append([array.copy() for array in arrays])
        for one, other in zip(*results, strict=True):
            assert one.tobytes() == other.tobytes(), f"{name}: a barrier is missing"


def _watch(library, arrays):
    """Let a kernel touch these arrays, and nothing else."""
    begins = [each.ctypes.data for each in arrays]
    ends = [begin + each.nbytes for begin, each in zip(begins, arrays, strict=True)]
    spans = []
    for begin, end in sorted(zip(begins, ends, strict=True)):
        if spans and begin < spans[-1][1]:
            spans[-1][1] = max(end, spans[-1][1])
        else:
            spans.append([begin, end])
    passed = np.array(spans, np.uintp).reshape(-1, 2).T.copy()
    library.shim_watch.restype = None
    rows = [ctypes.c_void_p(row.ctypes.data) for row in passed]
    library.shim_watch(*rows, ctypes.c_size_t(len(spans)))
    library.shim_fault.restype = ctypes.c_char_p


def _is_struct(array):
    """Return whether a kernel takes it by its value."""
    return array.ndim == 0 and array.dtype.type is np.void


@cache
def _struct_of(nbytes):
    fields = [("words", ctypes.c_longlong * (nbytes // 8))]
    return type("Struct", (ctypes.Structure,), {"_fields_": fields})


def _passed(argument):
    if argument is None:
        return ctypes.c_void_p(0)
    if isinstance(argument, np.ndarray) and _is_struct(argument):
        return _struct_of(argument.nbytes).from_buffer_copy(argument)
    if isinstance(argument, np.ndarray):
        return ctypes.c_void_p(argument.ctypes.data)
    return np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item())


@pytest.fixture(scope="module")
def host_runner(tmp_path_factory):
    """What starts kernels of CUDA sources on the host, over NumPy's arrays."""
    return HostRunner(tmp_path_factory.mktemp("cuda"), lambda: kernels_of("numpy"))


@pytest.fixture
def watched_runner(host_runner):
    """The same, where what kernels do to memory is watched."""
    if not watching():
        pytest.skip("only what g++ compiles is watched, and c++ is clang here")
    return host_runner


@pytest.fixture(scope="session")
def cupy_stand_in():
    """What stands for CuPy where streams are captured."""
    return module_beside("cupy_stand_in")


@pytest.fixture(scope="session")
def cupy_manners():
    """What takes the calls that CuPy takes, and no others."""
    return module_beside("cupy_manners")


def module_beside(name):
    """Return a module of this folder."""
    path = Path(__file__).with_name(f"{name}.py")
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
