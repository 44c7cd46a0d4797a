"""The tape: record operations, then walk them back by the chain rule."""

from distgrad.tape.arguments import UnconnectedGradients
from distgrad.tape.cutting import stop_gradient
from distgrad.tape.forward import ForwardAccumulator
from distgrad.tape.gradient_tape import GradientTape

__all__ = ["ForwardAccumulator", "GradientTape", "UnconnectedGradients", "stop_gradient"]
