"""Break a rank of a job on purpose, at a step: by a variable of the environment, the job unchanged.

``DISTGRAD_FAULTS="kill:rank=1,step=3" distgrad run -n 4 train.py`` kills rank 1 as it asks for its
third gradients. A *step* is a call of `DistributedGradientTape.gradient` or of
`GradientAccumulator.gradients`, counted from 1 in each process; ranks are numbered as the launcher
has, also when some are lost. Without the variable nothing of this is imported, and no line of a
step is longer.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, NoReturn

import numpy as np

from distgrad import tree
from distgrad.distributed.averaging.accumulation import GradientAccumulator
from distgrad.distributed.averaging.gradient_tape import DistributedGradientTape
from distgrad.distributed.launching.launch import detect, ranks_of
from distgrad.distributed.launching.supervision import RESTARTS_VARIABLE
from distgrad.distributed.verbs.collectives import barrier
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.errors import DistgradError
from distgrad.sparse import densified
from distgrad.variable import Variable

VARIABLE = "DISTGRAD_FAULTS"

KINDS = {
    "order": "gives the sources in reversed order",
    "shape": "has a variable of another shape",
    "dtype": "has a variable of another dtype",
    "none": "has no gradient of a variable",
    "verb": "calls another collective, a barrier",
    "raise": "raises an exception",
    "exit0": "leaves by sys.exit(0)",
    "kill": "is killed by SIGKILL",
    "stop": "is stopped by SIGSTOP",
    "slow": "sleeps for some seconds",
    "signal": "gets a signal, SIGUSR1 unless number= says another",
    "nan": "has a gradient of NaN",
    "bitflip": "has one bit of a variable flipped",
}


class FaultError(DistgradError, ValueError):
    """A fault in ``DISTGRAD_FAULTS`` is not written as one.

    Causes: an unknown kind or key, or a number that is none.
    """


class InjectedError(RuntimeError):
    """What a rank raises on purpose, of the kind ``raise``."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, always at the same place.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    rank : int
        The rank that it happens on.
    step : int
        At which step, from 1.
    variable : str
        The name of the variable it happens to; the first source's if empty.
    seconds : float
        How long ``slow`` takes.
    number : int
        The signal of ``signal``.
    bit : int
        Which bit ``bitflip`` flips, of the variable's first element, from the lowest.
    restart : int
        In which start of the job, as counted by ``distgrad run``: the first by default, so that a
        job that is started again is whole.
    """

    kind: str
    rank: int
    step: int
    variable: str = ""
    seconds: float = 2.0
    number: int = signal.SIGUSR1
    bit: int = 12
    restart: int = 0

    def __str__(self) -> str:
        return f"{self.kind} on rank {self.rank} at step {self.step}"


def parse(text: str) -> list[Fault]:
    """Return the faults of a text such as ``"slow:rank=0,step=2,seconds=5;kill:rank=1,step=3"``.

    Raises
    ------
    FaultError
        If the text is none.

    Examples
    --------
    >>> [str(fault) for fault in parse("nan:rank=1,step=3,variable=bias")]
    ['nan on rank 1 at step 3']
    """
    return [_parse_one(part.strip()) for part in text.split(";") if part.strip()]


def _parse_one(text: str) -> Fault:
    kind, _, rest = text.partition(":")
    if kind not in KINDS:
        raise FaultError(f"{text!r}: unknown kind {kind!r}; expected one of {', '.join(KINDS)}")
    converters = {field.name: _CONVERTERS[str(field.type)] for field in fields(Fault)[1:]}
    given: dict[str, Any] = {}
    for assignment in filter(None, rest.split(",")):
        key, _, value = (each.strip() for each in assignment.partition("="))
        if key not in converters:
            raise FaultError(f"{text!r}: unknown key {key!r}; expected {', '.join(converters)}")
        try:
            given[key] = converters[key](value)
        except ValueError:
            raise FaultError(f"{text!r}: {key}={value!r} is no number") from None
    if missing := {"rank", "step"} - given.keys():
        raise FaultError(f"{text!r}: {' and '.join(sorted(missing))} missing; as in rank=1,step=3")
    return Fault(kind, **given)


_CONVERTERS: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str}


def install(faults: Sequence[Fault] | None = None) -> None:
    """Let faults happen in this process from now on.

    Parameters
    ----------
    faults : sequence of Fault, optional
        Those of the environment by default, in this start of the job.
    """
    if faults is None:
        start = int(os.environ.get(RESTARTS_VARIABLE, "0"))
        faults = [each for each in parse(os.environ.get(VARIABLE, "")) if each.restart == start]
    _Injection(faults).install()


@contextlib.contextmanager
def injected(text: str) -> Iterator[None]:
    """Let faults happen within a ``with`` block: for tests on ranks that are threads."""
    injection = _Injection(parse(text))
    injection.install()
    try:
        yield
    finally:
        injection.remove()


class _Injection:
    """Faults that happen to `DistributedGradientTape.gradient` and to accumulated gradients.

    The methods are replaced, and no hook is there to be asked: without faults nobody pays.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = {(fault.rank, fault.step): fault for fault in faults}
        self._steps: dict[int, int] = {}
        self._original = DistributedGradientTape.gradient
        self._original_gradients = GradientAccumulator.gradients

    def _due(self, comm: Communicator) -> Fault | None:
        """Count a step of this rank, and return the fault that is to happen in it."""
        launched = detect()
        rank = launched.rank if launched.size > 1 else comm.rank
        step = self._steps[rank] = self._steps.get(rank, 0) + 1
        return self._faults.get((rank, step))

    def install(self) -> None:
        original = self._original

        @wraps(original)
        def gradient(
            tape: DistributedGradientTape, target: Any, sources: Any, *args: Any, **options: Any
        ) -> Any:
            comm = ranks_of(tape._communicator)
            fault = self._due(comm)
            if fault is None:
                return original(tape, target, sources, *args, **options)
            _announce(fault)
            if fault.kind in _HAPPENINGS:
                _HAPPENINGS[fault.kind](fault, comm)
            elif fault.kind in _DISTORTIONS:
                sources = _DISTORTIONS[fault.kind](fault, sources)
            else:
                tape._tape = _BrokenTape(tape._tape, fault)  # type: ignore[assignment]
            return original(tape, target, sources, *args, **options)

        original_gradients = self._original_gradients

        @wraps(original_gradients)
        def gradients(accumulator: GradientAccumulator, *args: Any, **options: Any) -> Any:
            comm = ranks_of(accumulator._comm)
            fault = self._due(comm)
            if fault is None:
                return original_gradients(accumulator, *args, **options)
            _announce(fault)
            if fault.kind in _HAPPENINGS:
                _HAPPENINGS[fault.kind](fault, comm)
            elif fault.kind == "bitflip":
                _flipped(fault, accumulator._leaves)
            else:
                raise FaultError(f"{fault}: happens to DistributedGradientTape alone")
            return original_gradients(accumulator, *args, **options)

        DistributedGradientTape.gradient = gradient  # type: ignore[method-assign,assignment]
        GradientAccumulator.gradients = gradients  # type: ignore[method-assign,assignment]

    def remove(self) -> None:
        DistributedGradientTape.gradient = self._original  # type: ignore[method-assign]
        GradientAccumulator.gradients = self._original_gradients  # type: ignore[method-assign]


