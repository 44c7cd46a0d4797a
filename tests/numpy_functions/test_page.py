"""The page on NumPy code names what works, what is cut and what is refused, and nothing else."""

import re
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import TraceError
from distgrad.numpy_functions import dispatch
from distgrad.ops import VOCABULARY

from .cases import CALLS

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "differentiate-numpy-code.md"
TEXT = PAGE.read_text()

# Not called in `cases`: what they return has no derivative, no fixed shape, or is no tensor.
WITHOUT_CALL = frozenset(
    "all any argmax argmin argsort around copyto empty_like fill_diagonal fix full_like ndim "
    "ones_like place put put_along_axis putmask real_if_close round shape size trim_zeros "
    "zeros_like".split()
)


def rows(header):
    """Return the rows of the table that begins with a header: first cell, names in the second."""
    table = TEXT.split(f"| {header} |", 1)[1].split("\n\n", 1)[0]
    lines = [line.split("|") for line in table.splitlines()[2:]]
    return {line[1].strip(" `"): re.findall(r"`(\w+)`", line[2]) for line in lines}


def present(module, names):
    """Return the names that this NumPy has: younger ones have more, and older ones others."""
    return sorted({name for name in names if hasattr(module, name)})


def known(module):
    functions = set(dispatch.functions())
    return sorted(n for n, f in vars(module).items() if callable(f) and f in functions)


def ufuncs(predicate):
    named = {u.__name__ for u in vars(np).values() if isinstance(u, np.ufunc)}
    return sorted(name for name in named if predicate(name))


def computed(name):
    function, _ = dispatch._function_of(getattr(np, name))
    return function is not None


def differentiated(name):
    op = VOCABULARY.get(dispatch._NAMES.get(name, name))
    return computed(name) and (op is None or op.vjp is not None)


def test_the_page_lists_the_functions_of_numpy_that_are_known():
    listed = [name for names in rows("subject").values() for name in names]

    assert len(listed) == len(set(listed))
    assert present(np, listed) == known(np)


@pytest.mark.parametrize("module", ["linalg", "fft"])
def test_the_page_lists_the_functions_of_a_module_that_are_known(module):
    listed = rows("module")[f"np.{module}"]

    assert present(getattr(np, module), listed) == known(getattr(np, module))


@pytest.mark.parametrize(
    ("row", "predicate"),
    [
        ("differentiated", differentiated),
        ("computed; the gradient ends there", lambda n: computed(n) and not differentiated(n)),
        ("computed on the host; the gradient ends there", lambda n: not computed(n)),
    ],
)
def test_the_page_sorts_the_ufuncs_by_what_becomes_of_gradients(row, predicate):
    assert present(np, rows("ufuncs")[row]) == ufuncs(predicate)


def test_ufuncs_on_the_host_cut_and_are_not_refused():
    assert (
        set(rows("ufuncs")["computed on the host; the gradient ends there"])
        - {
            "bitwise_count"  # of integers, which no tape watches
        }
        <= dispatch._STEPS
    )


def test_every_function_on_the_page_with_a_derivative_is_checked_by_a_call():
    computes = dispatch.functions()
    listed = present(np, (name for names in rows("subject").values() for name in names))
    called = {re.split(r"[-.]", name)[0] for name in CALLS} & set(listed)
    by_calls = {computes[getattr(np, name)] for name in called}  # `amax` is `max`
    unchecked = [name for name in listed if computes[getattr(np, name)] not in by_calls]

    assert unchecked == present(np, WITHOUT_CALL)


def test_the_page_names_what_cannot_be_traced():
    named = set(
        re.findall(r"`([\w.]+)`", TEXT.split("to know what to do raises:")[1].split("; and")[0])
    )

    assert named - {"trim_zeros"} == {
        re.sub(r"-.*", "", name) for name, call in CALLS.items() if not is_traceable(*call)
    }


def is_traceable(function, arrays):
    places = [i for i, array in enumerate(arrays) if isinstance(array, np.ndarray)]

    def traced(*given):
        every = list(arrays)
        for place, array in zip(places, given, strict=True):
            every[place] = array
        return function(*every)

    try:
        dg.function(traced)(*(dg.asarray(arrays[place]) for place in places))
    except TraceError:
        return False
    return True
