"""No silent gaps: every public name of PyTorch is there, or its absence says whether it will come."""

import importlib.util
from pathlib import Path

import pytest

import fanal
from fanal.core.base.missing import finder, names, not_planned

ROOT = Path(__file__).resolve().parents[2]


def test_the_list_is_that_of_pytorch():
    import torch

    if not torch.__version__.startswith("2.13"):
        pytest.skip("the list is of PyTorch 2.13")
    spec = importlib.util.spec_from_file_location("coverage_page", ROOT / "docs" / "coverage.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    for path in (
        "torch",
        "torch.Tensor",
        "torch.nn",
        "torch.nn.functional",
        "torch.optim",
        "torch.utils.data",
    ):
        assert list(names()[path]) == page.public(path)


def test_a_missing_name_says_whether_it_is_planned():
    with pytest.raises(
        AttributeError, match="no attribute 'quantize_per_tensor' in Fanal: not planned, quantized"
    ):
        getattr(fanal, "quantize_per_tensor")
    with pytest.raises(AttributeError, match=r"^module 'torch' has no attribute 'addd'$"):
        getattr(fanal, "addd")
    for name in names()["torch.Tensor"]:
        if not hasattr(fanal.Tensor, name):
            expected = "not planned" if not_planned("torch.Tensor", name) else "it is planned"
            with pytest.raises(
                AttributeError, match=f"'Tensor' object has no attribute '{name}' in Fanal.*{expected}"
            ):
                getattr(fanal.ones(1), name)


def test_a_module_that_has_nothing_else():
    assert not_planned("torch", "quantize_per_tensor") and not not_planned("torch", "add")
    with pytest.raises(
        AttributeError, match=r"module 'torch.nested' has no attribute 'nested_tensor' in Fanal yet"
    ):
        finder("torch.nested")("nested_tensor")