def _announce(fault: Fault) -> None:
    # In one piece and past all buffers: what comes next may be the end.
    text = f"[rank {fault.rank}] FAULT {time.time():.3f} injected: {fault}\n"
    os.write(2, text.encode())


# --- what happens to a rank ---------------------------------------------------------------------


def _raise(fault: Fault, comm: Communicator) -> NoReturn:
    raise InjectedError(f"injected: {fault}")


def _leave(fault: Fault, comm: Communicator) -> None:
    sys.exit(0)


def _kill(fault: Fault, comm: Communicator) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(fault: Fault, comm: Communicator) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _sleep(fault: Fault, comm: Communicator) -> None:
    time.sleep(fault.seconds)


def _get_signal(fault: Fault, comm: Communicator) -> None:
    os.kill(os.getpid(), fault.number)


def _call_another(fault: Fault, comm: Communicator) -> None:
    barrier(comm)


_HAPPENINGS: dict[str, Callable[[Fault, Communicator], None]] = {
    "raise": _raise,
    "exit0": _leave,
    "kill": _kill,
    "stop": _stop,
    "slow": _sleep,
    "signal": _get_signal,
    "verb": _call_another,
}


# --- what happens to the sources ----------------------------------------------------------------


def _reversed(fault: Fault, sources: Any) -> Any:
    return tree.flatten(sources)[0][::-1]


