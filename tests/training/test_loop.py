"""The loop: what it writes, when it evaluates and stops, and what it refuses."""

import argparse
import html.parser
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.data import from_arrays
from distgrad.training import EarlyStopping, History, Job, JobError, MeteredCommunicator, train
from distgrad.training.drawing import draw_curves, draw_shares
from distgrad.training.events import EventFile, masked_crc32c

needs_mpirun = pytest.mark.skipif(
    not Path(sys.executable).with_name("mpirun").exists(), reason="no mpirun beside this Python"
)


def job_of(**given):
    """Return a job of one rank with arguments that are not those of a command line."""
    known = {
        "steps": 4,
        "global_batch": 6,
        "micro_batches": 1,
        "learning_rate": 0.1,
        "seed": 0,
        "dtype": "float64",
        "backend": "numpy",
        "deterministic": False,
        "checkpoint_dir": None,
        "checkpoint_every": 100,
        "resume": False,
        "metrics": None,
        "tensorboard": None,
        "report": None,
        "timeline": None,
        "quiet": True,
    }
    world = MeteredCommunicator(dist.SerialCommunicator())
    return Job("job", argparse.Namespace(**{**known, **given}), world)


# --- averages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [{}, {"micro_batches": 4}, {"deterministic": True}], ids=["whole", "pieces", "shards"]
)
def test_gradients_and_figures_are_means_over_the_examples(how):
    x, w = np.random.default_rng(0).normal(size=(11, 3)), dg.Variable([0.3, -0.2, 0.5], name="w")
    w = dg.Variable(np.array([0.3, -0.2, 0.5]), name="w")

    def loss(piece):
        products = dg.asarray(piece) * w  # shape (n, 3)
        return products**2, {"first": piece[:, 0], "three": 3.0}

    averaged = job_of(**how).gradients(loss, x, [w])

    expected = (x * w.numpy()) ** 2
    np.testing.assert_allclose(averaged.loss, expected.mean(), rtol=1e-14)
    np.testing.assert_allclose(
        averaged.gradients[0].numpy(), (2 * x**2 * w.numpy()).sum(0) / 33, rtol=1e-14
    )
    np.testing.assert_allclose(averaged.figures["first"], x[:, 0].mean(), rtol=1e-13)
    assert averaged.figures["three"] == pytest.approx(3, rel=1e-14)
    norm = np.linalg.norm(averaged.gradients[0].numpy())
    np.testing.assert_allclose(averaged.record()["grad_norm"], norm, rtol=1e-14)


def test_a_figure_that_is_not_one_a_example_is_refused():
    w = dg.Variable(1.0)

    with pytest.raises(ValueError, match=r"'odd' has shape \(2,\) for 6 examples"):
        job_of().gradients(lambda piece: (w * piece, {"odd": np.ones(2)}), np.ones(6), w)


@pytest.mark.parametrize("how", [{}, {"micro_batches": 3}, {"deterministic": True}])
def test_an_evaluation_counts_every_example_once(how):
    data = from_arrays(np.arange(23.0))
    seen = []

    def figures(piece):
        seen.extend(piece)
        return {"mean": piece, "large": piece > 20}

    found = job_of(**how).evaluate(figures, data, batch=10)

    assert sorted(seen) == list(range(23))
    assert found == {"mean": pytest.approx(11, rel=1e-14), "large": pytest.approx(2 / 23)}


# --- the loop -------------------------------------------------------------------------------------


def quadratic(job, **options):
    """Train one variable to 1, and return how that ended."""
    w = dg.Variable(np.float64(0.0), name="w")
    looks = []

    def step(number):
        averaged = job.gradients(
            lambda piece: (w - 1.0) ** 2 + 0.0 * dg.sum(dg.asarray(piece)), np.zeros(6), [w]
        )
        w.assign_sub(job.arguments.learning_rate * averaged.gradients[0])
        return averaged.record()

    def evaluate():
        looks.append(float(w))
        return {"distance": abs(1 - float(w))}

    given = {"variables": [w], "state": {"w": w}, "evaluate": evaluate, **options}
    return train(job, step, **given), looks


