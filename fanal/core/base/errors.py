"""Exception classes that PyTorch has and Python lacks."""

from __future__ import annotations


class LinAlgError(RuntimeError):
    """A factorisation or a solver could not go on: a singular matrix, one that is not positive-definite, a
    NaN."""

    __module__ = "torch._C"


LinAlgError.__name__ = LinAlgError.__qualname__ = "_LinAlgError"  # as tracebacks of PyTorch show it
