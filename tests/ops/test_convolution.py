"""Convolutions: what the definition says, by a loop over it, and every argument that shapes it."""

import warnings

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import ShapeError
from distgrad.testing.inputs import values
from distgrad.windows import paddings


def by_definition(x, w, stride, padding, dilation, groups):
    """Return the convolution as its definition says it, one product after the other."""
    x = np.pad(x, ((0, 0), *padding, (0, 0)))
    *window, inner, outputs = w.shape
    spatial = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(x.shape[1:-1], window, stride, dilation, strict=True)
    ]
    y = np.zeros((x.shape[0], *spatial, outputs))
    for n, *spot, o in np.ndindex(*y.shape):
        group = o * groups // outputs
        for *tap, i in np.ndindex(*window, inner):
            place = [
                at * s + t * d for at, s, t, d in zip(spot, stride, tap, dilation, strict=True)
            ]
            y[(n, *spot, o)] += x[(n, *place, group * inner + i)] * w[(*tap, i, o)]
    return y


CASES = {
    "line": ((2, 9, 2), (3, 2, 3), (1,), ((0, 0),), (1,), 1),
    "line strided dilated padded": ((2, 9, 2), (3, 2, 3), (2,), ((3, 1),), (2,), 1),
    "plane": ((2, 6, 5, 3), (2, 3, 3, 4), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "plane padded strided": ((2, 6, 5, 3), (3, 2, 3, 4), (2, 3), ((1, 2), (0, 1)), (1, 1), 1),
    "plane dilated": ((1, 7, 8, 2), (2, 3, 2, 2), (1, 2), ((1, 0), (2, 2)), (3, 2), 1),
    "plane of points": ((3, 4, 5, 3), (1, 1, 3, 2), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "groups": ((2, 4, 5, 6), (2, 2, 2, 9), (1, 1), ((1, 0), (0, 1)), (1, 1), 3),
    "depthwise": ((2, 4, 5, 3), (2, 2, 1, 6), (2, 1), ((1, 0), (0, 1)), (1, 1), 3),
    "space": ((1, 4, 3, 5, 2), (2, 1, 3, 2, 3), (1, 2, 2), ((0, 1), (0, 0), (1, 1)), (1, 1, 1), 1),
}


@pytest.mark.parametrize("label", CASES)
def test_convolution_is_what_its_definition_says(label):
    x_shape, w_shape, stride, padding, dilation, groups = CASES[label]
    x, w = values(x_shape, -1.0, 1.0), values(w_shape, -1.0, 1.2)

    y = dg.nn.conv(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups)

    expected = by_definition(x, w, stride, padding, dilation, groups)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("label", CASES)
def test_transposed_convolution_is_the_adjoint(label):
    x_shape, w_shape, stride, padding, dilation, groups = CASES[label]
    x, w = values(x_shape, -1.0, 1.0), values(w_shape, -1.0, 1.2)
    slide = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    y = dg.nn.conv(x, w, **slide)
    u = values(y.shape, -1.0, 1.0, seed=3)
    # What the last window does not reach is the padding of the result.
    shorter = [
        n + sum(p) - (s * (m - 1) + (k - 1) * d + 1)
        for n, p, s, m, k, d in zip(
            x_shape[1:-1], padding, stride, u.shape[1:-1], w_shape[:-2], dilation, strict=True
        )
    ]

    back = dg.nn.conv_transpose(u, w, output_padding=shorter, **slide)

    assert back.shape == x_shape
    np.testing.assert_allclose(np.vdot(back.numpy(), x), np.vdot(u, y.numpy()), rtol=1e-12)


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        ("valid", (2, 3)),
        ("same", (3, 4)),
        (1, (3, 4)),
        ((0, 2), (2, 5)),
        (((1, 0), (0, 1)), (3, 4)),
    ],
    ids=str,
)
def test_padding_is_a_word_a_number_or_pairs(padding, expected):
    x, w = values((1, 5, 7, 1), -1, 1), values((2, 2, 1, 1), -1, 1)

    assert dg.nn.conv(x, w, stride=2, padding=padding).shape[1:-1] == expected


