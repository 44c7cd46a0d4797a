"""Products of matrices by cuBLAS itself, for what CuPy's own product does not do.

CuPy's `matmul` refuses to be captured in a CUDA graph, gives products of half precision rounded to
half precision only, one of two vectors added up in it, and takes no stacks of bfloat16. Of stacks
it widens those of float16, copies those that are transposed, and makes tables of addresses where
one matrix stands for many. Here cuBLAS, the library that CuPy has loaded, is called directly: for
all these, into a wider dtype, and in a workspace that belongs to a captured graph. Everything else
is CuPy's.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple

import numpy as np

from distgrad_cupy.running import HALVES, addition_dtype, address_of, name_of

Array = Any

# cudaDataType and cublasComputeType of what is stored, see cuBLAS's reference.
_STORED = {
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
_SCALES = {name: np.array([1, 0], np.float32 if name in HALVES else name) for name in _STORED}
_ONE_AND_ZERO = {
    name: (scales.ctypes.data, scales[1:].ctypes.data) for name, scales in _SCALES.items()
}
_DEFAULT_ALGORITHM = -1
_NOT_TURNED, _TURNED = 0, 1
# What cuBLAS recommends for devices of compute capability 9; others need less.
_WORKSPACE_BYTES = 32 << 20
_LARGEST = 2**31 - 1
STREAM_OF_THREAD = 2  # cudaStreamPerThread
_MOST_ROOMS = 16  # workspaces that are kept: programs may make streams without end


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
        compute, stored = _COMPUTED[name], _STORED[name]
        if compute == _SINGLE and name not in HALVES and os.environ.get("CUPY_TF32") == "1":
            compute = _TF32  # where CuPy's own switch asks for it
        status = self._gemm(
            *(handle.value, a_layout.turned, b_layout.turned, rows, columns, depth, one),
            *(a_address, stored, a_layout.leading, a_layout.stride),
            *(b_address, stored, b_layout.leading, b_layout.stride),
            *(zero, address, _STORED[wide], layout.leading, layout.stride),
            *(count, compute, _DEFAULT_ALGORITHM),
        )
        self._check(status)

    def _check(self, status: int) -> None:
        if status:
            raise CublasError(f"cuBLAS gives status {status}; see cublasStatus_t in its reference")


class Products:
    """Products of stacks of matrices on one module of arrays.

    Parameters
    ----------
    module : module
        CuPy.
    library : callable
        Returns cuBLAS as a `ctypes` library; raises `OSError` where there is none.
    """

    def __init__(self, module: Any, library: Callable[[], Any]) -> None:
        self._module = module
        self._find = library
        self._cublas: Cublas | None = None
        self._missing: Exception | None = None
        self._rooms: dict[tuple[int, int, int], Array] = {}
        self._rooms_lock = threading.Lock()
        self._latest: tuple[tuple[int, int, int] | None, Array] = (None, None)  # of `_rooms`
        self._own = threading.local()

    @property
    def are_own(self) -> bool:
        """Whether this thread's products are those of cuBLAS itself now."""
        return getattr(self._own, "rooms", None) is not None

    @contextmanager
    def own(self, room: Array | None = None) -> Iterator[list[Array]]:
        """Let this thread's products go to cuBLAS itself, in a workspace.

        Parameters
        ----------
        room : array, optional
            Bytes that nobody else uses, as `workspace` makes them; made for the first product
            unless given.

        Yields
        ------
        list of array
            The workspace; empty as long as there is no product.
        """
        before = getattr(self._own, "rooms", None)
        self._own.rooms = rooms = [] if room is None else [room]
        try:
            yield rooms
        finally:
            self._own.rooms = before

    def workspace(self) -> Array:
        """Return memory for cuBLAS to work in."""
        return self._module.empty(_WORKSPACE_BYTES, np.uint8)

    def cublas(self) -> Cublas:
        """Return cuBLAS.

        Raises
        ------
        CublasError
            If the library is not found.
        """
        if self._missing is not None:
            raise CublasError(f"cuBLAS is not found: {self._missing}") from self._missing
        if self._cublas is None:
            try:
                self._cublas = Cublas(self._find())
            except (ImportError, OSError, AttributeError) as error:
                self._missing = error
                raise CublasError(f"cuBLAS is not found: {error}") from error
        return self._cublas

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """Return a product as CuPy's `matmul` does, also while a graph is captured.

        Parameters
        ----------
        a, b : array
            Vectors (k,), matrices (n, k) and (k, m), or stacks (..., n, k) and (..., k, m).
        out : array, optional
            To be written, (..., n, m).

        Returns
        -------
        array
            (..., n, m), without the axes that vectors lack, of the operands' dtype.

        Raises
        ------
        ValueError
            If the lengths k differ.
        CublasError
            If cuBLAS itself is asked and refuses, or is not found.
        """
        if a.dtype == b.dtype:
            name, is_stack = name_of(a.dtype), a.ndim > 2 or b.ndim > 2
            if name == "bfloat16" or (name == "float16" and (is_stack or _are_vectors(a, b))):
                return self._by_cublas(a, b, a.dtype, out)
            if name in _STORED:
                if self.are_own:
                    return self._multiplied(a, b, a.dtype, out)
                if is_stack and not _lie_alike(a, b):
                    return self._by_cublas(a, b, a.dtype, out)
        if out is None:
            return self._module.matmul(a, b)
        return self._module.matmul(a, b, out=out)

    def wide_matmul(self, a: Array, b: Array) -> Array:
        """Return products in the dtype in which elements are added up, see `addition_dtype`.

        Parameters
        ----------
        a, b : array
            As `matmul` takes them, of one floating dtype.
        """
        wide = addition_dtype(name_of(a.dtype))
        return self.matmul(a, b) if a.dtype == wide else self._by_cublas(a, b, wide, None)

    def _by_cublas(self, a: Array, b: Array, dtype: Any, out: Array | None) -> Array:
        """Return a product by cuBLAS itself; where that refuses by CuPy, of halves in single."""
        try:
            return self._multiplied(a, b, dtype, out)
        except CublasError:
            if self.are_own:
                raise
            name = name_of(a.dtype)
            wide = addition_dtype(name) if name in HALVES else a.dtype
            product = self._module.matmul(a.astype(wide, copy=False), b.astype(wide, copy=False))
            if out is None:
                return product.astype(dtype, copy=False)
            out[...] = product
            return out

    def _multiplied(self, a: Array, b: Array, dtype: Any, out: Array | None) -> Array:
        """Return a product by cuBLAS itself, in a dtype as wide as the operands' or wider."""
        left = a.reshape(1, -1) if a.ndim == 1 else a
        right = b.reshape(-1, 1) if b.ndim == 1 else b
        (rows, depth), (given, columns) = left.shape[-2:], right.shape[-2:]
        if depth != given:
            raise ValueError(
                f"matmul: (..., n, k) @ (..., k, m) expected, got {a.shape} @ {b.shape}"
            )
        stack: tuple[int, ...] = left.shape[:-2]
        if stack != right.shape[:-2]:
            stack = np.broadcast_shapes(stack, right.shape[:-2])
        shape = (*stack, *(rows,) * (a.ndim > 1), *(columns,) * (b.ndim > 1))
        fits = out is not None and out.dtype == dtype and out.flags.c_contiguous
        result: Array = out if fits else self._module.empty(shape, dtype)
        if not (depth and result.size):
            result[...] = 0
        else:
            self._write(left, right, stack, result)
        if out is None or fits:
            return result
        out[...] = result
        return out

    def _write(self, left: Array, right: Array, stack: tuple[int, ...], result: Array) -> None:
        """Write the product of stacks of matrices that have elements into a contiguous array."""
        if stack and right.ndim == 2:
            # One matrix for all: the rows of all matrices are those of a single one.
            left, stack = self._module.ascontiguousarray(left).reshape(-1, left.shape[-1]), ()
        (rows, depth), columns = left.shape[-2:], right.shape[-1]
        count = prod(stack)
        one, one_layout = self._laid_out(left, stack)
        other, other_layout = self._laid_out(right, stack)
        if max(rows, columns, depth, count, one_layout[1], other_layout[1]) > _LARGEST:
            raise CublasError("lengths beyond 2^31 - 1")
        name = name_of(left.dtype)
        handle, _room = self._handle()  # the workspace has to be there until the launch
        # cuBLAS reads columns where rows lie: what it sees is turned, and so is the product.
        self.cublas().multiply(
            handle,
            (columns, rows, depth, count),
            (address_of(other), other_layout, name),
            (address_of(one), one_layout, name),
            (
                address_of(result),
                Layout(_NOT_TURNED, columns, rows * columns),
                name_of(result.dtype),
            ),
        )

    def _handle(self) -> tuple[Handle, Array]:
        """Return a handle for the current device and stream, and the memory that it works in."""
        cuda = self._module.cuda
        device, stream = cuda.Device().id, cuda.get_current_stream().ptr
        rooms = getattr(self._own, "rooms", None)
        if rooms is None:
            room = self._room_of(device, stream)
        else:
            if not rooms:
                rooms.append(self.workspace())
            room = rooms[0]
        cublas = self.cublas()
        handle = cublas.handle(device)
        cublas.use(handle, stream, address_of(room), room.nbytes)
        return handle, room

    def _room_of(self, device: int, stream: int) -> Array:
        """Return a stream's workspace: products on two streams may be at work at once."""
        # One number stands for the streams of all threads where each has a default of its own.
        thread = threading.get_ident() if stream == STREAM_OF_THREAD else 0
        wanted = (device, stream, thread)
        known, room = self._latest
        if known == wanted:
            return room
        with self._rooms_lock:
            room = self._rooms.pop(wanted, None)
            if room is None:
                room = self.workspace()
            self._rooms[wanted] = room  # the last is the one used last
            if len(self._rooms) > _MOST_ROOMS:
                del self._rooms[next(iter(self._rooms))]  # memory goes back to its stream's pool
            self._latest = wanted, room
        return room

    def _laid_out(self, x: Array, stack: tuple[int, ...]) -> tuple[Array, Layout]:
        """Return matrices as cuBLAS can read them, copied where they lie otherwise."""
        size, shape, strides = x.dtype.itemsize, x.shape, x.strides
        layout = _layout_of(shape[-2:], strides[-2:], size)
        between = _between(shape[:-2], strides[:-2], stack)
        if layout is not None and between is not None and between >= 0 and not between % size:
            return x, Layout(*layout, between // size)
        copy = self._module.ascontiguousarray(self._module.broadcast_to(x, (*stack, *shape[-2:])))
        return copy, Layout(_NOT_TURNED, shape[-1], shape[-2] * shape[-1])


def _layout_of(
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
            return _NOT_TURNED, leading
    if down == size or rows == 1:
        leading = along // size if columns > 1 else rows
        if leading >= rows and (columns == 1 or along % size == 0):
            return _TURNED, leading
    return None


def _between(
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


def _lie_alike(a: Array, b: Array) -> bool:
    """Return whether CuPy multiplies two stacks as they are, without a copy or tables."""
    return bool(a.shape[:-2] == b.shape[:-2] and a.flags.c_contiguous and b.flags.c_contiguous)


def _are_vectors(a: Array, b: Array) -> bool:
    """Return whether a product is one number, of a row and a column."""
    return a.shape[:-1] in ((), (1,)) and (b.ndim == 1 or (b.ndim == 2 and b.shape[1] == 1))


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
