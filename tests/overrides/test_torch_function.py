"""__torch_function__: who answers a call, with what, and that plain tensors are followed as before."""
from __future__ import annotations

import copy
import operator
import pickle
from typing import Any

import numpy as np
import pytest

import fanal
from fanal.core.engine.ledger import ledger

torch = pytest.importorskip("torch")


def agree(f: Any) -> None:
    expected, found = (f(library) for library in (torch, fanal))
    assert found == expected


def logging(t: Any) -> tuple[type, list]:
    """A subclass of Tensor, and the list of what it was asked."""
    seen: list = []

    class Logging(t.Tensor):  # type: ignore[misc,name-defined]
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append((t.overrides.resolve_name(func), [k.__name__ for k in types], len(args)))
            return super().__torch_function__(func, types, args, kwargs or {})
    return Logging, seen


CALLS = {
    "function": lambda t, x: t.add(t.ones(2, 2), x),
    "method": lambda t, x: x.mul(2),
    "list of tensors": lambda t, x: t.stack([t.ones(2, 2), x]),
    "named tuple": lambda t, x: t.max(x, 0),
    "in place": lambda t, x: t.ones(2, 2).add_(x),
    "property": lambda t, x: x.shape,
    "property that is a view": lambda t, x: x.T,
    "data": lambda t, x: x.data,
    "grad": lambda t, x: x.grad,
    "size": lambda t, x: x.size(),
    "item": lambda t, x: x.sum().item(),
    "getitem": lambda t, x: x[0],
    "setitem": lambda t, x: operator.setitem(x, 0, 1.0),
    "len": lambda t, x: len(x),
    "nn.functional": lambda t, x: t.nn.functional.relu(x),
    "linear": lambda t, x: t.nn.functional.linear(t.ones(2, 2), x),
    "zeros_like": lambda t, x: t.zeros_like(x),
    "to": lambda t, x: x.to(t.float64),
    "requires_grad_": lambda t, x: x.requires_grad_(),
    "unbind": lambda t, x: x.unbind(),
    "allclose": lambda t, x: t.allclose(x, x),
    "tensor": lambda t, x: t.is_tensor(x),
    "numpy": lambda t, x: x.numpy(),
    "repr": lambda t, x: repr(x),
}


@pytest.mark.parametrize("call", list(CALLS))
def test_a_subclass_is_asked(call: str) -> None:
    def asked(t: Any) -> Any:
        kind, seen = logging(t)
        x = t.ones(2, 2).as_subclass(kind)
        out = CALLS[call](t, x)
        return seen, [type(o).__name__ for o in (out if isinstance(out, tuple) else (out,))]
    agree(asked)


def test_operators_are_asked_as_in_pytorch() -> None:
    def asked(t: Any) -> Any:
        kind, seen = logging(t)
        x = t.ones(2, 2).as_subclass(kind)
        for name in "add sub mul truediv floordiv mod pow eq ne lt iadd isub imul itruediv".split():
            getattr(operator, name)(x.clone(), x)
        for name in "add sub mul truediv floordiv mod pow eq lt".split():
            getattr(operator, name)(2, x)
        _ = -x, abs(x), +x, x @ x
        return seen
    agree(asked)


def test_other_classes_answer_in_order() -> None:
    def answers(t: Any) -> Any:
        class First:
            @classmethod
            def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                return NotImplemented

        class Second(First):
            @classmethod
            def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                return cls.__name__, [k.__name__ for k in types], func is t.add
        found = [t.add(First(), Second()), t.add(Second(), 1), t.add(t.ones(2), other=Second()),
                 t.stack([t.ones(2), Second()]), t.ones(2) + Second()]
        for call in (lambda: t.add(First(), 1), lambda: t.ones(2) + First(), lambda: t.linalg.inv(First())):
            with pytest.raises(TypeError):
                call()
        return found
    agree(answers)


def test_results_of_a_plain_subclass_have_its_class() -> None:
    def classes(t: Any) -> Any:
        class Plain(t.Tensor):  # type: ignore[misc,name-defined]
            pass

        class Further(Plain):
            pass
        x = Plain([[1.0, 2.0], [3.0, 4.0]])
        x.note = "kept"
        y = t.ones(2, 2).as_subclass(Further)
        w = t.ones(2, 2, requires_grad=True)
        loss = (w.as_subclass(Plain) * x).sum()
        loss.backward()
        parameter = t.nn.Parameter(y)
        with t._C.DisableTorchFunctionSubclass():
            plain = type(x + 1).__name__
        return [type(o).__name__ for o in (x, x * 2, x + y, y + x, x[0], x.mean(), x.detach(), x.split(1)[0], loss,
                                           parameter, t.nn.Parameter(t.ones(1)) * 2, x.as_subclass(t.Tensor))] + [
            plain, x.note, hasattr(x * 2, "note"), w.grad.tolist(), isinstance(parameter, t.nn.Parameter), repr(x),
            isinstance(x, t.nn.Parameter), [n for n, _ in t.nn.Linear(2, 2).named_parameters()]]
    agree(classes)


class Kept(fanal.Tensor):
    """A subclass that pickle can find."""


