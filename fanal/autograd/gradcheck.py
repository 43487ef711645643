"""Numeric checks of derivatives by central differences.

A function is checked as a real-linear map of small changes. Of complex outputs the real and the imaginary part are
functions of their own, by the cotangents 1 and i; a complex input is moved along 1 and along i. A gradient by it is
d/dx + i d/dy. Source: PyTorch documentation, "Gradcheck mechanics".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fanal
from fanal.autograd.forward_ad import dual, unpacked
from fanal.core.autograd.events import grad
from fanal.core.autograd.forward import close_level, open_level
from fanal.core.tensor.tensor import Tensor

Along = Callable[[int, np.ndarray], list[np.ndarray]]  # number of an input, direction -> derivative of each output


class GradcheckError(RuntimeError):
    """A derivative is not the numeric one."""


def _tuple(x: Any) -> tuple:
    return tuple(x) if isinstance(x, (tuple, list)) else (x,)


def _array(t: Any) -> np.ndarray:
    return np.array(t.detach().numpy())


def _units(complex_: bool) -> tuple[complex, ...]:
    return (1.0, 1j) if complex_ else (1.0,)


def _part(a: np.ndarray, unit: complex) -> np.ndarray:
    """Return what a change along `unit` is felt as: the real or the imaginary part."""
    return a.imag if unit == 1j else a.real


class _Check:
    """One function, at one point."""

    def __init__(self, func: Callable, inputs: tuple, eps: float, atol: float, rtol: float, nondet_tol: float) -> None:
        self.func, self.inputs = func, inputs
        self.eps, self.atol, self.rtol, self.nondet_tol = eps, atol, rtol, nondet_tol
        self.places = [k for k, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
        self.random = np.random.default_rng(0)

    def results(self) -> list[Any]:
        """Run the function; return its outputs that may be differentiable."""
        return [o for o in _tuple(self.func(*self.inputs)) if o.requires_grad]

    def moved(self, k: int, direction: np.ndarray, outputs: Callable[[], list]) -> list[np.ndarray]:
        """Return the central difference of each output along a direction of input k."""
        x = self.inputs[k]
        base, ends = _array(x), []
        for step in (self.eps, -self.eps):
            _fill(x, base + step * direction)
            ends.append([_array(o) for o in outputs()])
        _fill(x, base)
        return [(a - b) / (2 * self.eps) for a, b in zip(*ends)]

    def numeric(self, k: int, direction: np.ndarray) -> list[np.ndarray]:
        """Return the derivative of each differentiable output along a direction of input k."""
        return self.moved(k, direction, self.results)

    def forward(self, k: int, direction: np.ndarray) -> list[np.ndarray]:
        """Return the same by forward mode."""
        level = open_level()
        try:
            x = dual(self.inputs[k], fanal.tensor(np.asarray(direction, self.inputs[k].dtype.np)), level)
            outs = _tuple(self.func(*self.inputs[:k], x, *self.inputs[k + 1 :]))
            pairs = [unpacked(o, level) for o in outs if o.requires_grad]
        finally:
            close_level(level)
        return [np.zeros(tuple(o.shape), o.dtype.np) if t is None else _array(t) for o, t in pairs]

    def pulled(self, out: Any, k: int, cotangent: np.ndarray, same_dtype: bool = False) -> np.ndarray:
        """Return the gradient of an output by input k; twice, to see that it is one."""
        x = self.inputs[k]
        v = fanal.tensor(np.asarray(cotangent, out.dtype.np))
        found = []
        for _ in range(2):
            g = grad(out, x, v, retain_graph=True, allow_unused=True)[0]
            if same_dtype and g is not None and g.dtype != x.dtype:
                raise GradcheckError("Gradient has dtype mismatch")
            found.append(np.zeros(tuple(x.shape), x.dtype.np) if g is None else _array(g))
        if np.abs(found[0] - found[1]).max(initial=0) > self.nondet_tol:
            raise GradcheckError(
                "Backward is not reentrant, i.e., running backward with same input and grad_output multiple times "
                "gives different values, although analytical gradient matches numerical gradient. "
                f"The tolerance for nondeterminism was {self.nondet_tol}."
            )
        return found[0]

    # All elements: matrices with a row for each element of the input, a column for each of the output.

    def columns(self, along: Along, k: int, unit: complex) -> list[np.ndarray]:
        """Return, for each output, its derivative along each element of input k times `unit`."""
        x = self.inputs[k]
        n = x.numel()
        rows = [along(k, (unit * np.eye(1, n, i)).reshape(tuple(x.shape))) for i in range(n)]
        if not rows:
            return [np.zeros((0, o.numel()), o.dtype.np) for o in self.results()]
        return [np.stack([r.reshape(-1) for r in of]) for of in zip(*rows)]

    def rows(self, out: Any, k: int, unit: complex, same_dtype: bool = False) -> np.ndarray:
        """Return the gradients of the parts along `unit` of all elements of an output by input k."""
        n, x = out.numel(), self.inputs[k]
        found = [self.pulled(out, k, (unit * np.eye(1, n, i)).reshape(tuple(out.shape)), same_dtype).reshape(-1)
                 for i in range(n)]
        return np.stack(found, 1) if found else np.zeros((x.numel(), 0), x.dtype.np)

    def gradient(self, columns: Sequence[list[np.ndarray]], j: int, unit: complex) -> np.ndarray:
        """Return what `rows` should be, from numeric columns along the units of an input."""
        parts = [_part(c[j], unit) for c in columns]
        return parts[0] + 1j * parts[1] if len(parts) == 2 else parts[0]

    def all_elements(self, forward: bool, same_dtype: bool = False) -> None:
        for k in self.places:
            units = _units(self.inputs[k].dtype.is_complex)
            numeric = [self.columns(self.numeric, k, u) for u in units]
            if forward:
                for u, wanted in zip(units, numeric):
                    for j, (a, w) in enumerate(zip(self.columns(self.forward, k, u), wanted)):
                        self.compare(a, w, j, k, u if len(units) > 1 else None, forward)
                continue
            for j, out in enumerate(self.results()):
                parts = _units(out.dtype.is_complex)
                for u in parts:
                    found = self.rows(out, k, u, same_dtype)
                    self.compare(found, self.gradient(numeric, j, u), j, k, u if len(parts) > 1 else None, forward)

    def compare(self, analytic: np.ndarray, numeric: np.ndarray, j: int, k: int, unit: complex | None, forward: bool,
                note: str = "", scale: float = 1.0) -> None:
        """Raise unless both are close."""
        if np.allclose(analytic, numeric, rtol=self.rtol, atol=self.atol * scale, equal_nan=True):
            return
        part = "" if unit is None else (
            f"While considering the {'imaginary' if unit == 1j else 'real'} part of complex "
            f"{'inputs' if forward else 'outputs'} only, "
        )
        mode = "computed with forward mode " if forward else ""
        raise GradcheckError(
            f"{part}Jacobian {mode}mismatch for output {j} with respect to input {k},\n"
            f"numerical:{_shown(numeric)}\nanalytical:{_shown(analytic)}\n{note}"
        )

    # One direction for all elements: v^T J u.

    def direction(self, x: Any) -> np.ndarray:
        """Return a random direction of length 1, with parts of one sign so that nothing cancels."""
        u = self.random.uniform(0.1, 1, tuple(x.shape))
        if x.dtype.is_complex:
            u = u + 1j * self.random.uniform(0.1, 1, u.shape)
        return np.asarray(u / max(1e-300, float(np.linalg.norm(u))))

    def one_direction(self, forward: bool, same_dtype: bool = False) -> None:
        for k in self.places:
            x = self.inputs[k]
            u = self.direction(x)
            numeric = self.numeric(k, u)
            scale = float(np.abs(u).sum())
            if forward:
                for j, (a, w) in enumerate(zip(self.forward(k, u), numeric)):
                    self.agree_fast(a, w, j, k, None, True, scale)
                continue
            for j, out in enumerate(self.results()):
                v = self.direction(out).real
                parts = _units(out.dtype.is_complex)
                for unit in parts:
                    g = self.pulled(out, k, unit * v, same_dtype)
                    a = np.asarray((g.conj() * u).real.sum())
                    w = np.asarray((_part(numeric[j], unit) * v).sum())
                    self.agree_fast(a, w, j, k, unit if len(parts) > 1 else None, False, scale * float(v.sum()))

    def agree_fast(self, analytic: np.ndarray, numeric: np.ndarray, j: int, k: int, unit: complex | None,
                   forward: bool, scale: float) -> None:
        try:
            self.compare(analytic, numeric, j, k, unit, forward, scale=scale)
        except GradcheckError as e:
            note = (
                "\nThe above quantities relating the numerical and analytical jacobians are computed in fast mode, "
                "along one direction. In slow mode: "
            )
            try:
                self.all_elements(forward)
                note += "every element is within the tolerances.\n"
            except GradcheckError as slow:
                note += str(slow)
            raise GradcheckError(f"{e}{note}") from None

    # Other checks.

    def no_derivative(self) -> None:
        """Raise if an output without a gradient moves with an input."""
        def outputs() -> list:
            return [o for o in _tuple(self.func(*self.inputs)) if o.dtype.category >= 2]

        for k in self.places:
            x = self.inputs[k]
            for i in range(x.numel()):
                change = self.moved(k, np.eye(1, x.numel(), i).reshape(tuple(x.shape)), outputs)
                if any(np.abs(c).max(initial=0) > self.atol for c in change):
                    raise GradcheckError("Numerical gradient for function expected to be zero")

    def vanishing(self, undefined: bool) -> None:
        """Raise if a gradient arises though only zeros arrive; `undefined`: or none at one of the outputs."""
        outs = self.results()
        self.expect_zeros(outs, "backward not multiplied by grad_output")
        for j in range(len(outs) if undefined and len(outs) > 1 else 0):
            self.expect_zeros(
                [*outs[:j], *outs[j + 1 :]],
                "Expected all input grads to be undefined or zero when all output grads are undefined or zero.",
            )

    def expect_zeros(self, outs: list[Any], message: str) -> None:
        zeros = [fanal.zeros_like(o) for o in outs]
        ins = [self.inputs[k] for k in self.places]
        for g in grad(outs, ins, zeros, retain_graph=True, allow_unused=True):
            if g is not None and np.any(_array(g)):
                raise GradcheckError(message)

    def batched(self) -> None:
        """Raise if a batch of cotangents gives other gradients than one by one."""
        ins = [self.inputs[k] for k in self.places]
        for j, out in enumerate(self.results()):
            vs = fanal.stack([fanal.tensor(np.asarray(self.direction(out), out.dtype.np)) for _ in range(2)])
            at_once = grad(out, ins, vs, retain_graph=True, allow_unused=True, is_grads_batched=True)
            singly = [grad(out, ins, v, retain_graph=True, allow_unused=True) for v in vs]
            for k, g, *each in zip(self.places, at_once, *singly):
                if g is not None and not np.allclose(_array(g), np.stack([_array(e) for e in each])):
                    raise GradcheckError(
                        f"For output {j} and input {k}: gradients of a batch are not those computed one by one."
                    )

    def batched_forward(self) -> None:
        """Raise if a batch of tangents gives other tangents than one by one."""
        for k in self.places:
            us = [self.direction(self.inputs[k]) for _ in range(2)]
            x = self.inputs[k]

            def along(u: Any) -> Any:
                return tuple(o for o in _tuple(fanal.func.jvp(
                    lambda x: self.func(*self.inputs[:k], x, *self.inputs[k + 1 :]), (x,), (u,))[1]))

            at_once = fanal.vmap(along)(fanal.tensor(np.asarray(us, x.dtype.np)))
            singly = [along(fanal.tensor(np.asarray(u, x.dtype.np))) for u in us]
            for j, (g, *each) in enumerate(zip(at_once, *singly)):
                if not np.allclose(_array(g), np.stack([_array(e) for e in each])):
                    raise GradcheckError(
                        f"For output {j} and input {k}: forward-mode tangents of a batch are not those computed one "
                        "by one."
                    )


def _shown(a: np.ndarray) -> Any:
    return fanal.tensor(np.array(a)) if a.ndim else a.item()


def _fill(x: Any, a: np.ndarray) -> None:
    with fanal.no_grad():
        x.copy_(fanal.tensor(np.ascontiguousarray(a)))


def _check_inputs(inputs: tuple) -> None:
    if not any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
        raise ValueError(
            "gradcheck expects at least one input tensor to require gradient, but none of them have requires_grad=True."
        )
    for k, x in enumerate(inputs):
        if not isinstance(x, Tensor) or not x.requires_grad:
            continue
        if x.dtype not in (fanal.float64, fanal.complex128):
            warnings.warn(
                f"Input #{k} requires gradient and is not a double precision floating point or complex. This check "
                "will likely fail if all the inputs are not of double precision floating point or complex.",
                stacklevel=3,
            )
        if any(s == 0 and n > 1 for s, n in zip(x.stride(), x.shape)):
            raise RuntimeError(
                f"The {k}th input has a dimension with stride 0. gradcheck only supports inputs that are "
                "non-overlapping to be able to compute the numerical gradients correctly. You should call .contiguous "
                "on the input before passing it to gradcheck."
            )


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
    """Compare the derivatives of `func` with central differences; return True or raise GradcheckError.

    Dtypes: use float64 or complex128. fast_mode: along one random direction instead of all elements.
    Differs from torch: an output that gets no gradient is tried only beside others.
    """
    assert check_forward_ad or check_backward_ad, \
        "Expected at least one of check_forward_ad or check_backward_ad to be True"
    assert check_backward_ad or not check_batched_grad, \
        "Setting check_batched_grad=True requires check_backward_ad to be True"
    assert check_forward_ad or not check_batched_forward_grad, \
        "Setting check_batched_forward_grad=True requires check_forward_ad to be True"
    ins = _tuple(inputs)
    _check_inputs(ins)
    check = _Check(func, ins, eps, atol, rtol, nondet_tol)
    compare = check.one_direction if fast_mode else check.all_elements
    try:
        if not check.results():
            check.no_derivative()
            return True
        if check_backward_ad:
            compare(False, check_grad_dtypes)
            if check_batched_grad:
                check.batched()
            check.vanishing(check_undefined_grad)
        if check_forward_ad:
            compare(True)
            if check_batched_forward_grad:
                check.batched_forward()
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


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
    """Compare the second derivatives of `func` with central differences of its gradients, as gradcheck does."""
    assert check_fwd_over_rev or check_rev_over_rev, \
        "Expected at least one of check_fwd_over_rev or check_rev_over_rev to be True"
    ins = _tuple(inputs)
    if grad_outputs is None:
        generator = np.random.default_rng(0)
        made = []
        for o in (o for o in _tuple(func(*ins)) if o.requires_grad):
            a = generator.standard_normal(tuple(o.shape))
            if o.dtype.is_complex:
                a = a + 1j * generator.standard_normal(tuple(o.shape))
            g = fanal.tensor(np.asarray(a, o.dtype.np))
            made.append((fanal.stack((g, g), -1)[..., 0] if gen_non_contig_grad_outputs else g).requires_grad_())
        grad_outputs = made
    cotangents = _tuple(grad_outputs)

    def gradients(*args: Any) -> tuple:
        xs, gs = args[: len(ins)], args[len(ins) :]
        own = [x for x in xs if isinstance(x, Tensor) and x.requires_grad]
        outs = [o for o in _tuple(func(*xs)) if o.requires_grad]
        return tuple(g for g in grad(outs, own, gs, create_graph=True, allow_unused=True) if g is not None)

    return gradcheck(
        gradients,
        (*ins, *cotangents),
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
        nondet_tol=nondet_tol,
        check_undefined_grad=check_undefined_grad,
        check_grad_dtypes=check_grad_dtypes,
        check_batched_grad=check_batched_grad,
        check_forward_ad=check_fwd_over_rev,
        check_backward_ad=check_rev_over_rev,
        fast_mode=fast_mode,
        masked=masked,
    )


__all__ = ["GradcheckError", "gradcheck", "gradgradcheck"]
