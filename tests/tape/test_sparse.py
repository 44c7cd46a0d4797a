"""Gradients of gathers keep to the rows that were picked, in every way of asking for them."""

import tracemalloc

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad.backend import ArrayModuleBackend
from distgrad.errors import NonFiniteError, UnconnectedError
from distgrad.testing import check_gradients

IDS = [2, 0, 2, 3]
TABLE = np.random.default_rng(5).normal(size=(5, 3))
TOLERANCE = 1e-12


def table(values=TABLE):
    return dg.Variable(values, name="table")


def cubes(picked):
    return dg.sum(picked**3)


def assert_is(given, expected):
    np.testing.assert_allclose(given.numpy(), expected, rtol=TOLERANCE, atol=TOLERANCE)


def assert_sparse(given, expected):
    assert isinstance(given, dg.IndexedSlices)
    assert given.shape == np.shape(expected)
    assert_is(given, expected)


def expected_gradient(f):
    """Return the gradient by `take`, which is dense, of a function of a picker and a table."""
    w = table()
    with dg.GradientTape() as tape:
        y = f(lambda x, ids: dg.take(x, np.asarray(ids, np.int64), axis=0), w)
    gradient = tape.gradient(y, w)
    assert isinstance(gradient, dg.Tensor)
    return gradient.numpy()


def sparse_gradient(f, pick=dg.gather):
    w = table()
    with dg.GradientTape() as tape:
        y = f(pick, w)
    return tape.gradient(y, w)


# --- where they are sparse ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pick", "ids"),
    [
        *(
            (pick, ids)
            for pick in (dg.gather, dg.embedding)
            for ids in (IDS, [[2, 0], [2, 3]], 4, [])
        ),
        (dg.gather, [-1, 4]),  # an embedding has no negative identifiers
    ],
    ids=str,
)
def test_the_gradient_of_a_source_has_a_row_for_each_position(pick, ids):
    given = sparse_gradient(lambda p, w: cubes(p(w, ids)), pick)

    assert_sparse(given, expected_gradient(lambda p, w: cubes(p(w, ids))))
    assert given.indices.shape == (np.size(ids),)
    assert given.values.shape == (np.size(ids), 3)


def test_rows_may_have_several_axes_or_none():
    blocks, vector = dg.Variable(np.ones((4, 2, 3))), dg.Variable(np.ones(4))
    with dg.GradientTape() as tape:
        y = dg.sum(dg.gather(blocks, [[1], [1]])) + dg.sum(dg.gather(vector, [3, 3]))

    of_blocks, of_vector = tape.gradient(y, [blocks, vector])

    assert of_blocks.values.shape == (2, 2, 3)
    assert of_blocks.numpy()[1].tolist() == [[2.0] * 3] * 2
    assert of_vector.numpy().tolist() == [0.0, 0.0, 0.0, 2.0]


def test_several_gathers_put_their_rows_end_to_end_the_last_first():
    def f(pick, w):
        return cubes(pick(w, [1, 2])) + dg.sum(pick(w, [4, 4]))

    given = sparse_gradient(f)

    assert_sparse(given, expected_gradient(f))
    assert given.indices.tolist() == [4, 4, 1, 2]


@pytest.mark.parametrize(
    "f",
    [
        lambda pick, w: cubes(pick(w, IDS)) + dg.sum(w * w),
        lambda pick, w: dg.sum(w * w) + cubes(pick(w, IDS)),
        lambda pick, w: dg.sum(w * w) + cubes(pick(w, IDS)) + dg.sum(w) + dg.sum(pick(w, [1])),
        lambda pick, w: dg.sum(dg.matmul(pick(w, IDS), dg.matrix_transpose(w)) ** 2),
        lambda pick, w: sum(dg.sum(w) + cubes(pick(w, IDS)) for _ in range(4)),
    ],
)
def test_where_dense_contributions_meet_rows_the_gradient_is_dense(f):
    given = sparse_gradient(f)

    assert isinstance(given, dg.Tensor)
    assert_is(given, expected_gradient(f))


@pytest.mark.parametrize(
    "f",
    [
        lambda pick, w: cubes(pick(2.0 * w, IDS)),
        lambda pick, w: cubes(pick(w + 0.0, IDS)) + cubes(pick(w + 0.0, [1])),
        lambda pick, w: cubes(pick(dg.reshape(w, (3, 5)), [0, 2, 2])),
        lambda pick, w: cubes(pick(pick(w, [3, 1, 3]), [0, 0, 2])),
        lambda pick, w: cubes(pick(dg.concat([w, w]), [9, 0, 0])),
    ],
)
def test_on_through_another_operation_the_gradient_is_right(f):
    assert_is(sparse_gradient(f), expected_gradient(f))


