"""Compiled convolutions give what the own kernels give, the same bits on any number of threads."""

import ctypes
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distgrad as dg
from distgrad.testing import rules
from distgrad.testing.inputs import values
from distgrad.testing.samples import samples
from distgrad.windows import Geometry, counts
from distgrad_numpy import convolution as own
from distgrad_numpy import onednn, threads
from distgrad_numpy.compiled import convolution as compiled
from distgrad_numpy.compiled import library, sweeps

pytestmark = pytest.mark.needs_compiler

SAMPLES = [s.cast(np.dtype(np.float32)) for name in own.KERNELS for s in samples(name)]
ROLES = ("y", "x", "w")


@pytest.fixture(autouse=True)
def without_onednn():
    before = onednn.switch(False)
    yield
    onednn.switch(before)


@pytest.fixture
def all_sizes(monkeypatch):
    """Compiled kernels of small arrays too."""
    monkeypatch.setattr(compiled, "_FEW", 0)


@pytest.fixture
def all_points(monkeypatch):
    """Compiled kernels of points that BLAS would multiply, too."""
    monkeypatch.setattr(compiled, "_FEW_OF_POINTS", 0)
    monkeypatch.setattr(compiled, "_MOST_CHANNELS", 1 << 20)


@pytest.fixture
def small_blocks(monkeypatch):
    """Many blocks and many chunks of the weights, of small arrays."""
    monkeypatch.setattr(sweeps, "_FEWEST_WINDOWS", 3)
    monkeypatch.setattr(sweeps, "_MOST_WINDOWS", 7)
    monkeypatch.setattr(sweeps, "_CHUNK", 16)
    sweeps.plan.cache_clear()
    yield
    sweeps.plan.cache_clear()


def arrays(x, w, geometry, seed=0):
    """Return an input, a kernel and an output of float32, by their roles."""
    windows = counts(x[1:-1], w[:-2], *geometry[:3])
    rng = np.random.default_rng(seed)
    shapes = {"x": x, "w": w, "y": (x[0], *windows, w[-1])}
    return {
        role: rng.standard_normal(shape, dtype=np.float32).reshape(shape)
        for role, shape in shapes.items()
    }


def open_in(role, given, geometry):
    """Return the array of a role from the two others, by the backend's kernels."""
    x, w, y = given["x"], given["w"], given["y"]
    if role == "y":
        return own.conv(x, w, *geometry)
    if role == "x":
        return own.conv_transpose(y, w, x.shape[1:-1], *geometry)
    return own.conv_kernel_vjp(x, y, w.shape[:-2], *geometry)


def offered(role, given, geometry):
    """Return the array of a role by the compiled kernel alone; None where it does not take it."""
    found = {**given, role: np.full(given[role].shape, np.nan, np.float32)}
    x, w, y = found["x"], found["w"], found["y"]
    done = {
        "y": lambda: compiled.conv(x, w, y, geometry),
        "x": lambda: compiled.conv_transpose(y, w, x, geometry),
        "w": lambda: compiled.conv_kernel_vjp(x, y, w, geometry),
    }[role]()
    return found[role] if done else None


def check(given, geometry, without, roles=ROLES):
    """Compare compiled kernels with the own ones; return the roles that the former took."""
    took = []
    for role in roles:
        found = offered(role, given, geometry)
        if found is None:
            continue
        took.append(role)
        # Both in double precision, so that only the compiled kernel rounds.
        exact = {name: array.astype(np.float64) for name, array in given.items()}
        expected = without(lambda role=role, exact=exact: open_in(role, exact, geometry))
        terms = {
            "y": prod(given["w"].shape[:-1]),
            "x": prod(given["w"].shape[:-2]) * given["w"].shape[-1],
            "w": prod(given["y"].shape[:-1]),
        }[role]
        # Products of normal numbers: their sum is of the order of the root of how many there are.
        tolerance = 40 * np.finfo(np.float32).eps * np.sqrt(terms)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=role)
    return took


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_a_sample_gives_what_the_own_kernel_gives(sample, without, all_sizes):
    found = rules.call(sample).output

    rules.assert_close(found, without(lambda: rules.call(sample).output), str(sample))


