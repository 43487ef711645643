"""Views that PyTorch follows only so far: several from one call, made under no_grad, of leaves; texts included."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import fanal

torch = pytest.importorskip("torch")


def _said(t: Any, x: Any) -> Any:
    """Return a result in a form that two libraries can agree on."""
    if isinstance(x, t.Tensor):
        return ("tensor", x.tolist(), x.requires_grad, x.is_leaf)
    return [_said(t, i) for i in x] if isinstance(x, (tuple, list)) else x


def _observe(t: Any, case: Callable, *args: Any) -> Any:
    try:
        return _said(t, case(t, *args))
    except RuntimeError as e:
        return str(e)


MAKERS: dict[str, Callable] = {
    "split": lambda x: x.split(2),
    "split of sizes": lambda x: x.split([3, 1]),
    "split_with_sizes": lambda x: x.split_with_sizes([2, 2]),
    "chunk": lambda x: x.chunk(2),
    "unbind": lambda x: x.unbind(0),
    "iteration": tuple,
    "split of a view": lambda x: x.t().split(2),
    "tensor_split": lambda x: x.tensor_split(2),
    "vsplit": lambda x: x.vsplit(2),
    "single views": lambda x: (x[0], x[1]),
    "unsafe_split": lambda x: x.unsafe_split(2),
    "unsafe_chunk": lambda x: x.unsafe_chunk(2),
}


def _made(t: Any, make: Callable, grad: bool) -> tuple[Any, Any, Any]:
    p = t.ones(4, 4, requires_grad=grad)
    x = p * 1
    return p, x, make(x)


def write_a_view(t: Any, make: Callable, grad: bool) -> Any:
    p, x, views = _made(t, make, grad)
    views[0].add_(1)
    if grad:
        x.sum().backward()
    return views[0].requires_grad, p.grad


def write_a_view_of_a_view(t: Any, make: Callable, grad: bool) -> Any:
    part = _made(t, make, grad)[2][0][0:1]
    part.add_(1)
    return part.requires_grad


def write_the_base(use: Callable) -> Callable:
    def case(t: Any, make: Callable, grad: bool) -> Any:
        p, x, views = _made(t, make, grad)
        x.add_(1)
        return use(t, p, x, views[1])
    return case


def base_without_gradients(t: Any, make: Callable, grad: bool) -> Any:
    _, x, views = _made(t, make, grad)
    with t.no_grad():
        x.add_(1)
    return (views[1] * 2).requires_grad


def view_without_gradients(t: Any, make: Callable, grad: bool) -> Any:
    _, _, views = _made(t, make, grad)
    with t.no_grad():
        views[0].add_(1)
    return (views[0] * 2).requires_grad


def detached_base(t: Any, make: Callable, grad: bool) -> Any:
    _, x, views = _made(t, make, grad)
    x.detach().add_(1)
    return (views[1] * 2).requires_grad


def another_view(t: Any, make: Callable, grad: bool) -> Any:
    p = t.ones(4, 4, requires_grad=grad)
    x = p * 1
    other, views = x[:], make(x)
    other.add_(1)
    return (views[1] * 2).requires_grad


def data_of_the_base(t: Any, make: Callable, grad: bool) -> Any:
    _, x, views = _made(t, make, grad)
    x.data.add_(1)
    return (views[1] * 2).requires_grad


def plain_base_gets_history(t: Any, make: Callable, grad: bool) -> Any:
    p, x = t.ones(4, 4, requires_grad=grad), t.ones(4, 4)
    views = make(x)
    x.mul_(p)
    return views[1].requires_grad, (views[1] * 2).requires_grad


def plain_base_gets_history_through_a_view(t: Any, make: Callable, grad: bool) -> Any:
    p, x = t.ones(4, 4, requires_grad=grad), t.ones(4, 4)
    views = make(x)
    views[0].mul_(p.sum())
    return x.requires_grad, views[1].requires_grad


def of_a_leaf(t: Any, make: Callable, grad: bool) -> Any:
    views = make(t.ones(4, 4, requires_grad=grad))
    views[0].add_(1)
    return views[0].requires_grad


def of_a_leaf_that_is_trained(t: Any, make: Callable, grad: bool) -> Any:
    p = t.ones(4, 4, requires_grad=grad)
    views = make(p)
    with t.no_grad():
        p.add_(1)
    y = (views[0] * 2).sum()
    if y.requires_grad:
        y.backward()
    return y, p.grad


def base_written_before(t: Any, make: Callable, grad: bool) -> Any:
    p = t.ones(4, 4, requires_grad=grad)
    x = p * 1
    make(x)
    x.add_(1)
    return make(x)[0] * 2


USES = {
    "requires_grad": lambda t, p, x, v: v.requires_grad,
    "is_leaf": lambda t, p, x, v: v.is_leaf,
    "grad_fn": lambda t, p, x, v: v.grad_fn is None,
    "use": lambda t, p, x, v: (v * 2).requires_grad,
    "detach": lambda t, p, x, v: v.detach().sum().item() > 0,
    "sum": lambda t, p, x, v: v.sum().item() > 0,
    "view": lambda t, p, x, v: v.t().shape[0],
    "retain_grad": lambda t, p, x, v: v.requires_grad and v.retain_grad(),
    "data": lambda t, p, x, v: v.data.sum().item() > 0,
    "no_grad": lambda t, p, x, v: t.no_grad()(lambda: (v * 2).requires_grad)(),
    "base": lambda t, p, x, v: p.requires_grad and (x.sum().backward(), p.grad.sum().item()),
}
CASES = [write_a_view, write_a_view_of_a_view, base_without_gradients, view_without_gradients, detached_base, another_view,
         data_of_the_base, plain_base_gets_history, plain_base_gets_history_through_a_view, of_a_leaf,
         of_a_leaf_that_is_trained, base_written_before]


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("case", CASES, ids=lambda f: f.__name__)
def test_several_views_of_one_call(case: Callable, name: str, grad: bool) -> None:
    if "unsafe" in name and grad and case in (
            plain_base_gets_history, plain_base_gets_history_through_a_view, of_a_leaf):
        pytest.skip("a write through one of our unsafe_split goes into the history of the base, as through any view")
    expected = _observe(torch, case, MAKERS[name], grad)
    got = _observe(fanal, case, MAKERS[name], grad)
    assert got == expected


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("use", USES)
def test_after_the_base_was_written(use: str, name: str, grad: bool) -> None:
    case = write_the_base(USES[use])
    expected, got = _observe(torch, case, MAKERS[name], grad), _observe(fanal, case, MAKERS[name], grad)
    assert got == expected


def _no_grad_view(t: Any, leaf: bool) -> tuple[Any, Any, Any]:
    p = t.ones(3, 3, requires_grad=True)
    b = p if leaf else p * 1
    with t.no_grad():
        v = b[:2]
    return p, b, v


def flags(t: Any, p: Any, b: Any, v: Any) -> Any:
    return v.requires_grad, v.is_leaf, v.grad_fn is None, v.detach().requires_grad, v.clone().requires_grad


def used(t: Any, p: Any, b: Any, v: Any) -> Any:
    y = v * 2
    y.sum().backward()
    return y.requires_grad, p.grad, v.grad


def used_with_the_base(t: Any, p: Any, b: Any, v: Any) -> Any:
    (v * b[:2]).sum().backward()
    return p.grad, v.grad


def viewed(t: Any, p: Any, b: Any, v: Any) -> Any:
    w = v[0:1]
    return w.requires_grad, w.is_leaf, w.grad_fn is None


def written(t: Any, p: Any, b: Any, v: Any) -> Any:
    v.add_(1)


def written_through_a_view(t: Any, p: Any, b: Any, v: Any) -> Any:
    v[0:1].add_(1)


def written_without_gradients(t: Any, p: Any, b: Any, v: Any) -> Any:
    with t.no_grad():
        v.add_(1)
    return v.requires_grad, v.is_leaf


def base_written(t: Any, p: Any, b: Any, v: Any) -> Any:
    b.mul_(2)
    return v.requires_grad, v.is_leaf


def base_written_without_gradients(t: Any, p: Any, b: Any, v: Any) -> Any:
    with t.no_grad():
        b.mul_(2)
    return (v * 2).requires_grad


def unasked(t: Any, p: Any, b: Any, v: Any) -> Any:
    v.requires_grad_(False)
    return v.requires_grad


def as_numpy(t: Any, p: Any, b: Any, v: Any) -> Any:
    return v.numpy().tolist()


def shown(t: Any, p: Any, b: Any, v: Any) -> Any:
    return repr(v)


def asked_for(t: Any, p: Any, b: Any, v: Any) -> Any:
    return t.autograd.grad((v * b[:2]).sum(), [v, p])


def hooked(t: Any, p: Any, b: Any, v: Any) -> Any:
    seen: list[Any] = []
    v.register_hook(seen.append)
    (v * 3).sum().backward()
    return len(seen)


def in_no_grad(t: Any, p: Any, b: Any, v: Any) -> Any:
    with t.no_grad():
        return (v * 2).requires_grad, v.t().requires_grad, b.detach()[0].requires_grad, b.data[0].requires_grad


def other_views(t: Any, p: Any, b: Any, v: Any) -> Any:
    with t.no_grad():
        return b.expand(2, 3, 3).requires_grad, b.view(9).requires_grad, b.contiguous() is b


def in_inference_mode(t: Any, p: Any, b: Any, v: Any) -> Any:
    with t.inference_mode():
        i = b[0]
    return i.requires_grad, i.is_leaf


def written_after_inference_mode(t: Any, p: Any, b: Any, v: Any) -> Any:
    with t.inference_mode():
        i = b[0]
    i.add_(1)


@pytest.mark.parametrize("leaf", [True, False])
@pytest.mark.parametrize("case", [flags, used, used_with_the_base, viewed, written, written_through_a_view,
                                  written_without_gradients, base_written, base_written_without_gradients, unasked, as_numpy,
                                  shown, asked_for, hooked, in_no_grad, other_views, in_inference_mode,
                                  written_after_inference_mode], ids=lambda f: f.__name__)
def test_views_made_without_gradients(case: Callable, leaf: bool) -> None:
    assert _observe(fanal, case, *_no_grad_view(fanal, leaf)) == _observe(torch, case, *_no_grad_view(torch, leaf))


def test_a_view_of_a_parameter_outlives_the_step() -> None:
    """What was a view of a parameter before the step is one after it, and sends it gradients."""
    for t in (torch, fanal):
        w = t.nn.Parameter(t.ones(4))
        opt, part = t.optim.SGD([w], lr=0.5), w[:2]
        for _ in range(4):
            opt.zero_grad()
            (part * part).sum().backward()
            opt.step()
        assert w.tolist() == [0.0, 0.0, 1.0, 1.0]
        assert part.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", [name for name in MAKERS if not name.startswith("unsafe")])
def test_pieces_of_a_detached_tensor_have_no_history(name: str) -> None:
    found = []
    for t in (torch, fanal):
        leaf = t.ones(4, 4, requires_grad=True)
        for x in (leaf, leaf * 2):
            piece = MAKERS[name](x.detach())[0]
            piece[..., :1].neg_()
            found.append((t.__name__, piece.requires_grad, piece.tolist(), (x * 3).tolist()))
    assert [f[1:] for f in found[:2]] == [f[1:] for f in found[2:]]
