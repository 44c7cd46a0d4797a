"""Modules under tapes, traces, vmap, Jacobians, recomputation and ranks."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad import errors, nn
from distgrad.testing.inputs import values

X = values((5, 4), -1.0, 1.0)
Y = values((5, 2), -1.0, 1.0)


def made():
    return nn.Sequential(nn.Dense(3, activation=nn.tanh), nn.LayerNorm(), nn.Dense(2)).build(X)


def loss(y, target):
    return dg.sum((y - target) ** 2)


def gradients(model):
    with dg.GradientTape() as tape:
        value = loss(model(X), Y)
    return [g.numpy() for g in tape.gradient(value, model.trainable_variables)]


def test_a_traced_model_gives_the_same_gradients():
    model = made()
    traced = dg.function(model)
    with dg.GradientTape() as tape:
        value = loss(traced(X), Y)
    found = tape.gradient(value, model.trainable_variables)

    for one, other in zip(found, gradients(model), strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-12)


def test_variables_that_a_trace_creates_are_those_of_an_eager_call():
    model = nn.Sequential(nn.Dense(3), nn.BatchNorm())
    traced = dg.function(lambda x: model(x, training=True))
    traced(X)
    traced(X)
    eager = nn.Sequential(nn.Dense(3), nn.BatchNorm())
    eager(X, training=True)
    eager(X, training=True)

    for one, other in zip(model.variables, eager.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-12)


def test_a_functional_call_takes_the_given_values_and_changes_nothing():
    model = made()
    state = {path: value * 2 for path, value in model.state().items()}
    other = made()
    other.load_state(state)
    before = model(X).numpy()

    given = nn.functional_call(model, state, X).numpy()

    np.testing.assert_array_equal(given, other(X).numpy())
    np.testing.assert_array_equal(model(X).numpy(), before)


def test_a_functional_call_names_what_does_not_fit():
    model = made()

    with pytest.raises(ValueError, match="functional_call: extra 0/weight"):
        nn.functional_call(model, {"0/weight": X}, X)
    with pytest.raises(errors.ShapeError, match=r"0/kernel has shape \(4, 3\), the value \(5, 4\)"):
        nn.functional_call(model, {"0/kernel": X}, X)
    with pytest.raises(ValueError, match="sequential/0/kernel does not exist yet; call the module"):
        nn.functional_call(nn.Sequential(nn.Dense(2)), {}, X)


def test_gradients_for_each_example_add_up_to_that_of_the_batch():
    model = made()

    def one(state, x, y):
        return loss(nn.functional_call(model, state, x), y)

    each = dg.vmap(dg.grad(one), in_axes=(None, 0, 0))(model.state(), X, Y)

    for (path, _), whole in zip(model.state().items(), gradients(model), strict=True):
        assert each[path].shape == (5, *whole.shape)
        np.testing.assert_allclose(each[path].numpy().sum(0), whole, rtol=1e-9, atol=1e-12)


def test_models_of_an_ensemble_run_side_by_side():
    members = [made() for _ in range(3)]
    for place, member in enumerate(members):
        for variable in member.variables:
            variable.assign(variable * (place + 1))
    stacked = {
        path: dg.stack([member.state()[path] for member in members]) for path in members[0].state()
    }
    y = dg.vmap(lambda s: nn.functional_call(members[0], s, X))(stacked)

    for place, member in enumerate(members):
        np.testing.assert_allclose(y.numpy()[place], member(X).numpy(), rtol=1e-10, atol=1e-12)


def test_a_jacobian_with_respect_to_a_layers_variables():
    layer = nn.Dense(2).build(X)
    with dg.GradientTape(persistent=True) as tape:
        y = layer(X)
    jacobian = tape.jacobian(y, layer.bias).numpy()

    np.testing.assert_array_equal(jacobian, np.broadcast_to(np.eye(2), (5, 2, 2)))


def test_a_recomputed_block_gives_the_same_gradients():
    model = made()
    block = dg.recompute_grad(lambda x: model[1](model[0](x)))
    with dg.GradientTape() as tape:
        value = loss(model[2](block(X)), Y)
    found = tape.gradient(value, model.trainable_variables)

    for one, other in zip(found, gradients(model), strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-12)


def test_dropout_with_a_child_of_a_generator_is_recomputed_alike():
    model = nn.Sequential(nn.Dense(8), nn.Dropout(0.5), nn.Dense(2)).build(X)
    root = dg.random.Generator(4)

    def run(x):
        return model(x, training=True, generator=root.fold_in(7))

    found = []
    for function in (run, dg.recompute_grad(run)):
        with dg.GradientTape() as tape:
            value = loss(function(X), Y)
        found.append(tape.gradient(value, model.trainable_variables))

    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-12)


def test_a_distributed_tape_averages_the_gradients_of_a_model():
    model = made()
    with dist.DistributedGradientTape(dg.GradientTape()) as tape:
        value = loss(model(X), Y)
    found = tape.gradient(value, model.trainable_variables)

    for one, other in zip(found, gradients(model), strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-12)
