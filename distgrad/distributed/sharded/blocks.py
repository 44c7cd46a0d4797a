"""Blocks: functions whose variables are whole only while they run, forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from distgrad import tree
from distgrad.autocasting import Autocasting
from distgrad.core.seam import AUTOCAST, LISTENERS, VALUES
from distgrad.dtypes import is_differentiable
from distgrad.eager import asarray
from distgrad.errors import TapeError, UnsupportedOptionError
from distgrad.tape.calls import Rules
from distgrad.tape.forward import ForwardAccumulator
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tensor import Operators, Tensor
from distgrad.transforms.calling import Call, VariablesRead, bystanders, listening, name_of
from distgrad.variable import Variable

Values = list[Any]


class Keeper(Protocol):
    """What a block asks of its optimizer: a `Walk`."""

    anchor: Variable
    is_on: bool

    def whole(self, variables: Sequence[Variable], why: str) -> AbstractContextManager[None]:
        """Have variables whole within a ``with`` block."""
        ...

    def collect(self, variables: Sequence[Variable], gradients: Sequence[Any]) -> None:
        """Take this rank's gradients of variables."""
        ...


class Block:
    """A function whose variables are gathered before it runs and let go after it.

    Of what it computes tapes keep the arguments alone, as with `recompute_grad`; the backward pass
    gathers the variables once more, runs the function again, and gives the gradients of the
    variables away, part by part, before it goes on.

    Parameters
    ----------
    keeper : Keeper
        Who holds the variables; `ShardedOptimizer.block` knows.
    function : callable
        Of nests of tensors; a module as a rule.
    variables : sequence of Variable
        Those that are gathered.

    Attributes
    ----------
    variables : tuple of Variable
        The same.
    """

    def __init__(
        self, keeper: Keeper, function: Callable[..., Any], variables: Sequence[Variable]
    ) -> None:
        self._keeper = keeper
        self._function = function
        self.variables = tuple(variables)
        self.name = str(getattr(function, "path", "")) or name_of(function, "block")

    def __repr__(self) -> str:
        return f"<sharded block {self.name!r} of {len(self.variables)} variables>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the function computes of the arguments."""
        if VALUES.get() is not None:
            raise UnsupportedOptionError(
                f"block {self.name!r}: called within dg.function, which would fix the gathered "
                "values; trace the function within the block: optimizer.block(dg.function(f), ...)"
            )
        own = {variable.key for variable in self.variables}
        call = Call(self.name, args, kwargs, converts=False)
        read, narrow = VariablesRead(), AUTOCAST.get()
        with self._whole("forward"), listening((*bystanders(), read)):
            positional, named = call.arguments()
            result = self._function(*positional, **named)
        if not LISTENERS.get():
            return result
        # Of its own variables tapes know nothing; that one more is watched makes them record the
        # call even if no argument is.
        anchor = self._keeper.anchor
        anchor.read()
        for listener in LISTENERS.get():
            if isinstance(listener, GradientTape) and not listener.follows(anchor.key):
                listener.watch(anchor)  # one that watches nothing by itself
        others = {key: each for key, each in read.variables.items() if key not in own}
        call.capture({**others, anchor.key: anchor})

        def again(primals: Values) -> list[Tensor]:
            positional, named = call.arguments(primals)
            with Autocasting(narrow):
                outputs = tree.flatten(self._function(*positional, **named))[0]
            return [
                each.read() if isinstance(each, Operators) else asarray(each) for each in outputs
            ]

        def pull(primals: Values, cotangents: Values, needs: Sequence[Any]) -> Values:
            self._refuse_strangers()
            with self._whole("backward"), call.again(primals) as sources:
                wanted = [
                    source if need and is_differentiable(source.dtype) else None
                    for source, need in zip(sources, needs, strict=True)
                ]
                asked = [source for source in wanted if source is not None]
                with GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch([*asked, *self.variables])
                    targets = again(primals)
                pairs = [
                    (target, cotangent)
                    for target, cotangent in zip(targets, cotangents, strict=True)
                    if is_differentiable(target.dtype)
                ]
                del targets
                gradients = tape.gradient(
                    [t for t, _ in pairs], [*asked, *self.variables], [c for _, c in pairs]
                )
                del pairs, tape
            found = iter(gradients[: len(asked)])
            self._keeper.collect(self.variables, gradients[len(asked) :])
            return [None if source is None else next(found) for source in wanted]

        def push(primals: Values, tangents: Values) -> Values:
            with self._whole("forward mode"), call.again(primals) as sources:
                moving = [(s, t) for s, t in zip(sources, tangents, strict=True) if t is not None]
                with ForwardAccumulator([s for s, _ in moving], [t for _, t in moving]) as pushed:
                    targets = again(primals)
            return list(pushed.jvp(targets))

        return call.announce(Rules(self.name, pull, push, functions=(self._function,)), result)

    def _whole(self, when: str) -> AbstractContextManager[None]:
        return self._keeper.whole(self.variables, f"{when} of block {self.name!r}")

    def _refuse_strangers(self) -> None:
        if not self._keeper.is_on:
            raise TapeError(
                f"block {self.name!r}: its variables are cut over ranks (stage 3), so that their "
                "gradients go to the optimizer; call optimizer.minimize(loss, variables, tape), or "
                "optimizer.backward, in place of tape.gradient"
            )
