"""Which module an error came through, and what would mend it."""

from __future__ import annotations

from typing import Any


def typename(value: Any) -> str:
    """Return the name that PyTorch's messages give to the type of a value."""
    if hasattr(value, "type") and hasattr(value, "dtype"):
        return value.type()
    kind = value if isinstance(value, type) else type(value)
    module = "" if kind.__module__ in ("builtins", "__builtin__") else f"{kind.__module__}."
    return module + kind.__qualname__


def add_path(module: Any, error: Exception, args: tuple) -> None:
    """Note on `error` the path of the innermost module that it left, seen from `module`.

    Called at every level that the error passes, only once an error is there: each level rewrites the note, so
    that the outermost one, which knows the whole path, has the last word. `error.module_path` holds the path
    alone.
    """
    if "_modules" not in module.__dict__:  # the error is that Module.__init__ was never called
        return
    inner, advice, old = error.__dict__.get("_left_module", (None, None, None))
    if inner is None:
        inner, advice = module, _advice(module, args)
    below = next((name for name, m in module.named_modules() if m is inner), None)
    if below is None:
        return
    path = type(module).__name__ + (f".{below}" if below else "")
    note = f"in {path}" + (f" ({type(inner).__name__})" if below else "")
    if advice is not None:
        note += f": {path} {advice}"
    if old is not None and old in getattr(error, "__notes__", ()):
        error.__notes__[error.__notes__.index(old)] = note
    else:
        error.add_note(note)
    error.module_path = path
    error._left_module = inner, advice, note


def _advice(module: Any, args: tuple) -> str | None:
    explain = getattr(module, "_explain_mismatch", None)
    if explain is None or not args:
        return None
    try:
        return explain(*args)
    except Exception:  # the advice may stumble over the same wrong argument: the error itself says enough
        return None
