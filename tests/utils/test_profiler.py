"""Profiles: the states of a schedule against PyTorch's, and what of a training step is found in one."""

import gzip
import json
import warnings

import pytest
import torch

import fanal

SCHEDULES = [
    {"wait": 1, "warmup": 1, "active": 2, "repeat": 2, "skip_first": 1},
    {"wait": 0, "warmup": 1, "active": 1},
    {"wait": 2, "warmup": 0, "active": 3, "repeat": 1},
    {"wait": 3, "warmup": 1, "active": 1, "repeat": 2, "skip_first": 2, "skip_first_wait": 1},
]


@pytest.mark.parametrize("options", SCHEDULES)
def test_schedules(options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, ours = torch.profiler.schedule(**options), fanal.profiler.schedule(**options)
    assert [ours(i).name for i in range(20)] == [theirs(i).name for i in range(20)]
    for m in (torch, fanal):
        with pytest.raises(AssertionError, match=r"Invalid profiler schedule arguments. Got wait=-1 \(need >= 0\)"):
            m.profiler.schedule(wait=-1, warmup=1, active=1)
        with pytest.warns(UserWarning, match="won't be using warmup"):
            m.profiler.schedule(wait=0, warmup=0, active=1)


def train(m, steps, profile):
    layer = m.nn.Linear(64, 64)
    optimizer = m.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(steps):
        with m.profiler.record_function("forward"):
            loss = layer(m.ones(512, 64)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        profile.step()


@pytest.mark.parametrize("options", SCHEDULES)
@pytest.mark.filterwarnings("ignore:Profiler won't")
def test_traces_are_ready_when_they_are_in_pytorch(options):
    found = []
    for m in (torch, fanal):
        seen = []

        def ready(p, seen=seen):
            names = sorted(e.name for e in p.events() if e.name.startswith("ProfilerStep"))
            seen.append((p.step_num, names, [a.count for a in p.key_averages() if a.key == "forward"]))

        with m.profiler.profile(
            activities=[m.profiler.ProfilerActivity.CPU], schedule=m.profiler.schedule(**options), on_trace_ready=ready
        ) as p:
            train(m, 9, p)
        found.append((seen, p.step_num))
    assert found[0] == found[1]


def profiled():
    with fanal.profiler.profile(with_stack=True, with_flops=True) as p:
        train(fanal, 4, p)
    return p


def test_kernels_their_lines_and_work():
    p = profiled()
    kernels = [e for e in p.events() if not e.is_user_annotation and e.flops]
    product = [e for e in kernels if e.name.startswith("matmul 512x64x64")]
    assert product and all(e.flops >= 2 * 512 * 64 * 64 for e in product)
    assert any("test_profiler.py" in place for e in product for place in e.stack)
    assert [e.count for e in p.key_averages() if e.key == "forward"] == [4]
    for e in p.events():
        assert e.cpu_time_total >= 0 and e.self_cpu_time_total <= e.cpu_time_total
        assert e.cpu_parent is None or e in e.cpu_parent.cpu_children
    times = [e.time_range.start for e in p.events()]
    assert times == sorted(times)
    sums = p.key_averages()
    assert sum(e.count for e in sums) == len(p.events())
    assert sums.self_cpu_time_total == pytest.approx(p.events().self_cpu_time_total)
    assert len(p.key_averages(group_by_stack_n=3)) >= len(sums)
    table = sums.table(sort_by="self_cpu_time_total", row_limit=3)
    lines = table.splitlines()
    assert "Self CPU %" in lines[1] and "Total MFLOPs" in lines[1] and len(lines) == 3 + 3 + 2
    assert lines[-1].startswith("Self CPU time total: ")


def test_ranges_hold_what_runs_in_them():
    x = fanal.ones(300, 300)
    with fanal.profiler.profile() as p:
        with fanal.profiler.record_function("outer"):
            with fanal.profiler.record_function("inner"):
                (x @ x).sum().item()

        @fanal.autograd.profiler.record_function("called")
        def f(a):
            return (a * 2).sum().item()

        assert f(x) == 180000
    by_name = {e.name: e for e in p.events()}
    inner, outer = by_name["inner"], by_name["outer"]
    assert inner.cpu_parent is outer and inner.cpu_children
    assert inner.cpu_time_total <= outer.cpu_time_total
    assert by_name["called"].cpu_parent is None


def test_what_runs_is_what_runs_without_a_profile():
    def losses(profile):
        fanal.manual_seed(0)
        layer, found = fanal.nn.Linear(32, 32), []
        with profile:
            for _ in range(5):
                loss = layer(fanal.ones(8, 32)).square().mean()
                found.append(loss.item())
        return found

    assert losses(fanal.profiler.profile()) == losses(fanal.no_grad())
    assert fanal.core.engine.ledger.ledger.observer is None


def test_files(tmp_path):
    p = profiled()
    for name, opened in (("t.json", open), ("t.json.gz", gzip.open)):
        p.export_chrome_trace(str(tmp_path / name))
        with opened(tmp_path / name, "rt") as f:
            rows = json.load(f)["traceEvents"]
        assert {"matmul", "forward"} <= {r["name"].split()[0] for r in rows}
        assert all(r["ph"] == "X" and r["dur"] >= 0 for r in rows)
    fanal.profiler.tensorboard_trace_handler(str(tmp_path / "logs"), "me")(p)
    assert [f.name.startswith("me.") and f.name.endswith(".pt.trace.json") for f in (tmp_path / "logs").iterdir()] == [True]
    p.export_stacks(str(tmp_path / "stacks"))
    assert "test_profiler.py" in (tmp_path / "stacks").read_text()
    with pytest.raises(ValueError, match="metric should be one of"):
        p.export_stacks(str(tmp_path / "stacks"), "time")


def test_the_older_form():
    with fanal.autograd.profiler.profile(with_flops=True) as p:
        fanal.ones(300, 300).mm(fanal.ones(300, 300)).sum().item()
    assert p.total_average().count == len(p.function_events) > 0
    assert p.self_cpu_time_total > 0 and "matmul" in str(p) and "matmul" in p.key_averages().table()
    with pytest.raises(RuntimeError, match="not reentrant"), p:
        pass
    with fanal.autograd.profiler.profile(enabled=False) as off:
        fanal.ones(3).sum().item()
    with pytest.raises(RuntimeError, match="Profiler didn't finish running"):
        off.key_averages()
