"""cuBLAS itself, by `ctypes`: its handles, how it reads matrices, and its products of stacks."""

from __future__ import annotations

import ctypes
import os
import threading
from math import prod
from typing import Any, NamedTuple

import numpy as np

from distgrad_cupy.running import HALVES

# cudaDataType and cublasComputeType of what is stored, see cuBLAS's reference.
STORED = {
    **{"float32": 0, "float64": 1, "float16": 2, "complex64": 4, "complex128": 5},
    "bfloat16": 14,
}
_SINGLE, _TF32, _DOUBLE = 68, 77, 70
_COMPUTED = {
    **dict.fromkeys(("float16", "bfloat16", "float32", "complex64"), _SINGLE),
    **dict.fromkeys(("float64", "complex128"), _DOUBLE),
}
# By the dtype of operands the numbers by which products and what stood there are scaled, and their
# addresses on the host.
_SCALES = {name: np.array([1, 0], np.float32 if name in HALVES else name) for name in STORED}
_ONE_AND_ZERO = {
    name: (scales.ctypes.data, scales[1:].ctypes.data) for name, scales in _SCALES.items()
}
_DEFAULT_ALGORITHM = -1
NOT_TURNED, TURNED = 0, 1


class CublasError(RuntimeError):
    """cuBLAS does not do a product; its status says why."""


class Layout(NamedTuple):
    """How matrices lie: whether turned, how far columns and matrices are apart, in elements."""

    turned: int
    leading: int
    stride: int


class Handle:
    """A handle of cuBLAS with the stream and the workspace that it was given last."""

    def __init__(self, value: ctypes.c_void_p) -> None:
        self.value = value
        self.place: tuple[int, int, int] | None = None


class Cublas:
    """The functions of cuBLAS that are called, on one library.

    Parameters
    ----------
    library : ctypes.CDLL
        cuBLAS.

    Notes
    -----
    With the types of arguments declared a call takes Python's numbers, a third of the time that it
    takes to make one of each for `ctypes`.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._local = threading.local()
        pointer, whole, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
        library.cublasSetStream_v2.argtypes = [pointer, pointer]
        library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
        matrix = [pointer, whole, whole, long]
        self._gemm = library.cublasGemmStridedBatchedEx
        sizes, ends = [whole] * 5, [whole] * 3
        self._gemm.argtypes = [pointer, *sizes, pointer, *matrix * 2, pointer, *matrix, *ends]

    def handle(self, device: int) -> Handle:
        """Return this thread's handle for the current device."""
        known: dict[int, Handle] | None = getattr(self._local, "handles", None)
        if known is None:
            known = self._local.handles = {}
        if device not in known:
            made = ctypes.c_void_p()
            self._check(self._library.cublasCreate_v2(ctypes.byref(made)))
            known[device] = Handle(made)
        return known[device]

    def use(self, handle: Handle, stream: int, workspace: int, nbytes: int) -> None:
        """Let a handle work on a stream, in memory of its own; after that, products are given."""
        place = (stream, workspace, nbytes)
        if handle.place != place:
            handle.place = None  # until both are accepted
            self._check(self._library.cublasSetStream_v2(handle.value, stream))
            self._check(self._library.cublasSetWorkspace_v2(handle.value, workspace, nbytes))
            handle.place = place

    def multiply(
        self,
        handle: Handle,
        sizes: tuple[int, int, int, int],
        a: tuple[int, Layout, str],
        b: tuple[int, Layout, str],
        out: tuple[int, Layout, str],
    ) -> None:
        """Multiply matrices that lie column by column: out = a b.

        Parameters
        ----------
        handle : Handle
            As `use` left it.
        sizes : tuple of int
            Rows and columns of the result, the length of the sums, and the number of matrices.
        a, b, out : tuple
            Address, layout and dtype of each.
        """
        rows, columns, depth, count = sizes
        (a_address, a_layout, name), (b_address, b_layout, _), (address, layout, wide) = a, b, out
        one, zero = _ONE_AND_ZERO[name]
        compute, stored = _COMPUTED[name], STORED[name]
        if compute == _SINGLE and name not in HALVES and os.environ.get("CUPY_TF32") == "1":
            compute = _TF32  # where CuPy's own switch asks for it
        status = self._gemm(
            *(handle.value, a_layout.turned, b_layout.turned, rows, columns, depth, one),
            *(a_address, stored, a_layout.leading, a_layout.stride),
            *(b_address, stored, b_layout.leading, b_layout.stride),
            *(zero, address, STORED[wide], layout.leading, layout.stride),
            *(count, compute, _DEFAULT_ALGORITHM),
        )
        self._check(status)

    def _check(self, status: int) -> None:
        if status:
            raise CublasError(f"cuBLAS gives status {status}; see cublasStatus_t in its reference")


def layout_of(
    shape: tuple[int, ...], strides: tuple[int, ...], size: int
) -> tuple[int, int] | None:
    """Return whether a matrix is turned, and how far its columns are apart; None if it is neither.

    As cuBLAS sees it, whose columns are the rows that lie in memory.
    """
    (rows, columns), (down, along) = shape, strides
    # The step of an axis of length 1 says nothing.
    if along == size or columns == 1:
        leading = down // size if rows > 1 else columns
        if leading >= columns and (rows == 1 or down % size == 0):
            return NOT_TURNED, leading
    if down == size or rows == 1:
        leading = along // size if columns > 1 else rows
        if leading >= rows and (columns == 1 or along % size == 0):
            return TURNED, leading
    return None


def step_of_stack(
    shape: tuple[int, ...], strides: tuple[int, ...], stack: tuple[int, ...]
) -> int | None:
    """Return how many bytes are between the matrices of a stack; None if that differs."""
    if shape != stack and prod(shape) != 1:
        return None  # some are broadcast, others are not
    count, between = 1, 0
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length == 1:
            continue
        if count > 1 and stride != between * count:
            return None
        between, count = (stride, length) if count == 1 else (between, count * length)
    return between


def cublas_library() -> Any:
    """Return cuBLAS, the library that CuPy has loaded or would load.

    Raises
    ------
    OSError
        If there is none.
    """
    import cupy

    cupy.cuda.device.get_cublas_handle()  # whose library is loaded from now on
    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    return ctypes.CDLL(f"libcublas.so.{major}")
