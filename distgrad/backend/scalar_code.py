"""Scalar code: run a composition or a rule on names in place of arrays, and it writes C++.

What computes element by element is the same formula for every element. Run on the values of this
module, it leaves one line of C++ for each operation, in the dialect that host compilers and NVRTC
share. So the formula of an activation, of a pullback or of an optimizer becomes one kernel, without
being written a second time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad.backend.operators import KernelOperators
from distgrad.backend.powers import is_product, product_of
from distgrad.backend.templates import TEMPLATES
from distgrad.core.op import Keep, Kind, Op
from distgrad.dtypes import as_dtype
from distgrad.errors import DistgradError

# The C++ type of each dtype, and the one in which its values are computed with.
C_TYPES = {
    "float64": "double",
    "float32": "float",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "bool": "bool",
    "int8": "signed char",
    "int16": "short",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
    "uint16": "unsigned short",
    "uint32": "unsigned int",
    "uint64": "unsigned long long",
}
_COMPUTED_IN = {"float16": "float", "bfloat16": "float"}

_FLOATING = ("float16", "bfloat16", "float32", "float64")
_SCALARS = (bool, int, float)


class NoScalarCode(DistgradError, AttributeError):
    """A formula is not one of single real elements: it reads shapes, reduces, or is complex.

    An `AttributeError`, too: what is missing may be the namespace's.
    """


class Scalar(KernelOperators):
    """One element of an array, as the name of a variable of the code that is being written.

    Parameters
    ----------
    code : str
        The name, or a literal.
    dtype : numpy.dtype
        Of the value: bool or a floating one.
    writer : ScalarCode
        Who writes.
    """

    __slots__ = ("code", "dtype", "writer")

    shape: tuple[int, ...] = ()
    ndim = 0

    def __init__(self, code: str, dtype: Any, writer: ScalarCode) -> None:
        self.code = code
        self.dtype = dtype
        self.writer = writer

    def compute(self, name: str, operands: Sequence[Any]) -> Scalar:
        """Return the result of an operation, by its template or composition."""
        return self.writer.compute(name, operands, {})

    def astype(self, dtype: Any) -> Scalar:
        """Return the value in another dtype."""
        return self.writer.cast(self, dtype)

    def __bool__(self) -> bool:
        raise NoScalarCode("a formula branches by Python's if on the value of an element")


class ScalarCode:
    """A namespace for rules and compositions that writes C++ for one element.

    Parameters
    ----------
    vocabulary : mapping of str to Op
        The operations, for the compositions of those without a template.
    dtype : dtype
        The one floating dtype of the operands: float16 or bfloat16 (computed in float), float32 or
        float64.
    """

    keeps_zeros = False
    level = 0
    complex_dtypes: frozenset[Any] = frozenset()

    def __init__(self, vocabulary: Mapping[str, Op], dtype: Any) -> None:
        self.vocabulary = vocabulary
        self.dtype = as_dtype(dtype)
        if self.dtype.name not in _FLOATING:
            raise NoScalarCode(f"scalar code is written for real floating dtypes, not {dtype}")
        own = C_TYPES[self.dtype.name]
        self.c_type = _COMPUTED_IN.get(self.dtype.name, own)
        self.lines: list[str] = []
        self._known: dict[str, Scalar] = {}

    @property
    def computed_in(self) -> np.dtype[Any]:
        """The dtype of values within the code."""
        return np.dtype(np.float64 if self.c_type == "double" else np.float32)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or (name not in self.vocabulary and name not in TEMPLATES):
            raise NoScalarCode(f"{name} is not there for single elements")

        def operation(*operands: Any, **params: Any) -> Any:
            return self.compute(name, operands, params)

        return operation

    def argument(self, name: str, dtype: Any = None) -> Scalar:
        """Return an argument of the kernel, by its name, converted to the type of computation.

        Parameters
        ----------
        name : str
            A variable of the surrounding kernel.
        dtype : dtype, optional
            Bool, float16 or bfloat16 in code of float32, or by default the one of the code.
        """
        own = self.dtype if dtype is None else as_dtype(dtype)
        if own.kind == "b" or own == self.dtype:
            return self._named(name, own)
        if own.name in _COMPUTED_IN and self.c_type == _COMPUTED_IN[own.name]:
            return self._named(f"({self.c_type}){name}", self.dtype)
        raise NoScalarCode(f"argument {name} is {own}; this code computes in {self.dtype}")

    def compute(self, name: str, operands: Sequence[Any], params: Mapping[str, Any]) -> Any:
        """Return the result of an operation on scalars and numbers, and write what computes it."""
        if name == "where":
            return self._chosen(*operands)
        if name == "astype":
            return self.cast(operands[0], params["dtype"])
        if name in ("zeros_like", "ones_like"):
            return self._literal(float(name == "ones_like"))
        if name == "broadcast_to" and params["shape"] == ():
            return operands[0]
        if name == "pow":
            return self._power(*operands)
        template = TEMPLATES.get(name)
        if template is None or params:
            return self._composed(name, operands, params)
        if template.result == "operand" and all(_is_truth(each) for each in operands):
            raise NoScalarCode(f"{name} of truth values alone")
        codes = [self._code(each) for each in operands]
        text = template.text.format(
            *codes, *self._constants_of(name), inf=self._largest(), max=self._largest()
        )
        return self._named(text, np.dtype(bool) if template.result == "truth" else self.dtype)

    def cast(self, value: Any, dtype: Any) -> Scalar:
        """Return a value in another dtype: floating ones are that of the code."""
        own = as_dtype(dtype)
        if own.kind == "b":
            return self._named(f"{self._code(value)} != 0", own)
        if own != self.dtype:
            raise NoScalarCode(f"astype to {own}; this code computes in {self.dtype}")
        return self._named(self._code(value), own)

    def text(self, outputs: Mapping[str, Any]) -> str:
        """Return the code: a line for each operation, and an assignment for each output.

        Parameters
        ----------
        outputs : mapping of str to Scalar or number
            Results by the name of the variable that takes them.
        """
        ends = [f"{name} = {self._code(value)};" for name, value in outputs.items()]
        return "\n".join([*self.lines, *ends])

    # --- how lines are written --------------------------------------------------------------------

    def _named(self, text: str, dtype: Any) -> Scalar:
        """Return a variable that holds the value of an expression, the same for the same one."""
        known = self._known.get(f"{dtype}:{text}")
        if known is not None:
            return known
        name = f"t{len(self.lines)}"
        c_type = "bool" if dtype.kind == "b" else self.c_type
        self.lines.append(f"const {c_type} {name} = {text};")
        made = self._known[f"{dtype}:{text}"] = Scalar(name, dtype, self)
        return made

    def _literal(self, number: float) -> Scalar:
        return Scalar(self._code(number), self.dtype, self)

    def _code(self, value: Any) -> str:
        """Return an operand as it stands in an expression."""
        if isinstance(value, Scalar):
            return value.code
        if isinstance(value, (*_SCALARS, np.generic)) and not isinstance(value, complex):
            return self._number(float(value))
        raise NoScalarCode(f"an operand is a {type(value).__name__}, and no element or number")

    def _number(self, value: float) -> str:
        single = "f" if self.c_type == "float" else ""
        if math.isnan(value):
            return f"(({self.c_type})(1e300 * 1e300 * 0))"
        if math.isinf(value):
            return f"(({self.c_type})({'-' if value < 0 else ''}1e300 * 1e300))"
        text = repr(value) if "e" in repr(value) or "." in repr(value) else f"{value!r}.0"
        return f"({text}{single})" if value < 0 or text.startswith("-") else f"{text}{single}"

    def _largest(self) -> str:
        return self._number(float(np.finfo(self.computed_in).max))

    def _constants_of(self, name: str) -> tuple[str, ...]:
        return (self._number(1.0),) if name == "sign" else ()

    def _chosen(self, condition: Any, a: Any, b: Any) -> Scalar:
        dtype = np.dtype(bool) if _is_truth(a) and _is_truth(b) else self.dtype
        c_type = "bool" if dtype.kind == "b" else self.c_type
        one, other = (f"({c_type}){self._code(each)}" for each in (a, b))
        return self._named(f"{self._code(condition)} ? {one} : {other}", dtype)

    def _power(self, base: Any, exponent: Any) -> Scalar:
        if isinstance(base, Scalar) and is_product(exponent):
            return product_of(base, exponent)
        if isinstance(exponent, _SCALARS) and exponent == 0.5:
            return self.compute("sqrt", (base,), {})
        return self._named(f"pow({self._code(base)}, {self._code(exponent)})", self.dtype)

    def _composed(self, name: str, operands: Sequence[Any], params: Mapping[str, Any]) -> Any:
        op = self.vocabulary.get(name)
        if op is None or op.kind is not Kind.ELEMENTWISE or op.compose is None:
            raise NoScalarCode(f"{name} has no expression in C++, and no composition of such")
        return op.compose(self, *(self._lifted(each) for each in operands), **params)

    def _lifted(self, value: Any) -> Any:
        return self._literal(float(value)) if isinstance(value, _SCALARS) else value


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, Scalar) and value.dtype.kind == "b")


# --- whole formulas -------------------------------------------------------------------------------


class Formula(NamedTuple):
    """What one kernel computes for each element.

    Attributes
    ----------
    name : str
        Of the kernel.
    inputs : tuple of (str, dtype)
        Names and dtypes of what it reads.
    outputs : tuple of (str, dtype)
        Names and dtypes of what it writes.
    body : str
        C++ that reads the inputs and assigns the outputs.
    numbers : frozenset of str
        The inputs that are one number for all elements.
    """

    name: str
    inputs: tuple[tuple[str, Any], ...]
    outputs: tuple[tuple[str, Any], ...]
    body: str
    numbers: frozenset[str] = frozenset()


def forward(
    op: Op, vocabulary: Mapping[str, Op], operands: Sequence[Any], params: Mapping[str, Any]
) -> Formula:
    """Return the formula of an elementwise operation.

    Parameters
    ----------
    op : Op
        The operation.
    vocabulary : mapping
        The operations.
    operands : sequence
        For each operand its dtype; int or float, the class, for a Python number that each call
        gives; or the number itself, where all calls have the same one.
    params : mapping
        The metadata of the calls.

    Raises
    ------
    NoScalarCode
        If its composition is not one of single real elements of one floating dtype.
    """
    own = [o if _is_number(o) else as_dtype(o) for o in operands]
    _, floating = _one_floating(op.name, [o for o in own if isinstance(o, np.dtype)])
    writer = ScalarCode(vocabulary, floating)
    inputs: list[tuple[str, Any]] = []
    numbers: list[str] = []
    given: list[Any] = []
    for place, operand in enumerate(own):
        name = f"x{place}"
        if isinstance(operand, type):
            inputs.append((name, writer.computed_in))
            numbers.append(name)
            given.append(writer.argument(name))
        elif isinstance(operand, np.dtype):
            inputs.append((name, operand))
            given.append(writer.argument(name, operand))
        else:
            given.append(operand)
    result = writer.compute(op.name, given, params)
    kind = np.dtype(bool) if _is_truth(result) else floating
    code = writer.text({"y": result})
    return Formula(op.name, tuple(inputs), (("y", kind),), code, frozenset(numbers))


def pullback(
    op: Op,
    vocabulary: Mapping[str, Op],
    reads: Sequence[Any],
    output: Any,
    cotangent: Any,
    params: Mapping[str, Any],
    needs: Sequence[Any],
) -> Formula:
    """Return the formula of an elementwise operation's VJP, where nothing was broadcast.

    Parameters
    ----------
    op : Op
        The operation.
    vocabulary : mapping
        The operations.
    reads : sequence
        For each input that the rule reads its dtype, a Python number for one, else None.
    output : dtype or None
        That of the output, if the rule reads it.
    cotangent : dtype
        That of the cotangent.
    params : mapping
        The metadata of the call.
    needs : sequence
        Which inputs want a cotangent.

    Raises
    ------
    NoScalarCode
        If the rule is not one of single real elements of one floating dtype.
    """
    dtypes = [each for each in (cotangent, output, *reads) if isinstance(each, np.dtype)]
    _, floating = _one_floating(op.name, dtypes)
    writer = ScalarCode(vocabulary, floating)
    inputs: list[tuple[str, Any]] = [("g", cotangent)]
    if output is not None:
        inputs.append(("y", output))
    g = writer.argument("g", cotangent)
    y = None if output is None else writer.argument("y", output)
    xs: list[Any] = []
    for place, each in enumerate(reads):
        if isinstance(each, np.dtype):
            inputs.append((f"x{place}", each))
            xs.append(writer.argument(f"x{place}", each))
        else:
            xs.append(each)
    if op.vjp is None or op.keep in (Keep.SPECS, Keep.REST, Keep.POSITIONS):
        raise NoScalarCode(f"{op.name} has no VJP that reads elements alone")
    read = any(isinstance(each, Scalar) for each in xs)
    terms = op.vjp(writer, g, y, tuple(xs) if read else None, dict(params), needs)
    ends = {
        f"d{place}": term
        for place, (term, need) in enumerate(zip(terms, needs, strict=True))
        if need and term is not None
    }
    outputs = tuple((name, floating) for name in ends)
    return Formula(f"{op.name}_pullback", tuple(inputs), outputs, writer.text(ends))


def _is_number(operand: Any) -> bool:
    """Return whether an operand of a formula is a number, or the class of one."""
    return isinstance(operand, _SCALARS) or (isinstance(operand, type) and operand in _SCALARS)


def _one_floating(name: str, dtypes: Iterable[Any]) -> tuple[list[Any], Any]:
    own = [as_dtype(dtype) for dtype in dtypes]
    floating = {dtype for dtype in own if dtype.kind != "b"}
    if len(floating) != 1:
        raise NoScalarCode(f"{name}: operands of dtypes {own}; expected one floating dtype")
    return own, floating.pop()
