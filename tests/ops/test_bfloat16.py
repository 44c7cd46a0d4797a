"""bfloat16: computed in float32 and rounded once, with gradients that come back in it."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg
from distgrad.core.seam import apply
from distgrad.dtypes import as_dtype, float16
from distgrad.ops import VOCABULARY
from distgrad.testing import rules
from distgrad.testing.inputs import values
from distgrad.testing.samples import samples

bfloat16 = as_dtype(pytest.importorskip("ml_dtypes").bfloat16)  # names it: kernels widen

SAMPLES = [
    sample
    for name in sorted(VOCABULARY.keys() - {"astype"})
    for sample in samples(name)[:2]
    if sample.sources
]
HALVED = [sample for sample in samples() if sample.sources]


def small(*shape, seed=0):
    return dg.asarray(values(shape, -2.0, 2.0, seed), dtype="bfloat16")


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_results_are_those_of_float32_rounded_once(sample):
    narrow = sample.cast(bfloat16)
    with np.errstate(all="ignore"):
        given = rules.call(narrow).outputs
        expected = rules.call(narrow.cast(np.dtype("float32"))).outputs

    for result, wide in zip(given, expected, strict=True):
        if wide.dtype == np.float32 and sample.operation != "irfft":  # the real part of complex64
            assert result.dtype == bfloat16
            wide = wide.astype(bfloat16)  # noqa: PLW2901
        assert result.dtype == wide.dtype
        assert np.array_equal(result, wide, equal_nan=wide.dtype.kind in "fcV")


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_the_gradient_of_every_operation_comes_back_in_bfloat16(sample):
    operands = list(sample.cast(bfloat16).operands)
    for place in sample.sources:
        operands[place] = dg.asarray(operands[place])
    sources = [operands[place] for place in sample.sources]

    with np.errstate(all="ignore"), dg.GradientTape() as tape:
        tape.watch(sources)
        y = apply(sample.op, *operands, **sample.params)
    with np.errstate(all="ignore"):
        gradients = tape.gradient(y, sources)

    assert [g.dtype for g in gradients if g is not None] == [bfloat16] * len(sources)
    assert [g.shape for g in gradients] == [x.shape for x in sources]


@pytest.mark.parametrize("sample", HALVED, ids=str)
@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=str)
def test_half_precision_gives_what_single_gives(sample, dtype):
    with np.errstate(all="ignore"):
        rules.check_half(sample, dtype)


@pytest.mark.parametrize("sample", HALVED, ids=str)
def test_the_spec_rule_foretells_bfloat16(sample):
    with np.errstate(all="ignore"):
        rules.check_spec(sample.cast(bfloat16))


def test_sums_and_products_add_up_in_float32():
    ones = dg.ones(4096, dtype="bfloat16")  # a sum in bfloat16 stops at 256

    assert float(dg.sum(ones)) == 4096
    assert float(dg.mean(ones)) == 1
    assert float(ones @ ones) == 4096
    assert float(dg.einsum("i,i->", ones, ones)) == 4096


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x * 0.1,
        lambda x: 3 + x,
        lambda x: x / 3.0,
        lambda x: 1.0 - x,
        lambda x: x**2,
        lambda x: x * True,
    ],
)
def test_numbers_do_not_widen(compute):
    assert compute(small(3)).dtype == bfloat16


@pytest.mark.parametrize(
    ("other", "joint"),
    [
        ("float32", "float32"),
        ("float16", "float32"),
        ("float64", "float64"),
        ("int8", "bfloat16"),
        ("bool", "bfloat16"),
        ("int32", "float64"),
        ("complex64", "complex64"),
    ],
)
def test_promotion_is_foretold_and_kept(other, joint):
    y = small(3) + dg.ones(3, dtype=other)

    assert (y.dtype.name, dg.result_type("bfloat16", other).name) == (joint, joint)
    assert dg.result_type(other, "bfloat16").name == joint


def test_a_variable_trains_in_bfloat16():
    weights = dg.Variable(values((3, 1), -1.0, 1.0), dtype="bfloat16")
    x = small(40, 3)
    target = x @ dg.asarray([[0.5], [-1.0], [0.25]], dtype="bfloat16")

    for _ in range(40):
        with dg.GradientTape() as tape:
            loss = dg.mean(dg.square(x @ weights - target))
        gradient = tape.gradient(loss, weights)
        weights.assign_sub(0.2 * gradient)

    assert (gradient.dtype, weights.dtype, loss.dtype) == (bfloat16,) * 3
    assert float(loss) < 1e-3


def test_traced_mapped_and_forward_derivatives_stay_in_bfloat16():
    x, v = small(4, 3), small(4, 3, seed=1)

    def f(a):
        return dg.sum(dg.tanh(a * 0.5) @ dg.ones((3, 2), dtype="bfloat16"))

    traced = dg.function(f)
    plain, mapped = dg.grad(f)(x), dg.vmap(dg.grad(f))(dg.stack([x, v]))
    _, tangent = dg.jvp(f, (x,), (v,))

    assert (traced(x).dtype, mapped.dtype, tangent.dtype) == (bfloat16,) * 3
    assert float(traced(x)) == float(f(x))
    np.testing.assert_allclose(mapped[0].astype("float32"), plain.astype("float32"), rtol=2**-6)
    np.testing.assert_allclose(
        dg.grad(traced)(x).astype("float32"), plain.astype("float32"), rtol=2**-6
    )


def test_kernels_are_wrapped_no_sooner_than_bfloat16_is_named():
    script = (
        "import distgrad as dg, numpy as np\n"
        "kernels = dg.ones(1).kernels\n"
        "from distgrad_numpy.products import matmul\n"
        "assert kernels.matmul is matmul and kernels.tan is np.tan\n"
        "dg.zeros(1, dtype='bfloat16')\n"
        "assert kernels.matmul is not matmul and kernels.matmul is kernels.table[\n"
        "    dg.ops.VOCABULARY['matmul']]\n"
    )

    job = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert job.stderr == ""


def test_many_backends_learn_of_bfloat16_in_turn():
    code = (
        "import numpy as np\n"
        "import distgrad as dg\n"
        "from distgrad.backend import ArrayModuleBackend\n"
        "backends = [ArrayModuleBackend(f'b{i}', np) for i in range(300)]\n"
        "arrays = [dg.asarray(1.0, backend=each) for each in backends]\n"
        "dg.asarray(1.0, dtype='bfloat16')\n"
        "print(dg.exp(arrays[0].astype('bfloat16')).dtype)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout == "bfloat16\n", done.stderr


def test_functions_of_numpy_take_bfloat16():
    x = dg.asarray([1.0, np.nan, np.inf, -np.inf], dtype="bfloat16")
    largest = dg.finfo("bfloat16").max
    line = dg.asarray([1.0, 2.0, 3.0], dtype="bfloat16")

    assert np.nan_to_num(x).astype("float64").numpy().tolist() == [1, 0, largest, -largest]
    assert np.spacing(line).dtype == bfloat16
    assert isinstance(np.spacing(line), dg.Tensor)
    assert np.add(line, 1, dtype=bfloat16).dtype == bfloat16
    np.testing.assert_allclose(np.polyfit(line, 2 * line, 1).numpy(), [2, 0], atol=1e-12)


@pytest.mark.parametrize(("function", "gates"), [(dg.nn.lstm, 4), (dg.nn.gru, 3)])
def test_recurrences_take_bfloat16(function, gates):
    operands = [small(2, 3, 4), small(4, gates * 5), small(5, gates * 5)]

    output = function(*operands)[0]

    assert (output.dtype, output.shape) == (bfloat16, (2, 3, 5))


def test_a_transform_of_bfloat16_is_single_also_when_traced():
    x = small(3)

    assert dg.fft.irfft(x).dtype == dg.function(dg.fft.irfft)(x).dtype == np.float32


def test_products_in_rules_are_the_vocabularys():
    folder = Path(dg.__file__).parent / "ops"
    trees = {path: ast.parse(path.read_text("utf-8")) for path in folder.rglob("*.py")}

    found = [
        f"{path.name}:{node.lineno}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)
    ]

    assert found == []  # a @ b is the array module's own: CuPy's takes no stacks of bfloat16


def test_singular_values_count_down_to_the_rounding_of_single_precision():
    x = dg.asarray(np.diag([1.0, 0.1, 0.01]), dtype="bfloat16")
    alike = dg.asarray(np.outer([1, 3, 5], [2, 3, 7]), dtype="bfloat16")

    inverse = dg.linalg.pinv(x).astype("float64").numpy()

    np.testing.assert_allclose(np.diag(inverse), [1, 10, 100], rtol=2**-7)
    assert (int(dg.linalg.matrix_rank(x)), int(dg.linalg.matrix_rank(alike))) == (3, 1)
