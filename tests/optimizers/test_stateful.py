"""Optimizers change variables in their own memory, remember by name, refuse what does not fit."""

import time
import tracemalloc
import weakref

import numpy as np
import pytest

import distgrad as dg
from distgrad.backend.kit import ArrayModuleBackend
from distgrad.errors import DTypeError, ShapeError, TraceError, UnsupportedOptionError
from distgrad.optimizers import (
    SGD,
    Adagrad,
    Adam,
    LossScale,
    Optimizer,
    accumulate,
    chain,
    clipping,
)

G = np.array([[1.0, -2.0, 0.5], [0.25, 4.0, -1.0]])


def rows(*places):
    values = np.arange(1.0, 1 + 2 * len(places)).reshape(-1, 2)
    return dg.IndexedSlices(values, list(places), (4, 2))


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SGD(dg.Variable(0.5), momentum=0.9), "SGD(learning_rate=0.5, momentum=0.9, "),
        (lambda: Adam(lambda step: 0.25 / (step + 1)), "Adam(learning_rate=<schedule from 0.25>, "),
        (
            lambda: Optimizer(chain(clipping(value=(-1, 2)), clipping(norm=3), SGD(0.1))),
            "Optimizer(chain(clipping(value=(-1, 2)), clipping(norm=3), SGD(learning_rate=0.1, ",
        ),
        (lambda: Optimizer(accumulate(4, Adam(0.1))), "Optimizer(accumulate(4, Adam(learning_rate"),
        (lambda: Optimizer(Halving()), "Optimizer(Halving)"),
    ],
)
def test_an_optimizer_says_what_it_is_and_with_which_settings(make, words):
    assert repr(make()).startswith(words)


class Halving:
    """A transform without words of its own."""

    def init(self, parameters):
        return ()

    def update(self, gradients, state, parameters):
        return gradients / 2, state


def test_a_step_takes_place_in_the_arrays_that_are_there():
    x, optimizer = dg.Variable(G), Adam(0.1)
    optimizer.apply(dg.asarray(G), x)
    places = [v.array.ctypes.data for v in (x, *optimizer.variables) if v.ndim]

    optimizer.apply(dg.asarray(G), x)

    assert [v.array.ctypes.data for v in (x, *optimizer.variables) if v.ndim] == places


