"""Operations that run Python on tensors; their derivatives and their batches are of the same sort.

Control flow while tracing, and over batches, is one operation that runs its bodies. An operation of
this kind holds a function ``f`` of tensors of numbers. Its derivatives are operations that run `f`
under a tape or an accumulator. Under `vmap` it becomes one that runs `f` for all examples at once
(*side by side*), unless examples may take different ways through it: for that a control flow
operation knows a form *apart*, which sorts the examples by the way they take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from distgrad.core.op import Acting, Keep, Kind, Spec
from distgrad.core.seam import LISTENERS, VALUES, apply
from distgrad.debug import checker_in_force
from distgrad.dtypes import is_differentiable
from distgrad.eager import asarray
from distgrad.ops.elementwise.arithmetic import positive
from distgrad.ops.shaping.structure import broadcast_to, expand_dims, permute_dims, reshape
from distgrad.tape.forward import ForwardAccumulator
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tape.handmade import as_given, to_tensors, without_imaginary
from distgrad.tensor import Tensor
from distgrad.vectorizing import vmap

Flags = tuple[bool, ...]  # for each operand, whether it has a batch axis in front


class Form(NamedTuple):
    """What an operation becomes over a batch.

    Attributes
    ----------
    op : Interpreted
        Takes operands with the batch axis in front where `flags` says so; each of its outputs has
        one.
    flags : tuple of bool
        Which operands must have the axis, at least those that have it.
    """

    op: Interpreted
    flags: Flags


# The form for a batch of a size whose examples may take different ways; None if they cannot.
Apart = Callable[[int, Flags], "Form | None"]


class Interpreted:
    """An operation that runs a Python function of tensors.

    Parameters
    ----------
    name : str
        Its name in printed graphs.
    f : callable
        Takes tensors that hold numbers, returns a list of such.
    specs : sequence of Spec
        What it returns.
    apart : callable, optional
        ``apart(size, flags)``: the form for a batch whose examples may take different ways through
        `f`, or None where all must take one.
    """

    def __init__(
        self,
        name: str,
        f: Callable[..., list[Tensor]],
        specs: Sequence[Spec],
        apart: Apart | None = None,
    ) -> None:
        self.name = name
        self.f = f
        self.specs = tuple(specs)
        self._apart = apart

    def _operation(self) -> Acting:
        # Made where it is applied: kept here it would be a cycle, and hold the bodies' constants.
        return Acting(  # as its bodies may
            self.name,
            Kind.OPAQUE,
            self._spec,
            self._vjp,
            self._jvp,
            Keep.INPUTS,
            self._compose,
            self._batch,
            outputs=None,
        )

    def __call__(self, *operands: Any) -> list[Tensor]:
        """Return the results on tensors of any sort."""
        return list(apply(self._operation(), *operands))

    def _spec(self, *_: Any) -> tuple[Spec, ...]:
        return self.specs

    def _compose(self, xp: Any, *arrays: Any) -> tuple[Any, ...]:
        listeners = LISTENERS.get()
        # Nobody hears the steps, but for who looks for NaNs.
        checker = checker_in_force()
        LISTENERS.set(() if checker is None else (checker,))
        token = VALUES.set(None)
        try:
            # A plan hands on NumPy's scalars, which a tape within would take for constants.
            own, of_backend = xp.array_type, xp.backend.asarray
            given = [array if array.__class__ is own else of_backend(array) for array in arrays]
            results = self.f(*(Tensor(array, xp) for array in given))
        finally:
            VALUES.reset(token)
            LISTENERS.set(listeners)
        return tuple(asarray(result).array for result in results)

    # --- derivatives ----------------------------------------------------------------------------

    @cached_property
    def _moving_outputs(self) -> list[int]:
        return [i for i, spec in enumerate(self.specs) if is_differentiable(spec.dtype)]

    def _vjp(self, xp: Any, g: Any, y: Any, xs: Any, params: Any, needs: Any) -> list[Any]:
        raw = not any(isinstance(each, Tensor) for each in g)
        primals = [Tensor(x, xp) if raw else asarray(x) for x in xs]
        own = without_imaginary(xp, g, self.specs)
        cotangents = [Tensor(own[i], xp) if raw else own[i] for i in self._moving_outputs]
        pull = self.pull([Spec(p.shape, p.dtype) for p in primals])
        pulled = as_given(pull(*primals, *cotangents), raw)
        found = dict(zip(_moving(primals), pulled, strict=True))
        return [found.get(i) for i in range(len(primals))]

    def pull(self, operands: Sequence[Spec]) -> Interpreted:
        """Return the operation from operands and cotangents to the operands' cotangents."""
        count, moving = len(operands), _moving(operands)

        def pullback(*values: Tensor) -> list[Tensor]:
            primals = distinct(values[:count])
            sources = [primals[i] for i in moving]
            with GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(sources)
                outputs = self.f(*primals)
            targets = [outputs[i] for i in self._moving_outputs]
            found: list[Tensor] = tape.gradient(
                targets, sources, list(values[count:]), unconnected_gradients="zero"
            )
            return found

        def apart(size: int, flags: Flags) -> Form | None:
            form = self._over_moving(size, flags[:count], moving)
            if form is None:
                return None
            batched = zip(operands, form.flags, strict=True)
            inner = [_with_axis(size, spec) if flag else spec for spec, flag in batched]
            return Form(form.op.pull(inner), (*form.flags, *(True for _ in flags[count:])))

        return Interpreted(f"{self.name}_vjp", pullback, [operands[i] for i in moving], apart)

    def _jvp(self, xp: Any, tangents: Any, y: Any, xs: Any, params: Any) -> list[Any]:
        raw = not any(isinstance(each, Tensor) for each in tangents)
        primals = [Tensor(x, xp) if raw else asarray(x) for x in xs]
        given, _ = to_tensors(list(tangents), primals)
        directions = [
            Tensor(p.kernels.zeros_like(p.array), p.kernels) if t is None else t
            for p, t in zip(primals, given, strict=True)
            if is_differentiable(p.dtype)
        ]
        push = self.push([Spec(p.shape, p.dtype) for p in primals])
        return as_given(push(*primals, *directions), raw)

    def push(self, operands: Sequence[Spec]) -> Interpreted:
        """Return the operation from operands and tangents to the outputs' tangents."""
        count, moving = len(operands), _moving(operands)

        def pushforward(*values: Tensor) -> list[Tensor]:
            primals = distinct(values[:count])
            sources = [primals[i] for i in moving]
            with ForwardAccumulator(sources, list(values[count:])) as accumulator:
                outputs = self.f(*primals)
            found: list[Tensor] = accumulator.jvp(outputs, unconnected_gradients="zero")
            return found

        def apart(size: int, flags: Flags) -> Form | None:
            form = self._over_moving(size, flags[:count], moving)
            if form is None:
                return None
            batched = zip(operands, form.flags, strict=True)
            inner = [_with_axis(size, spec) if flag else spec for spec, flag in batched]
            return Form(form.op.push(inner), (*form.flags, *(True for _ in flags[count:])))

        return Interpreted(f"{self.name}_jvp", pushforward, self.specs, apart)

    def _over_moving(self, size: int, flags: Flags, moving: Sequence[int]) -> Form | None:
        """Return the form apart in which all that is differentiated has the batch axis.

        Each example has its own derivative also with respect to what all examples share.
        """
        if self._apart is None or self._apart(size, flags) is None:
            return None
        return self._apart(size, tuple(f or i in moving for i, f in enumerate(flags)))

    # --- batches --------------------------------------------------------------------------------

    def _batch(
        self, xp: Any, size: int, batched: Sequence[bool], arrays: Sequence[Any], params: Any
    ) -> tuple[Tensor, ...]:
        flags = tuple(batched)
        form = self._apart(size, flags) if self._apart else None
        if form is None:
            form = Form(self.side_by_side(size, flags), flags)
        values = [
            broadcast_to(value, (size, *value.shape)) if wanted and not flag else value
            for value, flag, wanted in zip(map(asarray, arrays), flags, form.flags, strict=True)
        ]
        if VALUES.get() is None and not any(value.kernels.level for value in values):
            # On numbers whoever listens hears each step, and no backward pass runs it again.
            return tuple(form.op.f(*values))
        return tuple(form.op(*values))

    def side_by_side(self, size: int, flags: Flags) -> Interpreted:
        """Return the operation for a batch whose examples all take one way."""
        axes = tuple(0 if flag else None for flag in flags)

        def run(*values: Tensor) -> list[Tensor]:
            found: list[Tensor] = vmap(self.f, in_axes=axes)(*values)
            return found

        def apart(outer: int, outer_flags: Flags) -> Form | None:
            form = self._apart(outer, outer_flags) if self._apart else None
            if form is None:
                return None
            both = [
                0 if flag and has else None for flag, has in zip(flags, form.flags, strict=True)
            ]
            return Form(_swapped(form.op.side_by_side(size, flags), both, 0), form.flags)

        return Interpreted(self.name, run, [_with_axis(size, s) for s in self.specs], apart)


