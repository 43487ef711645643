"""The CPU generator: Mersenne Twister 19937, with PyTorch's seeding, draw order and serialised state.

Source: Matsumoto and Nishimura, "Mersenne Twister", ACM TOMACS 8(1), 1998, with the 2002 initialisation.
The twist, the tempering and what is made of the words are loops in machine code (`backends.cpu.random_ir`).
"""
from __future__ import annotations

import os

import numpy as np

from fanal.core.backends.cpu.memory import address_of
from fanal.core.backends.cpu.random_ir import FRESH, NORMAL, POSITION, STATE_WORDS, WAITING, WORDS, kernel

DEFAULT_SEED = 67280421310721
_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF

# The serialised state of PyTorch's CPU generator, 5056 bytes. Of the old fields for normals only `normal_y`
# is in use.
STATE = np.dtype(
    {
        "names": [
            "seed", "left", "seeded", "next", "words", "normal_y", "has_double", "next_float", "has_float",
        ],
        "formats": ["<u8", "<i4", "<i4", "<u8", ("<u8", (WORDS,)), "<f8", "<i4", "<f4", "u1"],
        "offsets": [0, 8, 12, 16, 24, 5024, 5040, 5048, 5052],
        "itemsize": 5056,
    }
)  # fmt: skip


def check_seed(seed: int) -> int:
    """Return `seed` as an unsigned 64-bit number; a negative one wraps around. Raises: ValueError outside."""
    seed = int(seed)
    if not -(2**63) <= seed <= _MASK64:
        raise ValueError(f"a seed lies between -2**63 and 2**64 - 1, but got {seed}")
    return seed & _MASK64


def _first_words(seed: int) -> np.ndarray:
    """Return the 624 words that `seed` starts from (init_genrand, Knuth TAOCP vol. 2, 3rd ed., p. 106)."""
    word = seed & _MASK32
    words = [word]
    for i in range(1, WORDS):
        word = (1812433253 * (word ^ (word >> 30)) + i) & _MASK32
        words.append(word)
    return np.array(words, np.uint32)


class Mt19937:
    """Draw the random words that PyTorch's CPU generator draws.

    Attributes: `cached_double` and `cached_float`, the second half of a Box-Muller pair not yet handed out.
    """

    __slots__ = ("_memory", "_place", "_seed", "cached_float")

    def __init__(self, seed: int = DEFAULT_SEED) -> None:
        self._memory = np.zeros(STATE_WORDS, np.uint32)  # what the kernels read and write
        self._place = address_of(self._memory)
        self.manual_seed(seed)

    @property
    def cached_double(self) -> float | None:
        return float(self._memory[NORMAL:].view(np.float64)[0]) if self._memory[WAITING] else None

    @cached_double.setter
    def cached_double(self, value: float | None) -> None:
        self._memory[WAITING] = value is not None
        self._memory[NORMAL:].view(np.float64)[0] = value or 0.0

    # ---- seeding ---------------------------------------------------------------------------------

    def manual_seed(self, seed: int) -> Mt19937:
        """Restart from `seed`, of which the low 32 bits count. Raises: ValueError outside 64 bits."""
        self._seed = check_seed(seed)
        self._memory[:WORDS] = _first_words(self._seed)
        self._memory[POSITION] = FRESH
        self.cached_double = None
        self.cached_float: float | None = None
        return self

    def seed(self) -> int:
        """Restart from a seed of the operating system and return it."""
        self.manual_seed(int.from_bytes(os.urandom(8), "little"))
        return self._seed

    def initial_seed(self) -> int:
        """Return the seed the stream started from."""
        return self._seed

    # ---- draws -----------------------------------------------------------------------------------

    def fill(
        self, loop: str, out: np.ndarray, a: float = 0.0, b: float = 0.0, other: np.ndarray | None = None
    ) -> np.ndarray:
        """Fill a C-contiguous array by a loop of `random_ir`, and return it. `other` is as large."""
        if out.size:
            operand = None if other is None else address_of(other)
            kernel(loop, out.dtype.char)(self._place, address_of(out), out.size, operand, a, b)
        return out

    def random32(self, count: int) -> np.ndarray:
        """Return the next `count` 32-bit words, uint32."""
        words = np.empty(count, np.uint32)
        if count:
            kernel("words")(self._place, address_of(words), count, None, 0.0, 0.0)
        return words

    def random64(self, count: int) -> np.ndarray:
        """Return the next `count` 64-bit words, uint64; the first 32-bit word drawn is the high half."""
        pairs = self.random32(2 * count).view("<u8")
        return (pairs << np.uint64(32)) | (pairs >> np.uint64(32))

    def unit64(self, count: int) -> np.ndarray:
        """Return `count` float64 in [0, 1), multiples of 2**-53, from one 64-bit word each."""
        return self.fill("uniform", np.empty(count), 0.0, 1.0)

    # ---- state -----------------------------------------------------------------------------------

    def get_state(self) -> np.ndarray:
        """Return the state, uint8 of shape (5056,), in the layout of PyTorch's CPU generator."""
        state = np.zeros((), STATE)
        fresh = self._memory[POSITION] == FRESH
        position = WORDS if fresh else int(self._memory[POSITION])
        state["seed"] = self._seed
        state["seeded"] = 1
        state["words"] = self._memory[:WORDS]
        # PyTorch counts `left` down to 1 and twists before the next word.
        state["left"] = WORDS + 1 - position
        state["next"] = 0 if fresh else position
        waiting = self.cached_double
        if waiting is not None:
            state["has_double"], state["normal_y"] = 1, waiting
        if self.cached_float is not None:
            state["has_float"], state["next_float"] = 1, self.cached_float
        return np.frombuffer(state.tobytes(), np.uint8).copy()

    def set_state(self, state: np.ndarray) -> Mt19937:
        """Continue from a state of `get_state` or of PyTorch. Raises: TypeError, RuntimeError."""
        state = np.asarray(state)
        if state.dtype != np.uint8:
            raise TypeError("RNG state must be a torch.ByteTensor")
        if state.size != STATE.itemsize:
            raise RuntimeError(
                f"Expected a CPUGeneratorImplState of size {STATE.itemsize} "
                f"but found the input RNG state size to be {state.size}"
            )
        fields = np.frombuffer(state.tobytes(), STATE)[0]
        left, position = int(fields["left"]), int(fields["next"])
        # A state that PyTorch wrote has drawn `next` words of this twist, or was just seeded.
        drawn = left >= 1 and left + position == WORDS + 1
        if not fields["seeded"] or not (drawn or (left == 1 and position == 0)):
            raise RuntimeError("Invalid mt19937 state")
        self._seed = int(fields["seed"])
        self._memory[:WORDS] = fields["words"]
        self._memory[POSITION] = FRESH if position == 0 else WORDS if left == 1 else position
        self.cached_double = float(fields["normal_y"]) if fields["has_double"] else None
        self.cached_float = float(fields["next_float"]) if fields["has_float"] else None
        return self

    def clone(self) -> Mt19937:
        """Return a generator that continues with the same numbers."""
        return Mt19937().set_state(self.get_state())
