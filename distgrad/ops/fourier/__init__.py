"""Fourier transforms: the operations, what signals they take, and the frequencies of their bins."""

from distgrad.ops.fourier.transforms import OPS

__all__ = ["OPS"]
