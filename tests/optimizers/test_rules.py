"""Every optimizer follows its recurrence: an independent one in NumPy, and PyTorch's."""

import math

import numpy as np
import pytest

import distgrad as dg
from distgrad import tree
from distgrad.optimizers import (
    LAMB,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Optimizer,
    RMSprop,
    apply_updates,
    chain,
    clipping,
)

STEPS = 20
DTYPES = [np.float64, np.float32]


def start(dtype=np.float64):
    draw = np.random.default_rng(3)
    return draw.normal(size=(3, 5)).astype(dtype)


def gradients(dtype=np.float64):
    draw = np.random.default_rng(4)
    return [draw.normal(size=(3, 5)).astype(dtype) for _ in range(STEPS)]


# --- recurrences, element by element in Python's own numbers, from the papers ---------------------


def sgd(x, gs, rate, momentum=0.0, nesterov=False, decay=0.0):
    velocity = 0.0
    for g in gs:
        slope = g + decay * x
        velocity = momentum * velocity + slope
        x = x - rate * (slope + momentum * velocity if nesterov else velocity)
    return x


def keras_sgd(x, gs, rate, momentum, nesterov):
    velocity = 0.0
    for g in gs:
        velocity = momentum * velocity - rate * g
        x = x + (momentum * velocity - rate * g if nesterov else velocity)
    return x


def adam(x, gs, rate, b1=0.9, b2=0.999, eps=1e-8, l2=0.0, decoupled=0.0, ams=False, place="c"):
    m = v = largest = 0.0
    for t, g in enumerate(gs, 1):
        slope = g + l2 * x
        m, v = b1 * m + (1 - b1) * slope, b2 * v + (1 - b2) * slope * slope
        largest = max(largest, v)
        corrected = (largest if ams else v) / (1 - b2**t)
        if place == "c":
            root = math.sqrt(corrected) + eps
        elif place == "u":
            root = math.sqrt(corrected) + eps / math.sqrt(1 - b2**t)
        else:
            root = math.sqrt(corrected + eps)
        x = x - rate * decoupled * x - rate * m / (1 - b1**t) / root
    return x


def rmsprop(x, gs, rate, rho, mu=0.0, eps=1e-8, centered=False, inside=False, before=False):
    s = mean = velocity = 0.0
    for g in gs:
        s, mean = rho * s + (1 - rho) * g * g, rho * mean + (1 - rho) * g
        spread = s - mean * mean if centered else s
        step = g / (math.sqrt(spread + eps) if inside else math.sqrt(spread) + eps)
        velocity = mu * velocity + (rate * step if before else step)
        x = x - (velocity if before else rate * velocity)
    return x


def adagrad(x, gs, rate, eps=1e-10, s=0.0, inside=False):
    for g in gs:
        s += g * g
        x = x - rate * g / (math.sqrt(s + eps) if inside else math.sqrt(s) + eps)
    return x


# name: (optimizer, recurrence)
CASES = {
    "sgd": (lambda: SGD(0.1), lambda x, gs: sgd(x, gs, 0.1)),
    "sgd momentum": (lambda: SGD(0.1, 0.9), lambda x, gs: sgd(x, gs, 0.1, 0.9)),
    "sgd nesterov": (
        lambda: SGD(0.1, 0.9, nesterov=True, weight_decay=0.01),
        lambda x, gs: sgd(x, gs, 0.1, 0.9, True, 0.01),
    ),
    "sgd of keras": (
        lambda: SGD(0.1, 0.9, True, rate_in_velocity=True),
        lambda x, gs: keras_sgd(x, gs, 0.1, 0.9, True),
    ),
    "adam": (lambda: Adam(0.01), lambda x, gs: adam(x, gs, 0.01)),
    "adam decay": (
        lambda: Adam(0.01, weight_decay=0.1),
        lambda x, gs: adam(x, gs, 0.01, l2=0.1),
    ),
    "adam amsgrad": (
        lambda: Adam(0.01, 0.8, 0.9, amsgrad=True),
        lambda x, gs: adam(x, gs, 0.01, 0.8, 0.9, ams=True),
    ),
    "adam epsilon hat": (
        lambda: Adam(0.01, epsilon=1e-2, epsilon_placement="uncorrected"),
        lambda x, gs: adam(x, gs, 0.01, eps=1e-2, place="u"),
    ),
    "adam epsilon inside": (
        lambda: Adam(0.01, epsilon=1e-2, epsilon_placement="inside"),
        lambda x, gs: adam(x, gs, 0.01, eps=1e-2, place="i"),
    ),
    "adamw": (
        lambda: AdamW(0.01, weight_decay=0.1),
        lambda x, gs: adam(x, gs, 0.01, decoupled=0.1),
    ),
    "rmsprop": (lambda: RMSprop(0.01), lambda x, gs: rmsprop(x, gs, 0.01, 0.99)),
    "rmsprop centered": (
        lambda: RMSprop(0.01, 0.9, 0.5, centered=True),
        lambda x, gs: rmsprop(x, gs, 0.01, 0.9, 0.5, centered=True),
    ),
    "rmsprop of keras": (
        lambda: RMSprop(
            0.01, 0.9, 0.5, 1e-2, True, epsilon_inside_root=True, rate_in_velocity=True
        ),
        lambda x, gs: rmsprop(x, gs, 0.01, 0.9, 0.5, 1e-2, True, True, True),
    ),
    "adagrad": (lambda: Adagrad(0.1), lambda x, gs: adagrad(x, gs, 0.1)),
    "adagrad of keras": (
        lambda: Adagrad(0.1, 1e-2, 0.1, epsilon_inside_root=True),
        lambda x, gs: adagrad(x, gs, 0.1, 1e-2, 0.1, True),
    ),
}


