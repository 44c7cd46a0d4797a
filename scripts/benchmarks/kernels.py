"""Measure the hot kernels of the CPU, forward and with their gradients, beside their peers.

Each case runs in distgrad (NumPy and BLAS alone; and with oneDNN, where that is installed), in
PyTorch and in TensorFlow, in turn, round after round. A figure is the least over the rounds, and
with one thread the processor's time instead of the clock's: what others do on the machine only ever
adds. "blas" is the time of the same products of matrices in bare BLAS, with nothing around them:
the limit for kernels built on it. Numbers of threads run one after the other, each in a process
of its own. Rows in which distgrad is behind are marked.

The cases are in scripts/benchmarks/kernel_cases/, one file a family.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Step = Callable[[], Any]
LIBRARIES = ("distgrad", "onednn", "torch", "tensorflow", "blas")
OURS = ("distgrad", "onednn")


# --- in a process for each number of threads ----------------------------------------------------


def prepare(threads: int) -> dict[str, str]:
    """Import the libraries, hold them to a number of threads, and return why some are missing."""
    missing: dict[str, str] = {}
    from distgrad_numpy import onednn

    if not onednn.is_available():
        missing["onednn"] = "not installed (pip install 'distgrad[onednn]')"
    try:
        import torch

        torch.set_num_threads(threads)
    except ImportError as error:
        missing["torch"] = f"not installed ({error})"
    try:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except ImportError as error:
        missing["tensorflow"] = f"not installed ({error})"
    return missing


def measure(families: list[str], only: str, threads: int, rounds: int) -> dict[str, Any]:
    """Return the least times in milliseconds, by case, library and what is computed."""
    missing = prepare(threads)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for family in families:
        module = importlib.import_module(f"kernel_cases.{family}")
        for name, make in module.CASES.items():
            if only not in name:
                continue
            steps: dict[tuple[str, str], Step] = {}
            for library in LIBRARIES:
                if library in missing:
                    continue
                pair = make(library)
                if pair is not None:
                    steps[library, "forward"], steps[library, "both"] = pair
            results[name] = least(steps, rounds, threads)
    return {"missing": missing, "results": results}


def least(
    steps: dict[tuple[str, str], Step], rounds: int, threads: int
) -> dict[str, dict[str, float]]:
    """Return the least time of each step in milliseconds, all steps taking turns."""
    clock = time.process_time if threads == 1 else time.perf_counter
    for step in steps.values():  # warm up
        step()
        step()
    times: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for _ in range(rounds):
        for key, step in steps.items():
            start = clock()
            step()
            times[key].append(clock() - start)
    table: dict[str, dict[str, float]] = {}
    for (library, what), values in times.items():
        table.setdefault(library, {})[what] = 1e3 * min(values)
    return table


# --- in the process that was started ------------------------------------------------------------


def run_with(threads: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what a process of its own measures with a number of threads."""
    variables = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(variables, str(threads))}
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    command = [sys.executable, __file__, "--threads", str(threads), "--rounds"]
    command += [str(arguments.rounds), "--only", arguments.only, "--worker", *arguments.families]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def show(threads: int, found: dict[str, Any]) -> None:
    """Print a table: milliseconds, and ratios to the best peer and to bare BLAS."""
    print(f"\n{threads} thread{'s' if threads > 1 else ''}, milliseconds")
    heads = "".join(f"{name:>11}" for name in LIBRARIES)
    print(f"{'':46}{heads}{'/ best peer':>13}{'/ blas':>8}   with onednn")
    for name, table in found["results"].items():
        for what in ("forward", "both"):
            row = {library: each[what] for library, each in table.items()}
            line = f"{name if what == 'forward' else '    and gradients':46}"
            for library in LIBRARIES:
                line += f"{row[library]:11.2f}" if library in row else f"{'-':>11}"
            peers = [row[each] for each in ("torch", "tensorflow") if each in row]
            if peers:
                ratio = row["distgrad"] / min(peers)
                line += f"{ratio:12.2f}{'*' if ratio > 1.5 else ' '}"
            else:
                line += f"{'-':>13}"
            line += f"{row['distgrad'] / row['blas']:8.2f}" if "blas" in row else f"{'':>8}"
            if peers and "onednn" in row:
                line += f"{row['onednn'] / min(peers):9.2f}"
            print(line)


def main() -> None:
    """Measure, and print a table for each number of threads."""
    here = Path(__file__).parent / "kernel_cases"
    known = sorted(path.stem for path in here.glob("*.py") if path.stem != "__init__")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", help=f"of cases; all by default: {', '.join(known)}")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="how many; 1 2")
    parser.add_argument("--rounds", type=int, default=11, help="how often each step runs")
    parser.add_argument("--only", default="", help="cases with this in their names")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.families = arguments.families or known
    if unknown := set(arguments.families) - set(known):
        parser.error(f"no family is called {sorted(unknown)[0]!r}; there are: {', '.join(known)}")
    if arguments.rounds < 1 or min(arguments.threads) < 1:
        parser.error("--rounds and --threads must be 1 or more")
    if arguments.worker:
        found = measure(arguments.families, arguments.only, arguments.threads[0], arguments.rounds)
        print(json.dumps(found))
        return
    print(f"least of {arguments.rounds} rounds; Python {platform.python_version()}")
    everything = {}
    for threads in arguments.threads:
        found = everything[threads] = run_with(threads, arguments)
        for name, why in found["missing"].items() if threads == arguments.threads[0] else ():
            print(f"{name}: {why}", file=sys.stderr)
        show(threads, found)
    print("\n*: more than 1.5 times the best peer")
    if arguments.json:
        arguments.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
