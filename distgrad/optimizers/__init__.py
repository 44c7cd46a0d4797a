"""Optimizers, and what is done to gradients before they see them."""

from distgrad.optimizers import schedules
from distgrad.optimizers.clipping import (
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    global_norm,
)
from distgrad.optimizers.descent import SGD, Adagrad, RMSprop
from distgrad.optimizers.loss_scaling import LossScale
from distgrad.optimizers.moments import LAMB, Adam, AdamW
from distgrad.optimizers.second_order import LBFGS, Minimum, NewtonCG
from distgrad.optimizers.stateful import Optimizer
from distgrad.optimizers.transforms import (
    Transform,
    accumulate,
    apply_updates,
    chain,
    clipping,
)

__all__ = [
    "LAMB",
    "LBFGS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "LossScale",
    "Minimum",
    "NewtonCG",
    "Optimizer",
    "RMSprop",
    "Transform",
    "accumulate",
    "apply_updates",
    "chain",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "clipping",
    "global_norm",
    "schedules",
]
