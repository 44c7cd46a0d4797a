"""The CUDA sources of the CuPy backend on the host: their operations' samples, against NumPy.

Every sample goes through what prepares the arguments and through the kernel's own source, compiled
for the host with a shim for threads and barriers.
"""

import importlib.util
import re

import numpy as np
import pytest

from distgrad.backend import ArrayModuleBackend, philox
from distgrad.backend.philox import Stream
from distgrad.backends_in_force import kernels_of
from distgrad.core.op import Placeholder
from distgrad.dtypes import as_dtype
from distgrad.testing import rules
from distgrad.testing.samples import samples

if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

from distgrad_cupy import affine, conforming, copying, drawing, own_special, segments, variates
from distgrad_cupy.cuda_kernels import cuda_kernels
from distgrad_cupy.running import source_of, sources

ROWS = (Placeholder.ARRAY,)
# Those that go to CuPy's own functions are tested in test_cupy_conforming.py.
NAMES = set(cuda_kernels(None)) - set(conforming.kernels(None))
DRAWN = {name for each in (drawing, variates, own_special) for name in each.kernels(None)}
SAMPLES = [
    sample
    for sample in samples()
    if NAMES & {sample.operation, f"{sample.operation}_vjp", f"{sample.operation}_jvp"}
    or sample.operation in ("getitem", "take")  # whose gradients add up rows
]


class Host(ArrayModuleBackend):
    """A backend over NumPy, whose arrays of bfloat16 DLPack does not take."""

    def to_host(self, array):
        return array


@pytest.fixture(scope="module")
def host(host_runner):
    """A backend over NumPy with the kernels of the device, run on the host."""
    backend = Host("host", np, cuda_kernels(host_runner))
    backend.bfloat16_kernels = {name: backend.kernel(name) for name in NAMES - DRAWN}
    return backend


FIRST = [
    sample
    for name in sorted({each.operation for each in SAMPLES})
    for sample in [each for each in SAMPLES if each.operation == name][:4]
]
FIRST += [sample for sample in SAMPLES if "depthwise" in sample.variant]


@pytest.fixture
def numpy_kernels():
    """The vocabulary on NumPy's arrays."""
    return kernels_of("numpy")


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_kernels_on_the_host_agree_with_numpy(sample, host):
    rules.check_agreement(sample, host)


