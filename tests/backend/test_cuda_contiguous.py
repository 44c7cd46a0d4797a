"""Elementwise kernels of the device over contiguous arrays, run on the host, against NumPy."""

import importlib.util

import numpy as np
import pytest

from distgrad.backend.scalar_code import forward
from distgrad.dtypes import as_dtype
from distgrad.ops import VOCABULARY
from distgrad.testing.formulas import cases

if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

from distgrad_cupy import contiguous, elementwise
from distgrad_cupy.contiguous import Contiguous, element_source, kernel_source, width_of
from distgrad_cupy.running import headers

# Tolerances are those of other mathematical functions on the host, of half precision the rounding
# of what they give; see tests/backend/test_scalar_code.py.
CLOSE = {
    "bfloat16": {"rtol": 5e-2, "atol": 5e-2},
    "float16": {"rtol": 6e-3, "atol": 6e-3},
    "float32": {"rtol": 2e-4, "atol": 2e-5},
    "float64": {"rtol": 1e-10, "atol": 1e-12},
}


def never(*arrays):
    """Stand for a kernel that broadcasts, where none is expected."""
    pytest.fail(f"arrays of shapes {[each.shape for each in arrays]} were not taken")


def formula_of(name, dtypes):
    return forward(VOCABULARY[name], VOCABULARY, [np.dtype(each) for each in dtypes], {})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_formula_computes_what_numpy_computes(dtype, host_runner):
    found = list(cases([dtype]))
    # In one text, which is compiled once; each with the widest loads that it has.
    texts, names = [], {}
    for formula, _, _ in found:
        if formula not in names:
            names[formula] = f"kernel{len(names)}"
            text = element_source(formula).removeprefix(headers([dtype]))
            space = f"of_{names[formula]}"
            own = text + kernel_source(formula, names[formula])
            texts.append(f"namespace {space} {{ {own} }}\nusing {space}::{names[formula]};\n")
    whole = headers([dtype]) + "".join(texts)

    for formula, inputs, expected in found:
        size = expected[0].size
        kinds = [dtype for _, dtype in formula.outputs]
        made = [np.empty(e.shape, kind) for e, kind in zip(expected, kinds, strict=True)]
        if not size:
            continue
        host_runner.run(whole, names[formula], (1,), 32, (*inputs, *made, np.int64(size)))
        for one, right in zip(made, expected, strict=True):
            np.testing.assert_allclose(one, right, **CLOSE[dtype], err_msg=formula.name)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_arrays_of_any_length_and_place_are_read_whole(dtype, offset, size, host_runner):
    formula = formula_of("gelu", [dtype])
    kernel = Contiguous(host_runner, formula, never)
    room = np.linspace(-3, 3, size + offset).astype(dtype)

    found = kernel(room[offset:])

    x = room[offset:].astype(np.float64)
    # By the error function of the host, which SciPy would have for arrays.
    from math import erf

    expected = [0.5 * each * (1 + erf(each / 2**0.5)) for each in x.tolist()]
    np.testing.assert_allclose(found, expected, **CLOSE[dtype])
    assert found.dtype == dtype


def test_truth_values_lie_beside_elements_in_loads_of_their_own_width(host_runner):
    formula = formula_of("less", ["float32", "float32"])
    x, y = np.random.default_rng(0).standard_normal((2, 37)).astype(np.float32)

    found = Contiguous(host_runner, formula, never)(x, y)

    np.testing.assert_array_equal(found, x < y)
    assert found.dtype == np.bool_
    assert width_of(formula) == 4


@pytest.mark.parametrize(
    "arrays",
    [
        (np.ones((3, 4), np.float32), np.ones(4, np.float32)),
        (np.ones((3, 4), np.float32), np.ones((4, 3), np.float32).T),
        (np.ones((3, 4), np.float32), np.float32(2)),
        (np.float32(2), np.ones((3, 4), np.float32)),
    ],
    ids=["of two shapes", "turned", "and a number", "behind a number"],
)
def test_other_arrays_go_to_the_kernel_that_broadcasts(arrays, host_runner):
    formula = formula_of("less", ["float32", "float32"])
    before = len(host_runner.launched)

    found = Contiguous(host_runner, formula, lambda *given: given)(*arrays)

    assert all(one is other for one, other in zip(found, arrays, strict=True))
    assert len(host_runner.launched) == before


HALVES_AND_SINGLE = ["float16", "bfloat16", "float32"]


@pytest.mark.parametrize("made", HALVES_AND_SINGLE)
@pytest.mark.parametrize("given", HALVES_AND_SINGLE)
def test_large_arrays_change_their_dtype_by_wide_loads(given, made, host_runner, monkeypatch):
    monkeypatch.setattr(elementwise, "_MANY_FOR_WIDE_LOADS", 30)
    x = np.linspace(-300, 300, 1003).astype(as_dtype(given))
    before = len(host_runner.launched)

    found = elementwise.casting(host_runner, lambda x, dtype: x.astype(dtype))(x, as_dtype(made))

    assert found.dtype == as_dtype(made)
    np.testing.assert_array_equal(found.astype(float), x.astype(as_dtype(made)).astype(float))
    assert len(host_runner.launched) == before + (given != made)


