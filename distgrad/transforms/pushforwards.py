"""custom_jvp: functions with a derivative of their user's own, in forward mode and transposed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import update_wrapper
from types import MethodType
from typing import Any

from distgrad import tree
from distgrad.callables import require_callable
from distgrad.core.op import Keep, Kind, Op
from distgrad.core.seam import LISTENERS
from distgrad.dtypes import is_complex, is_differentiable
from distgrad.eager import asarray
from distgrad.errors import DTypeError, LinearityError, ShapeError
from distgrad.ops import VOCABULARY
from distgrad.ops.shaping.structure import astype
from distgrad.tape.calls import Rules
from distgrad.tape.cutting import detach
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tape.packing import PackedOp
from distgrad.tensor import Operators, Tensor
from distgrad.transforms.calling import Call, Dependence, bystanders, listening, name_of

Values = list[Any]


def custom_jvp(f: Callable[..., Any] | None = None, *, nondiff_argnums: Sequence[int] = ()) -> Any:
    """Give a function a forward derivative of its user's own, for both modes; a decorator.

    Parameters
    ----------
    f : callable
        A function of nests of arrays. What it does inside is not differentiated.
    nondiff_argnums : sequence of int
        The positions of arguments that are no arrays, such as functions, or have no derivative.
        They are passed on as they are.

    Returns
    -------
    CustomJVP
        To be called like `f`, once it has its rule: see `CustomJVP.defjvp` and `CustomJVP.defjvps`.

    Notes
    -----
    Forward mode runs the rule. Reverse mode records what the rule computes of the tangents, which
    must be linear in them, and walks it back. The rule itself is differentiated for higher orders.
    The spelling is that of ``jax.custom_jvp``.

    Examples
    --------
    >>> import distgrad as dg
    >>> @dg.custom_jvp
    ... def log1pexp(x):
    ...     return dg.log(1 + dg.exp(x))
    >>> @log1pexp.defjvp
    ... def log1pexp_jvp(primals, tangents):
    ...     (x,), (t,) = primals, tangents
    ...     return log1pexp(x), t * (1 - 1 / (1 + dg.exp(x)))
    >>> print(dg.jvp(log1pexp, (50.0,), (1.0,))[1], dg.grad(log1pexp)(50.0))
    dg.Tensor(1.0, shape=(), dtype=float32) dg.Tensor(1.0, shape=(), dtype=float32)
    """
    if f is None:
        return lambda function: CustomJVP(function, nondiff_argnums)
    return CustomJVP(f, nondiff_argnums)


class CustomJVP:
    """A function with a forward derivative of its user's own; made by `custom_jvp`."""

    def __init__(self, f: Callable[..., Any], nondiff_argnums: Sequence[int] = ()) -> None:
        require_callable("custom_jvp", f)
        self._f = f
        self._fixed = frozenset(nondiff_argnums)
        self._rule: Callable[..., Any] | None = None
        self._name = name_of(f, "custom_jvp")
        update_wrapper(self, f, updated=())

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def defjvp(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Say the derivative; a decorator.

        Parameters
        ----------
        rule : callable
            ``rule(primals, tangents) -> (primal_out, tangent_out)``; `primals` and `tangents` are
            lists with an entry for each argument, a nest like it. Where an argument holds no
            numbers (the object of a method, a string), it stands among the primals itself, with
            None for a tangent. `tangent_out` is a nest like the result, with None for zero. With
            `nondiff_argnums`: ``rule(*nondiff, primals, tangents)``.

        Returns
        -------
        callable
            The rule.

        Notes
        -----
        The result of a call is what the function returns: `primal_out` is only looked at for its
        structure, and computed in vain where nothing else needs it.
        """
        self._rule = rule
        return rule

    def defjvps(self, *rules: Callable[..., Any] | None) -> None:
        """Say the derivative argument by argument, for arguments that are single arrays.

        Parameters
        ----------
        *rules : callable or None
            ``rule(tangent, primal_out, *primals) -> tangent_out``, one for each argument: what it
            contributes; None where that is zero.

        Raises
        ------
        TypeError
            If there are `nondiff_argnums`.
        """
        if self._fixed:
            raise TypeError(
                f"custom_jvp: {self._name}: defjvps takes no nondiff_argnums; give one rule for "
                "all arguments with defjvp"
            )

        def rule(primals: Values, tangents: Values) -> tuple[Any, Any]:
            if len(rules) != len(primals):
                raise TypeError(
                    f"custom_jvp: {self._name}: defjvps was given {len(rules)} rules for "
                    f"{len(primals)} arguments; expected one for each, or None"
                )
            primal_out = self(*primals)
            total = None
            for each, tangent in zip(rules, tangents, strict=True):
                if each is None or tangent is None:
                    continue
                term = each(tangent, primal_out, *primals)
                total = term if total is None else total + term
            return primal_out, total

        self._rule = rule

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the result of the function.

        Raises
        ------
        TypeError
            If there is no rule yet, a keyword argument has no position, or the result depends on a
            value that somebody differentiates and that is no argument.
        """
        if self._rule is None:
            raise TypeError(
                f"custom_jvp: {self._name} has no derivative yet; decorate its rule with "
                f"@{self._name}.defjvp"
            )
        positional = self._positional(args, kwargs)
        fixed = [arg for place, arg in enumerate(positional) if place in self._fixed]
        call = Call(
            self._name, [a for place, a in enumerate(positional) if place not in self._fixed], {}
        )
        dependence = Dependence(LISTENERS.get())
        with listening((*bystanders(), dependence)):
            own, _ = call.arguments([detach(each) for each in call.inputs])
            result = self._f(*self._merged(own, fixed))
        outputs = [each for each in tree.flatten(result)[0] if isinstance(each, Operators)]
        source = dependence.of([each.read() for each in outputs])
        if source is not None:
            raise TypeError(
                f"custom_jvp: {self._name}: the result depends on {source}, which is no argument: "
                "its derivative would be lost; pass it as an argument, or cut it on purpose with "
                "dg.stop_gradient"
            )
        rule, outs = self._rule, len(tree.flatten(result)[0])

        def push(primals: Values, tangents: Values) -> Values:
            return _pushed(call, rule, fixed, outs, primals, tangents)

        def pull(primals: Values, cotangents: Values, needs: Sequence[Any]) -> Values:
            units = [
                Tensor(primal.kernels.ones_like(primal.array), primal.kernels)
                if need and is_differentiable(primal.dtype)
                else None
                for primal, need in zip(primals, needs, strict=True)
            ]
            moving = [unit for unit in units if unit is not None]
            with GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(moving)
                pushed = push(primals, units)
            _refuse_nonlinear(self._name, tape.records)
            pairs = [(p, c) for p, c in zip(pushed, cotangents, strict=True) if p is not None]
            if not pairs or not moving:
                return [None for _ in units]
            known = [(p, c) for p, c in pairs if tape.follows(p.key)]
            if not known:
                return [None for _ in units]
            found = iter(tape.gradient([p for p, _ in known], moving, [c for _, c in known]))
            return [None if unit is None else next(found) for unit in units]

        return call.announce(Rules(self._name, pull, push, functions=(self._f, rule)), result)

    def _positional(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Any]:
        """Return the arguments by position, defaults included."""
        if not kwargs:
            return args
        bound = inspect.signature(self._f).bind(*args, **kwargs)
        bound.apply_defaults()
        if bound.kwargs:
            raise TypeError(
                f"custom_jvp: {self._name}: the keyword arguments {', '.join(bound.kwargs)} have "
                "no position, and the rule takes arguments by position; let the function take them "
                "so"
            )
        return bound.args

    def _merged(self, own: Values, fixed: Values) -> Values:
        """Return all arguments, in their order."""
        first, second = iter(own), iter(fixed)
        count = len(own) + len(fixed)
        return [next(second) if place in self._fixed else next(first) for place in range(count)]


def _pushed(
    call: Call,
    rule: Callable[..., Any],
    fixed: Values,
    outs: int,
    primals: Values,
    tangents: Values,
) -> Values:
    """Return the checked tangents of the outputs, as the user's rule gives them."""
    directions = [
        Tensor(primal.kernels.zeros_like(primal.array), primal.kernels)
        if tangent is None
        else tangent
        for primal, tangent in zip(primals, tangents, strict=True)
    ]
    given = call.filled(primals)[0], call.filled(directions, lambda slot: None)[0]
    returned = rule(*fixed, *given)
    if not (isinstance(returned, (tuple, list)) and len(returned) == 2):
        raise TypeError(
            f"custom_jvp: {call.name}: the rule returned a {type(returned).__name__}; expected a "
            "pair (primal_out, tangent_out)"
        )
    values, treedef = tree.flatten(returned[0])
    if returned[1] is None:
        found: Values = [None] * len(values)
    else:
        found = _flat_like(call.name, treedef, returned[1], len(values))
    if len(values) != outs:
        raise ValueError(
            f"custom_jvp: {call.name}: the rule returned {len(values)} primal outputs, the "
            f"function {outs}; expected as many"
        )
    pairs = zip(values, found, strict=True)
    return [_checked(call.name, place, *pair) for place, pair in enumerate(pairs)]


def _flat_like(name: str, treedef: Any, tangents: Any, count: int) -> Values:
    if count == 1 and treedef.num_nodes == 1:  # one output that is no nest
        return [tangents]
    try:
        return list(treedef.flatten_up_to(tangents))
    except ValueError as error:
        raise ValueError(
            f"custom_jvp: {name}: the rule's tangent_out has not the structure of its primal_out "
            f"({error}); expected a tangent, or None, for each of {count} outputs"
        ) from error


def _checked(name: str, place: int, value: Any, tangent: Any) -> Any:
    """Return a tangent of the shape and dtype of the output that it belongs to."""
    primal = value if isinstance(value, Operators) else asarray(value)
    if tangent is None or not is_differentiable(primal.dtype):
        return None
    given = isinstance(tangent, Operators)
    tensor = tangent.read() if given else asarray(tangent, backend=primal.backend)
    if tensor.shape != primal.shape:
        raise ShapeError(
            f"custom_jvp: {name}: tangent {place} has shape {tensor.shape}, its output "
            f"{primal.shape}; expected the same shape"
        )
    if tensor.dtype == primal.dtype:
        return tensor
    if is_complex(tensor.dtype) and not is_complex(primal.dtype):
        raise DTypeError(
            f"custom_jvp: {name}: tangent {place} is {tensor.dtype}, its output {primal.dtype}; "
            "expected a real tangent for a real output"
        )
    return astype(tensor, primal.dtype)


def _refuse_nonlinear(name: str, records: Sequence[Any]) -> None:
    """Raise if a rule computes something of tangents that is not linear in them.

    Reverse mode would silently differentiate it at one arbitrary tangent. What tells is that the
    gradient of a linear operation reads nothing that depends on its inputs.
    """
    for recorded, follows, *_ in records:
        op: Op = recorded.original if isinstance(recorded, PackedOp) else recorded
        if VOCABULARY.get(op.name) is not op:
            continue  # a function of the user's own: what its rule reads is not known
        moving = [place for place, key in enumerate(follows) if key]
        if isinstance(op.keep, tuple):
            reads = any(place in op.keep[mover] for mover in moving for place in moving)
        elif op.kind is Kind.ELEMENTWISE or len(follows) == 1:
            reads = op.keep in (Keep.INPUTS, Keep.OUTPUT, Keep.BOTH, Keep.SUMMARIES)
        else:  # of several inputs it may read those alone that no tangent went into
            reads = op.keep is Keep.OUTPUT
        if reads:
            raise LinearityError(
                f"custom_jvp: {name}: the rule takes {op.name} of something computed from "
                "tangents, which is not linear in them; reverse mode needs a tangent_out that is: "
                "sums of tangents times functions of the primals"
            )
