"""`fanal run`: everything but `import torch` is as with `python`, seen from outside the process."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import fanal

PYTHON = (sys.executable,)
COMMAND = (sys.executable, "-m", "fanal")
FANAL = (sys.executable, "-m", "fanal", "run", "--no-report")
HOME = str(Path(fanal.__file__).resolve().parent.parent)


def environment(**more):
    path = os.pathsep.join([HOME, *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {key: value for key, value in os.environ.items() if key != "FANAL_TRACE"}
    return {**kept, "PYTHONPATH": path, **more}


def execute(start, *arguments, cwd, **env):
    command = [*start, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=120, check=False
    )


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def report(done):
    return done.returncode, done.stdout, done.stderr


# As with python ---------------------------------------------------------------------------------------

SCRIPTS = {
    "argv": "import sys; print(sys.argv)",
    "main": """
        import os, sys
        print(__name__, __file__, __package__, __spec__, __cached__, __doc__, type(__loader__).__name__)
        print(sys.modules["__main__"].__dict__ is globals(), __annotations__, type(__builtins__).__name__)
        print(sorted(globals()))
    """,
    "doc": '"""What it says."""\nprint(__doc__)',
    "path": "import sys; print(sys.path[0]); import beside; print(beside.__file__)",
    "guard": "if __name__ == '__main__': print('yes')",
    "pickle": """
        import pickle
        class Point:
            def __init__(self, x): self.x = x
        copy = pickle.loads(pickle.dumps(Point(3)))
        print(type(copy) is Point, copy.x, Point.__module__)
    """,
    "dataclass": """
        from __future__ import annotations
        from dataclasses import dataclass, field
        @dataclass
        class P:
            x: int
            y: list = field(default_factory=list)
        print(P(1), __annotations__)
    """,
    "source": "import inspect\ndef f():\n    return 41 + 1\nprint(inspect.getsource(f))",
    "stdin": "import sys; print(sys.stdin.read())",
    "atexit": "import atexit; atexit.register(print, 'bye'); print('hi')",
    "exit_0": "import sys; sys.exit()",
    "exit_3": "import sys; sys.exit(3)",
    "exit_text": "import sys; sys.exit('no such file')",
    "exit_true": "raise SystemExit(True)",
    "os_exit": "import os; os._exit(7)",
    "raise": "def f(x):\n    return 1 / x\n\nf(0)",
    "chain": """
        def f():
            try:
                {}['a']
            except KeyError as error:
                raise ValueError('no a') from error
        f()
    """,
    "context": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    undefined",
    "group": "raise ExceptionGroup('two', [ValueError(1), TypeError(2)])",
    "note": "e = ValueError('x')\ne.add_note('try y')\nraise e",
    "library": "import json\njson.loads('{')",
    "import_error": "import no_such_module_at_all",
    "relative": "from .beside import x",
    "syntax": "print('never')\nx = = 1\n",
    "indentation": "if True:\nprint(1)\n",
    "null_byte": "x = 1",
    "hook": """
        import sys
        sys.excepthook = lambda kind, error, tb: print('hook', kind.__name__, tb.tb_lineno)
        1 / 0
    """,
    "thread": "import threading\nt = threading.Thread(target=lambda: 1 / 0, name='T')\nt.start(); t.join()",
    "interrupt": "raise KeyboardInterrupt",
    "broken_import": "import broken",
    "encoding": "# -*- coding: latin-1 -*-\nprint('x')",
    "future": "import __future__, sys; print(eval('1'), sys.flags.optimize)",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_as_with_python(name, tmp_path):
    write(tmp_path, {"script.py": SCRIPTS[name], "beside.py": "x = 1", "broken.py": "\n\n1 / 0\n"})
    arguments = ("script.py", "--epochs", "3", "-h", "--no-report", "--")
    theirs = execute(PYTHON, *arguments, cwd=tmp_path)
    ours = execute(FANAL, *arguments, cwd=tmp_path)
    assert report(ours) == report(theirs)


def test_a_script_in_another_folder(tmp_path):
    write(tmp_path, {"a/run.py": "import sys, beside; print(sys.argv, sys.path[0], __file__)"})
    write(tmp_path, {"a/beside.py": ""})
    (tmp_path / "link.py").symlink_to(tmp_path / "a" / "run.py")
    for script in ("a/run.py", tmp_path / "a" / "run.py", "link.py", "./a/../a/run.py"):
        assert report(execute(FANAL, script, cwd=tmp_path)) == report(execute(PYTHON, script, cwd=tmp_path))


def test_a_folder_with_main(tmp_path):
    write(tmp_path, {"app/__main__.py": "import sys, part; print(sys.argv, part.x)", "app/part.py": "x = 2"})
    ours, theirs = (execute(start, "app", "1", cwd=tmp_path) for start in (FANAL, PYTHON))
    assert ours.returncode == 0
    assert report(ours) == report(theirs)


PACKAGE = {
    "package/__init__.py": "print('package', __name__)",
    "package/__main__.py": "from . import part; print(__name__, __package__, __spec__.name, part.x)",
    "package/part.py": "x = 5",
    "package/sub/__init__.py": "",
    "package/sub/tool.py": """
        import sys
        from ..part import x
        print(__name__, __package__, __spec__.name, __file__, sys.argv, sys.path[0], x)
        if sys.argv[1:] == ["fail"]: x / 0
    """,
    "package/lost.py": "import no_such_module_at_all",
    "single.py": "import sys; print(sys.argv, __name__, __spec__.name)",
}


@pytest.mark.parametrize(
    "arguments",
    [("package",), ("package.sub.tool", "-m", "x"), ("package.sub.tool", "fail"), ("single", "--", "a")],
)
def test_a_module_runs_as_with_python(arguments, tmp_path):
    write(tmp_path, PACKAGE)
    theirs = execute(PYTHON, "-m", *arguments, cwd=tmp_path)
    ours = execute(FANAL, "-m", *arguments, cwd=tmp_path)
    assert ours.returncode == theirs.returncode
    assert ours.stdout == theirs.stdout
    # `python -m` shows two frames of runpy first.
    shown = [line for line in theirs.stderr.splitlines() if "<frozen runpy>" not in line]
    assert ours.stderr.splitlines() == shown


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("nothing_here", "fanal: No module named nothing_here"),
        ("package.nothing", "fanal: No module named package.nothing"),
        ("package.sub", "fanal: No module named package.sub.__main__"),
        ("single.part", "fanal: No module named single.part"),
        ("package.lost", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
    ],
)
def test_a_module_that_is_not_there(module, message, tmp_path):
    write(tmp_path, PACKAGE)
    done = execute(FANAL, "-m", module, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "runpy" not in done.stderr and "importlib" not in done.stderr


def test_a_script_that_is_not_there(tmp_path):
    done = execute(FANAL, "nothing.py", cwd=tmp_path)
    assert done.returncode == 2
    file = tmp_path / "nothing.py"
    assert done.stderr == f"fanal: can't open file '{file}': [Errno 2] No such file or directory\n"


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_ends_by_sigint_with_one_traceback(tmp_path):
    script = """
        import atexit, sys, time
        atexit.register(print, "cleaned up", flush=True)
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("finally", flush=True)
    """
    write(tmp_path, {"wait.py": script})
    seen = []
    for start in (PYTHON, FANAL[:-1]):
        process = subprocess.Popen(
            [*start, "wait.py"],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)  # until it sleeps: the traceback names the line that was interrupted
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        seen.append((process.returncode, out, err))
    assert seen[0] == seen[1]
    assert seen[1][0] == -signal.SIGINT  # a shell calls this 130


# import torch -----------------------------------------------------------------------------------------


def test_every_way_to_import_gives_fanal_s_own_modules(tmp_path):
    script = """
        import importlib, importlib.util, sys
        import torch, torch.nn, torch.utils.data
        import torch.nn as nn
        import torch.nn.functional as F
        from torch import nn as nn2, optim
        from torch.nn import functional as F2
        from torch.optim.lr_scheduler import *
        from torch.utils.data import DataLoader
        from torch.utils.data.sampler import RandomSampler
        import torch.backends.cudnn as cudnn
        import fanal, fanal.backends.mps, fanal.nn, fanal.nn.functional, fanal.optim, fanal.utils.data
        assert torch is fanal is sys.modules["torch"]
        assert nn is nn2 is torch.nn is fanal.nn is sys.modules["torch.nn"]
        assert F is F2 is torch.nn.functional is fanal.nn.functional
        assert optim is fanal.optim
        assert cudnn is fanal.backends.cudnn and importlib.util.find_spec("torch.backends.cudnn")
        assert nn.modules.conv.Conv2d is nn.Conv2d
        assert DataLoader is fanal.utils.data.DataLoader is torch.utils.data.dataloader.DataLoader
        assert RandomSampler is fanal.utils.data.RandomSampler
        assert importlib.import_module("torch.optim") is fanal.optim
        assert torch.__name__ == "torch" and torch.__spec__.name == "fanal"  # what libraries patch begins with its name
        for module in (torch.nn, torch.nn.functional, torch.utils.data):
            assert module.__spec__.name == module.__name__, module.__spec__
            assert module.__name__.startswith("fanal")
        assert importlib.util.find_spec("torch.nn.no_such_part") is None
        assert importlib.util.find_spec("torchvision") is None or hasattr(fanal, "vision")
        print("ok")
    """
    write(tmp_path, {"script.py": script})
    done = execute(FANAL, "script.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


@pytest.mark.parametrize(
    "name", ["torch.no_such_part", "torch.nn.no_such_part", "torch.core", "torch.cli.run"]
)
def test_a_submodule_that_fanal_lacks_is_named(name, tmp_path):
    write(tmp_path, {"script.py": f"\nimport {name}\n"})
    done = execute(FANAL, "script.py", cwd=tmp_path)
    assert done.returncode == 1
    trace, message = done.stderr.rstrip().rsplit("\n", 1)
    missing = "torch.cli" if name == "torch.cli.run" else name
    assert message.startswith(f"ModuleNotFoundError: No module named '{missing}': Fanal has no fanal.")
    assert "guard the import" in message
    assert trace.splitlines()[1:2] == [f'  File "{tmp_path / "script.py"}", line 2, in <module>']
    assert "importlib" not in trace and "finder.py" not in trace


def test_a_part_of_pytorch_that_will_not_come_says_why(tmp_path):
    for line, kind in (
        ("import torch.fx", "ModuleNotFoundError: No module named 'torch.fx': Fanal has no fanal.fx (not planned: "),
        ("from torch import fx", "ImportError: cannot import name 'fx' from 'torch': "),
    ):
        write(tmp_path, {"script.py": line})
        message = execute(FANAL, "script.py", cwd=tmp_path).stderr.rstrip().rsplit("\n", 1)[1]
        assert message.startswith(kind)
        assert "there is no graph to script, trace, export or rewrite" in message


def test_a_part_of_pytorch_that_fanal_lacks_can_be_imported_and_says_so_when_used(tmp_path):
    script = """
        import importlib.util
        import torch.onnx
        print(torch.onnx.__name__, hasattr(torch.onnx, "export"), importlib.util.find_spec("torch.nested"))
        try:
            from torch.nested import nested_tensor
        except ImportError as error:
            print("ImportError")
        torch.onnx.export(None, None, "model.onnx")
    """
    write(tmp_path, {"script.py": script})
    done = execute(FANAL, "script.py", cwd=tmp_path)
    assert done.stdout == "torch.onnx False None\nImportError\n"
    assert "AttributeError: module 'torch.onnx' has no attribute 'export' in Fanal yet: it is planned" in done.stderr


def test_a_missing_submodule_can_be_guarded_against(tmp_path):
    script = """
        try:
            import torch.no_such_part
        except ImportError as error:
            print(type(error).__name__, error.name)
    """
    write(tmp_path, {"script.py": script})
    done = execute(FANAL, "script.py", cwd=tmp_path)
    assert done.stdout == "ModuleNotFoundError torch.no_such_part\n"


def test_importing_fanal_alone_installs_nothing():
    code = "import sys, fanal; print([f for f in sys.meta_path if 'fanal' in type(f).__module__])"
    done = execute(PYTHON, "-c", code, cwd=".")
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_that_a_script_starts_see_fanal_too(method, tmp_path):
    script = """
        import multiprocessing, sys
        import torch

        class Box:
            pass

        def name(box):
            return torch.__spec__.name, type(box).__name__

        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            with context.Pool(1) as pool:
                print(pool.map(name, [Box()]))
    """
    write(tmp_path, {"script.py": script})
    done = execute(FANAL, "script.py", method, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "[('fanal', 'Box')]\n"), done.stderr


def test_torch_imported_before_is_told(tmp_path):
    write(tmp_path, {"torch/__init__.py": "", "sitecustomize.py": "import torch"})
    write(tmp_path, {"script.py": "print('never')"})
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])}
    done = execute(FANAL, "script.py", cwd=tmp_path, **env)
    assert done.returncode == 1 and done.stdout == ""
    assert "fanal: torch is already imported, from" in done.stderr


# Tracebacks -------------------------------------------------------------------------------------------

THROUGH_FANAL = """\
from torch.utils.data import DataLoader, Dataset

