"""What a report of a problem says about its machine: `python -m fanal.utils.collect_env`."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections import namedtuple
from collections.abc import Sequence
from importlib import metadata

import fanal
from fanal.core.base.missing import finder

__getattr__ = finder("torch.utils.collect_env")

# The fields of PyTorch's report; those of devices that are not there are "N/A".
SystemEnv = namedtuple(
    "SystemEnv",
    """torch_version is_debug_build cuda_compiled_version gcc_version clang_version cmake_version os libc_version
    python_version python_platform is_cuda_available cuda_runtime_version cuda_module_loading nvidia_driver_version
    nvidia_gpu_models cudnn_version is_xpu_available pip_version pip_packages conda_packages hip_compiled_version
    hip_runtime_version miopen_runtime_version caching_allocator_config is_xnnpack_available cpu_info""",
)
_PACKAGES = ("fanal", "llvmlite", "ml_dtypes", "mypy", "numpy", "onnx", "safetensors", "torch")


def _first(command: Sequence[str], pattern: str) -> str | None:
    """Return the first match in what a command prints, or None where there is no such command."""
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(pattern, text)
    return found.group(1) if found else None


def _system() -> str:
    name = platform.platform()
    if hasattr(platform, "freedesktop_os_release"):
        try:
            name = platform.freedesktop_os_release()["PRETTY_NAME"]
        except OSError:
            pass
    return f"{name} ({platform.machine()})"


def _packages() -> str:
    """Return the packages that matter and their versions, as `pip list` has them."""
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name}=={metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return "\n".join(found)


def _cpu() -> str:
    try:
        return subprocess.run(["lscpu"], capture_output=True, text=True, timeout=10, check=True).stdout.rstrip()
    except (OSError, subprocess.SubprocessError):
        return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def get_env_info() -> SystemEnv:
    """Return what can be found out; None for programs that are not installed."""
    bits = sys.maxsize.bit_length() + 1
    libc = "-".join(platform.libc_ver())
    known = {
        "torch_version": fanal.__version__,
        "is_debug_build": "False",
        "gcc_version": _first(["gcc", "--version"], r"gcc (.*)"),
        "clang_version": _first(["clang", "--version"], r"clang version (.*)"),
        "cmake_version": _first(["cmake", "--version"], r"cmake (.*)"),
        "os": _system(),
        "libc_version": libc if len(libc) > 1 else "N/A",
        "python_version": f"{sys.version} ({bits}-bit runtime)".replace("\n", " "),
        "python_platform": platform.platform(),
        "is_cuda_available": str(fanal.cuda.is_available()),
        "is_xpu_available": "False",
        "is_xnnpack_available": "False",
        "pip_version": "pip3",
        "pip_packages": _packages(),
        "conda_packages": "",
        "cpu_info": _cpu(),
    }
    return SystemEnv(**{field: known.get(field, "N/A") for field in SystemEnv._fields})


def get_pretty_env_info() -> str:
    """Return the same as text."""
    e = get_env_info()
    shown = lambda x: "Could not collect" if x is None else x
    packages = e.pip_packages.splitlines() or ["No relevant packages"]
    lines = [
        f"PyTorch version: {e.torch_version}",
        f"Is debug build: {e.is_debug_build}",
        f"CUDA used to build PyTorch: {e.cuda_compiled_version}",
        f"ROCM used to build PyTorch: {e.hip_compiled_version}",
        "",
        f"OS: {e.os}",
        f"GCC version: {shown(e.gcc_version)}",
        f"Clang version: {shown(e.clang_version)}",
        f"CMake version: {shown(e.cmake_version)}",
        f"Libc version: {e.libc_version}",
        "",
        f"Python version: {e.python_version}",
        f"Python platform: {e.python_platform}",
        f"Is CUDA available: {e.is_cuda_available}",
        f"CUDA runtime version: {e.cuda_runtime_version}",
        f"GPU models and configuration: {e.nvidia_gpu_models}",
        f"Nvidia driver version: {e.nvidia_driver_version}",
        f"cuDNN version: {e.cudnn_version}",
        f"Is XPU available: {e.is_xpu_available}",
        f"Is XNNPACK available: {e.is_xnnpack_available}",
        "",
        "CPU:",
        e.cpu_info,
        "",
        "Versions of relevant libraries:",
        *(f"[{e.pip_version}] {p}" for p in packages),
        "[conda] Could not collect",
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the report."""
    print("Collecting environment information...")
    print(get_pretty_env_info())


if __name__ == "__main__":
    main()
