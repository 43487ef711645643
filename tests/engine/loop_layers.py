"""What the networks of random training loops are made of: layers as text, by what they take and give.

A row is (init, forward, out), and a condition where it has one. `x` has the shape (B, d) in VECTORS, (B, T, d) in SEQUENCES,
(B, d, H, W) in IMAGES; `out` and the condition are expressions over `d`, a tuple says what else `x` becomes. `{n}` is the name
of the layer, `{l}` its attribute, `{e}` a size, `{act}` a function, `{c}` a small number: the same in a whole row.
"""
from __future__ import annotations

SIZES = (4, 6, 8)
ACTS = ("F.relu", "m.tanh", "m.sigmoid", "F.gelu", "F.elu", "F.silu", "F.softplus", "F.leaky_relu", "m.sin", "F.hardtanh",
        "F.mish", "F.relu6", "F.softsign")
Row = tuple[str, ...]

# Custom functions and modules that layers name: written into a program where it does.
HELPERS = {
    "Cube": """
class Cube(m.autograd.Function):
    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        return a ** 3
    @staticmethod
    def backward(ctx, g):
        a, = ctx.saved_tensors
        return g * 3 * a * a""",
    "Through": """
class Through(m.autograd.Function):
    @staticmethod
    def forward(ctx, a, scale):
        ctx.scale = scale
        return (a * scale).round() / scale
    @staticmethod
    def backward(ctx, g):
        return g, None""",
    "Reverse": """
class Reverse(m.autograd.Function):
    @staticmethod
    def forward(ctx, a):
        return a.view_as(a)
    @staticmethod
    def backward(ctx, g):
        return g.neg() * 0.5""",
    "Affine": """
class Affine(m.autograd.Function):
    @staticmethod
    def forward(ctx, a, w, b):
        y = a * w + b
        ctx.save_for_backward(a, w, y)
        return y, y.sum(-1)
    @staticmethod
    def backward(ctx, g, s):
        a, w, y = ctx.saved_tensors
        g = g + s.unsqueeze(-1)
        n = tuple(range(g.dim() - 1))
        return g * w, (g * a).sum(n), g.sum(n) if ctx.needs_input_grad[2] else None""",
    "Drop": """
class Drop(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p = p
    def forward(self, x):
        if not self.training:
            return x
        return x * (m.rand_like(x) > self.p) / (1 - self.p)""",
    "Symmetric": """
class Symmetric(nn.Module):
    def forward(self, w):
        return w.triu() + w.triu(1).transpose(-1, -2)""",
    "Block": """
class Block(nn.Module):
    def __init__(self, d, e):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(d), nn.Linear(d, e), nn.Linear(e, d, bias=False)
        self.scale = nn.Parameter(m.full((d,), 0.5))
    def forward(self, x):
        return x + self.scale * self.down(F.gelu(self.up(self.norm(x))))""",
}

