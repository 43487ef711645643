"""Devices: a type and an index, as torch.device."""

from __future__ import annotations

from typing import Any

_TYPES = (
    "cpu cuda ipu xpu mkldnn opengl opencl ideep hip ve fpga maia xla lazy vulkan mps meta hpu mtia privateuseone"
).split()


class device:
    """A place where tensors live: device("cpu"), device("cuda", 0), device("meta")."""

    __slots__ = ("index", "type")

    type: str
    index: int | None

    def __new__(cls, type: Any, index: int | None = None) -> device:
        if isinstance(type, device):
            return type
        self = object.__new__(cls)
        if isinstance(type, int):
            type = f"cuda:{type}"
        kind, _, number = type.partition(":")
        if kind not in _TYPES:
            raise RuntimeError(
                f"Expected one of {', '.join(_TYPES)} device type at start of device string: {type}"
            )
        if number and not number.isdigit():
            raise RuntimeError(f"Invalid device string: '{type}'")
        if number and index is not None:
            raise RuntimeError(
                f"type (string) must not include an index because index was passed explicitly: {type}"
            )
        self.type = kind
        self.index = int(number) if number else index
        return self

    def __enter__(self) -> device:
        """Make new tensors here inside a `with` block. They are made on the CPU, so it is the only one that can be."""
        if resolve(self) is not CPU:
            raise RuntimeError(f"with torch.device('{self}') is not supported: new tensors are made on the CPU; "
                               f"give device='{self}' where they are made")
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __repr__(self) -> str:
        return (
            f"device(type='{self.type}')"
            if self.index is None
            else f"device(type='{self.type}', index={self.index})"
        )

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, device) and self.type == other.type and self.index == other.index

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __reduce__(self) -> tuple:
        return (device, (self.type,) if self.index is None else (self.type, self.index))


CPU = device("cpu")
META = device("meta")


def resolve(spec: str | int | device | None) -> device:
    """Return the device meant by `spec`; None is the CPU. Raises RuntimeError for a device that is not here."""
    if spec is None or spec is CPU:
        return CPU
    found = device(spec)
    if found.type == "cpu":
        return CPU
    if found.type == "meta":
        return META
    if found.type == "cuda":
        raise AssertionError(
            "Torch not compiled with CUDA enabled: this build of Fanal computes on the CPU; "
            "use device='cpu', or guard with torch.cuda.is_available()"
        )
    raise RuntimeError(f"device '{found}' is not available in Fanal; available: cpu, meta")
