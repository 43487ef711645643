"""What random training loops found, each case by itself: loops of a few lines, run by PyTorch and by Fanal."""
from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from both import of_both

import fanal
from fanal.core.base import knobs
from fanal.core.engine.ledger import ledger


def test_a_gradient_arrives_at_the_leaf_that_took_the_place_of_another() -> None:
    """The backward asked where .grad was of the leaf before, which somebody held, and set none."""
    def program(m: Any) -> list[Any]:
        w, seen = m.tensor([[1., 2.]], requires_grad=True), []
        for k in range(10):
            if k in (7, 8):
                seen.append(w)
                w = w.detach().clone().requires_grad_()
            t = w.sum(0)
            t.tolist()
            (t ** 2).sum().backward()
        return [w.grad, *(v.grad for v in seen)]
    of_both(program)


def test_the_default_dtype_changes_within_a_loop() -> None:
    """What was made for the other one was followed: values of one dtype in tensors that said another."""
    def program(m: Any) -> list[Any]:
        found = []
        try:
            for k in range(8):
                m.set_default_dtype(m.float64 if k % 3 == 2 else m.float32)
                t = m.ones(4) * 0.1
                found.append(t.numpy().nbytes)
                m.set_default_dtype(m.float32)
                t = t.double()
        finally:
            m.set_default_dtype(m.float32)
        return [m.tensor(found)]
    of_both(program)


def test_a_leaf_is_what_it_was_where_a_step_is_recorded_after_the_fact() -> None:
    """`requires_grad` counted as it had become by then: of another branch, the gradient was lost or found."""
    def program(m: Any) -> list[Any]:
        w, found = m.tensor([1., 2.], requires_grad=True), []
        for k in range(12):
            t = w * 2
            w.requires_grad = k % 3 != 1
            loss = (t * t).sum() + (w * w).sum() * 0.1
            if k > 3:
                loss = loss * (2 if k % 2 else m.ones(()))
            if loss.requires_grad:
                loss.backward()
            found.append(0 if w.grad is None else w.grad.sum().item())
        return [m.tensor(found)]
    of_both(program)


def test_a_number_is_written_to_a_tensor_without_dimensions() -> None:
    """The number was the value: a step that was followed wrote none."""
    def program(m: Any) -> list[Any]:
        x, n, rate, found = m.ones(2), m.tensor(3), m.tensor(1., dtype=m.float64), []
        for k in range(6):
            y = x * 2
            n.fill_(k)
            rate[()] = 0.1 * k
            (y * y).sum().item()
            found += [n.item(), rate.item()]
        return [m.tensor(found), n, rate]
    of_both(program)


def test_a_number_of_numpy_by_keyword() -> None:
    """The second time it raised AttributeError."""
    def program(m: Any) -> list[Any]:
        x, total = m.ones(2, dtype=m.float64), 0.
        for k in range(6):
            y = m.add(x, x, alpha=np.float64(0.3) * k)
            total += y.sum().item()
        return [m.tensor(total)]
    of_both(program)


def test_fill_makes_a_tensor_without_dimensions() -> None:
    """It had the memory of the number, and raised where it was read in a step that was followed."""
    def program(m: Any) -> list[Any]:
        x, found = m.tensor(1., dtype=m.float64), []
        for k in range(6):
            y = x * 2
            z = m.fill(x, 0.5 * k)
            found += [y.sum().item(), z.item()]
        return [m.tensor(found)]
    of_both(program)


def test_a_view_of_a_leaf_whose_data_were_replaced() -> None:
    """It was read from the new data once the old had been written."""
    def program(m: Any) -> list[Any]:
        w = m.tensor([1., 2., 3.], requires_grad=True)
        v, found = w[1:], []
        for k in range(6):
            w.grad = None
            loss = (v * v).sum() + (w * w).sum()
            loss.backward()
            with m.no_grad():
                w -= 0.1 * w.grad
            w.data = m.tensor([7., 8., 9.]) * k
            found += [loss.detach(), w.grad.clone(), v.detach().clone()]
        return [*found, v, w]
    of_both(program)