def test_a_step_of_a_large_parameter_takes_no_memory_in_proportion():
    size = 2_000_000
    x, optimizer, g = dg.Variable(np.ones(size, "f4")), Adam(0.1), dg.asarray(np.ones(size, "f4"))
    optimizer.apply(g, x)

    tracemalloc.start()
    optimizer.apply(g, x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 4 * size / 4


@pytest.mark.parametrize("shape", [(3, 50_000), (40_001,), (2, 3, 7_000)])
def test_blocks_cover_parameters_whose_gradients_lie_transposed(shape):
    draw = np.random.default_rng(0)
    start, g = draw.normal(size=shape), draw.normal(size=shape[::-1]).T
    x = dg.Variable(start)

    SGD(0.5).apply(dg.asarray(g), x)

    np.testing.assert_allclose(x.numpy(), start - 0.5 * g, rtol=1e-14)


def test_whoever_has_read_a_variable_keeps_its_value():
    x = dg.Variable(G)
    before, view = x.value(), x.array

    SGD(0.5).apply(dg.asarray(G), x)

    np.testing.assert_array_equal(before.numpy(), G)
    np.testing.assert_array_equal(view, G)
    np.testing.assert_array_equal(x.numpy(), G / 2)


def test_a_tape_differentiates_at_the_value_before_the_step():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        loss = x**2
    SGD(1.0).apply(dg.asarray(1.0), x)

    assert float(tape.gradient(loss, x)) == 6.0


# --- state ----------------------------------------------------------------------------------------


def two():
    return [dg.Variable(G, name="model/kernel"), dg.Variable([1.0], name="model/bias")]


def test_states_have_the_names_of_their_variables():
    optimizer = Optimizer(chain(Adam(0.1)))
    optimizer.build(two())

    assert sorted(optimizer.state_dict()) == [
        "model/bias/first_moment",
        "model/bias/second_moment",
        "model/kernel/first_moment",
        "model/kernel/second_moment",
        "optimizer/iterations",
        "optimizer/step",
    ]


def test_variables_of_one_name_have_states_of_their_own():
    optimizer = SGD(0.1, 0.9)
    optimizer.build([dg.Variable(1.0), dg.Variable(2.0)])

    assert {"Variable/velocity", "Variable_1/velocity"} <= set(optimizer.state_dict())


def test_thousands_of_variables_without_names_are_named_at_once():
    optimizer = SGD(0.1, 0.9)
    begun = time.process_time()
    optimizer.build([dg.Variable(1.0) for _ in range(2000)])

    # A tenth of a second; 20 where each name is looked for among all before it.
    assert time.process_time() - begun < 5
    assert "Variable_1999/velocity" in optimizer.state_dict()


def test_a_name_with_slashes_is_found_whole_in_those_of_states():
    optimizer = SGD(0.1, 0.9)
    optimizer.build([dg.Variable(1.0, name="kernel"), dg.Variable(2.0, name="model/kernel")])

    assert {"kernel/velocity", "model/kernel/velocity"} <= set(optimizer.state_dict())


def test_a_loaded_state_goes_on_where_the_saved_one_stopped():
    variables, optimizer = two(), Adam(0.1)
    gradients = [dg.asarray(G), dg.asarray([2.0])]
    optimizer.apply(gradients, variables)
    saved = {name: value.numpy() for name, value in optimizer.state_dict().items()}
    copies = [dg.Variable(v.numpy(), name=v.name) for v in variables]
    optimizer.apply(gradients, variables)

    other = Adam(0.1)
    other.build(copies)
    other.load_state_dict(saved)
    other.apply(gradients, copies)

    assert other.iterations == 2
    for copy, variable in zip(copies, variables, strict=True):
        np.testing.assert_array_equal(copy.numpy(), variable.numpy())


def test_a_state_with_other_names_is_refused():
    optimizer = Adam(0.1)
    with pytest.raises(ValueError, match=r"no state yet; call optimizer.build"):
        optimizer.load_state_dict({})
    optimizer.build(two())

    with pytest.raises(ValueError, match=r"missing .*'model/bias/first_moment'"):
        optimizer.load_state_dict({"optimizer/iterations": 1})


# --- gradients of all kinds -----------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: Adam(0.1), lambda: SGD(0.1, 0.9)])
def test_without_a_gradient_neither_variable_nor_state_change(make):
    (x, y), optimizer = two(), make()
    optimizer.apply([dg.asarray(G), dg.asarray([1.0])], [x, y])
    before = {n: v.numpy() for n, v in optimizer.state_dict().items() if "bias" in n}
    value = y.numpy()

    optimizer.apply([dg.asarray(G), None], [x, y])

    np.testing.assert_array_equal(y.numpy(), value)
    for name, kept in before.items():
        np.testing.assert_array_equal(optimizer.state_dict()[name].numpy(), kept)


@pytest.mark.parametrize("make", [lambda: SGD(0.1), lambda: Adagrad(0.1), lambda: Adam(0.1)])
def test_rows_count_as_the_dense_gradient(make):
    start = np.ones((4, 2))
    sparse, dense, one, other = dg.Variable(start), dg.Variable(start), make(), make()

    for places in ((2, 0, 2), (1, -1)):
        one.apply(rows(*places), sparse)
        other.apply(rows(*places).to_dense(), dense)

    np.testing.assert_allclose(sparse.numpy(), dense.numpy(), rtol=1e-14)


def test_a_lazy_adam_leaves_rows_without_a_gradient_alone():
    x, optimizer = dg.Variable(np.ones((4, 2))), Adam(0.1, lazy=True)
    optimizer.apply(rows(0, 1), x)
    before = x.numpy()

    optimizer.apply(rows(1, 3), x)

    np.testing.assert_array_equal(x.numpy()[[0, 2]], before[[0, 2]])
    assert not np.allclose(x.numpy()[[1, 3]], before[[1, 3]])
    with pytest.raises(UnsupportedOptionError, match=r"lazy=True"):
        dg.function(lambda g: optimizer.apply(dg.IndexedSlices(g, [0], (4, 2)), x))(
            dg.asarray([[1.0, 1.0]], dtype="float64")
        )


def test_a_traced_function_is_told_to_take_the_scale_as_an_argument():
    x, scale, optimizer = dg.Variable(3.0), dg.optimizers.LossScale(4.0), dg.optimizers.SGD(0.5)

    @dg.function
    def gradient(factor):
        with dg.GradientTape() as tape:
            loss = x * x * factor
        return tape.gradient(loss, x)

    with pytest.raises(TraceError, match=r"hand dg\.asarray\(float\(scale\.factor\)\) in"):
        dg.function(lambda: scale.scale(x * x))()
    assert scale.apply(optimizer, gradient(dg.asarray(float(scale.factor))), x)
    assert float(x) == 0.0


@pytest.mark.parametrize("traced", [False, True])
def test_half_precision_remembers_steps_below_its_own_digits(traced):
    x, optimizer = dg.Variable(1.0, dtype="float16", name="x"), SGD(1e-5)

    def step(g):
        optimizer.apply(g, x)

    run = dg.function(step) if traced else step
    for _ in range(100):
        run(dg.asarray(1.0, dtype="float16"))

    assert float(optimizer.state_dict()["x/master"]) == pytest.approx(1 - 1e-3, rel=1e-5)
    assert float(x) == pytest.approx(1 - 1e-3, abs=5e-4)


# --- what does not fit ----------------------------------------------------------------------------


def test_misfits_are_refused_by_the_name_of_the_variable():
    variables, good = two(), dg.asarray(G)
    optimizer = SGD(0.1)

    with pytest.raises(ShapeError, match=r"gradient of 'model/bias' has shape \(2, 3\)"):
        optimizer.apply([good, good], variables)
    with pytest.raises(DTypeError, match=r"'model/kernel' has dtype complex128"):
        optimizer.apply([dg.asarray(G + 0j), None], variables)
    with pytest.raises(ValueError, match=r"1 leaves\) have not the structure of the 2"):
        optimizer.apply([good], variables)
    with pytest.raises(ValueError, match=r"every gradient is None"):
        optimizer.apply([None, None], variables)
    with pytest.raises(ValueError, match=r"'other' is not among the 2"):
        optimizer.apply([good], [dg.Variable(G, name="other")])
    with pytest.raises(ValueError, match=r"'model/kernel' is there twice"):
        optimizer.apply([good, good], [variables[0], variables[0]])
    with pytest.raises(TypeError, match=r"expected variables, got Tensor"):
        optimizer.apply([good], [good])
    np.testing.assert_array_equal(variables[0].numpy(), G)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf"), "fast", True])
def test_a_rate_that_is_no_positive_number_is_refused(rate):
    with pytest.raises(ValueError, match=r"learning_rate is .*expected a positive number"):
        Adam(rate)


def test_other_numbers_are_refused_too():
    with pytest.raises(ValueError, match=r"beta_2 is 1.0; expected a number in \[0, 1\)"):
        Adam(beta_2=1.0)
    with pytest.raises(ValueError, match=r"epsilon is 0"):
        Adam(epsilon=0.0)
    with pytest.raises(ValueError, match=r"nesterov=True without momentum"):
        SGD(nesterov=True)
    with pytest.raises(ValueError, match=r"epsilon_placement is 'outside'"):
        Adam(epsilon_placement="outside")
    with pytest.raises(ValueError, match=r"steps is 0"):
        accumulate(0, SGD())


# --- accumulation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("traced", [False, True])
def test_accumulated_gradients_make_one_step_of_their_mean(traced):
    x, y = dg.Variable(G), dg.Variable(G)
    collecting, plain = Optimizer(accumulate(2, Adam(0.1))), Adam(0.1)

    def step(g):
        collecting.apply(g, x)

    run = dg.function(step) if traced else step
    for factor in (1.0, 2.0):
        run(dg.asarray(factor * G))
        np.testing.assert_array_equal(x.numpy(), y.numpy())
        run(dg.asarray(3.0 * factor * G))
        plain.apply(dg.asarray(2.0 * factor * G), y)
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-12)


