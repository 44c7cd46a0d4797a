"""What a tape keeps, on disk or on the host: less memory, the same bits, and no files left."""

import errno
import gc
import os
import stat
import subprocess
import sys
import tracemalloc
from contextlib import nullcontext

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import OffloadError

pytestmark = pytest.mark.usefixtures("only_references_count")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Return the folder in which a cache of the test's own puts its files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "distgrad"


def files_in(folder):
    return sorted(folder.rglob("*.npy"))


def chain(x, depth):
    y = x
    for _ in range(depth):
        y = dg.tanh(y * 1.01)
    return y


SIZE, DEPTH = 200_000, 60


def peak_of_gradient(block):
    """Return the most memory that a deep chain and its gradient took at a time, and the latter."""
    x = dg.Variable(np.linspace(-1, 1, SIZE))
    gc.collect()
    tracemalloc.start()
    try:
        with block, dg.GradientTape() as tape:
            y = chain(x, DEPTH)
        gradient = tape.gradient(y, x)
        return tracemalloc.get_traced_memory()[1], gradient.numpy()
    finally:
        tracemalloc.stop()


def test_a_deep_chain_on_disk_takes_flat_memory_and_gives_the_same_bits():
    in_memory, expected = peak_of_gradient(nullcontext())
    on_disk, found = peak_of_gradient(dg.offload_to_disk())

    one = SIZE * 8
    assert in_memory > DEPTH * one
    assert on_disk < 8 * one  # a few arrays at a time, however deep the chain
    np.testing.assert_array_equal(found, expected)


def test_files_are_private_and_go_with_their_records(cache):
    x = dg.Variable(np.ones(20_000))
    with dg.offload_to_disk(), dg.GradientTape() as tape:
        y = chain(x, 5)
    files = files_in(cache)
    assert len(files) == 5
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700

    tape.gradient(y, x)
    assert files_in(cache) == []
    del tape
    assert list(cache.glob("offload-*")) == []


def test_a_persistent_tape_keeps_its_files_until_it_is_closed(cache):
    x = dg.Variable(np.ones(20_000))
    with dg.offload_to_disk(), dg.GradientTape(persistent=True) as tape:
        y = chain(x, 3)
    first, second = tape.gradient(y, x), tape.gradient(y, x)
    assert len(files_in(cache)) == 3
    np.testing.assert_array_equal(first.numpy(), second.numpy())

    tape.close()
    del first, second
    assert files_in(cache) == []


def test_summary_says_what_is_where():
    x = dg.Variable(np.ones(20_000))
    with dg.offload_to_disk(), dg.GradientTape() as tape:
        y = chain(x, 3)
        y = dg.sin(y[:10])
    summary = tape.summary()

    assert summary.packed == {"disk": 3 * 160_000 + 80}  # the slice would hold the whole of y
    assert summary.nbytes == 0
    assert "and 480080 bytes on disk" in str(summary)
    assert next(each for each in summary.operations if each.name == "tanh").packed == 480_000
    assert tape.gradient(y, x) is not None


def test_small_arrays_and_values_that_the_program_holds_stay(cache):
    x, w = dg.Variable(np.ones((300, 300))), dg.asarray(np.ones((300, 300)))
    with dg.offload_to_disk(), dg.GradientTape() as tape:
        tape.watch(w)
        y = dg.sum(dg.sin(x) * w)  # keeps x and w themselves, and sin(x)
        z = dg.tanh(y)
    kept = len(files_in(cache))

    assert kept == 1
    assert tape.gradient(z, x) is not None


def test_an_array_that_several_records_keep_is_written_once(cache):
    x = dg.Variable(np.ones(20_000))
    with dg.offload_to_disk(), dg.GradientTape() as tape:
        y = dg.tanh(x)
        z = dg.sin(y) + dg.cos(y) + y * y
    kept = len(files_in(cache))
    found = tape.gradient(z, x).numpy()

    y = np.tanh(1.0)
    assert kept == 1
    np.testing.assert_allclose(found, (np.cos(y) - np.sin(y) + 2 * y) * (1 - y * y))


LAYOUTS = {
    "rows": lambda a: a,
    "columns": np.asfortranarray,
    "axes exchanged": lambda a: a.transpose(1, 2, 0),
    "a slice": lambda a: a[:, ::2, 1:],
    "backwards": lambda a: a[::-1],
    "repeated": lambda a: np.broadcast_to(a[:, :1], a.shape),
    "no dimensions": lambda a: a[0, 0, 0].reshape(()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "complex128", "bool", "int16"])
def test_arrays_come_back_as_they_lay_in_memory(layout, dtype, cache):
    from distgrad.tape.offloading import _File, _Folder

    array = LAYOUTS[layout](np.arange(60).reshape(3, 4, 5).astype(dtype))
    folder = _Folder(None)
    back = _File(folder, array, "add").read("add")

    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype
    order = np.argsort(np.abs(array.strides), kind="stable")
    assert (np.argsort(np.abs(back.strides), kind="stable") == order).all() or 1 in array.shape


