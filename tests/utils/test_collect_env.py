"""The report of the machine, beside PyTorch's."""

import subprocess
import sys

import torch.utils.collect_env

import fanal
import fanal.utils.collect_env


def test_what_is_found_is_what_pytorch_finds():
    theirs, ours = (m.utils.collect_env.get_env_info() for m in (torch, fanal))
    assert ours._fields == theirs._fields
    for name in ("gcc_version", "libc_version", "python_platform", "python_version", "os"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.torch_version == fanal.__version__ and "numpy==" in ours.pip_packages


def test_the_text():
    heads = lambda text: [line.partition(":")[0] for line in text.splitlines()]
    ours, theirs = (m.utils.collect_env.get_pretty_env_info() for m in (fanal, torch))
    assert set(heads(ours.partition("\nCPU:")[0])) <= set(heads(theirs))
    out = subprocess.run([sys.executable, "-m", "fanal.utils.collect_env"], capture_output=True, text=True)
    assert out.stdout == f"Collecting environment information...\n{ours}\n", out.stderr
