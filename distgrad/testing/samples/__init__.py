"""Sample inputs for every operation of the vocabulary: all tests of its rules follow from them.

To cover a new operation, add one line to the table of its family; where it has a derivative at
complex operands, add its name to the family's `TAKE_COMPLEX`. Intervals keep away from kinks and
poles.
"""

from __future__ import annotations

from dataclasses import replace

from distgrad.testing.inputs import Sample
from distgrad.testing.samples import (
    activations,
    attention,
    contractions,
    convolution,
    creation,
    elementwise,
    fourier,
    gathering,
    indexing,
    linalg,
    neural,
    normalization,
    ordering,
    random,
    recurrent,
    reductions,
    special,
    structure,
    updates,
)

_FAMILIES = (
    elementwise,
    reductions,
    contractions,
    structure,
    indexing,
    linalg,
    fourier,
    updates,
    ordering,
    gathering,
    neural,
    activations,
    normalization,
    convolution,
    attention,
    recurrent,
    creation,
    random,
    special,
)


def samples(operation: str | None = None) -> tuple[Sample, ...]:
    """Return the samples of one operation, or of all."""
    if operation is None:
        return _SAMPLES
    return tuple(sample for sample in _SAMPLES if sample.operation == operation)


def _settled(sample: Sample, take_complex: frozenset[str]) -> Sample:
    if sample.takes_complex is not None:
        return sample
    return replace(sample, takes_complex=sample.operation in take_complex)


_SAMPLES = tuple(
    _settled(sample, family.TAKE_COMPLEX)
    for family in _FAMILIES
    for make in family.FAMILIES
    for sample in make()
)
