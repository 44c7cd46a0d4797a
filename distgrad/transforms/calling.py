"""One call of a function with rules of its own: its nests of arguments, and what it captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from distgrad import tree
from distgrad.core.op import Op
from distgrad.core.seam import LISTENERS, VALUES
from distgrad.debug import Lines
from distgrad.dtypes import is_differentiable
from distgrad.eager import asarray
from distgrad.errors import DTypeError
from distgrad.tape.calls import Rules, announce
from distgrad.tape.captured import CapturedPath
from distgrad.tensor import Operators, Tensor
from distgrad.variable import Variable


class Call:
    """The arguments of a call, flattened, and the variables that the function read besides.

    Parameters
    ----------
    name : str
        Of the function, for messages.
    args, kwargs : sequence, dict
        The arguments: nests.
    converts : bool
        Whether numbers and arrays among the positional ones become tensors, with a derivative.

    Attributes
    ----------
    specs : list of (shape, dtype, backend)
        Of each input; behind the arguments come the captured variables, then the tensors held.
    places : int
        How many inputs are positional arguments.
    passed : dict of int to Variable
        The inputs that are variables, by their place.
    captured : list of Variable
        The trainable variables that the function read and that are no arguments.
    held : list of Tensor
        The tensors that the function held on to and somebody differentiates, noted by `hold`.
    """

    def __init__(
        self, name: str, args: Sequence[Any], kwargs: dict[str, Any], converts: bool = True
    ) -> None:
        self.name = name
        positional, self._args_treedef = tree.flatten(list(args))
        named, self._kwargs_treedef = tree.flatten(kwargs)
        self._positions = len(positional)
        slots = [_as_value(leaf) if converts else leaf for leaf in positional] + named
        self.inputs: list[Any] = [slot for slot in slots if isinstance(slot, Operators)]
        self.places = sum(isinstance(slot, Operators) for slot in slots[: self._positions])
        # A variable stays itself; a tensor is held by those who keep it.
        self._slots = [_INPUT if isinstance(slot, Operators) else slot for slot in slots]
        self.captured: list[Variable] = []
        self.held: list[Tensor] = []
        self._own = len(self.inputs)
        self.passed = {
            place: each for place, each in enumerate(self.inputs) if isinstance(each, Variable)
        }
        self.specs = [(each.shape, each.dtype, each.backend) for each in self.inputs]

    def arguments(self, values: Sequence[Any] | None = None) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments with values in place of the inputs, by default the inputs."""
        return self.filled(self.inputs if values is None else values)

    def filled(
        self, values: Sequence[Any], others: Callable[[Any], Any] = lambda slot: slot
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return nests like the arguments, with values in place of the inputs.

        Parameters
        ----------
        values : sequence
            One for each input; those of captured variables are not looked at.
        others : callable, optional
            What stands in place of an argument that holds no numbers.
        """
        rest = iter(values)
        slots = [next(rest) if slot is _INPUT else others(slot) for slot in self._slots]
        return (
            tree.unflatten(self._args_treedef, slots[: self._positions]),
            tree.unflatten(self._kwargs_treedef, slots[self._positions :]),
        )

    def capture(self, variables: dict[int, Variable]) -> None:
        """Note the variables that the function read; those among the arguments are not captured."""
        passed = {each.key for each in self.inputs}
        self.captured = [v for key, v in variables.items() if key not in passed]
        self.inputs += self.captured
        self.specs += [(v.shape, v.dtype, v.backend) for v in self.captured]

    def hold(self, tensors: Sequence[Tensor]) -> None:
        """Note tensors that the function reads each time, after the variables."""
        self.held = list(tensors)
        self.inputs += self.held
        self.specs += [(t.shape, t.dtype, t.backend) for t in self.held]

    def pass_also(self, tensors: Sequence[Tensor]) -> None:
        """Note more inputs, that are given to the function as the arguments are."""
        self.inputs += tensors
        self._own += len(tensors)
        self.specs += [(t.shape, t.dtype, t.backend) for t in tensors]

    @contextmanager
    def again(self, primals: Sequence[Any]) -> Iterator[list[Any]]:
        """Run the function again in a ``with`` block: captured variables have the values of then.

        Yields
        ------
        list
            Under which tensors or variables tapes know the inputs in the block.
        """
        end = self._own + len(self.captured)
        own, others = list(primals[: self._own]), list(primals[self._own : end])
        keeper = VALUES.get()
        if keeper is None or not self.captured:
            yield [*own, *self.captured, *self.held]
            return
        pairs = zip(self.captured, others, strict=True)
        with keeper.bound({variable.key: (variable, value) for variable, value in pairs}):
            yield [*own, *others, *self.held]

    def announce(self, rules: Rules, result: Any, path: CapturedPath | None = None) -> Any:
        """Tell those who listen of the call, and return its result; see `distgrad.tape.calls`."""
        outputs, treedef = tree.flatten(result)
        tensors = [
            each.read() if isinstance(each, Operators) else asarray(each) for each in outputs
        ]
        inputs, self.inputs = self.inputs, []  # whoever listens keeps what the rules read
        return tree.unflatten(treedef, announce(rules, inputs, tensors, path))


_INPUT: Any = object()


def _as_value(leaf: Any) -> Any:
    """Return an argument's leaf as a tensor or variable; what holds no numbers stays what it is."""
    if isinstance(leaf, Operators):
        return leaf
    try:
        return asarray(leaf)
    except DTypeError:  # the object of a method, a string, a flag of the user's
        return leaf


# --- who listens while the function runs ----------------------------------------------------------


class VariablesRead:
    """A listener that notes which trainable variables a function reads."""

    def __init__(self) -> None:
        self.variables: dict[int, Variable] = {}

    def hear_read(self, variable: Variable) -> None:
        """Note a variable."""
        if variable.trainable and is_differentiable(variable.dtype):
            self.variables.setdefault(variable.key, variable)

    def hear(self, *_: Any) -> None:
        """Take no notice of operations."""

    def follows(self, key: int) -> bool:
        """Return False: nothing is differentiated here."""
        return False


class Dependence:
    """A listener that finds out whether a result depends on values that are no arguments.

    Parameters
    ----------
    outside : sequence of Listener
        Who follows such values.
    """

    def __init__(self, outside: Sequence[Any]) -> None:
        self._outside = outside
        self._sources: dict[int, str] = {}  # what each value depends on, by identity

    def hear_read(self, variable: Variable) -> None:
        """Note a variable that somebody differentiates, or may: a trace does not know."""
        for each in self._outside:
            each.hear_read(variable)
        traced = VALUES.get() is not None and variable.trainable
        if traced or self._is_followed(variable.key):
            self._sources[variable.key] = f"the variable {variable.name!r}"

    def _is_followed(self, key: int) -> bool:
        return any(each.follows(key) for each in self._outside)

    def hear(
        self,
        op: Op,
        keys: Sequence[int],
        arrays: tuple[Any, ...],
        params: dict[str, Any],
        output: Any,
        kernels: Any,
    ) -> None:
        """Note what the result of an operation depends on (called by the seam)."""
        if op.vjp is None and op.jvp is None:
            return
        for key, array in zip(keys, arrays, strict=True):
            if key and key not in self._sources and self._is_followed(key):
                self._sources[key] = f"a captured tensor of shape {tuple(array.shape)}"
            if key in self._sources:
                for each in output if isinstance(output, tuple) else (output,):
                    self._sources.setdefault(each.key, self._sources[key])
                return

    def follows(self, key: int) -> bool:
        """Return False: nothing is differentiated here."""
        return False

    def of(self, values: Sequence[Tensor]) -> str | None:
        """Return what values depend on, in words; None if on nothing but the arguments."""
        for value in values:
            if value.key not in self._sources and self._is_followed(value.key):
                return f"a captured tensor of shape {value.shape}"
            if value.key in self._sources:
                return self._sources[value.key]
        return None


def bystanders() -> tuple[Any, ...]:
    """Return those who listen without differentiating: who notes lines, or looks for NaNs."""
    return tuple(each for each in LISTENERS.get() if isinstance(each, Lines))


@contextmanager
def listening(listeners: tuple[Any, ...]) -> Iterator[None]:
    """Let these listen, and nobody else, in a ``with`` block."""
    before = LISTENERS.get()
    LISTENERS.set(listeners)
    try:
        yield
    finally:
        LISTENERS.set(before)


def name_of(f: Callable[..., Any], kind: str) -> str:
    """Return a function's name for messages and records."""
    return str(getattr(f, "__name__", kind))
