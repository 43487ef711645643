"""The machinery of modules: registration, state, hooks, conversion, errors."""

import copy
import gc
import pickle
import weakref
from collections import OrderedDict

import pytest
import torch

import fanal
from fanal import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.head = nn.Linear(4, 2)
        self.register_buffer("steps", fanal.zeros(1))
        self.register_buffer("scratch", fanal.zeros(2), persistent=False)

    def forward(self, x):
        return self.head(self.body(x))


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
        self.head = torch.nn.Linear(4, 2)
        self.register_buffer("steps", torch.zeros(1))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def message(function, *args, **kwargs):
    with pytest.raises(Exception) as caught:
        function(*args, **kwargs)
    return type(caught.value).__name__, str(caught.value)


def test_names_and_order_as_torch():
    ours, theirs = Net(), TorchNet()
    for method in ("named_parameters", "named_buffers", "named_modules", "named_children"):
        assert [n for n, _ in getattr(ours, method)()] == [n for n, _ in getattr(theirs, method)()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.state_dict()._metadata == theirs.state_dict()._metadata
    assert list(ours.state_dict(prefix="a.")) == list(theirs.state_dict(prefix="a."))
    assert repr(ours).replace("Net", "TorchNet") == repr(theirs)


def test_tables_and_attributes_are_one():
    net = nn.Linear(2, 3)
    new = nn.Parameter(fanal.ones(3, 2))
    net._parameters["weight"] = new
    assert net.weight is new and net.__dict__["weight"] is new
    del net._parameters["bias"]
    assert not hasattr(net, "bias")
    net.bias = None
    assert "bias" not in net._parameters and net.bias is None
    net.child = nn.ReLU()
    assert net._modules.pop("child") is not None and not hasattr(net, "child")
    net._buffers.update(b=fanal.ones(1))
    assert [n for n, _ in net.named_buffers()] == ["b"] and net.b is net._buffers["b"]
    net._buffers.clear()
    assert not hasattr(net, "b")


def test_a_table_can_be_replaced_and_put_back():
    net = Net()
    old = net._modules
    net._modules = OrderedDict(only=nn.Linear(1, 1))
    assert isinstance(net.only, nn.Linear) and not hasattr(net, "head")
    net._modules = old
    assert isinstance(net.head, nn.Linear) and not hasattr(net, "only")


def test_a_name_has_one_meaning():
    net = Net()
    net.thing = 1
    net.thing = nn.Parameter(fanal.ones(1))
    assert "thing" in net._parameters
    net.thing = None
    assert net._parameters["thing"] is None
    net.head = nn.Identity()
    assert list(net._modules) == ["body", "head"]
    net.steps = fanal.ones(1)
    assert "steps" in net._buffers and float(net.steps) == 1
    del net.steps
    assert not hasattr(net, "steps") and "steps" not in net.state_dict()
    net.count = nn.Buffer(fanal.ones(1), persistent=False)
    assert "count" in dict(net.named_buffers()) and "count" not in net.state_dict()
    net.plain = fanal.ones(1)
    assert "plain" not in net._buffers


@pytest.mark.parametrize(
    "act",
    [
        lambda t, nn, m: setattr(m, "w", t.zeros(1)),
        lambda t, nn, m: setattr(m, "b", "text"),
        lambda t, nn, m: setattr(m, "c", 3),
        lambda t, nn, m: m.register_buffer("x.y", None),
        lambda t, nn, m: m.register_buffer("", None),
        lambda t, nn, m: m.register_buffer("w", None),
        lambda t, nn, m: m.register_buffer("z", 3),
        lambda t, nn, m: m.register_parameter("x.y", None),
        lambda t, nn, m: m.register_parameter("forward", None),
        lambda t, nn, m: m.register_parameter("z", 3),
        lambda t, nn, m: m.register_parameter(3, None),
        lambda t, nn, m: m.add_module("x.y", nn.ReLU()),
        lambda t, nn, m: m.add_module("w", nn.ReLU()),
        lambda t, nn, m: m.add_module("z", 3),
        lambda t, nn, m: m.get_submodule("c.nothing"),
        lambda t, nn, m: m.get_submodule("w"),
        lambda t, nn, m: m.get_parameter("c.weight"),
        lambda t, nn, m: m.get_buffer("w"),
        lambda t, nn, m: m.train("yes"),
        lambda t, nn, m: m.nothing,
        lambda t, nn, m: m(1),
        lambda t, nn, m: m.to(t.int64),
        lambda t, nn, m: m.load_state_dict(3),
        lambda t, nn, m: m.load_state_dict({"w": t.ones(2), "c.q": t.ones(1), "more": t.ones(1), "b": 1}),
        lambda t, nn, m: nn.Module(3),
        lambda t, nn, m: nn.Module(a=3),
        lambda t, nn, m: nn.Sequential(nn.ReLU())[1],
        lambda t, nn, m: nn.ModuleList([nn.ReLU()])[-2],
        lambda t, nn, m: nn.ParameterList([t.ones(1)])[3],
    ],
)
def test_errors_as_torch(act):
    def make(t, nn):
        m = nn.Module()
        m.w = nn.Parameter(t.ones(1))
        m.register_buffer("b", t.ones(1))
        m.c = nn.ReLU()
        return m

    ours = message(act, fanal, nn, make(fanal, nn))
    theirs = message(act, torch, torch.nn, make(torch, torch.nn))
    assert ours[0] == theirs[0]
    assert ours[1].replace("fanal", "torch") == theirs[1].replace("fanal", "torch")


def test_assignment_before_init():
    class Early(nn.Module):
        def __init__(self, value):
            self.value = value

    for value in (nn.Parameter(fanal.ones(1)), nn.Linear(1, 1)):
        assert message(Early, value)[0] == "AttributeError"


def test_load_state_dict():
    source, target = Net(), Net()
    state = source.state_dict()
    assert repr(target.load_state_dict(state)) == "<All keys matched successfully>"
    assert (target.head.weight == source.head.weight).all()
    partial = {"head.weight": state["head.weight"], "other": fanal.ones(1)}
    found = target.load_state_dict(partial, strict=False)
    assert found.unexpected_keys == ["other"] and "head.bias" in found.missing_keys
    parameter, tensor = target.head.weight, fanal.ones(2, 4)
    target.load_state_dict({**state, "head.weight": tensor}, assign=True)
    assert target.head.weight is not parameter and isinstance(target.head.weight, nn.Parameter)
    assert (target.head.weight == 1).all()


def test_extra_state():
    class Extra(nn.Module):
        def get_extra_state(self):
            return {"seen": 3}

        def set_extra_state(self, state):
            self.seen = state["seen"]

    module = nn.Sequential(Extra())
    state = module.state_dict()
    assert state == {"0._extra_state": {"seen": 3}}
    module.load_state_dict(state)
    assert module[0].seen == 3
    assert module.load_state_dict({}, strict=False).missing_keys == ["0._extra_state"]


def test_state_dict_hooks():
    net, seen = nn.Linear(1, 1), []
    net.register_state_dict_pre_hook(lambda m, prefix, keep: seen.append(("pre", prefix)))
    net.register_state_dict_post_hook(lambda m, d, prefix, meta: d.pop(prefix + "bias") and None)
    assert list(net.state_dict()) == ["weight"] and seen == [("pre", "")]
    net.register_load_state_dict_pre_hook(
        lambda m, d, prefix, *rest: d.update({prefix + "bias": fanal.ones(1)})
    )
    net.register_load_state_dict_post_hook(lambda m, keys: seen.append(list(keys.missing_keys)))
    net.load_state_dict(net.state_dict())
    assert float(net.bias) == 1 and seen[-1] == []


def test_copies_and_pickles():
    net = Net()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net.body)), copy.copy(net)):
        names = [n for n, _ in other.named_parameters()]
        assert names and all(other.get_parameter(n) is not None for n in names)
    deep = copy.deepcopy(net)
    deep.head.weight.data.fill_(7.0)
    assert deep.head.weight is deep.head._parameters["weight"] and not (net.head.weight == 7).any()
    shallow = copy.copy(net)
    assert shallow.head is net.head
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    again = copy.deepcopy(tied)
    assert again[0].weight is again[1].weight and len(list(again.parameters())) == 3


