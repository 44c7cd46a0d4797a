"""CuPy's own arrays, in host memory, through what prepares kernels; the kernels run on the host.

No driver is needed for an array of CuPy whose memory comes from somewhere else. So the attributes,
views and dtypes that the preparation asks for are CuPy's; only what CuPy itself would launch cannot
be done.
"""

import ctypes
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from distgrad import optimizers
from distgrad.backend.scalar_code import forward
from distgrad.backends_in_force import kernels_of
from distgrad.ops import VOCABULARY
from distgrad.optimizers.in_place import Change

if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

import cupy

from distgrad_cupy import drawing, pooling, rows, stepping, variates
from distgrad_cupy.contiguous import Contiguous
from distgrad_cupy.running import DeviceRunner


class OnHost:
    """CuPy's module, but for what it would launch."""

    def __getattr__(self, name):
        return getattr(cupy, name)

    def zeros(self, shape, dtype):
        made = cupy.empty(shape, dtype)
        seen(made)[...] = 0
        return made


class Runner:
    """Runs kernels on the host over CuPy's arrays.

    Parameters
    ----------
    host : HostRunner
        Which runs them over NumPy's.
    """

    module = OnHost()
    device = 0
    is_capturing = False

    def __init__(self, host):
        self.host = host

    def launch(self, source, name, elements, grid, threads, arguments):
        self.host.launch(source, name, elements, grid, threads, [seen(a) for a in arguments])

    def launch_text(self, text, name, grid, threads, arguments):
        self.host.launch_text(text, name, grid, threads, [seen(a) for a in arguments])


def seen(array):
    """Return one of CuPy's arrays as NumPy's, over the same memory; everything else as it is."""
    if not isinstance(array, cupy.ndarray):
        return array
    assert array.flags.c_contiguous
    raw = (ctypes.c_char * array.nbytes).from_address(array.data.ptr)
    return np.frombuffer(raw, array.dtype).reshape(array.shape)


@pytest.fixture
def run(host_runner):
    """What runs kernels over CuPy's arrays, which come from host memory meanwhile."""
    rooms = []

    def allocate(nbytes):
        room = np.empty(nbytes + 512, np.uint8)
        rooms.append(room)
        place = -(-room.ctypes.data // 512) * 512
        memory = cupy.cuda.UnownedMemory(place, nbytes, room, 0)
        return cupy.cuda.MemoryPointer(memory, 0)

    with cupy.cuda.using_allocator(allocate):
        yield Runner(host_runner)
    host_runner.behind.clear()


def brought(host):
    """Return NumPy's array as one of CuPy's."""
    made = cupy.empty(host.shape, host.dtype)
    if host.size:
        seen(made)[...] = host
    return made


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 50)])
def test_elementwise_kernels(shape, dtype, run):
    x = np.linspace(-2, 2, int(np.prod(shape))).reshape(shape).astype(dtype)
    formula = forward(VOCABULARY["gelu"], VOCABULARY, [x.dtype], {})

    found = Contiguous(run, formula, lambda *_: pytest.fail("not taken"))(brought(x))

    assert isinstance(found, cupy.ndarray)
    np.testing.assert_allclose(seen(found), kernels_of("numpy").gelu(x), rtol=1e-5, atol=1e-6)


def test_what_elementwise_kernels_leave_to_cupy(run):
    formula = forward(VOCABULARY["less"], VOCABULARY, [np.dtype("float32")] * 2, {})
    kernel = Contiguous(run, formula, lambda *given: given)
    x, row = brought(np.ones((3, 4), np.float32)), brought(np.ones(4, np.float32))

    for others in ((x, row), (x, x.T), (x, np.float32(1)), (x[:, ::2], x[:, ::2])):
        assert kernel(*others) == others or all(map(lambda a, b: a is b, kernel(*others), others))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_steps_of_optimizers(dtype, run):
    rule = optimizers.Adam(0.01)
    wide = "float64" if dtype == "float64" else "float32"
    shapes = [(5,), (), (3, 700), (0,)]
    host = []
    for seed, shape in enumerate(shapes):
        numbers = np.random.default_rng(seed).uniform(0.5, 1, (4, *shape)).astype(wide)
        x, g, *slots = (np.array(each) for each in numbers)
        master = x.copy() if dtype == "float16" else None
        host.append(Change(x.astype(dtype), g.astype(dtype), tuple(slots), master))
    own = [
        Change(
            brought(c.x),
            brought(c.gradient),
            tuple(map(brought, c.slots)),
            None if c.master is None else brought(c.master),
        )
        for c in host
    ]
    run.host.behind[:] = [seen(each) for change in own for each in change.arrays if each.size]
    step = stepping.steps(run, lambda formula: lambda *_: pytest.fail("not in one line"))
    ours = stepping.steps(run.host, lambda formula: lambda *_: pytest.fail("not in one line"))

    assert not step(rule, own, rule.numbers(2))
    run.host.behind[:] = [each for change in host for each in change.arrays]
    assert not ours(rule, host, rule.numbers(2))

    for one, other in zip(own, host, strict=True):
        for found, expected in zip(one.arrays, other.arrays, strict=True):
            np.testing.assert_array_equal(seen(found) if found.size else expected, expected)