def test_through_an_operation_with_several_outputs_it_is_dense():
    @dg.custom_gradient
    def doubled(x):
        return (2.0 * x, 3.0 * x), lambda a, b: 2.0 * a + 3.0 * b

    def f(pick, w):
        twice, thrice = doubled(w)
        return cubes(pick(twice, IDS)) + dg.sum(thrice)

    given = sparse_gradient(f)

    assert isinstance(given, dg.Tensor)
    assert_is(given, expected_gradient(f))


@pytest.mark.parametrize("pick", [lambda w: dg.take(w, dg.asarray(IDS), axis=0), lambda w: w[1:3]])
def test_take_and_subscripts_stay_dense(pick):
    assert isinstance(sparse_gradient(lambda _, w: cubes(pick(w))), dg.Tensor)


@pytest.mark.parametrize("axis", [1, -1])
def test_along_another_axis_the_gradient_is_dense(axis):
    given = sparse_gradient(lambda pick, w: cubes(pick(w, [2, 0, 2], axis=axis)))

    assert isinstance(given, dg.Tensor)
    assert_is(
        given, expected_gradient(lambda _, w: cubes(dg.take(w, dg.asarray([2, 0, 2]), axis=1)))
    )


def test_a_computed_source_gets_rows_and_passes_them_on_dense():
    w = table()
    with dg.GradientTape() as tape:
        twice = 2.0 * w
        y = cubes(dg.gather(twice, IDS))

    of_twice, of_w = tape.gradient(y, [twice, w])

    assert isinstance(of_twice, dg.IndexedSlices)
    assert isinstance(of_w, dg.Tensor)
    np.testing.assert_allclose(of_w.numpy(), 2.0 * of_twice.numpy(), rtol=TOLERANCE)


def test_watched_tensors_and_unwatched_positions_are_as_variables():
    x = dg.asarray(TABLE)
    with dg.GradientTape() as tape:
        tape.watch(x)
        y = cubes(dg.gather(x, dg.asarray(IDS)))

    assert_sparse(tape.gradient(y, x), expected_gradient(lambda p, w: cubes(p(w, IDS))))


def test_the_gradient_has_the_dtype_of_its_source():
    narrow = dg.Variable(TABLE.astype(np.float32))
    half = dg.Variable(TABLE.astype(np.float16))
    with dg.GradientTape() as tape:
        y = dg.sum(dg.gather(narrow, IDS) * np.ones(3)) + dg.sum(dg.gather(half, IDS) * 2.0)

    of_narrow, of_half = tape.gradient(y, [narrow, half])

    assert (of_narrow.dtype, of_half.dtype) == (np.float32, np.float16)
    assert of_half.numpy()[2].tolist() == [4.0] * 3


def test_complex_and_real_tables_follow_the_convention():
    z, x = dg.Variable(TABLE * (1 + 2j)), dg.Variable(TABLE)
    with dg.GradientTape() as tape:
        picked = dg.gather(z, IDS) * dg.gather(x, IDS)
        y = dg.sum(dg.real(picked * dg.conj(picked)))

    of_z, of_x = tape.gradient(y, [z, x])

    with dg.GradientTape() as tape:
        picked = z[dg.asarray(IDS)] * x[dg.asarray(IDS)]
        y = dg.sum(dg.real(picked * dg.conj(picked)))
    dense_z, dense_x = tape.gradient(y, [z, x])
    assert_sparse(of_z, dense_z.numpy())
    assert_sparse(of_x, dense_x.numpy())
    assert (of_z.dtype, of_x.dtype) == (np.complex128, np.float64)


def test_on_a_backend_of_the_standard_alone():
    strict = ArrayModuleBackend("strict", array_api_strict)
    w = dg.Variable(TABLE, backend=strict)
    with dg.GradientTape() as tape:
        y = cubes(dg.gather(w, IDS)) + cubes(dg.gather(w, [1, 1]))

    given = tape.gradient(y, w)

    assert given.backend is strict
    assert_sparse(given, expected_gradient(lambda p, w: cubes(p(w, IDS)) + cubes(p(w, [1, 1]))))


# --- what it costs --------------------------------------------------------------------------------


