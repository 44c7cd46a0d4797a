"""The vocabulary: one file a family, one block an operation, each with its public function."""

from distgrad.core.op import Op
from distgrad.ops import (
    comparison,
    contractions,
    creation,
    elementwise,
    indexing,
    neural,
    reductions,
    selection,
    structure,
)

FAMILIES = (
    elementwise,
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
