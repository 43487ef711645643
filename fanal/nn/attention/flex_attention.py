"""Attention whose scores a function of the user's changes or masks.

The function is called once, on tensors of all scores and all indices: they broadcast, and what it does becomes
part of the program like any other operation, with gradients. So it must work element by element. The first time, it
is also called on some scores alone, and must give the same.

Source: Dong et al., "Flex Attention: A Programming Model for Generating Optimized Attention Kernels" (2024).
"""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable
from types import CodeType
from typing import Any, NamedTuple
from weakref import WeakSet

import fanal
from fanal import Tensor
from fanal.core.base.missing import finder
from fanal.nn.attention.block_mask import BLOCK, BlockMask, MaskMod, from_mask, noop_mask, sliced
from fanal.nn.functional import scaled_dot_product_attention

ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class AuxRequest(NamedTuple):
    """What flex_attention returns beside the output."""

    lse: bool = False
    max_scores: bool = False


class AuxOutput(NamedTuple):
    """What was asked for: None, or (B, H, L)."""

    lse: Tensor | None = None
    max_scores: Tensor | None = None


def _indices(b: int, h: int, q: int, k: int) -> tuple[Tensor, ...]:
    """Batch, head, query and key of every score, each along its dimension."""
    sizes = (b, h, q, k)
    return tuple(
        fanal.arange(n, dtype=fanal.int32).view(*(n if i == d else 1 for i in range(4)))
        for d, n in enumerate(sizes)
    )


_known_to_broadcast: WeakSet[CodeType] = WeakSet()


def _code(mod: Any) -> list[CodeType]:
    """Return the code of a function of the user's, and of the functions it holds."""
    found: dict[CodeType, None] = {}
    waiting = [mod]
    while waiting:
        f = waiting.pop()
        if isinstance(f, functools.partial):
            waiting.append(f.func)
        elif not hasattr(f, "__code__"):
            found.update({f.__code__: None for f in (type(f).__call__,) if hasattr(f, "__code__")})
        elif f.__code__ not in found:
            found[f.__code__] = None
            for x in (c.cell_contents for c in f.__closure__ or ()):
                waiting += [g for g in (x if isinstance(x, (tuple, list)) else (x,)) if hasattr(g, "__code__")]
    return list(found)


def _applied(mod: Callable, operands: tuple[Tensor, ...], shape: tuple[int, ...]) -> Tensor:
    """Call a function of one score on all of them, once it is known that this gives the same."""
    made = mod(*operands)
    fits = made.dim() in (0, 4) and all(m in (1, n) for m, n in zip(made.shape, shape))
    code = _code(mod)
    if fits and math.prod(shape) and not (code and _known_to_broadcast.issuperset(code)):
        fits = _same_one_by_one(mod, operands, made.expand(shape), shape)
        _known_to_broadcast.update(code if fits else ())
    if not fits:
        raise RuntimeError(
            f"{getattr(mod, '__name__', mod)} does not work element by element: it is called on the indices of all "
            f"scores at once, {shape}. Look several indices up at once, table[q_idx, kv_idx] and not one after the "
            "other, and reduce only along dimensions of what was looked up, counted from the last"
        )
    return made.expand(shape)


