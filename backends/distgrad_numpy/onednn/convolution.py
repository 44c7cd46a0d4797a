"""oneDNN's convolutions, each open in one of input, kernel and output."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from distgrad.windows import Geometry
from distgrad_numpy.onednn import primitive as of
from distgrad_numpy.onednn.library import Handle, Library, ready

Array = np.ndarray[Any, Any]

_DIRECT, _ANY = 1, 1  # the algorithm; the layout that oneDNN may choose


class Convolution(NamedTuple):
    """What the code of a convolution depends on."""

    opens: str  # the array that it computes: "y", "x" or "w"
    x: tuple[int, ...]
    w: tuple[int, ...]
    y: tuple[int, ...]
    geometry: Geometry
    threads: int

    def make(self, library: Library) -> _Convolution:
        """Return the primitive."""
        return _Convolution(library, self)


class _Convolution(of.Primitive):
    """One primitive, with the layouts of memory that it wants.

    The kernel is brought to the layout of oneDNN's choice, and its cotangent back from there.
    """

    def __init__(self, library: Library, key: Convolution) -> None:
        super().__init__(library)
        self.opens = key.opens
        groups = key.geometry.groups
        self.x = self.layout(*of.channels_last(key.x))
        self.y = self.layout(*of.channels_last(key.y))
        self.w = self.layout(*_kernel(key.w, groups))
        dims, _ = _kernel(key.w, groups)
        free = self.own(
            "dnnl_memory_desc_destroy",
            library.made(
                "dnnl_memory_desc_create_with_tag",
                *(len(dims), of.dimensions(dims), of.FLOAT32, _ANY),
            ),
        )
        stride, padding, dilation, _ = key.geometry
        slides = (
            of.dimensions(stride),
            of.dimensions([d - 1 for d in dilation]),
            of.dimensions([lo for lo, _ in padding]),
            of.dimensions([hi for _, hi in padding]),
        )
        description = forward = self.operation(
            "convolution_forward", of.FORWARD, _DIRECT, self.x, free, None, self.y, *slides
        )
        if key.opens == "x":
            description = self.operation(
                "convolution_backward_data", _DIRECT, self.x, free, self.y, *slides, forward
            )
        elif key.opens == "w":
            description = self.operation(
                "convolution_backward_weights",
                *(_DIRECT, self.x, free, None, self.y, *slides, forward),
            )
        self.code = self.compiled(description)
        self.wanted = self.query(
            description,
            of.QUERY_GRADIENT_OF_WEIGHTS if key.opens == "w" else of.QUERY_WEIGHTS,
        )
        self.reorder: of.Code | None = None
        if not library.calls.dnnl_memory_desc_equal(self.wanted, self.w):
            self.wanted_size = library.calls.dnnl_memory_desc_get_size(self.wanted)
            ways = (self.w, self.wanted) if key.opens != "w" else (self.wanted, self.w)
            reorder = self.own(
                "dnnl_primitive_desc_destroy",
                library.made(
                    "dnnl_reorder_primitive_desc_create",
                    *(ways[0], library.engine, ways[1], library.engine, library.attributes),
                ),
            )
            self.reorder = of.Code(self, reorder)

    def __call__(self, x: Array, w: Array, y: Array) -> None:
        """Compute the array that is left open from the two others."""
        opens = self.opens
        kernel: tuple[Handle, Array] = (self.w, w)
        own = kernel
        if self.reorder is not None:
            own = (self.wanted, of.aligned("weights", self.wanted_size))
        steps: list[Any] = [
            (
                self.code,
                {
                    of.SOURCE + (of.GRADIENT if opens == "x" else 0): (self.x, x),
                    of.WEIGHTS + (of.GRADIENT if opens == "w" else 0): own,
                    of.TARGET + (of.GRADIENT if opens != "y" else 0): (self.y, y),
                },
            )
        ]
        if self.reorder is not None:
            if opens == "w":
                steps.append((self.reorder, {of.SOURCE: own, of.TARGET: kernel}))
            else:
                steps.insert(0, (self.reorder, {of.SOURCE: kernel, of.TARGET: own}))
        self.run(*steps)


def _kernel(shape: tuple[int, ...], groups: int) -> tuple[list[int], list[int]]:
    """Return oneDNN's order of axes, (groups, k, c, *window), for a kernel (*window, c, k)."""
    *window, inner, outputs = shape
    steps = of.strides_of(shape)
    each = outputs // groups
    dims = [each, inner, *window]
    strides = [steps[-1], steps[-2], *steps[:-2]]
    if groups > 1:
        dims, strides = [groups, *dims], [each, *strides]
    return dims, strides


def _compute(opens: str, x: Array, w: Array, y: Array, geometry: Geometry) -> bool:
    """Compute the array that is left open, if oneDNN does; return whether it did."""
    if not (x.dtype == w.dtype == y.dtype == np.float32):
        return False
    if 0 in x.shape or 0 in w.shape or 0 in y.shape or (found := ready()) is None:
        return False
    library, threads = found
    convolution = library.primitive(
        Convolution(opens, x.shape, w.shape, y.shape, geometry, threads)
    )
    if not isinstance(convolution, _Convolution):
        return False
    # The array that is computed is contiguous: the kernels have just made it.
    convolution(*(np.ascontiguousarray(array) for array in (x, w, y)))
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
