"""What each way to add up over ranks sends: its rounds, the length and the reach of each message.

With n bytes, p ranks, a latency α and β seconds a byte, in total [1]_, [2]_:

- *ring*: 2(p - 1)α + 2n(p - 1)/p·β
- *doubling* (recursive doubling): lg p·(α + nβ)
- *rabenseifner* (recursive halving, then doubling): 2 lg p·α + 2n(p - 1)/p·β where p is a power of
  two, and two more messages of n bytes elsewhere
- *ordered* (slices to all, then gathered): (p - 1 + lg p)α + 2n(p - 1)/p·β
- *hierarchical* (q machines of g ranks): 2(g - 1)α + 2n(g - 1)/g·β within the machine, and
  Rabenseifner with q ranks between them, where the g messages of a machine share its network

The additions are not told apart from the bytes: each byte that arrives is added, so that β of a
measured reduction contains them.

References
----------
.. [1] Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in
   MPICH", International Journal of High Performance Computing Applications 19(1), 2005.
.. [2] Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations",
   Journal of Parallel and Distributed Computing 69(2), 2009.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Round(NamedTuple):
    """Messages of one length that a rank sends one after the other.

    Attributes
    ----------
    number : float
        How many.
    nbytes : float
        Of each.
    crosses : bool
        Whether they go to another machine.
    sharing : int
        How many ranks of a machine send so at the same time.
    """

    number: float
    nbytes: float
    crosses: bool = False
    sharing: int = 1


def ring(nbytes: float, ranks: int, per_node: int) -> list[Round]:
    """Return the rounds of a ring: each rank sends to its neighbour, one of a machine leaves it."""
    return [Round(2 * (ranks - 1), nbytes / ranks, ranks > per_node)] if ranks > 1 else []


def doubling(nbytes: float, ranks: int, per_node: int) -> list[Round]:
    """Return the rounds of recursive doubling."""
    power = 1 << (ranks.bit_length() - 1)
    rounds = [_at(1 << step, 1, nbytes, ranks, per_node) for step in range(power.bit_length() - 1)]
    return rounds + _folding(nbytes, ranks, power, per_node)


def rabenseifner(nbytes: float, ranks: int, per_node: int) -> list[Round]:
    """Return the rounds of recursive halving and doubling."""
    power = 1 << (ranks.bit_length() - 1)
    rounds = [
        _at(1 << step, 2, nbytes / (2 << step), ranks, per_node)
        for step in range(power.bit_length() - 1)
    ]
    return rounds + _folding(nbytes, ranks, power, per_node)


def ordered(nbytes: float, ranks: int, per_node: int) -> list[Round]:
    """Return the rounds of an exchange of slices, pair by pair, and of gathering them."""
    if ranks == 1:
        return []
    near = min(per_node, ranks) - 1
    piece = nbytes / ranks
    rounds = [Round(near, piece)] if near else []
    if ranks - 1 > near:
        rounds.append(Round(ranks - 1 - near, piece, True, per_node))
    return rounds + gather(nbytes, ranks, per_node)


def gather(nbytes: float, ranks: int, per_node: int) -> list[Round]:
    """Return the rounds of an allgather of n bytes in all, by doubling."""
    rounds, held = [], 1
    while held < ranks:
        sent = min(held, ranks - held)
        rounds.append(_at(held, 1, nbytes * sent / ranks, ranks, per_node))
        held += sent
    return rounds


def hierarchical(nbytes: float, ranks: int, per_node: int) -> list[Round]:
    """Return the rounds of a sum within machines, between them, and of gathering within."""
    group = min(per_node, ranks)
    nodes = -(-ranks // group)
    rounds = [Round(2 * (group - 1), nbytes / group)] if group > 1 else []
    return rounds + [
        Round(number, length, True, group)
        for number, length, _, _ in rabenseifner(nbytes / group, nodes, 1)
    ]


def _at(distance: int, number: int, nbytes: float, ranks: int, per_node: int) -> Round:
    crosses = ranks > per_node and distance >= per_node
    return Round(number, nbytes, crosses, per_node if crosses else 1)


def _folding(nbytes: float, ranks: int, power: int, per_node: int) -> list[Round]:
    """Return the messages to and from the ranks beyond a power of two."""
    return [] if ranks == power else [Round(2, nbytes, ranks > per_node)]


Algorithm = Callable[[float, int, int], list[Round]]

ALGORITHMS: dict[str, Algorithm] = {
    "ring": ring,
    "doubling": doubling,
    "rabenseifner": rabenseifner,
    "ordered": ordered,
    "hierarchical": hierarchical,
}
