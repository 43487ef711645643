"""What every benchmark needs: progress while it runs, and its result kept with the machine it was measured on."""
from __future__ import annotations

import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "results"


def machine() -> str:
    """Describe this machine and the versions of what runs on it."""
    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = dict(part.split(":", 1) for part in lines if ":" in part)
        named = {k.strip(): v.strip() for k, v in found.items()}
        cpu = named.get("model name", cpu)
        widest = next((f for f in ("amx_bf16", "avx512f", "avx2") if f in named.get("flags", "").split()), "")
        cpu += f" (family {named.get('cpu family')}, model {named.get('model')}{', ' + widest if widest else ''})"
    versions = []
    for name in ("numpy", "llvmlite", "torch", "jax"):
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return (f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}; Python {platform.python_version()}, "
            + ", ".join(versions))


class Progress:
    """One line on the terminal: what runs now, how much is done, and how long the rest will take."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, -1
        self.begin = time.monotonic()
        self.shown = sys.stderr.isatty()

    def next(self, what: str) -> None:
        """Begin the next part."""
        self.done += 1
        if self.shown:
            left = (time.monotonic() - self.begin) / self.done * (self.total - self.done) if self.done else 0
            ending = f", {left / 60:.0f} min left" if self.done else ""
            sys.stderr.write(f"\r\033[K[{self.done}/{self.total}{ending}] {what}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Make room for a line of the result."""
        if self.shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def beside_torch(script: str, measure: Callable[[Any], dict[str, float]], rows: Iterable[str], decimals: int) -> None:
    """Print the microseconds of each row, ours and PyTorch's: medians over three processes of each, taking turns.

    The process of a library is `script` called with its name, which comes here to `measure` it.
    """
    if len(sys.argv) > 1:
        print(json.dumps(measure(importlib.import_module(sys.argv[1]))))
        return
    runs: dict[str, list[dict[str, float]]] = {"fanal": [], "torch": []}
    for _ in range(3):
        for name, found in runs.items():
            out = subprocess.run([sys.executable, script, name], capture_output=True, text=True)
            if out.returncode:
                sys.exit(out.stderr)
            found.append(json.loads(out.stdout))
    print(f"{'microseconds':20} {'fanal':>8} {'torch':>8}   ratio")
    for row in rows:
        ours, peer = (statistics.median(run[row] for run in found) for found in runs.values())
        print(f"{row:20} {ours:8.{decimals}f} {peer:8.{decimals}f}   {ours / peer:5.2f}")


def replace(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    half = path.with_suffix(path.suffix + ".part")
    with half.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(half, path)


def save(name: str, about: str, head: list[str], rows: list[list[str]], data: dict[str, Any], picture: str = "") -> None:
    """Keep a result as results/NAME.md, a table for people, and results/NAME.json, the figures themselves."""
    when = time.strftime("%Y-%m-%d")
    page = [f"# {name}", "", about.strip().split("\n\n")[0], "", f"Measured {when} on {machine()}.", "",
            "| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *("| " + " | ".join(r) + " |" for r in rows), ""]
    if picture:
        page += [f"![{name}]({picture})", ""]
    replace(FOLDER / f"{name}.md", "\n".join(page).encode())
    replace(FOLDER / f"{name}.json", json.dumps({"when": when, "machine": machine(), **data}, indent=1).encode())


def save_picture(figure: Any, path: Path) -> None:
    """Keep a matplotlib figure."""
    from io import BytesIO

    buffer = BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=120)
    replace(path, buffer.getvalue())
