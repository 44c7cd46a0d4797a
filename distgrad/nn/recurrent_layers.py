"""Recurrent layers: LSTM and GRU, in one direction or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.dtypes import DTypeLike
from distgrad.errors import ShapeError
from distgrad.nn import initializers
from distgrad.nn.initializers import Initializer
from distgrad.nn.module import Module, as_input, width_of
from distgrad.nn.settings import count
from distgrad.ops.neural.recurrent import gru, lstm
from distgrad.ops.shaping.structure import concat


class _Recurrent(Module):
    """What LSTM and GRU have in common."""

    parts = 0  # how many matrices stand side by side in a kernel
    biases: tuple[str, ...] = ()

    def __init__(
        self,
        units: int,
        *,
        return_sequences: bool = False,
        return_state: bool = False,
        bidirectional: bool = False,
        bias: bool = True,
        kernel_initializer: Initializer | None = None,
        recurrent_initializer: Initializer | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        self.units = count(type(self).__name__, "units", units)
        self.return_sequences = return_sequences
        self.return_state = return_state
        self.bidirectional = bidirectional
        self.has_bias = bias
        self.kernel_initializer = kernel_initializer or initializers.glorot_uniform()
        self.recurrent_initializer = recurrent_initializer or initializers.orthogonal()
        self.dtype = dtype
        for prefix in ("", "backward_")[: 1 + bidirectional]:
            for name in ("kernel", "recurrent_kernel", *self.biases):
                setattr(self, prefix + name, None)

    def call(self, x: Any, *, initial_state: Any = None) -> Any:
        """Run over a sequence.

        Parameters
        ----------
        x : Tensor, Variable or array, shape (batch, steps, features)
            The sequence.
        initial_state : optional
            What the layer returns as its state, of the step before the first; zeros by default.

        Returns
        -------
        outputs : Tensor
            Of shape (batch, units), after the last step; with `return_sequences` those of every
            step, (batch, steps, units). With `bidirectional` twice as wide: both directions side by
            side, each at the end of its own way.
        state
            With `return_state`: of a GRU a tensor (batch, units), of an LSTM a pair of them, and of
            both directions a pair of states.
        """
        x = as_input(x)
        if x.ndim != 3:
            raise ShapeError(
                f"{self.path}: a sequence (batch, steps, features) expected, got shape "
                f"{tuple(x.shape)}"
            )
        if not self.bidirectional:
            outputs, state, last = self._one_way("", x, initial_state)
        else:
            starts = (None, None) if initial_state is None else initial_state
            there, state_there, last_there = self._one_way("", x, starts[0])
            back, state_back, last_back = self._one_way("backward_", x, starts[1])
            outputs = concat([there, back], axis=-1) if self.return_sequences else None
            last = None if self.return_sequences else concat([last_there, last_back], axis=-1)
            state = (state_there, state_back)
        result = outputs if self.return_sequences else last
        return (result, state) if self.return_state else result

    def _one_way(self, prefix: str, x: Any, start: Any) -> tuple[Any, Any, Any]:
        names = [prefix + name for name in ("kernel", "recurrent_kernel", *self.biases)]
        if getattr(self, names[0]) is None:
            self._create(names, x)
        weights = [getattr(self, name) for name in names]
        width_of(self.path, "features", weights[0], 0, x)
        return self._run(x, weights, start, bool(prefix))

    def _create(self, names: list[str], x: Any) -> None:
        units, wide = self.units, self.parts * self.units
        options = {"like": x, "dtype": self.dtype}
        self.create(names[0], (x.shape[-1], wide), self.kernel_initializer, **options)
        self.create(names[1], (units, wide), self.recurrent_initializer, **options)
        for name in names[2:] if self.has_bias else ():
            self.create(name, (wide,), self._bias_rule, **options)

    def _bias_rule(self, generator: Any, shape: Sequence[int], dtype: Any) -> Any:
        return initializers.zeros()(generator, shape, dtype)

    def _run(self, x: Any, weights: list[Any], start: Any, reverse: bool) -> tuple[Any, Any, Any]:
        """Return the outputs of all steps, the state, and the output of the last step."""
        raise NotImplementedError


class LSTM(_Recurrent):
    """A long short-term memory, see `lstm`.

    Parameters
    ----------
    units : int
        The width of output and cell.
    return_sequences : bool
        Whether to return the outputs of all steps and not only the last; for all but the last of a
        stack of layers.
    return_state : bool
        Whether to return the state, too.
    bidirectional : bool
        Whether to go over the sequence from its end as well, with variables of its own for that.
    bias : bool
        Whether to have a bias; it begins as 0, that of the forget gate as 1 [1]_.
    kernel_initializer, recurrent_initializer : callable, optional
        See `initializers`; Glorot's even numbers and an orthogonal matrix, as in Keras.
    dtype : dtype, optional
        Of the variables; that of the first input unless given.

    Attributes
    ----------
    kernel, recurrent_kernel, bias : Variable
        Of shapes (features, 4 units), (units, 4 units), (4 units,), in the order of `lstm`; and
        ``backward_kernel`` and so on.

    References
    ----------
    .. [1] Jozefowicz, Zaremba and Sutskever, "An empirical exploration of recurrent network
       architectures", ICML 2015, section 4.
    """

    parts = 4
    biases = ("bias",)

    def _bias_rule(self, generator: Any, shape: Sequence[int], dtype: Any) -> Any:
        units = self.units
        gates = [0.0] * units + [1.0] * units + [0.0] * (2 * units)
        return initializers.constant(gates)(generator, shape, dtype)

    def _run(self, x: Any, weights: list[Any], start: Any, reverse: bool) -> tuple[Any, Any, Any]:
        outputs, state = lstm(x, *weights, initial_state=start, reverse=reverse)
        return outputs, state, state[0]


class GRU(_Recurrent):
    """A gated recurrent unit, see `gru`.

    Parameters
    ----------
    units, return_sequences, return_state, bidirectional, bias
        As for `LSTM`; there are two biases, both begin as 0.
    kernel_initializer, recurrent_initializer, dtype
        As for `LSTM`.

    Attributes
    ----------
    kernel, recurrent_kernel, bias, recurrent_bias : Variable
        Of shapes (features, 3 units), (units, 3 units), (3 units,), (3 units,), in the order of
        `gru`; and ``backward_kernel`` and so on.
    """

    parts = 3
    biases = ("bias", "recurrent_bias")

    def _run(self, x: Any, weights: list[Any], start: Any, reverse: bool) -> tuple[Any, Any, Any]:
        outputs, state = gru(x, *weights, initial_state=start, reverse=reverse)
        return outputs, state, state
