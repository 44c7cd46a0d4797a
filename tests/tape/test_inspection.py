"""`tape.summary()` and `tape.graph()`: what a tape recorded, what that keeps, and how it hangs."""

import numpy as np

import distgrad as dg
from distgrad import debug

X = np.ones((3, 4), "float32")  # 48 bytes


def test_summary_counts_records_and_bytes_by_operation_the_largest_first():
    x = dg.Variable(X)
    with dg.GradientTape() as tape:
        y = dg.sum(dg.tanh(dg.tanh(dg.exp(x))))  # outputs of 48 bytes each
        dg.exp(y)

    found = tape.summary()

    assert found.records == 5
    assert [(o.name, o.records, o.nbytes, o.largest) for o in found.operations] == [
        ("tanh", 2, 96, 48),
        ("exp", 2, 52, 48),
        ("sum", 1, 0, 0),
    ]
    assert found.nbytes == 148


def test_array_kept_by_several_records_counts_once():
    x = dg.Variable(X)
    with dg.GradientTape() as tape:
        dg.sin(x) * dg.cos(x)

    assert tape.summary().nbytes == 48 + 2 * 48


def test_view_counts_with_the_whole_array_that_it_holds():
    x = dg.asarray(np.ones((100, 4), "float32"))
    with dg.GradientTape() as tape:
        tape.watch(x)
        dg.sin(x[:2])

    assert tape.summary().nbytes == 1600


def test_summary_of_several_outputs_and_of_another_backend(strict):
    x = dg.Variable(X, backend=strict)
    with dg.GradientTape() as tape:
        dg.sin(x)

    assert tape.summary().nbytes == 48


def test_tape_that_gave_its_gradient_keeps_nothing():
    x = dg.Variable(X)
    with dg.GradientTape() as tape:
        y = dg.sin(x)
    tape.gradient(y, x)

    assert str(tape.summary()) == "0 records keep 0 bytes"


def test_summary_reads_as_a_table():
    x = dg.Variable(X)
    with dg.GradientTape() as tape:
        dg.sum(dg.sin(x))

    first, head, *rows = str(tape.summary()).splitlines()

    assert first == "2 records keep 48 bytes"
    assert head.split() == ["operation", "records", "bytes", "largest"]
    assert [row.split() for row in rows] == [["sin", "1", "48", "48"], ["sum", "1", "0", "0"]]


def graphed():
    """Return the graph of a product of a variable and a watched tensor."""
    w, x = dg.Variable(X, name='a "w"'), dg.asarray(X)
    with debug.trace_lines(), dg.GradientTape() as tape:
        tape.watch(x)
        y = w * x
        dg.sum(y * 2.0)
    return tape.graph()


def test_graph_reads_as_a_program():
    rows = [row.partition("  ")[0] for row in str(graphed()).splitlines()]

    assert rows == [
        "%1 = variable 'a \"w\"' float32[3, 4]",
        "%2 = watched",
        "%3 = multiply(%1, %2)",
        "%4 = multiply(%3, constant)",
        "%5 = sum(%4)",
    ]


def test_graph_names_lines_and_bytes():
    text = str(graphed())

    assert "keeps 96 bytes  # test_inspection.py:" in text
    assert "y = w * x" in text


def test_graphviz_has_a_node_for_each_value_and_an_arrow_for_each_input():
    rows = graphed().dot().splitlines()

    assert rows[0] == "digraph tape {"
    assert rows[-1] == "}"
    assert sum("[label=" in row for row in rows) == 5
    assert [row.strip() for row in rows if "->" in row] == [
        "n0 -> n2;",
        "n1 -> n2;",
        "n2 -> n3;",
        "n3 -> n4;",
    ]
    assert r"variable 'a \"w\"' float32[3, 4]" in rows[2]
