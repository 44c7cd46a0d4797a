"""Data sets in files of other formats, read example by example: HDF5, Zarr, Parquet."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.data.datasets import Array, Dataset, common_length
from distgrad.data.missing import needed

_GROUPS_KEPT = 4  # row groups of a Parquet file in memory: neighbours in a batch share them


def from_hdf5(path: str | os.PathLike[str], names: Any) -> Dataset:
    """Return the data set of arrays in an HDF5 file.

    Parameters
    ----------
    path : path
        The file; it stays open as long as the data set.
    names : nest of str
        Such as ``{"image": "/train/images"}``; the first axis of each counts the examples.

    Raises
    ------
    MissingDataError
        If h5py is not installed.
    ValueError
        If there is no such array, the lengths differ, or it holds no numbers. Also if it lies in
        another file (external storage or links, virtual data sets): a crafted file could read what
        its author must not see.
    OSError
        If the file cannot be read.

    Notes
    -----
    Needs `pip install 'distgrad[hdf5]'`. Reading by shuffled places is quick only where chunks are
    about as long as an example.
    """
    h5py = needed("h5py", "HDF5 files are read", "pip install 'distgrad[hdf5]'")
    file = h5py.File(path, "r")
    try:
        arrays = tree.map(lambda name: _hdf5_array(h5py, file, name), names)
        return _Sorted("from_hdf5", arrays)
    except BaseException:
        file.close()
        raise


def _hdf5_array(h5py: Any, file: Any, name: str) -> Any:
    place = file
    for part in name.strip("/").split("/"):
        link = place.get(part, getlink=True) if isinstance(place, h5py.Group) else None
        if link is None:
            raise ValueError(
                f"from_hdf5: {file.filename} has no array {name!r}; at the top it has "
                f"{', '.join(sorted(file)) or 'nothing'}"
            )
        if not isinstance(link, h5py.HardLink):
            raise ValueError(
                f"from_hdf5: {name!r} in {file.filename} is a link ({type(link).__name__}), which "
                "is not followed; expected an array of the file itself"
            )
        place = place[part]
    if not isinstance(place, h5py.Dataset):
        raise ValueError(
            f"from_hdf5: {name!r} in {file.filename} is a {type(place).__name__}; expected an "
            "array's path"
        )
    if place.external or place.is_virtual:
        raise ValueError(
            f"from_hdf5: {name!r} in {file.filename} lies in other files, which are not read; "
            "expected an array whose numbers this file holds"
        )
    _check_dtype("from_hdf5", name, place.dtype)
    return place


def from_zarr(path: str | os.PathLike[str], names: Any = "") -> Dataset:
    """Return the data set of arrays in a Zarr store on the disk.

    Parameters
    ----------
    path : path
        The store.
    names : nest of str
        The arrays' paths in it; by default the store itself is one array.

    Raises
    ------
    MissingDataError
        If zarr is not installed.
    ValueError
        If there is no such array, the lengths differ, or it holds no numbers.

    Notes
    -----
    Needs `pip install 'distgrad[zarr]'`.
    """
    zarr = needed("zarr", "Zarr stores are read", "pip install 'distgrad[zarr]'")

    def opened(name: str) -> Any:
        try:
            array = zarr.open_array(str(path), path=name or None, mode="r")
        except (FileNotFoundError, KeyError, ValueError, TypeError) as error:
            raise ValueError(f"from_zarr: {path} has no array {name!r}: {error}") from error
        _check_dtype("from_zarr", name, array.dtype)
        return _Orthogonal(array)

    return _Sorted("from_zarr", tree.map(opened, names))


class _Orthogonal:
    """A Zarr array whose subscripts are numbers of examples."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, places: Array) -> Any:
        return np.asarray(self._array.oindex[places])


class _Sorted(Dataset):
    """Arrays that want ascending places, each once."""

    def __init__(self, function: str, arrays: Any) -> None:
        self._leaves, self._treedef = tree.flatten(arrays)
        self._length = common_length(function, tree.paths(arrays), self._leaves)

    def __len__(self) -> int:
        return self._length

    def read(self, places: Array) -> Any:
        ascending, back = np.unique(places, return_inverse=True)
        if not len(ascending):
            empty = [np.empty((0, *leaf.shape[1:]), leaf.dtype) for leaf in self._leaves]
            return tree.unflatten(self._treedef, empty)
        found = [np.asarray(leaf[ascending])[back] for leaf in self._leaves]
        return tree.unflatten(self._treedef, found)


