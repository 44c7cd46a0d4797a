"""The vocabulary: a package a subject, one file a family, one block an operation."""

from distgrad.core.op import Op
from distgrad.ops import creation, fourier, linalg, quantiles, random, special
from distgrad.ops.elementwise import (
    arithmetic,
    bitwise,
    comparison,
    complex_numbers,
    error_function,
    magnitudes,
    selection,
    transcendental,
)
from distgrad.ops.neural import (
    activations,
    attention,
    batch_normalization,
    convolution,
    cross_entropy,
    ctc,
    dropping,
    kinks,
    normalization,
    pooling,
    recurrent,
    row_normalization,
    softmax,
)
from distgrad.ops.ordering import searching, sets, sorting
from distgrad.ops.picking import along, gathering, indexing, updates
from distgrad.ops.products import affine, contractions, einsum
from distgrad.ops.reducing import reductions, running
from distgrad.ops.shaping import arrangement, placement, structure

FAMILIES = (
    arithmetic,
    transcendental,
    magnitudes,
    complex_numbers,
    comparison,
    bitwise,
    reductions,
    running,
    contractions,
    affine,
    linalg,
    einsum,
    fourier,
    structure,
    arrangement,
    placement,
    indexing,
    along,
    updates,
    searching,
    sorting,
    sets,
    gathering,
    selection,
    softmax,
    cross_entropy,
    ctc,
    error_function,
    special,
    activations,
    kinks,
    normalization,
    row_normalization,
    batch_normalization,
    dropping,
    convolution,
    pooling,
    attention,
    recurrent,
    creation,
    random,
    quantiles,
)

VOCABULARY: dict[str, Op] = {op.name: op for family in FAMILIES for op in family.OPS}

__all__ = ["FAMILIES", "VOCABULARY"]