def test_momentum_begins_in_the_midst_of_a_loop() -> None:
    """The first buffer is the gradient, whatever the dampening; it was a share of it."""
    def program(m: Any) -> list[Any]:
        p = m.tensor([1., 2.], requires_grad=True)
        optimizer = m.optim.SGD([p], lr=0.1, dampening=0.1)
        for k in range(8):
            optimizer.zero_grad()
            (p * p).sum().backward()
            if k == 5:
                optimizer.param_groups[0]["momentum"] = 0.5
            optimizer.step()
        return [p, optimizer.state[p]["momentum_buffer"]]
    of_both(program)


def test_a_call_that_raises_when_it_is_recorded_after_the_fact() -> None:
    """From then on no custom function could be called."""
    def program(m: Any) -> list[Any]:
        class Sign(m.autograd.Function):
            @staticmethod
            def forward(ctx: Any, a: Any) -> Any:
                return (a > 0).to(a.dtype)

            @staticmethod
            def backward(ctx: Any, g: Any) -> Any:
                return g

        x, w, found = m.ones(3, 2), m.ones(4), []
        for k in [0, 0, 0, 0, 9, 9, 0, 0]:
            y = Sign.apply(w)
            try:
                found.append(m.index_select(x, 0, m.tensor([k])).sum().item())
            except IndexError:
                found.append(-1.)
        return [m.tensor(found), y]
    of_both(program)


def test_another_eps_of_logit() -> None:
    """The upper limit, and the gradient, were those of the first one."""
    def program(m: Any) -> list[Any]:
        x, found = m.tensor([0.1, 0.45, 0.95], requires_grad=True), []
        for eps in (0.4, 0.4, 0.4, 0.3, 0.01):
            x.grad = None
            m.logit(x, eps=eps).sum().backward()
            found += [m.logit(x, eps).sum().item(), x.grad.sum().item()]
        return [m.tensor(found)]
    of_both(program)


def test_another_window_of_an_average() -> None:
    """The number of its elements was taken for the argument: another window was summed as the first, and then divided."""
    def program(m: Any) -> list[Any]:
        x, found = m.arange(40.).reshape(2, 20), []
        for k in (4, 4, 4, 5, 3, 2, 4):
            y = m.nn.functional.avg_pool1d(x, k)
            found += [y.shape[1], y.sum().item()]
        return [m.tensor(found)]
    of_both(program)


def test_a_copy_is_taken_back_and_trained_on() -> None:
    """A deep copy and the parameter that it was written into had one memory: the next steps changed the copy."""
    def program(m: Any) -> list[Any]:
        net, x = m.nn.Linear(2, 1), m.ones(3, 2)
        for p in net.parameters():
            p.data.fill_(0.5)
        optimizer, copied, found = m.optim.SGD(net.parameters(), lr=0.1), None, []
        for _ in range(5):
            optimizer.zero_grad()
            net(x).sum().backward()
            optimizer.step()
            copied = copied or copy.deepcopy(net.state_dict())
            net.load_state_dict(copied)
            found.append(net(x).detach().clone())
        return [*found, *copied.values()]
    of_both(program)


def test_a_resized_tensor_is_written_into_another() -> None:
    """As a deep copy."""
    def program(m: Any) -> list[Any]:
        w = m.ones(2, 2, requires_grad=True)
        optimizer, kept, found = m.optim.SGD([w], lr=0.1), m.ones(4).resize_(2, 2), []
        for _ in range(5):
            optimizer.zero_grad()
            (w * w).sum().backward()
            optimizer.step()
            with m.no_grad():
                w.copy_(kept)
            found.append(w.sum().item())
        return [m.tensor(found), kept]
    of_both(program)


def test_a_layer_that_raised_had_counted_its_batch() -> None:
    """What the call had written was part of the program of the calls after it, whenever these came again."""
    def program(m: Any) -> list[Any]:
        norm, whole, single, refused = m.nn.BatchNorm1d(2), m.ones(4, 2), m.ones(1, 2), 0
        for k in range(12):
            try:
                norm(single if k % 8 == 3 else whole).sum().item()
            except ValueError:
                refused += 1
        return [m.tensor(refused), *norm.buffers()]
    of_both(program)


