"""Tracing: a backend whose arrays are nodes, so that computing grows a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from distgrad.backend.kernels import Kernels
from distgrad.backend.operators import KernelOperators
from distgrad.backend.protocol import API_VERSION
from distgrad.core.op import Op
from distgrad.core.seam import LISTENERS, VALUES
from distgrad.debug import user_place
from distgrad.dtypes import DType
from distgrad.eager import asarray, deeper, make_kernels
from distgrad.errors import TraceError
from distgrad.graph.nodes import OUTPUT_OF, Graph, Node, spec_of
from distgrad.ops import VOCABULARY
from distgrad.ops.structure import TRANSFER
from distgrad.tensor import Tensor
from distgrad.variable import Variable

_SCALARS = (bool, int, float, complex)


class Symbol(KernelOperators):
    """A node as an array: it has shape, dtype and operators, and no values yet.

    Parameters
    ----------
    node : Node
        What it stands for.
    trace : Trace
        The trace whose graph the node belongs to.
    """

    __slots__ = ("__weakref__", "node", "trace")

    def __init__(self, node: Node, trace: Trace) -> None:
        self.node = node
        self.trace = trace

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return self.node.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.node.shape)

    @property
    def dtype(self) -> DType:
        """The dtype."""
        return self.node.dtype

    def compute(self, name: str, operands: Sequence[Any]) -> Symbol:
        """Add an operation to the graph."""
        return self.trace.call(VOCABULARY[name], operands, {})

    def __repr__(self) -> str:
        return f"<symbol {self.node}: {self.dtype}{list(self.shape)}>"


class Trace:
    """A trace under way: the backend of its symbols, and the keeper of variables' values.

    Parameters
    ----------
    name : str
        The traced function's name.
    level : int
        The level of the symbols among transformations.
    captures : bool
        Whether values of enclosing transformations may be used; they become inputs.
    """

    name = "trace"
    api_version = API_VERSION

    def __init__(self, name: str, level: int, captures: bool = False) -> None:
        self.level = level
        self.is_open = True
        self._captures = captures
        self.captured: dict[int, tuple[Tensor, Node]] = {}
        self.variables: dict[int, tuple[Variable, Symbol]] = {}
        self.assigned: dict[int, tuple[Variable, Tensor]] = {}
        self._start(name)
        self.kernels = make_kernels(self)
        self._start(name)  # the kernels have asked what arrays look like, and left constants

    def _start(self, name: str) -> None:
        self.graph = Graph(name)
        self.home: Kernels | None = None  # where the graph will run: its constants' backend

    # --- the backend ----------------------------------------------------------------------------

    def asarray(self, value: Any, *, dtype: DType | None = None, copy: bool = False) -> Symbol:
        """Return a value as a symbol: a constant of the graph."""
        if isinstance(value, Symbol):
            if dtype is None or dtype == value.dtype:
                return value
            return self.call(VOCABULARY["astype"], (value,), {"dtype": dtype})
        home = None if self.home is None else self.home.backend
        return self.lift(asarray(value, dtype=dtype, backend=home))

    def lift(self, tensor: Tensor) -> Symbol:
        """Return a tensor of a lower level as a constant of the graph."""
        if tensor.kernels.level and self._captures:
            if tensor.key not in self.captured:
                node = self.graph.add_input(tensor.shape, tensor.dtype)
                self.captured[tensor.key] = (tensor, node)
            return Symbol(self.captured[tensor.key][1], self)
        if tensor.kernels.level:
            raise TraceError(
                f"{self.graph.name}: a value of an enclosing transformation was captured; pass it "
                "as an argument"
            )
        if self.home is None:
            self.home = tensor.kernels
        elif self.home is not tensor.kernels:
            raise TraceError(
                f"{self.graph.name}: values of the backends {self.home.backend.name!r} and "
                f"{tensor.kernels.backend.name!r} meet; a traced function runs on one"
            )
        node = self.graph.add_constant(tensor.array, tensor.shape, tensor.dtype)
        return Symbol(node, self)

    def owns(self, value: Any) -> bool:
        """Return whether a value is a symbol of this trace."""
        return isinstance(value, Symbol) and value.trace is self

    def kernel(self, name: str) -> Callable[..., Any]:
        """Return the kernel of an operation of the vocabulary."""
        return self.interpret(VOCABULARY[name])

    def interpret(self, op: Op) -> Callable[..., Any]:
        """Return the kernel of any operation: it adds a node."""

        def kernel(*operands: Any, **params: Any) -> Any:
            return self.call(op, operands, params)

        return kernel

    def call(self, op: Op, operands: Sequence[Any], params: dict[str, Any]) -> Any:
        """Add an operation to the graph and return its result's symbol."""
        where = user_place()
        if not self.is_open:
            raise TraceError(
                f"{op.name}: at {where} a symbolic value is used after the trace of "
                f"{self.graph.name!r} has ended; return it from the function in place of keeping it"
            )
        if op is TRANSFER:
            raise TraceError(
                f"{self.graph.name}: at {where} a value moves to another backend; a traced "
                "function runs on one: move values before the call or after"
            )
        nodes = tuple(
            x if type(x) in _SCALARS else (x if isinstance(x, Symbol) else self.asarray(x)).node
            for x in operands
        )
        spec = op.spec(*(spec_of(x) for x in nodes), **params)
        if op.outputs == 1:
            return Symbol(self.graph.add_call(op, nodes, params, spec, where), self)
        whole = self.graph.add_call(op, nodes, params, spec, where)
        return tuple(
            Symbol(self.graph.add_call(OUTPUT_OF, (whole,), {"position": i}, each, where), self)
            for i, each in enumerate(spec)
        )

    def to_host(self, array: Symbol) -> NoReturn:
        """Refuse: there are no values yet."""
        raise TraceError(
            f"{self.graph.name}: at {user_place()} the value of a symbolic tensor is asked for, "
            "but the function is only being traced; take dg.where in place of `if`, and keep print "
            "and numpy() outside of the function"
        )

    def device(self, array: Symbol) -> str:
        """Return that there is no device yet."""
        return "symbolic"

    def synchronize(self) -> None:
        """Return at once: nothing is computed."""

    # --- the keeper of variables' values ----------------------------------------------------------

    def read(self, variable: Variable) -> Tensor:
        """Return a variable's value: what was assigned in the trace, or an input of the graph."""
        if variable.key in self.assigned:
            return self.assigned[variable.key][1]
        if variable.key not in self.variables:
            if self.home is None:
                self.home = variable.kernels
            node = self.graph.add_input(variable.shape, variable.dtype)
            self.variables[variable.key] = (variable, Symbol(node, self))
        return Tensor(self.variables[variable.key][1], self.kernels, variable.key)

    def assign(self, variable: Variable, value: Tensor) -> None:
        """Remember what a variable is to become when the graph has run."""
        array = value.array if value.kernels is self.kernels else self.lift(value)
        if tuple(array.shape) != variable.shape:
            array = self.kernels.broadcast_to(array, shape=variable.shape)
        if array.dtype != variable.dtype:
            array = self.kernels.astype(array, dtype=variable.dtype)
        self.assigned[variable.key] = (variable, Tensor(array, self.kernels, variable.key))

    # --- tracing --------------------------------------------------------------------------------

    def input(self, shape: tuple[int, ...], dtype: DType) -> Tensor:
        """Return a tensor that stands for an argument."""
        return Tensor(Symbol(self.graph.add_input(shape, dtype), self), self.kernels)

    def symbol_of(self, value: Any) -> Symbol:
        """Return an output of the function as a symbol."""
        tensor = asarray(value)
        return tensor.array if tensor.kernels is self.kernels else self.lift(tensor)


@contextmanager
def tracing(name: str, *, captures: bool = False) -> Any:
    """Trace within a ``with`` block; nobody outside listens."""
    with deeper() as level:
        trace = Trace(name, level, captures)
        listeners = LISTENERS.get()
        LISTENERS.set(())
        token = VALUES.set(trace)
        try:
            yield trace
        finally:
            VALUES.reset(token)
            LISTENERS.set(listeners)
            trace.is_open = False
