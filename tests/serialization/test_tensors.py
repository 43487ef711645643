"""Fanal's own tensors in checkpoint files that PyTorch wrote, or will read."""

from __future__ import annotations

import io
from collections import OrderedDict

import numpy as np
import pytest
from test_formats import DTYPES, everything, torch

fanal = pytest.importorskip("fanal", reason="the tensor core is not importable")
if not hasattr(fanal, "Tensor"):
    pytest.skip("the tensor core is missing", allow_module_level=True)

from fanal.core.tensor.tensor import compute, strides_of
from fanal.serialization.dtypes import numpy_dtype
from fanal.serialization.safetensors import load_file, save_file

HERE = [name for name in DTYPES if name in {d.name for d in fanal.core.base.dtype.ALL}]


def through(obj):
    """Return (Fanal's object from PyTorch's file, PyTorch's object from Fanal's file)."""
    file = io.BytesIO()
    torch.save(obj, file)
    file.seek(0)
    ours = fanal.load(file)
    again = io.BytesIO()
    fanal.save(ours, again)
    again.seek(0)
    return ours, torch.load(again, weights_only=True)


def check(ours, back, expected):
    assert (
        ours.dtype.name
        == str(expected.dtype).removeprefix("torch.")
        == str(back.dtype).removeprefix("torch.")
    )
    assert tuple(ours.shape) == tuple(expected.shape) == tuple(back.shape)
    assert tuple(strides_of(ours)) == expected.stride() == back.stride()
    assert ours._offset == expected.storage_offset() == back.storage_offset()
    assert ours.requires_grad == expected.requires_grad == back.requires_grad
    assert isinstance(ours, fanal.nn.parameter.Parameter) == isinstance(expected, torch.nn.Parameter)
    assert type(back) is type(expected)
    raw = [
        t.detach().resolve_conj().contiguous().reshape(-1).view(torch.uint8).numpy() for t in (expected, back)
    ]
    assert np.array_equal(raw[0], raw[1])
    assert np.ascontiguousarray(compute(ours)).tobytes() == raw[0].tobytes()


@pytest.mark.parametrize("name", HERE)
def test_every_dtype(name):
    raw = torch.from_numpy(np.random.default_rng(0).integers(0, 2, 64, dtype=np.uint8))
    tensor = raw.view(getattr(torch, name))
    check(*through(tensor), tensor)


def test_every_layout():
    base = torch.arange(24.0)
    tensors = {
        "t": base.view(4, 6).t(), "offset": base[5:], "steps": base[::3],
        "expanded": torch.ones(1).expand(3, 4),
        "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "frozen": torch.nn.Parameter(torch.ones(3), False), "leaf": torch.ones(2, requires_grad=True),
        "bf16": torch.randn(3, 4).bfloat16().t(), "permuted": torch.randn(2, 3, 4, 5).permute(0, 2, 3, 1),
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "part": base.view(4, 6)[1:3, 2:5],
        "mixed": base.view(2, 3, 4)[:, ::2, 1:3].transpose(0, 2), "ones": torch.ones(1, 5, 1)[:, ::2],
        "overlap": torch.as_strided(base, (3, 4), (2, 1), 1),
    }  # fmt: skip
    ours, back = through(tensors)
    for name, tensor in tensors.items():
        check(ours[name], back[name], tensor)
    assert ours["t"]._storage is ours["offset"]._storage
    assert back["t"].untyped_storage().data_ptr() == back["offset"].untyped_storage().data_ptr()


def test_everything():
    expected = {k: v for k, v in everything().items() if k not in ("meta", "conjugate")}
    ours, back = through(expected)
    assert list(ours) == list(back) == list(expected)
    assert ours["dtype"] is fanal.float32
    assert back["dtype"] is torch.float32
    assert back["device"] == torch.device("cuda", 1)
    assert type(ours["size"]) is fanal.Size
    assert back["size"] == expected["size"]
    assert ours["tagged"].tag == back["tagged"].tag == "head"
    assert ours["state"]._metadata == back["state"]._metadata == expected["state"]._metadata
    for name, tensor in expected["state"].items():
        check(ours["state"][name], back["state"][name], tensor)


