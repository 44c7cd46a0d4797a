"""Cases for scripts/benchmarks/kernels.py, one file a family.

A file has a table ``CASES`` of functions by name. Such a function takes the name of a library and
returns two functions without arguments, one that computes the kernel and one that computes it with
its gradients; or None where the library has no such kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

Steps = tuple[Callable[[], Any], Callable[[], Any]]

# What distgrad's kernels are measured with: compiled ones, and oneDNN's.
OURS = {"numpy": (False, False), "compiled": (True, False), "onednn": (True, True)}


def switched(library: str) -> Callable[[], None]:
    """Return a function that switches on what one of `OURS` computes with, and all else off."""
    from distgrad_numpy import compiled, onednn

    with_compiled, with_onednn = OURS[library]

    def switch() -> None:
        compiled.switch(with_compiled)
        onednn.switch(with_onednn)

    return switch


dtype = np.dtype("float32")  # of the arrays; `kernels.py --dtype` sets another one


def draw(*shape: int, generator: np.random.Generator | None = None) -> np.ndarray:
    """Return normal numbers; the same in every call, but for those of a generator."""
    generator = generator or np.random.default_rng(0)
    return generator.standard_normal(shape, dtype=dtype)


def steps_of(library: str, function: Any, arrays: tuple[Any, ...]) -> Steps:
    """Return what to measure of ``function(library's module, *arrays)``, which returns one array.

    Gradients are those by all floating arrays.
    """
    return _MAKERS[library](function, arrays)


def _cotangent(arrays: tuple[Any, ...], shape: tuple[int, ...]) -> np.ndarray:
    floating = next(x.dtype for x in arrays if x.dtype.kind == "f")
    return draw(*shape).astype(floating, copy=False)


def _distgrad(library: str, function: Any, arrays: tuple[Any, ...]) -> Steps:
    import distgrad as dg

    switch = switched(library)
    tensors = [dg.asarray(x) for x in arrays]
    sources = [t for t in tensors if t.dtype.kind == "f"]
    f = partial(function, dg)
    g = dg.asarray(_cotangent(arrays, f(*tensors).shape))

    def forward() -> Any:
        switch()
        return f(*tensors)

    def both() -> Any:
        switch()
        with dg.GradientTape() as tape:
            tape.watch(sources)
            y = f(*tensors)
        return tape.gradient(y, sources, output_gradients=g)

    return forward, both


def _torch(function: Any, arrays: tuple[Any, ...]) -> Steps:
    import torch

    plain = [torch.from_numpy(x) for x in arrays]
    watched = [t.clone().requires_grad_() if t.is_floating_point() else t for t in plain]
    sources = [t for t in watched if t.requires_grad]
    f = partial(function, torch)
    g = torch.from_numpy(_cotangent(arrays, f(*plain).shape))

    def forward() -> Any:
        with torch.no_grad():
            return f(*plain)

    return forward, lambda: torch.autograd.grad(f(*watched), sources, g)


def _tensorflow(function: Any, arrays: tuple[Any, ...]) -> Steps:
    import tensorflow as tf

    tensors = [tf.constant(x) for x in arrays]
    sources = [t for t in tensors if t.dtype.is_floating]
    f = tf.function(partial(function, tf))
    g = tf.constant(_cotangent(arrays, f(*tensors).shape))

    @tf.function
    def gradients() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(sources)
            y = function(tf, *tensors)
        # With the result: a graph leaves out what nobody reads.
        return y, tape.gradient(y, sources, output_gradients=g)

    return lambda: f(*tensors), gradients


_MAKERS = {
    **{name: partial(_distgrad, name) for name in OURS},
    "torch": _torch,
    "tensorflow": _tensorflow,
}
