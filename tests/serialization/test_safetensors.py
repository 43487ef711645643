"""The safetensors format, against the safetensors package, and files that do not keep to it."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open as reference_open
from safetensors.numpy import load as reference_load
from safetensors.numpy import save as reference_save
from safetensors.numpy import save_file as reference_save_file

from fanal.serialization.safetensors import SafetensorError, safe_open, save, save_file

TENSORS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.ones(3, np.float16),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float64),
    "scalar": np.array(2.5),
    "номер": np.array([1, 2], np.int64),
    "bytes": np.arange(5, dtype=np.uint8),
    "wide": np.arange(3, dtype=np.uint64),
}


def test_the_package_reads_ours():
    found = reference_load(save(TENSORS, {"format": "pt"}))
    assert set(found) == set(TENSORS)
    for name, array in TENSORS.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


def test_we_read_the_packages(tmp_path):
    path = tmp_path / "m.safetensors"
    reference_save_file(TENSORS, path, metadata={"a": "b"})
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"a": "b"}
        assert set(file.keys()) == set(TENSORS)
        for name, array in TENSORS.items():
            assert file.get_tensor(name).dtype == array.dtype
            assert np.array_equal(file.get_tensor(name), array)
        with pytest.raises(SafetensorError, match="nothing"):
            file.get_tensor("nothing")


def test_views_are_written_as_what_they_show(tmp_path):
    base = np.arange(12.0).reshape(3, 4)
    save_file({"t": base.T, "part": base[1:, ::2]}, tmp_path / "m.safetensors")
    with reference_open(tmp_path / "m.safetensors", "numpy") as file:
        assert np.array_equal(file.get_tensor("t"), base.T)
        assert np.array_equal(file.get_tensor("part"), base[1:, ::2])


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"])
def test_small_floats_come_back(tmp_path, name):
    array = np.array([1, 2, 4], getattr(ml_dtypes, name))
    path = tmp_path / "m.safetensors"
    save_file({"x": array}, path)
    with safe_open(path, "numpy") as file:
        assert file.get_tensor("x").dtype == array.dtype
        assert np.array_equal(file.get_tensor("x").view(np.uint8), array.view(np.uint8))
    with reference_open(path, "numpy") as file:
        assert file.get_slice("x").get_shape() == [3]


def test_data_is_aligned():
    data = save(TENSORS)
    assert int.from_bytes(data[:8], "little") % 8 == 0
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    for name, row in header.items():
        assert row["data_offsets"][0] % TENSORS[name].itemsize == 0


def forged(header, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


def entry(begin, end, dtype="F32", shape=(1,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


BAD = {
    "empty file": (b"", "truncated"),
    "huge header": (forged(b"{}", size=10**9), "at most"),
    "cut header": (forged(b"{}", size=100), "truncated"),
    "not json": (forged(b"{a}"), "JSON"),
    "not an object": (forged(b"[1]"), "begin with"),
    "deep json": (forged(b'{"a":' + b"[" * 100_000), "JSON"),
    "not a number": (forged(b'{"a":NaN}'), "NaN"),
    "twice": (forged(b'{"w":{},"w":{}}'), "'w' stands twice"),
    "field twice": (forged(b'{"w":{"dtype":"F32","dtype":"F64","shape":[],"data_offsets":[0,4]}}'), "twice"),
    "unknown dtype": (forged({"w": entry(0, 4, "F4")}, bytes(4)), "'w'.*F4"),
    "size": (forged({"w": entry(0, 8)}, bytes(8)), "'w'.*takes 4 bytes"),
    "overlap": (forged({"a": entry(0, 4), "w": entry(2, 6)}, bytes(6)), "'w'.*overlaps"),
    "gap": (forged({"a": entry(0, 4), "w": entry(8, 12)}, bytes(12)), "'w'.*gap of 4"),
    "trailing": (forged({"w": entry(0, 4)}, bytes(5)), "trailing"),
    "cut data": (forged({"w": entry(0, 4)}, bytes(3)), "truncated.*'w'"),
    "negative": (forged({"w": entry(-4, 0)}, bytes(4)), "'w'.*counts"),
    "reversed": (forged({"w": entry(4, 0)}, bytes(4)), "'w'"),
    "huge shape": (forged({"w": entry(0, 4, shape=(2**62, 4))}, bytes(4)), "'w'.*counts"),
    "overflowing shape": (forged({"w": entry(0, 4, shape=(2**40, 2**40))}, bytes(4)), "'w'.*takes"),
    "float shape": (forged({"w": entry(0, 4, shape=(1.0,))}, bytes(4)), "'w'.*counts"),
    "bool shape": (forged({"w": entry(0, 4, shape=(True,))}, bytes(4)), "'w'.*counts"),
    "extra field": (forged({"w": entry(0, 4) | {"x": 1}}, bytes(4)), "'w'.*needs"),
    "metadata": (forged({"__metadata__": {"a": 1}}), "metadata"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_lie(tmp_path, name):
    data, message = BAD[name]
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(SafetensorError, match=message):
        safe_open(path, "numpy")


def test_bools_that_are_neither(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(forged({"mask": entry(0, 2, "BOOL", (2,))}, b"\x01\x02"))
    with safe_open(path, "numpy") as file, pytest.raises(SafetensorError, match="'mask'"):
        file.get_tensor("mask")


def test_what_cannot_be_written():
    with pytest.raises(SafetensorError, match=r"'x'.*complex128"):
        save({"x": np.ones(1, np.complex128)})
    with pytest.raises(SafetensorError, match="metadata"):
        save({}, {"a": 1})
    with pytest.raises(SafetensorError, match="name"):
        save({"__metadata__": np.ones(1)})
    assert reference_load(save({})) == {}
    assert reference_save({}) is not None