def test_computed_tensors():
    x = fanal.tensor([[1.0, 2.0], [3.0, 4.0]])
    file = io.BytesIO()
    fanal.save(OrderedDict(sum=x + x, turned=(x * 2).t()), file)
    file.seek(0)
    found = torch.load(file)
    assert found["sum"].tolist() == [[2, 4], [6, 8]]
    assert found["turned"].tolist() == [[2, 6], [4, 8]]
    file.seek(0)
    again = fanal.load(file)
    assert compute(again["turned"]).tolist() == [[2, 6], [4, 8]]


def test_writes_reach_every_view():
    base = torch.zeros(6)
    (whole, square, turned), _ = through([base, base.view(2, 3), base.view(2, 3).t()])
    square.add_(1.0)
    assert compute(whole).tolist() == [1] * 6
    whole.mul_(3.0)
    assert compute(turned).tolist() == [[3, 3]] * 3


def test_whole_modules():
    if not hasattr(fanal.nn, "Linear") or not hasattr(fanal.nn, "Sequential"):
        pytest.skip("fanal.nn has no Linear or Sequential yet")
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    ours = fanal.load(file, weights_only=False)
    expected = model(torch.ones(1, 2)).detach().numpy()
    assert np.allclose(compute(ours(fanal.ones(1, 2)).detach()), expected)
    again = io.BytesIO()
    fanal.save(ours, again)
    again.seek(0)
    assert np.allclose(torch.load(again, weights_only=False)(torch.ones(1, 2)).detach().numpy(), expected)


def test_safetensors(tmp_path):
    reference = pytest.importorskip("safetensors.torch")
    tensors = {
        name: torch.arange(8).to(getattr(torch, name)).view(2, 4) for name in HERE if name != "complex128"
    }
    reference.save_file(tensors, tmp_path / "theirs.safetensors")
    ours = load_file(tmp_path / "theirs.safetensors")
    assert set(fanal.load(tmp_path / "theirs.safetensors")) == set(tensors)
    save_file(ours, tmp_path / "ours.safetensors")
    back = reference.load_file(tmp_path / "ours.safetensors")
    for name, tensor in tensors.items():
        assert compute(ours[name]).dtype == numpy_dtype(name)
        assert torch.equal(back[name].view(torch.uint8), tensor.view(torch.uint8))
    save_file({"t": ours["float32"].t()}, tmp_path / "ours.safetensors")
    assert torch.equal(reference.load_file(tmp_path / "ours.safetensors")["t"], tensors["float32"].t())


def test_flipped_byte(tmp_path):
    path = tmp_path / "m.pt"
    fanal.save({"head.weight": fanal.tensor([3.0] * 8)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(np.full(8, 3, np.float32).tobytes()) + 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RuntimeError, match=r"tensor 'head\.weight'.*CRC32"):
        fanal.load(path)


def test_modules_of_allowed_classes_come_back_whole():
    """PyTorch keeps attention in a file called activation, and its pickles say so."""
    file = io.BytesIO()
    model = torch.nn.Sequential(torch.nn.MultiheadAttention(4, 2), torch.nn.Dropout(0.5))
    torch.save(model, file)
    nn = fanal.nn
    classes = [nn.Sequential, nn.MultiheadAttention, nn.Dropout, nn.modules.linear.NonDynamicallyQuantizableLinear]
    file.seek(0)
    unsafe = fanal.serialization.get_unsafe_globals_in_checkpoint
    assert "torch.nn.modules.activation.MultiheadAttention" in unsafe(file)
    with fanal.serialization.safe_globals(classes):
        file.seek(0)
        assert unsafe(file) == []
        file.seek(0)
        found = fanal.load(file)
    assert found[0].in_proj_weight.tolist() == model[0].in_proj_weight.tolist()