def test_a_training_is_looked_at_as_often_as_asked(jobs, tmp_path):
    path = tmp_path / "m.jsonl"
    trained, looks = quadratic(job_of(steps=7, metrics=path), evaluate_every=3)

    records = jobs.records(path)
    assert ["distance" in record for record in records[:-1]] == [False, False, True] * 2 + [False]
    assert len(looks) == 3  # after steps 3, 6, and at the end
    assert records[-1] == {
        "final": True,
        "distance": trained.final["distance"],
        "variables_sha256": trained.variables_sha256,
    }


def test_early_stopping_ends_a_training_that_gets_no_better(tmp_path):
    stopping = EarlyStopping("loss", patience=3, at_least=0.1)

    trained, _ = quadratic(job_of(steps=50), early_stopping=stopping)

    losses = trained.history.column("loss")
    assert trained.steps == len(losses) < 20
    assert stopping.best_step == trained.steps - 3
    assert losses[stopping.best_step - 1] == stopping.best_value


def test_early_stopping_counts_on_after_a_resume(jobs, tmp_path):
    arguments = ("--steps", 200, "--patience", 2, "--deterministic", "--checkpoint-every", 7)
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    assert jobs.wait(jobs.start(*arguments, "--metrics", whole)) == 0, jobs.output()
    more = (*arguments, "--metrics", parts, "--checkpoint-dir", tmp_path / "saved", "--resume")
    steps = len(jobs.records(whole)) - 1
    assert jobs.wait(jobs.start(*more, "--signal", f"9:0:{steps - 3}")) == -9
    assert jobs.wait(jobs.start(*more)) == 0, jobs.output()

    assert steps < 200
    assert jobs.curve(parts) == jobs.curve(whole)


def test_a_loss_that_is_no_number_ends_the_job_unless_that_is_foreseen(jobs, tmp_path):
    with pytest.raises(JobError, match="training diverged in step"):
        quadratic(job_of(steps=400, learning_rate=10.0))

    path = tmp_path / "m.jsonl"
    quadratic(job_of(steps=400, learning_rate=10.0, metrics=path), finite=False)
    assert jobs.records(path)[399]["loss"] is None


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({}, ValueError, "the state does not hold the variable 'w'"),
        ({"n": 3}, TypeError, r"state\['state/n'\] is a int, to which nothing can be assigned"),
        ({"o": dg.optimizers.SGD(0.1)}, ValueError, "optimizer.build"),
    ],
)
def test_a_state_that_could_not_be_resumed_is_refused(state, error, message):
    with pytest.raises(error, match=message):
        quadratic(job_of(), state=state)


def test_a_step_without_a_loss_is_refused():
    w = dg.Variable(1.0, name="w")

    with pytest.raises(ValueError, match=r"step\(1\) returned norm; expected a record with 'loss'"):
        train(job_of(), lambda number: {"norm": 1.0}, variables=[w], state=w)


def test_a_report_that_cannot_be_written_is_named(jobs):
    assert jobs.wait(jobs.start("--report", "/dev/full", "--steps", 1)) == 1
    assert jobs.output() == "job: --report /dev/full: No space left on device\n"


def test_a_file_that_cannot_be_written_is_known_before_the_first_step(tmp_path):
    for argument in ("metrics", "report"):
        with pytest.raises(JobError, match=f"--{argument} .*No such file or directory"):
            quadratic(job_of(**{argument: tmp_path / "no" / "where"}))


@needs_mpirun
def test_all_that_ranks_write_is_the_same(jobs, tmp_path):
    paths = {ranks: tmp_path / f"{ranks}.jsonl" for ranks in (1, 2, 4)}
    for ranks, path in paths.items():
        result = jobs.run(ranks, "--deterministic", "--metrics", path, "--global-batch", 3)
        assert result.returncode == 0, result.stderr

    assert jobs.curve(paths[1]) == jobs.curve(paths[2]) == jobs.curve(paths[4])
    costs = jobs.records(paths[2])[5]
    assert 0 < costs["exposed_comm_seconds"] <= costs["comm_seconds"] + 1e-9
    assert 0 <= costs["data_seconds"] < costs["seconds"]


@needs_mpirun
def test_an_error_of_the_job_is_said_once_by_all_ranks(jobs):
    result = jobs.run(2, "--fail", "step")

    assert result.returncode == 1
    assert result.stderr.count("job: step 3 does not please") == 1
    assert "Traceback" not in result.stderr


