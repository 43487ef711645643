"""Autocast: the table of operators whose operands are cast while it is on, and the one place where they are.

An operator called by another one is part of that event and not looked at again, so the table also names operators
that PyTorch composes of others.

Source: PyTorch documentation, "Automatic Mixed Precision package", CPU op-specific behavior; its dispatcher.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fanal.core.base.dtype import dtype, float32, float64
from fanal.core.base.shape import Shape
from fanal.core.base.state import state
from fanal.core.engine.follow import dispatch
from fanal.core.engine.matcher import matcher
from fanal.core.engine.record import Op, session
from fanal.core.ir.prims import convert
from fanal.core.ir.program import Node
from fanal.core.ops.arguments import passing
from fanal.core.ops.build import read, result
from fanal.core.tensor.tensor import Tensor

# In 16 bits: matrix products, and what is made of them.
_LOWER = """
    addbmm addmm baddbmm bmm matmul mm linalg.matmul linalg.vecdot linear __matmul__ __rmatmul__
    conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d convolution
    chain_matmul linalg.multi_dot tensordot
    prelu scaled_dot_product_attention multi_head_attention_forward
    lstm rnn_tanh rnn_relu rnn_tanh_cell rnn_relu_cell
"""
# In float32: what sums many terms, or needs the range.
_WIDE = """
    binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy ctc_loss
    hinge_embedding_loss huber_loss kl_div l1_loss margin_ranking_loss mse_loss multi_margin_loss
    multilabel_margin_loss nll_loss poisson_nll_loss smooth_l1_loss soft_margin_loss triplet_margin_loss
    adaptive_avg_pool3d adaptive_max_pool3d avg_pool3d fractional_max_pool2d fractional_max_pool3d max_pool3d
    max_unpool2d max_unpool3d grid_sample grid_sampler grid_sampler_2d grid_sampler_3d
    cdist nanquantile polar prod quantile stft trace view_as_complex
    cholesky cholesky_inverse cholesky_solve geqrf inverse lu_solve orgqr ormqr pinverse qr svd triangular_solve
    linalg.cholesky linalg.cholesky_ex linalg.cond linalg.eig linalg.eigh linalg.eigvals linalg.eigvalsh
    linalg.householder_product linalg.inv linalg.inv_ex linalg.lstsq linalg.matrix_rank linalg.qr linalg.solve
    linalg.svd linalg.svdvals linalg.tensorinv linalg.tensorsolve
    fft.fft fft.fft2 fft.fftn fft.hfft fft.ifft fft.ifft2 fft.ifftn fft.ihfft fft.irfft fft.irfft2 fft.irfftn
    fft.rfft fft.rfft2 fft.rfftn
"""
# In the widest of their operands.
_WIDEST = "cat concat concatenate index_copy stack"


class Cast(NamedTuple):
    """A cast that autocast made."""

    operator: str
    shape: Shape
    source: dtype
    to: dtype
    kept: bool  # made for an operator before
    where: Any  # the user's line


class _Casts(threading.local):
    """What this thread cast: each weight once in a segment, and a list of all while somebody keeps one."""

    def __init__(self) -> None:
        self.segment = -1
        self.known: dict[int, tuple[Node, Node]] = {}  # id of a weight's value -> that value, its cast
        self.log: list[Cast] | None = None


casts = _Casts()


def _lower(args: tuple, kwargs: dict) -> dtype | None:
    return state.autocast


def _wide(args: tuple, kwargs: dict) -> dtype | None:
    return float32


def _widest(args: tuple, kwargs: dict) -> dtype | None:
    found = state.autocast
    for x in _operands((args, tuple(kwargs.values()))):
        if x._dtype is float32:
            found = float32
        elif x._dtype is not state.autocast:
            raise RuntimeError("Unexpected floating ScalarType in at::autocast::prioritize")
    return found


def _products(args: tuple, kwargs: dict) -> dtype | None:
    """einsum of one operand multiplies nothing."""
    return state.autocast if sum(1 for _ in _operands((args, tuple(kwargs.values())))) > 1 else None


def _padding(input: Any, pad: Any, mode: str = "constant", value: Any = None) -> dtype | None:
    """PyTorch casts for those kinds of padding that repeat the input, but one."""
    return float32 if mode == "replicate" or (mode == "reflect" and len(pad) < 6) else None


_POLICIES: dict[str, Callable[[tuple, dict], dtype | None]] = {
    **dict.fromkeys(_LOWER.split(), _lower),
    **dict.fromkeys(_WIDE.split(), _wide),
    **dict.fromkeys(_WIDEST.split(), _widest),
    "einsum": _products,
    "pad": lambda args, kwargs: _padding(*args, **kwargs),
}


def _may_cast(x: Any) -> bool:
    """Tell whether autocast casts `x`: a tensor of floating point, but not of float64."""
    return isinstance(x, Tensor) and x._dtype.category == 2 and x._dtype is not float64 and not x._storage.meta


def _operands(x: Any) -> Iterator[Any]:
    """Yield the tensors that autocast may cast."""
    if _may_cast(x):
        yield x
    elif isinstance(x, (tuple, list)):
        for i in x:
            yield from _operands(i)


def _record_autocast(to: dtype | None, once: bool, forget: bool) -> None:
    state.autocast, state.cast_once = to, once
    if forget:
        casts.known = {}


_OP = Op("engine.autocast", _record_autocast)


def _slow(*args: Any) -> Any:
    return dispatch(_OP, args, {})


_event = matcher.function(_OP.key, _slow, "autocast", _record_autocast.__doc__, "fanal")


def set_autocast(to: dtype | None, once: bool, forget: bool = False) -> None:
    """Set to what this thread casts operands (None: nothing), and whether a weight is cast once.

    forget: cast the weights anew from here on.
    """
    if forget or to is not state.autocast or once is not state.cast_once:
        _event(to, once, forget)
        state.autocast, state.cast_once = to, once  # a followed event runs nothing


def _cast(x: Any, to: dtype, name: str) -> Any:
    """Return `x`, which may be a list, with every operand in it cast to `to`."""
    if isinstance(x, (tuple, list)):
        items = [_cast(i, to, name) for i in x]
        return type(x)(*items) if hasattr(x, "_fields") else type(x)(items)
    if not _may_cast(x) or x._dtype is to:
        return x
    n = read(x)
    known = None
    if x._leaf and state.grad and state.cast_once and to is state.autocast:
        if casts.segment != session.segment:
            casts.segment, casts.known = session.segment, {}
        known = casts.known.get(id(n))
        made = known[1] if known else convert(n, to)
        casts.known[id(n)] = n, made
    else:
        made = convert(n, to)
    if casts.log is not None:
        casts.log.append(Cast(name, x._shape, x._dtype, to, known is not None, state.where))
    return result(made, x)


def casting(fn: Callable, name: str, module: str = "torch") -> Callable:
    """Return an operator that obeys autocast; `fn` itself where autocast does not concern it.

    A call with out= is not cast. Inside the operator nothing is cast any more.
    """
    short = name if module in ("torch", "nn.functional") else f"{module}.{name}"
    policy = _POLICIES.get(short)
    if policy is None:
        return fn

    def call(*args: Any, **kwargs: Any) -> Any:
        if state.autocast is None or kwargs.get("out") is not None:
            return fn(*args, **kwargs)
        to = policy(args, kwargs)
        if to is not None:
            args = _cast(args, to, short)
            kwargs = {k: _cast(v, to, short) for k, v in kwargs.items()}
        outer, state.autocast = state.autocast, None
        try:
            return fn(*args, **kwargs)
        finally:
            state.autocast = outer

    return passing(call, fn)
