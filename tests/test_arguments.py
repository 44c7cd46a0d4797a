"""Arguments of all sorts: those that are taken, and what is said of those that are not."""

import array

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn

MATRIX = np.arange(1.0, 7.0).reshape(2, 3)

OVER_AXES = {
    "sum": dg.sum,
    "mean": dg.mean,
    "prod": dg.prod,
    "max": dg.max,
    "min": dg.min,
    "var": dg.var,
    "std": dg.std,
    "logsumexp": dg.logsumexp,
    "vector_norm": dg.linalg.vector_norm,
}


@pytest.mark.parametrize("name", OVER_AXES)
@pytest.mark.parametrize("axis", [np.int64(1), np.array(1), [0, 1], (np.int8(0), 1)], ids=repr)
def test_an_axis_may_be_an_integer_of_numpys_or_a_list(name, axis):
    f = OVER_AXES[name]
    plain = axis if isinstance(axis, (tuple, list)) else int(axis)
    plain = tuple(map(int, plain)) if isinstance(plain, (tuple, list)) else plain

    gradient = dg.grad(lambda x: dg.sum(f(x, axis=axis)))(MATRIX)

    expected = dg.grad(lambda x: dg.sum(f(x, axis=plain)))(MATRIX)
    np.testing.assert_array_equal(gradient.numpy(), expected.numpy())


def test_a_layer_norm_and_a_traced_sum_take_numpys_integers():
    axis = np.int64(-1)

    assert dg.grad(lambda x: dg.sum(nn.layer_norm(x, axis=axis) ** 3))(MATRIX).shape == (2, 3)
    assert dg.function(lambda x: dg.sum(x, axis=[np.int64(0), 1]))(MATRIX).tolist() == 21.0


@pytest.mark.parametrize("axis", [1.0, "a", 2j], ids=repr)
@pytest.mark.parametrize(
    "f",
    [dg.sum, dg.max, dg.softmax, dg.cumulative_sum, dg.flip, dg.expand_dims, dg.argmax, nn.glu],
    ids=lambda f: f.__name__,
)
def test_an_axis_that_is_no_integer_is_refused_by_name(f, axis):
    with pytest.raises(TypeError, match=rf"{f.__name__}: axis is .*; expected an integer"):
        f(dg.asarray(MATRIX), axis=axis)


LISTS = {
    "inner": lambda x: dg.inner(x, x),
    "tensordot": lambda x: dg.tensordot(x, x, axes=1),
    "vecdot": lambda x: dg.vecdot(x, x),
    "fft": lambda x: dg.real(dg.fft.fft(x)),
    "rfftn": lambda x: dg.real(dg.fft.rfftn(x)),
    "irfft": dg.fft.irfft,
    "fftshift": dg.fft.fftshift,
    "full_like": lambda x: dg.full_like(x, 2.0),
    "layer_norm": nn.layer_norm,
    "rms_norm": nn.rms_norm,
    "special.softmax": dg.special.softmax,
    "glu": nn.glu,
}


@pytest.mark.parametrize("name", LISTS)
def test_nested_lists_are_taken_where_tensors_are(name):
    values = [1.0, 2.0, 4.0, 8.0]

    np.testing.assert_array_equal(
        LISTS[name](values).numpy(), LISTS[name](dg.asarray(values)).numpy()
    )


@pytest.mark.parametrize("name", LISTS)
def test_a_string_is_refused_where_a_tensor_is_wanted(name):
    with pytest.raises((dg.errors.DistgradError, TypeError), match="expected"):
        LISTS[name]("abc")


def test_ranges_and_buffers_become_tensors():
    assert dg.asarray(range(3)).tolist() == [0, 1, 2]
    assert dg.asarray(range(3)).dtype == dg.int64
    assert dg.asarray(array.array("f", [1.0, 2.0])).dtype == dg.float32
    assert dg.asarray(memoryview(np.arange(3.0))).tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(dg.errors.DTypeError, match="value is a bytes"):
        dg.asarray(b"abc")


