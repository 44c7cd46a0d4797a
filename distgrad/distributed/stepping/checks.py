"""Look at which optimizers can average over ranks, and which can put off a part of a step."""

from __future__ import annotations

from typing import Any

from distgrad.errors import UnsupportedOptionError
from distgrad.optimizers.rules import Rule
from distgrad.optimizers.stateful import Optimizer
from distgrad.optimizers.transforms import Chain, Clipping

WHO = "DistributedOptimizer"
WAITS = ("step", "next-read")


def check_optimizer(optimizer: Any) -> None:
    """Raise a `TypeError` unless something is an optimizer that is applied to gradients."""
    if not isinstance(optimizer, Optimizer):
        hint = (
            "it averages over ranks itself"
            if hasattr(optimizer, "apply_scaled")
            else "LBFGS and NewtonCG take a loss function: average over ranks within that, by "
            "dist.allreduce"
        )
        raise TypeError(
            f"{WHO}: got {type(optimizer).__name__}; expected an optimizer that is applied to "
            f"gradients, such as dg.optimizers.Adam ({hint})"
        )


def check_wait(optimizer: Optimizer, wait: str, options: dict[str, Any]) -> None:
    """Refuse what cannot put off a part of a step.

    Raises
    ------
    ValueError
        If there is no such `wait`.
    UnsupportedOptionError
        If an option or a transform looks at all averages before any variable changes.
    """
    if wait not in WAITS:
        raise ValueError(f"{WHO}: wait is {wait!r}; expected one of {', '.join(map(repr, WAITS))}")
    if wait == "step":
        return
    reasons = {
        "deterministic": "its sums are exchanged at once",
        "nonfinite": "whether a step is taken is known when all averages are there",
        "bucket_bytes": "the search times whole steps",
        "overlap": "something has to travel in the meantime",
    }
    asked = {
        "deterministic": bool(options["deterministic"]),
        "nonfinite": options["nonfinite"] != "keep",
        "bucket_bytes": options["bucket_bytes"] == "auto",
        "overlap": options["overlap"] is False,
    }
    for option, is_asked in asked.items():
        if is_asked:
            raise UnsupportedOptionError(
                f"{WHO}: {option}={options[option]!r} with wait='next-read': {reasons[option]}; "
                "expected wait='step', or leave the option out"
            )
    transform = optimizer.transform
    for part in transform.parts if isinstance(transform, Chain) else (transform,):
        name = type(part).__name__
        if isinstance(part, Clipping) and part.norm_of == "all":
            raise UnsupportedOptionError(
                f"{WHO}: clipping by the global norm with wait='next-read': the norm is known when "
                "all averages are there; expected wait='step', or clipping(norm=...) of each"
            )
        alone = isinstance(part, (Rule, Clipping)) or getattr(part, "elementwise", False)
        if not alone:
            raise UnsupportedOptionError(
                f"{WHO}: {name} with wait='next-read' is not known to treat each variable by "
                "itself; expected wait='step' (a transform of your own says so by an attribute "
                "elementwise = True)"
            )
