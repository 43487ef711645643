"""flex_attention and its masks, beside PyTorch's, which has no gradients on the CPU: those come from its operators."""
from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest

import fanal
from fanal.core.engine.ledger import ledger

torch = pytest.importorskip("torch")
flex = importlib.import_module("fanal.nn.attention.flex_attention")
peer = importlib.import_module("torch.nn.attention.flex_attention")
DOCUMENTS, KEYS = [0, 0, 1, 1, 1, 2], [0, 0, 0, 1, 1, 1, 1, 2, 2, 3]


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)  # else it looks for a C++ compiler


def operands(t: Any, *heads: int, grad: bool = False) -> list[Any]:
    r = np.random.RandomState(0)
    shapes = [(2, heads[0], 6, 8), (2, heads[1], 10, 8), (2, heads[1], 10, 8)]
    return [t.tensor(r.randn(*s).astype(np.float32), requires_grad=grad) for s in shapes]


def mods(t: Any) -> dict[str, Any]:
    bias = t.tensor(np.random.RandomState(1).randn(4, 6, 10).astype(np.float32), requires_grad=True)
    documents, keys = t.tensor(DOCUMENTS), t.tensor(KEYS)
    return {
        "causal": lambda b, h, q, k: q >= k,
        "window": lambda b, h, q, k: (q - k).abs() <= 2,
        "document": lambda b, h, q, k: documents[q] == keys[k],
        "nothing": lambda b, h, q, k: q < 0,
        "alibi": lambda s, b, h, q, k: s + (k - q) * t.exp2(-((h + 1) * 2.0)),
        "softcap": lambda s, b, h, q, k: 2 * t.tanh(s / 2),
        "bias": lambda s, b, h, q, k: s + bias[h, q, k],
        "masking": lambda s, b, h, q, k: t.where(q >= k, s, -math.inf),
        "table": bias,
    }


def both(f: Any) -> None:
    expected, found = (np.asarray(f(t, m, mods(t)).tolist()) for t, m in ((torch, peer), (fanal, flex)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [None, "alibi", "softcap", "bias", "masking"])
def test_scores(name: str | None) -> None:
    both(lambda t, m, mod: m.flex_attention(*(x.detach() for x in operands(t, 4, 4)), mod.get(name), scale=0.3))


@pytest.mark.parametrize("name", ["causal", "document", "nothing"])
@pytest.mark.parametrize("score", [None, "softcap"])
def test_masks(name: str, score: str | None) -> None:
    def out(t: Any, m: Any, mod: Any) -> Any:
        mask = m.create_block_mask(mod[name], None, None, 6, 10, device="cpu", BLOCK_SIZE=4)
        return m.flex_attention(*operands(t, 4, 4), mod.get(score), mask)
    both(out)


def test_fewer_heads_of_keys_and_logsumexp() -> None:
    def out(t: Any, m: Any, mod: Any) -> Any:
        mask = m.create_block_mask(m.or_masks(mod["window"], mod["document"]), 2, 4, 6, 10, device="cpu")
        y, aux = m.flex_attention(*operands(t, 4, 2), block_mask=mask, enable_gqa=True,
                                  return_aux=m.AuxRequest(lse=True))
        return t.cat([y.flatten(), aux.lse.flatten()])
    both(out)


def test_block_masks_print_and_index_as_pytorchs() -> None:
    def text(t: Any, m: Any) -> str:
        mod = mods(t)
        mask = m.create_block_mask(mod["causal"], 2, 1, 6, 10, device="cpu", BLOCK_SIZE=2)
        joined = m.create_block_mask(m.and_masks(mod["document"], mod["window"]), 1, 1, 6, 10, device="cpu",
                                     BLOCK_SIZE=(3, 5), separate_full_blocks=False)
        cut = mask._adjust(4, 6)
        lists = [getattr(mask, n).tolist() for n in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks",
                                                     "q_num_blocks", "q_indices", "full_q_indices")]
        score = m.create_mask(mod["masking"], 1, 2, 6, 10, device="cpu")
        return "\n".join(map(str, (mask, repr(mask).replace("<lambda>", ""), mask[0].shape, mask[:, -1].shape, lists,
                                   joined.kv_num_blocks.tolist(), joined.full_kv_indices, joined.to_dense().tolist(),
                                   cut.shape, cut.kv_num_blocks.tolist(), mask.numel(), mask.sparsity(),
                                   score.tolist(), len(mask.as_tuple()), mask.to("cpu").shape)))
    assert text(fanal, flex) == text(torch, peer)


