"""`Function.explain` says what was traced, what simplifying did, and what runs."""

import numpy as np
import pytest

import distgrad as dg

X = dg.asarray([1.0, 2.0, 3.0])


def test_each_trace_says_what_it_holds_and_what_was_done():
    w = dg.Variable([2.0, 2.0, 2.0], name="weight")
    table = np.arange(3, dtype=np.float32)

    @dg.function
    def f(x):
        dg.exp(x)
        y = dg.sin(x) * 1.0 + dg.sin(x)
        w.assign_add(y)
        return y * w + table

    f(X)
    (trace,) = f.explain().traces

    assert trace.inputs == ("float32[3]",)
    assert trace.variables == ("weight float32[3]",)
    assert trace.assigned == 1
    assert (trace.constants, trace.constant_bytes) == (1, 12)
    assert trace.operations == 5
    assert [note.split(" (")[0] for note in trace.merged] == ["sin"]
    assert "test_explanation.py:" in trace.merged[0]
    assert [note.split(" (")[0] for note in trace.dropped] == ["exp"]
    assert [note.split(" (")[0] for note in trace.reduced] == ["multiply"]
    assert trace.backward == ""
    assert trace.changed == ""


def test_the_memory_of_a_chain_is_that_of_two_results():
    f = dg.function(lambda x: dg.exp(dg.sin(dg.cos(dg.tanh(x)))))
    f(X)

    (trace,) = f.explain().traces
    assert trace.peak_bytes == 2 * 12
    assert trace.places == 1  # each result takes the place of its operand


def test_the_backward_pass_is_described_once_there_is_one():
    f = dg.function(lambda x: dg.sum(dg.sin(x) * x))
    dg.grad(f)(X)

    text = f.explain().traces[0].backward
    assert "operations; the forward pass, of" in text
    assert "keeps 2 arrays, 24 bytes" in text  # x is the caller's, sin(x) and cos(x) or so are not


def test_what_changed_between_traces_is_named():
    f = dg.function(lambda x, n, *, flag="a": x * n)
    f(X, 1)
    f(X, 2)
    with pytest.warns(UserWarning, match="traced for the 3. time"):
        f(dg.asarray([1.0]), 2, flag="b")

    explanation = f.explain()
    assert explanation.traced == 3
    assert [trace.changed for trace in explanation.traces] == [
        "",
        "n: 1 became 2",
        "x: float32[3] became float32[1]; flag: 'a' became 'b'",
    ]


def test_the_text_is_for_readers():
    f = dg.function(lambda x: dg.sin(x) * x, name="f")
    f(X)

    assert str(f.explain()) == (
        "f: traced 1 time\n"
        "not fused: each operation is a call of the backend's own kernel, one by one\n"
        "trace 1\n"
        "  inputs: float32[3]; on numpy\n"
        "  constants: 0, 0 bytes\n"
        "  operations: 2, in 2 places, at most 24 bytes of results at a time\n"
        "  backward: not asked for yet"
    )


def test_a_captured_tensor_that_a_tape_follows_is_named():
    w = dg.asarray([1.0, 2.0, 3.0])
    f = dg.function(lambda x: dg.sum(x * w))
    with dg.GradientTape() as tape:
        tape.watch(w)
        f(X)

    assert f.explain().traces[0].captured == ("float32[3]",)
