"""Einstein's summation: products of arrays by named axes, computed as matrix products."""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import numpy as np

from distgrad.core.op import Array, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply
from distgrad.dtypes import as_dtype
from distgrad.errors import ShapeError
from distgrad.ops.linalg.parts import diagonal
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.rules.families import conjugate, joint, shape_of, sum_of
from distgrad.ops.shaping.structure import astype, permute_dims, squeeze
from distgrad.shapes import Shape, shape_given

# --- two factors, with no axis named twice in one -------------------------------------------------


def _parsed(subscripts: str) -> tuple[str, str, str]:
    factors, output = subscripts.split("->")
    left, right = factors.split(",")
    return left, right, output


def _contract_spec(a: Spec, b: Spec, *, subscripts: str) -> Spec:
    left, right, output = _parsed(subscripts)
    lengths = dict(zip(left, shape_of(a), strict=True))
    for letter, length in zip(right, shape_of(b), strict=True):
        if lengths.setdefault(letter, length) != length:
            raise ShapeError(
                f"einsum: {subscripts!r} of {shape_of(a)} and {shape_of(b)}: axis {letter!r} has "
                f"the lengths {lengths[letter]} and {length}"
            )
    return Spec(tuple(lengths[letter] for letter in output), joint(a, b))


def _permuted(xp: Namespace, x: Array, given: str, wanted: str) -> Array:
    if given == wanted:
        return x
    return xp.permute_dims(x, axes=tuple(given.index(letter) for letter in wanted))


def _without(xp: Namespace, x: Array, summed: tuple[int, ...]) -> Array:
    """Return an array summed over some of its axes, in its own dtype."""
    if not summed:
        return x
    total = xp.sum(x, axis=summed)
    return total if total.dtype == x.dtype else xp.astype(total, dtype=as_dtype(x.dtype))


class _Layout(NamedTuple):
    """How two factors become matrices: computed once for each subscripts.

    Attributes
    ----------
    left, right : str
        The letters of the factors that are left once those are summed that one alone has.
    alone_left, alone_right : tuple of int
        The axes of these.
    shared, summed, rows, columns : str
        The letters of the stack's axes, of the inner ones, and of the free ones of each factor.
    """

    left: str
    right: str
    output: str
    alone_left: tuple[int, ...]
    alone_right: tuple[int, ...]
    shared: str
    summed: str
    rows: str
    columns: str


@lru_cache(maxsize=4096)
def _layout(subscripts: str) -> _Layout:
    left, right, output = _parsed(subscripts)
    alone_left = tuple(p for p, i in enumerate(left) if i not in right and i not in output)
    alone_right = tuple(p for p, i in enumerate(right) if i not in left and i not in output)
    left = "".join(i for p, i in enumerate(left) if p not in alone_left)
    right = "".join(i for p, i in enumerate(right) if p not in alone_right)
    return _Layout(
        left,
        right,
        output,
        alone_left,
        alone_right,
        shared="".join(i for i in left if i in right and i in output),
        summed="".join(i for i in left if i in right and i not in output),
        rows="".join(i for i in left if i not in right),
        columns="".join(i for i in right if i not in left),
    )


def _contract_compose(xp: Namespace, a: Array, b: Array, subscripts: str) -> Array:
    left, right, output, alone_left, alone_right, shared, summed, rows, columns = _layout(
        subscripts
    )
    a, b = _without(xp, a, alone_left), _without(xp, b, alone_right)
    lengths = dict(zip(left + right, (*a.shape, *b.shape), strict=True))
    height, width = [lengths[i] for i in rows], [lengths[i] for i in columns]
    stack, inner = [lengths[i] for i in shared], prod(lengths[i] for i in summed)
    lead = (prod(stack),) if shared else ()
    a = _permuted(xp, a, left, shared + rows + summed)
    b = _permuted(xp, b, right, shared + summed + columns)
    a = _reshaped(xp, a, (*lead, prod(height), inner))
    b = _reshaped(xp, b, (*lead, inner, prod(width)))
    product = _reshaped(xp, xp.matmul(a, b) if summed else a * b, (*stack, *height, *width))
    return _permuted(xp, product, shared + rows + columns, output)


def _reshaped(xp: Namespace, x: Array, shape: Shape) -> Array:
    return x if tuple(x.shape) == shape else xp.reshape(x, shape=shape)


def _cotangent(
    xp: Namespace, g: Array, output: str, other: Array, letters: str, own: str, shape: Shape
) -> Array:
    """Return the cotangent of one factor: that of the result, times the other factor."""
    met = "".join(i for i in own if i in output or i in letters)
    product = xp.contract(g, conjugate(xp, other), subscripts=f"{output},{letters}->{met}")
    if met == own:
        return product
    spread = tuple(n if i in met else 1 for i, n in zip(own, shape, strict=True))
    return xp.broadcast_to(xp.reshape(product, shape=spread), shape=tuple(shape))


