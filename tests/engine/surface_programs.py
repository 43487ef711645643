"""Random programs over the whole surface: operators by how often people use them, tried on PyTorch as they are written.

`wide_programs` knows the shape of every expression that it writes. Here PyTorch runs the program so far, and what it
refuses, or what is large or not finite, is not written: so any expression can stand in the tables. The rest of the
vocabulary (modules, hooks, branches, reads, backward) is that of `wide_programs`.
"""
from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
import wide_programs
from wide_programs import Var, run, world  # noqa: F401  (run is what `compare` calls)

# {x}, {y}: tensors of one shape and dtype; {z}: any; {d}: a dimension of x; {i}: positions along dimension 0.
# The groups follow how often public repositories call a symbol: over 100 times, over 10 times, less.
OFTEN = """{x}.sum({d}) | {x}.mean({d}) | {x}.max({d})[0] | {x}.view(-1) | {x}.reshape(-1, 1) | {x}.unsqueeze({d}) | {x}.squeeze({d})
{x}.transpose(0, -1) | {x}.permute(*range({x}.dim())) | {x}.flatten() | {x}.detach() | {x}.contiguous() | {x}.clone() | {x}.norm()
{x}.split(1, {d})[0] | {x}.chunk(2, {d})[-1] | {x}.repeat(2, *[1] * ({x}.dim() - 1)) | {x}.expand(2, *{x}.shape) | {x}.t() | {x} + {y}
{x} * {z} | {x}.softmax({d}) | {x}.relu() | {x}.sigmoid() | {x}.tanh() | {x}.sin() | {x}.cos() | {x}.abs().log1p() | {x}.exp().clamp(max=5)
{x}.argmax({d}) | torch.cat([{x}, {y}], {d}) | torch.stack([{x}, {y}], {d}) | torch.zeros_like({x}) | torch.ones_like({x}) * {x}
torch.matmul({x}, {z}) | torch.where({x} > {y}, {x}, {y}) | torch.einsum('...i,...i->...', {x}, {y}) | {x}.type_as({z}) | F.pad({x}, (1, 0))
torch.arange({x}.shape[0]) | torch.full({x}.shape, 0.5) | F.cross_entropy({x}, {x}.argmax(1) * 0) | F.mse_loss({x}, {y}) | F.normalize({x} + 0.3, dim={d})
F.interpolate({x}[None], scale_factor=2) | torch.from_numpy({x}.detach().numpy()) + {x} | {x}.masked_fill({y} > 0, 0.2) | {x}.dim() * {x}"""
SOMETIMES = """{x}.pow(2) | {x}.abs().pow(0.5) | {x}.min({d})[0] | {x}.std({d}, unbiased=False) | {x}.var({d}, unbiased=False) | {x}.clamp(-0.5, 0.5)
({x} > 0).all({d}) | ({x} > 0).any({d}) | {x}.gather({d}, torch.zeros_like({x}, dtype=torch.long)) | {x}.expand_as({y}) | {x}.double() | {x}.cumsum({d})
{x}.rsqrt().nan_to_num(0, 1, 1).clamp(max=2) | {x}.abs().sqrt() | {x}.eq({y}) | {x}.div({y}.abs() + 1) | {x}.repeat_interleave(2, {d}) | {x}.mul({y})
{x}.scatter({d}, torch.zeros_like({x}, dtype=torch.long), 0.5) | {x}.topk(1, {d})[0] | {x}.view_as({y}) | {x}.sort({d})[0] | {x}.index_select(0, {i})
{x}.unbind({d})[0] | {x}.dot({y}) | {x}.clip(0, 1) | {x}.half().float() | {x}.bfloat16() | {x}.prod({d}) | {x}.unfold({d}, 2, 1) | {x}.flip({d}) | {x}.mm({z})
{x}.tile(2) | {x}.new_ones({x}.shape) + {x} | {x}.new_full((2,), 3.0) | {x}.amax({d}) | {x}.amin({d}) | {x}.addcmul({y}, {y}, value=0.3) | {x}.triu() | {x}.tril(1)
{x}.addcdiv({y}, {y}.abs() + 1, value=lr) | {x}.unflatten({d}, (1, -1)) | torch.linspace(0, 1, 4) | torch.outer({x}, {y}) | torch.isclose({x}, {y})
torch.bmm({x}, {x}.mT) | torch.add({x}, {y}, alpha=0.5) | torch.meshgrid({x}, {y}, indexing='ij')[0] | torch.diag({x}) | torch.maximum({x}, {y})
torch.eye(3) | torch.isfinite({x}) | torch.view_as_complex({x}).abs() | torch.linalg.vector_norm({x} + 0.1, dim={d}) | torch.cdist({x}, {x} + 1)
F.log_softmax({x}, {d}) | F.silu({x}) | F.gelu({x}) | F.softplus({x}) | F.one_hot({i}, {x}.shape[0]) | F.nll_loss({x}, {x}.argmax(1) * 0) | F.elu({x})
F.max_pool2d({x}[None], 2) | F.avg_pool2d({x}[None], 2) | F.adaptive_avg_pool2d({x}[None], 1) | F.layer_norm({x}, {x}.shape[-1:]) | F.l1_loss({x}, {y})
F.smooth_l1_loss({x}, {y}) | F.conv1d({x}[None], {x}[:2, None, :2], groups=1) | F.scaled_dot_product_attention({x}[None], {y}[None], {y}[None])
torch._foreach_mul([{x}, {y}], 2.0)[1]
torch._foreach_add([{x}, {y}], [{y}, {x}])[0] | torch.polar({x}.abs() + 0.1, {y}).real"""
SELDOM = """{x}.logsumexp({d}) | {x}.square() | {x}.argmin({d}) | {x}.floor() * 0 + {x} | {x}.mv({z}) | {x}.movedim(0, -1) | {x}.roll(1, {d}) | {x}.take({i})
{x}.median({d})[0] | {x}.reshape_as({y}) | {x}.swapaxes(0, -1) | {x}.narrow({d}, 0, 1) | {x}.select({d}, -1) | {x}.renorm(2, 0, 1.5) | {x}.fmod({y}.abs() + 1)
{x}.fmax({y}) | {x}.fmin({y}) | {x}.lerp({y}, 0.3) | {x}.index_add(0, {i}, {x}[{i}], alpha=0.5) | {x}.index_fill(0, {i}, 2) | {x}.index_copy(0, {i}[:1], {x}[:1])
{x}.expm1().clamp(max=3) | {x}.erf() | {x}.erfc() | {x}.atan() | {x}.sinh().clamp(-3, 3) | {x}.asinh() | {x}.exp2() | {x}.nanmean({d}) | {x}.nansum({d}) | {x}.trace()
{x}.cumprod({d}) | {x}.logcumsumexp({d}) | {x}.cummax({d})[0] | {x}.diff(dim={d}) | {x}.kthvalue(1, {d})[0] | {x}.aminmax(dim={d})[1] | {x}.std_mean({d})[1]
{x}.hypot({y} + 1) | {x}.atan2({y}.abs() + 1) | {x}.copysign({y}) | {x}.logaddexp({y}) | {x}.xlogy({y}.abs() + 1) | {x}.sinc() | {x}.frac() | {x}.logit(0.1)
{x}.tensor_split(2, {d})[0] | {x}.hsplit(2)[1] | {x}.rot90() | {x}.fliplr() | {x}.diagonal() | {x}.diag_embed() | {x}.take_along_dim({x}.argsort({d}), {d})
{x}.masked_scatter({y} > 0, {y}) | {x}.where({y} > 0, 0.1) | {x}.scatter_add({d}, torch.zeros_like({x}, dtype=torch.long), {y}) | {x}.rad2deg() * 0.01
{x}.scatter_reduce({d}, torch.zeros_like({x}, dtype=torch.long), {y}, 'mean') | {x}.index_reduce(0, {i}, {x}[{i}], 'amax') | {x}.cross({y}, {d}) | {x}.inner({y})
torch.addmm({x}[:, :1], {x}, {x}.mT, beta=0.5) | torch.baddbmm({x} @ {x}.mT, {x}, {x}.mT) | torch.kron({x}, {x}[:1]) | torch.tensordot({x}, {y}, 1) | torch.vdot({x}, {y})
torch.cov({x}) | torch.corrcoef({x} + torch.eye(4, 6)) | torch.trapezoid({x}, dim={d}) | torch.cumulative_trapezoid({x}, dim={d}) | torch.gradient({x})[0] | torch.vander({x})
torch.block_diag({x}, {y}) | torch.cartesian_prod({x}, {x}) | torch.combinations({x}) | torch.broadcast_tensors({x}, {z})[0] | torch.hstack([{x}, {y}]) | torch.dstack([{x}, {y}])
torch.bucketize({x}, torch.tensor([-0.5, 0.4])) | torch.searchsorted(torch.tensor([-0.5, 0.4]), {x}) | torch.fft.rfft({x}).abs() | torch.fft.fft({x}).real | torch.quantile({x}, 0.4, {d})
torch.linalg.norm({x} + 0.2) | torch.linalg.det({x} @ {x}.mT + torch.eye(4)) | torch.linalg.inv({x} @ {x}.mT + 2 * torch.eye(4)) | torch.linalg.matrix_power({x} @ {x}.mT * 0.3, 2)
torch.linalg.solve({x} @ {x}.mT + 2 * torch.eye(4), {x}) | torch.linalg.cholesky({x} @ {x}.mT + 2 * torch.eye(4)) | torch.linalg.slogdet({x} @ {x}.mT + torch.eye(4))[1]
torch.special.entr({x}.abs() + 0.1) | torch.special.i0e({x}) | torch.special.log_ndtr({x}) | torch.lgamma({x}.abs() + 0.5) | torch.digamma({x}.abs() + 0.5) | torch.complex({x}, {y}).angle()
F.leaky_relu({x}, 0.1) | F.relu6({x}) | F.hardtanh({x}) | F.hardswish({x}) | F.mish({x}) | F.selu({x}) | F.celu({x}) | F.logsigmoid({x}) | F.softsign({x}) | F.tanhshrink({x}) | F.glu({x})
F.threshold({x}, 0.1, 0.2) | F.cosine_similarity({x}, {y} + 1, dim={d}) | F.pairwise_distance({x}, {y} + 1) | F.kl_div({x}.log_softmax(-1), {y}.softmax(-1), reduction='batchmean')
F.group_norm({x}[None], 2) | F.rms_norm({x}, {x}.shape[-1:], eps=0.1) | F.instance_norm({x}[None], eps=0.1) | F.batch_norm({x}, None, None, training=True, eps=0.1) | F.local_response_norm({x}[None], 2)
F.avg_pool1d({x}, 2) | F.max_pool1d({x}, 2, 1, 1) | F.lp_pool1d({x}.abs() + 0.1, 2, 2) | F.adaptive_max_pool2d({x}[None], 2) | F.conv_transpose1d({x}[None], {x}[:, None, :2]) | F.conv2d({x}[None, None], {x}[None, None, :2, :2])
F.pixel_shuffle({x}[..., None].expand(4, 6, 4).permute(2, 0, 1), 2) | F.unfold({x}[None, None], 2) | F.grid_sample({x}[None, None], {x}[None, :, :4].unflatten(2, (2, 2)).tanh(), align_corners=False)
F.triplet_margin_loss({x}, {y} + 1, {y} - 1) | F.poisson_nll_loss({x}, {y}.abs()) | F.gaussian_nll_loss({x}, {y}, {y}.abs() + 1) | F.huber_loss({x}, {y}) | F.soft_margin_loss({x}, {y}.sign())
F.multi_margin_loss({x}, {x}.argmax(1) * 0) | F.binary_cross_entropy({x}.sigmoid(), {y}.sigmoid()) | F.embedding({i}, {x}) | F.embedding_bag({i}[None], {x}) | F.bilinear({x}, {x}, {x}[None, :, :1] * torch.ones(6))
torch.func.grad(lambda t: (t.sin() * t).sum())({x}.detach()) | torch.func.vjp(torch.tanh, {x}.detach())[0] | torch.signal.windows.hann(4) * {x}[..., :4] | torch.masked.sum({x}, {d}, mask={y} > 0)"""
GROUPS = {text: weight for block, weight in ((OFTEN, 9), (SOMETIMES, 3), (SELDOM, 1))
          for line in block.split("\n") for text in line.split(" | ")}
