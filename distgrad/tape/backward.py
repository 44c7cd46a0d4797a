"""Walk records back, from the last to the first, by the chain rule."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from distgrad.core.op import Kind, Op, Spec
from distgrad.debug import lines_in_force
from distgrad.dtypes import as_dtype
from distgrad.errors import NonFiniteError
from distgrad.ops.elementwise.selection import MULTIPLY_NO_NAN, WHERE
from distgrad.ops.picking.gathering import Rows, sum_with_rows
from distgrad.tensor import Tensor

Final = Callable[[int, Any], bool | None]


def connected_to(records: Collection[Any], sources: Collection[int]) -> set[int]:
    """Return the identities of all values that depend on one of the sources."""
    connected = set(sources)
    for record in records:
        if not connected.isdisjoint(record[1]):
            output = record[2]
            if output.__class__ is int:
                connected.add(output)
            else:
                connected.update(output)
    return connected


def first_uses(records: Collection[Any], sources: Collection[int]) -> dict[int, list[int]]:
    """Return for each record's position the sources that no earlier record uses.

    Walking back, the cotangent of such a source is final once that record is done.
    """
    awaited = set(sources)
    uses: dict[int, list[int]] = {}
    for position, record in enumerate(records):
        found = awaited.intersection(record[1])
        if found:
            uses[position] = sorted(found)
            awaited -= found
    return uses


def backpropagate(  # noqa: PLR0915  a call more for each record would cost 2 % of a walk
    records: list[Any],
    cotangents: dict[int, Any],
    sources: Collection[int],
    *,
    connected: set[int] | None,
    recorded: bool,
    consume: bool,
    on_final: Final | None = None,
) -> dict[int, Any]:
    """Return the cotangents of the sources, by one walk over the records and without recursion.

    Parameters
    ----------
    records : list of Record
        In the order in which the operations ran.
    cotangents : dict
        The cotangents of the targets, by identity; used up.
    sources : collection of int
        The identities wanted.
    connected : set of int or None
        The values that depend on a source; None where every followed value does.
    recorded : bool
        Whether to compute with recorded operations on tensors, because somebody listens; otherwise
        with kernels on raw arrays.
    consume : bool
        Whether to take each record off the list, which frees what it keeps as soon as it was used.
    on_final : callable, optional
        ``on_final(identity, cotangent)``, called as soon as no record can add to a source any more;
        the cotangent is None where no target depends on the source. If it returns True it has taken
        the cotangent, of which nothing is held any longer.

    Returns
    -------
    dict
        The cotangent of each source that a target depends on; `Rows` where only some rows of it
        were picked. One that has to go on through a record is made dense on the way.
    """
    results: dict[int, Any] = {}
    uses: dict[int, list[int]] = {}
    if on_final:
        uses = first_uses(records, sources)
        for key in set(sources).difference(*uses.values()):
            if on_final(key, cotangents.get(key)):
                del cotangents[key]
    mine: set[int] = set()  # cotangents whose buffer this walk made: it may add in place
    masked = False
    # Names of this frame: what is looked up for each record costs a percent of the walk.
    rows, where, no_nan = Rows, WHERE, MULTIPLY_NO_NAN
    position = len(records)
    while position:
        position -= 1
        record = records.pop() if consume else records[position]
        op, follows, output, _, xs, y, params, kernels = record
        if output.__class__ is int:
            g = cotangents.pop(output, None)
            if g is not None and output in sources:
                results[output] = g
        else:
            g = _several(record, cotangents, sources, results, recorded)
        if g is not None:
            if g.__class__ is rows:
                g = g.dense(kernels.recorded if recorded else kernels)  # rules take arrays
            needs = (
                follows
                if connected is None
                else [key if key in connected else 0 for key in follows]
            )
            xp = kernels
            if recorded:
                xp, xs, y = _listened(record)
            # What stands before a mask may have infinite slopes where the mask says 0.
            if masked or op is where or op is no_nan:
                masked, xp = True, _keeping_zeros(op, xp)
            if connected is None or any(needs):
                terms = None
                if op in kernels.pulled and g.size >= kernels.fewest and xp is kernels:
                    terms = kernels.pullback(op, g, y, xs, params, needs)
                try:
                    if terms is None:
                        terms = op.vjp(xp, g, y, xs, params, needs)
                except NonFiniteError as error:
                    _name_operation(error, op, output)
                    raise
                for key, term in zip(needs, terms):  # noqa: B905  strict costs 5 % of a walk
                    if key and term is not None:
                        present = cotangents.get(key)
                        if present is None:
                            cotangents[key] = term
                        elif present.__class__ is rows or term.__class__ is rows:
                            cotangents[key] = sum_with_rows(present, term)
                        elif key in mine and present.dtype == term.dtype:
                            present += term
                            cotangents[key] = present
                        else:
                            cotangents[key] = present + term
                            mine.add(key)
        if uses and on_final:
            for key in uses.get(position, ()):
                if on_final(key, cotangents.get(key)):
                    terms = term = g = None  # which may be the same array
                    del cotangents[key]
    for key in sources:
        if key in cotangents:
            results[key] = cotangents[key]
    return results


def _name_operation(error: NonFiniteError, op: Any, output: Any) -> None:
    """Add to an error in whose gradient it was raised, and at which line of the user's."""
    lines = lines_in_force()
    first = output if output.__class__ is int else output[0]
    error.in_gradient_of(op.name, lines.by_key.get(first, "") if lines else "")


