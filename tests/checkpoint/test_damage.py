"""Damaged, foreign and hostile files are refused, with the byte range or the name that is wrong."""

import contextlib
import hashlib
import json
import os
import struct

import numpy as np
import pytest

import distgrad as dg
from distgrad.distributed import SerialCommunicator
from distgrad.errors import (
    CheckpointMismatchError,
    CheckpointWarning,
    DamagedCheckpointError,
    MissingCheckpointError,
)

ALONE = SerialCommunicator()
TENSORS = "rank-00000-of-00001.safetensors"


def saved(directory, step=1):
    nest = {"a": np.arange(5.0) + step, "b": {"c": np.arange(3, dtype=np.int8)}, "n": step}
    return dg.checkpoint.save(directory, nest, step=step, comm=ALONE)


def load(directory, **options):
    return dg.checkpoint.load(directory, comm=ALONE, **options).nest


@pytest.mark.parametrize("name", ["manifest.json", TENSORS])
def test_every_flipped_byte_is_detected(tmp_path, name):
    path = saved(tmp_path) / name
    whole = path.read_bytes()
    rng = np.random.default_rng(3)

    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(DamagedCheckpointError):
            load(tmp_path, step=1)


@pytest.mark.parametrize("name", ["manifest.json", TENSORS])
def test_a_file_cut_at_any_length_is_detected(tmp_path, name):
    path = saved(tmp_path) / name
    whole = path.read_bytes()

    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedCheckpointError):
            load(tmp_path, step=1)


def test_a_changed_number_is_found_with_its_tensor_and_byte_range(tmp_path):
    path = saved(tmp_path) / TENSORS
    whole = bytearray(path.read_bytes())
    start = len(whole) - 3 - 5 * 8  # float64 first, then int8
    whole[start + 9] ^= 1
    path.write_bytes(whole)

    with pytest.raises(DamagedCheckpointError, match=f"bytes {start} to {start + 40}, 'a'"):
        load(tmp_path, step=1)


def test_a_truncated_file_is_said_to_be(tmp_path):
    path = saved(tmp_path) / TENSORS
    size = path.stat().st_size
    os.truncate(path, size - 7)

    with pytest.raises(DamagedCheckpointError, match=f"bytes {size - 7} to {size} are missing"):
        load(tmp_path, step=1)


@pytest.mark.parametrize("damage", ["missing manifest", "missing tensors", "changed"])
def test_an_older_whole_checkpoint_is_loaded_and_the_damaged_one_named(tmp_path, damage):
    saved(tmp_path, 1)
    where = saved(tmp_path, 2)
    path = where / (TENSORS if damage != "missing manifest" else "manifest.json")
    if damage == "changed":
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    else:
        path.unlink()

    with pytest.warns(CheckpointWarning, match="step-0000000002/"):
        loaded = load(tmp_path)

    assert loaded["n"] == 1
    assert dg.checkpoint.latest(tmp_path) == (2 if damage == "changed" else 1)


def test_where_all_are_damaged_each_is_named(tmp_path):
    for step in (1, 2):
        (saved(tmp_path, step) / "manifest.json").unlink()

    with pytest.raises(MissingCheckpointError, match=r"step-0000000002/.*step-0000000001/"):
        load(tmp_path)


def test_a_damaged_checkpoint_does_not_count_among_those_kept(tmp_path):
    for step in (1, 2, 3):
        where = saved(tmp_path, step)
    (where / TENSORS).unlink()
    dg.checkpoint.save(tmp_path, {}, step=4, keep=2, comm=ALONE)

    assert (tmp_path / "step-0000000002").is_dir()
    assert not (tmp_path / "step-0000000001").exists()


def forge(where, change):
    """Rewrite a manifest with a right checksum, as a forger would."""
    path = where / "manifest.json"
    content = json.loads(path.read_text())["manifest"]
    change(content)
    body = json.dumps(content).encode() + b"}\n"
    first = f'{{"sha256": "{hashlib.sha256(body).hexdigest()}", "manifest":\n'.encode()
    path.write_bytes(first + body)


def rename_file(name):
    def change(content):
        content["files"][name] = content["files"].pop(TENSORS)
        for tensor in content["tensors"].values():
            for piece in tensor["pieces"]:
                piece["file"] = name

    return change


def set_tensor(**values):
    return lambda content: content["tensors"]["a"].update(values)


