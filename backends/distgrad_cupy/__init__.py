"""The CuPy backend: the vocabulary's kernels for cupy.ndarray, on CUDA devices."""

from distgrad_cupy.backend import CuPyBackend, create

__all__ = ["CuPyBackend", "create"]
