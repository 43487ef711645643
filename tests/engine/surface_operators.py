"""What random programs over the whole surface are made of: operators by how often people use them, views, writes.

In an expression, {x} and {y} are tensors of one shape and dtype, {z} is any, {d} a dimension of x, and {i} are positions
along dimension 0. PyTorch decides which of them a program can have; so any expression can stand here.
"""
from __future__ import annotations

# The groups follow how often public repositories call a symbol: over 100 times, over 10 times, less.
OFTEN = """{x}.sum({d}) | {x}.mean({d}) | {x}.max({d})[0] | {x}.view(-1) | {x}.reshape(-1, 1)
{x}.unsqueeze({d}) | {x}.squeeze({d}) | {x}.transpose(0, -1) | {x}.permute(*range({x}.dim())) | {x}.flatten()
{x}.detach() | {x}.contiguous() | {x}.clone() | {x}.norm() | {x}.split(1, {d})[0] | {x}.chunk(2, {d})[-1]
{x}.repeat(2, *[1] * ({x}.dim() - 1)) | {x}.expand(2, *{x}.shape) | {x}.t() | {x} + {y} | {x} * {z}
{x}.softmax({d}) | {x}.relu() | {x}.sigmoid() | {x}.tanh() | {x}.sin() | {x}.cos() | {x}.abs().log1p()
{x}.exp().clamp(max=5) | {x}.argmax({d}) | torch.cat([{x}, {y}], {d}) | torch.stack([{x}, {y}], {d})
torch.zeros_like({x}) | torch.ones_like({x}) * {x} | torch.matmul({x}, {z}) | torch.where({x} > {y}, {x}, {y})
torch.einsum('...i,...i->...', {x}, {y}) | {x}.type_as({z}) | F.pad({x}, (1, 0)) | torch.arange({x}.shape[0])
torch.full({x}.shape, 0.5) | F.cross_entropy({x}, {x}.argmax(1) * 0) | F.mse_loss({x}, {y})
F.normalize({x} + 0.3, dim={d}) | F.interpolate({x}[None], scale_factor=2)
torch.from_numpy({x}.detach().numpy()) + {x} | {x}.masked_fill({y} > 0, 0.2) | {x}.dim() * {x}"""
SOMETIMES = """{x}.pow(2) | {x}.abs().pow(0.5) | {x}.min({d})[0] | {x}.std({d}, unbiased=False)
{x}.var({d}, unbiased=False) | {x}.clamp(-0.5, 0.5) | ({x} > 0).all({d}) | ({x} > 0).any({d})
{x}.gather({d}, torch.zeros_like({x}, dtype=torch.long)) | {x}.expand_as({y}) | {x}.double() | {x}.cumsum({d})
{x}.rsqrt().nan_to_num(0, 1, 1).clamp(max=2) | {x}.abs().sqrt() | {x}.eq({y}) | {x}.div({y}.abs() + 1)
{x}.repeat_interleave(2, {d}) | {x}.mul({y}) | {x}.scatter({d}, torch.zeros_like({x}, dtype=torch.long), 0.5)
{x}.topk(1, {d})[0] | {x}.view_as({y}) | {x}.sort({d})[0] | {x}.index_select(0, {i}) | {x}.unbind({d})[0]
{x}.dot({y}) | {x}.clip(0, 1) | {x}.half().float() | {x}.bfloat16() | {x}.prod({d}) | {x}.unfold({d}, 2, 1)
{x}.flip({d}) | {x}.mm({z}) | {x}.tile(2) | {x}.new_ones({x}.shape) + {x} | {x}.new_full((2,), 3.0)
{x}.amax({d}) | {x}.amin({d}) | {x}.addcmul({y}, {y}, value=0.3) | {x}.triu() | {x}.tril(1)
{x}.addcdiv({y}, {y}.abs() + 1, value=lr) | {x}.unflatten({d}, (1, -1)) | torch.linspace(0, 1, 4)
torch.outer({x}, {y}) | torch.isclose({x}, {y}) | torch.bmm({x}, {x}.mT) | torch.add({x}, {y}, alpha=0.5)
torch.meshgrid({x}, {y}, indexing='ij')[0] | torch.diag({x}) | torch.maximum({x}, {y}) | torch.eye(3)
torch.isfinite({x}) | torch.view_as_complex({x}).abs() | torch.linalg.vector_norm({x} + 0.1, dim={d})
torch.cdist({x}, {x} + 1) | F.log_softmax({x}, {d}) | F.silu({x}) | F.gelu({x}) | F.softplus({x})
F.one_hot({i}, {x}.shape[0]) | F.nll_loss({x}, {x}.argmax(1) * 0) | F.elu({x}) | F.max_pool2d({x}[None], 2)
F.avg_pool2d({x}[None], 2) | F.adaptive_avg_pool2d({x}[None], 1) | F.layer_norm({x}, {x}.shape[-1:])
F.l1_loss({x}, {y}) | F.smooth_l1_loss({x}, {y}) | F.conv1d({x}[None], {x}[:2, None, :2], groups=1)
F.scaled_dot_product_attention({x}[None].clone(), {y}[None], {y}[None]) | torch._foreach_mul([{x}, {y}], 2.0)[1]
torch._foreach_add([{x}, {y}], [{y}, {x}])[0] | torch.polar({x}.abs() + 0.1, {y}).real"""
SELDOM = """{x}.logsumexp({d}) | {x}.square() | {x}.argmin({d}) | {x}.floor() * 0 + {x} | {x}.mv({z})
{x}.movedim(0, -1) | {x}.roll(1, {d}) | {x}.take({i}) | {x}.median({d})[0] | {x}.reshape_as({y})
{x}.swapaxes(0, -1) | {x}.narrow({d}, 0, 1) | {x}.select({d}, -1) | {x}.renorm(2, 0, 1.5)
{x}.fmod({y}.abs() + 1) | {x}.fmax({y}) | {x}.fmin({y}) | {x}.lerp({y}, 0.3)
{x}.index_add(0, {i}, {x}[{i}], alpha=0.5) | {x}.index_fill(0, {i}, 2) | {x}.index_copy(0, {i}[:1], {x}[:1])
{x}.expm1().clamp(max=3) | {x}.erf() | {x}.erfc() | {x}.atan() | {x}.sinh().clamp(-3, 3) | {x}.asinh()
{x}.exp2() | {x}.nanmean({d}) | {x}.nansum({d}) | {x}.trace() | {x}.cumprod({d}) | {x}.logcumsumexp({d})
{x}.cummax({d})[0] | {x}.diff(dim={d}) | {x}.kthvalue(1, {d})[0] | {x}.aminmax(dim={d})[1]
{x}.std_mean({d})[1] | {x}.hypot({y} + 1) | {x}.atan2({y}.abs() + 1) | {x}.copysign({y}) | {x}.logaddexp({y})
{x}.xlogy({y}.abs() + 1) | {x}.sinc() | {x}.frac() | {x}.logit(0.1) | {x}.tensor_split(2, {d})[0]
{x}.hsplit(2)[1] | {x}.rot90() | {x}.fliplr() | {x}.diagonal() | {x}.diag_embed()
{x}.take_along_dim({x}.argsort({d}), {d}) | {x}.masked_scatter({y} > 0, {y}) | {x}.where({y} > 0, 0.1)
{x}.scatter_add({d}, torch.zeros_like({x}, dtype=torch.long), {y}) | {x}.rad2deg() * 0.01
{x}.scatter_reduce({d}, torch.zeros_like({x}, dtype=torch.long), {y}, 'mean')
{x}.index_reduce(0, {i}, {x}[{i}], 'amax') | {x}.cross({y}, {d}) | {x}.inner({y})
torch.addmm({x}[:, :1], {x}, {x}.mT, beta=0.5) | torch.baddbmm({x} @ {x}.mT, {x}, {x}.mT)
torch.kron({x}, {x}[:1]) | torch.tensordot({x}, {y}, 1) | torch.vdot({x}, {y}) | torch.cov({x})
torch.corrcoef({x} + torch.eye(4, 6)) | torch.trapezoid({x}, dim={d})
torch.cumulative_trapezoid({x}, dim={d}) | torch.gradient({x})[0] | torch.vander({x})
torch.block_diag({x}, {y}) | torch.cartesian_prod({x}, {x}) | torch.combinations({x})
torch.broadcast_tensors({x}, {z})[0] | torch.hstack([{x}, {y}]) | torch.dstack([{x}, {y}])
torch.bucketize({x}, torch.tensor([-0.5, 0.4])) | torch.searchsorted(torch.tensor([-0.5, 0.4]), {x})
torch.fft.rfft({x}).abs() | torch.fft.fft({x}).real | torch.quantile({x}, 0.4, {d})
torch.linalg.norm({x} + 0.2) | torch.linalg.det({x} @ {x}.mT + torch.eye(4))
torch.linalg.inv({x} @ {x}.mT + 2 * torch.eye(4)) | torch.linalg.matrix_power({x} @ {x}.mT * 0.3, 2)
torch.linalg.solve({x} @ {x}.mT + 2 * torch.eye(4), {x})
torch.linalg.cholesky({x} @ {x}.mT + 2 * torch.eye(4)) | torch.linalg.slogdet({x} @ {x}.mT + torch.eye(4))[1]
torch.special.entr({x}.abs() + 0.1) | torch.special.i0e({x}) | torch.special.log_ndtr({x})
torch.lgamma({x}.abs() + 0.5) | torch.digamma({x}.abs() + 0.5) | torch.complex({x}, {y}).angle()
F.leaky_relu({x}, 0.1) | F.relu6({x}) | F.hardtanh({x}) | F.hardswish({x}) | F.mish({x}) | F.selu({x})
F.celu({x}) | F.logsigmoid({x}) | F.softsign({x}) | F.tanhshrink({x}) | F.glu({x})
F.threshold({x}, 0.1, 0.2) | F.cosine_similarity({x}, {y} + 1, dim={d}) | F.pairwise_distance({x}, {y} + 1)
F.kl_div({x}.log_softmax(-1), {y}.softmax(-1), reduction='batchmean') | F.group_norm({x}[None], 2)
F.rms_norm({x}, {x}.shape[-1:], eps=0.1) | F.instance_norm({x}[None], eps=0.1)
F.batch_norm({x}, None, None, training=True, eps=0.1) | F.local_response_norm({x}[None], 2)
F.avg_pool1d({x}, 2) | F.max_pool1d({x}, 2, 1, 1) | F.lp_pool1d({x}.abs() + 0.1, 2, 2)
F.adaptive_max_pool2d({x}[None], 2) | F.conv_transpose1d({x}[None], {x}[:, None, :2])
F.conv2d({x}[None, None], {x}[None, None, :2, :2])
F.pixel_shuffle({x}[..., None].expand(4, 6, 4).permute(2, 0, 1), 2) | F.unfold({x}[None, None], 2)
F.grid_sample({x}[None, None], {x}[None, :, :4].unflatten(2, (2, 2)).tanh(), align_corners=False)
F.triplet_margin_loss({x}, {y} + 1, {y} - 1) | F.poisson_nll_loss({x}, {y}.abs())
F.gaussian_nll_loss({x}, {y}, {y}.abs() + 1) | F.huber_loss({x}, {y}) | F.soft_margin_loss({x}, {y}.sign())
F.multi_margin_loss({x}, {x}.argmax(1) * 0) | F.binary_cross_entropy({x}.sigmoid(), {y}.sigmoid())
F.embedding({i}, {x}) | F.embedding_bag({i}[None], {x})
F.bilinear({x}, {x}, {x}[None, :, :1] * torch.ones(6))
torch.func.grad(lambda t: (t.sin() * t).sum())({x}.detach()) | torch.func.vjp(torch.tanh, {x}.detach())[0]
torch.signal.windows.hann(4) * {x}[..., :4] | torch.masked.sum({x}, {d}, mask={y} > 0)
{x}.acos().nan_to_num(0.5) | {x}.acosh().nan_to_num(0.5) | {x}.asin().nan_to_num(0.5)
{x}.clamp(-0.9, 0.9).atanh() | {x}.cosh().clamp(max=4) | {x}.tan().clamp(-3, 3)
torch.addmv({x}[:, 0], {x}, {x}[0]) | torch.addr({x}, {x}[:, 0], {x}[0], alpha=0.5)
torch.addbmm({x}[0] @ {x}[0].mT, {x}, {x}.mT) | torch.argwhere({x} > 0) | {x}.mH | {x}.adjoint()
torch.as_strided({x}, (min(2, {x}.numel()),), (1,))
torch.as_strided_scatter({x}.detach(), {x}.detach().flatten()[:2], (2,), (1,)) | torch.atleast_2d({x})
torch.atleast_3d({x}) | {x}.ravel() | torch.bincount({x}.detach().abs().long().flatten()) | {x} & {y}
{x}.bitwise_or({y}) | {x} ^ {y} | ~{x} | {x} << 1 | {x} >> 1 | {x}.bitwise_not() | {x} // 2 | {x} % 3
7 // ({x}.abs() + 1) | 3 % ({x}.abs() + 1) | 2 ** {x}.clamp(-3, 3) | {x} // ({y}.abs() + 1)
{x} % ({y}.abs() + 1) | {x}.remainder(0.7) | {x}.floor_divide(2) | 1 - {x} | 2 / ({x}.abs() + 1)
torch.div({x}, {y}.abs() + 1, rounding_mode='trunc') | torch.div({x}, 0.3, rounding_mode='floor')
{x}.float_power(2) | {x}.true_divide(3) | {x}.ceil() | {x}.trunc() | {x}.char() | {x}.short() | {x}.int()
{x}.byte() | {x}.bool() | {x}.half() | {x}.cfloat() | {x}.cdouble() | {x}.long() | {x}.to(torch.int16)
{x}.real | {x}.imag | {x}.conj() | {x}.conj_physical() | {x}.angle() | {x}.sgn() | {x}.sign()
torch.view_as_real({x}) | {x}.abs() | {x} * 1j | {x} + 2j | torch.complex({x}, {y}) | {x}.isreal()
{x}.resolve_conj() | {x}.clamp_min({y}) | {x}.clamp_max(0.3) | torch.clamp({x}, {y}, {y} + 1)
{x}.cummin({d})[0] | {x}.cummin({d})[1] | {x}.cummax({d})[1] | torch.column_stack([{x}, {y}])
F.channel_shuffle({x}[None, :, None], 2) | F.hardsigmoid({x}) | F.hardshrink({x}, 0.3)
F.softshrink({x}, 0.2) | F.softmin({x}, {d}) | F.prelu({x}, {y}.flatten()[:1]) | F.rrelu({x})
F.adaptive_avg_pool1d({x}, 2) | F.adaptive_max_pool1d({x}, 2) | F.adaptive_avg_pool3d({x}[None], 2)
F.avg_pool3d({x}[None], 2) | F.max_pool3d({x}[None], (1, 2, 2)) | F.dropout({x}, 0.5, False)
F.max_unpool1d(*F.max_pool1d({x}, 2, return_indices=True), 2) | F.pixel_unshuffle({x}[None, :2, :2], 2)
F.conv3d({x}[None], {x}[None, None, :1, :2, :2]) | F.pdist({x})
F.conv_transpose2d({x}[None, None], {x}[None, None, :2, :2], stride=2)
F.conv1d({x}[None], {x}[:, :1, None] * torch.ones({x}.shape[0], 3), padding='same')
F.interpolate({x}[None, None], size=(3, 5), mode='bilinear')
F.interpolate({x}[None], size=4, mode='linear', align_corners=True)
F.interpolate({x}[None, None], scale_factor=1.5, mode='bicubic')
F.interpolate({x}[None, None], size=(2, 3), mode='area')
F.cosine_embedding_loss({x}, {y} + 1, torch.ones({x}.shape[0])) | F.hinge_embedding_loss({x}, {y}.sign())
F.margin_ranking_loss({x}, {y}, torch.ones(1)) | F.multilabel_soft_margin_loss({x}, ({y} > 0).float())
F.cross_entropy({x}, {x}.argmax(1) * 0, label_smoothing=0.1, ignore_index=-1)
F.multilabel_margin_loss({x}, ({y} > 0).long() * 0)
F.ctc_loss(({x} * torch.ones({x}.shape[0], 6))[:, None].log_softmax(-1), torch.tensor([[1, 2]]), [{x}.shape[0]], [2]) | {x}.deg2rad()
{x}.diagflat() | {x}.diagonal_scatter({x}.diagonal() * 2) | {x}.select_scatter({x}.select({d}, 0) * 2, {d}, 0)
{x}.slice_scatter({x}[:1] * 2, 0, 0, 1) | {x}.dist({y} + 1) | torch.equal({x}, {y}) * {x}
torch.special.erfcx({x}).clamp(max=3) | {x}.clamp(-0.9, 0.9).erfinv() | torch.empty_like({x}).fill_(0.5)
{x}.new_zeros(3) | torch.full_like({x}, 2) | {x}.flipud() | torch.fft.fft2({x}).abs() | torch.fft.ifft({x})
torch.fft.irfft({x}.cfloat()) | torch.fft.hfft({x}) | torch.fft.ihfft({x}) | torch.fft.rfft2({x})
torch.fft.fftn({x}, norm='ortho') | torch.fft.fftshift({x}) | torch.fft.irfft2({x}.cfloat())
torch.frexp({x})[0] | {x}.gcd({y}) | {x}.lcm({y}.abs() + 1) | {x} >= {y} | {x} < {y} | {x}.le(0.3)
{x}.ne({y}) | {x}.detach().heaviside({y}.detach()) | {x}.histc(4, -2, 2) | {x}.i0() | torch.special.i1({x})
torch.special.i1e({x}) | torch.special.ndtr({x}) | torch.special.ndtri({x}.sigmoid())
torch.special.zeta({x}.abs() + 1.5, 2) | torch.special.xlog1py({x}, {y}.abs())
torch.special.polygamma(1, {x}.abs() + 1) | torch.special.chebyshev_polynomial_t({x}.detach(), 3)
torch.special.gammaincc({x}.abs().detach() + 0.5, {y}.abs() + 0.5) | torch.special.logit({x}.sigmoid())
torch.mvlgamma({x}.abs() + 2, 2) | torch.special.expit({x}) | torch.isin({x}, {y}) | torch.isinf({x})
torch.isnan({x}) | {x}.isneginf() | {x}.signbit() | {x}.detach().nextafter({y}.detach()) | torch.kaiser_window(4) * {x}[..., :4]
torch.hann_window(6) * {x} | {x}.ldexp({y}.long().clamp(0, 2)) | ({x}.abs() + 1).log()
({x}.abs() + 1).log2() | ({x}.abs() + 1).log10() | {x}.logaddexp2({y})
torch.logdet({x} @ {x}.mT + 3 * torch.eye(4)) | ({x} > 0).logical_or({y} > 0) | {x}.logical_xor({y})
{x}.logical_and({y}) | torch.linalg.qr({x} @ {x}.mT + 2 * torch.eye(4))[1].abs().contiguous()
torch.linalg.eigvalsh({x} @ {x}.mT + torch.diag(torch.arange(4.0)))
torch.linalg.svdvals({x} + torch.eye(4, 6))
torch.linalg.eigh({x} @ {x}.mT + torch.diag(torch.arange(4.0)))[0] | torch.linalg.pinv({x} + torch.eye(4, 6))
torch.linalg.lstsq({x}, {y})[0].contiguous() | torch.linalg.matrix_exp({x} @ {x}.mT * 0.1)
torch.linalg.matrix_norm({x} + 0.1) | torch.linalg.multi_dot([{x}, {x}.mT, {x}])
torch.linalg.vecdot({x}, {y}) | torch.linalg.solve_triangular({x}.tril() + 3 * torch.eye(4), {y}, upper=False)
torch.cholesky_solve({x}, 2 * torch.eye(4)) | torch.linalg.lu_factor({x} + 3 * torch.eye(4))[0]
torch.linalg.vander({x}) | torch.linalg.cross({x}, {y})
torch.linalg.tensorinv({x}[:4, :4] + 3 * torch.eye(4), ind=1) | {x}.masked_select({y} > 0) | {x}[{y} > 0]
{x}[{x} > 0].sum() | {x}.gt(0.01).nonzero() | {x}.unique() | {x}.unique_consecutive() | {x}.msort()
{x}.argsort({d}, stable=True) | torch.unique({x}.round(), return_counts=True)[1] | {x}.nanmedian()
{x}.nanquantile(0.3, {d}) | {x}.quantile(torch.tensor([0.2, 0.7])) | {x}.mode({d})[0] | {x}.median()
{x}.max() | {x}.min() | {x}.argmax() | {x}.aminmax()[0] | {x}.positive() | {x}.put({i}, {x}.flatten()[:3])
{x}.index_put(({i},), {x}[:1].detach(), accumulate=True) | {x}[{i}, ..., 0] | {x}[..., None, 0]
{x}[{i}[:, None], {i}[None] * 0] | {x}[:, {i} * 0] | {x}[None, {i}] | {x}[torch.tensor(True)]
{x}.sub({y}, alpha=2) | {x}.rsub(1) | {x}.split_with_sizes([1, {x}.shape[0] - 1])[1]
{x}.sum_to_size(*{x}.shape[1:]) | {x}.squeeze() | {x}.unsqueeze(-1).squeeze(-1) | torch.trapz({x})
torch.tril_indices(3, 3) | torch.var_mean({x}, {d}, unbiased=False)[0] | {x}.vsplit(2)[0]
torch.vstack([{x}, {y}]) | {x}.permute_copy(*range({x}.dim())) | {x}.unfold_copy({d}, 1, 1)
torch.stft({x}, 4, return_complex=True, window=torch.ones(4), center=False)
torch.randint(0, 9, {x}.shape) | torch.randperm(5)
torch.bernoulli(torch.ones_like({x})) | torch.poisson(torch.zeros_like({x})) | {x}.sum(dtype=torch.float64)
{x}.mean((0, -1)) | {x}.sum() | {x}.mean() | {x}.prod() | {x}.var() | {x}.std({d}) | {x}.norm(1, {d})
{x}.norm(float('inf'), {d}) | {x}.gt(0.01).count_nonzero({d}) | {x}.cumsum({d}, dtype=torch.float64)
{x}.softmax({d}, dtype=torch.float64) | {x}.all() | {x}.any() | {x} == {z} | {x} + {z} | {x} - {z}
{x} / ({z}.abs() + 1) | {z} @ {x} | torch.minimum({x}, {z}) | torch.where({x} > 0, {x}, 0.5)
torch.where({x} > 0, {x}, {z}) | torch.cat([{x}, {z}]) | torch.stack([{x}, {z}])
torch.result_type({x}, {z}).itemsize * {x} | {x}.type(torch.bfloat16) * 2
torch.tensor(0.5, dtype=torch.float64) * {x} | torch.tensor([2]) * {x}
torch.nn.utils.parameters_to_vector([{x}, {y}]) | torch.linalg.diagonal({x})
F.scaled_dot_product_attention({x}[None].clone(), {y}[None], {y}[None], is_causal=True)
F.multi_head_attention_forward({x}[:, None], {x}[:, None], {x}[:, None], 6, 2, torch.ones(18, 6) * 0.1, None, None, None, False, 0.0, torch.eye(6), None)[0]"""
# {f} is an expression of z; x stands for the tensor.
TRANSFORMS = """torch.func.vmap(lambda z: {f})({x})
torch.func.vmap(lambda z: {f}, in_dims=-1, out_dims=-1)({x}) | torch.func.grad(lambda z: ({f}).sum())({x})
torch.func.vmap(torch.func.grad(lambda z: ({f}).square().sum()))({x})
torch.func.jvp(lambda z: {f}, ({x},), (torch.cos({x}),))[1]
torch.func.vmap(torch.func.vmap(lambda z: {f}))({x})
(lambda y, back: back(torch.cos(y))[0])(*torch.func.vjp(lambda z: {f}, {x}))
torch.func.jacrev(lambda z: {f})({x}) | torch.func.jacfwd(lambda z: {f})({x})
torch.func.hessian(lambda z: ({f}).square().sum())({x})
torch.func.linearize(lambda z: ({f}) * 1.5, {x}.detach())[1](torch.cos({x}))
torch.autograd.functional.jvp(lambda z: {f}, {x}, torch.ones_like({x}))[1]
torch.autograd.functional.hvp(lambda z: ({f}).square().sum(), {x}, {x}.detach())[1]
torch.func.vmap(lambda z, c: ({f}) * c, in_dims=(0, None))({x}, {x}[0])
torch.func.grad(lambda z: torch.func.grad(lambda z: ({f}).square().sum())(z).sum())({x})
torch.func.grad_and_value(lambda z: ({f}).mean())({x})[0]
torch.func.jvp(torch.func.grad(lambda z: ({f}).square().sum()), ({x},), (torch.ones_like({x}),))[1]
torch.func.vmap(torch.func.jacrev(lambda z: {f}))({x})
torch.autograd.functional.jacobian(lambda z: {f}, {x})
torch.vmap(lambda v: torch.func.jvp(lambda z: {f}, ({x},), (v,))[1])(torch.stack([torch.ones_like({x}), {x}.detach()]))
torch.func.vmap(lambda z: {f}, chunk_size=2)({x})
torch.func.functional_call(w.m['linear6'], {{'weight': w.m['linear6'].weight * 2}}, ({f},))
torch.utils.checkpoint.checkpoint(lambda z: ({f}) * 1.5, {x}, use_reentrant=False)"""
# What writes its result into a tensor that is given.
OUT = """torch.sin({x} | torch.exp({x} | torch.sum({x}, {d} | torch.mean({x}, {d} | torch.matmul({x}, {z}
torch.cat([{x}, {y}], {d} | torch.stack([{x}, {y}] | torch.maximum({x}, {y} | torch.cumsum({x}, {d}
torch.clamp({x}, -0.5, 0.5 | torch.where({x} > 0, {x}, {y} | torch.index_select({x}, 0, {i}
torch.add({x}, {z}, alpha=2 | torch.mul({x}, {z} | torch.abs({x} | torch.logical_not({x} | torch.eq({x}, {z}
torch.amax({x}, {d} | torch.norm({x}, dim={d} | torch.tril({x} | torch.prod({x}, {d} | torch.floor({x}
torch.gather({x}, 0, {i}[:1].expand([1] * {x}.dim()) | torch.bmm({x}, {x}.mT | torch.lerp({x}, {y}, 0.3
torch.pow({x}, 2 | torch.argmax({x}, {d} | torch.div({x}, {z} | torch.sub({x}, 1.5 | torch.neg({x}
torch.addmm({x}[:, :1], {x}, {x}.mT | torch.softmax({x}, {d} | torch.sigmoid({x} | torch.all({x}, {d}
torch.cumprod({x}, {d} | torch.addcmul({x}, {y}, {y} | torch.std({x}, {d} | torch.remainder({x}, 0.7
torch.bitwise_and({x}, {y} | torch.diag({x} | torch.real({x} | torch.gt({x}, {y} | torch.linalg.norm({x} + 0.2
torch.var({x}, {d} | torch.logsumexp({x}, {d} | torch.take({x}, {i} | torch.arange(3"""
VIEWS = """.t() | [1:] | .unsqueeze(0) | .transpose(0, -1) | [..., ::2] | .view(-1) | .diagonal() | [None] | .select(0, 0)
.squeeze(0) | .narrow(-1, 0, 1) | .unflatten(0, (1, -1)) | .movedim(0, -1) | [..., -1:] | .unfold(-1, 2, 2) | .chunk(2)[0]
.detach() | .mT | [:] | .real | .detach().as_strided((2,), (1,)) | .split(1)[0] | .unbind(0)[-1] | .swapaxes(0, -1)
.flatten() | .squeeze() | .T | [0] | [:, 1:] | .tensor_split(2)[1]"""
WRITES = """.add_(1) | .mul_(0.5) | .zero_() | .fill_(2) | .clamp_(-1, 1) | .neg_() | .sub_(lr) | .copy_(torch.ones(1)) | .tanh_() | .div_(3)
.addcmul_(torch.ones(1), torch.ones(1), value=0.3) | .lerp_(torch.ones(()), 0.5) | .masked_fill_(torch.tensor(True), 0.2) | .square_()
.sigmoid_() | .cumsum_(0) | .add_({y}) | .mul_({z}) | .copy_({z}) | .abs_() | .pow_(2) | .sub_({z}, alpha=0.5) | .relu_()
.index_fill_(0, torch.tensor([0]), 1) | .index_add_(0, torch.tensor([0]), {z}[:1]) | .scatter_(0, torch.tensor([0]), 0.5) | .detach().logical_not_()
.index_copy_(0, torch.tensor([0]), {z}[:1]) | .bitwise_xor_(3) | .round_() | .detach().eq_(0) | .masked_fill_({y} > 0, 0.1) | .tril_() | .sin_().cos_()
[...] = {z} | [0] = {z} | [..., -1] = 0.5 | [torch.tensor([0])] = 1 | [:1] += {z} | [...] *= 2 | .clamp_min_(0.1)"""


def entries(table: str) -> list[str]:
    """Return the expressions of a table."""
    return table.replace("\n", " | ").split(" | ")