VECTORS: list[Row] = [
    ("{l} = nn.Linear({d}, {e})", "x = {l}(x)", "{e}"),
    ("{l} = nn.Linear({d}, {e}, bias=False)", "x = {act}({l}(x))", "{e}"),
    ("{l} = nn.Linear({d}, {e})", "x = F.linear({l}(x), {l}.weight.t())", "d"),
    ("{l} = nn.Linear({d}, {d})", "x = x + {act}({l}(x))", "d"),
    ("{l} = nn.Linear({d}, {d})", "h = {l}(x)\nh += x\nx = h", "d"),
    ("{l} = nn.Linear({d}, {d})", "x = {l}({act}({l}(x)))", "d"),
    ("{l} = nn.Linear({d}, 2 * {e})", "a, b = {l}(x).chunk(2, -1)\nx = a * b.sigmoid()", "{e}"),
    ("{l} = nn.Linear({d}, 2 * {e})", "x = F.glu({l}(x))", "{e}"),
    ("{l} = nn.Sequential(nn.Linear({d}, {e}), nn.ReLU(inplace=True), nn.Linear({e}, {d}))", "x = {l}(x)", "d"),
    ("{l} = nn.Sequential(nn.Linear({d}, {e}), nn.BatchNorm1d({e}), nn.Tanh())", "x = {l}(x)", "{e}"),
    ("{l} = Block({d}, {e})", "x = {l}(x)", "d"),
    ("{l} = nn.ModuleList([Block({d}, {e}) for _ in range(2)])", "for f in {l}:\n    x = f(x)", "d"),
    ("{l} = nn.ModuleList([nn.Linear({d}, {d}) for _ in range(3)])",
     "for i, f in enumerate({l}):\n    if self.training and random.random() < 0.3:\n        continue\n    x = {act}(f(x)) + x * i", "d"),
    ("{l} = nn.ModuleDict({'a': nn.Linear({d}, {d}), 'b': nn.Tanh()})", "x = {l}['b']({l}['a'](x))", "d"),
    ("{l} = nn.ParameterList([nn.Parameter(m.randn({d}) * 0.3) for _ in range(3)])",
     "for i, p in enumerate({l}):\n    x = x + x.tanh() * p * (i + 1)", "d"),
    ("{l} = nn.ParameterDict({'w': nn.Parameter(m.randn({d}, {e}) * 0.3), 'b': nn.Parameter(m.zeros({e}))})",
     "x = m.addmm({l}['b'], x, {l}['w'])", "{e}"),
    ("{l} = nn.Parameter(m.randn({d}, {e}) * 0.3)", "x = m.einsum('bd,de->be', x, {l})", "{e}"),
    ("{l} = nn.Parameter(m.randn({d}) * 0.3)", "x = x * {l}.exp() - {l}", "d"),
    ("{l} = nn.Parameter(m.tensor(0.5))", "x = {act}(x * {l})", "d"),
    ("{l} = nn.Bilinear({d}, {d}, {e})", "x = {l}(x, x.flip(1))", "{e}"),
    ("{l} = nn.LazyLinear({e})", "x = {l}(x)", "{e}"),
    ("{l} = nn.LayerNorm({d})", "x = {l}(x)", "d"),
    ("{l} = nn.RMSNorm({d})", "x = {l}(x)", "d"),
    ("{l} = nn.GroupNorm(2, {d})", "x = {l}(x)", "d"),
    ("{l} = nn.BatchNorm1d({d})", "x = {l}(x)", "d"),
    ("{l} = nn.BatchNorm1d({d}, momentum=None)", "x = {l}(x)", "d"),
    ("{l} = nn.BatchNorm1d({d}, affine=False)", "x = F.relu({l}(x), inplace=True)", "d"),
    ("{l} = nn.BatchNorm1d({d}, track_running_stats=False)", "x = {l}(x)", "d"),
    ("{l} = nn.utils.parametrizations.weight_norm(nn.Linear({d}, {e}))", "x = {l}(x)", "{e}"),
    ("{l} = nn.utils.parametrizations.spectral_norm(nn.Linear({d}, {e}))", "x = {l}(x)", "{e}"),
    ("{l} = nn.Linear({d}, {d})\nnn.utils.parametrize.register_parametrization({l}, 'weight', Symmetric())",
     "x = {l}(x)", "d"),
    ("{l} = nn.Linear({d}, {d})\nnn.utils.parametrize.register_parametrization({l}, 'weight', Symmetric())",
     "with nn.utils.parametrize.cached():\n    x = {l}(m.tanh({l}(x)))", "d"),
    ("{l} = nn.PReLU()", "x = {l}(x)", "d"),
    ("{l} = nn.PReLU({d})", "x = {l}(x)", "d"),
    ("{l} = nn.Softmax(-1)", "x = {l}(x) * {d}", "d"),
    ("{l} = Drop({c})", "x = {l}(x)", "d"),
    ("{l} = nn.Dropout(0.0)", "x = {l}(x)", "d"),
    # Buffers that forward writes.
    ("self.register_buffer('{n}', m.zeros({d}))",
     "if self.training:\n    with m.no_grad():\n        {l}.mul_(0.9).add_(x.mean(0), alpha=0.1)\nx = x - {l}", "d"),
    ("self.register_buffer('{n}', m.zeros({d}))", "{l} = 0.9 * {l} + 0.1 * x.detach().mean(0)\nx = x - {l}", "d"),
    ("self.register_buffer('{n}', m.ones(1))",
     "if self.training:\n    {l}.lerp_(x.detach().abs().max(), 0.1)\nx = x / {l}", "d"),
    ("self.register_buffer('{n}', m.zeros((), dtype=m.int64))", "{l} += 1\nx = x * (1 + {l} * 0.01)", "d"),
    ("self.register_buffer('{n}', m.zeros({d}))", "x = x - {l}\n{l}.copy_(x.detach()[0] * 0.1)", "d"),
    ("self.register_buffer('{n}', m.zeros(3, {d}))\nself.{n}_i = 0",
     "{l}[self.{n}_i % 3] = x.detach().mean(0)\nself.{n}_i += 1\nx = x + {l}.sum(0) * 0.1", "d"),
    ("self.register_buffer('{n}', m.randn(5, {d}))\nself.register_buffer('{n}_n', m.ones(5))",
     "j = m.cdist(x.detach(), {l}).argmin(1)\nif self.training:\n    with m.no_grad():\n        "
     "{l}_n.index_add_(0, j, m.ones_like(j, dtype=x.dtype))\n        {l}.index_add_(0, j, x * 0.05)\n"
     "q = {l}[j]\nx = x + (q - x).detach()", "d"),
    ("self.{n} = None", "h, self.{n} = self.{n}, x.detach()\nif h is not None and h.shape == x.shape:\n    x = x + 0.1 * h", "d"),
    ("self.{n} = 0", "self.{n} += 1\nx = x * (1 + 0.01 * self.{n})", "d"),
    # Custom functions, checkpoints, mapped functions.
    ("", "x = Cube.apply(x * 0.5)", "d"),
    ("", "x = Through.apply(x, 4)", "d"),
    ("{l} = nn.Linear({d}, {e})", "x = Reverse.apply({l}(x))", "{e}"),
    ("{l} = nn.Parameter(m.randn({d}))", "x, s = Affine.apply(x, {l}, {l} * 0.1)\nx = x + s.unsqueeze(1) * 0.1", "d"),
    ("{l} = nn.Sequential(nn.Linear({d}, {e}), nn.Tanh(), nn.Linear({e}, {d}))",
     "x = checkpoint({l}, x, use_reentrant=False)", "d"),
    ("{l} = nn.Linear({d}, {d})", "x = checkpoint(lambda a: {act}({l}(a)) + a, x, use_reentrant=False)", "d"),
    ("", "x = m.func.vmap(lambda r: r * r.sum().tanh())(x)", "d"),
    ("{l} = nn.Parameter(m.randn({d}))", "x = m.func.vmap(lambda r, w: r * w - r.mean(), (0, None))(x, {l})", "d"),
    # Writes in place, views.
    ("", "x = {act}(x).clone()\nx[:, 0] = 0", "d"),
    ("", "x = {act}(x)\nx = x.clone()\nx[:, :2] *= 2", "d"),
    ("", "x = x * 1.5\nx[:, 1:].add_(x[:, :-1].detach().clone())", "d"),
    ("", "x = x + 1\nx.masked_fill_(x.detach() > 2, 0.5)", "d"),
    ("", "x = x.clone()\nx[x > 1] = 0.0", "d"),
    ("", "x = x * 2\nx.t()[1].mul_(0.5)", "d"),
    ("", "x = x * 2\nv = x[:, 2:]\nv -= v.mean()\nx = x + v.sum(1, keepdim=True)", "d"),
    ("", "y = m.zeros_like(x)\ny[:, 1:] = x[:, :-1]\nx = x + y", "d"),
    ("", "y = m.empty_like(x)\nfor j in range({d}):\n    y[:, j] = x[:, j] * (j + 1) / {d}\nx = y", "d"),
    ("", "x = (x * 2).clamp_(-1, 1)", "d"),
    ("", "x = m.relu_(x + 0.1)", "d"),
    ("", "a, b = x.split([2, {d} - 2], 1)\nx = m.cat([b, a * 2], 1)", "d"),
    ("", "x = x.clone()\nx.view(-1)[::2] *= 0.5", "d"),
    ("", "x = m.zeros(x.shape[0], {d} + 2).index_copy(1, m.arange({d}), x)", "d + 2"),
    # Indices.
    ("self.register_buffer('{n}', m.randperm({d}))", "x = x[:, {l}]", "d"),
    ("", "x = x.gather(1, x.detach().argsort(1))", "d"),
    ("", "x = x.topk(2, 1).values", "2"),
    ("", "x = m.where(x > 0, x, {c} * x)", "d"),
    ("", "x = x.roll(1, 1) - x", "d"),
    ("", "x = x.flip(1).cumsum(1) * 0.3", "d"),
    ("", "x = m.cat([x, x ** 2], 1)", "2 * d"),
    ("", "x = m.stack([x, x.flip(1), -x]).mean(0)", "d"),
    ("", "a, *b = x.unbind(1)\nx = m.stack([c * a for c in b], 1)", "d - 1"),
    ("", "x = x.unfold(1, 3, 1).sum(2)", "d - 2"),
    ("", "i = x.detach().abs().argmax(1)\nx = x + x.gather(1, i[:, None]) * 0.5", "d"),
    ("", "i = m.arange(x.shape[0])\nx = x * x[i, i % {d}].unsqueeze(1)", "d"),
    ("", "x = m.scatter(x, 1, x.detach().argmin(1, keepdim=True), 0.5)", "d"),
    ("", "x = F.one_hot(x.detach().argmax(1), {d}) * x + x", "d"),
    ("{l} = nn.Linear({d}, 3)\nself.{n}_e = nn.ModuleList([nn.Linear({d}, {e}) for _ in range(3)])",
     "c = {l}(x).argmax(1)\ny = m.zeros(x.shape[0], {e})\nfor j, f in enumerate({l}_e):\n    i = m.where(c == j)[0]\n"
     "    y = y.index_add(0, i, f(x[i]))\nx = y", "{e}"),
    ("{l} = nn.Linear({d}, 2)\nself.{n}_e = nn.ModuleList([nn.Linear({d}, {e}) for _ in range(2)])",
     "p = {l}(x).softmax(1)\nc = p.argmax(1)\ny = m.zeros(x.shape[0], {e})\nfor j, f in enumerate({l}_e):\n    i = c == j\n"
     "    if i.any():\n        y[i] = f(x[i]) * p[i, j, None]\nx = y", "{e}"),
    # Reductions, statistics, noise, questions.
    ("", "x = x - x.mean(1, keepdim=True)", "d"),
    ("", "x = x / (x.norm(dim=1, keepdim=True) + 1)", "d"),
    ("", "x = (x - x.mean(0)) / (x.std(0) + 1)", "d"),
    ("", "x = x - m.logsumexp(x, 1, keepdim=True)", "d"),
    ("", "x = x * x.softmax(0)", "d"),
    ("", "with m.no_grad():\n    s = x.abs().amax()\nx = x / (s + 1)", "d"),
    ("", "x = F.normalize(x, dim=1) + x.var(1, keepdim=True)", "d"),
    ("", "x = x + m.cdist(x, x).mean(1, keepdim=True) * 0.1", "d"),
    ("", "x = x + (x @ x.t()).softmax(1) @ x", "d"),
    ("", "if self.training:\n    x = x + 0.1 * m.randn_like(x)", "d"),
    ("", "x = x + m.rand(x.shape[0], 1) * {c}", "d"),
    ("", "if x.detach().mean().item() > 0:\n    x = x * 0.5", "d"),
    ("", "if (x > 1.5).any():\n    x = x.clamp(max=1.5)", "d"),
    ("", "x = x * float(x.detach().abs().max() > 2) + x", "d"),
    ("", "for _ in range(random.randint(1, 3)):\n    x = {act}(x) + x * 0.5", "d"),
    ("", "x = x + (x.round() - x).detach()", "d"),
    ("", "self.aux.append(x.pow(2).mean() * 0.1)", "d"),
    ("{l} = nn.Linear({d}, 1)", "self.aux.append({l}(x.detach()).square().mean())", "d"),
    ("", "self.seen = x.detach()", "d"),
    ("", "if x.requires_grad:\n    x.retain_grad()\n    self.shown = x", "d"),
    ("", "if x.requires_grad:\n    x.register_hook(lambda g: g * {c})", "d"),
    ("", "if x.requires_grad:\n    x.register_hook(lambda g: g.clamp(-0.1, 0.1))\nx = {act}(x)", "d"),
    ("{l} = nn.Tanh()\n{l}.register_forward_hook(lambda module, args, out: out * {c})", "x = {l}(x)", "d"),
    ("{l} = nn.Linear({d}, {d})\n{l}.register_full_backward_hook(lambda module, gi, go: (gi[0] * {c},))",
     "x = {l}(x)", "d"),
    ("{l} = nn.Linear({d}, {d})\n{l}.register_forward_pre_hook(lambda module, args: (args[0] + {c},))", "x = {l}(x)", "d"),
    ("{l} = nn.Linear({d}, {d})\n{l}.weight.register_hook(lambda g: g * {c})", "x = {l}(x)", "d"),
    # Another kind.
    ("", "x = x.view(x.shape[0], 2, {d} // 2)", "('s', d // 2)", "d % 2 == 0"),
    ("", "x = x.reshape(-1, {d} // 2, 2)", "('s', 2)", "d % 2 == 0"),
    ("", "x = x[:, :, None] * m.linspace(0, 1, 3)", "('s', 3)"),
    ("", "x = x.unflatten(1, (2, 2, 2))", "('i', 2)", "d == 8"),
]

