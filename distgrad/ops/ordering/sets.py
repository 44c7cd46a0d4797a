"""Sets: the distinct elements of an array, where they stand and how often."""

from __future__ import annotations

from typing import Any, NamedTuple

from distgrad.core.op import Spec
from distgrad.core.seam import apply
from distgrad.ops.ordering.searching import refuse_to_foretell
from distgrad.ops.picking.indexing import take
from distgrad.ops.rules.families import undifferentiable
from distgrad.ops.shaping.structure import reshape


class UniqueAll(NamedTuple):
    """What `unique_all` returns: the fields in the standard's order."""

    values: Any
    indices: Any
    inverse_indices: Any
    counts: Any


class UniqueCounts(NamedTuple):
    """What `unique_counts` returns."""

    values: Any
    counts: Any


class UniqueInverse(NamedTuple):
    """What `unique_inverse` returns."""

    values: Any
    inverse_indices: Any


def _unique_spec(x: Spec) -> Spec:
    raise refuse_to_foretell("unique")


# Positions only: the values are picked by them, and so have their derivative from picking.
UNIQUE = undifferentiable("unique", _unique_spec, outputs=3)


def unique_all(x: Any, /) -> UniqueAll:
    """Return the distinct elements of x in ascending order, and where and how often they stand.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of any shape; each NaN is distinct from every other.

    Returns
    -------
    UniqueAll
        ``values`` of one axis; ``indices`` of their first places in the flattened x;
        ``inverse_indices``, in the shape of x, of each element's value; and ``counts``. All but the
        values are int64.

    Raises
    ------
    TraceError
        In a traced function: the shape depends on values.

    Notes
    -----
    The gradient of a value goes to its first place in x.
    """
    indices, inverse, counts = apply(UNIQUE, x)
    return UniqueAll(take(reshape(x, -1), indices, axis=0), indices, inverse, counts)


def unique_counts(x: Any, /) -> UniqueCounts:
    """Return the distinct elements of x and how often each stands in it; see `unique_all`."""
    found = unique_all(x)
    return UniqueCounts(found.values, found.counts)


def unique_inverse(x: Any, /) -> UniqueInverse:
    """Return the distinct elements of x and which of them each element is; see `unique_all`."""
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: Any, /) -> Any:
    """Return the distinct elements of x in ascending order; see `unique_all`."""
    return unique_all(x).values


OPS = (UNIQUE,)
