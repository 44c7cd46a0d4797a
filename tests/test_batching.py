"""vmap: one run for the whole batch gives what a loop over the examples gives."""

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad.backend import ArrayModuleBackend
from distgrad.batching import BatchedValueError
from distgrad.core import apply
from distgrad.errors import ShapeError
from distgrad.testing import rules
from distgrad.testing.samples import samples

RNG = np.random.default_rng(3)
X = RNG.normal(size=(5, 3))
CUBES = RNG.normal(size=(5, 3, 4))
W = RNG.normal(size=(3, 4))
STACK = RNG.normal(size=(2, 4, 3))


def loop(f, *arrays):
    return np.stack([np.asarray(f(*(dg.asarray(a[i]) for a in arrays))) for i in range(5)])


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x * 2.0 - 1.0,
        lambda x: x + dg.asarray(W),
        lambda x: x * dg.asarray(W[:, :1]),
        dg.sum,
        lambda x: dg.mean(x, axis=0, keepdims=True),
        lambda x: dg.max(x, axis=-1),
        lambda x: dg.prod(x, axis=(0, 1)),
        lambda x: dg.logsumexp(x, axis=1),
        dg.argmax,
        lambda x: dg.argmax(x, axis=1, keepdims=True),
        lambda x: dg.softmax(x, axis=0),
        lambda x: dg.cumulative_sum(x, axis=-1),
        lambda x: dg.reshape(x, (2, -1)),
        lambda x: dg.broadcast_to(x, (2, 3, 4)),
        lambda x: dg.permute_dims(x, (1, 0)),
        lambda x: x.mT,
        lambda x: dg.squeeze(dg.expand_dims(x, axis=-1), -1),
        dg.flip,
        lambda x: dg.flip(x, axis=0),
        lambda x: dg.concat([x, dg.asarray(W), x], axis=1),
        lambda x: dg.stack([x, x]),
        lambda x: x @ dg.asarray(W).mT,
        lambda x: dg.asarray(W).mT @ x,
        lambda x: x @ x.mT,
        lambda x: x[0] @ x[1],
        lambda x: x[:, 0] @ dg.asarray(W),
        lambda x: dg.asarray(W) @ x[0],
        lambda x: x[0] @ x.mT,
        lambda x: x @ x[0],
        lambda x: x @ dg.asarray(STACK),
        lambda x: x[1],
        lambda x: x[::2, ::-1],
        lambda x: x[..., None, 0],
        lambda x: x[[0, 2, 2]],
        lambda x: x[[0, 2], [1, 3]],
        lambda x: x[None, [0, 2], :, None],
        lambda x: x[[0, 1], None, [2, 3]],
        lambda x: dg.where(x > 0, x, 0.0),
        lambda x: dg.where(x > 0, x, dg.asarray(W)),
        lambda x: dg.astype(x, "float32"),
        lambda x: dg.zeros((3, 4)) + x,
        lambda x: dg.asarray(7.0),
    ],
)
def test_one_run_equals_a_loop(f):
    np.testing.assert_allclose(dg.vmap(f)(CUBES).numpy(), loop(f, CUBES), rtol=1e-12)


@pytest.mark.parametrize(
    "pick",
    [
        lambda x, i: x[i],
        lambda x, i: x[:, i],
        lambda x, i: x[i, i],
        lambda x, i: dg.take(x, i, axis=1),
    ],
)
def test_positions_of_ones_own_are_picked_and_their_gradients_put_back(pick):
    positions = np.array([[0, 2], [1, 1], [2, 0], [0, 0], [2, 1]])

    def slope(x, i):
        return dg.grad(lambda x: dg.sum(pick(x, i) ** 2))(x)

    np.testing.assert_allclose(
        dg.vmap(pick)(CUBES, positions).numpy(), loop(pick, CUBES, positions)
    )
    np.testing.assert_allclose(
        dg.vmap(slope)(CUBES, positions).numpy(), loop(slope, CUBES, positions)
    )


