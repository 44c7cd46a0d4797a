"""ListeningTape: when a tape listens, what it watches, and when it lets go of what it holds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from distgrad import tree
from distgrad.core.seam import LISTENERS
from distgrad.core.spans import COMPUTE, span
from distgrad.debug import Lines, lines_in_force, user_stacklevel
from distgrad.dtypes import is_differentiable, is_numpys_real
from distgrad.errors import TapeError
from distgrad.tape.recorder import Recorder
from distgrad.tensor import Operators, Tensor, new_key
from distgrad.variable import Variable


class ListeningTape(Recorder):
    """A recorder with the protocol of TensorFlow's tape: entering, watching, stopping, closing.

    Parameters are those of `distgrad.GradientTape`, which adds the derivatives.
    """

    def __init__(self, persistent: bool = False, watch_accessed_variables: bool = True) -> None:
        self._persistent = persistent
        self._watch_accessed = watch_accessed_variables
        self._entered = False  # ever
        self._inside = False  # its block, now
        self._recording = False
        self._stopped = 0  # how many blocks of stop_recording are open
        self._spent = False  # it has given its gradient, or was closed, and must be entered anew
        self._closed = False
        self._clear()

    def _clear(self) -> None:
        super().__init__()
        self._variables: dict[int, Variable] = {}
        # When it listened, as pairs of identities, which grow in time; 0 stands for "still".
        self._spans: list[tuple[int, int]] = [(new_key(), 0)] if self._recording else []
        self._lines: Lines | None = None
        self._spent = self._closed = False

    def _release(self) -> None:
        variables = self._variables
        self._clear()
        self._variables, self._spent = variables, True

    # --- recording ------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._recording:
            raise ValueError(
                "Tape is still recording, This can happen if you try to re-enter an "
                "already-active tape; leave its block first, or make a second GradientTape"
            )
        if self._spent:
            self._clear()
        self._entered = self._inside = True
        self._block = span("forward", COMPUTE)
        self._block.__enter__()
        self._resume()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._inside = False
        self._pause()
        self._block.__exit__(kind, error, traceback)

    def _resume(self) -> None:
        self._spans.append((new_key(), 0))
        if LISTENERS.get():
            self._lines = lines_in_force()
        self.adopt_packing()
        LISTENERS.set((*LISTENERS.get(), self))
        self._recording = True

    def _pause(self) -> None:
        # Not the last one in every case: tapes may be left in another order than entered.
        LISTENERS.set(tuple(each for each in LISTENERS.get() if each is not self))
        self._recording = False
        if self._spans and not self._spans[-1][1]:
            self._spans[-1] = (self._spans[-1][0], new_key())

    def watch(self, tensor: Any) -> None:
        """Follow values, so that gradients with respect to them can be asked for.

        Parameters
        ----------
        tensor : Tensor, Variable or nest of them
            What to follow from now on; operations that ran before are not heard.

        Raises
        ------
        ValueError
            If the nest holds anything else.
        TapeError
            If the tape has given its gradient or was closed, and has not been entered anew.

        Warns
        -----
        UserWarning
            If a value is not floating: it has no gradient.
        """
        if self._spent:
            raise TapeError(
                f"watch: this tape {'is closed' if self._closed else 'has given its gradient'}; "
                "enter it anew first, or make another GradientTape"
            )
        for value in [None] if tensor is None else tree.flatten(tensor)[0]:
            if not isinstance(value, Operators):
                raise ValueError(
                    f"watch: Passed in object {value!r} of type {type(value).__name__!r}, not "
                    "Tensor or Variable; convert it first, x = dg.asarray(x), and compute with "
                    "that x"
                )
            if not is_differentiable(value.dtype):
                warnings.warn(
                    "watch: The dtype of the watched tensor must be floating (e.g. float32), got "
                    f"{value.dtype}: its gradient will be None; convert it with astype first",
                    stacklevel=user_stacklevel(),
                )
            self._watch(value)

    def _watch(self, value: Any) -> None:
        if is_differentiable(value.dtype):
            self.follow(value.key)
        if isinstance(value, Variable):
            self._variables[value.key] = value

    def hear_read(self, variable: Variable) -> None:
        """Watch a trainable variable that is about to be read (called by the seam)."""
        # A tape whose gradient was asked for in another thread still listens, but is spent.
        if variable.key in self._variables or self._spent:
            return
        if not (self._watch_accessed and variable.trainable):
            return
        self._variables[variable.key] = variable
        value = variable._value  # of a variable cut over ranks something else, without an array
        usual = value.__class__ is Tensor and is_numpys_real(value.array.dtype)
        if usual or is_differentiable(variable.dtype):
            self.follow(variable.key)

    @contextmanager
    def stop_recording(self) -> Iterator[None]:
        """Hear nothing within a ``with`` block; blocks may nest.

        Raises
        ------
        TapeError
            If the tape was never entered.
        ValueError
            If its block has been left.
        """
        if not self._entered:
            raise TapeError(
                "Trying to stop recording a tape which is not recording: enter it first, "
                "with dg.GradientTape() as tape"
            )
        if not self._recording and not self._stopped:
            raise ValueError(
                "Tape is not recording: its block has been left, or it has given its gradient"
            )
        if self._recording:
            self._pause()
        self._stopped += 1
        try:
            yield
        finally:
            self._stopped -= 1
            if self._inside and not self._stopped and not self._closed:
                if self._spent:  # a plain tape gave its gradient meanwhile: what follows is new
                    self._clear()
                self._resume()

    def reset(self) -> None:
        """Forget everything recorded and watched so far, and go on recording.

        Raises
        ------
        ValueError
            If the tape is not recording.
        """
        if not self._recording:
            raise ValueError("Tape is not recording: reset() belongs inside its block")
        self._clear()

    def close(self) -> None:
        """Release all that the tape holds; it gives no gradients until it is entered anew."""
        self._pause()
        self._release()
        self._closed = True

    def watched_variables(self) -> tuple[Variable, ...]:
        """Return the variables that the tape watches, in the order of their creation.

        As in TensorFlow these are the trainable ones that were read, of whatever dtype, and those
        given to `watch`; the gradients of integer ones are None.
        """
        return tuple(self._variables[key] for key in sorted(self._variables))

    def _refuse_if_spent(self, method: str = "gradient") -> None:
        if self._closed:
            raise TapeError(f"{method}: this tape is closed; enter it anew, or close it later")
        if self._spent and method == "explain":
            raise TapeError(
                "explain: this tape has given its gradient and let go of what it had recorded; ask "
                "before gradient(), let gradient(..., unconnected_gradients='error') give the "
                "reason, or make the tape with persistent=True"
            )
        if self._spent:
            raise TapeError(
                "A non-persistent GradientTape can only be used to compute one set of gradients "
                f"(or jacobians): {method}; make it with persistent=True, or record anew"
            )
        if not self._entered:
            raise TapeError(
                f"{method}: this tape has recorded nothing, its block was never entered"
            )
