"""Targets and sources: nests of any shape, repeated, unconnected, of the wrong kind."""

import collections
import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import UnconnectedError


class Pair(NamedTuple):
    """A named tuple of two values."""

    left: Any
    right: Any


@dataclasses.dataclass(frozen=True)
class Model:
    """A frozen dataclass that holds values and a list of them."""

    weight: Any
    layers: Any


def product_of(*factors):
    """Return a tape that has recorded a product, and the product."""
    with dg.GradientTape(persistent=True) as tape:
        result = factors[0]
        for factor in factors[1:]:
            result = result * factor
    return tape, result


# --- the structure of sources ---------------------------------------------------------------------


def test_one_source_gives_one_gradient():
    x = dg.Variable(3.0)
    tape, y = product_of(x, x)

    assert isinstance(tape.gradient(y, x), dg.Tensor)


def test_the_result_has_the_structure_of_the_sources():
    x, y, z = dg.Variable(2.0), dg.Variable(3.0), dg.Variable(5.0)
    tape, p = product_of(x, y, z)
    as_tuple = tape.gradient(p, (x, y))
    as_dict = tape.gradient(p, {"a": x, "b": [y, (z,)]})
    as_named = tape.gradient(p, Pair(x, z))

    assert type(as_tuple) is tuple
    assert [float(g) for g in as_tuple] == [15.0, 10.0]
    assert float(as_dict["a"]) == 15.0
    assert float(as_dict["b"][1][0]) == 6.0
    assert type(as_dict["b"][1]) is tuple
    assert type(as_named) is Pair
    assert (float(as_named.left), float(as_named.right)) == (15.0, 6.0)


def test_a_dataclass_of_sources_gives_a_dataclass_of_gradients():
    x, y = dg.Variable(2.0), dg.Variable(3.0)
    tape, p = product_of(x, y)
    gradients = tape.gradient(p, Model(weight=x, layers=[y, None]))

    assert type(gradients) is Model
    assert float(gradients.weight) == 3.0
    assert float(gradients.layers[0]) == 2.0
    assert gradients.layers[1] is None


def test_the_keys_of_a_dict_keep_their_order():
    x, y = dg.Variable(2.0), dg.Variable(3.0)
    tape, p = product_of(x, y)
    gradients = tape.gradient(p, {"zebra": x, "ant": y})
    ordered = tape.gradient(p, collections.OrderedDict(zebra=x, ant=y))

    assert list(gradients) == ["zebra", "ant"]
    assert (float(gradients["zebra"]), float(gradients["ant"])) == (3.0, 2.0)
    assert type(ordered) is collections.OrderedDict
    assert list(ordered) == ["zebra", "ant"]


def test_none_among_the_sources_stays_none():
    x = dg.Variable(2.0)
    tape, p = product_of(x, x)
    gradients = tape.gradient(p, [None, x, {"nothing": None}])

    assert gradients[0] is None
    assert float(gradients[1]) == 4.0
    assert gradients[2] == {"nothing": None}


def test_no_sources_give_no_gradients():
    tape, p = product_of(dg.Variable(2.0), 3.0)

    assert tape.gradient(p, []) == []
    assert tape.gradient(p, {}) == {}


def test_a_repeated_source_gets_the_full_gradient_each_time():
    x = dg.Variable(3.0)
    tape, y = product_of(x, x)

    assert [float(g) for g in tape.gradient(y, [x, x])] == [6.0, 6.0]


def test_values_computed_on_the_tape_can_be_sources():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = x * x
        z = y * y
        w = z * y
    gradients = tape.gradient(w, [z, y, x])

    # w = y^3 as a function of y = x^2, and w = z y with z = y^2.
    assert [float(g) for g in gradients] == [9.0, 243.0, 1458.0]


def test_a_source_that_comes_after_the_target_is_unconnected():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = x * x
        z = y * y

    assert tape.gradient(y, z) is None


# --- targets --------------------------------------------------------------------------------------


def test_the_elements_of_a_target_are_summed():
    x = dg.Variable([1.0, 2.0, 3.0])
    tape, y = product_of(x, x)

    assert tape.gradient(y, x).numpy().tolist() == [2.0, 4.0, 6.0]


def test_several_targets_are_summed():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y, z = x * x, x * 10.0

    assert float(tape.gradient({"a": y, "b": [z, None]}, x)) == 16.0


def test_a_target_named_twice_counts_twice():
    x = dg.Variable(3.0)
    tape, y = product_of(x, x)

    assert float(tape.gradient([y, y], x)) == 12.0


def test_a_target_that_is_part_of_another_is_walked_right():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = x * x
        z = y * y

    assert float(tape.gradient([z, y], x)) == 108.0 + 6.0


def test_a_target_that_is_the_source_contributes_one():
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        y = x * x

    assert float(tape.gradient(x, x)) == 1.0
    assert float(tape.gradient([x, y], x)) == 7.0
    assert float(tape.gradient(y, y)) == 1.0
    assert float(tape.gradient(y, y, output_gradients=5.0)) == 5.0


