"""Memory of results that are gone stays with the process, for the next ones."""

from __future__ import annotations

import numpy as np

# glibc derives from the largest block that was freed how much it keeps: twice that, and no more
# than twice 32 MiB. Until then a step of training that frees more than some megabytes gives them
# back to the system, which fills every page with zeros before the next step may write to it: the
# gradients of GELU took twice as long, and those of a convolution 1.5 times.
_LARGEST = (32 << 20) - (1 << 16)


def keep_what_is_freed() -> None:
    """Have the C library keep 64 MiB of freed memory, as it does once it has seen large arrays.

    No page is touched: the block costs neither memory nor time. Where ``MALLOC_TRIM_THRESHOLD_`` or
    another C library decides, nothing changes.
    """
    np.empty(_LARGEST, np.uint8)
