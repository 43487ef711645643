"""Random programs against PyTorch: what hand-written tests miss."""
from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import programs
import pytest
import sized_programs
import surface_programs
import wide_programs
from agreement import NUDGE, disagreement, exact, parted, wide
from programs import run, source
from rounding import Otherwise

import fanal
from fanal.core.base import knobs

torch = pytest.importorskip("torch")
BLOCK = 50
OTHERWISE = 24  # runs of PyTorch that round otherwise
HISTORY = SimpleNamespace(source=sized_programs.leaving_history, run=sized_programs.run)
WINDOWS = SimpleNamespace(source=source, run=partial(run, rounds=9, cut=True))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run as many programs as --programs and --surface say, in blocks, from --first on."""
    first = metafunc.config.getoption("first")
    for name, option in (("block", "programs"), ("surface", "surface")):
        if name in metafunc.fixturenames:
            end = first + metafunc.config.getoption(option)
            metafunc.parametrize(name, [range(k, min(end, k + BLOCK)) for k in range(first, end, BLOCK)],
                                 ids=lambda b: f"{b.start}-{b.stop - 1}")


def _array(t: Any) -> np.ndarray:
    t = t.detach().resolve_conj().resolve_neg()
    return np.array((t.float() if str(t.dtype) == "torch.bfloat16" else t).numpy(force=True))  # of PyTorch's ZeroTensor, too


def compare(seed: int, change: Callable[[str], str] = str, module: Any = programs) -> None:
    text = change(module.source(seed))

    def in_float64(program: str | None) -> Any:
        torch.set_default_dtype(torch.float64)
        try:
            return program and module.run(torch, program, seed, _array)
        finally:
            torch.set_default_dtype(torch.float32)

    def others() -> list[Any]:
        return [in_float64(wide(text)), module.run(torch, text, seed, _array, NUDGE)]

    def rounded_otherwise() -> list[Any]:
        runs = others()
        for k in range(OTHERWISE):
            with Otherwise(k):
                runs.append(module.run(torch, text, seed, _array))
        return runs
    expected, got = module.run(torch, text, seed, _array), module.run(fanal, text, seed, _array)
    more: tuple[Any, ...] = ()
    if module not in (programs, WINDOWS, HISTORY):
        more = (lambda: parted(*(module.run(m, text, seed, _array, optimizer=True) for m in (torch, fanal))),
                lambda: in_float64(exact(text)))
    found = disagreement(expected, got, others, *more)
    if found is not None:
        found = disagreement(expected, got, rounded_otherwise, *more)
    assert found is None, f"program {seed}, {found}\n{text}"


def with_a_read(text: str, seed: int) -> str:
    """Return the program with one value more that is read, in some rounds or in all."""
    lines = text.split("\n")
    r = random.Random(seed)
    places = [(i, m) for i, line in enumerate(lines) if (m := re.match(r"    (t\d+)(, \w+)? = ", line))]
    if places:
        i, m = r.choice(places)
        how = r.choice([".tolist()", ".detach().numpy()", ".sum().item()"])
        lines.insert(i + 1, r.choice(["    ", "    if k == 3: "]) + m[1] + how)
    return "\n".join(lines)


def with_an_early_read(text: str) -> str:
    """Return the program with its loss read before every backward."""
    return re.sub(r"^( *)(if k == \d+: )?(\(?loss\b.*\.backward\()", r"\1loss.item()\n\1\2\3", text, flags=re.M)


def with_questions(text: str) -> str:
    """Return the program with masks and positions asked for between its calls, and with what they choose in the loss."""
    lines = text.split("\n")
    r = random.Random(len(text))
    places = [(i, m[1]) for i, line in enumerate(lines) if (m := re.match(r"    (t\d+) = (?!torch.empty)", line))]
    for k, (i, t) in sorted(enumerate(r.sample(places, min(2, len(places)))), key=lambda x: -x[1][0]):
        lines[i + 1:i + 1] = [
            f"    q{k} = torch.where(data[0].flatten() > {r.choice((-0.5, 0.2))})[0]",
            f"    if (data[1] > {r.choice((0.5, 1.5))}).all():",
            f"        q{k} = q{k}[1:]",
            f"    e{k} = {t}.flatten()[q{k}[q{k} < {t}.numel()]].float().sum()"]
    asked = "".join(f" + e{k} * 0.1" for k in range(min(2, len(places))))
    return re.sub(r"^( *loss = .*)$", rf"\1{asked}", "\n".join(lines), flags=re.M)


def same_bits(seed: int) -> None:
    text = source(seed)
    other = with_a_read(text, seed)
    a, b = run(fanal, text, seed, _array), run(fanal, other, seed, _array)
    for k, (x, y) in enumerate(zip(a, b)):
        assert len(x) == len(y), f"round {k}: {x[:1]}, {y[:1]}\n{other}"
        for i, (u, v) in enumerate(zip(x, y)):
            arrays = isinstance(u, np.ndarray) and isinstance(v, np.ndarray)
            same = u.tobytes() == v.tobytes() if arrays else type(u) is type(v) and u == v
            assert same, f"round {k}, result {i}\n{other}"


def test_a_read_changes_no_bit(block: range) -> None:
    for seed in block:
        same_bits(seed)


def test_programs_agree_with_torch(block: range) -> None:
    for seed in block:
        compare(seed)


def test_programs_on_data_of_any_size_agree_with_torch(block: range, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs, "sizes", True)
    for seed in block[::25]:
        compare(seed, module=sized_programs)


def test_programs_on_data_of_any_size_that_leave_history_agree_with_torch(
        block: range, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs, "sizes", True)
    for seed in block[::10]:
        compare(seed, with_an_early_read, module=HISTORY)


def test_programs_that_ask_about_their_data_agree_with_torch(block: range, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs, "sizes", True)
    for seed in block[::10]:
        compare(seed, with_questions, module=HISTORY)
    for seed in block[::5]:
        compare(seed, with_questions)


def test_programs_on_windows_agree_with_torch(block: range) -> None:
    for seed in block[::5]:
        compare(seed, module=WINDOWS)


def test_wide_programs_agree_with_torch(block: range) -> None:
    """Every fifth: each compiles many kernels that no other program has."""
    for seed in block[::5]:
        compare(seed, module=wide_programs)


def test_programs_that_read_their_loss_agree_with_torch(block: range) -> None:
    for seed in block:
        compare(seed, with_an_early_read)


@pytest.mark.filterwarnings("ignore")
def test_programs_of_any_operator_agree_with_torch(surface: range) -> None:
    for seed in surface:
        compare(seed, module=surface_programs)
