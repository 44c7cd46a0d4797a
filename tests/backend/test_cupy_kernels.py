"""CUDA sources without a device: every one compiles under NVRTC for the architectures in use."""

import importlib.util
from pathlib import Path

import pytest

from distgrad.backend.scalar_code import C_TYPES
from distgrad.testing.formulas import cases

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None, reason="CuPy is not installed"
)

# A100; H100 and H200; B200: as PTX, which a driver finishes. Each gets every formula once.
ARCHITECTURES = {"float16": "compute_90", "float32": "compute_80", "float64": "compute_100"}


# What a source is not compiled for.
UNUSED = {("philox", "float16"), ("copying", "float16")}


def compiled(source, architecture, extra=()):
    """Return the PTX of a CUDA source, by NVRTC alone."""
    import cupy
    from cupy.cuda import nvrtc

    packages = Path(cupy.__file__).parent.parent
    headers = packages / "cupy" / "_core" / "include"
    toolkit = packages / "nvidia" / "cuda_runtime" / "include"
    program = nvrtc.createProgram(source, "distgrad.cu", (), ())
    options = (f"--gpu-architecture={architecture}", "--std=c++17", f"-I{headers}", f"-I{toolkit}")
    options += tuple(extra)
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError as error:
        pytest.fail(f"{error}: {nvrtc.getProgramLog(program)[:4000]}")
    return nvrtc.getPTX(program).decode()


def kernel(number, formula):
    """Return a formula as a kernel over arrays, as CuPy would write it."""
    names = [*formula.inputs, *formula.outputs]
    count = len(formula.inputs)
    pointers = ", ".join(
        f"{'const ' if place < count else ''}{C_TYPES[dtype.name]}* p{place}"
        for place, (_, dtype) in enumerate(names)
    )
    elements = " ".join(
        f"{'const ' if place < count else ''}{C_TYPES[dtype.name]}& {name} = p{place}[i];"
        for place, (name, dtype) in enumerate(names)
    )
    return (
        f'extern "C" __global__ void f{number}(long long n, {pointers}) {{\n'
        "for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; "
        f"i += (long long)blockDim.x * gridDim.x) {{ {elements}\n{formula.body}\n}} }}\n"
    )


@pytest.mark.parametrize(("dtype", "architecture"), ARCHITECTURES.items())
def test_formulas_of_elementwise_operations_compile(dtype, architecture):
    formulas = list(dict.fromkeys(case.formula for case in cases([dtype])))
    header = "#include <cupy/float16.cuh>\n" if dtype == "float16" else ""
    source = header + "".join(kernel(*each) for each in enumerate(formulas))

    assert len(formulas) >= 160
    assert compiled(source, architecture).count(".entry") == len(formulas)


@pytest.mark.parametrize(("dtype", "architecture"), ARCHITECTURES.items())
def test_sources_written_in_cuda_compile(dtype, architecture):
    from distgrad_cupy.running import options_of, source_of, sources

    names = [name for name in sources() if (name, dtype) not in UNUSED]
    for name in names:
        text = source_of(name, dtype)
        extra = [each for each in options_of(name) if each != "--std=c++17"]
        kernels = text.count('extern "C" __global__')

        assert compiled(text, architecture, extra).count(".entry") == kernels > 0
    assert len(names) >= 3
