"""Programs seen before: one executable per structure."""
from __future__ import annotations

import numpy as np

from fanal.core.ir.interp import interpret
from fanal.core.ir.program import Program


def run_program(program: Program, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Compute the outputs of a program."""
    return interpret(program, inputs)
