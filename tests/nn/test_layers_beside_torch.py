"""Layers with PyTorch's weights give PyTorch's results, where PyTorch is installed."""

import numpy as np
import pytest

from distgrad import nn
from distgrad.testing.inputs import values

torch = pytest.importorskip("torch")

SEQUENCE = values((3, 5, 4), -1.0, 1.0)
IMAGES = values((2, 7, 6, 4), -1.0, 1.0)


def host(parameter):
    return parameter.detach().numpy()


def close(ours, theirs):
    np.testing.assert_allclose(ours.numpy(), host(theirs), rtol=1e-9, atol=1e-12)


def test_a_bidirectional_lstm():
    theirs = torch.nn.LSTM(4, 6, batch_first=True, bidirectional=True, dtype=torch.float64)
    ours = nn.LSTM(6, bidirectional=True, return_sequences=True).build(SEQUENCE)
    for prefix, suffix in (("", ""), ("backward_", "_reverse")):
        getattr(ours, f"{prefix}kernel").assign(host(getattr(theirs, f"weight_ih_l0{suffix}")).T)
        recurrent = host(getattr(theirs, f"weight_hh_l0{suffix}"))
        getattr(ours, f"{prefix}recurrent_kernel").assign(recurrent.T)
        both = (getattr(theirs, f"bias_{which}_l0{suffix}") for which in ("ih", "hh"))
        getattr(ours, f"{prefix}bias").assign(sum(host(bias) for bias in both))

    close(ours(SEQUENCE), theirs(torch.tensor(SEQUENCE))[0])


def test_a_gru():
    theirs = torch.nn.GRU(4, 6, batch_first=True, dtype=torch.float64)
    ours = nn.GRU(6, return_sequences=True).build(SEQUENCE)
    ours.load_state(
        {
            "kernel": host(theirs.weight_ih_l0).T,
            "recurrent_kernel": host(theirs.weight_hh_l0).T,
            "bias": host(theirs.bias_ih_l0),
            "recurrent_bias": host(theirs.bias_hh_l0),
        }
    )

    close(ours(SEQUENCE), theirs(torch.tensor(SEQUENCE))[0])


def test_attention_of_several_heads():
    theirs = torch.nn.MultiheadAttention(4, 2, batch_first=True, dtype=torch.float64)
    ours = nn.MultiHeadAttention(2, causal=True).build(SEQUENCE)
    weights = np.split(host(theirs.in_proj_weight), 3)
    biases = np.split(host(theirs.in_proj_bias) + 0.5, 3)
    theirs.in_proj_bias.data += 0.5
    for layer, weight, bias in zip(
        (ours.query, ours.key, ours.value), weights, biases, strict=True
    ):
        layer.load_state({"kernel": weight.T, "bias": bias})
    ours.output.load_state(
        {"kernel": host(theirs.out_proj.weight).T, "bias": host(theirs.out_proj.bias)}
    )
    x = torch.tensor(SEQUENCE)
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1)

    close(ours(SEQUENCE), theirs(x, x, x, attn_mask=mask, need_weights=False)[0])


def test_batch_norm_and_its_running_moments():
    theirs = torch.nn.BatchNorm2d(4, dtype=torch.float64)
    ours = nn.BatchNorm(momentum=0.9)
    x = torch.tensor(np.moveaxis(IMAGES, -1, 1))
    for _ in range(3):
        theirs(x)
        ours(IMAGES, training=True)

    np.testing.assert_allclose(ours.running_mean.numpy(), theirs.running_mean, rtol=1e-9)
    np.testing.assert_allclose(ours.running_variance.numpy(), theirs.running_var, rtol=1e-9)
    close(ours(IMAGES), theirs.eval()(x).movedim(1, -1))


def test_convolutions_and_their_transpose():
    x = torch.tensor(np.moveaxis(IMAGES, -1, 1))
    conv = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, dtype=torch.float64)
    ours = nn.Conv(6, 3, stride=2, padding=1, groups=2).build(IMAGES)
    ours.load_state({"kernel": host(conv.weight).transpose(2, 3, 1, 0), "bias": host(conv.bias)})
    turned = nn.ConvTranspose(6, 3, stride=2, padding=1).build(IMAGES)
    one = torch.nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, dtype=torch.float64)
    turned.load_state({"kernel": host(one.weight).transpose(2, 3, 1, 0), "bias": host(one.bias)})

    close(ours(IMAGES), conv(x).movedim(1, -1))
    close(turned(IMAGES), one(x).movedim(1, -1))
