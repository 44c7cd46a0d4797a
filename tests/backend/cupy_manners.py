"""CuPy's names, signatures, loops and refusals in front of NumPy's computing, on the host.

An array here has the attributes of `cupy.ndarray` and no others, and NumPy cannot read it. A
function exists if CuPy has it, takes the arguments that CuPy's takes, refuses arrays of the host,
and a ufunc has CuPy's loops. What comes out is NumPy's result in the dtype of the loop.
"""

import inspect
import operator
import re
from functools import cached_property, reduce
from types import FunctionType, ModuleType, SimpleNamespace

import cupy
import cupyx.scipy.special
import ml_dtypes
import numpy as np
import scipy.special

NUMBERS = (bool, int, float, complex, np.generic)
CONVERTING = ("array", "asarray", "asanyarray", "ascontiguousarray")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
LEVELS = {"b": 0, "i": 1, "u": 1, "f": 2, "V": 2, "c": 3}


class RefusedError(TypeError):
    """CuPy would not take this call."""


class Array:
    """What stands for `cupy.ndarray`."""

    __array_priority__ = 100
    __hash__ = None

    def __init__(self, host):
        vars(self)["_host"] = host

    def __setattr__(self, name, value):
        if not hasattr(cupy.ndarray, name):
            raise AttributeError(f"cupy.ndarray has no {name}")
        setattr(self._host, name, unwrapped(value))

    def __getattr__(self, name):
        if name.startswith("__") or not hasattr(cupy.ndarray, name):
            raise AttributeError(f"cupy.ndarray has no {name}")
        if name == "device":
            return SimpleNamespace(id=0)
        found = getattr(self._host, name)
        if not callable(found):
            return wrapped(found)
        return lambda *args, **kwargs: method(self, name, args, kwargs)

    def get(self):
        return self._host

    def __array__(self, *args, **kwargs):
        raise RefusedError("Implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc, way, *inputs, **kwargs):
        names = [space for space in (cupy, cupyx.scipy.special) if hasattr(space, ufunc.__name__)]
        if not names:
            raise RefusedError(f"CuPy has no {ufunc.__name__}")
        if isinstance(kwargs.get("out"), tuple):
            (kwargs["out"],) = kwargs["out"]
        own = Ufunc(getattr(names[0], ufunc.__name__), ufunc)
        return (own if way == "__call__" else getattr(own, way))(*inputs, **kwargs)

    def __array_function__(self, function, types, args, kwargs):
        path = [*function.__module__.split(".")[1:], function.__name__]
        return reduce(getattr, path, MODULE)(*args, **kwargs)

    def __getitem__(self, key):
        return wrapped(self._host[self._index(key)])

    def __setitem__(self, key, value):
        if isinstance(value, np.ndarray):
            raise RefusedError("an array of the host is assigned to one of the device")
        self._host[self._index(key)] = unwrapped(value)

    @staticmethod
    def _index(key):
        parts = key if isinstance(key, tuple) else (key,)
        masks = [part for part in parts if isinstance(part, Array) and part.dtype == bool]
        if len(masks) > 1:
            raise RefusedError("an index of more than one boolean array")
        return unwrapped(key)

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        if not self._host.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        return f"device {self._host!r}"


def _number(kind):
    return lambda self: kind(self._host)


def _operator(name, *, reflected=False, in_place=False):
    def apply(self, other):
        operands = (other, self) if reflected else (self, other)
        if not isinstance(other, (Array, *NUMBERS, np.ndarray)):
            return NotImplemented
        return getattr(MODULE, name)(*operands, **({"out": self} if in_place else {}))

    return apply


for each in (bool, int, float, complex):
    setattr(Array, f"__{each.__name__}__", _number(each))
Array.__index__ = _number(operator.index)
for each, name in {
    **{"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide"},
    **{"floordiv": "floor_divide", "mod": "remainder", "pow": "power", "matmul": "matmul"},
    **{"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"},
    **{"lshift": "left_shift", "rshift": "right_shift"},
}.items():
    setattr(Array, f"__{each}__", _operator(name))
    setattr(Array, f"__r{each}__", _operator(name, reflected=True))
    setattr(Array, f"__i{each}__", _operator(name, in_place=True))
for each, name in {
    **{"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal"},
    **{"gt": "greater", "ge": "greater_equal"},
}.items():
    setattr(Array, f"__{each}__", _operator(name))
for each, name in {"neg": "negative", "pos": "positive", "abs": "abs", "invert": "invert"}.items():
    setattr(Array, f"__{each}__", lambda self, name=name: getattr(MODULE, name)(self))


def wrapped(value):
    """Return what NumPy gave as CuPy would: never a scalar, arrays of this module."""
    if isinstance(value, (np.ndarray, np.generic)):
        return Array(np.asarray(value))
    if isinstance(value, (tuple, list)):
        made = [wrapped(part) for part in value]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    return value


def unwrapped(value):
    """Return a value with arrays of the host in place of this module's."""
    if isinstance(value, Array):
        return value._host
    if isinstance(value, (tuple, list)):
        return type(value)(unwrapped(part) for part in value)
    return value


def refuse_host(where, values):
    """Raise for an array of the host among what a function of the device was given."""
    for value in values:
        if isinstance(value, np.ndarray):
            raise RefusedError(f"{where}: Unsupported type {type(value)}")
        if isinstance(value, (tuple, list)):
            refuse_host(where, value)


def method(array, name, args, kwargs):
    """Return what a method gives, of the arguments that CuPy's documentation says it takes."""
    refuse_host(f"ndarray.{name}", (*args, *kwargs.values()))
    own = getattr(cupy.ndarray, name)
    first = (own.__doc__ or "").partition("\n")[0]
    if described := re.match(r"\w+\.\w+\((.*)\)", first):
        taken = re.findall(r"(?:^|, )(?:\w+ )?\*{0,2}(\w+)", described[1])
        if unknown := kwargs.keys() - set(taken):
            raise RefusedError(f"ndarray.{name}: no argument {', '.join(unknown)} in {first}")
    host = getattr(array._host, name)
    return wrapped(host(*unwrapped(args), **{k: unwrapped(v) for k, v in kwargs.items()}))


class Ufunc:
    """One of CuPy's ufuncs: its loops decide what it takes and what dtype it gives."""

    def __init__(self, own, host):
        self._own, self._host = own, host
        self.__name__ = own.name.removeprefix("cupy_").removeprefix("cupyx_scipy_special_")

    def __call__(self, *args, out=None, dtype=None, casting="same_kind"):
        refuse_host(self.__name__, (*args, out))
        inputs, outs = args[: self._own.nin], args[self._own.nin :]
        for value in inputs:
            if not isinstance(value, (Array, *NUMBERS)):
                raise RefusedError(f"{self.__name__}: Unsupported type {type(value)}")
        results = self._loop(inputs, dtype)
        found = self._host(*map(unwrapped, inputs), **({"dtype": dtype} if dtype else {}))
        several = isinstance(found, tuple)
        found = [np.asarray(f) for f in (found if several else (found,))]
        found = [f.astype(to) for f, to in zip(found, results, strict=True)]
        for place, value in zip(outs or ([] if out is None else [out]), found, strict=False):
            np.copyto(place._host, value, casting=casting)
            return place
        return wrapped(tuple(found)) if several else wrapped(found[0])

    def _loop(self, inputs, dtype):
        """Return the dtypes of the results of the first loop that takes the operands."""
        for loop in self._own.types:
            taken, given = loop.split("->")
            if dtype is not None and _dtype(given[0]) != np.dtype(dtype):
                continue
            if all(map(_fits, inputs, map(_dtype, taken))) or dtype is not None:
                return [_dtype(each) for each in given]
        kinds = ", ".join(str(getattr(x, "dtype", type(x).__name__)) for x in inputs)
        raise RefusedError(f"Wrong type ({kinds}) of arguments for cupy_{self.__name__}")

    def reduce(self, *args, **kwargs):
        return self._way("reduce", args, kwargs)

    def accumulate(self, *args, **kwargs):
        return self._way("accumulate", args, kwargs)

    def outer(self, *args, **kwargs):
        return self._way("outer", args, kwargs)

    def at(self, array, indices, *values):
        refuse_host(self.__name__, values)
        if self.__name__ not in ("add", "subtract", "maximum", "minimum", "bitwise_and"):
            raise RefusedError(f"cupy.{self.__name__}.at is not implemented")
        self._host.at(array._host, unwrapped(indices), *map(unwrapped, values))

    def _way(self, way, args, kwargs):
        refuse_host(self.__name__, (*args, *kwargs.values()))
        if not hasattr(self._own, way):
            raise RefusedError(f"cupy.{self.__name__} has no {way}")
        taken = {k: unwrapped(v) for k, v in kwargs.items()}
        return wrapped(getattr(self._host, way)(*map(unwrapped, args), **taken))


def _dtype(letter):
    return BFLOAT16 if letter == "E" else np.dtype(letter)


def _fits(value, taken):
    """Return whether an operand goes into a loop; Python's numbers are weak (NEP 50)."""
    if isinstance(value, (Array, np.generic)):
        return np.can_cast(value.dtype, taken)
    return LEVELS[taken.kind] >= LEVELS[np.min_scalar_type(value).kind]


class Module:
    """The names of one of CuPy's modules."""

    def __init__(self, own, host):
        self._own, self._host = own, host

    def __getattr__(self, name):
        own = getattr(self._own, name)  # or there is no such thing
        if own is cupy.ndarray:
            return Array
        if isinstance(own, ModuleType):
            return Module(own, getattr(self._host, name, None))
        host = getattr(self._host, name, None)
        if isinstance(own, type) or not callable(own):
            return own if host is None else host
        if host is None:
            raise NotImplementedError(f"{self._own.__name__}.{name} has no counterpart of NumPy's")
        if isinstance(own, cupy.ufunc):
            return Ufunc(own, host)
        return Function(own, host)


class Function:
    """One of CuPy's functions, by its signature."""

    def __init__(self, own, host):
        self._own, self._host = own, host

    def __call__(self, *args, **kwargs):
        name = self._own.__name__
        if self._signature is not None:
            try:
                self._signature.bind(*args, **kwargs)
            except TypeError as error:
                raise RefusedError(f"cupy.{name}{self._signature}: {error}") from error
        if name not in CONVERTING:
            refuse_host(f"cupy.{name}", (*args, *kwargs.values()))
        kwargs.pop("blocking", None)
        given = {k: unwrapped(v) for k, v in kwargs.items()}
        return wrapped(self._host(*map(unwrapped, args), **given))

    @cached_property
    def _signature(self):
        return inspect.signature(self._own) if isinstance(self._own, FunctionType) else None


MODULE = Module(cupy, np)
SPECIAL = Module(cupyx.scipy.special, scipy.special)
