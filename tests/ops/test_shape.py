"""Views, joins and rearrangements against torch: values, strides, gradients, error texts."""
from __future__ import annotations

import pytest

from tests.ops.oracle import check, check_gradient

VIEWS = """x.view(6, 4) | x.view(-1, 2) | x.reshape(4, 6) | x.permute(2, 0, 1) | x.permute(2, 0, 1).reshape(-1) | x.transpose(0, 2)
x.flatten(1) | x.unflatten(2, (2, -1)) | x.movedim((0, 1), (2, 0)) | x.unsqueeze(1) | x.unsqueeze(-1) | x[:, :1].squeeze() | x.mT
x[:, :1, :1].squeeze((1, 2)) | x.expand(5, 2, 3, 4) | x[:, :1].expand(-1, 7, -1) | x.narrow(1, 1, 2) | x.select(-1, 2) | x.split(2, 1)
x.split([1, 2], 1) | x.chunk(3, 2) | x.tensor_split(3, 2) | x.tensor_split((1, 3), 2) | x.hsplit(3) | x.unbind(1) | x.diagonal()
x.diagonal(1, 1, 2) | x.diagonal(-1, 0, 2) | x.diagonal(5) | x.as_strided((2, 2), (3, 1), 4) | x[:, 1:].as_strided((2, 2), (3, 1))
x.unfold(2, 2, 1) | x.unfold(1, 2, 2) | x.contiguous() | x.permute(2, 0, 1).contiguous() | x.permute(2, 0, 1).clone() | x[..., 1:].view(2, 3, -1)
x.view(m.int32) | x.view(m.int16).float() | x.view(m.float64).shape | x.swapaxes(0, 1) | x.view_as(x.new_empty(4, 6)) | x[0].T | x.ravel()
m.broadcast_to(x[0], (2, 3, 4)) | m.atleast_3d(x[0], x[0, 0]) | m.broadcast_tensors(x, x[0, :, :1])""".replace("\n", " | ").split(" | ")
COPIES = """x.flip(0, 1) | x.roll(1, 0) | x.roll((1, 2), (0, 1)) | x.roll(4) | x.rot90(1) | x.rot90(3, (1, 0)) | x.rot90(2) | x.repeat(2, 1, 3)
x.tile((2,)) | x.repeat_interleave(2) | x.repeat_interleave(2, 1) | x.repeat_interleave(m.tensor([1, 0, 3]), 1) | x.diag() | x[0].diag(1)
m.diag_embed(x, 1) | m.diag_embed(x, -1, 0, 2) | m.diagflat(x, 2) | m.cat([x, x * 2], 1) | m.cat([x, m.ones(2, 1, dtype=m.long), m.ones(0)], -1)
m.stack([x, x * 2], -1) | m.hstack([x, x]) | m.vstack([x[0], x]) | m.dstack([x, x]) | m.column_stack([x[:, 0], x]) | m.block_diag(x, x[0])
m.meshgrid(x[0], x[:, 0], indexing='xy') | m.meshgrid(x[0], x[:, 0], indexing='ij') | m.cartesian_prod(x[0], x[1]) | m.combinations(x[0])
m.vander(x[0]) | x.fliplr() | x.flipud() | x.slice_scatter(x[:, 1:], 1, 0, 2) | x.select_scatter(x[0], 0, 1)
x.diagonal_scatter(x[0, :2])""".replace("\n", " | ").split(" | ")
ERRORS = """x.t() | x.view(5) | x.permute(0, 1) | x.permute(0, 1, 1) | x.expand(2, 3) | x.expand(5, 3, 4) | x.expand(-1, 2, 3, 4) | x.narrow(0, 1, 5)
x.narrow(0, 3, 1) | x.select(0, 2) | x.split(0) | x.split([1, 3]) | x.chunk(0) | x.tensor_split(0) | x.unflatten(1, (2, 2)) | x.flatten(2, 1)
x.permute(2, 0, 1).view(-1) | x.movedim((0, 1), (0,)) | x.movedim((0, 0), (0, 1)) | x.unfold(0, 3, 1) | x.diagonal(0, 0, 0) | x.diag()
x.as_strided((100,), (1,)) | x.as_strided((2,), (-1,)) | x.squeeze((0, 0)) | x.roll((1, 2), (0,)) | x.rot90(1, (0,)) | x.repeat(2) | x.repeat(-1, 1, 1)
x.permute(2, 1, 0).view(m.int16) | x.imag | m.view_as_real(x) | m.view_as_complex(x) | x.repeat_interleave(m.tensor([1, 2, 3]), 0)
x.reshape(2.0) | x.unsqueeze(5) | m.cat([]) | m.cat([x, x[0, 0, 0]]) | m.cat(x) | m.cat([x, 1]) | m.stack([]) | m.stack([x, x[0]]) | m.unbind(x, 4)
m.cat([x, x[0]]) | m.cat([x, x.transpose(1, 2)]) | x.hsplit(2) | x.vsplit(3)""".replace("\n", " | ").split(" | ")
WRITES = ("y.diagonal(0, 1, 2)", "y.unfold(2, 2, 2)", "y.as_strided((2, 2), (3, 1), 4)", "y.permute(2, 0, 1)[1:3]", "y.view(6, 4)[1]",
          "y.unsqueeze(0).transpose(0, 1)[1]", "y.flatten()[3::5]")
COMPLEX = """m.view_as_real(c) | c.real | c.imag | m.view_as_real(c.t()) | m.view_as_complex(m.view_as_real(c)) | c.view(m.float32) | c.conj() | c.mH | c.H""".split(" | ")


@pytest.mark.parametrize("code", VIEWS + ERRORS)
def test_view(code: str) -> None:
    check(code)


@pytest.mark.parametrize("code", COPIES)
def test_copy(code: str) -> None:
    check(code, (2, 3), strides=False)
    check_gradient(code, (2, 3))


@pytest.mark.parametrize("code", [v for v in VIEWS if "m.int" not in v and "float64" not in v])
def test_view_gradient(code: str) -> None:
    check_gradient(code)


@pytest.mark.parametrize("view", WRITES)
def test_write_through(view: str) -> None:
    check(f"y = x.clone(); v = {view}; v.mul_(3)")
    check_gradient(f"y = x * 2; v = {view}; v.mul_(3); y = y + x")


@pytest.mark.parametrize("code", COMPLEX)
def test_complex_views(code: str) -> None:
    check(f"c = m.complex(x[0], x[1]); y = {code}")
    check(f"c = m.complex(x[0], x[1]); v = {code}; v.mul_(2); y = c" if "conj" not in code and "H" not in code else code.replace("c", "x[0]"))


@pytest.mark.parametrize("code", ["x.squeeze_()", "x.unsqueeze_(1)", "x.transpose_(0, 2)", "x[0].t_()", "x.clone().resize_(2, 2)"])
def test_in_place_view(code: str) -> None:
    check(f"r = {code}; y = r", strides=False)