def test_the_gradient_of_a_large_table_costs_the_memory_of_its_rows():
    w = dg.Variable(np.zeros((200_000, 8), np.float32))  # 6.4 MB
    ids = np.arange(0, 64_000, 1000)
    tracemalloc.start()
    try:
        with dg.GradientTape() as tape:
            y = dg.sum(dg.gather(w, ids) ** 2)
        gradient = tape.gradient(y, w)
        w.assign_sub(0.1 * gradient)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 200_000  # a hundred times the rows would be as much as a thirtieth of the table


def test_a_tape_keeps_nothing_but_the_positions():
    w = table()
    ids = np.array(IDS)
    with dg.GradientTape() as tape:
        dg.gather(w, ids)

    assert tape.summary().nbytes == ids.nbytes
    assert "gather(%1, constant)" in str(tape.graph())


# --- ways of asking -------------------------------------------------------------------------------


def test_the_same_walk_twice_gives_the_same_rows():
    w = table()
    with dg.GradientTape(persistent=True) as tape:
        y = cubes(dg.gather(w, IDS)) + cubes(dg.gather(w, [1]))

    first, second = tape.gradient(y, w), tape.gradient(y, w)

    assert first.indices.tolist() == second.indices.tolist() == [1, *IDS]
    assert_is(second, first.numpy())


def test_output_gradients_and_nests_reach_the_rows():
    w = table()
    upstream = np.random.default_rng(1).normal(size=(4, 3))
    with dg.GradientTape() as tape:
        y = dg.gather(w, IDS)

    (given,) = tape.gradient({"y": y}, (w,), {"y": upstream})

    np.testing.assert_allclose(given.values.numpy(), upstream)


def test_unconnected_zeros_are_dense_and_errors_name_the_table():
    w, unused = table(), table()
    with dg.GradientTape(persistent=True) as tape:
        y = cubes(dg.gather(w, IDS))

    of_w, of_unused = tape.gradient(y, [w, unused], unconnected_gradients="zero")

    assert isinstance(of_w, dg.IndexedSlices)
    assert isinstance(of_unused, dg.Tensor)
    with pytest.raises(UnconnectedError, match="variable 'table'"):
        tape.gradient(y, unused, unconnected_gradients="error")


def test_a_final_gradient_is_announced_as_rows():
    w, b = table(), dg.Variable(np.ones(3))
    announced = {}
    with dg.GradientTape() as tape:
        y = cubes(dg.gather(w, IDS) + b)

    gradients = tape.gradient(y, [w, b], on_ready=announced.__setitem__)

    assert announced[0] is gradients[0]
    assert isinstance(announced[0], dg.IndexedSlices)


def test_jacobians_are_dense():
    w = table()
    with dg.GradientTape(persistent=True) as tape:
        y = dg.gather(w, [1, 1, 4]) ** 2
        dense = w[dg.asarray([1, 1, 4])] ** 2

    given = tape.jacobian(y, w)

    assert isinstance(given, dg.Tensor)
    assert_is(given, tape.jacobian(dense, w).numpy())
    assert_is(tape.jacobian(y, w, experimental_use_pfor=False), given.numpy())


def test_batch_jacobians_are_dense():
    x = dg.asarray(TABLE)
    with dg.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = dg.gather(x, [0, 1, 2, 3, 4]) ** 2

    given = tape.batch_jacobian(y, x)

    expected = np.zeros((5, 3, 3))
    expected[:, range(3), range(3)] = 2 * TABLE
    assert_is(given, expected)


def test_the_path_is_explained():
    w = table()
    with dg.GradientTape(persistent=True) as tape:
        y = cubes(dg.gather(w, IDS))

    gradient = tape.gradient(y, w)

    assert tape.explain(y, w).operations[0] == "gather"
    assert tape.explain(gradient, w).connected


def test_a_nan_on_the_way_back_is_named():
    w = dg.Variable(np.zeros((3, 2)))
    with dg.debug_nans(), dg.GradientTape() as tape:
        y = dg.sum(dg.sqrt(dg.gather(w, [0])))
        with pytest.raises(NonFiniteError) as caught:
            tape.gradient(y, w)

    assert caught.value.gradient_of == "sqrt"


def test_saved_positions_may_be_packed():
    packed = []

    def pack(array):
        packed.append(array)
        return array.copy()

    w = table()
    with dg.saved_values(pack, lambda array: array), dg.GradientTape() as tape:
        y = cubes(dg.gather(w, np.array(IDS)))

    assert_sparse(tape.gradient(y, w), expected_gradient(lambda p, w: cubes(p(w, IDS))))


