"""Options that scripts set for PyTorch's compiler."""

import subprocess
import sys

import pytest
import torch
import torch._dynamo
import torch._inductor.config

import fanal

SCRIPT = """
import torch
import torch._dynamo
import torch._inductor.config
from torch._dynamo import OptimizedModule
torch._inductor.config.coordinate_descent_tuning = True
torch._inductor.config.triton.unique_kernel_names = True
torch._inductor.config.fx_graph_cache = True
torch._dynamo.config.cache_size_limit = 64
torch._dynamo.reset()

@torch._dynamo.allow_in_graph
def f(x):
    return x + 1

model = torch.compile(torch.nn.Linear(2, 1))
print(isinstance(model, OptimizedModule), f(torch.ones(2)).tolist(), torch._dynamo.config.cache_size_limit)
"""


def test_a_script(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "fanal", "run", "--no-report", "script.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "False [2.0, 2.0] 64\n", done.stderr


def test_options_are_given_back():
    for m in (torch, fanal):
        config = m._inductor.config
        assert config.epilogue_fusion and not config.coordinate_descent_tuning
        with config.patch(epilogue_fusion=False):
            assert not config.epilogue_fusion
            with config.patch({"triton.cudagraphs": True}):
                assert config.triton.cudagraphs

        @config.patch("epilogue_fusion", False)
        def inside(config=config):
            return config.epilogue_fusion

        assert inside() is False and config.epilogue_fusion
        with pytest.raises(AttributeError):
            _ = config.no_such_option
        assert m._dynamo.config.cache_size_limit == 8 and m._dynamo.config.automatic_dynamic_shapes
        assert m._dynamo.is_compiling() is False
        same = lambda x: x
        assert m._dynamo.allow_in_graph(same) is same
    assert not hasattr(fanal._inductor.config.triton, "cudagraphs")


def test_what_is_not_there_says_so():
    with pytest.raises(AttributeError, match=r"module 'torch._dynamo' has no attribute 'export'"):
        _ = fanal._dynamo.export