@pytest.mark.parametrize("made", ["int32", "float64", "bool"])
def test_other_dtypes_are_left_to_cupy(made, host_runner, monkeypatch):
    monkeypatch.setattr(elementwise, "_MANY_FOR_WIDE_LOADS", 30)
    x, before = np.arange(100, dtype=np.float32), len(host_runner.launched)

    found = elementwise.casting(host_runner, lambda x, dtype: x.astype(dtype))(x, np.dtype(made))

    assert found.dtype == made
    assert len(host_runner.launched) == before


REPEATED = {
    "a row": ((40, 24), (24,)),
    "a row with axes before it": ((5, 8, 24), (1, 1, 24)),
    "a matrix": ((5, 8, 24), (8, 24)),
    "a row of no whole load": ((41, 5), (5,)),
    "a number": ((40, 24), ()),
    "a number with axes": ((40, 24), (1, 1)),
    "the first": ((24,), (40, 24)),
}


@pytest.mark.parametrize("shapes", REPEATED.values(), ids=REPEATED)
@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "not aligned"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_rows_that_repeat_are_read_where_they_stand(
    dtype, offset, shapes, host_runner, monkeypatch
):
    monkeypatch.setattr(contiguous, "_MANY_FOR_ROWS", 1)
    rng, own = np.random.default_rng(0), as_dtype(dtype)
    room = rng.standard_normal(int(np.prod(shapes[1])) + offset).astype(own)
    x, y = rng.standard_normal(shapes[0]).astype(own), room[offset:].reshape(shapes[1])
    before = len(host_runner.launched)

    found = Contiguous(host_runner, formula_of("subtract", [own, own]), never)(x, y)

    np.testing.assert_allclose(
        found.astype(float), x.astype(float) - y.astype(float), **CLOSE[dtype]
    )
    assert found.shape == np.broadcast_shapes(*shapes)
    assert len(host_runner.launched) == before + 1


def test_rows_and_numbers_of_three_operands(host_runner, monkeypatch):
    monkeypatch.setattr(contiguous, "_MANY_FOR_ROWS", 1)
    formula = forward(VOCABULARY["where"], VOCABULARY, [np.dtype(bool), np.dtype("f4"), float], {})
    x, chosen = np.arange(48.0, dtype=np.float32).reshape(6, 8), np.arange(8) % 3 == 0

    found = Contiguous(host_runner, formula, never)(chosen, x, np.float32(-1))

    np.testing.assert_array_equal(found, np.where(chosen, x, -1))


@pytest.mark.parametrize(
    "shapes",
    [((4, 1), (1, 5)), ((3, 4, 5), (3, 1, 5)), ((4, 5), (4, 1)), ((0, 3), (3,)), ((1,), (1, 1, 1))],
    ids=str,
)
def test_what_broadcasts_in_other_ways_is_none(shapes):
    found = contiguous.repeats_of(shapes)

    assert found is None or found.shape == np.broadcast_shapes(*shapes)
    assert (found is None) == (shapes != ((1,), (1, 1, 1)))


def test_few_elements_that_broadcast_go_to_the_other_kernel(host_runner):
    x, y = np.ones((4, 5), np.float32), np.ones(5, np.float32)
    before = len(host_runner.launched)

    found = Contiguous(host_runner, formula_of("subtract", ["f4", "f4"]), lambda *given: given)

    assert found(x, y)[0] is x
    assert len(host_runner.launched) == before


def test_arrays_without_elements_start_nothing(host_runner):
    before = len(host_runner.launched)

    found = Contiguous(host_runner, formula_of("gelu", ["float32"]), never)(np.ones((0, 3), "f4"))

    assert found.shape == (0, 3)
    assert len(host_runner.launched) == before


def test_large_arrays_go_to_wide_loads_and_small_ones_to_cupy(host_runner, monkeypatch):
    monkeypatch.setattr(elementwise, "_MANY_FOR_WIDE_LOADS", 30)
    asked = []
    names = {"multiply": np.multiply, "tanh": np.tanh, "less": np.less}
    kernels = elementwise.large(host_runner, names.get)
    kernels = {name: kernels[name] for name in names}
    x, y = np.random.default_rng(0).standard_normal((2, 6, 7)).astype(np.float32)
    host_runner.launched.clear()

    for name, arrays in (("multiply", (x, y)), ("tanh", (x,)), ("less", (x, y))):
        found = kernels[name](*arrays)
        np.testing.assert_allclose(found, names[name](*arrays), rtol=1e-6)
        assert found.dtype == names[name](*arrays).dtype
        asked.append(f"distgrad_{name}")
    assert host_runner.launched == asked

    # A number before or behind an array.
    for one, other in [(x, 0.1), (0.1, x), (x, 3)]:
        found = kernels["multiply"](one, other)
        np.testing.assert_array_equal(found, one * other)
        assert found.dtype == np.float32
    asked += ["distgrad_multiply"] * 3
    assert host_runner.launched == asked

    # Few elements; another shape; integers; a truth value; two dtypes; options.
    others = [(x[:2], y[:2]), (x, y[0]), (x.astype(int), y.astype(int)), (x, True), (x, 1j)]
    for one, other in [*others, (x, y.astype(np.float64))]:
        np.testing.assert_array_equal(kernels["multiply"](one, other), one * other)
    wide = kernels["multiply"](x, y, dtype=np.float64)
    np.testing.assert_array_equal(wide, x.astype(np.float64) * y)
    assert host_runner.launched == asked
