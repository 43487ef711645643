"""Same bits: looking at values, threads, caches and the way a step is recorded never change a result."""
from __future__ import annotations

from typing import Any

import pytest
from training import MODELS, Watched, child, digest, fresh, train, watch

import fanal

NAMES = tuple(MODELS)


@pytest.fixture(scope="module")
def plain() -> dict[str, str]:
    """Digests of runs nobody looked into."""
    return {name: fresh(name) for name in NAMES}


def show(t: Any) -> None:
    str(t)


def reduce_and_read(t: Any) -> None:
    t.detach().abs().sum().item()


def modules(name: str) -> list[str]:
    return [k for k, _ in MODELS[name](fanal).model.named_modules() if k]


def run(name: str, places: list[str], look: Any, grads: bool = False) -> str:
    step = MODELS[name](Watched(look) if grads else fanal)
    for k, module in step.model.named_modules():
        if k in places and type(module) is not fanal.nn.ModuleList:
            watch(module, look)
    return train(step)


@pytest.mark.parametrize("name", NAMES)
def test_training_twice(name: str, plain: dict[str, str]) -> None:
    assert fresh(name) == plain[name]


@pytest.mark.parametrize("place", range(3))
def test_printing_one_value_of_an_mlp(place: int, plain: dict[str, str]) -> None:
    assert run("mlp", [modules("mlp")[place]], show) == plain["mlp"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("look", [show, reduce_and_read])
def test_looking_everywhere(name: str, look: Any, plain: dict[str, str]) -> None:
    assert run(name, modules(name), look, grads=True) == plain[name]


@pytest.mark.parametrize("name,place", [("cnn", "conv1"), ("cnn", "fc1"), ("gpt", "tok"), ("gpt", "blocks.0.qkv"),
                                        ("gpt", "blocks.0.ln2"), ("gpt", "blocks.0"), ("gpt", "head")])
def test_printing_one_value(name: str, place: str, plain: dict[str, str]) -> None:
    assert run(name, [place], show) == plain[name]


@pytest.mark.parametrize("name", NAMES)
def test_looking_at_gradients(name: str, plain: dict[str, str]) -> None:
    assert run(name, [], show, grads=True) == plain[name]


@pytest.mark.parametrize("name", NAMES)
def test_looking_now_and_then(name: str, plain: dict[str, str]) -> None:
    """The loss and the parameters, on some steps only: known and new streams of operations mix."""
    step = MODELS[name](fanal)
    for k in range(5):
        loss = step()
        if k in (1, 3):
            loss.item()
        if k == 2:
            digest(step.model)
    assert digest(step.model) == plain[name]


@pytest.mark.parametrize("name", NAMES)
def test_threads_in_one_process(name: str, plain: dict[str, str]) -> None:
    before = fanal.get_num_threads()
    try:
        for count in (1, 2, 3):
            fanal.set_num_threads(count)
            assert fresh(name) == plain[name], count
    finally:
        fanal.set_num_threads(before)


def test_processes(tmp_path: Any, plain: dict[str, str]) -> None:
    """Cold and warm disk cache, one thread and two, followed and recorded, native and Python matcher."""
    cache = {"FANAL_CACHE_DIR": str(tmp_path)}
    cold = child(*NAMES, **cache)
    assert cold["digests"] == plain
    assert cold["compiled"] and cold["followed"]
    warm = child(*NAMES, **cache)
    assert warm["digests"] == plain
    assert not warm["compiled"]
    for count in ("1", "2"):
        found = child("--threads", count, *NAMES, **cache)
        assert found["threads"] == int(count)
        assert found["digests"] == plain, count
    assert child(*NAMES, FANAL_NUM_THREADS="1", **cache)["digests"] == plain
    recorded = child(*NAMES, FANAL_FOLLOW="0", **cache)
    assert recorded["digests"] == plain
    assert not recorded["followed"]
    python = child(*NAMES, FANAL_NATIVE="0", **cache)
    assert python["digests"] == plain
    # To the native matcher a layer is one event; to the other the operations in it are.
    assert python["followed"] >= cold["followed"]
