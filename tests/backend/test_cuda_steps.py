"""Steps of optimizers on the device, run on the host: one launch for many parameters."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

import distgrad as dg
from distgrad import optimizers
from distgrad.optimizers.fused import formula_of
from distgrad.optimizers.in_place import Change, change_arrays
from distgrad.optimizers.vocabulary import Vocabulary
from distgrad.testing.inputs import values

if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

from distgrad_cupy import stepping
from distgrad_cupy.transfers import UncapturableError

RULES = [
    optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    optimizers.Adam(0.01, amsgrad=True),
    optimizers.AdamW(0.01),
    optimizers.RMSprop(0.01, momentum=0.9, centered=True),
]
ON_NUMPY = Vocabulary(np.sqrt, np.maximum, np.where, np.sum, np.real, np.conj)


def broadcasting(formula):
    """Return what stands for CuPy's kernel: it is told to be there, and computes nothing."""
    return lambda *arrays: broadcasting.called.append((formula.name, arrays))


@pytest.fixture
def stepped(host_runner):
    """What changes arrays by the kernels of the device, and the arrays that it may change."""
    broadcasting.called = []
    host_runner.launched.clear()
    yield stepping.steps(host_runner, broadcasting)
    host_runner.behind.clear()


def parameters(rule, shapes, dtype, offset=0):
    """Return changes of parameters, `offset` elements behind where memory begins."""
    changes = []
    for number, shape in enumerate(shapes):
        size = int(np.prod(shape))

        def made(low, high, seed, kind=dtype, size=size, shape=shape, number=number):
            room = values((size + offset,), low, high, seed + number).astype(kind)
            return room[offset:].reshape(shape)

        wide = np.float32 if "float16" in dtype else dtype
        x, g = made(-1.0, 1.0, 1), made(-1.0, 1.0, 51)
        slots = tuple(made(0.5, 0.6, 101 + k, wide) for k, _ in enumerate(rule.slots))
        changes.append(Change(x, g, slots, x.astype(wide) if "float16" in dtype else None))
    return changes


def copied(changes):
    return [
        Change(
            c.x.copy(),
            c.gradient.copy(),
            tuple(slot.copy() for slot in c.slots),
            None if c.master is None else c.master.copy(),
        )
        for c in changes
    ]


