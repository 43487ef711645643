"""Hostile checkpoints: nothing in them runs, and the error names what was refused."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from fanal.serialization import (
    Opaque,
    add_safe_globals,
    clear_safe_globals,
    safe_globals,
)
from fanal.serialization.checkpoint import load_checkpoint, unsafe_globals
from fanal.serialization.errors import RecordError
from fanal.serialization.outline import OutlineAdapter
from fanal.serialization.zipwrite import ZipWriter

SENTINEL: list[str] = []


class Adapter(OutlineAdapter):
    def has_device(self, device):
        return device == "cpu"

    def make_tensor(self, base, offset, shape, strides, requires_grad, flags):
        return ("tensor", shape)


def tripwire(*args):
    """What a hostile pickle would call, if anything were called."""
    SENTINEL.append("called")


class Armed:
    def __init__(self):
        SENTINEL.append("init")

    def __setstate__(self, state):
        SENTINEL.append("setstate")

    def __reduce__(self):
        return tripwire, ()


def archive(pickled: bytes, **records: bytes) -> io.BytesIO:
    file = io.BytesIO()
    writer = ZipWriter(file, "archive")
    writer.write("data.pkl", pickled)
    writer.write("byteorder", b"little")
    for name, data in records.items():
        writer.write(f"data/{name.removeprefix('r')}", data)
    writer.write("version", b"3\n")
    writer.close()
    file.seek(0)
    return file


def read(pickled: bytes, weights_only: bool = True, **records: bytes):
    return load_checkpoint(Adapter(), archive(pickled, **records), weights_only=weights_only)


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path, monkeypatch):
    SENTINEL.clear()
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    yield
    assert SENTINEL == []
    assert not os.path.exists("pwned")
    assert "antigravity" not in set(sys.modules) - modules
    clear_safe_globals()


HERE = f"c{__name__}\ntripwire\n".encode()
HOSTILE = {
    "os.system by REDUCE": (b"cos\nsystem\n(X\x0b\x00\x00\x00touch pwnedtR.", "os.system"),
    "posix.system": (b"cposix\nsystem\n(X\x0b\x00\x00\x00touch pwnedtR.", "posix.system"),
    "eval": (b"c__builtin__\neval\n(X\x03\x00\x00\x001+1tR.", "eval"),
    "exec, protocol 4": (b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x011\x85R.", "exec"),
    "getattr": (b"cbuiltins\ngetattr\n(ccollections\nOrderedDict\nX\x05\x00\x00\x00cleartR.", "getattr"),
    "__import__": (b"c__builtin__\n__import__\n(X\x0b\x00\x00\x00antigravitytR.", "__import__"),
    "import by GLOBAL": (b"cantigravity\nfly\n.", "antigravity.fly"),
    "INST": (b"(X\x0b\x00\x00\x00touch pwnedios\nsystem\n.", "os.system"),
    "OBJ": (b"(cos\nsystem\nX\x0b\x00\x00\x00touch pwnedo.", "os.system"),
    "NEWOBJ": (b"\x80\x02csubprocess\nPopen\nX\x05\x00\x00\x00touch\x85\x81.", "subprocess.Popen"),
    "NEWOBJ_EX": (b"\x80\x04\x8c\x0asubprocess\x8c\x05Popen\x93)}\x92.", "subprocess.Popen"),
    "dotted name": (b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.", "OrderedDict.fromkeys"),
    "a function of this file": (HERE + b")R.", "tripwire"),
    "a class of this file": (f"c{__name__}\nArmed\n".encode() + b")\x81}b.", "Armed"),
    "torch.load itself": (b"ctorch\nload\n(X\x01\x00\x00\x00xtR.", "torch.load"),
    "bytes inside bytes": (b"ctorch.storage\n_load_from_bytes\n(X\x01\x00\x00\x00xtR.", "_load_from_bytes"),
    "copyreg": (b"ccopy_reg\n_reconstructor\n(c__builtin__\nobject\nc__builtin__\nobject\nNtR.", "copyreg"),
    "numpy's loader": (b"cnumpy\nload\n(X\x01\x00\x00\x00xtR.", "numpy.load"),
    "numpy memmap": (b"cnumpy\nmemmap\n(X\x01\x00\x00\x00xtR.", "numpy.memmap"),
    "fanal's own internals": (
        b"cfanal.serialization\nload\n(X\x01\x00\x00\x00xtR.",
        "fanal.serialization.load",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_unknown_names_are_refused_and_named(name):
    pickled, refused = HOSTILE[name]
    with pytest.raises(pickle.UnpicklingError) as caught:
        read(pickled)
    text = str(caught.value)
    assert refused in text
    assert "add_safe_globals" in text
    assert "Unsupported global" in text


@pytest.mark.parametrize("name", HOSTILE)
def test_without_weights_only_they_are_inert_data(name):
    pickled, refused = HOSTILE[name]
    found = read(pickled, weights_only=False)
    assert isinstance(found, Opaque)
    assert refused in found.path
    assert refused in repr(found)


def test_opaque_keeps_what_the_pickle_said():
    found = read(pickle.dumps({"config": Armedless(3)}, 2), weights_only=False)["config"]
    assert (found.module, found.name, found.state) == (__name__, "Armedless", {"n": 3})
    with pytest.raises(TypeError, match="never rebuilt"):
        pickle.dumps(found)


class Armedless:
    def __init__(self, n):
        self.n = n


def test_calling_what_a_call_returned():
    # getattr(os, "system")("touch pwned")
    pickled = b"cbuiltins\ngetattr\n(cbuiltins\nobject\nX\x01\x00\x00\x00stR(X\x0b\x00\x00\x00touch pwnedtR."
    with pytest.raises(pickle.UnpicklingError, match="getattr"):
        read(pickled)
    assert isinstance(read(pickled, weights_only=False), Opaque)


@pytest.mark.parametrize(
    "pickled",
    [
        b"]X\x01\x00\x00\x00x\x85R.",  # a list called
        b"X\x01\x00\x00\x00x)R.",  # a string called
        b"ctorch\nfloat32\n)R.",  # a dtype called
        b"cbuiltins\nstr\n)R.",
    ],
)
def test_data_is_not_called(pickled):
    with pytest.raises(pickle.UnpicklingError, match="refused to call"):
        read(pickled)


@pytest.mark.parametrize(
    "pickled",
    [
        b"ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb.",  # hides a method
        b"]}X\x01\x00\x00\x00aK\x01sb.",  # state for a list
        b"}}b.",
        b"K\x01}b.",
        b"ccollections\nOrderedDict\n)RX\x01\x00\x00\x00ab.",
    ],
)
def test_build_reaches_only_what_has_a_state(pickled):
    with pytest.raises(pickle.UnpicklingError):
        read(pickled)


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"\x82\x01.", "EXT1"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"\xff.", "unknown opcode"),
        (b"K\x01", "truncated"),
        (b"", "truncated"),
        (b".", "empty stack"),
        (b"X\xff\xff\xff\xffabc.", "truncated"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "truncated"),
        (b"\x8b\xff\xff\xff\x7f1.", "refused an integer"),
        (b"h\x05.", "memo entry"),
        (b"(t(e.", "malformed|refused|empty"),
        (b"t.", "no mark"),
        (b"]]s.", "malformed|empty stack"),
        (b"}(K\x01u.", "without a value"),
        (b"}]K\x01s.", "unhashable"),
        (b"\x80\x09N.", "protocol 9"),
        (b"(" * 5000 + b".", "open containers"),
        (b"]" + b"]" * 5000 + b"a" * 5000 + b".", "levels deep"),
        (b")" + b"\x85" * 100_000 + b".", "levels deep"),
        (b"})" + b"\x85" * 100_000 + b"Ns.", "dict key"),
        (b"})" + b"2\x86" * 64 + b"Ns.", "dict key"),  # t = (t, t), hashed 2**64 times
        (b"(" + b")" + b"2\x86" * 64 + b"\x91.", "set member"),
        (b"I" + b"9" * 100_000 + b"\n.", "malformed"),
        (b"Vabc", "truncated"),
        (b"cos", "truncated"),
        (b"X\x01\x00\x00\x00sQ.", "persistent"),
        (b"X\x06\x00\x00\x00module\x85Q.", "Only persistent_load of storage"),
    ],
)
def test_malformed_and_greedy_pickles(pickled, message):
    with pytest.raises(pickle.UnpicklingError, match=message):
        read(pickled)


def test_shared_tuples_stay_small():
    # Memory is linear in the file: 2**64 leaves, 64 tuples. Nothing walks them.
    found = read(b")" + b"2\x86" * 64 + b".")
    assert len(found) == 2
    assert found[0] is found[1]


def test_every_prefix_of_a_pickle_is_an_error():
    whole = pickle.dumps({"a": [1, 2.5, (3, None)], "b": OrderedDict(c="d"), "e": {1, 2}}, 2)
    assert read(whole)["e"] == {1, 2}
    for end in range(len(whole) - 1):
        with pytest.raises(pickle.UnpicklingError):
            read(whole[:end])


def test_random_damage_never_escapes():
    whole = pickle.dumps({"a": [1, 2.5, (3, None)], "b": OrderedDict(c="d"), "e": {1, 2}, "f": b"xyz"}, 2)
    chance = np.random.default_rng(0)
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(chance.integers(1, 4)):
            damaged[chance.integers(len(damaged))] = chance.integers(256)
        for weights_only in (True, False):
            try:
                read(bytes(damaged), weights_only)
            except (pickle.UnpicklingError, RecordError):
                pass


# -- names the user allows


class Config:
    def __init__(self, width):
        SENTINEL.append("init")
        self.width = width


class Slotted:
    __slots__ = ("width",)


def fresh_config():
    config = Config.__new__(Config)
    config.width = 7
    return config


def test_allowed_class_comes_back_without_init():
    pickled = pickle.dumps(fresh_config(), 2)
    with pytest.raises(pickle.UnpicklingError, match="Config"):
        read(pickled)
    with safe_globals([Config]):
        assert read(pickled).width == 7
    with pytest.raises(pickle.UnpicklingError, match="Config"):
        read(pickled)
    add_safe_globals([(Config, "old.place.Config")])
    assert type(read(pickled.replace(f"c{__name__}\n".encode(), b"cold.place\n"))) is Config


def test_slots_are_set_through_slots_only():
    one = Slotted()
    one.width = 3
    add_safe_globals([Slotted, Config])
    assert read(pickle.dumps(one, 2)).width == 3
    head = f"c{__name__}\nSlotted\n".encode() + b")\x81"
    swap = head + b"N}X\x09\x00\x00\x00__class__" + f"c{__name__}\nConfig\n".encode() + b"s\x86b."
    with pytest.raises(pickle.UnpicklingError, match="__class__"):
        read(swap)


def test_blocked_modules_stay_blocked():
    add_safe_globals([(os.system, "os.system"), os.system])
    for module in (b"os", b"posix"):
        with pytest.raises(pickle.UnpicklingError, match="blocked"):
            read(b"c" + module + b"\nsystem\n(X\x0b\x00\x00\x00touch pwnedtR.")


def test_listing_the_unsafe_names():
    pickled = b"(cos\nsystem\nccollections\nOrderedDict\n)Rcbuiltins\neval\nt."
    assert unsafe_globals(Adapter(), archive(pickled)) == ["os.system", "builtins.eval"]


# -- ordinary data


def test_ordinary_containers_and_numbers():
    import argparse
    import datetime
    from collections import Counter, defaultdict

    values = {
        "counter": Counter("aab"), "default": defaultdict(list, {1: [2]}), "set": {1, 2},
        "frozen": frozenset({3}), "complex": 1 + 2j, "bytes": b"\x00\xff", "bytearray": bytearray(b"ab"),
        "array": np.arange(6, dtype=np.float32).reshape(2, 3), "fortran": np.asfortranarray(np.eye(3)[:2]),
        "scalar": np.float64(2.5), "dtype": np.dtype(">i4"), "words": np.array(["a", "bcd"]),
        "objects": np.array([{}, None], dtype=object), "when": datetime.datetime(2020, 1, 2, 3),
        "delta": datetime.timedelta(3), "args": argparse.Namespace(lr=0.1), "slice": slice(1, None, 2),
        "big": 2**200, "negative": -(2**70), "text": "ключ \ud800", "none": None, "range": range(3),
    }  # fmt: skip
    for protocol in range(6):
        found = (
            read(pickle.dumps(values, protocol))
            if protocol > 1
            else read(pickle.dumps(plain(values), protocol))
        )
        for key, expected in (values if protocol > 1 else plain(values)).items():
            if isinstance(expected, np.ndarray):
                assert found[key].dtype == expected.dtype
                assert np.array_equal(found[key], expected)
                assert found[key].flags.f_contiguous == expected.flags.f_contiguous
            else:
                assert found[key] == expected, (key, protocol)
                assert type(found[key]) is type(expected)


def plain(values):
    return {k: v for k, v in values.items() if k != "args"}  # protocols 0 and 1 rebuild through copyreg


def test_numpy_dtypes_are_not_changed_in_place():
    read(pickle.dumps(np.arange(3, dtype=">f8"), 2))
    assert np.dtype("f8").isnative


@pytest.mark.parametrize(
    "state",
    [
        (1, (10**12,), np.dtype("f8"), False, b"12345678"),
        (1, (-1,), np.dtype("f8"), False, b""),
        (1, (2,), np.dtype("O"), False, b"1234567812345678"),
        (1, (2,), np.dtype("O"), False, [1]),
    ],
)
def test_numpy_arrays_with_other_contents(state):
    class Fake:
        def __reduce__(self):
            return np.core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pickled = pickle.dumps(Fake(), 2)
    with pytest.raises(pickle.UnpicklingError, match="NumPy"):
        read(pickled)


# -- tensors that lie


def tensor_pickle(
    numel=4, offset=0, shape=(2, 2), strides=(2, 1), storage=b"ctorch\nFloatStorage\n", key="0"
):
    def put(value):
        return pickle.dumps(value, 2)[2:-1]

    pid = b"((" + put("storage") + storage + put(key) + put("cpu") + put(numel) + b"tQ"
    return (
        b"\x80\x02}" + put("weight") + b"ctorch._utils\n_rebuild_tensor_v2\n" + pid + put(offset) + put(shape)
        + put(strides) + b"\x89ccollections\nOrderedDict\n)RtRs."
    )  # fmt: skip


def test_an_honest_tensor():
    assert read(tensor_pickle(), r0=bytes(16)) == {"weight": ("tensor", (2, 2))}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (3, 2)}, "needs 6 elements"),
        ({"offset": 1}, "needs 5 elements"),
        ({"offset": -1}, "offset"),
        ({"strides": (-2, 1)}, "strides"),
        ({"strides": (2**62, 2**62)}, "needs"),
        ({"shape": (2**62, 4), "strides": (0, 0)}, "larger than any memory"),
        ({"shape": (2,)}, "strides"),
        ({"shape": (True, 2)}, "shape"),
        ({"numel": 10**15}, "declares"),
        ({"numel": 3}, "declares"),
        ({"numel": -1}, "declares"),
        ({"key": "7"}, "missing"),
    ],
)
def test_tensors_that_reach_outside_their_storage(changes, message):
    with pytest.raises(RecordError, match=message) as caught:
        read(tensor_pickle(**changes), r0=bytes(16))
    assert changes.get("numel") == -1 or "weight" in str(caught.value)


def test_quantized_tensors_are_named():
    with pytest.raises(pickle.UnpicklingError, match="quantized"):
        read(b"ctorch._utils\n_rebuild_qtensor\n)R.")


# -- archives that lie


def test_bomb_is_refused():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("archive/data.pkl", tensor_pickle(numel=10**7, shape=(10**7,), strides=(1,)))
        out.writestr("archive/data/0", bytes(4 * 10**7))
    file.seek(0)
    with pytest.raises(RecordError, match=r"weight.*zip bomb"):
        load_checkpoint(Adapter(), file)


def test_deflated_archives_are_read():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("archive/data.pkl", tensor_pickle())
        out.writestr("archive/data/0", np.random.default_rng(0).bytes(16))
    file.seek(0)
    assert load_checkpoint(Adapter(), file) == {"weight": ("tensor", (2, 2))}


@pytest.mark.parametrize("name", ["/etc/passwd", "archive/../../x", "c:/x", "archive\\..\\x"])
def test_climbing_names(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("archive/data.pkl", b"N.")
        out.writestr(name, b"x")
    file.seek(0)
    with pytest.raises(RecordError, match="not a name inside the archive"):
        load_checkpoint(Adapter(), file)


def test_two_records_of_one_name_or_place():
    file = io.BytesIO()
    writer = ZipWriter(file, "archive")
    writer.write("data.pkl", b"N.")
    writer.write("data.pkl", b"N.")
    writer.close()
    file.seek(0)
    with pytest.raises(RecordError, match="listed twice"):
        load_checkpoint(Adapter(), file)
    file = io.BytesIO()
    writer = ZipWriter(file, "archive")
    writer.write("data.pkl", b"N.")
    writer.directory.append(writer.directory[0].replace(b"data.pkl", b"xata.pkl"))
    writer.close()
    file.seek(0)
    with pytest.raises(RecordError, match=r"overlap|share the same bytes"):
        load_checkpoint(Adapter(), file)


def test_sizes_the_file_cannot_hold():
    data = archive(b"N." * 50).getvalue()
    at = data.rindex(b"PK\x01\x02", 0, data.index(b"archive/data.pkl", data.index(b"PK\x01\x02")))
    for field in (20, 24):
        damaged = bytearray(data)
        damaged[at + field : at + field + 4] = struct.pack("<I", 2**31)
        with pytest.raises(RecordError):
            load_checkpoint(Adapter(), io.BytesIO(bytes(damaged)))


def test_random_damage_to_the_archive_never_escapes():
    data = archive(tensor_pickle(), r0=bytes(16)).getvalue()
    chance = np.random.default_rng(1)
    for _ in range(2000):
        damaged = bytearray(data)
        damaged[chance.integers(len(data))] ^= 1 << int(chance.integers(8))
        try:
            found = load_checkpoint(Adapter(), io.BytesIO(bytes(damaged)))
        except (RecordError, pickle.UnpicklingError, RuntimeError, ValueError):
            continue
        assert found == {"weight": ("tensor", (2, 2))}


@pytest.mark.parametrize("end", [1, 3, 4, 100, -200, -60, -10, -1])
def test_truncated_archives(end):
    data = archive(tensor_pickle(), r0=bytes(16)).getvalue()[:end]
    with pytest.raises((RuntimeError, EOFError), match=r"truncated|corrupt|Ran out|ends"):
        load_checkpoint(Adapter(), io.BytesIO(data))


def test_empty_file():
    with pytest.raises(EOFError, match="empty"):
        load_checkpoint(Adapter(), io.BytesIO())
