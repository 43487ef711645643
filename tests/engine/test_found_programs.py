"""What random programs found, each case by itself: programs of a few lines, run by PyTorch and by Fanal."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import surface_programs
import wide_programs
from both import of_both

import fanal

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("write", [
    lambda t: t[0].mul_(2), lambda t: t[:1].add_(1), lambda t: t.unsqueeze(0)[:, 0].mul_(2), lambda t: t.T[1:].select(1, 1).neg_(),
    lambda t: t.as_strided((3, 2), (1, 1))[1:, 0].zero_(), lambda t: t[1].unfold(0, 2, 1)[1].sub_(3), lambda t: t[0][1:].copy_(t[1][:2] * 3),
], ids=range(7))
def test_a_write_through_a_part_of_a_view_that_repeats(write: Any) -> None:
    """Where an element shows twice, the place that is not written kept its old value and put it back."""
    def program(m: Any) -> list[Any]:
        x = m.arange(3.)
        t = x.expand(2, 3)
        write(t)
        return [x, t]
    of_both(program)


def test_a_gradient_through_a_write_to_a_repeated_element() -> None:
    def program(m: Any) -> list[Any]:
        x = m.arange(3.).requires_grad_()
        y = x * 2
        y.expand(2, 3)[0][1:].mul_(x[:2])
        (y * y).sum().backward()
        return [y, x.grad]
    of_both(program)


@pytest.mark.parametrize("write", [lambda t: t.clamp_min_(1.5), lambda t: t[1:].relu_(), lambda t: t.movedim(0, -1).abs_()], ids=range(3))
def test_a_gradient_through_a_write_to_windows_that_overlap(write: Any) -> None:
    """Each place where an element shows passed on the gradient of the element."""
    def program(m: Any) -> list[Any]:
        x = m.tensor([1., -2., 3., 4.], requires_grad=True)
        y = x * 2
        t = y.unfold(0, 2, 1)
        write(t)
        (t * m.tensor([1., 3.])).sum().backward()
        return [y, x.grad]
    of_both(program)


@pytest.mark.parametrize("view", [lambda p: p[:], lambda p: p[1:], lambda p: p.view(3)], ids=range(3))
def test_nested_gradients_at_a_view_without_history_of_a_leaf(view: Any) -> None:
    """They were zeros: the inner gradient was taken for a constant."""
    def program(m: Any) -> list[Any]:
        p = m.arange(3.).requires_grad_()
        with m.no_grad():
            x = view(p)
        g = m.func.grad(lambda z: m.func.grad(lambda z: (z ** 3).sum())(z).sum())(x)
        return [g, m.tensor(g.requires_grad), m.func.hessian(lambda z: (z ** 3).sum())(x)]
    of_both(program)


@pytest.mark.parametrize("share", [lambda q: q, lambda q: q[:2], lambda q: q.view(3)])
def test_gradients_at_a_tensor_whose_memory_is_shared_with_numpy(share: Any) -> None:
    """A copy of the bytes stood for the tensor: gradients, hooks and transforms looked for them at another copy."""
    def program(m: Any) -> list[Any]:
        p, seen = m.arange(3.).requires_grad_(), []
        q = share(p * 1.5)
        array = q.detach().numpy()
        q.register_hook(seen.append)
        q.retain_grad()
        y = (q * q).sum() + float(array[0])
        g, = m.autograd.grad(y, q, retain_graph=True)
        y.backward()
        return [g, *seen, q.grad, p.grad]
    of_both(program)


@pytest.mark.parametrize("call", [
    lambda m, x: m.gt(x.detach(), x, out=m.empty(3)), lambda m, x: m.argmax(x, 0, out=m.empty((), dtype=m.int64)),
    lambda m, x: m.floor(x, out=m.empty(3)), lambda m, x: m.logical_and(x, x, out=m.empty(3, dtype=m.bool)),
    lambda m, x: m.sum(x.detach(), 0, out=m.empty((), dtype=m.int32)), lambda m, x: m.cumprod(x.detach() * (1 + 1j), 0, out=m.empty(3)),
    lambda m, x: m.cumsum(x.detach().double(), 0, out=m.empty(3)), lambda m, x: m.prod(x.detach(), 0, dtype=m.float64, out=m.empty(())),
], ids=range(8))
@pytest.mark.filterwarnings("ignore")  # of complex numbers cast to real
def test_out(call: Any) -> None:
    """Only results with a gradient are refused; sums and products are computed in the dtype of out."""
    def program(m: Any) -> Any:
        return call(m, m.tensor([1.5, 2.6, 300.7], requires_grad=True))
    of_both(program)


@pytest.mark.parametrize("program", [
    lambda m: m.func.jacrev(lambda z: z.cummax(0)[0])(m.tensor(2.)), lambda m: m.func.hessian(lambda z: z.sin())(m.tensor(2.)),
    lambda m: m.func.jacfwd(lambda z: z.exp())(m.tensor(2.)), lambda m: m.autograd.functional.jacobian(lambda z: z * z, m.tensor(2.)),
    lambda m: m.func.jacrev(lambda z: z.sum())(m.ones(0, 2)),
], ids=range(5))
def test_derivatives_by_no_dimensions(program: Any) -> None:
    of_both(program)


def test_a_value_that_does_not_differ_between_examples_is_read_beside_a_tangent_that_does() -> None:
    def program(m: Any) -> Any:
        x, f = m.arange(6.).view(2, 3), m.nn.functional.gaussian_nll_loss  # f looks whether the variance is negative
        return m.vmap(lambda v: m.func.jvp(lambda z: f(z, z * 2, z.abs() + 1), (x,), (v,))[1])(m.stack([m.ones(2, 3), x]))
    of_both(program)


def test_a_vmap_that_cannot_begin_leaves_nothing_open() -> None:
    def program(m: Any) -> Any:
        a, _ = (m.ones(4).requires_grad_() * 1).split(2)
        a.detach().add_(1)
        try:
            m.vmap(lambda z: z * 2)(a)
        except RuntimeError:
            pass
        m.manual_seed(0)
        return m.rand(3)  # refused inside vmap
    of_both(program)


@pytest.mark.parametrize("program", [
    lambda m: m.nn.functional.pairwise_distance(m.tensor(0.5), m.tensor(2.), keepdim=True), lambda m: m.tensor(0.5).mT, lambda m: m.tensor(1j).mH,
    lambda m: m.searchsorted(m.tensor([0.1, 0.2]), m.tensor([0.1], dtype=m.float64)), lambda m: m.bucketize(m.tensor([1, 2]), m.tensor([0.5, 1.5])),
    lambda m: m.searchsorted(m.tensor([1, 2, 3]), m.tensor([1.5, 2.5])), lambda m: m.nn.functional.instance_norm(m.ones(1, 0, 6)),
    lambda m: m.linalg.vecdot(m.tensor(2.), m.tensor(3.)), lambda m: m.linalg.vecdot(m.tensor(2j), m.tensor(3j), dim=0),
], ids=range(9))
def test_operators(program: Any) -> None:
    """No dimensions; boundaries of another dtype than the values."""
    of_both(program)


@pytest.mark.parametrize("view", [lambda p: p[1:], lambda p: p[:, :3], lambda p: p.view(-1)])
def test_as_strided_of_a_view_of_a_leaf_has_a_gradient(view: Any) -> None:
    def program(m: Any) -> list[Any]:
        p = m.arange(24.).view(4, 6).requires_grad_()
        y = view(p).as_strided((2, 2), (6, 1))
        (y * y).sum().backward()
        return [y, p.grad]
    of_both(program)


@pytest.mark.parametrize("put", [
    lambda m, b, v: b.fill_(v), lambda m, b, v: b.masked_fill(~b, v), lambda m, b, v: b.scatter(0, m.tensor([1]), v), lambda m, b, v: b.new_full((2,), v),
    lambda m, b, v: b.__setitem__(1, v), lambda m, b, v: b.__setitem__(~b, v), lambda m, b, v: b.index_fill_(0, m.tensor([1]), v),
], ids=range(7))
def test_any_fraction_is_true(put: Any) -> None:
    """A number was cut to an integer on its way into a boolean tensor."""
    def program(m: Any) -> list[Any]:
        found = []
        for v in (0.0, 0.5, 0.25, 0, 1, -0.1, float("nan")):
            b = m.tensor([True, False, False])
            r = put(m, b, v)
            found.append(b if r is None else r)
        return found
    of_both(program)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_as_strided_of_a_leaf_that_lies_in_another_order(order: tuple[int, ...]) -> None:
    def program(m: Any) -> list[Any]:
        x = m.arange(24.).view(2, 3, 4).permute(*order).clone().requires_grad_()
        y = x.as_strided((2, 2), (1, 5))
        (y * y).sum().backward()
        return [y, x.grad, m.as_strided_scatter(x.detach(), m.tensor([100., 200.]), (2,), (1,))]
    of_both(program)


@pytest.mark.parametrize("program", [
    lambda m, x, zero: m.full((3,), zero) * x,
    lambda m, x, zero: m.nn.functional.pad(x, (1, 1), value=zero),
    lambda m, x, zero: m.nn.functional.threshold(-x, 0.5, zero),
], ids=["full", "pad", "threshold"])
def test_a_zero_below_zero(program: Any) -> None:
    """0.0 and -0.0 are equal, so the plan of one served the other, and a known call took either."""
    def signs(m: Any) -> list:
        return [(1 / program(m, m.ones(3), -0.0 if k in (3, 5, 6, 9) else 0.0)).tolist() for k in range(12)]

    assert signs(fanal) == signs(torch)


def test_a_zero_below_zero_before_a_branch() -> None:
    """Paths that differ in the sign of a zero were taken for one up to where they part."""
    def run(m: Any) -> list:
        found = []
        for k in range(16):
            y = m.full((3,), -0.0 if k in (1, 3, 5, 9, 12) else 0.0) * m.ones(3)
            z = y.exp() if k in (2, 3, 6, 9, 13) else y.sin()
            found.append(((1 / y).tolist(), str(z.tolist())))
        return found

    assert run(fanal) == run(torch)


@pytest.mark.parametrize("view", [
    lambda t: t.view(-1), lambda t: t.detach(), lambda t: t.view(-1).detach()[1:], lambda t: t.detach().as_strided((2,), (1,)),
    lambda t: t.view(-1)[1:].detach()[1:],
], ids=range(5))
@pytest.mark.parametrize("write", [
    lambda m, t, p: t.mul_(p[0]), lambda m, t, p: t.index_copy_(0, m.tensor([0]), t[1:2] * p[0]), lambda m, t, p: t.__setitem__(0, p.sum()),
], ids=range(3))
def test_a_detached_tensor_that_is_written_with_a_gradient_has_a_history_of_its_own(view: Any, write: Any) -> None:
    """The history went to what it was detached from, and its own gradients were lost."""
    def program(m: Any) -> list[Any]:
        found, p = [], m.arange(1., 4.).requires_grad_()
        for k in range(3):
            x = m.ones(2, 3) * k + p
            t = view(x)
            part = t[..., :1]
            write(m, t, p)
            y = (t * t).sum() + part.sum()
            if k:
                y.item()
            g = m.autograd.grad(y, p, retain_graph=True)[0]
            found += [x, t, part, g, m.autograd.grad(x.sum(), p)[0], m.tensor(t.detach().requires_grad)]
        return found
    of_both(program)


def test_of_two_tensors_detached_from_one_that_were_written_with_gradients_the_first_says_so() -> None:
    x, p = fanal.ones(2), fanal.ones(2).requires_grad_()
    a = x.detach()
    a.mul_(p)
    b = x.detach()
    b.mul_(p * 3)
    assert fanal.autograd.grad(b.sum(), p)[0].tolist() == [3, 3]
    with pytest.raises(RuntimeError, match="clone"):
        a.sum()


def cut_of_a_leaf(m: Any, p: Any) -> tuple:
    with m.no_grad():
        return p[...], p.view(-1)


@pytest.mark.parametrize("views", [
    cut_of_a_leaf, lambda m, p: (p * 2).split(1), lambda m, p: (p * 2).unbind(0)], ids=["no_grad", "split", "unbind"])
def test_views_that_may_not_be_written_outlive_a_read(views: Any) -> None:
    """From the third step on, they were taken for views whose base had been written."""
    def program(m: Any) -> list[Any]:
        p, found = (m.arange(6.).view(2, 3) * 1).requires_grad_(), []
        for _ in range(6):
            a, b = views(m, p)
            (p.detach() * 2).sum().item()
            ((a * a).sum() + (b * 3).sum() + p.sum()).backward()
            with m.no_grad():
                p -= p.grad * 0.1
            found += [p.detach().clone(), a.detach(), p.grad]
            p.grad = None
        return found
    of_both(program)


@pytest.mark.parametrize("program", [
    lambda m, a: [a * 30 // a.max()], lambda m, a: [a % a.sum(), a], lambda m, a: [(a * 0.5).long() // a.float().mean().long(), a],
    lambda m, a: [m.eye(9).gather(1, a.argmax().reshape(1, 1).expand(9, 1)), m.ones(2).sum()],
    lambda m, a: [m.eye(9)[a.min()].sum() + a.min()],
], ids=range(5))
def test_what_is_checked_comes_from_the_kernel_that_uses_it(program: Any) -> None:
    """A divisor or an index that its kernel had reduced to one number was not there when it was checked."""
    of_both(lambda m: program(m, m.arange(1, 9)))


def test_gradients_kept_by_a_second_run_of_a_loop_are_its_own() -> None:
    """Two known segments that begin alike exchanged their tensors but not their memory: the next step wrote into a .grad
    that somebody had kept."""
    def program(m: Any) -> list[Any]:
        p, found = (m.arange(6.).view(2, 3) * 1).requires_grad_(), []
        for _ in range(4):
            p.sum().item()
            (p * p).sum().backward()
            with m.no_grad():
                p -= p.grad * 0.1
            found.append(p.grad)
            p.grad = None
        return found
    for _ in range(3):
        of_both(program)


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_a_join_of_what_had_no_dimensions(shape: tuple[int, ...]) -> None:
    """The compiler looked for a dimension that only the first part had before it was reshaped."""
    def program(m: Any) -> Any:
        x = m.arange(1., 4.)
        return m.cat([(x[:1] * 2).reshape(shape), x.sum().reshape(shape), x[2].reshape(shape)])
    of_both(program)


@pytest.mark.parametrize("formula", ["...ik,...j->ij", "i,kj->j", "ij,kl->ik", "ij,ij->i", "ij->i"])
@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_einsum_of_integers_sums_one_operand_in_int64(formula: str, dtype: str) -> None:
    def program(m: Any) -> Any:
        operands = [m.arange(9 ** len(part.strip("."))).view(*[9] * len(part.strip("."))).to(getattr(m, dtype))
                    for part in formula.split("->")[0].split(",")]
        return m.einsum(formula, *operands)
    of_both(program)


@pytest.mark.parametrize(("formula", "dtypes"), [
    ("i,j->ij", ("int32", "float32")), ("i,j->ij", ("float32", "float64")), ("i,j->ij", ("uint8", "int16")),
    ("i,j->ij", ("float32", "complex64")), ("i,i->", ("int32", "float32")), ("i,i->", ("float32", "float64")),
])
def test_einsum_of_different_dtypes(formula: str, dtypes: tuple[str, str]) -> None:
    """The product had the dtype of the first operand: fractions were cut off."""
    of_both(lambda m: m.einsum(formula, *((m.arange(3) * 1.5).to(getattr(m, d)) for d in dtypes)))


@pytest.mark.parametrize("write, dtype, numbers", [
    (lambda m, x, v: x.fill_(v), "int8", [100, 101, 102, 1000, 103, -1000]), (lambda m, x, v: x.masked_fill_(x == 0, v), "uint8", [100, 101, -5, 1000, 102]),
    (lambda m, x, v: x.__setitem__(0, v), "int16", [7, 8, 9, 100000, 8]), (lambda m, x, v: x.clamp_(v), "float16", [2.5, 3.5, 1e6, 4.5, float("inf")]),
    (lambda m, x, v: x.add_(x, alpha=v), "float16", [2.5, 3.5, 1e6, 4.5]), (lambda m, x, v: x.add_(v), "int64", [2, 3, 1 << 62, 4]),
], ids=range(6))
def test_numbers_that_have_no_place_in_the_dtype_are_refused_in_followed_steps_too(write: Any, dtype: str, numbers: list[Any]) -> None:
    def program(m: Any, v: Any) -> Any:
        x = m.zeros(3, dtype=getattr(m, dtype))
        write(m, x, v)
        return x * 1
    for v in [type(v)(str(v)) for n in numbers for v in ([n] if n is not numbers[0] else [n] * 4)]:  # a new object each time
        of_both(lambda m, v=v: program(m, v))


def test_a_loop_that_catches_an_error_of_a_followed_step_goes_on() -> None:
    """The step was taken back, yet what backward reads of the parameter was taken for overwritten, ever after."""
    def program(m: Any) -> list[Any]:
        p, caught = m.ones(2, 3).requires_grad_(), []
        opt = m.optim.AdamW([p], lr=0.1)

        def step(i: Any) -> None:
            t = m.zeros(1)
            m.gather(m.ones(1) * 1, -1, i % 2, out=t)
            (p * p).sum().backward()
            opt.step()
        for k in range(7):
            p.grad = None
            try:
                step(m.tensor([k in (3, 4)], dtype=m.int64))
            except (IndexError, RuntimeError):
                caught.append(k)
                p.grad = None
        return [p.detach(), m.tensor(caught)]
    of_both(program)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_numbers_beside_16_bit_floats_are_rounded_where_pytorch_rounds_them(dtype: str) -> None:
    def program(m: Any) -> list[Any]:
        x = m.tensor(np.random.default_rng(0).standard_normal(64).astype(np.float32)).to(getattr(m, dtype)).requires_grad_()
        s, F = m.tensor(0.3), m.nn.functional
        y = [x * 0.3, 0.3 * x, x / 0.3, 0.3 / x, x * s, s * x, x / s, x + 0.3, x.add(x * x, alpha=0.3), x.sub(1, alpha=0.3), x.div(0.3, rounding_mode="floor"),
             F.leaky_relu(x, 0.3), F.softshrink(x, 0.3), F.rrelu(x, 0.3, 0.3)]
        gradients = [m.autograd.grad(y[k], x, y[5].detach())[0] for k in (0, 2, 4, 6, 11)]
        return [*y, *gradients, *m.autograd.grad(m.xlogy(x.detach(), z := (x * x + 0.5).detach().requires_grad_()), z, y[5].detach())]
    of_both(program)


def test_the_angle_of_real_numbers_has_a_gradient() -> None:
    def program(m: Any) -> Any:
        x = m.tensor([1.5, -2., 0.], requires_grad=True)
        x.angle().sum().backward()
        return x.grad
    of_both(program)


def test_the_norm_of_complex32_is_rounded_once() -> None:
    def program(m: Any) -> Any:
        r = np.random.default_rng(0)
        z = m.tensor(r.standard_normal((16, 5)) * 5 + 1j * r.standard_normal((16, 5))).to(m.complex32)
        return m.norm(z, 3, 1).float()
    of_both(program)


@pytest.mark.parametrize("program", [
    lambda m, x: m.func.jvp(m.func.grad(lambda z: z.logcumsumexp(-1).square().sum()), (x,), (m.ones(4),))[1],
    lambda m, x: m.func.hessian(lambda z: z.logcumsumexp(0)[1:].exp().sum())(x * 30), lambda m, x: m.func.jvp(lambda z: z.logit(0.1), (x.round(),), (x,))[1],
], ids=range(3))
def test_second_derivatives_where_a_logarithm_or_a_quotient_is_infinite(program: Any) -> None:
    of_both(lambda m: program(m, m.tensor([0.001, 0.4, 1., -0.3])))


def test_a_call_that_needed_a_value_is_no_event_where_backward_goes_through_an_earlier_segment() -> None:
    """That the segment goes through an earlier one hid that its first call had begun in that one: IndexError."""
    def program(m: Any) -> Any:
        p, q = m.tensor([0.1, 0.2, 0.3, 0.4]).requires_grad_(), m.ones(2).requires_grad_()
        optimizer = m.optim.SGD([p, q], 0.1)
        y = p.exp()
        norm = p.detach().norm()
        for _ in range(12):
            norm = norm * 1.5
        norm[norm > 0]
        held = q * 2
        (y.sum() + q.sum()).backward()
        optimizer.step()
        return [p, held]
    of_both(program)


@pytest.mark.parametrize("held", [True, False])
def test_a_single_element_is_looked_up_where_it_is_computed(held: bool) -> None:
    """The lookup read memory that the same loop was to write, or that nobody had."""
    def program(m: Any) -> Any:
        i = m.tensor([0, -1, 0])
        y = m.full((3, 1), 2.0).sum(0) * 3
        z = [y[i], m.take(y, i) + 1, y[i].exp().sum(), (y.reshape(1, 1).expand(1, 3) * i)[i]]
        return [y, *z] if held else z
    of_both(program)


def test_a_lookup_of_a_single_element_is_checked() -> None:
    def program(m: Any) -> Any:
        y = (m.full((3, 1), 2.0).sum(0) * 3)[m.tensor([0, 1, 0])]
        return y.tolist()
    of_both(program)


@pytest.mark.parametrize("program", [
    lambda m: m.fft.fftn(m.tensor(2.)), lambda m: m.fft.ifftn(m.ones(3, dtype=m.float64), dim=()), lambda m: m.fft.fftn(m.tensor(2), norm="ortho"),
    lambda m: m.autograd.grad((x := m.tensor(2., requires_grad=True)).square() + m.fft.fftn(x).real, x)[0],
    lambda m: m.autograd.grad((x := m.ones(2, 0, 3, requires_grad=True)).median(), x)[0], lambda m: m.ones(0, requires_grad=True).nanmedian(),
    lambda m: m.mean(m.tensor([1.1, 2.2, 3.3]).bfloat16(), 0, out=m.empty((), dtype=m.float64)),
    lambda m: m.nansum(m.tensor([1.1, 2.2, 3.3]).half(), 0, out=m.empty((), dtype=m.float32)), lambda m: m.mean(m.ones(2), 0, out=m.empty((), dtype=m.int64)),
    lambda m: m.tensor([1.5, 1e-7]).half().ldexp(m.tensor([3, 20])), lambda m: m.ldexp(m.tensor([1.3]).bfloat16(), m.tensor([-2])).float(),
    lambda m: m.autograd.grad((x := m.tensor([-2., -1.5, 0.5, 2.], requires_grad=True)).acosh().nan_to_num(0.5).sum(), x)[0],
    lambda m: m.autograd.grad((x := m.tensor([-2., 0., 2.], requires_grad=True)).xlogy(m.tensor([-1., -1., 2.])).nan_to_num(0.5).sum(), x)[0],
    lambda m: m.func.jvp(lambda z: z.std(0, unbiased=False), (m.ones(2, 3),), (m.ones(2, 3),))[1],
    lambda m: m.tensor(2.).index_select(0, m.tensor([0, 0])), lambda m: m.tensor(2.).index_select(0, m.tensor([0])),
], ids=range(16))
@pytest.mark.filterwarnings("ignore")  # of norm="ortho" over nothing
def test_dtypes_and_edges_of_operators(program: Any) -> None:
    of_both(program)


@pytest.mark.parametrize("f", [
    lambda F, z: F.logsigmoid(z), lambda F, z: F.silu(z), lambda F, z: F.soft_margin_loss(z, z.detach().sign(), reduction="none"),
    lambda F, z: F.binary_cross_entropy_with_logits(z, z.detach().sigmoid(), reduction="none"),
], ids=["logsigmoid", "silu", "soft_margin", "bce"])
def test_second_derivatives_at_large_numbers(f: Any) -> None:
    """They were infinity over infinity where exp overflows."""
    def program(m: Any) -> list[Any]:
        z = m.tensor([-1e9, -200., -95., -3., 0., 2., 95., 200., 1e9], requires_grad=True)
        g, = m.autograd.grad(f(m.nn.functional, z).sum(), z, create_graph=True)
        return [g.detach(), m.autograd.grad((g * g + g).sum(), z)[0]]
    of_both(program)


@pytest.mark.parametrize("f", [
    lambda m, i, v: m.zeros(3).put(i, v), lambda m, i, v: m.zeros(3).scatter(0, i, v), lambda m, i, v: m.zeros(3).index_copy(0, i, v),
    lambda m, i, v: m.index_put(v, (i,), v * v), lambda m, i, v: (v * 1).index_put_((i,), m.ones(3)),
], ids=range(5))
def test_tangents_of_several_values_written_to_one_place(f: Any) -> None:
    """They were added."""
    def program(m: Any) -> list[Any]:
        i, v = m.tensor([0, 0, 1]), m.tensor([1., 2., 3.])
        return [*m.func.jvp(lambda v: f(m, i, v), (v,), (m.tensor([10., 20., 30.]),)), m.func.jacfwd(lambda v: f(m, i, v))(v)]
    of_both(program)


@pytest.mark.parametrize("f", [
    lambda m, z: m.nn.functional.elu(z), lambda m, z: m.nn.functional.celu(z), lambda m, z: m.nn.functional.selu(z),
    lambda m, z: m.nn.functional.mish(z), lambda m, z: m.logcumsumexp(z * 3, 0), lambda m, z: m.special.log_ndtr(z), lambda m, z: m.xlogy(z, z + 3),
], ids=["elu", "celu", "selu", "mish", "logcumsumexp", "log_ndtr", "xlogy"])
def test_second_derivatives_at_zero_and_far_from_it(f: Any) -> None:
    """At zero they were those from one side, far from it NaN."""
    def program(m: Any) -> list[Any]:
        z = m.tensor([-1., -0.0, 0., 2., 20., 60.], requires_grad=True)
        g, = m.autograd.grad(f(m, z).sum(), z, create_graph=True)
        return [g.detach(), m.autograd.grad((g * g + g).sum(), z)[0]]
    of_both(program)


def test_an_operand_of_ndtr_may_be_written_before_backward() -> None:
    def program(m: Any) -> list[Any]:
        p = m.tensor([-3., -0.5, 0., 2.], requires_grad=True)
        x = p * 2
        y = m.special.ndtr(x)
        x.zero_()
        y.square().sum().backward()
        return [y, p.grad]
    of_both(program)


def test_what_only_values_without_elements_read_needs_no_memory() -> None:
    """It was computed into memory that was not planned, and compiling gave up."""
    def program(m: Any) -> list[Any]:
        x = m.erf(m.zeros(2, 0, 3) + 1)
        return [m.func.vmap(m.func.jacrev(lambda z: z.sum(-2)))(x), x]
    of_both(program)


def test_a_twin_has_no_place_beside_what_needs_a_kernel_of_its_own() -> None:
    """A value computed again for far readers was counted as the one beside it, and compiling gave up."""
    text = """SHAPES = [(4, 6), (1,)]