def test_lbfgs_moves_a_parameter_without_dimensions() -> None:
    """It had one dimension afterwards."""
    def program(m: Any) -> list[Any]:
        scale, w = m.tensor(1., requires_grad=True), m.ones(3, requires_grad=True)
        optimizer = m.optim.LBFGS([scale, w], lr=0.1, max_iter=2)

        def closure() -> Any:
            optimizer.zero_grad()
            loss = (w * scale - 2).square().sum()
            loss.backward()
            return loss
        losses = [optimizer.step(closure).detach() for _ in range(3)]
        return [*losses, scale, scale.grad, w, m.tensor([*map(m.Tensor.dim, (scale, scale.grad))])]
    of_both(program)


def test_a_model_that_is_gone_when_its_last_result_is_read() -> None:
    """What was followed is recorded after the fact, of a layer that nobody held any more: it raised AttributeError."""
    def program(m: Any) -> list[Any]:
        def trained() -> Any:
            layer, x = m.nn.Linear(2, 2), m.ones(3, 2)
            layer.load_state_dict({"weight": m.full((2, 2), 0.5), "bias": m.ones(2)})
            for _ in range(4):
                (layer(x) * 2).sum().item()
            return layer(x)
        return [trained().sum(), trained()]
    of_both(program)


def test_a_recurrence_of_changing_batches_whose_loss_is_read_before_backward() -> None:
    """Its body kept the sizes of the step that had been recorded with names: IndexError from the fifth step on."""
    def program(m: Any) -> list[Any]:
        rnn, found = m.nn.RNN(2, 3, batch_first=True), []
        for p in rnn.parameters():
            p.data.fill_(0.1)
        for x in [m.tensor(np.arange(n * 4.).reshape(n, 2, 2) / 10, dtype=m.float32) for n in (5, 3, 4, 2, 6, 4, 7, 5, 3, 2)]:
            loss = rnn(x)[0].square().sum()
            found.append(loss.item())
            for p in rnn.parameters():
                p.grad = None
            loss.backward()
            found.append(rnn.weight_hh_l0.grad.sum().item())
        return [m.tensor(found)]
    of_both(program)


def test_a_thread_sees_what_was_written_before_it_was_started() -> None:
    """Writes of a step that was followed showed when the step had ended: the thread read what was there before."""
    def program(m: Any) -> list[Any]:
        w, found = m.zeros(3), []
        for k in range(8):
            w.add_(1)
            if k > 3:
                thread = threading.Thread(target=lambda: found.append((w * 2).sum().item()))
                thread.start()
                thread.join()
            found.append(w[0].item())
        return [m.tensor(found)]
    of_both(program)


def test_a_thread_that_runs_already_sees_what_was_recorded() -> None:
    """What it followed was run without the value that was pending: the process ended."""
    w, found = fanal.zeros(5), []
    w.sum().item()
    with ThreadPoolExecutor(1) as pool:
        for _ in range(6):
            found.append(pool.submit(lambda: (w * 2).sum().item()).result())
            w.add_(1)
    assert found == [0., 10., 20., 30., 40., 50.]


def test_what_a_custom_function_returned_as_a_view_is_shared_with_numpy_before_backward() -> None:
    """As what a layer with a full backward hook returns: its gradient was lost, and that of all before it."""
    def program(m: Any) -> list[Any]:
        class Same(m.autograd.Function):
            @staticmethod
            def forward(ctx: Any, a: Any) -> Any:
                return a.view_as(a)

            @staticmethod
            def backward(ctx: Any, g: Any) -> Any:
                return g * 2
        w, shown = m.tensor([1., 2.], requires_grad=True), []
        for _ in range(5):
            y = Same.apply(w * 3)
            shown.append(m.tensor(y.detach().numpy()))
            (y * y).sum().backward()
        return [w.grad, *shown]
    of_both(program)


