#!/usr/bin/env python3
"""Write docs/reference/operations.md: every operation of the vocabulary, from its declaration.

scripts/list_operations.py [--check] [PATH]

Nothing on the page is written by hand, so nothing on it can be out of date: names, kinds, what
tapes keep and the rules come from the declarations, complex derivatives from the samples, the
conventions of derivatives from the public functions' docstrings and from the table in
docs/explanation/gradient-conventions.md. With --check nothing is written; the exit status is 1 if
the page differs.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import distgrad as dg
from distgrad.backend import load
from distgrad.backend.adapters import ADAPTERS
from distgrad.core.op import Keep, Op
from distgrad.ops import FAMILIES, VOCABULARY
from distgrad.ops.rules.batching import rule_of
from distgrad.testing.samples import samples

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = CHECKOUT / "docs" / "reference" / "operations.md"
CONVENTIONS = CHECKOUT / "docs" / "explanation" / "gradient-conventions.md"
CUPY = CHECKOUT / "backends" / "distgrad_cupy"

# Where the public functions are, in the order in which they are looked for.
NAMESPACES = (
    ("dg", dg),
    ("dg.nn", dg.nn),
    ("dg.linalg", dg.linalg),
    ("dg.fft", dg.fft),
    ("dg.special", dg.special),
)
# How the table of conventions spells operations that have no name in code.
SPELLINGS = {"x**": "pow", "**y": "pow", "x // y": "floor_divide", "|z|": "abs"}

INTRODUCTION = """\
# Operations

Everything that distgrad computes is written in one vocabulary. This page lists all {count}
operations, {differentiable} of them differentiable; it is made from their declarations by
`scripts/list_operations.py`, and a test holds that it is up to date. How an operation is declared:
[Add an operation](../how-to/add-an-operation.md).

- **Function**: the public function beside the operation, or those that are computed by it. An
  operation without one is a part of others, such as the pullback of a fused kernel.
- **Kind**: all that fusion may know. *elementwise*, *reduction*, *view*, *contraction* or *opaque*.
- **Kept**: what a tape holds for the backward pass, that is, the memory a call costs. *shapes* and
  *specs* (shapes and dtypes) hold no array; *rest* is all inputs but the first, *positions* those
  from the third on, *both* inputs and output, *summaries* inputs and all outputs but the first.
  `a: b` says that for the gradient in the a-th input the b-th is kept (counted from 1).
- **Modes**: *reverse* (VJP) and *forward* (JVP), and *complex* where there is a derivative at
  complex operands too.
- **vmap**: by a *rule* of its own, by the one that follows from its *kind*, by its *composition*,
  or example by example (*loop*).
- **NumPy**, **CuPy**: the kernel. *own* is written for this backend; *module* is the array module's
  function of that name (which CuPy is taken to have where NumPy does); *adapter* serves every
  module of the array API standard; *composition* says it in other operations.
- **Derivative**: the convention at ties, kinks and poles, in the words of the function's docstring,
  or as in [Gradient conventions](../explanation/gradient-conventions.md), which compares libraries;
  *none* where no gradient flows, and nothing where the formula leaves nothing to choose.
