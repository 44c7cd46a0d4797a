"""oneDNN's softmax and layer norm over rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from distgrad_numpy.onednn import primitive as of
from distgrad_numpy.onednn.library import Library, ready
from distgrad_numpy.threads import scratch

Array = np.ndarray[Any, Any]

_SOFTMAX, _LOG_SOFTMAX = 0x30000, 0x30001
_USE_SCALE, _USE_SHIFT = 2, 4


def _plain(*arrays: Array) -> bool:
    return all(a.dtype == np.float32 and a.flags.c_contiguous for a in arrays)


# --- softmax --------------------------------------------------------------------------------------


class Softmax(NamedTuple):
    """What the code of a softmax depends on."""

    algorithm: int
    pulls: bool
    rows: int
    width: int
    threads: int

    def make(self, library: Library) -> _Softmax:
        """Return the primitive."""
        return _Softmax(library, self)


class _Softmax(of.Primitive):
    def __init__(self, library: Library, key: Softmax) -> None:
        super().__init__(library)
        self.rows = rows = self.layout((key.rows, key.width), (key.width, 1))
        description = self.operation("softmax_forward", of.FORWARD, key.algorithm, rows, rows, 1)
        if key.pulls:
            description = self.operation(
                "softmax_backward", key.algorithm, rows, rows, rows, 1, description
            )
        self.code = self.compiled(description)

    def __call__(self, arguments: dict[int, Array]) -> None:
        """Run, given the arrays of all arguments."""
        self.run((self.code, {number: (self.rows, each) for number, each in arguments.items()}))


def _softmax(algorithm: int, pulls: bool, shape: tuple[int, ...], axis: int) -> _Softmax | None:
    if axis not in (-1, len(shape) - 1) or 0 in shape or (found := ready()) is None:
        return None
    library, threads = found
    rows = int(np.prod(shape[:-1]))
    made = library.primitive(Softmax(algorithm, pulls, rows, shape[-1], threads))
    return made if isinstance(made, _Softmax) else None


def _forward(algorithm: int) -> Callable[..., Array | None]:
    def offer(x: Array, axis: int) -> Array | None:
        if not _plain(x) or (primitive := _softmax(algorithm, False, x.shape, axis)) is None:
            return None
        out = np.empty(x.shape, x.dtype)
        primitive({of.SOURCE: x, of.TARGET: out})
        return out

    return offer


def _pull(algorithm: int) -> Callable[..., Array | None]:
    def offer(g: Array, y: Array, axis: int) -> Array | None:
        if not _plain(g, y) or g.shape != y.shape:
            return None
        primitive = _softmax(algorithm, True, g.shape, axis)
        if primitive is None:
            return None
        out = np.empty(g.shape, g.dtype)
        primitive({of.TARGET: y, of.TARGET + of.GRADIENT: g, of.SOURCE + of.GRADIENT: out})
        return out

    return offer


# --- layer norm -----------------------------------------------------------------------------------


class LayerNorm(NamedTuple):
    """What the code of a layer norm depends on."""

    pulls: bool
    rows: int
    width: int
    epsilon: float
    flags: int
    threads: int

    def make(self, library: Library) -> _LayerNorm:
        """Return the primitive."""
        return _LayerNorm(library, self)


class _LayerNorm(of.Primitive):
    def __init__(self, library: Library, key: LayerNorm) -> None:
        super().__init__(library)
        self.rows = rows = self.layout((key.rows, key.width), (key.width, 1))
        self.moments = self.layout((key.rows,), (1,))
        self.affine = self.layout((key.width,), (1,))
        rest = (self.moments, of.real(key.epsilon), key.flags)
        kind = of.FORWARD if key.pulls else of.INFERENCE
        forward = self.operation("layer_normalization_forward", kind, rows, rows, *rest)
        self.code = self.compiled(forward)
        if key.pulls:
            self.backward = self.compiled(
                self.operation(
                    "layer_normalization_backward",
                    *(_BACKWARD, rows, rows, rows, *rest, forward),
                )
            )

    def __call__(self, x: Array, affine: tuple[Array, ...], out: Array) -> None:
        """Write the norm of rows."""
        own = {of.SCALE + n: (self.affine, each) for n, each in enumerate(affine)}
        self.run((self.code, {of.SOURCE: (self.rows, x), of.TARGET: (self.rows, out), **own}))

    def pull(
        self, g: Array, x: Array, affine: tuple[Array, ...], out: Array, to: tuple[Array, ...]
    ) -> None:
        """Write the cotangents of x and of scale and shift."""
        own = {of.SCALE + n: (self.affine, each) for n, each in enumerate(affine)}
        moments = {
            number: (self.moments, scratch(f"moment {number}", x.shape[:1], x.dtype))
            for number in (of.MEAN, of.VARIANCE)
        }
        spare = (self.rows, scratch("norm", x.shape, x.dtype))
        self.run(
            (self.code, {of.SOURCE: (self.rows, x), of.TARGET: spare, **own, **moments}),
            (
                self.backward,
                {
                    of.SOURCE: (self.rows, x),
                    of.TARGET + of.GRADIENT: (self.rows, g),
                    of.SOURCE + of.GRADIENT: (self.rows, out),
                    **own,
                    **moments,
                    **{of.SCALE_GRADIENT + n: (self.affine, each) for n, each in enumerate(to)},
                },
            ),
        )


_BACKWARD = 128
_FLAGS = {0: 0, 1: _USE_SCALE, 2: _USE_SCALE | _USE_SHIFT}


def _layer_norm(
    pulls: bool, x: Array, affine: tuple[Array, ...], epsilon: float
) -> _LayerNorm | None:
    if 0 in x.shape or (found := ready()) is None:
        return None
    library, threads = found
    width = x.shape[-1]
    key = LayerNorm(pulls, x.size // width, width, epsilon, _FLAGS[len(affine)], threads)
    made = library.primitive(key)
    return made if isinstance(made, _LayerNorm) else None


def layer_norm(x: Array, *affine: Array, epsilon: float) -> Array | None:
    """Return the layer norm of rows, if oneDNN does."""
    if not _plain(x, *affine):
        return None
    primitive = _layer_norm(False, x, affine, epsilon)
    if primitive is None:
        return None
    out = np.empty(x.shape, x.dtype)
    primitive(x, affine, out)
    return out


def layer_norm_vjp(g: Array, x: Array, *affine: Array, epsilon: float) -> tuple[Array, ...] | None:
    """Return the cotangents of the layer norm's operands, if oneDNN does."""
    if not _plain(g, x, *affine) or g.shape != x.shape:
        return None
    primitive = _layer_norm(True, x, affine, epsilon)
    if primitive is None:
        return None
    out = np.empty(x.shape, x.dtype)
    to = tuple(np.empty(each.shape, each.dtype) for each in affine)
    width = x.shape[-1]
    primitive.pull(g, x.reshape(-1, width), affine, out, to)
    return out, *to


OFFERS: dict[str, Callable[..., Any]] = {
    "softmax": _forward(_SOFTMAX),
    "log_softmax": _forward(_LOG_SOFTMAX),
    "softmax_vjp": _pull(_SOFTMAX),
    "layer_norm": layer_norm,
    "layer_norm_vjp": layer_norm_vjp,
}
