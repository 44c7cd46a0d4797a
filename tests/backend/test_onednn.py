"""oneDNN's kernels give what the backend's own give, and stay out of the way where they can't.

Needs the extra ``distgrad[onednn]``, or its library named in ``DISTGRAD_ONEDNN``.
"""

import os
import subprocess
import sys
import threading
from importlib.metadata import distributions

import numpy as np
import pytest

import distgrad as dg
from distgrad.backends_in_force import kernels_of
from distgrad.testing import rules
from distgrad.testing.inputs import values
from distgrad.testing.samples import samples
from distgrad_numpy import compiled, convolution, onednn, threads
from distgrad_numpy.onednn import library, offers

needs_library = pytest.mark.skipif(
    not onednn.is_available(), reason="oneDNN's library is not installed"
)
KERNELS = kernels_of("numpy")
SAMPLES = [
    sample.cast(np.dtype(np.float32))
    for name in (*convolution.KERNELS, *offers.OFFERS)
    for sample in samples(name)
]


def floats(*shape):
    return values(shape, -1.0, 1.0).astype(np.float32)


@pytest.fixture(autouse=True)
def _nothing_compiled():
    """Compiled kernels off: most are asked before oneDNN."""
    before = compiled.switch(False)
    yield
    compiled.switch(before)


@pytest.fixture
def without():
    """Return a function that calls another with the backend's own kernels."""

    def call(function):
        before = onednn.switch(False)
        try:
            return function()
        finally:
            onednn.switch(before)

    return call


@needs_library
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_result_is_that_of_the_own_kernels(sample, without, monkeypatch):
    monkeypatch.setattr(offers, "_FEW", 0)
    found = rules.call(sample).output

    expected = without(lambda: rules.call(sample).output)
    if not isinstance(found, tuple):
        found, expected = (found,), (expected,)
    for mine, theirs in zip(found, expected, strict=True):
        rules.assert_close(mine, theirs, str(sample))


@needs_library
@pytest.mark.parametrize("groups", [1, 4, 16])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_are_those_of_the_own_kernels(stride, groups, without):
    x, w = floats(3, 12, 13, 16), floats(3, 3, 16 // groups, 32)

    def step():
        with dg.GradientTape() as tape:
            sources = [dg.asarray(x), dg.asarray(w)]
            tape.watch(sources)
            y = dg.nn.conv(*sources, stride=stride, padding="same", groups=groups)
            loss = dg.sum(y * y)
        return [y, *tape.gradient(loss, sources)]

    for one, other in zip(step(), without(step), strict=True):
        rules.assert_close(one.numpy(), other.numpy(), "gradient")


@needs_library
def test_it_is_oneDNN_that_computes_single_precision_alone(monkeypatch):
    asked = []
    whole = library.Library.primitive

    def primitive(self, key):
        asked.append(key)
        return whole(self, key)

    monkeypatch.setattr(library.Library, "primitive", primitive)

    dg.nn.conv(floats(1, 8, 8, 16), floats(3, 3, 16, 16))
    dg.nn.conv(floats(1, 8, 8, 16).astype(np.float64), floats(3, 3, 16, 16))

    assert [key.opens for key in asked] == ["y"]


POOLED = {"window": (3, 2), "stride": (2, 2), "padding": ((1, 1), (0, 1))}
SPREAD = {**POOLED, "shape": (31, 20)}
MEANS = {"counted": ((1, 1), (0, 1))}, {"counted": ((0, 0), (0, 0))}
LARGE = {
    "gelu": [((150, 130),), {}],
    "gelu_tanh": [((150, 130),), {}],
    "sigmoid": [((150, 130),), {}],
    "silu": [((150, 130),), {}],
    "leaky_relu": [((150, 130),), {"slope": 0.3}],
    "gelu_vjp": [((150, 130),) * 2, {}],
    "gelu_tanh_vjp": [((150, 130),) * 2, {}],
    "silu_vjp": [((150, 130),) * 2, {}],
    "leaky_relu_vjp": [((150, 130),) * 2, {"slope": 0.3}],
    "softmax": [((3, 50, 130),), {"axis": 2}],
    "log_softmax": [((150, 130),), {"axis": -1}],
    "softmax_vjp": [((3, 50, 130),) * 2, {"axis": 2}],
    "layer_norm": [((3, 50, 130), (130,), (130,)), {"epsilon": 1e-5}],
    "layer_norm_vjp": [((3, 50, 130), (3, 50, 130), (130,), (130,)), {"epsilon": 1e-5}],
    "max_pool": [((4, 31, 20, 16),), POOLED],
    "pool_places": [((4, 31, 20, 16), (4, 16, 10, 16)), POOLED],
    "max_pool_vjp": [((8, 16, 10, 16), (8, 16, 10, 16)), SPREAD],
    "avg_pool": [((4, 31, 20, 16),), {**POOLED, **MEANS[0]}],
    "avg_pool_vjp": [((8, 16, 10, 16),), {**SPREAD, **MEANS[1]}],
}


def large(name):
    """Return operands and metadata that oneDNN takes."""
    shapes, params = LARGE[name]
    generator = np.random.default_rng(7)
    arrays = [generator.standard_normal(shape, dtype=np.float32) * 2 for shape in shapes]
    if name == "pool_places":
        arrays[1] = dg.nn.max_pool(arrays[0], (3, 2), stride=2, padding=POOLED["padding"]).numpy()
    if name == "max_pool_vjp":
        arrays[1] = generator.integers(2, 5, shapes[1]).astype(np.uint8)  # taps that see the image
    if name == "softmax_vjp":
        arrays[1] = dg.nn.softmax(arrays[1]).numpy()
    return arrays, params


@needs_library
@pytest.mark.parametrize("name", [name for name in offers.OFFERS if name in KERNELS.vocabulary])
def test_large_arrays_are_taken_and_give_what_the_own_kernels_give(name, without):
    arrays, params = large(name)

    found = offers.OFFERS[name](*arrays, **params)

    expected = without(lambda: getattr(KERNELS, name)(*arrays, **params))
    if not isinstance(found, tuple):
        found, expected = (found,), (expected,)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=3e-6, atol=3e-6 * np.abs(theirs).max())


