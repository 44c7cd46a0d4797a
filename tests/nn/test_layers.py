"""Layers beside the functions and formulas that they stand for; shapes of variables; refusals."""

import numpy as np
import pytest

import distgrad as dg
from distgrad import errors, nn
from distgrad.testing.inputs import values

IMAGES = values((2, 7, 6, 4), -1.0, 1.0)
SEQUENCE = values((3, 5, 4), -1.0, 1.0)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_dense_is_a_product_a_sum_and_an_activation():
    layer = nn.Dense(3, nn.tanh, bias_initializer=nn.initializers.normal(1.0)).build(SEQUENCE)

    expected = np.tanh(SEQUENCE @ layer.kernel.numpy() + layer.bias.numpy())
    np.testing.assert_allclose(layer(SEQUENCE).numpy(), expected, rtol=1e-12)
    assert nn.Dense(3, bias=False).build(SEQUENCE).bias is None


def test_dense_takes_one_example_and_lists():
    layer = nn.Dense(3).build([[1.0, 2.0]])

    assert layer([1.0, 2.0]).shape == (3,)
    with pytest.raises(errors.ShapeError, match=r"dense: an input with an axis .* shape \(\)"):
        nn.Dense(3)(2.0)


def test_embedding_picks_rows_and_has_a_sparse_gradient():
    layer = nn.Embedding(9, 4, dtype="float64")
    ids = np.array([[1, 8, 1]])
    with dg.GradientTape() as tape:
        y = dg.sum(layer(ids))
    gradient = tape.gradient(y, layer.table)

    np.testing.assert_array_equal(layer(ids).numpy(), layer.table.numpy()[ids])
    assert gradient.indices.tolist() == [1, 8, 1]
    np.testing.assert_allclose(
        layer.logits(SEQUENCE).numpy(), SEQUENCE @ layer.table.numpy().T, rtol=1e-12
    )


@pytest.mark.parametrize(
    ("shape", "window", "options", "kernel"),
    [
        ((2, 9, 4), 3, {"stride": 2, "padding": "same"}, (3, 4, 6)),
        ((2, 9, 8, 4), 3, {"groups": 2}, (3, 3, 2, 6)),
        ((2, 9, 8, 4), (3, 2), {"dilation": 2}, (3, 2, 4, 6)),
        ((2, 5, 6, 7, 4), 2, {"padding": 1}, (2, 2, 2, 4, 6)),
        ((2, 4, 9, 8), 3, {"data_format": "channels_first"}, (3, 3, 4, 6)),
    ],
)
def test_conv_and_its_transpose_are_the_functions_with_a_bias(shape, window, options, kernel):
    x = values(shape, -1.0, 1.0)
    first = options.get("data_format") == "channels_first"
    bias = nn.initializers.normal(1.0)
    layer = nn.Conv(6, window, bias_initializer=bias, **options).build(x)
    back = nn.ConvTranspose(6, window, bias_initializer=bias, **options).build(x)

    along = (6, *(1,) * (len(shape) - 2)) if first else (6,)
    assert layer.kernel.shape == kernel
    groups = options.get("groups", 1)
    assert back.kernel.shape == (*kernel[:-2], 6 // groups, 4)
    np.testing.assert_allclose(
        layer(x).numpy(),
        nn.conv(x, layer.kernel, **options).numpy() + layer.bias.numpy().reshape(along),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        back(x).numpy(),
        nn.conv_transpose(x, back.kernel, **options).numpy() + back.bias.numpy().reshape(along),
        rtol=1e-12,
    )


def test_conv_refuses_other_inputs_with_its_path():
    layer = nn.Sequential(nn.Conv(6, 3)).build(IMAGES)

    with pytest.raises(errors.ShapeError, match=r"sequential/0: .* 4 channels .* \(2, 7, 6, 3"):
        layer(IMAGES[..., :3])
    with pytest.raises(errors.ShapeError, match=r"conv: .* spatial axes as the window \(2,"):
        nn.Conv(6, (2,))(IMAGES)
    with pytest.raises(errors.ShapeError, match="conv: 4 channels and 6 filters are to form 3"):
        nn.Conv(6, 3, groups=3)(IMAGES)


def test_pools_flatten_and_activation_are_the_functions():
    np.testing.assert_array_equal(
        nn.MaxPool(2, stride=1)(IMAGES).numpy(), nn.max_pool(IMAGES, 2, stride=1).numpy()
    )
    np.testing.assert_array_equal(
        nn.AvgPool(3, padding="same")(IMAGES).numpy(),
        nn.avg_pool(IMAGES, 3, padding="same").numpy(),
    )
    np.testing.assert_array_equal(nn.Flatten(2)(IMAGES).numpy(), IMAGES.reshape(2, 7, 24))
    np.testing.assert_array_equal(nn.Activation(nn.gelu)(IMAGES), nn.gelu(IMAGES))
    with pytest.raises(errors.ShapeError, match="flatten: an input with more than 1 axes"):
        nn.Flatten()(np.ones(3))


@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (nn.LayerNorm(axis=(-2, -1)), lambda x: nn.layer_norm(x, axis=(-2, -1))),
        (nn.RMSNorm(), nn.rms_norm),
        (nn.GroupNorm(2), lambda x: nn.group_norm(x, 2)),
    ],
)
def test_norms_begin_as_the_functions_without_factor_and_term(layer, function):
    np.testing.assert_allclose(
        layer(IMAGES).numpy(), function(IMAGES).numpy(), rtol=1e-10, atol=1e-12
    )
    for variable in layer.variables:
        variable.assign(2.0)
    factor, term = 2.0, 0.0 if layer.shift is None else 2.0

    np.testing.assert_allclose(
        layer(IMAGES).numpy(), function(IMAGES).numpy() * factor + term, rtol=1e-10, atol=1e-12
    )


