"""torch.hub on folders, on repositories fetched before, and on files; nothing here needs a network."""

import hashlib
import subprocess
import sys
import zipfile

import pytest
import torch

import fanal

CONF = '''
"""Two entries."""
from {lib} import nn
from helper import WIDTH

dependencies = ["{lib}"]

def small(depth=1, *, bias=True):
    """A small one."""
    return nn.Sequential(*[nn.Linear(WIDTH, WIDTH, bias=bias) for _ in range(depth)])

def _private():
    pass
'''


def repository(folder, lib):
    folder.mkdir(parents=True)
    (folder / "hubconf.py").write_text(CONF.format(lib=lib))
    (folder / "helper.py").write_text("WIDTH = 3\n")
    return folder


@pytest.mark.parametrize("lib", [torch, fanal])
def test_a_folder(lib, tmp_path):
    path = list(sys.path)
    folder = repository(tmp_path / "repo", lib.__name__)
    model = lib.hub.load(str(folder), "small", 2, bias=False, source="local")
    assert [type(m) for m in model] == [lib.nn.Linear] * 2 and model[0].bias is None
    assert sys.path == path
    (folder / "hubconf.py").write_text("dependencies = ['os', 'no_such_package']\nentry = 1")
    for arguments, error, text in (
        (("entry",), RuntimeError, "Missing dependencies: no_such_package"),
        ((1,), ValueError, "Invalid input: model should be a string of function name"),
    ):
        with pytest.raises(error, match=text):
            lib.hub.load(str(folder), *arguments, source="local")
    (folder / "hubconf.py").write_text("entry = 1")
    with pytest.raises(RuntimeError, match="Cannot find callable entry in hubconf"):
        lib.hub.load(str(folder), "entry", source="local")
    with pytest.raises(ValueError, match='Unknown source: "web"'):
        lib.hub.load(str(folder), "entry", source="web")


@pytest.mark.parametrize("lib", [torch, fanal])
def test_a_repository_that_is_there(lib, tmp_path, monkeypatch, capsys):
    before = lib.hub.get_dir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    assert lib.hub.get_dir() == str(tmp_path / "home" / "hub")
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert lib.hub.get_dir() == str(tmp_path / "torch" / "hub")
    try:
        lib.hub.set_dir(str(tmp_path / "hub"))
        folder = repository(tmp_path / "hub" / "some_thing_a_branch", lib.__name__)
        assert "small" in lib.hub.list("some/thing:a/branch") and "_private" not in lib.hub.list("some/thing:a/branch")
        assert lib.hub.help("some/thing:a/branch", "small") == "A small one."
        assert len(lib.hub.load("some/thing:a/branch", "small", trust_repo=True)) == 1
        assert f"Using cache found in {folder}" in capsys.readouterr().err
        for answer, error in (("n", "Untrusted repository."), ("what", "Unrecognized response what.")):
            monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
            with pytest.raises(Exception, match=error):
                lib.hub.list("other/thing:main")
    finally:
        lib.hub.set_dir(before)


@pytest.mark.parametrize("lib", [torch, fanal])
def test_weights_at_a_url(lib, tmp_path, capsys):
    weights = tmp_path / "weights.pth"
    torch.save({"w": torch.arange(3.0)}, weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    named = weights.rename(tmp_path / f"weights-{digest[:8]}.pth")
    there = str(tmp_path / "kept")
    for _ in range(2):  # the second time nothing is fetched
        state = lib.hub.load_state_dict_from_url(named.as_uri(), there, check_hash=True, weights_only=True)
        assert state["w"].tolist() == [0, 1, 2]
    assert capsys.readouterr().out.count("Downloading") == 1
    wrong = named.rename(tmp_path / "weights-12345678.pth")
    with pytest.raises(RuntimeError, match=f'invalid hash value .expected "12345678", got "{digest}".'):
        lib.hub.load_state_dict_from_url(wrong.as_uri(), there, progress=False, check_hash=True)
    assert [p.name for p in (tmp_path / "kept").iterdir()] == [named.name]
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as z:
        z.write(wrong, "inner.pth")
    with pytest.MonkeyPatch.context() as m:
        m.setattr("warnings.warn", lambda *a, **k: None)
        state = lib.hub.load_state_dict_from_url((tmp_path / "packed.zip").as_uri(), there, map_location="cpu")
    assert state["w"].tolist() == [0, 1, 2]


def test_what_a_hubconf_imports_as_torch_is_fanal(tmp_path):
    repository(tmp_path / "repo", "torch")
    code = f"import fanal; print(type(fanal.hub.load({str(tmp_path / 'repo')!r}, 'small', source='local')[0]).__mro__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "fanal.nn" in out.stdout and "torch.nn" not in out.stdout.replace("'fanal", ""), out.stderr
