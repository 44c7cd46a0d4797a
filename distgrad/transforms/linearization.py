"""Linearise functions: the value, computed once, and the derivative in any number of directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distgrad import tree
from distgrad.callables import require_callable
from distgrad.core.seam import LISTENERS
from distgrad.dtypes import is_differentiable
from distgrad.eager import asarray, beside, current_kernels
from distgrad.errors import ShapeError, TraceError
from distgrad.graph.nodes import Node, depend_on
from distgrad.graph.passes import at_places, simplify
from distgrad.graph.plan import Plan, replay_between
from distgrad.graph.trace import tracing
from distgrad.ops.shaping.structure import astype
from distgrad.tape.forward import ForwardAccumulator
from distgrad.tensor import Tensor
from distgrad.transforms.functional import fresh_arguments


def linearize(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the value of a function and its derivative there, as a linear function.

    Parameters
    ----------
    f : callable
        Returns a nest of values. It is traced as by `function`: its way must not depend on values
        but by `cond` and `while_loop`.
    *primals : nests of floating values
        The arguments of `f`.

    Returns
    -------
    value : nest of Tensor
        What `f` returns.
    push : callable
        Takes a tangent for each primal, in its structure; returns that of the value, which is what
        `jvp` gives. What does not depend on the tangents was computed once and is kept.

    Raises
    ------
    TraceError
        If `f` asks for values, or assigns a variable.
    DTypeError
        If an argument holds integers.

    Notes
    -----
    Worth its trace where many directions are wanted at one point, as in Gauss-Newton and conjugate
    gradient methods. Both results can be differentiated again, and mapped by `vmap`. A loop inside
    that `while_loop` or `scan` runs is run again for each direction.

    Examples
    --------
    >>> import distgrad as dg
    >>> value, push = dg.linearize(lambda x: dg.sin(x) * x, 0.0)
    >>> print(value, push(1.0))
    dg.Tensor(0.0, shape=(), dtype=float32) dg.Tensor(0.0, shape=(), dtype=float32)
    """
    require_callable("linearize", f)
    fresh = fresh_arguments("linearize", tuple(range(len(primals))), primals)[0]
    leaves, treedef = tree.flatten(fresh)
    name = getattr(f, "__name__", "linearize")
    with tracing(name, captures=True) as under_way:
        points = [under_way.input(leaf.shape, leaf.dtype) for leaf in leaves]
        directions = [under_way.input(leaf.shape, leaf.dtype) for leaf in leaves]
        with ForwardAccumulator(points, directions) as accumulator:
            result = f(*tree.unflatten(treedef, points))
            outputs, result_treedef = tree.flatten(result)
            values = [asarray(output) for output in outputs]
        pushed = accumulator.jvp(values, unconnected_gradients="zero")
    if under_way.assigned:
        names = ", ".join(repr(v.name) for v, _ in under_way.assigned.values())
        raise TraceError(
            f"linearize: {name} assigns {names}; return the new value and assign outside"
        )
    joint = under_way.graph
    # An output may be captured itself, and becomes an input here.
    joint.outputs = [under_way.symbol_of(each).node for each in (*values, *pushed)]
    outside = {node.index: value for value, node in under_way.captured.values()}
    outside |= {s.node.index: v.read() for v, s in under_way.variables.values()}
    later = joint.inputs[2 * len(leaves) :]
    externals: list[Tensor] = [outside[node.index] for node in later]
    kernels = under_way.home or _numbers(leaves) or current_kernels()
    seeds = joint.inputs[len(leaves) : 2 * len(leaves)]
    graph, _ = simplify(joint, kernels)
    seeds, given = (
        at_places(joint, graph, seeds),
        [
            *graph.inputs[: len(leaves)],
            *graph.inputs[2 * len(leaves) :],
        ],
    )
    under_way.release()
    made, wanted = graph.outputs[: len(values)], graph.outputs[len(values) :]
    late = depend_on(graph.nodes, seeds)
    read = _read_late(graph.needed_for(wanted), wanted, late)
    run = _Part(graph, given, [*made, *read], kernels)
    found = run([*leaves, *externals])
    kept = found[len(made) :]
    linear = _Part(graph, [*read, *seeds], wanted, kernels)

    def push(*tangents: Any) -> Any:
        """Return the tangent of the value from those of the primals."""
        return tree.unflatten(
            result_treedef, linear([*kept, *_tangents(tangents, treedef, leaves)])
        )

    return tree.unflatten(result_treedef, found[: len(made)]), push


class _Part:
    """The part of a graph between given nodes and wanted ones, on tensors of any sort."""

    def __init__(
        self, graph: Any, given: Sequence[Node], wanted: Sequence[Node], kernels: Any
    ) -> None:
        self._graph = graph
        self._given = given
        self._wanted = wanted
        self._kernels = kernels
        self._plan: Plan | None = None

    def __call__(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return the wanted tensors."""
        kernels = self._kernels
        if LISTENERS.get() or any(value.kernels is not kernels for value in values):
            return replay_between(self._graph, self._given, values, self._wanted, kernels)
        if self._plan is None:
            self._plan = Plan(self._graph, self._given, self._wanted, kernels).fuse()
        arrays = self._plan.execute([value.array for value in values])
        return [Tensor(array, kernels) for array in arrays]


def _numbers(leaves: Sequence[Tensor]) -> Any:
    """Return the kernels of the first leaf that holds numbers."""
    return next((leaf.kernels for leaf in leaves if not leaf.kernels.level), None)


def _read_late(nodes: Sequence[Node], wanted: Sequence[Node], late: set[int]) -> list[Node]:
    """Return what the linear part reads of the rest."""
    read = {
        x.index: x
        for node in nodes
        if node.index in late
        for x in node.operands
        if isinstance(x, Node) and x.index not in late
    }
    read.update({node.index: node for node in wanted if node.index not in late})
    return [node for node in read.values() if node.value is None]


def _tangents(given: tuple[Any, ...], treedef: Any, leaves: Sequence[Tensor]) -> list[Tensor]:
    try:
        flat = treedef.flatten_up_to(list(given))
    except ValueError as error:
        raise ValueError(
            f"linearize: the tangents have not the structure of the primals ({error})"
        ) from error
    tangents = []
    for place, (tangent, leaf) in enumerate(zip(flat, leaves, strict=True)):
        tensor = beside(tangent, leaf)
        if tensor.shape != leaf.shape:
            raise ShapeError(
                f"linearize: tangent {place} has shape {tensor.shape}, its primal {leaf.shape}; "
                "expected the same shape"
            )
        if tensor.dtype != leaf.dtype and is_differentiable(leaf.dtype):
            tensor = astype(tensor, leaf.dtype)
        tangents.append(tensor)
    return tangents