SEQUENCES: list[Row] = [
    ("{l} = nn.LSTM({d}, {e}, batch_first=True)", "x, _ = {l}(x)", "{e}"),
    ("{l} = nn.LSTM({d}, {e}, batch_first=True)", "x = {l}(x)[1][0][-1]", "('v', {e})"),
    ("{l} = nn.LSTM({d}, {e}, batch_first=True)\nself.{n}_s = None",
     "s = self.{n}_s\nif s is not None and s[0].shape[1] != x.shape[0]:\n    s = None\nx, s = {l}(x, s)\n"
     "self.{n}_s = tuple(t.detach() for t in s)", "{e}"),
    ("{l} = nn.GRU({d}, {e}, batch_first=True)\nself.{n}_s = None",
     "s = self.{n}_s\nif s is None or s.shape[1] != x.shape[0]:\n    s = m.zeros(1, x.shape[0], {e})\nx, s = {l}(x, s.detach())\n"
     "self.{n}_s = s", "{e}"),
    ("{l} = nn.GRU({d}, {e}, 2, batch_first=True)", "x, _ = {l}(x)", "{e}"),
    ("{l} = nn.GRU({d}, {e}, batch_first=True, bidirectional=True)", "x = {l}(x)[0]", "2 * {e}"),
    ("{l} = nn.RNN({d}, {e}, batch_first=True)", "x, h = {l}(x)\nx = h[-1]", "('v', {e})"),
    ("{l} = nn.RNN({d}, {e}, nonlinearity='relu')", "x = {l}(x.transpose(0, 1))[0].transpose(0, 1)", "{e}"),
    ("{l} = nn.LSTM({d}, {e})", "n = m.arange(x.shape[0]) % x.shape[1] + 1\n"
     "p = nn.utils.rnn.pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False)\n"
     "x = nn.utils.rnn.pad_packed_sequence({l}(p)[0], batch_first=True)[0]", "{e}"),
    ("{l} = nn.GRUCell({d}, {e})", "h, y = m.zeros(x.shape[0], {e}), []\nfor t in range(x.shape[1]):\n"
     "    h = {l}(x[:, t], h)\n    y.append(h)\nx = m.stack(y, 1)", "{e}"),
    ("{l} = nn.LSTMCell({d}, {e})", "h = c = m.zeros(x.shape[0], {e})\nfor t in x.unbind(1):\n    h, c = {l}(t, (h, c))\nx = h",
     "('v', {e})"),
    ("{l} = nn.RNNCell({d}, {d})", "h = m.zeros(x.shape[0], {d})\nfor t in range(x.size(1)):\n"
     "    h = {l}(x[:, t] if random.random() < 0.5 else h, h)\nx = h", "('v', d)"),
    ("{l} = nn.Linear({d}, {e})", "h = m.zeros(x.shape[0], {e})\ny = m.zeros(x.shape[0], x.shape[1], {e})\n"
     "for t in range(x.shape[1]):\n    h = m.tanh({l}(x[:, t]) + h * 0.5)\n    y[:, t] = h\nx = y", "{e}"),
    ("{l} = nn.Linear({d}, {e})", "x = {act}({l}(x))", "{e}"),
    ("{l} = nn.LayerNorm({d})", "x = {l}(x)", "d"),
    ("{l} = Block({d}, {e})", "x = {l}(x)", "d"),
    ("{l} = nn.BatchNorm1d({d})", "x = {l}(x.transpose(1, 2)).transpose(1, 2)", "d"),
    ("{l} = nn.Conv1d({d}, {e}, 3, padding=1)", "x = F.relu({l}(x.transpose(1, 2))).transpose(1, 2)", "{e}"),
    ("{l} = nn.Conv1d({d}, {d}, 2, groups={d})", "x = {l}(F.pad(x.mT, (1, 0))).mT + x", "d"),
    ("{l} = nn.MultiheadAttention({d}, 2, batch_first=True)", "x = x + {l}(x, x, x)[0]", "d", "d % 2 == 0"),
    ("{l} = nn.MultiheadAttention({d}, 2, batch_first=True)",
     "mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])\n"
     "x = x + {l}(x, x, x, attn_mask=mask, need_weights=False, is_causal=True)[0]", "d", "d % 2 == 0"),
    ("{l} = nn.MultiheadAttention({d}, 2, batch_first=True)",
     "pad = m.arange(x.shape[1]) >= (m.arange(x.shape[0]) % x.shape[1] + 1)[:, None]\n"
     "x = x + {l}(x, x, x, key_padding_mask=pad)[0]", "d", "d % 2 == 0"),
    ("{l} = nn.TransformerEncoderLayer({d}, 2, {e}, dropout=0.0, batch_first=True)", "x = {l}(x)", "d", "d % 2 == 0"),
    ("{l} = nn.TransformerEncoder(nn.TransformerEncoderLayer({d}, 2, {e}, 0.0, 'gelu', batch_first=True, "
     "norm_first=True), 2, enable_nested_tensor=False)", "x = {l}(x)", "d", "d % 2 == 0"),
    ("{l} = nn.TransformerDecoderLayer({d}, 2, {e}, dropout=0.0, batch_first=True)", "x = {l}(x, x.flip(1))", "d", "d % 2 == 0"),
    ("{l} = nn.Linear({d}, 3 * {d})", "q, k, v = {l}(x).chunk(3, -1)\n"
     "x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True)", "d"),
    ("{l} = nn.Linear({d}, {d})", "s = {l}(x) @ x.mT\n"
     "s = s.masked_fill(m.ones_like(s[0], dtype=m.bool).triu(1), float('-inf'))\nx = s.softmax(-1) @ x", "d"),
    ("{l} = nn.Parameter(m.randn(9, {d}) * 0.1)", "x = x + {l}[:x.shape[1]]", "d"),
    ("{l} = nn.Embedding(9, {d})", "x = x + {l}(m.arange(x.shape[1]))", "d"),
    ("{l} = nn.Parameter(m.randn(1, 1, {d}))", "x = m.cat([{l}.expand(x.shape[0], -1, -1), x], 1)", "d"),
    ("{l} = nn.Linear({d}, 1)", "x = ({l}(x).softmax(1) * x).sum(1)", "('v', d)"),
    ("{l} = Drop({c})", "x = {l}(x)", "d"),
    ("", "x = x.mean(1)", "('v', d)"),
    ("", "x = x[:, -1]", "('v', d)"),
    ("", "x = x.amax(1)", "('v', d)"),
    ("", "x = x[m.arange(x.shape[0]), m.arange(x.shape[0]) % x.shape[1]]", "('v', d)"),
    ("", "x = x.cumsum(1) / m.arange(1, x.shape[1] + 1)[:, None]", "d"),
    ("", "x = x - x.flip(1) * {c}", "d"),
    ("", "x = m.cat([x[:, :1], x[:, 1:] - x[:, :-1]], 1)", "d"),
    ("", "x = {act}(x)", "d"),
    ("", "y = x.clone()\ny[:, 0] = 0\nx = y + x", "d"),
    ("", "x = m.stack([x, x.detach()], 1).flatten(2)[:, 0].view_as(x)", "d"),
]

