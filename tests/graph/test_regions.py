"""Elementwise operations of traced functions in one pass: which are fused, and the same numbers."""

import numpy as np
import pytest

import distgrad as dg
from distgrad import tree
from distgrad.backend.scalar_code import C_TYPES
from distgrad.core.op import Acting, Kind
from distgrad.graph.nodes import Graph
from distgrad.graph.plan import Plan
from distgrad.graph.regions import fusion_of
from distgrad.testing.inputs import values

SHAPE = (40, 131)  # more elements than the fewest that are fused, and no multiple of a vector


class Taking:
    """Who fuses anything of real floats from one element on, and makes no kernels."""

    fewest = 1
    reduces = False

    def takes(self, formula):
        return all(dtype.name in ("bool", "float32", "float64") for _, dtype in formula.inputs)


class Summing(Taking):
    """Who takes totals, too."""

    reduces = True


def array(shape=SHAPE, low=-1.5, high=1.7, seed=0, dtype=np.float32):
    return dg.asarray(values(shape, low, high, seed=seed).astype(dtype))


def fusion_in(f, *operands):
    """Return what is fused of a function, whoever computes it."""
    graph = dg.function(f).graph(*operands)
    calls = [node for node in graph.needed_for(graph.outputs) if node.op is not None]
    return fusion_of(calls, graph.outputs, Taking())


def totals_in(f, *operands):
    """Return the totals of each region, where regions may have some."""
    graph = dg.function(f).graph(*operands)
    calls = [node for node in graph.needed_for(graph.outputs) if node.op is not None]
    parts = fusion_of(calls, graph.outputs, Summing()).parts
    return [[each and each[0] for each in part.region.totals] for part in parts]


def regions_in(f, *operands):
    """Return the operations of each region."""
    parts = fusion_in(f, *operands).parts
    return [" ".join(node.op.name for node in part.members) for part in parts]


def reasons_in(f, *operands):
    """Return why operations are alone, by their names."""
    return {node.op.name: reason for node, reason in fusion_in(f, *operands).alone}


# --- which operations belong together -------------------------------------------------------------


def test_a_chain_is_one_region_that_reads_and_writes_once():
    (part,) = fusion_in(lambda x: dg.tanh(dg.sin(x) * 2.0 + x), array()).parts

    assert [node.op.name for node in part.members] == ["sin", "multiply", "add", "tanh"]
    assert [(len(part.inputs), len(part.outputs))] == [(1, 1)]
    assert [name for name, _ in part.region.formula.inputs] == ["x0"]
    assert part.region.shape == SHAPE


def test_branches_that_meet_again_are_one_region():
    f = lambda x, y: (x + y) * (x - y) + dg.exp(x) * dg.exp(y)  # noqa: E731

    assert regions_in(f, array(), array(seed=1)) == ["add subtract multiply exp exp multiply add"]


def test_what_others_read_is_written_too():
    def f(x):
        y = dg.sin(x)
        return y, dg.sum(y * x, axis=0)

    (part,) = fusion_in(f, array()).parts

    assert [node.op.name for node in part.outputs] == ["sin", "multiply"]


def test_operations_with_another_one_in_between_are_apart():
    def f(x):
        y = dg.exp(x) * 2.0
        return y / dg.sum(y) + 1.0

    assert regions_in(f, array()) == ["exp multiply", "divide add"]


def test_a_way_through_another_region_counts_as_in_between():
    # b waits for the sum of a's region, and c for the sum of b's: c cannot be computed with a.
    def f(x, z):
        a = dg.sin(x) * 2.0
        b = dg.cos(z) * dg.sum(a)
        return (a + dg.sum(b)) * 3.0

    regions = regions_in(f, array(), array((7, 11)))

    assert regions == ["sin multiply", "cos multiply", "add multiply"]


def test_operations_that_share_nothing_are_apart():
    f = lambda x, y: (dg.sin(x) + 1.0, dg.cos(y) + 2.0)  # noqa: E731

    assert regions_in(f, array(), array(seed=1)) == ["sin add", "cos add"]


def test_shapes_and_dtypes_are_apart():
    def f(x, y, z):
        return dg.sin(x) * x, dg.sin(y) * y, dg.sin(z) * z

    operands = array(), array((7, 3)), array(dtype=np.float64)

    assert regions_in(f, *operands) == ["sin multiply"] * 3


def test_long_chains_are_cut():
    def f(x):
        for number in range(500):
            x = dg.sin(x) + float(number)
        return x

    assert [len(each.split()) for each in regions_in(f, array())] == [400, 400, 200]


def test_sums_of_all_elements_are_part_of_a_region():
    assert totals_in(lambda x: dg.sum(dg.sin(x)), array()) == [["sum"]]
    assert totals_in(lambda x: dg.mean(x * x, keepdims=True), array()) == [["mean"]]
    both = lambda x: (x * 2.0, dg.sum(x * 2.0))  # noqa: E731
    assert totals_in(both, array()) == [[None, "sum"]]


def test_other_sums_are_not():
    assert totals_in(lambda x: dg.sum(dg.sin(x) * x, axis=0), array()) == [[None]]
    masks = lambda x: dg.sum((x > 0) & (x < 1))  # noqa: E731
    assert totals_in(masks, array()) == [[None]]


