"""Block masks: which blocks of attention scores are computed, as lists of block columns for each row of blocks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import fanal
from fanal import Tensor
from fanal.nn.functional import pad

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
BLOCK = 128  # of queries and of keys, by default


def noop_mask(batch: Tensor, head: Tensor, token_q: Tensor, token_kv: Tensor) -> Tensor:
    """Mask nothing."""
    return batch.new_ones((), dtype=fanal.bool)


def sliced(batch: Tensor, head: Tensor, token_q: Tensor, token_kv: Tensor) -> Tensor:
    """Stand for the mask function of a part of a block mask, which would get the wrong indices."""
    raise RuntimeError(
        "Cannot use mask_mod from a sliced BlockMask. When you slice a BlockMask using [], the mask_mod attribute is "
        "reset. You must set it from the original BlockMask's mask_mod."
    )


def dense(counts: Tensor, columns: Tensor) -> Tensor:
    """Return 1 where a block is listed. Shapes: (*, R), (*, R, C) -> (*, R, C), int32."""
    width = columns.shape[-1]
    listed = fanal.arange(width) < counts.unsqueeze(-1)
    place = fanal.where(listed, columns, width).long()  # what is not listed goes into a column of its own
    found = fanal.zeros((*columns.shape[:-1], width + 1), dtype=fanal.int32)
    return found.scatter(-1, place, 1)[..., :width]


def ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many blocks each row has, and their columns first. Undoes `dense`."""
    columns = fanal.argsort(blocks.to(fanal.int32), dim=-1, descending=True, stable=True)
    return blocks.sum(-1).to(fanal.int32), columns.to(fanal.int32)


