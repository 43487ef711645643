"""What random programs found in operators and their gradients, each case by itself."""
from __future__ import annotations

from typing import Any

import pytest
from both import of_both

import fanal

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("f", [
    lambda m, z: z.floor(), lambda m, z: z.ceil(), lambda m, z: z.round(), lambda m, z: z.trunc(), lambda m, z: z.sign(), lambda m, z: z.round(decimals=1),
    lambda m, z: z.frac(), lambda m, z: z % 1, lambda m, z: m.div(z, 0.3, rounding_mode="trunc"),
], ids=["floor", "ceil", "round", "trunc", "sign", "decimals", "frac", "remainder", "div"])
def test_infinite_gradients_of_steps_are_zero(f: Any) -> None:
    """They were NaN. Tangents, which are zero, have no history."""
    def program(m: Any) -> list[Any]:
        x = m.tensor([1.5, -2.3, 0.7], requires_grad=True)
        g, = m.autograd.grad((f(m, x) * m.tensor([float("inf"), 1, 1])).sum(), x)
        t = m.func.jvp(lambda z: f(m, z), (x,), (x.cos(),))[1]
        return [g, t.detach(), m.tensor(t.requires_grad)]
    of_both(program)


@pytest.mark.parametrize("f", [
    lambda m, x: x.gather(1, m.zeros(0, 4, dtype=m.int64)), lambda m, x: m.nn.functional.adaptive_avg_pool1d(x, 2), lambda m, x: x.take_along_dim(m.zeros(0, 1, dtype=m.int64), 1),
    lambda m, x: m.nn.functional.adaptive_max_pool1d(x, 2), lambda m, x: m.nn.functional.multi_margin_loss(x, m.zeros(0, dtype=m.int64), reduction="none"),
], ids=range(5))
def test_results_without_elements_have_a_history(f: Any) -> None:
    def program(m: Any) -> list[Any]:
        x = m.ones(0, 4, requires_grad=True)
        y = f(m, x)
        return [y, *m.autograd.grad(y.sum(), x)]
    of_both(program)


def test_what_repeats_and_has_no_elements_may_be_written() -> None:
    def program(m: Any) -> list[Any]:
        x = m.ones(1, 3).expand(2, 3)[:, :0]
        return [x.add_(1), m.sin(m.ones(2, 0), out=x), x.copy_(m.ones(2, 0))]
    of_both(program)


@pytest.mark.parametrize("view", [lambda t: t[:, 0], lambda t: t.view(-1), lambda t: t[1:].t()], ids=range(3))
@pytest.mark.parametrize("write", [
    lambda m, v: v.add_(1), lambda m, v: v.mul_(2.5), lambda m, v: v.__setitem__(v > 1, 0.5), lambda m, v: v.__setitem__(0, 3.), lambda m, v: v[:1].mul_(2),
], ids=range(5))
def test_a_hook_on_a_view_sees_nothing_of_what_is_written_through_it(view: Any, write: Any) -> None:
    def program(m: Any) -> list[Any]:
        p = m.arange(6.).view(3, 2).requires_grad_()
        t = p * 2
        v = view(t)
        before = (v * 3).sum()
        v.register_hook(lambda g: g * 0.5)
        write(m, v)
        return [*m.autograd.grad((v * v).sum() + t.sum() + before, p)]
    of_both(program)


@pytest.mark.parametrize(("shapes", "reduction"), [
    (((6,), (4, 6)), "mean"), (((6,), (4, 6)), "none"), (((4, 6), (2, 4, 6)), "none"), (((4, 6), (6,)), "none"), (((), (3,)), "none"),
])
def test_classes_of_multilabel_soft_margin_loss_are_those_of_the_input(shapes: Any, reduction: str) -> None:
    def program(m: Any) -> Any:
        x, y = (m.arange(1. * int(torch.Size(s).numel())).sin().view(s) for s in shapes)
        return m.nn.functional.multilabel_soft_margin_loss(x, (y > 0).float(), reduction=reduction)
    of_both(program)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_nested_gradients_of_functions_that_read_values(order: int) -> None:
    """The variable inside, a view that changes nothing, was made anew without its history: gradients were zero."""
    def program(m: Any) -> list[Any]:
        def f(z: Any) -> Any:
            m.ones(3).sum().item()
            return (z ** 4).sum()
        for _ in range(order - 1):
            f = (lambda g: lambda z: g(z).sum())(m.func.grad(f))
        x = m.arange(6.).view(2, 3)
        return [m.tensor(m.func.grad(f)(x).tolist()) for _ in range(6)]
    of_both(program)