def test_what_reads_a_sum_is_another_region():
    def f(x):
        y = dg.exp(x)
        return dg.sum(y / dg.sum(y))

    assert regions_in(f, array()) == []  # one operation each, without totals
    assert totals_in(f, array()) == [[None, "sum"], ["sum"]]


@pytest.mark.parametrize(
    ("f", "operands", "name", "reason"),
    [
        (lambda x: dg.sum(dg.sin(x)), [array()], "sin", "no other operation"),
        (lambda n: (n + 1) * n, [dg.asarray(np.arange(60))], "add", "one real floating dtype"),
        (lambda x: dg.astype(x, dg.float64) * 2.0, [array()], "astype", "one real floating dtype"),
        (lambda x: dg.special.zeta(x, 2.0) * x, [array()], "zeta", "zeta"),
        (
            lambda a, b: a * b + 1.0,
            [array((3, 1, 4, 1)), array((1, 5, 1, 2))],
            "multiply",
            "repeated along too many axes",
        ),
    ],
)
def test_the_reason_is_told_for_what_is_alone(f, operands, name, reason):
    assert reason in reasons_in(f, *operands)[name]


def test_small_arrays_are_not_looked_at():
    f = dg.function(lambda x: dg.sin(x) * x)
    f(array((5, 5)))

    (trace,) = f.explain().traces
    assert trace.fused == trace.alone == ()


def test_what_is_repeated_is_read_as_it_is():
    def f(x, row):
        return dg.sin(x) * dg.broadcast_to(row, SHAPE) + 1.0

    (part,) = fusion_in(f, array(), array(SHAPE[1:])).parts

    assert [node.shape for node in part.inputs] == [SHAPE, SHAPE[1:]]


def test_what_a_plan_is_given_is_not_looked_through():
    # The cotangent of a sum is one number that is repeated; the plan is given the repeated array.
    graph = Graph("given")
    x = graph.add_input((), np.dtype(np.float32))
    repeated = dg.ops.VOCABULARY["broadcast_to"]
    spec = dg.core.op.Spec(SHAPE, np.dtype(np.float32))
    y = graph.add_call(repeated, (x,), {"shape": SHAPE}, spec, "")
    z = graph.add_call(dg.ops.VOCABULARY["sin"], (y,), {}, spec, "")
    graph.outputs = [graph.add_call(dg.ops.VOCABULARY["multiply"], (z, y), {}, spec, "")]
    plan = Plan(graph, [y], graph.outputs, dg.asarray(1.0).kernels)
    plan.compile(())
    given = values(SHAPE, -1.0, 1.0).astype(np.float32)

    (found,) = plan.execute([given])

    np.testing.assert_allclose(found, np.sin(given) * given, rtol=1e-6)


def test_what_does_more_than_compute_stays_in_order():
    seen = []

    def acting(name):
        return Acting(
            name, Kind.OPAQUE, lambda x: x, compose=lambda xp, x: seen.append(name) or x + 1
        )

    graph = Graph("acts")
    spec = dg.core.op.Spec(SHAPE, np.dtype(np.float32))
    x = graph.add_input(*spec)
    vocabulary = dg.ops.VOCABULARY
    late = graph.add_call(vocabulary["sin"], (x,), {}, spec, "")
    first = graph.add_call(acting("first"), (late,), {}, spec, "")
    second = graph.add_call(acting("second"), (x,), {}, spec, "")
    y = graph.add_call(vocabulary["cos"], (x,), {}, spec, "")
    graph.outputs = [graph.add_call(vocabulary["multiply"], (late, y), {}, spec, ""), second, first]
    plan = Plan(graph, [x], graph.outputs, dg.asarray(1.0).kernels)
    plan.compile(())
    given = values(SHAPE, -1.0, 1.0).astype(np.float32)

    product, *_ = plan.execute([given])

    assert len(plan.fusion.parts) == 1
    assert seen == ["first", "second"]
    np.testing.assert_allclose(product, np.sin(given) * np.cos(given), rtol=1e-6)


# --- the same numbers -----------------------------------------------------------------------------


