"""Compiled kernels: C++ that the user's own compiler turns into machine code at first use.

What NumPy computes in several passes over memory takes one here. Nothing depends on it: without a
compiler the own kernels of `distgrad_numpy` compute, and a warning says so once.
"""

from distgrad_numpy.compiled.compiler import CompilerError, compiler_name
from distgrad_numpy.compiled.library import SWITCH, CompilerWarning, is_on, switch

__all__ = ["SWITCH", "CompilerError", "CompilerWarning", "compiler_name", "is_on", "switch"]
