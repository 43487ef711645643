"""The command `fanal`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

__all__ = ["main"]

_RUN = """\
Run a PyTorch script on Fanal: inside it, `import torch` gives Fanal. All else is as with `python`: sys.argv,
__main__, the script's folder on sys.path, exit codes and Ctrl-C. Options for Fanal come before the script.

A traceback ends at the script's line; FANAL_TRACE=full keeps Fanal's own frames.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="fanal", description="PyTorch's API, compiled and see-through.")
    parser.add_argument("--version", action="store_true", help="print Fanal's version and exit")
    commands = parser.add_subparsers(dest="command", metavar="command")
    run = commands.add_parser(
        "run",
        help="run a PyTorch script on Fanal",
        usage="fanal run [-h] [--no-report] (script.py | -m module) [arguments ...]",
        description=_RUN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--no-report", action="store_true", help="print no step report at the end")
    run.add_argument("-m", metavar="module", help="run a module, as `python -m` does")

    own, target, arguments = _split(given)
    options = parser.parse_args(own)
    if options.version:
        import fanal

        print(f"fanal {fanal.__version__}")
        return 0
    if options.command is None:
        parser.print_help()
        return 2
    if target is None:
        run.error("a script, or -m and a module, is needed")

    from fanal.cli.run import run_target

    return run_target(target, arguments, as_module=options.m is not None, report=not options.no_report)


def _split(given: list[str]) -> tuple[list[str], str | None, list[str]]:
    """Divide a command line into what is for Fanal, the script or module, and what is for that.

    By hand, as everything after the target is the script's own: argparse would take a `--` out of it.
    """
    if given[:1] != ["run"]:
        return given, None, []
    for i, word in enumerate(given[1:], start=1):
        if word.startswith("-m"):
            name = [word[2:], *given[i + 1 :]] if word[2:] else given[i + 1 :]
            own = given[:i] + ["-m", *name[:1]]
            return own, name[0] if name else None, name[1:]
        if word == "--" or not word.startswith("-") or word == "-":
            rest = given[i + (word == "--") :]
            return given[:i], rest[0] if rest else None, rest[1:]
    return given, None, []
