"""Random training loops against PyTorch: `--loops N` of them, from `--first` on; see `loop_programs` and `loop_runs`."""
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from loop_programs import source
from loop_runs import disagreement

from fanal.core.base import knobs


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    first = metafunc.config.getoption("first")
    metafunc.parametrize("seed", range(first, first + metafunc.config.getoption("loops")))


def test_loops_agree_with_torch(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tenth with kernels: each compiles many that no other loop has, and it is the following that loops try."""
    monkeypatch.setattr(knobs, "compile", seed % 10 == 9)
    text = source(seed)
    found, _, _ = disagreement(text, seed)
    assert found is None, f"loop {seed}, {found}\n{text}"
