"""Say how many bytes of a training each rank holds, beside how many it ought to be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ShardReport:
    """Bytes on this rank, in the order of a table's rows.

    Attributes
    ----------
    stage, ranks : int
        How the optimizer cuts, and over how many.
    elements : int
        How many parameters there are, counted once.
    parameters : int
        Bytes of parameters between two steps: whole variables, or parts at stage 3.
    gathered : int
        Bytes of whole variables that were in use at once beside the parts, at most since the last
        step but one; zero at stages 1 and 2.
    gradients : int
        Bytes of gradients at most during the last step: this rank's own, messages, and its part of
        the sum.
    state : int
        Bytes of the optimizer's state.
    formulas : dict of str to (str, float)
        For ``"parameters"``, ``"gradients"`` and ``"state"`` what they ought to be: in words and
        in bytes, of n elements over N ranks; messages and what is gathered come on top.

    Notes
    -----
    ``str(report)`` is a table.
    """

    stage: int
    ranks: int
    elements: int
    parameters: int
    gathered: int
    gradients: int
    state: int
    formulas: dict[str, tuple[str, float]]

    @property
    def total(self) -> int:
        """All bytes together."""
        return self.parameters + self.gathered + self.gradients + self.state

    def __str__(self) -> str:
        """Return the table."""
        lines = [
            f"stage {self.stage} on {self.ranks} ranks, n = {self.elements:,} parameters",
            f"{'bytes on this rank':22}{'held':>16}{'formula':>16}",
        ]
        for row in ("parameters", "gathered", "gradients", "state"):
            words, nbytes = self.formulas.get(row, ("", None))
            formula = "" if nbytes is None else f"{nbytes:,.0f}"
            line = f"{row:22}{getattr(self, row):>16,}{formula:>16}"
            lines.append(f"{line}  {words}".rstrip())
        ought = sum(nbytes for _, nbytes in self.formulas.values())
        lines.append(f"{'total':22}{self.total:>16,}{ought:>16,.0f}")
        return "\n".join(lines)


def formulas_of(
    stage: int, ranks: int, elements: int, parameters: int, gradients: int, state: float
) -> dict[str, tuple[str, float]]:
    """Return what each kind of bytes ought to be.

    Parameters
    ----------
    stage, ranks, elements : int
        As in `ShardReport`.
    parameters, gradients, state : int
        The bytes of each without any cut.

    Notes
    -----
    Of Adam in float32 without cuts 4 + 4 + 8 bytes a parameter; stage 1 divides the 8 by N, stage 2
    the gradients' 4 as well, and stage 3 everything [1]_.

    References
    ----------
    .. [1] Rajbhandari, Rasley, Ruwase and He, "ZeRO: memory optimizations toward training trillion
       parameter models", SC 2020, arXiv:1910.02054, section 5 and figure 1.
    """

    def entry(nbytes: float, is_cut: bool) -> tuple[str, float]:
        each = nbytes / elements if elements else 0.0
        return (f"{each:g} n / N", nbytes / ranks) if is_cut else (f"{each:g} n", nbytes)

    return {
        "parameters": entry(parameters, stage == 3),
        "gradients": entry(gradients, stage >= 2),
        "state": entry(state, True),
    }
