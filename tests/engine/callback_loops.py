"""Training loops in which Python runs between the parts of a step: each takes `torch` or `fanal`, and returns a step."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _parts(m: Any, seed: int = 0) -> tuple[Any, Any, Any]:
    m.manual_seed(seed)
    model = m.nn.Sequential(m.nn.Linear(6, 12), m.nn.Tanh(), m.nn.Linear(12, 4))
    return model, m.randn(8, 6), m.randn(8, 4)


def _train(m: Any, model: Any, opt: Any, forward: Callable[[], Any]) -> Callable[[], Any]:
    def step() -> Any:
        opt.zero_grad()
        loss = forward()
        loss.backward()
        opt.step()
        return loss.detach()
    return step


def straight_through(m: Any) -> Callable[[], Any]:
    class Round(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return m.round(x * 4) / 4

        @staticmethod
        def backward(ctx, g):
            return g

    model, x, y = _parts(m)
    opt = m.optim.Adam(model.parameters(), lr=0.01)
    return _train(m, model, opt, lambda: ((Round.apply(model(x)) - y) ** 2).mean())


def saves_tensors(m: Any) -> Callable[[], Any]:
    class Scaled(m.autograd.Function):
        @staticmethod
        def forward(ctx, x, w, power):
            y = m.exp(-x * x) * w
            ctx.save_for_backward(x, w, y)
            ctx.power = power
            return y, (x * 2).sum()

        @staticmethod
        def backward(ctx, g, g2):
            x, w, y = ctx.saved_tensors
            return g * y * -2 * x + g2 * 2, (g * y / w).sum(0), None

    model, x, y = _parts(m)
    w = m.nn.Parameter(m.ones(4))
    opt = m.optim.Adam([*model.parameters(), w], lr=0.01)

    def forward() -> Any:
        a, b = Scaled.apply(model(x), w, 2)
        return ((a - y) ** 2).mean() + b * 0.01
    return _train(m, model, opt, forward)


def set_up_apart(m: Any) -> Callable[[], Any]:
    class Cube(m.autograd.Function):
        @staticmethod
        def forward(x):
            return x ** 3

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, g):
            x, = ctx.saved_tensors
            return g * 3 * x * x

    model, x, y = _parts(m)
    opt = m.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return _train(m, model, opt, lambda: ((Cube.apply(Cube.apply(model(x))) - y) ** 2).mean())


def clipped_once(m: Any) -> Callable[[], Any]:
    model, x, y = _parts(m)
    for p in model.parameters():
        p.register_hook(lambda g: g.clamp(-0.05, 0.05))
    opt = m.optim.Adam(model.parameters(), lr=0.01)
    return _train(m, model, opt, lambda: ((model(x) - y) ** 2).mean())


def clipped_anew(m: Any) -> Callable[[], Any]:
    model, x, y = _parts(m)
    opt = m.optim.SGD(model.parameters(), lr=0.1)

    def step() -> Any:
        opt.zero_grad()
        out = model(x)
        handles = [p.register_hook(lambda g: g.clamp(-0.05, 0.05)) for p in model.parameters()]
        loss = ((out - y) ** 2).mean()
        loss.backward()
        for h in handles:
            h.remove()
        opt.step()
        return loss.detach()
    return step


def hook_on_activation(m: Any) -> Callable[[], Any]:
    model, x, y = _parts(m)
    opt = m.optim.SGD(model.parameters(), lr=0.1)

    def forward() -> Any:
        h = model[1](model[0](x))
        h.register_hook(lambda g: g * 0.5)
        h.register_hook(lambda g: None)
        return ((model[2](h) - y) ** 2).mean()
    return _train(m, model, opt, forward)


def module_hooks(m: Any) -> Callable[[], Any]:
    model, x, y = _parts(m)
    model[0].register_full_backward_hook(lambda module, gi, go: None)
    model[2].register_full_backward_hook(lambda module, gi, go: (gi[0] * 0.5,))
    model[2].register_full_backward_pre_hook(lambda module, go: (go[0] * 2,))
    model[1].register_forward_hook(lambda module, args, out: out * 1.1)
    model[2].register_forward_pre_hook(lambda module, args: (args[0] + 0.1,))
    opt = m.optim.SGD(model.parameters(), lr=0.1)
    return _train(m, model, opt, lambda: ((model(x) - y) ** 2).mean())


def optimizer_in_backward(m: Any) -> Callable[[], Any]:
    model, x, y = _parts(m)
    optimizers = {p: m.optim.Adam([p], lr=0.01) for p in model.parameters()}

    def hook(p: Any) -> None:
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)

    def step() -> Any:
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        return loss.detach()
    return step


def checkpointed(m: Any, reentrant: bool = False) -> Callable[[], Any]:
    from importlib import import_module
    checkpoint = import_module(f"{m.__name__}.utils.checkpoint").checkpoint
    model, x, y = _parts(m)
    head = m.nn.Linear(6, 6)
    opt = m.optim.Adam([*model.parameters(), *head.parameters()], lr=0.01)
    return _train(m, model, opt, lambda: ((checkpoint(model, head(x), use_reentrant=reentrant) - y) ** 2).mean())


def checkpointed_reentrant(m: Any) -> Callable[[], Any]:
    return checkpointed(m, True)


def packed(m: Any) -> Callable[[], Any]:
    from importlib import import_module
    graph = import_module(f"{m.__name__}.autograd.graph")
    model, x, y = _parts(m)
    opt = m.optim.SGD(model.parameters(), lr=0.1)

    def step() -> Any:
        opt.zero_grad()
        with graph.saved_tensors_hooks(lambda t: t * 1, lambda t: t):
            loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        opt.step()
        return loss.detach()
    return step


def forward_mode(m: Any) -> Callable[[], Any]:
    from importlib import import_module
    forward_ad = import_module(f"{m.__name__}.autograd.forward_ad")
    _, x, y = _parts(m)
    w, v = m.nn.Parameter(m.zeros(6, 4)), m.randn(6, 4)
    opt = m.optim.SGD([w], lr=0.1)

    def step() -> Any:
        with m.no_grad(), forward_ad.dual_level():
            loss = (((x @ forward_ad.make_dual(w, v)).tanh() - y) ** 2).mean()
            primal, tangent = forward_ad.unpack_dual(loss)
        w.grad = tangent * v
        opt.step()
        return primal
    return step


def jvp(m: Any) -> Callable[[], Any]:
    from importlib import import_module
    func = import_module(f"{m.__name__}.func")
    _, x, y = _parts(m)
    w, v = m.nn.Parameter(m.zeros(6, 4)), m.randn(6, 4)
    opt = m.optim.SGD([w], lr=0.1)

    def step() -> Any:
        loss, tangent = func.jvp(lambda w: (((x @ w).tanh() - y) ** 2).mean(), (w.detach(),), (v,))
        w.grad = tangent * v
        opt.step()
        return loss
    return step


def subclass(m: Any) -> Callable[[], Any]:
    calls: list[str] = []

    class Logged(m.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            calls.append(func.__name__)
            return super().__torch_function__(func, types, args, kwargs or {})

    model, x, y = _parts(m)
    x = x.as_subclass(Logged)
    opt = m.optim.SGD(model.parameters(), lr=0.1)

    def step() -> Any:
        calls.clear()
        opt.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        assert "linear" in calls and type(loss) is Logged
        loss.backward()
        opt.step()
        return loss.detach()
    return step


LOOPS = (straight_through, saves_tensors, set_up_apart, clipped_once, clipped_anew, hook_on_activation, module_hooks,
         optimizer_in_backward, subclass, checkpointed, checkpointed_reentrant,
         forward_mode, jvp, packed)