def test_a_module_is_freed_without_the_collector():
    gc.disable()
    try:
        net = nn.Linear(2, 2)
        gone = weakref.ref(net)
        del net
        assert gone() is None
    finally:
        gc.enable()


def test_conversion_keeps_identity():
    net = Net()
    weight = net.head.weight
    net.double()
    assert net.head.weight is weight and weight.dtype == fanal.float64 and net.steps.dtype == fanal.float64
    net.to("cpu", fanal.float32)
    assert weight.dtype == fanal.float32
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    assert net.train(False) is net and not net.head.training and net.eval().train().body.training


def test_zero_grad():
    net = Net()
    net(fanal.ones(1, 3)).sum().backward()
    net.zero_grad(set_to_none=False)
    assert (net.head.weight.grad == 0).all()
    net.zero_grad()
    assert net.head.weight.grad is None


def test_forward_hooks():
    net, seen = nn.Linear(2, 2), []
    first = net.register_forward_pre_hook(lambda m, args: seen.append("pre") or (args[0] * 0,))
    second = net.register_forward_hook(lambda m, args, out: seen.append("post") or out + 1)
    third = net.register_forward_hook(
        lambda m, args, kwargs, out: seen.append(sorted(kwargs)), with_kwargs=True, prepend=True
    )
    out = net(fanal.ones(1, 2))
    assert seen == ["pre", [], "post"] and out.tolist() == (net.bias + 1).unsqueeze(0).tolist()
    for handle in (first, second, third):
        handle.remove()
    seen.clear()
    net(fanal.ones(1, 2))
    net(fanal.ones(1, 2))
    assert seen == [] and "_hooked" not in net.__dict__
    net._forward_hooks[123] = lambda m, args, out: seen.append("direct")
    net(fanal.ones(1, 2))
    assert seen == ["direct"]