class Broken(Dataset):
    def __len__(self):
        return 3
    def __getitem__(self, index):
        return int("no number")

def train():
    for batch in DataLoader(Broken()):
        pass

def split():
    DataLoader([1], batch_size=0)

import sys
train() if sys.argv[1] == "inner" else split()
"""


def frames(done):
    return [line.strip() for line in done.stderr.splitlines() if line.startswith("  File ")]


def test_a_traceback_ends_at_the_user_s_line(tmp_path):
    write(tmp_path, {"script.py": THROUGH_FANAL})
    done = execute(FANAL, "script.py", "outer", cwd=tmp_path)
    file = f'File "{tmp_path / "script.py"}"'
    assert done.returncode == 1
    assert frames(done) == [f"{file}, line 17, in <module>", f"{file}, line 14, in split"]
    assert done.stderr.splitlines()[-1].startswith("ValueError: batch_size should be a positive integer")


def test_a_traceback_passes_over_fanal_to_the_user_s_dataset(tmp_path):
    write(tmp_path, {"script.py": THROUGH_FANAL})
    done = execute(FANAL, "script.py", "inner", cwd=tmp_path)
    names = [frame.rpartition(" ")[2] for frame in frames(done)]
    assert names == ["<module>", "train", "__getitem__"]


def test_fanal_trace_full_keeps_every_frame(tmp_path):
    write(tmp_path, {"script.py": THROUGH_FANAL})
    done = execute(FANAL, "script.py", "outer", cwd=tmp_path, FANAL_TRACE="full")
    assert any("sampler.py" in frame for frame in frames(done))


# The report -------------------------------------------------------------------------------------------

FAKE_LENS = """
    import sys, types
    from importlib.machinery import ModuleSpec
    lens = sys.modules["fanal.lens"] = types.ModuleType("fanal.lens")
    lens.__spec__ = ModuleSpec("fanal.lens", None)
    lens.print_report = lambda file: print("the report", file=file)
