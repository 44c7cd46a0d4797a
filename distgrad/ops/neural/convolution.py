"""Convolutions: one form, linear in input, kernel and output, and the three operations it gives.

The sum of ``x[n, j stride + t dilation - before, i] w[t, i, o] y[n, j, o]`` over all indices is
linear in x, w and y. Left open in one of them it is an operation on the two others: open in y the
*convolution*, open in x the *transposed* convolution, open in w the cotangent of the kernel. So
each cotangent, of any order, is one of the three again.

Inside, channels come last: x is (n, *spatial, c), the kernel (*window, c / groups, k), and y
(n, *spatial, k), with the channels of a group side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distgrad.core.op import Array, BatchRule, Kind, Namespace, Op, Slice, Spec
from distgrad.core.seam import apply
from distgrad.errors import ShapeError
from distgrad.ops.neural.batched_indices import join_index, leave_index
from distgrad.ops.neural.channels import (
    DataFormat,
    channels_are_first,
    channels_first,
    channels_last,
)
from distgrad.ops.neural.unrolled import (
    conv_composed,
    conv_kernel_vjp_composed,
    conv_transpose_composed,
)
from distgrad.ops.rules.families import conjugate, joint, sum_of
from distgrad.shapes import Shape, shape_given
from distgrad.windows import Padding, Pairs, counts, extent, paddings, per_axis

# The operation that leaves open the input x, the kernel w or the output y, and its operands.
_OPERATIONS = {"y": "conv", "x": "conv_transpose", "w": "conv_kernel_vjp"}
_OPERANDS = {"y": "xw", "x": "yw", "w": "xy"}


# --- shapes -------------------------------------------------------------------------------------


def _fit(name: str, x: Shape, w: Shape, groups: int) -> None:
    """Raise if an input and a kernel do not belong together."""
    if len(x) != len(w) or not 3 <= len(x) <= 5:
        raise ShapeError(
            f"{name}: an input (batch, *spatial, channels) and a kernel (*window, channels, "
            f"outputs) with 1 to 3 spatial axes expected, got shapes {x} and {w}"
        )
    if groups < 1 or x[-1] != w[-2] * groups or w[-1] % groups:
        raise ShapeError(
            f"{name}: the input has {x[-1]} channels in {groups} group(s), the kernel {w} takes "
            f"{w[-2]} and gives {w[-1]}; expected channels = groups * {w[-2]}, and outputs that "
            "groups divide"
        )


def _conv_spec(
    x: Spec, w: Spec, *, stride: Shape, padding: Pairs, dilation: Shape, groups: int
) -> Spec:
    _fit("conv", tuple(x.shape), tuple(w.shape), groups)
    spatial = counts(x.shape[1:-1], w.shape[:-2], stride, padding, dilation)
    return Spec((x.shape[0], *spatial, w.shape[-1]), joint(x, w))


def _transpose_spec(
    y: Spec, w: Spec, *, shape: Shape, stride: Shape, padding: Pairs, dilation: Shape, groups: int
) -> Spec:
    x = (y.shape[0], *shape, w.shape[-2] * groups)
    _fit("conv_transpose", x, tuple(w.shape), groups)
    spatial = counts(shape, w.shape[:-2], stride, padding, dilation)
    if tuple(y.shape[1:]) != (*spatial, w.shape[-1]):
        raise ShapeError(
            f"conv_transpose: an operand {(y.shape[0], *spatial, w.shape[-1])} expected for a "
            f"result with spatial axes {shape} and the kernel {tuple(w.shape)}, got "
            f"{tuple(y.shape)}"
        )
    return Spec(x, joint(y, w))


def _kernel_spec(
    x: Spec, y: Spec, *, window: Shape, stride: Shape, padding: Pairs, dilation: Shape, groups: int
) -> Spec:
    w = (*window, x.shape[-1] // groups, y.shape[-1])
    _fit("conv_kernel_vjp", tuple(x.shape), w, groups)
    spatial = counts(x.shape[1:-1], window, stride, padding, dilation)
    if tuple(y.shape[:-1]) != (x.shape[0], *spatial):
        raise ShapeError(
            f"conv_kernel_vjp: an output of shape {(x.shape[0], *spatial)} and channels expected "
            f"for the input {tuple(x.shape)} and the window {window}, got {tuple(y.shape)}"
        )
    return Spec(w, joint(x, y))


# --- rules: those of a form that is linear in each of its three arrays ----------------------------


def _form(
    xp: Namespace, role: str, arrays: dict[str, Array], shape: Shape, params: dict[str, Any]
) -> Array:
    """Return the form left open in one array, whose shape is given, as the operation for it."""
    first, second = tuple(_OPERANDS[role])
    geometry = {name: params[name] for name in ("stride", "padding", "dilation", "groups")}
    if role == "x":
        geometry["shape"] = tuple(shape[1:-1])
    elif role == "w":
        geometry["window"] = tuple(shape[:-2])
    return getattr(xp, _OPERATIONS[role])(arrays[first], arrays[second], **geometry)


def _trilinear(role: str, spec: Callable[..., Spec], compose: Callable[..., Array]) -> Op:
    """Return the operation that leaves open the array of a role."""
    name, operands = _OPERATIONS[role], _OPERANDS[role]

    def vjp(
        xp: Namespace, g: Array, y: Array, xs: Any, params: dict[str, Any], needs: Sequence[int]
    ) -> list[Array | None]:
        cotangents: list[Array | None] = [None, None]
        for place in (0, 1):
            if needs[place]:
                arrays = {role: g, operands[1 - place]: conjugate(xp, xs[1 - place])}
                shape = tuple((g if xs[place] is None else xs[place]).shape)
                cotangents[place] = _form(xp, operands[place], arrays, shape, params)
        return cotangents

    def jvp(
        xp: Namespace, tangents: Sequence[Array | None], y: Array, xs: Any, params: dict[str, Any]
    ) -> Array:
        operation = getattr(xp, name)
        terms = []
        if tangents[0] is not None:
            terms.append(operation(tangents[0], xs[1], **params))
        if tangents[1] is not None:
            terms.append(operation(xs[0], tangents[1], **params))
        return sum_of(terms)

    keep = ((1,), (0,))
    return Op(name, Kind.CONTRACTION, spec, vjp, jvp, keep, compose, _batch(role))


def _batch(role: str) -> BatchRule:
    """Return the batching rule: the batch joins the index that its arrays share.

    That is the number of the example where input and output have a batch, the channels of the input
    or of the output where the kernel has, and the number of the group where all three have.
    """
    operands = _OPERANDS[role]

    def rule(
        xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
    ) -> Array:
        if not size:  # of one example, made of zeros, none is left
            one = [
                xp.concat(
                    array,
                    xp.full(shape=(1, *array.shape[1:]), fill_value=0, dtype=array.dtype),
                    axis=0,
                )
                if flag
                else array
                for array, flag in zip(arrays, batched, strict=True)
            ]
            return xp.getitem(rule(xp, 1, batched, one, params), index=(Slice(None, 0, None),))
        roles = {role, *(operands[place] for place in (0, 1) if batched[place])}
        index = (
            "group"
            if len(roles) == 3
            else {"w": "example", "x": "o", "y": "i"}[next(iter(set("xwy") - roles))]
        )
        groups = params["groups"]
        folded = [
            join_index(xp, array, operands[place], index, groups) if batched[place] else array
            for place, array in enumerate(arrays)
        ]
        inner = {**params, "groups": groups * size if index == "group" else groups}
        result = getattr(xp, _OPERATIONS[role])(*folded, **inner)
        return leave_index(xp, result, role, index, groups, size)

    return rule


CONV = _trilinear("y", _conv_spec, conv_composed)
CONV_TRANSPOSE = _trilinear("x", _transpose_spec, conv_transpose_composed)
CONV_KERNEL_VJP = _trilinear("w", _kernel_spec, conv_kernel_vjp_composed)


# --- public functions ---------------------------------------------------------------------------


def conv(
    x: Any,
    kernel: Any,
    /,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    data_format: DataFormat = "channels_last",
) -> Any:
    """Return a convolution over 1 to 3 spatial axes, as neural networks define it.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of shape ``(batch, *spatial, channels)``, or ``(batch, channels, *spatial)`` with
        ``data_format="channels_first"``.
    kernel : Tensor, Variable or array
        Of shape ``(*window, channels / groups, outputs)``, whatever the data format.
    stride, dilation : int or sequence of int
        The distance of two windows, and of two taps in a window; for all axes or for each.
    padding : "valid", "same", int or sequence
        Zeros around the input: none; as many as give ``ceil(length / stride)`` windows, the odd one
        behind, as TensorFlow's; a number for all sides; or for each axis a number or a pair
        (before, behind).
    groups : int
        The channels are cut into so many groups, each of which gives its part of the outputs. As
        many groups as channels make a depthwise convolution.
    data_format : "channels_last" or "channels_first"
        The order of the axes of input and output.

    Returns
    -------
    Tensor
        Of shape ``(batch, *windows, outputs)``, or ``(batch, outputs, *windows)``; in the dtype to
        which the operands promote.

    Raises
    ------
    ShapeError
        If input, kernel, groups and the arguments for each axis do not fit one another.

    Notes
    -----
    ``y[n, j, o] = sum over t, i of x[n, j stride + t dilation - before, i] w[t, i, o]``. The kernel
    is not turned round, as in every library of neural networks; mathematics calls this a
    cross-correlation. Windows that would reach beyond the padding are left out.

    Examples
    --------
    >>> import distgrad as dg
    >>> x = dg.asarray([[[1.0], [2.0], [4.0], [8.0]]])
    >>> kernel = dg.asarray([[[-1.0]], [[1.0]]])
    >>> dg.nn.conv(x, kernel)[0, :, 0].tolist()
    [1.0, 2.0, 4.0]
    """
    shape, window = shape_given(x), shape_given(kernel)
    if channels_are_first("conv", data_format):
        last = channels_last(x, len(shape))
        y = conv(last, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
        return channels_first(y, len(shape))
    _fit("conv", shape, window, groups)
    rank = len(window) - 2
    strides = per_axis("conv", "stride", stride, rank)
    dilations = per_axis("conv", "dilation", dilation, rank)
    pairs = paddings("conv", padding, shape[1:-1], window[:-2], strides, dilations)
    return apply(
        CONV, x, kernel, stride=strides, padding=pairs, dilation=dilations, groups=int(groups)
    )


def conv_transpose(
    x: Any,
    kernel: Any,
    /,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "valid",
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    data_format: DataFormat = "channels_last",
) -> Any:
    """Return a transposed convolution, the adjoint of `conv` with the same kernel and arguments.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of shape ``(batch, *spatial, channels)``, or ``(batch, channels, *spatial)`` with
        ``data_format="channels_first"``.
    kernel : Tensor, Variable or array
        That of the convolution from the result to `x`: of shape
        ``(*window, outputs / groups, channels)``.
    stride, dilation, groups, data_format
        See `conv`; a stride makes the result longer.
    padding : "valid", "same", int or sequence
        What is cut off from the result, where the convolution would pad it; with ``"same"`` the
        result is `stride` times as long as `x`.
    output_padding : int or sequence of int
        How much longer the result is behind: for a stride above 1 there are several lengths from
        which the convolution leads to that of `x`. From 0 to stride - 1.

    Returns
    -------
    Tensor
        Along each axis of length ``(n - 1) stride + (window - 1) dilation + 1`` less the padding,
        plus `output_padding`.

    Raises
    ------
    ShapeError
        If the shapes and arguments do not fit one another.

    Notes
    -----
    ``<conv_transpose(y, w), x> = <y, conv(x, w)>`` for all x and y.
    """
    shape, window = shape_given(x), shape_given(kernel)
    name = "conv_transpose"
    if channels_are_first(name, data_format):
        result = conv_transpose(
            channels_last(x, len(shape)),
            kernel,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            dilation=dilation,
            groups=groups,
        )
        return channels_first(result, len(shape))
    rank = len(shape) - 2
    if len(window) != len(shape) or not 1 <= rank <= 3 or shape[-1] != window[-1]:
        raise ShapeError(
            f"{name}: an operand (batch, *spatial, channels) and a kernel (*window, outputs, "
            f"channels) with 1 to 3 spatial axes expected, got shapes {shape} and {window}"
        )
    strides = per_axis(name, "stride", stride, rank)
    dilations = per_axis(name, "dilation", dilation, rank)
    extra = (output_padding,) * rank if isinstance(output_padding, int) else tuple(output_padding)
    if len(extra) != rank or any(not 0 <= e < s for e, s in zip(extra, strides, strict=False)):
        raise ShapeError(
            f"{name}: output_padding is {output_padding!r}; expected {rank} numbers, each from 0 "
            f"up and below the stride {strides}"
        )
    is_same = isinstance(padding, str) and padding.lower() == "same"
    if is_same:
        lengths = tuple(n * s + e for n, s, e in zip(shape[1:-1], strides, extra, strict=True))
        stretched = tuple(n * s for n, s in zip(shape[1:-1], strides, strict=True))
        pairs = paddings(name, padding, stretched, window[:-2], strides, dilations)
    else:
        pairs = paddings(name, padding, shape[1:-1], window[:-2], strides, dilations)
        lengths = tuple(
            max((n - 1) * s + extent(k, d) - sum(p), 0) + e
            for n, s, k, d, p, e in zip(
                shape[1:-1], strides, window[:-2], dilations, pairs, extra, strict=True
            )
        )
    return apply_transpose(x, kernel, lengths, strides, pairs, dilations, int(groups))


def apply_transpose(
    x: Any,
    kernel: Any,
    lengths: Shape,
    stride: Shape,
    padding: Pairs,
    dilation: Shape,
    groups: int,
) -> Any:
    """Return a transposed convolution of which the spatial shape of the result is given.

    Raises
    ------
    ShapeError
        If the convolution does not lead from that shape to that of `x`.
    """
    spatial = shape_given(x)[1:-1]
    window = shape_given(kernel)
    _fit("conv_transpose", (0, *lengths, window[-2] * groups), window, groups)
    fitting = counts(lengths, window[:-2], stride, padding, dilation)
    if fitting != spatial:
        raise ShapeError(
            f"conv_transpose: a result with spatial axes {lengths} has {fitting} windows, but the "
            f"operand has spatial axes {spatial}; change the padding or the length of the result"
        )
    return apply(
        CONV_TRANSPOSE,
        x,
        kernel,
        shape=lengths,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


OPS = (CONV, CONV_TRANSPOSE, CONV_KERNEL_VJP)
