"""Read the arguments that every training job takes, and refuse once a job what makes no sense."""

import argparse
import math
import os
from pathlib import Path
from typing import Any

_FILES = ("metrics", "timeline", "report")  # of which each takes the place of what was there
_NO_SIZES = ("steps", "seed", "checkpoint_every")  # numbers that take no memory


class JobParser(argparse.ArgumentParser):
    """A parser of the arguments of a training job, which are the same for all jobs.

    Parameters
    ----------
    name : str
        The job's, in messages.
    description : str
        What it does, in a sentence.
    is_first : bool
        Whether this is the first rank. All ranks read the same arguments and come to the same
        end; only the first one speaks.
    steps, global_batch, learning_rate : int, int, float
        The job's own defaults.

    Examples
    --------
    >>> parser = JobParser(
    ...     "job", "An example.", is_first=True, steps=10, global_batch=32, learning_rate=0.1
    ... )
    >>> parser.parse_args(["--steps", "20"]).steps
    20
    """

    def __init__(
        self,
        name: str,
        description: str,
        *,
        is_first: bool,
        steps: int,
        global_batch: int,
        learning_rate: float,
    ) -> None:
        super().__init__(
            prog=name,
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,  # or a later argument could change what a short one means
        )
        self._is_first = is_first
        add = self.add_argument
        add("--steps", type=_count, default=steps, help="number of updates")
        add(
            "--global-batch",
            type=_count,
            default=global_batch,
            help="examples a step, over all ranks",
        )
        add(
            "--micro-batches",
            type=_count,
            default=1,
            help="pieces of a rank's part of the batch, computed one after the other",
        )
        add("--learning-rate", type=_rate, default=learning_rate, help="at the start")
        add("--seed", type=_seed, default=0, help="of everything that is drawn at random")
        add("--dtype", choices=("float32", "float64"), default="float32", help="of all numbers")
        add("--backend", default="numpy", help="numpy, cupy, or another that is installed")
        add(
            "--deterministic",
            action="store_true",
            help="the same bits for any number of ranks and of micro-batches",
        )
        add("--checkpoint-dir", type=_path, metavar="DIR", help="save what the job needs to go on")
        add("--checkpoint-every", type=_count, default=100, metavar="K", help="save every K steps")
        add(
            "--resume",
            action="store_true",
            help="go on from the newest whole checkpoint, if there is one",
        )
        add("--metrics", type=_path, metavar="FILE.jsonl", help="write a line of JSON a step")
        add("--tensorboard", type=_path, metavar="DIR", help="write event files for TensorBoard")
        add(
            "--timeline",
            type=_path,
            metavar="FILE.json",
            help="record when which rank did what, for Perfetto",
        )
        add("--report", type=_path, metavar="FILE.html", help="write a report at the end")
        add("--quiet", action="store_true", help="print nothing but errors")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the arguments; end the program where they make no sense together.

        Raises
        ------
        SystemExit
            On every rank; the first one has said why.
        """
        found = super().parse_args(args, namespace)
        if found.resume and found.checkpoint_dir is None:
            self.error("argument --resume: there is nothing to resume without --checkpoint-dir")
        self._refuse_one_file_for_two(found)
        return found

    def _refuse_one_file_for_two(self, found: argparse.Namespace) -> None:
        taken: dict[str, str] = {}
        for name in _FILES:
            path = vars(found)[name]
            if path is None or (path.is_absolute() and path.is_relative_to("/dev")):
                continue
            other = taken.setdefault(os.path.abspath(path), name)
            if other != name:
                self.error(
                    f"argument {option(name)}: {option(other)} writes to {path} already; name "
                    "another file, or what one wrote would be lost"
                )

    def sizes_of(self, arguments: argparse.Namespace) -> str:
        """Return the sizes that were asked for, other than the job's own, as they were given."""
        given = {
            name: value
            for name, value in vars(arguments).items()
            if type(value) is int and name not in _NO_SIZES and value != self.get_default(name)
        }
        return " ".join(f"{option(name)} {value}" for name, value in given.items())

    def _print_message(self, message: str, file: Any = None) -> None:
        if self._is_first:
            super()._print_message(message, file)


def option(name: str) -> str:
    """Return an argument as it is given on the command line."""
    return f"--{name.replace('_', '-')}"


def _count(text: str) -> int:
    """Return a positive whole number that can be the step of a checkpoint."""
    return _whole_number(text, at_least=1, below=10**15)


def _seed(text: str) -> int:
    """Return a whole number that can seed a generator."""
    return _whole_number(text, at_least=0, below=2**128)


def _whole_number(text: str, *, at_least: int, below: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = at_least - 1
    if number < at_least:
        raise argparse.ArgumentTypeError(
            f"expected a whole number of at least {at_least}, got {text!r}"
        )
    if number >= below:
        raise argparse.ArgumentTypeError(f"expected a whole number below {below}, got {text!r}")
    return number


def _path(text: str) -> Path:
    """Return a path; of a variable of the shell that is not set it would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty one")
    return Path(text)


def _rate(text: str) -> float:
    """Return a positive finite number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return number