def test_a_hook_that_always_runs():
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    net, seen = Fails(), []
    net.register_forward_hook(lambda m, args, out: seen.append(out), always_call=True)
    with pytest.raises(RuntimeError, match="no"):
        net(1)
    assert seen == [None]


def test_global_hooks():
    seen, net = [], nn.Linear(1, 1)
    with nn.modules.module.register_module_forward_hook(lambda m, args, out: seen.append(type(m).__name__)):
        net(fanal.ones(1, 1))
    net(fanal.ones(1, 1))
    assert seen == ["Linear"]
    with nn.modules.module.register_module_parameter_registration_hook(lambda m, n, p: seen.append(n)):
        nn.Linear(1, 1)
    assert seen[1:] == ["weight", "bias"]


def run_backward_hooks(t, nn):
    seen = []
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    with t.no_grad():
        for p in net.parameters():
            p.fill_(0.5)
    net[0].register_full_backward_hook(
        lambda m, gi, go: seen.append((gi[0].tolist(), go[0].tolist())) or (gi[0] * 2,)
    )
    net[1].register_full_backward_pre_hook(lambda m, go: (go[0] * 3,))
    x = t.ones(1, 2, requires_grad=True)
    net(x).sum().backward()
    no_input_grad = nn.Linear(2, 1)
    no_input_grad.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go[0].tolist())))
    no_input_grad(t.ones(1, 2)).sum().backward()
    return seen, x.grad.tolist()


def test_backward_hooks_as_torch():
    (ours, our_grad), (theirs, their_grad) = (
        run_backward_hooks(fanal, nn),
        run_backward_hooks(torch, torch.nn),
    )
    assert our_grad == [pytest.approx(g) for g in their_grad]
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert a == [pytest.approx(g) for g in b]
    assert ours[1] == theirs[1]


def test_backward_hook_kinds_do_not_mix():
    net = nn.Linear(1, 1)
    net.register_full_backward_hook(lambda *a: None)
    with pytest.raises(RuntimeError, match="Cannot use both"):
        net.register_backward_hook(lambda *a: None)


def test_an_error_names_the_module():
    with pytest.raises(RuntimeError) as caught:
        Net()(fanal.ones(2, 3).new_ones(2, 5))
    (note,) = [n for n in caught.value.__notes__ if n.startswith("in Net")]
    assert note == (
        "in Net.body.0 (Linear): Net.body.0 expects in_features=3, got 5: change Linear(3, 4) to Linear(5, 4)"
    )
    assert caught.value.module_path == "Net.body.0"
    with pytest.raises(RuntimeError) as caught:
        nn.Sequential(nn.Conv2d(3, 8, 3))(fanal.ones(1, 1, 8, 8))
    assert "change Conv2d(3, 8, ...) to Conv2d(1, 8, ...)" in "".join(caught.value.__notes__)


