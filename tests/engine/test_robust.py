"""Bad caches, other processors, forks and Ctrl-C: training goes on, with the right numbers."""
from __future__ import annotations

import os
import platform
import signal
import sys
from typing import Any

import numpy as np
import pytest
from training import MODELS, child, digest, fresh, train, watch

import fanal
from fanal.core.backends.contract import Launch
from fanal.core.backends.cpu import jit, target
from fanal.core.backends.cpu.backend import CpuBackend
from fanal.core.compiler.pipeline import lower
from fanal.core.engine import cache

X86 = platform.machine() in ("x86_64", "AMD64")


# The disk cache.

def _unusable(kind: str, tmp_path: Any) -> str:
    if kind == "a file":
        (tmp_path / "cache").write_text("not a directory")
        return str(tmp_path / "cache")
    if kind == "read-only":
        (tmp_path / "cache").mkdir(mode=0o500)
        return str(tmp_path / "cache")
    return "/proc/fanal"  # where not even root makes a directory


@pytest.mark.parametrize("kind", ["a file", "read-only", "nowhere"])
def test_unusable_cache_directory(kind: str, tmp_path: Any) -> None:
    if kind == "read-only" and os.geteuid() == 0:
        pytest.skip("root writes anywhere")
    if kind == "nowhere" and not os.path.isdir("/proc"):
        pytest.skip("no /proc")
    found = child("mlp", FANAL_CACHE_DIR=_unusable(kind, tmp_path))
    assert found["digests"]["mlp"] == fresh("mlp")
    assert found["compiled"]
    assert "not kept on disk" in found["stderr"]
    assert "Traceback" not in found["stderr"]


