"""Scaled dot-product attention and the multi-head layer made of it."""
from __future__ import annotations

import math
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape, broadcast_shapes
from fanal.core.base.state import state
from fanal.core.compiler.loopir import ROW_BLOCK
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import counted, number, public, read, wide, wrap
from fanal.core.ops.dropout import dropped
from fanal.core.ops.matmul import linear
from fanal.core.ops.pieces import split
from fanal.core.ops.pointwise import with_gradient
from fanal.core.ops.shape import unsqueeze


def attention_weights(scores: Node) -> Node:
    """Softmax over the last dimension; a row that is masked out entirely gives zeros."""
    if not scores.size:
        return P.alias(scores)
    last = (len(scores.shape) - 1,)
    keep = (*scores.shape[:-1], 1)
    d = wide(P.detach(scores))
    m = P.reshape(P.max_of(d, last), keep)
    m = P.where(P.eq(m, P.num(m, -math.inf)), P.num(m, 0), m)
    e = P.exp(P.sub(d, m))
    s = P.reshape(P.sum_(e, last), keep)
    y = P.div(e, P.where(P.eq(s, P.num(s, 0)), P.num(s, 1), s))

    def rule(g: Node, y: Node, x: Node) -> list[Node | None]:
        g, y = wide(g), wide(y)
        return [P.mul(P.sub(g, P.reshape(P.sum_(P.mul(g, y), last), keep)), y)]
    return with_gradient(P.convert(y, scores.dtype), rule, scores)


def causal_mask(rows: int, columns: int) -> Node:
    """True where the column does not come after the row."""
    return P.le(P.iota((1, columns), 1, dt.int64), P.iota((rows, 1), 0, dt.int64))