def from_parquet(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> Dataset:
    """Return the data set of the columns of a Parquet file, as a dict by their names.

    Parameters
    ----------
    path : path
        The file.
    columns : sequence of str, optional
        All by default.

    Raises
    ------
    MissingDataError
        If pyarrow is not installed.
    ValueError
        If there is no such column, or it holds neither numbers, truth values nor lists of numbers
        of one length.

    Notes
    -----
    Needs `pip install 'distgrad[parquet]'`. Whole row groups are decoded, and the last four kept:
    a shuffled order is quick only if the file has no more groups than that, or small ones. A null
    is an error of the batch that has it.
    """
    remedy = "pip install 'distgrad[parquet]'"
    parquet = needed("pyarrow.parquet", "Parquet files are read", remedy)
    compute = needed("pyarrow.compute", "Parquet files are read", remedy)
    file = parquet.ParquetFile(path, memory_map=True)
    return _Parquet(file, path, columns, compute.list_value_length)


class _Parquet(Dataset):
    def __init__(
        self,
        file: Any,
        path: str | os.PathLike[str],
        columns: Sequence[str] | None,
        lengths_of: Callable[[Any], Any],
    ) -> None:
        self._lengths_of = lengths_of
        there = list(file.schema_arrow.names)
        self._columns = there if columns is None else list(columns)
        for name in self._columns:
            if name not in there:
                raise ValueError(
                    f"from_parquet: {path} has no column {name!r}; it has {', '.join(there)}"
                )
        self._file, self._path = file, path
        groups = file.metadata
        lengths = [groups.row_group(group).num_rows for group in range(groups.num_row_groups)]
        self._ends = np.cumsum(lengths)
        self._kept: OrderedDict[int, Mapping[str, Array]] = OrderedDict()
        self._lock = threading.Lock()  # a Parquet file has one reader
        if not lengths or not self._columns:
            raise ValueError(
                f"from_parquet: {path} has {sum(lengths)} rows, and {len(self._columns)} of its "
                "columns were chosen; expected one of each at least"
            )
        self._shapes = {n: (c.dtype, c.shape[1:]) for n, c in self._group(0).items()}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, places: Array) -> dict[str, Array]:
        found = {
            name: np.empty((len(places), *shape), dtype)
            for name, (dtype, shape) in self._shapes.items()
        }
        groups = np.searchsorted(self._ends, places, side="right")
        for group in np.unique(groups):
            here = groups == group
            start = self._ends[group - 1] if group else 0
            for name, column in self._group(int(group)).items():
                if column.shape[1:] != found[name].shape[1:]:
                    raise ValueError(
                        f"from_parquet: {self._path}: the lists of {name!r} have "
                        f"{self._shapes[name][1]} numbers in the first group of rows, "
                        f"{column.shape[1:]} in group {group}; expected one length"
                    )
                found[name][here] = column[places[here] - start]
        return found

    def _group(self, group: int) -> Mapping[str, Array]:
        with self._lock:
            if group not in self._kept:
                table = self._file.read_row_group(group, columns=self._columns)
                self._kept[group] = {
                    name: self._decoded(name, table.column(name).combine_chunks())
                    for name in self._columns
                }
                while len(self._kept) > _GROUPS_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(group)
            return self._kept[group]

    def _decoded(self, name: str, column: Any) -> Array:
        lengths: list[int] = []
        while True:
            if column.null_count:
                raise ValueError(
                    f"from_parquet: {self._path}: the column {name!r} has nulls; expected numbers"
                )
            if "list" not in str(column.type):
                break
            known = np.unique(self._lengths_of(column).to_numpy(zero_copy_only=False))
            if len(known) != 1:
                raise ValueError(
                    f"from_parquet: {self._path}: the lists of {name!r} have {known.tolist()} "
                    "entries; expected one length"
                )
            lengths.append(int(known[0]))
            column = column.flatten()
        array: Array = column.to_numpy(zero_copy_only=False)
        _check_dtype("from_parquet", name, array.dtype)
        rows = len(array) // int(np.prod(lengths, dtype=int))
        return array.reshape(rows, *lengths)


def _check_dtype(function: str, name: str, dtype: Any) -> None:
    if np.dtype(dtype).kind not in "biufc":
        raise ValueError(
            f"{function}: {name!r} holds {dtype}; expected numbers or truth values: choose other "
            "columns, or encode it first"
        )
