"""Products of matrices by cuBLAS itself, for what CuPy's own product does not do.

CuPy's `matmul` refuses to be captured in a CUDA graph, gives products of half precision rounded to
half precision only, one of two vectors added up in it, and takes no stacks of bfloat16. Of stacks
it widens those of float16, copies those that are transposed, and makes tables of addresses where
one matrix stands for many. Here cuBLAS, the library that CuPy has loaded, is called directly: for
all these, into a wider dtype, and in a workspace that belongs to a captured graph. Everything else
is CuPy's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

from distgrad_cupy.cublas import (
    NOT_TURNED,
    STORED,
    Cublas,
    CublasError,
    Handle,
    Layout,
    layout_of,
    step_of_stack,
)
from distgrad_cupy.running import HALVES, addition_dtype, address_of, name_of

Array = Any

# What cuBLAS recommends for devices of compute capability 9; others need less.
_WORKSPACE_BYTES = 32 << 20
_LARGEST = 2**31 - 1
STREAM_OF_THREAD = 2  # cudaStreamPerThread
_MOST_ROOMS = 16  # workspaces that are kept: programs may make streams without end


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
            if name in STORED:
                if self.are_own:
                    return self._multiplied(a, b, a.dtype, out)
                if is_stack and not _lie_alike(a, b):
                    return self._by_cublas(a, b, a.dtype, out)
        if a.shape[:-2] != b.shape[:-2]:
            a, b = _with_positive_steps(a), _with_positive_steps(b)
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
                Layout(NOT_TURNED, columns, rows * columns),
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
        layout = layout_of(shape[-2:], strides[-2:], size)
        between = step_of_stack(shape[:-2], strides[:-2], stack)
        if layout is not None and between is not None and between >= 0 and not between % size:
            return x, Layout(*layout, between // size)
        copy = self._module.ascontiguousarray(self._module.broadcast_to(x, (*stack, *shape[-2:])))
        return copy, Layout(NOT_TURNED, shape[-1], shape[-2] * shape[-1])


def _lie_alike(a: Array, b: Array) -> bool:
    """Return whether CuPy multiplies two stacks as they are, without a copy or tables."""
    return bool(a.shape[:-2] == b.shape[:-2] and a.flags.c_contiguous and b.flags.c_contiguous)


def _with_positive_steps(x: Array) -> Array:
    """Return an array, copied if a step is negative.

    Where stacks are broadcast CuPy makes tables of addresses, of unsigned numbers, from the steps;
    also from that of an axis of length 1, which is turned round by nothing but its step.
    """
    return x.copy() if any(step < 0 for step in x.strides) else x


def _are_vectors(a: Array, b: Array) -> bool:
    """Return whether a product is one number, of a row and a column."""
    return a.shape[:-1] in ((), (1,)) and (b.ndim == 1 or (b.ndim == 2 and b.shape[1] == 1))
