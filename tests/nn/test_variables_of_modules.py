"""What was found below a module is kept for the next step, and any change of it is noticed."""

import copy
import gc
import weakref

import numpy as np
import pytest

import distgrad as dg
from distgrad.nn.module_tree import variables_of, walk


class Holder(dg.nn.Module):
    """Modules and variables in every place where they are found."""

    def __init__(self):
        self.first = dg.nn.Dense(3)
        self.many = [dg.nn.Dense(2), {"scale": dg.Variable(1.0), "more": (dg.Variable(2.0), 5)}]
        self.stack = dg.nn.Sequential(dg.nn.Dense(2), dg.nn.relu, dg.nn.Dense(2))
        self.note = None

    def call(self, x):
        return self.stack(self.many[0](self.first(x)))


def found(module):
    """Return the identities of the variables as training asks for them."""
    return [id(variable) for variable in variables_of(module)]


def walked(module):
    """Return the same by the way that also gives paths, which keeps nothing."""
    return [id(item) for _, item in walk(module, "") if isinstance(item, dg.Variable)]


@pytest.fixture
def model():
    made = Holder().build(np.ones((1, 4), np.float32))
    assert found(made) == walked(made)
    assert made._module.outline is not None  # what these tests are about
    assert found(made) == walked(made)
    return made


def set_attribute(model):
    model.note = dg.Variable(3.0)


def set_attribute_below(model):
    model.stack.layers[0].kernel = dg.Variable(np.ones((4, 2)))


def add_attribute_below(model):
    model.stack.layers[2].more = dg.Variable(3.0)


def delete_attribute(model):
    del model.first


def append_to_layers(model):
    model.stack.layers.append(dg.nn.Dense(1).build(np.ones((1, 2))))


def put_into_dict(model):
    model.many[1]["new"] = dg.Variable(4.0)


def replace_in_list(model):
    model.many[0] = dg.nn.Dense(5).build(np.ones((1, 2)))


def swap_attributes(model):
    model.first, model.stack = model.stack, model.first


CHANGES = [
    *(set_attribute, set_attribute_below, add_attribute_below, delete_attribute),
    *(append_to_layers, put_into_dict, replace_in_list, swap_attributes),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_anywhere_below_is_noticed(change, model):
    before, held = found(model), variables_of(model)  # whose identities nobody gets meanwhile
    change(model)
    assert found(model) == walked(model) == found(model)
    assert found(model) != before == [id(variable) for variable in held]


def test_freezing_shows_without_a_change_of_attributes(model):
    model.first.trainable = False
    assert not {v.key for v in model.first.variables} & {v.key for v in model.trainable_variables}
    model.first.trainable = True
    assert len(model.trainable_variables) == len(model.variables)


def test_the_list_of_a_call_is_the_callers_own(model):
    model.variables.clear()
    variables_of(model).clear()
    assert found(model) == walked(model) != []


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_a_copy_looks_for_itself(copied, model):
    twin = copied(model)
    twin.note = dg.Variable(7.0)
    assert id(twin.note) in found(twin) == walked(twin)
    assert id(twin.note) not in found(model) == walked(model)


def test_a_deep_copy_follows_changes_of_its_own_parts(model):
    twin = copy.deepcopy(model)
    variables_of(twin)
    twin.stack.layers[0].kernel = dg.Variable(np.ones((4, 2)))
    assert found(twin) == walked(twin)


def test_a_record_that_was_copied_holds_nothing_of_the_first(model):
    record = copy.deepcopy(model._module)
    assert record.outline is None
    assert (record.path, record.seed) == (model._module.path, model._module.seed)


def test_a_model_is_freed_with_its_last_name():
    gc.disable()  # nothing may refer back to it
    try:
        model = dg.nn.Sequential(dg.nn.Dense(2), dg.nn.Dense(1)).build(np.ones((1, 3)))
        variables_of(model)
        assert model._module.outline is not None
        gone = weakref.ref(model), weakref.ref(model.layers[0])
        del model
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


def test_arrays_among_the_attributes_are_not_kept_for_a_step_longer():
    class Keeper(dg.nn.Module):
        def __init__(self):
            self.dense = dg.nn.Dense(2)

        def call(self, x):
            self.last = self.dense(x)
            return self.last

    model = Keeper().build(np.ones((1, 3), np.float32))
    assert len(variables_of(model)) == 2  # which looks
    gone = weakref.ref(model.last)
    model(np.ones((1, 3), np.float32))
    assert gone() is None
