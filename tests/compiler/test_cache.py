"""Compiled objects on disk."""
from __future__ import annotations

import multiprocessing
import os
import warnings

import pytest

from fanal.core.backends.cpu import cache
from fanal.core.backends.cpu.cache import Store


def store(tmp_path, environment="here", limit=1 << 20):
    return Store(tmp_path, environment, limit)


def entries(*names, size=100):
    return {name: name.encode() * size for name in names}


def bundles(found):
    return sorted(found.folder.glob("*.fko"))


def test_round_trip_and_single_kernels(tmp_path):
    both, one = entries("a", "b"), entries("c")
    store(tmp_path).save(both)
    store(tmp_path).save(one)
    assert store(tmp_path).lookup(["b", "a"]) == both  # one open: the same set of kernels
    assert store(tmp_path).lookup(["a", "c", "d"]) == {"a": both["a"], "c": one["c"]}  # another set: searched
    kept = store(tmp_path)
    assert kept.lookup(["e"]) == {}
    kept.save(entries("e"))
    assert kept.lookup(["e", "a"]) == entries("e", "a")


def test_environments_do_not_mix(tmp_path):
    store(tmp_path, "one").save(entries("a"))
    other = store(tmp_path, "two")
    assert other.lookup(["a"]) == {}
    # Not even when a file of one ends up in the directory of the other.
    os.replace(bundles(store(tmp_path, "one"))[0], other._bundle(["a"]))
    assert other.lookup(["a"]) == {}
    assert bundles(other) == []


@pytest.mark.parametrize("damage", [
    lambda data: b"",
    lambda data: data[:5],
    lambda data: data[:-1],
    lambda data: data[:len(data) // 2],
    lambda data: b"x" + data[1:],
    lambda data: data[:8] + b"\xff\xff\xff\xff" + data[12:],
    lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:],
    lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
    lambda data: data.replace(b"[0, ", b"[9, "),
    lambda data: os.urandom(len(data)),
])
def test_damage_is_removed(tmp_path, damage):
    store(tmp_path).save(entries("a"))
    file, = bundles(store(tmp_path))
    file.write_bytes(damage(file.read_bytes()))
    fresh = store(tmp_path)
    assert fresh.lookup(["a"]) == {}
    fresh.lookup(["z"])
    assert bundles(fresh) == []
    fresh.save(entries("a"))
    assert fresh.lookup(["a"]) == entries("a")


def test_least_recently_used_goes_first(tmp_path):
    small = store(tmp_path, limit=5000)
    for age, name in enumerate("abcd"):
        small.save(entries(name, size=1000))
        os.utime(small._bundle([name]), ns=(0, 10 ** 9 * (age + 1)))
    assert small.lookup(["a"]) == entries("a", size=1000)  # now the youngest
    small.save(entries("e", size=1000))
    assert small.lookup(["b"]) == {}
    assert store(tmp_path).lookup(["a"]) == entries("a", size=1000)


def test_unwritable_directory_warns_once(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    with pytest.warns(UserWarning, match="not kept on disk"):
        broken = Store(blocked, "here", 1 << 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        broken.save(entries("a"))
        assert broken.lookup(["a"]) == {}


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
def test_directory_others_may_write_to_is_refused(tmp_path):
    first = store(tmp_path)
    assert first.folder.stat().st_mode & 0o777 == 0o700
    first.folder.chmod(0o777)
    with pytest.warns(UserWarning, match="written by another user"):
        assert not store(tmp_path).enabled
    first.folder.chmod(0o700)
    first.save(entries("a"))
    bundles(first)[0].chmod(0o666)
    assert store(tmp_path).lookup(["a"]) == {}


def test_symlinks_are_not_followed(tmp_path):
    found = store(tmp_path)
    found.save(entries("a"))
    real = tmp_path / "elsewhere"
    os.replace(bundles(found)[0], real)
    found._bundle(["a"]).symlink_to(real)
    assert found.lookup(["a"]) == {}


def test_directory_removed_meanwhile(tmp_path):
    found = store(tmp_path)
    found.save(entries("a"))
    for file in bundles(found):
        file.unlink()
    found.folder.rmdir()
    assert found.lookup(["a"]) == {}
    with pytest.warns(UserWarning, match="not kept on disk"):
        found.save(entries("a"))


def _hammer(root, seed):
    mine = store(root, limit=20_000)
    for i in range(40):
        name = f"k{(seed + i) % 7}"
        mine.save(entries(name))
        found = mine.lookup([name, f"k{i % 5}"])
        if any(data != entries(key)[key] for key, data in found.items()):
            os._exit(1)


def test_processes_write_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_hammer, args=(tmp_path, seed)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert not list(tmp_path.rglob("*.tmp"))


def test_recall(tmp_path, monkeypatch):
    monkeypatch.setattr(cache.knobs, "cache_dir", tmp_path)
    asked = []

    def probe():
        asked.append(1)
        return {"cpu": "x"}

    assert cache.recall("host", "key", probe) == cache.recall("host", "key", probe) == {"cpu": "x"}
    assert len(asked) == 1
    cache.recall("host", "other", probe)
    cache.recall("host", "", probe)
    assert len(asked) == 3
    for file in tmp_path.rglob("host-*.json"):
        file.write_text("{")
    cache.recall("host", "key", probe)
    assert len(asked) == 4



def test_generation_follows_the_sources(tmp_path, monkeypatch):
    """Code of another version of the emitters is never used."""
    monkeypatch.setattr(cache, "_ROOM", tmp_path)
    (tmp_path / "backends").mkdir()
    file = tmp_path / "backends" / "emit.py"
    file.write_text("a = 1")
    generation = cache.generation.__wrapped__
    first = generation()
    assert generation() == first
    file.write_text("a = 22")
    assert generation() != first
