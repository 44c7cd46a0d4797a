"""``distgrad plan``: predict step time, efficiency and memory on many ranks, from a measurement."""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import distgrad.distributed as dist
from distgrad.distributed.launching.launchers import Placement, find_launcher
from distgrad.distributed.launching.supervision import run_job
from distgrad.distributed.planning.advice import advise
from distgrad.distributed.planning.algorithms import ALGORITHMS
from distgrad.distributed.planning.drawing import bars, page
from distgrad.distributed.planning.link import Fit, Link, Network, PlanningError, fit
from distgrad.distributed.planning.measuring import load, measure, save
from distgrad.distributed.planning.prediction import STAGES, Prediction, Step, memory, predict
from distgrad.distributed.planning.traces import step_of_metrics, step_of_timeline

_MOST_PARAMETERS = 1e13  # each bucket of each step is planned: seconds to minutes, not hours

_EPILOG = """\
What a message costs comes from a measurement (-n 2 makes one here; on a cluster:
mpirun -n 64 distgrad plan --measure-into FILE, then --measurement FILE), or from --latency and
--bandwidth. What a rank computes comes from a timeline, from a job's metrics, or from --parameters
and --compute-seconds."""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to a parser."""
    parser = subparsers.add_parser(
        "plan",
        help="predict step time, efficiency and memory on many ranks",
        description="Predict a training step on many ranks from what one rank computes and what a "
        "message costs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    messages = parser.add_argument_group("what messages cost")
    messages.add_argument("-n", type=_count, metavar="RANKS", help="measure on so many ranks here")
    messages.add_argument("--measurement", type=Path, metavar="FILE", help="one made before")
    messages.add_argument(
        "--measure-into", type=Path, metavar="FILE", help="only measure, as ranks under mpirun do"
    )
    messages.add_argument("--latency", type=_positive, metavar="S", help="seconds of a message")
    messages.add_argument("--bandwidth", type=_positive, metavar="B", help="bytes a second")
    messages.add_argument(
        "--ranks-per-node", type=_count, metavar="G", help="what was given holds within a machine"
    )
    messages.add_argument("--network-latency", type=_positive, metavar="S", help="between machines")
    messages.add_argument("--network-bandwidth", type=_positive, metavar="B", help="of a machine")
    step = parser.add_argument_group("what a rank computes and sends in a step")
    step.add_argument("--timeline", type=Path, metavar="FILE", help="of a job of two ranks or more")
    step.add_argument("--metrics", type=Path, metavar="FILE", help="of a job of two ranks or more")
    step.add_argument("--parameters", type=_parameters, metavar="P", help="numbers of the model")
    step.add_argument("--compute-seconds", type=_positive, metavar="S", help="of a whole step")
    step.add_argument(
        "--deviation", type=_not_negative, metavar="S", help="of it from rank to rank"
    )
    step.add_argument("--itemsize", type=_positive, default=4, help="bytes of a parameter")
    step.add_argument(
        "--state-itemsize", type=_not_negative, default=8, help="bytes of optimizer state"
    )
    step.add_argument("--no-overlap", action="store_true", help="messages wait for the walk back")
    wanted = parser.add_argument_group("what to predict")
    wanted.add_argument("--ranks", type=_count, default=10_000, metavar="N", help="up to how many")
    wanted.add_argument(
        "--algorithm",
        action="append",
        choices=sorted(ALGORITHMS),
        help="of the reduction; by default the best",
    )
    wanted.add_argument("--stage", type=int, choices=STAGES, default=0, help="of ZeRO")
    wanted.add_argument("--memory-bytes", type=_positive, metavar="B", help="that a rank has")
    wanted.add_argument("--html", type=Path, metavar="FILE", help="write a page with the curve")
    wanted.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(execute=_execute)


def _execute(given: argparse.Namespace) -> int:
    if given.measure_into:
        return _measure_here(given.measure_into)
    network, fitted = _network(given)
    step = _step(given)
    algorithms = given.algorithm or ["ring", "rabenseifner", "ordered"] + (
        ["hierarchical"] if network.per_node < given.ranks else []
    )
    parameters = given.parameters or step.nbytes / given.itemsize
    predictions = [
        predict(step, network, ranks, algorithms, given.stage) for ranks in _numbers(given.ranks)
    ]
    advice = advise(
        step,
        network,
        given.ranks,
        algorithms,
        parameters=parameters,
        memory_bytes=given.memory_bytes,
        itemsize=given.itemsize,
        state_itemsize=given.state_itemsize,
    )
    sizes = {"itemsize": given.itemsize, "state_itemsize": given.state_itemsize}
    needed = {
        stage: memory(parameters, given.ranks, stage, **sizes).total / 2**30 for stage in STAGES
    }
    facts = _facts(step, network, fitted)
    if given.html:
        lines = [*facts, *(f"Advice for {given.ranks:,} ranks: {text}" for text in advice)]
        given.html.write_text(page("A step on many ranks", predictions, lines), encoding="utf-8")
    if given.json:
        print(
            json.dumps(
                {
                    "predictions": [each._asdict() for each in predictions],
                    "memory_gib": needed,
                    "advice": advice,
                    "held_out_error": fitted.error if fitted else None,
                    "worst_held_out_error": fitted.worst_error if fitted else None,
                },
                indent=2,
            )
        )
        return 0
    print("\n".join(facts))
    _print_table(predictions)
    print(f"\nMemory a rank on {given.ranks:,} ranks, without activations (GiB):")
    print("  " + ", ".join(f"ZeRO stage {stage}: {gib:.4g}" for stage, gib in needed.items()))
    if advice:
        print(f"\nFor {given.ranks:,} ranks:")
        print("\n".join(f"- {text}" for text in advice))
    return 0


def _print_table(predictions: list[Prediction]) -> None:
    print(f"\n{'ranks':>8}{'step':>12}{'efficiency':>12}{'exposed':>12}{'waiting':>12}  algorithm")
    for each in predictions:
        print(
            f"{each.ranks:>8,}{1e3 * each.seconds:>9.2f} ms{100 * each.efficiency:>10.1f} %"
            f"{1e3 * each.exposed:>9.2f} ms{1e3 * each.waiting:>9.2f} ms  {each.algorithm}"
        )
    print("\n" + f"{'ranks':>8}  █ computing  ▒ waiting for the slowest  ░ exposed messages")
    print("\n".join(bars(predictions)))


def _facts(step: Step, network: Network, fitted: Fit | None) -> list[str]:
    facts = [
        f"A step computes {1e3 * step.computing:.2f} ms and sends {step.nbytes / 2**20:.2f} MiB in "
        f"{len(step.messages)} buckets{'' if step.overlaps else ', after the walk back'}."
    ]
    link = network.within
    bandwidth = f"{link.bandwidth / 1e9:.3g} GB/s" if math.isfinite(link.bandwidth) else "no limit"
    if fitted:
        facts.append(
            f"Measured: latency {1e6 * link.latency:.2f} µs, long messages {bandwidth}, as by "
            f"{fitted.algorithm}, {len(link.latencies)} lines. Held-out error: median "
            f"{100 * fitted.error:.0f} %, worst {100 * fitted.worst_error:.0f} %."
        )
    else:
        facts.append(f"Given: latency {1e6 * link.latency:.2f} µs, {bandwidth}; nothing measured.")
    if network.between is not link:
        other = network.between
        facts.append(
            f"Between machines of {network.per_node} ranks: {1e6 * other.latency:.2f} µs, "
            f"{other.bandwidth / 1e9:.3g} GB/s a machine, as given."
        )
    return facts


def _network(given: argparse.Namespace) -> tuple[Network, Fit | None]:
    fitted = None
    if given.measurement:
        fitted = fit(load(given.measurement))
    elif given.n:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "measurement.json"
            argv = [sys.executable, "-m", "distgrad", "plan", "--measure-into", str(path)]
            code = run_job(find_launcher(None), given.n, argv, placement=Placement(), restarts=0)
            if code:
                raise PlanningError(f"plan: the measurement on {given.n} ranks failed")
            fitted = fit(load(path))
    elif given.latency is None or given.bandwidth is None:
        raise PlanningError(
            "plan: expected what messages cost: -n RANKS, --measurement FILE, or --latency and "
            "--bandwidth"
        )
    within = fitted.link if fitted else Link.straight(given.latency, given.bandwidth)
    between = within
    per_node = given.ranks_per_node or given.ranks
    if given.ranks_per_node:
        if given.network_latency is None or given.network_bandwidth is None:
            raise PlanningError(
                "plan: --ranks-per-node needs --network-latency and --network-bandwidth"
            )
        between = Link.straight(given.network_latency, given.network_bandwidth)
    return Network(within, between, per_node), fitted


def _step(given: argparse.Namespace) -> Step:
    if given.timeline:
        step = step_of_timeline(given.timeline)
    elif given.metrics:
        step = step_of_metrics(given.metrics)
    elif given.parameters and given.compute_seconds:
        step = Step.estimated(given.parameters * given.itemsize, given.compute_seconds)
    else:
        raise PlanningError(
            "plan: expected what a rank computes: --timeline FILE, --metrics FILE, or --parameters "
            "and --compute-seconds"
        )
    changes: dict[str, Any] = {}
    if given.no_overlap:
        changes["overlaps"] = False
    if given.deviation is not None:
        changes["deviation"] = given.deviation
    return replace(step, **changes)


def _numbers(most: int) -> list[int]:
    return sorted({1, most, *(n for k in range(40) if (n := 2**k) < most)})


def _measure_here(path: Path) -> int:
    world = dist.init()
    samples = measure(world)
    if world.rank == 0:
        save(samples, path)
    world.barrier()
    return 0


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def _not_negative(text: str) -> float:
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected 0 or a positive number, got {text!r}")
    return value


def _parameters(text: str) -> float:
    value = _positive(text)
    if value > _MOST_PARAMETERS:
        raise argparse.ArgumentTypeError(
            f"expected at most {_MOST_PARAMETERS:g} parameters, got {text!r}"
        )
    return value


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 up, got {text!r}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
