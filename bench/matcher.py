"""What following one event costs: both matchers, functions and operators, against an empty Python call.

    python bench/matcher.py

Nanoseconds per event, minimum of many runs of a 20-event step; thread CPU time, so that other load counts
little.
"""
from __future__ import annotations

import itertools
import sys
import time
import timeit
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fanal.core.engine.matcher import Matcher, PurePython
from fanal.core.engine.native import Native

REPEATS, STEPS, EVENTS = 60, 300, 20


def slow(*args: object, **kwargs: object) -> object:
    raise AssertionError("an event was not followed")


def per_event(call: str, restart: str, names: dict) -> float:
    """Return nanoseconds per event of `call`, written out 20 times after `restart`."""
    names = {f"_{name}": value for name, value in names.items()}  # timed as local names, as in a function
    setup = ", ".join(name[1:] for name in names) + " = " + ", ".join(names)

    def fastest(code: str) -> float:
        timer = timeit.Timer(code, setup, time.thread_time_ns, names)
        return min(timer.repeat(REPEATS, STEPS)) / STEPS

    return (fastest(f"{restart}\n" + f"{call}\n" * EVENTS) - fastest(restart)) / EVENTS


def chain(matcher: Matcher, calls: list[tuple]) -> list:
    """Link steps for calls of (key, args, kwnames, out). Returns them."""
    steps = [matcher.new_step(*call) for call in calls]
    for a, b in itertools.pairwise(steps):
        matcher.link(a, b)
    return steps


def measure(matcher: Matcher) -> dict[str, float]:
    """Return costs by what was called."""
    tensor = type("Tensor", (), {})
    for key, name in enumerate(("__add__", "__mul__", "relu"), 10):
        setattr(tensor, name, matcher.method(tensor, key, slow, name))
    relu, add = matcher.function(1, slow, "relu"), matcher.function(2, slow, "add")
    scale = matcher.function(3, slow, "scale")
    x, y = tensor(), tensor()
    found = {}

    def run(what: str, call: tuple) -> None:
        steps = chain(matcher, [call] * EVENTS)
        names = {"x": x, "y": y, "relu": relu, "add": add, "scale": scale, "set_cursor": matcher.set_cursor,
                 "first": steps[0]}
        found[what] = per_event(what, "set_cursor(first)", names)

    run("relu(x)", (1, (x,), None, y))
    run("add(x, y)", (2, (x, y), None, x))
    run("scale(x, by=2)", (3, (x, 2), ("by",), x))
    run("x.relu()", (12, (x,), None, x))
    run("x + y", (10, (x, y), None, x))

    start = time.perf_counter()
    for i in range(700):
        matcher.function(i, slow, "name", "doc") if i % 2 else matcher.method(tensor, i, slow, "name", "doc")
    found["making 700 of them, us each"] = (time.perf_counter() - start) / 700 * 1e6
    args = (x, y)
    start = time.perf_counter()
    kept = [matcher.new_step(1, args, None, x) for _ in range(10_000)]
    found["new_step"] = (time.perf_counter() - start) / len(kept) * 1e9
    start = time.perf_counter()
    for step in kept:
        matcher.set_arg(step, 0, y)
    found["set_arg"] = (time.perf_counter() - start) / len(kept) * 1e9
    return found


def main() -> None:
    start = time.perf_counter()
    native = Native()
    loading = time.perf_counter() - start
    rows = {m.name: measure(m) for m in (native, PurePython())}
    for what in rows["native"]:
        print(f"{what:30} native {rows['native'][what]:7.1f}    python {rows['python'][what]:7.1f}")

    def empty(x: object, y: object) -> None:
        pass

    names = {"empty": empty, "len": len, "x": ()}
    print(f"{'empty Python function':30} {per_event('empty(x, x)', 'pass', names):14.1f}")
    print(f"{'len(())':30} {per_event('len(x)', 'pass', names):14.1f}")
    print(f"{'loading the native one, ms':30} {loading * 1e3:14.1f}")


if __name__ == "__main__":
    main()
