"""Lay out what a model consists of as a table of plain text."""

from __future__ import annotations

from typing import Any, NamedTuple

from distgrad import tree
from distgrad.variable import Variable


class Row(NamedTuple):
    """One module.

    Attributes
    ----------
    path, kind, shapes : str
        Where it stands, its class, and the shapes of its result.
    variables : list of Variable
        Those in its own attributes.
    """

    path: str
    kind: str
    shapes: str
    variables: list[Variable]


def shapes_of(result: Any) -> str:
    """Return the shapes of the tensors in a nest."""
    leaves = tree.flatten(result)[0]
    return ", ".join(str(tuple(leaf.shape)) for leaf in leaves if hasattr(leaf, "shape"))


def layout(rows: list[Row]) -> str:
    """Return rows as a table, with the sums below."""
    cells = [("module", "class", "output", "parameters", "bytes")]
    for row in rows:
        count = sum(v.size for v in row.variables)
        size = sum(v.nbytes for v in row.variables)
        cells.append((row.path, row.kind, row.shapes, f"{count:,}", f"{size:,}"))
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    rule = "-" * len(lines[0])
    variables = [v for row in rows for v in row.variables]
    trained = sum(v.size for v in variables if v.trainable)
    total, size = sum(v.size for v in variables), sum(v.nbytes for v in variables)
    end = f"{total:,} parameters, {trained:,} of them trainable; {size:,} bytes"
    return "\n".join([lines[0], rule, *lines[1:], rule, end])
