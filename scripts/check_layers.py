#!/usr/bin/env python3
"""Hold the floors of distgrad: imports point down only, in no circle, to nothing forbidden.

Every import statement counts, also one inside a function or under `TYPE_CHECKING`, because a
reader who follows the arrow has to know the module above all the same. Files are parsed, never
imported, so the check also runs where distgrad is not installed.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The floors, from the ground up. A module may import from its own floor and from those below it.
# The name is the part after `distgrad.`, or the whole name of a package in `backends/`.
FLOORS: dict[int, tuple[str, ...]] = {
    1: ("core", "errors"),
    2: (
        *("backend", "shapes", "dtypes", "promotion", "tree", "callables", "windows", "user_cache"),
        *("whole_files", "foreign_names"),
    ),
    3: ("ops",),
    4: ("operators", "array_methods", "interchange", "tensor", "linalg", "fft", "special"),
    5: (
        *("backends_in_force", "namespace_info", "entering", "autocasting", "kernel_errors"),
        *("eager", "variable"),
        *("sparse", "numpy_functions", "batching", "vectorizing", "data", "debug", "random"),
        "unknown_names",
    ),
    6: ("tape", "transforms", "graph", "nn", "optimizers"),
    7: ("distributed", "testing", "distgrad_numpy", "distgrad_cupy"),
    8: ("checkpoint", "training", "cli", "__main__", "compat"),
}

# `distgrad/__init__.py` shows names of every floor, and those from this floor up may use it.
FACE = "distgrad"
FACE_IS_BELOW_FLOOR = 7

# What can run code out of data, or open a listener: nowhere.
FORBIDDEN_IMPORTS = {
    *("pickle", "_pickle", "marshal", "yaml", "dill", "cloudpickle", "shelve"),
    *("socket", "socketserver", "http.server", "xmlrpc.server"),
}
FORBIDDEN_CALLS = frozenset(("eval", "exec"))

# What `import distgrad` must not bring in: slow to import, or starts MPI or a driver.
LATE_IMPORTS = frozenset(("cupy", "mpi4py", "rich", "scipy"))


@dataclass(frozen=True)
class Import:
    """One imported name, where it stands, and whether it runs when its module is imported."""

    target: str  # absolute, with the imported name as its last part where that is a module
    line: int
    runs_at_import: bool
    in_function: bool


@dataclass(frozen=True)
class Module:
    """One parsed file under its absolute name."""

    name: str
    path: Path
    tree: ast.Module
    is_package: bool


def main(arguments: list[str] | None = None) -> int:
    """Print every violation below the given root and return 1 if there is one, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    checkout = Path(__file__).resolve().parent.parent
    parser.add_argument("root", nargs="?", type=Path, default=checkout, help="a checkout")
    root: Path = parser.parse_args(arguments).root
    if not (root / "distgrad" / "__init__.py").is_file():
        parser.error(f"{root} is no checkout: it has no distgrad/__init__.py")

    violations = find_violations(root)
    for violation in violations:
        print(violation)
    if violations:
        print(f"layers: {len(violations)} violation(s)", file=sys.stderr)
        return 1
    print(f"layers: {len(read_modules(root)[0])} modules on {len(FLOORS)} floors, no arrow up")
    return 0


def find_violations(root: Path) -> list[str]:
    """Return one line `file:line: what is wrong` for each violation below `root`."""
    modules, violations = read_modules(root)
    imports = {name: resolve(module, modules) for name, module in modules.items()}
    for name, module in modules.items():
        where = module.path.relative_to(root)
        if floor_of(name) is None:
            violations.append(
                f"{where}:1: {name} stands on no floor; place it in FLOORS of check_layers.py"
            )
        violations += [f"{where}:{line}: {text}" for line, text in look_up(name, imports[name])]
        violations += [f"{where}:{line}: {text}" for line, text in forbidden(module)]
    violations += late_violations(root, modules, imports)
    violations += [
        describe_circle(root, names, modules, imports) for names in find_circles(imports)
    ]
    return violations


def floor_of(name: str) -> int | None:
    """Return the floor of an absolute module name; None for the face and the unplaced."""
    parts = name.split(".")
    key = parts[1] if parts[0] == FACE and len(parts) > 1 else parts[0]
    if name == FACE:
        return 0
    return next((floor for floor, keys in FLOORS.items() if key in keys), None)


def look_up(name: str, imports: list[Import]) -> Iterator[tuple[int, str]]:
    """Yield the imports of module `name` that point up."""
    own = floor_of(name)
    if not own:  # the face may show everything; the unplaced are refused already
        return
    for item in imports:
        if item.target == FACE:
            if own < FACE_IS_BELOW_FLOOR:
                yield (
                    item.line,
                    f"floor {own} ({name}) imports the face `distgrad`, which only floors "
                    f"{FACE_IS_BELOW_FLOOR} and up may; import from the module that defines it",
                )
            continue
        target = floor_of(item.target)
        if target is not None and target > own:
            yield (
                item.line,
                f"floor {own} ({name}) imports {item.target} on floor {target}; "
                "arrows point down only",
            )


