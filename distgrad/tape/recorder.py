"""Recorder: hear operations, and write down those that involve a followed value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.core.op import Keep, Op
from distgrad.dtypes import is_differentiable
from distgrad.tape.records import kept, spec_of
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
    """

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.roots: set[int] = set()
        self.followed: set[int] = set()

    def follow(self, key: int) -> None:
        """Follow the value of an identity from now on."""
        self.roots.add(key)
        self.followed.add(key)

    def follows(self, key: int) -> bool:
        """Return whether the value of an identity is followed."""
        return key in self.followed

    def hear_read(self, variable: Variable) -> None:
        """Take no notice of a variable that is about to be read (called by the seam)."""

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
                return
        elif len(keys) == 1:
            if keys[0] not in followed:
                return
            follows = keys
        else:
            follows = [key if key in followed else 0 for key in keys]
            if not any(follows):
                return
        if op.vjp is None:
            return
        keep = op.keep
        if output.__class__ is tuple:
            self._hear_several(op, follows, keys, arrays, params, output, kernels)
            return
        # What is kept most often is spelled out here; the rest is in `kept`.
        if keep is Keep.INPUTS:
            xs, y = arrays, None
        elif keep is Keep.OUTPUT:
            xs, y = None, output.array
        elif keep is Keep.SPECS and not is_differentiable(output.dtype):
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
        xs, y = kept(op, follows, arrays, tuple(each.array for each in outputs))
        if y is None:
            y = tuple(spec_of(each.array) for each in outputs)
        names = tuple(each.key for each in outputs)
        self.records.append((op, follows, names, keys, xs, y, params, kernels))
        self.followed.update(names)
