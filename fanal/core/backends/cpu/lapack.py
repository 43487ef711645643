"""LAPACK, called from kernels: the library that NumPy brings, found once; a launch for each use of the row `lapack`.

NumPy's wheels link against an OpenBLAS with 64-bit integers. Its routines are called by address, so a stack of
matrices is one launch, and nothing of it goes through Python. Where there is no such library, NumPy itself is called
(`ir/prims/factor.py`), which is also the reference.
"""

from __future__ import annotations

import ctypes
import functools
import math

from fanal.core.backends.contract import Buf, Kernel, Launch
from fanal.core.backends.cpu.lapack_ir import NUMBERS, source
from fanal.core.backends.cpu.lapack_recipes import RECIPES, Sizes
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt
from fanal.core.compiler.graph import Value, base

_LETTERS = {dt.float32: "s", dt.float64: "d", dt.complex64: "c", dt.complex128: "z"}
_NAMES = ("scipy_{}_64_", "{}_64_")  # of routines with 64-bit integers
# What LAPACK calls differently for complex numbers: Hermitian for symmetric, unitary for orthogonal.
_COMPLEX = {"syevd": "heevd", "orgqr": "ungqr"}


@functools.lru_cache(maxsize=1)
def library() -> tuple[ctypes.CDLL, str] | None:
    """Return the library and the form of its names; None where NumPy has another one."""
    try:
        from numpy.linalg import _umath_linalg

        library = ctypes.CDLL(_umath_linalg.__file__)  # looking up a name also asks what it was linked with
    except (ImportError, AttributeError, OSError):
        return None
    return next(((library, form) for form in _NAMES if hasattr(library, form.format("dgetrf"))), None)


@functools.cache
def _address(name: str) -> int:
    """Return the address of a routine, 0 if there is none."""
    found = library()
    function = found and getattr(found[0], found[1].format(name), None)
    return ctypes.cast(function, ctypes.c_void_p).value or 0 if function else 0


def lapack_launch(v: Value, target: Target) -> Launch | None:
    """Return the launch of a value of `lapack`, or None if NumPy must do it."""
    name, *options = v.params
    recipe, dtype = RECIPES.get(name), v.inputs[0].dtype
    lead = v.shape[:-1]
    if recipe is None or dtype not in _LETTERS or any(i.shape[:-2] != lead for i in v.inputs):
        return None
    if not all(i.size for i in (*v.inputs, v)):
        return None
    (m, n), k = v.inputs[0].shape[-2:], v.inputs[-1].shape[-1]
    names = recipe.calls(dtype.is_complex, *options)
    entries = [_address(_LETTERS[dtype] + (_COMPLEX.get(c, c) if dtype.is_complex else c)) for c in names]
    if not all(entries):
        return None
    starts, end = [], 8 * NUMBERS
    for nbytes in recipe.spaces(Sizes(m, n, k, dtype), *options):
        starts.append(end)
        end += -(-nbytes // 64) * 64
    kinds = tuple(o for o in options if isinstance(o, bool))  # the others are sizes
    symbol = target.symbol(f"lapack:{name}:{kinds}:{dtype.name}")
    words: list[Buf | int] = [*(Buf(base(i).id) for i in v.inputs), Buf(v.id), m, n, k, v.shape[-1], *entries, *starts]
    words += [math.prod(i.shape[-2:]) for i in v.inputs]
    moved = sum(x.size * x.dtype.itemsize for x in (*v.inputs, v))
    return Launch(
        Kernel(symbol, lambda: source(target, symbol, lambda e: recipe.emit(e, *options), dtype, v.dtype,
                                      len(v.inputs), len(entries), len(starts))),
        words,
        math.prod(lead),
        end,
        v.row.flops(v.inputs, v.params),  # type: ignore[union-attr]
        moved,
        tuple(base(i).id for i in v.inputs),
        (v.id,),
        f"lapack {name}",
        [v.where] if v.where else [],
    )
