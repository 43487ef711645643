"""Both matchers under the same tests: the native one and the Python one."""
from __future__ import annotations

import copy
import functools
import gc
import inspect
import itertools
import os
import pickle
import pydoc
import subprocess
import sys
import threading
import types
import weakref
from pathlib import Path

import pytest

from fanal.core.base import where
from fanal.core.engine import matcher as choice
from fanal.core.engine import native
from fanal.core.engine.matcher import Parameters, PurePython
from fanal.core.engine.matcher_ir import CURSORS

needs_native = pytest.mark.skipif(not native.supported(), reason="no native matcher for this interpreter")


@functools.cache
def twin(name: str):
    return native.Native() if name == "native" else PurePython()


@pytest.fixture(params=[pytest.param("native", marks=needs_native), "python"])
def m(request):
    matcher = twin(request.param)
    matcher.set_cursor(None)
    yield matcher
    matcher.set_cursor(None)


class Thing:
    """Something with an identity, which takes weak references."""


def slow(*args, **kwargs):
    return "slow", args, kwargs


_kept: list = []  # the steps of the last `expect`: a cursor does not keep them


def expect(m, *calls):
    """Link (key, args, kwnames, out) calls and set the cursor to the first. Returns the steps."""
    steps = [m.new_step(*call) for call in calls]
    for a, b in itertools.pairwise(steps):
        m.link(a, b)
    assert m.set_cursor(steps[0])
    _kept[:] = steps
    return steps


# Following

@pytest.mark.parametrize("count", range(8))
def test_a_call_with_the_same_arguments_is_followed(m, count):
    f = m.function(3, slow, "f")
    args, out = tuple(Thing() for _ in range(count)), Thing()
    steps = expect(m, (3, args, None, out), (3, args, None, None))
    assert m.get_cursor() is steps[0]
    assert f(*args) is out
    assert m.get_cursor() is steps[1]
    assert f(*args) is None
    assert m.get_cursor() is None
    assert f(*args) == ("slow", args, {})


@pytest.mark.parametrize("count", range(6))
def test_any_difference_falls_to_the_slow_path_and_keeps_the_cursor(m, count):
    f, g = m.function(3, slow, "f"), m.function(4, slow, "g")
    args, other = tuple(Thing() for _ in range(count)), Thing()
    step, = expect(m, (3, args, None, "out"))
    assert g(*args) == ("slow", args, {})
    for i in range(count):
        changed = (*args[:i], other, *args[i + 1:])
        assert f(*changed) == ("slow", changed, {})
        assert f(*args[:i]) == ("slow", args[:i], {})
    assert f(*args, other) == ("slow", (*args, other), {})
    assert f(*args, k=other) == ("slow", args, {"k": other})
    assert m.get_cursor() is step
    assert f(*args) == "out"


def test_equal_is_not_identical(m):
    f = m.function(3, slow, "f")
    a, b = float("1.5"), float("1.5")
    expect(m, (3, (a,), None, "out"))
    assert f(b)[0] == "slow"
    assert f(a) == "out"


@pytest.mark.parametrize("positional", range(5))
def test_keywords(m, positional):
    f = m.function(3, slow, "f")
    args, p, q = tuple(Thing() for _ in range(positional)), Thing(), Thing()
    step, = expect(m, (3, (*args, p, q), ("p", "q"), "out"))
    for wrong in ({"p": q, "q": p}, {"q": q, "p": p}, {"p": p}, {"p": p, "r": q},
                  {"p": p, "q": q, "r": p}, {}):
        assert f(*args, **wrong) == ("slow", args, wrong)
    assert f(*args, p, q) == ("slow", (*args, p, q), {})
    assert m.get_cursor() is step
    assert f(*args, p=p, q=q) == "out"
    m.set_cursor(step)
    names = {"p": p, "q": q}
    assert f(*args, **names) == "out"  # the same names in another tuple


def test_keyword_names_of_the_parameters_themselves(m):
    f = m.function(3, slow, "f")
    names = {"self": 1, "a": 2, "home": 3, "slow": 4, "args": 5}
    assert f(**names) == ("slow", (), names)


def test_no_keywords_written_as_an_empty_tuple(m):
    f = m.function(3, slow, "f")
    x = Thing()
    expect(m, (3, (x,), (), "out"))
    assert f(x) == "out"


