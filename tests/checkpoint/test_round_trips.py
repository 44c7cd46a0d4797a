"""What was saved is what is loaded: every dtype, shape and layout, and Python's values."""

import dataclasses
import math
import os
import stat
import sys

import numpy as np
import pytest

import distgrad as dg
from distgrad.checkpoint import tensor_file
from distgrad.distributed import SerialCommunicator
from distgrad.dtypes import NAMES
from distgrad.errors import (
    CheckpointMismatchError,
    CheckpointWarning,
    CheckpointWriteError,
    DTypeError,
    MissingCheckpointError,
    ShapeError,
)

ALONE = SerialCommunicator()


def numbers(dtype, shape):
    rng = np.random.default_rng(5)
    values = rng.normal(size=shape) * 50
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.normal(size=shape)
    return np.asarray(np.abs(values) if np.dtype(dtype).kind == "u" else values).astype(dtype)


def noisy(seed):
    layer = dg.nn.Dropout(0.5, generator=dg.random.Generator(seed))
    return dg.nn.Sequential(dg.nn.Dense(3), layer).build(np.ones((2, 3), np.float32))


def test_generators_that_layers_hold_come_back_with_their_model(tmp_path):
    x = np.ones((5, 3), np.float32)
    model, other = noisy(3), noisy(8)
    model(x, training=True)
    dg.checkpoint.save(tmp_path, {"model": model}, step=1, comm=ALONE)

    dg.checkpoint.load(tmp_path, {"model": other}, comm=ALONE)

    assert other[1].generator.state == [3, 0, 1]
    assert (other(x, training=True).numpy() == model(x, training=True).numpy()).all()


def test_a_checkpoint_from_before_generators_of_layers_were_saved_is_loaded(tmp_path):
    model, other = noisy(3), noisy(8)
    named = {name.removeprefix("sequential/"): value for name, value in model.named_variables()}
    dg.checkpoint.save(tmp_path, {"model": named}, step=1, comm=ALONE)

    with pytest.warns(CheckpointWarning, match=r"without .* model/1/generator; they stay"):
        dg.checkpoint.load(tmp_path, {"model": other}, comm=ALONE)

    assert other[1].generator.state == [8, 0, 0]
    assert (other[0].kernel.numpy() == model[0].kernel.numpy()).all()


def test_a_generator_saved_beside_its_layer_is_not_missed(tmp_path):
    model, other = noisy(3), noisy(8)
    named = {name.removeprefix("sequential/"): value for name, value in model.named_variables()}
    old = {"model": named, "draws": model[1].generator}
    dg.checkpoint.save(tmp_path, old, step=1, comm=ALONE)

    dg.checkpoint.load(tmp_path, {"model": other, "draws": other[1].generator}, comm=ALONE)

    assert other[1].generator.state == [3, 0, 0]


def test_a_file_of_weights_holds_no_generator(tmp_path):
    dg.checkpoint.save_safetensors(tmp_path / "w.safetensors", noisy(3))

    assert sorted(dg.checkpoint.load_safetensors(tmp_path / "w.safetensors")) == [
        "0/bias",
        "0/kernel",
    ]


@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 3), (3, 0), (5,), (3, 4, 5)])
@pytest.mark.parametrize("dtype", NAMES)
def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path, dtype, shape):
    array = numbers(dtype, shape)
    dg.checkpoint.save(tmp_path, {"x": array}, step=1, comm=ALONE)

    loaded = dg.checkpoint.load(tmp_path, comm=ALONE).nest["x"]

    assert (loaded.dtype, loaded.shape) == (array.dtype, array.shape)
    assert loaded.tobytes() == array.tobytes()


def test_bfloat16_comes_back(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16)
    dg.checkpoint.save(tmp_path, {"x": array}, step=1, comm=ALONE)

    loaded = dg.checkpoint.load(tmp_path, comm=ALONE).nest["x"]

    assert loaded.dtype == array.dtype
    assert loaded.tobytes() == array.tobytes()


# The layouts that safetensors 0.8.0 writes wrongly.
LAYOUTS = {
    "transposed": lambda x: x.T,
    "strided": lambda x: x[:, ::2],
    "reversed": lambda x: x[::-1],
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "Fortran": np.asfortranarray,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
}


