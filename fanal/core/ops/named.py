"""Results with names, as torch.return_types."""

from __future__ import annotations

from typing import Any

TYPES: dict[str, type] = {}


def named(name: str, *fields: str) -> Any:
    """Return the result type of an operator: a tuple whose fields have names."""
    if name not in TYPES:

        def __new__(cls: type, *values: Any) -> Any:
            if len(values) == 1 and isinstance(values[0], (tuple, list)) and len(fields) > 1:
                values = tuple(values[0])
            return tuple.__new__(cls, values)

        def __repr__(self: Any) -> str:
            return (
                f"torch.return_types.{name}(\n" + ",\n".join(f"{f}={v!r}" for f, v in zip(fields, self)) + ")"
            )

        body: dict[str, Any] = {
            "__slots__": (),
            "__new__": __new__,
            "__repr__": __repr__,
            "__module__": "torch.return_types",
            "_fields": fields,
            "__reduce__": lambda self: (tuple, (tuple(self),)),
        }
        for i, f in enumerate(fields):
            body[f] = property(lambda self, i=i: self[i])
        TYPES[name] = type(name, (tuple,), body)
    return TYPES[name]
