"""Layers compute where their inputs are, whichever backend is in force."""

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.errors import MixedBackendError
from distgrad_numpy.backend import NumPyBackend

IMAGES, SEQUENCES, ROWS = (2, 8, 8, 4), (2, 5, 4), (6, 4)
LAYERS = {
    "Activation": (lambda: nn.Activation(nn.gelu), ROWS),
    "AvgPool": (nn.AvgPool, IMAGES),
    "BatchNorm": (nn.BatchNorm, ROWS),
    "Conv": (lambda: nn.Conv(4, 3, padding="same"), IMAGES),
    "ConvTranspose": (lambda: nn.ConvTranspose(3, 2), IMAGES),
    "Dense": (lambda: nn.Dense(3, nn.relu), ROWS),
    "Dropout": (lambda: nn.Dropout(0.5), ROWS),
    "Embedding": (lambda: nn.Embedding(7, 3), ROWS),
    "Flatten": (nn.Flatten, IMAGES),
    "GRU": (lambda: nn.GRU(3), SEQUENCES),
    "GroupNorm": (lambda: nn.GroupNorm(2), IMAGES),
    "LSTM": (lambda: nn.LSTM(3, bidirectional=True, bias=False), SEQUENCES),
    "LayerNorm": (nn.LayerNorm, ROWS),
    "MaxPool": (nn.MaxPool, IMAGES),
    "MultiHeadAttention": (lambda: nn.MultiHeadAttention(2, causal=True), SEQUENCES),
    "RMSNorm": (nn.RMSNorm, ROWS),
    "Residual": (lambda: nn.Residual(nn.Dense(4)), ROWS),
    "Sequential": (lambda: nn.Sequential(nn.Dense(3), nn.LayerNorm()), ROWS),
}


class Elsewhere(NumPyBackend):
    """NumPy under another name, which is not in force."""

    def __init__(self):
        super().__init__()
        self.name = "elsewhere"


@pytest.fixture(scope="module")
def elsewhere():
    return Elsewhere()


def test_every_layer_is_among_them():
    public = {name: getattr(nn, name) for name in dir(nn)}
    layers = {
        name
        for name, each in public.items()
        if isinstance(each, type) and issubclass(each, nn.Module) and each is not nn.Module
    }

    assert set(LAYERS) == layers


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_built_and_trained_where_its_input_is(name, traced, elsewhere):
    make, shape = LAYERS[name]
    kind = np.int64 if name == "Embedding" else np.float32
    given = np.arange(np.prod(shape)).reshape(shape).astype(kind) % 7

    def trained(backend):
        """Return the variables after two steps of training, and the last outputs."""
        x = dg.asarray(given, backend=backend)
        model = nn.Sequential(make())
        generator = dg.random.Generator(1, backend=backend)
        model.build(x, seed=0)
        optimizer = dg.optimizers.Adam(1e-2)

        def step(x):
            with dg.GradientTape() as tape:
                y = model(x, training=True, generator=generator)
                loss = dg.mean(y * y)
            return y, tape.gradient(loss, model.trainable_variables)

        run = dg.function(step) if traced else step
        for _ in range(2):
            y, gradients = run(x)
            if gradients:
                optimizer.apply(gradients, model.trainable_variables)
        return [y, *model.variables]

    found, expected = trained(elsewhere), trained("numpy")

    for one, other in zip(found, expected, strict=True):
        assert one.backend is elsewhere
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize(
    "draw",
    [
        lambda x, generator: nn.dropout(x, 0.5, generator=generator),
        lambda x, generator: nn.dropout(x, 0.5, generator=generator, rows=range(3)),
        lambda x, generator: nn.alpha_dropout(x, 0.5, generator=generator),
        lambda x, generator: nn.gumbel_softmax(x, generator=generator),
    ],
)
def test_a_generator_of_another_backend_is_named_with_the_remedy(draw, elsewhere):
    x = dg.asarray(np.ones((3, 4)), backend=elsewhere)

    with pytest.raises(MixedBackendError, match=r"Generator\(seed, backend='elsewhere'\)"):
        draw(x, dg.random.Generator(0))
