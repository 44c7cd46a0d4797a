"""What variables and their states are called within an optimizer: by names that differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from distgrad.variable import Variable


def named(variables: Sequence[Variable], before: Mapping[int, str]) -> dict[int, str]:
    """Return the names of variables by identity: their own, or with a number where it is taken.

    Parameters
    ----------
    variables : sequence of Variable
        Those that have a name already keep it.
    before : mapping of int to str
        The names given so far.
    """
    names = dict(before)
    taken = dict.fromkeys(names.values(), 1)  # with the number to try next
    for variable in variables:
        if variable.key in names:
            continue
        own = name = variable.name
        while name in taken:  # variables without a name of their own
            name, taken[own] = f"{own}_{taken[own]}", taken[own] + 1
        taken[name] = 1
        names[variable.key] = name
    return names


def owner_of(path: str, names: Collection[str]) -> str | None:
    """Return the longest of some names that a state's path ends with, or None.

    A name may have slashes of its own.

    Parameters
    ----------
    path : str
        Such as ``0/first_moment/encoder/kernel``.
    names : set of str or mapping
        Of the variables.
    """
    parts = path.split("/")
    ends = ("/".join(parts[place:]) for place in range(1, len(parts)))
    return next((end for end in ends if end in names), None)


def names_of_states(paths: Sequence[str], names: Collection[str]) -> list[str]:
    """Return the names of states: that of the variable first, without places in a chain.

    Parameters
    ----------
    paths : sequence of str
        Of the states.
    names : set of str or mapping
        Of the variables.
    """
    full, short = [], []
    for path in paths:
        name = owner_of(path, names)
        owner = "optimizer" if name is None else name
        slot = path if name is None else path[: -len(name) - 1]
        full.append(f"{owner}/{slot}")
        short.append("/".join((owner, *(part for part in slot.split("/") if not part.isdigit()))))
    return short if len(set(short)) == len(short) else full