@pytest.mark.parametrize("dtype", ["float32", "complex128", "int8"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_in_memory_comes_back_with_its_values(tmp_path, layout, dtype):
    array = LAYOUTS[layout](numbers(dtype, (4, 5)))
    dg.checkpoint.save(tmp_path, {"x": array}, step=1, comm=ALONE)

    loaded = dg.checkpoint.load(tmp_path, comm=ALONE).nest["x"]

    np.testing.assert_array_equal(loaded, array)


def test_a_training_goes_on_from_all_of_its_state(tmp_path):
    @dataclasses.dataclass
    class State:
        variables: list
        generator: dg.random.Generator
        epoch: int
        rate: float
        name: str
        done: bool

    def state(seed):
        return State(
            [dg.Variable(numbers("float32", (3, 2)) * seed), dg.Variable(1.0 * seed)],
            dg.random.Generator(2**100 + seed),
            seed,
            0.1 * seed,
            f"run {seed}",
            seed == 1,
        )

    saved = state(1)
    saved.generator.normal((7,))
    dg.checkpoint.save(tmp_path, {"state": saved}, step=3, metadata={"loss": [0.5]}, comm=ALONE)
    fresh = state(2)
    kernel = fresh.variables[0]

    checkpoint = dg.checkpoint.load(tmp_path, {"state": fresh}, comm=ALONE)

    back = checkpoint.nest["state"]
    assert (checkpoint.step, checkpoint.metadata, checkpoint.ranks) == (3, {"loss": [0.5]}, 1)
    assert (back.epoch, back.rate, back.name, back.done) == (1, 0.1, "run 1", True)
    assert back.variables[0] is kernel
    np.testing.assert_array_equal(kernel.numpy(), saved.variables[0].numpy())
    np.testing.assert_array_equal(
        fresh.generator.normal((4,)).numpy(), saved.generator.normal((4,)).numpy()
    )


def test_objects_with_variables_are_saved_by_their_names(tmp_path):
    class Optimizer:
        def __init__(self, value):
            self.variables = [
                dg.Variable([value, value], name="dense/kernel/moment"),
                dg.Variable(value, name="iterations"),
            ]

    dg.checkpoint.save(tmp_path, {"optimizer": Optimizer(3.0)}, step=0, comm=ALONE)
    other = Optimizer(0.0)
    checkpoint = dg.checkpoint.load(tmp_path, {"optimizer": other}, comm=ALONE)

    assert checkpoint.nest["optimizer"] is other
    assert other.variables[0].numpy().tolist() == [3.0, 3.0]
    everything = dg.checkpoint.load(tmp_path, comm=ALONE).nest
    assert sorted(everything) == ["optimizer/dense/kernel/moment", "optimizer/iterations"]


def test_a_model_and_its_optimizer_go_on_from_where_they_were(tmp_path):
    x = numbers("float32", (5, 3)) / 50

    def training():
        model = dg.nn.Sequential(dg.nn.Dense(4), dg.nn.Dense(2))
        model.build(x)
        optimizer = dg.optimizers.Adam(0.1)
        optimizer.build(model.variables)
        return {"model": model, "optimizer": optimizer}

    def step(model, optimizer):
        with dg.GradientTape() as tape:
            loss = dg.mean(model(x) ** 2)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return float(loss)

    first, second = training(), training()
    step(**first)
    dg.checkpoint.save(tmp_path, first, step=1, comm=ALONE)
    dg.checkpoint.load(tmp_path, second, comm=ALONE)

    assert [step(**second) for _ in range(3)] == [step(**first) for _ in range(3)]
    paths = dg.checkpoint.load(tmp_path, comm=ALONE).nest
    assert {"model/0/kernel", "model/0/bias", "model/1/kernel", "model/1/bias"} < set(paths)


def test_tensors_and_arrays_are_replaced_and_not_changed(tmp_path):
    dg.checkpoint.save(tmp_path, [dg.ones((2,)), np.ones(3), np.float32(4)], step=0, comm=ALONE)
    tensor, array, scalar = dg.zeros((2,)), np.zeros(3), np.float32(0)

    back = dg.checkpoint.load(tmp_path, [tensor, array, scalar], comm=ALONE).nest

    assert isinstance(back[0], dg.Tensor)
    assert back[0].tolist() == [1, 1]
    assert back[1].tolist() == [1, 1, 1]
    assert (type(back[2]), back[2]) == (np.float32, 4)
    assert (tensor.tolist(), array.tolist()) == ([0, 0], [0, 0, 0])


@pytest.mark.parametrize("value", [0, -(2**80), 1e-320, 0.1, math.inf, -math.inf, "ä\n", True])
def test_python_values_keep_type_and_value(tmp_path, value):
    dg.checkpoint.save(tmp_path, {"value": value}, step=0, comm=ALONE)

    loaded = dg.checkpoint.load(tmp_path, comm=ALONE).nest["value"]

    assert (type(loaded), loaded) == (type(value), value)


def test_nan_is_a_value_too(tmp_path):
    dg.checkpoint.save(tmp_path, {"value": math.nan}, step=0, comm=ALONE)

    assert math.isnan(dg.checkpoint.load(tmp_path, comm=ALONE).nest["value"])


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "/absolute", "", "a b", "__metadata__", "tensor-0", "x" * 5000]
)
def test_any_path_is_safe_to_save(tmp_path, path):
    nest = {path: np.arange(3.0), "tensor-0 ": np.arange(2)}
    where = dg.checkpoint.save(tmp_path / "all", nest, step=0, comm=ALONE)

    loaded = dg.checkpoint.load(tmp_path / "all", comm=ALONE).nest

    np.testing.assert_array_equal(loaded[path], [0, 1, 2])
    assert os.listdir(tmp_path) == ["all"]
    assert len(os.listdir(where)) == 2


