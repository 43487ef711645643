"""Models that others publish: by a `hubconf.py` in a repository or a folder, and by files of weights at a URL.

What is fetched is kept in `get_dir()`, where PyTorch keeps it, too.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from fanal import compat
from fanal.core.base.missing import finder

__all__ = [
    "download_url_to_file",
    "get_dir",
    "help",
    "list",
    "load",
    "load_state_dict_from_url",
    "set_dir",
]

_TRUSTED_OWNERS = ("facebookresearch", "facebookincubator", "pytorch", "fairinternal")
_BLOCK = 1 << 17
HASH_REGEX = re.compile(r"-([a-f0-9]*)\.")  # the beginning of a file's digest, in its name
_folder: str | None = None
__getattr__ = finder("torch.hub")


def _get_torch_home() -> str:
    """Return $TORCH_HOME, ~/.cache/torch by default."""
    home = os.getenv("TORCH_HOME") or os.path.join(os.getenv("XDG_CACHE_HOME", "~/.cache"), "torch")
    return os.path.expanduser(home)


def get_dir() -> str:
    """Return the folder of what was fetched: that of `set_dir`, else $TORCH_HOME/hub, ~/.cache/torch/hub by default."""
    if _folder is not None:
        return _folder
    return os.path.join(_get_torch_home(), "hub")


def set_dir(d: str | os.PathLike[str]) -> None:
    """Set the folder of what is fetched."""
    global _folder
    _folder = os.path.expanduser(d)


# Repositories.


def load(
    repo_or_dir: str,
    model: str,
    *args: Any,
    source: str = "github",
    trust_repo: bool | str | None = "check",
    force_reload: bool = False,
    verbose: bool = True,
    skip_validation: bool = False,
    **kwargs: Any,
) -> Any:
    """Return what the function `model` of a `hubconf.py` returns for `args` and `kwargs`.

    source: "local" for a folder, "github" for "owner/name" or "owner/name:ref", fetched once. trust_repo: True, or
    False to be asked first; "check" asks about owners and repositories not met before. What `hubconf.py` imports as
    `torch` is Fanal, from then on in all of the process, unless PyTorch was imported before.
    Raises: ValueError for another source or a ref of another repository, RuntimeError where `dependencies` or `model`
    are missing, or without a network.
    """
    source = source.lower()
    if source not in ("github", "local"):
        raise ValueError(f'Unknown source: "{source}". Allowed values: "github" | "local".')
    if source == "github":
        repo_or_dir = _repository(repo_or_dir, force_reload, trust_repo, verbose, skip_validation)
    with _hubconf(repo_or_dir) as conf:
        return _entry(conf, model)(*args, **kwargs)


def list(
    github: str,
    force_reload: bool = False,
    skip_validation: bool = False,
    trust_repo: bool | str | None = "check",
    verbose: bool = True,
) -> builtins.list[str]:
    """Return the names of the functions in the `hubconf.py` of a repository. See `load`."""
    with _hubconf(_repository(github, force_reload, trust_repo, verbose, skip_validation)) as conf:
        return [n for n in dir(conf) if callable(getattr(conf, n)) and not n.startswith("_")]


def help(
    github: str,
    model: str,
    force_reload: bool = False,
    skip_validation: bool = False,
    trust_repo: bool | str | None = "check",
) -> str | None:
    """Return the docstring of a function in the `hubconf.py` of a repository. See `load`."""
    with _hubconf(_repository(github, force_reload, trust_repo, True, skip_validation)) as conf:
        return _entry(conf, model).__doc__


@contextmanager
def _hubconf(folder: str) -> Iterator[ModuleType]:
    """Give the module `hubconf.py` of a folder, which is on Python's path meanwhile."""
    present = sys.modules.get("torch")
    if present is None or present.__name__ == "fanal":
        compat.install()
    spec = importlib.util.spec_from_file_location("hubconf.py", os.path.join(folder, "hubconf.py"))
    assert spec is not None and spec.loader is not None
    conf = importlib.util.module_from_spec(spec)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(conf)
        yield conf
    finally:
        sys.path.remove(folder)


def _entry(conf: ModuleType, model: str) -> Callable[..., Any]:
    if not isinstance(model, str):
        raise ValueError("Invalid input: model should be a string of function name")
    lacking = [n for n in getattr(conf, "dependencies", None) or () if importlib.util.find_spec(n) is None]
    if lacking:
        raise RuntimeError(f"Missing dependencies: {', '.join(lacking)}")
    function = getattr(conf, model, None)
    if not callable(function):
        raise RuntimeError(f"Cannot find callable {model} in hubconf")
    return function


def _repository(github: str, reload: bool, trust: bool | str | None, verbose: bool, unchecked: bool) -> str:
    """Return the folder of a repository, which is fetched if it is not there."""
    hub = Path(get_dir())
    hub.mkdir(parents=True, exist_ok=True)
    name, _, ref = github.partition(":")
    owner, repo = name.split("/")
    ref = ref or _main_branch(owner, repo)
    folder = hub / f"{owner}_{repo}_{ref.replace('/', '_')}"
    _check_trust(f"{owner}_{repo}", owner in _TRUSTED_OWNERS or folder.exists(), trust)
    if folder.exists() and not reload:
        if verbose:
            sys.stderr.write(f"Using cache found in {folder}\n")
        return str(folder)
    if not unchecked:
        _check_ref(owner, repo, ref)
    with tempfile.TemporaryDirectory(dir=hub) as part:
        archive, url = os.path.join(part, "archive.zip"), f"https://github.com/{owner}/{repo}/zipball/{ref}"
        sys.stdout.write(f'Downloading: "{url}" to {folder}\n')
        download_url_to_file(url, archive, progress=False)
        with zipfile.ZipFile(archive) as z:
            top = z.namelist()[0].split("/")[0]
            z.extractall(part)  # Python's keeps every file inside of `part`
        shutil.rmtree(folder, ignore_errors=True)
        shutil.move(os.path.join(part, top), folder)
    return str(folder)