def test_containers_as_torch():
    def walk(nn, t):
        seq = nn.Sequential(OrderedDict(a=nn.ReLU(), b=nn.Tanh()))
        yield seq[:1], len(seq), [type(m).__name__ for m in seq], seq
        seq.append(nn.ELU())
        yield seq
        seq.insert(1, nn.GELU()) if list(seq._modules) == ["0", "1", "2"] else None
        yield seq + nn.Sequential(nn.SELU()), seq * 2
        numbered = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.ELU())
        numbered.insert(1, nn.GELU())
        yield numbered
        del numbered[0]
        yield numbered, list(numbered.state_dict())
        numbered[0] = nn.Linear(1, 2)
        yield numbered, numbered.pop(1), numbered
        many = nn.ModuleList([nn.Linear(2, 2) for _ in range(4)] + [nn.ReLU()])
        yield many, many[1:3], many[-1], nn.ModuleList(), many + [nn.Tanh()]
        del many[:2]
        many.insert(0, nn.ELU())
        yield many, list(many.state_dict())
        named = nn.ModuleDict({"x": nn.Linear(1, 1), "y": nn.ReLU()})
        yield named, list(named), "x" in named, named.pop("x"), len(named)
        params = nn.ParameterList([t.ones(2, 3), 3, nn.Parameter(t.ones(1))])
        yield params, params[0:2], list(params.state_dict()), params[-1].shape
        table = nn.ParameterDict({"b": t.ones(2), "a": nn.Parameter(t.ones(1))})
        yield (
            list(table),
            list(table.state_dict()),
            table.get("zz"),
            len(table | nn.ParameterDict({"c": t.ones(1)})),
        )
        yield table.popitem()[0], list(table.copy()), table.setdefault("n", 4)

    assert [repr(x) for x in walk(nn, fanal)] == [repr(x) for x in walk(torch.nn, torch)]


def test_lazy_module_learns_its_shape():
    lazy = nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.LazyLinear(2))
    assert "uninitialized" in message(lambda: lazy[0].weight.shape)[1]
    assert lazy(fanal.ones(4, 5)).shape == (4, 2)
    assert (
        type(lazy[0]) is nn.Linear
        and tuple(lazy[0].weight.shape) == (3, 5)
        and type(lazy[0].weight) is nn.Parameter
    )
    fresh = nn.LazyLinear(3)
    fresh.load_state_dict(lazy[0].state_dict())
    assert tuple(fresh.weight.shape) == (3, 5)


def test_clip_grad_norm_as_torch():
    values = [[3.0, 4.0], [12.0]]

    def run(t, nn, norm_type):
        parameters = [nn.Parameter(t.zeros(len(v))) for v in values]
        for p, v in zip(parameters, values, strict=True):
            p.grad = t.tensor(v)
        total = nn.utils.clip_grad_norm_(parameters, 1.0, norm_type)
        return [float(total)] + [x for p in parameters for x in p.grad.tolist()]

    for norm_type in (1.0, 2.0, float("inf")):
        assert run(fanal, nn, norm_type) == pytest.approx(run(torch, torch.nn, norm_type))


def test_parameters_as_a_vector():
    net = nn.Linear(2, 2)
    vector = nn.utils.parameters_to_vector(net.parameters())
    nn.utils.vector_to_parameters(vector * 0 + 2, net.parameters())
    assert (net.weight == 2).all() and (net.bias == 2).all()


def test_a_getattr_of_the_class_is_asked_for_every_entry():
    """Reads of parameters, buffers and children went past it: libraries note there what a forward uses."""
    def go(t, module):
        asked = []

        class Noting(module.Module):
            def __getattr__(self, name):
                asked.append(name)
                return super().__getattr__(name)

        class Net(Noting):
            def __init__(self):
                super().__init__()
                self.weight = module.Parameter(t.ones(2))
                self.register_buffer("scale", t.full((2,), 3.0))
                self.act = module.Tanh()

            def forward(self, x):
                return self.act(self.weight * x) * self.scale

        class Plain(module.Linear):
            pass

        class Asking(Noting, module.Linear):
            pass

        net, other = Net(), Plain(2, 2)
        del asked[:]
        optimizer = t.optim.SGD(net.parameters(), lr=0.1)
        losses = []
        for _ in range(4):
            optimizer.zero_grad()
            loss = net(t.tensor([1.0, -2.0])).sum()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        read = [n for n in asked if n in ("act", "weight", "scale")]
        del asked[:]
        other.__class__ = Asking
        shapes = [tuple(p.shape) for p in (other.weight, other.bias)]
        other.__class__ = Plain
        assert shapes == [tuple(p.shape) for p in (other.weight, other.bias)]
        return losses, read, asked

    ours, theirs = go(fanal, nn), go(torch, torch.nn)
    assert ours[0] == pytest.approx(theirs[0])
    assert ours[1:] == theirs[1:]
