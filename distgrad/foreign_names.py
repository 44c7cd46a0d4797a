"""Methods of other libraries' tensors and optimizers: they are not here, and say what is instead.

Each is a descriptor that raises `AttributeError`. So `hasattr` says no, as it does of any name that
is not there, and names of which nobody knows here cost what they cost: a ``__getattr__`` would be
called for every protocol that NumPy and others ask a tensor for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn


class Foreign:
    """An attribute that another library's class has.

    Parameters
    ----------
    remedy : str
        What to use instead.
    """

    __slots__ = ("name", "remedy")

    def __init__(self, remedy: str) -> None:
        self.remedy = remedy
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> NoReturn:
        raise AttributeError(
            f"{owner.__name__!r} object has no attribute {self.name!r}; {self.remedy}"
        )


class ForeignNames:
    """A class with foreign names, which `dir` does not list."""

    __slots__ = ()

    def __dir__(self) -> Iterable[str]:
        found: dict[str, Any] = {}
        for cls in reversed(type(self).__mro__):
            found.update(vars(cls))
        return [name for name in super().__dir__() if not isinstance(found.get(name), Foreign)]


class ForeignTensorMethods(ForeignNames):
    """What PyTorch's and JAX's tensors have, and a `Tensor` has under another name."""

    __slots__ = ()

    # Gradients are asked of a tape or of a function; a tensor neither holds nor starts any.
    backward = Foreign(
        "take tape.gradient(loss, variables) of a dg.GradientTape, or dg.grad of a function"
    )
    grad = Foreign("a tensor holds no gradient: tape.gradient and dg.grad return it")
    requires_grad = Foreign("a tape watches variables by itself, and tensors by tape.watch(t)")
    requires_grad_ = Foreign("call tape.watch(t), or make it a dg.Variable")
    retain_grad = Foreign("call tape.watch(t), and name it among the sources of tape.gradient")
    zero_grad = Foreign("there is nothing to clear: each gradient is a new one")
    detach = Foreign("take dg.stop_gradient(t), or t.numpy() for the values")

    cpu = Foreign("take t.to(backend='numpy'), or t.numpy() for the values")
    cuda = Foreign("take t.to(backend='cupy')")
    block_until_ready = Foreign("t.numpy() waits for the values")

    clone = Foreign("take t.copy(); nobody changes a tensor, so it is seldom needed")
    contiguous = Foreign("leave it away: every operation takes arrays of any strides")
    dim = Foreign("take t.ndim")
    numel = Foreign("take t.size")
    permute = Foreign("take t.transpose(*axes), or dg.permute_dims")
    unsqueeze = Foreign("take dg.expand_dims(t, axis=...)")
    expand = Foreign("take dg.broadcast_to(t, shape)")
    type = Foreign("take t.dtype, or t.astype(dtype)")
    float = Foreign("take t.astype('float32'), or float(t) for one number")
    double = Foreign("take t.astype('float64')")
    half = Foreign("take t.astype('float16')")
    long = Foreign("take t.astype('int64')")

    abs = Foreign("take dg.abs(t), or abs(t)")
    exp = Foreign("take dg.exp(t)")
    log = Foreign("take dg.log(t)")
    matmul = Foreign("take t @ u, or dg.matmul(t, u)")
    norm = Foreign("take dg.linalg.vector_norm(t)")
    softmax = Foreign("take dg.softmax(t, axis=...)")
    sqrt = Foreign("take dg.sqrt(t)")


class ForeignOptimizerMethods(ForeignNames):
    """What Keras's and PyTorch's optimizers have, and an `Optimizer` does in another way."""

    apply_gradients = Foreign(
        "take optimizer.apply(gradients, variables), two nests of the same structure"
    )
    step = Foreign("take optimizer.apply(tape.gradient(loss, variables), variables)")
    minimize = Foreign("take optimizer.apply(tape.gradient(loss, variables), variables)")
    zero_grad = Foreign("there is nothing to clear: each gradient is a new one")
    param_groups = Foreign("make an optimizer for each group of variables")
