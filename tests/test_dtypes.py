"""Dtypes: found by name, promoted, told apart by what derivatives they have."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import distgrad as dg
from distgrad import dtypes
from distgrad.errors import DTypeError


@pytest.fixture
def restored(monkeypatch):
    """Undo what a test sets for the process."""
    monkeypatch.setattr(dtypes, "_default", dtypes.float32)


@pytest.mark.parametrize("name", dtypes.NAMES)
def test_every_dtype_is_found_by_name_by_type_and_by_itself(name):
    dtype = np.dtype(name)

    assert dtypes.as_dtype(name) == dtype
    assert dtypes.as_dtype(dtype) is dtype
    assert dtypes.as_dtype(dtype.type) == dtype
    assert getattr(dg, name) == dtype


def test_another_librarys_dtype_is_known_by_its_name():
    import array_api_strict

    assert dtypes.as_dtype(array_api_strict.float32) == np.float32
    assert dtypes.as_dtype(array_api_strict.int16) == np.int16


def test_pythons_types_mean_the_default_dtypes():
    assert dtypes.as_dtype(float) == np.float32
    assert dtypes.as_dtype(complex) == np.complex64
    assert dtypes.as_dtype(int) == np.int64
    assert dtypes.as_dtype(bool) == np.bool_


@pytest.mark.parametrize("wrong", ["float31", "str", "object", "", "datetime64"])
def test_an_unknown_name_is_refused_with_those_that_are_known(wrong):
    with pytest.raises(DTypeError, match=r"is unknown; expected one of bool, int8.*complex128"):
        dtypes.as_dtype(wrong)


@pytest.mark.parametrize(
    "wrong", [np.dtype("U3"), object, np.dtype("datetime64[s]"), np.longdouble]
)
def test_a_dtype_without_arithmetic_here_is_refused(wrong):
    if np.dtype(wrong) == np.float64:
        pytest.skip("long double is double on this platform")
    with pytest.raises(DTypeError, match="no arithmetic here"):
        dtypes.as_dtype(wrong)


def test_bfloat16_needs_its_package():
    pytest.importorskip("ml_dtypes")
    assert dtypes.as_dtype("bfloat16").name == "bfloat16"
    assert dtypes.is_differentiable(dtypes.as_dtype("bfloat16"))


def test_bfloat16_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    dtypes._named.cache_clear()
    with pytest.raises(DTypeError, match="pip install ml_dtypes"):
        dtypes.as_dtype("bfloat16")


def test_floating_and_complex_values_have_derivatives():
    differentiable = [n for n in dtypes.NAMES if dtypes.is_differentiable(np.dtype(n))]

    assert differentiable == ["float16", "float32", "float64", "complex64", "complex128"]


@pytest.mark.usefixtures("restored")
def test_the_default_dtype_is_a_real_floating_one():
    dg.set_default_dtype("float64")
    assert dg.get_default_dtype() == np.float64
    assert dtypes.as_dtype(complex) == np.complex128

    dg.set_default_dtype(np.float16)
    assert dg.get_default_dtype() == np.float16


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("wrong", ["int32", "complex64", "bool"])
def test_another_default_dtype_is_refused(wrong):
    with pytest.raises(DTypeError, match=f"dtype is {wrong}; expected a real floating dtype"):
        dg.set_default_dtype(wrong)

    assert dg.get_default_dtype() == np.float32


@pytest.mark.parametrize(
    ("operands", "expected"),
    [
        (("float32", "float64"), "float64"),
        (("float16", 2.0), "float16"),
        (("int8", 2), "int8"),
        (("int64", 2.0), "float32"),
        (("bool", 2), "int64"),
        (("bool", 2.0), "float32"),
        (("float32", 2j), "complex64"),
        (("float64", 2j), "complex128"),
        (("int64", 2j), "complex64"),
        (("int8", 2, 2.0, 2j), "complex64"),
        (("complex64", 2.0), "complex64"),
        (("float32", True), "float32"),
    ],
)
def test_a_number_decides_the_kind_and_never_the_width(operands, expected):
    given = [np.dtype(o) if isinstance(o, str) else o for o in operands]

    assert dtypes.result_type(*given) == np.dtype(expected)


@given(st.lists(st.sampled_from(dtypes.NAMES), min_size=1, max_size=4))
def test_dtypes_alone_promote_as_numpys(names):
    given = [np.dtype(name) for name in names]

    assert dtypes.result_type(*given) == np.result_type(*given)
