"""NumPy's functions in traced functions and in vmap; what needs values there says so."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.batching import BatchedValueError
from distgrad.errors import TraceError

from .cases import CALLS, A, V


def flat(result):
    return list(result) if isinstance(result, (tuple, list)) else [result]


# The shape of the result depends on values.
SHAPED_BY_VALUES = frozenset(
    "intersect1d polydiv polymul roots roots-real roots-zeros setdiff1d setxor1d union1d unique "
    "unique-axis unique_all unique_counts unique_inverse unique_values".split()
)
TRACEABLE = [name for name in CALLS if name not in SHAPED_BY_VALUES]


@pytest.mark.parametrize("name", TRACEABLE)
def test_a_traced_call_gives_numpys_values_and_the_gradients_of_an_eager_one(name):
    function, arrays = CALLS[name]
    traced = dg.function(lambda *given: flat(function(*given)))
    sources = [dg.Variable(a) for a in arrays if a.dtype.kind == "f"]
    rest = iter(sources)
    given = [next(rest) if a.dtype.kind == "f" else dg.asarray(a) for a in arrays]

    def gradients(call):
        with dg.GradientTape() as tape:
            results = flat(call(*given))
            total = sum(dg.sum(dg.square(each)) for each in results)
        return results, tape.gradient(total, sources)

    results, found = gradients(traced)

    for one, other in zip(results, flat(function(*arrays)), strict=True):
        assert one.dtype == np.asarray(other).dtype
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-9, atol=1e-11)
    for one, other in zip(found, gradients(function)[1], strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings("ignore:vmap. searchsorted has no batching rule:UserWarning")
@pytest.mark.parametrize("name", TRACEABLE)
def test_a_call_runs_on_a_batch(name):
    function, arrays = CALLS[name]
    batch = [np.stack([a, a * 1.1]) if a.dtype.kind == "f" else np.stack([a, a]) for a in arrays]

    given = dg.vmap(lambda *each: tuple(flat(function(*each))))(*batch)

    for k in range(2):
        for one, other in zip(given, flat(function(*(b[k] for b in batch))), strict=True):
            np.testing.assert_allclose(one.numpy()[k], other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", sorted(SHAPED_BY_VALUES))
def test_what_is_shaped_by_values_is_refused_by_its_name(name):
    function, arrays = CALLS[name]
    message = rf"np\.{name.partition('-')[0]}: .*depends on values"

    with pytest.raises(TraceError, match=message):
        dg.function(function)(*map(dg.asarray, arrays))
    with pytest.raises(BatchedValueError, match=message):
        dg.vmap(function)(*(np.stack([a, a]) for a in arrays))


NEEDS_VALUES = {
    "argwhere": lambda t: np.argwhere(t > 0),
    "bincount": lambda t: np.bincount(np.astype(t > 0, int)),
    "choose": lambda t: np.choose(np.argmax(t), [t, t]),
    "compress": lambda t: np.compress(t > 0, t),
    "delete": lambda t: np.delete(t, np.argmax(t)),
    "digitize": lambda t: np.digitize(t, t),
    "extract": lambda t: np.extract(t > 0, t),
    "flatnonzero": lambda t: np.flatnonzero(t > 0),
    "histogram": np.histogram,
    "insert": lambda t: np.insert(t, np.argmax(t), 1.0),
    "nonzero": lambda t: np.nonzero(t > 0),
    "trim_zeros": np.trim_zeros,
}
BY_VALUES = frozenset(NEEDS_VALUES)


@pytest.mark.parametrize("name", NEEDS_VALUES)
def test_what_needs_values_is_refused_by_its_name(name):
    named = "nonzero" if name in ("argwhere", "flatnonzero") else name
    with pytest.raises(TraceError, match=rf"\b{named}: .* on values"):
        dg.function(NEEDS_VALUES[name])(dg.asarray(V))


@pytest.mark.parametrize("name", ["lexsort", "isin"])
def test_what_is_computed_on_the_host_is_refused_by_its_name(name):
    call = {"lexsort": lambda t: np.lexsort((t,)), "isin": lambda t: np.isin(t, [1.0])}[name]

    with pytest.raises(TraceError, match=rf"np\.{name} is computed on the host, from values"):
        dg.function(call)(dg.asarray(V))


@pytest.mark.parametrize(
    "call",
    [
        lambda t: np.where(t > 0, t, 0),
        lambda t: np.searchsorted(np.sort(t), t),
        lambda t: np.digitize(t, [-1.0, 0.0, 1.0]),
        lambda t: np.count_nonzero(t > 0),
        lambda t: np.isclose(t, 0.3, equal_nan=True),
        np.nanargmax,
        np.isposinf,
        np.isreal,
    ],
)
def test_searches_and_predicates_are_traced(call):
    np.testing.assert_array_equal(dg.function(call)(dg.asarray(V)).numpy(), call(V))


def test_a_partition_in_a_trace_is_sorted():
    traced = dg.function(lambda t: np.partition(t, 2, axis=1))

    np.testing.assert_array_equal(traced(dg.asarray(A)).numpy(), np.sort(A, axis=1))
