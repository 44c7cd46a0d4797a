"""Likelihoods, distances, margins, grids of other sizes: formulas, PyTorch, derivatives."""

import math

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad import errors, nn
from distgrad.backend import ArrayModuleBackend
from distgrad.testing import check_gradients
from distgrad.testing.inputs import values

A, B, C = (values((3, 4), *bounds) for bounds in ((-2.1, 2.0), (-1.9, 2.15), (-2.3, 1.8)))
SIGNS = np.array([1.0, -1.0, 1.0])
VARIANCES = values((3, 4), 0.3, 2.0)
COUNTS = np.array([[0.0, 1.0, 2.0, 7.0], [3.0, 1.0, 0.0, 2.0], [5.0, 4.0, 1.0, 9.0]])
IMAGES, SMALL = values((2, 5, 6, 3), -2.1, 2.0), values((2, 4, 3, 8), -1.0, 1.0)
LINES, BLOCKS = values((2, 7, 2), -2.0, 2.0), values((2, 3, 4, 2, 2), -2.0, 2.0)


def channels_first(x):
    return x.transpose(0, -1, *range(1, x.ndim - 1))


def channels_last(y):
    return y.permute(0, *range(2, y.ndim), 1)


def of_torch(name, **options):
    """Return a function of PyTorch's with the mean left out."""
    return lambda F, *xs: getattr(F, name)(*xs, reduction="none", **options)


def resized(**options):
    return lambda F, x: channels_last(
        F.interpolate(x.permute(0, -1, *range(1, x.ndim - 1)), **options)
    )


def unfolded(F, x):
    return F.unfold(x, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)).reshape(2, 18, 3, 4)


def folded(F, x):
    return F.fold(
        x.reshape(2, 18, 12), (5, 6), (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)
    )


WINDOWS = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}
FIRST = {"data_format": "channels_first"}

