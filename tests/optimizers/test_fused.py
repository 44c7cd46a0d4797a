"""The formula of each rule as C++ does what it does on arrays; compiled kernels of the host."""

import numpy as np
import pytest

from distgrad import optimizers
from distgrad.backend.scalar_code import NoScalarCode
from distgrad.backends_in_force import kernels_of
from distgrad.optimizers.fused import formula_of, signature_of
from distgrad.optimizers.in_place import Change, change_arrays
from distgrad.optimizers.rules import Rule
from distgrad.optimizers.vocabulary import Vocabulary, vocabulary_of
from distgrad.testing.inputs import values
from distgrad_numpy import threads

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


@pytest.fixture
def step():
    """What changes arrays by a rule compiled."""
    return vocabulary_of(kernels_of("numpy").backend, np.zeros(1)).fused


@pytest.mark.needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("size", [1, 7, 100_003])
def test_a_compiled_step_changes_arrays_as_the_formula_of_the_rule_does(rule, dtype, size, step):
    x, g = (values((size,), -1.0, 1.0, seed).astype(dtype) for seed in (1, 2))
    slots = [values((size,), 0.5, 1.5, 3).astype(dtype) for _ in rule.slots]
    numbers = rule.numbers(3)
    own = [x.copy(), *(slot.copy() for slot in slots)]

    assert not step(rule, [Change(own[0], g, tuple(own[1:]), None)], numbers)
    change_arrays(rule, ON_NUMPY, [Change(x, g, tuple(slots), None)], numbers)

    for found, expected in zip(own, (x, *slots), strict=True):
        tolerance = 8 * np.finfo(dtype).eps
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.needs_compiler
def test_parts_of_a_parameter_are_changed_to_the_same_bits_as_the_whole(step):
    rule, numbers = optimizers.Adam(0.01), optimizers.Adam(0.01).numbers(3)
    whole = [values((1000,), 0.5, 1.5, seed).astype(np.float32) for seed in range(4)]
    parts = [each.copy() for each in whole]

    assert not step(rule, [Change(whole[0], whole[1], tuple(whole[2:]), None)], numbers)
    changes = []
    for part in (slice(0, 1), slice(1, 1), slice(1, 334), slice(334, 1000)):
        x, g, *slots = (each[part] for each in parts)
        changes.append(Change(x, g, tuple(slots), None))
    assert not step(rule, changes, numbers)

    assert all(map(np.array_equal, whole, parts))


@pytest.mark.needs_compiler
def test_arrays_that_are_not_one_line_in_memory_are_left_to_the_formula(step):
    rule = optimizers.Adam(0.01)
    x, g, m, v = (np.ones((8, 8), np.float32) for _ in range(4))
    turned = Change(x, g.T, (m, v), None)
    whole = Change(x.copy(), g, (m.copy(), v.copy()), None)

    left = step(rule, [turned, whole], rule.numbers(1))

    assert [change is turned for change in left] == [True]
    assert (x == 1).all()
    assert (whole.x != 1).all()


@pytest.mark.needs_compiler
def test_a_step_of_half_precision_is_left_to_the_formula(step):
    rule = optimizers.Adam(0.01)
    x, g = (np.ones(8, np.float16) for _ in range(2))
    m, v, master = (np.ones(8, np.float32) for _ in range(3))

    change = Change(x, g, (m, v), master)

    assert step(rule, [change], rule.numbers(1)) == [change]


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


@pytest.mark.needs_compiler
def test_many_parameters_are_changed_over_several_threads_to_the_bits_of_one(step, monkeypatch):
    rule = optimizers.Adam(0.01)
    sizes = (1, 70_000, 0, 3, 200_001, 65_536)
    own = [[values((n,), 0.5, 1.5, seed).astype(np.float32) for seed in range(4)] for n in sizes]
    again = [[each.copy() for each in row] for row in own]
    monkeypatch.setattr(threads, "available", lambda: 3)

    assert not step(rule, [Change(x, g, (m, v), None) for x, g, m, v in own], rule.numbers(2))
    monkeypatch.setattr(threads, "available", lambda: 1)
    for x, g, m, v in again:
        assert not step(rule, [Change(x, g, (m, v), None)], rule.numbers(2))

    for row, expected in zip(own, again, strict=True):
        assert all(map(np.array_equal, row, expected))


def test_a_backend_with_a_kernel_of_its_own_is_asked_first():
    asked = []
    rule = optimizers.SGD(0.5)

    def fused(rule, changes, numbers):
        asked.append(changes)
        return changes[1:]

    f = Vocabulary(np.sqrt, np.maximum, np.where, np.sum, np.real, np.conj, fused)
    first, second = (Change(np.ones(3), np.ones(3), (), None) for _ in range(2))

    change_arrays(rule, f, [first, second], (0.5,))

    assert len(asked) == 1
    np.testing.assert_array_equal(first.x, 1)  # the kernel said that it was done
    np.testing.assert_array_equal(second.x, 0.5)