def test_a_ring_of_steps(m):
    f = m.function(3, slow, "f")
    x, y = Thing(), Thing()
    steps = expect(m, (3, (x,), None, y), (3, (y,), None, x))
    m.link(steps[1], steps[0])
    for _ in range(100):
        assert f(f(x)) is x
    m.link(steps[1], None)


def test_exceptions_of_the_slow_path_arrive(m):
    def fail(*args, **kwargs):
        raise KeyError(args)

    f = m.function(3, fail, "f")
    x = Thing()
    step, = expect(m, (3, (x,), None, "out"))
    with pytest.raises(KeyError) as caught:
        f(1, 2)
    assert caught.value.args == ((1, 2),)
    assert m.get_cursor() is step
    assert f(x) == "out"


def test_a_slow_path_may_call_others_and_move_the_cursor(m):
    x = Thing()

    def outer(*args):
        if taking:
            assert m.take_cursor() is step
            assert m.take_cursor() is None
        return inner(x)

    inner = m.function(4, slow, "inner")
    f = m.function(3, outer, "f")
    step, = expect(m, (4, (x,), None, "out"))
    taking = True
    assert f(x)[0] == "slow"
    m.set_cursor(step)
    taking = False
    assert f(x) == "out"
    assert m.get_cursor() is None


def test_recursion_is_bounded(m):
    f = m.function(3, lambda n: f(n + 1), "f")
    with pytest.raises(RecursionError):
        f(0)


# Changing steps

def test_set_arg_and_set_out(m):
    f = m.function(3, slow, "f")
    args = [Thing() for _ in range(5)]
    step, = expect(m, (3, tuple(args), ("p",), "out"))
    for i in range(5):
        args[i] = Thing()
        m.set_arg(step, i, args[i])
        assert m.get_cursor() is step
        assert f(*args[:4], p=args[4]) == "out"
        m.set_cursor(step)
    m.set_out(step, "new")
    assert step.out == "new"
    assert f(*args[:4], p=args[4]) == "new"


def test_wrong_use_raises(m):
    step = m.new_step(1, (1, 2), None, None)
    for wrong in (lambda: m.set_arg(step, 2, 0), lambda: m.set_arg(step, -1, 0)):
        with pytest.raises(IndexError):
            wrong()
    for wrong in (lambda: m.new_step("k", (), None, 0), lambda: m.new_step(1, [], None, 0),
                  lambda: m.new_step(1, (), ("a",), 0), lambda: m.new_step(1, (), [], 0),
                  lambda: m.new_step(1, ()), lambda: m.set_arg(1, 2, 3), lambda: m.set_arg(step, "0", 3),
                  lambda: m.set_arg(step), lambda: m.link(step, 3), lambda: m.link(3, step),
                  lambda: m.free(3), lambda: m.set_cursor(3), lambda: m.set_cursor(),
                  lambda: m.get_cursor(1), lambda: m.take_cursor(1)):
        with pytest.raises(TypeError):
            wrong()
    assert m.get_cursor() is None


def test_a_freed_step_never_matches(m):
    f = m.function(3, slow, "f")
    x, out = Thing(), Thing()
    ref = weakref.ref(out)
    _, b, _ = expect(m, (3, (x,), None, x), (3, (x,), None, out), (3, (x,), None, x))
    m.free(b)
    del out
    assert ref() is None
    assert f(x) is x
    assert m.get_cursor() is b and b.next is None and b.key == choice.NEVER
    assert f(x)[0] == "slow"
    m.free(b)
    assert m.get_cursor() is None
    assert f(x)[0] == "slow"


def test_linking_past_a_step_lets_it_go(m):
    f = m.function(3, slow, "f")
    x, out = Thing(), Thing()
    ref = weakref.ref(out)
    a, b, c = expect(m, (3, (x,), None, 1), (3, (x,), None, out), (3, (x,), None, 3))
    del out
    m.link(a, c)
    del b
    _kept.clear()
    assert ref() is None
    assert (f(x), f(x)) == (1, 3)


@needs_native
def test_a_native_step_that_dies_takes_the_cursor_away():
    m = twin("native")
    f = m.function(3, slow, "f")
    x = Thing()
    steps = expect(m, (3, (x,), None, 1), (3, (x,), None, 2))
    assert f(x) == 1
    assert m.get_cursor() is steps[1]
    steps.clear()
    _kept.clear()
    assert m.get_cursor() is None
    assert f(x)[0] == "slow"


