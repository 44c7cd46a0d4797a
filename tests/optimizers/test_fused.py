"""The formula of each rule as C++ does what it does on arrays; compiled for the host."""

import ctypes
import shutil
import subprocess
import sys

import numpy as np
import pytest

from distgrad import optimizers
from distgrad.backend.scalar_code import C_TYPES, NoScalarCode
from distgrad.optimizers.fused import formula_of, signature_of
from distgrad.optimizers.in_place import change_array
from distgrad.optimizers.rules import Rule
from distgrad.optimizers.vocabulary import Vocabulary

RULES = [
    optimizers.SGD(0.1),
    optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    optimizers.Adam(0.01, weight_decay=0.1),
    optimizers.Adam(0.01, amsgrad=True),
    optimizers.AdamW(0.01),
    optimizers.RMSprop(0.01, momentum=0.9, centered=True),
    optimizers.Adagrad(0.01),
]
ON_NUMPY = Vocabulary(np.sqrt, np.maximum, np.where, np.sum, np.real, np.conj)


def slots_of(rule, dtype):
    return [np.linspace(0.5, 1.5, 7).astype(dtype) for _ in rule.slots]


def library_of(formulas, folder):
    """Return a library with a function for each formula, over arrays and numbers."""
    texts = ["#include <cmath>\nusing namespace std;\n"]
    for number, formula in enumerate(formulas):
        reads = [(name, dtype) for name, dtype in formula.inputs if not name.startswith("n")]
        given = [(name, dtype) for name, dtype in formula.inputs if name.startswith("n")]
        arguments = [f"const {C_TYPES[d.name]}* {n}_all" for n, d in reads]
        arguments += [f"{C_TYPES[d.name]} {n}" for n, d in given]
        arguments += [f"{C_TYPES[d.name]}* {n}_all" for n, d in formula.outputs]
        head = " ".join(f"const auto {n} = {n}_all[i];" for n, _ in reads)
        ends = " ".join(f"auto& {n} = {n}_all[i];" for n, _ in formula.outputs)
        texts.append(
            f'extern "C" void f{number}(long long n, {", ".join(arguments)}) {{\n'
            f"for (long long i = 0; i < n; ++i) {{ {head} {ends}\n{formula.body}\n}} }}\n"
        )
    code, library = folder / "steps.cpp", folder / "steps.so"
    code.write_text("".join(texts))
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    compiler = [found] if found else [sys.executable, "-m", "ziglang", "c++"]
    command = [*compiler, "-std=c++17", "-O1", "-shared", "-fPIC", "-o", library, code]
    subprocess.run(command, check=True, timeout=300)
    return ctypes.CDLL(str(library))


def test_kernels_of_rules_change_arrays_as_their_formulas_do(tmp_path):
    cases = [(rule, np.dtype(dtype)) for rule in RULES for dtype in ("float32", "float64")]
    formulas = [
        formula_of(rule, d, d, [d] * len(rule.slots), None, len(rule.numbers(3)))
        for rule, d in cases
    ]
    library = library_of(formulas, tmp_path)

    for number, (rule, dtype) in enumerate(cases):
        x, g = np.linspace(-1, 2, 7).astype(dtype), np.linspace(-2, 1, 7).astype(dtype)
        slots, numbers = slots_of(rule, dtype), rule.numbers(3)
        own = [x.copy(), *(slot.copy() for slot in slots)]
        change_array(rule, ON_NUMPY, x, g, tuple(slots), None, numbers)
        kind = ctypes.c_float if dtype == np.float32 else ctypes.c_double
        pointers = [ctypes.c_void_p(each.ctypes.data) for each in (own[0], g, *own[1:])]
        ends = [ctypes.c_void_p(each.ctypes.data) for each in own]
        given = [kind(float(each)) for each in numbers]
        getattr(library, f"f{number}")(ctypes.c_longlong(7), *pointers, *given, *ends)

        for found, expected in zip(own, (x, *slots), strict=True):
            tolerance = 1e-5 if dtype == np.float32 else 1e-12
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_every_elementwise_rule_has_a_kernel():
    tried = {type(rule) for rule in RULES}
    public = {getattr(optimizers, name) for name in optimizers.__all__}
    rules = {each for each in public if isinstance(each, type) and issubclass(each, Rule)}

    assert {each for each in rules if each.elementwise} - {Rule} == tried


def test_half_precision_is_changed_by_its_master_copy():
    rule = optimizers.Adam(0.01)

    formula = formula_of(rule, "float16", "float16", ["float32"] * 2, "float32", 3)

    assert dict(formula.outputs)["master_next"] == np.float32
    assert dict(formula.outputs)["x_next"] == np.float16
    assert "(float)g" in formula.body
    assert "= x;" not in formula.body  # the copy counts


def test_what_sums_over_elements_has_no_kernel():
    with pytest.raises(NoScalarCode, match="know of each other"):
        formula_of(optimizers.LAMB(0.1), "float32", "float32", ["float32"] * 2, None, 3)


def test_a_changed_number_makes_another_kernel():
    rule = optimizers.Adam(0.01)
    before = signature_of(rule)

    rule.beta_1 = 0.5

    assert signature_of(rule) != before


def test_a_backend_with_a_kernel_of_its_own_is_asked_first():
    asked = []
    rule = optimizers.SGD(0.5)

    def fused(*arguments):
        asked.append(arguments)
        return len(asked) == 1

    f = Vocabulary(np.sqrt, np.maximum, np.where, np.sum, np.real, np.conj, fused)
    x, g = np.ones(3), np.ones(3)
    change_array(rule, f, x, g, (), None, (0.5,))
    np.testing.assert_array_equal(x, 1)

    change_array(rule, f, x, g, (), None, (0.5,))

    np.testing.assert_array_equal(x, 0.5)
    assert len(asked) == 2