IMAGES: list[Row] = [
    ("{l} = nn.Conv2d({d}, {e}, 3, padding=1)", "x = {l}(x)", "{e}"),
    ("{l} = nn.Conv2d({d}, {e}, 3, padding=1, bias=False)\nself.{n}_b = nn.BatchNorm2d({e})", "x = F.relu({l}_b({l}(x)))", "{e}"),
    ("{l} = nn.Conv2d({d}, {e}, 1)", "x = {act}({l}(x))", "{e}"),
    ("{l} = nn.Conv2d({d}, {e}, 3, stride=2, padding=1)", "x = {l}(x)", "{e}"),
    ("{l} = nn.Conv2d({d}, {d}, 3, padding=1, groups={d})", "x = x + {l}(x)", "d"),
    ("{l} = nn.Conv2d({d}, {d}, 3, padding=2, dilation=2, padding_mode='circular')", "x = {l}(x)", "d"),
    ("{l} = nn.ConvTranspose2d({d}, {e}, 2, stride=2)", "x = F.avg_pool2d({l}(x), 2)", "{e}"),
    ("{l} = nn.Conv2d({d}, 4 * {d}, 3, padding=1)", "x = F.max_pool2d(F.pixel_shuffle({l}(x), 2), 2)", "d"),
    ("{l} = nn.Sequential(nn.Conv2d({d}, {d}, 3, padding=1), nn.ReLU(True), nn.Conv2d({d}, {d}, 1))", "x = x + {l}(x)", "d"),
    ("{l} = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d({d}, {d}, 1), nn.Sigmoid())", "x = x * {l}(x)", "d"),
    ("{l} = nn.BatchNorm2d({d})", "x = {l}(x)", "d"),
    ("{l} = nn.GroupNorm(2, {d})", "x = {l}(x)", "d", "d % 2 == 0"),
    ("{l} = nn.InstanceNorm2d({d})", "x = x + {l}(x)", "d"),
    ("{l} = nn.utils.parametrizations.spectral_norm(nn.Conv2d({d}, {e}, 3, padding=1))", "x = {l}(x)", "{e}"),
    ("{l} = nn.Parameter(m.ones({d}, 1, 1))", "x = x * {l}", "d"),
    ("{l} = Drop({c})", "x = {l}(x)", "d"),
    ("", "x = F.max_pool2d(x, 3, 1, 1)", "d"),
    ("", "x = F.avg_pool2d(x, 3, 1, 1) - x", "d"),
    ("", "x = {act}(x)", "d"),
    ("", "x = F.interpolate(x, scale_factor=2)[:, :, ::2, 1::2]", "d"),
    ("", "x = F.pad(x, (1, 1, 1, 1), mode='reflect')[:, :, 2:, 2:] + x[:, :, 1:, 1:]\nx = F.pad(x, (0, 1, 0, 1))", "d"),
    ("", "x = x.mean((2, 3))", "('v', d)"),
    ("", "x = x.amax((2, 3))", "('v', d)"),
    ("", "x = F.adaptive_avg_pool2d(x, 1).flatten(1)", "('v', d)"),
    ("", "x = x.flatten(2).transpose(1, 2)", "('s', d)"),
    ("", "x = x - x.mean(1, keepdim=True)", "d"),
    ("", "x = x.clone()\nx[:, :, 0] = 0", "d"),
    ("", "x = m.cat([x, x.flip(3)], 1)", "2 * d"),
]