def test_what_is_repeated_is_written_once(cache):
    x = dg.Variable(np.ones((1, 20_000)))
    with dg.offload_to_disk(), dg.GradientTape() as tape:
        y = dg.broadcast_to(dg.exp(x), (50, 20_000))
        z = dg.sum(dg.sin(y))
    largest = max(path.stat().st_size for path in files_in(cache))

    assert largest < 20_000 * 8 + 1_000
    np.testing.assert_array_equal(
        tape.gradient(z, x).numpy(),
        dg.grad(lambda x: dg.sum(dg.sin(dg.broadcast_to(dg.exp(x), (50, 20_000)))))(x).numpy(),
    )


def recorded(**options):
    x = dg.Variable(np.ones(20_000))
    with dg.offload_to_disk(**options), dg.GradientTape() as tape:
        y = dg.tanh(x)
    return tape, y, x


DAMAGES = {
    "shortened": (lambda path: os.truncate(path, 1_000), "it has 1000 bytes, 160128 were written"),
    "changed": (lambda path: flip(path, 5_000), "its checksum differs"),
    "header changed": (lambda path: flip(path, 3), "is not what was written"),
    "removed": (lambda path: path.unlink(), "No such file"),
}


def flip(path, place):
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_somebody_changed_is_refused(damage, cache):
    tape, y, x = recorded()
    change, message = DAMAGES[damage]
    change(files_in(cache)[0])

    with pytest.raises(OffloadError, match=f"the rule of tanh needs.*{message}"):
        tape.gradient(y, x)


def test_a_file_is_not_read_through_a_link(cache, tmp_path):
    tape, y, x = recorded()
    path = files_in(cache)[0]
    path.rename(tmp_path / "elsewhere.npy")
    path.symlink_to(tmp_path / "elsewhere.npy")

    with pytest.raises(OffloadError, match="is not what was written"):
        tape.gradient(y, x)


def test_a_full_disk_is_said_with_what_to_do(cache, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OffloadError, match=r"tanh: 160000 bytes.*No space left.*bytes are free"):
        recorded()
    assert files_in(cache) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"directory": "/nowhere/at/all"}, OffloadError, "'/nowhere/at/all' does not exist"),
        ({"min_bytes": -1}, ValueError, "min_bytes is -1; expected 0 or more"),
    ],
)
def test_arguments_without_sense_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        dg.offload_to_disk(**options)


def test_a_directory_can_be_chosen(tmp_path, cache):
    tape, y, x = recorded(directory=tmp_path)

    assert len(files_in(tmp_path)) == 1
    assert not cache.exists()
    assert tape.gradient(y, x) is not None


LEAVES = """
import os, sys
import numpy as np
import distgrad as dg
x = dg.Variable(np.ones(20_000))
with dg.offload_to_disk(), dg.GradientTape() as tape:
    y = dg.tanh(x)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), 9)
if sys.argv[1] == "forked" and os.fork() == 0:
    sys.exit()  # a child that ends in order
if sys.argv[1] == "forked":
    os.wait()
    tape.gradient(y, x)
"""


@pytest.mark.parametrize("how", ["ended", "forked"])
def test_a_process_that_ends_leaves_nothing(how, cache):
    done = subprocess.run([sys.executable, "-c", LEAVES, how], check=False, capture_output=True)

    assert done.returncode == 0, done.stderr
    assert list(cache.glob("offload-*")) == []


def test_what_a_killed_process_left_is_removed_by_the_next(cache):
    subprocess.run([sys.executable, "-c", LEAVES, "killed"], check=False, capture_output=True)
    left = files_in(cache)
    tape, y, x = recorded()  # not what a living process, this one, has there
    again, y2, x2 = recorded()

    assert len(left) == 1
    assert len(files_in(cache)) == 2
    assert left[0] not in files_in(cache)
    assert tape.gradient(y, x) is not None
    assert again.gradient(y2, x2) is not None


def test_a_device_backend_comes_to_the_host_and_back(strict):
    with dg.use_backend(strict):
        x = dg.Variable(np.linspace(0, 1, 20_000))
        with dg.offload_to_host(), dg.GradientTape() as tape:
            y = dg.sum(dg.tanh(dg.tanh(x)))
        summary = tape.summary()
        found = tape.gradient(y, x)

    assert summary.packed == {"host": 2 * 160_000}
    expected = dg.grad(lambda x: dg.sum(dg.tanh(dg.tanh(x))))(np.linspace(0, 1, 20_000))
    np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_arrays_of_another_backend_go_to_disk(strict, cache):
    with dg.use_backend(strict):
        x = dg.Variable(np.linspace(0, 1, 20_000))
        with dg.offload_to_disk(), dg.GradientTape() as tape:
            y = dg.sum(dg.tanh(dg.tanh(x)))
        kept = len(files_in(cache))
        found = tape.gradient(y, x)

    assert kept == 2
    assert found.backend is strict


def test_on_the_numpy_backend_the_host_is_where_arrays_are():
    x = dg.Variable(np.ones(20_000))
    with dg.offload_to_host(min_bytes=0), dg.GradientTape() as tape:
        dg.tanh(x)

    assert tape.summary().nbytes == 160_000
    assert tape.summary().packed == {}