def test_arguments_are_not_owned_and_results_are(m):
    x, out = Thing(), Thing()
    refs = weakref.ref(x), weakref.ref(out)
    step = m.new_step(3, (x,), None, out)
    del x, out
    if m.name == "native":  # the Python twin compares objects, so it keeps them
        assert refs[0]() is None
    assert refs[1]() is not None
    m.set_arg(step, 0, None)
    assert refs[0]() is None
    del step
    assert refs[1]() is None


# Memory

def test_reference_counts_do_not_move(m):
    def miss(*args, **kwargs):
        return out

    tensor = type("T", (), {})
    tensor.relu = m.method(tensor, 5, miss, "relu")
    f = m.function(3, miss, "f")
    x, y, out = tensor(), Thing(), Thing()
    steps = expect(m, (3, (x, y), None, out), (3, (x, y), ("k",), out), (5, (x,), None, out))
    m.link(steps[2], steps[0])

    def run(count):
        for _ in range(count):
            m.set_cursor(steps[0])
            f(x, y)
            f(x, k=y)
            x.relu()
            m.set_cursor(None)
            f(x, y)
            f(x, k=y)
            x.relu()

    counted = (x, y, out, f, *steps, None, True, slow, tensor)
    run(10)
    gc.collect()
    before, blocks = [sys.getrefcount(o) for o in counted], sys.getallocatedblocks()
    run(35_000)  # 210,000 calls
    gc.collect()
    after = [sys.getrefcount(o) for o in counted]
    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) <= 3
    assert abs(sys.getallocatedblocks() - blocks) < 200
    m.link(steps[2], None)


def test_steps_are_given_back(m):
    def make():
        for _ in range(200):
            steps = [m.new_step(i, (None, 1.0, "x"), ("k",), object()) for i in range(100)]
            for a, b in zip(steps, steps[1:] + steps[:1], strict=True):
                m.link(a, b)  # rings: only the garbage collector gets them
                m.set_arg(a, 0, b)
            m.set_cursor(steps[3])
            assert m.take_cursor() is steps[3]

    make()
    gc.collect()
    blocks = sys.getallocatedblocks()
    make()
    gc.collect()
    assert abs(sys.getallocatedblocks() - blocks) < 500


def test_a_long_chain_dies_without_deep_recursion(m):
    first = last = m.new_step(1, (), None, None)
    for _ in range(200_000):
        following = m.new_step(1, (), None, None)
        m.link(last, following)
        last = following
    ref = Thing()
    watch = weakref.ref(ref)
    m.set_out(last, ref)
    del ref, last, following, first
    assert watch() is None


def test_functions_and_their_classes_are_collected(m):
    def make():
        tensor = type("T", (), {})
        tensor.relu = m.method(tensor, 1, lambda x: tensor, "relu")
        f = m.function(1, lambda: f, "f")
        f()
        return weakref.ref(tensor)

    ref = make()
    gc.collect()
    assert ref() is None


# Threads

def in_thread(body):
    """Return what `body` returned in another thread."""
    found = []
    thread = threading.Thread(target=lambda: found.append(body()))
    thread.start()
    thread.join()
    return found[0]


def test_another_thread_is_not_followed(m):
    f = m.function(3, slow, "f")
    x = Thing()
    step, = expect(m, (3, (x,), None, "out"))
    assert in_thread(lambda: f(x)) == ("slow", (x,), {})
    assert in_thread(m.get_cursor) is None
    assert in_thread(m.take_cursor) is None
    assert in_thread(lambda: m.set_cursor(None)) is True
    assert m.get_cursor() is step
    assert f(x) == "out"


def test_threads_never_take_each_others_cursor(m):
    f = m.function(3, slow, "f")
    x, y = Thing(), Thing()
    step, = expect(m, (3, (x,), None, "mine"))
    kept = []

    def other(keep):
        theirs = m.new_step(3, (y,), None, "theirs")
        taken = m.set_cursor(theirs)
        assert m.get_cursor() is (theirs if taken else None)
        assert f(x)[0] == "slow"
        assert (f(y) == "theirs") is taken
        if keep:
            m.set_cursor(theirs)
            kept.append(theirs)
        return taken

    # One that has steps ahead of it keeps none of the others from having a cursor.
    taken = [in_thread(lambda: other(False)) for _ in range(CURSORS + 2)]
    assert set(taken) == {m.name == "native"}
    taken = [in_thread(lambda: other(True)) for _ in range(CURSORS + 2)]
    assert not all(taken)  # there are fewer cursors than that
    assert m.get_cursor() is step
    assert f(x) == "mine"
    kept.clear()
    assert in_thread(lambda: other(False))