# What makes an input something that layers take: (data of n, the shape after it, init, forward).
INPUTS: list[tuple[str, tuple[str, str], str, str]] = [
    ("m.randn({N}, 5)", ("v", "5"), "", ""),
    ("m.randn({N}, 5)", ("v", "5"), "", ""),
    ("m.randn({N}, 6)", ("v", "6"), "", ""),
    ("m.randn({N}, 4, 3)", ("s", "3"), "", ""),
    ("m.randn({N}, 5, 4)", ("s", "4"), "", ""),
    ("m.randint(0, 7, ({N}, 4))", ("s", "{e}"), "{l} = nn.Embedding(7, {e})", "x = {l}(x)"),
    ("m.randint(0, 7, ({N}, 4))", ("s", "{e}"), "{l} = nn.Embedding(7, {e}, padding_idx=0)", "x = {l}(x)"),
    ("m.randint(0, 7, ({N}, 3))", ("v", "{e}"), "{l} = nn.EmbeddingBag(7, {e})", "x = {l}(x)"),
    ("m.randint(0, 7, ({N}, 3))", ("v", "3 * {e}"), "{l} = nn.Embedding(7, {e}, max_norm=1.0)", "x = {l}(x).flatten(1)"),
    ("m.randint(0, 7, ({N},))", ("v", "{e}"), "{l} = nn.Embedding(7, {e})", "x = {l}(x)"),
    ("m.randn({N}, 2, 4, 4)", ("i", "2"), "", ""),
    ("m.randn({N}, 3, 5, 5)", ("i", "3"), "", ""),
]
TABLES = {"v": VECTORS, "s": SEQUENCES, "i": IMAGES}
TO_VECTOR = {"s": "x = x.mean(1)", "i": "x = x.mean((2, 3))"}
