"""The same workloads in JAX: one jitted step over a tree of parameters, with the optimizers written out."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Step = Callable[[], Any]


def cross_entropy(logits: Any, targets: Any) -> Any:
    """Return the mean loss of logits (..., classes)."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1).mean()


def trained(loss: Callable[..., Any], params: Any, data: Sequence[tuple], optimizer: str) -> Step:
    """Train on batches that come in turn."""
    decay = 0.01 if optimizer == "AdamW" else 0.0

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def adam(p: Any, m: Any, v: Any, t: Any, *batch: Any) -> Any:
        value, g = jax.value_and_grad(loss)(p, *batch)
        t = t + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        p = jax.tree.map(lambda p, m, v: p * (1 - 1e-3 * decay) - 1e-3 * (m / (1 - 0.9 ** t))
                         / (jnp.sqrt(v / (1 - 0.999 ** t)) + 1e-8), p, m, v)
        return p, m, v, t, value

    @partial(jax.jit, donate_argnums=0)
    def sgd(p: Any, *batch: Any) -> Any:
        value, g = jax.value_and_grad(loss)(p, *batch)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, p, g), value

    state = [params, jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params), jnp.zeros(())]
    count = 0

    def step() -> Any:
        nonlocal count
        batch = data[count % len(data)]
        count += 1
        if optimizer == "SGD":
            state[0], value = sgd(state[0], *batch)
        else:
            *state[:], value = adam(*state, *batch)
        return value.block_until_ready()
    return step


def mlp(sizes: tuple[int, ...] = (64, 128, 10), batch: int = 32, optimizer: str = "Adam") -> Step:
    """A multi-layer perceptron trained with cross-entropy."""
    r = np.random.default_rng(0)
    params = [(jnp.asarray(r.standard_normal((a, b)) / a ** 0.5, jnp.float32), jnp.zeros(b)) for a, b in zip(sizes, sizes[1:])]

    def loss(p: Any, x: Any, y: Any) -> Any:
        for w, b in p[:-1]:
            x = jax.nn.relu(x @ w + b)
        return cross_entropy(x @ p[-1][0] + p[-1][1], y)
    data = [(r.standard_normal((batch, sizes[0])).astype(np.float32), r.integers(0, sizes[-1], batch)) for _ in range(8)]
    return trained(loss, params, data, optimizer)


def cnn(batch: int = 64, dropout: float = 0.0) -> Step:
    """The MNIST network: two convolutions, pooling, two linear layers."""
    r = np.random.default_rng(0)

    def w(*shape: int) -> Any:
        return jnp.asarray(r.standard_normal(shape) / np.prod(shape[1:]) ** 0.5, jnp.float32)
    params = {"c1": w(32, 1, 3, 3), "b1": jnp.zeros(32), "c2": w(64, 32, 3, 3), "b2": jnp.zeros(64),
              "f1": w(128, 9216), "b3": jnp.zeros(128), "f2": w(10, 128), "b4": jnp.zeros(10)}

    def loss(p: Any, x: Any, y: Any, key: Any) -> Any:
        for c, b in (("c1", "b1"), ("c2", "b2")):
            x = jax.lax.conv_general_dilated(x, p[c], (1, 1), "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW"))
            x = jax.nn.relu(x + p[b][:, None, None])
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID").reshape(batch, -1)
        if dropout:
            x = jnp.where(jax.random.bernoulli(jax.random.PRNGKey(key), 1 - dropout, x.shape), x / (1 - dropout), 0)
        return cross_entropy(jax.nn.relu(x @ p["f1"].T + p["b3"]) @ p["f2"].T + p["b4"], y)
    data = [(r.standard_normal((batch, 1, 28, 28)).astype(np.float32), r.integers(0, 10, batch), k) for k in range(2)]
    return trained(loss, params, data, "Adam")


def gpt(layers: int = 4, width: int = 128, heads: int = 4, context: int = 64, batch: int = 12, vocabulary: int = 65) -> Step:
    """A GPT with learned positions and pre-norm blocks, trained with AdamW."""
    r = np.random.default_rng(0)

    def w(*shape: int) -> Any:
        return jnp.asarray(r.standard_normal(shape) * 0.02, jnp.float32)

    def norm() -> tuple:
        return jnp.ones(width), jnp.zeros(width)

    def linear(n: int, m: int) -> tuple:
        return w(n, m), jnp.zeros(m)
    params = {"tok": w(vocabulary, width), "pos": w(context, width), "ln": norm(), "head": w(width, vocabulary),
              "blocks": [{"ln1": norm(), "ln2": norm(), "qkv": linear(width, 3 * width), "proj": linear(width, width),
                          "fc": linear(width, 4 * width), "out": linear(4 * width, width)} for _ in range(layers)]}
    mask = np.tril(np.ones((context, context), bool))

    def normed(x: Any, p: tuple) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * p[0] + p[1]

    def through(x: Any, p: tuple) -> Any:
        return x @ p[0] + p[1]

    def loss(p: Any, tokens: Any) -> Any:
        idx, y = tokens[:, :-1], tokens[:, 1:]
        x = p["tok"][idx] + p["pos"]
        for b in p["blocks"]:
            q, k, v = (t.reshape(batch, context, heads, -1).transpose(0, 2, 1, 3)
                       for t in jnp.split(through(normed(x, b["ln1"]), b["qkv"]), 3, -1))
            scores = jnp.where(mask, q @ k.swapaxes(-1, -2) / (width // heads) ** 0.5, -jnp.inf)
            a = (jax.nn.softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(batch, context, width)
            x = x + through(a, b["proj"])
            x = x + through(jax.nn.gelu(through(normed(x, b["ln2"]), b["fc"]), approximate=False), b["out"])
        return cross_entropy(normed(x, p["ln"]) @ p["head"], y)
    data = [(r.integers(0, vocabulary, (batch, context + 1)),) for _ in range(4)]
    return trained(loss, params, data, "AdamW")


WORKLOADS: dict[str, Callable[[], Step]] = {
    "mlp": mlp,
    "mlp-784-sgd": lambda: mlp((784, 512, 256, 10), 128, "SGD"),
    "mlp-784-adamw": lambda: mlp((784, 512, 256, 10), 128, "AdamW"),
    "cnn": cnn,
    "cnn-dropout": lambda: cnn(dropout=0.25),
    "gpt": gpt,
    "gpt-medium": lambda: gpt(6, 384, 6, 256, 8),
}