# --- loss scaling ---------------------------------------------------------------------------------


def test_a_loss_scale_falls_where_gradients_overflow_and_grows_again():
    x, optimizer = dg.Variable(1.0), SGD(0.5)
    scale = LossScale(initial=8.0, growth_interval=2)

    assert not scale.apply(optimizer, dg.asarray(np.inf, dtype="float32"), x)
    assert (float(x), float(scale.factor), optimizer.iterations) == (1.0, 4.0, 0)
    for _ in range(2):
        assert scale.apply(optimizer, dg.asarray(4.0), x)
    assert (float(x), float(scale.factor)) == (0.0, 8.0)


def test_a_scaled_loss_has_gradients_that_half_precision_alone_loses():
    x, scale = dg.Variable(1.0, dtype="float16"), LossScale(initial=2.0**15)

    def gradient(factor):
        with dg.GradientTape() as tape:
            loss = factor(dg.astype(x, "float32") * 1e-9)
        return tape.gradient(loss, x)

    assert float(gradient(lambda loss: loss)) == 0.0
    assert float(scale.unscale(gradient(scale.scale))) == pytest.approx(1e-9, rel=1e-2)


def test_a_loss_scale_says_that_it_is_not_for_traces():
    with pytest.raises(TraceError, match=r"outside of dg.function"):
        dg.function(LossScale().scale)(dg.asarray(1.0))


