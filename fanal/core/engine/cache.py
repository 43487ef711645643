"""Programs seen before: one executable per structure."""
from __future__ import annotations

import numpy as np

from fanal.core.engine.ledger import ledger
from fanal.core.ir.interp import interpret
from fanal.core.ir.program import Program


class Interpreted:
    """A program run by the interpreter."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs."""
        return interpret(self.program, inputs)


def executable(program: Program) -> Interpreted:
    """Return something that runs `program`."""
    ledger.plans += 1
    return Interpreted(program)


def run_program(program: Program, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Compute the outputs of a program once."""
    return executable(program).run(inputs)