def read_modules(root: Path) -> tuple[dict[str, Module], list[str]]:
    """Return the modules of `distgrad/` and `backends/` by name, and the files that don't parse."""
    modules: dict[str, Module] = {}
    broken: list[str] = []
    for base, start in ((root, root / "distgrad"), (root / "backends", root / "backends")):
        for path in sorted(start.rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            try:
                tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
            except SyntaxError as error:
                broken.append(f"{path.relative_to(root)}:{error.lineno}: {error.msg}")
                continue
            modules[name] = Module(name, path, tree, is_package)
    return modules, broken


def resolve(module: Module, modules: dict[str, Module]) -> list[Import]:
    """Return the imports of a module by absolute name: `from a import b` is `a.b` if a module."""
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    found: list[Import] = []
    for node, at_import, in_function in walk(module.tree):
        for base, names in targets(node, package):
            for full in [f"{base}.{name}" for name in names] or [base]:
                target = full if full in modules else base
                found.append(Import(target, node.lineno, at_import, in_function))
    return found


def targets(node: ast.AST, package: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (module, imported names) of an import statement or of `import_module("...")`."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, []
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")
            above = above[: len(above) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        yield base, [alias.name for alias in node.names]
    elif isinstance(node, ast.Call) and call_name(node) in ("import_module", "__import__"):
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield first.value.lstrip("."), []


def walk(tree: ast.Module) -> Iterator[tuple[ast.stmt | ast.expr, bool, bool]]:
    """Yield (node, runs when the module is imported, stands in a function) for every node."""
    pending: list[tuple[ast.AST, bool, bool]] = [(tree, True, False)]
    while pending:
        node, at_import, in_function = pending.pop()
        if isinstance(node, ast.stmt | ast.expr):
            yield node, at_import, in_function
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            at_import, in_function = False, True
        for child in ast.iter_child_nodes(node):
            typing_only = (
                isinstance(node, ast.If) and child in node.body and is_type_checking(node.test)
            )
            pending.append((child, at_import and not typing_only, in_function))


def is_type_checking(test: ast.expr) -> bool:
    """Say whether a condition is `TYPE_CHECKING` or `typing.TYPE_CHECKING`."""
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def call_name(node: ast.Call) -> str:
    """Return the called name: `f` of `f(...)` and of `builtins.f(...)`, `importlib.f(...)`."""
    if isinstance(node.func, ast.Name):
        return node.func.id
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        return node.func.attr if node.func.value.id in ("builtins", "importlib") else ""
    return ""


def forbidden(module: Module) -> Iterator[tuple[int, str]]:
    """Yield what no module of distgrad may do: unpickle, evaluate text, listen on a socket."""
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    for node, _, _ in walk(module.tree):
        for base, names in targets(node, package):
            for full in [f"{base}.{name}" for name in names] or [base]:
                hit = next((bad for bad in FORBIDDEN_IMPORTS if is_inside(full, bad)), None)
                if hit:
                    yield node.lineno, f"imports {hit}, which distgrad never uses"
        if isinstance(node, ast.Call):
            if call_name(node) in FORBIDDEN_CALLS:
                yield node.lineno, f"calls {call_name(node)}, which distgrad never uses"
            for keyword in node.keywords:
                never = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg == "allow_pickle" and not never:
                    yield node.lineno, "allow_pickle may only be False"


def is_inside(name: str, package: str) -> bool:
    """Say whether `name` is `package` or lies in it."""
    return name == package or name.startswith(package + ".")


def late_violations(
    root: Path, modules: dict[str, Module], imports: dict[str, list[Import]]
) -> list[str]:
    """Return the imports of CuPy, mpi4py and rich that `import distgrad` would run."""
    reached: set[str] = set()
    pending = [FACE]
    while pending:
        name = pending.pop()
        if name in reached or name not in modules:
            continue
        reached.add(name)
        parent = name.rpartition(".")[0]  # importing a.b imports a first
        pending += [parent] if parent else []
        pending += [item.target for item in imports[name] if item.runs_at_import]
    return [
        f"{modules[name].path.relative_to(root)}:{item.line}: `import distgrad` would import "
        f"{item.target}; import it inside the function that needs it"
        for name in sorted(reached)
        for item in imports[name]
        if item.runs_at_import and item.target.partition(".")[0] in LATE_IMPORTS
    ]


def find_circles(imports: dict[str, list[Import]]) -> list[list[str]]:
    """Return the sets of modules that import each other, directly or around a corner.

    Notes
    -----
    Strongly connected components by Kosaraju's two passes, without recursion. Importing a
    submodule also runs its package's `__init__`; that arrow belongs to the language and does not
    count. The face may fetch a name late (PEP 562): its imports inside functions don't count.
    """
    arrows = {
        name: {
            item.target
            for item in items
            if item.target in imports and not (name == FACE and item.in_function)
        }
        for name, items in imports.items()
    }
    back: dict[str, set[str]] = {name: set() for name in arrows}
    for name, targets_of_name in arrows.items():
        for target in targets_of_name:
            back[target].add(name)

    seen: set[str] = set()
    order = [name for start in sorted(arrows) for name in finish(start, arrows, seen)]
    seen.clear()
    components = [sorted(finish(start, back, seen)) for start in reversed(order)]
    return [
        names for names in components if len(names) > 1 or (names and names[0] in arrows[names[0]])
    ]


def finish(start: str, arrows: dict[str, set[str]], seen: set[str]) -> list[str]:
    """Return the unseen names reachable from `start`, each after all that it leads to."""
    finished: list[str] = []
    pending = [(start, False)]
    while pending:
        name, done = pending.pop()
        if done:
            finished.append(name)
        elif name not in seen:
            seen.add(name)
            pending.append((name, True))
            pending += [(target, False) for target in sorted(arrows[name])]
    return finished


def describe_circle(
    root: Path, names: list[str], modules: dict[str, Module], imports: dict[str, list[Import]]
) -> str:
    """Return one line that names the arrows of a circle by file and line."""
    arrows = {
        f"{modules[name].path.relative_to(root)}:{item.line} imports {item.target}"
        for name in names
        for item in imports[name]
        if item.target in names
    }
    return f"import circle of {len(names)} modules: {'; '.join(sorted(arrows))}"


if __name__ == "__main__":
    sys.exit(main())
