"""Modules: paths, order, creation, freezing, state, copies, summaries, errors."""

import copy
import re

import numpy as np
import pytest

import distgrad as dg
from distgrad import errors, nn

X = np.linspace(-1.0, 1.0, 20, dtype=np.float32).reshape(5, 4)


class Block(nn.Module):
    def __init__(self, units):
        self.dense = nn.Dense(units, activation=nn.tanh)

    def call(self, x):
        return self.dense(x)


class Model(nn.Module):
    def __init__(self):
        self.block1 = Block(3)
        self.blocks = [Block(4), Block(5)]
        self.heads = {"mean": nn.Dense(2), "spread": (nn.Dense(1), nn.Dense(2))}
        self.gain = dg.Variable(2.0, trainable=False)

    def call(self, x):
        # The heads are called, and so created, out of the order of attributes.
        x = self.block1(x)
        y = self.heads["spread"][0](x)
        for block in self.blocks:
            x = block(x)
        return self.heads["mean"](x) * self.gain + y + self.heads["spread"][1](x)


PATHS = [
    "block1/dense/kernel",
    "block1/dense/bias",
    "blocks/0/dense/kernel",
    "blocks/0/dense/bias",
    "blocks/1/dense/kernel",
    "blocks/1/dense/bias",
    "heads/mean/kernel",
    "heads/mean/bias",
    "heads/spread/0/kernel",
    "heads/spread/0/bias",
    "heads/spread/1/kernel",
    "heads/spread/1/bias",
    "gain",
]


def test_variables_are_named_by_their_paths_in_the_order_of_attributes():
    model = Model().build(X)

    assert [v.name for v in model.variables] == [f"model/{path}" for path in PATHS]
    assert [path for path, _ in model.named_variables()] == [f"model/{path}" for path in PATHS]
    assert [v.name for v in model.trainable_variables] == [f"model/{p}" for p in PATHS[:-1]]


def test_the_layers_of_a_sequence_come_before_what_a_subclass_sets_first():
    class Scaled(dg.nn.Sequential):
        def __init__(self):
            self.scale = dg.Variable(1.0)
            super().__init__(dg.nn.Dense(2), dg.nn.Dense(1))

    model = Scaled().build(np.ones((1, 3), np.float32))

    assert [
        variable is item
        for variable, (_, item) in zip(model.variables, model.named_variables(), strict=True)
    ] == [True] * 5
    assert model.variables[-1] is model.scale


def test_a_child_keeps_the_paths_that_it_has_in_the_model():
    model = Model().build(X)

    assert model.block1.named_variables()[0][0] == "model/block1/dense/kernel"
    assert [path for path, _ in model.modules()][:3] == [
        "model",
        "model/block1",
        "model/block1/dense",
    ]


def test_the_root_takes_the_name_that_it_is_given():
    model = Model()
    model.name = "critic"
    model(X)

    assert model.variables[0].name == "critic/block1/dense/kernel"


def test_a_module_that_was_called_before_is_named_anew_in_its_model():
    block = Block(3)
    block(X)
    before = block.variables[0].name
    model = nn.Sequential(block, nn.Dense(2)).build(X)

    assert before == "block/dense/kernel"
    assert model.variables[0].name == "sequential/0/dense/kernel"


def test_a_shared_module_counts_once():
    shared = nn.Dense(4)
    model = nn.Sequential(shared, nn.relu, shared).build(X)

    assert [v.name for v in model.variables] == ["sequential/0/kernel", "sequential/0/bias"]


def test_initial_values_depend_on_path_and_seed_alone():
    first = Model().build(X, seed=3)
    second = Model()
    second.block1.name = "other"
    second.build(X, seed=dg.random.Generator(3))
    alone = nn.Dense(3)
    alone.name = "model/block1/dense"
    alone.build(X, seed=3)

    for one, other in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    np.testing.assert_array_equal(alone.kernel.numpy(), first.block1.dense.kernel.numpy())
    assert not np.array_equal(
        first.block1.dense.kernel.numpy(), Model().build(X, seed=4).block1.dense.kernel.numpy()
    )


