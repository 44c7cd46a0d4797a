"""The command ``distgrad``: one subcommand a module."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence

import distgrad
from distgrad.cli import benchmarking, information, planning, running, timelines
from distgrad.errors import DistgradError

_SUBCOMMANDS = (running, information, timelines, planning, benchmarking)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command ``distgrad`` and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line after the program's name; this process's own by default.
    """
    parser = argparse.ArgumentParser(
        prog="distgrad", description="Gradients of NumPy and CuPy code, averaged over MPI ranks."
    )
    parser.add_argument("--version", action="version", version=f"distgrad {distgrad.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for each in _SUBCOMMANDS:
        each.add_parser(subparsers)
    given = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # "µ" and bars, where the encoding lacks them
    try:
        code: int = given.execute(given)
    except (DistgradError, OSError) as error:
        print(f"distgrad {given.command}: {error}", file=sys.stderr)
        return 2
    return code
