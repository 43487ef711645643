"""Transforms of functions: derivatives, batching, calls of modules with other parameters."""

from __future__ import annotations

from fanal.core.base.missing import finder
from fanal.func.derivatives import grad as grad
from fanal.func.derivatives import grad_and_value as grad_and_value
from fanal.func.derivatives import hessian as hessian
from fanal.func.derivatives import jacfwd as jacfwd
from fanal.func.derivatives import jacrev as jacrev
from fanal.func.derivatives import jvp as jvp
from fanal.func.derivatives import linearize as linearize
from fanal.func.derivatives import vjp as vjp
from fanal.func.mapping import vmap as vmap
from fanal.func.modules import functional_call as functional_call
from fanal.func.modules import functionalize as functionalize
from fanal.func.modules import replace_all_batch_norm_modules_ as replace_all_batch_norm_modules_
from fanal.func.modules import stack_module_state as stack_module_state

__all__ = [
    "functional_call",
    "functionalize",
    "grad",
    "grad_and_value",
    "hessian",
    "jacfwd",
    "jacrev",
    "jvp",
    "linearize",
    "replace_all_batch_norm_modules_",
    "stack_module_state",
    "vjp",
    "vmap",
]

__getattr__ = finder("torch.func")