def test_random_numbers(run):
    words = np.array([[1, 2**63 + 5, 7], [2**64 - 1, 0, 2**40]], np.uint64)
    alpha = np.linspace(0.3, 40, 22).reshape(2, 11)
    plain = kernels_of("numpy")
    kernels = drawing.kernels(run) | variates.kernels(run)
    f4 = np.dtype("float32")
    calls = {
        "random_uniform": ((), {"shape": (5,), "dtype": f4, "low": -1.0, "high": 2.0}),
        "random_normal": ((), {"shape": (3, 4), "dtype": f4}),
        "random_bernoulli": ((), {"shape": (9,), "p": 0.3}),
        "random_bits": ((), {"shape": (9,), "dtype": np.dtype("uint64")}),
        "random_gamma": ((alpha,), {}),
        "random_poisson": ((alpha,), {"dtype": np.dtype("int64")}),
    }

    for name, (arrays, how) in calls.items():
        if name == "random_poisson":  # asks the device whether a rate is wrong
            run.is_capturing = True
        found = kernels[name](brought(words), *map(brought, arrays), start=3, **how)
        expected = getattr(plain, name)(words, *arrays, start=3, **how)
        np.testing.assert_allclose(seen(found), expected, rtol=3e-6, err_msg=name)
        assert found.dtype == expected.dtype


def test_rows_and_pooling(run):
    x = np.random.default_rng(0).standard_normal((3, 2, 64)).astype(np.float32)
    image = np.random.default_rng(1).standard_normal((2, 6, 6, 5)).astype(np.float32)
    plain = kernels_of("numpy")
    scale = np.linspace(1, 2, 64).astype(np.float32)
    window = {"window": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0))}
    calls = {
        "softmax": (rows, (x,), {"axis": -1}),
        "log_softmax": (rows, (x,), {"axis": 2}),
        "softmax_vjp": (rows, (x, x), {"axis": -1}),
        "label_cross_entropy": (rows, (x, np.zeros((3, 2), np.int64)), {}),
        "layer_norm": (rows, (x, scale, scale), {"epsilon": 1e-5}),
        "rms_norm": (rows, (x, scale), {"epsilon": 1e-5}),
        "max_pool": (pooling, (image,), window),
    }

    for name, (subject, arrays, how) in calls.items():
        found = subject.kernels(run)[name](*map(brought, arrays), **how)
        expected = getattr(plain, name)(*arrays, **how)
        np.testing.assert_allclose(seen(found), expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_arrays_of_another_device_are_refused_before_a_kernel_reads_them(run):
    started = []

    class Module(OnHost):
        cuda = SimpleNamespace(runtime=SimpleNamespace(getDevice=lambda: 0))

        def RawKernel(self, *_, **__):
            return lambda grid, block, arguments: started.append(arguments)

    device = DeviceRunner(Module(), None, SimpleNamespace(matmul=None, wide_matmul=None))
    x = brought(np.ones((3, 4), np.float32))
    room = np.empty(48, np.uint8)
    memory = cupy.cuda.UnownedMemory(room.ctypes.data, 48, room, 1)
    other = cupy.ndarray((3, 4), np.float32, cupy.cuda.MemoryPointer(memory, 0))

    rows.kernels(device)["softmax"](x, axis=-1)
    with pytest.raises(ValueError, match=r"softmax: expected .* cuda:0, got one on cuda:1"):
        rows.kernels(device)["softmax"](other, axis=-1)

    assert len(started) == 1
