"""Names below PyTorch's public ones that libraries use: checks, names of types, and what optimizers and distributions
that others write are made of."""

import importlib

import pytest
import torch

import fanal


def both(call):
    """Return what `call` gives on torch and on Fanal, or the class and text of the error."""
    found = []
    for m in (torch, fanal):
        try:
            r = call(m)
            found.append(r.tolist() if isinstance(r, m.Tensor) else r)
        except Exception as e:
            found.append((type(e).__name__, str(e).split("\n")[0]))
    return found


def part(m, path):
    return importlib.import_module(f"{m.__name__}.{path}")


def in_block(m, where):
    with m.device(where) as d:
        return [str(m.ones(2).device), str(d)]


CALLS = {
    "_assert holds": lambda m: m._assert(m.tensor(True), "no"),
    "_assert": lambda m: m._assert(1 > 2, "no"),
    "_check holds": lambda m: m._check(True, lambda: 1 / 0),
    "_check": lambda m: m._check(False),
    "_check with a message": lambda m: m._check(False, lambda: "too few"),
    "_check of a tensor": lambda m: m._check(m.tensor(True)),
    "_check of a number": lambda m: m._check(1),
    "_check_index": lambda m: m._check_index(False, lambda: 3),
    "_check_type": lambda m: m._check_type(False, "text"),
    "_check_value": lambda m: m._check_value(False, lambda: "value"),
    "typename": lambda m: [m.typename(x) for x in (m.ones(2), m.ones(2, dtype=m.int64), int, 3, pytest.raises, both)],
    "api usage": lambda m: m._C._log_api_usage_once("library.part"),
    "profiling executor": lambda m: m._C._jit_set_profiling_executor(m._C._jit_set_profiling_executor(False)) is False,
    "standard normal": lambda m: (m.manual_seed(2), part(m, "distributions.utils")._standard_normal(
        (20,), m.float64, m.device("cpu")))[1],
    "sum rightmost": lambda m: part(m, "distributions.utils")._sum_rightmost(m.ones(2, 3, 4), 2),
    "inverse": lambda m: isinstance(m.distributions.ExpTransform().inv, part(m, "distributions.transforms")._InverseTransform),
    "map location": lambda m: part(m, "serialization").MAP_LOCATION is not None,
    "parameters": lambda m: part(m, "optim.optimizer").ParamsT is not None,
    "value": lambda m: [part(m, "optim.optimizer")._get_value(x) for x in (m.tensor(2.5), 3)],
    "identity": lambda m: (lambda x: [x._cdata == x._cdata, x._cdata == x.detach()._cdata])(m.ones(2)),
    "end of a graph": lambda m: m.ones(2, requires_grad=True).exp().grad_fn.next_functions[0][0].next_functions,
    "a device for a while": lambda m: in_block(m, "cpu"),
    "as many elements as there are": lambda m: [tuple(getattr(m, f)(2**20, 2**22, device="meta").shape)
                                                for f in ("rand", "randn")]
    + [m.rand_like(m.empty(2**20, 2**22, device="meta")).is_meta],
    "itself": lambda m: m.torch is m,
    "hub": lambda m: [part(m, "hub").HASH_REGEX.search("net-5c106cde.pth").group(1), part(m, "hub")._get_torch_home()],
    "warning": lambda m: issubclass(m.jit.TracerWarning, Warning) and not issubclass(m.jit.Error, RuntimeError),
}


@pytest.mark.parametrize("name", CALLS)
def test_as_in_pytorch(name):
    expected, got = both(CALLS[name])
    assert got == expected


def test_the_step_of_an_optimizer_that_may_be_differentiated():
    """With differentiable=True its gradients are recorded, without they are not, whatever the mode outside."""
    def steps(m):
        class Descent(m.optim.Optimizer):
            def __init__(self, params, differentiable):
                super().__init__(params, {"lr": 0.1, "differentiable": differentiable})

            @part(m, "optim.optimizer")._use_grad_for_differentiable
            def step(self):
                return [m.is_grad_enabled(), *[(p * p).requires_grad for g in self.param_groups for p in g["params"]]]

        made = [Descent([m.ones(2, requires_grad=True)], d) for d in (False, True)]
        return [o.step() for o in made] + [m.is_grad_enabled()]

    assert steps(fanal) == steps(torch)


def test_a_device_that_cannot_be_the_default_is_refused():
    with pytest.raises(RuntimeError, match=r"with torch.device\('meta'\) is not supported: new tensors are made on the CPU"):
        in_block(fanal, "meta")