"""


@pytest.mark.parametrize(
    ("options", "script", "reported"),
    [
        ((), "print(1)", True),
        ((), "raise SystemExit", True),
        ((), "raise SystemExit(0)", True),
        ((), "raise SystemExit(1)", False),
        ((), "1 / 0", False),
        ((), "raise KeyboardInterrupt", False),
        (("--no-report",), "print(1)", False),
    ],
)
def test_a_run_that_ends_well_prints_the_report(options, script, reported, tmp_path):
    write(tmp_path, {"sitecustomize.py": FAKE_LENS, "script.py": script})
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])}
    done = execute(COMMAND, "run", *options, "script.py", cwd=tmp_path, **env)
    assert done.stderr.endswith("the report\n") == reported
    assert "the report" not in done.stdout


# The command ------------------------------------------------------------------------------------------

def test_version_and_help(tmp_path):
    assert execute(COMMAND, "--version", cwd=tmp_path).stdout == f"fanal {fanal.__version__}\n"
    for arguments in (("--help",), ("run", "--help")):
        done = execute(COMMAND, *arguments, cwd=tmp_path)
        assert done.returncode == 0 and "fanal" in done.stdout
    assert "--no-report" in execute(COMMAND, "run", "-h", cwd=tmp_path).stdout


@pytest.mark.parametrize("arguments", [(), ("run",), ("run", "-m"), ("run", "--no-report"), ("fly",)])
def test_a_command_line_without_a_target(arguments, tmp_path):
    done = execute(COMMAND, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "usage: fanal" in done.stderr + done.stdout