def test_a_last_row_in_a_segment_with_the_batch_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recurrence that was recorded with names, until they were given up, had them still where the program of a single
    row took the form of that of several: one of its states had one row, and the next one as many as before."""
    monkeypatch.setattr(knobs, "cache", False)

    def program(m: Any) -> list[Any]:
        random = np.random.default_rng(0)

        def draw(*shape: int) -> Any:
            return m.tensor(random.standard_normal(shape) / 2, dtype=m.float32)

        class Net(m.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.rnn, self.last = m.nn.GRU(2, 5, batch_first=True), m.nn.Linear(5, 3)

            def forward(self, x: Any) -> Any:
                return self.last(self.rnn(x.view(-1, 2, 2))[0][:, -1])
        net, found = Net(), []
        weights = dict(net.named_parameters())
        for p in weights.values():
            p.data.copy_(draw(*p.shape))
        optimizer = m.optim.SGD(weights.values(), lr=0.02)
        for reads in (False, True):
            for x, y in [(draw(n, 4), draw(n, 3)) for n in ([4] * 7 + [1]) * 2]:
                if reads:
                    found.append(net(x).sum().item())
                gradients = m.autograd.grad((net(x) - y).square().mean(), list(weights.values()), create_graph=True)
                changed = {k: p - 0.1 * g for (k, p), g in zip(weights.items(), gradients)}
                optimizer.zero_grad()
                (m.func.functional_call(net, changed, (x * 0.9,)) - y).square().mean().backward()
                optimizer.step()
                (net(x) - y).abs().mean().backward()
        return [m.tensor(found), *(p.sum() for p in weights.values())]
    of_both(program)


@pytest.mark.parametrize("shared", [True, False])
def test_a_layer_whose_parameter_shares_its_memory(shared: bool) -> None:
    """With NumPy, or with a vector that has history: no call names it, and it was let go. AttributeError."""
    def program(m: Any) -> list[Any]:
        net, x, found = m.nn.Linear(2, 2), m.ones(3, 2), []
        for p in net.parameters():
            p.data.fill_(0.5)
        optimizer = m.optim.SGD(net.parameters(), lr=0.01)
        array = net.weight.detach().numpy() if shared else None
        for k in range(9):
            optimizer.zero_grad()
            loss = net(x).square().sum()
            found.append(loss.item())
            loss = loss + net(x / 2).square().mean()
            loss.backward()
            optimizer.step()
            if k in (2, 5, 6) and not shared:
                vector = m.nn.utils.parameters_to_vector(net.parameters())
                m.nn.utils.vector_to_parameters(vector * 0.9, net.parameters())
        return [m.tensor(found), *net.parameters(), m.tensor(0. if array is None else array[0])]
    of_both(program)


@pytest.mark.parametrize("named", [True, False])
def test_a_layer_whose_parameter_is_named_after_it_shares_its_memory(named: bool) -> None:
    """By a backward, or by a call behind the layer: it was let go, and the layer's next call found none. AttributeError."""
    def program(m: Any) -> list[Any]:
        net, x, found = m.nn.Linear(3, 2), m.ones(4, 3), []
        for p in net.parameters():
            p.data.fill_(0.5)
        optimizer = m.optim.SGD(net.parameters(), lr=0.1)
        for k in range(8):
            optimizer.zero_grad()
            loss = net(x).square().mean()
            if named:
                loss = loss + net.weight.abs().sum()
            loss.backward()
            found.append(net.weight.grad.sum().item())
            optimizer.step()
            if k > 2:
                array = net.weight.detach().numpy()
                found.append(float(array.sum()))
        return [m.tensor(found), *net.parameters()]
    of_both(program)


def test_a_batch_in_other_chunks() -> None:
    """The number of chunks was that of last time, so nothing asked whether it goes with the other batch: three chunks of
    one row were taken for two of two, and the third was never seen."""
    def program(m: Any) -> list[Any]:
        data, w, found = m.arange(80.).reshape(20, 4) / 50, m.ones(4, requires_grad=True), []
        for k in range(12):
            rows, start, chunks = [5, 3, 4, 2, 6, 4, 7][k % 7], k * 3 % 11, 1 + k % 3
            x, y = data[start:start + rows], data[start:start + rows] * 2
            w.grad = None
            for a, b in zip(x.chunk(chunks), y.chunk(chunks)):
                loss = (a * w - b).square().sum()
                loss.backward()
                found.append(loss.item())
            found.append(w.grad.sum().item())
        return [m.tensor(found)]
    of_both(program)


