"""oneDNN's pooling."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from distgrad.windows import Pairs, counts
from distgrad_numpy.onednn import primitive as of
from distgrad_numpy.onednn.library import Failed, Library, ready
from distgrad_numpy.threads import scratch

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

_MAX, _MEAN_OF_ALL, _MEAN_OF_INSIDE = 0x1FF, 0x2FF, 0x3FF


class Pool(NamedTuple):
    """What the code of a pooling depends on."""

    algorithm: int
    pulls: bool
    x: Shape
    y: Shape
    window: Shape
    stride: Shape
    padding: Pairs
    threads: int

    def make(self, library: Library) -> _Pool:
        """Return the primitive."""
        return _Pool(library, self)


class _Pool(of.Primitive):
    def __init__(self, library: Library, key: Pool) -> None:
        super().__init__(library)
        self.x = self.layout(*of.channels_last(key.x))
        self.y = self.layout(*of.channels_last(key.y))
        slides = (
            of.dimensions(key.stride),
            of.dimensions(key.window),
            of.dimensions([0] * len(key.window)),
            of.dimensions([lo for lo, _ in key.padding]),
            of.dimensions([hi for _, hi in key.padding]),
        )
        # As for training: then the greatest elements' places are written, too.
        kind = of.FORWARD if key.pulls else of.INFERENCE
        forward = self.operation("pooling_forward", kind, key.algorithm, self.x, self.y, *slides)
        self.code = self.compiled(forward)
        if key.pulls:
            self.backward = self.compiled(
                self.operation("pooling_backward", key.algorithm, self.x, self.y, *slides, forward)
            )
            if key.algorithm == _MAX:
                self.places = self.layout(*of.channels_last(key.y), of.BYTE)
                wanted = self.query(forward, of.QUERY_WORKSPACE)
                if not library.calls.dnnl_memory_desc_equal(wanted, self.places):
                    raise Failed("places are not bytes with the channels last")

    def forward(self, x: Array, y: Array, places: Array | None = None) -> None:
        """Write what is pooled and, of the greatest, their places."""
        more = {} if places is None else {of.WORKSPACE: (self.places, places)}
        self.run((self.code, {of.SOURCE: (self.x, x), of.TARGET: (self.y, y), **more}))

    def pull(self, g: Array, x: Array, places: Array | None = None) -> None:
        """Write the cotangent of the input."""
        more = {} if places is None else {of.WORKSPACE: (self.places, places)}
        arguments = {
            of.TARGET + of.GRADIENT: (self.y, g),
            of.SOURCE + of.GRADIENT: (self.x, x),
            **more,
        }
        self.run((self.backward, arguments))


def _pool(
    algorithm: int, pulls: bool, x: Shape, y: Shape, window: Shape, stride: Shape, padding: Pairs
) -> _Pool | None:
    if 0 in x or 0 in y or not 1 <= len(window) <= 3 or prod(window) > 255:
        return None
    # oneDNN's mean divides by no less than one: windows that see padding alone are left out.
    if any(max(pair) >= k for pair, k in zip(padding, window, strict=True)):
        return None
    if (found := ready()) is None:
        return None
    library, threads = found
    made = library.primitive(Pool(algorithm, pulls, x, y, window, stride, padding, threads))
    return made if isinstance(made, _Pool) else None


def _pooled(x: Array, window: Shape, stride: Shape, padding: Pairs) -> Shape:
    spatial = counts(x.shape[1:-1], window, stride, padding, (1,) * len(window))
    return (x.shape[0], *spatial, x.shape[-1])


# --- the greatest ---------------------------------------------------------------------------------


def max_pool(x: Array, window: Shape, stride: Shape, padding: Pairs) -> Array | None:
    """Return the greatest of each window, if oneDNN does."""
    shape = _pooled(x, window, stride, padding)
    if not x.flags.c_contiguous or _has_nan(x):
        return None
    pool = _pool(_MAX, False, x.shape, shape, window, stride, padding)
    if pool is None:
        return None
    y = np.empty(shape, x.dtype)
    pool.forward(x, y)
    return y


def _has_nan(x: Array) -> bool:
    """Return whether there is a NaN, which oneDNN leaves out; or a number of 1e19 or more."""
    flat = x.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        return not np.isfinite(np.dot(flat, flat))


def pool_places(x: Array, y: Array, window: Shape, stride: Shape, padding: Pairs) -> Array | None:
    """Return the number of the first tap of each window that sees its greatest, if oneDNN does."""
    if not x.flags.c_contiguous or _has_nan(x):
        return None
    pool = _pool(_MAX, True, x.shape, y.shape, window, stride, padding)
    if pool is None:
        return None
    places = np.empty(y.shape, np.uint8)
    pool.forward(x, scratch("pooled", y.shape, y.dtype), places)
    return places


def max_pool_vjp(
    g: Array, places: Array, shape: Shape, window: Shape, stride: Shape, padding: Pairs
) -> Array | None:
    """Return cotangents of windows laid where the chosen taps are, if oneDNN does."""
    if places.dtype != np.uint8 or places.shape != g.shape:
        return None
    if not (g.flags.c_contiguous and places.flags.c_contiguous):
        return None
    whole = (g.shape[0], *shape, g.shape[-1])
    pool = _pool(_MAX, True, whole, g.shape, window, stride, padding)
    if pool is None:
        return None
    x = np.empty(whole, g.dtype)
    pool.pull(g, x, places)
    return x


# --- the mean -------------------------------------------------------------------------------------


def _kind_of_mean(padding: Pairs, counted: Pairs) -> int | None:
    if all(pair == (0, 0) for pair in counted):
        return _MEAN_OF_INSIDE
    return _MEAN_OF_ALL if tuple(counted) == tuple(padding) else None


def avg_pool(
    x: Array, window: Shape, stride: Shape, padding: Pairs, counted: Pairs
) -> Array | None:
    """Return the mean of each window, if oneDNN does."""
    algorithm = _kind_of_mean(padding, counted)
    if algorithm is None or not x.flags.c_contiguous:
        return None
    shape = _pooled(x, window, stride, padding)
    pool = _pool(algorithm, False, x.shape, shape, window, stride, padding)
    if pool is None:
        return None
    y = np.empty(shape, x.dtype)
    pool.forward(x, y)
    return y


def avg_pool_vjp(
    g: Array, shape: Shape, window: Shape, stride: Shape, padding: Pairs, counted: Pairs
) -> Array | None:
    """Return cotangents of windows shared out among what they see, if oneDNN does."""
    algorithm = _kind_of_mean(padding, counted)
    if algorithm is None or not g.flags.c_contiguous:
        return None
    whole = (g.shape[0], *shape, g.shape[-1])
    pool = _pool(algorithm, True, whole, g.shape, window, stride, padding)
    if pool is None:
        return None
    x = np.empty(whole, g.dtype)
    pool.pull(g, x)
    return x


OFFERS: dict[str, Callable[..., Any]] = {
    "max_pool": max_pool,
    "pool_places": pool_places,
    "max_pool_vjp": max_pool_vjp,
    "avg_pool": avg_pool,
    "avg_pool_vjp": avg_pool_vjp,
}
