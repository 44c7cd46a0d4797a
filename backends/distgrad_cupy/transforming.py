"""Give a graph plans of Fourier transforms of its own, which stay as long as the graph does.

A launch of cuFFT works in the memory of its plan. CuPy keeps a thread's last plans, sixteen of
them, for whoever transforms next on any stream, and frees the others; a graph knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def own_plans(module: Any) -> Iterator[list[Any]]:
    """Let this thread's transforms on the current device make plans anew, and keep them all.

    Parameters
    ----------
    module : module
        CuPy.

    Yields
    ------
    list
        The plans, once the context is left; the thread's own are back in their place then.
    """
    made: list[Any] = []
    cache = module.fft.config.get_plan_cache()
    bounds = cache.get_size(), cache.get_memsize()
    before = [(key, node.plan) for key, node in cache]  # the last used comes first
    cache.clear()
    cache.set_size(-1)
    cache.set_memsize(-1)
    try:
        yield made
    finally:
        made += [node.plan for _, node in cache]
        cache.clear()
        cache.set_size(bounds[0])
        cache.set_memsize(bounds[1])
        for key, plan in reversed(before):
            cache[key] = plan