def _transposed(counts: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    return ordered(dense(counts, columns).transpose(-2, -1))


class BlockMask:
    """Which blocks of scores are computed: partly, by `mask_mod`, or in full.

    Shapes: kv_num_blocks (*, R), kv_indices (*, R, C): of row r, the first kv_num_blocks[r] entries of kv_indices[r]
    are the columns of the blocks to which mask_mod is applied; full_... likewise those that need no mask_mod. q_...
    is the same by columns.
    """

    def __init__(
        self,
        seq_lengths: tuple[int, int],
        kv_num_blocks: Tensor,
        kv_indices: Tensor,
        full_kv_num_blocks: Tensor | None,
        full_kv_indices: Tensor | None,
        q_num_blocks: Tensor | None,
        q_indices: Tensor | None,
        full_q_num_blocks: Tensor | None,
        full_q_indices: Tensor | None,
        BLOCK_SIZE: tuple[int, int] = (BLOCK, BLOCK),
        mask_mod: MaskMod = noop_mask,
    ) -> None:
        if kv_indices.dim() < 2:
            raise RuntimeError("BlockMask must have at least 2 dimensions")
        for kind, counts, columns in (
            ("kv", full_kv_num_blocks, full_kv_indices),
            ("q", full_q_num_blocks, full_q_indices),
        ):
            if (counts is None) != (columns is None):
                raise AssertionError(
                    f"full_{kind}_num_blocks and full_{kind}_indices must be both provided or omitted"
                )
        self.seq_lengths = seq_lengths
        self.kv_num_blocks, self.kv_indices = kv_num_blocks, kv_indices
        self.full_kv_num_blocks, self.full_kv_indices = full_kv_num_blocks, full_kv_indices
        self.q_num_blocks, self.q_indices = q_num_blocks, q_indices
        self.full_q_num_blocks, self.full_q_indices = full_q_num_blocks, full_q_indices
        self.BLOCK_SIZE, self.mask_mod = BLOCK_SIZE, mask_mod

    @classmethod
    def from_kv_blocks(
        cls,
        kv_num_blocks: Tensor,
        kv_indices: Tensor,
        full_kv_num_blocks: Tensor | None = None,
        full_kv_indices: Tensor | None = None,
        BLOCK_SIZE: int | tuple[int, int] = BLOCK,
        mask_mod: MaskMod | None = None,
        seq_lengths: tuple[int, int] | None = None,
        compute_q_blocks: bool = True,
    ) -> BlockMask:
        """Return a block mask from its lists by rows; those by columns are computed."""
        if kv_indices.dim() < 2:
            raise RuntimeError("BlockMask must have at least 2 dimensions")
        if (full_kv_num_blocks is None) != (full_kv_indices is None):
            raise AssertionError(
                "full_kv_num_blocks and full_kv_indices must be both provided or omitted"
            )
        by_column: list[Tensor | None] = [None] * 4
        if compute_q_blocks:
            by_column[:2] = _transposed(kv_num_blocks, kv_indices)
            if full_kv_num_blocks is not None and full_kv_indices is not None:
                by_column[2:] = _transposed(full_kv_num_blocks, full_kv_indices)
        size = (BLOCK_SIZE, BLOCK_SIZE) if isinstance(BLOCK_SIZE, int) else BLOCK_SIZE
        if seq_lengths is None:
            seq_lengths = kv_indices.shape[-2] * size[0], kv_indices.shape[-1] * size[1]
        return cls(
            seq_lengths,
            kv_num_blocks,
            kv_indices,
            full_kv_num_blocks,
            full_kv_indices,
            *by_column,
            BLOCK_SIZE=size,
            mask_mod=mask_mod or noop_mask,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The batch dimensions and the two sequence lengths."""
        return (*self.kv_indices.shape[:-2], *self.seq_lengths)

    def as_tuple(self, flatten: bool = True) -> tuple:
        """Return sequence lengths, lists, block sizes and mask function; the sizes as pairs unless `flatten`."""
        lists = (
            self.kv_num_blocks,
            self.kv_indices,
            self.full_kv_num_blocks,
            self.full_kv_indices,
            self.q_num_blocks,
            self.q_indices,
            self.full_q_num_blocks,
            self.full_q_indices,
        )
        orders = (None,) * 4  # in which kernels of PyTorch's write
        if flatten:
            return (*self.seq_lengths, *lists, *orders, *self.BLOCK_SIZE, self.mask_mod)
        return (self.seq_lengths, *lists, *orders, self.BLOCK_SIZE, self.mask_mod)

    def __getitem__(self, index: Any) -> BlockMask:
        """Return the mask of some batches, heads or rows of blocks; its mask_mod must be set anew."""
        given = index if isinstance(index, tuple) else (index,)
        places = tuple(
            slice(i, i + 1 or None) if isinstance(i, int) else i
            for i in (*given, *(slice(None),) * (3 - len(given)))
        )
        full = self.full_kv_num_blocks, self.full_kv_indices
        return BlockMask.from_kv_blocks(
            self.kv_num_blocks[places],
            self.kv_indices[places],
            *(None if x is None else x[places] for x in full),
            BLOCK_SIZE=self.BLOCK_SIZE,
            mask_mod=sliced,
            seq_lengths=self.seq_lengths,
            compute_q_blocks=self.q_indices is not None,
        )

    def _adjust(self, new_q_len: int, new_kv_len: int) -> BlockMask:
        """Return the upper left part for shorter sequences."""
        rows, columns = (-(-n // b) for n, b in zip((new_q_len, new_kv_len), self.BLOCK_SIZE))

        def cut(counts: Tensor | None, indices: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
            if counts is None or indices is None:
                return None, None
            return ordered(dense(counts, indices)[..., :rows, :columns])

        counts, indices = cut(self.kv_num_blocks, self.kv_indices)
        assert counts is not None and indices is not None
        return BlockMask.from_kv_blocks(
            counts,
            indices,
            *cut(self.full_kv_num_blocks, self.full_kv_indices),
            BLOCK_SIZE=self.BLOCK_SIZE,
            mask_mod=self.mask_mod,
            seq_lengths=(new_q_len, new_kv_len),
            compute_q_blocks=self.q_indices is not None,
        )

    def full_blocks(self) -> Tensor | None:
        """Return 1 for the blocks that need no mask_mod, or None if there are none."""
        if self.full_kv_num_blocks is None or self.full_kv_indices is None:
            return None
        return dense(self.full_kv_num_blocks, self.full_kv_indices)

    def to_dense(self) -> Tensor:
        """Return 1 for every block that is computed. Shapes: (*, R, C), int32."""
        partial, full = dense(self.kv_num_blocks, self.kv_indices), self.full_blocks()
        return partial if full is None else partial | full

    def numel(self) -> int:
        """Return how many scores there are, computed or not."""
        return math.prod(self.shape)

    def sparsity(self) -> float:
        """Return the percentage of scores in blocks that are not computed."""
        blocks = self.kv_num_blocks.sum().item()
        if self.full_kv_num_blocks is not None:
            blocks += self.full_kv_num_blocks.sum().item()
        return 100 * (1 - blocks * math.prod(self.BLOCK_SIZE) / self.numel())

    def to(self, device: Any) -> BlockMask:
        """Return the mask with its lists on a device."""
        moved: Any = (None if x is None else x.to(device) for x in self.as_tuple(flatten=False)[1:9])
        return BlockMask(self.seq_lengths, *moved, BLOCK_SIZE=self.BLOCK_SIZE, mask_mod=self.mask_mod)

    def to_string(self, grid_size: int | tuple[int, int] = (20, 20), limit: int = 4) -> str:
        """Return a picture of each batch: dark what is computed, light what is in part, empty what is not.

        grid_size: of the picture at most; -1 draws every block. limit: how many batches.
        """
        blocks = self.to_dense().float()
        *batch, rows, columns = blocks.shape
        most = (grid_size, grid_size) if isinstance(grid_size, int) else grid_size
        step, across = (max(1, -(-n // m)) if m > 0 else 1 for n, m in zip((rows, columns), most))
        pictures = []
        for k, place in enumerate(itertools.product(*map(range, batch))):
            if k == limit:
                pictures += [
                    "...",
                    "To print out more, set BlockMask.to_string(limit=N)",
                    "You can also index (BlockMask[batch, head]) to choose a specific batch or head",
                ]
                break
            lines = [f"{place}"]
            for r in range(0, rows, step):
                shares = (
                    blocks[place][r : r + step, c : c + across].mean().item()
                    for c in range(0, columns, across)
                )
                lines.append("".join(2 * ("█" if s == 1 else " " if s == 0 else "░") for s in shares))
            pictures.append("\n".join(lines) + "\n")
        return "\n".join(pictures)

    def __str__(self) -> str:
        return (
            f"BlockMask(shape={self.shape}, sparsity={self.sparsity():.2f}%, \n{self.to_string().strip()}\n)"
        )

    def __repr__(self) -> str:
        names = (
            "kv_num_blocks kv_indices full_kv_num_blocks full_kv_indices q_num_blocks q_indices full_q_num_blocks "
            "full_q_indices"
        ).split()
        lists = "".join(f"    {n}={x if (x := getattr(self, n)) is None else x.shape},\n" for n in names)
        mod = getattr(self.mask_mod, "__name__", self.mask_mod)
        return (
            f"BlockMask(\n{lists}    BLOCK_SIZE={self.BLOCK_SIZE},\n    shape={self.shape},\n"
            f"    sparsity={self.sparsity():.2f}%,\n    mask_mod={mod}\n)"
        )


def from_mask(mask: Tensor, mask_mod: MaskMod, size: tuple[int, int], separate_full_blocks: bool) -> BlockMask:
    """Return the block mask of a mask. Shapes: (B, H, Q, K)."""
    lengths = mask.shape[-2], mask.shape[-1]
    b, h, q, k = pad(mask, (0, -lengths[1] % size[1], 0, -lengths[0] % size[0])).shape
    whole = pad(mask, (0, k - lengths[1], 0, q - lengths[0]))
    seen = whole.view(b, h, q // size[0], size[0], k // size[1], size[1]).sum((-3, -1))  # (B, H, R, C)
    full = (seen == math.prod(size)) if separate_full_blocks else None
    partial = seen > 0 if full is None else (seen > 0) & ~full
    return BlockMask.from_kv_blocks(
        *ordered(partial),
        *((None, None) if full is None else ordered(full)),
        BLOCK_SIZE=size,
        mask_mod=mask_mod,
        seq_lengths=lengths,
    )