# --- as targets -----------------------------------------------------------------------------------


def second_order_of_take():
    w = table()
    with dg.GradientTape() as outer:
        with dg.GradientTape() as inner:
            y = cubes(dg.take(w, dg.asarray(IDS), axis=0))
        gradient = inner.gradient(y, w)
    return outer.gradient(gradient, w).numpy()


def test_an_outer_tape_differentiates_rows():
    w = table()
    with dg.GradientTape() as outer:
        with dg.GradientTape() as inner:
            y = cubes(dg.gather(w, IDS))
        gradients = inner.gradient(y, [w])

    assert_sparse(outer.gradient(gradients, w), second_order_of_take())


def test_an_outer_tape_differentiates_what_was_computed_from_rows():
    w = table()

    def penalty(pick):
        with dg.GradientTape() as outer:
            with dg.GradientTape() as inner:
                y = cubes(pick(w, IDS))
            gradient = inner.gradient(y, w)
            penalty = dg.sum((0.5 * gradient) ** 2) + dg.sum(gradient * w)
        return outer.gradient(penalty, w)

    given = penalty(dg.gather)

    assert_is(given, penalty(lambda x, ids: dg.take(x, dg.asarray(ids), axis=0)).numpy())


@pytest.mark.parametrize("inside", [True, False])
def test_one_persistent_tape_differentiates_its_own_rows_to_any_order(inside):
    w = table()
    with dg.GradientTape(persistent=True) as tape:
        y = dg.sum(dg.gather(w, IDS) ** 4)
        if inside:
            first = tape.gradient(y, w)
            second = tape.gradient(first, w)
            third = tape.gradient(second, w)
    if not inside:
        first = tape.gradient(y, w)
        second = tape.gradient(first, w)
        third = tape.gradient(second, w)

    count = np.bincount(IDS, minlength=5)[:, None]
    assert_sparse(first, 4 * count * TABLE**3)
    assert_sparse(second, 12 * count * TABLE**2)
    assert_sparse(third, 24 * count * TABLE)


@pytest.mark.parametrize("as_slices", [True, False])
def test_output_gradients_of_rows_have_the_dense_shape(as_slices):
    w = table()
    with dg.GradientTape() as outer:
        with dg.GradientTape() as inner:
            y = cubes(dg.gather(w, IDS))
        gradient = inner.gradient(y, w)
    upstream = np.random.default_rng(2).normal(size=TABLE.shape)
    given = upstream
    if as_slices:
        upstream = upstream * (np.arange(5) == 2)[:, None]
        given = dg.IndexedSlices(upstream[[2]], [2], upstream.shape)

    found = outer.gradient([gradient], w, [given])

    assert_sparse(found, second_order_of_take() * upstream)


def test_the_jacobian_of_rows_is_that_of_the_dense_array():
    w = table()
    with dg.GradientTape(persistent=True) as outer:
        with dg.GradientTape(persistent=True) as inner:
            sparse = cubes(dg.gather(w, IDS))
            dense = cubes(dg.take(w, dg.asarray(IDS), axis=0))
        of_sparse, of_dense = inner.gradient(sparse, w), inner.gradient(dense, w)

    given = outer.jacobian(of_sparse, w)

    assert given.shape == (5, 3, 5, 3)
    assert_is(given, outer.jacobian(of_dense, w).numpy())


def test_rows_are_refused_where_they_cannot_be_meant():
    slices = dg.IndexedSlices(np.ones((1, 3)), [0], (5, 3))
    with dg.GradientTape(persistent=True) as tape:
        tape.watch(slices)
        y = dg.sum(slices * 2.0)

    with pytest.raises(TypeError, match=r"with respect to its \.values"):
        tape.gradient(y, slices)
    assert tape.gradient(y, slices.values).numpy().tolist() == [[2.0] * 3]
    with pytest.raises(TypeError, match="target is a IndexedSlices"):
        tape.batch_jacobian(slices, slices.values)
    with pytest.raises(TypeError, match="primal 0 is a IndexedSlices"):
        dg.ForwardAccumulator(slices, slices)


# --- forward mode ---------------------------------------------------------------------------------


def test_forward_mode_goes_through_gathers():
    w, direction = table(), np.random.default_rng(3).normal(size=TABLE.shape)
    with dg.ForwardAccumulator(w, direction) as accumulator:
        y = dg.gather(w, IDS) ** 3

    assert_is(accumulator.jvp(y), 3 * TABLE[IDS] ** 2 * direction[IDS])