@needs_mpirun
def test_a_rank_without_memory_says_so_in_a_line_with_the_sizes_asked_for(jobs):
    result = jobs.run(2, "--fail", "memory", "--global-batch", 9)

    assert result.returncode == 1
    (said,) = [line for line in result.stderr.splitlines() if "not enough memory" in line]
    assert "rank 1 has not enough memory: Unable to allocate 8.00 PiB for an array" in said
    assert "; asked for --global-batch 9; take a smaller --global-batch" in said


def test_a_batch_that_no_machine_holds_ends_the_job_at_once(jobs):
    assert jobs.wait(jobs.start("--global-batch", 10**14)) == 1
    assert "a batch of 100000000000000 examples" in jobs.output()
    assert jobs.output().count("\n") == 1


# --- event files ----------------------------------------------------------------------------------


def read_events(path):
    """Return (step, {name: value}) of an event file, by the published format."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12]) == (masked_crc32c(data[:8]),)
        event = data[12 : 12 + length]
        assert struct.unpack("<I", data[12 + length : 16 + length]) == (masked_crc32c(event),)
        data = data[16 + length :]
        fields = dict(read_fields(event))
        values = {}
        for number, value in read_fields(fields.get(5, b"")):
            assert number == 1
            pair = dict(read_fields(value))
            values[pair[1].decode()] = struct.unpack("<f", pair[2])[0]
        found.append((fields.get(2, 0), values, fields))
    return found


def read_fields(message):
    """Yield (number, value) of a message of protocol buffers."""

    def varint():
        nonlocal message
        number = shift = 0
        while True:
            byte, message = message[0], message[1:]
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while message:
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        length = {1: 8, 5: 4}.get(kind) or varint()
        yield key >> 3, message[:length]
        message = message[length:]


def test_a_crc_is_the_published_one():
    # RFC 3720, B.4: the CRC-32C of 32 zeros is 8A9136AA.
    crc = 0x8A9136AA
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert masked_crc32c(bytes(32)) == masked


def test_event_files_hold_all_figures_of_all_steps(tmp_path):
    quadratic(job_of(steps=300, tensorboard=tmp_path / "events"))

    (path,) = (tmp_path / "events").iterdir()
    (_, _, version), *events, (last, final, _) = read_events(path)
    assert version[3] == b"brain.Event:2"
    assert [step for step, _, _ in events] == list(range(1, 301))
    assert events[0][1]["loss"] == 1
    assert set(events[0][1]) > {"grad_norm", "seconds", "bytes_sent"}
    assert (last, set(final)) == (300, {"final/distance"})


def test_a_resumed_run_tells_tensorboard_to_drop_what_came_after(tmp_path):
    with_start = EventFile(tmp_path, begun=7)
    with_start.write({"step": 8, "loss": 0.5})
    with_start.close()

    _, (step, _, fields), (next_step, values, _) = read_events(with_start.path)
    assert (step, dict(read_fields(fields[7]))) == (8, {1: 1})
    assert (next_step, values) == (8, {"loss": 0.5})


def test_tensorboard_reads_them(tmp_path):
    readers = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    quadratic(job_of(steps=9, tensorboard=tmp_path))

    reader = readers.EventAccumulator(str(tmp_path))
    reader.Reload()
    assert [each.step for each in reader.Scalars("loss")] == list(range(1, 10))


# --- the report -----------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """Checks that tags close, and notes what a browser would fetch or run."""

    def __init__(self, text):
        super().__init__()
        self.open, self.fetched, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.fetched += [v for k, v in attributes if k in ("src", "href", "data", "action")]
        if tag not in ("meta", "i"):
            self.open.append(tag)
        if tag in ("script", "link", "iframe", "object", "img"):
            self.fetched.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("meta", "i", "polyline", "polygon", "line", "circle"):
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_data(self, data):
        self.text += data


def test_a_report_is_one_page_that_fetches_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    path = tmp_path / "report.html"
    evil = "<script>alert(1)</script>"

    quadratic(job_of(steps=30, report=path), title=evil, facts=lambda trained: {evil: evil})

    text = path.read_text()
    page = Page(text)
    assert (page.open, page.fetched) == ([], [])
    assert "url(" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert "planted-secret" not in text
    for words in (
        "Loss",
        "Gradient norm",
        "Time of a step",
        "computation",
        "peak memory",
        "exposed communication",
        "global_batch",
        "numpy",
        evil,
    ):
        assert words in page.text
    assert text.count("<svg") == 3
    assert sorted(tmp_path.iterdir()) == [path]


def test_curves_are_drawn_within_their_frame():
    steps = list(range(1, 5001))
    picture = draw_curves(steps, {"a": [1 / s for s in steps], "b": [2.0] * 5000}, logarithmic=True)

    points = re.findall(r"(-?[\d.]+),(-?[\d.]+)", picture)
    assert 400 < len(points) < 4000
    assert all(64 <= float(x) <= 628 and 12 <= float(y) <= 210 for x, y in points)


@pytest.mark.parametrize("values", [[], [float("nan")] * 3, [1.0], [0.0, 0.0, 0.0], [-1.0, 1e300]])
def test_anything_can_be_drawn(values):
    steps = list(range(len(values)))

    for picture in (draw_curves(steps, {"x": values}), draw_shares(steps, {"x": values})):
        assert "nan" not in picture


# --- early stopping and history -------------------------------------------------------------------


def test_better_may_be_larger_and_other_records_do_not_count():
    stopping = EarlyStopping("accuracy", patience=2, best="max")

    said = [stopping.look(r) for r in ({"accuracy": 0.5}, {}, {"accuracy": 0.4}, {"accuracy": 0.5})]

    assert said == [False, False, False, True]
    copy = EarlyStopping("accuracy", patience=2, best="max")
    copy.load_state(stopping.state())
    assert copy.state() == stopping.state()


@pytest.mark.parametrize("wrong", [{"best": "most"}, {"patience": 0}, {"at_least": float("nan")}])
def test_early_stopping_refuses_nonsense(wrong):
    with pytest.raises(ValueError, match="expected"):
        EarlyStopping("loss", **{"patience": 1, **wrong})


def test_a_history_has_gaps_where_a_step_lacks_a_figure():
    history = History()
    for record in ({"step": 1, "a": 2.0}, {"step": 2, "b": 3.0, "text": "x", "yes": True}):
        history.add(record)

    assert (len(history), history.names) == (2, ["step", "a", "b"])
    assert str(history.column("a")) == "[2.0, nan]"
    assert (history.total("b"), history.column("c")) == (3, [])


def test_the_backend_alone_chooses_the_device_of_a_job(monkeypatch):
    chosen = []
    monkeypatch.setattr(dg, "set_backend", chosen.append)
    monkeypatch.setitem(sys.modules, "cupy", None)  # not asked for anything

    Job("a", argparse.Namespace(backend="cupy", seed=1), dist.SerialCommunicator())

    assert chosen == ["cupy"]


@needs_mpirun
@pytest.mark.parametrize("how", [(), ("--deterministic",), ("--micro-batches", 2)])
def test_ranks_whose_figures_have_other_names_end_with_an_error(jobs, how):
    ended = jobs.run(2, "--fail", "names", *how)

    assert ended.returncode == 1
    assert "figures: rank 1 has loss, tiny; rank 0 has loss, small; expected" in ended.stderr


@needs_mpirun
def test_an_evaluation_in_batches_smaller_than_the_ranks_counts_each_example_once(jobs, tmp_path):
    paths = tmp_path / "one.jsonl", tmp_path / "three.jsonl"
    for ranks, path in zip((1, 3), paths, strict=True):
        words = ("--deterministic", "--evaluation-batch", 2, "--metrics", path)
        assert jobs.run(ranks, *words).returncode == 0
        words = ("--evaluation-batch", 2, "--metrics", tmp_path / f"{ranks}")
        assert jobs.run(ranks, *words).returncode == 0

    assert jobs.curve(paths[0]) == jobs.curve(paths[1])
    finals = [jobs.records(tmp_path / f"{ranks}")[-1]["error"] for ranks in (1, 3)]
    assert finals[0] == pytest.approx(finals[1], rel=1e-4)
