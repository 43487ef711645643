"""The same workloads in JAX: one jitted step over a tree of parameters, with Adam written out."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any


def mlp(sizes: tuple[int, ...] = (64, 128, 10), batch: int = 32, optimizer: str = "Adam") -> Callable[[], Any]:
    """A multi-layer perceptron trained with cross-entropy."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    r = np.random.default_rng(0)
    params = [(jnp.asarray(r.standard_normal((a, b)) / a ** 0.5, jnp.float32), jnp.zeros(b)) for a, b in zip(sizes, sizes[1:])]

    def loss(p: Any, x: Any, y: Any) -> Any:
        for w, b in p[:-1]:
            x = jax.nn.relu(x @ w + b)
        logits = x @ p[-1][0] + p[-1][1]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()

    decay = 0.01 if optimizer == "AdamW" else 0.0

    @jax.jit
    def adam(p: Any, m: Any, v: Any, t: Any, x: Any, y: Any) -> Any:
        value, g = jax.value_and_grad(loss)(p, x, y)
        t = t + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        p = jax.tree.map(lambda p, m, v: p * (1 - 1e-3 * decay) - 1e-3 * (m / (1 - 0.9 ** t))
                         / (jnp.sqrt(v / (1 - 0.999 ** t)) + 1e-8), p, m, v)
        return p, m, v, t, value

    @jax.jit
    def sgd(p: Any, x: Any, y: Any) -> Any:
        value, g = jax.value_and_grad(loss)(p, x, y)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, p, g), value

    zeros = jax.tree.map(jnp.zeros_like, params)
    state = [params, zeros, zeros, jnp.zeros(())]
    data = [(r.standard_normal((batch, sizes[0])).astype(np.float32), r.integers(0, sizes[-1], batch)) for _ in range(8)]
    count = 0

    def step() -> Any:
        nonlocal count
        x, y = data[count % 8]
        count += 1
        if optimizer == "SGD":
            state[0], value = sgd(state[0], x, y)
        else:
            *state[:], value = adam(*state, x, y)
        return value.block_until_ready()
    return step


WORKLOADS: dict[str, Callable[[], Callable[[], Any]]] = {
    "mlp": mlp,
    "mlp-784-sgd": lambda: mlp((784, 512, 256, 10), 128, "SGD"),
    "mlp-784-adamw": lambda: mlp((784, 512, 256, 10), 128, "AdamW"),
}