def test_damaged_cache(tmp_path: Any) -> None:
    directory = {"FANAL_CACHE_DIR": str(tmp_path)}
    first = child("mlp", **directory)
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert files
    for k, f in enumerate(sorted(files)):
        data = f.read_bytes()
        f.write_bytes(data[:len(data) // 2] if k % 2 else bytes(len(data)))
    second = child("mlp", **directory)
    assert second["digests"] == first["digests"]
    assert second["stderr"] == ""


# Processors.

@pytest.mark.skipif(not X86, reason="x86 targets")
@pytest.mark.parametrize("name", ["sse2", "avx2"])
def test_forced_target(name: str, tmp_path: Any) -> None:
    best = target.host()
    if name == "avx2" and best.name == "sse2":
        pytest.skip("this machine has no AVX2")
    file = tmp_path / "parameters.npz"
    found = child("--save", str(file), "mlp", "gpt", FANAL_CPU=name, FANAL_CACHE_DIR=str(tmp_path / "cache"))
    assert found["target"] == name
    got = np.load(file)
    for model in ("mlp", "gpt"):
        step = MODELS[model](fanal)
        train(step)
        for key, p in step.model.named_parameters():
            if key.endswith("qkv.bias"):  # softmax ignores the keys' bias: its gradient is all rounding, which Adam enlarges
                continue
            np.testing.assert_allclose(got[f"{model}.{key}"], p.detach().numpy(), 1e-4, 2e-5, err_msg=f"{model}.{key}")


def test_unknown_target_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target.knobs, "cpu", "mmx")
    with pytest.raises(ValueError, match="FANAL_CPU=mmx: this machine runs"):
        target.host.__wrapped__()


def test_kernels_assemble_for_neon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel of training steps becomes AArch64 object code."""
    llvm = pytest.importorskip("llvmlite.binding")
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    programs = []
    compiled = cache.Compiled

    def collect(program: Any, *more: Any, **named: Any) -> Any:
        programs.append(program)
        return compiled(program, *more, **named)
    monkeypatch.setattr(cache, "Compiled", collect)
    monkeypatch.setattr(cache, "_plans", type(cache._plans)())
    for name in ("mlp", "gpt"):
        fresh(name)
    assert programs
    neon = target.named("neon")
    kernels = {}
    for program in programs:
        for step in lower(program, CpuBackend(neon)).steps:
            if isinstance(step, Launch):
                kernels[step.kernel.name] = step.kernel
    assert len(kernels) > 10
    for name, code in jit._emit_all(list(kernels.values()), neon).items():
        assert code[:4] == b"\x7fELF" and int.from_bytes(code[18:20], "little") == 183, name
        assert name.encode() in code


# Forks.

@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("name", ["mlp", "gpt"])
@pytest.mark.parametrize("threads", [1, 2])
def test_fork_in_a_training_loop(name: str, threads: int) -> None:
    """Parent and child go on from the same point to the same bits."""
    want = fresh(name)
    before = fanal.get_num_threads()
    fanal.set_num_threads(threads)
    try:
        step = MODELS[name](fanal)
        for _ in range(3):
            step()
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            code = 1
            try:
                os.write(writing, train(step, 2).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        mine = train(step, 2)
        with os.fdopen(reading, "rb") as stream:
            theirs = stream.read().decode()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert mine == theirs == want
    finally:
        fanal.set_num_threads(before)


# Ctrl-C.

@pytest.mark.parametrize("name", ["mlp", "gpt"])
def test_interrupt_in_the_forward_pass(name: str) -> None:
    """A step that never reached its backward pass changes nothing; the loop goes on to the same bits."""
    want = fresh(name)
    step = MODELS[name](fanal)
    last = list(step.model.modules())[-1]
    armed: list[int] = []

    def interrupt(y: Any) -> None:
        if armed:
            armed.clear()
            signal.raise_signal(signal.SIGINT)
    watch(last, interrupt)
    sample = fanal.zeros(2, 16) if name == "mlp" else fanal.zeros(2, 8, dtype=fanal.int64)
    for k in range(5):
        if k in (0, 2, 4):
            armed.append(1)
            with pytest.raises(KeyboardInterrupt):
                step.model(sample)
        step()
    assert digest(step.model) == want


class Interrupt:
    """Raises KeyboardInterrupt at the n-th call of a Python function, as a signal handler would."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, frame: Any, event: str, arg: Any) -> None:
        if event == "call":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def interrupted(step: Any, after: int) -> None:
    """Take a step and interrupt it after so many calls."""
    sys.setprofile(Interrupt(after))
    try:
        step()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("warm", [0, 4])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Ctrl-C in a destructor
def test_interrupt_anywhere(warm: int) -> None:
    """Wherever a step is interrupted, training continues, and what is trained afterwards has the right bits."""
    want = fresh("mlp")
    for after in (1, 3, 7, 15, 31, 40, 90, 150, 220):
        step = MODELS["mlp"](fanal)
        for _ in range(warm):
            step()
        interrupted(step, after)
        losses = [step().item() for _ in range(3)]
        assert np.isfinite(losses).all(), after
        assert fresh("mlp") == want, after


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_step_is_taken_whole_or_not_at_all() -> None:
    """Wherever the engine is interrupted, the parameters are those of one step more or of none."""
    def loop() -> tuple[Any, Any]:
        fanal.manual_seed(0)
        model = fanal.nn.Linear(6, 3)
        opt = fanal.optim.SGD(model.parameters(), lr=0.002)
        x = fanal.linspace(-1, 1, 24).reshape(4, 6)

        def step() -> None:
            opt.zero_grad()
            model(x).square().mean().backward()
            opt.step()
            model.bias.sum().item()
        return model, step

    model, step = loop()
    states = [digest(model)]
    for _ in range(400):
        step()
        states.append(digest(model))
    assert len(set(states)) == len(states)
    for stride in (1, 5):  # after so many steps: learnt, followed, armed
        model, step = loop()
        taken = 0
        for after in range(1, 260, 3):
            for _ in range(stride):
                step()
            interrupted(step, after)
            now = states.index(digest(model))
            assert now - taken - stride in (0, 1), (stride, after)
            taken = now
            if after % 30 == 1:  # another way to go on
                model, step = loop()
                taken = 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupt_by_signal() -> None:
    """A signal at real times, while kernels may be running."""
    want = fresh("mlp")
    step = MODELS["mlp"](fanal)
    train(step)  # half of an optimizer's state would stay without the other, as in PyTorch

    working = False

    def handler(*_: Any) -> None:
        if working:  # a quick machine is done before
            raise KeyboardInterrupt
    old = signal.signal(signal.SIGALRM, handler)
    try:
        for k in range(25):
            signal.setitimer(signal.ITIMER_REAL, 0.0005 + 0.0007 * k)
            try:
                working = True
                for _ in range(200):
                    step()
                working = False
            except KeyboardInterrupt:
                working = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert np.isfinite([step().item() for _ in range(3)]).all()
    assert fresh("mlp") == want
