"""The core: what an operation is, and the one seam through which every operation passes."""

from distgrad.core.op import Acting, Composed, Keep, Kind, Op, Placeholder, Slice, Spec
from distgrad.core.seam import LISTENERS, Listener, apply, bind_evaluator

__all__ = [
    "LISTENERS",
    "Acting",
    "Composed",
    "Keep",
    "Kind",
    "Listener",
    "Op",
    "Placeholder",
    "Slice",
    "Spec",
    "apply",
    "bind_evaluator",
]