def noted(host_runner, changes):
    """Let a runner know what it changes, and return it."""
    host_runner.behind[:] = [each for change in changes for each in change.arrays]
    return changes


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_parameters_of_all_lengths_are_changed_by_one_launch(
    rule, dtype, offset, stepped, host_runner
):
    # Below a load of 16 bytes, on the edge of one, of a block's piece, and beyond several.
    shapes = [(1,), (7, 3), (0, 4), (), (4096,), (8191,), (3, 5000), (16,)]
    changes = noted(host_runner, parameters(rule, shapes, dtype, offset))
    expected = copied(changes)
    numbers = rule.numbers(3)

    assert not stepped(rule, changes, numbers)
    change_arrays(rule, ON_NUMPY, expected, numbers)

    assert len(host_runner.launched) == 1
    half = {"float16": 1e-3, "bfloat16": 1e-2}
    tolerance = half[dtype] if dtype in half else 8 * np.finfo(dtype).eps
    for one, other in zip(changes, expected, strict=True):
        for found, right in zip(one.arrays, other.arrays, strict=True):
            np.testing.assert_allclose(found, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("count", [1, 86, 87, 88, 200])
def test_more_parameters_than_a_table_holds_take_few_launches(count, stepped, host_runner):
    rule = optimizers.Adam(0.01)
    changes = noted(host_runner, parameters(rule, [(n % 5 + 1,) for n in range(count)], "float32"))
    expected = copied(changes)

    assert not stepped(rule, changes, rule.numbers(1))
    change_arrays(rule, ON_NUMPY, expected, rule.numbers(1))

    for one, other in zip(changes, expected, strict=True):
        for found, right in zip(one.arrays, other.arrays, strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-6, atol=1e-6)
    assert len(host_runner.launched) == -(-count // 87)


def test_parameters_of_several_dtypes_are_changed_by_a_launch_each(stepped, host_runner):
    rule = optimizers.Adam(0.01)
    changes = parameters(rule, [(9,), (70,)], "float32") + parameters(rule, [(5,)], "float16")
    changes = noted(host_runner, [changes[0], changes[2], changes[1]])
    expected = copied(changes)

    assert not stepped(rule, changes, rule.numbers(2))
    change_arrays(rule, ON_NUMPY, expected, rule.numbers(2))

    assert len(host_runner.launched) == 2
    for one, other in zip(changes, expected, strict=True):
        np.testing.assert_allclose(one.x, other.x, rtol=1e-3)


def test_arrays_that_are_not_one_line_in_memory_go_to_a_kernel_of_cupy(stepped, host_runner):
    rule = optimizers.Adam(0.01)
    changes = parameters(rule, [(8, 8), (3,)], "float32")
    changes[0] = changes[0]._replace(gradient=changes[0].gradient.T)
    noted(host_runner, changes)

    assert not stepped(rule, changes, rule.numbers(1))

    ((name, arrays),) = broadcasting.called
    assert name == "adam_step"
    assert arrays[0] is changes[0].x
    assert arrays[-3] is changes[0].x  # outputs: parameter and slots
    assert [type(number) for number in arrays[4:-3]] == [np.float32] * len(rule.numbers(1))
    assert host_runner.launched == ["distgrad_adam_step"]


def test_what_lies_elsewhere_is_left_to_the_formula(stepped):
    rule = optimizers.SGD(0.1)
    change = Change(np.ones(3, np.float32), SimpleNamespace(shape=(3,), dtype="f4"), (), None)

    assert stepped(rule, [change], rule.numbers(1)) == [change]


def test_a_step_within_a_capture_is_refused_with_the_remedy(stepped, host_runner, monkeypatch):
    monkeypatch.setattr(host_runner, "is_capturing", True)
    rule = optimizers.SGD(0.1)
    (change,) = parameters(rule, [(3,)], "float32")
    before = change.x.copy()

    with pytest.raises(UncapturableError, match=r"outside of it, or within a dg\.function"):
        stepped(rule, [change], rule.numbers(1))

    np.testing.assert_array_equal(change.x, before)


# --- the next steps on the same arrays ------------------------------------------------------------


def owned(changes):
    """Return what the variables of a step hold: each parameter followed by its slots."""
    return [each for change in changes for each in (change.x, *change.slots)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [1, 5, 200])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_a_repeated_step_does_what_one_that_asks_anew_does(
    rule, count, dtype, stepped, host_runner
):
    shapes = [(n % 5 + 1, 3) for n in range(count)]
    changes = noted(host_runner, parameters(rule, shapes, dtype))
    expected = copied(changes)
    numbers = rule.numbers(1)
    stepped(rule, changes, numbers)
    first = len(host_runner.launched)
    run = stepped.repeated(rule, changes, len(numbers))

    for step in (2, 3):
        gradients = [step * change.gradient for change in changes]
        host_runner.behind += gradients
        assert run(owned(changes), gradients, rule.numbers(step))

    for step in (1, 2, 3):
        anew = [change._replace(gradient=step * change.gradient) for change in expected]
        change_arrays(rule, ON_NUMPY, anew, rule.numbers(step))
    assert len(host_runner.launched) == 3 * first
    tolerance = 40 * np.finfo(dtype).eps
    for found, right in zip(owned(changes), owned(expected), strict=True):
        np.testing.assert_allclose(found, right, rtol=tolerance, atol=tolerance)


def narrower(gradient):
    return gradient.astype(np.float16)


@pytest.mark.parametrize("other", [narrower, np.asfortranarray])
def test_gradients_of_another_kind_are_not_taken_by_a_repeated_step(other, stepped, host_runner):
    rule = optimizers.Adam(0.01)
    changes = noted(host_runner, parameters(rule, [(3, 4), (5, 2)], "float32"))
    stepped(rule, changes, rule.numbers(1))
    run = stepped.repeated(rule, changes, len(rule.numbers(1)))
    before = [each.copy() for each in owned(changes)]

    gradients = [changes[0].gradient, other(changes[1].gradient)]

    assert not run(owned(changes), gradients, rule.numbers(2))
    for found, right in zip(owned(changes), before, strict=True):
        np.testing.assert_array_equal(found, right)


def test_numbers_that_are_no_floats_are_not_taken_by_a_repeated_step(stepped, host_runner):
    rule = optimizers.SGD(0.1)
    (change,) = noted(host_runner, parameters(rule, [(3,)], "float32"))
    stepped(rule, [change], rule.numbers(1))
    before = change.x.copy()

    run = stepped.repeated(rule, [change], 1)

    assert not run(owned([change]), [change.gradient], (dg.asarray(0.1),))
    np.testing.assert_array_equal(change.x, before)


def test_a_repeated_step_is_the_device_s_where_it_was_prepared(stepped, host_runner, monkeypatch):
    rule = optimizers.Adam(0.01)
    changes = noted(host_runner, parameters(rule, [(3,)], "float32"))
    stepped(rule, changes, rule.numbers(1))
    run = stepped.repeated(rule, changes, len(rule.numbers(1)))
    again = (owned(changes), [changes[0].gradient], rule.numbers(2))

    with monkeypatch.context() as patched:
        patched.setattr(host_runner, "device", 1)
        assert not run(*again)
    monkeypatch.setattr(host_runner, "is_capturing", True)
    with pytest.raises(UncapturableError, match="captured in a CUDA graph"):
        run(*again)


@pytest.mark.parametrize("shape", [(4, 4), (0, 4)])
def test_steps_on_arrays_with_gaps_or_without_elements_ask_anew(shape, stepped, host_runner):
    rule = optimizers.Adam(0.01)
    (change,) = noted(host_runner, parameters(rule, [shape], "float32"))
    transposed = change._replace(x=change.x.T, gradient=change.gradient.T)
    transposed = transposed._replace(slots=tuple(slot.T for slot in change.slots))
    stepped(rule, [transposed], rule.numbers(1))

    assert stepped.repeated(rule, [transposed], len(rule.numbers(1))) is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_arguments_of_a_launch_fit_into_4096_bytes(rule, dtype, host_runner):
    wide = "float32" if dtype == "float16" else dtype
    master = wide if dtype == "float16" else None
    count = len(rule.numbers(1))
    formula = formula_of(rule, dtype, dtype, [wide] * len(rule.slots), master, count)

    together = stepping.Together(host_runner, formula, count)

    assert together._table.itemsize + 8 * count <= 4096
    assert together._table.itemsize % 8 == 0
    assert together.rows > 50