def test_blocks_decide_where_no_function_does() -> None:
    counts, columns = fanal.tensor([[[1, 2]]]), fanal.tensor([[[[1, 0], [0, 1]]]])
    mask = flex.BlockMask.from_kv_blocks(counts.int(), columns.int(), BLOCK_SIZE=(3, 5))
    allowed = torch.ones(6, 10, dtype=torch.bool)
    allowed[:3, :5] = False
    expected = torch.nn.functional.scaled_dot_product_attention(*operands(torch, 4, 4), allowed)
    found = flex.flex_attention(*operands(fanal, 4, 4), block_mask=mask)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_gradients_reach_operands_and_what_the_function_looks_up() -> None:
    def gradients(t: Any, attend: Any) -> list[np.ndarray]:
        mod, qkv = mods(t), operands(t, 4, 4, grad=True)
        (attend(*qkv, mod) ** 2).sum().backward()
        return [x.grad.numpy() for x in (*qkv, mod["table"])]

    def here(q: Any, k: Any, v: Any, mod: Any) -> Any:
        mask = flex.create_block_mask(lambda b, h, q, k: q > k, None, None, 6, 10)  # the first row sees nothing
        return flex.flex_attention(q, k, v, mod["bias"], mask)

    def there(q: Any, k: Any, v: Any, mod: Any) -> Any:
        scores = q @ k.transpose(-2, -1) / math.sqrt(8) + mod["table"]
        allowed = torch.arange(6)[:, None] > torch.arange(10)
        scores = scores.masked_fill(~allowed, -math.inf)
        return torch.cat([torch.zeros(2, 4, 1, 8), scores[:, :, 1:].softmax(-1) @ v], 2)
    for found, expected in zip(gradients(fanal, here), gradients(torch, there), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_training_loop_is_followed() -> None:
    mod = mods(fanal)
    mask = flex.create_block_mask(mod["causal"], None, None, 6, 10)
    layer = fanal.nn.Linear(8, 8)
    optimizer = fanal.optim.SGD([*layer.parameters(), mod["table"]], lr=0.1)
    q, k, v = operands(fanal, 4, 4)
    float(q.sum() + k.sum() + v.sum())
    counts = []
    for _ in range(6):
        optimizer.zero_grad()
        flex.flex_attention(layer(q), k, v, mod["bias"], mask).square().mean().backward()
        optimizer.step()
        counts.append(ledger.snapshot())
    for count in ("recorded", "plans", "kernels"):
        assert counts[-1][count] == counts[2][count], count


def test_errors() -> None:
    def raised(t: Any, m: Any) -> list[str]:
        q, k, v = operands(t, 4, 4)
        mod, (few, _, _) = mods(t), operands(t, 2, 2)
        mask = m.create_block_mask(mod["causal"], 1, 1, 6, 10, device="cpu")
        found = []
        for f in (lambda: m.flex_attention(few, k, v), lambda: m.flex_attention(q[0], k[0], v[0]),
                  lambda: m.flex_attention(q, k, v, block_mask=mask[0]),
                  lambda: m.flex_attention(q[:, :, :4], k, v, block_mask=mask),
                  lambda: m.flex_attention(q[..., :4], k, v), lambda: m.flex_attention(q[:1], k, v),
                  lambda: m.flex_attention(q, k, v, return_lse=True, return_aux=m.AuxRequest()),
                  lambda: m.create_block_mask(mod["alibi"], 1, 1, 2, 2, device="cpu"), lambda: m.and_masks(3),
                  lambda: m.create_mask(lambda a, b: a, 1, 1, 2, 2, device="cpu")):
            with pytest.raises(Exception) as e:
                f()
            found.append(f"{type(e.value).__name__}: {str(e.value)[:50]}")
        return [f.partition(" at 0x")[0] for f in found]
    assert raised(fanal, flex) == raised(torch, peer)


def test_functions_that_do_not_work_element_by_element_are_refused() -> None:
    table = fanal.arange(60.0).reshape(6, 10)
    for mod in (lambda s, b, h, q, k: s + table[q].sum(), lambda s, b, h, q, k: s * s.mean(),
                lambda s, b, h, q, k: s + table[q, :8].sum(-1) if q.dim() else s):
        with pytest.raises(RuntimeError, match="element by element"):
            flex.flex_attention(*operands(fanal, 4, 4), mod)
    features, others = (fanal.tensor(np.random.RandomState(k).randn(n, 3).astype(np.float32))
                        for k, n in ((0, 6), (1, 10)))
    found = flex.flex_attention(*operands(fanal, 4, 4), lambda s, b, h, q, k: s + (features[q] * others[k]).sum(-1))
    expected = torch.nn.functional.scaled_dot_product_attention(
        *operands(torch, 4, 4), torch.tensor(features.numpy() @ others.numpy().T))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_causal_biases_and_the_choice_of_kernels() -> None:
    def outs(t: Any, name: str) -> list:
        bias = importlib.import_module(f"{name}.nn.attention.bias")
        q, k, v = operands(t, 4, 4)
        attend = t.nn.functional.scaled_dot_product_attention
        attention = t.nn.attention
        with attention.sdpa_kernel([attention.SDPBackend.MATH]):
            inside = [b.name for b in attention._cur_sdpa_kernel_backends()]
        found = [np.round(attend(q, k, v, attn_mask=f(6, 10)).tolist(), 4).tolist()
                 for f in (bias.causal_upper_left, bias.causal_lower_right)]
        return [found, inside, repr(bias.causal_lower_right(2, 3)), bias.causal_upper_left(2, 3).variant.name]
    assert outs(fanal, "fanal") == outs(torch, "torch")


def test_a_mask_that_calls_itself() -> None:
    def text(t: Any, m: Any) -> Any:
        def mask(b: Any, h: Any, q: Any, k: Any, depth: int = 2) -> Any:
            return mask(b, h, q, k - 1, depth - 1) if depth else q >= k
        return m.create_block_mask(mask, None, None, 8, 8, device="cpu", BLOCK_SIZE=2).to_dense().tolist()
    assert text(fanal, flex) == text(torch, peer)