def _wider(fault: Fault, sources: Any) -> Any:
    def stand_in(variable: Any) -> Variable:
        *lead, last = variable.shape or (0,)
        shape = (*lead, last + 1)
        return Variable(np.zeros(shape), name=variable.name, dtype=variable.dtype)

    return _replaced(fault, sources, stand_in)


def _other_dtype(fault: Fault, sources: Any) -> Any:
    def stand_in(variable: Any) -> Variable:
        dtype = "float32" if variable.dtype == np.float64 else "float64"
        return Variable(variable.numpy(), name=variable.name, dtype=dtype)

    return _replaced(fault, sources, stand_in)


def _flipped(fault: Fault, sources: Any) -> Any:
    leaves = tree.flatten(sources)[0]
    variable = leaves[_place(fault, leaves)]
    values = np.array(variable.numpy())
    raw = values.reshape(-1).view(np.uint8)
    raw[fault.bit // 8] ^= 1 << fault.bit % 8
    variable.assign(values)
    return sources


def _replaced(fault: Fault, sources: Any, stand_in: Callable[[Any], Variable]) -> Any:
    leaves, treedef = tree.flatten(sources)
    place = _place(fault, leaves)
    return tree.unflatten(
        treedef, [stand_in(leaf) if i == place else leaf for i, leaf in enumerate(leaves)]
    )


def _place(fault: Fault, leaves: Sequence[Any]) -> int:
    names = [getattr(leaf, "name", "") for leaf in leaves]
    if fault.variable and fault.variable not in names:
        raise FaultError(
            f"{fault}: no source is called {fault.variable!r}; there are {', '.join(names)}"
        )
    return names.index(fault.variable) if fault.variable else 0


_DISTORTIONS: dict[str, Callable[[Fault, Any], Any]] = {
    "order": _reversed,
    "shape": _wider,
    "dtype": _other_dtype,
    "bitflip": _flipped,
}


# --- what happens to a gradient -----------------------------------------------------------------


class _BrokenTape:
    """A tape of which one gradient is missing, or NaN, the next time."""

    def __init__(self, tape: Any, fault: Fault) -> None:
        self._tape = tape
        self._fault: Fault | None = fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tape, name)

    def gradient(self, target: Any, sources: Any, *args: Any, **options: Any) -> Any:
        fault, self._fault = self._fault, None
        if fault is None:
            return self._tape.gradient(target, sources, *args, **options)
        leaves, treedef = tree.flatten(sources)
        broken = _place(fault, leaves)
        on_ready = options.pop("on_ready", None)

        def distorted(position: int, gradient: Any) -> Any:
            if position != broken or gradient is None:
                return gradient
            return None if fault.kind == "none" else densified(gradient) * float("nan")

        def ready(position: int, gradient: Any) -> None:
            changed = distorted(position, gradient)
            if changed is not None:
                on_ready(position, changed)

        if on_ready is not None:
            options["on_ready"] = ready
        gradients = self._tape.gradient(target, leaves, *args, **options)
        found = [distorted(position, each) for position, each in enumerate(gradients)]
        return found if isinstance(sources, list) else tree.unflatten(treedef, found)