def _same_one_by_one(
    mod: Callable, operands: tuple[Tensor, ...], made: Tensor, shape: tuple[int, ...]
) -> bool:
    """Tell whether a function gives the same, for some scores, when called on each alone."""
    places = {
        tuple(n * k // 4 if k < 4 else n - 1 for n, k in zip(shape, ks))
        for ks in ((0, 0, 0, 0), (4, 4, 4, 4), (1, 2, 3, 1), (2, 1, 1, 3), (3, 3, 4, 2), (0, 4, 2, 4))
    }
    with fanal.no_grad():
        for place in places:
            one = mod(*(x.expand(shape)[place] for x in operands))
            if one.dim() or not fanal.allclose(
                one.double(), made[place].double(), rtol=1e-4, equal_nan=True
            ):
                return False
    return True


def or_masks(*mask_mods: MaskMod) -> MaskMod:
    """Return a mask function that is true where one of `mask_mods` is."""
    return _joined(mask_mods, fanal.logical_or)


def and_masks(*mask_mods: MaskMod) -> MaskMod:
    """Return a mask function that is true where all of `mask_mods` are."""
    return _joined(mask_mods, fanal.logical_and)


def _joined(mask_mods: tuple[MaskMod, ...], join: Callable) -> MaskMod:
    if not all(map(callable, mask_mods)):
        raise RuntimeError(f"All inputs should be callable mask_mods: {mask_mods}")
    start = join is fanal.logical_and

    def mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        masks = [m(b, h, q_idx, kv_idx) for m in mask_mods]
        return functools.reduce(join, masks, b.new_full((), start, dtype=fanal.bool))

    return mask


def _takes_score(mod: Callable) -> bool:
    needed = [p for p in inspect.signature(mod).parameters.values() if p.default is p.empty]
    if len(needed) not in (4, 5):
        raise AssertionError(f"Expected 4 or 5 positional args, got {len(needed)}")
    return len(needed) == 5


def create_mask(
    mod_fn: MaskMod | ScoreMod, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int, device: Any = None
) -> Tensor:
    """Return the mask (B, H, Q_LEN, KV_LEN) of a mask function, or where a score function leaves more than -inf."""
    shape = (B or 1, H or 1, Q_LEN, KV_LEN)
    if not _takes_score(mod_fn):
        return _applied(mod_fn, _indices(*shape), shape)
    return ~_applied(mod_fn, (fanal.zeros(shape), *_indices(*shape)), shape).isneginf()


def create_block_mask(
    mask_mod: MaskMod,
    B: int | None,
    H: int | None,
    Q_LEN: int,
    KV_LEN: int,
    device: Any = None,
    BLOCK_SIZE: int | tuple[int, int] = BLOCK,
    _compile: bool = False,
    separate_full_blocks: bool = True,
    compute_dq_write_order: bool = False,
    dq_kv_order: bool = True,
) -> BlockMask:
    """Return the block mask of a mask function; B or H None: one for all.

    Differs from torch: compute_dq_write_order, for kernels that are not here, raises.
    """
    if _takes_score(mask_mod):
        raise AssertionError(f"create-block_mask requires a mask_mod function! Got {mask_mod}")
    if compute_dq_write_order:
        raise NotImplementedError("compute_dq_write_order: there are no kernels here that write in another order")
    size = (BLOCK_SIZE, BLOCK_SIZE) if isinstance(BLOCK_SIZE, int) else BLOCK_SIZE
    return from_mask(create_mask(mask_mod, B, H, Q_LEN, KV_LEN), mask_mod, size, separate_full_blocks)


def _check(query: Tensor, key: Tensor, value: Tensor, block_mask: BlockMask | None, enable_gqa: bool) -> None:
    for x in (query, key, value):
        if x.dim() < 2:
            raise ValueError(
                "Expected query, key, and value to all be  at least 2 dimensional, but got query.dim: "
                f"{query.dim()}, key.dim: {key.dim()} and value.dim: {value.dim()} instead."
            )
    if query.size(-1) != key.size(-1):
        raise ValueError(
            "Expect query and key/value to have the same embedding dimension but got "
            f"E={query.size(-1)} and E={key.size(-1)}."
        )
    if not query.dim() == key.dim() == value.dim() == 4:
        raise NotImplementedError("NYI: query, key, and value must be 4D tensors")
    heads, kv_heads = query.size(1), key.size(1)
    if not enable_gqa and heads != kv_heads:
        raise ValueError(
            f"Expect query and key/value to have the same number of heads but got Hq={heads} and Hkv={kv_heads}. "
            "Try setting enable_gqa=True for GQA."
        )
    if heads % kv_heads:
        raise ValueError(
            "Expect number of query heads to be a multiple of kv heads for GQA but got "
            f"Hq={heads} and Hkv={kv_heads}."
        )
    if query.size(0) != key.size(0) and (
        block_mask is None or block_mask.kv_num_blocks.size(0) != query.size(0)
    ):
        raise ValueError(
            "Expect query and key/value to have the same batch size, or a block_mask of the batch size of query, but "
            f"got Bq={query.size(0)} and Bkv={key.size(0)}."
        )
    if block_mask is None:
        return
    if block_mask.mask_mod is sliced:
        raise RuntimeError("Cannot use mask_mod from a sliced BlockMask")
    if (query.size(2), key.size(2)) != block_mask.seq_lengths:
        raise ValueError(
            f"block_mask was created for block_mask.shape={block_mask.shape} but got q_len={query.size(2)} and "
            f"kv_len={key.size(2)}. Create a block mask of that length, or crop it: block_mask._adjust(q_len, kv_len)."
        )


def _mask_of(block_mask: BlockMask, indices: tuple[Tensor, ...], shape: tuple[int, ...]) -> Tensor:
    """Return which scores count: those of listed blocks where mask_mod is true, and those of full blocks."""

    def spread(blocks: Tensor) -> Tensor:
        for dim, n in zip((-2, -1), block_mask.BLOCK_SIZE):
            blocks = blocks.repeat_interleave(n, dim)
        return blocks[..., : shape[2], : shape[3]].bool()

    allowed = _applied(block_mask.mask_mod, indices, shape) & spread(block_mask.to_dense())
    full = block_mask.full_blocks()
    return allowed if full is None else allowed | spread(full)


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: ScoreMod | None = None,
    block_mask: BlockMask | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: Any = None,
    *,
    return_aux: AuxRequest | None = None,
) -> Any:
    """Return softmax(score_mod(query @ key^T * scale)) @ value, over the scores that `block_mask` lets through.

    Shapes: (B, H, L, E), (B, H or fewer with enable_gqa, S, E), (..., S, V) -> (B, H, L, V); with return_aux also the
    logsumexp and the largest of the scores, (B, H, L). A row without scores gives 0.
    score_mod(score, batch, head, q_idx, kv_idx) and the mask functions are called on all scores at once.
    Differs from torch: has gradients on the CPU; kernel_options are without effect.
    """
    _check(query, key, value, block_mask, enable_gqa)
    if return_lse and return_aux is not None:
        raise ValueError(
            "Cannot specify both return_lse and return_aux. return_lse is deprecated, please use "
            "return_aux=AuxRequest(lse=True) instead."
        )
    if return_lse:
        warnings.warn(
            "return_lse is deprecated and will be removed in v2.10. "
            "Please use return_aux=AuxRequest(lse=True) instead.",
            FutureWarning,
            stacklevel=2,
        )
    b, h, n, e = query.shape
    shape = (b, h, n, key.size(2))
    key, value = (x.repeat_interleave(h // x.size(1), 1).expand(b, -1, -1, -1) for x in (key, value))
    indices = _indices(*shape)
    mask = None if block_mask is None else _mask_of(block_mask, indices, shape)
    if score_mod is None and not return_lse and return_aux is None:
        return scaled_dot_product_attention(query, key, value, mask, scale=scale)
    wide = query.dtype if query.dtype is fanal.float64 else fanal.float32
    scores = query.to(wide) @ key.to(wide).transpose(-2, -1) * (1 / math.sqrt(e) if scale is None else scale)
    if score_mod is not None:
        scores = _applied(score_mod, (scores, *indices), shape).to(wide)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    empty = (scores == -math.inf).all(-1, keepdim=True)
    safe = scores.masked_fill(empty, 0)  # softmax of nothing, and its gradient, would be NaN
    out = (safe.softmax(-1).masked_fill(empty, 0) @ value.to(wide)).to(query.dtype)
    asked = AuxRequest(lse=return_lse) if return_aux is None else return_aux
    lse = safe.logsumexp(-1).masked_fill(empty.squeeze(-1), -math.inf) if asked.lse else None
    aux = AuxOutput(lse, scores.amax(-1) if asked.max_scores else None)
    return (out, aux) if return_aux is not None else (out, aux.lse) if return_lse else out


__all__ = [
    "AuxOutput",
    "AuxRequest",
    "BlockMask",
    "and_masks",
    "create_block_mask",
    "create_mask",
    "flex_attention",
    "noop_mask",
    "or_masks",
]

__getattr__ = finder("torch.nn.attention.flex_attention")
