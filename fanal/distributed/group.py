"""Groups of processes: which there are, and which process this is."""

from __future__ import annotations

import enum
import os
from datetime import timedelta
from typing import Any, ClassVar

__all__ = [
    "Backend",
    "GroupMember",
    "ProcessGroup",
    "ReduceOp",
    "default_pg_timeout",
    "destroy_process_group",
    "get_backend",
    "get_global_rank",
    "get_group_rank",
    "get_node_local_rank",
    "get_process_group_ranks",
    "get_rank",
    "get_world_size",
    "group",
    "init_process_group",
    "is_available",
    "is_backend_available",
    "is_gloo_available",
    "is_initialized",
    "is_mpi_available",
    "is_nccl_available",
    "is_torchelastic_launched",
    "is_ucc_available",
    "is_xccl_available",
    "new_group",
]

default_pg_timeout = timedelta(minutes=30)


class Backend(str):
    """The name of what carries messages, in lower case. Raises ValueError for what is no string."""

    UNDEFINED = "undefined"
    GLOO = "gloo"
    NCCL = "nccl"
    UCC = "ucc"
    MPI = "mpi"
    XCCL = "xccl"
    backend_list: ClassVar[list[str]] = [UNDEFINED, GLOO, NCCL, XCCL, UCC, MPI]

    def __new__(cls, name: str) -> Backend:
        if not isinstance(name, str):
            raise ValueError(f"Backend constructor parameter must be string-ish, got {name!r}")
        return super().__new__(cls, name.lower())


class RedOpType(enum.Enum):
    """How the tensors of several processes become one."""

    SUM = 0
    AVG = 1
    PRODUCT = 2
    MIN = 3
    MAX = 4
    BAND = 5
    BOR = 6
    BXOR = 7
    PREMUL_SUM = 8
    UNUSED = 9


class ReduceOp:
    """The reductions by name: `ReduceOp.SUM`. In a group of one process, all leave a tensor as it is."""

    RedOpType = RedOpType
    SUM, AVG, PRODUCT = RedOpType.SUM, RedOpType.AVG, RedOpType.PRODUCT
    MIN, MAX = RedOpType.MIN, RedOpType.MAX
    BAND, BOR, BXOR = RedOpType.BAND, RedOpType.BOR, RedOpType.BXOR
    PREMUL_SUM = RedOpType.PREMUL_SUM

    def __new__(cls, op: RedOpType) -> Any:
        return op


class ProcessGroup:
    """A group of one process: this one."""

    def __init__(self, backend: str, name: str = "") -> None:
        self.backend = backend
        self.group_name = name

    def rank(self) -> int:
        """Return 0."""
        return 0

    def size(self) -> int:
        """Return 1."""
        return 1

    def name(self) -> str:
        """Return the name of the backend."""
        return self.backend


class GroupMember:
    """The default group, and what stands for a group that this process is no part of."""

    WORLD: ProcessGroup | None = None
    NON_GROUP_MEMBER = -100


group = GroupMember


def is_available() -> bool:
    """Return True: groups of one process can be made."""
    return True


def is_initialized() -> bool:
    """Tell whether there is a default group."""
    return GroupMember.WORLD is not None


def is_gloo_available() -> bool:
    """Return True. Messages of a process to itself need no library."""
    return True


def is_nccl_available() -> bool:
    """Return False."""
    return False


def is_mpi_available() -> bool:
    """Return False."""
    return False


def is_ucc_available() -> bool:
    """Return False."""
    return False


def is_xccl_available() -> bool:
    """Return False."""
    return False


def is_backend_available(backend: str) -> bool:
    """Tell whether a backend can be asked for."""
    return backend.lower() == Backend.GLOO


def is_torchelastic_launched() -> bool:
    """Tell whether `torchrun` started this process."""
    return os.environ.get("TORCHELASTIC_RUN_ID") is not None


def init_process_group(
    backend: str | None = None,
    init_method: str | None = None,
    timeout: timedelta | None = None,
    world_size: int = -1,
    rank: int = -1,
    store: Any = None,
    group_name: str = "",
    pg_options: Any = None,
    device_id: Any = None,
) -> None:
    """Make the default group.

    `world_size` and `rank` are those given, or the environment's (WORLD_SIZE, RANK, with MASTER_ADDR and MASTER_PORT).
    Raises: NotImplementedError for more than one process; ValueError when there is a default group, or a number is
    missing; RuntimeError for backends that are not there.
    Differs from torch: nothing is sent, so neither `store` nor the address is looked at.
    """
    if GroupMember.WORLD is not None:
        raise ValueError("trying to initialize the default process group twice!")
    if init_method is not None and store is not None:
        raise AssertionError("Cannot specify both init_method and store.")
    if store is None:
        world_size, rank = _rendezvous(init_method or "env://", world_size, rank)
    elif world_size <= 0 or rank < 0:
        raise AssertionError("world_size must be positive and rank non-negative if using store")
    _check_backend(backend)
    if world_size != 1:
        raise NotImplementedError(
            f"init_process_group: Fanal trains in one process, and the group shall have world_size={world_size} "
            f"(rank={rank}). Start the script once, without torchrun or with --nproc_per_node=1, or set WORLD_SIZE=1"
        )
    if rank != 0:
        raise ValueError(f"init_process_group: rank {rank} is not in a group of world_size=1")
    name = Backend.UNDEFINED if backend is None else Backend(backend)
    GroupMember.WORLD = ProcessGroup(name.removeprefix("cpu:"), group_name or "0")


