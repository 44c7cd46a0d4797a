"""Layers that normalise, with a factor and a term to learn for each feature or channel."""

from __future__ import annotations

from typing import Any

from distgrad.dtypes import DTypeLike
from distgrad.errors import ShapeError
from distgrad.nn import initializers
from distgrad.nn.module import Module, as_input
from distgrad.nn.normalization import BatchMoments, batch_norm, group_norm, layer_norm, rms_norm
from distgrad.nn.settings import count
from distgrad.ops.elementwise.arithmetic import add, multiply
from distgrad.shapes import normalize_axes, normalize_axis
from distgrad.variable import Variable


class _Norm(Module):
    """What all norms have in common: where features are, and the variables for them."""

    def __init__(
        self,
        *,
        axis: int | tuple[int, ...] = -1,
        epsilon: float = 1e-5,
        scale: bool = True,
        shift: bool = True,
        dtype: DTypeLike | None = None,
    ) -> None:
        self.axis = axis
        self.epsilon = epsilon
        self.scale: Any = None
        self.shift: Any = None
        self.has_scale = scale
        self.has_shift = shift
        self.dtype = dtype

    def _prepared(self, x: Any) -> tuple[Any, tuple[int, ...]]:
        """Return the input and the shape of its features, for which variables exist then."""
        x = as_input(x)
        axes = normalize_axes(self.path, self.axis, x.ndim)
        features = tuple(x.shape[axis] for axis in axes)
        if self.has_scale and self.scale is None:
            self.create("scale", features, initializers.ones(), like=x, dtype=self.dtype)
        if self.has_shift and self.shift is None:
            self.create("shift", features, initializers.zeros(), like=x, dtype=self.dtype)
        for each in (self.scale, self.shift):
            if each is not None and tuple(each.shape) != features:
                raise ShapeError(
                    f"{self.path}: features of shape {tuple(each.shape)} expected on axis "
                    f"{self.axis}, got an input of shape {tuple(x.shape)}"
                )
        return x, features


class LayerNorm(_Norm):
    """Mean 0 and variance 1 over the features of each example, see `layer_norm`.

    Parameters
    ----------
    axis : int or tuple of int
        The axes of the features.
    epsilon : float
        Added to the variance; 1e-5 as in PyTorch, where Keras has 1e-3.
    scale, shift : bool
        Whether to learn a factor and a term for each feature.
    dtype : dtype, optional
        Of the variables; that of the first input unless given.

    Attributes
    ----------
    scale, shift : Variable, of the features' shape
        They begin as 1 and 0.
    """

    def call(self, x: Any) -> Any:
        """Return the normalised input."""
        x, _ = self._prepared(x)
        return layer_norm(x, self.scale, self.shift, axis=self.axis, epsilon=self.epsilon)


class RMSNorm(_Norm):
    """Mean square 1 over the features of each example, see `rms_norm`.

    Parameters
    ----------
    axis, scale, dtype
        As for `LayerNorm`.
    epsilon : float
        Added to the mean square.
    """

    def __init__(
        self,
        *,
        axis: int | tuple[int, ...] = -1,
        epsilon: float = 1e-6,
        scale: bool = True,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__(axis=axis, epsilon=epsilon, scale=scale, shift=False, dtype=dtype)

    def call(self, x: Any) -> Any:
        """Return the normalised input."""
        x, _ = self._prepared(x)
        return rms_norm(x, self.scale, axis=self.axis, epsilon=self.epsilon)


class GroupNorm(_Norm):
    """Mean 0 and variance 1 over groups of channels of each example, see `group_norm`.

    Parameters
    ----------
    groups : int
        How many groups of equal size the channels form.
    axis : int
        That of the channels: the last, or 1 for channels first.
    epsilon, scale, shift, dtype
        As for `LayerNorm`.
    """

    def __init__(self, groups: int, **options: Any) -> None:
        super().__init__(**options)
        self.groups = count("GroupNorm", "groups", groups)

    def call(self, x: Any) -> Any:
        """Return the normalised input."""
        x, _ = self._prepared(x)
        axis = normalize_axis(self.path, self.axis, x.ndim)  # type: ignore[arg-type]
        return group_norm(x, self.groups, self.scale, self.shift, axis=axis, epsilon=self.epsilon)


class BatchNorm(_Norm):
    """Mean 0 and variance 1 for each channel over the examples of a batch, see `batch_norm`.

    Parameters
    ----------
    axis : int
        That of the channels: the last, or 1 for channels first.
    momentum : float in [0, 1]
        The share of the running moments that stays at each step in training. Keras has 0.99;
        PyTorch's momentum is one minus this, by default 0.1.
    epsilon, scale, shift, dtype
        As for `LayerNorm`.

    Attributes
    ----------
    running_mean, running_variance : Variable, shape (channels,)
        Not trainable; they begin as 0 and 1. Averaged is the unbiased variance, as in PyTorch;
        Keras averages the population's.

    Notes
    -----
    The moments are those of the examples that this rank sees; `distributed.SyncBatchNorm` takes all
    ranks'. A block that `recompute_grad` runs
    again averages twice. In a `functional_call` running moments that were given stay as they were.
    """

    def __init__(self, *, momentum: float = 0.9, **options: Any) -> None:
        super().__init__(**options)
        if not 0 <= momentum <= 1:
            raise ValueError(f"BatchNorm: momentum is {momentum}; expected 0 to 1")
        self.momentum = momentum
        self.running_mean: Any = None
        self.running_variance: Any = None

    def call(self, x: Any, *, training: bool = False) -> Any:
        """Return the input, normalised by its own moments in training, by the running ones else."""
        x, features = self._prepared(x)
        if self.running_mean is None:
            for name, rule in (
                ("running_mean", initializers.zeros()),
                ("running_variance", initializers.ones()),
            ):
                self.create(name, features, rule, like=x, dtype=self.dtype, trainable=False)
        axis: Any = self.axis
        if not training:
            return batch_norm(
                x,
                self.scale,
                self.shift,
                mean=self.running_mean,
                variance=self.running_variance,
                axis=axis,
                epsilon=self.epsilon,
            )
        found, count = self._over_batch(x)
        unbiased = multiply(found.variance, count / max(count - 1, 1))
        self._average(self.running_mean, found.mean)
        self._average(self.running_variance, unbiased)
        return found.output

    def _over_batch(self, x: Any) -> tuple[BatchMoments, int]:
        """Return the input normalised by its moments, and of how many values a channel's are."""
        axis: Any = self.axis
        found = batch_norm(x, self.scale, self.shift, axis=axis, epsilon=self.epsilon)
        return found, x.size // max(found.mean.size, 1)

    def _average(self, running: Any, present: Any) -> None:
        if isinstance(running, Variable):
            kept = multiply(running, self.momentum)
            running.assign(add(kept, multiply(present, 1 - self.momentum)))
