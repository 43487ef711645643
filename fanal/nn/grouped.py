"""Matrix products of groups of rows or columns, and of scaled 8-bit floats."""

from __future__ import annotations

import enum
from itertools import pairwise
from typing import Any

import fanal
from fanal import Tensor
from fanal.core.base.dtype import c_name, scalar_name

_OF_GROUPS = (fanal.float32, fanal.bfloat16, fanal.float16)
_EIGHT_BITS = (fanal.float8_e4m3fn, fanal.float8_e5m2, fanal.float8_e4m3fnuz, fanal.float8_e5m2fnuz)


class ScalingType(enum.IntEnum):
    """What of a matrix has a scale of its own."""

    TensorWise = 0
    RowWise = 1
    BlockWise1x16 = 2
    BlockWise1x32 = 3
    BlockWise1x128 = 4
    BlockWise128x128 = 5


class SwizzleType(enum.IntEnum):
    """How scales lie in memory."""

    NO_SWIZZLE = 0
    SWIZZLE_32_4_4 = 1


def grouped_mm(
    mat_a: Tensor,
    mat_b: Tensor,
    *,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: Any = None,
) -> Tensor:
    """Multiply group by group: the experts of a layer by the rows that chose them.

    offs (G,), int32: where groups end; reading it ends what is recorded so far. Rows beyond its last are 0.
    Shapes: (M, K), (G, K, N) -> (M, N), groups of rows; (G, M, K), (K, N) -> (M, N), groups of columns;
    (M, K), (K, N) -> (G, M, N), groups of the dimension that is added up; (G, M, K), (G, K, N) -> (G, M, N).
    Dtypes: float32, bfloat16 or float16, all the same.
    Raises: RuntimeError for other shapes and dtypes, and for a bias, which PyTorch does not take either.
    Differs from torch: strides need not be multiples of 16 bytes.
    """
    _check_groups(mat_a, mat_b, offs, bias, out_dtype)
    if offs is None:
        return mat_a.bmm(mat_b)
    ends = offs.tolist()
    parts = list(pairwise([0, *ends]))
    if mat_a.dim() == mat_b.dim():
        return fanal.stack([mat_a[:, i:j].mm(mat_b[i:j]) for i, j in parts])
    by_rows = mat_a.dim() == 2
    whole, dim = (mat_a, 0) if by_rows else (mat_b, 1)
    if by_rows:
        made = [mat_a[i:j].mm(b) for (i, j), b in zip(parts, mat_b)]
    else:
        made = [a.mm(mat_b[:, i:j]) for (i, j), a in zip(parts, mat_a)]
    if ends[-1] < whole.shape[dim]:
        rest = whole.shape[dim] - ends[-1]
        made.append(whole.new_zeros((rest, mat_b.shape[2]) if by_rows else (mat_a.shape[1], rest)))
    return fanal.cat(made, dim)


def _check_groups(a: Tensor, b: Tensor, offs: Tensor | None, bias: Tensor | None, out_dtype: Any) -> None:
    for x, name in ((a, "mat_a"), (b, "mat_b")):
        if x.dtype not in _OF_GROUPS:
            raise RuntimeError(
                f"Expected {name} to be Float32, BFloat16 or Float16 matrix, got {scalar_name(x.dtype)}"
            )
        if x.dim() not in (2, 3):
            raise RuntimeError(f"{name} has to be 2 or 3d")
    if a.shape[-1] != b.shape[-2]:
        raise RuntimeError("contraction dimension of mat_a and mat_b must match")
    if (offs is None) != (a.dim() == b.dim() == 3):
        raise RuntimeError("Have to provide offsets if there is a 2d matrix, or no offset if both matrices are 3d")
    if offs is None and a.shape[0] != b.shape[0]:
        raise RuntimeError("batched dimension has to match")
    if offs is not None:
        if offs.dim() != 1:
            raise RuntimeError("offs has to be 1D")
        if offs.dtype is not fanal.int32:
            raise RuntimeError("Offsets have to be int32")
        if {x.shape[0] for x in (a, b) if x.dim() == 3} - {offs.shape[0]}:
            raise RuntimeError("matrix batch sizes have to match")
    if bias is not None:
        raise RuntimeError("Bias not supported yet")
    if out_dtype not in (None, a.dtype):
        raise RuntimeError("Grouped gemm output dtype must match `mat_a` dtype")
    if a.dtype is not b.dtype:
        raise RuntimeError(
            f"expected m1 and m2 to have the same dtype, but got: {c_name(a.dtype)} != {c_name(b.dtype)}"
        )


def scaled_mm(
    mat_a: Tensor,
    mat_b: Tensor,
    scale_a: Any,
    scale_recipe_a: Any,
    scale_b: Any,
    scale_recipe_b: Any,
    swizzle_a: Any = None,
    swizzle_b: Any = None,
    bias: Tensor | None = None,
    output_dtype: Any = fanal.bfloat16,
    contraction_dim: Any = (),
    use_fast_accum: bool = False,
) -> Tensor:
    """Return (mat_a * scale_a) @ (mat_b * scale_b) + bias of 8-bit floats, added up in float32 and rounded once.

    Shapes: (M, K), (K, N) -> (M, N). Scales: float32, of one element where the recipe is ScalingType.TensorWise, of
    (M, 1) and (1, N) where it is RowWise. use_fast_accum: without effect.
    Raises: ValueError for other recipes, scales and dtypes.
    """
    (a_scale, a_kind), (b_scale, b_kind) = (
        [x[0] if isinstance(x, (list, tuple)) and len(x) == 1 else x for x in pair]
        for pair in ((scale_a, scale_recipe_a), (scale_b, scale_recipe_b))
    )
    (m, k), (l, n) = mat_a.shape, mat_b.shape
    if k != l:
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({m}x{k} and {l}x{n})")
    whole = a_kind == b_kind == ScalingType.TensorWise and a_scale.numel() == b_scale.numel() == 1
    rows = a_kind == b_kind == ScalingType.RowWise and (tuple(a_scale.shape), tuple(b_scale.shape)) == ((m, 1), (1, n))
    eight = mat_a.dtype in _EIGHT_BITS and mat_b.dtype in _EIGHT_BITS
    if not eight or not (whole or rows) or not (a_scale.dtype is b_scale.dtype is fanal.float32):
        raise ValueError(
            "Invalid scaling configuration.\n"
            "- For TensorWise scaling, a and b should be float8, scales should be float and singletons.\n"
            f"- For RowWise scaling, a and b should be float8, scales should be float, scale_a should be ({m}, 1) and "
            f"scale_b should be (1, {n}), and both should be contiguous.\n"
            f"Got mat_a.dtype()={scalar_name(mat_a.dtype)}, mat_b.dtype()={scalar_name(mat_b.dtype)}, scales of "
            f"{list(a_scale.shape)} and {list(b_scale.shape)}."
        )
    y = mat_a.float().mm(mat_b.float()) * a_scale * b_scale
    if bias is not None:
        y = y + bias.float()
    return y.to(mat_a.dtype if output_dtype is None else output_dtype)
