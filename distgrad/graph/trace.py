"""Tracing: a backend whose arrays are nodes, so that computing grows a graph."""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, NoReturn

from distgrad.backend.kernels import Kernels
from distgrad.backend.operators import KernelOperators
from distgrad.backend.protocol import API_VERSION
from distgrad.core.op import Op
from distgrad.core.seam import LISTENERS, OPEN_KEEPERS, VALUES, Listener
from distgrad.debug import checker_in_force, output_walked_back, user_line, user_place
from distgrad.dtypes import DType
from distgrad.eager import asarray, current_kernels, deeper, make_kernels
from distgrad.errors import TraceError, UnknownValueError
from distgrad.graph.masks import has_known_mask, refuse_unknown_masks, without_masks
from distgrad.graph.nodes import OUTPUT_OF, Graph, Node, spec_of
from distgrad.graph.plan import Plan
from distgrad.ops import VOCABULARY
from distgrad.ops.shaping.structure import TRANSFER
from distgrad.tensor import Tensor, new_key
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
        Whether values of enclosing transformations may be used; they become inputs, and so does
        what somebody outside follows.
    outside : sequence of Listener
        Who listens outside; what they follow is captured as an input, and no constant.
    followed : collection of int
        The identities of more values to be captured as inputs.
    creates : bool
        Whether variables may be created.

    Attributes
    ----------
    captured : dict
        By identity the values from outside that became inputs, with their nodes.
    met : set of int
        The identities of tensors from outside that are computed with as constants.
    variables, assigned : dict
        By identity the variables that were read, and those that were assigned with their new value.
    created : list of weak references to Variable
        The variables that were created.
    place : str or None
        The user's line of the operation that is traced again, if it is; else found from the stack.
    """

    name = "trace"
    api_version = API_VERSION

    def __init__(
        self,
        name: str,
        level: int,
        captures: bool = False,
        outside: Sequence[Listener] = (),
        followed: Collection[int] = (),
        creates: bool = False,
    ) -> None:
        self.level = level
        self.is_open = True
        self._captures = captures
        self._outside = outside
        self._followed = followed
        self._creates = creates
        self.place: str | None = None
        self.met: set[int] = set()
        self._first_key = new_key()
        self._around = VALUES.get()
        self.created: list[weakref.ref[Variable]] = []
        self._marks: list[tuple[int, Node]] = []
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
        if (tensor.kernels.level and self._captures) or self.follows((tensor.key,)):
            if tensor.key not in self.captured:
                node = self.graph.add_input(tensor.shape, tensor.dtype)
                self.captured[tensor.key] = (tensor, node)
                if not tensor.kernels.level:
                    self.settle(tensor.kernels)
            return Symbol(self.captured[tensor.key][1], self)
        if tensor.kernels.level:
            raise TraceError(
                f"{self.graph.name}: at {user_place()} a symbolic value of another trace is used; "
                "pass it as an argument, and return it from the function in place of keeping it"
            )
        self.settle(tensor.kernels)
        node = self.graph.add_constant(tensor.array, tensor.shape, tensor.dtype)
        return Symbol(node, self)

    def follows(self, keys: Sequence[int]) -> bool:
        """Return whether somebody outside follows one of these values.

        Of the others those that were there before the trace are noted: somebody may follow them
        when the graph is run again.
        """
        found = False
        for key in keys:
            if (
                key in self._followed
                or any(each.follows(key) for each in self._outside)
                or (self._around is not None and self._around.follows((key,)))
            ):
                found = True
            elif 0 < key < self._first_key:
                self.met.add(key)
        return found

    def explain_mixture(self, operation: str) -> NoReturn:
        """Refuse a symbol of another trace in an operation."""
        raise TraceError(
            f"{operation}: at {user_place()} a symbolic value of another trace is used; pass it as "
            "an argument, and return it from the function in place of keeping it"
        )

    def settle(self, kernels: Kernels) -> None:
        """Say where the graph will run, or find that it cannot be told."""
        if self.home is None:
            self.home = kernels
        elif self.home is not kernels:
            raise TraceError(
                f"{self.graph.name}: at {user_place()} values of the backends "
                f"{self.home.backend.name!r} and {kernels.backend.name!r} meet; a traced function "
                "runs on one: move values before the call or after"
            )

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
        if not self.is_open:
            raise TraceError(
                f"{op.name}: at {user_place()} a symbolic value is used after the trace of "
                f"{self.graph.name!r} has ended; return it from the function in place of keeping it"
            )
        if op is TRANSFER:
            raise TraceError(
                f"{self.graph.name}: at {user_place()} a value moves to another backend; a traced "
                "function runs on one: move values before the call or after"
            )
        nodes = tuple(
            x if type(x) in _SCALARS else (x if isinstance(x, Symbol) else self.asarray(x)).node
            for x in operands
        )
        for node in nodes:
            if isinstance(node, Node) and not self.graph.holds(node):
                self.explain_mixture(op.name)
        spec = op.spec(*(spec_of(x) for x in nodes), **params)  # refuses a mask that does not fit
        if has_known_mask(op, nodes):
            nodes, params = without_masks(nodes, params, self.asarray, self.home)
            spec = op.spec(*(spec_of(x) for x in nodes), **params)
        refuse_unknown_masks(op, nodes)
        where, count = self._place(), len(self.graph.nodes)
        whole = self.graph.add_call(op, nodes, params, spec, where)
        if whole.index == count:
            whole.gradient_of = self._gradient_under_way()
        # The result's identity comes next, so a walk back finds the node by it.
        self._marks.append((new_key(), whole))
        if op.outputs == 1:
            return Symbol(whole, self)
        return tuple(
            Symbol(self.graph.add_call(OUTPUT_OF, (whole,), {"position": i}, each, where), self)
            for i, each in enumerate(spec)
        )

    def _place(self) -> str:
        return user_line() if self.place is None else self.place

    def _gradient_under_way(self) -> Node | None:
        """Return the operation of this trace whose gradient is being computed, if one is."""
        key = output_walked_back()
        if key is None or not self._marks or key <= self._marks[0][0]:
            return None
        return self._marks[bisect_right(self._marks, key, key=itemgetter(0)) - 1][1]

    def to_host(self, array: Symbol) -> NoReturn:
        """Refuse: there are no values yet."""
        raise UnknownValueError(
            f"{self.graph.name}: at {user_place()} the value of a symbolic tensor is asked for, "
            "but the function is only being traced; take dg.where in place of `if`, "
            "dg.asarray(a)[i] in place of a[i] where a is NumPy's, and keep print and numpy() "
            "outside of the function"
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
            self.settle(variable.kernels)
            node = self.graph.add_input(variable.shape, variable.dtype)
            self.variables[variable.key] = (variable, Symbol(node, self))
        return Tensor(self.variables[variable.key][1], self.kernels, variable.key)

    @contextmanager
    def bound(self, values: dict[int, tuple[Variable, Tensor]]) -> Iterator[None]:
        """Let variables have given values within a ``with`` block, by their identity."""
        before = {key: self.assigned[key] for key in values if key in self.assigned}
        self.assigned |= values
        try:
            yield
        finally:
            for key in values:
                del self.assigned[key]
            self.assigned |= before

    def assign(self, variable: Variable, value: Tensor) -> None:
        """Remember what a variable is to become when the graph has run."""
        array = value.array if value.kernels is self.kernels else self.lift(value)
        if tuple(array.shape) != variable.shape:
            array = self.kernels.broadcast_to(array, shape=variable.shape)
        if array.dtype != variable.dtype:
            array = self.kernels.astype(array, dtype=variable.dtype)
        self.assigned[variable.key] = (variable, Tensor(array, self.kernels, variable.key))

    def create(self, variable: Variable, value: Tensor) -> Tensor:
        """Return the first value of a variable that is created while tracing, as numbers."""
        if not self._creates:
            raise TraceError(
                f"{self.graph.name}: at {user_place()} the variable {variable.name!r} is created; "
                "a traced function may do so when it is called for the first time only: create it "
                "outside, or keep it (`if self.v is None: self.v = dg.Variable(...)`)"
            )
        if value.kernels is self.kernels:
            home = self.home or current_kernels()
            try:
                (array,) = Plan(self.graph, [], [value.array.node], home).run([])
            except ValueError as error:
                raise TraceError(
                    f"{self.graph.name}: at {user_place()} the first value of the variable "
                    f"{variable.name!r} depends on the arguments; expected one that does not: "
                    "create the variable outside"
                ) from error
            value = Tensor(array, home)
        self.created.append(weakref.ref(variable))
        return value

    def release(self) -> None:
        """Let go of all that was traced: symbols that escaped hold the trace."""
        for held in (self.variables, self.assigned, self.captured, self.met):
            held.clear()
        self._around = None
        self._marks.clear()
        self._outside = ()
        self.graph = Graph(self.graph.name)

    # --- tracing --------------------------------------------------------------------------------

    def input(self, shape: tuple[int, ...], dtype: DType) -> Tensor:
        """Return a tensor that stands for an argument."""
        return Tensor(Symbol(self.graph.add_input(shape, dtype), self), self.kernels)

    def symbol_of(self, value: Any) -> Symbol:
        """Return an output of the function as a symbol."""
        tensor = asarray(value)
        return tensor.array if tensor.kernels is self.kernels else self.lift(tensor)


@contextmanager
def tracing(
    name: str,
    *,
    captures: bool = False,
    followed: Collection[int] = (),
    creates: bool = False,
) -> Iterator[Trace]:
    """Trace within a ``with`` block; no tape outside listens. Parameters as for `Trace`."""
    with deeper() as level:
        listeners = LISTENERS.get()
        trace = Trace(name, level, captures, listeners, followed, creates)
        # What depends on no symbol is computed now: who looks for NaNs looks at that, too.
        checker = checker_in_force()
        LISTENERS.set(() if checker is None else (checker,))
        token = VALUES.set(trace)
        OPEN_KEEPERS.add(id(trace))
        try:
            yield trace
        except BaseException:
            trace.release()  # it refers to itself: what it holds would wait for a collector
            raise
        finally:
            OPEN_KEEPERS.discard(id(trace))
            VALUES.reset(token)
            LISTENERS.set(listeners)
            trace.is_open = False
