"""Hooks for what a tape keeps: what they see, when, and that derivatives come out the same."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, MutationError, ShapeError


class Hooks:
    """Hooks that note what passes, and hand over copies."""

    def __init__(self):
        self.packed, self.unpacked = [], []

    def pack(self, array):
        self.packed.append(array)
        return ("packed", array.copy())

    def unpack(self, value):
        assert value[0] == "packed"
        self.unpacked.append(value[1])
        return value[1]

    def block(self):
        return dg.saved_values(self.pack, self.unpack)


def f(x):
    return dg.sum(dg.tanh(x * x) @ dg.ones((3, 2), dtype="float64"))


X = np.linspace(-1.0, 1.0, 12).reshape(4, 3)


def plain_gradient():
    return dg.grad(f)(X).numpy()


def test_what_rules_read_passes_the_hooks_and_gradients_are_the_same():
    hooks, x = Hooks(), dg.Variable(X)
    with dg.GradientTape() as tape, hooks.block():
        y = f(x)
    assert hooks.unpacked == []  # not before its rule runs
    found = tape.gradient(y, x)

    # x of x * x (once, though it is both factors), tanh's output, the constant factor of @.
    assert [array.shape for array in hooks.packed] == [(4, 3), (4, 3), (3, 2)]
    assert [array.shape for array in hooks.unpacked] == [(3, 2), (4, 3), (4, 3)]
    np.testing.assert_array_equal(found.numpy(), plain_gradient())


def test_only_operations_of_the_block_are_packed():
    hooks, x = Hooks(), dg.Variable([1.0, 2.0])
    with dg.GradientTape() as tape:
        y = dg.sin(x)
        with hooks.block():
            z = dg.tanh(y)
        w = dg.sin(z)
    found = tape.gradient(w, x)

    assert len(hooks.packed) == len(hooks.unpacked) == 1
    np.testing.assert_array_equal(hooks.packed[0], z.numpy())
    np.testing.assert_array_equal(
        found.numpy(), dg.grad(lambda x: dg.sum(dg.sin(dg.tanh(dg.sin(x)))))(dg.asarray(x)).numpy()
    )


def test_a_tape_entered_anew_after_the_block_packs_no_more():
    hooks, x = Hooks(), dg.Variable([1.0, 2.0])
    with hooks.block(), dg.GradientTape(persistent=True) as tape:
        y = dg.tanh(x)
    with tape:
        z = dg.tanh(y)
    tape.gradient(z, x)

    assert len(hooks.packed) == len(hooks.unpacked) == 1


def test_of_nested_blocks_the_innermost_counts():
    outer, inner, x = Hooks(), Hooks(), dg.Variable([1.0, 2.0])
    with outer.block(), dg.GradientTape() as tape:
        y = dg.exp(x)
        with inner.block():
            y = dg.sin(y)
        y = dg.exp(y)
    tape.gradient(y, x)

    assert (len(outer.packed), len(outer.unpacked)) == (2, 2)
    assert (len(inner.packed), len(inner.unpacked)) == (1, 1)


def test_an_error_in_the_block_ends_it():
    hooks, x = Hooks(), dg.Variable([1.0, 2.0])
    with dg.GradientTape() as tape:
        with pytest.raises(ZeroDivisionError), hooks.block():
            raise ZeroDivisionError
        tape.gradient(dg.exp(x), x)

    assert hooks.packed == []


def test_an_array_that_several_records_keep_is_packed_once():
    hooks, x = Hooks(), dg.asarray(X)
    with dg.GradientTape() as tape, hooks.block():
        tape.watch(x)
        y = dg.sin(x) + dg.cos(x) + x * x
    total = tape.summary()
    tape.gradient(y, x)

    assert len(hooks.packed) == 1
    assert total.packed == {"packed": X.nbytes}
    assert total.nbytes == 0


def test_two_tapes_share_one_packed_form():
    hooks, x = Hooks(), dg.Variable(X)
    with dg.GradientTape() as first, dg.GradientTape() as second, hooks.block():
        y = dg.exp(x)
    first.gradient(y, x)
    second.gradient(y, x)

    assert len(hooks.packed) == 1
    assert len(hooks.unpacked) == 2


def test_a_new_array_at_the_address_of_a_dead_one_is_not_mistaken_for_it():
    x = dg.Variable(np.ones(1000))
    with dg.GradientTape() as tape, dg.saved_values(lambda a: a.copy(), lambda a: a):
        y = x
        for scale in range(1, 30):
            y = dg.exp(y * (0.01 * scale))
    with dg.GradientTape() as same:
        z = x
        for scale in range(1, 30):
            z = dg.exp(z * (0.01 * scale))

    np.testing.assert_array_equal(tape.gradient(y, x).numpy(), same.gradient(z, x).numpy())


def test_persistent_tapes_and_higher_orders_go_through():
    hooks, x = Hooks(), dg.Variable(0.7, dtype="float64")
    with hooks.block(), dg.GradientTape(persistent=True) as tape:
        y = dg.sin(x) * x**3
    with dg.GradientTape(persistent=True) as same:
        z = dg.sin(x) * x**3
    for _ in range(4):
        y, z = tape.gradient(y, x), same.gradient(z, x)
        assert float(y) == pytest.approx(float(z), rel=1e-14)

    assert hooks.packed


def test_nested_tapes_go_through():
    hooks, x = Hooks(), dg.Variable(0.7, dtype="float64")
    with hooks.block(), dg.GradientTape() as outer:
        with dg.GradientTape() as inner:
            y = dg.tanh(x) * dg.exp(x)
        slope = inner.gradient(y, x)
    found = outer.gradient(slope, x)

    expected = dg.grad(dg.grad(lambda x: dg.tanh(x) * dg.exp(x)))(dg.asarray(x))
    assert float(found) == pytest.approx(float(expected), rel=1e-14)


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_jacobians_go_through(chunk_size):
    hooks, x = Hooks(), dg.Variable(X[0])
    with hooks.block(), dg.GradientTape() as tape:
        y = dg.tanh(x) * dg.sum(x * x)
    found = tape.jacobian(y, x, chunk_size=chunk_size)

    expected = dg.jacrev(lambda x: dg.tanh(x) * dg.sum(x * x))(X[0])
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-14)


def test_inside_vmap_the_whole_batch_is_packed():
    hooks = Hooks()
    with hooks.block():
        found = dg.vmap(dg.grad(lambda x: dg.sum(dg.tanh(x * x))))(X)

    assert [array.shape for array in hooks.packed] == [(4, 3), (4, 3)]
    np.testing.assert_array_equal(
        found.numpy(), dg.vmap(dg.grad(lambda x: dg.sum(dg.tanh(x * x))))(X).numpy()
    )


def test_around_nested_vmap_derivatives_are_the_same():
    def total(x):
        return dg.sum(dg.vmap(dg.vmap(dg.grad(lambda v: dg.exp(v) * v)))(x))

    expected = dg.grad(total)(X).numpy()
    hooks = Hooks()
    with hooks.block():
        found = dg.grad(total)(X).numpy()

    np.testing.assert_array_equal(found, expected)
    assert all(isinstance(array, np.ndarray) for array in hooks.packed)


def test_what_a_traced_function_keeps_is_packed():
    hooks, x, w = Hooks(), dg.Variable(X), dg.Variable(np.ones((3, 3)))
    compiled = dg.function(lambda x: dg.sum(dg.tanh(x @ w) ** 2))
    with hooks.block(), dg.GradientTape() as tape:
        y = compiled(x)
    summary = tape.summary()
    found = tape.gradient(y, [x, w])
    with dg.GradientTape() as same:
        y = compiled(x)
    expected = same.gradient(y, [x, w])

    assert hooks.packed
    assert summary.packed["packed"] == sum(array.nbytes for array in hooks.packed)
    # The inputs themselves are there anyhow.
    assert all(array is not each.array for array in hooks.packed for each in (x, w))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_while_a_function_is_traced_nothing_is_packed():
    hooks = Hooks()
    with hooks.block():
        found = dg.function(dg.grad(f))(dg.asarray(X))

    assert hooks.packed == []
    np.testing.assert_allclose(found.numpy(), plain_gradient(), rtol=1e-14)


def test_operations_with_several_outputs_and_recomputation_go_through():
    hooks, x = Hooks(), dg.Variable(X)

    @dg.custom_gradient
    def both(x):
        return (dg.sin(x), dg.cos(x)), lambda a, b: a * dg.cos(x) - b * dg.sin(x)

    again = dg.recompute_grad(lambda x: dg.sum(dg.multiply(*both(x))))
    with hooks.block(), dg.GradientTape() as tape:
        y = again(dg.exp(x))
    found = tape.gradient(y, x)

    expected = dg.grad(lambda x: dg.sum(dg.sin(dg.exp(x)) * dg.cos(dg.exp(x))))(X)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-12)
    assert hooks.packed


def test_hooks_may_compute_with_tensors_and_nothing_of_it_is_recorded():
    x = dg.Variable(X)

    def unpack(value):
        return dg.asarray(value) * 2.0

    with dg.saved_values(lambda a: (dg.asarray(a) / 2.0).numpy(), unpack), dg.GradientTape() as t:
        y = dg.sum(dg.exp(x))

    assert t.summary().records == 2
    np.testing.assert_array_equal(t.gradient(y, x).numpy(), np.exp(X))


@pytest.mark.parametrize(
    ("unpacked", "error", "message"),
    [
        (lambda a: None, TypeError, "unpack returned a NoneType for the rule of exp"),
        (lambda a: a[:2], ShapeError, r"unpack returned shape \(2, 3\).*expected \(4, 3\)"),
        (lambda a: a.astype("float32"), DTypeError, "unpack returned float32.*expected float64"),
    ],
)
def test_a_hook_that_returns_another_array_is_refused(unpacked, error, message):
    x = dg.Variable(X)
    with dg.saved_values(lambda a: a, unpacked), dg.GradientTape() as tape:
        y = dg.exp(x)

    with pytest.raises(error, match=message):
        tape.gradient(y, x)


def test_a_hook_that_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="unpack is a NoneType; expected a function"):
        dg.saved_values(lambda a: a, None)


def test_without_hooks_a_tape_keeps_a_plain_list():
    with dg.saved_values(lambda a: a, lambda a: a):
        tape = dg.GradientTape()
    with tape:
        assert type(tape.records) is list
        with dg.saved_values(lambda a: a, lambda a: a):
            assert type(tape.records) is not list
        assert type(tape.records) is list


# --- changed in place -----------------------------------------------------------------------------


def test_an_array_changed_before_the_backward_pass_is_found():
    buffer, w = np.ones(3), dg.Variable(np.ones(3))
    with dg.debug_mutations(), dg.GradientTape() as tape:
        y = w * dg.asarray(buffer)  # the line that used it
        z = dg.sum(dg.exp(y))
    buffer[1] = 2.0

    with pytest.raises(MutationError, match="changed in place") as caught:
        tape.gradient(z, w)
    assert caught.value.operation == "multiply"
    assert "# the line that used it" in caught.value.line
    assert "test_saved_values.py" in caught.value.line


def test_arrays_left_alone_pass_the_check_and_count_as_kept():
    x = dg.Variable(X)
    with dg.debug_mutations(), dg.GradientTape(persistent=True) as tape:
        y = dg.exp(x.mT)

    assert tape.summary().nbytes == X.nbytes
    assert tape.summary().packed == {}
    np.testing.assert_array_equal(tape.gradient(y, x).numpy(), np.exp(X))
    np.testing.assert_array_equal(tape.gradient(tape.gradient(y, x), x).numpy(), np.exp(X))


def test_an_assignment_is_no_change_in_place():
    x = dg.Variable(X)
    with dg.debug_mutations(), dg.GradientTape() as tape:
        y = dg.sum(x * x)
        x.assign(X + 1.0)

    np.testing.assert_array_equal(tape.gradient(y, x).numpy(), 2 * X)


@pytest.mark.parametrize(
    "change",
    [
        lambda w: dg.optimizers.SGD(1.0).apply([dg.ones(3)], [w]),
        lambda w: w.assign_sub(dg.IndexedSlices(dg.ones(3), dg.asarray([0, 1, 2]), (3,))),
    ],
    ids=["by an optimizer", "by rows"],
)
@pytest.mark.parametrize("watches", [True, False])
def test_variables_that_no_tape_watches_are_packed_again_too(change, watches):
    w, x, tapes = dg.Variable([1.0, 2.0, 3.0], trainable=False), dg.Variable([1.0, 1.0, 1.0]), []

    with dg.saved_values(lambda a: a.copy(), lambda each: each):
        for _ in range(3):
            with dg.GradientTape(persistent=True, watch_accessed_variables=watches) as tape:
                tape.watch(x)
                y = dg.sum(w * x)
            np.testing.assert_array_equal(tape.gradient(y, x).numpy(), w.numpy())
            tapes.append(tape)
            del y
            change(w)


def test_a_variable_that_changes_in_place_is_packed_again_while_older_tapes_live():
    v, optimizer, packed, tapes = dg.Variable([1.0, 2.0, 3.0]), dg.optimizers.SGD(1.0), [], []

    def pack(array):
        packed.append(array.copy())
        return packed[-1]

    with dg.saved_values(pack, lambda each: each):
        for step in range(3):
            with dg.GradientTape(persistent=True) as tape:
                y = dg.sum(v * v)
            tapes.append((tape, y))
            expected = 2 * v.numpy()
            np.testing.assert_array_equal(tape.gradient(y, v).numpy(), expected)
            optimizer.apply([dg.ones(3)], [v])
            assert len(packed) == step + 1

    for number, (tape, y) in enumerate(tapes):  # each by the values of its own time
        expected = [2 - 2 * number, 4 - 2 * number, 6 - 2 * number]
        np.testing.assert_array_equal(tape.gradient(y, v).numpy(), expected)
