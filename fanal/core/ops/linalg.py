"""Linear algebra that the host's LAPACK does, through NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.state import state
from fanal.core.ops.build import public
from fanal.core.ops.named import named
from fanal.core.tensor.tensor import compute, wrap_array


@public(module="linalg", method=False, event=False)
def qr(A: Any, mode: str = "reduced") -> Any:
    """Return Q and R of a matrix or a batch of them; mode "reduced", "complete" or "r".

    Raises RuntimeError where a gradient would be needed: that of QR is not available.
    """
    if A.requires_grad and state.grad:
        raise RuntimeError("linalg.qr: gradients are not available in Fanal; call it under torch.no_grad()")
    if A._dtype not in (dt.float32, dt.float64, dt.complex64, dt.complex128):
        raise RuntimeError(f"linalg.qr: Expected a floating point or complex tensor as input. Got "
                           f"{dt.scalar_name(A._dtype)}")
    if mode not in ("reduced", "complete", "r"):
        raise RuntimeError(f"qr received unrecognized mode '{mode}' but expected one of 'reduced' "
                           f"(default), 'r', or 'complete'")
    found = np.linalg.qr(compute(A), mode)  # type: ignore[call-overload]
    q, r = (np.zeros((0,), A._dtype.np), found) if mode == "r" else found
    made = named("linalg_qr", "Q", "R")
    return made(wrap_array(np.ascontiguousarray(q), A._dtype), wrap_array(np.ascontiguousarray(r), A._dtype))
