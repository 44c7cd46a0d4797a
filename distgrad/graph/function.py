"""dg.function: trace a function once for each signature, and run it as one operation."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any

from distgrad import tree
from distgrad.backends_in_force import depth
from distgrad.callables import require_callable
from distgrad.core.seam import AUTOCAST, LISTENERS
from distgrad.dtypes import default_dtype
from distgrad.eager import current_kernels
from distgrad.entering import SCALARS
from distgrad.errors import TraceError
from distgrad.graph.compiled import Compiled, trace
from distgrad.graph.derivative import flat
from distgrad.graph.explanation import FunctionExplanation, TraceExplanation, explain_trace
from distgrad.graph.nodes import Graph
from distgrad.graph.signatures import (
    count_of_plain,
    entered,
    parameters_of,
    place_of,
    shown_leaf,
    static,
)
from distgrad.sparse import opened
from distgrad.tensor import Tensor
from distgrad.variable import Variable

_TRACES_BEFORE_WARNING = 3


def function(
    f: Callable[..., Any] | None = None, *, name: str | None = None, compiled: bool = True
) -> Any:
    """Make a function run as a graph: traced once for each signature, then replayed.

    Parameters
    ----------
    f : callable
        A function of nests of arrays, variables and static values.
    name : str, optional
        Its name in messages and printed graphs; the function's own by default.
    compiled : bool
        Whether the backend may run the graph its own way: fuse elementwise operations on large
        arrays into one kernel, whose results may differ in the last digits, and on CuPy launch all
        as a CUDA graph.

    Returns
    -------
    Function
        To be called like `f`.

    Examples
    --------
    >>> import distgrad as dg
    >>> @dg.function
    ... def f(x):
    ...     return dg.sin(x) + dg.sin(x)
    >>> print(f(dg.asarray(0.0)))
    dg.Tensor(0.0, shape=(), dtype=float32)
    >>> print(f.graph(dg.asarray(0.0)))
    f(%0: float32[])
      %1: float32[] = sin(%0)
      %2: float32[] = add(%1, %1)
      return %2
    """
    if f is None:
        return partial(function, name=name, compiled=compiled)
    require_callable("function", f)
    return Function(f, name, compiled=compiled)


class Function:
    """A function that runs as a graph; made by `function`.

    The Python function runs once for each signature: the nest's structure, shapes, dtypes and
    backends of arrays, and the values of everything else, Python numbers among them. What it does
    besides computing (printing, appending to lists) happens at that time only. Variables that it
    reads become inputs, assignments take place after each run, other arrays are constants; a
    captured tensor that a tape follows becomes an input, too.

    Notes
    -----
    On a tape a call is one operation, whose VJP is a graph as well. Within a transformation (`vmap`
    or another traced function) the Python function itself runs, so that the transformation sees
    every operation.

    Threads may call one function at once: the first traces, the others wait for it.

    Variables may be created where the function is traced for the first time, if it keeps them. The
    traces hold variables weakly: those of a variable that is no more are dropped. Used as a method
    it is a function of its own for each object, and lives as long as that.
    """

    def __init__(
        self, f: Callable[..., Any], name: str | None = None, *, compiled: bool = True
    ) -> None:
        self._f = f
        self._may_compile = compiled
        self._name: str = name or str(getattr(f, "__name__", "function"))
        self._compiled: dict[Any, Compiled] = {}
        self._changes: dict[Any, str] = {}
        self._traced = 0
        self._last_signature: dict[str, str] = {}
        self._lock = threading.RLock()
        self._of_objects: dict[int, tuple[weakref.ref[Any], Function]] = {}
        self._parameters = parameters_of(f)
        self._count = count_of_plain(self._parameters)
        # Names and docstring only: f's own attributes may be those of another Function.
        update_wrapper(self, f, updated=())

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        bound = self._of_object(instance)
        return partial(self.__call__, instance) if bound is None else Method(bound, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the function returns, by its graph."""
        if depth():
            return self._f(*args, **kwargs)  # within a transformation, which sees every operation
        compiled, tensors = self._of_signature(args, kwargs)
        if compiled is None:
            return self._f(*args, **kwargs)
        return compiled.call(tensors)

    def graph(self, *args: Any, **kwargs: Any) -> Graph:
        """Return the graph of a call with these arguments; print it, or take its `graphviz`."""
        compiled, _ = self._of_signature(args, kwargs)
        if compiled is None:
            raise TraceError(
                f"graph: {self._name!r} got a value of a transformation; expected arrays"
            )
        return compiled.graph

    def explain(self) -> FunctionExplanation:
        """Return what was traced, what simplifying did, what runs, and why not faster.

        Examples
        --------
        >>> import distgrad as dg
        >>> f = dg.function(lambda x: dg.sin(x) * 1.0 + dg.sin(x), name="f")
        >>> f(dg.asarray([1.0, 2.0])).shape
        (2,)
        >>> explanation = f.explain()
        >>> len(explanation.traces), explanation.traces[0].operations
        (1, 2)
        """
        with self._lock:
            traces: list[TraceExplanation] = [
                explain_trace(compiled, self._changes.get(key, ""))
                for key, compiled in self._compiled.items()
            ]
        return FunctionExplanation(self._name, self._traced, tuple(traces))

    # --- signatures -------------------------------------------------------------------------------

    def _of_signature(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Compiled | None, list[Tensor]]:
        """Return what runs a call, and its tensors; None for values of a transformation."""
        if not kwargs and len(args) == self._count:
            parts: list[Any] = []
            for leaf in args:  # most calls are of tensors alone, whose structure is their number
                if leaf.__class__ is not Tensor or leaf.kernels.level:
                    break
                array = leaf.array
                parts.append((array.shape, array.dtype, id(leaf.kernels)))
            else:
                parts.append(default_dtype() if args else (default_dtype(), id(current_kernels())))
                parts.append(AUTOCAST.get())
                return self._known(tuple(parts), list(args), None), list(args)
        elif self._parameters is not None:
            args, kwargs = self._with_defaults(args, kwargs)
        leaves, treedef = flat((args, kwargs))
        parts = [treedef, default_dtype(), AUTOCAST.get()]
        tensors = []
        for place, given in enumerate(leaves):
            kind = given.__class__
            known = kind is Tensor or kind is Variable or kind in SCALARS
            leaf = leaves[place] = given if known else entered(given)
            if leaf.__class__ is Tensor:
                if leaf.kernels.level:
                    return None, []
                tensors.append(leaf)
                parts.append((leaf.array.shape, leaf.array.dtype, id(leaf.kernels)))
            else:
                parts.append(static(self._name, leaf))
        if not tensors:
            parts.append(id(current_kernels()))
        return self._known(tuple(parts), leaves, treedef), tensors

    def _known(self, key: Any, leaves: list[Any], treedef: Any) -> Compiled:
        """Return what was traced for a signature, or trace it now."""
        compiled = self._compiled.get(key)
        if compiled is None or (LISTENERS.get() and compiled.followed_constants()):
            if treedef is None:
                treedef = tree.flatten((tuple(leaves), {}))[1]
            compiled = self._traced_for(key, leaves, treedef)
        return compiled

    def _with_defaults(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return arguments in one form, however they were passed, defaults among them."""
        assert self._parameters is not None  # noqa: S101  for the type checker: asked before
        try:
            bound = self._parameters.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._name}() {error}") from None
        bound.apply_defaults()
        return bound.args, bound.kwargs

    def _traced_for(self, key: Any, leaves: list[Any], treedef: Any) -> Compiled:
        with self._lock:  # the first thread traces, the others find what it has done
            known = self._compiled.get(key)
            followed = known.followed_constants() if known else []
            if known is not None and not followed:
                return known
            captured = [tensor.key for tensor in known.captured] if known else []
            compiled = trace(
                self._name,
                self._f,
                leaves,
                treedef,
                followed=(*followed, *captured),
                creates=not self._compiled,
                forget=_forgetting(self, key),
                compiled=self._may_compile,
            )
            if any(reference() is None for reference in compiled.created):
                raise TraceError(
                    f"{self._name}: it creates a variable and does not keep it, so that the next "
                    "trace would make another one; keep it where it is found again, such as "
                    "`if self.v is None: self.v = dg.Variable(...)`, or create it outside"
                )
            self._compiled[key] = compiled
            if known is None:  # a function that raised has not been traced
                self._changes[key] = self._say_why(leaves, treedef)
            return compiled

    def _say_why(self, leaves: list[Any], treedef: Any) -> str:
        """Return what changed since the last trace; from the third one on also warn of it."""
        nest = tree.unflatten(treedef, leaves)
        shown = {
            place_of(path, self._parameters): shown_leaf(leaf)
            for path, leaf in zip(tree.paths(opened(nest)), leaves, strict=True)
        }
        before, self._last_signature = self._last_signature, shown
        self._traced += 1
        if self._traced == 1:
            return ""
        changes = "another structure of arguments"
        if list(before) == list(shown):
            differing = [
                f"{place}: {before[place]} became {now}"
                for place, now in shown.items()
                if before[place] != now
            ]
            changes = "; ".join(differing) or "another backend, default dtype or autocast"
        if self._traced >= _TRACES_BEFORE_WARNING:
            warnings.warn(
                f"function: {self._name!r} is traced for the {self._traced}. time "
                f"({changes}); pass numbers that change as arrays, and pad arrays to few shapes",
                stacklevel=6,
            )
        return changes

    # --- methods ----------------------------------------------------------------------------------

    def _of_object(self, instance: Any) -> Function | None:
        """Return the function for one object, which it holds weakly; None if that cannot be."""
        known = self._of_objects.get(id(instance))
        if known is not None and known[0]() is instance:
            return known[1]
        try:
            reference = weakref.ref(instance, _forgetting_object(self, id(instance)))
        except TypeError:  # an object without weak references: a static argument like any other
            return None
        f = self._f

        def of_object(*args: Any, **kwargs: Any) -> Any:
            return f(reference(), *args, **kwargs)

        if self._parameters is not None:
            parameters = list(self._parameters.parameters.values())
            of_object.__signature__ = self._parameters.replace(  # type: ignore[attr-defined]
                parameters=parameters[1:] if parameters else []
            )
        with self._lock:
            bound = Function(of_object, self._name, compiled=self._may_compile)
            self._of_objects[id(instance)] = (reference, bound)
        return bound


class Method:
    """A traced function bound to an object: what `Function` is for a class's instances."""

    def __init__(self, function: Function, instance: Any) -> None:
        self._function = function
        self.__self__ = instance  # which lives at least as long as this
        update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the method returns, by its graph."""
        return self._function(*args, **kwargs)

    def graph(self, *args: Any, **kwargs: Any) -> Graph:
        """Return the graph of a call; see `Function.graph`."""
        return self._function.graph(*args, **kwargs)

    def explain(self) -> FunctionExplanation:
        """Return what was traced for this object; see `Function.explain`."""
        return self._function.explain()


def _forgetting(function: Function, key: Any) -> Callable[[Any], None]:
    """Return what drops a trace when one of its variables is no more."""
    owner = weakref.ref(function)

    def forget(_: Any) -> None:
        still = owner()
        if still is not None:
            still._compiled.pop(key, None)
            still._changes.pop(key, None)

    return forget


def _forgetting_object(function: Function, identity: int) -> Callable[[Any], None]:
    owner = weakref.ref(function)

    def forget(reference: Any) -> None:
        still = owner()
        known = still._of_objects.get(identity) if still is not None else None
        if known is not None and known[0] is reference:
            del still._of_objects[identity]  # type: ignore[union-attr]  # known came from it

    return forget