CASES = {
    "plane": ((2, 28, 27, 32), (3, 3, 32, 64), Geometry((1, 1), ((1, 1),) * 2, (1, 1))),
    "strided": ((3, 15, 33, 17), (3, 3, 17, 33), Geometry((2, 2), ((1, 1),) * 2, (1, 1))),
    "three-channels": ((2, 30, 29, 3), (7, 7, 3, 64), Geometry((2, 2), ((3, 3),) * 2, (1, 1))),
    "one-channel": ((9, 17, 7, 1), (3, 3, 1, 33), Geometry((1, 1), ((1, 1),) * 2, (1, 1))),
    "to-one-channel": ((2, 17, 17, 40), (3, 3, 40, 1), Geometry((1, 1), ((1, 1),) * 2, (1, 1))),
    "to-seven-channels": ((2, 9, 17, 37), (3, 2, 37, 7), Geometry((1, 2), ((0, 1),) * 2, (1, 1))),
    "points": ((4, 28, 28, 64), (1, 1, 64, 48), Geometry((1, 1), ((0, 0),) * 2, (1, 1))),
    "points-strided": ((2, 9, 7, 40), (1, 1, 40, 80), Geometry((2, 2), ((0, 0),) * 2, (1, 1))),
    "points-of-a-page": (
        (2, 6, 5, 1024),
        (1, 1, 1024, 17),
        Geometry((2, 1), ((0, 0),) * 2, (1, 1)),
    ),
    "many-channels": ((1, 5, 4, 260), (3, 3, 260, 200), Geometry((1, 1), ((1, 1),) * 2, (1, 1))),
    "groups": ((2, 9, 8, 24), (3, 3, 8, 51), Geometry((1, 2), ((1, 1),) * 2, (2, 1), 3)),
    "line": ((5, 200, 12), (5, 12, 20), Geometry((1,), ((4, 0),), (1,))),
    "line-dilated": ((3, 99, 12), (3, 12, 20), Geometry((3,), ((2, 9),), (4,))),
    "space": ((2, 5, 7, 9, 6), (2, 3, 3, 6, 18), Geometry((1, 2, 1), ((1, 0),) * 3, (2, 1, 1))),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_all_three_arrays_are_those_in_double_precision(case, without, all_points):
    x, w, geometry = case

    assert check(arrays(x, w, geometry), geometry, without) == list(ROLES)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_many_small_blocks_give_the_same(case, without, small_blocks, all_points):
    x, w, geometry = case

    assert "y" in check(arrays(x, w, geometry), geometry, without)


@st.composite
def convolutions(draw):
    rank = draw(st.integers(1, 3))

    def per_axis(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    groups = draw(st.sampled_from([1, 1, 2]))
    inner, outputs = draw(st.integers(1, 20)), draw(st.integers(1, 40))
    spatial = per_axis(1, (40, 13, 6)[rank - 1])
    padding = tuple(zip(per_axis(0, 3), per_axis(0, 3), strict=True))
    geometry = Geometry(per_axis(1, 3), padding, per_axis(1, 3), groups)
    x = (draw(st.integers(1, 4)), *spatial, inner * groups)
    return x, (*per_axis(1, 3), inner, outputs * groups), geometry


@settings(max_examples=150, deadline=None)
@given(case=convolutions())
def test_any_stride_padding_dilation_and_size(case):
    x, w, geometry = case

    def without(function):
        before = library.switch(False)
        try:
            return function()
        finally:
            library.switch(before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_FEW", 0)
        check(arrays(x, w, geometry), geometry, without)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_any_number_of_threads_gives_the_same_bits(case, monkeypatch, all_points):
    x, w, geometry = case
    drawn = arrays(x, w, geometry)
    alone = [offered(role, drawn, geometry) for role in ROLES]

    for number in (2, 3):
        monkeypatch.setattr(threads, "available", lambda number=number: number)
        for one, role in zip(alone, ROLES, strict=True):
            np.testing.assert_array_equal(offered(role, drawn, geometry), one)


def test_an_example_has_the_same_bits_in_any_batch():
    x, w, geometry = CASES["plane"]
    drawn = arrays((7, *x[1:]), w, geometry)

    for role in ("y", "x"):
        whole = offered(role, drawn, geometry)
        for place in (0, 3, 6):
            one = {n: a if n == "w" else a[place : place + 1] for n, a in drawn.items()}
            np.testing.assert_array_equal(offered(role, one, geometry)[0], whole[place])


def test_what_is_not_a_number_reaches_the_windows_that_see_it():
    x, w, geometry = CASES["plane"]
    drawn = arrays(x, w, geometry)
    drawn["x"][1, 5, 26, 3] = np.nan
    drawn["x"][0, 0, 0, 31] = np.inf

    y = offered("y", drawn, geometry)

    lost = ~np.isfinite(y)
    expected = np.zeros_like(lost)
    expected[1, 4:7, 25:27] = expected[0, :2, :2] = True
    np.testing.assert_array_equal(lost, expected)


def test_operands_of_any_layout_are_read():
    x, w, geometry = CASES["plane"]
    drawn = arrays(x, w, geometry)
    turned = {name: np.asfortranarray(array) for name, array in drawn.items()}

    for role in ROLES:
        np.testing.assert_array_equal(
            offered(role, turned, geometry), offered(role, drawn, geometry)
        )


def test_other_dtypes_few_products_and_depthwise_kernels_are_left_to_numpy(without):
    x, w, geometry = CASES["plane"]
    drawn = arrays(x, w, geometry)
    wide = {name: array.astype(np.float64) for name, array in drawn.items()}
    small = arrays((1, 4, 4, 2), (2, 2, 2, 3), geometry)
    depthwise = Geometry(*geometry[:3], 32)
    separate = arrays(x, (3, 3, 1, 64), depthwise)

    for role in ROLES:
        assert not check(wide, geometry, without, (role,))
        assert offered(role, small, geometry) is None
        assert offered(role, separate, depthwise) is None


def test_large_products_of_points_are_left_to_blas():
    geometry = CASES["points"][2]
    drawn = arrays((1, 7, 7, 512), (1, 1, 512, 600), geometry)

    assert all(offered(role, drawn, geometry) is None for role in ROLES)


def test_the_fields_of_a_sweep_are_those_of_the_source():
    source = (library.SOURCES / "windows.hpp").read_text(encoding="utf-8")
    body = source[source.index("struct Sweep {") :]
    code = "".join(
        line.split("//")[0] for line in body[body.index("{") + 1 : body.index("};")].splitlines()
    )
    declared = [
        part.replace("index_t", "").replace("const", "").strip(" *").split("[")[0]
        for statement in code.split(";")
        for part in statement.split(",")
    ]

    assert [name for name in declared if name] == [name for name, *_ in sweeps.Sweep._fields_]
    assert ctypes.sizeof(sweeps.Sweep) == 8 * (len(sweeps.Sweep._fields_) + 6)


def test_gradients_of_a_step_are_those_of_the_own_kernels(without):
    x, w = values((4, 14, 15, 8), -1.0, 1.0), values((3, 3, 8, 24), -1.0, 1.0)

    def step():
        with dg.GradientTape() as tape:
            sources = [dg.asarray(x.astype(np.float32)), dg.asarray(w.astype(np.float32))]
            tape.watch(sources)
            y = dg.nn.conv(*sources, stride=2, padding="same")
            loss = dg.sum(y * y)
        return [y, *tape.gradient(loss, sources)]

    for one, other in zip(step(), without(step), strict=True):
        rules.assert_close(one.numpy(), other.numpy(), "gradient")
