"""The workloads of the benchmarks, as ordinary PyTorch code: each function returns a step to be timed.

They take the module to use as `torch`, so that Fanal and PyTorch run the very same text.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

Step = Callable[[], Any]


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
    count = 0

    def step() -> Any:
        nonlocal count
        x, y = batches[count % 8]
        count += 1
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss
    step.model = model  # type: ignore[attr-defined]
    return step


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
    count = 0

    def step() -> Any:
        nonlocal count
        x, y = batches[count % different]
        count += 1
        opt.zero_grad()
        loss = F.nll_loss(model(x), y)
        loss.backward()
        opt.step()
        return loss
    step.model = model  # type: ignore[attr-defined]
    return step


def gpt(torch: Any, layers: int = 4, width: int = 128, heads: int = 4, context: int = 64, batch: int = 12,
        vocabulary: int = 65) -> Step:
    """A GPT with learned positions, pre-norm blocks and a tied-free head, trained with AdamW."""
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
    data = [torch.randint(0, vocabulary, (batch, context + 1)) for _ in range(4)]
    count = 0

    def step() -> Any:
        nonlocal count
        tokens = data[count % 4]
        count += 1
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.view(-1, vocabulary), tokens[:, 1:].reshape(-1))
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss
    step.model = model  # type: ignore[attr-defined]
    return step


WORKLOADS: dict[str, Callable[[Any], Step]] = {
    "mlp": mlp,
    "mlp-784-sgd": lambda torch: mlp(torch, (784, 512, 256, 10), 128, "SGD"),
    "mlp-784-adamw": lambda torch: mlp(torch, (784, 512, 256, 10), 128, "AdamW"),
    "cnn": cnn,
    "gpt": gpt,
}
