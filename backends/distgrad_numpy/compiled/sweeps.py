"""Where the windows of a convolution lie in memory, as tables that compiled kernels read.

A sweep cuts an input into blocks whose padded copies stay in a core's cache. For all blocks alike
it says where each window begins and where its result goes, and at which offsets from a window's
beginning the runs of contiguous numbers are that it sees.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from distgrad.windows import Geometry

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

# What a block's windows see is to stay in the second-level cache, in floats; but so few windows
# would leave the weights, which are read once for a block, dearer than the products.
_BLOCK = 1 << 16
_FEWEST_WINDOWS = 128
_MOST_WINDOWS = 1024
_BLOCKS = 16  # at least, for threads to share, where there are enough windows
# Weights of a chunk of runs are to stay in the first-level cache, in floats.
_CHUNK = 6 << 10
# Runs shorter than that, of windows that see no more in all, are gathered.
_SHORT_RUN, _GATHERED = 8, 64
# Points so many floats apart fall into the same few sets of a cache; a line more keeps them apart.
_ALIASED, _LINE = 512, 16

_NUMBER, _PLACE = ctypes.c_longlong, ctypes.c_void_p


class Sweep(ctypes.Structure):
    """The fields of `Sweep` in sources/windows.hpp, which explains them."""

    _fields_ = (
        ("examples", _NUMBER),
        ("spatial", _NUMBER * 3),
        ("channels", _NUMBER),
        ("copied", _NUMBER),
        ("begin", _NUMBER * 3),
        ("seen", _NUMBER * 3),
        ("block_examples", _NUMBER),
        ("block_positions", _NUMBER),
        ("positions", _NUMBER),
        ("each", _NUMBER),
        ("axis", _NUMBER),
        ("stride", _NUMBER),
        ("out_example", _NUMBER),
        ("out_position", _NUMBER),
        ("places", _PLACE),
        ("ends", _PLACE),
        ("offsets", _PLACE),
        ("lengths", _PLACE),
        ("chunks", _PLACE),
        ("number_of_chunks", _NUMBER),
        ("depth", _NUMBER),
        ("gathered_places", _PLACE),
        ("gathered_offsets", _PLACE),
        ("gathered_lengths", _PLACE),
        ("gathered", _NUMBER),
        ("apart", _NUMBER),
        ("groups", _NUMBER),
        ("inner", _NUMBER),
        ("outputs", _NUMBER),
    )


class Plan(NamedTuple):
    """A sweep, with the tables that it points at, and what its caller allocates."""

    sweep: Sweep
    tables: tuple[Array, ...]
    blocks: int
    scratch: int  # floats
    few: bool  # whether registers hold neighbours of a run, there being few outputs


class Target(NamedTuple):
    """Where the results of windows lie: distances in floats, along examples and each axis."""

    example: int
    steps: Shape


@lru_cache(maxsize=256)
def plan(
    x: Shape,
    window: Shape,
    windows: Shape,
    geometry: Geometry,
    target: Target,
    outputs: int,
    registers: tuple[int, int],
    apart: bool = False,
) -> Plan:
    """Return how windows sweep over an input.

    Parameters
    ----------
    x : tuple of int
        The shape of the input, (examples, *spatial, channels), without zeros.
    window, windows : tuple of int
        How many taps and how many windows there are along each spatial axis.
    geometry : Geometry
        How the window slides. Padding in front may be negative; that behind follows.
    target : Target
        Where results lie.
    outputs : int
        How many there are for each window and group.
    registers : pair of int
        How many floats a register has, and how many registers a block of outputs takes at most.
    apart : bool
        Whether what is read next is the same part of the next window, not the next of the same.
    """
    lead = (1,) * (3 - len(window))
    axis = len(lead)
    spatial, taps, count = lead + x[1:-1], lead + window, lead + windows
    stride, dilation = lead + geometry.stride, lead + geometry.dilation
    before = (0,) * axis + tuple(low for low, _ in geometry.padding)
    steps = (0,) * axis + target.steps
    channels, groups = x[-1], geometry.groups
    seen = [
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(count, stride, taps, dilation, strict=True)
    ]
    copied = any(
        low > 0 or extent - low > length
        for low, extent, length in zip(before, seen, spatial, strict=True)
    )
    aliased = apart and groups == 1 and prod(taps) == 1 and stride[2] * channels % _ALIASED == 0
    kept = (seen, channels) if copied else (count, channels * aliased)
    examples, positions = _block(x[0], count, axis, stride[axis], *kept)
    seen[axis] -= (count[axis] - positions) * stride[axis]

    # Distances in the padded copy of a block, or in the input itself.
    lengths = seen if copied else spatial
    along = (lengths[1] * lengths[2] * channels, lengths[2] * channels, channels)
    in_block = (*count[:axis], positions, *count[axis + 1 :])
    places = places_of(
        (examples, lengths[0] * along[0]),
        *((n, s * d) for n, s, d in zip(in_block, stride, along, strict=True)),
    )
    ends = places_of((examples, target.example), *zip(in_block, steps, strict=True))
    offsets, run = _runs(taps, dilation, along, channels, groups)
    depth = len(offsets) * run
    floats = copied * examples * prod(seen) * channels

    gathered: tuple[Array, ...] = ()
    column = depth + _LINE * aliased
    short = groups == 1 and run < _SHORT_RUN and run < depth <= _GATHERED
    if short or aliased:
        gathered = (places, offsets, np.full(len(offsets), run, np.int64))
        places = np.arange(len(places), dtype=np.int64) * column
        offsets, run = np.zeros(1, np.int64), depth
        floats += len(places) * column

    width, widest = registers
    vectors = -(-outputs // width)
    vectors = -(-vectors // -(-vectors // widest))
    few = outputs * 2 <= width and run >= 2 * width
    chunks = _chunks(offsets, run, depth if few else max(_CHUNK // (vectors * width), 16))
    tables = (places, ends, *chunks, *gathered)
    at = [table.ctypes.data for table in tables] + [0] * (3 - len(gathered))
    sweep = Sweep(
        *(x[0], spatial, channels, copied, tuple(-low for low in before), tuple(seen)),
        *(examples, positions, count[axis], prod(count) // count[axis], axis, stride[axis]),
        *(target.example, steps[axis], *at[:5], len(chunks[2]) - 1, depth),
        *(*at[5:], len(gathered[1]) if gathered else 0, column),
        *(groups, channels // groups, outputs),
    )
    blocks = -(-x[0] // examples) * -(-count[axis] // positions)
    return Plan(sweep, tables, blocks, floats, few)


def _block(
    examples: int, count: Shape, axis: int, stride: int, seen: Sequence[int], channels: int
) -> tuple[int, int]:
    """Return how many examples a block has, and how many positions along the axis that is cut."""
    whole = prod(count)
    fewest = min(_FEWEST_WINDOWS, -(-examples * whole // _BLOCKS))
    size = max(prod(seen) * channels, 1)
    if whole <= max(fewest, _MOST_WINDOWS) and (size <= _BLOCK or whole <= fewest):
        fitting = min(_BLOCK // size, _MOST_WINDOWS // whole, -(-examples // _BLOCKS))
        together = max(fitting, -(-fewest // whole))
        return -(-examples // -(-examples // together)), count[axis]
    each = whole // count[axis]
    # Along the axis, positions see so much more each, and together what a window reaches beyond.
    slab = max(size // seen[axis], 1)
    reach = seen[axis] - (count[axis] - 1) * stride
    fitting = min((_BLOCK // slab - reach) // stride + 1, _MOST_WINDOWS // each)
    most = max(fitting, -(-fewest // each), 1)
    return 1, -(-count[axis] // -(-count[axis] // most))


@lru_cache(maxsize=256)
def places_of(*axes: tuple[int, int]) -> Array:
    """Return where elements lie, for axes of given lengths and distances, in order.

    The table is kept for the next call: it is not to be written to.
    """
    places = np.zeros((), np.int64)
    for length, distance in axes:
        places = places[..., None] + np.arange(length, dtype=np.int64) * distance
    return np.ascontiguousarray(places.reshape(-1))


def _runs(
    taps: Shape, dilation: Shape, along: Shape, channels: int, groups: int
) -> tuple[Array, int]:
    """Return at which offsets a window sees contiguous numbers, and how many at each."""
    if groups == 1 and (dilation[2] == 1 or taps[2] == 1):
        counted, run = taps[:2], taps[2] * channels
    else:
        counted, run = taps, channels // groups
    steps = [d * a for d, a in zip(dilation, along, strict=True)]
    return places_of(*zip(counted, steps, strict=False)), run


def _chunks(offsets: Array, run: int, most: int) -> tuple[Array, Array, Array]:
    """Return runs cut into parts, and where chunks of them begin that have so many rows at most."""
    pieces = -(-run // most)
    cuts = [piece * run // pieces for piece in range(pieces + 1)]
    starts: list[int] = []
    lengths: list[int] = []
    chunks, rows = [0], 0
    for offset, piece in product(offsets.tolist(), range(pieces)):
        length = cuts[piece + 1] - cuts[piece]
        if rows and rows + length > most:
            chunks.append(len(starts))
            rows = 0
        starts.append(offset + cuts[piece])
        lengths.append(length)
        rows += length
    chunks.append(len(starts))
    return np.array(starts, np.int64), np.array(lengths, np.int64), np.array(chunks, np.int64)
