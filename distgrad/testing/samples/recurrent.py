"""Samples of the recurrent networks: steps, batches and widths that no transposition can hide."""

from __future__ import annotations

from collections.abc import Iterator

from distgrad.testing.inputs import Sample, values

_SIZES = {
    "several": (4, 3, 2, 5),
    "one-step": (1, 3, 2, 4),
    "one-unit": (3, 2, 4, 1),
    "no-example": (2, 0, 3, 2),
    "no-input": (3, 2, 0, 4),
    "no-unit": (3, 2, 4, 0),
}


def _recurrent() -> Iterator[Sample]:
    for variant, (steps, batch, width, units) in _SIZES.items():
        shape, state = (steps, batch, width), (batch, units)
        x, h, c = (values(s, -1.0, 1.0, seed=n) for n, s in enumerate((shape, state, state)))
        for name, gates, states, biases in (("lstm", 4, (h, c), 1), ("gru", 3, (h,), 2)):
            wide = gates * units
            weights = (values((width, wide), -0.8, 0.8), values((units, wide), -0.7, 0.8))
            offsets = (values((wide,), -0.5, 0.5, seed=n) for n in range(biases))
            yield Sample(name, variant, (x, *states, *weights, *offsets))


FAMILIES = (_recurrent,)
TAKE_COMPLEX: frozenset[str] = frozenset()