# Function, PyTorch's (a function of torch.nn.functional and its tensors), operands.
CASES = {
    "gaussian": (
        lambda t, m, v: nn.gaussian_negative_log_likelihood(targets=t, means=m, variances=v),
        lambda F, t, m, v: F.gaussian_nll_loss(m, t, v, reduction="none"),
        [A, B, VARIANCES],
    ),
    "gaussian in full": (
        lambda t, m, v: nn.gaussian_negative_log_likelihood(
            targets=t, means=m, variances=v, full=True
        ),
        lambda F, t, m, v: F.gaussian_nll_loss(m, t, v, full=True, reduction="none"),
        [A, B, VARIANCES],
    ),
    "poisson of logarithms": (
        lambda x: nn.poisson_negative_log_likelihood(targets=COUNTS, log_rates=x, full=True),
        lambda F, x: F.poisson_nll_loss(x, x.new_tensor(COUNTS), full=True, reduction="none"),
        [A],
    ),
    "poisson of rates": (
        lambda x: nn.poisson_negative_log_likelihood(targets=COUNTS, rates=x),
        lambda F, x: F.poisson_nll_loss(
            x, x.new_tensor(COUNTS), log_input=False, eps=0.0, reduction="none"
        ),
        [VARIANCES],
    ),
    **{
        f"pairwise_distance of order {order}": (
            lambda a, b, order=order: nn.pairwise_distance(a, b, order=order),
            lambda F, a, b, order=order: F.pairwise_distance(a, b, p=order, eps=0.0),
            [A, B],
        )
        for order in (1, 2, 3, math.inf)
    },
    **{
        f"triplet_margin, swap={swap}": (
            lambda a, b, c, swap=swap: nn.triplet_margin(
                anchors=a, positives=b, negatives=c, margin=0.7, swap=swap
            ),
            of_torch("triplet_margin_loss", margin=0.7, eps=0.0, swap=swap),
            [A, B, C],
        )
        for swap in (False, True)
    },
    "cosine_embedding": (
        lambda a, b: nn.cosine_embedding(labels=SIGNS, a=a, b=b, margin=-0.3),
        lambda F, a, b: F.cosine_embedding_loss(
            a, b, a.new_tensor(SIGNS), margin=-0.3, reduction="none"
        ),
        [A, B],
    ),
    "margin_ranking": (
        lambda a, b: nn.margin_ranking(labels=SIGNS[:, None], a=a, b=b, margin=0.4),
        lambda F, a, b: F.margin_ranking_loss(
            a, b, a.new_tensor(SIGNS[:, None]), margin=0.4, reduction="none"
        ),
        [A, B],
    ),
    "soft_margin": (
        lambda a: nn.soft_margin(labels=SIGNS[:, None], scores=a),
        lambda F, a: F.soft_margin_loss(
            a, a.new_tensor(SIGNS[:, None]).expand(3, 4), reduction="none"
        ),
        [A],
    ),
    "resize, up and down": (
        lambda x: nn.resize(x, (8, 4)),
        resized(size=(8, 4), mode="bilinear"),
        [IMAGES],
    ),
    "resize, corners aligned": (
        lambda x: nn.resize(x, (8, 1), align_corners=True),
        resized(size=(8, 1), mode="bilinear", align_corners=True),
        [IMAGES],
    ),
    "resize of one axis": (
        lambda x: nn.resize(x, 12),
        resized(size=12, mode="linear"),
        [LINES],
    ),
    "resize of three axes": (
        lambda x: nn.resize(x, (2, 6, 5)),
        resized(size=(2, 6, 5), mode="trilinear"),
        [BLOCKS],
    ),
    "resize to the nearest": (
        lambda x: nn.resize(x, (8, 4), method="nearest"),
        resized(size=(8, 4), mode="nearest-exact"),
        [IMAGES],
    ),
    "resize, channels first": (
        lambda x: nn.resize(x, (3, 9), **FIRST),
        lambda F, x: F.interpolate(x, size=(3, 9), mode="bilinear"),
        [channels_first(IMAGES)],
    ),
    "pixel_shuffle": (
        lambda x: nn.pixel_shuffle(x, 2, **FIRST),
        lambda F, x: F.pixel_shuffle(x, 2),
        [channels_first(SMALL)],
    ),
    "pixel_unshuffle": (
        lambda x: nn.pixel_unshuffle(x, 2, **FIRST),
        lambda F, x: F.pixel_unshuffle(x, 2),
        [values((2, 3, 4, 6), -1.0, 1.0)],
    ),
    "unfold": (
        lambda x: nn.unfold(x, (3, 2), **WINDOWS, **FIRST),
        unfolded,
        [channels_first(IMAGES)],
    ),
    "fold": (
        lambda x: nn.fold(x, (5, 6), (3, 2), **WINDOWS, **FIRST),
        folded,
        [values((2, 18, 3, 4), -1.0, 1.0)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_pytorchs(name):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    ours, theirs, operands = CASES[name]
    tensors = [torch.tensor(x, requires_grad=True) for x in operands]
    expected = theirs(torch.nn.functional, *tensors)
    weights = values(tuple(expected.shape), 0.5, 1.5)
    wanted = torch.autograd.grad(expected, tensors, torch.tensor(weights))

    xs = [dg.asarray(x) for x in operands]
    with dg.GradientTape() as tape:
        tape.watch(xs)
        y = ours(*xs)
    gradients = tape.gradient(y, xs, dg.asarray(weights))

    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-12)
    for mine, its in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(mine.numpy(), its.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_agree_with_differences_to_second_order(name):
    function, _, operands = CASES[name]

    # Bent, so that what is linear has a second derivative too.
    check_gradients(lambda *xs: function(*xs) ** 2, [dg.asarray(x) for x in operands])


@pytest.mark.parametrize(
    "name", ["resize, up and down", "unfold", "fold", "triplet_margin, swap=True"]
)
def test_they_map_trace_and_run_on_any_backend(name):
    class Plain(ArrayModuleBackend):
        def __init__(self):
            super().__init__("plain", array_api_strict)

    function, _, operands = CASES[name]
    xs = [dg.asarray(x) for x in operands]
    expected = function(*xs).numpy()
    twice = [dg.stack([x, 2 * x]) for x in xs]
    traced = dg.function(function)(*xs)
    with dg.use_backend(Plain()):
        elsewhere = function(*(dg.asarray(x) for x in operands))

    np.testing.assert_allclose(dg.vmap(function)(*twice)[0].numpy(), expected, rtol=1e-13)
    np.testing.assert_array_equal(traced.numpy(), expected)
    np.testing.assert_allclose(elsewhere.numpy(), expected, rtol=1e-13)


def test_losses_follow_their_formulas():
    found = {
        "gaussian": nn.gaussian_negative_log_likelihood(targets=A, means=B, variances=VARIANCES),
        "poisson": nn.poisson_negative_log_likelihood(targets=COUNTS, rates=VARIANCES),
        "distance": nn.pairwise_distance(A, B),
        "soft": nn.soft_margin(labels=SIGNS[:, None], scores=A),
    }
    expected = {
        "gaussian": (np.log(VARIANCES) + (A - B) ** 2 / VARIANCES) / 2,
        "poisson": VARIANCES - COUNTS * np.log(VARIANCES),
        "distance": np.sqrt(((A - B) ** 2).sum(-1)),
        "soft": np.log1p(np.exp(-SIGNS[:, None] * A)),
    }

    for name, y in found.items():
        np.testing.assert_allclose(y.numpy(), expected[name], rtol=1e-12, err_msg=name)


def test_equal_vectors_are_no_distance_apart_and_have_no_slope():
    x = dg.asarray(A)

    with dg.GradientTape() as tape:
        tape.watch(x)
        y = nn.triplet_margin(anchors=x, positives=A, negatives=A + 3.0, margin=10.0)

    assert np.isfinite(tape.gradient(y, x).numpy()).all()


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_unshuffling_undoes_a_shuffle(data_format):
    x = SMALL if data_format == "channels_last" else channels_first(SMALL)

    y = nn.pixel_shuffle(x, 2, data_format=data_format)

    assert np.array_equal(nn.pixel_unshuffle(y, 2, data_format=data_format).numpy(), x)


def test_a_convolution_is_a_product_with_windows():
    kernel = values((3, 2, 3, 5), -1.0, 1.0)
    options = {"stride": (2, 1), "padding": "same"}

    windows = nn.unfold(IMAGES, (3, 2), **options)
    product = windows @ dg.asarray(kernel.reshape(-1, 5))

    np.testing.assert_allclose(
        product.numpy(), nn.conv(IMAGES, kernel, **options).numpy(), rtol=1e-12, atol=1e-12
    )


def test_folding_windows_counts_how_many_cover_each_pixel():
    options = {"stride": 2, "padding": 1, "dilation": 1}
    ones = np.ones_like(IMAGES)

    both = [nn.fold(nn.unfold(x, 3, **options), (5, 6), 3, **options) for x in (IMAGES, ones)]

    np.testing.assert_allclose((both[0] / both[1]).numpy(), IMAGES, rtol=1e-12)


def test_a_class_that_is_drawn_softly_is_the_one_drawn_hard_with_its_gradients():
    logits = dg.asarray(values((4, 5), -1.0, 1.0))
    seen = {}
    for hard in (False, True):
        generator = dg.random.Generator(5)
        with dg.GradientTape() as tape:
            tape.watch(logits)
            y = nn.gumbel_softmax(logits, generator=generator, temperature=0.7, hard=hard, axis=0)
            loss = dg.sum(y * values((4, 5), 0.5, 1.5))
        seen[hard] = y.numpy(), tape.gradient(loss, logits).numpy()

    soft, hard = seen[False], seen[True]
    np.testing.assert_allclose(soft[0].sum(0), 1, rtol=1e-12)
    np.testing.assert_allclose(hard[0], soft[0] == soft[0].max(0), atol=1e-15)
    assert np.array_equal(soft[1], hard[1])


def test_classes_are_drawn_with_the_probabilities_of_the_softmax():
    logits = np.log([0.1, 0.2, 0.7])

    drawn = nn.gumbel_softmax(
        np.tile(logits, (20_000, 1)), generator=dg.random.Generator(1), temperature=5.0, hard=True
    )

    # 4.5 standard errors of a share: 4.5 / 2 / sqrt(20000).
    np.testing.assert_allclose(drawn.numpy().mean(0), [0.1, 0.2, 0.7], atol=0.016)


REFUSED = {
    "both rates": (
        lambda: nn.poisson_negative_log_likelihood(targets=COUNTS, rates=A, log_rates=A),
        ValueError,
        "got both",
    ),
    "no rates": (
        lambda: nn.poisson_negative_log_likelihood(targets=COUNTS),
        ValueError,
        "got none",
    ),
    "a method": (lambda: nn.resize(IMAGES, 3, method="cubic"), ValueError, "'cubic'"),
    "no pixels": (lambda: nn.resize(IMAGES[:, :0], 3), errors.ShapeError, "without pixels"),
    "no images": (lambda: nn.resize(A, 3), errors.ShapeError, "batch axis"),
    "channels": (lambda: nn.pixel_shuffle(IMAGES, 2), errors.ShapeError, "a multiple of 4"),
    "pixels": (lambda: nn.pixel_unshuffle(IMAGES, 2), errors.ShapeError, "multiples of 2"),
    "a factor": (lambda: nn.pixel_shuffle(IMAGES, 0), ValueError, "factor is 0"),
    "a line": (lambda: nn.pixel_shuffle(LINES, 2), errors.ShapeError, "four axes"),
    "a large window": (lambda: nn.unfold(IMAGES, 7), errors.ShapeError, "no window"),
    "other patches": (
        lambda: nn.fold(IMAGES, (9, 9), 2),
        errors.ShapeError,
        r"expected \(8, 8\) windows",
    ),
    "one length": (lambda: nn.fold(IMAGES, (9,), 2), errors.ShapeError, "expected 2 lengths"),
    "a temperature": (
        lambda: nn.gumbel_softmax(A, generator=dg.random.Generator(0), temperature=0),
        ValueError,
        "temperature is 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    call, error, message = REFUSED[case]

    with pytest.raises(error, match=message):
        call()
