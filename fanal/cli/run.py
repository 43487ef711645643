"""Run a script or a module as `python` does, with `torch` resolved to Fanal."""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import os
import sys
from importlib.machinery import SourceFileLoader
from types import CodeType, ModuleType

from fanal import compat
from fanal.cli import trace

__all__ = ["run_target"]


class CannotStart(Exception):
    """The target is not there or is no code; the message is for the user, the status for the shell."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def run_target(target: str, arguments: list[str], *, as_module: bool, report: bool) -> int:
    """Run `target` as `__main__`, return the exit status; SystemExit and KeyboardInterrupt pass through."""
    try:
        compat.install()
    except RuntimeError as error:
        print(f"fanal: {error}", file=sys.stderr)
        return 1
    trace.install_thread_hook()
    # Whoever started us is kept alive: its globals would be cleared with its module.
    starter = sys.modules["__main__"]
    try:
        code, module = (_load_module if as_module else _load_script)(target, arguments)
        sys.modules["__main__"] = module
        if report:
            importlib.import_module(
                "fanal.core.engine.ledger"
            ).ledger.profiling = True  # time a few runs, by kernel
        exec(code, module.__dict__)
    except CannotStart as error:
        print(f"fanal: {error}", file=sys.stderr)
        return error.status
    except SystemExit as leave:
        if report and leave.code in (None, 0):
            _print_report()
        raise
    except BaseException as error:
        trace.trim(error)
        if sys.stdout is not None:
            sys.stdout.flush()
        sys.excepthook(type(error), error, error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            # The interpreter ends by SIGINT itself where this passes through, so that a shell's loop ends
            # too. The traceback has been printed.
            sys.excepthook = lambda *_: None
            raise
        return 1
    if report:
        _print_report()
    del starter
    return 0


def _load_script(path: str, arguments: list[str]) -> tuple[CodeType, ModuleType]:
    sys.argv = [path, *arguments]
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path):
        folder, path = path, os.path.join(path, "__main__.py")
    _put_first_on_path(folder)
    file = os.path.join(os.getcwd(), path)
    try:
        with open(file, "rb") as script:
            source = script.read()
    except OSError as error:
        raise CannotStart(f"can't open file '{file}': [Errno {error.errno}] {error.strerror}", 2) from None
    try:
        code = compile(source, file, "exec", dont_inherit=True)
    except SyntaxError as error:
        # The error names the line; the frames that led here are ours.
        raise error.with_traceback(None) from None
    except ValueError as error:
        raise CannotStart(f"'{file}' is no Python source: {error}", 1) from None
    module = _main_module(file)
    module.__loader__ = SourceFileLoader("__main__", file)
    return code, module


def _load_module(name: str, arguments: list[str]) -> tuple[CodeType, ModuleType]:
    # As with `python -m`: "-m" stands in for the file while the module's packages are imported.
    sys.argv = ["-m", *arguments]
    _put_first_on_path(os.getcwd())
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
            if spec is None:
                raise CannotStart(
                    f"No module named {name}.__main__; '{name}' is a package and cannot be directly executed",
                    1,
                )
    except ModuleNotFoundError as error:
        # Only the module asked for, or a parent of it: another one missing is the user's traceback.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        spec = None
    if spec is None:
        raise CannotStart(f"No module named {name}", 1)
    get_code = getattr(spec.loader, "get_code", None)
    code = get_code(spec.name) if get_code is not None else None
    if code is None:
        raise CannotStart(f"No code object available for {spec.name}", 1)
    module = _main_module(spec.origin or name)
    module.__spec__ = spec
    module.__loader__ = spec.loader
    module.__package__ = spec.parent
    module.__cached__ = spec.cached  # type: ignore[attr-defined]
    sys.argv[0] = spec.origin or name
    return code, module


def _main_module(file: str) -> ModuleType:
    module = ModuleType("__main__")
    module.__file__ = file
    module.__annotations__ = {}
    module.__dict__.update(__builtins__=builtins, __cached__=None)
    return module


def _put_first_on_path(folder: str) -> None:
    # The first entry is the folder of whoever started us, unless -P or PYTHONSAFEPATH keeps it away.
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _print_report() -> None:
    if importlib.util.find_spec("fanal.lens") is None:
        return
    lens = importlib.import_module("fanal.lens")
    if sys.stdout is not None:
        sys.stdout.flush()
    lens.print_report(file=sys.stderr)
