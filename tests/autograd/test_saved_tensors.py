"""Hooks on what operators save for backward, and the graph of backward functions, beside PyTorch's."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fanal
from fanal.core.engine.ledger import ledger

torch = pytest.importorskip("torch")


def agree(f: Any) -> None:
    expected, found = (f(library) for library in (torch, fanal))
    assert found == expected


OPERATORS = {
    "mul": lambda t, a, b: a * b,
    "mul by a constant tensor": lambda t, a, b: a * b.detach(),
    "add": lambda t, a, b: a + b,
    "exp": lambda t, a, b: a.exp(),
    "mm": lambda t, a, b: a @ b,
    "linear": lambda t, a, b: t.nn.functional.linear(a, b, b[0]),
    "softmax": lambda t, a, b: a.softmax(1),
    "sum": lambda t, a, b: a.sum(),
    "view": lambda t, a, b: a.view(9),
    "index": lambda t, a, b: a[t.tensor([0, 1])],
    "conv": lambda t, a, b: t.nn.functional.conv1d(a[None], b[:, :, None]),
    "embedding": lambda t, a, b: t.nn.functional.embedding(t.tensor([0, 1]), a),
    "custom function": lambda t, a, b: _doubled(t).apply(a),
}


def _doubled(t: Any) -> Any:
    class Doubled(t.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 2 + 0 * ctx.saved_tensors[0]
    return Doubled


@pytest.mark.parametrize("name", list(OPERATORS))
def test_what_is_packed_and_unpacked(name: str) -> None:
    def shapes(t: Any) -> Any:
        packed, unpacked = [], []

        def pack(x: Any) -> Any:
            packed.append(tuple(x.shape))
            return x * 1

        def unpack(x: Any) -> Any:
            unpacked.append(tuple(x.shape))
            return x
        a, b = (t.tensor(np.arange(1.0, 10.0).reshape(3, 3) / k, requires_grad=True) for k in (10, 7))
        with t.autograd.graph.saved_tensors_hooks(pack, unpack):
            y = OPERATORS[name](t, a, b)
        y.sum().backward()
        return packed, unpacked, a.grad.numpy().round(6).tolist()
    agree(shapes)


def _network(t: Any) -> Any:
    t.manual_seed(0)
    nn = t.nn
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(16, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)).double()


def test_gradients_of_a_network_whose_saved_values_went_through_numpy() -> None:
    x = fanal.tensor(np.random.RandomState(0).randn(2, 1, 6, 6))
    found = []
    for hooked in (False, True, True):
        model = _network(fanal)
        if hooked:
            with fanal.autograd.graph.saved_tensors_hooks(lambda t: (t.detach().numpy().copy(), t.shape),
                                                          lambda p: fanal.from_numpy(p[0]).reshape(p[1])):
                loss = fanal.nn.functional.cross_entropy(model(x), fanal.tensor([0, 2]))
        else:
            loss = fanal.nn.functional.cross_entropy(model(x), fanal.tensor([0, 2]))
        loss.backward()
        found.append([p.grad.numpy().copy() for p in model.parameters()])
    for plain, *hooked_ones in zip(*found, strict=True):
        for g in hooked_ones:
            np.testing.assert_allclose(g, plain, rtol=1e-12, atol=1e-14)


def test_backward_uses_what_unpack_returns() -> None:
    def gradients(t: Any) -> Any:
        a = t.tensor([1.0, 2.0], requires_grad=True)
        with t.autograd.graph.saved_tensors_hooks(lambda x: x + 1, lambda x: x * 10):
            y = a.exp() * a
        g, = t.autograd.grad(y.sum(), a, retain_graph=True)
        again, = t.autograd.grad(y.sum(), a)
        with pytest.raises(RuntimeError, match="second time"):
            y.sum().backward()
        return g.numpy().round(3).tolist(), again.tolist() == g.tolist()
    agree(gradients)


def test_double_backward_through_hooks() -> None:
    def gradients(t: Any) -> Any:
        a = t.tensor([1.0, 2.0], requires_grad=True)
        with t.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
            y = (a ** 3).sum()
        g, = t.autograd.grad(y, a, create_graph=True)
        return t.autograd.grad(g.sum(), a)[0].tolist()
    agree(gradients)


def test_the_innermost_hooks_and_refusals() -> None:
    def walk(t: Any) -> Any:
        graph, seen = t.autograd.graph, []

        def hooks(name: str) -> Any:
            return graph.saved_tensors_hooks(lambda x: seen.append(name) or x, lambda x: x)
        a = t.ones(2, requires_grad=True)
        with hooks("outer"):
            with hooks("inner"):
                a.exp()
            a.exp()
        a.exp()

        def attempt(f: Any) -> None:
            try:
                f()
            except (RuntimeError, TypeError) as e:
                seen.append(f"{type(e).__name__}: {e}")

        def disabled() -> None:
            with graph.disable_saved_tensors_hooks("not here"), hooks("never"):
                pass

        def around() -> None:
            with hooks("outer"), graph.disable_saved_tensors_hooks("not here"):
                pass

        def wrong() -> None:
            with graph.saved_tensors_hooks(lambda x: x, lambda x: 3):
                y = a.exp()
            y.sum().backward()

        def writing() -> None:
            with graph.saved_tensors_hooks(lambda x: x.mul_(2), lambda x: x):
                t.ones(2) * a.exp()
        for f in (disabled, around, wrong, writing):
            attempt(f)
        with graph.save_on_cpu(pin_memory=False):
            y = a.exp()
        y.sum().backward()
        return seen, a.grad.numpy().round(4).tolist()
    agree(walk)


def test_saved_tensors_may_be_written_where_that_is_allowed() -> None:
    def gradient(t: Any) -> Any:
        with t.autograd.graph.allow_mutation_on_saved_tensors():
            x = t.tensor([1.0, 2.0], requires_grad=True)
            y = x.clone()
            z = y.sin()
            y.sin_()
            (z + y).sum().backward()
        return x.grad.numpy().round(4).tolist()
    agree(gradient)


def test_steps_with_hooks_are_recorded_and_the_others_followed() -> None:
    model = _network(fanal)
    optimizer = fanal.optim.SGD(model.parameters(), lr=0.1)
    x, y = fanal.tensor(np.random.RandomState(0).randn(2, 1, 6, 6)), fanal.tensor([0, 2])
    packed = []

    def step(hooked: bool) -> float:
        optimizer.zero_grad()
        if hooked:
            with fanal.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t.shape) or t, lambda t: t):
                loss = fanal.nn.functional.cross_entropy(model(x), y)
        else:
            loss = fanal.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss
    counts = []
    for k in range(8):
        step(hooked=k in (4, 5))
        counts.append((len(packed) > 0, ledger.snapshot()["recorded"]))
        packed.clear()
    assert [c[0] for c in counts] == [k in (4, 5) for k in range(8)]
    assert counts[3][1] == counts[2][1]
    assert counts[7][1] == counts[6][1]


def test_nodes_of_the_graph() -> None:
    def walk(t: Any) -> Any:
        graph = t.autograd.graph
        a = t.tensor([1.0, 2.0], requires_grad=True)
        y = (a * 2).exp()
        node = y.grad_fn
        leaf = node.next_functions[0][0].next_functions[0][0]
        node.metadata["key"] = 1
        handle = node.register_prehook(lambda g: (g[0] * 10,))
        y.sum().backward(retain_graph=True)
        handle.remove()
        node.register_hook(lambda inputs, outputs: (inputs[0] * 0,))
        first = a.grad.tolist()
        a.grad = None
        y.sum().backward()
        z = (a * 3).sum()
        edge, root = graph.get_gradient_edge(a), graph.get_gradient_edge(z)
        through = t.autograd.grad(root, [edge], retain_graph=True)[0].tolist()
        t.autograd.backward(root)
        b = t.ones(2)
        graph.increment_version(b)
        return [type(node).__name__, node.name(), leaf.name(), leaf.variable is a, y.grad_fn.metadata["key"],
                y.grad_fn == node, isinstance(node, graph.Node), np.round(first, 3).tolist(), edge.output_nr,
                a.grad.tolist(), through, b._version]
    agree(walk)
