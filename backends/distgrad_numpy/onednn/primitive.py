"""A primitive of oneDNN: descriptions of its arrays, the compiled code, and how to run it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from distgrad_numpy.onednn.library import Failed, Handle, Library
from distgrad_numpy.threads import scratch

Array = np.ndarray[Any, Any]

# Values of oneDNN's enumerations, from dnnl_types.h and dnnl_common_types.h of version 3.
FLOAT32, BYTE = 3, 6
FORWARD, INFERENCE = 64, 96
SOURCE, TARGET, WEIGHTS = 1, 17, 33  # arguments of a primitive
MEAN, VARIANCE, SCALE, SHIFT, WORKSPACE = 49, 50, 51, 52, 64
SCALE_GRADIENT, SHIFT_GRADIENT = 255, 256
GRADIENT = 128  # added to an argument that is a cotangent
_SCRATCHPAD, _QUERY_SCRATCHPAD, _QUERY_NAME = 80, 136, 8
QUERY_WEIGHTS, QUERY_GRADIENT_OF_WEIGHTS, QUERY_WORKSPACE = 131, 132, 135
_Dimensions = ctypes.c_int64 * 12


class _Argument(ctypes.Structure):
    _fields_ = (("argument", ctypes.c_int), ("memory", Handle))


class Code:
    """What runs: a primitive's handle, and the scratch memory that it wants."""

    def __init__(self, owner: Primitive, description: Handle) -> None:
        library = owner.library
        self.handle = owner.own(
            "dnnl_primitive_destroy", library.made("dnnl_primitive_create", description)
        )
        self.spare = owner.query(description, _QUERY_SCRATCHPAD)
        self.spare_size = library.calls.dnnl_memory_desc_get_size(self.spare)


class Primitive:
    """Owns what oneDNN made for one key. A kind of primitive is a subclass that makes `code`."""

    code: Code

    def __init__(self, library: Library) -> None:
        self.library = library
        self.owned: list[tuple[str, Handle]] = []

    def __del__(self) -> None:
        for destroy, handle in reversed(self.owned):
            getattr(self.library.calls, destroy)(handle)

    def own(self, destroy: str, handle: Handle) -> Handle:
        """Keep a handle until the primitive goes, and return it."""
        self.owned.append((destroy, handle))
        return handle

    def layout(self, dims: Sequence[int], strides: Sequence[int], kind: int = FLOAT32) -> Handle:
        """Return the description of an array of a shape and strides, in elements."""
        return self.own(
            "dnnl_memory_desc_destroy",
            self.library.made(
                "dnnl_memory_desc_create_with_strides",
                *(len(dims), dimensions(dims), kind, dimensions(strides)),
            ),
        )

    def operation(self, name: str, *arguments: Any) -> Handle:
        """Return the description of an operation: ``dnnl_<name>_primitive_desc_create``."""
        library = self.library
        return self.own(
            "dnnl_primitive_desc_destroy",
            library.made(
                f"dnnl_{name}_primitive_desc_create",
                *(library.engine, *arguments, library.attributes),
            ),
        )

    def compiled(self, description: Handle) -> Code:
        """Return the code of an operation, if it is not the slow reference implementation."""
        name = ctypes.c_char_p()
        self.library.call(
            "dnnl_primitive_desc_query", description, _QUERY_NAME, 0, ctypes.byref(name)
        )
        if (name.value or b"").startswith(b"ref"):
            raise Failed("only the reference implementation takes these shapes")
        return Code(self, description)

    def query(self, description: Handle, what: int) -> Handle:
        """Return the layout that an operation wants for one of its arrays."""
        return Handle(self.library.calls.dnnl_primitive_desc_query_md(description, what, 0))

    def run(self, *steps: tuple[Code, dict[int, tuple[Handle, Array]]]) -> None:
        """Run code one after the other, each with its arguments: layouts and arrays.

        Arrays lie in memory as their layouts say; nothing is checked.
        """
        library = self.library
        stream = library.stream()
        memories: list[Handle] = []
        try:
            for code, given in steps:
                arguments = given
                if code.spare_size:
                    spare = aligned("scratchpad", code.spare_size)
                    arguments = {**given, _SCRATCHPAD: (code.spare, spare)}
                table = (_Argument * len(arguments))()
                for place, (number, (layout, array)) in enumerate(arguments.items()):
                    handle = Handle()
                    library.call(
                        "dnnl_memory_create",
                        *(ctypes.byref(handle), layout, library.engine),
                        Handle(array.__array_interface__["data"][0]),
                    )
                    memories.append(handle)
                    table[place].argument, table[place].memory = number, handle
                library.call("dnnl_primitive_execute", code.handle, stream, len(table), table)
            library.call("dnnl_stream_wait", stream)
        finally:
            for handle in memories:
                library.calls.dnnl_memory_destroy(handle)


def real(number: float) -> Any:
    """Return a number as a float of C."""
    return ctypes.c_float(number)


def dimensions(numbers: Iterable[int]) -> Any:
    """Return whole numbers as an array of oneDNN's."""
    return _Dimensions(*numbers)


def strides_of(shape: Sequence[int]) -> list[int]:
    """Return the strides, in elements, of a contiguous array."""
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return strides[::-1]


def channels_last(shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Return oneDNN's order of axes, (n, c, *spatial), for an array with its channels last."""
    strides = strides_of(shape)
    order = [0, len(shape) - 1, *range(1, len(shape) - 1)]
    return [shape[axis] for axis in order], [strides[axis] for axis in order]


def aligned(purpose: str, size: int) -> Array:
    """Return bytes of scratch memory that begin at a multiple of 64, as oneDNN's own would."""
    raw = scratch(purpose, (size + 64,), np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]