def step(torch, F, w, k):
    t1 = w.p[0] + (w.kept[0] if w.kept else 0)
    t2 = F.normalize(t1 + 0.3, dim=-1)
    t3 = torch.zeros((1, 1))
    torch.gather(t1.detach(), 0, (w.i % 4)[:1, None], out=t3)
    z = t1[0].detach().clone().requires_grad_()
    g, = torch.autograd.grad(F.normalize(z + 0.3, dim=0).square().sum() * 1.5, z, create_graph=True)
    t4 = torch.autograd.grad(g.square().sum(), z)[0]
    t5 = w.m['gru6'](t2, torch.tanh(t2))
    loss = (w.p[0] * w.p[0]).sum() + w.p[2].sum() * 0.1 + w.p[0].sum() + t3[w.i % 1].sum() + t1.flipud().sum()
    (loss * w.p[0].sum()).backward()
    return [t5, t4]
"""
    for got, expected in zip(*(wide_programs.run(m, text, 1, lambda t: t.detach().numpy().copy()) for m in (fanal, torch))):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4) if b is not None else None


@pytest.mark.parametrize("other", [lambda x: x.uniform_(4, 4), lambda x: x.add_(1), lambda x: x.requires_grad * x], ids=range(3))
def test_what_a_known_program_makes_a_leaf_is_none_before(other: Any) -> None:
    def program(m: Any) -> list[Any]:
        for _ in range(4):
            x = m.ones(3) * 2
            m.autograd.grad(x.requires_grad_().square().sum(), x)[0].tolist()
        x = m.ones(3) * 2
        return [other(x), m.tensor(x.requires_grad)]
    of_both(program)


@pytest.mark.parametrize("view", [lambda p: p.view(-1), lambda p: p[:, 1:][1:], lambda p: p.unfold(-1, 2, 2), lambda p: (p * 2).view(6)], ids=range(4))
@pytest.mark.parametrize("when", [range(8), range(3, 5), (0, 2, 3, 4)], ids=range(3))
@pytest.mark.parametrize("removed", [True, False])
def test_a_hook_on_a_view_runs_after_a_read(view: Any, when: Any, removed: bool) -> None:
    """Views were made anew, without their hooks, where a segment was followed or went on from them."""
    def program(m: Any) -> list[Any]:
        p, found, handles = m.ones(2, 3).requires_grad_(), [], []
        for k in range(8):
            a = view(p)
            if k in when:
                handles.append(a.register_hook(lambda g: g + 0.1))
            b = a[:1]
            p.detach().sum().item()
            found.append(m.autograd.grad((a * 2).sum() + b.sum(), p)[0])
            if removed and handles:
                handles.pop().remove()
        return found
    of_both(program)


@pytest.mark.parametrize("base", [lambda p: p, lambda p: p * 2], ids=["leaf", "computed"])
def test_a_hook_on_a_view_that_outlives_its_step(base: Any) -> None:
    def program(m: Any) -> list[Any]:
        p, found = m.ones(2, 3).requires_grad_(), []
        a = base(p).view(-1)
        for k in range(12):
            if k == 6:
                handle = a.register_hook(lambda g: g + 0.1)
            if k == 9:
                handle.remove()
            found.append(m.autograd.grad((a * 2).sum(), p, retain_graph=True)[0])
        return found
    of_both(program)


@pytest.mark.parametrize("size", [1, (1, 2)])
def test_adaptive_max_pool_of_one_place(size: Any) -> None:
    """The place of the greatest of one element was looked for by reductions of nothing, and compiling gave up."""
    def program(m: Any) -> list[Any]:
        F = m.nn.functional
        x = m.ones(3, 1, requires_grad=True)
        y = F.pad(F.adaptive_max_pool1d(x * 2, 3), (1, 0)).sum() if size == 1 else F.adaptive_max_pool2d(x[:, None] * 2, (1, 2)).sum()
        return [y, *m.autograd.grad(y, x)]
    of_both(program)


@pytest.mark.parametrize("change", [
    lambda m, net: net.eval(), lambda m, net: setattr(net[1], "beta", 3.), lambda m, net: net.__setitem__(1, m.nn.Tanh()),
    lambda m, net: net.append(m.nn.Tanh()), lambda m, net: net.__delitem__(2),
], ids=["train", "option", "child", "longer", "shorter"])
def test_a_layer_that_changes_after_its_call_was_followed(change: Any) -> None:
    """The call was recorded after the fact as one of what the layer had become; later loops followed that."""
    def program(m: Any) -> list[Any]:
        found = []
        for _ in range(2):
            x = m.arange(24.).view(4, 6) / 9
            net = m.nn.Sequential(m.nn.BatchNorm1d(6, affine=False), m.nn.Softplus(), m.nn.Sigmoid())
            for k in range(8):
                y = net(x)
                if k == 5:
                    change(m, net)
                found += [y.cos() if k == 5 else y.sin(), net[0].running_mean.clone()]
                found[-1].sum().item()
        return found
    of_both(program)


def test_kernels_that_were_joined_need_what_both_need() -> None:
    """Who read one of two kernels was not known to need what the other needs, and the program's kernels formed a cycle."""
    text = """SHAPES = [(2, 0, 3), (4, 6)]
def step(torch, F, w, k):
    t4 = F.layer_norm(w.p[2], w.p[2].shape[-1:])
    t5 = w.m['gru6'](w.y, torch.tanh(w.y))
    t8 = t5[0].unflatten(0, (1, -1))[..., -1:]
    loss = w.p[2].sum() * 0.1 + t5.float().sum()
    loss.backward()
    w.opt.step()
    return [t4]
"""
    def rounds(m: Any) -> list[Any]:
        return surface_programs.run(m, text, 11170, lambda t: t.detach().numpy(force=True).copy())
    for got, expected in zip(rounds(fanal), rounds(torch), strict=True):
        for a, b in zip(got, expected, strict=True):
            assert (a is None) is (b is None)
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
