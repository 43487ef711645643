"""The laws of the house: imports go down, no cycles, files stay small, one row per primitive, no torch inside."""
from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fanal"
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = {"base": 0, "ir": 1, "compiler": 2, "backends": 3, "random": 4, "engine": 4, "tensor": 5, "autograd": 6, "ops": 7}
# Late imports upwards, both tables: the backend loader of the engine, and the door.
LATE = {("fanal.core.engine.cache", "backends")}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path, late: bool) -> list[str]:
    """Return the modules a file imports at load time, or everywhere when `late`."""
    tree = ast.parse(path.read_text())
    package = _module(path) if path.name == "__init__.py" else _module(path).rpartition(".")[0]
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not late:
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.extend(a.name for a in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parents = package.split(".")[:len(package.split(".")) - child.level + 1]
                    base = ".".join([*parents, base] if base else parents)
                found.append(base)
                found.extend(f"{base}.{a.name}" for a in child.names)
            visit(child)
    visit(tree)
    return found


def _room(module: str) -> str | None:
    parts = module.split(".")
    return parts[2] if parts[:2] == ["fanal", "core"] and len(parts) > 2 and parts[2] in FLOORS else None


@pytest.mark.parametrize("path", [f for f in FILES if "core" in f.parts], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    module = _module(path)
    room = _room(module)
    if room is None:
        return
    for name in _imports(path, late=True):
        if not name.startswith("fanal"):
            continue
        target = _room(name)
        if target is None:
            assert name in ("fanal", "fanal.core"), f"{module} imports {name}, which stands above the core"
            continue
        if FLOORS[target] > FLOORS[room]:
            assert (module, target) in LATE, f"{module} (floor {FLOORS[room]}) imports {name} (floor {FLOORS[target]})"


def test_no_import_cycles() -> None:
    names = {_module(f): f for f in FILES}
    graph = {m: {i for i in _imports(f, late=False) if i in names and i != m and not m.startswith(i + ".")}
             for m, f in names.items()}
    state: dict[str, int] = {}
    trail: list[str] = []

    def visit(m: str) -> None:
        state[m] = 1
        trail.append(m)
        for n in sorted(graph[m]):
            if state.get(n) == 1:
                raise AssertionError("import cycle: " + " -> ".join([*trail[trail.index(n):], n]))
            if n not in state:
                visit(n)
        trail.pop()
        state[m] = 2

    for m in sorted(graph):
        if m not in state:
            visit(m)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 600, f"{len(lines)} lines: split by topic"
    wide = [i for i, line in enumerate(lines, 1) if len(line) > 120]
    assert not wide, f"lines over 120 columns: {wide[:5]}"


def test_fanal_does_not_import_torch() -> None:
    for path in FILES:
        for name in _imports(path, late=True):
            assert name.split(".")[0] not in ("torch", "jax"), f"{path} imports {name}"


def test_rows() -> None:
    from fanal.core.ir import prims  # noqa: F401
    from fanal.core.ir.row import ROWS
    assert len(ROWS) <= 90
    for name, row in ROWS.items():
        assert callable(row.ref) and callable(row.shape) and callable(row.dtype), name


def test_nothing_left_unfinished() -> None:
    words = re.compile(r"\b(TODO|FIXME|XXX)\b|for now\b|simplified version", re.IGNORECASE)
    for path in FILES:
        for i, line in enumerate(path.read_text().splitlines(), 1):
            assert not words.search(line), f"{path.relative_to(ROOT)}:{i}: {line.strip()}"


def test_import_is_light() -> None:
    """Importing loads no more than the core, NumPy and ml_dtypes; LLVM and the rest come on first use."""
    code = ("import sys, fanal\n"
            "from fanal.core.engine.record import Op\n"
            "heavy = [m for m in ('llvmlite.binding', 'torch', 'matplotlib', 'scipy', 'fanal.nn', 'fanal.optim', 'numpy.random',"
            " 'asyncio', 'unittest') if m in sys.modules]\n"
            "print(len([m for m in sys.modules if m.startswith('fanal')]), Op.count, heavy)")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)  # the first run may compile the matcher
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    count, forms, heavy = out.split(maxsplit=2)
    assert heavy.strip() == "[]"
    assert int(count) < 165
    assert int(forms) < 50  # of a thousand public functions and methods, each made when it is first asked for