class Normed(nn.Module):
    def __init__(self):
        self.dense, self.norm = nn.Dense(3), nn.BatchNorm()

    def call(self, x, *, training=True):
        return self.norm(self.dense(x), training=training)


def test_running_moments_begin_as_said_though_build_calls_the_model_in_training():
    norm = Normed().build(X).norm

    assert norm.running_mean.tolist() == [0.0] * 3
    assert norm.running_variance.tolist() == [1.0] * 3


@pytest.mark.parametrize("call", [nn.Module.build, nn.Module.summary])
def test_a_call_made_for_shapes_changes_no_variable_that_exists(call):
    model = Normed().build(X)
    model(X)
    before = {path: value.tolist() for path, value in model.state().items()}

    call(model, X)

    assert any(before["norm/running_mean"])
    assert {path: value.tolist() for path, value in model.state().items()} == before


@pytest.mark.parametrize("call", [nn.Module.build, nn.Module.summary])
def test_a_call_made_for_shapes_advances_no_generator(call):
    own, given = dg.random.Generator(3), dg.random.Generator(4)
    model = nn.Sequential(nn.Dense(4), nn.Dropout(0.5, generator=own))

    call(model, X, training=True)
    call(model, X, training=True, generator=given)

    assert own.state == [3, 0, 0]
    assert given.state == [4, 0, 0]


def test_generators_are_found_by_path_and_are_no_variables():
    shared, other = dg.random.Generator(3), dg.random.Generator(4)
    layers = [nn.Dropout(0.5, generator=each) for each in (shared, shared, other)]
    model = nn.Sequential(*layers, nn.Dense(2)).build(X)

    found = model.named_generators()

    assert found == [("sequential/0/generator", shared), ("sequential/2/generator", other)]
    assert [v.name for v in model.variables] == ["sequential/3/kernel", "sequential/3/bias"]


def test_a_build_that_fails_changes_no_variable():
    model = nn.Sequential(Normed(), nn.Activation(lambda x: x @ dg.ones((7, 2))))

    with pytest.raises(ValueError, match="matmul"):
        model.build(X, training=True)

    assert model[0].norm.running_mean.tolist() == [0.0] * 3


def test_two_layers_of_one_shape_begin_with_different_values():
    model = nn.Sequential(nn.Dense(4), nn.Dense(4)).build(X)

    assert not np.array_equal(model[0].kernel.numpy(), model[1].kernel.numpy())


def test_variables_take_the_dtype_of_the_first_input():
    assert nn.Dense(2).build(X).kernel.dtype == dg.float32
    assert nn.Dense(2).build(X.astype(np.float64)).kernel.dtype == dg.float64
    assert nn.Dense(2, dtype="float64").build(X).kernel.dtype == dg.float64


def test_state_and_load_state_are_inverse():
    model, other = Model().build(X), Model().build(X, seed=9)
    other.load_state(model.state())

    assert list(model.state()) == PATHS
    np.testing.assert_array_equal(model(X).numpy(), other(X).numpy())


def test_a_state_does_not_change_with_the_variables():
    model = nn.Dense(2).build(X)
    state = model.state()
    before = state["kernel"].numpy()
    model.kernel.assign(0.0)

    np.testing.assert_array_equal(state["kernel"].numpy(), before)


def test_nested_states_are_loaded_too():
    model = nn.Sequential(nn.Dense(2)).build(X)
    model.load_state([{"kernel": np.ones((4, 2)), "bias": [3.0, 4.0]}])

    np.testing.assert_array_equal(model[0].bias.numpy(), [3.0, 4.0])


