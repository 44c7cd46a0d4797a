"""oneDNN's convolutions in single precision, called by ctypes where its library is installed.

The extra ``distgrad[onednn]`` brings the library; without it, or with ``DISTGRAD_ONEDNN=0`` in the
environment, the backend's own kernels compute. Both give the same up to rounding: oneDNN adds in
another order, and in one that depends on the number of threads.

A primitive, oneDNN's compiled code for one set of shapes, is made once and kept; the least recently
used go when there are too many. It is run with memory of each call's own, so threads may share it.
The library's OpenMP threads do not survive a fork: a child of a process that has used it falls back
on the own kernels, where it would hang otherwise.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distgrad_numpy.blocks import Geometry
from distgrad_numpy.threads import available, scratch

Array = np.ndarray[Any, Any]
Handle = ctypes.c_void_p

SWITCH = "DISTGRAD_ONEDNN"
_PRIMITIVES = 256  # kept at most

# Values of oneDNN's enumerations, from dnnl_types.h and dnnl_common_types.h of version 3.
_CPU, _IN_ORDER, _FLOAT32 = 1, 1, 3
_FORWARD, _DIRECT, _USER_SCRATCHPAD = 64, 1, 1
_SOURCE, _TARGET, _WEIGHTS, _SCRATCHPAD = 1, 17, 33, 80  # arguments of a primitive
_GRADIENT = 128  # added to an argument that is a cotangent
_QUERY_WEIGHTS, _QUERY_GRADIENT_OF_WEIGHTS, _QUERY_SCRATCHPAD, _QUERY_NAME = 131, 132, 136, 8
_Dimensions = ctypes.c_int64 * 12


class _Argument(ctypes.Structure):
    _fields_ = (("argument", ctypes.c_int), ("memory", Handle))


class _Failed(Exception):
    """oneDNN does not do what it was asked for."""


# --- the library ----------------------------------------------------------------------------------


def _places() -> Iterable[Path]:
    """Yield where the library may be: as the environment says, or where its wheel puts it."""
    given = os.environ.get(SWITCH, "")
    if "/" in given:
        yield Path(given)
        return
    yield Path(sys.prefix) / "lib" / "libdnnl.so.3"
    from importlib.metadata import PackageNotFoundError, files

    try:
        for file in files("onednn-cpu-gomp") or ():
            if file.name == "libdnnl.so.3":
                yield Path(str(file.locate()))
    except PackageNotFoundError:
        return


class _Library:
    """The library, its engine, and the primitives that were made."""

    def __init__(self, path: Path) -> None:
        self.calls = ctypes.CDLL(str(path))
        self.calls.dnnl_primitive_desc_query_md.restype = Handle
        self.calls.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        self.calls.dnnl_memory_desc_get_size.argtypes = (Handle,)
        self.calls.dnnl_memory_desc_equal.argtypes = (Handle, Handle)
        self.openmp = ctypes.CDLL("libgomp.so.1")
        self.engine = self.made("dnnl_engine_create", _CPU, ctypes.c_size_t(0))
        self.attributes = self.made("dnnl_primitive_attr_create")
        self.call("dnnl_primitive_attr_set_scratchpad_mode", self.attributes, _USER_SCRATCHPAD)
        self.primitives: OrderedDict[Any, _Convolution | None] = OrderedDict()
        self.lock = threading.Lock()
        self.local = threading.local()

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library."""
        if status := getattr(self.calls, name)(*arguments):
            raise _Failed(f"{name} returned {status}")

    def made(self, name: str, *arguments: Any) -> Handle:
        """Return what a function of the library makes."""
        handle = Handle()
        self.call(name, ctypes.byref(handle), *arguments)
        return handle

    def stream(self) -> Handle:
        """Return this thread's stream of work."""
        stream: Handle | None = getattr(self.local, "stream", None)
        if stream is None:
            stream = self.local.stream = self.made("dnnl_stream_create", self.engine, _IN_ORDER)
        return stream

    def primitive(self, key: _Key) -> _Convolution | None:
        """Return the primitive of a key; None if oneDNN has none that is quick."""
        with self.lock:
            if key in self.primitives:
                self.primitives.move_to_end(key)
                return self.primitives[key]
        made: _Convolution | None
        try:
            made = _Convolution(self, key)
        except _Failed:
            made = None
        with self.lock:
            self.primitives[key] = made
            while len(self.primitives) > _PRIMITIVES:
                self.primitives.popitem(last=False)
        return made


class _Switch:
    """Whether oneDNN computes in this process."""

    on = True
    forked = False


def _leave() -> None:
    _Switch.forked = _Switch.forked or _library.cache_info().currsize > 0


os.register_at_fork(after_in_child=_leave)


