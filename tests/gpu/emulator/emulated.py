"""Run tests of the CuPy backend without a device: CuPy itself, on a device that the host emulates.

    python tests/gpu/emulator/emulated.py [PYTEST'S ARGUMENTS]
    python tests/gpu/emulator/emulated.py --run SCRIPT [ITS ARGUMENTS]

CuPy is the one that is installed, unchanged. The CUDA runtime that is linked into it is redirected
to `runtime.cpp`, which keeps the device's memory in the host's; the libraries that it loads (the
driver, cuBLAS, cuSOLVER, cuFFT, NCCL) are made from the sources beside this file; and what it gives
NVRTC to compile, its own kernels and ours, is compiled for the host, with `language.h` for the
words of CUDA. So what CuPy's functions make of shapes, dtypes and values, what they refuse, and
what kernels read and write beyond the device's memory, or at odd places, is seen as on a device.
Functions of numbers are as inexact as CUDA lets them be, see `rounding.h`. Speed, and the rounding
of the real libraries, are not seen.

The device does its work as late as CUDA lets it; DISTGRAD_EMULATED_ORDER names another order, see
`streams.h`: `aside first`, `at once`, or `never`.

Made anew in a temporary folder at each run; wants a C++ compiler, `nm`, SciPy, and the wheels
`nvidia-cuda-nvrtc-cu12` and `nvidia-cuda-runtime-cu12`.
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
PACKAGES = Path(sysconfig.get_path("platlib"))
WHERE = "DISTGRAD_EMULATOR"  # the variable that names the temporary folder
INCLUDED = (
    HERE,
    HERE.parents[1] / "backend",
    PACKAGES / "nvidia/cuda_runtime/include",
    PACKAGES / "cupy/_core/include",
    *(
        PACKAGES / f"cupy/_core/include/cupy/_cccl/{part}"
        for part in ("libcudacxx", "thrust", "cub")
    ),
)
COMPILER = [
    shutil.which("c++") or shutil.which("g++") or "c++",
    *("-std=c++17", "-fpermissive", "-w", "-ffp-contract=off", "-fno-threadsafe-statics", "-fPIC"),
    *(f"-I{folder}" for folder in INCLUDED),
]
# Each load and store of a kernel is looked at, see host_checks.h.
WATCHING = ("-O0", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0")
SOURCES = {
    "libcublas": "cublas.cpp",
    "libcusolver": "cusolver.cpp",
    "libcufft": "cufft.cpp",
    "libnccl": "nccl.cpp",
}
# What CuPy loads beside those that it is linked to.
LOADED = ("libcublasLt.so.12", "libnvJitLink.so.12")
NCCL = "libnccl.so.2"
FACTORS = "potrf getrf getrs geqrf gesvd geev"  # of LAPACK, for every letter
# What the driver looks up in a module. All else is the module's own: what a template declares as
# shared would be one and the same in all modules that are made of it.
LOOKED_UP = "*__run; *__sizes; shim_fault;"
OF_LETTERS = {"s": "orgqr syevd", "d": "orgqr syevd", "c": "ungqr heevd", "z": "ungqr heevd"}


def main():
    """Build the libraries, and run pytest on them, or a script."""
    lacking = [name for name in (COMPILER[0], "nm") if shutil.which(name) is None]
    if lacking:
        remedy = "install a C++ compiler and binutils, such as by `apt install g++`"
        print(f"emulated device: there is no {' and no '.join(lacking)}; {remedy}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="distgrad-emulator-") as folder:
        build(Path(folder))
        environment = {
            **os.environ,
            WHERE: folder,
            "CUPY_ACCELERATORS": "",  # CUB is compiled for devices alone
            "CUPY_CACHE_DIR": str(Path(folder) / "cubins"),
            "DISTGRAD_EMULATED_DEVICES": "2",
            "DISTGRAD_GPU": "required",
            "LD_LIBRARY_PATH": folder,
            "PYTHONPATH": os.pathsep.join(
                [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
        }
        given = sys.argv[1:]
        command = given[1:] if given[:1] == ["--run"] else ["-m", "pytest", *given]
        return subprocess.run([sys.executable, *command], env=environment, check=False).returncode


# --- building -------------------------------------------------------------------------------------


def build(folder):
    """Make the libraries that CuPy is linked to and those that it loads, and read our words once.

    Parameters
    ----------
    folder : pathlib.Path
        Where they go, each under the name that CuPy asks for.
    """
    driver = folder / "libcuda.so.1"
    make_library(driver, HERE / "runtime.cpp", [f"emulated_{name}" for name in runtime()], ())
    wanted = {}
    linking = [
        *PACKAGES.glob("cupy_backends/cuda/libs/*.so"),
        *PACKAGES.glob("cupy/cuda/cufft*.so"),
    ]
    for module in linking:
        for line in symbols(module, "--dynamic", "--undefined-only"):
            name, _, library = line.split()[-1].partition("@")
            library = NCCL if name.startswith("nccl") else library
            if re.match(r"lib(cublas|cusolver|cufft|curand|cusparse|nccl)\.", library):
                wanted.setdefault(library, set()).add(name)
    for library, names in wanted.items():
        source = SOURCES.get(library.partition(".")[0])
        make_library(folder / library, source and HERE / source, sorted(names), (driver,))
    for library in LOADED:
        make_library(folder / library, None, (), ())
    words = folder / "language.h"
    words.write_text(f'#include "{HERE / "language.h"}"\n')
    compile_with(*WATCHING, "-x", "c++-header", words, "-o", words.with_suffix(".h.gch"))
    (folder / "module.version").write_text(f"{{ global: {LOOKED_UP} local: *; }};\n")


def make_library(target, source, wanted, linked):
    """Compile a source to a library, which says of what is wanted and not there that it is not.

    Parameters
    ----------
    target : pathlib.Path
        The library; what is linked to it asks for symbols of its name as their version.
    source : pathlib.Path or None
        What it has.
    wanted : list of str
        The functions that somebody may call.
    linked : sequence of pathlib.Path
        Libraries that it is linked to.
    """
    stubs, own = target.with_suffix(".stubs.cpp"), target.with_suffix(".own.o")
    version = target.with_suffix(".version")
    have = set()
    if source:
        compile_with("-O1", "-c", source, "-o", own)
        have = {line.split()[-1] for line in symbols(own, "--defined-only")}
    lacking = (name for name in wanted if name.removeprefix("emulated_") not in have)
    lines = (f'int {name}() {{ return emulated_missing("{name}"); }}' for name in lacking)
    stubs.write_text("\n".join(['extern "C" {', "int emulated_missing(const char*);", *lines, "}"]))
    version.write_text(f"{target.name} {{ global: *; }};\n")
    parts = [*([own] if source else ()), stubs, *linked]
    names = f"-Wl,--version-script={version}", f"-Wl,-soname,{target.name}", "-Wl,-Bsymbolic"
    compile_with("-O1", "-shared", *parts, *names, "-ldl", "-o", target)


def compile_with(*arguments):
    """Run the compiler; an error of it is raised in its words."""
    done = subprocess.run([*COMPILER, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments))}:\n{done.stderr}")


def symbols(path, *options):
    """Return what `nm` says of a file, in lines."""
    command = ["nm", *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


# --- CuPy's runtime -------------------------------------------------------------------------------


def runtime():
    """Return where in CuPy's module the functions of the CUDA runtime stand, by their names."""
    module = next(PACKAGES.glob("cupy_backends/cuda/api/runtime.*.so"))
    fields = (line.split() for line in symbols(module))
    local = ((each[2], int(each[0], 16)) for each in fields if len(each) == 3 and each[1] == "t")
    return {name: place for name, place in local if re.fullmatch(r"cuda[A-Z]\w*", name)}