@pytest.mark.parametrize("view", [lambda p: p[:], lambda p: p.view(2, 3), lambda p: p.view_as(p), lambda p: p.expand(2, 3)], ids=range(4))
def test_a_view_of_a_leaf_that_changes_nothing_is_cut_before_a_read(view: Any) -> None:
    def program(m: Any) -> list[Any]:
        found = []
        for _ in range(3):
            p = m.ones(2, 3).requires_grad_()
            for _ in range(6):
                a = view(p)
                b = a[:1]
                p.detach().sum().item()
                found += [m.tensor(g.tolist()) for g in m.autograd.grad((a * 2).sum() + b.sum(), [a, p])]
        return found
    of_both(program)


@pytest.mark.parametrize("view", [
    lambda t: t, lambda t: t.view(-1), lambda t: t.as_strided((2,), (1,)), lambda t: t[0], lambda t: t.T.detach(), lambda t: t.unfold(1, 1, 1),
], ids=range(6))
def test_views_of_what_is_detached_again_have_a_history_of_their_own(view: Any) -> None:
    """They had that of what was detached, and written with a gradient, before."""
    def program(m: Any) -> list[Any]:
        p, q, found = m.arange(1., 7.).view(2, 3).requires_grad_(), m.ones(1).requires_grad_(), []
        for _ in range(4):
            t = view(p.detach())
            t[:1].mul_(q)
            found += m.autograd.grad((t * t).sum(), q)
        return found
    of_both(program)


@pytest.mark.parametrize("read_first", [False, True])
def test_the_logits_of_cross_entropy_may_be_written_before_backward(read_first: bool) -> None:
    def program(m: Any) -> list[Any]:
        p, found = m.arange(12.).sin().view(3, 4).requires_grad_(), []
        for k in range(6):
            x = p * (1 + k)
            loss = m.nn.functional.cross_entropy(x, m.tensor([0, 3, k % 4]))
            if read_first:
                loss.item()
            x[0].fill_(1)
            x.mul_(0.5)
            found += [*m.autograd.grad(loss, p), x.detach()]
        return found
    of_both(program)


@pytest.mark.parametrize("call", [
    lambda m, t: t > 0.5, lambda m, t: t.long(), lambda m, t: t.argmax(), lambda m, t: m.equal(t, t), lambda m, t: t.all(),
    lambda m, t: m.searchsorted(m.ones(1), t), lambda m, t: t * 2, lambda m, t: m.ones(2).add_(t), lambda m, t: m.stack([t, t]).max(0)[1],
], ids=range(9))
def test_a_view_that_a_write_to_its_base_ended_may_be_compared(call: Any) -> None:
    """It was refused everywhere, not only where a gradient follows."""
    def program(m: Any) -> list[Any]:
        p = m.arange(4.).requires_grad_() * 1
        t = p.chunk(2)[1]
        p.mul_(2)
        found = [call(m, t)]
        return [x if m.is_tensor(x) else m.tensor(x) for x in found]
    for _ in range(4):
        of_both(program)


@pytest.mark.parametrize("f", [
    lambda m, x: x.softmax(0), lambda m, x: x.log_softmax(-1), lambda m, x: m.nn.functional.softmin(x, 1), lambda m, x: x.masked_fill(x > 0, 0.2),
    lambda m, x: x.triu(), lambda m, x: x.scatter(0, m.zeros(1, 1, 1, dtype=m.int64), 0.5), lambda m, x: x.index_add(0, m.tensor([0]), x[:1]),
    lambda m, x: x.index_copy(0, m.tensor([0]), x[1:]), lambda m, x: x.masked_scatter(x > 0, x), lambda m, x: m.nn.functional.layer_norm(x, (4,)),
    lambda m, x: m.nn.functional.rms_norm(x, (4,)), lambda m, x: m.nn.functional.batch_norm(x, None, None, training=True),
    lambda m, x: m.nn.functional.group_norm(x, 1), lambda m, x: m.nn.functional.instance_norm(x), lambda m, x: m.nn.functional.logsigmoid(x),
    lambda m, x: 2 ** x, lambda m, x: m.isin(x, x), lambda m, x: m.mvlgamma(x.abs() + 2, 2), lambda m, x: x.scatter_reduce(0, (x * 0).long(), x, "mean"),
    lambda m, x: x.flip(1), lambda m, x: x.sort(1)[0], lambda m, x: x.sort(0)[1], lambda m, x: x.argsort(), lambda m, x: m.nn.functional.rrelu(x),
    lambda m, x: m.gru_cell(m.ones(2, 3), x.flatten()[:8].view(4, 2).t(), m.ones(12, 3), m.ones(12, 4)),
], ids=range(25))
@pytest.mark.parametrize("last", [False, True])
def test_results_lie_in_memory_as_in_pytorch(f: Any, last: bool) -> None:
    """What is contiguous there kept the strides of a permuted operand, so view() was refused, and the other way round."""
    def program(m: Any) -> list[Any]:
        x = m.arange(24.).sin().view(3, 4, 2).permute(2, 0, 1)
        if last:
            x = m.arange(96.).sin().view(2, 3, 4, 4).contiguous(memory_format=m.channels_last)
            if f(m, x).shape != x.shape:
                return []
        y = f(m, x)
        return [y, m.tensor(y.stride())]
    of_both(program)