def _moving(operands: Sequence[Any]) -> list[int]:
    """Return the places of the operands that have derivatives."""
    return [i for i, operand in enumerate(operands) if is_differentiable(operand.dtype)]


def distinct(values: Sequence[Tensor], taken: Iterable[int] = ()) -> list[Tensor]:
    """Return values under identities of which none comes twice, or is taken already.

    A value that is given in two places is two operands.
    """
    seen = set(taken)
    found = []
    for value in values:
        found.append(positive(value) if value.key in seen else value)
        seen.add(value.key)
    return found


def _with_axis(size: int, spec: Spec) -> Spec:
    return Spec((size, *spec.shape), spec.dtype)


def _swapped(op: Interpreted, axes: Sequence[int | None], out_axis: int) -> Interpreted:
    """Return an operation that takes and gives two neighbouring batch axes in the other order.

    Parameters
    ----------
    op : Interpreted
        Takes the operands with the axes in the order that is to change.
    axes : sequence of int or None
        Where the first of the two axes stands in each operand that has both; None in the others.
    out_axis : int
        Where it stands in the outputs.
    """

    def run(*values: Tensor) -> list[Tensor]:
        given = [
            value if axis is None else _with_next_axis(value, axis)
            for value, axis in zip(values, axes, strict=True)
        ]
        return [_with_next_axis(output, out_axis) for output in op.f(*given)]

    def apart(outer: int, flags: Flags) -> Form | None:
        form = op._apart(outer, flags) if op._apart else None
        if form is None:
            return None
        behind = [
            None if axis is None else axis + has for axis, has in zip(axes, form.flags, strict=True)
        ]
        return Form(_swapped(form.op, behind, out_axis + 1), form.flags)

    specs = []
    for shape, dtype in op.specs:
        order = list(shape)
        order[out_axis : out_axis + 2] = reversed(order[out_axis : out_axis + 2])
        specs.append(Spec(tuple(order), dtype))
    return Interpreted(op.name, run, specs, apart)