"""


def render() -> str:
    """Return the whole page."""
    operations = [op for family in FAMILIES for op in family.OPS]
    callers = functions_by_operation()
    conventions = stated_conventions({op.name for op in operations})
    complex_too = {each.operation for each in samples() if each.takes_complex}
    parts = [
        INTRODUCTION.format(
            count=len(operations), differentiable=sum(op.vjp is not None for op in operations)
        )
    ]
    for family in FAMILIES:
        title = family.__name__.rpartition(".")[2].replace("_", " ").capitalize()
        rows = [
            row(op, callers.get(op, []), op.name in complex_too, conventions.get(op.name, []))
            for op in family.OPS
        ]
        parts.append(
            f"\n## {title}\n\n{summary(family)}\n\n"
            "| Operation | Function | Kind | Kept | Modes | vmap | NumPy | CuPy | Derivative |\n"
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n" + "\n".join(rows) + "\n"
        )
    return "".join(parts)


def summary(thing: Any) -> str:
    """Return the first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def row(
    op: Op, functions: list[tuple[str, Callable[..., Any]]], complex_too: bool, table: list[str]
) -> str:
    """Return the line of one operation."""
    shown = [name for name, _ in functions[:3]] + (["..."] if len(functions) > 3 else [])
    modes = [name for name, rule in (("reverse", op.vjp), ("forward", op.jvp)) if rule]
    cells = (
        f"`{op.name}`",
        ", ".join(f"`{name}`" if name != "..." else name for name in shown),
        op.kind.value,
        kept(op),
        ", ".join(modes + ["complex"] * complex_too) if modes else "none",
        batching(op),
        on_numpy(op),
        on_cupy(op),
        derivative(op, functions, table),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def kept(op: Op) -> str:
    """Return what a tape holds of a call."""
    if op.vjp is None:
        return ""
    if isinstance(op.keep, Keep):
        return op.keep.value
    return "; ".join(
        f"{position}: {', '.join(str(each + 1) for each in read) or 'none'}"
        for position, read in enumerate(op.keep, 1)
    )


def batching(op: Op) -> str:
    """Return by what an operation runs over a batch."""
    if op.batch is not None:
        return "rule"
    if rule_of(op) is not None:
        return "kind"
    return "loop" if op.compose is None else "composition"


def on_numpy(op: Op) -> str:
    """Return where the NumPy backend has its kernel from."""
    backend: Any = load("numpy")
    return kernel_source(op, op.name in backend._kernels, hasattr(backend.module, op.name))


def on_cupy(op: Op) -> str:
    """Return where the CuPy backend has its kernel from, without importing CuPy.

    Its own kernels are found by reading its source. Its module is taken to have those of NumPy's
    functions that the vocabulary has under NumPy's name.
    """
    return kernel_source(op, op.name in CUPY_NAMES, hasattr(load("numpy").module, op.name))  # type: ignore[attr-defined]


def kernel_source(op: Op, has_own: bool, module_has: bool) -> str:
    """Return in one word where a kernel comes from, in the order in which backends look."""
    if has_own:
        return "own"
    if op.name in ADAPTERS:
        return "adapter"
    if module_has:
        return "module"
    return "none" if op.compose is None else "composition"


def _cupy_names() -> frozenset[str]:
    """Return the names of all kernels in the tables of the CuPy backend's source.

    Those are assigned to `KERNELS` or `NAMES`, or returned by a function `kernels`.
    """
    found: set[str] = set()
    for path in sorted(CUPY.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "kernels":
                tables = [each for each in ast.walk(node) if isinstance(each, ast.Dict)]
                keys = [key for table in tables for key in table.keys]
                found |= {str(key.value) for key in keys if isinstance(key, ast.Constant)}
                continue
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            named = {getattr(target, "id", "") for target in targets}
            if not (isinstance(node, ast.Assign | ast.AnnAssign) and named & {"KERNELS", "NAMES"}):
                continue
            for each in ast.walk(node):
                if isinstance(each, ast.Constant) and isinstance(each.value, str):
                    found |= set(each.value.split())
    return frozenset(found)


CUPY_NAMES = _cupy_names()


# --- public functions -----------------------------------------------------------------------------


def functions_by_operation() -> dict[Op, list[tuple[str, Callable[..., Any]]]]:
    """Return the public functions of each operation: its namesake, or those that apply it."""
    found: dict[Op, list[tuple[str, Callable[..., Any]]]] = {}
    namesakes: dict[str, tuple[str, Callable[..., Any]]] = {}
    for name, function in public_functions():
        for op in applied_by(function):
            found.setdefault(op, []).append((name, function))
        namesakes.setdefault(name.rpartition(".")[2], (name, function))
    for family in FAMILIES:
        for op in family.OPS:
            own = namesakes.get(op.name)
            if own is not None:
                found[op] = [own]
    return found


def public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the name and the function of all that is public and may be an operation's."""
    for prefix, namespace in NAMESPACES:
        for name in sorted(namespace.__all__):
            function = getattr(namespace, name)
            if inspect.isfunction(function) and "compat" not in function.__module__:
                yield f"{prefix}.{name}", function
    for prefix, kind in (("Tensor", dg.Tensor), ("Generator", dg.random.Generator)):
        for name, member in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_") or name == "__getitem__":
                yield f"{prefix}.{name}", member


def applied_by(function: Callable[..., Any]) -> list[Op]:
    """Return the operations that a function applies itself, or through helpers of its own file."""
    module: dict[str, Any] = getattr(function, "__globals__", {})
    seen: set[str] = set()
    operations: list[Op] = []

    def visit(code: CodeType) -> None:
        for name in code.co_names:
            value = module.get(name)
            if name in seen or value is None:
                continue
            seen.add(name)
            if isinstance(value, Op):
                operations.append(value)
            elif name.startswith("_") and inspect.isfunction(value):
                visit(value.__code__)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                visit(constant)

    visit(inspect.unwrap(function).__code__)
    return operations


# --- conventions ----------------------------------------------------------------------------------

_SPEAKS_OF_SLOPES = re.compile(
    r"\b(derivative|derivatives|gradient|gradients|cotangent|slope|tie|ties|subgradient)\b"
)


def derivative(op: Op, functions: list[tuple[str, Callable[..., Any]]], table: list[str]) -> str:
    """Return the conventions of an operation's derivative."""
    forward = op.name.removesuffix("_vjp")
    if forward != op.name and forward in VOCABULARY and not functions:
        return f"the pullback of `{forward}`, of any order"
    clauses = spoken(functions[0][1]) if functions else []
    if op.vjp is None:  # a gradient that is spoken of is that of what surrounds the operation
        clauses = [each for each in clauses if re.search(r"\bno (derivative|gradient)", each)]
    said = "; ".join(clauses)
    linked = "; ".join(table)
    if linked:
        linked += " ([conventions](../explanation/gradient-conventions.md))"
    joined = "; ".join(part for part in (said, linked) if part)
    return joined or ("none" if op.vjp is None else "")


def spoken(function: Callable[..., Any]) -> list[str]:
    """Return the clauses about derivatives in a docstring's text, without its sections' lists."""
    text = re.sub(
        r"\n(Raises|References|Examples)\n-+\n.*?(?=\n\w+\n-{3,}\n|\Z)",
        "\n",
        inspect.getdoc(function) or "",
        flags=re.DOTALL,
    )
    paragraphs = [
        " ".join(part.split())
        for part in re.split(r"\n\n|\n-{3,}\n", text)
        if not re.match(r"\w[\w, *]* : ", part)  # the description of a parameter
    ]
    clauses: list[str] = []
    for paragraph in paragraphs:
        for clause in re.split(r"(?<=[.;])\s+", paragraph):
            if _SPEAKS_OF_SLOPES.search(clause) and " : " not in clause:
                clauses.append(clause.rstrip(".;"))
    return [each.replace("\\", "\\\\") for each in clauses]


def stated_conventions(operations: set[str]) -> dict[str, list[str]]:
    """Return by operation what the table of conventions says of it."""
    found: dict[str, list[str]] = {}
    for line in CONVENTIONS.read_text().splitlines():
        # The bars of |z| are no columns; only the last three columns have none in them.
        cells = [cell.strip() for cell in line.strip("| \n").split(" | ")]
        if not line.startswith("| ") or len(cells) != 5 or cells[1] in ("distgrad", "---"):
            continue
        place, ours = cells[0], cells[1]
        spans = " ".join(re.findall(r"`([^`]+)`", place))
        named = set(re.findall(r"[a-z_][a-z_0-9]*(?=\(|`|\s|$)", spans)) & operations
        named |= {op for spelling, op in SPELLINGS.items() if spelling in place}
        named |= {"euclidean_norm"} if place.startswith("norm") else set()
        for name in sorted(named):
            found.setdefault(name, []).append(f"{place}: {ours}")
    return found


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=summary(sys.modules[__name__]))
    parser.add_argument("path", nargs="?", type=Path, default=PAGE, help="the page to write")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    options = parser.parse_args()
    page = render()
    if not options.check:
        options.path.write_text(page)
        return 0
    if options.path.exists() and options.path.read_text() == page:
        return 0
    print(f"{options.path} is out of date; run scripts/list_operations.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
