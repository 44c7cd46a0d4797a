"""Measure the hot kernels of the CPU, forward and with their gradients, beside their peers.

Each case runs in distgrad (by NumPy and BLAS alone; with compiled kernels, where there is a
compiler; and with oneDNN besides, where that is installed and has a part in it), in PyTorch and in
TensorFlow, in turn, round after round. A figure is the least over the rounds, and with one thread
the processor's time instead of the clock's: what others do on the machine only ever adds. With
several, each program begins after a rest, since threads of the one before keep looking for work,
and processors busy, and with some steps that do not count: a training takes them one after the
other. "blas" is the time of the same products of matrices in bare BLAS, with nothing around them:
the limit for kernels built on it. Numbers of threads run one after the other, each in a process of
its own. Rows in which distgrad is behind are marked.

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

import kernel_cases
import numpy as np

Step = Callable[[], Any]
LIBRARIES = ("numpy", "compiled", "onednn", "torch", "tensorflow", "blas")
REST = 0.05  # seconds: OpenBLAS' threads look for work for 30 ms after a product
WARM = 3  # steps until all threads of a program are awake, and its caches warm
HEADS = {
    "numpy": "NumPy",
    "onednn": "with oneDNN",
    "torch": "PyTorch",
    "tensorflow": "TensorFlow",
    "blas": "bare BLAS",
}


# --- in a process for each number of threads ----------------------------------------------------


def prepare(threads: int) -> dict[str, str]:
    """Import the libraries, hold them to a number of threads, and return why some are missing."""
    missing: dict[str, str] = {}
    from distgrad_numpy import compiled, onednn

    if not compiled.is_on():
        missing["compiled"] = "switched off by DISTGRAD_C_KERNELS=0"
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
            if threads > 1:
                time.sleep(REST)
                for _ in range(WARM):
                    step()
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
    command += [
        str(arguments.rounds),
        "--dtype",
        arguments.dtype,
        "--only",
        arguments.only,
        "--worker",
        *arguments.families,
    ]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def show(threads: int, found: dict[str, Any]) -> None:
    """Print a table: milliseconds, and ratios to the best peer."""
    print(f"\n{threads} thread{'s' if threads > 1 else ''}, milliseconds")
    heads = "".join(f"{HEADS.get(name, name):>12}" for name in LIBRARIES)
    print(f"{'':42}{heads}   NumPy / best   compiled / best   with oneDNN / best")
    for name, table in found["results"].items():
        for what in ("forward", "both"):
            row = {library: each[what] for library, each in table.items()}
            line = f"{name if what == 'forward' else '    and gradients':42}"
            for library in LIBRARIES:
                line += f"{row[library]:12.2f}" if library in row else f"{'-':>12}"
            peers = [row[each] for each in ("torch", "tensorflow") if each in row]
            for library, width in (("numpy", 14), ("compiled", 17), ("onednn", 20)):
                if peers and library in row:
                    ratio = row[library] / min(peers)
                    line += f"{ratio:{width}.2f}{'*' if ratio > 1.5 else ' '}"
                else:
                    line += f"{'-':>{width}} "
            print(line.rstrip())


SHOWN = ("numpy", "compiled", "onednn", "torch", "tensorflow")
RATIOS = ("compiled", "onednn")


def as_markdown(found: dict[str, Any]) -> str:
    """Return the table of docs/explanation/kernel-speed.md: three digits, bold what is behind."""
    heads = ["case", *(HEADS.get(name, name) for name in SHOWN)]
    heads += [f"{HEADS.get(name, name)} / best" for name in RATIOS]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for name, table in found["results"].items():
        for what in ("forward", "both"):
            row = {library: each[what] for library, each in table.items()}
            peers = [row[each] for each in ("torch", "tensorflow") if each in row]
            cells = [name if what == "forward" else "... and gradients"]
            cells += [digits(row[library]) if library in row else "" for library in SHOWN]
            for library in RATIOS:
                ratio = row[library] / min(peers) if peers and library in row else None
                cell = "" if ratio is None else f"{ratio:.2f}"
                cells.append(f"**{cell}**" if ratio is not None and ratio > 1.5 else cell)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def digits(value: float) -> str:
    """Return three digits of a number, two behind the point at most."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


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
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--only", default="", help="cases with this in their names")
    parser.add_argument("--markdown", action="store_true", help="print the table of the docs")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.families = arguments.families or known
    if unknown := set(arguments.families) - set(known):
        parser.error(f"no family is called {sorted(unknown)[0]!r}; there are: {', '.join(known)}")
    if arguments.rounds < 1 or min(arguments.threads) < 1:
        parser.error("--rounds and --threads must be 1 or more")
    if arguments.worker:
        kernel_cases.dtype = np.dtype(arguments.dtype)
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
        if arguments.markdown:
            print(f"\n{as_markdown(found)}")
    print("\n*: more than 1.5 times the best peer")
    if arguments.json:
        arguments.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
