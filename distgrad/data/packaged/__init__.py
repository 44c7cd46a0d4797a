"""Data sets that come inside packages: what is missing is named, and the package that has it."""

from distgrad.data.missing import MissingDataError
from distgrad.data.packaged.debian import unpack_debian
from distgrad.data.packaged.images import FASHION_CLASSES, digits, fashion_mnist, mnist_subset
from distgrad.data.packaged.series import carbon_dioxide, sunspots
from distgrad.data.packaged.text import python_reference

__all__ = [
    "FASHION_CLASSES",
    "MissingDataError",
    "carbon_dioxide",
    "digits",
    "fashion_mnist",
    "mnist_subset",
    "python_reference",
    "sunspots",
    "unpack_debian",
]