def test_numpys_integers_count_as_integers():
    assert dg.arange(np.int64(3)).dtype == dg.int64
    assert dg.roll(dg.asarray([1, 2, 3]), np.int64(1)).tolist() == [3, 1, 2]
    assert dg.broadcast_to(dg.asarray(1.0), 3).shape == (3,)
    assert dg.permute_dims(MATRIX, [1, 0]).shape == (3, 2)
    assert nn.max_pool(np.ones((1, 4, 4, 1)), np.int64(2)).shape == (1, 2, 2, 1)


IMAGES, KERNEL = np.ones((1, 8, 8, 3)), np.ones((3, 3, 3, 4))

REFUSED = {
    "zeros: length": (lambda: dg.zeros((2, 1.5)), "shape is 1.5; expected an integer"),
    "zeros: negative": (lambda: dg.zeros(-1), "expected lengths of 0 or more"),
    "reshape": (lambda: dg.reshape(MATRIX, (3.0, 2)), "reshape: shape is 3.0; expected an integer"),
    "arange": (lambda: dg.arange("a"), "arange: stop is 'a'; expected a real number"),
    "linspace": (lambda: dg.linspace(0, 1, 2.5), "linspace: num is 2.5; expected an integer"),
    "eye": (lambda: dg.eye("a"), "eye: n_rows is 'a'; expected an integer"),
    "eye: negative": (lambda: dg.eye(2, -1), r"eye: shape is \(2, -1\); expected lengths of 0"),
    "tril": (lambda: dg.tril(MATRIX, k=0.5), "tril: k is 0.5; expected an integer"),
    "roll": (lambda: dg.roll(MATRIX, 1.5), "roll: shift is 1.5; expected an integer"),
    "moveaxis": (lambda: dg.moveaxis(MATRIX, 0.0, 1), "moveaxis: source is 0.0"),
    "diff": (lambda: dg.diff(MATRIX, n=1.5), "diff: n is 1.5; expected an integer"),
    "stack": (lambda: dg.stack(3), "stack: arrays is of type int; expected a list or tuple"),
    "stack of none": (lambda: dg.stack([]), "stack: arrays is empty"),
    "concat": (lambda: dg.concat(3.5), "concat: arrays is of type float"),
    "fft length": (lambda: dg.fft.fft(MATRIX, "a"), "fft: n is 'a'; expected an integer"),
    "fftn axes": (lambda: dg.fft.fftn(MATRIX, axes=1), "fftn: axes is 1; expected a tuple"),
    "fft norm": (lambda: dg.fft.fft(MATRIX, norm=[1]), "expected 'backward', 'ortho' or 'forward'"),
    "conv stride": (lambda: nn.conv(IMAGES, KERNEL, stride=2.5), "stride is 2.5; expected a posit"),
    "conv stride, text": (lambda: nn.conv(IMAGES, KERNEL, stride="a"), "stride is 'a'; expected"),
    "conv padding": (lambda: nn.conv(IMAGES, KERNEL, padding=1.5), "padding is 1.5; expected"),
    "max_pool": (lambda: nn.max_pool(IMAGES, 2.5), "max_pool: window is 2.5; expected a positive"),
    "elu": (lambda: nn.elu(MATRIX, alpha="a"), "elu: alpha is 'a'; expected a number above 0"),
    "one_hot": (lambda: dg.one_hot([0, 1], "a"), "one_hot: classes is 'a'; expected an integer"),
    "one_hot labels": (lambda: dg.one_hot([0.5], 2), "labels have dtype float64; expected integ"),
    "eigh": (lambda: dg.linalg.eigh(np.eye(2), UPLO=1), "UPLO is 1; expected 'L' or 'U'"),
    "lstsq": (lambda: dg.linalg.lstsq(MATRIX, 2.0), "lstsq: .* expected, got"),
    "smoothing": (
        lambda: nn.softmax_cross_entropy(labels=[0], logits=MATRIX[:1], smoothing="a"),
        "smoothing is 'a'; expected 0 to 1",
    ),
    "a large number": (lambda: dg.asarray(10**30), "does not fit int64; give a dtype"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_message_names_the_argument_what_came_and_what_was_expected(name):
    call, message = REFUSED[name]
    with pytest.raises((TypeError, ValueError, OverflowError), match=message):
        call()


def test_labels_do_not_make_a_loss_larger_than_its_logits():
    column = np.zeros((4, 1))

    with pytest.raises(dg.errors.ShapeError, match=r"labels have shape \(4,\), logits \(4, 1\)"):
        nn.sigmoid_cross_entropy(labels=np.ones(4), logits=column)
    assert nn.sigmoid_cross_entropy(labels=1.0, logits=column).shape == (4, 1)


def test_floating_classes_are_not_taken_for_probabilities():
    with pytest.raises(dg.errors.ShapeError, match="classes as integers"):
        nn.softmax_cross_entropy(labels=np.array([0.0, 1.0]), logits=np.ones((2, 2)))


def test_an_array_does_not_swallow_a_tensor_in_place():
    total, t = np.zeros(2), dg.asarray([1.0, 2.0])

    with dg.GradientTape() as tape:
        tape.watch(t)
        with pytest.raises(TypeError, match=r"write a = a \+ t"):
            total += t


def test_divmod_is_differentiated():
    x = dg.Variable([5.0, 7.5])
    with dg.GradientTape() as tape:
        whole, rest = divmod(x, 2.0)

    assert whole.tolist() == [2.0, 3.0]
    assert rest.tolist() == [1.0, 1.5]
    assert tape.gradient(rest, x).tolist() == [1.0, 1.0]
    assert [part.tolist() for part in divmod(9.0, dg.asarray([4.0]))] == [[2.0], [1.0]]


@pytest.mark.parametrize("f", [nn.softmax_cross_entropy, nn.sigmoid_cross_entropy])
def test_labels_and_logits_without_a_name_are_asked_for_by_name(f):
    labels, logits = np.array([[0.0, 1.0]]), np.ones((1, 2))

    with pytest.raises(TypeError, match=r"'labels' and 'logits'"):
        f(labels, logits)
    with pytest.raises(TypeError, match=r"given by position; .*labels=\.\.\., logits=\.\.\."):
        f(logits, labels=labels, logits=logits)


def test_an_error_of_numpys_names_the_operation_and_its_operands():
    message = r"^remainder of complex64\[1\], 2: ufunc 'remainder' not supported"

    with pytest.raises(TypeError, match=message) as caught:
        dg.asarray([1j]) % 2

    assert type(caught.value) is TypeError
    assert isinstance(caught.value.__cause__, TypeError)
    assert "remainder" in str(caught.value.__cause__)
    with pytest.raises(TypeError) as nested:
        dg.vmap(lambda x: x % 2)(dg.asarray([[1j]]))
    assert str(nested.value).count("remainder of") == 1


MASKED = np.ma.masked_array([1.0, 2.0, 3.0], mask=[False, True, False])


@pytest.mark.parametrize(
    "take",
    [
        dg.asarray,
        dg.Variable,
        dg.sum,
        lambda x: dg.asarray([1.0] * 3) + x,
        lambda x: dg.asarray([x]),
    ],
)
def test_masked_elements_are_refused_with_a_remedy(take):
    with pytest.raises(dg.errors.DTypeError, match=r"1 of 3 elements masked; .*value\.filled\(0\)"):
        take(MASKED)


@pytest.mark.parametrize("make", [dg.asarray, dg.Variable])
def test_the_matrix_product_of_a_numpy_matrix_is_not_taken_for_one_of_elements(make):
    with pytest.warns(PendingDeprecationWarning):
        m = np.matrix([[1.0, 2.0], [3.0, 4.0]])
    t = make([[1.0, 1.0], [0.0, 2.0]])

    with pytest.raises(dg.errors.DTypeError, match=r"whose [*] is the matrix product.* t @ m is"):
        t * m
    with pytest.raises(dg.errors.DTypeError, match=r"whose [*] is the matrix product.* m @ t is"):
        m * t
    assert (m @ t).tolist() == [[1.0, 5.0], [3.0, 11.0]]
    assert (t * np.asarray(m)).tolist() == (m.A * t).tolist() == [[1.0, 2.0], [0.0, 8.0]]


def test_a_masked_array_without_masked_elements_is_an_array():
    whole = np.ma.masked_array([1.0, 2.0], mask=[False, False])

    assert dg.asarray(whole).tolist() == [1.0, 2.0]
    assert type(dg.asarray(whole).array) is np.ndarray
    assert dg.asarray(MASKED.filled(0)).tolist() == [1.0, 0.0, 3.0]
