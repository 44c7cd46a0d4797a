"""NumPy's namespaces are accounted for: no function is forgotten, none is listed twice."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.numpy_functions import dispatch, inventory

MODULES = {"np": np, "np.linalg": np.linalg, "np.fft": np.fft}


def functions_of(module):
    """Return the functions of a namespace; of classes there is one that is called as they are."""
    for name in sorted(each for each in set(module.__all__) if not each.startswith("_")):
        function = getattr(module, name)
        if name == "vectorize" or (
            callable(function) and not isinstance(function, (type, np.ufunc))
        ):
            yield name, function


def places(name, function):
    """Return the tables that know a function."""
    listed = {
        "computed": name != "vectorize" and function in dispatch.functions(),
        "cut": name in inventory.CUT,
        "refused": name in inventory.REFUSED,
        "of no arrays": name in inventory.OF_NO_ARRAYS,
        "alias": name in inventory.ALIASES,
    }
    return [table for table, is_there in listed.items() if is_there]


@pytest.mark.parametrize("module", MODULES)
def test_every_function_of_numpy_is_computed_cut_or_refused_with_a_reason(module):
    found = {name: places(name, f) for name, f in functions_of(MODULES[module])}

    assert {name: tables for name, tables in found.items() if len(tables) != 1} == {}


def test_every_ufunc_of_numpy_is_computed_or_a_step():
    unknown = {
        name
        for name, ufunc in vars(np).items()
        if isinstance(ufunc, np.ufunc)
        and dispatch._function_of(ufunc)[0] is None
        and name not in dispatch._STEPS
    }

    # Of integers and texts, which nobody differentiates.
    assert unknown == {"bitwise_count"} & set(vars(np))


def test_reasons_say_what_to_do_or_what_it_is_of():
    assert all(len(reason) > 10 for reason in inventory.REFUSED.values())


WATCHED = {
    "array": lambda t: np.array([t, t]),
    "asarray": np.asarray,
    "asanyarray": np.asanyarray,
    "asarray_chkfinite": np.asarray_chkfinite,
    "ascontiguousarray": np.ascontiguousarray,
    "asfortranarray": np.asfortranarray,
    "asmatrix": np.asmatrix,
    "bmat": lambda t: np.bmat([[t, t]]),
    "frompyfunc": np.frompyfunc(lambda x: x, 1, 1),
    "full": lambda t: np.full((2,), np.sum(t)),
    "histogram2d": lambda t: np.histogram2d([0.0] * 5, [0.0] * 5, weights=t),
    "histogramdd": lambda t: np.histogramdd([[0.0]] * 5, weights=t),
    "kaiser": lambda t: np.kaiser(5, np.sum(t)),
    "require": np.require,
    "vectorize": np.vectorize(lambda x: x),
}
OF_DATES = {"busday_count", "busday_offset", "datetime_as_string", "is_busday"}


def test_each_refusal_is_called():
    assert set(WATCHED) | OF_DATES == set(inventory.REFUSED)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("name", WATCHED)
def test_a_refused_function_raises_where_a_tape_watches(name):
    t = dg.Variable([1.0, 2.0, 3.0, 4.0, 5.0])

    with dg.GradientTape(), pytest.raises(TypeError, match=r"t\.numpy\(\)"):
        WATCHED[name](t * 1.0)


CUT = {
    "argpartition": lambda t: np.argpartition(t, 1),
    "isin": lambda t: np.isin(t, [2.0]),
    "lexsort": lambda t: np.lexsort((t,)),
    "histogram_bin_edges": np.histogram_bin_edges,
    "unique": lambda t: np.unique(t, return_counts=True)[1],
    "histogram": lambda t: np.histogram(t)[0],
    "digitize": lambda t: np.digitize(t, [1.0, 2.0]),
    "searchsorted": lambda t: np.searchsorted([1.0, 2.0], t),
    "count_nonzero": np.count_nonzero,
    "argmax": np.argmax,
    "isclose": lambda t: np.isclose(t, 2.0),
    "nonzero": lambda t: np.nonzero(t)[0],
}


@pytest.mark.parametrize("name", CUT)
def test_what_has_no_derivative_is_cut_and_explain_knows_it(name):
    t = dg.Variable([3.0, 1.0, 2.0])
    with dg.GradientTape(persistent=True) as tape:
        y = dg.sum(dg.astype(CUT[name](t * 1.0), "float32"))

    assert tape.gradient(y, t) is None
    assert "no derivative" in str(tape.explain(y, t))
