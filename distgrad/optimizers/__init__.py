"""Optimizers, and what is done to gradients before they see them."""

from distgrad.optimizers.clipping import (
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    global_norm,
)

__all__ = ["clip_by_global_norm", "clip_by_norm", "clip_by_value", "global_norm"]