def test_copies_keep_class_and_attributes() -> None:
    x = Kept([1.0, 2.0])
    x.note = "kept"
    for y in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert (type(y), y.note, y.tolist()) == (Kept, "kept", [1.0, 2.0])


def test_a_parameter_of_a_subclass_is_trained() -> None:
    layer = fanal.nn.Linear(2, 1, bias=False)
    layer.weight = fanal.nn.Parameter(Kept([[1.0, 1.0]]))
    assert list(dict(layer.named_parameters())) == ["weight"]
    optimizer = fanal.optim.SGD(layer.parameters(), lr=0.5)
    layer(fanal.ones(1, 2)).sum().backward()
    optimizer.step()
    assert (type(layer.weight), layer.weight.tolist()) == (Kept, [[0.5, 0.5]])


def test_modes_answer_every_call() -> None:
    def seen(t: Any) -> Any:
        found = []

        class Mode(t.overrides.TorchFunctionMode):  # type: ignore[misc,name-defined]
            def __init__(self, name: str) -> None:
                super().__init__()
                self.name = name

            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                found.append((self.name, t.overrides.resolve_name(func)))
                return func(*args, **(kwargs or {}))
        for _ in range(3):
            with Mode("outer"), t.overrides.BaseTorchFunctionMode(), Mode("inner"):
                (t.ones(2) + 1).sum()
            with Mode("outer"), t._C.DisableTorchFunction():
                t.ones(2)
        with pytest.raises(NotImplementedError), t.overrides.TorchFunctionMode():
            t.ones(1)
        return found
    agree(seen)


def test_a_known_step_does_not_go_round_a_mode_or_a_subclass() -> None:
    x, y = fanal.ones(2), fanal.ones(2)
    float(x.sum() + y.sum())
    kind, seen = logging(fanal)
    z = x.as_subclass(kind)

    def step() -> Any:
        return ((x + y) * 2).sum().item()
    for _ in range(4):
        step()
    names = []

    class Mode(fanal.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(fanal.overrides.resolve_name(func))
            return func(*args, **(kwargs or {}))
    for _ in range(3):
        with Mode():
            step()
        (z + y).sum().item()
    assert names == ["torch.Tensor.add", "torch.Tensor.mul", "torch.Tensor.sum"] * 3
    assert [s[0] for s in seen if s[0] != "torch.Tensor.item"] == ["torch.Tensor.add", "torch.Tensor.sum"] * 3
    step()
    before = ledger.snapshot()
    step()
    assert ledger.snapshot()["recorded"] == before["recorded"]


def test_functions_of_the_user_and_questions() -> None:
    def answers(t: Any) -> Any:
        o = t.overrides
        kind, _ = logging(t)
        x, y = t.ones(1), t.ones(1).as_subclass(kind)

        @o.wrap_torch_function(lambda a: (a,))
        def doubled(a: Any) -> Any:
            return a * 2

        class Asked:
            @classmethod
            def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                return func is doubled
        every = o.get_overridable_functions()
        return [doubled(Asked()), doubled(x).tolist(), o.has_torch_function((x,)), o.has_torch_function((x, y)),
                o.is_tensor_like(Asked()), o.is_tensor_like(3), o.is_tensor_like(x), o.resolve_name(t.add),
                o.resolve_name(t.Tensor.add_), o.resolve_name(t.Tensor.shape.__get__), o.resolve_name(t.linalg.inv),
                o.resolve_name(len), o.is_tensor_method_or_property(t.Tensor.add),
                o.is_tensor_method_or_property(t.add), t.add in every[t], t.Tensor.add in every[t.Tensor],
                t.nn.functional.relu in every[t.nn.functional], t.manual_seed in o.get_ignored_functions()]
    agree(answers)


def test_what_is_not_supported_says_so() -> None:
    class Dispatched(fanal.Tensor):
        @classmethod
        def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args)
    with pytest.raises(RuntimeError, match="__torch_dispatch__"):
        Dispatched(np.ones(2))


def names_of_operators(t: Any) -> Any:
    names = []

    class Named(t.Tensor):  # type: ignore[misc,name-defined]
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(func.__name__)
            return super().__torch_function__(func, types, args, kwargs or {})
    x = t.ones(2, 2).as_subclass(Named)
    for f in (lambda: 2 / x, lambda: x ** 2, lambda: 2 ** x, lambda: operator.ipow(x, 2), lambda: operator.imatmul(x, x)):
        f()
    return names


def test_operators_have_pytorchs_names() -> None:
    agree(names_of_operators)


def test_matmul_with_assignment_makes_another_tensor() -> None:
    def product(t: Any) -> Any:
        a = b = t.ones(2, 3)
        a @= t.ones(3, 4)
        return a.tolist(), tuple(b.shape)
    agree(product)


def test_a_tensor_of_the_other_library_is_refused_by_both() -> None:
    ours, theirs = fanal.tensor(1.0), torch.tensor(1.0)
    for f in (operator.eq, operator.add, fanal.add, torch.add):
        for pair in ((ours, theirs), (theirs, ours)):
            with pytest.raises(TypeError, match="__torch_function__"):
                f(*pair)
    assert (ours == fanal.tensor(1.0)).item()
    assert (theirs == torch.tensor(1.0)).item()
