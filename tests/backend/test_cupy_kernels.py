"""CUDA sources without a device: every one compiles under NVRTC for the architectures in use."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg
from distgrad.backend.scalar_code import forward
from distgrad.ops import VOCABULARY
from distgrad.testing.formulas import cases

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None, reason="CuPy is not installed"
)

# A100; H100 and H200; B200: as PTX, which a driver finishes. Each gets every formula once.
ARCHITECTURES = {
    "float16": "compute_90",
    "bfloat16": "compute_90",
    "float32": "compute_80",
    "float64": "compute_100",
}


# What a source is not compiled for.
UNUSED = {(name, dtype) for name in ("philox", "copying") for dtype in ("float16", "bfloat16")}


def includes():
    """Return where NVRTC finds CuPy's headers and CUDA's."""
    import cupy

    packages = Path(cupy.__file__).parent.parent
    headers = packages / "cupy" / "_core" / "include"
    # In `cuda_runtime` of CUDA 12's wheels, in `cu13` of CUDA 13's.
    own = next(packages.glob("nvidia/cu*/include/cuda_fp16.h")).parent
    return f"-I{headers}", f"-I{own}"


def compiled(source, architecture, extra=()):
    """Return the PTX of a CUDA source, by NVRTC alone."""
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(source, "distgrad.cu", (), ())
    options = (f"--gpu-architecture={architecture}", "--std=c++17", *includes(), *extra)
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError as error:
        pytest.fail(f"{error}: {nvrtc.getProgramLog(program)[:4000]}")
    return nvrtc.getPTX(program).decode()


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


@pytest.mark.parametrize(("dtype", "architecture"), ARCHITECTURES.items())
def test_formulas_of_elementwise_operations_compile_with_loads_of_16_bytes(dtype, architecture):
    from distgrad_cupy.contiguous import element_source, kernel_source
    from distgrad_cupy.running import headers

    formulas = list(dict.fromkeys(case.formula for case in cases([dtype])))
    header = headers([dtype])
    texts = [
        f"namespace of{place} {{ {element_source(each).removeprefix(header)}"
        f"{kernel_source(each, f'f{place}')} }}\n"
        for place, each in enumerate(formulas)
    ]
    whole = compiled(header + "".join(texts), architecture)

    kernels = whole.split(".entry ")[1:]
    assert len(kernels) == len(formulas) >= 160
    halves = "ld.global.v4.u32"
    wide = {"float16": halves, "bfloat16": halves, "float32": "ld.global.v4.f32"}
    load = wide.get(dtype, "ld.global.v2.f64")
    for kernel in kernels:
        formula = formulas[int(kernel.partition("(")[0].removeprefix("f"))]
        assert load in kernel or "ld.global" not in kernel, formula.name
        # What is computed side by side stays in registers; CUDA's own functions may want memory.
        is_own = dtype == "float64" or re.search(r"(sin|cos|tan)\(", formula.body)
        assert ".local" not in kernel or is_own, formula.name


@pytest.mark.parametrize(("dtype", "architecture"), ARCHITECTURES.items())
def test_formulas_over_rows_that_repeat_compile(dtype, architecture):
    from distgrad_cupy.contiguous import ONE, ROW, WHOLE, element_source, kernel_source

    formula = forward(VOCABULARY["where"], VOCABULARY, ["bool", dtype, float], {})
    bias = forward(VOCABULARY["add"], VOCABULARY, [dtype, dtype], {})

    for each, seen in ((formula, (ROW, WHOLE, WHOLE)), (bias, (WHOLE, ROW)), (bias, (ONE, WHOLE))):
        made = compiled(element_source(each) + kernel_source(each, "f", seen), architecture)

        assert made.count(".entry") == 1
        assert ".local" not in made


@pytest.mark.parametrize("dtype", [each for each in ARCHITECTURES if each != "bfloat16"])
def test_regions_of_traced_functions_compile(dtype):
    from distgrad.graph.regions import fusion_of
    from distgrad_cupy.contiguous import element_source, kernel_source
    from distgrad_cupy.regions import RegionKernels

    def loss(x, y):
        z = dg.where(x > y, dg.tanh(x * y), dg.exp(-x)) + dg.log1p(x * x)
        return dg.sum(z * dg.sin(y), axis=0)

    given = [dg.asarray(np.ones((64, 80), dtype)) for _ in range(2)]
    graph = dg.function(dg.value_and_grad(lambda x, y: dg.sum(loss(x, y)), argnums=(0, 1))).graph(
        *given
    )
    calls = [node for node in graph.needed_for(graph.outputs) if node.op is not None]
    parts = fusion_of(calls, graph.outputs, RegionKernels(None)).parts

    assert max(len(part.members) for part in parts) > 20
    for part in parts:
        formula = part.region.formula
        made = compiled(element_source(formula) + kernel_source(formula, "f"), ARCHITECTURES[dtype])
        assert made.count(".entry") == 1


@pytest.mark.parametrize("dtype", ARCHITECTURES)
def test_all_threads_of_a_row_have_registers(dtype):
    from cupy.cuda import nvrtc

    from distgrad_cupy.running import options_of, source_of

    for name in ("softmax", "norms", "attention"):
        extra = options_of(name)
        program = nvrtc.createProgram(source_of(name, dtype), f"{name}.cu", (), ())
        options = ("--gpu-architecture=sm_90", "--ptxas-options=-v", *includes(), *extra)
        nvrtc.compileProgram(program, options)
        used = re.findall(r"Used (\d+) registers", nvrtc.getProgramLog(program))

        assert len(used) == source_of(name, dtype).count('extern "C" __global__')
        assert max(map(int, used)) <= 65_536 // 1024


@pytest.mark.parametrize(("dtype", "architecture"), ARCHITECTURES.items())
def test_steps_of_optimizers_compile(dtype, architecture):
    from distgrad import optimizers
    from distgrad.optimizers.fused import formula_of
    from distgrad_cupy.stepping import Together

    rules = [optimizers.SGD(0.1, momentum=0.9), optimizers.Adam(0.01, amsgrad=True)]
    for rule in [*rules, optimizers.RMSprop(0.01, momentum=0.9, centered=True)]:
        wide, master = ("float32", "float32") if "float16" in dtype else (dtype, None)
        count = len(rule.numbers(1))
        formula = formula_of(rule, dtype, dtype, [wide] * len(rule.slots), master, count)
        text = Together(None, formula, count).text

        made = compiled(text, architecture)

        assert made.count(".entry") == 1
        assert ".local" not in made  # the table is read where arguments lie
