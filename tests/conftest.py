"""Test set-up: helper modules beside the tests are importable."""
from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

for _folder in (Path(__file__).parent, *(p for p in Path(__file__).parent.iterdir() if p.is_dir())):
    sys.path.insert(0, str(_folder))

# A test run in the background inherits that Ctrl-C is ignored; the tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """--programs N, --surface N, --loops N, --first N: which random programs tests/engine runs (make programs: 2,000 of each)."""
    parser.addoption("--programs", type=int, default=300, help="random programs to compare with PyTorch")
    parser.addoption("--first", type=int, default=0, help="the number of the first random program")
    parser.addoption("--surface", type=int, default=12, help="those that use any operator")
    parser.addoption("--loops", type=int, default=6, help="random training loops")