def test_a_dead_threads_cursor_is_free_again(m):
    steps = [m.new_step(3, (), None, None) for _ in range(2)]
    assert in_thread(lambda: m.set_cursor(steps[0]))
    assert m.get_cursor() is None
    assert m.set_cursor(steps[1])
    assert m.get_cursor() is steps[1]


# Methods

@pytest.fixture
def tensor(m):
    names = ("__add__", "__radd__", "__iadd__", "__getitem__", "__setitem__", "__neg__", "__eq__", "__call__",
             "__bool__", "__len__", "relu")
    cls = type("T", (), {"__hash__": object.__hash__})
    for key, name in enumerate(names, 10):
        def miss(*args, _name=name, **kwargs):
            return True if _name == "__bool__" else 7 if _name == "__len__" else (_name, args, kwargs)

        setattr(cls, name, m.method(cls, key, miss, name, f"Doc of {name}"))
    cls.key = {name: key for key, name in enumerate(names, 10)}
    return cls


def test_operators(m, tensor):
    x, y, one = tensor(), tensor(), 1
    k = tensor.key
    cases = {
        "__add__": (lambda: x + y, (x, y)), "__radd__": (lambda: one + x, (x, one)),
        "__getitem__": (lambda: x[y], (x, y)), "__neg__": (lambda: -x, (x,)),
        "__eq__": (lambda: x == y, (x, y)),
        "__call__": (lambda: x(y, one), (x, y, one)), "relu": (lambda: x.relu(), (x,)),
    }
    for name, (call, args) in cases.items():
        assert call() == (name, args, {}), name
        out = Thing()
        expect(m, (k[name], args, None, out))
        assert call() is out, name
        assert m.get_cursor() is None
    assert bool(x) is True and len(x) == 7
    expect(m, (k["__bool__"], (x,), None, False), (k["__len__"], (x,), None, 3))
    assert bool(x) is False and len(x) == 3

    expect(m, (k["__iadd__"], (x, y), None, x))
    z = x
    z += y
    assert z is x
    expect(m, (k["__setitem__"], (x, y, one), None, None))
    x[y] = one
    assert m.get_cursor() is None


def test_bound_unbound_and_keywords(m, tensor):
    x, y = tensor(), Thing()
    k = tensor.key["relu"]
    bound, names = x.relu, {"p": y}
    assert bound.__self__ is x
    for call in (lambda: x.relu(y, p=y), lambda: bound(y, p=y), lambda: tensor.relu(x, y, p=y),
                 lambda: functools.partial(tensor.relu, x)(y, p=y), lambda: tensor.relu(*(x, y), **names)):
        assert call() == ("relu", (x, y), {"p": y})
        expect(m, (k, (x, y, y), ("p",), "out"))
        assert call() == "out"


def test_subclasses(m, tensor):
    class Sub(tensor):
        def relu(self):
            return "sub", super().relu()

    x = Sub()
    assert x + 1 == ("__add__", (x, 1), {})
    one = 1
    expect(m, (tensor.key["__add__"], (x, one), None, "sum"), (tensor.key["relu"], (x,), None, "out"))
    assert x + one == "sum"
    assert x.relu() == ("sub", "out")
    assert tensor.relu(x)[0] == "relu"


def test_another_self_is_refused(m, tensor):
    for call in (lambda: tensor.relu(3), lambda: tensor.relu(), lambda: tensor.relu(p=1),
                 lambda: tensor.relu.__get__(3)(4)):
        with pytest.raises(TypeError, match="relu"):
            call()
    x = tensor()
    step, = expect(m, (tensor.key["relu"], (x,), None, "out"))
    with pytest.raises(TypeError):
        tensor.relu(3)
    assert m.get_cursor() is step


# Being good functions

def test_functions_do_not_bind(m):
    f = m.function(3, slow, "f")

    class Module:
        act = f

    assert Module().act(1) == ("slow", (1,), {})
    assert Module.act(1) == ("slow", (1,), {})
    x = Thing()
    expect(m, (3, (x,), None, "out"))
    assert Module().act(x) == "out"


