"""The methods of NumPy's arrays on tensors and variables: NumPy's values, with gradients."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.array_methods import ArrayMethods
from distgrad.errors import DTypeError
from distgrad.testing.inputs import frozen, values

A = values((3, 4), -2.1, 2.0)
S = values((3, 3), -2.1, 2.0)
V = frozen(np.sort(values((5,), -2.1, 2.0)))
L = values((1, 3, 1), -2.1, 2.0)

DIFFERENTIATED = {
    "sum": (A, lambda a: a.sum(1, np.float64, None, True)),
    "sum-where": (A, lambda a: a.sum(where=[True, False, True, True], initial=2.0)),
    "prod": (A, lambda a: a.prod(axis=0)),
    "mean": (A, lambda a: a.mean(0, keepdims=True)),
    "mean-dtype": (A, lambda a: a.mean(dtype=np.float32)),
    "var": (A, lambda a: a.var(axis=1, ddof=1)),
    "std": (A, lambda a: a.std(0)),
    "max": (A, lambda a: a.max(axis=1)),
    "max-initial": (A, lambda a: a.max(0, None, True, initial=0.5)),
    "min": (A, lambda a: a.min()),
    "cumsum": (A, lambda a: a.cumsum(1)),
    "cumprod": (A, lambda a: a.cumprod()),
    "ravel": (A, lambda a: a.ravel("F")),
    "flatten": (A, lambda a: a.flatten()),
    "reshape": (A, lambda a: a.reshape(2, -1)),
    "reshape-tuple": (A, lambda a: a.reshape((4, 3), order="F")),
    "transpose": (L, lambda a: a.transpose(2, 0, 1)),
    "transpose-tuple": (L, lambda a: a.transpose((1, 0, 2))),
    "transpose-line": (V, lambda a: a.transpose(0)),
    "transpose-all": (L, lambda a: a.transpose()),
    "swapaxes": (A, lambda a: a.swapaxes(0, 1)),
    "squeeze": (L, lambda a: a.squeeze(0)),
    "dot": (A, lambda a: a.dot(np.arange(4.0))),
    "clip": (A, lambda a: a.clip(-0.55, 0.65)),
    "clip-max": (A, lambda a: a.clip(max=0.65)),
    "round": (A, lambda a: a.round(1) + a),
    "repeat": (A, lambda a: a.repeat(2, axis=1)),
    "take": (A, lambda a: a.take([2, 0, 2], 0)),
    "compress": (A, lambda a: a.compress([True, False, True], axis=0)),
    "trace": (S, lambda a: a.trace(1)),
    "diagonal": (S, lambda a: a.diagonal(-1)),
    "astype": (A, lambda a: a.astype(np.float64, copy=False)),
    "conj": (A, lambda a: a.conj()),
    "conjugate": (A, lambda a: a.conjugate()),
    "copy": (A, lambda a: a.copy()),
    "real": (A, lambda a: a.real),
    "T": (A, lambda a: a.T),
    "mT": (L, lambda a: a.mT),
}

WITHOUT_DERIVATIVE = {
    "argmax": (A, lambda a: a.argmax(1, keepdims=True)),
    "argmin": (A, lambda a: a.argmin()),
    "any": (A, lambda a: (a > 1).any(axis=0)),
    "all": (A, lambda a: (a > -1).all(1, keepdims=True)),
    "argsort": (A, lambda a: a.argsort(axis=0)),
    "argpartition": (A, lambda a: a.argpartition(1)),
    "searchsorted": (V, lambda a: a.searchsorted([0.0, 1.0], side="right")),
    "nonzero": (A, lambda a: (a > 0).nonzero()[1]),
    "choose": (A, lambda a: (a > 0).astype(int).choose([10, 20])),
    "imag": (A, lambda a: (a * 2j).imag),
}


@pytest.mark.parametrize("make", [dg.asarray, dg.Variable])
@pytest.mark.parametrize("name", [*DIFFERENTIATED, *WITHOUT_DERIVATIVE])
def test_a_method_gives_what_numpys_gives(name, make):
    array, call = (DIFFERENTIATED | WITHOUT_DERIVATIVE)[name]

    given, expected = call(make(array)), call(array)

    assert isinstance(given, dg.Tensor)
    assert given.dtype == expected.dtype
    assert given.shape == expected.shape
    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_a_method_is_differentiated(name):
    array, call = DIFFERENTIATED[name]
    if name == "mean-dtype":
        array = array.astype(np.float64)
        dg_call = call
        tolerance = 1e-5
    else:
        dg_call, tolerance = call, 1e-7
    weights = np.cos(np.arange(np.size(call(array)))).reshape(np.shape(call(array)))
    x, step = dg.Variable(array), 1e-6
    with dg.GradientTape() as tape:
        total = dg.sum(dg_call(x) * weights)

    gradient = tape.gradient(total, x)

    if name == "mean-dtype":
        np.testing.assert_allclose(gradient.numpy(), np.full(array.shape, 1 / 12), rtol=tolerance)
        return
    for place in np.ndindex(array.shape):
        above, below = array.copy(), array.copy()
        above[place] += step
        below[place] -= step
        slope = np.sum((call(above) - call(below)) * weights) / (2 * step)
        assert gradient.numpy()[place] == pytest.approx(slope, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("name", ["cumsum", "var", "clip", "take", "transpose", "dot"])
def test_a_method_is_traced(name):
    array, call = DIFFERENTIATED[name]

    np.testing.assert_allclose(dg.function(call)(dg.asarray(array)).numpy(), call(array))


@pytest.mark.parametrize(
    ("method", "arguments", "remedy"),
    [
        ("sort", (), r"np\.sort\(t\)"),
        ("partition", (1,), r"np\.partition"),
        ("put", ([0], 1.0), r"t\.at\[indices\]\.set"),
        ("fill", (0.0,), r"np\.full_like"),
        ("resize", ((2, 6),), r"np\.resize"),
    ],
)
def test_a_method_that_changes_the_array_is_refused_with_the_remedy(method, arguments, remedy):
    t = dg.asarray(A)
    with pytest.raises(TypeError, match=rf"t\.{method}: .*{remedy}"):
        getattr(t, method)(*arguments)
    np.testing.assert_array_equal(t.numpy(), A)


def test_out_is_refused_as_in_numpys_functions():
    with pytest.raises(TypeError, match="out= is not taken"):
        dg.asarray(A).sum(0, out=np.zeros(4))


def test_casting_is_minded():
    with pytest.raises(DTypeError, match="same_kind"):
        dg.asarray(A).astype(np.int32, casting="same_kind")
    assert dg.asarray(A).astype(np.float32, casting="same_kind").dtype == np.float32


def test_numbers_are_taken_out():
    t = dg.asarray(A)

    assert t.item(5) == A.item(5)
    assert t.item(1, 2) == A.item(1, 2)
    assert t.tobytes() == A.tobytes()
    assert t.itemsize == 8
    assert t.tolist() == A.tolist()


def test_every_method_of_numpys_arrays_is_there_but_those_on_memory():
    # Some NumPys have names of methods that they had once, and that only raise.
    public = {name for name in dir(np.ndarray) if name[0] != "_" and hasattr(A, name)}
    # What an array's memory looks like, and how to change it: a tensor's is its backend's own.
    memory = set(
        "base byteswap ctypes data dump dumps flags flat getfield setfield setflags strides tofile "
        "tostring view".split()
    )

    assert {name for name in public - memory if not hasattr(dg.Tensor, name)} == set()


def test_methods_take_no_memory_of_a_tensor():
    assert ArrayMethods.__slots__ == ()
    assert not hasattr(dg.asarray(1.0), "__dict__")