def test_forward_over_reverse_gives_the_tangent_of_rows():
    w, direction = table(), np.random.default_rng(3).normal(size=TABLE.shape)
    with dg.ForwardAccumulator(w, direction) as accumulator:
        with dg.GradientTape() as tape:
            y = cubes(dg.gather(w, IDS))
        gradient = tape.gradient(y, w)

    tangent = accumulator.jvp(gradient)

    count = np.bincount(IDS, minlength=5)[:, None]
    assert_sparse(tangent, 6 * count * TABLE * direction)


def test_reverse_over_forward_is_sparse():
    w, direction = table(), np.random.default_rng(3).normal(size=TABLE.shape)
    with dg.GradientTape() as tape:
        with dg.ForwardAccumulator(w, direction) as accumulator:
            y = cubes(dg.gather(w, IDS))
        tangent = accumulator.jvp(y)

    count = np.bincount(IDS, minlength=5)[:, None]
    assert_sparse(tape.gradient(tangent, w), 6 * count * TABLE * direction)


@pytest.mark.parametrize(
    "f",
    [
        lambda w: dg.gather(w, IDS) ** 2,
        lambda w: dg.embedding(w, [[1, 1], [0, 4]]) * dg.sum(w),
        lambda w: dg.gather(w, [2, 0], axis=1) ** 2,
        lambda w: dg.gather(w, [[1, 1], [0, 2], [0, 0], [2, 1], [1, 0]], batch_dims=1) ** 2,
    ],
)
def test_all_modes_agree_with_differences(f):
    check_gradients(f, [TABLE], order=2)


# --- functions ------------------------------------------------------------------------------------


def test_the_functional_forms_return_dense_tensors():
    def f(w):
        return cubes(dg.gather(w, IDS))

    expected = expected_gradient(lambda p, w: cubes(p(w, IDS)))
    _, pullback = dg.vjp(f, TABLE)

    for given in (dg.grad(f)(TABLE), dg.value_and_grad(f)(TABLE)[1], *pullback(np.float64(1.0))):
        assert isinstance(given, dg.Tensor)
        assert_is(given, expected)
    assert_is(dg.jacrev(f)(TABLE), expected)
    assert_is(dg.jacfwd(f)(TABLE), expected)
    assert_is(dg.hvp(f, (TABLE,), (np.ones_like(TABLE),))[0][0], expected)
    count = np.bincount(IDS, minlength=5)
    diagonal = np.einsum("ijij->ij", dg.hessian(f)(TABLE).numpy())
    np.testing.assert_allclose(diagonal, 6 * count[:, None] * TABLE, rtol=TOLERANCE)


def test_gradients_for_each_example_are_dense():
    batch = np.array([[0, 1], [1, 1], [4, 2]])

    def gradient(ids):
        return dg.grad(lambda w: cubes(dg.gather(w, ids)))(dg.asarray(TABLE))

    given = dg.vmap(gradient)(batch)

    for row, ids in zip(given, batch, strict=True):
        assert_is(row, expected_gradient(lambda p, w, ids=ids: cubes(p(w, ids))))


def test_a_tape_within_vmap_gives_dense_arrays():
    def gradient(w, ids):
        with dg.GradientTape() as tape:
            tape.watch(w)
            y = cubes(dg.gather(w, ids))
        return tape.gradient(y, w)

    tables, ids = np.stack([TABLE, -TABLE]), np.array([[0, 0], [3, 1]])

    both = dg.vmap(gradient)(tables, ids)
    shared = dg.vmap(gradient, in_axes=(0, None))(tables, ids[0])

    for given, w, one in ((both[1], tables[1], ids[1]), (shared[0], tables[0], ids[0])):
        expected = np.zeros(TABLE.shape)
        np.add.at(expected, one, 3 * w[one] ** 2)
        assert_is(given, expected)


def test_a_tape_around_vmap_has_rows():
    w = table()
    batch = np.array([[0, 1], [1, 1], [4, 2]])
    with dg.GradientTape() as tape:
        y = dg.sum(dg.vmap(lambda ids: cubes(dg.gather(w, ids)))(batch))

    assert_sparse(tape.gradient(y, w), expected_gradient(lambda p, w: cubes(p(w, batch))))


