"""The tape: record operations, then walk them back by the chain rule."""

from distgrad.tape.arguments import UnconnectedGradients
from distgrad.tape.cutting import stop_gradient
from distgrad.tape.forward import ForwardAccumulator
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tape.hooks import gradient_hook
from distgrad.tape.offloading import offload_to_disk, offload_to_host
from distgrad.tape.saved_values import debug_mutations, saved_values

__all__ = [
    "ForwardAccumulator",
    "GradientTape",
    "UnconnectedGradients",
    "debug_mutations",
    "gradient_hook",
    "offload_to_disk",
    "offload_to_host",
    "saved_values",
    "stop_gradient",
]
