"""An operation as a value: what it says of itself, and what it leaves open."""

import dataclasses

import pytest

from distgrad.core import Keep, Kind, Op, Slice, Spec


def identity_spec(x):
    return x


def test_an_operation_says_its_name():
    assert repr(Op("halve", Kind.ELEMENTWISE, identity_spec)) == "<op halve>"


def test_an_operation_without_rules_keeps_inputs_and_has_one_output():
    op = Op("halve", Kind.ELEMENTWISE, identity_spec)

    assert (op.vjp, op.jvp, op.compose) == (None, None, None)
    assert op.keep is Keep.INPUTS
    assert op.outputs == 1


def test_operations_are_told_apart_by_identity_and_can_be_keys():
    first, second = (Op("halve", Kind.ELEMENTWISE, identity_spec) for _ in range(2))

    assert first != second
    assert {first: 1}.get(second) is None


def test_an_operation_does_not_change():
    op = Op("halve", Kind.ELEMENTWISE, identity_spec)

    with pytest.raises(dataclasses.FrozenInstanceError):
        op.name = "other"


def test_a_spec_counts_its_axes():
    assert Spec((3, 4), "float32").ndim == 2
    assert Spec((), "float32").ndim == 0


def test_a_slice_in_metadata_is_hashable():
    # Python 3.11's own slice is not.
    assert hash((Slice(0, 3, None), 1)) == hash((Slice(0, 3, None), 1))
    assert slice(*Slice(1, None, 2)) == slice(1, None, 2)
