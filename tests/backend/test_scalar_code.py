"""Scalar code: the C++ that follows from an operation's declaration computes what its kernel does.

Formulas are compiled for the host, all of them at once, and run over the samples of their
operations: the text that a GPU's compiler gets is the same.
"""

import ctypes

import numpy as np
import pytest

from distgrad.backend import scalar_code
from distgrad.backend.scalar_code import NoScalarCode, ScalarCode, forward
from distgrad.core.op import Kind
from distgrad.ops import VOCABULARY
from distgrad.testing.formulas import cases

FLOATS = ("float32", "float64")

# Elementwise operations without scalar code: complex or integer ones, moves, and functions for
# which C++ has no name.
WITHOUT = set(
    "conj real imag signbit nextafter remainder floor_divide logical_and logical_or logical_xor "
    "logical_not bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift "
    "bitwise_invert to_device full_like gamma digamma erfcx erfi dawsn ndtr log_ndtr "
    "fresnel_sin fresnel_cos erfinv erfcinv ndtri ndtri_exp j0 j1 i0 i1 i0e i1e y0 y1 k0 k1 k0e "
    "k1e exp1 expi spence ellipk ellipe wrightomega beta betaln binom poch zeta gammainc gammaincc "
    "gammaincinv gammainccinv gammainc_ratio "
    "gammainc_slope gamma_carried betainc betaincc betaincinv jv iv ive yv kv kve expn".split()
)


def source_of(number, formula):
    """Return a function in C++ that runs a formula over arrays."""
    names = [name for name, _ in (*formula.inputs, *formula.outputs)]
    kinds = [dtype for _, dtype in (*formula.inputs, *formula.outputs)]
    count = len(formula.inputs)
    arguments = ", ".join(
        f"{'const ' if place < count else ''}{scalar_code.C_TYPES[kind.name]}* p{place}"
        for place, kind in enumerate(kinds)
    )
    reads = " ".join(
        f"const auto {name} = p{place}[i];" for place, name in enumerate(names[:count])
    )
    writes = " ".join(f"auto& {n} = p{count + k}[i];" for k, n in enumerate(names[count:]))
    return (
        f'extern "C" void f{number}(long long n, {arguments}) {{\n'
        f"for (long long i = 0; i < n; ++i) {{ {reads} {writes}\n{formula.body}\n}} }}\n"
    )


def test_formulas_on_the_host_compute_what_the_kernels_do(compiled_cxx):
    found = list(cases(FLOATS))
    numbers = {formula: number for number, (formula, _, _) in enumerate(found)}
    texts = [source_of(number, formula) for formula, number in numbers.items()]
    library = compiled_cxx("#include <cmath>\nusing namespace std;\n" + "".join(texts))
    checked = set()

    for formula, inputs, expected in found:
        outputs = [
            np.empty(each.shape, dtype)
            for each, (_, dtype) in zip(expected, formula.outputs, strict=True)
        ]
        arrays = [*inputs, *outputs]
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
        getattr(library, f"f{numbers[formula]}")(ctypes.c_longlong(expected[0].size), *pointers)
        for output, right in zip(outputs, expected, strict=True):
            single = right.dtype.itemsize < 8
            np.testing.assert_allclose(
                output,
                right,
                rtol=2e-4 if single else 1e-10,
                atol=2e-5 if single else 1e-12,
                err_msg=f"{formula.name}\n{formula.body}",
            )
        checked.add(formula.name)

    assert len({name for name in checked if not name.endswith("_pullback")}) >= 95
    assert len({name for name in checked if name.endswith("_pullback")}) >= 60


def test_every_elementwise_operation_has_scalar_code_or_is_known_to_have_none():
    elementwise = {op.name for op in VOCABULARY.values() if op.kind is Kind.ELEMENTWISE}
    found = {formula.name for formula, _, _ in cases(FLOATS)}

    assert elementwise - found == WITHOUT


def test_what_is_computed_twice_is_written_once():
    writer = ScalarCode(VOCABULARY, "float32")
    x = writer.argument("x")

    result = writer.exp(x * 2.0) + writer.exp(x * 2.0)

    assert writer.text({"y": result}).count("exp(") == 1


def test_numbers_keep_the_width_of_the_elements():
    single, double = (forward(VOCABULARY["gelu"], VOCABULARY, [d], {}).body for d in FLOATS)

    assert "0.5f" in single
    assert "double" not in single
    assert "0.5f" not in double


@pytest.mark.parametrize(
    ("name", "dtypes", "why"),
    [
        ("sin", ["complex64"], "real floating dtypes"),
        ("add", ["float32", "float64"], "expected one floating dtype"),
        ("sum", ["float32"], "no expression in C\\+\\+"),
    ],
)
def test_what_has_no_formula_says_why(name, dtypes, why):
    with pytest.raises(NoScalarCode, match=why):
        forward(VOCABULARY[name], VOCABULARY, dtypes, {})


def test_a_branch_on_the_value_of_an_element_is_refused():
    x = ScalarCode(VOCABULARY, "float32").argument("x")

    with pytest.raises(NoScalarCode, match="branches by Python's if"):
        bool(x > 0)
