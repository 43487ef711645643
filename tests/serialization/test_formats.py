"""PyTorch's file formats: both libraries read what either wrote, and damage has a name."""

from __future__ import annotations

import errno
import io
import os
import stat
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch_adapter import TorchAdapter

from fanal.serialization import Opaque, safe_globals, set_crc32_options
from fanal.serialization.atomic import replacing
from fanal.serialization.checkpoint import load_checkpoint, save_checkpoint
from fanal.serialization.errors import RecordError
from fanal.serialization.zipread import ZipReader

ADAPTER = TorchAdapter()
DTYPES = [
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
    "complex64", "complex128", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2",
    "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
]  # fmt: skip


def save(obj, file):
    save_checkpoint(ADAPTER, obj, file)


def load(file, **options):
    return load_checkpoint(ADAPTER, file, **options)


def buffer(writer, obj, **options):
    file = io.BytesIO()
    writer(obj, file, **options)
    file.seek(0)
    return file


def same(a, b):
    assert type(a) is type(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.stride() == b.stride()
    assert a.storage_offset() == b.storage_offset()
    assert a.requires_grad == b.requires_grad
    if a.device.type != "meta":
        raw_a, raw_b = (t.detach().resolve_conj().contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
        assert torch.equal(raw_a, raw_b)


def everything():
    base = torch.arange(24.0)
    tagged = torch.nn.Parameter(torch.ones(2))
    tagged.tag = "head"
    return OrderedDict(
        transposed=base.view(4, 6).t(), offset=base[5:], strided=base[::3],
        expanded=torch.ones(1).expand(3, 4),
        scalar=torch.tensor(2.5), empty=torch.zeros(0, 3), leaf=torch.ones(2, requires_grad=True),
        parameter=torch.nn.Parameter(torch.ones(3)), frozen=torch.nn.Parameter(torch.ones(3), False),
        tagged=tagged, conjugate=torch.ones(2, dtype=torch.complex64).conj(),
        meta=torch.ones(3, device="meta"),
        dtype=torch.float32, device=torch.device("cuda", 1), size=torch.Size([1, 2]), data=b"\x00\xff",
        nested={"list": [1, (2.0, None)], "set": {1}}, text="ключ",
        state=torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict(),
    )  # fmt: skip


def compare(found, expected):
    assert list(found) == list(expected)
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):
            same(found[key], value)
        elif isinstance(value, OrderedDict):
            assert found[key]._metadata == value._metadata
            compare(found[key], value)
        else:
            assert found[key] == value
            assert type(found[key]) is type(value)
    if "tagged" in expected:
        assert found["tagged"].tag == "head"


def test_we_read_what_torch_wrote():
    expected = everything()
    compare(load(buffer(torch.save, expected)), expected)


def test_torch_reads_what_we_wrote():
    expected = everything()
    file = buffer(save, expected)
    compare(torch.load(file, weights_only=True), expected)
    file.seek(0)
    compare(load(file), expected)


def test_files_are_those_of_torch(tmp_path):
    """Byte for byte, but for the forty digits of the serialization id and their checksum."""
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    obj = everything()
    save(obj, tmp_path / "ours" / "model.pt")
    torch.save(obj, tmp_path / "theirs" / "model.pt")
    ours, theirs = ((tmp_path / who / "model.pt").read_bytes() for who in ("ours", "theirs"))
    assert len(ours) == len(theirs)
    different = sum(a != b for a, b in zip(ours, theirs, strict=True))
    assert different <= 40 + 4 + 4
    with zipfile.ZipFile(tmp_path / "ours" / "model.pt") as archive:
        assert archive.testzip() is None
    compare(torch.load(tmp_path / "ours" / "model.pt", mmap=True), obj)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype(name):
    dtype = getattr(torch, name)
    raw = torch.from_numpy(np.random.default_rng(0).integers(0, 2, 64, dtype=np.uint8))
    tensor = raw.view(dtype)
    same(load(buffer(torch.save, tensor)), tensor)
    same(torch.load(buffer(save, tensor)), tensor)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(protocol):
    tensor = {"w": torch.ones(2, 3), "data": b"abc", "dtype": torch.int8}
    found = load(buffer(torch.save, tensor, pickle_protocol=protocol))
    same(found["w"], tensor["w"])
    file = io.BytesIO()
    save_checkpoint(ADAPTER, tensor, file, protocol)
    file.seek(0)
    found = torch.load(file, weights_only=False)
    same(found["w"], tensor["w"])
    assert found["dtype"] is torch.int8


def test_shared_storages_stay_shared():
    base = torch.zeros(6)
    obj = [base, base.view(2, 3), base[2:4], base]
    for writer, reader in ((torch.save, load), (save, torch.load), (save, load)):
        whole, square, part, again = reader(buffer(writer, obj))
        assert again is whole
        whole[2] = 5
        assert square[0, 2] == 5
        assert part[0] == 5


def test_one_storage_as_two_dtypes_is_refused():
    base = torch.zeros(4)
    with pytest.raises(RuntimeError, match="view the same data as different types"):
        save([base, base.view(torch.int32)], io.BytesIO())


def test_optimizer_state():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    found = load(buffer(torch.save, state))
    assert found["epoch"] == 3
    assert found["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    same(found["optimizer"]["state"][0]["exp_avg"], state["optimizer"]["state"][0]["exp_avg"])
    torch.optim.AdamW(model.parameters()).load_state_dict(torch.load(buffer(save, state))["optimizer"])


def test_legacy_format(tmp_path):
    base = torch.arange(6.0)
    obj = {"base": base, "view": base.view(2, 3).t(), "half": torch.ones(3).half(), "n": 4}
    torch.save(obj, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    found = load(tmp_path / "old.pt")
    for key in ("base", "view", "half"):
        same(found[key], obj[key])
    found["base"][1] = 9
    assert found["view"][1, 0] == 9
    with pytest.raises(RuntimeError, match="mmap"):
        load(tmp_path / "old.pt", mmap=True)
    data = (tmp_path / "old.pt").read_bytes()
    with pytest.raises(RecordError, match=r"truncated"):
        load(io.BytesIO(data[:-3]))
    with pytest.raises(RuntimeError, match="Invalid magic number"):
        load(io.BytesIO(b"\x80\x02K\x07."))
    with pytest.raises(RuntimeError, match="corrupt"):
        load(io.BytesIO(b"hello, this is no checkpoint"))


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(2, 2)


def test_whole_modules():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    file = buffer(save, model)
    with pytest.raises(Exception, match="Sequential"):
        load(file)
    file.seek(0)
    found = load(file, weights_only=False)
    assert torch.equal(found(torch.ones(1, 2)), model(torch.ones(1, 2)))
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(torch.ones(1, 2)), model(torch.ones(1, 2)))
    mine = buffer(torch.save, Net())
    found = load(mine, weights_only=False)
    assert isinstance(found, Opaque)
    assert found.name == "Net"
    assert found.state["_modules"]["head"].weight.shape == (2, 2)
    mine.seek(0)
    with safe_globals([Net, torch.nn.Linear, set]):
        assert isinstance(load(mine), Net)


def test_map_location():
    file = io.BytesIO()
    tensor = torch.ones(2)
    raw = buffer(torch.save, tensor).getvalue()
    record = (
        zipfile.ZipFile(io.BytesIO(raw))
        .read("archive/data.pkl")
        .replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    )
    from fanal.serialization.zipwrite import ZipWriter

    writer = ZipWriter(file, "archive")
    writer.write("data.pkl", record)
    writer.write("data/0", np.ones(2, np.float32))
    writer.close()

    def again(**options):
        file.seek(0)
        return load(file, **options)

    with pytest.raises(RuntimeError, match=r"cuda:0.*map_location"):
        again()
    seen = []
    for where in (
        "cpu", b"cpu", torch.device("cpu"), {"cuda:0": "cpu"}, lambda storage, location: storage,
        lambda storage, location: storage.cpu(),
        lambda storage, location: seen.append(location) or storage.cpu(),
    ):  # fmt: skip
        if callable(where):
            found = again(map_location=lambda s, loc, where=where: where(s.cpu(), loc))
        else:
            found = again(map_location=where)
        assert torch.equal(found, tensor)
    assert seen == ["cuda:0"]
    assert again(map_location="meta").device.type == "meta"
    with pytest.raises(RuntimeError, match="cuda:0"):
        again(map_location=lambda storage, location: None)
    with pytest.raises(TypeError, match="map_location"):
        again(map_location=3)


def test_mmap(tmp_path):
    path = tmp_path / "m.pt"
    obj = {"w": torch.arange(1000.0), "e": torch.zeros(0)}
    torch.save(obj, path)
    before = path.read_bytes()
    found = load(path, mmap=True)
    same(found["w"], obj["w"])
    assert found["w"].data_ptr() % 64 == 0
    found["w"][0] = 7  # private pages
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="file path"):
        load(io.BytesIO(before), mmap=True)


def test_big_endian_files():
    raw = buffer(torch.save, torch.arange(3.0))
    source = zipfile.ZipFile(raw)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("byteorder"):
                data = b"big"
            elif name.endswith("data/0"):
                data = np.arange(3, dtype=">f4").tobytes()
            out.writestr(name, data)
    file.seek(0)
    assert load(file).tolist() == [0, 1, 2]


# -- damage


@pytest.mark.parametrize("mmap", [False, True])
def test_one_flipped_byte_names_the_tensor(tmp_path, mmap):
    path = tmp_path / "m.pt"
    torch.save({"model": {"conv.weight": torch.ones(8), "fc.weight": torch.full((8,), 3.0)}, "t": [1]}, path)
    data = bytearray(path.read_bytes())
    at = data.index(np.full(8, 3, np.float32).tobytes())
    data[at + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(RecordError, match=r"tensor 'model\.fc\.weight'.*CRC32 mismatch"):
        load(path, mmap=mmap)
    set_crc32_options(False)
    try:
        assert load(path, mmap=mmap)["model"]["conv.weight"].sum() == 8
    finally:
        set_crc32_options(True)


def test_flipped_byte_in_a_module(tmp_path):
    path = tmp_path / "m.pt"
    model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    model[0].bias.data.fill_(3.0)
    torch.save(model, path)
    data = bytearray(path.read_bytes())
    data[data.index(np.full(3, 3, np.float32).tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(RecordError, match=r"'0\.bias'"):
        load(path, weights_only=False)


def test_truncated_file(tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"w": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RecordError, match=r"failed finding central directory.*truncated"):
        load(path)


def test_missing_record():
    source = zipfile.ZipFile(buffer(torch.save, {"a": torch.ones(2), "b": torch.ones(3)}))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for name in source.namelist():
            if not name.endswith("data/1"):
                out.writestr(name, source.read(name))
    file.seek(0)
    with pytest.raises(RecordError, match=r"tensor 'b'.*missing"):
        load(file)


def test_torchscript_archives_are_programs():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("a/data.pkl", b"N.")
        out.writestr("a/constants.pkl", b"N.")
    file.seek(0)
    with pytest.raises(RuntimeError, match="TorchScript"):
        load(file)


# -- saving to a path


class Full(io.RawIOBase):
    """A disk with room for so many bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if self.room < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(data)
        return self.file.write(data)


@pytest.mark.parametrize("room", [0, 100, 3000])
def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch, room):
    path = tmp_path / "m.pt"
    save({"w": torch.ones(4)}, path)
    before = path.read_bytes()
    from fanal.serialization import checkpoint

    write = checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", lambda file, *rest: write(Full(file, room), *rest))
    with pytest.raises(OSError, match=r"no space left.*unchanged") as caught:
        save({"w": torch.ones(4000)}, path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.pt"]


def test_unpicklable_objects_cost_nothing(tmp_path):
    path = tmp_path / "m.pt"
    save(1, path)
    before = path.read_bytes()
    with pytest.raises(Exception, match=r"lambda|pickle|local"):
        save({"f": lambda: 0}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.pt"]


def test_modes_and_links_survive(tmp_path):
    path = tmp_path / "m.pt"
    save(1, path)
    fresh = stat.S_IMODE(path.stat().st_mode)
    (tmp_path / "plain").touch()
    assert fresh == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    path.chmod(0o640)
    link = tmp_path / "latest.pt"
    link.symlink_to(path)
    save(2, link)
    assert link.is_symlink()
    assert load(path) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    save(3, "/dev/null")
    with pytest.raises(RuntimeError, match="Parent directory"):
        save(3, tmp_path / "nowhere" / "m.pt")


def test_an_interrupt_keeps_the_old_file(tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"


def test_sparse_files_past_four_gigabytes():
    """The 64-bit fields, without the gigabytes: a file that only counts, then a reader over the parts."""
    from fanal.serialization.zipwrite import ZipWriter

    class Sparse(io.RawIOBase):
        def __init__(self):
            self.parts, self.at = {}, 0

        def write(self, data):
            if len(data) < 1 << 16:
                self.parts[self.at] = bytes(data)
            self.at += len(data)
            return len(data)

        def seek(self, offset, whence=0):
            self.where = offset if whence == 0 else self.at + offset
            return self.where

        def tell(self):
            return getattr(self, "where", 0)

        def read(self, size=-1):
            out = bytearray(size)
            for at, data in self.parts.items():
                begin, end = max(at, self.where), min(at + len(data), self.where + size)
                if begin < end:
                    out[begin - self.where : end - self.where] = data[begin - at : end - at]
            size = min(size, self.at - self.where)
            self.where += size
            return bytes(out[:size])

    file = Sparse()
    writer = ZipWriter(file, "archive", compute_crc=False)
    big = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (1,), (1,))
    writer.write("data.pkl", b"N.")
    size = 5 << 30
    writer.at, file.at = writer.at + size, file.at + size  # as if a large record had been written
    writer.write("data/1", b"x" * 40)
    writer.write("data/2", big)
    writer.close()
    file.seek(0)
    reader = ZipReader(file, check_crc=False)
    begin, count = reader.locate("data/1")
    assert begin > size
    assert begin % 64 == 0
    assert count == 40
    assert bytes(reader.read("data/1")) == b"x" * 40