def _main_branch(owner: str, repo: str) -> str:
    try:
        with urlopen(f"https://github.com/{owner}/{repo}/tree/main/"):
            return "main"
    except HTTPError as e:
        if e.code != 404:
            raise
        return "master"
    except URLError as e:
        for ref in ("main", "master"):
            if os.path.exists(os.path.join(get_dir(), f"{owner}_{repo}_{ref}")):
                return ref
        raise RuntimeError(
            f"It looks like there is no internet connection and the repo could not be found in the cache ({get_dir()})"
        ) from e


def _check_trust(name: str, known: bool, trust: bool | str | None) -> None:
    """Ask whether to run code of a repository, where `trust` says so; remember the answer."""
    book = Path(get_dir(), "trusted_list")
    known = known or (book.exists() and name in book.read_text().split())
    if trust is False or (trust == "check" and not known):
        answer = input(
            f"The repository {name} does not belong to the list of trusted repositories and as such cannot be "
            "downloaded. Do you trust this repository and wish to add it to the trusted list of repositories (y/N)?"
        ).lower()
        if answer not in ("y", "yes", "n", "no", ""):
            raise ValueError(f"Unrecognized response {answer}.")
        if answer not in ("y", "yes"):
            raise Exception("Untrusted repository.")
    if not known:
        with book.open("a") as f:
            f.write(f"{name}\n")


def _check_ref(owner: str, repo: str, ref: str) -> None:
    """Raise ValueError unless a branch, tag or commit is of the repository: GitHub also serves those of its forks."""
    headers = {"Accept": "application/vnd.github.v3+json"}
    if token := os.getenv("GITHUB_TOKEN"):
        headers["Authorization"] = f"token {token}"
    for kind in ("branches", "tags"):
        page, found = 1, None
        while found != []:
            url = f"https://api.github.com/repos/{owner}/{repo}/{kind}?per_page=100&page={page}"
            with urlopen(Request(url, headers=headers)) as answer:
                found = json.load(answer)
            if any(b["name"] == ref or b["commit"]["sha"].startswith(ref) for b in found):
                return
            page += 1
    raise ValueError(
        f"Cannot find {ref} in https://github.com/{owner}/{repo}. "
        "If it's a commit from a forked repo, please call hub.load() with forked repo directly."
    )


# Files of weights.


def download_url_to_file(url: str, dst: str, hash_prefix: str | None = None, progress: bool = True) -> None:
    """Fetch a URL into the file `dst`, whole or not at all.

    Raises: RuntimeError unless the SHA-256 of the content begins with `hash_prefix`.
    """
    dst = os.path.expanduser(dst)
    part, digest, done = f"{dst}.{os.getpid()}.partial", hashlib.sha256(), 0
    try:
        with urlopen(Request(url, headers={"User-Agent": "torch.hub"})) as source, open(part, "wb") as f:
            size = int(source.headers.get("Content-Length") or 0)
            while block := source.read(_BLOCK):
                f.write(block)
                digest.update(block)
                done += len(block)
                if progress:
                    sys.stderr.write(f"\r{100 * done / size:.1f}%" if size else f"\r{done} bytes")
            if progress:
                sys.stderr.write("\n")
        found = digest.hexdigest()
        if hash_prefix is not None and not found.startswith(hash_prefix):
            raise RuntimeError(f'invalid hash value (expected "{hash_prefix}", got "{found}")')
        os.replace(part, dst)
    finally:
        if os.path.exists(part):
            os.remove(part)


def load_state_dict_from_url(
    url: str,
    model_dir: str | None = None,
    map_location: Any = None,
    progress: bool = True,
    check_hash: bool = False,
    file_name: str | None = None,
    weights_only: bool = False,
) -> Any:
    """Return the object in the file at a URL, which is fetched once, to `model_dir` or `get_dir()`/checkpoints.

    check_hash: the name of the file ends with the first digits of its SHA-256, as in resnet18-5c106cde.pth.
    """
    from fanal.serialization import load as load_file

    folder = os.path.join(get_dir(), "checkpoints") if model_dir is None else model_dir
    os.makedirs(folder, exist_ok=True)
    name = file_name or os.path.basename(urlparse(url).path)
    file = os.path.join(folder, name)
    if not os.path.exists(file):
        sys.stdout.write(f'Downloading: "{url}" to {file}\n')
        given = HASH_REGEX.search(name) if check_hash else None
        download_url_to_file(url, file, given.group(1) if given else None, progress)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as z:
            if len(z.infolist()) == 1:  # somebody packed the file by hand
                z.extractall(folder)
                file = os.path.join(folder, z.namelist()[0])
    return load_file(file, map_location=map_location, weights_only=weights_only)