def test_what_does_not_fit_is_named_and_nothing_is_assigned():
    model = Model().build(X)
    state = model.state()
    before = model.variables[0].numpy()
    lacking = {**state, "extra/kernel": X}
    del lacking["blocks/0/dense/bias"]
    misshapen = {**{k: v + 1 for k, v in state.items()}, "heads/mean/bias": np.zeros(3)}
    complex_ = {**state, "heads/mean/bias": np.zeros(2, np.complex64)}

    with pytest.raises(ValueError, match="missing blocks/0/dense/bias, extra extra/kernel"):
        model.load_state(lacking)
    with pytest.raises(errors.ShapeError, match=r"heads/mean/bias has shape \(2,\), .* \(3,\)"):
        model.load_state(misshapen)
    with pytest.raises(errors.DTypeError, match="heads/mean/bias has dtype float32"):
        model.load_state(complex_)
    with pytest.raises(ValueError, match=r"no variables yet: .*build\(example\)"):
        nn.Dense(2).load_state(state)
    np.testing.assert_array_equal(model.variables[0].numpy(), before)


def test_freezing_is_undone_but_for_what_was_not_trainable():
    model = Model().build(X)
    model.block1.trainable = False
    without = [v.name for v in model.trainable_variables]
    model.trainable = False
    none = model.trainable_variables
    model.trainable = True

    assert without == [f"model/{path}" for path in PATHS[2:-1]]
    assert none == []
    assert not model.gain.trainable
    assert [v.name for v in model.trainable_variables] == [f"model/{p}" for p in PATHS[:-1]]


def test_a_module_that_is_frozen_before_its_first_call_stays_frozen():
    model = nn.Sequential(nn.Dense(3), nn.Dense(2))
    model[0].trainable = False
    with dg.GradientTape() as tape:
        y = model(X)

    assert tape.watched_variables() == tuple(model[1].variables)
    assert y.shape == (5, 2)
    model[0].trainable = True
    assert model[0].kernel.trainable


def test_a_deep_copy_has_variables_of_its_own():
    model = Model().build(X)
    copied = copy.deepcopy(model)
    value = model(X).numpy()
    model.variables[0].assign(0.0)

    assert [v.name for v in copied.variables] == [v.name for v in model.variables]
    assert not {v.key for v in copied.variables} & {v.key for v in model.variables}
    np.testing.assert_array_equal(copied(X).numpy(), value)


def test_errors_begin_with_the_path_of_the_innermost_module():
    model = nn.Sequential(Block(3), nn.Activation(lambda x: dg.reshape(x, (7,))))
    dense = nn.Sequential(Block(3)).build(X)

    with pytest.raises(errors.ShapeError, match=r"^sequential/1: .*reshape"):
        model(X)
    with pytest.raises(
        errors.ShapeError,
        match=re.escape(
            "sequential/0/dense: features of length 4 expected on axis -1, got shape (5, 3); "
            "the variable has shape (4, 3)"
        ),
    ):
        dense(X[:, :3])


def test_a_class_without_call_says_so():
    class Empty(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty has no method `call`; define call"):
        Empty()(X)


def test_the_summary_is_a_table():
    model = nn.Sequential(nn.Dense(3), nn.BatchNorm(), nn.relu, nn.Residual(nn.Dense(3)))

    assert model.summary(X).splitlines() == [
        "module              class       output  parameters  bytes",
        "---------------------------------------------------------",
        "sequential          Sequential  (5, 3)           0      0",
        "sequential/0        Dense       (5, 3)          15     60",
        "sequential/1        BatchNorm   (5, 3)          12     48",
        "sequential/3        Residual    (5, 3)           0      0",
        "sequential/3/block  Dense       (5, 3)          12     48",
        "---------------------------------------------------------",
        "39 parameters, 33 of them trainable; 156 bytes",
    ]
    assert "(5, 3)" not in model.summary()
    assert repr(model) == "<Sequential 'sequential': 39 parameters>"


def test_subclasses_may_be_made_without_calling_up_and_hold_each_other():
    class Child(nn.Module):
        def __init__(self, parent):
            self.parent = parent
            self.weight = dg.Variable([1.0, 2.0])

    class Parent(nn.Module):
        def __init__(self):
            self.child = Child(self)

        def call(self, x):
            return x * self.child.weight

    parent = Parent()
    parent(1.0)

    assert [v.name for v in parent.variables] == ["parent/child/weight"]
    assert nn.functional_call(parent, {"child/weight": [3.0, 4.0]}, 1.0).tolist() == [3.0, 4.0]