@needs_library
@pytest.mark.parametrize("name", ["max_pool", "leaky_relu", "gelu", "softmax", "layer_norm"])
def test_nan_stays(name):
    (x, *affine), params = large(name)
    x[1, 2] = np.nan
    params = {**params, "slope": 0.0} if name == "leaky_relu" else params

    assert np.isnan(getattr(KERNELS, name)(x, *affine, **params)).any()


@needs_library
def test_the_least_recently_used_primitives_go_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(library, "_PRIMITIVES", 5)
    w = floats(3, 16, 16)
    results = [dg.nn.conv(floats(1, n, 16), w).shape[1] for n in range(5, 25)]

    assert results == list(range(3, 23))
    assert len(library.loaded().primitives) == 5


@needs_library
def test_threads_share_a_primitive(without):
    xs, w = [floats(2, 14, 14, 16) * (1 + n) for n in range(4)], floats(3, 3, 16, 16)
    expected = [dg.nn.conv(x, w).numpy() for x in xs]
    wrong = []

    def work(place):
        for _ in range(50):
            if not np.array_equal(dg.nn.conv(xs[place], w).numpy(), expected[place]):
                wrong.append(place)

    workers = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert not wrong


@needs_library
def test_another_number_of_threads_is_another_primitive(monkeypatch, without):
    x, w = floats(4, 14, 14, 16), floats(3, 3, 16, 16)
    expected = without(lambda: dg.nn.conv(x, w).numpy())

    for number in (2, 1, 3):
        monkeypatch.setattr(library, "available", lambda number=number: number)
        rules.assert_close(dg.nn.conv(x, w).numpy(), expected, f"{number} threads")
    assert {key.threads for key in library.loaded().primitives} >= {1, 2, 3}
    assert threads.available() == threads.available()


@needs_library
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_computes_without_it_instead_of_hanging(monkeypatch):
    monkeypatch.setattr(library, "available", lambda: 2)  # OpenMP starts its threads
    x, w = floats(4, 14, 14, 16), floats(3, 3, 16, 16)
    expected = dg.nn.conv(x, w).numpy()
    child = os.fork()
    if child == 0:
        close = np.allclose(dg.nn.conv(x, w).numpy(), expected, atol=1e-5)
        os._exit(0 if close and not onednn.is_available() else 1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0


def has_wheel():
    return any(each.metadata["Name"] == "onednn-cpu-gomp" for each in distributions())


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


CODE = """
import distgrad as dg, numpy as np
from distgrad_numpy import onednn
x, w = np.ones((1, 8, 8, 4), np.float32), np.ones((3, 3, 4, 4), np.float32)
print(float(dg.nn.conv(x, w).numpy().max()), onednn.is_available())
"""


def test_it_is_there_where_its_wheel_is_installed():
    done = run(CODE, DISTGRAD_ONEDNN="1")

    assert done.stdout.split() == ["36.0", str(has_wheel())], done.stderr


def test_the_environment_switches_it_off():
    done = run(CODE, DISTGRAD_ONEDNN="0")

    assert done.stdout.split() == ["36.0", "False"], done.stderr


def test_a_library_that_does_not_load_is_named_once_and_left_alone(tmp_path):
    broken = tmp_path / "libdnnl.so.3"
    broken.write_bytes(b"no library")

    done = run(CODE, DISTGRAD_ONEDNN=str(broken))

    assert done.stdout.split() == ["36.0", "False"]
    assert done.stderr.count("does not load") == 1
    assert str(broken) in done.stderr


@needs_library
def test_subnormal_numbers_survive_loading_it():
    dg.nn.conv(floats(1, 8, 8, 4), floats(3, 3, 4, 4))

    tiny = np.full(3, 1e-40, np.float32)
    assert (tiny * np.float32(1)).all()
