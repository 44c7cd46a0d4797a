"""TensorFlow's exception types, with messages that also say what to do."""

from __future__ import annotations

from distgrad.errors import DistgradError, NonFiniteError


class OpError(DistgradError):
    """An operation refused its operands; the base of the types below, as in TensorFlow."""

    @property
    def message(self) -> str:
        """What was wrong."""
        return str(self)


class InvalidArgumentError(OpError):
    """Operands do not fit an operation.

    Causes: tensors of two dtypes (nothing is promoted: use `cast`), shapes that do not fit, a dtype
    that the operation does not take, a position outside of an axis.
    """


class InternalError(OpError):
    """A recorded operation broke its promise.

    Causes: a backward function given to `record.record_operation` returns another number of
    gradients than the operation has inputs.
    """


class CheckNumericsError(InvalidArgumentError, NonFiniteError):
    """An operation made a NaN or an infinity while `debugging.enable_check_numerics` was on."""


class UnfitNumberError(InvalidArgumentError, TypeError):
    """A Python number does not fit the dtype of the tensor beside it, as 1.5 and int32.

    TensorFlow raises either of its two bases, as the number stands right or left of an operator.
    """


class MixedDtypesError(InvalidArgumentError, TypeError):
    """The operands of a division differ in dtype, or are truth values.

    TensorFlow raises a `TypeError` here, and `InvalidArgumentError` for its other operations.
    """


class UnimplementedError(OpError, NotImplementedError):
    """An argument asks for something that is not offered yet."""


class NotATensorError(TypeError, AttributeError, DistgradError):
    """A tape was asked about something that is no tensor.

    TensorFlow raises a bare `AttributeError` here (``'float' object has no attribute '_id'``), so
    code that catches that works; the message says more.
    """
