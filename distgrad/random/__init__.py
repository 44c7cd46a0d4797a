"""Random numbers: explicit generators, which depend on no backend and on no number of ranks."""

from distgrad.random.generator import Generator

__all__ = ["Generator"]