FORGERIES = {
    "parent": (rename_file("../secret"), "file name '../secret' is refused"),
    "absolute": (rename_file("/etc/passwd"), "file name '/etc/passwd' is refused"),
    "dots": (rename_file(".."), "file name '..' is refused"),
    "hidden": (rename_file(".secret"), "file name '.secret' is refused"),
    "no such file": (set_tensor(pieces=[{"file": "x"}]), "'x', which is not in its files"),
    "huge": (set_tensor(shape=[2**62]), "which no memory holds"),
    "long": (set_tensor(shape=[6]), "its pieces end at row 5; expected 6 rows"),
    "negative": (set_tensor(shape=[-1]), "has no shape"),
    "true": (set_tensor(shape=[True]), "has no shape"),
    "dtype": (set_tensor(dtype="object"), "dtype 'object'"),
    "wide": (set_tensor(shape=[5, 2**61]), "which no memory holds"),
    "more": (set_tensor(shape=[5, 2**30]), "the manifest says"),
    "empty": (set_tensor(shape=[0, 2**62], pieces=[]), "which no memory holds"),
    "version": (lambda content: content.update(version=2), "has version 2 of the format"),
    "foreign": (lambda content: content.update(format="orbax"), "is not of the format"),
    "step": (lambda content: content.update(step=9), "its manifest is of step 9"),
    "value": (lambda content: content["values"].update(n=[1]), "'n' is neither a number"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_manifest_is_refused(tmp_path, forgery):
    change, words = FORGERIES[forgery]
    (tmp_path / "secret").write_bytes(b"secret")
    forge(saved(tmp_path), change)

    with pytest.raises(DamagedCheckpointError, match=words):
        load(tmp_path, step=1)


@pytest.mark.parametrize("name", ["manifest.json", TENSORS])
def test_a_symbolic_link_in_a_checkpoint_is_refused(tmp_path, name):
    path = saved(tmp_path) / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(DamagedCheckpointError, match=r"is a symbolic link|is no plain file"):
        load(tmp_path, step=1)


def test_a_pipe_in_place_of_a_manifest_does_not_block(tmp_path):
    path = saved(tmp_path) / "manifest.json"
    path.unlink()
    os.mkfifo(path)

    with pytest.raises(DamagedCheckpointError, match="is no plain file"):
        load(tmp_path, step=1)


# --- plain safetensors files ------------------------------------------------------------------


def crafted(path, header, payload=b"\0" * 8, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + payload)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


CRAFTED = {
    "header too long": (({"x": entry()}, b"", 2**40), "bytes 0 to 8 announce a header of 1099511"),
    "no json": ((b"{'x': 1}",), "is no JSON"),
    "deep": ((b'{"x":' + b"[" * 100_000,), "is no JSON"),
    "a list": ((b"[]",), "is a JSON list"),
    "not text": ((b'{"\xff": 1}',), "is no JSON"),
    "twice": ((b'{"x": 1, "x": 2}',), "the name 'x' is there twice"),
    "nan": ((b'{"x": NaN}',), "NaN is no number of JSON"),
    "parent": (({"../../etc/x": entry()},), "name '../../etc/x' is refused"),
    "absolute": (({"/etc/x": entry()},), "name '/etc/x' is refused"),
    "control": (({"x\x1b[2J": entry()},), "is refused"),
    "dtype": (({"x": entry(dtype="OBJ")},), "has the dtype 'OBJ'"),
    "keys": (({"x": {"dtype": "F32"}},), "expected dtype, shape and data_offsets"),
    "huge": (({"x": entry(shape=(2**62, 4))},), "which no memory holds"),
    "empty": (({"x": entry(shape=(2**62, 0))},), "which no memory holds"),
    "more": (({"x": entry(shape=(2**40,))},), "do not hold F32"),
    "negative": (({"x": entry(shape=(-2,))},), "has no shape"),
    "backwards": (({"x": entry(offsets=(8, 0))},), "do not hold F32"),
    "overlap": (({"x": entry(), "y": entry(offsets=(4, 12))}, b"\0" * 12), "overlap"),
    "gap": (({"x": entry(offsets=(4, 12))}, b"\0" * 12), "leave a gap"),
    "short": (({"x": entry()}, b"\0" * 7), "are missing"),
    "long": (({"x": entry()}, b"\0" * 9), "bytes too many"),
    "truth": (({"x": entry("BOOL", (8,))}, b"\0\1\2\0\0\0\0\0"), "is 2; a truth value is 0 or 1"),
    "metadata": (({"__metadata__": {"x": 1}, "x": entry()},), "is not a table of strings"),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_a_crafted_safetensors_file_is_refused(tmp_path, case):
    arguments, words = CRAFTED[case]
    path = crafted(tmp_path / "x.safetensors", *arguments)

    with pytest.raises(DamagedCheckpointError, match=words):
        dg.checkpoint.load_safetensors(path)


def test_mutated_files_raise_one_class_of_error_or_give_tensors(tmp_path):
    path = tmp_path / "x.safetensors"
    dg.checkpoint.save_safetensors(path, {"a": np.arange(4.0), "b": np.ones((2, 3), np.bool_)})
    whole = path.read_bytes()
    rng = np.random.default_rng(11)

    for _ in range(3000):
        changed = bytearray(whole)
        for _ in range(rng.integers(1, 5)):
            changed[rng.integers(len(changed))] = rng.integers(256)
        path.write_bytes(changed[: int(rng.choice([len(changed), rng.integers(len(changed))]))])
        with contextlib.suppress(DamagedCheckpointError):
            dg.checkpoint.load_safetensors(path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", "..", "a/b.safetensors"])
def test_an_index_that_leads_out_of_its_directory_is_refused(tmp_path, name):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": name}}))

    with pytest.raises(DamagedCheckpointError, match="is refused"):
        dg.checkpoint.load_safetensors(index)


def test_an_index_reads_the_files_beside_it(tmp_path):
    for name in ("a", "b"):
        dg.checkpoint.save_safetensors(tmp_path / f"{name}.safetensors", {name: np.ones(2)})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}))

    assert sorted(dg.checkpoint.load_safetensors(index)) == ["a", "b"]
    index.write_text(json.dumps({"weight_map": {"c": "a.safetensors"}}))
    with pytest.raises(DamagedCheckpointError, match="has no tensor 'c', which"):
        dg.checkpoint.load_safetensors(index)


def test_names_are_mapped_and_absent_ones_said(tmp_path):
    path = tmp_path / "x.safetensors"
    dg.checkpoint.save_safetensors(path, {"h.0.weight": np.ones(2), "h.0.bias": np.zeros(2)})

    mapped = dg.checkpoint.load_safetensors(path, names={"h.0.weight": "block/0/kernel"})
    called = dg.checkpoint.load_safetensors(path, names=lambda name: name.replace(".", "/"))

    assert list(mapped) == ["block/0/kernel"]
    assert sorted(called) == ["h/0/bias", "h/0/weight"]
    with pytest.raises(CheckpointMismatchError, match=r"has no 'h\.1\.weight'"):
        dg.checkpoint.load_safetensors(path, names={"h.1.weight": "x"})
    with pytest.raises(CheckpointMismatchError, match="two tensors would be called 'x'"):
        dg.checkpoint.load_safetensors(path, names=lambda name: "x")


@pytest.mark.parametrize("metadata", [{"epoch": 3}, {3: "epoch"}])
def test_metadata_that_readers_would_refuse_is_not_written(tmp_path, metadata):
    with pytest.raises(TypeError, match="metadata has 3, of type int"):
        dg.checkpoint.save_safetensors(tmp_path / "x", {"a": np.ones(1)}, metadata=metadata)

    assert not os.listdir(tmp_path)


def test_what_is_written_is_what_the_safetensors_package_reads(tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    arrays = {
        "a/b": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "c": np.array(True),
        "d": np.zeros((0, 2), np.int16),
        "e": np.arange(3, dtype=np.uint64)[::-1],
    }
    dg.checkpoint.save_safetensors(tmp_path / "ours", arrays, metadata={"by": "us"})
    package.save_file({"x": np.arange(4.0), "y": np.float16([[1]])}, tmp_path / "theirs")

    ours = package.load_file(tmp_path / "ours")
    theirs = dg.checkpoint.load_safetensors(tmp_path / "theirs")

    for name, array in arrays.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_array_equal(ours[name], array)
    assert theirs["x"].tolist() == [0, 1, 2, 3]
    assert theirs["y"].dtype == np.float16
