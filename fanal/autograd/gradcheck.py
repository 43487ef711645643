"""Numeric checks of gradients by central differences."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fanal.core.autograd.events import grad
from fanal.core.tensor.tensor import Tensor


class GradcheckError(RuntimeError):
    """The analytic gradient is not the numeric one."""


def _tuple(x: Any) -> tuple:
    return tuple(x) if isinstance(x, (tuple, list)) else (x,)


def _array(t: Any) -> np.ndarray:
    return np.array(t.detach().resolve_conj().numpy() if hasattr(t, "resolve_conj") else t.detach().numpy())


def _outputs(func: Callable, inputs: Sequence[Any]) -> list[Any]:
    return [
        o
        for o in _tuple(func(*inputs))
        if isinstance(o, Tensor) and o.dtype.category >= 2 and o.requires_grad
    ]


def _numeric(func: Callable, inputs: Sequence[Any], which: int, eps: float) -> list[np.ndarray]:
    """Return d output / d input as matrices (input elements by output elements), one per output.

    For a complex input the rows of the real and of the imaginary direction follow each other.
    """
    x = inputs[which]
    base = _array(x)
    directions = [eps] if not x.dtype.is_complex else [eps, eps * 1j]
    keep = x.detach().clone()
    rows: list[list[list[np.ndarray]]] = []
    for d in directions:
        part = []
        for k in range(base.size):
            values = []
            for sign in (1, -1):
                moved = base.copy()
                moved.reshape(-1)[k] += sign * d
                _fill(x, moved)
                values.append([_array(o).reshape(-1) for o in _outputs(func, inputs)])
            part.append([(a - b) / (2 * eps) for a, b in zip(*values)])
        rows.append(part)
    _fill(x, keep.numpy())
    count = len(_outputs(func, inputs))
    return [np.array([r[o] for part in rows for r in part]) for o in range(count)]


def _fill(x: Any, a: np.ndarray) -> None:
    import fanal

    with fanal.no_grad():
        x.copy_(fanal.from_numpy(np.ascontiguousarray(a)))


def _analytic(out: Any, x: Any, create_graph: bool = False) -> np.ndarray:
    """Return the same matrix from backward: row = input element, column = output element."""
    import fanal

    n = int(np.prod(out.shape, dtype=int))
    size = int(np.prod(x.shape, dtype=int))
    parts = [1.0] if not out.dtype.is_complex else [1.0, 1j]
    made = []
    for p in parts:
        columns = []
        for k in range(n):
            v = np.zeros(n, out.dtype.np)
            v[k] = p
            g = grad(
                out,
                x,
                fanal.from_numpy(v.reshape(tuple(out.shape))),
                retain_graph=True,
                create_graph=create_graph,
                allow_unused=True,
            )[0]
            columns.append(np.zeros(size, x.dtype.np) if g is None else _array(g).reshape(-1))
        made.append(np.array(columns).reshape(n, size).T)
    if len(made) == 1:
        return made[0]
    return np.stack(made)


def _compare(
    numeric: np.ndarray, analytic: np.ndarray, x: Any, out: Any, atol: float, rtol: float
) -> str | None:
    size = int(np.prod(x.shape, dtype=int))
    if x.dtype.is_complex:
        re, im = numeric[:size], numeric[size:]
        if out.dtype.is_complex:  # g = d Re(conj(v) f)/d re + i d/d im
            want = np.stack([re.real + 1j * im.real, re.imag + 1j * im.imag])
        else:
            want = re + 1j * im
    elif out.dtype.is_complex:
        want = np.stack([numeric.real, numeric.imag])
    else:
        want = numeric
    if np.allclose(analytic, want, rtol=rtol, atol=atol, equal_nan=True):
        return None
    return f"numerical:{want}\nanalytical:{analytic}\n"


def gradcheck(
    func: Callable,
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Compare the gradients of `func` with central differences; return True or raise GradcheckError.

    Dtypes: use float64 or complex128. Differs from torch: always the full (slow) comparison; forward mode is
    refused.
    """
    if check_forward_ad or check_batched_forward_grad:
        raise ValueError("gradcheck: forward-mode differentiation is not supported")
    ins = _tuple(inputs)
    checked = [k for k, x in enumerate(ins) if isinstance(x, Tensor) and x.requires_grad]
    if not checked:
        raise ValueError(
            "gradcheck expects at least one input tensor to require gradient, but none of them have "
            "requires_grad=True."
        )
    for k in checked:
        if ins[k].dtype.name not in ("float64", "complex128"):
            warnings.warn(
                f"Input #{k} requires gradient and is not a double precision floating point or complex. "
                f"This check "
                "will likely fail if all the inputs are not of double precision floating point or complex.",
                stacklevel=2,
            )
        if not ins[k].is_leaf:
            ins[k].retain_grad()
    try:
        outs = _outputs(func, ins)
        if not outs:
            for k in checked:
                for o in _tuple(func(*ins)):
                    if isinstance(o, Tensor):
                        moved = _numeric_plain(func, ins, k, eps)
                        if any(np.abs(m).max(initial=0) > atol for m in moved):
                            raise GradcheckError("Numerical gradient for function expected to be zero")
            return True
        for k in checked:
            numeric = _numeric(func, ins, k, eps)
            for j, out in enumerate(_outputs(func, ins)):
                analytic = _analytic(out, ins[k])
                again = _analytic(out, ins[k])
                if np.abs(analytic - again).max(initial=0) > nondet_tol:
                    raise GradcheckError(
                        "Backward is not reentrant, i.e., running backward with same input and grad_output "
                        "multiple times gives different values, although analytical gradient matches "
                        f"numerical gradient. The tolerance for nondeterminism was {nondet_tol}."
                    )
                wrong = _compare(numeric[j], analytic, ins[k], out, atol, rtol)
                if wrong is not None:
                    raise GradcheckError(
                        f"Jacobian mismatch for output {j} with respect to input {k},\n{wrong}"
                    )
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def _numeric_plain(func: Callable, inputs: Sequence[Any], which: int, eps: float) -> list[np.ndarray]:
    """Return how outputs without gradients move with an input."""
    x = inputs[which]
    base = _array(x)
    found = []
    for k in range(base.size):
        values = []
        for sign in (1, -1):
            moved = base.copy()
            moved.reshape(-1)[k] += sign * eps
            _fill(x, moved)
            values.append(
                [_array(o) for o in _tuple(func(*inputs)) if isinstance(o, Tensor) and o.dtype.category >= 2]
            )
        found += [(a - b) / (2 * eps) for a, b in zip(*values)]
    _fill(x, base)
    return found


def gradgradcheck(
    func: Callable,
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    fast_mode: bool = False,
    masked: bool = False,
) -> bool:
    """Compare the second derivatives of `func` with central differences of its gradients."""
    import fanal

    ins = _tuple(inputs)
    if grad_outputs is None:
        generator = np.random.default_rng(0)
        outs = _outputs(func, ins)
        gs = []
        for o in outs:
            a = generator.standard_normal(tuple(o.shape))
            if o.dtype.is_complex:
                a = a + 1j * generator.standard_normal(tuple(o.shape))
            gs.append(fanal.from_numpy(np.asarray(a, o.dtype.np)).requires_grad_())
        grad_outputs = tuple(gs)
    gs_given = _tuple(grad_outputs)
    count = len(gs_given)

    def gradients(*args: Any) -> tuple:
        xs, gs = args[:-count], args[-count:]
        wanted = tuple(x for x in xs if isinstance(x, Tensor) and x.requires_grad)
        found = grad(_outputs(func, xs), wanted, gs, create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None)

    return gradcheck(
        gradients,
        (*ins, *gs_given),
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
        nondet_tol=nondet_tol,
    )


__all__ = ["GradcheckError", "gradcheck", "gradgradcheck"]
