"""oneDNN's kernels in single precision, called by ctypes where its library is installed.

The extra ``distgrad[onednn]`` brings the library; without it, or with ``DISTGRAD_ONEDNN=0`` in the
environment, the backend's own kernels compute. Both give the same up to rounding: oneDNN adds in
another order, and in one that depends on the number of threads.
"""

from distgrad_numpy.onednn.convolution import conv, conv_kernel_vjp, conv_transpose
from distgrad_numpy.onednn.library import is_available, switch
from distgrad_numpy.onednn.offers import preferred

__all__ = ["conv", "conv_kernel_vjp", "conv_transpose", "is_available", "preferred", "switch"]