def test_steps_may_change_other_variables_than_the_step_before():
    x, y = dg.Variable(3.0, name="x"), dg.Variable(1.0, name="y")
    optimizer = dg.optimizers.SGD(0.5)
    optimizer.apply([dg.asarray(2.0), dg.asarray(2.0)], [x, y])
    optimizer.apply([dg.asarray(2.0)], [y])
    optimizer.apply([dg.asarray(4.0), dg.asarray(2.0)], [y, x])

    assert (float(x), float(y)) == (1.0, -3.0)
    with pytest.raises(ValueError, match="there are no variables"):
        optimizer.apply([], [])
    with pytest.raises(ValueError, match="is there twice"):
        optimizer.apply([dg.asarray(2.0)] * 2, [x, x])
    with pytest.raises(ValueError, match="not among the 2"):
        optimizer.apply([dg.asarray(2.0)] * 2, [x, dg.Variable(1.0)])


def test_a_count_that_somebody_holds_is_not_changed():
    x = dg.Variable(3.0, name="x")
    optimizer = dg.optimizers.Adam(0.5)
    optimizer.apply(dg.asarray(2.0), x)
    before = optimizer.state_dict()
    optimizer.apply(dg.asarray(2.0), x)

    counts = ("optimizer/iterations", "optimizer/step")
    assert [int(before[name]) for name in counts] == [1, 1]
    assert [int(optimizer.state_dict()[name]) for name in counts] == [2, 2]


def test_a_step_whose_schedule_raises_does_not_count():
    def rate(step):
        if step == 1:
            raise RuntimeError("no rate")
        return 0.5

    x = dg.Variable(3.0, name="x")
    optimizer = dg.optimizers.SGD(rate)
    optimizer.apply(dg.asarray(2.0), x)
    with pytest.raises(RuntimeError, match="no rate"):
        optimizer.apply(dg.asarray(2.0), x)

    assert float(x) == 2.0
    assert int(optimizer.state_dict()["optimizer/step"]) == optimizer.iterations == 1


def test_steps_are_taken_on_a_backend_whose_dtypes_are_not_numpys():
    strict = pytest.importorskip("array_api_strict")
    backend = ArrayModuleBackend("strict", strict)
    found = {}
    for home in (backend, "numpy"):
        x = dg.Variable([1.0, 2.0], name="x", backend=home)
        optimizer = Adam(0.1)
        for _ in range(2):
            with dg.GradientTape() as tape:
                y = dg.sum(x**2)
            optimizer.apply(tape.gradient(y, x), x)
        found[home] = x.numpy()

    np.testing.assert_allclose(found[backend], found["numpy"], rtol=1e-6)


@pytest.mark.usefixtures("only_references_count")
@pytest.mark.parametrize("make", [Adam, lambda: Optimizer(chain(clipping(norm=1.0), Adam()))])
def test_slots_go_with_their_optimizer(make):
    optimizer, x = make(), dg.Variable(G)
    optimizer.apply(dg.asarray(G), x)
    slots = [weakref.ref(each.array) for each in optimizer.variables]
    del optimizer

    assert [each() for each in slots] == [None] * 4
