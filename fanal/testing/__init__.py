"""Comparing results, and making inputs: assert_close and make_tensor."""

from fanal.core.base.missing import finder
from fanal.testing.compare import assert_allclose, assert_close
from fanal.testing.create import make_tensor

__all__ = ["assert_allclose", "assert_close", "make_tensor"]

__getattr__ = finder("torch.testing")
