"""No silent gaps: every public name of PyTorch is there, or its absence says whether it will come."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import fanal
from fanal.core.base.missing import finder, names, not_planned

ROOT = Path(__file__).resolve().parents[2]


def test_the_list_is_that_of_pytorch():
    import torch

    if not torch.__version__.startswith("2.13"):
        pytest.skip("the list is of PyTorch 2.13")
    # In a process of its own: parts of PyTorch that other tests use add names to it when first imported.
    code = "import json, coverage; print(json.dumps({path: coverage.public(path) for path in coverage.MODULES}))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "docs", capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert {path: list(found) for path, found in names().items()} == json.loads(out.stdout)


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


def test_an_import_of_a_missing_name_says_whether_it_is_planned():
    with pytest.raises(ImportError, match=r"cannot import name 'fx' from 'torch': .*not planned, programs are foll"):
        exec("from fanal import fx")
    with pytest.raises(ImportError, match=r"'scaled_grouped_mm' from 'torch.nn.functional': .*it is planned"):
        exec("from fanal.nn.functional import scaled_grouped_mm")
    with pytest.raises(ImportError, match=r"^cannot import name 'addd' from 'fanal'"):
        exec("from fanal import addd")
    assert not hasattr(fanal, "fx")


def test_a_module_that_has_nothing_else():
    assert not_planned("torch", "quantize_per_tensor") and not not_planned("torch", "add")
    with pytest.raises(
        AttributeError, match=r"module 'torch.nested' has no attribute 'nested_tensor' in Fanal yet"
    ):
        finder("torch.nested")("nested_tensor")


def test_what_a_star_gives():
    """`from torch import *` gives what PyTorch gives, as far as it is there."""
    theirs, ours = {}, {}
    exec("from torch import *", theirs)
    exec("from fanal import *", ours)
    submodules = {"cpp", "export"}  # which torch leaves there by chance
    lacking = {n for n in theirs.keys() - ours.keys() - submodules if hasattr(fanal, n)}
    assert not lacking
    assert not {"Any", "annotations", "importlib", "nn"} & ours.keys()


def test_result_types_are_pytorchs():
    import torch

    import fanal.return_types as ours

    for name in ours.__all__:
        assert getattr(ours, name)._fields == getattr(torch.return_types, name).__match_args__
    assert type(fanal.ones(2, 2).max(0)) is ours.max
    beside = {t.__name__ for t in torch.return_types.all_return_types if not t.__name__.endswith("_out")}
    assert beside == set(ours.__all__)


def test_names_under_a_second_address():
    import torch

    import fanal.functional
    import fanal.nn.common_types as ours

    assert set(fanal.functional.__all__) == set(torch.functional.__all__)
    assert fanal.functional.split is fanal.split
    theirs = {n for n in vars(torch.nn.common_types) if n.startswith(("_size", "_ratio"))}
    assert theirs == {n for n in vars(ours) if n.startswith(("_size", "_ratio"))}
    assert fanal.nn.DataParallel is fanal.nn.parallel.DataParallel
    assert fanal.OutOfMemoryError is fanal.cuda.OutOfMemoryError


def test_classes_of_a_device_that_is_not_there():
    import torch

    for name in ("FloatTensor", "BFloat16Tensor", "Stream", "Event"):
        cls = getattr(fanal.cuda, name)
        assert not isinstance(fanal.ones(1), cls) and cls | None
        with pytest.raises(Exception) as theirs:
            getattr(torch.cuda, name)()
        with pytest.raises(theirs.type):
            cls()


def test_streams_of_the_cpu():
    import torch

    for m in (torch, fanal):
        mine = m.cpu.Stream()
        outer = m.cpu.current_stream()
        with m.cpu.stream(mine), m.cpu.StreamContext(None):
            assert m.cpu.current_stream() is mine
            mine.wait_event(m.cpu.Event())
        assert m.cpu.current_stream() is outer and m.cpu.is_initialized() and m.cpu.Event().query()