@pytest.mark.parametrize("f", [
    lambda m, x: x.max(0), lambda m, x: x.argmax(), lambda m, x: x[:1].argmin(0), lambda m, x: m.nn.functional.leaky_relu(x), lambda m, x: x.erf(),
    lambda m, x: m.nn.functional.gelu(x), lambda m, x: m.nn.functional.mse_loss(x, x), lambda m, x: x.softmax(0), lambda m, x: x.fmax(x), lambda m, x: x < x,
    lambda m, x: m.nn.functional.layer_norm(x, (4,)), lambda m, x: x.nansum(), lambda m, x: x.copysign(x), lambda m, x: m.nn.functional.hardtanh(x),
    lambda m, x: m.bucketize(x, m.ones(1)), lambda m, x: m.nn.functional.cosine_similarity(x, x), lambda m, x: x.unique(),
], ids=range(17))
def test_complex_numbers_have_no_order(f: Any) -> None:
    """Their real parts were compared, or pairs, and a number came out."""
    x = [1 + 2j, 3 - 1j, 0.5j, -1.]
    for m in (torch, fanal):
        with pytest.raises(RuntimeError):
            f(m, m.tensor([x, x[::-1]]))


def test_complex_numbers_where_nothing_is_compared() -> None:
    def program(m: Any) -> list[Any]:
        x = m.tensor([1 + 2j, 3 - 1j, 0.5j, -1.])
        f, at = m.nn.functional, m.tensor([0, 0, 1, 2])
        return [f.silu(x), f.gaussian_nll_loss(x, x * 2, x.abs() + 1), x.scatter_reduce(0, at, x * 2, "mean"), f.rms_norm(x, (4,))]
    of_both(program)


@pytest.mark.parametrize("f", [
    lambda m, x, y: m.nn.functional.margin_ranking_loss(x, y, m.ones(3)), lambda m, x, y: m.nn.functional.cosine_embedding_loss(x[None], y[None], m.ones(1)),
], ids=range(2))
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64"])
def test_losses_of_integers_wrap_where_pytorchs_do(f: Any, dtype: str) -> None:
    of_both(lambda m: f(m, m.tensor([1, 90, 7], dtype=getattr(m, dtype)), m.tensor([4, 3, 100], dtype=getattr(m, dtype))))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_multilabel_soft_margin_loss_rounds_in_the_dtype_of_its_input(dtype: str) -> None:
    def program(m: Any) -> Any:
        x = m.arange(12.).sin().view(3, 4)
        return m.nn.functional.multilabel_soft_margin_loss(x.to(getattr(m, dtype)), (x > 0).float(), reduction="none")
    of_both(program)


@pytest.mark.parametrize("view", [lambda p: p.chunk(2)[1], lambda p: p.split(1)[0], lambda p: p.unbind()[0]], ids=range(3))
def test_parts_of_a_tensor_made_before_it_required_gradients_have_none(view: Any) -> None:
    """A step that was followed took them for parts of a leaf."""
    def program(m: Any) -> list[Any]:
        p, q, found = m.arange(4.).requires_grad_(), m.zeros(()).requires_grad_(), []
        optimizer = m.optim.SGD([p, q], lr=0.1)
        for k in range(12):
            v = view(p)
            p.requires_grad_(k % 3 != 1)
            if k != 1:
                m.ones(3).sum().item()
            (v.sum() + q).backward()
            found.append(m.zeros(()) if p.grad is None else p.grad.sum())
            optimizer.step()
            optimizer.zero_grad()
        return found
    of_both(program)


