"""Collectives as operations: each with its adjoint, which is a collective again.

The derivative is that of the map from all ranks' inputs to all ranks' outputs, and what is
differentiated is the *sum* of all ranks' targets. Then allreduce is its own adjoint, that of
broadcast adds up at the root, allgather and reduce_scatter are each other's, and alltoall sends
everything back. Rules consist of collectives, so every order of derivative and both modes follow.

Ranks walk back through the collectives in one order as long as they run one program. As in the
forward pass they compare what they are about to do, and of two equal collectives which one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from distgrad.core.op import Acting, Keep, Kind, Op, Spec
from distgrad.core.seam import LISTENERS, apply
from distgrad.distributed.safety.fingerprint import Entry, Plan, agree
from distgrad.distributed.safety.undivided import Undivided
from distgrad.distributed.verbs.communicator import Array, Communicator, exchange_json
from distgrad.distributed.verbs.device_buffers import line_of
from distgrad.distributed.verbs.device_line import Line
from distgrad.dtypes import is_differentiable
from distgrad.errors import DesyncError
from distgrad.tensor import Tensor

Params = dict[str, Any]
Travel = Callable[..., Array]  # (host, comm, **particulars) -> host

_travels: dict[Op, Travel] = {}
_device_travels: dict[Op, Callable[..., Any]] = {}  # (array, line, **particulars) -> array
_calls: WeakKeyDictionary[Communicator, int] = WeakKeyDictionary()


def next_call(comm: Communicator) -> int:
    """Return the number of this call of a collective on a communicator, from 1.

    It is counted in the program, not on the wire: a call in a traced function counts once, and a
    call on the way back keeps the number of the call that it belongs to.
    """
    _calls[comm] = _calls.get(comm, 0) + 1
    return _calls[comm]


def exchange(op: Op, host: Array, comm: Communicator, what: str, **particulars: Any) -> Array:
    """Return the result of a collective on a host array, after all ranks were heard to do it."""
    return _exchange(op, host, comm, what, 0, False, particulars)


def record(op: Op, x: Tensor, params: Params) -> Tensor:
    """Return the result of a collective on a tensor, and let those who listen hear it."""
    followed = (
        not x.kernels.level
        and is_differentiable(x.dtype)
        and any(listener.follows(x.key) for listener in LISTENERS.get())
    )
    result: Tensor = apply(op, x, **{**params, "followed": followed})
    return result


def _exchange(
    op: Op, host: Array, comm: Communicator, what: str, call: int, followed: bool, rest: Params
) -> Array:
    with Undivided(comm, what):
        _agree_on(op, host, comm, what, call, followed)
        return _travels[op](host, comm, **rest)


def _agree_on(op: Op, array: Any, comm: Communicator, what: str, call: int, followed: bool) -> None:
    """Return once all ranks are known to do the same with arrays that fit."""
    uneven = op in (ALLGATHER, ALLTOALL)  # along their first axis
    shape = tuple(array.shape[1:] if uneven else array.shape)
    plan = Plan(what, (Entry("x", array.dtype.name, shape),))
    # The number of the call matters on the way back alone: forward the order is the program's.
    answers = agree(comm, plan, (followed, not followed), call=call if " of " in what else 0)
    if all(answers):
        _explain_following(comm, what, followed)


def _explain_following(comm: Communicator, what: str, followed: bool) -> None:
    """Raise, on every rank, the error that names the ranks whose tape does not follow x."""
    everyone = exchange_json(comm, followed)
    silent = tuple(rank for rank, follows in enumerate(everyone) if not follows)
    listed = ", ".join(map(str, silent))
    raise DesyncError(
        f"{what}: a tape follows x on some ranks, but not on rank{'s' * (len(silent) > 1)} "
        f"{listed}, which would not take part in the backward pass; watch x on every rank, or pass "
        "dg.stop_gradient(x) on every rank",
        silent,
        ("x",),
    )


def _computed(xp: Any, op: Op, x: Any, params: Params, what: str | None = None) -> Any:
    """Return a collective on what a rule computes with: tensors if somebody listens, or arrays."""
    params = {**params, "what": what or params["what"], "followed": False}
    if isinstance(x, Tensor):
        return record(op, x, params)
    kernel = xp.table.get(op) or xp.resolve(op)
    return kernel(x, **params)


def _collective(
    name: str,
    travel: Travel,
    spec: Callable[..., Spec],
    *,
    adjoint: Callable[[Params], tuple[Op, Params]],
    factor: Callable[..., Any] | None = None,
    keep: Keep = Keep.SHAPES,
    along_first: bool = False,
) -> Op:
    """Return a collective as an operation.

    Parameters
    ----------
    name : str
        Its name in graphs and messages.
    travel : callable
        ``travel(host, comm, **particulars)``: what it does.
    spec : callable
        ``spec(x, comm, **particulars)``: shape and dtype of the result.
    adjoint : callable
        ``adjoint(params) -> (op, params)``: the collective on the way back.
    factor : callable, optional
        ``factor(xp, y, xs, params)``: of a reduction that is not linear the derivative of the
        result in this rank's elements.
    keep : Keep
        What the factor reads.
    along_first : bool
        Whether the first axis means something to it; otherwise all elements are treated alike.
    """

    def vjp(xp: Any, g: Any, y: Any, xs: Any, params: Params, needs: Any) -> tuple[Any]:
        back, rest = adjoint(params)
        cotangent = _computed(xp, back, g, rest, f"gradient of {params['what']}")
        if factor is None:
            return (cotangent,)
        return (xp.multiply(cotangent, _conjugate(xp, factor(xp, y, xs, params))),)

    def jvp(xp: Any, tangents: Sequence[Any], y: Any, xs: Any, params: Params) -> Any:
        what = f"tangent of {params['what']}"
        if factor is None:
            return _computed(xp, op, tangents[0], params, what)
        total, rest = adjoint(params)
        return _computed(xp, total, xp.multiply(tangents[0], factor(xp, y, xs, params)), rest, what)

    def compose(
        xp: Any, x: Any, *, comm: Any, what: str, call: int, followed: bool, **rest: Any
    ) -> Any:
        on_device = _device_travels.get(op)
        line = None if on_device is None else line_of(comm, xp.backend, x)
        if on_device is not None and line is not None:
            _agree_on(op, x, comm, what, call, followed)
            return on_device(x, line, **rest)
        host = xp.backend.to_host(x)
        return xp.backend.asarray(_exchange(op, host, comm, what, call, followed, rest))

    def spec_rule(x: Spec, *, comm: Any, what: str, call: int, followed: bool, **rest: Any) -> Spec:
        return spec(x, comm, **rest)

    def batch(
        xp: Any, size: int, batched: Sequence[bool], arrays: Sequence[Any], params: Params
    ) -> Any:
        if not along_first:
            return record(op, arrays[0], params)
        return _swapped(xp, record(op, _swapped(xp, arrays[0]), params))

    op = Acting(name, Kind.OPAQUE, spec_rule, vjp, jvp, keep, compose, batch)
    _travels[op] = travel
    return op


def _shared(params: Params) -> Params:
    """Return the metadata that every collective has."""
    return {key: params[key] for key in ("comm", "what", "call", "followed")}


def _swapped(xp: Any, x: Any) -> Any:
    return xp.permute_dims(x, axes=(1, 0, *range(2, x.ndim)))


def _conjugate(xp: Any, factor: Any) -> Any:
    return xp.conj(factor) if factor.dtype in xp.complex_dtypes else factor


def _same_spec(x: Spec, comm: Communicator, **_: Any) -> Spec:
    return x


# --- reductions ---------------------------------------------------------------------------------


def _summed(host: Array, comm: Communicator) -> Array:
    return comm.allreduce(host)


def _total(params: Params) -> tuple[Op, Params]:
    return ALLREDUCE, _shared(params)


def _extreme(host: Array, comm: Communicator, reduction: str) -> Array:
    return comm.allreduce(host, reduction)


def _share_of_ties(xp: Any, y: Any, xs: Any, params: Params) -> Any:
    # As for a maximum over an axis: elements that are equally great share the gradient.
    x = xs[0]
    holds = xp.astype(xp.equal(x, y), dtype=x.dtype)
    what = f"count of ties of {params['what']}"
    ties = _computed(xp, ALLREDUCE, holds, _shared(params), what)
    return xp.divide(holds, xp.maximum(ties, 1))  # NaN is equal to nothing


def _multiplied(host: Array, comm: Communicator) -> Array:
    return comm.allreduce(host, "prod")


def _product_of_others(xp: Any, y: Any, xs: Any, params: Params) -> Any:
    # Not the product divided by x, which may be 0.
    comm, x = params["comm"], xs[0]
    row = xp.reshape(x, shape=(1, *x.shape))
    counts = {**_shared(params), "counts": (1,) * comm.size}
    rows = _computed(xp, ALLGATHER, row, counts, f"factors of {params['what']}")
    product = xp.ones_like(x)
    for rank in range(comm.size):
        if rank != comm.rank:
            product = xp.multiply(product, xp.getitem(rows, index=(rank,)))
    return product


# --- broadcast, and its adjoint -----------------------------------------------------------------


def _from_root(host: Array, comm: Communicator, root: int) -> Array:
    return comm.broadcast(host, root)


def _at_root(host: Array, comm: Communicator, sum_at: int) -> Array:
    total = comm.allreduce(host)
    return total if comm.rank == sum_at else np.zeros_like(total)


def _to_root(params: Params) -> tuple[Op, Params]:
    return REDUCE, {**_shared(params), "sum_at": params["root"]}


def _to_all(params: Params) -> tuple[Op, Params]:
    return BROADCAST, {**_shared(params), "root": params["sum_at"]}


# --- allgather and reduce_scatter ---------------------------------------------------------------


def _gathered(x: Any, ranks: Communicator | Line, counts: tuple[int, ...]) -> Any:
    row = math.prod(x.shape[1:])
    flat = ranks.allgatherv(x.reshape(-1), [count * row for count in counts])
    return flat.reshape(sum(counts), *x.shape[1:])


def _gathered_spec(x: Spec, comm: Communicator, counts: tuple[int, ...]) -> Spec:
    return Spec((sum(counts), *x.shape[1:]), x.dtype)


def _scattered(x: Any, ranks: Communicator | Line, parts: tuple[int, ...]) -> Any:
    # Each rank's part in a row of its own: MPI's verb for equal parts is there on every MPI.
    rows = np.zeros_like(x, shape=(ranks.size, max(parts), *x.shape[1:]))
    start = 0
    for row, count in zip(rows, parts, strict=True):
        row[:count] = x[start : start + count]
        start += count
    return ranks.reduce_scatter(rows)[: parts[ranks.rank]]


def _scattered_spec(x: Spec, comm: Communicator, parts: tuple[int, ...]) -> Spec:
    return Spec((parts[comm.rank], *x.shape[1:]), x.dtype)


def _to_parts(params: Params) -> tuple[Op, Params]:
    return REDUCE_SCATTER, {**_shared(params), "parts": params["counts"]}


def _to_whole(params: Params) -> tuple[Op, Params]:
    return ALLGATHER, {**_shared(params), "counts": params["parts"]}


# --- alltoall -----------------------------------------------------------------------------------


def _exchanged(x: Any, ranks: Communicator | Line, table: tuple[tuple[int, ...], ...]) -> Any:
    row = math.prod(x.shape[1:])
    counts = np.array(table, np.int64)
    flat = ranks.alltoallv(x.reshape(-1), counts * row)
    return flat.reshape(int(counts[:, ranks.rank].sum()), *x.shape[1:])


def _exchanged_spec(x: Spec, comm: Communicator, table: tuple[tuple[int, ...], ...]) -> Spec:
    return Spec((sum(row[comm.rank] for row in table), *x.shape[1:]), x.dtype)


def _back(params: Params) -> tuple[Op, Params]:
    return ALLTOALL, {**params, "table": tuple(zip(*params["table"], strict=True))}


# --- the operations -----------------------------------------------------------------------------

ALLREDUCE = _collective("allreduce", _summed, _same_spec, adjoint=_total)
EXTREMUM = _collective(
    "allreduce_extremum",
    _extreme,
    _same_spec,
    adjoint=_total,
    factor=_share_of_ties,
    keep=Keep.BOTH,
)
PRODUCT = _collective(
    "allreduce_product",
    _multiplied,
    _same_spec,
    adjoint=_total,
    factor=_product_of_others,
    keep=Keep.INPUTS,
)
BROADCAST = _collective("broadcast", _from_root, _same_spec, adjoint=_to_root)
REDUCE = _collective("reduce", _at_root, _same_spec, adjoint=_to_all)
ALLGATHER = _collective("allgather", _gathered, _gathered_spec, adjoint=_to_parts, along_first=True)
REDUCE_SCATTER = _collective(
    "reduce_scatter", _scattered, _scattered_spec, adjoint=_to_whole, along_first=True
)
ALLTOALL = _collective("alltoall", _exchanged, _exchanged_spec, adjoint=_back, along_first=True)


# --- of arrays in a device's memory ---------------------------------------------------------------


def _reduced_on_device(x: Any, line: Line, reduction: str = "sum") -> Any:
    return line.allreduce(x, reduction)


def _multiplied_on_device(x: Any, line: Line) -> Any:
    return line.allreduce(x, "prod")


def _from_root_on_device(x: Any, line: Line, root: int) -> Any:
    return line.broadcast(x, root)


_device_travels.update(
    {
        ALLREDUCE: _reduced_on_device,
        EXTREMUM: _reduced_on_device,
        PRODUCT: _multiplied_on_device,
        BROADCAST: _from_root_on_device,
        ALLGATHER: _gathered,
        REDUCE_SCATTER: _scattered,
        ALLTOALL: _exchanged,
    }
)
