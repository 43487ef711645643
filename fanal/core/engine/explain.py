"""What PyTorch's errors do not say: where the operands of a failed call came from, with shapes and dtypes."""

from __future__ import annotations

from typing import Any

from fanal.core.base.where import show
from fanal.core.engine.handle import Handle

MAX_OPERANDS = 6


def explain(error: BaseException, name: str, args: tuple, kwargs: dict) -> None:
    """Add a note with the operands of the failed call to an error."""
    lines: list[str] = []
    for label, x in [*((f"operand {i + 1}", a) for i, a in enumerate(args)), *kwargs.items()]:
        for part in x[:MAX_OPERANDS] if isinstance(x, (list, tuple)) else (x,):
            if isinstance(part, Handle) and len(lines) < MAX_OPERANDS:
                lines.append(f"  {label}: {origin(part)}")
    if lines:
        error.add_note("\n".join([f"in {name.removeprefix('torch.')}:", *lines]))


def origin(t: Any) -> str:
    """Return a tensor's dtype and shape, and the line that made it."""
    n = t._node
    text = f"{t._dtype.name}{list(t._shape)}"
    if t._leaf:
        return f"{text}, a leaf that collects gradients"
    at = show(n.where)
    if not at or n.row.name == "input":
        return text
    return f"{text}, made by '{n.row.name}' at {at}"