def redirect_runtime():
    """Lead the CUDA runtime that is linked into CuPy to the one of `runtime.cpp`."""
    library = ctypes.CDLL(str(Path(os.environ[WHERE]) / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)
    from cupy_backends.cuda.api import runtime as module

    maps = Path("/proc/self/maps").read_text().splitlines()
    begin = next(int(line.split("-")[0], 16) for line in maps if line.endswith(module.__file__))
    for name, place in runtime().items():
        target = getattr(library, name, None) or getattr(library, f"emulated_{name}")
        address = ctypes.cast(target, ctypes.c_void_p)
        library.emulated_redirect(ctypes.c_void_p(begin + place), address)


# --- kernels --------------------------------------------------------------------------------------

_KERNEL = re.compile(
    r"__global__\s+(?:__launch_bounds__\([^)]*\)\s*)?void\s+"
    r"(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\("
)
# What makes the threads of a block wait for each other, also by the macros of CuPy's reductions.
_TOGETHER = re.compile(r"__sync|__shfl|REDUCE|_sdata")
_SHARED = re.compile(r"extern\s+__shared__\s+([\w:<>, ]+?)\s*(?:__align__\(\d+\)\s*)?(\w+)\[\];")


def replace_compiler():
    """Let CuPy compile for the host where it would compile by NVRTC."""
    from cupy.cuda import compiler

    def compile_for_host(source, options=(), arch=None, filename="", name_expressions=None, *_):
        try:
            return compiled(source, options, name_expressions or ())
        except RuntimeError as error:
            raise compiler.CompileException(str(error), source, filename, options) from None

    compiler._compile_using_nvrtc_no_warning = compile_for_host


def compiled(source, options, expressions):
    """Return what stands for a module, and the names of templates in it: the path of a library.

    Parameters
    ----------
    source : str
        In CUDA C++.
    options : tuple of str
        For NVRTC; macros among them are taken.
    expressions : sequence of str
        Kernels that are to be made of templates.
    """
    folder = Path(os.environ[WHERE])
    macros = [option for option in options if option.startswith(("-D", "-I"))]
    digest = hashlib.sha256(repr((source, macros, expressions)).encode()).hexdigest()[:24]
    names = {each: f"k{hashlib.sha256(each.encode()).hexdigest()[:16]}" for each in expressions}
    library = folder / f"{digest}.so"
    if not library.exists():
        # Several processes may be at it; the last one to be done replaces what is the same.
        own = folder / f"{digest}.{os.getpid()}.cpp"
        kernels = names or {name: name for name in _KERNEL.findall(source)}
        together = "true" if _TOGETHER.search(source) else "false"
        text = _SHARED.sub(r"\1* \2 = (\1*)shim::dynamic_shared;", source)
        ends = (_ending(name, kernel, together) for kernel, name in kernels.items())
        own.write_text("\n".join(['#include "language.h"', text, *ends]))
        unit, made = own.with_suffix(".o"), own.with_suffix(".so")
        compile_with(*WATCHING, f"-I{folder}", *macros, "-c", own, "-o", unit)
        exported = f"-Wl,--version-script={folder / 'module.version'}"
        compile_with("-shared", unit, exported, f"-L{folder}", "-l:libcuda.so.1", "-o", made)
        unit.unlink()
        made.rename(library)
    return str(library).encode() + b"\0", names or None


def _ending(name, kernel, together):
    """Return how the emulated driver starts a kernel."""
    return f"""extern "C" {{
    int {name}__run(const shim::Start* start, void** given) {{
        return shim::call<{together}>({kernel}, start, given);
    }}
    const size_t* {name}__sizes() {{ return shim::sizes({kernel}); }}
    }}"""


# --- libraries ------------------------------------------------------------------------------------


class Plan(ctypes.Structure):
    """A plan of transforms, as `cufft.cpp` has it."""

    _fields_ = (
        ("rank", ctypes.c_int),
        ("lengths", ctypes.c_int * 3),
        ("given", ctypes.c_int * 3),
        ("given_step", ctypes.c_int),
        ("given_apart", ctypes.c_int),
        ("made", ctypes.c_int * 3),
        ("made_step", ctypes.c_int),
        ("made_apart", ctypes.c_int),
        ("type", ctypes.c_int),
        ("batch", ctypes.c_int),
        ("is_dense", ctypes.c_bool),
    )


# By cufftType: the dtypes of what is given and made.
_TRANSFORMS = {0x29: "FF", 0x69: "DD", 0x2A: "fF", 0x6A: "dD", 0x2C: "Ff", 0x6C: "Dd"}


@ctypes.CFUNCTYPE(None, ctypes.POINTER(Plan), ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
def transform(plan, given, made, direction):
    """Compute a plan's transforms by NumPy, none of them divided by its length."""
    plan = plan.contents
    lengths = plan.lengths[: plan.rank]
    half = [*lengths[:-1], lengths[-1] // 2 + 1]
    axes = tuple(range(1, plan.rank + 1))
    from_type, to_type = _TRANSFORMS[plan.type]
    from_real, to_real = from_type in "fd", to_type in "fd"
    shape = (plan.batch, *(half if to_real else lengths))
    x = transformed(given, from_type, shape, plan, plan.given, plan.given_step, plan.given_apart)
    shape = (plan.batch, *(half if from_real else lengths))
    y = transformed(made, to_type, shape, plan, plan.made, plan.made_step, plan.made_apart)
    x = x.copy()  # it may be where y is
    if from_real:
        y[...] = np.fft.rfftn(x, axes=axes)
    elif to_real:
        y[...] = np.fft.irfftn(x, lengths, axes=axes, norm="forward")
    else:
        y[...] = (
            np.fft.fftn(x, axes=axes)
            if direction < 0
            else np.fft.ifftn(x, axes=axes, norm="forward")
        )


def transformed(place, dtype, shape, plan, embedded, step, apart):
    """Return the numbers of a batch of transforms, where a plan says that they lie."""
    dtype, (batch, *lengths) = np.dtype(dtype), shape
    if plan.is_dense:
        embedded, step, apart = lengths, 1, int(np.prod(lengths))
    strides = [step]
    for length in reversed(embedded[1 : plan.rank]):
        strides.insert(0, strides[0] * length)
    last = (batch - 1) * apart + sum((n - 1) * s for n, s in zip(lengths, strides, strict=True))
    strides = [dtype.itemsize * stride for stride in (apart, *strides)]
    return np.lib.stride_tricks.as_strided(there(place, dtype, (last + 1,)), shape, strides)


def there(place, dtype, shape):
    """Return an array of the device as NumPy's, over the same memory."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(place), dtype).reshape(shape)


def replace_libraries(cupy):
    """Give the emulated libraries LAPACK and transforms, and CuPy sorting by NumPy.

    What CuPy has compiled of Thrust is for devices alone.
    """
    from scipy.linalg import cython_blas, cython_lapack

    driver = ctypes.CDLL(str(Path(os.environ[WHERE]) / "libcuda.so.1"))
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    name = ctypes.pythonapi.PyCapsule_GetName
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    name.restype, name.argtypes = ctypes.c_char_p, (ctypes.py_object,)
    functions = {**cython_lapack.__pyx_capi__, **cython_blas.__pyx_capi__}
    for letter, special in OF_LETTERS.items():
        for each in f"{FACTORS} {special} trsm".split():
            capsule = functions[letter + each]
            place = ctypes.c_void_p(pointer(capsule, name(capsule)))
            driver.emulated_know((letter + each).encode(), place)
    driver.emulated_know(b"transform", ctypes.cast(transform, ctypes.c_void_p))

    thrust = cupy.cuda.thrust
    thrust.available = True
    thrust.sort, thrust.argsort, thrust.lexsort = sort, argsort, lexsort


def sort(dtype, data, keys, shape):
    """Sort the lines of an array in place."""
    wait()
    there(data, dtype, shape).sort(axis=-1)


def argsort(dtype, order, data, keys, shape):
    """Sort the lines of an array in place, and note their order."""
    wait()
    numbers, found = there(data, dtype, shape), there(order, np.int64, shape)
    found[...] = np.argsort(numbers, axis=-1, kind="stable")
    numbers[...] = np.take_along_axis(numbers, found, axis=-1)


def lexsort(dtype, order, keys, count, length):
    """Note the order of columns, of which the last row counts first."""
    wait()
    there(order, np.int64, (length,))[...] = np.lexsort(there(keys, dtype, (count, length)))


def wait():
    """Wait for the stream that Thrust would work in, as Thrust does."""
    from cupy.cuda import get_current_stream

    get_current_stream().synchronize()


if __name__ == "__main__":
    raise SystemExit(main())