def test_batch_norm_averages_moments_in_training_and_uses_them_after():
    layer = nn.BatchNorm(momentum=0.8)
    flat = IMAGES.reshape(-1, 4)
    first = layer(IMAGES, training=True).numpy()
    after = layer(IMAGES).numpy()

    mean, variance = 0.2 * flat.mean(0), 0.8 + 0.2 * flat.var(0, ddof=1)
    np.testing.assert_allclose(
        first, (IMAGES - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(layer.running_variance.numpy(), variance, rtol=1e-12)
    np.testing.assert_allclose(
        after, (IMAGES - mean) / np.sqrt(variance + 1e-5), rtol=1e-9, atol=1e-12
    )
    assert [v.name for v in layer.trainable_variables] == ["batch_norm/scale", "batch_norm/shift"]


def test_batch_norm_for_channels_first():
    layer = nn.BatchNorm(axis=1)
    turned = np.moveaxis(IMAGES, -1, 1)

    np.testing.assert_allclose(
        np.moveaxis(layer(turned, training=True).numpy(), 1, -1),
        nn.BatchNorm()(IMAGES, training=True).numpy(),
        rtol=1e-9,
        atol=1e-12,
    )
    with pytest.raises(errors.ShapeError, match=r"batch_norm: features of shape \(4,\) expected"):
        layer(turned[:, :3])


def test_dropout_drops_in_training_only_and_asks_for_a_generator():
    x = np.ones((50, 20))
    model = nn.Sequential(nn.Dropout(0.5))
    dropped = model(x, training=True, generator=dg.random.Generator(2)).numpy()
    own = nn.Dropout(0.5, generator=dg.random.Generator(2))(x, training=True).numpy()
    part = model(
        x[10:20], training=True, generator=dg.random.Generator(2), rows=range(10, 20)
    ).numpy()

    assert set(np.unique(dropped)) == {0.0, 2.0}
    np.testing.assert_array_equal(own, dropped)
    np.testing.assert_array_equal(part, dropped[10:20])
    np.testing.assert_array_equal(model(x), x)
    with pytest.raises(ValueError, match="sequential/0: there is no generator; expected model"):
        model(x, training=True)


@pytest.mark.parametrize(("layer", "function"), [(nn.LSTM, nn.lstm), (nn.GRU, nn.gru)])
def test_recurrent_layers_go_one_way_or_both(layer, function):
    one = layer(6, return_sequences=True, return_state=True).build(SEQUENCE)
    both = layer(6, bidirectional=True, return_state=True).build(SEQUENCE)
    outputs, state = one(SEQUENCE)
    last, (there, back) = both(SEQUENCE)
    further, _ = one(SEQUENCE, initial_state=state)

    weights = [v.read() for v in both.variables]
    half = len(weights) // 2
    expected, _ = function(SEQUENCE, *[v.read() for v in one.variables])
    _, there_expected = function(SEQUENCE, *weights[:half])
    _, back_expected = function(SEQUENCE, *weights[half:], reverse=True)
    joined = [s[0] if isinstance(s, tuple) else s for s in (there_expected, back_expected)]
    np.testing.assert_array_equal(outputs.numpy(), expected.numpy())
    np.testing.assert_array_equal(last.numpy(), np.concatenate([j.numpy() for j in joined], -1))
    np.testing.assert_array_equal(dg.asarray(there[0]).numpy(), dg.asarray(there_expected[0]))
    np.testing.assert_array_equal(dg.asarray(back[0]).numpy(), dg.asarray(back_expected[0]))
    assert not np.allclose(further.numpy(), outputs.numpy())


def test_recurrent_layers_stack():
    model = nn.Sequential(
        nn.LSTM(6, bidirectional=True, return_sequences=True), nn.GRU(5, bias=False), nn.Dense(1)
    ).build(SEQUENCE)

    assert model(SEQUENCE).shape == (3, 1)
    assert model[1].kernel.shape == (12, 15)
    np.testing.assert_array_equal(model[0].bias.numpy(), [0.0] * 6 + [1.0] * 6 + [0.0] * 12)
    with pytest.raises(errors.ShapeError, match=r"sequential/0: features of length 4 expected"):
        model(SEQUENCE[..., :3])
    with pytest.raises(errors.ShapeError, match=r"lstm: a sequence \(batch, steps, features\)"):
        nn.LSTM(4)(SEQUENCE[0])


def test_attention_of_several_heads_by_the_formula():
    layer = nn.MultiHeadAttention(2, 3, width=5)
    memory = values((3, 7, 6), -1.0, 1.0)
    mask = np.arange(21).reshape(3, 1, 7) % 3 > 0
    y = layer(SEQUENCE, memory, mask=mask).numpy()

    q, k, v = (
        (x @ p.kernel.numpy() + p.bias.numpy()).reshape(3, -1, 2, 3).transpose(0, 2, 1, 3)
        for x, p in ((SEQUENCE, layer.query), (memory, layer.key), (memory, layer.value))
    )
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(3)
    found = softmax(np.where(mask[:, None], scores, -np.inf)) @ v
    joined = found.transpose(0, 2, 1, 3).reshape(3, 5, 6)
    np.testing.assert_allclose(
        y, joined @ layer.output.kernel.numpy() + layer.output.bias.numpy(), rtol=1e-9, atol=1e-12
    )


def test_causal_attention_does_not_look_ahead():
    layer = nn.MultiHeadAttention(2, causal=True)
    before = layer(SEQUENCE).numpy()
    changed = SEQUENCE.copy()
    changed[:, 3:] = 9.0

    np.testing.assert_allclose(layer(changed).numpy()[:, :3], before[:, :3], rtol=1e-12)
    assert layer(SEQUENCE[0]).shape == (5, 4)
    with pytest.raises(errors.ShapeError, match="queries of 4 features are to form 3 heads"):
        nn.MultiHeadAttention(3)(SEQUENCE)


def test_a_residual_adds_the_shortcut_and_refuses_to_broadcast():
    block = nn.Residual(nn.Dense(4)).build(SEQUENCE)

    np.testing.assert_allclose(
        block(SEQUENCE).numpy(), SEQUENCE + block.block(SEQUENCE).numpy(), rtol=1e-12
    )
    assert nn.Residual(nn.Dense(1), nn.Dense(1))(SEQUENCE).shape == (3, 5, 1)
    with pytest.raises(errors.ShapeError, match=r"residual: the block returns shape \(3, 5, 1\)"):
        nn.Residual(nn.Dense(1))(SEQUENCE)


def test_options_reach_layers_within_layers():
    model = nn.Sequential(nn.Residual(nn.Sequential(nn.BatchNorm(), nn.relu)))
    model(SEQUENCE, training=True)

    assert not np.array_equal(model[0].block[0].running_mean.numpy(), np.zeros(4))
