"""Module: a plain object that holds variables and other modules, and computes with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Any

from distgrad.dtypes import DType, DTypeLike, as_dtype, default_dtype, is_differentiable
from distgrad.eager import asarray, holds_tensors
from distgrad.errors import DistgradError, ShapeError
from distgrad.nn.module_tree import (
    ModuleRecord,
    check_like,
    check_paths,
    flat,
    is_module,
    join,
    own_items,
    path_hash,
    variables_of,
    walk,
)
from distgrad.nn.rehearsal import note_created, rehearsing
from distgrad.nn.summary_table import Row, layout, shapes_of
from distgrad.random import Generator
from distgrad.tensor import Tensor
from distgrad.variable import Variable

Observer = Callable[["Module", Any], None]

# Who is told of the result of every module that is called: a summary, while it is made.
_OBSERVER: ContextVar[Observer | None] = ContextVar("distgrad_module_observer", default=None)


class Module:
    """Variables and what is computed with them.

    A subclass sets attributes in `__init__`, which need not call this class's, and defines `call`.
    What stands in the attributes is found: variables, modules, and lists, tuples and dicts of them.

    Notes
    -----
    *Variables are created when a module is called for the first time*, or built: with the shapes
    that the inputs ask for, and in the dtype of the first input if that is floating. Only then are
    their paths known, such as ``model/block1/dense/kernel``: the outermost module's name, and
    attributes, positions and keys from there. Each initial value is drawn from a generator of its
    own, that of `build` folded with a hash of the path, so it depends neither on the order of
    creation nor on the rank. They are drawn on the CPU, whatever the backend. Without `build` the
    seed is 0; two models with the same name, layers and seed begin with the same values.

    *Training* is an argument of the call, ``model(x, training=True)``, which layers such as
    `Dropout` and `BatchNorm` take and containers hand on. There is no mode: a mode would be fixed
    in a traced `distgrad.function`, and might change before `recompute_grad` runs a block again.

    `copy.deepcopy` gives a module with variables of its own.

    Examples
    --------
    >>> import distgrad as dg
    >>> class Classifier(dg.nn.Module):
    ...     def __init__(self):
    ...         self.hidden = dg.nn.Dense(16, activation=dg.nn.relu)
    ...         self.logits = dg.nn.Dense(3)
    ...
    ...     def call(self, x):
    ...         return self.logits(self.hidden(x))
    >>> model = Classifier()
    >>> model(dg.ones((5, 4))).shape
    (5, 3)
    >>> [variable.name for variable in model.variables][:2]
    ['classifier/hidden/kernel', 'classifier/hidden/bias']
    """

    _module: ModuleRecord

    def __new__(cls, *_: Any, **__: Any) -> Any:
        """Return a module that keeps record, whether or not its class calls `__init__` here."""
        module = super().__new__(cls)
        module._module = ModuleRecord()
        return module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what `call` computes; errors from inside begin with the module's path."""
        if self._module.path is None:
            self._adopt(self._module.seed)
        try:
            result = self.call(*args, **kwargs)
        except DistgradError as error:
            self._place(error)
            raise
        observer = _OBSERVER.get()
        if observer is not None:
            observer(self, result)
        return result

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the result; a subclass defines it."""
        raise NotImplementedError(
            f"{type(self).__name__} has no method `call`; define call(self, x) in the class"
        )

    # --- names and creation -----------------------------------------------------------------------

    @property
    def name(self) -> str:
        """How paths begin if this is the outermost module; by default after its class.

        Assign it before the first call, or `build` again.
        """
        return self._module.name or _snake(type(self).__name__)

    @name.setter
    def name(self, name: str) -> None:
        self._module.name = name

    @property
    def path(self) -> str:
        """The place below the outermost module; the name before it is known."""
        return self._module.path or self.name

    def build(self, *example: Any, seed: int | Generator = 0, **options: Any) -> Module:
        """Name all variables by their paths, and create those that are missing.

        Parameters
        ----------
        *example, **options
            Arguments of a call, of which shapes and dtypes matter: what it assigns, as running
            moments, and what it draws from generators is undone. Without any only names are given.
        seed : int or Generator
            What initial values are drawn from; a generator's key, which is not advanced. Variables
            that exist keep their values.

        Returns
        -------
        Module
            The module itself.
        """
        self._adopt(_as_seed(seed))
        if example or options:
            with rehearsing(self):
                self(*example, **options)
        return self

    def create(
        self,
        name: str,
        shape: Sequence[int],
        initializer: Callable[..., Any],
        *,
        like: Any = None,
        dtype: DTypeLike | None = None,
        trainable: bool = True,
    ) -> Any:
        """Create a variable as an attribute, unless it is there; for use in `call`.

        Parameters
        ----------
        name : str
            The attribute's name. If `__init__` set it to None, the variable takes that place in the
            order of variables.
        shape : sequence of int
            The variable's shape.
        initializer : callable
            ``initializer(generator, shape, dtype)`` gives the first value; see `nn.initializers`.
        like : Tensor, Variable or array, optional
            An input, whose dtype, if floating, and backend the variable gets.
        dtype : dtype, optional
            The dtype in place of that of `like`; by default the default one.
        trainable : bool
            Whether tapes are to watch it.

        Returns
        -------
        Variable
            The attribute; in a `functional_call` the value that was given for it.
        """
        present = getattr(self, name, None)
        if present is not None:
            return present
        path = join(self.path, name)
        record = self._module
        if record.lends:
            raise ValueError(
                f"functional_call: {path} does not exist yet; call the module once before, or "
                "module.build(example)"
            )
        chosen = _dtype_like(like) if dtype is None else as_dtype(dtype)
        # On the CPU, by a generator of its own: the same bits on every backend and rank.
        source = Generator(record.seed, backend="numpy").fold_in(path_hash(path))
        value = initializer(source, tuple(shape), chosen)
        variable = Variable(
            asarray(value, dtype=chosen), trainable=trainable, name=path, backend=_home(like)
        )
        if trainable and not record.trainable:
            variable.trainable = False
            record.frozen.append(variable)
        setattr(self, name, variable)
        note_created(variable)
        return variable

    def _attributes(self) -> Iterable[tuple[str, Any]]:
        """Return the attributes in which to look, by the names that they have in paths."""
        return [(name, value) for name, value in vars(self).items() if name != "_module"]

    def _held(self) -> Iterable[Any]:
        """Return the values of attributes in the order of `_attributes`, the record among them.

        Nothing else: who has seen that these are the same has seen that the variables are.
        """
        return vars(self).values()

    def _adopt(self, seed: int) -> None:
        """Tell all modules below where they are, and give variables their names."""
        for path, item in walk(self, self.name):
            if is_module(item):
                item._module.path, item._module.seed = path, seed
            elif isinstance(item, Variable):
                item.name = path

    def _place(self, error: DistgradError) -> None:
        """Let an error begin with the path of the innermost module that it came through."""
        if "module" not in vars(error):
            vars(error)["module"] = self.path
            text = str(error.args[0]) if error.args else ""
            if not text.startswith(self.path):
                error.args = (f"{self.path}: {text}", *error.args[1:])

    # --- what it holds ----------------------------------------------------------------------------

    @property
    def variables(self) -> list[Variable]:
        """All variables in the order of attributes, shared ones once."""
        return variables_of(self)

    @property
    def trainable_variables(self) -> list[Variable]:
        """The variables that tapes watch, in the order of attributes."""
        return [variable for variable in self.variables if variable.trainable]

    def named_variables(self) -> list[tuple[str, Variable]]:
        """Return (path, variable) for all variables; paths begin with the module's own."""
        return [(path, item) for path, item in walk(self, self.path) if isinstance(item, Variable)]

    def named_generators(self) -> list[tuple[str, Generator]]:
        """Return (path, generator) for the generators in attributes, which checkpoints save too."""
        found = walk(self, self.path)
        return [(path, item) for path, item in found if isinstance(item, Generator)]

    def modules(self) -> list[tuple[str, Module]]:
        """Return (path, module) for this module and all below it, parents first."""
        return [(path, item) for path, item in walk(self, self.path) if is_module(item)]

    @property
    def trainable(self) -> bool:
        """Whether any variable is trained. Assign False to freeze all, True to undo that.

        Variables that were not trainable before, such as running statistics, stay so.
        """
        variables = self.variables
        return any(v.trainable for v in variables) if variables else self._module.trainable

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        for _, module in self.modules():
            record = module._module
            record.trainable = bool(trainable)
            if trainable:
                for variable in record.frozen:
                    variable.trainable = True
                record.frozen = []
                continue
            for _, item in own_items(module):
                if isinstance(item, Variable) and item.trainable:
                    item.trainable = False
                    record.frozen.append(item)

    # --- state ------------------------------------------------------------------------------------

    def state(self, *, trainable_only: bool = False) -> dict[str, Tensor]:
        """Return the values of the variables by path, without this module's own: ``dense/kernel``.

        A later assignment changes no value of it. It is a nest, which `grad`, `vmap` and
        optimizers take, and what `functional_call` takes.
        """
        return {
            path: variable.value()
            for path, variable in self._relative()
            if variable.trainable or not trainable_only
        }

    def load_state(self, state: Any) -> None:
        """Assign all variables from a state.

        Parameters
        ----------
        state : dict
            As `state` gives it, or nested dicts and lists: ``{"dense": {"kernel": ...}}``.

        Raises
        ------
        ValueError
            If values are missing, or there are more; all these are named.
        ShapeError, DTypeError
            If a value has another shape, or another kind of number. Nothing is assigned then.
        """
        values = dict(flat(state))
        variables = self._relative()
        check_paths("load_state", (path for path, _ in variables), values)
        for path, variable in variables:
            check_like("load_state", path, variable, values[path])
        for path, variable in variables:
            variable.assign(values[path])

    def _relative(self) -> list[tuple[str, Variable]]:
        return [(path, item) for path, item in walk(self, "") if isinstance(item, Variable)]

    # --- a table ----------------------------------------------------------------------------------

    def summary(self, *example: Any, **options: Any) -> str:
        """Return a table of the modules: shapes of their results, parameters, bytes.

        Parameters
        ----------
        *example, **options
            Arguments of a call, which is made to learn the shapes and changes no variable.
            Without any that column is empty.

        Notes
        -----
        Variables are counted where they stand first, and in the row of the module that holds them.
        """
        results: dict[int, Any] = {}
        if example or options:
            token = _OBSERVER.set(lambda module, result: results.setdefault(id(module), result))
            try:
                with rehearsing(self):
                    self(*example, **options)
            finally:
                _OBSERVER.reset(token)
        rows, counted = [], set()
        for path, module in self.modules():
            own = [v for _, v in own_items(module) if isinstance(v, Variable)]
            own = [v for v in own if v.key not in counted]
            counted |= {v.key for v in own}
            shape = shapes_of(results[id(module)]) if id(module) in results else ""
            rows.append(Row(path, type(module).__name__, shape, own))
        return layout(rows)

    def __repr__(self) -> str:
        count = sum(variable.size for variable in self.variables)
        return f"<{type(self).__name__} {self.path!r}: {count} parameters>"