@pytest.mark.parametrize(
    ("length", "window", "stride"), [(7, 3, 2), (8, 4, 3), (5, 2, 1), (4, 1, 3)]
)
def test_same_padding_gives_a_window_for_each_step_and_the_odd_zero_behind(length, window, stride):
    x, w = np.ones((1, length, 1)), np.ones((window, 1, 1))

    y = dg.nn.conv(x, w, stride=stride, padding="same")
    ((before, behind),) = paddings("conv", "same", (length,), (window,), (stride,), (1,))

    assert y.shape[1] == -(-length // stride)
    assert behind - before in (0, 1)


def test_same_padding_makes_the_transposed_result_stride_times_as_long():
    y, w = values((2, 4, 5, 3), -1, 1), values((3, 3, 2, 3), -1, 1)

    assert dg.nn.conv_transpose(y, w, stride=(2, 3), padding="same").shape == (2, 8, 15, 2)
    longer = dg.nn.conv_transpose(y, w, stride=2, padding="same", output_padding=(1, 0))
    assert longer.shape == (2, 9, 10, 2)


def test_channels_first_differs_in_the_order_of_axes_alone():
    x, w = values((2, 5, 6, 3), -1, 1), values((3, 2, 3, 4), -1, 1)
    first = np.moveaxis(x, -1, 1)

    y = dg.nn.conv(first, w, stride=2, padding=1, data_format="channels_first")
    back = dg.nn.conv_transpose(y, w, stride=2, padding=1, data_format="channels_first")

    last = dg.nn.conv(x, w, stride=2, padding=1)
    np.testing.assert_allclose(y.numpy(), np.moveaxis(last.numpy(), -1, 1))
    expected = dg.nn.conv_transpose(last, w, stride=2, padding=1)
    np.testing.assert_allclose(back.numpy(), np.moveaxis(expected.numpy(), -1, 1))


def test_operands_promote_and_integers_stay_integers():
    x, w = np.arange(6).reshape(1, 6, 1), np.array([[[1]], [[-1]]])

    assert dg.nn.conv(x, w).dtype == np.int64
    assert dg.nn.conv(x, w).numpy().ravel().tolist() == [-1] * 5
    assert dg.nn.conv(x.astype(np.float32), w.astype(np.float64)).dtype == np.float64


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)], ids=str)
def test_vmap_folds_the_batch_of_inputs_and_kernels(groups, axes):
    xs, ws = values((3, 2, 5, 4), -1, 1), values((3, 2, 4 // groups, 6), -1, 1)
    slide = {"stride": 2, "padding": 1, "groups": groups}

    def loss(x, w):
        y = dg.nn.conv(x, w, **slide)
        return dg.sum(y * y * y)

    def everything(x, w):
        return dg.nn.conv(x, w, **slide), *dg.grad(loss, argnums=(0, 1))(x, w)

    chosen = [a if axis == 0 else a[0] for a, axis in zip((xs, ws), axes, strict=True)]

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "computed one by one" would be one
        found = dg.vmap(everything, in_axes=axes)(*chosen)

    for i in range(3):
        given = [a[i] if axis == 0 else a[0] for a, axis in zip((xs, ws), axes, strict=True)]
        one = everything(*map(dg.asarray, given))
        for whole, part in zip(found, one, strict=True):
            np.testing.assert_allclose(whole.numpy()[i], part.numpy(), rtol=1e-11, atol=1e-12)


def test_traced_convolution_and_its_gradient_are_the_eager_ones():
    x, w = dg.asarray(values((2, 5, 6, 2), -1, 1)), dg.Variable(values((3, 3, 2, 3), -1, 1))

    def step(x):
        with dg.GradientTape() as tape:
            loss = dg.sum(dg.nn.max_pool(dg.nn.conv(x, w, padding="same"), 2) ** 2)
        return loss, tape.gradient(loss, w)

    for traced, eager in zip(dg.function(step)(x), step(x), strict=True):
        np.testing.assert_allclose(traced.numpy(), eager.numpy(), rtol=1e-12)


X, W = np.ones((2, 5, 6, 3)), np.ones((3, 3, 3, 4))
MISUSE = {
    "rank": (lambda: dg.nn.conv(X[0], W), r"conv: .*\(batch, \*spatial, channels\).*\(5, 6, 3\)"),
    "channels": (lambda: dg.nn.conv(X, W[:, :, :2]), "3 channels in 1 group.* takes 2"),
    "groups": (lambda: dg.nn.conv(X, W[:, :, :1], groups=2), "3 channels in 2 group"),
    "outputs": (lambda: dg.nn.conv(X, W[:, :, :1], groups=3), "outputs that groups divide"),
    "stride": (lambda: dg.nn.conv(X, W, stride=0), "stride is 0; expected a positive integer"),
    "strides": (lambda: dg.nn.conv(X, W, stride=(1, 2, 3)), r"stride is \(1, 2, 3\).* 2 of them"),
    "word": (lambda: dg.nn.conv(X, W, padding="full"), "padding is 'full'; expected 'same'"),
    "negative": (lambda: dg.nn.conv(X, W, padding=-1), "padding is -1"),
    "pairs": (lambda: dg.nn.conv(X, W, padding=[(1, 1)]), "each of the 2 spatial axes"),
    "transposed": (lambda: dg.nn.conv_transpose(X, W), r"got shapes \(2, 5, 6, 3\)"),
    "output_padding": (
        lambda: dg.nn.conv_transpose(X, np.ones((3, 3, 4, 3)), output_padding=1),
        "output_padding is 1.* below the stride",
    ),
}


@pytest.mark.parametrize("label", MISUSE)
def test_arguments_that_do_not_fit_are_explained(label):
    call, message = MISUSE[label]

    with pytest.raises(ShapeError, match=message):
        call()


def test_unknown_data_format_is_named():
    with pytest.raises(ValueError, match="'NHWC'; expected 'channels_last' or 'channels_first'"):
        dg.nn.conv(X, W, data_format="NHWC")


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_a_batch_of_no_examples_is_convolved(axes):
    x, w = dg.ones((2, 5, 2)), dg.ones((2, 2, 3))

    def of_no_example(rule):
        none = [
            a if axis is None else dg.zeros((0, *a.shape))
            for a, axis in zip((x, w), axes, strict=True)
        ]
        return dg.vmap(rule, in_axes=axes)(*none)

    slopes = of_no_example(dg.grad(lambda x, w: dg.sum(dg.nn.conv(x, w) ** 2), (0, 1)))

    assert of_no_example(dg.nn.conv).shape == (0, 2, 4, 3)
    assert [slope.shape for slope in slopes] == [(0, 2, 5, 2), (0, 2, 2, 3)]