def programs():
    """Yield programs over operands: (name, function, operands)."""
    x, y = array(), array(seed=1)
    row, column, one = array(SHAPE[1:]), array((SHAPE[0], 1)), array(())
    yield "chain", lambda x, y: dg.tanh(x * y + 0.5) / (1.0 + x * x), (x, y)
    yield "choices", lambda x, y: dg.where((x > y) & (x < 1.0), x, dg.maximum(y, 0.2)), (x, y)
    yield "masks", lambda x, y: ((x > 0) | ~(y > x), dg.isnan(x / y) & (x > 0.5)), (x, y)
    yield "rows", lambda x, b: dg.exp(x + b) * b, (x, row)
    yield "columns", lambda x, c: (x - c) * dg.exp(-c), (x, column)
    yield "both", lambda x, b, c: dg.sqrt(dg.abs(x * b + c)) - b * c, (x, row, column)
    yield "one", lambda x, s: dg.log1p(x * x) * s - s, (x, one)
    yield "only repeated", lambda b, c: dg.sin(b * c) + b, (row, column)
    yield "full", lambda x: dg.sin(x) * dg.full(SHAPE, 1.5, dtype=x.dtype) + dg.ones_like(x), (x,)
    yield "signed zeros", lambda x: dg.copysign(x, -x) * dg.sign(x), (array(low=-0.1, high=0.1),)
    blocks = array((6, 30, 31)), array((6, 1, 31)), array((30, 1))
    yield "three loops", lambda a, b, c: dg.sin(a * b) + a * c, blocks
    yield "sums", lambda x, y: (dg.sum(x * y), dg.mean(dg.exp(x), keepdims=True)), (x, y)
    yield "a softmax", lambda x: dg.exp(x) / dg.sum(dg.exp(x)) * 4000.0, (x,)
    turned = array(SHAPE[::-1]).T
    yield "turned", lambda x, y: dg.sin(x) * y + x, (turned, y)
    backward = dg.asarray(x.numpy()[::-1, ::2][:, :60])
    yield "strided", lambda x: dg.tanh(x * 2.0) - x, (dg.concat([backward] * 2, axis=1),)


PROGRAMS = {name: (f, operands) for name, f, operands in programs()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_fused_function_gives_the_same(name, dtype):
    f, operands = PROGRAMS[name]
    operands = tuple(dg.astype(each, dtype) for each in operands)
    traced = dg.function(f)

    found, expected = traced(*operands), f(*operands)

    assert traced.explain().traces[0].fused
    several = isinstance(found, tuple)
    for one, other in zip(found, expected, strict=True) if several else [(found, expected)]:
        assert one.dtype == other.dtype
        scale = 3e-6 if dtype == "float32" else 5e-15
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=scale, atol=scale)


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "masks"])
def test_its_gradients_are_the_same(name):
    f, operands = PROGRAMS[name]
    operands = tuple(dg.astype(each, dg.float64) for each in operands)
    places = tuple(range(len(operands)))
    one = lambda *each: sum(dg.sum(dg.sin(y)) for y in tree.flatten(f(*each))[0])  # noqa: E731
    gradients = dg.grad(one, argnums=places)
    traced = dg.function(gradients)

    for one, other in zip(traced(*operands), gradients(*operands), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-11, atol=1e-12)
    inner = dg.function(f)
    outer = lambda *each: sum(dg.sum(dg.sin(y)) for y in tree.flatten(inner(*each))[0])  # noqa: E731
    through = dg.grad(outer, argnums=places)
    for one, other in zip(through(*operands), gradients(*operands), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-11, atol=1e-12)


def test_sums_and_products_have_the_bits_of_operations_one_by_one():
    def f(x, y):
        return (x * y + x / y - 3.0) * dg.sqrt(dg.abs(x)) + dg.square(y)

    x, y = array(), array(seed=1)

    assert np.array_equal(dg.function(f)(x, y).numpy(), f(x, y).numpy())


@pytest.mark.parametrize("dtype", C_TYPES.keys() & {"float32", "float64"})
def test_bits_do_not_depend_on_the_place_of_an_element(dtype):
    f = dg.function(lambda x: dg.exp(dg.sin(x)) * dg.tanh(x) + dg.log(x))
    for number in (0.37, 1.234, 40.5):
        found = f(dg.full((70, 67), number, dtype=dtype)).numpy()

        assert len(np.unique(found)) == 1


def test_arguments_are_not_changed_and_results_are_new():
    x = array()
    before = x.numpy().copy()
    f = dg.function(lambda x: (dg.sin(x) * 2.0, dg.positive(x) + 0.0 * x))

    first, second = f(x), f(x)

    assert np.array_equal(x.numpy(), before)
    assert not any(np.shares_memory(a.numpy(), b.numpy()) for a in first for b in second)


def test_what_is_not_finite_is_still_found():
    f = dg.function(lambda x: dg.log(x) * 2.0 + 1.0)
    with dg.debug_nans(), pytest.raises(dg.errors.NonFiniteError, match=r"log.*test_regions"):
        f(array(low=-1.0, high=1.0))


def test_assigned_variables_get_what_is_fused():
    v = dg.Variable(array())
    f = dg.function(lambda x: v.assign(dg.sin(v) * x + 1.0))
    expected = np.sin(v.numpy()) * 2.0 + 1.0

    f(dg.full(SHAPE, 2.0))

    np.testing.assert_allclose(v.numpy(), expected, rtol=1e-6, atol=1e-6)


def test_the_explanation_names_what_is_fused_and_what_is_not():
    f = dg.function(lambda x: dg.special.zeta(dg.exp(x) * 2.0 + 1.5, 2.0))
    f(array())

    (trace,) = f.explain().traces
    (fused,), (alone,) = trace.fused, trace.alone
    assert fused.startswith(
        "3 operations (exp, multiply, add) on float32[40, 131] read 1 array and write 1 array"
    )
    assert "test_regions.py" in fused
    assert alone.startswith("zeta")
    assert "fused, in one pass over memory: 1" in str(f.explain())