def _with_next_axis(x: Tensor, axis: int) -> Tensor:
    """Return an array with an axis and the next one exchanged."""
    order = list(range(len(x.shape)))
    order[axis], order[axis + 1] = axis + 1, axis
    moved: Tensor = permute_dims(x, tuple(order))
    return moved


def merged(apart: Apart, size: int, flags: Flags) -> Apart:
    """Return the form apart of a form apart: two batch axes become one, and two again at the end.

    Parameters
    ----------
    apart : callable
        Of the operation without batch axes.
    size : int
        The length of the batch axis that its form has.
    flags : tuple of bool
        Which operands of the form have that axis.
    """

    def again(outer: int, outer_flags: Flags) -> Form | None:
        if apart(outer * size, outer_flags) is None:
            return None  # around the ways that examples take nothing changes from one to the next
        joint = tuple(a or b for a, b in zip(flags, outer_flags, strict=True))
        form = apart(outer * size, joint)
        if form is None:
            return None
        op, wanted = form

        def run(*values: Tensor) -> list[Tensor]:
            flat = [
                _with_both_axes(value, outer if o else None, size if i else None, (outer, size))
                if needed
                else value
                for value, o, i, needed in zip(values, outer_flags, flags, wanted, strict=True)
            ]
            return [reshape(y, (outer, size, *y.shape[1:])) for y in op.f(*flat)]

        specs = [Spec((outer, size, *spec.shape[1:]), spec.dtype) for spec in op.specs]
        # Not `again`, which would refer to itself, and hold the bodies' constants in a cycle.
        ways = merged(merged(apart, size, flags), outer, outer_flags)
        both = Interpreted(op.name, run, specs, ways)
        return Form(both, outer_flags)

    return again


def _with_both_axes(
    x: Tensor, outer: int | None, inner: int | None, sizes: tuple[int, int]
) -> Tensor:
    """Return an array in which two batch axes, of which it may lack some, have become one."""
    if outer is None:
        x = expand_dims(x, axis=0)
    if inner is None:
        x = expand_dims(x, axis=1)
    rest = tuple(x.shape[2:])
    if outer is None or inner is None:
        x = broadcast_to(x, (*sizes, *rest))
    flat: Tensor = reshape(x, (sizes[0] * sizes[1], *rest))
    return flat
