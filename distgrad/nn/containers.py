"""Modules made of others, and layers without variables."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from distgrad.errors import ShapeError
from distgrad.nn.dropout import dropout
from distgrad.nn.module import Module, as_input
from distgrad.nn.module_tree import is_module
from distgrad.nn.settings import functions, share
from distgrad.ops.elementwise.arithmetic import add
from distgrad.ops.shaping.structure import reshape
from distgrad.random import Generator

Layer = Callable[..., Any]


class Sequential(Module):
    """Layers one after the other.

    Parameters
    ----------
    *layers : Module or callable
        Each takes what the one before returns; functions such as `relu` need no module. Their
        positions are their names in paths: ``sequential/0/kernel``.

    Notes
    -----
    The options of a call, such as ``training=True``, go to the layers whose `call` takes them.
    """

    def __init__(self, *layers: Layer) -> None:
        self.layers = functions("Sequential", layers)

    def _attributes(self) -> Iterable[tuple[str, Any]]:
        own = ((str(place), layer) for place, layer in enumerate(self.layers))
        return [*own, *((n, v) for n, v in super()._attributes() if n != "layers")]

    def _held(self) -> Iterable[Any]:
        return [self.layers, *(v for n, v in vars(self).items() if n != "layers")]

    def call(
        self,
        x: Any,
        *,
        training: bool = False,
        generator: Generator | None = None,
        rows: Sequence[int] | range | None = None,
    ) -> Any:
        """Return what the last layer returns.

        Parameters
        ----------
        x
            For the first layer.
        training, generator, rows
            For layers that take them, see `Dropout`.
        """
        options = {"training": training, "generator": generator, "rows": rows}
        for layer in self.layers:
            x = call_with(layer, x, options)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __getitem__(self, place: int) -> Layer:
        return self.layers[place]


class Residual(Module):
    """``shortcut(x) + block(x)``.

    Parameters
    ----------
    block : Module or callable
        What is added.
    shortcut : Module or callable, optional
        What brings x to the shape of the block's result; nothing by default.

    References
    ----------
    He et al., "Deep residual learning for image recognition", arXiv:1512.03385.
    """

    def __init__(self, block: Layer, shortcut: Layer | None = None) -> None:
        self.block = block
        self.shortcut = shortcut

    def call(
        self,
        x: Any,
        *,
        training: bool = False,
        generator: Generator | None = None,
        rows: Sequence[int] | range | None = None,
    ) -> Any:
        """Return the sum; options as for `Sequential`.

        Raises
        ------
        ShapeError
            If the two differ in shape: a sum that broadcasts is never meant here.
        """
        options = {"training": training, "generator": generator, "rows": rows}
        y = call_with(self.block, x, options)
        past = as_input(x) if self.shortcut is None else call_with(self.shortcut, x, options)
        if tuple(past.shape) != tuple(y.shape):
            raise ShapeError(
                f"{self.path}: the block returns shape {tuple(y.shape)}, the shortcut "
                f"{tuple(past.shape)}; expected the same: give a shortcut= that makes it so"
            )
        return add(past, y)


class Activation(Module):
    """A function as a layer, such as ``Activation(dg.nn.gelu)``, with a row in summaries.

    Parameters
    ----------
    function : callable
        Of one argument.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def call(self, x: Any) -> Any:
        """Return the function of x."""
        return self.function(x)


class Flatten(Module):
    """All axes from one on as a single one.

    Parameters
    ----------
    start : int
        The first of the axes; by default all but that of the examples.
    """

    def __init__(self, start: int = 1) -> None:
        self.start = start

    def call(self, x: Any) -> Any:
        """Return x with fewer axes."""
        x = as_input(x)
        if not 0 <= self.start < x.ndim:
            raise ShapeError(
                f"{self.path}: an input with more than {self.start} axes expected, got shape "
                f"{tuple(x.shape)}"
            )
        length = 1
        for each in x.shape[self.start :]:
            length *= each
        return reshape(x, (*x.shape[: self.start], length))


class Dropout(Module):
    """Elements made 0 at random in training, see `dropout`.

    Parameters
    ----------
    rate : float in [0, 1]
        The probability.
    generator : Generator, optional
        Where choices come from if the call brings none. It counts on from call to call; where a
        block is run again, as by `recompute_grad`, give the call a child of one in its place, such
        as ``generator=root.fold_in(step)``.
    """

    def __init__(self, rate: float, *, generator: Generator | None = None) -> None:
        self.rate = share("Dropout", "rate", rate)
        self.generator = generator

    def call(
        self,
        x: Any,
        *,
        training: bool = False,
        generator: Generator | None = None,
        rows: Sequence[int] | range | None = None,
    ) -> Any:
        """Return x, with elements dropped if it is for training.

        Parameters
        ----------
        x : Tensor, Variable or array
            Floating.
        training : bool
            Whether to drop anything.
        generator : Generator, optional
            In place of the layer's.
        rows : range or sequence of int, optional
            The places of the examples in the global batch, so that the choices do not depend on how
            it is shared among ranks.
        """
        source = generator or self.generator
        if training and self.rate and source is None:
            raise ValueError(
                f"{self.path}: there is no generator; expected model(x, training=True, "
                "generator=dg.random.Generator(seed)), or Dropout(rate, generator=...)"
            )
        return dropout(x, self.rate, generator=source, training=training, rows=rows)


def call_with(layer: Layer, x: Any, options: dict[str, Any]) -> Any:
    """Return a layer's result, called with those of the options that it takes."""
    if not is_module(layer):
        return layer(x)
    accepted = _accepted(type(layer))
    return layer(x, **{name: value for name, value in options.items() if name in accepted})


_TAKEN: dict[type, frozenset[str]] = {}


def _accepted(cls: type) -> frozenset[str]:
    """Return the names of the options that the layers of a class take."""
    found = _TAKEN.get(cls)
    if found is None:
        parameters = inspect.signature(cls.call).parameters.values()  # type: ignore[attr-defined]
        if any(each.kind is each.VAR_KEYWORD for each in parameters):
            found = frozenset(("training", "generator", "rows"))
        else:
            found = frozenset(each.name for each in parameters)
        _TAKEN[cls] = found
    return found