@pytest.mark.parametrize("sample", FIRST, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 6e-3), ("bfloat16", 5e-2)])
def test_half_precision_on_the_host_is_single_precision_rounded(sample, dtype, tolerance, host):
    narrow = sample.cast(as_dtype(dtype))
    half = rules.call(narrow, host)
    single = rules.call(narrow.cast(np.dtype("float32")))

    for found, expected in zip(half.settled(), single.settled(), strict=True):
        np.testing.assert_allclose(
            found.astype(np.float64), expected.astype(np.float64), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("row", [(), (3,), (2, 5)])
def test_rows_are_added_up_where_positions_repeat(dtype, row, host):
    dtype = as_dtype(dtype)
    positions = np.array([[4, 0, 4], [-1, 2, 0]])
    whole = np.random.default_rng(3).integers(-9, 9, (2, 3, *row))
    values = whole.astype(dtype)
    expected = np.zeros((5, *row), np.int64)
    np.add.at(expected, (positions,), whole)

    found = host.kernel("scatter_add")(values, positions, index=ROWS, shape=(5, *row))

    np.testing.assert_array_equal(found, expected)
    assert found.dtype == dtype


@pytest.mark.parametrize("counted", [0, 1 << 14], ids=["sorted", "counted"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_are_added_in_place_in_their_order(dtype, counted, host_runner, monkeypatch):
    monkeypatch.setattr(segments, "_COUNTED", counted)
    rng = np.random.default_rng(6)
    array, rows = (rng.standard_normal(shape).astype(dtype) for shape in ((4, 3), (50, 3)))
    positions = rng.integers(-5, 5, 50)  # the first and the last lie outside
    wide = np.float64 if dtype == "float64" else np.float32
    expected = array.astype(wide)
    for position, row in zip(positions, rows.astype(wide), strict=True):
        if -4 <= position < 4:
            expected[position] += row

    assert segments.add_rows(host_runner, array, positions, rows)

    np.testing.assert_array_equal(array, expected.astype(dtype))


@pytest.mark.parametrize("length", [*range(1, 20), 63, 64, 65])
@pytest.mark.parametrize("behind", [0, 1, 5])
def test_runs_of_any_length_are_added_up_to_their_end(length, behind, host):
    positions = np.repeat([3, 1, 2], [1, length, behind])
    values = np.arange(1.0, len(positions) + 1, dtype=np.float32)[:, np.newaxis] * [1, -1]
    values = values.astype(np.float32)
    expected = np.zeros((5, 2), np.float32)
    np.add.at(expected, positions, values)

    found = host.kernel("scatter_add")(values, positions, index=ROWS, shape=(5, 2))

    np.testing.assert_array_equal(found, expected)


def test_rows_of_another_dtype_are_left_to_cupy(host_runner):
    array = np.zeros((2, 3), np.float32)

    assert not segments.add_rows(host_runner, array, np.array([0]), np.ones((1, 3)))
    assert not segments.add_rows(host_runner, array, np.array([True]), np.ones((1, 3), np.float32))
    np.testing.assert_array_equal(array, 0)


@pytest.mark.parametrize("count", [1, 119, 120, 121, 250])
def test_any_number_of_arrays_is_copied_by_few_launches(count, host_runner, monkeypatch):
    rng = np.random.default_rng(8)
    sources = [rng.integers(0, 255, n % 7 * n).astype(np.uint8) for n in range(count)]
    room = rng.integers(0, 255, 99).astype(np.uint8)
    sources[0] = room[1:]  # on no multiple of 8 bytes
    targets = [np.zeros_like(each) for each in sources]
    before = len(host_runner.launched)
    monkeypatch.setattr(host_runner, "behind", [room, *sources[1:], *targets])

    copying.copy_all(host_runner, sources, targets)

    for source, target in zip(sources, targets, strict=True):
        np.testing.assert_array_equal(target, source)
    assert len(host_runner.launched) - before <= -(-count // 120)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.5), (2.0, 2.0)])
def test_uniform_numbers_of_half_precision_are_the_hosts(bounds, dtype, host, numpy_kernels):
    words = np.array([[1, 2**63 + 5, 7], [2**64 - 1, 0, 2**40]], np.uint64)
    low, high = bounds
    how = {"shape": (3001,), "start": 5, "dtype": as_dtype(dtype), "low": low, "high": high}

    found = host.kernel("random_uniform")(words, **how)

    np.testing.assert_array_equal(found, numpy_kernels.random_uniform(words, **how))
    assert found.dtype == how["dtype"]


@pytest.mark.parametrize("length", [0, 1, 2, 57])
def test_permutations_are_the_hosts(length, host):
    words = np.array([[1, 2**63 + 5, 7], [2**64 - 1, 0, 2**40]], np.uint64)
    expected = [philox.permutation(Stream(*each), length) for each in words.tolist()]

    found = host.kernel("random_permutation")(words, length=length)

    np.testing.assert_array_equal(found, np.reshape(expected, (2, length)))
    assert found.dtype == np.int64


@pytest.mark.parametrize("index", [0, -1, 2**64 - 1, np.array([[3], [-2]]), np.array(4, np.uint8)])
def test_streams_made_of_streams_are_the_hosts(index, host):
    words = np.array([[1, 2**63 + 5, 7], [2**64 - 1, 0, 2**40]], np.uint64)

    folded = host.kernel("random_fold")(words, index)
    split = host.kernel("random_split")(words, count=9)

    np.testing.assert_array_equal(folded, philox.folded(words, index))
    np.testing.assert_array_equal(split, philox.split(words, 9))


def test_arrays_that_do_not_fit_are_not_joined(host):
    with pytest.raises(ValueError, match="concat: arrays that differ along axis 0 alone"):
        host.kernel("concat")(np.ones((2, 3)), np.ones((2, 1)), axis=0)


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
@pytest.mark.parametrize("start", [0, 1, 7, 8, 13])
def test_bits_are_the_hosts_from_any_place_on(dtype, start, host):
    words = np.array([[1, 2**63 + 5, 7], [2**64 - 1, 0, 2**40]], np.uint64)
    bits = philox.bits32 if dtype == "uint32" else philox.bits64
    expected = [bits(Stream(*each), start, 21).reshape(3, 7) for each in words.tolist()]

    found = host.kernel("random_bits")(words, shape=(3, 7), start=start, dtype=np.dtype(dtype))

    np.testing.assert_array_equal(found, expected)
    assert found.dtype == dtype


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform_and_normal_numbers_are_the_hosts_over_many_blocks(dtype, host):
    words, count = np.array([11, 12, 13], np.uint64), 3001
    how = {"shape": (count,), "start": 5, "dtype": np.dtype(dtype)}

    uniform = host.kernel("random_uniform")(words, **how, low=0.0, high=1.0)
    normal = host.kernel("random_normal")(words, **how)

    stream = Stream(11, 12, 13)
    np.testing.assert_array_equal(uniform, philox.uniform(stream, 5, count, dtype))
    tolerance = 2e-6 if dtype == "float32" else 1e-14
    expected = philox.normal(stream, 5, count, dtype)
    np.testing.assert_allclose(normal, expected, rtol=tolerance, atol=tolerance)


# Below a load, with and without a rest of one, held by few threads or by all, and too long for it.
@pytest.mark.parametrize("width", [1, 4, 31, 32, 33, 128, 129, 2050, 4095, 4096, 4097, 4500])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_any_width_are_shared_by_the_threads_of_a_block(
    width, place, dtype, host, numpy_kernels
):
    room = np.random.default_rng(1).standard_normal(3 * width + place).astype(dtype)
    x = room[place:].reshape(3, width)  # rows begin at multiples of 16 bytes, or do not
    scale, shift = (np.linspace(*ends, width).astype(dtype) for ends in ((0.5, 2), (-1, 1)))
    single = dtype == "float32"
    close = {"rtol": 2e-4, "atol": 2e-4} if single else {"rtol": 1e-9, "atol": 1e-9}
    calls = {
        "softmax": ((x,), {"axis": -1}),
        "log_softmax": ((x,), {"axis": -1}),
        "softmax_vjp": ((x + 1, x), {"axis": -1}),
        "label_cross_entropy": ((x, np.array([0, width - 1, width // 2])), {}),
        "label_cross_entropy_vjp": ((x[:, 0], x, np.array([0, width - 1, width // 2])), {}),
        "layer_norm": ((x, scale, shift), {"epsilon": 1e-5}),
        "layer_norm_vjp": ((x, x + 1, scale, shift), {"epsilon": 1e-5}),
        "rms_norm": ((x, scale), {"epsilon": 1e-5}),
        "rms_norm_vjp": ((x, x + 1, scale), {"epsilon": 1e-5}),
    }
    if width == 1 and single:
        del calls["layer_norm_vjp"]  # of a single number, whose deviation is rounding alone

    for name, (arrays, how) in calls.items():
        found = rules.each_of(host.kernel(name)(*arrays, **how))
        expected = rules.each_of(getattr(numpy_kernels, name)(*arrays, **how))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, **close, err_msg=name)


def test_infinities_and_nans_are_those_of_the_host(host, numpy_kernels):
    x = np.array([[1.0, -np.inf, 2.0], [np.nan, 1.0, 2.0], [0.0, -np.inf, -np.inf]])

    for name in ("softmax", "log_softmax"):
        found = host.kernel(name)(x, axis=-1)
        np.testing.assert_allclose(found, getattr(numpy_kernels, name)(x, axis=-1), rtol=1e-12)


def test_a_label_that_is_no_class_gives_nan(host):
    logits = np.zeros((3, 4), np.float32)

    loss = host.kernel("label_cross_entropy")(logits, np.array([1, 4, -1]))

    np.testing.assert_array_equal(np.isnan(loss), [False, True, True])


def test_every_kernel_of_every_source_is_run_by_a_sample(host, host_runner):
    for sample in FIRST:
        rules.check_agreement(sample.cast(np.dtype("float32")), host)
    words = np.array([1, 2, 3], np.uint64)
    host.kernel("random_bits")(words, shape=(3,), start=0, dtype=np.dtype("uint32"))
    values, positions = np.ones(3, np.float32), np.array([0, 1, 1])
    host.kernel("scatter_add")(values, positions, index=ROWS, shape=(2,))
    copying.copy_all(host_runner, [values], [np.zeros_like(values)])
    rows = np.ones((5000, 40), np.float32)
    needs, xs = (0, 0, 1), (None, None, None)
    affine.pullbacks(host_runner)["linear"](rows, None, xs, {}, needs)

    written = {
        name
        for source in sources()
        for name in re.findall(r"__global__ void (\w+)\(", source_of(source, "float32"))
    }
    assert written - set(host_runner.launched) == set()
