"""The NumPy backend: the vocabulary's kernels for numpy.ndarray, on the CPU."""

from distgrad_numpy.backend import NumPyBackend, create

__all__ = ["NumPyBackend", "create"]