@cache
def _library() -> _Library | None:
    if os.environ.get(SWITCH) == "0" or platform.machine() not in ("x86_64", "AMD64"):
        return None
    for path in _places():
        if path.is_file():
            try:
                return _Library(path)
            except (OSError, AttributeError, _Failed) as error:
                warnings.warn(
                    f"oneDNN at {path} does not load ({error}); NumPy's kernels compute "
                    f"convolutions instead. {SWITCH}=0 in the environment keeps this quiet",
                    stacklevel=2,
                )
    return None


def is_available() -> bool:
    """Return whether convolutions in single precision are oneDNN's in this process."""
    return _Switch.on and not _Switch.forked and _library() is not None


def switch(on: bool) -> bool:
    """Turn oneDNN on or off for this process, and return what it was before.

    For tests and measurements of the two sets of kernels side by side; ``DISTGRAD_ONEDNN=0`` in the
    environment is the switch for everything else.
    """
    before, _Switch.on = _Switch.on, on
    return before


# --- primitives -----------------------------------------------------------------------------------


class _Key(NamedTuple):
    """What the code of a primitive depends on."""

    opens: str  # the array that it computes: "y", "x" or "w"
    x: tuple[int, ...]
    w: tuple[int, ...]
    y: tuple[int, ...]
    geometry: Geometry
    threads: int


class _Convolution:
    """One primitive, with the layouts of memory that it wants.

    The kernel is brought to the layout of oneDNN's choice, and its cotangent back from there.
    """

    def __init__(self, library: _Library, key: _Key) -> None:
        self.library, self.key = library, key
        self.owned: list[tuple[str, Handle]] = []
        groups = key.geometry.groups
        self.x = self._description(*_channels_last(key.x))
        self.y = self._description(*_channels_last(key.y))
        self.w = self._description(*_kernel(key.w, groups))
        dims, _ = _kernel(key.w, groups)
        free = self._own(
            "dnnl_memory_desc_destroy",
            library.made(
                "dnnl_memory_desc_create_with_tag", len(dims), _dimensions(dims), _FLOAT32, 1
            ),
        )
        stride, padding, dilation, _ = key.geometry
        slides = (
            _dimensions(stride),
            _dimensions([d - 1 for d in dilation]),
            _dimensions([lo for lo, _ in padding]),
            _dimensions([hi for _, hi in padding]),
        )
        forward = self._own(
            "dnnl_primitive_desc_destroy",
            library.made(
                "dnnl_convolution_forward_primitive_desc_create",
                *(library.engine, _FORWARD, _DIRECT, self.x, free, None, self.y, *slides),
                library.attributes,
            ),
        )
        self.description = forward
        if key.opens == "x":
            self.description = self._own(
                "dnnl_primitive_desc_destroy",
                library.made(
                    "dnnl_convolution_backward_data_primitive_desc_create",
                    *(library.engine, _DIRECT, self.x, free, self.y, *slides, forward),
                    library.attributes,
                ),
            )
        elif key.opens == "w":
            self.description = self._own(
                "dnnl_primitive_desc_destroy",
                library.made(
                    "dnnl_convolution_backward_weights_primitive_desc_create",
                    *(library.engine, _DIRECT, self.x, free, None, self.y, *slides, forward),
                    library.attributes,
                ),
            )
        if self._name().startswith("ref"):
            raise _Failed("only the reference implementation takes these shapes")
        self.run = self._own(
            "dnnl_primitive_destroy", library.made("dnnl_primitive_create", self.description)
        )
        self.wanted = self._query(
            _QUERY_GRADIENT_OF_WEIGHTS if key.opens == "w" else _QUERY_WEIGHTS
        )
        self.scratchpad = self._query(_QUERY_SCRATCHPAD)
        self.reorder: Handle | None = None
        if not library.calls.dnnl_memory_desc_equal(self.wanted, self.w):
            ways = (self.w, self.wanted) if key.opens != "w" else (self.wanted, self.w)
            description = self._own(
                "dnnl_primitive_desc_destroy",
                library.made(
                    "dnnl_reorder_primitive_desc_create",
                    *(ways[0], library.engine, ways[1], library.engine, library.attributes),
                ),
            )
            self.reorder = self._own(
                "dnnl_primitive_destroy", library.made("dnnl_primitive_create", description)
            )
            self.reorder_scratchpad = Handle(
                library.calls.dnnl_primitive_desc_query_md(description, _QUERY_SCRATCHPAD, 0)
            )

    def __del__(self) -> None:
        for destroy, handle in reversed(self.owned):
            getattr(self.library.calls, destroy)(handle)

    def __call__(self, x: Array, w: Array, y: Array) -> None:
        """Compute the array that is left open from the two others."""
        library, opens = self.library, self.key.opens
        stream = library.stream()
        memories: list[Handle] = []

        def memory(description: Handle, array: Array) -> Handle:
            handle = library.made(
                "dnnl_memory_create", description, library.engine, Handle(array.ctypes.data)
            )
            memories.append(handle)
            return handle

        def execute(primitive: Handle, spare: Handle, arguments: dict[int, Handle]) -> None:
            size = library.calls.dnnl_memory_desc_get_size(spare)
            if size:
                arguments[_SCRATCHPAD] = memory(spare, _aligned("scratchpad", size))
            filled = (_Argument(number, handle) for number, handle in arguments.items())
            table = (_Argument * len(arguments))(*filled)
            library.call("dnnl_primitive_execute", primitive, stream, len(arguments), table)

        try:
            kernel = memory(self.w, w)
            own = kernel
            if self.reorder is not None:
                size = library.calls.dnnl_memory_desc_get_size(self.wanted)
                own = memory(self.wanted, _aligned("weights", size))
                if opens != "w":
                    execute(self.reorder, self.reorder_scratchpad, {_SOURCE: kernel, _TARGET: own})
            source, target = memory(self.x, x), memory(self.y, y)
            execute(
                self.run,
                self.scratchpad,
                {
                    _SOURCE + (_GRADIENT if opens == "x" else 0): source,
                    _WEIGHTS + (_GRADIENT if opens == "w" else 0): own,
                    _TARGET + (_GRADIENT if opens != "y" else 0): target,
                },
            )
            if self.reorder is not None and opens == "w":
                execute(self.reorder, self.reorder_scratchpad, {_SOURCE: own, _TARGET: kernel})
            library.call("dnnl_stream_wait", stream)
        finally:
            for handle in memories:
                library.calls.dnnl_memory_destroy(handle)

    def _own(self, destroy: str, handle: Handle) -> Handle:
        self.owned.append((destroy, handle))
        return handle

    def _description(self, dims: Sequence[int], strides: Sequence[int]) -> Handle:
        return self._own(
            "dnnl_memory_desc_destroy",
            self.library.made(
                "dnnl_memory_desc_create_with_strides",
                *(len(dims), _dimensions(dims), _FLOAT32, _dimensions(strides)),
            ),
        )

    def _query(self, what: int) -> Handle:
        return Handle(self.library.calls.dnnl_primitive_desc_query_md(self.description, what, 0))

    def _name(self) -> str:
        name = ctypes.c_char_p()
        self.library.call(
            "dnnl_primitive_desc_query", self.description, _QUERY_NAME, 0, ctypes.byref(name)
        )
        return (name.value or b"").decode()


