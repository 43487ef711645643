"""Ctrl-C, and whatever a signal handler raises: between two bytecodes anywhere, so in the middle of the engine, too.

What must not stay half done is a function that may be run again from its start. An interrupt makes it start again,
and is raised when it has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def finish(f: Callable[..., Any], *args: Any) -> Any:
    """Return `f(again, *args)`, where `again` says that an interrupt has ended it before; then raise the interrupt.

    Errors are errors, and end it for good. `f` runs none of the user's code: what that raises would be raised again.
    """
    late: BaseException | None = None
    while True:
        try:
            result = f(late is not None, *args)
            break
        except Exception as e:
            if late is not None:
                raise late from e
            raise
        except BaseException as e:
            late = e
    if late is not None:
        raise late
    return result
