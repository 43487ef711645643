"""What scripts ask of PyTorch's tracer beside torch.compile: see `fanal.compiler`, which does nothing either."""

from __future__ import annotations

from typing import Any

from fanal._dynamo import config as config
from fanal.compiler import allow_in_graph as allow_in_graph
from fanal.compiler import assume_constant_result as assume_constant_result
from fanal.compiler import disable as disable
from fanal.compiler import is_compiling as is_compiling
from fanal.compiler import list_backends as list_backends
from fanal.compiler import reset as reset
from fanal.core.base.missing import finder

__getattr__ = finder("torch._dynamo")


class OptimizedModule:
    """The type of compiled modules; there is none, torch.compile returns the module itself."""


def optimize(backend: Any = "inductor", **options: Any) -> Any:
    """Return a decorator that returns a function or module as it is."""
    return lambda fn: fn


def graph_break(msg: str = "") -> None:
    """Do nothing: Python always runs."""


def mark_dynamic(t: Any, index: Any, **limits: Any) -> None:
    """Do nothing: sizes that change are found out."""


maybe_mark_dynamic = mark_static = mark_dynamic