def width_of(path: str, what: str, variable: Any, axis: int, x: Any, x_axis: int = -1) -> None:
    """Raise unless an axis of an input is as long as one of a variable.

    Raises
    ------
    ShapeError
        With the path, and both shapes.
    """
    shape, own = tuple(x.shape), tuple(variable.shape)
    if not shape or shape[x_axis] != own[axis]:
        raise ShapeError(
            f"{path}: {what} of length {own[axis]} expected on axis {x_axis}, got shape {shape}; "
            f"the variable has shape {own}"
        )


def as_input(x: Any) -> Any:
    """Return an input as something with shape and dtype; lists of numbers become tensors."""
    return x if hasattr(x, "shape") and hasattr(x, "dtype") else asarray(x)


def _dtype_like(like: Any) -> DType:
    dtype = getattr(like, "dtype", None)
    return as_dtype(dtype) if dtype is not None and is_differentiable(dtype) else default_dtype()


def _home(like: Any) -> Any:
    """Return the backend of an input's numbers; None where a transformation hides it."""
    if holds_tensors(like) and not like.kernels.level:
        return like.kernels.backend
    return None


def _as_seed(seed: int | Generator) -> int:
    if isinstance(seed, Generator):
        low, high, _ = seed.state
        return int(low) + (int(high) << 64)
    return seed


def _snake(name: str) -> str:
    """Return `ConvBlock` as `conv_block`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
