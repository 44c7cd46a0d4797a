"""The planner: planted costs are found again, and formulas give what they promise."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from distgrad.cli import main
from distgrad.distributed import RecordedCommunicator
from distgrad.distributed.averaging.buckets import plan_buckets
from distgrad.distributed.planning.advice import advise, best_bucket, micro_batches_for
from distgrad.distributed.planning.algorithms import ALGORITHMS
from distgrad.distributed.planning.drawing import bars, curve, page
from distgrad.distributed.planning.link import (
    Link,
    Network,
    PlanningError,
    Sample,
    fit,
    nonnegative_least_squares,
)
from distgrad.distributed.planning.measuring import LENGTHS, load, measure, save
from distgrad.distributed.planning.prediction import Message, Step, cut, memory, predict
from distgrad.distributed.planning.traces import step_of_metrics, step_of_timeline
from distgrad.distributed.tracing import merging

LATENCY, BANDWIDTH = 3e-6, 7e9
MIB = 2**20


class PlantedCommunicator(RecordedCommunicator):
    """Ranks whose reductions take what a formula says, by a clock that nothing else moves."""

    def __init__(self, size, link, algorithm, clock=None, noise=0.0):
        super().__init__(size)
        self._link, self._algorithm, self._noise = link, algorithm, noise
        self._clock = [0.0] if clock is None else clock
        self._rng = np.random.default_rng(5)

    def split(self, colour):
        size = self._sizes.pop(0)
        return PlantedCommunicator(size, self._link, self._algorithm, self._clock, self._noise)

    def now(self):
        return self._clock[0]

    def allreduce(self, array, op="sum", *, out=None):
        seconds = Network(self._link, self._link, self.size).allreduce(
            self._algorithm, array.nbytes, self.size
        )
        self._clock[0] += seconds * (1 + self._noise * self._rng.random())
        return array if out is None else out  # 64 MiB sixty times over would take a while


def planted(algorithm, link, size=8, noise=0.0):
    comm = PlantedCommunicator(size, link, algorithm, noise=noise)
    comm._sizes = [n for n in (2, 4, 8, 16) if n < size]
    return measure(comm, now=comm.now)


@pytest.mark.parametrize("algorithm", ["ring", "rabenseifner", "doubling"])
@pytest.mark.parametrize("size", [2, 3, 8])
def test_planted_latency_and_bandwidth_are_recovered_within_5_percent(algorithm, size):
    found = fit(planted(algorithm, Link.straight(LATENCY, BANDWIDTH), size, noise=0.02))

    if size == 2:  # all formulas are the same for two ranks, but for the number of messages
        comm = Network(found.link, found.link, 2)
        for nbytes in (8, 4096, MIB, 64 * MIB):
            expected = Network(*[Link.straight(LATENCY, BANDWIDTH)] * 2, 2)
            assert comm.allreduce(found.algorithm, nbytes, 2) == pytest.approx(
                expected.allreduce(algorithm, nbytes, 2), rel=0.05
            )
    else:
        assert found.algorithm == algorithm
        assert found.link.latency == pytest.approx(LATENCY, rel=0.05)
        assert found.link.bandwidth == pytest.approx(BANDWIDTH, rel=0.05)
    assert found.error < 0.05
    assert found.worst_error < 0.1


def test_lines_that_meet_at_the_caches_are_told_apart():
    link = Link((8_192, 524_288), (1e-6, 4e-6, 30e-6), (1e-10, 2e-10, 6e-10))
    found = fit(planted("rabenseifner", link))

    assert len(found.link.latencies) >= 3
    assert found.link.latency == pytest.approx(1e-6, rel=0.05)
    assert found.link.bandwidth == pytest.approx(1 / 6e-10, rel=0.05)
    straight = Link.straight(1e-6, 1 / 6e-10)
    assert found.error < 0.05
    assert abs(straight.seconds(100_000) / link.seconds(100_000) - 1) > 0.5, "no line would do"


def test_two_ranks_predict_four():
    link = Link.straight(LATENCY, BANDWIDTH)
    samples = planted("rabenseifner", link, size=2)
    found = fit(samples)
    other = Network(found.link, found.link, 4)
    truth = Network(link, link, 4)

    # Two ranks do not show which algorithm it is; the prediction holds for that of the fit.
    for nbytes in (4096, 16 * MIB):
        assert other.allreduce("rabenseifner", nbytes, 4) == pytest.approx(
            truth.allreduce("rabenseifner", nbytes, 4), rel=0.05
        )


def test_noise_shows_in_the_held_out_error():
    rng = np.random.default_rng(0)
    clean = planted("ring", Link.straight(LATENCY, BANDWIDTH))
    noisy = [s._replace(seconds=s.seconds * math.exp(rng.normal(0, 0.4))) for s in clean]

    assert fit(clean).error < 1e-6
    assert fit(noisy).error > 0.1


def test_too_few_measurements_are_refused():
    with pytest.raises(PlanningError, match="2 lengths"):
        fit([Sample(2, 8, 1e-6), Sample(2, 16, 1e-6)])
    with pytest.raises(PlanningError, match="one rank alone"):
        measure(RecordedCommunicator(size=1))


def test_least_squares_are_not_negative():
    rng = np.random.default_rng(1)
    scipy_optimize = pytest.importorskip("scipy.optimize")
    for _ in range(20):
        a, b = rng.normal(size=(9, 5)), rng.normal(size=9)
        ours = nonnegative_least_squares(a, b)
        theirs, _ = scipy_optimize.nnls(a, b)
        np.testing.assert_allclose(ours, theirs, atol=1e-8)


# --- algorithms -----------------------------------------------------------------------------------


def totals(algorithm, nbytes, ranks, per_node=10**6):
    rounds = ALGORITHMS[algorithm](nbytes, ranks, per_node)
    return sum(r.number for r in rounds), sum(r.number * r.nbytes for r in rounds)


@pytest.mark.parametrize("ranks", [2, 4, 64, 1024])
def test_powers_of_two_send_what_the_papers_say(ranks):
    lg = ranks.bit_length() - 1
    least = 2 * 1000 * (ranks - 1) / ranks

    assert totals("ring", 1000, ranks) == pytest.approx((2 * (ranks - 1), least))
    assert totals("rabenseifner", 1000, ranks) == pytest.approx((2 * lg, least))
    assert totals("doubling", 1000, ranks) == pytest.approx((lg, 1000 * lg))
    assert totals("ordered", 1000, ranks) == pytest.approx((ranks - 1 + lg, least))


def test_other_numbers_of_ranks_cost_rabenseifner_two_whole_messages_more():
    count, sent = totals("rabenseifner", 1000, 6)

    assert count == 2 * 2 + 2
    assert sent == pytest.approx(2 * 1000 * 3 / 4 + 2 * 1000)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_rank_sends_nothing(algorithm):
    assert sum(r.number for r in ALGORITHMS[algorithm](1000, 1, 8)) == 0


def test_machines_share_their_network_and_two_levels_send_less_through_it():
    rounds = ALGORITHMS["hierarchical"](1000, 32, 8)
    between = [r for r in rounds if r.crosses]
    within = [r for r in rounds if not r.crosses]

    assert sum(r.number * r.nbytes * r.sharing for r in between) == pytest.approx(2 * 1000 * 3 / 4)
    assert sum(r.number * r.nbytes for r in within) == pytest.approx(2 * 1000 * 7 / 8)
    network = Network(Link.straight(1e-6, 1e11), Link.straight(2e-5, 1e9), 8)
    assert network.allreduce("hierarchical", 10**8, 32) < network.allreduce("ordered", 10**8, 32)


# --- predictions ----------------------------------------------------------------------------------


def straight(ranks=10**6):
    link = Link.straight(LATENCY, BANDWIDTH)
    return Network(link, link, ranks)


def test_hidden_messages_cost_nothing_but_the_last_one():
    network = straight()
    messages = (Message(MIB, 0.01), Message(MIB, 0.09), Message(MIB, 0.1))
    step = Step(0.05, 0.1, 0.01, messages)

    found = predict(step, network, 4, ["ring"])

    tail = network.allreduce("ring", MIB, 4)
    compare = network.allreduce("doubling", 32 + 16 * 4, 4)
    assert found.exposed == pytest.approx(tail + compare)
    assert found.seconds == pytest.approx(0.16 + tail + compare)
    assert found.communication == pytest.approx(3 * tail + compare)


def test_without_overlap_everything_is_exposed():
    step = Step.estimated(50 * MIB, 0.1, overlaps=False)
    found = predict(step, straight(), 8, ["ring"])

    assert found.exposed == pytest.approx(found.communication)
    assert predict(Step.estimated(50 * MIB, 0.1), straight(), 8, ["ring"]).seconds < found.seconds


def test_the_bandwidth_bound_of_many_ranks_is_that_of_the_claim():
    """VGG-16, 552 MB over 25 Gbit/s: 2 n / B = 353 ms, ResNet-101, 178 MB: 114 ms."""
    link = Link.straight(1e-9, 25e9 / 8)
    network = Network(link, link, 10**6)

    assert network.allreduce("ring", 552e6, 4096) == pytest.approx(0.353, rel=0.01)
    assert network.allreduce("ring", 178e6, 4096) == pytest.approx(0.114, rel=0.01)


def test_efficiency_falls_with_ranks_and_reaches_ten_thousand():
    step = Step.estimated(100 * MIB, 0.12, deviation=0.002)
    found = [predict(step, straight(), n, list(ALGORITHMS)) for n in (1, 2, 64, 1024, 10_000)]

    efficiencies = [each.efficiency for each in found]
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert found[0].efficiency == 1
    assert found[-1].waiting == pytest.approx(0.002 * math.sqrt(2 * math.log(10_000)))
    assert 0 < efficiencies[-1] < 1


def test_accumulation_pays_for_messages_once():
    step = Step.estimated(100 * MIB, 0.01, overlaps=False)
    slow = Network(*[Link.straight(1e-5, 1e9)] * 2, 10**6)

    count = micro_batches_for(step, slow, 64, ["ring"])

    assert predict(replace(step, micro_batches=count), slow, 64, ["ring"]).efficiency >= 0.9
    assert predict(replace(step, micro_batches=count // 2), slow, 64, ["ring"]).efficiency < 0.9


def test_stage_three_sends_half_as_much_again():
    step = Step.estimated(100 * MIB, 0.1, overlaps=False)
    network = straight()
    zero, one, three = (
        predict(step, network, 1024, ["rabenseifner"], stage).communication for stage in (0, 1, 3)
    )

    assert one == pytest.approx(zero, rel=0.02)
    assert three == pytest.approx(1.5 * zero, rel=0.02)


def test_memory_is_that_of_the_paper():
    """Figure 1 of the ZeRO paper: 7.5e9 parameters, 64 ranks, 2 bytes and 12 of state."""
    found = [memory(7.5e9, 64, s, itemsize=2, state_itemsize=12).total / 1e9 for s in range(4)]

    np.testing.assert_allclose(found, [120, 31.4, 16.6, 1.9], atol=0.06)
    with pytest.raises(PlanningError, match="stage is 4"):
        memory(1, 1, 4)


@pytest.mark.parametrize("nbytes", [1000, MIB, 3 * MIB, 60 * MIB, 101 * MIB])
def test_estimated_buckets_are_those_of_the_averaging(nbytes):
    bucket_bytes = 25 * MIB
    shapes = ((25_000,),) * math.ceil(nbytes / 100_000)
    plan = plan_buckets(
        (np.dtype("f4"),) * len(shapes), shapes, tuple(range(len(shapes))), bucket_bytes
    )
    messages = cut(nbytes, 1.0, bucket_bytes)

    assert sum(message.nbytes for message in messages) == pytest.approx(nbytes)
    assert abs(len(messages) - len(plan)) <= 1
    assert messages[-1].ready == pytest.approx(1.0)
    assert all(a.ready < b.ready for a, b in pairwise(messages))


def test_advice_finds_the_bucket_that_hides_most():
    latency_bound = Network(*[Link.straight(5e-3, 1e10)] * 2, 10**6)
    step = Step.estimated(400 * MIB, 0.2)

    large = best_bucket(step, latency_bound, 16, ["ring"])
    small = best_bucket(step, straight(), 16, ["ring"])

    assert large > small
    texts = advise(step, latency_bound, 16, ["ring"], parameters=100 * MIB, memory_bytes=2**30)
    assert any("bucket_bytes=" in text for text in texts)
    assert any("ZeRO stage" in text for text in texts)


def test_a_step_that_hides_everything_gets_no_advice():
    step = Step.estimated(MIB, 1.0)

    assert advise(step, straight(), 8, ["ring"], parameters=1) == []


# --- what a step does, from files -----------------------------------------------------------------


def timeline(folder, steps=8):
    """Write a timeline of two ranks: 3 ms forward, 5 or 6 ms back, two buckets on the way."""
    events = []
    for rank in range(2):
        start = 0.0
        for _ in range(steps):
            back = 5000.0 + 1000 * rank
            for name, lane, at, lasts, facts in (
                ("forward", "compute", 0, 3000, {}),
                ("backward", "compute", 3000, back, {}),
                ("bucket", "communication", 5000, 900, {"bytes": 4000}),
                ("bucket", "communication", 7500, 900, {"bytes": 1000}),
                ("optimizer", "compute", 9500, 700, {}),
            ):
                events.append(
                    {"name": name, "cat": lane, "ph": "X", "ts": start + at, "dur": lasts,
                     "pid": rank, "tid": 1, "args": facts}
                )  # fmt: skip
            start += 12_000
    path = folder / "timeline.json"
    path.write_text(json.dumps({"traceEvents": events}))
    return path


def test_a_timeline_says_what_a_step_does(tmp_path):
    step = step_of_timeline(timeline(tmp_path))

    assert (step.forward, step.backward, step.optimizer) == pytest.approx((0.003, 0.005, 0.0007))
    assert [message.nbytes for message in step.messages] == [4000, 1000]
    assert [message.ready for message in step.messages] == pytest.approx([0.002, 0.0045])
    assert step.overlaps
    assert step.deviation == pytest.approx(0.0005)


def test_files_without_steps_are_refused(tmp_path):
    empty = tmp_path / "empty.json"
    empty.write_text('{"traceEvents": []}')
    with pytest.raises(PlanningError, match="nothing of rank 0"):
        step_of_timeline(empty)
    with pytest.raises(PlanningError, match="no timeline"):
        step_of_timeline(Path(__file__))
    with pytest.raises(PlanningError, match="no steps"):
        step_of_metrics(empty)
    empty.write_bytes(b"\xff\xfe")
    with pytest.raises(PlanningError, match="no steps"):
        step_of_metrics(empty)


@pytest.mark.parametrize("events", [5, [5], [{"ph": "X"}], [{"ph": "X", "pid": 0, "ts": "soon"}]])
def test_events_of_others_are_no_timeline(tmp_path, events):
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"traceEvents": events}))

    with pytest.raises(PlanningError, match="no timeline; expected JSON with traceEvents"):
        step_of_timeline(path)
    with pytest.raises(merging.TimelineError, match="no timeline: expected JSON with traceEvents"):
        merging.totals(path)


def test_a_model_of_many_buckets_is_planned_by_the_few_that_differ(monkeypatch):
    asked = []
    link = Link.straight(LATENCY, BANDWIDTH)
    network = Network(link, link, 64)
    plain = Network.allreduce
    monkeypatch.setattr(Network, "allreduce", lambda *given: asked.append(given) or plain(*given))

    predict(Step.estimated(10_000 * 25 * MIB, 1.0), network, 64, ["ring"])

    assert len(asked) <= 5


def test_metrics_say_what_a_step_sends(tmp_path):
    path = tmp_path / "m.jsonl"
    record = {"seconds": 0.05, "exposed_comm_seconds": 0.01, "bytes_sent": 5000}
    path.write_text("".join(json.dumps(record) + "\n" for _ in range(6)) + '{"final": true}\n')
    step = step_of_metrics(path)

    assert step.computing == pytest.approx(0.04)
    assert step.nbytes == 5000


# --- the command and its pictures -----------------------------------------------------------------


def test_the_command_predicts_draws_and_advises(tmp_path, capsys):
    page_file, measured = tmp_path / "plan.html", tmp_path / "net.json"
    save(planted("ring", Link.straight(LATENCY, BANDWIDTH)), measured)
    assert [s.ranks for s in load(measured)] == [n for n in (2, 4, 8) for _ in LENGTHS]

    code = main(
        ["plan", "--measurement", str(measured), "--timeline", str(timeline(tmp_path)),
         "--ranks", "10000", "--html", str(page_file), "--memory-bytes", "1e9"]
    )  # fmt: skip

    assert code == 0
    text = capsys.readouterr().out
    assert "Held-out error: median" in text
    assert "10,000" in text
    assert "ZeRO stage 0" in text
    markup = page_file.read_text()
    assert "<svg" in markup
    assert "http" not in markup.replace("http://www.w3.org/2000/svg", ""), "it needs nothing else"


def test_the_command_takes_figures_instead_of_files(capsys):
    arguments = "--latency 2e-6 --bandwidth 12.5e9 --parameters 25e6 --compute-seconds 0.12 --json"

    assert main(["plan", *arguments.split(), "--ranks", "4096"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["predictions"][-1]["ranks"] == 4096
    assert 0.9 < found["predictions"][-1]["efficiency"] < 1
    assert found["memory_gib"]["3"] == pytest.approx(25e6 * 16 / 4096 / 2**30)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--parameters 1e6 --compute-seconds 1", "what messages cost"),
        ("--latency 1e-6 --bandwidth 1e9", "what a rank computes"),
        (
            "--latency 1e-6 --bandwidth 1e9 --parameters 1 --compute-seconds 1 --ranks-per-node 8",
            "--network-latency",
        ),
    ],
)
def test_the_command_says_what_is_missing(arguments, said, capsys):
    assert main(["plan", *arguments.split()]) == 2
    assert said in capsys.readouterr().err


FIGURES = "--latency 1e-6 --bandwidth 1e9 --parameters 1e6 --compute-seconds 0.1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--ranks 0", "expected a whole number from 1 up, got '0'"),
        ("-n -3", "expected a whole number from 1 up, got '-3'"),
        ("--ranks-per-node 0", "expected a whole number from 1 up, got '0'"),
        ("--algorithm tree", "invalid choice: 'tree'"),
        ("--deviation -1", "expected 0 or a positive number, got '-1'"),
        ("--deviation nan", "expected 0 or a positive number, got 'nan'"),
        ("--state-itemsize -8", "expected 0 or a positive number, got '-8'"),
        ("--parameters 1e300", "expected at most 1e+13 parameters, got '1e300'"),
    ],
)
def test_the_command_refuses_figures_that_make_no_sense(words, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["plan", *FIGURES.split(), *words.split()])

    assert said in capsys.readouterr().err


def test_the_command_prints_where_the_encoding_lacks_its_characters():
    ended = subprocess.run(
        [sys.executable, "-m", "distgrad", "plan", *FIGURES.split(), "--ranks", "2"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )

    assert ended.returncode == 0, ended.stderr
    assert "ZeRO stage 0" in ended.stdout


def test_pictures_show_every_prediction():
    step = Step.estimated(100 * MIB, 0.12)
    found = [predict(step, straight(), n, ["ring"]) for n in (1, 10, 1000)]

    assert curve(found).count("<circle") == 3
    assert len(bars(found)) == 3
    assert "<script" not in page("<script>", found, ["<script>"])
