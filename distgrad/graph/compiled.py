"""Traced functions: one signature's graph, run as one operation whose gradient is a graph, too."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any

from distgrad import tree
from distgrad.backend.kernels import Kernels
from distgrad.backends_in_force import depth
from distgrad.core.op import Keep, Kind, Spec
from distgrad.core.seam import LISTENERS
from distgrad.dtypes import is_differentiable
from distgrad.eager import current_kernels, emit
from distgrad.errors import TraceError
from distgrad.graph.derivative import Derivative, differentiable, flat, run_plan
from distgrad.graph.interpreted import distinct
from distgrad.graph.passes import simplify
from distgrad.graph.plan import Plan, replay
from distgrad.graph.trace import Trace, tracing
from distgrad.tape.forward import ForwardAccumulator
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tape.handmade import as_cotangents, as_given, to_tensors, without_imaginary
from distgrad.tape.packing import HoldingOp, unpacked_residuals
from distgrad.tensor import Tensor
from distgrad.variable import Variable

Forget = Callable[[Any], None]


def trace(
    name: str,
    f: Callable[..., Any],
    leaves: list[Any],
    treedef: Any,
    *,
    followed: Collection[int] = (),
    creates: bool = False,
    forget: Forget | None = None,
    compiled: bool = True,
) -> Compiled:
    """Run a function on symbols and return what it did.

    Parameters
    ----------
    name : str
        For messages.
    f : callable
        The function.
    leaves, treedef
        Its arguments, a nest ``(args, kwargs)``: tensors, variables and static values.
    followed : collection of int
        The identities of captured tensors that must become inputs; those that somebody who listens
        follows do in any case.
    creates : bool
        Whether it may create variables.
    forget : callable, optional
        Called when a variable that it reads or assigns is no more.
    compiled : bool
        Whether the backend may run it its own way.

    Raises
    ------
    TraceError
        If the function does what a graph cannot hold, or calls itself without end.
    """
    try:
        with tracing(name, followed=followed, creates=creates) as under_way:
            for leaf in leaves:
                if isinstance(leaf, Tensor):
                    under_way.settle(leaf.kernels)
            symbols = [
                under_way.input(leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf
                for leaf in leaves
            ]
            args, kwargs = tree.unflatten(treedef, symbols)
            outputs, result_treedef = flat(f(*args, **kwargs))
            returned = [under_way.symbol_of(output).node for output in outputs]
            assigned = list(under_way.assigned.values())
    except RecursionError as error:
        raise TraceError(
            f"{name}: it calls itself without end while it is traced: a condition on values does "
            "not stop it, since both branches are traced; take dg.while_loop or dg.scan"
        ) from error
    under_way.graph.outputs = [*returned, *(value.array.node for _, value in assigned)]
    variables = [variable for variable, _ in assigned]
    done = Compiled(under_way, len(returned), result_treedef, variables, forget, compiled=compiled)
    under_way.release()
    return done


class Compiled:
    """A function traced for one signature.

    Parameters
    ----------
    under_way : Trace
        The trace, which has ended.
    returned : int
        How many of the graph's outputs the function returns; the rest are assigned.
    treedef
        The structure of what it returns.
    assigned : list of Variable
        The variables that are assigned, in the order of the rest of the outputs.
    forget : callable, optional
        Called when one of its variables is no more; they are held weakly.
    compiled : bool
        Whether the backend may run it its own way.

    Attributes
    ----------
    graph : Graph
        The simplified graph.
    notes : Notes
        What simplifying did.
    captured : list of Tensor
        Tensors from outside that are inputs.
    created : list of weak references to Variable
        The variables that were created while tracing.
    """

    def __init__(
        self,
        under_way: Trace,
        returned: int,
        treedef: Any,
        assigned: list[Variable],
        forget: Forget | None = None,
        *,
        compiled: bool = True,
    ) -> None:
        self._may_compile = compiled
        self.kernels: Kernels = under_way.home or current_kernels()
        traced = under_way.graph
        self.graph, self.notes = simplify(traced, self.kernels)
        self.created = under_way.created
        self.captured = [tensor for tensor, _ in under_way.captured.values()]
        variables = [variable for variable, _ in under_way.variables.values()]
        self._variables = [weakref.ref(variable, forget) for variable in variables]
        self._assigned = [weakref.ref(variable, forget) for variable in assigned]
        self._constants = tuple(under_way.met)
        # The order of a call: arguments, captured tensors, variables.
        later = [node for _, node in under_way.captured.values()]
        later += [symbol.node for _, symbol in under_way.variables.values()]
        last = {node.index for node in later}
        order = [node for node in traced.inputs if node.index not in last] + later
        place = {node.index: position for position, node in enumerate(traced.inputs)}
        self.inputs = [self.graph.inputs[place[node.index]] for node in order]
        self._returned = returned
        self._treedef = treedef
        self._is_bare = returned == 1 and treedef.num_nodes == 1
        self.plan = Plan(self.graph, self.inputs, self.graph.outputs, self.kernels)
        # Captured tensors and variables, which lie in the same memory at most calls.
        self._lasting = len(order) - len(later)
        if compiled:
            self.plan.compile({node.index for node in self.inputs[self._lasting :]})

    @property
    def variables(self) -> list[Variable]:
        """The variables that are read."""
        return [variable for each in self._variables if (variable := each()) is not None]

    @property
    def assigns(self) -> int:
        """How many variables are assigned after a run."""
        return len(self._assigned)

    def followed_constants(self) -> list[int]:
        """Return the identities of constants that somebody who listens follows."""
        return [
            key
            for key in self._constants
            if any(listener.follows(key) for listener in LISTENERS.get())
        ]

    def call(self, tensors: Sequence[Tensor]) -> Any:
        """Return the function's result for arguments of its signature."""
        listeners = LISTENERS.get()
        # First of all: a name here for a variable's array would count as somebody who sees it.
        targets = self._targets() if self._assigned and not listeners else {}
        if self._variables or self.captured:
            inputs: list[Any] = [*tensors, *self.captured, *(each() for each in self._variables)]
            values = [each.read() for each in inputs]
        else:
            inputs = values = list(tensors)
        arrays = [value.array for value in values]
        residuals: list[Any] = []
        followed = False
        if listeners:
            followed = any(each.follows(value.key) for each in listeners for value in values)
            if followed and self._derivative.plan is not None:
                read = [variable.read().array for variable in self._derivative.variables]
                found = run_plan(self._derivative.forward, [*arrays, *read])
                count = len(self.graph.outputs)
                found, residuals = found[:count], found[count:]
            else:
                found = run_plan(self.plan, arrays)
        else:
            found = self.plan.execute(arrays, targets)
        outputs = [Tensor(array, self.kernels) for array in found[: self._returned]]
        if followed and outputs:
            self._announce(inputs, values, outputs, residuals)
        for place, reference in enumerate(self._assigned, self._returned):
            variable, array = reference(), found[place]
            if variable is not None and array is not targets.get(place):  # else it is written
                variable.assign(Tensor(array, self.kernels))
        return outputs[0] if self._is_bare else tree.unflatten(self._treedef, outputs)

    def _targets(self) -> dict[int, Any]:
        """Return the arrays of variables that a compiled plan may write its results into."""
        if not self.plan.is_compiled:
            return {}
        variables = [reference() for reference in self._assigned]
        alone = {
            place: variable.array
            for place, variable in enumerate(variables, self._returned)
            if variable is not None and variable._is_alone()
        }
        # Who refers to an array weakly may know its value by it, such as an optimizer's count.
        watched = weakref.getweakrefcount
        return {place: array for place, array in alone.items() if not watched(array)}

    # --- derivatives ------------------------------------------------------------------------------

    @cached_property
    def _derivative(self) -> Derivative:
        return Derivative(
            self.graph,
            self.inputs,
            self.variables,
            self._returned,
            self.kernels,
            self._may_compile,
            self._lasting,
        )

    @property
    def derivative(self) -> Derivative | None:
        """The backward graph, if one was asked for by now."""
        return self.__dict__.get("_derivative")

    def _replaying(self) -> Callable[[Sequence[Tensor]], list[Tensor]]:
        """Return what computes the function's result by its operations, for the inputs of a call.

        It does not refer to this object, which keeps derivatives that are made with it: with the
        function its graph and constants go, too.
        """
        graph, kernels, returned = self.graph, self.kernels, self._returned
        order = {node.index: place for place, node in enumerate(self.inputs)}
        places = [order[node.index] for node in graph.inputs]

        def replayed(primals: Sequence[Tensor]) -> list[Tensor]:
            return replay(graph, [primals[place] for place in places], kernels)[:returned]

        return replayed

    @cached_property
    def _pullback(self) -> _Traced:
        replayed = self._replaying()

        def pullback(values: list[Tensor], cotangents: list[Tensor]) -> list[Any]:
            primals = distinct(values)
            with GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(differentiable(primals))
                outputs = replayed(primals)
            found = iter(
                tape.gradient(differentiable(outputs), differentiable(primals), cotangents)
            )
            return [next(found) if is_differentiable(p.dtype) else None for p in primals]

        return _Traced(pullback, f"{self.graph.name}_vjp", compiled=self._may_compile)

    @cached_property
    def _pushforward(self) -> _Traced:
        replayed = self._replaying()

        def pushforward(values: list[Tensor], tangents: list[Tensor]) -> list[Tensor]:
            primals = distinct(values)
            with ForwardAccumulator(differentiable(primals), tangents) as accumulator:
                outputs = replayed(primals)
            return accumulator.jvp(outputs, unconnected_gradients="zero")

        return _Traced(pushforward, f"{self.graph.name}_jvp", compiled=self._may_compile)

    def _announce(
        self,
        inputs: list[Any],
        values: list[Tensor],
        outputs: list[Tensor],
        residuals: list[Any],
    ) -> None:
        """Tell those who listen of the call as one operation."""
        single = len(outputs) == 1
        given_arrays = {id(value.array) for value in values}  # held by their tensors anyhow
        own = [place for place, each in enumerate(residuals) if id(each) not in given_arrays]
        held = [residuals[place] for place in own]
        residuals = [None if id(each) not in given_arrays else each for each in residuals]

        def vjp(xp: Any, g: Any, y: Any, xs: Any, params: Any, needs: Any) -> list[Any]:
            real = without_imaginary(xp, [g] if single else g, outputs)
            cotangents, raw = to_tensors(real, outputs)
            given = [
                c for c, o in zip(cotangents, outputs, strict=True) if is_differentiable(o.dtype)
            ]
            if raw:
                read = list(residuals)
                for place, array in zip(
                    own, unpacked_residuals(held, self.graph.name), strict=True
                ):
                    read[place] = array
                return self._derivative.backward(read, [each.array for each in given])
            return as_cotangents(self._pullback(values, given), raw)

        def jvp(xp: Any, tangents: Sequence[Any], y: Any, xs: Any, params: Any) -> Any:
            given, raw = to_tensors(list(tangents), values)
            moving = [
                Tensor(v.kernels.zeros_like(v.array), v.kernels) if t is None else t
                for v, t in zip(values, given, strict=True)
                if is_differentiable(v.dtype)
            ]
            pushed = as_given(self._pushforward(values, moving), raw)
            return pushed[0] if single else pushed

        specs = tuple(Spec(output.shape, output.dtype) for output in outputs)
        op = HoldingOp(
            self.graph.name,
            Kind.OPAQUE,
            lambda *_: specs[0] if single else specs,
            vjp,
            jvp,
            Keep.SPECS,
            outputs=1 if single else None,
        )
        op.hold(held)
        emit(op, inputs, outputs[0] if single else tuple(outputs))


class _Traced:
    """A derivative as a traced function: of tensors alone, so it needs no more than their specs."""

    def __init__(self, f: Callable[..., Any], name: str, *, compiled: bool) -> None:
        self._f = f
        self._name = name
        self._may_compile = compiled
        self._compiled: dict[Any, Compiled] = {}

    def __call__(self, *nests: Any) -> Any:
        """Return what the function returns."""
        leaves, treedef = tree.flatten((nests, {}))
        if depth() or any(leaf.kernels.level for leaf in leaves):
            return self._f(*nests)  # within a transformation, which sees every operation
        key = (treedef, tuple([(leaf.shape, leaf.dtype) for leaf in leaves]))
        compiled = self._compiled.get(key)
        if compiled is None or compiled.followed_constants():
            compiled = self._compiled[key] = trace(
                self._name, self._f, leaves, treedef, compiled=self._may_compile
            )
        return compiled.call(leaves)