def test_cross_entropy_of_ones_own_label():
    labels = np.array([0, 3, 1, 2, 2])

    def loss(x, label):
        return dg.softmax_cross_entropy(labels=label, logits=dg.sum(x, axis=0))

    np.testing.assert_allclose(
        dg.vmap(loss)(CUBES, labels).numpy(), loop(loss, CUBES, labels), rtol=1e-12
    )


def test_per_example_gradients_of_shared_weights():
    def loss(w, x):
        return dg.sum(dg.tanh(x @ w) ** 2)

    found = dg.vmap(dg.grad(loss), in_axes=(None, 0))(W, X)

    expected = loop(lambda x: dg.grad(loss)(dg.asarray(W), x), X)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_a_tape_outside_differentiates_through_vmap():
    w = dg.Variable(W)
    with dg.GradientTape() as tape:
        mapped = dg.sum(dg.vmap(lambda x: dg.sum(dg.tanh(x @ w) ** 2))(X))
    with dg.GradientTape() as plain:
        direct = dg.sum(dg.tanh(X @ w) ** 2)

    np.testing.assert_allclose(
        tape.gradient(mapped, w).numpy(), plain.gradient(direct, w).numpy(), rtol=1e-12
    )


def test_vmap_nests():
    products = dg.vmap(lambda x: dg.vmap(lambda y: dg.sum(x * y))(X))(X)

    np.testing.assert_allclose(products.numpy(), X @ X.T)


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 5, 9])
def test_chunks_change_nothing_but_memory(chunk_size):
    f = dg.grad(lambda x: dg.sum(dg.sin(x) ** 3))

    np.testing.assert_allclose(dg.vmap(f, chunk_size=chunk_size)(X).numpy(), dg.vmap(f)(X).numpy())


def test_axes_are_named_for_arguments_leaves_and_results():
    def f(nest, shift):
        return {"sum": nest["a"] + nest["b"], "shift": shift * nest["a"]}

    nest = {"a": X, "b": X.T.copy()}
    mapped = dg.vmap(f, in_axes=({"a": 0, "b": 1}, None), out_axes={"sum": 1, "shift": 0})
    found = mapped(nest, 2.0)

    np.testing.assert_allclose(found["sum"].numpy(), (2 * X).T)
    np.testing.assert_allclose(found["shift"].numpy(), 2 * X)


def test_an_entry_of_the_axes_holds_for_all_below_it():
    arg = {"data": (X, [X, None]), "shared": {"w": W, "more": [W]}}

    def f(arg, y):
        x, (other, _) = arg["data"]
        return {"found": (x @ arg["shared"]["w"] * y, other), "w": arg["shared"]}

    mapped = dg.vmap(
        f,
        in_axes=({"data": 0, "shared": None}, None),
        out_axes={"found": 1, "w": None},
        chunk_size=2,
    )
    found = mapped(arg, 2.0)

    np.testing.assert_allclose(found["found"][0].numpy(), 2.0 * (X @ W).T)
    np.testing.assert_array_equal(found["found"][1].numpy(), X.T)
    np.testing.assert_array_equal(found["w"]["w"].numpy(), W)
    np.testing.assert_array_equal(found["w"]["more"][0].numpy(), W)


def test_numbers_by_keyword_and_unmapped_flags_are_the_same_for_all_examples():
    def f(x, mode, *, scale, by=None, axes=(0,)):
        return dg.sum(x * scale * by, axis=axes) if mode == "double" else x

    mapped = dg.vmap(f, in_axes=(0, None))

    found = mapped(X, "double", scale=2.0, by=dg.asarray(3.0), axes=[0])

    np.testing.assert_allclose(found.numpy(), 6 * X.sum(1))


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_arrays_by_keyword_are_mapped_over_their_first_axis(chunk_size):
    def f(x, *, y, more):
        return x @ (y + more["z"])

    mapped = dg.vmap(f, in_axes=1, chunk_size=chunk_size)
    keywords = {"y": dg.Variable(X), "more": {"z": X[::-1].copy()}}

    found = mapped(X.T, **keywords)

    np.testing.assert_allclose(found.numpy(), np.sum(X * (X + X[::-1]), axis=1))


def test_examples_may_come_by_keyword_alone():
    for in_axes in (0, ()):
        found = dg.vmap(lambda *, x: x * x, in_axes)(x=X)
        np.testing.assert_allclose(found.numpy(), X * X)


