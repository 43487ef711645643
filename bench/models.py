"""The workloads of the benchmarks, as ordinary PyTorch code: each function returns a step to be timed.

They take the module to use as `torch`, so that Fanal and PyTorch run the very same text.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

Step = Callable[[], Any]


def _trained(model: Any, opt: Any, batches: list[tuple[Any, ...]], loss_of: Callable[..., Any]) -> Step:
    """Train on batches that come in turn."""
    count = 0

    def step() -> Any:
        nonlocal count
        batch = batches[count % len(batches)]
        count += 1
        opt.zero_grad()
        loss = loss_of(*batch)
        loss.backward()
        opt.step()
        return loss
    step.model, step.batches = model, batches  # type: ignore[attr-defined]
    return step


def next_token(F: Any, model: Any) -> Callable[[Any], Any]:
    """Return the loss of a language model on tokens (B, T + 1): of each token, given those before it."""
    def loss_of(tokens: Any) -> Any:
        logits = model(tokens[:, :-1])
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1))
    return loss_of


def mlp(torch: Any, sizes: tuple[int, ...] = (64, 128, 10), batch: int = 32, optimizer: str = "Adam") -> Step:
    """A multi-layer perceptron trained with cross-entropy."""
    nn, F = torch.nn, torch.nn.functional
    torch.manual_seed(0)
    layers: list[Any] = []
    for i, (a, b) in enumerate(zip(sizes, sizes[1:])):
        layers.append(nn.Linear(a, b))
        if i < len(sizes) - 2:
            layers.append(nn.ReLU())
    model = nn.Sequential(*layers)
    opt = getattr(torch.optim, optimizer)(model.parameters(), lr=1e-3)
    batches = [(torch.randn(batch, sizes[0]), torch.randint(0, sizes[-1], (batch,))) for _ in range(8)]
    return _trained(model, opt, batches, lambda x, y: F.cross_entropy(model(x), y))


def cnn(torch: Any, batch: int = 64, dropout: float = 0.0, different: int = 2) -> Step:
    """The MNIST network: two convolutions, pooling, two linear layers; `different` batches come in turn."""
    nn, F = torch.nn, torch.nn.functional

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(1, 32, 3, 1)
            self.conv2 = nn.Conv2d(32, 64, 3, 1)
            self.dropout = nn.Dropout(dropout)
            self.fc1 = nn.Linear(9216, 128)
            self.fc2 = nn.Linear(128, 10)

        def forward(self, x: Any) -> Any:
            x = F.relu(self.conv1(x))
            x = F.relu(self.conv2(x))
            x = F.max_pool2d(x, 2)
            x = self.dropout(torch.flatten(x, 1))
            x = F.relu(self.fc1(x))
            return F.log_softmax(self.fc2(x), dim=1)
    torch.manual_seed(0)
    model = Net()
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = [(torch.randn(batch, 1, 28, 28), torch.randint(0, 10, (batch,))) for _ in range(different)]
    return _trained(model, opt, batches, lambda x, y: F.nll_loss(model(x), y))


def gpt(torch: Any, layers: int = 4, width: int = 128, heads: int = 4, context: int = 64, batch: int = 12,
        vocabulary: int = 65, lengths: int = 1) -> Step:
    """A GPT with learned positions, pre-norm blocks and a tied-free head, trained with AdamW.

    Batches come in `lengths` different lengths, up to the context.
    """
    nn, F = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv = nn.Linear(width, 3 * width)
            self.proj = nn.Linear(width, width)
            self.fc, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            B, T, C = x.shape
            q, k, v = self.qkv(self.ln1(x)).split(C, dim=2)
            q, k, v = (t.view(B, T, heads, C // heads).transpose(1, 2) for t in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(y.transpose(1, 2).contiguous().view(B, T, C))
            return x + self.out(F.gelu(self.fc(self.ln2(x))))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tok, self.pos = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
            self.blocks = nn.ModuleList([Block() for _ in range(layers)])
            self.ln = nn.LayerNorm(width)
            self.head = nn.Linear(width, vocabulary, bias=False)

        def forward(self, idx: Any) -> Any:
            x = self.tok(idx) + self.pos(torch.arange(idx.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.head(self.ln(x))
    torch.manual_seed(0)
    model = GPT()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sizes = [context - 37 * i % lengths for i in range(max(4, lengths))]  # neighbours differ much
    batches = [(torch.randint(0, vocabulary, (batch, n + 1)),) for n in sizes]
    return _trained(model, opt, batches, next_token(F, model))


def decode(torch: Any, layers: int = 4, width: int = 128, heads: int = 4, context: int = 64, vocabulary: int = 65,
           grow: bool = False) -> Step:
    """The small GPT writing, token by token: batch 1, keys and values kept in buffers that are written in place.

    With `grow` they are joined with those of the new token instead, as most write it: another size every step.
    """
    nn, F = torch.nn, torch.nn.functional
    places = torch.arange(context)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv = nn.Linear(width, 3 * width)
            self.proj = nn.Linear(width, width)
            self.fc, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            for name in ("keys", "values"):
                self.register_buffer(name, torch.zeros(1, heads, 0 if grow else context, width // heads))

        def forward(self, x: Any, at: Any, seen: Any) -> Any:
            q, k, v = (t.view(1, 1, heads, -1).transpose(1, 2) for t in self.qkv(self.ln1(x)).split(width, dim=2))
            if grow:
                self.keys, self.values = torch.cat([self.keys, k], dim=2), torch.cat([self.values, v], dim=2)
            else:
                self.keys.index_copy_(2, at, k)
                self.values.index_copy_(2, at, v)
            y = F.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=seen)
            x = x + self.proj(y.transpose(1, 2).reshape(1, 1, width))
            return x + self.out(F.gelu(self.fc(self.ln2(x))))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tok, self.pos = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
            self.blocks = nn.ModuleList([Block() for _ in range(layers)])
            self.ln = nn.LayerNorm(width)
            self.head = nn.Linear(width, vocabulary, bias=False)

        def forward(self, token: Any, at: Any) -> Any:
            x = self.tok(token) + self.pos(at)
            seen = None if grow else (places <= at).view(1, 1, 1, context)
            for block in self.blocks:
                x = block(x, at, seen)
            return self.head(self.ln(x))
    torch.manual_seed(0)
    model = GPT().eval()
    token, count = torch.zeros(1, 1, dtype=torch.long), 0

    def step() -> Any:
        nonlocal token, count
        if grow and count % context == 0:
            for block in model.blocks:
                block.keys = block.values = torch.zeros(1, heads, 0, width // heads)
        with torch.no_grad():
            token = model(token, torch.tensor([count % context]))[:, -1].argmax(-1, keepdim=True)
        count += 1
        return token.item()
    step.model = model  # type: ignore[attr-defined]
    return step


def _resnet18(torch: Any, width: int, classes: int) -> Any:
    """ResNet-18 for small images (He et al. 2016, with the 3x3 stem used for CIFAR)."""
    nn, F = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self, c: int, o: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(c, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
            self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
            self.short = nn.Sequential()
            if stride != 1 or c != o:
                self.short = nn.Sequential(nn.Conv2d(c, o, 1, stride, bias=False), nn.BatchNorm2d(o))

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            return F.relu(y + self.short(x))

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
            blocks, c = [], width
            for i, stride in enumerate((1, 1, 2, 1, 2, 1, 2, 1)):
                o = width << i // 2
                blocks.append(Block(c, o, stride))
                c = o
            self.blocks = nn.Sequential(*blocks)
            self.fc = nn.Linear(c, classes)

        def forward(self, x: Any) -> Any:
            y = self.blocks(F.relu(self.bn(self.conv(x))))
            return self.fc(torch.flatten(F.adaptive_avg_pool2d(y, 1), 1))
    torch.manual_seed(0)
    return ResNet()


def resnet(torch: Any, batch: int = 32, width: int = 64, size: int = 32, different: int = 2) -> Step:
    """ResNet-18 on small images, trained with SGD and momentum."""
    model = _resnet18(torch, width, 10)
    opt = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    batches = [(torch.randn(batch, 3, size, size), torch.randint(0, 10, (batch,))) for _ in range(different)]
    return _trained(model, opt, batches, lambda x, y: torch.nn.functional.cross_entropy(model(x), y))


def resnet_inference(torch: Any, batch: int = 32, width: int = 64, size: int = 32) -> Step:
    """ResNet-18 on small images, without gradients; a step returns the largest logit."""
    model = _resnet18(torch, width, 10).eval()
    batches = [torch.randn(batch, 3, size, size) for _ in range(2)]
    count = 0

    def step() -> Any:
        nonlocal count
        count += 1
        with torch.no_grad():
            best = model(batches[count % 2]).max()
        best.item()
        return best
    step.model = model  # type: ignore[attr-defined]
    return step


def lstm(torch: Any, layers: int = 2, hidden: int = 256, length: int = 64, batch: int = 32, vocabulary: int = 65,
         kind: str = "LSTM") -> Step:
    """A language model of characters: an embedding, recurrent layers and a head, trained with Adam."""
    nn, F = torch.nn, torch.nn.functional

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tok = nn.Embedding(vocabulary, hidden)
            self.rnn = getattr(nn, kind)(hidden, hidden, layers, batch_first=True)
            self.head = nn.Linear(hidden, vocabulary)

        def forward(self, idx: Any) -> Any:
            return self.head(self.rnn(self.tok(idx))[0])
    torch.manual_seed(0)
    model = Model()
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    return _trained(model, opt, [(torch.randint(0, vocabulary, (batch, length + 1)),) for _ in range(4)], next_token(F, model))


def vit(torch: Any, batch: int = 4, size: int = 224, patch: int = 16, width: int = 192, layers: int = 12,
        heads: int = 3, classes: int = 1000) -> Step:
    """A vision transformer (Dosovitskiy et al. 2021), by default ViT-Tiny/16, trained with AdamW."""
    nn, F = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.fc, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            B, T, C = x.shape
            q, k, v = self.qkv(self.ln1(x)).view(B, T, 3, heads, C // heads).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v)
            x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
            return x + self.out(F.gelu(self.fc(self.ln2(x))))

    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, width, patch, patch)
            self.cls = nn.Parameter(torch.zeros(1, 1, width))
            self.pos = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width) * 0.02)
            self.blocks = nn.Sequential(*[Block() for _ in range(layers)])
            self.ln, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

        def forward(self, x: Any) -> Any:
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1) + self.pos
            return self.head(self.ln(self.blocks(x))[:, 0])
    torch.manual_seed(0)
    model = ViT()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = [(torch.randn(batch, 3, size, size), torch.randint(0, classes, (batch,))) for _ in range(2)]
    return _trained(model, opt, batches, lambda x, y: torch.nn.functional.cross_entropy(model(x), y))


def recommender(torch: Any, tables: int = 26, rows: int = 100_000, width: int = 16, batch: int = 2048, dense: int = 13,
                sparse: bool = False) -> Step:
    """A click model in the manner of DLRM (Naumov et al. 2019): tables, dense features and a perceptron, by SGD."""
    nn, F = torch.nn, torch.nn.functional

    class Recommender(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = nn.ModuleList([nn.Embedding(rows, width, sparse=sparse) for _ in range(tables)])
            self.bottom = nn.Sequential(nn.Linear(dense, 64), nn.ReLU(), nn.Linear(64, width), nn.ReLU())
            self.top = nn.Sequential(nn.Linear((tables + 1) * width, 128), nn.ReLU(), nn.Linear(128, 1))

        def forward(self, numbers: Any, ids: Any) -> Any:
            parts = [self.bottom(numbers)] + [t(ids[:, i]) for i, t in enumerate(self.tables)]
            return self.top(torch.cat(parts, dim=1)).squeeze(1)
    torch.manual_seed(0)
    model = Recommender()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.randn(batch, dense), torch.randint(0, rows, (batch, tables)), torch.randint(0, 2, (batch,)).float())
               for _ in range(4)]
    return _trained(model, opt, batches,
                    lambda numbers, ids, y: F.binary_cross_entropy_with_logits(model(numbers, ids), y))


WORKLOADS: dict[str, Callable[[Any], Step]] = {
    "mlp": mlp,
    "mlp-784-sgd": lambda torch: mlp(torch, (784, 512, 256, 10), 128, "SGD"),
    "mlp-784-adamw": lambda torch: mlp(torch, (784, 512, 256, 10), 128, "AdamW"),
    "cnn": cnn,
    "cnn-dropout": lambda torch: cnn(torch, dropout=0.25),
    "resnet": resnet,
    "resnet-inference": resnet_inference,
    "lstm": lstm,
    "vit": vit,
    "recommender": recommender,
    "recommender-sparse": lambda torch: recommender(torch, sparse=True),
    "gru": lambda torch: lstm(torch, kind="GRU"),
    "decode": decode,
    "decode-cat": lambda torch: decode(torch, context=256, grow=True),
    "gpt": gpt,
    "gpt-lengths": lambda torch: gpt(torch, context=128, lengths=96),
    "gpt-medium": lambda torch: gpt(torch, 6, 384, 6, 256, 8),
}