def test_two_leaves_of_one_path_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two leaves have the path 'a/b'"):
        dg.checkpoint.save(
            tmp_path, {"a/b": np.ones(1), "a": {"b": np.ones(1)}}, step=0, comm=ALONE
        )


@pytest.mark.parametrize(
    ("nest", "error", "words"),
    [
        ({"x": object()}, TypeError, "'x' is a object"),
        ({"x": 1j}, TypeError, "'x' is a complex"),
        ({"x": np.array([None])}, DTypeError, "'x'"),
        ({"x": np.array(["text"])}, DTypeError, "'x'"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path, nest, error, words):
    with pytest.raises(error, match=words):
        dg.checkpoint.save(tmp_path, nest, step=0, comm=ALONE)

    assert not os.listdir(tmp_path)


def test_metadata_that_is_not_json_is_refused(tmp_path):
    with pytest.raises(TypeError, match="metadata is not what JSON can hold"):
        dg.checkpoint.save(tmp_path, {}, step=0, metadata={"x": math.nan}, comm=ALONE)


def test_metadata_whose_keys_would_be_one_in_json_is_refused(tmp_path):
    dg.checkpoint.save(tmp_path, {}, step=0, comm=ALONE)

    with pytest.raises(TypeError, match="the name '1' is there twice"):
        dg.checkpoint.save(tmp_path, {}, step=1, metadata={1: "a", "1": "b"}, keep=1, comm=ALONE)

    assert dg.checkpoint.load(tmp_path, comm=ALONE).step == 0


def test_what_could_not_be_read_again_replaces_nothing(tmp_path):
    dg.checkpoint.save(tmp_path, {"x": np.ones(2)}, step=0, comm=ALONE)

    with pytest.raises(CheckpointWriteError, match="which no memory holds; the checkpoints before"):
        dg.checkpoint.save(
            tmp_path, {"x": np.zeros((0, 2**59), np.int8)}, step=1, keep=1, comm=ALONE
        )

    assert dg.checkpoint.load(tmp_path, comm=ALONE).step == 0


def test_names_that_fill_more_than_a_header_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "_LONGEST_HEADER", 200)
    with pytest.raises(ValueError, match="the names of 9 arrays make a header of"):
        dg.checkpoint.save(tmp_path, [np.ones(1)] * 9, step=0, comm=ALONE)

    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("step", [np.int64(7), np.array(7), True])
def test_a_step_may_be_a_number_of_numpy(tmp_path, step):
    dg.checkpoint.save(tmp_path, {}, step=step, comm=ALONE)

    assert dg.checkpoint.latest(tmp_path) == int(step)


def test_all_that_does_not_fit_is_named_and_nothing_assigned(tmp_path):
    dg.checkpoint.save(
        tmp_path, {"a": np.ones(2), "b": np.ones(3), "c": np.ones(4), "n": 1}, step=0, comm=ALONE
    )
    a = dg.Variable(np.zeros(2))
    nest = {"a": a, "b": np.zeros(5), "c": np.zeros(4, np.float32), "d": np.zeros(1), "n": 1.0}

    with pytest.raises(CheckpointMismatchError) as caught:
        dg.checkpoint.load(tmp_path, nest, comm=ALONE)

    text = str(caught.value)
    assert "missing in the checkpoint: d" in text
    assert "b is float64[3] there, float64[5] here" in text
    assert "c is float64[4] there, float32[4] here" in text
    assert "n is int there, float here" in text
    assert a.numpy().tolist() == [0, 0]
    with pytest.raises(CheckpointMismatchError, match="only in the checkpoint: b, c, n"):
        dg.checkpoint.load(tmp_path, {"a": a}, comm=ALONE)


def test_a_shard_reads_its_own_rows_of_a_whole_tensor(tmp_path):
    whole = numbers("float64", (9, 2))
    dg.checkpoint.save(tmp_path, {"x": whole}, step=0, comm=ALONE)
    part = dg.Variable(np.zeros((4, 2)))
    shard = dg.checkpoint.Shard(part, start=3, rows=9)

    back = dg.checkpoint.load(tmp_path, {"x": shard}, comm=ALONE).nest["x"]

    assert back is shard
    np.testing.assert_array_equal(part.numpy(), whole[3:7])


def test_a_shard_that_leaves_rows_out_is_refused(tmp_path):
    shard = dg.checkpoint.Shard(np.ones((2, 3)), start=1, rows=4)

    with pytest.raises(ShapeError, match="rows 0 to 1 are there not at all"):
        dg.checkpoint.save(tmp_path, {"x": shard}, step=0, comm=ALONE)
    with pytest.raises(ShapeError, match="does not lie in 4 rows"):
        dg.checkpoint.Shard(np.ones((2, 3)), start=3, rows=4)


def test_steps_are_listed_and_the_newest_is_loaded(tmp_path):
    for step in (5, 30, 7):
        dg.checkpoint.save(tmp_path, {"x": np.array(step)}, step=step, comm=ALONE)

    assert dg.checkpoint.latest(tmp_path) == 30
    assert dg.checkpoint.load(tmp_path, comm=ALONE).nest["x"] == 30
    assert dg.checkpoint.load(tmp_path, step=7, comm=ALONE).nest["x"] == 7
    with pytest.raises(MissingCheckpointError, match="no checkpoint of step 6; it has steps 5, 7"):
        dg.checkpoint.load(tmp_path, step=6, comm=ALONE)


def test_a_directory_without_checkpoints_is_said_to_be(tmp_path):
    assert dg.checkpoint.latest(tmp_path / "none") is None
    with pytest.raises(MissingCheckpointError, match="has no complete checkpoint"):
        dg.checkpoint.load(tmp_path / "none", comm=ALONE)


def test_a_step_saved_again_replaces_the_first(tmp_path):
    for value in (1, 2, 3):
        dg.checkpoint.save(tmp_path, {"x": np.array(value)}, step=4, comm=ALONE)

    assert dg.checkpoint.load(tmp_path, comm=ALONE).nest["x"] == 3
    assert len(os.listdir(tmp_path)) == 1


def test_the_newest_few_are_kept(tmp_path):
    for step in range(6):
        dg.checkpoint.save(tmp_path, {"x": np.array(step)}, step=step, keep=2, comm=ALONE)

    assert sorted(os.listdir(tmp_path)) == ["step-0000000004", "step-0000000005"]


def test_one_saved_after_going_back_is_not_removed_at_once(tmp_path):
    for step in (8, 9, 3):
        where = dg.checkpoint.save(tmp_path, {}, step=step, keep=2, comm=ALONE)

    assert where.is_dir()
    assert sorted(os.listdir(tmp_path)) == ["step-0000000003", "step-0000000009"]


@pytest.mark.parametrize("keep", [0, -1])
def test_at_least_one_is_kept(tmp_path, keep):
    with pytest.raises(ValueError, match=f"keep is {keep}; expected 1 or more"):
        dg.checkpoint.save(tmp_path, {}, step=0, keep=keep, comm=ALONE)


@pytest.mark.parametrize(("step", "error"), [(-1, ValueError), ("1", TypeError), (1.0, TypeError)])
def test_a_step_is_a_number_from_zero(tmp_path, step, error):
    with pytest.raises(error, match="step is"):
        dg.checkpoint.save(tmp_path, {}, step=step, comm=ALONE)


def test_files_have_the_rights_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        where = dg.checkpoint.save(tmp_path, {"x": np.ones(2)}, step=0, comm=ALONE)
    finally:
        os.umask(before)

    assert stat.S_IMODE(where.stat().st_mode) == 0o750
    assert {stat.S_IMODE(each.stat().st_mode) for each in where.iterdir()} == {0o640}


def test_saving_and_loading_need_no_unpickling(tmp_path, monkeypatch):
    for name in ("pickle", "_pickle"):
        monkeypatch.setitem(sys.modules, name, None)
    dg.checkpoint.save(tmp_path, {"x": np.ones(2)}, step=0, comm=ALONE)

    assert dg.checkpoint.load(tmp_path, comm=ALONE).nest["x"].tolist() == [1, 1]