def _dimensions(numbers: Iterable[int]) -> Any:
    return _Dimensions(*numbers)


def _channels_last(shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Return oneDNN's order of axes, (n, c, *spatial), for an array with its channels last."""
    strides = _strides(shape)
    order = [0, len(shape) - 1, *range(1, len(shape) - 1)]
    return [shape[axis] for axis in order], [strides[axis] for axis in order]


def _kernel(shape: tuple[int, ...], groups: int) -> tuple[list[int], list[int]]:
    """Return oneDNN's order of axes, (groups, k, c, *window), for a kernel (*window, c, k)."""
    *window, inner, outputs = shape
    steps = _strides(shape)
    each = outputs // groups
    dims = [each, inner, *window]
    strides = [steps[-1], steps[-2], *steps[:-2]]
    if groups > 1:
        dims, strides = [groups, *dims], [each, *strides]
    return dims, strides


def _strides(shape: tuple[int, ...]) -> list[int]:
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return strides[::-1]


def _aligned(purpose: str, size: int) -> Array:
    """Return bytes of scratch memory that begin at a multiple of 64, as oneDNN's own would."""
    raw = scratch(purpose, (size + 64,), np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


# --- the three operations -------------------------------------------------------------------------


def _compute(opens: str, x: Array, w: Array, y: Array, geometry: Geometry) -> bool:
    """Compute the array that is left open, if oneDNN does; return whether it did."""
    if not (x.dtype == w.dtype == y.dtype == np.float32):
        return False
    if not _Switch.on or _Switch.forked or 0 in x.shape or 0 in w.shape or 0 in y.shape:
        return False
    library = _library()
    if library is None:
        return False
    threads = available()
    library.openmp.omp_set_num_threads(threads)
    primitive = library.primitive(_Key(opens, x.shape, w.shape, y.shape, geometry, threads))
    if primitive is None:
        return False
    # The array that is computed is contiguous: the kernels have just made it.
    primitive(*(np.ascontiguousarray(array) for array in (x, w, y)))
    return True


def conv(x: Array, w: Array, y: Array, geometry: Geometry) -> bool:
    """Write the convolution of x and w into y; return whether oneDNN did it."""
    return _compute("y", x, w, y, geometry)


def conv_transpose(y: Array, w: Array, x: Array, geometry: Geometry) -> bool:
    """Write the transposed convolution of y and w into x; return whether oneDNN did it."""
    return _compute("x", x, w, y, geometry)


def conv_kernel_vjp(x: Array, y: Array, w: Array, geometry: Geometry) -> bool:
    """Write the cotangent of a kernel into w; return whether oneDNN did it."""
    return _compute("w", x, w, y, geometry)
