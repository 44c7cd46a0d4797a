"""``distgrad timeline``: merge the ranks' parts of a timeline, and say where the time went."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from distgrad.distributed.tracing.merging import merge, totals

_SHOWN_RANKS = 8  # columns: more fit on no screen


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to a parser."""
    parser = subparsers.add_parser(
        "timeline",
        help="merge the timeline of a job that died, or show where the time went",
        description="Work on timelines that DISTGRAD_TIMELINE=FILE or dist.timeline(FILE) made.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    merging = verbs.add_parser("merge", help="put the parts FILE.rank*.partial together")
    merging.add_argument("file", type=Path)
    merging.add_argument("--keep", action="store_true", help="keep the parts")
    merging.set_defaults(execute=_merge)
    showing = verbs.add_parser("show", help="print the seconds of each rank in each kind of span")
    showing.add_argument("file", type=Path)
    showing.set_defaults(execute=_show)


def _merge(given: argparse.Namespace) -> int:
    summary = merge(given.file, remove=not given.keep)
    print(f"{given.file}: {summary['ranks'] - len(summary['missing'])} of {summary['ranks']} ranks")
    for what in ("missing", "unfinished"):
        if summary[what]:
            print(f"  {what}: ranks {', '.join(map(str, summary[what]))}")
    return 0


def _show(given: argparse.Namespace) -> int:
    found = totals(given.file)
    ranks = sorted({rank for each in found.values() for rank in each})
    shown = ranks[:_SHOWN_RANKS]
    width = max((len(f"{lane}/{name}") for lane, name in found), default=4) + 2
    print(" " * width + f"{'spans':>8}" + "".join(f"{f'rank {rank}':>11}" for rank in shown))
    for (lane, name), each in sorted(found.items()):
        number = sum(count for count, _ in each.values())
        cells = "".join(f"{each.get(rank, (0, 0.0))[1]:>9.3f} s" for rank in shown)
        print(f"{f'{lane}/{name}':{width}}{number:>8}{cells}")
    if len(ranks) > len(shown):
        print(f"and {len(ranks) - len(shown)} ranks more")
    return 0
