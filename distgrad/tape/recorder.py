"""Recorder: hear operations, and write down those that involve a followed value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.core.op import Op, Spec
from distgrad.dtypes import is_differentiable
from distgrad.tape.packing import records_in_force
from distgrad.tape.records import INPUTS, OUTPUT, SPECS, kept, spec_of
from distgrad.tensor import Tensor
from distgrad.variable import Variable


class Recorder:
    """A listener that records: what a tape is before anybody asks it for a gradient.

    Attributes
    ----------
    records : list of Record
        What was heard, in the order in which it ran.
    roots : set of int
        The identities that are followed because somebody said so.
    followed : set of int
        Those, and the identities of all that was computed from them.
    cuts : dict of int to (str, sequence of int)
        Where derivatives end, for whoever asks why: by the identity of a value that came from a
        followed one by an operation without derivative, or from such a value, the operation's name
        and the identities of its inputs.
    left : set of int
        The identities of followed values whose numbers were taken out, for NumPy or for Python.
    """

    def __init__(self) -> None:
        self.roots: set[int] = set()
        self.records: list[Any] = records_in_force([], self.roots)
        self.followed: set[int] = set()
        self.cuts: dict[int, tuple[str, Sequence[int]]] = {}
        self._joined: dict[int, list[int]] = {}  # of values that were cut off again and again
        self.left: set[int] = set()

    def follow(self, key: int) -> None:
        """Follow the value of an identity from now on."""
        self.roots.add(key)
        self.followed.add(key)

    def follows(self, key: int) -> bool:
        """Return whether the value of an identity is followed."""
        return key in self.followed

    def adopt_packing(self) -> None:
        """Pack, or no longer pack, what is kept from now on; see `distgrad.tape.packing`."""
        self.records = records_in_force(self.records, self.roots)

    def hear_read(self, variable: Variable) -> None:
        """Take no notice of a variable that is about to be read (called by the seam)."""

    def hear_left(self, key: int) -> None:
        """Note that the numbers of a value are taken out (called by tensors)."""
        if key in self.followed:
            self.left.add(key)

    def hear_cut(self, name: str, inputs: Sequence[int], output: int) -> None:
        """Note that a value has no derivative with respect to what it was computed from."""
        if any(key in self.followed or key in self.cuts for key in inputs):
            known = self._joined.get(output)
            if known is None:
                known = self._joined[output] = [*self.cuts.get(output, (name, ()))[1]]
            known += inputs
            self.cuts[output] = (name, known)

    def _cut(self, op: Op, keys: Sequence[int], output: Any) -> None:
        if output.__class__ is tuple:
            for each in output:
                self.cuts[each.key] = (op.name, keys)
        else:
            self.cuts[output.key] = (op.name, keys)

    def hear(
        self,
        op: Op,
        keys: Sequence[int],
        arrays: tuple[Any, ...],
        params: dict[str, Any],
        output: Any,
        kernels: Any,
    ) -> None:
        """Record one operation, if it involves a followed value (called by the seam)."""
        followed = self.followed
        follows: Sequence[int]
        if len(keys) == 2:
            first, second = keys
            if first in followed:
                follows = keys if second in followed else (first, 0)
            elif second in followed:
                follows = (0, second)
            else:
                if self.cuts and (first in self.cuts or second in self.cuts):
                    self._cut(op, keys, output)
                return
        elif len(keys) == 1:
            if keys[0] not in followed:
                if self.cuts and keys[0] in self.cuts:
                    self._cut(op, keys, output)
                return
            follows = keys
        else:
            follows = [key if key in followed else 0 for key in keys]
            if not any(follows):
                if self.cuts and not self.cuts.keys().isdisjoint(keys):
                    self._cut(op, keys, output)
                return
        if op.vjp is None:
            self._cut(op, keys, output)
            return
        keep = op.keep
        if output.__class__ is tuple:
            self._hear_several(op, follows, keys, arrays, params, output, kernels)
            return
        # What is kept most often is spelled out here; the rest is in `kept`.
        if keep is INPUTS:
            xs, y = arrays, None
        elif keep is OUTPUT:
            xs, y = None, output.array
        elif keep is SPECS and not is_differentiable(output.dtype):
            self._cut(op, keys, output)
            return  # a cast to integers: where the dtype changes, specs are kept
        else:
            xs, y = kept(op, follows, arrays, output.array)
        key = output.key
        self.records.append((op, follows, key, keys, xs, y, params, kernels))
        followed.add(key)

    def _hear_several(
        self,
        op: Op,
        follows: Sequence[int],
        keys: Sequence[int],
        arrays: tuple[Any, ...],
        params: dict[str, Any],
        outputs: tuple[Tensor, ...],
        kernels: Any,
    ) -> None:
        if op.keep.__class__ is tuple:  # its form for an input of the output's shape: here none is
            xs, y = kept(op, follows, arrays, _SEVERAL)
        else:
            xs, y = kept(op, follows, arrays, tuple(each.array for each in outputs))
        if y is None:
            y = tuple(spec_of(each.array) for each in outputs)
        names = tuple(each.key for each in outputs)
        self.records.append((op, follows, names, keys, xs, y, params, kernels))
        self.followed.update(names)


_SEVERAL = Spec((-1,), None)  # in place of one output, where there are several
