"""Nests: flattened in a fixed order, rebuilt as they were."""

import collections
import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import distgrad as dg
from distgrad import tree
from distgrad.errors import DTypeError


class Point(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass
class Layer:
    weight: Any
    bias: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    value: float

    def __post_init__(self):
        if self.value is None:
            raise ValueError("value must be given")


def test_leaves_come_in_the_order_of_lists_and_sorted_keys():
    leaves, _ = tree.flatten({"b": [3, 4], "a": (1, Point(2, 5))})

    assert leaves == [1, 2, 5, 3, 4]


def test_equal_dicts_flatten_alike_however_they_were_filled():
    first, _ = tree.flatten({"weight": 1, "bias": 2})
    second, _ = tree.flatten({"bias": 2, "weight": 1})

    assert first == second == [2, 1]


def test_a_rebuilt_dict_keeps_the_order_of_its_keys():
    leaves, treedef = tree.flatten({"zebra": 1, "ant": 2})
    rebuilt = tree.unflatten(treedef, leaves)

    assert list(rebuilt.items()) == [("zebra", 1), ("ant", 2)]


def test_none_is_an_empty_nest():
    leaves, treedef = tree.flatten([None, 1, (None,)])

    assert leaves == [1]
    assert tree.unflatten(treedef, [7]) == [None, 7, (None,)]


def test_a_single_value_is_a_leaf():
    leaves, treedef = tree.flatten(3)

    assert leaves == [3]
    assert tree.unflatten(treedef, [4]) == 4


@pytest.mark.parametrize(
    "nest",
    [
        [1, [2, 3]],
        (1, (2,), ()),
        {"a": 1, "b": {"c": 2}},
        Point(1, [2, 3]),
        Layer(1, Layer(2, 3)),
        collections.OrderedDict(b=1, a=2),
        collections.defaultdict(list, {"b": 1, "a": 2}),
        collections.deque([1, 2]),
        [],
        {},
    ],
    ids=repr,
)
def test_a_nest_is_rebuilt_with_its_own_types(nest):
    leaves, treedef = tree.flatten(nest)
    rebuilt = tree.unflatten(treedef, leaves)

    assert rebuilt == nest
    assert type(rebuilt) is type(nest)


def test_a_dataclass_is_rebuilt_around_its_checks():
    # A structure of gradients may hold None where a field is validated.
    leaves, treedef = tree.flatten(Checked(1.0))

    assert leaves == [1.0]
    assert tree.unflatten(treedef, [None]).value is None


def test_dataclasses_inside_other_nests_are_found():
    leaves, treedef = tree.flatten({"layers": [Layer(1, 2), Layer(3)], "head": (Layer(4, 5),)})

    assert leaves == [4, 5, 1, 2, 3]
    assert tree.unflatten(treedef, leaves)["layers"][1] == Layer(3)


def test_two_dataclasses_of_one_name_are_told_apart():
    def make():
        @dataclasses.dataclass
        class Local:
            value: Any

        return Local

    first, second = make(), make()
    leaves, treedef = tree.flatten([first(1), second(2)])
    rebuilt = tree.unflatten(treedef, leaves)

    assert [type(each) for each in rebuilt] == [first, second]


def test_a_dataclass_type_is_a_leaf():
    assert tree.flatten(Layer)[0] == [Layer]


def test_map_keeps_the_structure_and_takes_several_nests():
    nest = {"a": [1, 2], "b": Point(3, None)}
    sums = tree.map(lambda x, y: x + y, nest, nest)

    assert sums == {"a": [2, 4], "b": Point(6, None)}


def test_map_refuses_nests_of_unlike_structure():
    with pytest.raises(ValueError, match=r"(?i)expected|mismatch|structure"):
        tree.map(lambda x, y: x + y, [1, 2], [1, 2, 3])


def test_every_leaf_has_a_readable_path():
    nest = {"encoder": [Layer(1, 2)], "head": Point(3, (4,))}

    assert tree.paths(nest) == [
        "encoder/0/weight",
        "encoder/0/bias",
        "head/x",
        "head/y/0",
    ]
    assert tree.flatten(nest)[0] == [1, 2, 3, 4]


NESTS = st.recursive(
    st.integers() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.builds(Point, inner, inner)
        | st.builds(Layer, inner, inner)
    ),
    max_leaves=12,
)


@given(NESTS)
def test_any_nest_survives_flattening(nest):
    leaves, treedef = tree.flatten(nest)

    assert tree.unflatten(treedef, leaves) == nest
    assert None not in leaves
    assert len(tree.paths(nest)) == len(leaves)


def nested(levels, leaf):
    nest = leaf
    for _ in range(levels):
        nest = [nest]
    return nest


def inside_itself():
    nest = []
    nest.append(nest)
    return nest


def recorded():
    with dg.GradientTape() as tape:
        tape.watch(X)
    return tape


X = dg.asarray([1.0, 2.0])
DEEP = {
    "gradient: target": lambda nest: recorded().gradient(nest, X),
    "gradient: sources": lambda nest: recorded().gradient(X, nest),
    "ForwardAccumulator: primals": lambda nest: dg.ForwardAccumulator(nest, nest),
    "grad: argument 0": dg.grad(lambda _: dg.sum(X)),
    "vjp: primals": lambda nest: dg.vjp(dg.sum, nest),
    "vmap: argument 0": dg.vmap(lambda _: X),
    "Function: argument 0": dg.function(lambda _: X),
    "while_loop: initial": lambda nest: dg.while_loop(lambda _: False, lambda x: x, nest),
    "clip_by_global_norm: gradients": lambda nest: dg.optimizers.clip_by_global_norm(nest, 1.0),
    "lists of more than 64": dg.asarray,
    "an argument has more than 64": lambda nest: np.concatenate([X, nest]),
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("nest", [nested(2000, X), inside_itself()], ids=["deep", "in-itself"])
def test_a_nest_that_is_too_deep_is_named(name, nest):
    with pytest.raises((ValueError, DTypeError), match=name) as caught:
        DEEP[name](nest)

    assert "hold itself" in str(caught.value)


def test_a_hundred_levels_are_no_burden():
    leaves, structure = tree.flatten(nested(100, X))

    assert tree.unflatten(structure, leaves) == nested(100, X)


def test_a_function_that_calls_itself_without_end_is_not_blamed_on_a_nest():
    def endless(x):
        return endless(x)

    with pytest.raises(RecursionError):
        tree.map(endless, [X])
