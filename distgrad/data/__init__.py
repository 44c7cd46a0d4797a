"""Data sets, the order in which a training sees them, and the batches it is given."""

from distgrad.data.datasets import Dataset, from_arrays, from_npy
from distgrad.data.draws import Draws
from distgrad.data.files import from_hdf5, from_parquet, from_zarr
from distgrad.data.loader import Loader, PartialRows
from distgrad.data.order import Order

__all__ = [
    "Dataset",
    "Draws",
    "Loader",
    "Order",
    "PartialRows",
    "from_arrays",
    "from_hdf5",
    "from_npy",
    "from_parquet",
    "from_zarr",
]
