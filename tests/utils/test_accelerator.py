"""torch.accelerator on a machine without one."""
from __future__ import annotations

import pytest

import fanal

torch = pytest.importorskip("torch")


def test_a_script_for_any_device_takes_the_cpu() -> None:
    for lib in (fanal, torch):
        accelerator = lib.accelerator
        assert not accelerator.is_available() and accelerator.device_count() == 0
        assert accelerator.current_accelerator() is None
        with accelerator.device_index(None):
            assert lib.ones(2).sum() == 2


@pytest.mark.parametrize("name", ["synchronize", "current_device_index", "memory_allocated", "empty_cache"])
def test_what_needs_an_accelerator_raises(name: str) -> None:
    for lib in (fanal, torch):
        with pytest.raises(RuntimeError, match="Cannot access accelerator device when none is available"):
            getattr(lib.accelerator, name)()
