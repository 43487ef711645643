"""The judge of random programs whose results rounding decides: what it shakes, what it leaves, and what it still finds."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import surface_programs
from test_random_programs import compare

torch = pytest.importorskip("torch")
from agreement import disagreement
from rounding import Otherwise

SEEDS = range(12)


def drawn(f: Any) -> list[Any]:
    """Return what a function makes of some roundings."""
    found = []
    for seed in SEEDS:
        with Otherwise(seed):
            found.append(f())
    return found


@pytest.mark.parametrize("f", [
    lambda x: x.round().sum(), lambda x: torch.cat([x, x * 2]), lambda x: x.relu(), lambda x: x[1:].sort(stable=True)[0],
    lambda x: x.round() @ x.round().T, lambda x: torch.where(x > 0, x, -x), lambda x: x.clone().zero_(), lambda x: (x > 0).float().mean(0) * 4,
    lambda x: x.bfloat16(), lambda x: x.expand(2, 4, 6), lambda x: x.clamp(-1, 1).max(0)[0], lambda x: x.double().exp(),
], ids=range(12))
def test_what_is_exact_stays(f: Any) -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    for y in drawn(lambda: f(x)):
        assert torch.equal(y, f(x))


@pytest.mark.parametrize("f", [
    lambda x: x.exp(), lambda x: x.sum(), lambda x: x @ x.T, lambda x: x.softmax(1), lambda x: x.clone().tanh_(), lambda x: (x + 0.1j).exp(),
    lambda x: torch.sin(x, out=torch.empty(4, 6)), lambda x: torch.func.grad(lambda z: z.tanh().sum())(x), lambda x: torch._foreach_exp([x])[0],
    lambda x: torch.func.vmap(torch.func.jacrev(lambda z: z.log_softmax(0)))(x), lambda x: torch.nn.functional.layer_norm(x, (6,)),
], ids=range(11))
def test_what_rounds_is_off_by_a_few_units(f: Any) -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    values = drawn(lambda: f(x))
    assert any(not torch.equal(y, f(x)) for y in values)
    for y in values:
        assert y.dtype == f(x).dtype and torch.allclose(y, f(x), rtol=3e-6, atol=3e-6)


def test_what_may_be_of_either_sign_may_be_zero() -> None:
    assert {float(y) for y in drawn(lambda: torch.tensor([3e8, 1.3, -3e8]).sum().sign())} == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("f", [lambda x: x.topk(1)[1], lambda x: x.kthvalue(2)[1], lambda x: x.sort()[1][0], lambda x: x.median(0)[1],
                               lambda x: torch.autograd.grad(x.requires_grad_().kthvalue(1)[0], x)[0].argmax()], ids=range(5))
def test_of_equal_elements_another_is_chosen(f: Any) -> None:
    assert len({int(y) for y in drawn(lambda: f(torch.ones(4)))}) > 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [10607, 12055, 12409])
def test_programs_that_rounding_decides_agree(seed: int) -> None:
    """A layer norm of equal elements; the derivative of a norm that is 1; a branch on the sum of normalised rows."""
    compare(seed, module=surface_programs)


PROGRAM = """SHAPES = [(4, 6), (4, 6)]
def step(torch, F, w, k):
    t1 = F.layer_norm(w.m['linear6'](w.p[1]) * w.y, (6,))
    t2 = t1.softmax(1).log1p() @ w.x.T
    loss = t2.square().mean() + w.p[0].tanh().sum()
    loss.backward()
    return [t2, t1.sum()]
"""


@pytest.mark.parametrize("change", [lambda x: -x, lambda x: x * np.float32(1.01), lambda x: x * (np.abs(x) != np.abs(x).max()), lambda x: x[::-1]], ids=range(4))
@pytest.mark.parametrize("place", [(0, 0), (0, 3), (2, 2), (1, 12)])
def test_a_wrong_number_is_still_found(change: Any, place: tuple[int, int]) -> None:
    def run() -> list[Any]:
        return surface_programs.run(torch, PROGRAM, 3, lambda t: t.detach().numpy().copy())
    expected, got = run(), run()
    k, i = place
    got[k][i] = change(got[k][i])
    assert disagreement(expected, got, lambda: drawn(run)) is not None
