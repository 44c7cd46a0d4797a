"""dg.function: a traced function gives what the function gives, its derivatives too."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import TraceError
from distgrad.ops.elementwise.transcendental import EXP, SIN

X = dg.asarray(np.array([0.3, -1.2, 2.0]))


def formula(x):
    return dg.sum(dg.sin(x) * x + dg.sin(x)) ** 2


def test_the_function_runs_once_for_each_signature():
    runs = []

    @dg.function
    def f(x, scale):
        runs.append((x.shape, x.dtype.name, scale))
        return x * scale

    for value in ([1.0, 2.0], [3.0, 4.0]):
        np.testing.assert_array_equal(
            f(dg.asarray(value), 2.0).numpy(), 2 * np.array(value, np.float32)
        )
    f(dg.asarray([1.0, 2.0], dtype="float64"), 2.0)

    assert runs == [((2,), "float32", 2.0), ((2,), "float64", 2.0)]


def test_the_third_trace_warns_and_names_what_changed():
    f = dg.function(lambda x, n: x * n)
    x = dg.asarray([1.0])
    f(x, 1)
    f(x, 2)

    with pytest.warns(UserWarning, match=r"traced for the 3\. time \(n: 2 became 3\)"):
        f(x, 3)


@pytest.mark.parametrize(
    "derive",
    [
        lambda f: f,
        dg.grad,
        lambda f: dg.grad(lambda x: dg.sum(dg.grad(f)(x) ** 2)),
        dg.hessian,
        lambda f: dg.jacrev(dg.grad(f)),
        lambda f: lambda x: dg.jvp(f, (x,), (x,))[1],
        lambda f: lambda x: dg.hvp(f, (x,), (x,))[1][0],
        lambda f: lambda x: dg.vmap(f)(dg.stack([x, x * 2.0])),
        lambda f: lambda x: dg.vmap(dg.grad(f))(dg.stack([x, x * 2.0])),
        lambda f: dg.function(dg.grad(f)),
        lambda f: dg.grad(lambda x: dg.sum(dg.function(dg.grad(f))(x) ** 2)),
    ],
)
def test_derivatives_to_second_order_are_those_of_the_plain_function(derive):
    traced, plain = derive(dg.function(formula))(X), derive(formula)(X)

    np.testing.assert_allclose(traced.numpy(), plain.numpy(), rtol=1e-12)


def test_a_call_is_one_record_and_its_backward_pass_recomputes_nothing(monkeypatch):
    x = dg.Variable(0.3)
    runs = []
    for op in (EXP, SIN):
        kernel = x.kernels.table[op]
        counted = lambda a, op=op, kernel=kernel: runs.append(op.name) or kernel(a)  # noqa: E731
        monkeypatch.setitem(x.kernels.table, op, counted)

    f = dg.function(lambda x: dg.exp(dg.sin(x)))
    with dg.GradientTape() as tape:
        y = f(x.value())
        records = len(tape.records)
    gradient = tape.gradient(y, x)

    assert records == 2  # the read of the variable, and the function
    assert runs == ["sin", "exp"]  # each once, in the forward pass
    assert float(gradient) == pytest.approx(np.exp(np.sin(0.3)) * np.cos(0.3), rel=1e-6)


def test_captured_variables_are_inputs_and_assignments_take_place_after_the_run():
    w = dg.Variable(2.0)

    @dg.function
    def f(x):
        before = x * w
        w.assign_add(1.0)
        return before, x * w

    first = [float(y) for y in f(dg.asarray(10.0))]
    w.assign(7.0)
    second = [float(y) for y in f(dg.asarray(10.0))]

    assert first == [20.0, 30.0]
    assert second == [70.0, 80.0]
    assert float(w) == 8.0


def test_a_tape_outside_reaches_captured_variables():
    w = dg.Variable([2.0, 3.0])
    f = dg.function(lambda x: dg.sum(x * w * w))
    with dg.GradientTape() as tape:
        y = f(dg.asarray([1.0, 10.0]))

    assert [watched is w for watched in tape.watched_variables()] == [True]
    np.testing.assert_array_equal(tape.gradient(y, w).numpy(), [4.0, 60.0])


def test_a_training_step_with_the_tape_inside():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(7, 1))

    def step(w, b):
        with dg.GradientTape() as tape:
            loss = dg.mean((dg.tanh(x @ w) + b - y) ** 2)
        for variable, gradient in zip((w, b), tape.gradient(loss, [w, b]), strict=True):
            variable.assign_sub(0.1 * gradient)
        return loss

    pairs = [(dg.Variable(np.full((3, 1), 0.1)), dg.Variable(np.zeros(1))) for _ in range(2)]
    runs = zip((step, dg.function(step)), pairs, strict=True)
    losses = [[float(f(*pair)) for _ in range(20)] for f, pair in runs]

    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-12)
    assert losses[0][-1] < losses[0][0]
    np.testing.assert_allclose(pairs[0][0].numpy(), pairs[1][0].numpy(), rtol=1e-12)


def test_nests_and_static_values_keep_their_structure():
    @dg.function
    def f(batch, *, mode):
        return {"mode": [batch["x"] * 2.0, None], "both": (batch["x"], batch["y"])}

    result = f({"x": np.array([1.0]), "y": np.array([2])}, mode="train")

    assert list(result) == ["mode", "both"]
    assert result["mode"][1] is None
    assert isinstance(result["both"], tuple)
    assert result["both"][1].dtype == dg.int64


def test_methods_are_traced_for_each_instance():
    class Model:
        def __init__(self, scale):
            self.scale = dg.Variable(scale)

        @dg.function
        def __call__(self, x):
            return x * self.scale

    one, two = Model(1.0), Model(2.0)

    assert [float(m(dg.asarray(3.0))) for m in (one, two, one)] == [3.0, 6.0, 3.0]


def test_the_printed_graph_is_simplified_and_stable():
    @dg.function
    def f(x, y):
        unused = dg.exp(x)
        del unused
        return (dg.sin(x) + dg.sin(x)) * y

    graph = f.graph(dg.asarray([1.0, 2.0, 3.0]), dg.asarray(2.0))
    graph.verify()

    assert str(graph) == (
        "f(%0: float32[3], %1: float32[])\n"
        "  %2: float32[3] = sin(%0)\n"
        "  %3: float32[3] = add(%2, %2)\n"
        "  %4: float32[3] = multiply(%3, %1)\n"
        "  return %4"
    )
    assert '  n2 [label="sin\\nfloat32[3]"];\n  n0 -> n2;' in graph.graphviz()


def test_backward_graphs_obey_the_law_too():
    graph = dg.function(dg.grad(formula)).graph(X)

    graph.verify()


def test_arrays_are_freed_after_their_last_use():
    import weakref

    from distgrad.graph.program import Program

    graph = dg.function(lambda x: dg.exp(dg.sin(dg.cos(x)))).graph(X)
    alive = []
    calls = [node for node in graph.nodes if node.op is not None]
    program = Program(calls, [], graph.inputs, graph.outputs, X.kernels)

    def watching(kernel):
        def call(*arrays, **params):
            result = kernel(*arrays, **params)
            alive.append(weakref.ref(result))
            return result

        return call

    program.steps = [(step[0], watching(step[1]), *step[2:]) for step in program.steps]
    (result,) = program.run([X.array])

    assert [reference() is None for reference in alive] == [True, True, False]
    np.testing.assert_allclose(result, np.exp(np.sin(np.cos(X.numpy()))))


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda x: 1.0 if dg.sum(x) > 0 else 2.0, "take dg.where in place of `if`"),
        (lambda x: float(dg.sum(x)), r"test_function\.py:\d+ the value of a symbolic tensor"),
        (np.asarray, "the value of a symbolic tensor"),
        (lambda x: np.eye(3)[x], r"test_function\.py:\d+ the value .*dg\.asarray\(a\)\[i\]"),
        (lambda x: np.take(np.eye(3), x, axis=0), r"test_function\.py:\d+ the value"),
    ],
)
def test_asking_for_values_while_tracing_names_the_line(f, message):
    with pytest.raises(TraceError, match=message):
        dg.function(f)(X)


@pytest.mark.parametrize("transformed", [dg.function, dg.vmap])
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (lambda a: a.size, AttributeError),
        (lambda a: a.copy(), AttributeError),
        (np.fft.fft, TypeError),
        (np.asarray, TypeError),
    ],
)
def test_code_for_arrays_is_told_that_there_are_no_numbers_yet(code, error, transformed):
    with pytest.raises(error, match=r"in dg\.function or dg\.vmap, .*: there are no numbers yet"):
        transformed(lambda x: dg.asarray(code(x.array)))(dg.ones(3))


def test_a_symbolic_value_that_escaped_is_refused_with_the_line():
    kept = []
    dg.function(lambda x: kept.append(x) or x)(X)

    with pytest.raises(TraceError, match=r"test_function\.py:\d+ a symbolic value is used after"):
        kept[0] + 1


def test_arguments_that_cannot_be_compared_are_refused():
    with pytest.raises(TypeError, match="got a set, which is neither an array nor hashable"):
        dg.function(lambda x, s: x)(X, {1, 2})


def test_shapes_that_do_not_fit_are_refused_while_tracing():
    with pytest.raises(ValueError, match=r"add: shapes \(3,\) and \(2,\) do not broadcast"):
        dg.function(lambda x: x + dg.asarray([1.0, 2.0]))(X)


def test_a_prompt_shows_a_graph_as_print_does():
    graph = dg.function(lambda x: dg.sin(x) + 1.0).graph(dg.asarray(0.5))

    assert repr(graph) == str(graph)
    assert "sin(%0)" in repr(graph)


def test_captured_arguments_of_functions_with_rules_of_their_own_are_differentiated():
    @dg.custom_jvp
    def with_rule(x):
        return 3.0 * x

    with_rule.defjvp(lambda primals, tangents: (with_rule(*primals), 3.0 * tangents[0]))
    by_tape = dg.custom_gradient(lambda x: (3.0 * x, lambda upstream: 3.0 * upstream))

    for rule in (with_rule, by_tape, dg.recompute_grad(lambda x: 3.0 * x)):

        def of_captured(x, rule=rule):
            return dg.function(lambda: dg.sum(rule(x)))()

        np.testing.assert_array_equal(dg.grad(of_captured)(X).numpy(), [3.0, 3.0, 3.0])
        assert float(dg.jvp(of_captured, (X,), (X,))[1]) == pytest.approx(3.0 * float(dg.sum(X)))


@pytest.mark.parametrize("index", [lambda m: m, lambda m: (slice(None), m[:2]), lambda m: (m, 1)])
def test_what_a_constant_mask_picks_has_its_shape_in_a_trace(index):
    x = dg.asarray(np.arange(8.0).reshape(4, 2))
    mask = np.array([True, False, True, True])

    def f(x):
        picked = x[index(mask)]
        return dg.mean(picked**2) + dg.sum(dg.std(picked, axis=0))

    traced = dg.function(f)

    assert float(traced(x)) == float(f(x))
    np.testing.assert_allclose(dg.grad(traced)(x).numpy(), dg.grad(f)(x).numpy())
    np.testing.assert_allclose(dg.hessian(traced)(x).numpy(), dg.hessian(f)(x).numpy())
    with pytest.raises(IndexError, match="boolean"):
        dg.function(lambda x: x[mask[:3]])(x)


@pytest.mark.parametrize("pick", [lambda x: x[x > 0.4], lambda x: x[0, x[0] > 0.4]])
def test_what_a_mask_that_is_computed_would_pick_is_refused(pick):
    f = dg.function(lambda x: dg.mean(pick(x)))

    with pytest.raises(TraceError, match=r"shape of the result depends on values.*dg\.where"):
        f(dg.asarray(np.linspace(0.0, 1.0, 12).reshape(3, 4)))


def test_what_is_written_by_a_computed_mask_has_its_gradient_in_a_trace():
    def f(x, v):
        return dg.sum(x.at[x > 0.4].set(v * x[0, 0]) ** 2)

    x, v = dg.asarray(np.linspace(0.2, 1.0, 12).reshape(3, 4)), dg.asarray(3.0)
    traced, eager = (dg.grad(each, argnums=(0, 1))(x, v) for each in (dg.function(f), f))

    for found, expected in zip(traced, eager, strict=True):
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-12)
