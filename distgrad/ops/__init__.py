"""The vocabulary: one file a family, one block an operation, each with its public function."""

from distgrad.core.op import Op
from distgrad.ops import (
    arithmetic,
    comparison,
    complex_numbers,
    contractions,
    creation,
    indexing,
    neural,
    reductions,
    selection,
    structure,
    transcendental,
)

FAMILIES = (
    arithmetic,
    transcendental,
    complex_numbers,
    comparison,
    reductions,
    contractions,
    structure,
    indexing,
    selection,
    neural,
    creation,
)

VOCABULARY: dict[str, Op] = {op.name: op for family in FAMILIES for op in family.OPS}

__all__ = ["FAMILIES", "VOCABULARY"]