def test_name_doc_help_and_wraps(m, tensor):
    f = m.function(3, slow, "relu", "Return the positive part.")
    assert (f.__name__, f.__qualname__, f.__doc__) == ("relu", "relu", "Return the positive part.")
    assert f.__module__ == __name__
    assert "relu" in repr(f)
    assert inspect.getdoc(f) == "Return the positive part."
    assert inspect.isroutine(f) and callable(f)
    text = pydoc.plain(pydoc.render_doc(f))
    assert "relu" in text and "Return the positive part." in text

    @functools.wraps(f)
    def wrapper(*args):
        return f(*args)

    assert wrapper.__name__ == "relu" and wrapper.__wrapped__ is f
    assert tensor.relu.__name__ == "relu" and tensor.relu.__qualname__ == "T.relu"
    assert tensor.relu.__doc__ == tensor().relu.__doc__ == "Doc of relu"
    assert "relu" in repr(tensor.relu) and "relu" in repr(tensor().relu)
    assert inspect.isroutine(tensor.relu)
    assert {f: 1}[f] == 1 and weakref.ref(tensor.relu)() is tensor.relu


class Owner:
    """A class that pickle finds."""


def test_pickle_and_copy(m):
    f = m.function(3, slow, "pickled")
    Owner.relu = m.method(Owner, 4, slow, "relu")
    globals()["pickled"] = f
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(f, protocol))
        assert again is f
        assert pickle.loads(pickle.dumps(Owner.relu, protocol)) is Owner.relu
    assert copy.copy(f) == f and copy.deepcopy(f) == f
    assert copy.deepcopy({"act": f})["act"] == f
    bound = pickle.loads(pickle.dumps(Owner().relu))
    assert bound.__func__ is Owner.relu


def test_a_function_may_be_used_as_a_callback(m):
    f = m.function(3, slow, "f")
    assert list(map(f, [1, 2])) == [("slow", (1,), {}), ("slow", (2,), {})]
    assert sorted([2, 1], key=m.function(3, lambda x: x, "key")) == [1, 2]


# The choice between the twins

def test_the_python_twin_serves_when_the_native_one_cannot(monkeypatch):
    monkeypatch.setattr(choice.knobs, "native", True)
    monkeypatch.setattr(native, "supported", lambda: False)
    monkeypatch.setattr(choice, "without", None)
    assert choice._choose().name == "python"
    assert "does not know this interpreter" in str(choice.without)


@pytest.mark.parametrize("switch, name", [("0", "python"), pytest.param("1", "native", marks=needs_native)])
def test_the_switch(switch, name):
    code = "from fanal.core.engine.matcher import matcher; print(matcher.name)"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "FANAL_NATIVE": switch}, text=True,
                          cwd=Path(__file__).resolve().parents[2], capture_output=True, check=True)
    assert done.stdout.strip() == name


