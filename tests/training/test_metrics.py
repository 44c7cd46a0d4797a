"""Metrics are whole lines of JSON, and the digest of variables names their bits."""

import hashlib
import json
import math

import numpy as np
import pytest

import distgrad as dg
from distgrad.training import MetricsFile, variables_sha256


def test_every_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as metrics:
        metrics.write({"step": 1, "loss": 0.1 + 0.2})

        assert json.loads(path.read_text()) == {"step": 1, "loss": 0.1 + 0.2}


def test_an_older_file_is_replaced(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("old\n")
    with MetricsFile(path) as metrics:
        metrics.write({"final": True})

    assert path.read_text() == '{"final": true}\n'


def test_a_file_that_is_gone_at_the_end_is_an_error(tmp_path):
    metrics = MetricsFile(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").unlink()

    with pytest.raises(FileNotFoundError, match="was removed while it was written"):
        metrics.close()


def test_a_resumed_job_goes_on_in_the_file_that_a_link_leads_to(tmp_path):
    path, link = tmp_path / "m.jsonl", tmp_path / "link"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n')
    link.symlink_to(path)
    with MetricsFile(link, up_to=2) as metrics:
        metrics.write({"step": 3, "loss": 1.0})

    assert link.is_symlink()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "loss": 1.0}\n'
    assert sorted(tmp_path.iterdir()) == [link, path]


def test_lines_behind_a_damaged_one_are_kept_and_those_that_lack_are_known(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"st\0\n{"step": 3}\n{"step": 4}\n{"step": 5}\n{"final": true}\n')
    with MetricsFile(path, up_to=4) as metrics:
        assert metrics.kept == [{"step": 1}, {"step": 3}, {"step": 4}]
        assert metrics.lost == [range(2, 3)]


@pytest.mark.parametrize(("steps", "lost"), [([], [range(1, 8)]), ([1, 2], [range(3, 8)])])
def test_a_file_that_ends_before_the_resumed_step_has_lost_the_rest(tmp_path, steps, lost):
    path = tmp_path / "m.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in steps))
    with MetricsFile(path, up_to=7) as metrics:
        assert metrics.lost == lost


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_json_cannot_say_is_refused(tmp_path, number):
    with MetricsFile(tmp_path / "m.jsonl") as metrics, pytest.raises(ValueError, match="JSON"):
        metrics.write({"loss": number})


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        MetricsFile(tmp_path / "missing" / "metrics.jsonl")


def test_the_digest_is_over_the_bytes_in_the_order_of_the_names():
    first, second = np.arange(6, dtype="float32").reshape(2, 3), np.array(7.0)
    variables = [dg.Variable(second, name="b"), dg.Variable(first, name="a")]

    digest = variables_sha256(variables)

    assert digest == hashlib.sha256(first.tobytes() + second.tobytes()).hexdigest()


def test_one_bit_changes_the_digest():
    values = np.ones(5)
    other = values.copy()
    other[3] = np.nextafter(1.0, 2.0)

    digests = {variables_sha256([dg.Variable(v, name="a")]) for v in (values, other)}

    assert len(digests) == 2


def test_two_variables_of_one_name_are_refused():
    variables = [dg.Variable(1.0, name="a"), dg.Variable(2.0, name="a")]

    with pytest.raises(ValueError, match="'a' twice"):
        variables_sha256(variables)
