"""Forward derivatives that users write: in both modes, to any order, through transformations."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, LinearityError, ShapeError

X = np.array([0.3, -0.8, 1.7])


@dg.custom_jvp
def cube(x):
    return x * x * x


@cube.defjvp
def cube_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    return cube(x), 30.0 * x * x * t  # ten times the truth: whoever uses another rule is found out


@dg.custom_jvp
def log1pexp(x):
    return dg.log(1 + dg.exp(x))


@log1pexp.defjvp
def log1pexp_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    return log1pexp(x), t * (1 - 1 / (1 + dg.exp(x)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def number(value):
    return dg.asarray(value, dtype="float64")


# --- both modes, any order ------------------------------------------------------------------------


def test_both_modes_use_the_rule():
    x = number(2.0)
    with dg.GradientTape() as tape:
        tape.watch(x)
        y = cube(x)
    with dg.ForwardAccumulator(x, number(1.0)) as accumulator:
        z = cube(x)

    assert float(y) == 8.0
    assert float(tape.gradient(y, x)) == 120.0
    assert float(accumulator.jvp(z)) == 120.0


def test_the_rule_is_used_where_the_formula_would_overflow():
    with np.errstate(over="ignore"):
        assert float(dg.grad(log1pexp)(1000.0)) == 1.0
        assert float(dg.jvp(log1pexp, (1000.0,), (1.0,))[1]) == 1.0


ORDERS = {
    "reverse": dg.grad,
    "forward": lambda f: lambda x: dg.jvp(f, (x,), (number(1.0),))[1],
}


@pytest.mark.parametrize("third", ORDERS)
@pytest.mark.parametrize("second", ORDERS)
@pytest.mark.parametrize("first", ORDERS)
def test_three_orders_in_any_mix_of_modes(first, second, third):
    f = ORDERS[third](ORDERS[second](ORDERS[first](log1pexp)))

    s = sigmoid(0.4)
    assert float(f(number(0.4))) == pytest.approx(s * (1 - s) * (1 - 2 * s), rel=1e-12)


def test_a_persistent_tape_differentiates_its_own_gradient():
    x = dg.Variable(0.4, dtype="float64")
    with dg.GradientTape(persistent=True) as tape:
        y = log1pexp(x)
    second = tape.gradient(tape.gradient(y, x), x)

    assert float(second) == pytest.approx(sigmoid(0.4) * (1 - sigmoid(0.4)))


def test_the_call_is_one_record_that_keeps_its_arguments_alone():
    x = dg.Variable(X)
    with dg.GradientTape() as tape:
        log1pexp(x + 1.0)

    assert [(o.name, o.nbytes) for o in tape.summary().operations] == [
        ("log1pexp", X.nbytes),
        ("add", 0),
    ]


def test_derivatives_agree_with_differences():
    dg.testing.check_gradients(log1pexp, [X], order=2)


def test_complex_values_follow_the_conjugate_convention():
    @dg.custom_jvp
    def squared(z):
        return z * z

    squared.defjvps(lambda t, y, z: 2 * z * t)
    z = np.array([1 + 2j, -0.5j])

    def loss(f):
        return lambda z: dg.sum(dg.real(f(z) * (3 - 1j)))

    np.testing.assert_allclose(
        dg.grad(loss(squared))(z).numpy(), dg.grad(loss(lambda z: z * z))(z).numpy()
    )


# --- through transformations ----------------------------------------------------------------------

AROUND = {
    "plain": lambda f: f,
    "function": dg.function,
    "vmap": dg.vmap,
    "function of vmap": lambda f: dg.function(dg.vmap(f)),
    "vmap of function": lambda f: dg.vmap(dg.function(f)),
    "recomputed": dg.recompute_grad,
    "vmap recomputed": lambda f: dg.recompute_grad(dg.vmap(f)),
    "in a condition": lambda f: dg.function(lambda x: dg.cond(x[0] > 0, f, dg.negative, x)),
    "in a loop": lambda f: dg.function(lambda x: dg.scan(lambda c, v: (c, f(v)), 0.0, x)[1]),
}


@pytest.mark.parametrize("around", AROUND)
def test_whoever_differentiates_from_outside_gets_the_rule(around):
    f = AROUND[around](cube)
    x = dg.asarray(X)

    np.testing.assert_allclose(f(x).numpy(), X**3)
    np.testing.assert_allclose(dg.grad(lambda x: dg.sum(f(x)))(x).numpy(), 30 * X**2)
    np.testing.assert_allclose(dg.jvp(f, (x,), (dg.asarray(X),))[1].numpy(), 30 * X**3)
    np.testing.assert_allclose(
        dg.grad(lambda x: dg.sum(dg.grad(lambda x: dg.sum(f(x)))(x)))(x).numpy(), 60 * X
    )


@pytest.mark.parametrize("around", ["plain", "function", "vmap"])
def test_whole_jacobians_use_the_rule(around):
    f = AROUND[around](cube)

    for jacobian in (dg.jacrev(f), dg.jacfwd(f), dg.jacrev(f, chunk_size=1)):
        np.testing.assert_allclose(jacobian(dg.asarray(X)).numpy(), np.diag(30 * X**2))


@pytest.mark.parametrize("mode", ORDERS)
def test_derivatives_of_one_example_use_the_rule(mode):
    slope = ORDERS[mode](cube)

    np.testing.assert_allclose(dg.vmap(slope)(dg.asarray(X)).numpy(), 30 * X**2)
    np.testing.assert_allclose(dg.function(dg.vmap(slope))(dg.asarray(X)).numpy(), 30 * X**2)


def test_what_examples_share_gets_the_sum_over_them():
    @dg.custom_jvp
    def product(w, x):
        return w * x

    product.defjvps(lambda t, y, w, x: 10 * t * x, lambda t, y, w, x: 10 * w * t)

    def total(w, x):
        return dg.sum(dg.vmap(product, in_axes=(None, 0))(w, x))

    w, x = number(2.0), dg.asarray(X)
    to_w, to_x = dg.grad(total, argnums=(0, 1))(w, x)
    assert float(to_w) == pytest.approx(10 * X.sum())
    np.testing.assert_allclose(to_x.numpy(), np.full(3, 20.0))
    pushed = dg.jvp(lambda w: dg.vmap(product, in_axes=(None, 0))(w, x), (w,), (number(1.0),))[1]
    np.testing.assert_allclose(pushed.numpy(), 10 * X)


def test_nested_batches_use_the_rule():
    x = dg.asarray(np.stack([X, 2 * X]))
    f = dg.vmap(dg.vmap(cube))

    found = dg.grad(lambda x: dg.sum(f(x)))(x)
    np.testing.assert_allclose(found.numpy(), 30 * x.numpy() ** 2)


def test_a_batch_makes_no_memory_grow():
    from distgrad.batching import kernels_at

    f = dg.grad(lambda x: dg.sum(dg.vmap(cube)(x)))
    f(dg.asarray(X))
    before = len(kernels_at(1).table)
    for _ in range(5):
        f(dg.asarray(X))

    assert len(kernels_at(1).table) == before


# --- arguments ------------------------------------------------------------------------------------


def test_nests_go_in_and_out():
    @dg.custom_jvp
    def f(pair, factors):
        first, second = pair
        return {"sum": first + second, "parts": [first * factors["a"]]}

    @f.defjvp
    def rule(primals, tangents):
        (first, _), factors = primals
        (dot_first, dot_second), dot_factors = tangents
        out = f(*primals)
        return out, {
            "sum": 2 * (dot_first + dot_second),
            "parts": [3 * dot_first * factors["a"] + 5 * first * dot_factors["a"]],
        }

    def total(pair, factors):
        out = f(pair, factors)
        return out["sum"] + out["parts"][0]

    args = ((number(2.0), number(7.0)), {"a": number(4.0)})
    (to_first, to_second), to_factors = dg.grad(total, argnums=(0, 1))(*args)

    assert (float(to_first), float(to_second), float(to_factors["a"])) == (14.0, 2.0, 10.0)


def test_rules_by_argument_add_up_and_may_be_none():
    @dg.custom_jvp
    def f(x, y, z):
        return x * y + z

    f.defjvps(lambda t, out, x, y, z: t * y, lambda t, out, x, y, z: 2 * t * out, None)
    found = dg.grad(f, argnums=(0, 1, 2))(2.0, 3.0, 4.0)

    assert [float(each) for each in found] == [3.0, 20.0, 0.0]


def test_arguments_without_derivative_are_passed_on():
    def make():
        @dg.custom_jvp
        def f(g, x, mode="sum"):
            return g(x)

        return f

    marked = dg.custom_jvp(nondiff_argnums=(0, 2))(make()._f)

    @marked.defjvp
    def rule(g, mode, primals, tangents):
        (x,), (t,) = primals, tangents
        return marked(g, x, mode), t * (2.0 if mode == "double" else 1.0)

    assert float(dg.grad(lambda x: marked(dg.sin, x, "double"))(number(0.5))) == 2.0
    assert float(dg.grad(lambda x: marked(dg.sin, x, mode="sum"))(number(0.5))) == 1.0
    assert float(dg.grad(lambda x: marked(dg.sin, x=x))(number(0.5))) == 1.0


def test_a_method_is_bound_and_its_object_has_no_tangent():
    class Scaled:
        def __init__(self, scale):
            self.scale = scale

        @dg.custom_jvp
        def times(self, x):
            return self.scale * x

        @times.defjvp
        def rule(primals, tangents):
            (self, x), (nothing, t) = primals, tangents
            assert nothing is None
            return self.times(x), 10 * self.scale * t

    assert float(dg.grad(Scaled(3.0).times)(2.0)) == 30.0
    assert float(dg.function(dg.grad(Scaled(3.0).times))(dg.asarray(2.0))) == 30.0


def test_integers_have_no_tangent():
    @dg.custom_jvp
    def f(x, n):
        return x * n, dg.floor(x).astype("int32")

    @f.defjvp
    def rule(primals, tangents):
        x, n = primals
        return f(x, n), (tangents[0] * n, None)

    n = dg.asarray(3)
    assert float(dg.grad(lambda x: f(x, n)[0])(number(1.5))) == 3.0
    value, tangent = dg.jvp(lambda x: f(x, n), (number(1.5),), (number(1.0),))
    assert int(value[1]) == 1
    assert float(tangent[0]) == 3.0


def test_a_name_and_docstring_stay():
    @dg.custom_jvp
    def f(x):
        """Say so."""
        return x

    assert (f.__name__, f.__doc__, f.__wrapped__(1)) == ("f", "Say so.", 1)


# --- what is captured -----------------------------------------------------------------------------


def test_a_captured_variable_is_refused_where_somebody_differentiates():
    w = dg.Variable(3.0, name="scale")

    @dg.custom_jvp
    def f(x):
        return w * x

    f.defjvps(lambda t, y, x: w * t)

    assert float(f(2.0)) == 6.0  # nobody listens
    with dg.GradientTape(), pytest.raises(TypeError, match="depends on the variable 'scale'"):
        f(2.0)
    with pytest.raises(TypeError, match="depends on the variable 'scale'"):
        dg.function(f)(dg.asarray(2.0))
    with dg.GradientTape(watch_accessed_variables=False) as tape:
        x = dg.asarray(2.0)
        tape.watch(x)
        y = f(x)  # the tape does not watch w
    assert float(tape.gradient(y, x)) == 3.0


def test_a_captured_tensor_is_refused_where_somebody_differentiates():
    @dg.custom_jvp
    def f(x):
        return x

    f.defjvps(lambda t, y, x: t)

    def outer(w):
        @dg.custom_jvp
        def inner(x):
            return w * x

        inner.defjvps(lambda t, y, x: w * t)
        return inner(number(2.0))

    assert float(outer(number(3.0))) == 6.0
    with pytest.raises(TypeError, match=r"depends on a captured tensor of shape \(\)"):
        dg.grad(outer)(number(3.0))


def test_what_is_cut_on_purpose_may_be_captured():
    w = dg.Variable(3.0)

    @dg.custom_jvp
    def f(x):
        return dg.stop_gradient(w) * x

    f.defjvps(lambda t, y, x: dg.stop_gradient(w) * t)
    x = dg.Variable(2.0)
    for call in (f, dg.function(f)):
        with dg.GradientTape() as tape:
            y = call(x)
        assert float(tape.gradient(y, x)) == 3.0


def test_a_variable_that_only_the_rule_reads_is_differentiated_in_the_next_order():
    w = dg.Variable(3.0)

    @dg.custom_jvp
    def f(x):
        return x

    f.defjvps(lambda t, y, x: t * w * w)
    x = dg.Variable(2.0)
    for call in (f, dg.function(f)):
        with dg.GradientTape() as outer:
            with dg.GradientTape() as inner:
                y = call(x)
            slope = inner.gradient(y, x)
        assert float(slope) == 9.0
        assert float(outer.gradient(slope, w)) == 6.0


# --- misuse ---------------------------------------------------------------------------------------


def with_rule(rule):
    f = dg.custom_jvp(lambda x: x * 1.0)
    f.defjvp(rule)
    return f


NONSENSE = {
    "no pair": (lambda p, t: t[0], TypeError, r"expected a pair \(primal_out, tangent_out\)"),
    "another count": (
        lambda p, t: ((p[0], p[0]), (t[0], t[0])),
        ValueError,
        "returned 2 primal outputs, the function 1",
    ),
    "another structure": (
        lambda p, t: ([p[0]], [t[0], t[0]]),
        ValueError,
        "tangent_out has not the structure",
    ),
    "another shape": (
        lambda p, t: (p[0], dg.sum(t[0])),
        ShapeError,
        r"tangent 0 has shape \(\), its output \(3,\)",
    ),
    "complex": (lambda p, t: (p[0], t[0] * 1j), DTypeError, "tangent 0 is complex128, its output"),
}


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("case", NONSENSE)
def test_a_rule_that_returns_nonsense_is_refused(case, mode):
    rule, error, message = NONSENSE[case]
    f = with_rule(rule)

    derivatives = {
        "forward": lambda: dg.jvp(f, (X,), (X,)),
        "reverse": lambda: dg.grad(lambda x: dg.sum(f(x)))(X),
    }

    with pytest.raises(error, match=message):
        derivatives[mode]()


@pytest.mark.parametrize(
    ("rule", "operation"),
    [
        (lambda p, t: (p[0], t[0] * t[0]), "multiply"),
        (lambda p, t: (p[0], dg.abs(t[0])), "abs"),
        (lambda p, t: (p[0], dg.tanh(2.0 * t[0])), "tanh"),
        (lambda p, t: (p[0], p[0] / t[0]), "divide"),
        (lambda p, t: (p[0], dg.maximum(t[0], 0.0)), "maximum"),
    ],
)
def test_reverse_mode_refuses_a_rule_that_is_not_linear(rule, operation):
    with pytest.raises(LinearityError, match=f"the rule takes {operation} of something computed"):
        dg.grad(lambda x: dg.sum(with_rule(rule)(x)))(X)


def test_linear_rules_of_many_sorts_are_taken():
    m = np.arange(9.0).reshape(3, 3)

    def rule(primals, tangents):
        (x,), (t,) = primals, tangents
        moved = dg.where(x > 0, t, -t) + dg.flip(t) + dg.matmul(m, t) / (1 + x * x)
        return x, dg.cumulative_sum(moved) + dg.sum(t) * x - dg.mean(t[1:])

    f = with_rule(rule)
    forward = dg.jacfwd(f)(X).numpy()

    np.testing.assert_allclose(dg.jacrev(f)(X).numpy(), forward)


@pytest.mark.parametrize("function", [dg.nn.gelu, dg.nn.mish, dg.nn.elu, dg.nn.relu, dg.softmax])
def test_tangents_of_activation_functions_are_linear(function):
    f = dg.custom_jvp(function)
    f.defjvp(lambda primals, tangents: dg.jvp(function, primals, tangents))

    for derive in (dg.jacrev, dg.jacfwd, dg.hessian):
        found, expected = (derive(lambda x, g=g: dg.sum(g(x) * x))(X) for g in (f, function))
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6)


def test_a_function_without_rule_is_refused():
    @dg.custom_jvp
    def bare(x):
        return x

    with pytest.raises(TypeError, match="bare has no derivative yet; decorate its rule"):
        bare(1.0)


def test_keyword_only_arguments_are_refused():
    @dg.custom_jvp
    def f(x, *, scale=1.0):
        return x * scale

    f.defjvp(lambda p, t: (p[0], t[0]))

    with pytest.raises(TypeError, match="the keyword arguments scale have no position"):
        f(1.0, scale=2.0)


def test_rules_by_argument_of_another_number_are_refused():
    f = dg.custom_jvp(lambda x, y: x * y)
    f.defjvps(lambda t, out, x, y: t)

    with pytest.raises(TypeError, match="given 1 rules for 2 arguments"):
        dg.grad(f)(1.0, 2.0)
    with pytest.raises(TypeError, match="defjvps takes no nondiff_argnums"):
        dg.custom_jvp(lambda x: x, nondiff_argnums=(0,)).defjvps(None)