@needs_native
def test_a_clean_end_of_the_interpreter():
    """Functions and steps alive at exit, in cycles and under a cursor, must not hurt."""
    code = """
from fanal.core.engine.matcher import matcher as m
class T:
    def __del__(self): relu(self); T.relu(self)
relu = m.function(1, lambda *a: None, "relu")
T.relu = m.method(T, 2, lambda *a: None, "relu")
x = T(); x.me = x; T.kept = x
s = m.new_step(1, (x,), None, x); m.link(s, s); m.set_cursor(s); T.s = s
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2], text=True,
                          capture_output=True, check=True)
    assert done.returncode == 0


# Parameters of their own

def spelled(first, second=None, *, third=None):
    return "slow", first, second, third


KNOWN = Parameters(("first", "second", "third"), 0, 2)


def test_a_function_with_known_parameters_is_called_in_every_way(m):
    f = m.function(3, spelled, "f", None, None, KNOWN)
    p, q, r = Thing(), Thing(), Thing()
    for args, names in (((p,), {}), ((p, q), {}), ((p,), {"second": q}), ((p,), {"third": r}), ((p, q), {"third": r}),
                        ((), {"first": p}), ((), {"second": q, "first": p})):
        step, = expect(m, (3, (*args, *names.values()), tuple(names), "out"))
        assert f(r) == ("slow", r, None, None) and f(p, q, third=p) == ("slow", p, q, p)
        assert m.get_cursor() is step
        assert f(*args, **names) == "out"
        assert f(*args, **names) == spelled(*args, **names)


def test_a_parameter_under_another_name(m):
    f = m.function(3, lambda *args, **names: ("slow", args, names), "f", None, None, Parameters(("first",), 0, 1, ("x",)))
    p, q = Thing(), Thing()
    step, = expect(m, (3, (p,), None, "out"))
    assert f(x=p) == ("slow", (), {"x": p}) and f(q, p) == ("slow", (q, p), {}) and m.get_cursor() is step
    assert f(p) == "out"
    assert f(p, q) == ("slow", (p, q), {})
    expect(m, (3, (p,), ("x",), "out"))
    assert f(p) == ("slow", (p,), {})
    assert f(x=p) == ("out" if m.name == "native" else ("slow", (), {"x": p}))


def test_a_call_is_of_the_line_that_made_it(m):
    f = m.function(3, lambda first: where.line(where.caller(2)), "f", None, None, Parameters(("first",), 0, 1))
    expect(m, (3, (Thing(),), None, "out"))

    def user():
        return f(None)

    assert user() == (__file__, user.__code__.co_firstlineno + 1)


def test_wrong_calls_of_a_function_with_known_parameters(m):
    f = m.function(3, spelled, "f", None, None, KNOWN)
    x = Thing()
    step, = expect(m, (3, (x,), None, "out"))
    for args, names in (((), {}), ((x, x, x), {}), ((x, x, x, x, x), {}), ((x,), {"first": x}), ((x,), {"other": x})):
        with pytest.raises(TypeError):
            f(*args, **names)
    assert m.get_cursor() is step and f(x) == "out"


def test_a_method_with_known_parameters_checks_its_self(m):
    class Owner:
        f: object

    Owner.f = m.method(Owner, 4, lambda self, *rest: ("slow", *rest), "f", None, Parameters(("self", "x", "out"), 0, 2))
    o, x = Owner(), Thing()
    step, = expect(m, (4, (o, x), None, "out"))
    for wrong in ((), (x,)):
        with pytest.raises(TypeError):
            Owner.f(*wrong)
    assert o.f() == ("slow",)
    assert m.get_cursor() is step and o.f(x) == "out" and o.f(x) == ("slow", x)


@pytest.mark.parametrize("count", range(1, 7))
def test_functions_of_many_parameters(m, count):
    names = tuple(f"p{i}" for i in range(count))
    f = m.function(5, slow, "f", None, None, Parameters(names, 0, count))
    values = tuple(Thing() for _ in names)
    for given in range(count + 1):
        step, = expect(m, (5, values[:given], None, "out"))
        for other in range(count + 1):
            if other != given:
                assert f(*values[:other])[0] == "slow" and m.get_cursor() is step
        assert f(*values[:given]) == "out"


class TestQuickModules:
    """Modules whose names are quick to read: nothing but the time shows it."""

    @pytest.fixture
    def module(self, m, monkeypatch):
        made = types.ModuleType("quick", "A door.")
        made.__getattr__ = lambda name: ("made", name) if name == "late" else absent(name)
        made.here = 1
        monkeypatch.setitem(sys.modules, "quick", made)
        m.quicken("quick")
        return made

    def test_names_are_found_changed_and_deleted(self, module):
        assert module.here == 1
        module.here = 2
        assert module.here == 2 and vars(module)["here"] == 2
        del module.here
        with pytest.raises(AttributeError, match="no here"):
            _ = module.here

    def test_what_is_missing_is_asked_of_the_module(self, module):
        assert module.late == ("made", "late")
        assert not hasattr(module, "never")
        del module.__getattr__
        with pytest.raises(AttributeError, match="module 'quick' has no attribute 'late'"):
            _ = module.late

    def test_what_every_module_has(self, module):
        assert inspect.ismodule(module) and isinstance(module, types.ModuleType)
        assert module.__name__ == "quick" and module.__doc__ == "A door."
        assert module.__dict__ is vars(module) and module.__class__ is type(module)
        assert repr(module) == "<module 'quick'>"

    def test_names_are_not_counted_twice(self, module):
        thing = module.thing = Thing()
        before = sys.getrefcount(thing)
        for _ in range(100):
            assert module.thing is thing
        assert sys.getrefcount(thing) == before

    def test_a_module_may_go(self, m):
        sys.modules["gone"] = types.ModuleType("gone")
        m.quicken("gone")
        died = weakref.ref(sys.modules.pop("gone"))
        gc.collect()
        assert died() is None


def absent(name: str):
    raise AttributeError(f"no {name}")


@needs_native
def test_the_doors_are_quick():
    """Every public module with functions has the type that is looked at in its dictionary first."""
    code = ("import fanal, fanal.nn.functional as F; from fanal.core.engine.matcher import matcher as m\n"
            "print([type(x) is m.module_type for x in (fanal, F, fanal.linalg, fanal.special, fanal.fft)])")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         env=os.environ | {"FANAL_NATIVE": "1"})
    assert run.stdout.strip() == str([True] * 5)