def _rendezvous(method: str, world_size: int, rank: int) -> tuple[int, int]:
    """Return the size of the default group and the rank of this process."""
    scheme = method.partition("://")[0]
    if scheme not in ("env", "tcp", "file"):
        raise RuntimeError(f"No rendezvous handler for {scheme}://")
    if scheme == "env":
        rank = rank if rank >= 0 else int(_variable("RANK"))
        world_size = world_size if world_size > 0 else int(_variable("WORLD_SIZE"))
        _variable("MASTER_ADDR"), _variable("MASTER_PORT")
    for name, number, least in (("rank", rank, 0), ("world size", world_size, 1)):
        if number < least:
            raise ValueError(
                f"Error initializing torch.distributed using {scheme}:// rendezvous: {name} parameter missing"
            )
    return world_size, rank


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise ValueError(
            "Error initializing torch.distributed using env:// rendezvous: environment variable "
            f"{name} expected, but not set"
        )
    return value


def _check_backend(backend: str | None) -> None:
    for part in () if backend is None else Backend(backend).split(","):
        name = part.rpartition(":")[2]
        if name not in Backend.backend_list:
            raise AssertionError(f"Unknown backend type {name}")
        if name not in (Backend.GLOO, Backend.UNDEFINED):
            raise RuntimeError(f"Distributed package doesn't have {name.upper()} built in; use 'gloo'")


def destroy_process_group(group: ProcessGroup | None = None) -> None:
    """Forget a group: by default all of them."""
    if group is None and GroupMember.WORLD is None:
        raise AssertionError("Process group cannot be None")
    if group is None or group is GroupMember.WORLD:
        GroupMember.WORLD = None


def member(group: ProcessGroup | None) -> ProcessGroup:
    """Return a group, by default the default one. Raises ValueError when there is none."""
    if GroupMember.WORLD is None:
        raise ValueError(
            "Default process group has not been initialized, please make sure to call init_process_group."
        )
    return GroupMember.WORLD if group is None else group


def new_group(
    ranks: list[int] | None = None,
    timeout: timedelta | None = None,
    backend: str | None = None,
    pg_options: Any = None,
    use_local_synchronization: bool = False,
    group_desc: str | None = None,
    device_id: Any = None,
    sort_ranks: bool = True,
) -> Any:
    """Return another group: of this process, or one that this process is no part of.

    Raises: ValueError for more ranks than there are processes, and for ranks that are not.
    """
    world = member(None)
    ranks = [0] if ranks is None else list(ranks)
    if len(ranks) > 1:
        raise ValueError(
            "the new group's world size should be less or equal to the world size set by init_process_group"
        )
    if any(rank != 0 for rank in ranks):
        raise ValueError("The new group's rank should be within the world_size set by init_process_group")
    return ProcessGroup(backend or world.backend) if ranks else GroupMember.NON_GROUP_MEMBER


def get_rank(group: ProcessGroup | None = None) -> int:
    """Return the rank of this process in a group; -1 when it is no part of it."""
    g = member(group)
    return g.rank() if isinstance(g, ProcessGroup) else -1


def get_world_size(group: ProcessGroup | None = None) -> int:
    """Return how many processes a group has; -1 when this one is no part of it."""
    g = member(group)
    return g.size() if isinstance(g, ProcessGroup) else -1


def get_backend(group: ProcessGroup | None = None) -> str:
    """Return the name of a group's backend."""
    return member(group).backend


def get_process_group_ranks(group: ProcessGroup | None) -> list[int]:
    """Return the ranks of a group's processes, as the default group counts them."""
    return list(range(member(group).size()))


def get_global_rank(group: ProcessGroup, group_rank: int) -> int:
    """Return the rank in the default group of a process of `group`. Raises ValueError for a rank that is not."""
    if group_rank not in get_process_group_ranks(group):
        raise ValueError(f"Group rank {group_rank} is not part of group {group}")
    return group_rank


def get_group_rank(group: ProcessGroup, global_rank: int) -> int:
    """Return the rank in `group` of a process of the default group. Raises ValueError when it is no part of it."""
    if global_rank not in get_process_group_ranks(group):
        raise ValueError(f"Global rank {global_rank} is not part of group {group}")
    return global_rank


def get_node_local_rank(fallback_rank: int | None = None) -> int:
    """Return the rank among the processes of this machine: the environment's LOCAL_RANK."""
    if "LOCAL_RANK" in os.environ:
        return int(os.environ["LOCAL_RANK"])
    if fallback_rank is None:
        raise RuntimeError(
            "LOCAL_RANK is not in the environment. Consider passing fallback_rank to allow `get_node_local_rank` to "
            "work, assuming you are not running in a multi-device context and want the code to run locally instead."
        )
    return fallback_rank
