"""The page on NumPy code names what works, what is cut and what is refused, and nothing else."""

import re
from pathlib import Path

import numpy as np
import pytest

from distgrad.array_methods import ArrayMethods
from distgrad.numpy_functions import dispatch, inventory
from distgrad.ops import VOCABULARY

from .cases import CALLS
from .test_transformations import BY_VALUES, SHAPED_BY_VALUES

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "differentiate-numpy-code.md"
TEXT = PAGE.read_text()

# Not called in `cases`: what they return has no derivative, no fixed shape, or is no tensor.
WITHOUT_CALL = frozenset(
    "all any argmax argmin argsort argwhere around copyto count_nonzero digitize empty_like "
    "fill_diagonal fix flatnonzero full_like isclose iscomplex isneginf isposinf isreal nanargmax "
    "nanargmin ndim nonzero ones_like place put put_along_axis putmask real_if_close round "
    "searchsorted shape size trim_zeros zeros_like".split()
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
    composed = op is None and name != "rint"  # of a step, but for the dtype of integers
    return computed(name) and (composed or (op is not None and op.vjp is not None))


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


def test_every_function_of_a_module_with_a_derivative_is_checked_by_a_call():
    called = {re.sub(r"-.*", "", name) for name in CALLS}
    listed = [f"{m}.{name}" for m in ("linalg", "fft") for name in rows("module")[f"np.{m}"]]

    assert set(listed) - called == {"linalg.matrix_rank"}


def test_the_page_names_what_cannot_be_traced():
    part = TEXT.split("depends on values raises by its name:")[1].split(". ")[0]
    named = set(re.findall(r"`([\w.]+)`", part))

    assert {re.sub(r"-.*", "", name) for name in SHAPED_BY_VALUES} | BY_VALUES == named


def test_the_page_names_what_is_refused_with_the_reason():
    names = set(rows("refused where a tape watches"))

    assert {name for row in names for name in re.findall(r"\w+", row)} == set(inventory.REFUSED)


def test_the_page_names_the_methods_of_arrays():
    part = TEXT.split("the methods of NumPy's arrays:")[1].split(". ")[0]
    named = set(re.findall(r"`(\w+)`", part))
    public = {name for name in vars(ArrayMethods) if not name.startswith("_")}
    in_place = {"sort", "partition", "put", "fill", "resize"}

    assert named == {name for name in public - in_place if callable(getattr(ArrayMethods, name))}