def test_a_value_is_its_own_source_even_where_no_tape_watches_it():
    x = dg.asarray([1.0, 2.0, 3.0])
    with dg.GradientTape() as tape:
        pass

    assert tape.gradient(x, x).numpy().tolist() == [1.0, 1.0, 1.0]


def test_another_name_for_the_same_tensor_is_the_same_source():
    x = dg.asarray(3.0)
    with dg.GradientTape() as tape:
        tape.watch(x)
        y = x

    assert float(tape.gradient(y, x)) == 1.0


@pytest.mark.parametrize(
    "function",
    [lambda x: x + 0.0, lambda x: x * 1.0, lambda x: x - 0.0, lambda x: +x, dg.positive],
    ids=["+ 0", "* 1", "- 0", "unary +", "positive"],
)
def test_an_operation_that_changes_nothing_gives_a_new_value(function):
    x = dg.asarray(3.0)
    with dg.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = function(x)
        z = y * y

    assert float(tape.gradient(y, x)) == 1.0
    assert tape.gradient(x, y) is None
    assert [float(g) for g in tape.gradient(z, [x, y])] == [6.0, 6.0]


def test_no_targets_give_no_gradients():
    x = dg.Variable(3.0)
    tape, _ = product_of(x, x)

    assert tape.gradient([], x) is None


def test_an_empty_array_has_an_empty_gradient():
    x = dg.Variable(np.ones((0, 3), "float32"))
    tape, y = product_of(x, x)

    assert tape.gradient(y, x).shape == (0, 3)


# --- the wrong kind -------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [3.0, np.ones(3), "text"], ids=lambda w: type(w).__name__)
def test_a_target_or_source_that_is_no_tensor_is_named_with_the_remedy(wrong):
    x = dg.Variable(3.0)
    tape, y = product_of(x, x)
    name = type(wrong).__name__

    with pytest.raises(TypeError, match=rf"target 1 is a {name}.*dg\.asarray"):
        tape.gradient([y, wrong], x)
    with pytest.raises(TypeError, match=rf"source 0 is a {name}.*dg\.asarray"):
        tape.gradient(y, wrong)


def test_no_target_or_no_sources_at_all_is_refused_in_tensorflows_words():
    x = dg.Variable(3.0)
    tape, y = product_of(x, x)

    with pytest.raises(TypeError, match="Argument `target` should be a list or nested structure"):
        tape.gradient(None, x)
    with pytest.raises(TypeError, match=r"`sources` should be .* received None"):
        tape.gradient(y, None)


# --- unconnected sources --------------------------------------------------------------------------


def test_an_unconnected_source_is_none_or_zeros_of_its_shape_and_dtype():
    x, y = dg.Variable(3.0), dg.Variable(np.ones((3, 4), "float16"))
    tape, z = product_of(x, x)
    by_enum = tape.gradient(z, y, unconnected_gradients=dg.UnconnectedGradients.ZERO)
    gradients = tape.gradient(z, [x, y], unconnected_gradients="zero")

    assert tape.gradient(z, y) is None
    assert tape.gradient(z, y, unconnected_gradients="none") is None
    assert float(gradients[0]) == 6.0
    for zeros in (gradients[1], by_enum):
        assert (zeros.shape, zeros.dtype) == ((3, 4), np.float16)
        assert not zeros.numpy().any()


def test_an_unknown_policy_is_refused_in_tensorflows_words():
    x = dg.Variable(3.0)
    tape, y = product_of(x, x)

    with pytest.raises(ValueError, match="Unknown value for unconnected_gradients: 'nonsense'"):
        tape.gradient(y, x, unconnected_gradients="nonsense")


def test_an_unconnected_source_can_be_an_error_that_names_it():
    x, lost = dg.Variable(3.0), dg.Variable(2.0, name="encoder/bias")
    tape, y = product_of(x, x)

    with pytest.raises(UnconnectedError, match=r"source 1, variable 'encoder/bias'.*was not read"):
        tape.gradient(y, [x, lost], unconnected_gradients="error")


def test_the_error_for_an_integer_source_names_its_dtype():
    x = dg.Variable(3)
    tape, y = product_of(x, dg.Variable(2.0))

    with (
        pytest.warns(UserWarning, match="int64"),
        pytest.raises(UnconnectedError, match=r"int64.*floating dtype"),
    ):
        tape.gradient(y, x, unconnected_gradients="error")


def test_the_error_for_a_target_that_the_tape_does_not_know_says_so():
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        x * x
    outside = x * x

    with pytest.raises(UnconnectedError, match="computed after the tape's block was left"):
        tape.gradient(outside, x, unconnected_gradients="error")


def test_a_connected_source_is_no_error():
    x = dg.Variable(3.0)
    tape, y = product_of(x, x)

    assert float(tape.gradient(y, x, unconnected_gradients="error")) == 6.0