def test_an_array_by_keyword_that_is_no_batch_is_refused_by_its_name():
    with pytest.raises(ShapeError, match=r"5 \(array 1\) and 3 \(keyword argument w.*by position"):
        dg.vmap(lambda s, x, w: s * x @ w, in_axes=(None, 0))(2.0, X, w=W)


def test_a_value_that_all_examples_share_may_steer_python():
    found = dg.vmap(lambda x, n: x * 2.0 if n > 1 else x, in_axes=(0, None))(X, dg.asarray(2))

    np.testing.assert_array_equal(found.numpy(), 2 * X)


def test_moving_to_another_backend_inside_is_refused():
    with pytest.raises(BatchedValueError, match="moves to another backend"):
        dg.vmap(lambda x: x.to(backend=ArrayModuleBackend("strict", array_api_strict)))(X)


@pytest.mark.parametrize("index", ["x[1:, i]", "x[i, :, i]", "x[..., i]", "x[None, i]", "x[0, i]"])
def test_positions_of_ones_own_among_other_parts_of_an_index(index):
    pick = {
        "x[1:, i]": lambda x, i: x[1:, i],
        "x[i, :, i]": lambda x, i: x[None][i * 0, :, i],
        "x[..., i]": lambda x, i: x[..., i],
        "x[None, i]": lambda x, i: x[None, i],
        "x[0, i]": lambda x, i: x[0, i],
    }[index]
    positions = np.array([[0, 2], [1, 1], [2, 0], [0, 0], [2, 1]])

    def slope(x, i):
        return dg.grad(lambda x: dg.sum(pick(x, i) ** 2))(x)

    for f in (pick, slope):
        np.testing.assert_allclose(dg.vmap(f)(CUBES, positions).numpy(), loop(f, CUBES, positions))


def test_an_operation_without_a_rule_is_computed_one_by_one_with_one_warning():
    masks = RNG.permuted(np.tile([True, False, True], (5, 1)), axis=1)  # two of three, everywhere

    def pick(x, mask):
        return x[mask] + 2.0 * x[mask] ** 2

    with pytest.warns(UserWarning, match="getitem has no batching rule") as caught:
        found = dg.vmap(pick)(CUBES, masks)

    assert len(caught) == 1
    np.testing.assert_array_equal(found.numpy(), loop(pick, CUBES, masks))


