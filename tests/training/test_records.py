"""What a step and an evaluation return: figures as arrays and tensors have them, or a clear no."""

import json
import math
import struct

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.training import Job, JobParser, MeteredCommunicator, train
from distgrad.training.events import EventFile


def trained(record, *, evaluation=None, words=()):
    """Train for two steps, each of which returns this record."""
    parser = JobParser("job", "", is_first=True, steps=2, global_batch=3, learning_rate=0.1)
    arguments = parser.parse_args(["--quiet", *map(str, words)])
    job = Job("job", arguments, MeteredCommunicator(dist.SerialCommunicator()))
    w = dg.Variable(np.zeros(2), name="w")
    evaluate = None if evaluation is None else lambda: evaluation
    return train(job, lambda number: record, variables=[w], state=[w], evaluate=evaluate)


@pytest.mark.parametrize(
    "number", [np.float32(1.5), np.array(1.5), dg.asarray(1.5), dg.Variable(1.5), 1.5]
)
def test_figures_may_be_those_of_arrays_and_tensors(tmp_path, number):
    path = tmp_path / "m.jsonl"

    found = trained(
        {"loss": number, "right": np.int64(3)}, evaluation={"e": number}, words=["--metrics", path]
    )

    assert found.history.column("loss") == [1.5, 1.5]
    assert found.history.column("right") == [3, 3]
    *steps, last = map(json.loads, path.read_text().splitlines())
    assert [each["loss"] for each in steps] == [1.5, 1.5]
    assert type(steps[0]["right"]) is int
    assert last["e"] == 1.5


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        (None, TypeError, r"step\(1\) returned NoneType; expected a dict of figures by name"),
        (1.5, TypeError, r"step\(1\) returned float; expected a dict"),
        ({"loss": None}, ValueError, "expected a record with 'loss', a number"),
        ({"loss": np.ones(3)}, ValueError, r"'loss' of shape \(3,\); expected a number, such as"),
    ],
)
def test_a_record_that_is_none_is_refused(record, error, message):
    with pytest.raises(error, match=message):
        trained(record)


def test_an_evaluation_without_figures_is_refused():
    with pytest.raises(TypeError, match=r"evaluate\(\) returned list; expected a dict of figures"):
        trained({"loss": 1.0}, evaluation=[0.5])


@pytest.mark.parametrize("number", [1e200, -1e39, 10**400])
def test_what_single_precision_does_not_hold_is_infinite_in_an_event_file(tmp_path, number):
    events = EventFile(tmp_path)
    events.write({"step": 1, "loss": number})
    events.close()

    expected = struct.pack("<f", math.inf if number > 0 else -math.inf)
    assert b"loss\x15" + expected in events.path.read_bytes()