def _contract_vjp(
    xp: Namespace, g: Array, y: Array, xs: Any, params: dict[str, Any], needs: Any
) -> Any:
    left, right, output = _parsed(params["subscripts"])
    a, b = xs
    to_a = to_b = None
    if needs[0]:
        shape = tuple((g if a is None else a).shape)
        to_a = _cotangent(xp, g, output, b, right, left, shape)
    if needs[1]:
        shape = tuple((g if b is None else b).shape)
        to_b = _cotangent(xp, g, output, a, left, right, shape)
    return to_a, to_b


def _contract_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: dict[str, Any]) -> Array:
    terms = []
    if tangents[0] is not None:
        terms.append(xp.contract(tangents[0], xs[1], **params))
    if tangents[1] is not None:
        terms.append(xp.contract(xs[0], tangents[1], **params))
    return sum_of(terms)


def _contract_batch(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Array:
    left, right, output = _parsed(params["subscripts"])
    example = _fresh(left + right + output, 1)
    left, right = (example * b + own for b, own in zip(batched, (left, right), strict=True))
    return xp.contract(*arrays, subscripts=f"{left},{right}->{example}{output}")


CONTRACT = Op(
    "contract",
    Kind.CONTRACTION,
    _contract_spec,
    _contract_vjp,
    _contract_jvp,
    keep=((1,), (0,)),
    compose=_contract_compose,
    batch=_contract_batch,
)

# --- any number of factors ------------------------------------------------------------------------


def einsum(subscripts: Any, /, *operands: Any, optimize: bool | str = True) -> Any:
    """Return sums of products over named axes.

    Parameters
    ----------
    subscripts : str
        The axes of each factor by one letter each, and those of the result: ``"ij,jk->ik"``. Axes
        that the result leaves out are summed over. Without ``->`` the result has the letters that
        stand only once, in the order of the alphabet. ``...`` stands for any further axes, which
        broadcast. A letter twice in one factor means its diagonal.
    *operands : Tensor, Variable or array
        The factors. In place of a string, each may be followed by a list of integers that name its
        axes, and all by one for the result.
    optimize : bool or str
        Whether more than two factors are multiplied in a good order, found by opt_einsum where it
        is installed (which takes the names of its strategies here), else by NumPy.

    Raises
    ------
    ShapeError
        If the letters do not fit the factors, or one letter has several lengths.

    Notes
    -----
    Two factors at a time, as one product of matrices. The cotangent of a factor is the einsum of
    the result's with the other factor.

    Examples
    --------
    >>> import distgrad as dg
    >>> dg.einsum("ij,j->i", dg.asarray([[1.0, 2.0], [3.0, 4.0]]), dg.asarray([1.0, -1.0])).tolist()
    [-1.0, -1.0]
    """
    if not isinstance(subscripts, str):
        subscripts, operands = _from_lists((subscripts, *operands))
    terms, output = _read(subscripts, operands)
    factors = []
    lengths = _lengths(subscripts, terms, operands)
    for letters, operand in zip(terms, operands, strict=True):
        factors.append(_simplified(letters, operand, lengths))
    for places in _path(factors, output, lengths, optimize):
        chosen = [factors[place] for place in sorted(places)]
        factors = [each for place, each in enumerate(factors) if place not in places]
        factors.append(_multiplied(chosen, set(output).union(*(f[0] for f in factors)), output))
    letters, result = factors[0]
    summed = tuple(place for place, letter in enumerate(letters) if letter not in output)
    if summed:
        dtype = result.dtype
        result = sum_over(result, axis=summed)
        result = result if result.dtype == dtype else astype(result, dtype)
        letters = "".join(letter for letter in letters if letter in output)
    if letters == output:
        return result
    return permute_dims(result, tuple(letters.index(letter) for letter in output))


def _fresh(used: str, count: int) -> str:
    """Return letters that are not used yet."""
    free = (c for c in chain(string.ascii_letters, map(chr, range(192, 50000))) if c not in used)
    return "".join(next(free) for _ in range(count))


def _from_lists(given: Sequence[Any]) -> tuple[str, tuple[Any, ...]]:
    """Return subscripts and factors from ``a, [0, 1], b, [1, 2], [0, 2]``."""

    def spelled(names: Sequence[Any]) -> str:
        return "".join("..." if n is Ellipsis else string.ascii_letters[n] for n in names)

    pairs = len(given) // 2
    factors = tuple(given[2 * i] for i in range(pairs))
    text = ",".join(spelled(given[2 * i + 1]) for i in range(pairs))
    return (f"{text}->{spelled(given[-1])}" if len(given) % 2 else text), factors


def _read(subscripts: str, operands: Sequence[Any]) -> tuple[list[str], str]:
    """Return the letters of each factor and of the result, with letters in place of ellipses."""
    text = subscripts.replace(" ", "")
    before, arrow, output = text.partition("->")
    terms = before.split(",")
    if len(terms) != len(operands):
        raise ShapeError(
            f"einsum: {subscripts!r} names {len(terms)} factors, but {len(operands)} are given"
        )
    ranks = [
        len(shape_given(x)) - len(term.replace("...", "")) if "..." in term else 0
        for term, x in zip(terms, operands, strict=True)
    ]
    rest = _fresh(text, max(*ranks, 0))
    for place, (term, rank) in enumerate(zip(terms, ranks, strict=True)):
        terms[place] = term.replace("...", rest[len(rest) - rank :])
        if rank < 0 or len(terms[place]) != len(shape_given(operands[place])):
            raise ShapeError(
                f"einsum: {term!r} of {subscripts!r} does not fit factor {place} of shape "
                f"{shape_given(operands[place])}; expected one letter for each axis"
            )
    named = "".join(terms)
    if arrow:
        output = output.replace("...", rest)
    else:
        once = sorted(c for c in set(named) if named.count(c) == 1 and c not in rest)
        output = rest + "".join(once)
    if len(set(output)) != len(output) or not set(output) <= set(named):
        raise ShapeError(
            f"einsum: the result of {subscripts!r} is to have the axes {output!r}; expected each "
            "letter once, and in one of the factors"
        )
    return terms, output


def _lengths(subscripts: str, terms: Sequence[str], operands: Sequence[Any]) -> dict[str, int]:
    """Return the length of each axis; one of length 1 is repeated to that of the others."""
    lengths: dict[str, int] = {}
    for letters, operand in zip(terms, operands, strict=True):
        for letter, length in zip(letters, shape_given(operand), strict=True):
            known = lengths.setdefault(letter, length)
            if known == 1:
                lengths[letter] = length
            elif length not in (1, known):
                raise ShapeError(
                    f"einsum: axis {letter!r} of {subscripts!r} has the lengths {known} and "
                    f"{length}; expected equal ones, or 1"
                )
    return lengths


def _simplified(letters: str, operand: Any, lengths: dict[str, int]) -> tuple[str, Any]:
    """Return a factor with each letter once, and without axes of length 1 to be repeated."""
    shape = shape_given(operand)
    stretched = [p for p, i in enumerate(letters) if shape[p] == 1 != lengths[i]]
    if stretched:
        operand = squeeze(operand, axis=tuple(stretched))
        letters = "".join(i for p, i in enumerate(letters) if p not in stretched)
    while len(set(letters)) < len(letters):
        letter = next(i for i in letters if letters.count(i) > 1)
        first = letters.index(letter)
        second = letters.index(letter, first + 1)
        operand = diagonal(operand, axis1=first, axis2=second)
        kept = "".join(i for p, i in enumerate(letters) if p not in (first, second))
        letters = kept + letter
    return letters, operand


def _multiplied(
    factors: Sequence[tuple[str, Any]], needed: set[str], output: str
) -> tuple[str, Any]:
    """Return the product of some factors, summed over the axes that nobody else needs."""
    letters, product = factors[0]
    for place, (others, factor) in enumerate(factors[1:], start=1):
        later = needed.union(*(rest for rest, _ in factors[place + 1 :]))
        kept = "".join(dict.fromkeys(i for i in letters + others if i in later))
        if set(kept) == set(output):
            kept = output  # the last product: no permutation afterwards
        product = apply(CONTRACT, product, factor, subscripts=f"{letters},{others}->{kept}")
        letters = kept
    return letters, product


def _path(
    factors: Sequence[tuple[str, Any]], output: str, lengths: dict[str, int], optimize: bool | str
) -> list[tuple[int, ...]]:
    """Return which factors to multiply in each step; the product goes to the end of the list."""
    count = len(factors)
    if count == 1:
        return []
    if count == 2 or optimize is False:
        return [tuple(range(count))]
    text = ",".join(letters for letters, _ in factors) + "->" + output
    shapes = [tuple(lengths[i] for i in letters) for letters, _ in factors]
    try:
        finder: Any = import_module("opt_einsum")
    except ImportError:
        stand_ins = [np.broadcast_to(np.empty((), np.bool_), shape) for shape in shapes]
        strategy: Any = optimize if isinstance(optimize, str) and optimize != "auto" else "greedy"
        return [tuple(step) for step in np.einsum_path(text, *stand_ins, optimize=strategy)[0][1:]]
    strategy = "auto" if optimize is True else optimize
    steps, _ = finder.contract_path(text, *shapes, shapes=True, optimize=strategy)
    return [tuple(step) for step in steps]


OPS = (CONTRACT,)