LINES = np.sort(RNG.integers(0, 6, (5, 7)), axis=1)  # with many ties
SOUGHT = RNG.integers(-1, 8, (5, 2, 3))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("lines", "sought"),
    [
        (LINES, SOUGHT),
        (LINES.astype(float), SOUGHT / 2),
        (LINES, SOUGHT / 2),
        (LINES.astype(np.float32), SOUGHT),
        (np.sort(X, axis=1), X[::-1]),
        (LINES, SOUGHT[:, 0, 0]),
        (LINES[:, :0], SOUGHT),
        (LINES, SOUGHT[:, :0]),
        (np.sort(np.where(X > 0, X, np.nan), axis=1), np.where(X < 0.5, X, np.nan)),
    ],
)
def test_each_example_searches_its_own_line(lines, sought, side):
    def find(line, values):
        return dg.searchsorted(line, values, side=side)

    expected = [np.searchsorted(*pair, side=side) for pair in zip(lines, sought, strict=True)]

    np.testing.assert_array_equal(dg.vmap(find)(lines, sought).numpy(), expected)
    np.testing.assert_array_equal(dg.function(dg.vmap(find))(lines, sought).numpy(), expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_example_finds_the_same_in_its_own_line(side):
    for sought in (2, 2.5, np.array([3, 0, 2, 2])):
        expected = [np.searchsorted(line, sought, side=side) for line in LINES]

        found = dg.vmap(lambda line, s=sought: dg.searchsorted(line, s, side=side))(LINES)

        np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("sought", [SOUGHT, SOUGHT[:, 0, 0] / 2])
def test_each_example_finds_its_own_in_one_line(sought, side):
    found = dg.vmap(lambda each: dg.searchsorted(LINES[0], each, side=side))(sought)

    np.testing.assert_array_equal(found.numpy(), np.searchsorted(LINES[0], sought, side=side))


def test_batches_of_batches_search_their_own_lines():
    lines, sought = np.stack([LINES, LINES + 1]), np.stack([SOUGHT, SOUGHT + 2])
    expected = [
        [np.searchsorted(*pair) for pair in zip(*group, strict=True)]
        for group in zip(lines, sought, strict=True)
    ]

    found = dg.vmap(dg.vmap(dg.searchsorted))(lines, sought)

    np.testing.assert_array_equal(found.numpy(), expected)


# Whose result's shape depends on values, so that examples may differ in it; and the search in
# sorted lines, which samples put in another order.
WITHOUT_RULE = {"nonzero", "unique"}
IN_ORDER = {"searchsorted"}


def _mapped_samples():
    for sample in samples():
        arrays = [i for i, x in enumerate(sample.operands) if isinstance(x, np.ndarray)]
        masks = any(sample.operands[i].dtype == bool for i in arrays if i)
        by_mask = masks and any("index" in name for name in sample.params)
        if arrays and not by_mask and sample.op.name not in {*WITHOUT_RULE, *IN_ORDER, "transfer"}:
            yield pytest.param(sample, arrays, id=str(sample))


@pytest.mark.parametrize(("sample", "places"), list(_mapped_samples()))
def test_every_operation_has_a_batching_rule_that_equals_a_loop(sample, places):
    def f(*operands):
        return apply(sample.op, *operands, **sample.params)

    choices = [places, *([place] for place in places)] if len(places) > 1 else [places]
    for chosen in choices:
        operands = [
            np.stack([x, np.flip(x), x]) if i in chosen else x  # in range, positive definite
            for i, x in enumerate(sample.operands)
        ]
        axes = tuple(0 if i in chosen else None for i in range(len(operands)))
        one_by_one = [
            f(*(x[k] if i in chosen else x for i, x in enumerate(operands))) for k in range(3)
        ]

        found = dg.vmap(f, in_axes=axes)(*operands)  # a warning of a missing rule is an error

        given, expected = (
            ([found], [one_by_one]) if sample.op.outputs == 1 else (found, zip(*one_by_one))  # noqa: B905
        )
        for ours, theirs in zip(given, expected, strict=True):
            rules.assert_close(ours.numpy(), np.stack([y.numpy() for y in theirs]), str(sample))


@pytest.mark.parametrize(
    ("f", "args", "keywords", "error", "message"),
    [
        (lambda x: 1.0 if x > 0 else 2.0, (X[:, 0],), {}, BatchedValueError, "take dg.where"),
        (lambda x: x.numpy(), (X,), {}, BatchedValueError, "differs from example to example"),
        (lambda i: np.eye(9)[i], (np.arange(3),), {}, BatchedValueError, r"dg\.asarray\(a\)\[i\]"),
        (lambda x, y: x, (X, X[:2]), {}, ShapeError, "lengths 5 .* and 2"),
        (lambda x: x, (X,), {"in_axes": None}, ShapeError, "no argument is mapped"),
        (lambda x: x, (X,), {"in_axes": 2}, ShapeError, "axis is 2"),
        (lambda x: x, (X,), {"in_axes": (0, 0)}, ValueError, "for 1 arguments"),
        (lambda x: x, ({"a": X},), {"in_axes": ({"b": 0},)}, ValueError, "in_axes of argument 0"),
        (lambda x, y: x * y, (X, 2.0), {}, ShapeError, "None in in_axes"),
        (lambda x: x, (X,), {"out_axes": None}, ValueError, "None for output 0, which differs"),
        (lambda x: {"a": x}, (X,), {"out_axes": {"b": 0}}, ValueError, "out_axes is {'b': 0}"),
        (lambda x: x, (X,), {"chunk_size": 0}, ValueError, "chunk_size is 0"),
    ],
)
def test_what_vmap_cannot_do_is_refused(f, args, keywords, error, message):
    with pytest.raises(error, match=message):
        dg.vmap(f, **keywords)(*args)
