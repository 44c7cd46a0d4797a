"""What layers are told when they are made: what makes no sense is refused then."""

import numpy as np
import pytest

from distgrad import nn
from distgrad.random import Generator

REFUSED = {
    "units": (lambda: nn.Dense(2.5), "Dense: units is 2.5; expected an integer"),
    "negative": (lambda: nn.Dense(-1), "Dense: units is -1; expected 0 or more"),
    "activation": (
        lambda: nn.Dense(2, activation="relu"),
        "'relu'; expected a function, such as",
    ),
    "filters": (lambda: nn.Conv("a", 3), "Conv: filters is 'a'; expected an integer"),
    "groups": (lambda: nn.Conv(4, 3, groups="a"), "Conv: groups is 'a'; expected an integer"),
    "recurrent": (lambda: nn.GRU("a"), "GRU: units is 'a'; expected an integer"),
    "embedding": (lambda: nn.Embedding(3, 1.5), "Embedding: width is 1.5; expected an integer"),
    "heads": (lambda: nn.MultiHeadAttention("a"), "heads is 'a'; expected an integer"),
    "norm": (lambda: nn.GroupNorm(1.5), "GroupNorm: groups is 1.5; expected an integer"),
    "rate": (lambda: nn.Dropout("a"), "Dropout: rate is 'a'; expected a probability"),
    "function": (lambda: nn.dropout(np.ones(2), "a"), "dropout: rate is 'a'; expected a probabil"),
    "a list of layers": (
        lambda: nn.Sequential([nn.Dense(2)]),
        r"Sequential: layer 0 is a list; expected layers one by one: Sequential\(\*layers\)",
    ),
    "a name": (
        lambda: nn.Sequential("relu"),
        "layer 0 is 'relu'; expected a function",
    ),
    "none": (lambda: nn.Sequential(nn.Dense(2), None), "layer 1 is None; expected a layer"),
    "random shape": (lambda: Generator(0).normal("a"), "random: shape is 'a'; expected"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_says_what_it_cannot_be_made_of(name):
    make, message = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_numpys_integers_are_sizes():
    assert nn.Dense(np.int64(3))(np.ones((1, 2))).shape == (1, 3)
    assert Generator(0).normal(np.int64(3)).shape == (3,)
