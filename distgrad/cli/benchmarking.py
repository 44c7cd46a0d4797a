"""``distgrad bench``: measure what this installation takes on this machine, beside no peers."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.launching.launchers import Placement, find_launcher
from distgrad.distributed.launching.supervision import run_job
from distgrad.distributed.launching.threads import threads_per_rank
from distgrad.distributed.planning.measuring import measure

Program = Callable[[], Any]

_EPILOG = """\
Cases: eager (a tape's own work, in microseconds an operation), derivatives (Jacobian and Hessian of
a network from R^100 to R^100), kernels (products, convolutions, rows), training (steps of a network
of three layers), messages (averages over ranks: with -n 2, or under mpirun). All but messages
unless some are named. Times are medians, of messages lower quartiles. A checkout's scripts/bench
measures beside PyTorch, JAX and TensorFlow."""


class Case(NamedTuple):
    """One program to measure, and in what its time is told."""

    name: str
    program: Program
    unit: str = "ms"
    per: int = 1  # how many of what is counted one run holds
    rate: tuple[float, str] | None = None  # how much of what a run does, for a rate a second


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to a parser."""
    parser = subparsers.add_parser(
        "bench",
        help="measure what this installation takes on this machine",
        description="Measure what this installation takes on this machine.",
        epilog=_EPILOG,
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(_CASES)}")
    parser.add_argument("-n", type=int, metavar="RANKS", help="measure on so many ranks here")
    parser.add_argument("--backend", metavar="NAME", help="numpy, cupy, or another (default: its)")
    parser.add_argument(
        "--seconds", type=_seconds, default=0.5, metavar="S", help="for each line (default: 0.5)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(execute=_execute)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def _execute(given: argparse.Namespace) -> int:
    for each in given.cases:
        if each not in _CASES:
            print(
                f"distgrad bench: there is no case {each!r}; expected some of {', '.join(_CASES)}",
                file=sys.stderr,
            )
            return 2
    if given.n is not None:
        return _on_ranks(given)
    world = dist.world()
    chosen = given.cases or [case for case in _CASES if case != "messages" or world.size > 1]
    if "messages" in chosen and world.size == 1:
        print(
            "distgrad bench: one rank alone sends no messages; start several: distgrad bench "
            "messages -n 2",
            file=sys.stderr,
        )
        return 2
    results: dict[str, list[dict[str, Any]]] = {}
    with dg.use_backend(given.backend) if given.backend else dg.use_backend(_backend().name):
        about = _about(world.size)
        for title in chosen:
            results[title] = (
                list(_messages(world))
                if title == "messages"
                else [_measured(case, given.seconds) for case in _CASES[title]()]
            )
    if world.rank == 0:
        if given.json:
            print(json.dumps({**about, "cases": results}, indent=2))
        else:
            _print(about, results)
    return 0


def _on_ranks(given: argparse.Namespace) -> int:
    if given.n < 1:
        print(f"distgrad bench: -n is {given.n}; expected 1 or more", file=sys.stderr)
        return 2
    argv = [sys.executable, "-m", "distgrad", "bench", *given.cases]
    argv += ["--seconds", str(given.seconds), *(["--json"] if given.json else [])]
    argv += ["--backend", given.backend] if given.backend else []
    return run_job(find_launcher(None), given.n, argv, placement=Placement(), restarts=0)


# --- measuring and showing ------------------------------------------------------------------------


def _measured(case: Case, seconds: float) -> dict[str, Any]:
    """Return the median and the least time of a program that runs again and again for a while."""
    synchronize = _backend().synchronize
    for _ in range(2):  # compiles, traces and fills caches
        case.program()
    synchronize()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        case.program()
        synchronize()
        times.append(time.perf_counter() - start)
    scale = {"ms": 1e3, "µs": 1e6}[case.unit] / case.per
    median = statistics.median(times)
    found = {
        "name": case.name,
        "unit": case.unit,
        "median": scale * median,
        "least": scale * min(times),
        "repetitions": len(times),
    }
    if case.rate:
        amount, unit = case.rate
        found |= {"rate": amount / median, "rate_unit": unit}
    return found


def _messages(world: Any) -> Iterator[dict[str, Any]]:
    for sample in measure(world, (8, 2**16, 2**20, 2**24)):
        length = f"{sample.nbytes >> 10} KiB" if sample.nbytes >= 2**10 else f"{sample.nbytes} B"
        yield {
            "name": f"allreduce of {length}, {sample.ranks} ranks",
            "unit": "µs",
            "lower_quartile": 1e6 * sample.seconds,
            "rate": sample.nbytes / sample.seconds / 1e9,
            "rate_unit": "GB/s",
        }


def _about(ranks: int) -> dict[str, Any]:
    return {
        "distgrad": dg.__version__,
        "backend": _backend().name,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "ranks": ranks,
        "threads": threads_per_rank(ranks),
    }


def _print(about: dict[str, Any], results: dict[str, list[dict[str, Any]]]) -> None:
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    for title, lines in results.items():
        print(title)
        for line in lines:
            rate = f"{line['rate']:10.3g} {line['rate_unit']}" if "rate" in line else ""
            typical = line.get("median", line.get("lower_quartile"))
            print(f"  {line['name']:40} {typical:10.4g} {line['unit']} {rate}".rstrip())


def _backend() -> Any:
    return dg.zeros(()).backend


# --- the cases ------------------------------------------------------------------------------------


def _drawn(*shape: int) -> Any:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return dg.asarray(values, backend=_backend())


def _with_gradient(f: Callable[..., Any], *inputs: Any) -> Program:
    def both() -> Any:
        with dg.GradientTape() as tape:
            tape.watch(inputs)
            y = f(*inputs)
        return tape.gradient(y, inputs)

    return both


def _eager() -> list[Case]:
    operations = 1000
    x, b = _drawn(8), _drawn(8)

    def chain(x: Any) -> Any:
        y = x
        for _ in range(operations // 4):
            y = dg.tanh(dg.sin(y * b) + x)
        return y

    return [
        Case("1000 operations, forward", lambda: chain(x), "µs", operations),
        Case("1000 operations, with gradient", _with_gradient(chain, x), "µs", operations),
    ]


def _derivatives() -> list[Case]:
    w1, w2, x = _drawn(100, 100) * 0.1, _drawn(100, 100) * 0.1, _drawn(100)

    def net(x: Any) -> Any:
        return dg.tanh(x @ w1) @ w2

    def loss(x: Any) -> Any:
        return dg.sum(net(x) ** 2)

    found = []
    for name, transform in (("jacobian", dg.jacrev(net)), ("hessian", dg.hessian(loss))):
        traced = dg.function(transform)
        found.append(Case(name, lambda f=transform: f(x)))  # type: ignore[misc]  # bound now
        found.append(Case(f"{name}, traced", lambda f=traced: f(x)))  # type: ignore[misc]
    return found


def _kernels() -> list[Case]:
    a, images, kernel = _drawn(512, 512), _drawn(32, 28, 28, 32), _drawn(3, 3, 32, 64)
    rows, heads = _drawn(1024, 1024), _drawn(8, 8, 128, 64)
    product, conv = 2 * 512**3 / 1e9, 2 * 32 * 26 * 26 * 64 * 9 * 32 / 1e9
    programs = (
        ("matmul 512 x 512", dg.matmul, (a, a), product),
        ("conv 3 x 3, 32 images of 28 x 28 x 32", dg.nn.conv, (images, kernel), conv),
        ("softmax of 1024 rows of 1024", dg.softmax, (rows,), None),
        ("layer_norm of 1024 rows of 1024", dg.nn.layer_norm, (rows,), None),
        ("gelu of 2**20 numbers", dg.nn.gelu, (rows,), None),
        ("attention, 8 x 8 heads of 128 x 64", _attention, (heads,), None),
    )
    found = []
    for name, f, inputs, work in programs:
        rate = (work, "Gflop/s") if work else None
        forward = lambda f=f, inputs=inputs: f(*inputs)  # noqa: E731  bound now, not at the end
        found.append(Case(name, forward, rate=rate))
        thrice = (3 * work, "Gflop/s") if work else None
        found.append(Case("  with gradient", _with_gradient(f, *inputs), rate=thrice))
    return found


def _attention(x: Any) -> Any:
    return dg.nn.scaled_dot_product_attention(x, x, x)


def _training() -> list[Case]:
    x = _drawn(128, 784)
    labels = dg.asarray(np.arange(128) % 10, backend=_backend())
    found = []
    for name, traced in (("eager", False), ("traced", True)):
        model = dg.nn.Sequential(
            dg.nn.Dense(256, dg.nn.relu), dg.nn.Dense(128, dg.nn.relu), dg.nn.Dense(10)
        )
        model(x)
        optimizer = dg.optimizers.Adam(1e-4)

        def step(model: Any = model, optimizer: Any = optimizer) -> Any:
            with dg.GradientTape() as tape:
                losses = dg.nn.softmax_cross_entropy(labels=labels, logits=model(x))
                loss = dg.mean(losses)
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
            return loss

        step()
        run = dg.function(step) if traced else step
        found.append(
            Case(f"784-256-128-10, Adam, batch 128, {name}", run, rate=(128, "examples/s"))
        )
    return found


_CASES: dict[str, Callable[[], list[Case]]] = {
    "eager": _eager,
    "derivatives": _derivatives,
    "kernels": _kernels,
    "training": _training,
    "messages": list,
}
