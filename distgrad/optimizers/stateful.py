"""Optimizer: the stateful face of a transform, which changes variables and remembers for them."""

from __future__ import annotations

from collections.abc import Mapping
from operator import is_
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.core.seam import LISTENERS, VALUES
from distgrad.core.spans import COMPUTE, spanned
from distgrad.eager import asarray
from distgrad.errors import MixedBackendError, ShapeError
from distgrad.foreign_names import ForeignOptimizerMethods
from distgrad.optimizers.description import described
from distgrad.optimizers.in_place import count_up
from distgrad.optimizers.naming import named, names_of_states
from distgrad.optimizers.transforms import Chain, Transform, apply_updates, checked_gradients
from distgrad.sparse import IndexedSlices
from distgrad.tensor import Tensor
from distgrad.variable import Variable


class Optimizer(ForeignOptimizerMethods):
    """Applies a transform to variables, and keeps its state in variables with names.

    Parameters
    ----------
    transform : Transform
        Such as a `chain` of clipping and `Adam`.

    Attributes
    ----------
    transform : Transform
        The pure pair of `init` and `update`, which knows nothing of variables.

    Raises
    ------
    TypeError
        If it has no `init` and `update`.

    Notes
    -----
    Arrays of variables and states are changed in their own memory where nobody else holds them;
    whoever has read a variable keeps the value that it had. Within `distgrad.function` the pure
    transform is traced, and what it gives is assigned.

    A gradient of None is skipped: neither variable nor state change. A NaN or an infinity in a
    gradient is not looked for and goes into the parameters, as in other libraries, because looking
    costs a pass over all gradients: `distgrad.debug_nans` finds where it came from, and `LossScale`
    skips such steps.

    Parameters in half precision are remembered in float32 as well (the slot ``master``), and change
    with that; else a step below a thousandth of a parameter would be lost.

    For a complex parameter the gradient is one that `x - rate * gradient` descends, as tapes give
    it, and a square stands for ``|g|²`` (as in Optax). PyTorch treats real and imaginary part as
    two parameters, so that its second moments differ.

    Examples
    --------
    >>> import distgrad as dg
    >>> from distgrad.optimizers import Adam, Optimizer, chain, clipping
    >>> x = dg.Variable(3.0, name="x")
    >>> optimizer = Optimizer(chain(clipping(global_norm=1.0), Adam(0.1)))
    >>> optimizer.apply(dg.asarray(8.0), x)
    >>> round(float(x), 4), sorted(optimizer.state_dict())
    (2.9, ['optimizer/iterations', 'optimizer/step', 'x/first_moment', 'x/second_moment'])
    """

    def __init__(self, transform: Transform) -> None:
        if not isinstance(transform, Transform):
            raise TypeError(
                "Optimizer: expected a transform, with init and update; got "
                f"{type(transform).__name__}"
            )
        # A rule is its own transform. It does not refer to itself: its slots go when it goes.
        self._inner = None if transform is self else getattr(transform, "transform", transform)
        self._names: dict[int, str] = {}  # by the identity of each variable
        self._variables: dict[str, Variable] = {}
        self._chosen: dict[str, Variable] = {}  # those of the last step
        self._state: Any = None
        self._iterations: Variable | None = None

    def __repr__(self) -> str:
        return f"Optimizer({described(self.transform)})"

    @property
    def transform(self) -> Transform:
        """What is done to gradients."""
        return self if self._inner is None else self._inner

    # --- the pure face --------------------------------------------------------------------------

    def init(self, parameters: Any) -> Any:
        """Return the state of the transform before the first step; see `Transform`."""
        return self.transform.init(parameters)

    def update(self, gradients: Any, state: Any, parameters: Any) -> tuple[Any, Any]:
        """Return updates and the next state of the transform; see `Transform`."""
        return self.transform.update(gradients, state, parameters)

    # --- the stateful face ------------------------------------------------------------------------

    def build(self, variables: Any) -> None:
        """Create the state for variables, if there is none; `apply` does it at its first call.

        Parameters
        ----------
        variables : Variable or nest of Variable
            All that this optimizer will ever change.

        Raises
        ------
        TypeError
            If a leaf is no variable.
        ValueError
            If there are none, one is there twice, or one is not among those of the first call.
        """
        leaves = _distinct("apply", variables)
        for leaf in leaves:
            if self._names and leaf.key not in self._names:
                raise ValueError(
                    f"apply: the variable {leaf.name!r} is not among the {len(self._names)} that "
                    "this optimizer was built for; call optimizer.build(all_variables) before the "
                    "first step, optimizer.extend(variables) for those that came later, or take "
                    "another optimizer"
                )
        if not self._names:
            self._create(leaves)

    def extend(self, variables: Any) -> None:
        """Take in variables that came later, such as those of a layer that was added.

        They start with fresh slots. What is counted in steps (corrections of moments, schedules)
        goes on from where it is, for all alike.

        Parameters
        ----------
        variables : Variable or nest of Variable
            Those that are known stay as they are.

        Raises
        ------
        TypeError
            If a leaf is no variable.
        ValueError
            If there are none, one is there twice, or the transform keeps arrays of all variables
            together, whose shapes would change.

        Examples
        --------
        >>> import distgrad as dg
        >>> x, y = dg.Variable(3.0, name="x"), dg.Variable(1.0, name="y")
        >>> optimizer = dg.optimizers.SGD(0.5, momentum=0.9)
        >>> optimizer.apply(dg.asarray(2.0), x)
        >>> optimizer.extend(y)
        >>> sorted(optimizer.state_dict())
        ['optimizer/iterations', 'optimizer/step', 'x/velocity', 'y/velocity']
        """
        leaves = _distinct("extend", variables)
        fresh = [leaf for leaf in leaves if leaf.key not in self._names]
        if fresh:
            self._create([*self._variables.values(), *fresh])

    def _create(self, leaves: list[Variable]) -> None:
        """Make the state for variables; what there is for some of them stays."""
        names = named(leaves, self._names)
        # Values below any trace: a state that is created while tracing starts from numbers.
        now = {names[leaf.key]: Tensor(leaf.array, leaf.kernels) for leaf in leaves}
        values, treedef = tree.flatten(self.transform.init(now))
        full = tree.paths(tree.unflatten(treedef, values))
        before = tree.flatten(self._state)[0]
        known = dict(zip(tree.paths(self._state), before, strict=True)) if before else {}
        for path, value in zip(full, values, strict=True):
            if path in known and known[path].shape != tuple(value.shape):
                raise ValueError(
                    f"extend: {known[path].name!r} has shape {known[path].shape} and would have "
                    f"{tuple(value.shape)} with the new variables, because "
                    f"{type(self.transform).__name__} keeps it for all together; take another "
                    "optimizer"
                )
        states = []
        for path, value, name in zip(full, values, names_of_states(full, now), strict=True):
            own = known.get(path)
            if own is None:
                own = Variable(value, trainable=False, name=name)
            own.name = name
            states.append(own)
        if self._iterations is None:
            self._iterations = Variable(
                np.zeros((), np.int64),
                trainable=False,
                name="optimizer/iterations",
                backend=leaves[0].backend,
            )
        self._state = tree.unflatten(treedef, states)
        self._names = names
        self._variables = {names[leaf.key]: leaf for leaf in leaves}

    @spanned("optimizer", COMPUTE)
    def apply(self, gradients: Any, variables: Any) -> None:
        """Change variables by one step, in place.

        Parameters
        ----------
        gradients : nest of Tensor, IndexedSlices, array or None
            In the structure of `variables`; None is skipped. `IndexedSlices` count as the dense
            array, so that rows without a gradient move on with their momentum: as TensorFlow and
            PyTorch do by default. Where such rows stay as they are anyway (`SGD` and `Adagrad`
            without momentum and decay), and with ``lazy=True``, only the rows are touched.
        variables : Variable or nest of Variable
            Those of the first call, or some of them.

        Raises
        ------
        ValueError
            If the structures differ, a variable is unknown or there twice, or every gradient is
            None.
        ShapeError, DTypeError
            If a gradient does not fit its variable, which is named. Nothing has changed then.
        MixedBackendError
            If it lives on another backend.
        """
        leaves, treedef = tree.flatten(variables)
        chosen = self._chosen
        # The variables of the step before are known, so that most steps check nothing of them.
        known = len(chosen) == len(leaves) and all(map(is_, chosen.values(), leaves))
        if not (known and leaves):
            self.build(leaves)
            chosen = self._chosen = {self._names[leaf.key]: leaf for leaf in leaves}
        names = list(chosen)
        found = checked_gradients("apply", treedef, gradients, leaves, names)
        if all(g is None for g in found):
            raise ValueError(
                f"apply: every gradient is None ({', '.join(names[:4])}); expected one at least: "
                "was the loss computed within the tape, from these variables?"
            )
        assert self._iterations is not None  # noqa: S101  for the type checker: built above
        given: dict[str, Any] = dict.fromkeys(self._names.values())
        given |= zip(names, found, strict=True)
        if VALUES.get() is not None:
            self._assign(given)
            self._iterations.assign(self._iterations.read() + 1)
            return
        hears = bool(LISTENERS.get())
        for (name, variable), gradient in zip(chosen.items(), found, strict=True):
            if gradient is not None and gradient.kernels is not variable.kernels:
                given[name] = _at_home(name, variable, gradient)
            if hears:
                variable._cut(given[name])
        silent = LISTENERS.set(())  # no tape need hear of a step: assignments pass nothing on
        try:
            self._change(given, chosen)
            count_up(self._iterations)
        finally:
            LISTENERS.reset(silent)

    def _change(self, gradients: dict[str, Any], variables: dict[str, Any]) -> None:
        """Take a step in place if the last part of the transform can do that."""
        chained = isinstance(self.transform, Chain)
        parts = self.transform.parts if isinstance(self.transform, Chain) else (self.transform,)
        states = self._state if chained else (self._state,)
        fits = getattr(parts[-1], "fits_in_place", None)
        if fits is None or not fits(variables):
            self._assign(gradients)
            return
        for part, state in zip(parts[:-1], states[:-1], strict=True):
            gradients = self._forward(part, gradients, state)
        parts[-1].change_in_place(gradients, states[-1], variables)  # type: ignore[attr-defined]

    def _assign(self, gradients: dict[str, Any]) -> None:
        """Take a step by the pure transform."""
        updates = self._forward(self.transform, gradients, self._state)
        for name, variable in self._variables.items():
            if updates[name] is not None:
                variable.assign(apply_updates([variable], [updates[name]])[0])

    def _forward(self, part: Transform, gradients: Any, state: Any) -> Any:
        """Return the updates of a transform, with its state kept in variables."""
        owners, treedef = tree.flatten(state)
        if not owners:
            return part.update(gradients, state, self._variables)[0]
        before = [owner.read() for owner in owners]
        updates, after = part.update(gradients, tree.unflatten(treedef, before), self._variables)
        for owner, old, new in zip(owners, before, tree.flatten(after)[0], strict=True):
            if new is not old:
                owner.assign(new)
        return updates

    # --- state ------------------------------------------------------------------------------------

    @property
    def iterations(self) -> int:
        """How often `apply` has run."""
        return 0 if self._iterations is None else int(self._iterations)

    @property
    def variables(self) -> list[Variable]:
        """The variables of the state: the count of steps, and the slots as ``<variable>/<slot>``.

        There are none before the first step, or `build`.
        """
        if self._iterations is None:
            return []
        return [self._iterations, *tree.flatten(self._state)[0]]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the values of the state by name."""
        return {variable.name: variable.value() for variable in self.variables}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Take a state that `state_dict` returned, or a checkpoint holds.

        Parameters
        ----------
        values : mapping of str to Tensor or array
            All of the names, no others.

        Raises
        ------
        ValueError
            If there is no state yet, or the names differ.
        ShapeError, DTypeError
            If a value does not fit.
        """
        own = {variable.name: variable for variable in self.variables}
        if not own:
            raise ValueError(
                "load_state_dict: this optimizer has no state yet; call optimizer.build(variables) "
                "first"
            )
        missing, unknown = sorted(own.keys() - values.keys()), sorted(values.keys() - own.keys())
        if missing or unknown:
            raise ValueError(
                f"load_state_dict: missing {missing[:3]}, unknown {unknown[:3]}; expected the "
                f"{len(own)} names of this optimizer's state: was it built for the same variables?"
            )
        for name, variable in own.items():
            shape = tuple(
                np.shape(values[name]) if np.isscalar(values[name]) else values[name].shape
            )
            if shape != variable.shape:
                raise ShapeError(
                    f"load_state_dict: {name!r} has shape {shape}; expected {variable.shape}"
                )
        for name, variable in own.items():
            variable.assign(values[name])


