"""Transforms of gradients in words: their kind, and the settings that tell them apart."""

from __future__ import annotations

import inspect
from typing import Any

from distgrad.errors import TraceError
from distgrad.tensor import Operators


def described(transform: Any) -> str:
    """Return what tells a transform from others: its own words for itself, or its kind alone.

    Python's default words hold an address, which is another one in each process.
    """
    kind = type(transform)
    has_words = any("__repr__" in vars(each) for each in kind.__mro__ if each is not object)
    return repr(transform) if has_words else kind.__name__


def call_of(transform: Any) -> str:
    """Return the call that makes such a transform, of the arguments that it keeps by name."""
    names = [n for n in inspect.signature(type(transform)).parameters if hasattr(transform, n)]
    settings = ", ".join(f"{name}={_setting(getattr(transform, name))}" for name in names)
    return f"{type(transform).__name__}({settings})"


def _setting(value: Any) -> str:
    if isinstance(value, Operators):
        try:
            return repr(value.item())
        except (TraceError, ValueError):
            return type(value).__name__
    if callable(value):
        try:
            return f"<schedule from {float(value(0)):.6g}>"
        except Exception:
            return "<schedule>"
    return repr(value)