@pytest.mark.parametrize("f", [
    lambda F, x: F.mish(x), lambda F, x: F.huber_loss(x, x.detach() * 0), lambda F, x: F.smooth_l1_loss(x, x.detach() * 0, beta=0.5), lambda F, x: F.softplus(x),
    lambda F, x: F.logsigmoid(x), lambda F, x: F.binary_cross_entropy_with_logits(x, x.detach() * 0), lambda F, x: F.silu(x), lambda F, x: x * F.softsign(x),
    lambda F, x: F.huber_loss(x, x.detach() + 1), lambda F, x: F.smooth_l1_loss(x, x.detach() - 1),
    lambda F, x: F.prelu(x, x[:1].detach() + 0.3) ** 2,
], ids=range(11))
def test_three_derivatives_at_0(f: Any) -> None:
    """What is smooth was written with |x|, which is not: later derivatives missed a part at 0."""
    def program(m: Any) -> list[Any]:
        x = m.zeros(2, dtype=m.float64, requires_grad=True)
        y, found = f(m.nn.functional, x), []
        for _ in range(3):
            y, = m.autograd.grad((y * m.tensor([1., 2.], dtype=m.float64)).sum(), x, create_graph=True)
            found.append(y)
            if not y.requires_grad:
                break
        return found
    of_both(program)


@pytest.mark.parametrize("f", [lambda m: m.add(m.ones(2), m.ones(2), alpha=True), lambda m: m.ones(2).sub_(1, alpha=False),
                               lambda m: m.rsub(m.ones(2), 1, alpha=True)], ids=["add", "sub_", "rsub"])
def test_a_truth_value_is_no_factor_of_numbers(f: Any) -> None:
    for m in (torch, fanal):
        with pytest.raises(RuntimeError, match="Boolean alpha only supported for Boolean results"):
            f(m)


@pytest.mark.parametrize("f", [
    lambda m, x: m.relu(x), lambda m, x: m.nn.functional.relu6(x), lambda m, x: m.nn.functional.hardtanh(x, -0.5, 1.5),
    lambda m, x: x.clamp(-0.5, 1.5), lambda m, x: x.clamp(min=0.), lambda m, x: x.clamp(max=m.tensor(0.5)),
    lambda m, x: m.nn.functional.lp_pool1d(x[None], 1.5, 2),
], ids=["relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "lp_pool1d"])
def test_gradients_at_nan_pass_or_end_as_in_pytorch(f: Any) -> None:
    """They ended at a relu's NaN, and passed at a clamp's."""
    def program(m: Any) -> list[Any]:
        x = m.tensor([float("nan"), -1., 0., 2., -0., 0.5, 1.5, -0.5], requires_grad=True)
        return list(m.autograd.grad((f(m, x) * 3.).sum(), x))
    of_both(program)


@pytest.mark.parametrize("f", [
    lambda m, w: m.nn.functional.conv2d(m.arange(100.).view(1, 1, 10, 10), w.expand(1, 1, 3, 3)),
    lambda m, w: w.expand(1, 3, 3).cumsum(-1), lambda m, w: m.fft.rfft(w.expand(1, 1, 3, 3)).real,
], ids=["conv2d", "cumsum", "rfft"])
def test_a_product_read_only_with_more_dimensions_of_size_1(f: Any) -> None:
    """The product was written to memory that nobody had planned, and the program did not start."""
    def program(m: Any) -> list[Any]:
        g = m.tensor([[1., 2., 0.5]])
        return [f(m, g.t() @ g)]
    of_both(program)


@pytest.mark.parametrize("f", [
    lambda m: m.ones(2, 16, 32) + m.ones(17, 16), lambda m: m.ones(2, 16, 32).add_(m.ones(17, 16)), lambda m: m.ones(2, 16).expand(3, 17),
    lambda m: m.ones(2, 3, 4, 5) @ m.ones(3, 2, 5, 4), lambda m: m.broadcast_shapes((2, 1, 32), (17, 32), (3, 16, 16)),
], ids=["add", "add_", "expand", "matmul", "broadcast_shapes"])
def test_the_last_dimension_that_does_not_fit_is_named(f: Any) -> None:
    """The first one was."""
    said = []
    for m in (torch, fanal):
        with pytest.raises(RuntimeError) as error:
            f(m)
        said.append(str(error.value).split("\n")[0])
    assert said[0] == said[1]
