"""L-BFGS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fanal.core.base.state import grad_mode
from fanal.core.engine.handle import Handle
from fanal.core.tensor.tensor import compute, wrap_array
from fanal.optim.linesearch import strong_wolfe
from fanal.optim.optimizer import Optimizer
from fanal.optim.update import check_lr, scalar

Array = np.ndarray


class LBFGS(Optimizer):
    """Limited-memory BFGS.

    Quasi-Newton steps from the last `history_size` changes of parameters and gradients.

    step(closure) evaluates the closure up to `max_eval` times. line_search_fn: None or "strong_wolfe". One
    group only. Raises ValueError for options out of range. Directions are computed on the host, for each
    iteration reads the loss. Source: Nocedal & Wright, "Numerical optimization" (2006), algorithms 7.4 and
    7.5.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        check_lr(lr)
        if max_eval is None:
            max_eval = max_iter * 5 // 4
        super().__init__(
            params,
            {
                "lr": lr,
                "max_iter": max_iter,
                "max_eval": max_eval,
                "tolerance_grad": tolerance_grad,
                "tolerance_change": tolerance_change,
                "history_size": history_size,
                "line_search_fn": line_search_fn,
            },
        )
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")

    def _params_of(self) -> list:
        return self.param_groups[0]["params"]

    def _flat(self, x: Array) -> Array:
        x = np.ascontiguousarray(x).reshape(-1)
        return x.view(x.real.dtype) if np.iscomplexobj(x) else x

    def _gradient(self) -> Array:
        """Return all gradients as one vector; zeros where there is none."""
        parts = [
            np.zeros(p._shape, p._dtype.np) if p._grad is None else compute(p._grad)
            for p in self._params_of()
        ]
        return np.concatenate([self._flat(x) for x in parts])

    def _position(self) -> list[Array]:
        return [np.array(compute(p), order="C", copy=True) for p in self._params_of()]

    def _move(self, start: list[Array], t: float, d: Array) -> None:
        """Set the parameters to start + t * d."""
        from fanal.core.ir.prims import given
        from fanal.core.tensor.alias import write

        at = 0
        with grad_mode(False):
            for p, x in zip(self._params_of(), start):
                flat = self._flat(x)
                new = flat + (d[at : at + flat.size] * t).astype(flat.dtype)
                at += flat.size
                write(p, given(new.view(x.dtype).reshape(x.shape), p._dtype))

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Take up to `max_iter` quasi-Newton steps; return the loss of the first evaluation."""
        with grad_mode(False):
            return self._minimize(closure)

    def _minimize(self, closure: Callable[[], Any]) -> Any:
        group = self.param_groups[0]
        lr, change = scalar(group["lr"]), group["tolerance_change"]
        state = self.state[self._params_of()[0]]
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)

        def evaluate() -> tuple[Any, float, Array]:
            with grad_mode(True):
                loss = closure()
            state["func_evals"] += 1
            return loss, float(loss), self._gradient()

        first, loss, g = evaluate()
        evals = 1
        if np.abs(g).max() <= group["tolerance_grad"]:
            return first
        m = _Memory(state, group["history_size"])
        for k in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            d = m.direction(g, state["n_iter"] == 1)
            before = loss
            t = min(1.0, 1.0 / float(np.abs(g).sum())) * lr if state["n_iter"] == 1 else lr
            m.step, m.last = t, g
            slope = float(g @ d)
            if slope > -change:
                break
            start = self._position()
            used = 0
            if group["line_search_fn"] is not None:
                if group["line_search_fn"] != "strong_wolfe":
                    raise RuntimeError("only 'strong_wolfe' is supported")

                def along(t: float) -> tuple[float, Array]:
                    self._move(start, t, d)
                    return evaluate()[1:]

                loss, g, t, used = strong_wolfe(along, t, d, loss, g, slope, limit=group["max_eval"] - evals)
                self._move(start, t, d)
                m.step = t
            else:
                self._move(start, t, d)
                if k != group["max_iter"]:
                    _, loss, g = evaluate()
                    used = 1
            evals += used
            small = float(np.abs(d).max()) * abs(t) <= change
            if (
                evals >= group["max_eval"]
                or np.abs(g).max() <= group["tolerance_grad"]
                or small
                or abs(loss - before) < change
            ):
                break
        m.keep(state, before)
        return first


class _Memory:
    """The history of an optimizer, read from and kept in its state as PyTorch lays it out."""

    def __init__(self, state: dict[str, Any], size: int) -> None:
        array = lambda x: np.array(compute(x)) if isinstance(x, Handle) else x
        self.size = size
        self.d, self.step = array(state.get("d")), scalar(state.get("t"))
        self.changes = [array(x) for x in state.get("old_dirs") or ()]
        self.steps = [array(x) for x in state.get("old_stps") or ()]
        self.rhos = [scalar(x) for x in state.get("ro") or ()]
        self.scale = scalar(state.get("H_diag", 1))
        self.last: Array | None = array(state.get("prev_flat_grad"))
        self.alphas: list[Any] | None = [scalar(x) for x in state["al"]] if "al" in state else None

    def direction(self, g: Array, first: bool) -> Array:
        """Return minus the approximate inverse Hessian times the gradient, by the two-loop recursion."""
        if first:
            self.changes, self.steps, self.rhos, self.scale = [], [], [], 1.0
            self.d = -g
            return self.d
        y, s = g - self.last, self.d * g.dtype.type(self.step)
        ys = float(y @ s)
        if ys > 1e-10:
            if len(self.changes) == self.size:
                del self.changes[0], self.steps[0], self.rhos[0]
            self.changes.append(y)
            self.steps.append(s)
            self.rhos.append(1.0 / ys)
            self.scale = ys / float(y @ y)
        q, alphas = -g, []
        for y, s, rho in zip(reversed(self.changes), reversed(self.steps), reversed(self.rhos)):
            a = float(s @ q) * rho
            alphas.append(a)
            q = q - y * g.dtype.type(a)
        q = q * g.dtype.type(self.scale)
        for y, s, rho, a in zip(self.changes, self.steps, self.rhos, reversed(alphas)):
            q = q + s * g.dtype.type(a - float(y @ q) * rho)
        alphas.reverse()
        self.alphas = [*alphas, *(self.alphas or [None] * self.size)[len(alphas) :]]
        self.d = q
        return q

    def keep(self, state: dict[str, Any], loss: float) -> None:
        """Store the history as tensors."""
        tensor = lambda x: wrap_array(np.asarray(x, order="C"))
        number = lambda x: tensor(np.array(x, self.d.dtype))
        if self.alphas is not None:
            state["al"] = [x if x is None else number(x) for x in self.alphas]
        state.update(
            d=tensor(self.d),
            t=self.step,
            old_dirs=[tensor(x) for x in self.changes],
            old_stps=[tensor(x) for x in self.steps],
            ro=[number(x) for x in self.rhos],
            H_diag=number(self.scale) if self.alphas is not None else 1,
            prev_flat_grad=tensor(self.last),
            prev_loss=loss,
        )