VIEWS = [".t()", "[1:]", ".unsqueeze(0)", ".transpose(0, -1)", "[..., ::2]", ".view(-1)", ".diagonal()", "[None]", ".select(0, 0)", ".squeeze(0)",
         ".narrow(-1, 0, 1)", ".unflatten(0, (1, -1))", ".movedim(0, -1)", "[..., -1:]", ".unfold(-1, 2, 2)", ".chunk(2)[0]", ".detach()", ".mT", "[:]"]
WRITES = [".add_(1)", ".mul_(0.5)", ".zero_()", ".fill_(2)", ".clamp_(-1, 1)", ".neg_()", ".sub_(lr)", ".copy_(torch.ones(1))", ".tanh_()", ".div_(3)",
          ".addcmul_(torch.ones(1), torch.ones(1), value=0.3)", ".lerp_(torch.ones(()), 0.5)", ".masked_fill_(torch.tensor(True), 0.2)", ".square_()"]
# The gradient of a gradient in the argument of a function.
TWICE = """def twice(torch, f, x):
    x = x.detach().clone().requires_grad_()
    y = f(x)
    g, = torch.autograd.grad(y.sum() * 0.5 + y.square().sum(), x, create_graph=True, allow_unused=True)
    return x.detach() if g is None or not g.requires_grad else torch.autograd.grad(g.square().sum(), x, allow_unused=True)[0]
"""
LARGEST = 96  # elements of a value


