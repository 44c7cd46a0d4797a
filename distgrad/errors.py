"""The errors that distgrad raises: each says what failed, where, what was expected, what came."""


class DistgradError(Exception):
    """Base of every error that distgrad raises on purpose.

    Each concrete class also derives from the built-in class that a user of NumPy or TensorFlow
    would catch (`ValueError`, `TypeError`, `RuntimeError`, ...).
    """


class ShapeError(DistgradError, ValueError):
    """Shapes do not fit an operation.

    Raised when operands do not broadcast, an axis is out of range, a reshape changes the number
    of elements, or the inner dimensions of a product differ.
    """


class DTypeError(DistgradError, TypeError):
    """A dtype is unknown, or an operation does not take it."""


class MixedBackendError(DistgradError, TypeError):
    """One operation received arrays of two backends.

    Move one of them with `Tensor.to(backend=...)`; nothing is copied between devices silently.
    """


class UnknownBackendError(DistgradError, LookupError):
    """No installed package offers a backend of this name."""


class BackendUnavailableError(DistgradError, ImportError):
    """A backend is known by name, but cannot be loaded here (package or device missing)."""


class MissingKernelError(DistgradError, NotImplementedError):
    """A backend has neither a kernel for an operation nor the means to compose it."""


class TapeError(DistgradError, RuntimeError):
    """A tape was used against its protocol: spent, not recording, or released."""


class UnconnectedError(DistgradError, ValueError):
    """No gradient path leads from the target to a source, and the caller asked for an error."""