def test_a_gradient_inside_a_traced_function_is_sparse():
    w = table()

    @dg.function
    def gradients(ids):
        with dg.GradientTape() as tape:
            y = cubes(dg.gather(w, ids))
        return {"w": tape.gradient(y, w), "loss": y}

    for ids in (IDS, [4, 4, 4, 1]):
        found = gradients(dg.asarray(ids))
        assert_sparse(found["w"], expected_gradient(lambda p, w, ids=ids: cubes(p(w, ids))))


def test_a_traced_step_updates_its_rows():
    w = table()

    @dg.function
    def step(ids):
        with dg.GradientTape() as tape:
            y = cubes(dg.gather(w, ids))
        w.assign_sub(0.1 * tape.gradient(y, w))

    step(dg.asarray(IDS))

    assert_is(w, TABLE - 0.1 * expected_gradient(lambda p, w: cubes(p(w, IDS))))


@pytest.mark.parametrize("persistent", [True, False])
def test_the_gradient_of_a_traced_function_is_sparse(persistent):
    w = table()

    @dg.function
    def loss(ids):
        return cubes(dg.gather(w, ids))

    with dg.GradientTape(persistent=persistent) as tape:
        y = 2.0 * loss(dg.asarray(IDS)) + dg.sum(dg.gather(w, [1]))
    gradient = tape.gradient(y, w)

    def f(pick, w):
        return 2.0 * cubes(pick(w, IDS)) + dg.sum(pick(w, [1]))

    assert_sparse(gradient, expected_gradient(f))
    if persistent:
        assert_sparse(tape.gradient(gradient, w), 2.0 * second_order_of_take())


def test_the_gradient_of_a_traced_function_of_a_computed_table_is_dense():
    w = table()
    loss = dg.function(lambda x, ids: cubes(dg.gather(x, ids)))
    with dg.GradientTape() as tape:
        y = loss(2.0 * w, dg.asarray(IDS))

    given = tape.gradient(y, w)

    assert isinstance(given, dg.Tensor)
    assert_is(given, expected_gradient(lambda p, w: cubes(p(2.0 * w, IDS))))


def test_control_flow_in_a_traced_function_is_right():
    w = table()

    @dg.function
    def loss(ids):
        once = dg.cond(dg.sum(ids) > 3, lambda: cubes(dg.gather(w, ids)), lambda: dg.sum(w))
        last, _ = dg.scan(lambda c, i: (c + cubes(dg.gather(w, i)), c), once, ids)
        return last

    with dg.GradientTape() as tape:
        y = loss(dg.asarray(IDS))

    assert_is(tape.gradient(y, w), expected_gradient(lambda p, w: 2.0 * cubes(p(w, IDS))))


def test_recomputation_keeps_rows():
    w = table()
    loss = dg.recompute_grad(lambda ids: cubes(dg.gather(w, ids)))
    with dg.GradientTape(persistent=True) as tape:
        y = loss(dg.asarray(IDS))
    gradient = tape.gradient(y, w)

    assert_sparse(gradient, expected_gradient(lambda p, w: cubes(p(w, IDS))))
    assert_is(tape.gradient(gradient, w), second_order_of_take())


def test_a_custom_gradient_may_be_given_as_rows():
    @dg.custom_gradient
    def picked(x):
        return x[1:2], lambda upstream: dg.IndexedSlices(upstream, [1], x.shape)

    w = table()
    with dg.GradientTape() as tape:
        y = cubes(picked(w))

    assert_is(tape.gradient(y, w), expected_gradient(lambda p, w: cubes(p(w, [1]))))


def test_many_gathers_from_one_table_add_up():
    w = table()
    with dg.GradientTape() as tape:
        state = dg.asarray(np.zeros(3))
        for step in range(300):
            state = dg.tanh(state + dg.gather(w, step % 5))
        y = dg.sum(state)

    def f(pick, w):
        state = dg.asarray(np.zeros(3))
        for step in range(300):
            state = dg.tanh(state + pick(w, step % 5))
        return dg.sum(state)

    given = tape.gradient(y, w)

    assert given.indices.shape == (300,)
    assert_sparse(given, expected_gradient(f))


def test_gradient_descent_by_rows_is_that_by_dense_arrays():
    sparse, dense = table(), table()
    for _ in range(5):
        with dg.GradientTape(persistent=True) as tape:
            losses = cubes(dg.gather(sparse, IDS)), cubes(dense[dg.asarray(IDS)])
        sparse.assign_sub(0.1 * tape.gradient(losses[0], sparse))
        dense.assign_sub(0.1 * tape.gradient(losses[1], dense))

    assert_is(sparse, dense.numpy())
