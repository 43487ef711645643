"""Resolve `import torch` to Fanal.

`torch.x.y` is the very module object of `fanal.x.y`, under a second name in `sys.modules`. Nothing happens on
import: `install` is called by `fanal run`, and in the processes that its script starts.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from fanal.core.base.missing import finder as missing
from fanal.core.base.missing import names, not_planned

__all__ = ["install"]

ROOTS = {"torch": "fanal", "torchvision": "fanal.vision", "torchaudio": "fanal.audio"}

# Fanal's own rooms. PyTorch has no modules of these names, and scripts that probe for one shall find none.
HIDDEN = frozenset(("__main__", "cli", "compat", "core"))


def install() -> None:
    """Let `import torch` find Fanal in this process from now on; calling it again changes nothing.

    Raises: RuntimeError where PyTorch itself has been imported before.
    """
    for root, own in ROOTS.items():
        present = sys.modules.get(root)
        if present is not None and present is not sys.modules.get(own):
            raise RuntimeError(
                f"{root} is already imported, from {getattr(present, '__file__', 'an unknown place')}; "
                f"`fanal run` puts Fanal in its place, and must come first"
            )
    if any(isinstance(finder, TorchFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, TorchFinder())
    importlib.import_module("fanal").__name__ = "torch"  # libraries compare it with the names that they patch
    if "multiprocessing.spawn" in sys.modules:
        _pass_on_to_children(sys.modules["multiprocessing.spawn"])


class TorchFinder(MetaPathFinder):
    """Find `torch` and its submodules in Fanal.

    It stands first in `sys.meta_path`: an installed PyTorch shall not be found, and Fanal's files shall not
    be loaded a second time through `torch.__path__`.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "multiprocessing.spawn":
            return _then(PathFinder.find_spec(fullname, path), _pass_on_to_children)
        root, dot, rest = fullname.partition(".")
        if root not in ROOTS:
            return None
        own = ROOTS[root] + dot + rest
        if _exists(own):
            return ModuleSpec(fullname, _AliasLoader(own), origin=own)
        if _is_only_a_question():
            return None
        if fullname in names():  # a part of PyTorch that is planned: whoever imports it may never use it
            return ModuleSpec(fullname, _AbsentLoader())
        raise ModuleNotFoundError(_missing(fullname, own), name=fullname)


class _AliasLoader(Loader):
    """Give a module that has another name already."""

    def __init__(self, own: str) -> None:
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.own)
        self.own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has just put the alias's spec on the module, which is Fanal's still.
        module.__spec__ = self.own_spec


class _AbsentLoader(Loader):
    """Make a module without names, in place of a part of PyTorch that Fanal lacks: asked for one, it says so."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__getattr__ = missing(spec.name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty."""


def _exists(name: str) -> bool:
    if not HIDDEN.isdisjoint(name.split(".")[1:2]):
        return False
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a parent is missing, or has no submodules
        return False


def _is_only_a_question() -> bool:
    """Whether `importlib.util.find_spec` is asking, which answers None, and not an import, which explains."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") in ("importlib._bootstrap", "importlib.util"):
        if frame.f_globals["__name__"] == "importlib.util":
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _missing(fullname: str, own: str) -> str:
    if "." in fullname:
        parts = fullname.split(".")
        why = not_planned("torch", parts[1]) if parts[1] in names()["torch"] else ""
        return (
            f"No module named '{fullname}': Fanal has no {own}{why and f' (not planned: {why})'}. "
            "If the script can do without it, guard the import with `except ImportError`; "
            "gaps.txt in Fanal's repository lists what is missing"
        )
    return (
        f"No module named '{fullname}': this Fanal has no {own}, and an installed {fullname} would need "
        "PyTorch itself. Load the data with numpy or pillow instead, or run the script with `python`"
    )


class _ThenLoader(Loader):
    """Load a module with its own loader, then call a function on it."""

    def __init__(self, loader: Any, then: Callable[[ModuleType], None]) -> None:
        self.loader = loader
        self.then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        self.then(module)


def _then(spec: ModuleSpec | None, then: Callable[[ModuleType], None]) -> ModuleSpec | None:
    if spec is not None:
        spec.loader = _ThenLoader(spec.loader, then)
    return spec


class _InstallOnArrival:
    """Installs the finder in the process that unpickles it."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return install, ()


def _pass_on_to_children(spawn: Any) -> None:
    """Let processes started afresh (`spawn`, `forkserver`) resolve `torch` before they import the script.

    A child unpickles its preparation data first of all, and passes over the entries that it does not know.
    """
    prepare = spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        return {**prepare(name), "fanal": _InstallOnArrival()}

    spawn.get_preparation_data = get_preparation_data