def expected(case):
    x, gs = start(), gradients()
    recurrence = CASES[case][1]
    return np.vectorize(
        lambda *column: recurrence(float(column[0]), [float(g) for g in column[1:]])
    )(x, *gs)


def tolerance(dtype):
    return STEPS * 8 * float(np.finfo(dtype).eps)  # a few roundings a step


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_in_place_follow_the_recurrence(case, dtype):
    optimizer, x = CASES[case][0](), dg.Variable(start(dtype), name="x")

    for g in gradients(dtype):
        optimizer.apply(dg.asarray(g), x)

    bound = tolerance(dtype) if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(x.numpy(), expected(case), rtol=bound, atol=bound)
    assert optimizer.iterations == STEPS


@pytest.mark.parametrize("case", CASES)
def test_the_pure_transform_follows_the_recurrence_and_changes_nothing(case):
    optimizer, x = CASES[case][0](), {"x": dg.asarray(start())}
    state = first = optimizer.init(x)
    before = [leaf.numpy().copy() for leaf in tree.flatten(first)[0]]

    for g in gradients():
        updates, state = optimizer.update({"x": dg.asarray(g)}, state, x)
        x = apply_updates(x, updates)

    bound = tolerance(np.float64)
    np.testing.assert_allclose(x["x"].numpy(), expected(case), rtol=bound, atol=bound)
    for leaf, value in zip(tree.flatten(first)[0], before, strict=True):
        np.testing.assert_array_equal(leaf.numpy(), value)


@pytest.mark.parametrize("case", CASES)
def test_a_traced_step_follows_the_recurrence(case):
    optimizer, x = CASES[case][0](), dg.Variable(start(), name="x")

    @dg.function
    def step(g):
        optimizer.apply(g, x)

    for g in gradients():
        step(dg.asarray(g))

    bound = tolerance(np.float64)
    np.testing.assert_allclose(x.numpy(), expected(case), rtol=bound, atol=bound)
    assert optimizer.iterations == STEPS


def lamb(x, gs, rate, decay):
    m = v = 0.0
    for t, g in enumerate(gs, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        r = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6) + decay * x
        x = x - rate * np.linalg.norm(x) / np.linalg.norm(r) * r
    return x


def test_lamb_scales_its_step_by_the_norms_of_the_parameter():
    expectation = lamb(start(), gradients(), 0.01, 0.1)

    optimizer, x = LAMB(0.01, weight_decay=0.1), dg.Variable(start())
    for g in gradients():
        optimizer.apply(dg.asarray(g), x)

    np.testing.assert_allclose(x.numpy(), expectation, rtol=1e-12)


@pytest.mark.parametrize("traced", [False, True])
def test_lamb_moves_a_parameter_of_norm_zero_as_adam_does(traced):
    x, optimizer = dg.Variable(np.zeros(3)), LAMB(0.25)

    def step(g):
        optimizer.apply(g, x)

    (dg.function(step) if traced else step)(dg.asarray(np.array([2.0, -4.0, 0.0])))

    np.testing.assert_allclose(x.numpy(), [-0.25, 0.25, 0.0], rtol=1e-5)


def test_a_chain_clips_before_the_step():
    x = dg.Variable([0.0, 0.0])
    optimizer = Optimizer(chain(clipping(global_norm=1.0), SGD(1.0)))

    optimizer.apply(dg.asarray([3.0, 4.0]), x)

    np.testing.assert_allclose(x.numpy(), [-0.6, -0.8], rtol=1e-6)


def test_a_complex_parameter_descends_with_the_magnitude_of_its_gradient():
    x = dg.Variable(np.array([3.0 + 4.0j]))
    optimizer = Adam(0.5)

    for _ in range(200):
        with dg.GradientTape() as tape:
            loss = dg.sum(dg.real(x * dg.conj(x)))
        optimizer.apply(tape.gradient(loss, x), x)

    # After the first step x had moved by the rate towards zero; in the end it is near zero.
    assert abs(x.numpy()[0]) < 0.05
    slots = optimizer.state_dict()
    assert slots["Variable/second_moment"].dtype == np.float64


# --- PyTorch's ------------------------------------------------------------------------------------

TORCH = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "sgd nesterov": (
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ),
    "adam": ("Adam", {"lr": 0.01}),
    "adam decay": ("Adam", {"lr": 0.01, "weight_decay": 0.1}),
    "adam amsgrad": ("Adam", {"lr": 0.01, "betas": (0.8, 0.9), "amsgrad": True}),
    "adamw": ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    "rmsprop": ("RMSprop", {"lr": 0.01}),
    "rmsprop centered": (
        "RMSprop",
        {"lr": 0.01, "alpha": 0.9, "momentum": 0.5, "centered": True},
    ),
    "adagrad": ("Adagrad", {"lr": 0.1}),
}


@pytest.mark.parametrize("case", TORCH)
def test_twenty_steps_are_those_of_pytorch(case):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    name, settings = TORCH[case]
    theirs = torch.nn.Parameter(torch.from_numpy(start().copy()))
    their_optimizer = getattr(torch.optim, name)([theirs], **settings)
    ours, optimizer = dg.Variable(start()), CASES[case][0]()

    for g in gradients():
        theirs.grad = torch.from_numpy(g)
        their_optimizer.step()
        optimizer.apply(dg.asarray(g), ours)

    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=1e-10, atol=1e-12)