class Writer(wide_programs.Writer):
    """Writes one program, with PyTorch at hand."""

    def __init__(self, seed: int, size: int) -> None:
        super().__init__(seed, size)
        self.seed = seed

    def attempt_on_torch(self, expr: str) -> tuple[tuple[int, ...], str] | None:
        """Return shape and dtype of an expression after the program so far, or None if it should not be written."""
        shapes = [self.vars[0].shape, self.vars[1].shape]
        space: dict[str, Any] = {}
        exec(TWICE + "\n".join(["def step(torch, F, w, k):", *self.lines, f"    return {expr}"]), space)
        r = np.random.default_rng(self.seed)
        state = torch.get_rng_state()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                w = world(torch, shapes, r, self.seed)
                w.x, w.y = (torch.tensor(r.standard_normal(s).astype(np.float32)) for s in shapes)
                w.i = torch.tensor(r.integers(0, 100, 3))
                value = space["step"](torch, torch.nn.functional, w, 0)
        except Exception:
            return None
        finally:
            torch.set_rng_state(state)
        dtype = str(value.dtype)[6:] if torch.is_tensor(value) else ""
        if dtype not in (*wide_programs.FLOATS, *wide_programs.INTS, "bool") or value.numel() > LARGEST or value.dim() > 4:
            return None
        return (tuple(value.shape), dtype) if not value.numel() or value.double().abs().max() < 50 else None

    def expression(self) -> str | None:
        """Return an operator of the tables on variables of the program."""
        x = self.float(dtype=None)
        if x is None:
            return None
        text = self.r.choices(list(GROUPS), list(GROUPS.values()))[0]
        y, z = self.like(x), self.pick(lambda v: v.dtype == x.dtype)
        d = self.r.randrange(-len(x.shape), len(x.shape)) if x.shape else 0
        return text.format(x=x.name, y=y.name, z=(z or x).name, d=d, i=f"(w.i % {max(1, x.shape[0] if x.shape else 1)})")

    def operator(self) -> None:
        expr = self.expression()
        found = expr and self.attempt_on_torch(expr)
        if expr and found:
            self.new(expr, *found, own=self.r.random() < 0.5 and ".expand(" not in expr)

    def curvature(self) -> None:
        x, expr = self.float(), self.expression()
        if x is None or expr is None or x.name not in expr:
            return
        expr = f"twice(torch, lambda z: {expr.replace(x.name, 'z')}, {x.name})"
        found = self.attempt_on_torch(expr)
        if found:
            self.new(expr, *found, own=False)

    def write_through_views(self) -> None:
        x = self.pick(lambda v: v.own and v.floating and len(v.shape) > 0)
        if x is None:
            return
        line = x.name + "".join(self.r.choices(VIEWS, k=self.r.randint(1, 4))) + self.r.choice(WRITES)
        if self.attempt_on_torch(f"({line}, {x.name})[1]"):
            self.emit(line)

    def step(self) -> None:
        chosen = self.r.choices([self.operator, self.curvature, self.write_through_views, super().step], [6, 1, 2, 5])[0]
        chosen()


def source(seed: int, size: int = 14) -> str:
    """Return program number `seed`."""
    return TWICE + Writer(seed, size).program()
