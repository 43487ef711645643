"""Timers: what they count and print, against PyTorch's, on a clock that the test turns."""

import re

import pytest
import torch
import torch.utils.benchmark

import fanal


def measured(m, **options):
    """A measurement of statements that take 1, 2, 3, ... seconds on a clock of their own."""
    state = {"now": 0.0, "step": 0.0}

    def tick():
        state["step"] += 0.001
        state["now"] += state["step"]

    spec = {"stmt": "tick()", "globals": {"tick": tick}, "timer": lambda: state["now"], **options}
    return m.utils.benchmark.Timer(**spec)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label": "add", "sub_label": "small", "description": "here"},
        {"stmt": "tick()\ntick()", "setup": "a = 1\nb = 2", "num_threads": 2},
        {"setup": "a = 1"},
    ],
)
def test_a_measurement_is_shown_as_pytorchs(options):
    found = []
    for m in (torch, fanal):
        one = measured(m, **options).timeit(5)
        several = m.utils.benchmark.Measurement(2, [2.0, 4.0, 2.2, 2.4], one.task_spec)
        for x in (one, several):
            found.append(re.sub("0x[0-9a-f]+", "", repr(x)).replace(f"{one.median:.2f}", "T"))
            found.append((x.title, x.as_row_name, x.number_per_run, x.has_warnings))
        found.append((several.times, several.mean, several.median, several.iqr))
        merged = m.utils.benchmark.Measurement.merge([several, several])
        found.append((len(merged), merged[0].times))
    half = len(found) // 2
    strip = lambda x: re.sub(r"[\d.]+ (ns|us|ms|s)$", "t", x, flags=re.M) if isinstance(x, str) else x
    assert [strip(x) for x in found[:half]] == [strip(x) for x in found[half:]]


def test_every_run_is_computed():
    x = fanal.ones(300, 300)
    before = fanal.core.engine.ledger.ledger.snapshot()["flushes"]
    m = fanal.utils.benchmark.Timer("x @ y", "y = x + 1", globals={"x": x}).timeit(20)
    assert fanal.core.engine.ledger.ledger.snapshot()["flushes"] - before >= 20
    assert m.median > 0 and m.number_per_run == 20 and len(m.times) == 1
    assert "torch.ones(2)" in repr(fanal.utils.benchmark.Timer("torch.ones(2)").timeit(2))


def test_ranges():
    seen = []
    m = fanal.utils.benchmark.Timer("sum(range(100))").blocked_autorange(lambda n, s: seen.append((n, s)), 0.02)
    assert [s for _, s in seen] == m.raw_times and sum(m.raw_times) >= 0.02
    assert {n for n, _ in seen} == {m.number_per_run} and m.number_per_run >= 10
    m = fanal.utils.benchmark.Timer("sum(range(100))").adaptive_autorange(1.0, max_run_time=1.0)
    assert len(m.times) > 3


def test_errors():
    for m in (torch, fanal):
        for options, text in (({"stmt": 1}, "Currently only a `str` stmt"), ({"language": "fortran"}, "Invalid language")):
            with pytest.raises(ValueError, match=text):
                m.utils.benchmark.Timer(**options)
    before = fanal.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        fanal.utils.benchmark.Timer("1 / 0", num_threads=3).timeit(1)
    assert fanal.get_num_threads() == before