def _keeping_zeros(op: Op, xp: Any) -> Any:
    """Return the namespace for a rule behind a mask; see `Kernels.keeping_zeros`."""
    return xp.keeping_zeros if op.kind is Kind.ELEMENTWISE else xp  # others may make tensors of it


def _several(
    record: Any,
    cotangents: dict[int, Any],
    sources: Collection[int],
    results: dict[int, Any],
    recorded: bool,
) -> list[Any] | None:
    """Return the cotangents of an operation with several outputs.

    An output that was not used has zeros of its spec, or None where the record has no spec of it.
    """
    _, _, outputs, _, _, specs, _, kernels = record
    found = [cotangents.pop(key, None) for key in outputs]
    if all(g is None for g in found):
        return None
    for key, g in zip(outputs, found, strict=True):
        if g is not None and key in sources:
            results[key] = g
    filled = []
    for g, spec in zip(found, specs, strict=True):
        if g.__class__ is Rows:
            filled.append(g.dense(kernels.recorded if recorded else kernels))
            continue
        if g is not None or spec is None:
            filled.append(g)
            continue
        # One zero, seen as many: an output that nobody used must not cost its size again.
        zero = kernels.full(shape=(), fill_value=0, dtype=spec.dtype)
        zeros = kernels.broadcast_to(zero, shape=tuple(spec.shape))
        filled.append(Tensor(zeros, kernels) if recorded else zeros)
    return filled


def _listened(record: Any) -> tuple[Any, Any, Any]:
    """Return namespace, inputs and output as tensors of their old identity, to be listened to."""
    _, _, output, keys, xs, y, _, kernels = record
    array_type = kernels.array_type
    if xs is not None:
        xs = as_tensors(xs, keys, kernels)
    if y.__class__ is array_type:
        y = Tensor(y, kernels, output)
    elif y.__class__ is tuple:
        y = tuple(
            Tensor(each, kernels, key) if each.__class__ is array_type else each
            for each, key in zip(y, output, strict=True)
        )
    return kernels.recorded, xs, y


def as_tensors(arrays: Sequence[Any], keys: Sequence[int], kernels: Any) -> tuple[Any, ...]:
    """Return raw arrays as tensors of their old identities, and specs with the dtypes of tensors.

    Whatever else there is stays what it is.
    """
    array_type = kernels.array_type
    return tuple(
        [
            Tensor(array, kernels, key or None)
            if array.__class__ is array_type
            else (Spec(array.shape, as_dtype(array.dtype)) if array.__class__ is Spec else array)
            for array, key in zip(arrays, keys, strict=True)
        ]
    )