def _distinct(method: str, variables: Any) -> list[Variable]:
    """Return the variables of a nest, or raise what `Optimizer.build` says."""
    leaves: list[Variable] = tree.flatten(variables)[0]
    for leaf in leaves:
        if not isinstance(leaf, Variable):
            raise TypeError(
                f"{method}: expected variables, got {type(leaf).__name__}; for tensors use the "
                "pure update(gradients, state, parameters)"
            )
    if not leaves:
        raise ValueError(f"{method}: there are no variables; expected one or more")
    seen: set[int] = set()
    for leaf in leaves:
        if leaf.key in seen:
            raise ValueError(
                f"{method}: the variable {leaf.name!r} is there twice; expected each one once, "
                "with its whole gradient"
            )
        seen.add(leaf.key)
    return leaves


def _at_home(name: str, variable: Variable, gradient: Any) -> Any:
    """Return a gradient of another backend on that of its variable: NumPy's are brought there."""
    if gradient.kernels.backend.name == "numpy" and not isinstance(gradient, IndexedSlices):
        return asarray(gradient.array, backend=variable.backend)
    raise MixedBackendError(
        f"apply: the variable {name!r} lives on the backend {variable.backend.name!r}, its "
        f"gradient on {gradient.backend.name!r}; move it first with .to(backend=...)"
    )