def test_a_parameter_made_of_a_detached_tensor_under_hooks_that_read() -> None:
    """Its value in an unfolded graph had no place of its own, and the next optimizer's step took it for a constant."""
    def losses(m: Any) -> list[Any]:
        m.manual_seed(0)
        x = m.randn(50, 2)
        y = x @ m.tensor([1.0, -2.0])
        a, b = m.nn.Parameter(m.tensor([0.1, -0.2])), m.nn.Parameter(m.tensor([-2.2, -2.2]).detach())
        optimizers = [m.optim.Adam([p], lr=0.02) for p in (a, b)]

        def watched(t: Any) -> Any:
            t.register_hook(lambda g: print(end="") if m.isnan(g).any() else None)
            assert not m.isnan(t).any()
            return t

        found = []
        for _ in range(8):
            s = m.nn.functional.softplus(b)
            u = a + s * m.empty(2).normal_()
            loss = watched(((y - x @ u) ** 2).sum()) - watched(((u - a) ** 2 / s + s.log()).sum())
            loss.backward()
            for o in optimizers:
                o.step()
            for p in (a, b):
                p.grad = m.zeros_like(p.grad)
            found.append(loss.detach().clone())
        return found
    of_both(losses)


def test_a_tensor_of_one_position_is_an_integer_between_brackets() -> None:
    """The value was read within the call, which no step could be followed through."""
    def program(m: Any) -> list[Any]:
        table = m.arange(12.).view(3, 4).requires_grad_()
        for _ in range(12):
            tags = m.cat([m.tensor([2]), m.tensor([0, 1, 3])])
            before = ledger.recorded
            loss = m.zeros(())
            for i in range(2):
                loss = loss + table[tags[i], tags[i + 1]] * table[tags[i]][tags[-1]]
            view = table.detach()[tags[2]]  # of the table's memory
            loss.backward()
            recorded = ledger.recorded - before
            with m.no_grad():
                view[tags[3]] += 1
                table -= 0.01 * table.grad
        assert m is not fanal or not recorded
        for wrong in (m.tensor(3), m.tensor(-4), m.tensor(0.5)):
            with pytest.raises(IndexError):
                table[wrong]
        return [table, table.grad, table[m.tensor(True)], table[m.tensor(1, dtype=m.uint8)]]
    of_both(program)


def test_a_step_taken_by_set_() -> None:
    """A layer that is followed went on with the memory that its parameter had shown before."""
    def program(m: Any) -> list[Any]:
        net, x, found = m.nn.Linear(3, 2), m.ones(4, 3), []
        for p in net.parameters():
            p.data.fill_(0.5)
        for _ in range(8):
            for p in net.parameters():
                p.grad = None
            net(x).square().mean().backward()
            found += [p.grad.sum().item() for p in net.parameters()]
            with m.no_grad():
                for p in net.parameters():
                    p.set_(p - 0.05 * p.grad)
            found.append(net.weight.tolist()[0][0])
        return [m.tensor(found), *net.parameters()]
    of_both(program)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_under_autocast_whose_backward_is_outside(reentrant: bool) -> None:
    """It ran again without autocast: RuntimeError, or the gradient of what had not been computed."""
    def program(m: Any) -> list[Any]:
        from importlib import import_module
        checkpoint = import_module(f"{m.__name__}.utils.checkpoint").checkpoint
        m.manual_seed(0)
        net, x, found = m.nn.Sequential(m.nn.Linear(4, 8), m.nn.Tanh(), m.nn.Linear(8, 2)), m.randn(5, 4), []
        for layers in (net, net[1:]):  # from float32, from bfloat16
            for _ in range(4):
                seen = []
                net[1].register_forward_hook(lambda module, args, out, seen=seen: seen.append(str(out.dtype)[-8:]))
                x.requires_grad_()
                with m.autocast("cpu", dtype=m.bfloat16):
                    h = x if layers is net else net[0](x)
                    loss = checkpoint(layers, h, use_reentrant=reentrant).float().square().mean()
                loss.backward()
                found.append(m.tensor([t == "bfloat16" for t in seen]))
        return found
    of_both(program)