def _repeat_heads(x: Node, heads: int) -> Node:
    """Repeat each head so that there are `heads` of them."""
    *lead, h, n, e = x.shape
    if h == heads:
        return x
    spread = P.broadcast(P.reshape(x, (*lead, h, 1, n, e)), (*lead, h, heads // h, n, e))
    return P.reshape(spread, (*lead, heads, n, e))


def attention_nodes(q: Node, k: Node, v: Node, mask: Node | None, p: float, causal: bool,
                    scale: float | None) -> tuple[Node, Node]:
    """Return softmax(q k^T * scale + mask) v, and the weights."""
    to = q.dtype
    q, k, v = wide(q), wide(k), wide(v)
    w = attention_weights(_scores(q, k, mask, causal, default_scale(q) if scale is None else scale))
    if p > 0:
        w = dropped(w, p, w.shape)
    return P.convert(P.dot(w, v), to), P.convert(w, to)


def default_scale(q: Node) -> float:
    """1 / sqrt of the width of a head."""
    return 1 / math.sqrt(q.shape[-1]) if q.shape[-1] else 1.0


def _scores(q: Node, k: Node, mask: Node | None, causal: bool, scale: float) -> Node:
    scores = P.mul(P.dot(q, P.swap(k)), number(float(scale), q.dtype))
    if causal:
        mask = causal_mask(q.shape[-2], k.shape[-2])
    if mask is None:
        return scores
    if mask.dtype is dt.bool_:
        return P.where(mask, scores, P.num(scores, -math.inf))
    return P.add(scores, P.convert(mask, scores.dtype))


def _fits(q: Node, k: Node, v: Node, mask: Node | None) -> bool:
    """Tell whether `fused_attention` takes these operands."""
    if q.dtype not in (dt.float32, dt.float64) or len(q.shape) != 4 or not q.shape == k.shape == v.shape \
            or not q.size or q.shape[2] > ROW_BLOCK:
        return False
    full = (*q.shape[:3], q.shape[2])
    return mask is None or (not mask.varies and broadcast_shapes(mask.shape, full) == full)


def fused_attention(q: Node, k: Node, v: Node, mask: Node | None, causal: bool, scale: float) -> Node:
    """Return what attention_nodes does, to the bit, and the same gradients, without storing the weights.

    Shapes: (B, H, L, D) three times; a mask broadcasts to (B, H, L, L). Dtypes: float32, float64.
    """
    b, h, length, d = q.shape
    more = () if mask is None else (P.broadcast(mask, (b, h, length, length)),)
    both = P.attention((P.detach(q), P.detach(k), P.detach(v), *more), float(scale), causal)
    at = P.stats_at(q.shape)
    y = P.permute(P.reshape(P.corner(both, (at,)), (b, length, h, d)), (0, 2, 1, 3))
    stats = P.reshape(P.span(both, 0, at, both.shape[0]), (b, h, length, 2))

    def rule(g: Node, y: Node, q: Node, k: Node, v: Node, stats: Node, *more: Node) -> list[Node | None]:
        if state.grad or state.forward is not None:  # these gradients are to be differentiated
            return [*_open_gradients(g, q, k, v, more[0] if more else None, causal, scale), *[None] * (1 + len(more))]
        packed = P.attention_grad((q, k, v, stats, g, *more), float(scale), causal)
        parts = [P.span(packed, 2, i, i + 1) for i in range(3)]
        return [*[P.permute(P.reshape(x, (b, length, h, d)), (0, 2, 1, 3)) for x in parts],
                *[None] * (1 + len(more))]
    return with_gradient(y, rule, q, k, v, stats, *more)


def _open_gradients(g: Node, q: Node, k: Node, v: Node, mask: Node | None, causal: bool, scale: float) -> list[Node]:
    """The gradients of attention by q, k and v in products and sums, which have gradients in turn."""
    s = _scores(q, k, mask, causal, scale)
    w = attention_weights(s)
    slope = P.dot(g, P.swap(v))
    ds = P.mul(P.sub(slope, P.reshape(P.sum_(P.mul(slope, w), (3,)), (*w.shape[:3], 1))), w)
    if causal:
        mask = causal_mask(q.shape[2], k.shape[2])
    if mask is not None and mask.dtype is dt.bool_:
        ds = P.where(mask, ds, P.num(ds, 0))
    ds = P.mul(ds, number(float(scale), q.dtype))
    return [P.dot(ds, k), P.swap(P.dot(P.swap(q), ds)), P.dot(P.swap(w), g)]


def _lift(x: Node, batch: Shape) -> Node:
    """Put size-1 dimensions in front so that the batch dimensions line up."""
    return P.reshape(x, (1,) * (len(batch) + 2 - len(x.shape)) + x.shape)


@public(module="nn.functional", method=False)
def scaled_dot_product_attention(query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
                                 is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Any:
    """Return softmax(query @ key^T * scale + mask) @ value. Source: Vaswani et al. 2017.

    Shapes: (..., L, E), (..., S, E), (..., S, V) -> (..., L, V); a mask broadcasts to (..., L, S): True takes part, or
    numbers are added. scale: 1 / sqrt(E) by default. enable_gqa: fewer heads of key and value, each used repeatedly.
    """
    q, k, v = read(query), read(key), read(value)
    if not q.dtype is k.dtype is v.dtype:
        names = [dt.c_name(x.dtype) for x in (q, k, v)]
        raise RuntimeError("Expected query, key, and value to have the same dtype, but got query.dtype: {} "
                           "key.dtype: {} and value.dtype: {} instead.".format(*names))
    for x in (q, k, v):
        if len(x.shape) < 2:
            raise RuntimeError("Expected query, key, and value to all be  at least 2 dimensional, but got "
                               "query.dim: "
                               f"{len(q.shape)} key.dim: {len(k.shape)} and value.dim: {len(v.shape)} "
                               f"instead.")
    mask = None
    if attn_mask is not None:
        mask = read(attn_mask)
        if is_causal:
            raise RuntimeError("_scaled_dot_product_attention: Explicit attn_mask should not be set when "
                               "is_causal=True")
        if mask.dtype is not dt.bool_ and mask.dtype is not q.dtype:
            raise RuntimeError("Expected attn_mask dtype to be bool or float or to match query dtype, but got "
                               f"attn_mask.dtype: {dt.c_name(mask.dtype)} and  query.dtype: {dt.c_name(q.dtype)} "
                               "instead.")
        if mask.dtype is not dt.bool_:
            mask = P.convert(mask, q.dtype)
    if enable_gqa:
        if len(q.shape) < 3 or q.shape[-3] % k.shape[-3] or q.shape[-3] % v.shape[-3]:
            raise RuntimeError("Number of heads in key and value must divide the number of heads in query ")
        k, v = _repeat_heads(k, q.shape[-3]), _repeat_heads(v, q.shape[-3])
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({q.shape[-2]}x{q.shape[-1]} and "
                           f"{k.shape[-1]}x{k.shape[-2]})" if q.shape[-1] != k.shape[-1] else
                           f"mat1 and mat2 shapes cannot be multiplied ({q.shape[-2]}x{k.shape[-2]} and "
                           f"{v.shape[-2]}x{v.shape[-1]})")
    batch = broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    q, k, v = (_lift(x, batch) for x in (q, k, v))
    if scale is None:
        scale = default_scale(q)
    if not dropout_p and _fits(q, k, v, mask):
        return wrap(fused_attention(q, k, v, mask, is_causal, scale))
    out, _ = attention_nodes(q, k, v, mask, dropout_p, is_causal, scale)
    return wrap(out)


def _additive(mask: Any, name: str, d: dt.dtype) -> Node | None:
    """A mask as numbers to add: -inf where a boolean mask is true."""
    if mask is None:
        return None
    m = read(mask)
    if m.dtype is dt.bool_:
        return P.where(m, P.full((), -math.inf, d), P.full((), 0, d))
    if m.dtype.category != 2:
        raise AssertionError(f"only bool and floating types of {name} are supported")
    return P.convert(m, d)


def _of_heads(mask: Node | None, heads: int, length: int, source: int) -> Node | None:
    """A mask for the heads of all examples, (heads, L, S) or one for all, (1, L, S)."""
    if mask is None:
        return None
    want = (length, source) if len(mask.shape) == 2 else (heads, length, source)
    if mask.shape != want:
        raise RuntimeError(f"The shape of the {len(want)}D attn_mask is torch.Size({list(mask.shape)}), but should be "
                           f"{want}.")
    return P.reshape(mask, (1, *mask.shape)) if len(want) == 2 else mask


def _project(query: Any, key: Any, value: Any, embed: int, in_weight: Any, in_bias: Any, separate: bool, q_weight: Any,
             k_weight: Any, v_weight: Any) -> list[Node]:
    """The three projections of the inputs, (L, N, E) each."""
    parts = [None, None, None] if in_bias is None else list(split(in_bias, embed))
    if separate:
        weights = (q_weight, k_weight, v_weight)
    elif query is key and key is value:  # self-attention: one product
        packed = read(linear(query, in_weight, in_bias))
        last = len(packed.shape) - 1
        return [P.span(packed, last, i * embed, (i + 1) * embed) for i in range(3)]
    else:
        weights = split(in_weight, embed)
    return [read(linear(x, w, b)) for x, w, b in zip((query, key, value), weights, parts)]


def _heads(x: Node, count: int, dim: int) -> Node:
    """(L, N, E) -> (N * heads, L, head_dim)."""
    n = x.shape[0]
    return P.permute(P.reshape(x, (n, count, dim)), (1, 0, 2))


def _pad_last(x: Node | None) -> Node | None:
    if x is None:
        return None
    zero = (0,) * len(x.shape)
    return P.pad(x, zero, (*zero[:-1], 1), 0)


def _check_heads(query: Any, key: Any, value: Any, key_padding_mask: Any, attn_mask: Any, heads: int) -> bool:
    """Check ranks; tell whether there is a batch dimension."""
    n = len(query._shape)
    if n not in (2, 3):
        raise AssertionError(f"query should be unbatched 2D or batched 3D tensor but received {n}-D query "
                             "tensor")
    word, other = ("batched", "3-D") if n == 3 else ("unbatched", "2-D")
    if len(key._shape) != n or len(value._shape) != n:
        raise AssertionError(f"For {word} ({other}) `query`, expected `key` and `value` to be {other} but "
                             "found "
                             f"{len(key._shape)}-D and {len(value._shape)}-D tensors respectively")
    if key_padding_mask is not None and len(key_padding_mask._shape) != n - 1:
        raise AssertionError(f"For {word} ({other}) `query`, expected `key_padding_mask` to be `None` or "
                             f"{n - 1}-D but found "
                             f"{len(key_padding_mask._shape)}-D tensor instead")
    if attn_mask is not None and len(attn_mask._shape) not in (2, 3):
        raise AssertionError(f"For {word} ({other}) `query`, expected `attn_mask` to be `None`, 2-D or 3-D "
                             "but found "
                             f"{len(attn_mask._shape)}-D tensor instead")
    if n == 2 and attn_mask is not None and len(attn_mask._shape) == 3:
        want = (heads, query._shape[0], key._shape[0])
        if attn_mask._shape != want:
            raise AssertionError(f"Expected `attn_mask` shape to be {want} but got {attn_mask.shape}")
    return n == 3


def _check_pair(key: Any, value: Any, separate: bool) -> None:
    if separate and key._shape[:2] != value._shape[:2]:
        raise AssertionError(f"key's sequence and batch dims {key.shape[:2]} do not match value's {value.shape[:2]}")
    if not separate and key._shape != value._shape:
        raise AssertionError(f"key shape {key.shape} does not match value shape {value.shape}")


@public(module="nn.functional", method=False)
def multi_head_attention_forward(
        query: Any, key: Any, value: Any, embed_dim_to_check: int, num_heads: int, in_proj_weight: Any,
        in_proj_bias: Any, bias_k: Any, bias_v: Any, add_zero_attn: bool, dropout_p: float, out_proj_weight: Any,
        out_proj_bias: Any,
        training: bool = True, key_padding_mask: Any = None, need_weights: bool = True, attn_mask: Any = None,
        use_separate_proj_weight: bool = False, q_proj_weight: Any = None, k_proj_weight: Any = None,
        v_proj_weight: Any = None, static_k: Any = None, static_v: Any = None, average_attn_weights: bool = True,
        is_causal: bool = False) -> tuple:
    """Return multi-head attention and its weights. Source: Vaswani et al. 2017, "Attention is all you need".

    Shapes: (L, N, E), (S, N, E), (S, N, E) -> (L, N, E), weights (N, L, S) or (N, heads, L, S); N may be absent.
    """
    batched = _check_heads(query, key, value, key_padding_mask, attn_mask, num_heads)
    if is_causal and attn_mask is None:
        raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
    if not batched:
        same_k, same_v = key is query, value is key
        query = unsqueeze(query, 1)
        key = query if same_k else unsqueeze(key, 1)
        value = key if same_v else unsqueeze(value, 1)
        key_padding_mask = None if key_padding_mask is None else unsqueeze(key_padding_mask, 0)
    length, n, embed = query._shape
    d = query._dtype
    if embed != embed_dim_to_check:
        raise AssertionError(f"was expecting embedding dimension of {embed_dim_to_check}, but got {embed}")
    head = embed // num_heads
    if head * num_heads != embed:
        raise AssertionError(f"embed_dim {embed} not divisible by num_heads {num_heads}")
    _check_pair(key, value, use_separate_proj_weight)
    q, k, v = _project(query, key, value, embed, in_proj_weight, in_proj_bias, use_separate_proj_weight, q_proj_weight,
                       k_proj_weight, v_proj_weight)
    mask = _of_heads(_additive(attn_mask, "attn_mask", d), n * num_heads, length, key._shape[0])
    padding = _additive(key_padding_mask, "key_padding_mask", d)
    if bias_k is not None and bias_v is not None:
        k = P.concat((k, P.broadcast(read(bias_k), (1, n, embed))), 0)
        v = P.concat((v, P.broadcast(read(bias_v), (1, n, embed))), 0)
        mask, padding = _pad_last(mask), _pad_last(padding)
    q = _heads(P.reshape(q, (length, n * num_heads * head)), n * num_heads, head)
    k = read(static_k) if static_k is not None else _heads(P.reshape(k, (k.shape[0], n * embed)), n * num_heads, head)
    v = read(static_v) if static_v is not None else _heads(P.reshape(v, (v.shape[0], n * embed)), n * num_heads, head)
    if add_zero_attn:
        row = P.full((n * num_heads, 1, head), 0, d)
        k, v = P.concat((k, row), 1), P.concat((v, row), 1)
        mask, padding = _pad_last(mask), _pad_last(padding)
    source = k.shape[1]
    if padding is not None:
        if padding.shape != (n, source):
            raise AssertionError(f"expecting key_padding_mask shape of {(n, source)}, but got "
                                 f"{key_padding_mask.shape}")
        spread = P.broadcast(P.reshape(padding, (n, 1, 1, source)), (n, num_heads, 1, source))
        spread = P.reshape(spread, (n * num_heads, 1, source))
        mask = spread if mask is None else P.add(mask, spread)
    p = dropout_p if training else 0.0
    four = [P.reshape(x, (1, *x.shape)) for x in (q, k, v)]
    if not need_weights and not p and _fits(*four, mask):
        out = fused_attention(*four, mask, False, default_scale(q))
        out = P.reshape(out, out.shape[1:])
    else:
        out, weights = attention_nodes(q, k, v, mask, p, False, None)
    out = P.reshape(P.permute(out, (1, 0, 2)), (length * n, embed))
    y = read(linear(wrap(out), out_proj_weight, out_proj_bias))
    y = P.reshape(y, (length, n, y.shape[1])) if batched else y
    if not need_weights:
        return wrap(y), None
    weights = P.reshape(weights, (n, num_heads, length, source))
    if average_attn_weights:
        weights = P.div(P.sum_(weights, (1,)), counted(num_heads, d))
    if not batched:
        weights = P.reshape(weights, weights.shape[1:])
    return wrap(y), wrap(weights)
