"""The CPU generator draws PyTorch's numbers bit for bit, and leaves the generator in PyTorch's state."""
from __future__ import annotations

import math
import platform
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from fanal.core import random as random_cpu
from fanal.core.random.mt19937 import Mt19937

torch = pytest.importorskip("torch")

SIZES = (0, 1, 2, 15, 16, 17, 31, 33, 1000, 4099)
FLOATS = tuple(np.dtype(d) for d in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64))
COMPLEX = (np.dtype(np.complex64), np.dtype(np.complex128))
SIGNED = tuple(np.dtype(d) for d in (np.uint8, np.int8, np.int16, np.int32, np.int64))
UNSIGNED = tuple(np.dtype(d) for d in (np.uint16, np.uint32, np.uint64))
BOOL = np.dtype(np.bool_)
# The last bit of float32 normals follows PyTorch's AVX2 kernel.
avx2 = pytest.mark.skipif(
    platform.machine() != "x86_64" or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="torch has no AVX2 kernel here",
)


def torch_dtype(dtype: np.dtype) -> torch.dtype:
    return getattr(torch, dtype.name)


def to_torch(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64)).to(torch_dtype(array.dtype))


def raw(values: np.ndarray | torch.Tensor) -> bytes:
    if isinstance(values, np.ndarray):
        assert values.flags.c_contiguous
        return values.tobytes()
    return values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def state_of_torch(generator: torch.Generator) -> bytes:
    return generator.get_state().numpy().tobytes()


Draw = Callable[[Mt19937], np.ndarray]
TorchDraw = Callable[[torch.Generator], torch.Tensor]


def check(ours: Draw, theirs: TorchDraw, seed: int = 3) -> None:
    """Compare two draws in a row, their bits and the state after each."""
    gen, reference = Mt19937(seed), torch.Generator().manual_seed(seed)
    for _ in range(2):
        drawn, expected = ours(gen), theirs(reference)
        assert drawn.shape == tuple(expected.shape)
        assert raw(drawn) == raw(expected)
        assert gen.get_state().tobytes() == state_of_torch(reference)


def empty(size: int | tuple[int, ...], dtype: np.dtype) -> torch.Tensor:
    return torch.empty(size, dtype=torch_dtype(dtype))


# ---- the engine ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 42, 2**32 - 1, 2**32, 2**63, 2**64 - 1, -1, -(2**63)])
def test_seed(seed: int) -> None:
    gen, reference = Mt19937().manual_seed(seed), torch.Generator().manual_seed(seed)
    assert gen.initial_seed() == reference.initial_seed()
    assert gen.get_state().tobytes() == state_of_torch(reference)
    assert raw(random_cpu.uniform(gen, (700,), np.float32)) == raw(torch.rand(700, generator=reference))


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        Mt19937(seed)


def test_default_and_random_seed() -> None:
    gen = Mt19937()
    assert gen.initial_seed() == torch.Generator().initial_seed()
    assert gen.seed() == gen.initial_seed()
    assert Mt19937().seed() != gen.initial_seed()


def test_words_of_reference_implementation() -> None:
    # std::mt19937, [rand.predef] of the C++ standard: word 10000 of the default seed 5489.
    assert Mt19937(5489).random32(10000)[-1] == 4123659995


@pytest.mark.parametrize("drawn", [0, 1, 5, 622, 623, 624, 625, 5000])
def test_state_goes_both_ways(drawn: int) -> None:
    gen, reference = Mt19937(7), torch.Generator().manual_seed(7)
    gen.random32(drawn)
    torch.empty(drawn, dtype=torch.int32).random_(generator=reference)
    assert gen.get_state().tobytes() == state_of_torch(reference)
    back = torch.Generator()
    back.set_state(torch.from_numpy(gen.get_state()))
    forth = Mt19937(1).set_state(reference.get_state().numpy())
    assert forth.initial_seed() == 7
    expected = torch.rand(2000, generator=reference)
    assert raw(random_cpu.uniform(gen, (2000,), np.float32)) == raw(expected)
    assert raw(random_cpu.uniform(forth, (2000,), np.float32)) == raw(expected)
    assert raw(torch.rand(2000, generator=back)) == raw(expected)


@pytest.mark.parametrize("count", [1, 3, 7, 15])
def test_state_carries_second_normal(count: int) -> None:
    gen, reference = Mt19937(11), torch.Generator().manual_seed(11)
    random_cpu.normal(gen, (count,), np.float32)
    torch.randn(count, generator=reference)
    assert gen.cached_double is not None
    assert gen.get_state().tobytes() == state_of_torch(reference)
    forth = Mt19937().set_state(reference.get_state().numpy())
    twin = gen.clone()
    expected = torch.randn(4, dtype=torch.float64, generator=reference)
    for each in (gen, forth, twin):
        assert raw(random_cpu.normal(each, (4,), np.float64)) == raw(expected)
    assert gen.manual_seed(1).cached_double is None


def test_state_carries_second_float() -> None:
    gen = Mt19937(2)
    gen.cached_float = 0.25
    state = torch.from_numpy(gen.get_state())
    reference = torch.Generator()
    reference.set_state(state)
    assert state_of_torch(reference) == gen.get_state().tobytes()
    assert Mt19937().set_state(state.numpy()).cached_float == 0.25


def test_bad_state() -> None:
    gen = Mt19937(0)
    with pytest.raises(TypeError, match="ByteTensor"):
        gen.set_state(np.zeros(5056, np.float32))
    with pytest.raises(RuntimeError, match="of size 5056 but found the input RNG state size to be 10"):
        gen.set_state(np.zeros(10, np.uint8))
    with pytest.raises(RuntimeError, match="Invalid mt19937 state"):
        gen.set_state(np.zeros(5056, np.uint8))


# ---- distributions -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS + COMPLEX, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_uniform(size: int, dtype: np.dtype) -> None:
    bound = 1 / math.sqrt(784)
    for low, high in ((0.0, 1.0), (-bound, bound), (1.0, 1.001), (2.0, 2.0), (-3e4, 3e4), (0.0, 0.3)):
        check(
            lambda gen, low=low, high=high: random_cpu.uniform(gen, (size,), dtype, low, high),
            lambda gen, low=low, high=high: empty(size, dtype).uniform_(low, high, generator=gen),
        )


@avx2
@pytest.mark.parametrize("dtype", FLOATS + COMPLEX, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_normal(size: int, dtype: np.dtype) -> None:
    for mean, std in ((0.0, 1.0), (0.0, 0.02), (0.5, 0.02), (-100.0, 3.0), (1.0, 0.0)):
        check(
            lambda gen, mean=mean, std=std: random_cpu.normal(gen, (size,), dtype, mean, std),
            lambda gen, mean=mean, std=std: empty(size, dtype).normal_(mean, std, generator=gen),
        )


@avx2
@pytest.mark.parametrize("seed", range(4))
def test_normal_of_many(seed: int) -> None:
    shape = (331, 1009)
    check(
        lambda gen: random_cpu.normal(gen, shape, np.float32),
        lambda gen: torch.randn(shape, generator=gen),
        seed,
    )


def test_normal_into_strided() -> None:
    def theirs(gen: torch.Generator) -> torch.Tensor:
        return torch.empty(50, 4).t().normal_(1, 2, generator=gen)[::2].normal_(generator=gen)

    def ours(gen: Mt19937) -> np.ndarray:
        random_cpu.normal(gen, (200,), np.float32, 1, 2, contiguous=False)
        drawn = random_cpu.normal(gen, (50, 2), np.float32, contiguous=False)
        return np.ascontiguousarray(drawn.T)

    gen, reference = Mt19937(5), torch.Generator().manual_seed(5)
    assert raw(ours(gen)) == raw(theirs(reference))
    assert gen.get_state().tobytes() == state_of_torch(reference)


@avx2
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", [0, 7, 40])
def test_normal_of_arrays(size: int, dtype: np.dtype) -> None:
    rng = np.random.default_rng(size)
    mean, std = rng.standard_normal((3, size)).astype(dtype), rng.random((3, size)).astype(dtype)
    wide = rng.random(size).astype(np.float32)
    for m, s in ((mean, std), (mean, 0.3), (0.3, std), (mean, std[:1]), (mean, wide)):
        left, right = (to_torch(v) if isinstance(v, np.ndarray) else v for v in (m, s))
        check(
            lambda gen, m=m, s=s: random_cpu.normal_of(gen, m, s),
            lambda gen, left=left, right=right: torch.normal(left, right, generator=gen),
        )


RANGES = (
    (0, 2), (0, 10), (-5, 100), (0, 255), (0, 256), (0, 257), (-128, 127), (0, 2049), (3, 60000), (0, 65504),
    (-65000, 65000), (0, 65536), (0, 2**24 + 5), (-(2**24) - 7, 2**24 + 9), (0, 2**28 - 1), (0, 2**28),
    (-7, 2**31 - 1), (0, 2**32 - 1), (0, 2**32), (2**53 + 1, 2**53 + 100), (-(2**63), 2**63 - 1),
    (-(2**63), -(2**63) + 5), (5, None), (-10, None), (-(2**63), None), (3, 3), (4, 3),
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dtype", (*FLOATS, *SIGNED, *UNSIGNED, BOOL), ids=str)
def test_integers_in_range(dtype: np.dtype) -> None:
    for low, high in RANGES:
        for size in (0, 3, 1001):
            gen, reference = Mt19937(size), torch.Generator().manual_seed(size)
            try:
                expected = empty(size, dtype).random_(low, high, generator=reference)
            except RuntimeError as error:
                with pytest.raises(type(error)):
                    random_cpu.randint(gen, (size,), low, high, dtype)
                continue
            assert raw(random_cpu.randint(gen, (size,), low, high, dtype)) == raw(expected)
            assert gen.get_state().tobytes() == state_of_torch(reference)


def test_integers_warn_of_lost_precision() -> None:
    with pytest.warns(UserWarning, match=r"to - 1 is out of bounds \[-\(2\^24\), 2\^24\]"):
        random_cpu.randint(Mt19937(0), (1,), 0, 2**24 + 5, np.float32)


def test_randint() -> None:
    for low, high in ((0, 10), (-3, 2**40)):
        check(
            lambda gen, low=low, high=high: random_cpu.randint(gen, (31, 7), low, high),
            lambda gen, low=low, high=high: torch.randint(low, high, (31, 7), generator=gen),
        )


@pytest.mark.parametrize("dtype", (*FLOATS, *SIGNED, BOOL), ids=str)
@pytest.mark.parametrize("size", [0, 1, 1000])
def test_random(size: int, dtype: np.dtype) -> None:
    check(
        lambda gen: random_cpu.random(gen, (size,), dtype),
        lambda gen: empty(size, dtype).random_(generator=gen),
    )


@pytest.mark.parametrize("dtype", (*FLOATS, *SIGNED), ids=str)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 100])
def test_randperm(size: int, dtype: np.dtype) -> None:
    check(
        lambda gen: random_cpu.randperm(gen, size, dtype),
        lambda gen: torch.randperm(size, dtype=torch_dtype(dtype), generator=gen),
    )


@pytest.mark.parametrize("size", [4099, 60000, 140001])
def test_randperm_long(size: int) -> None:
    check(lambda gen: random_cpu.randperm(gen, size), lambda gen: torch.randperm(size, generator=gen))


@pytest.mark.parametrize("dtype", (*FLOATS, *SIGNED, BOOL), ids=str)
@pytest.mark.parametrize("size", [0, 1, 17, 1000])
def test_bernoulli(size: int, dtype: np.dtype) -> None:
    for p in (0, 0.3, 1):
        check(
            lambda gen, p=p: random_cpu.bernoulli(gen, p, (size,), dtype),
            lambda gen, p=p: empty(size, dtype).bernoulli_(p, generator=gen),
        )
    for kind in FLOATS:
        p = np.random.default_rng(0).random((3, size)).astype(kind)
        check(
            lambda gen, p=p: random_cpu.bernoulli(gen, p, None, dtype),
            lambda gen, p=p: empty((3, size), dtype).bernoulli_(to_torch(p), generator=gen),
        )
        check(
            lambda gen, p=p[0]: random_cpu.bernoulli(gen, p, (3, size), dtype),
            lambda gen, p=p[0]: empty((3, size), dtype).bernoulli_(to_torch(p), generator=gen),
        )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", [0, 1, 17, 4099])
def test_continuous(size: int, dtype: np.dtype) -> None:
    pairs: list[tuple[Draw, TorchDraw]] = [
        (
            lambda gen: random_cpu.exponential(gen, (size,), dtype, 1.7),
            lambda gen: empty(size, dtype).exponential_(1.7, generator=gen),
        ),
        (
            lambda gen: random_cpu.cauchy(gen, (size,), dtype, 0.3, 1.7),
            lambda gen: empty(size, dtype).cauchy_(0.3, 1.7, generator=gen),
        ),
        (
            lambda gen: random_cpu.log_normal(gen, (size,), dtype, 0.3, 1.7),
            lambda gen: empty(size, dtype).log_normal_(0.3, 1.7, generator=gen),
        ),
    ]
    for ours, theirs in pairs:
        check(ours, theirs)


@pytest.mark.parametrize("dtype", FLOATS + SIGNED, ids=str)
def test_geometric(dtype: np.dtype) -> None:
    check(
        lambda gen: random_cpu.geometric(gen, (501,), dtype, 0.07),
        lambda gen: empty(501, dtype).geometric_(0.07, generator=gen),
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_multinomial(dtype: np.dtype) -> None:
    rng = np.random.default_rng(1)
    for shape, samples, replacement in (
        ((5,), 3, True), ((4, 300), 600, True), ((4, 7), 1, True),
        ((300,), 1, False), ((4, 300), 1, False), ((3, 50), 50, False),
    ):  # fmt: skip
        if not replacement and samples > 1 and dtype.itemsize < 4:
            continue  # 16-bit weights tie, and torch leaves the order of ties open
        probs = rng.random(shape).astype(dtype)
        check(
            lambda gen, p=probs, n=samples, r=replacement: random_cpu.multinomial(gen, p, n, r),
            lambda gen, p=probs, n=samples, r=replacement: torch.multinomial(
                to_torch(p), n, r, generator=gen
            ),
        )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_poisson(dtype: np.dtype) -> None:
    rate = (np.random.default_rng(2).random((40, 50)) * 40).astype(dtype)
    rate[0, :5] = 0
    check(lambda gen: random_cpu.poisson(gen, rate), lambda gen: torch.poisson(to_torch(rate), generator=gen))


@pytest.mark.parametrize("dtype", FLOATS[2:], ids=str)
def test_binomial_and_gamma(dtype: np.dtype) -> None:
    rng = np.random.default_rng(3)
    count, prob = np.floor(rng.random((30, 40)) * 90).astype(dtype), rng.random((30, 40)).astype(dtype)
    prob[0, :3], prob[1, :3] = 0, 1
    check(
        lambda gen: random_cpu.binomial(gen, count, prob),
        lambda gen: torch.binomial(to_torch(count), to_torch(prob), generator=gen),
    )
    alpha = prob * 3
    check(
        lambda gen: random_cpu.standard_gamma(gen, alpha),
        lambda gen: torch._standard_gamma(to_torch(alpha), generator=gen),
    )


@avx2
def test_mixed_draws_keep_the_stream() -> None:
    gen, reference = Mt19937(9), torch.Generator().manual_seed(9)
    order = np.random.default_rng(4).integers(0, 5, 60).tolist()
    for step, kind in enumerate(order):
        size = (step * 7) % 37
        drawn, expected = {
            0: lambda n: (random_cpu.normal(gen, (n,), np.float32), torch.randn(n, generator=reference)),
            1: lambda n: (random_cpu.uniform(gen, (n,), np.float32), torch.rand(n, generator=reference)),
            2: lambda n: (random_cpu.randperm(gen, n), torch.randperm(n, generator=reference)),
            3: lambda n: (
                random_cpu.standard_gamma(gen, np.full(n, 0.7)),
                torch._standard_gamma(torch.full((n,), 0.7, dtype=torch.float64), generator=reference),
            ),
            4: lambda n: (
                random_cpu.normal(gen, (n,), np.float64),
                torch.randn(n, dtype=torch.float64, generator=reference),
            ),
        }[kind](size)
        assert raw(drawn) == raw(expected)
    assert gen.get_state().tobytes() == state_of_torch(reference)


BAD = (
    ("uniform, empty range", lambda g: random_cpu.uniform(g, (3,), np.float32, 2, 1), RuntimeError),
    ("uniform, width", lambda g: random_cpu.uniform(g, (3,), np.float32, -3e38, 3e38), RuntimeError),
    ("uniform, integers", lambda g: random_cpu.uniform(g, (3,), np.int32), NotImplementedError),
    ("normal, std", lambda g: random_cpu.normal(g, (3,), np.float32, 0, -1), RuntimeError),
    ("normal, integers", lambda g: random_cpu.normal(g, (3,), np.int32), NotImplementedError),
    ("normal, stds", lambda g: random_cpu.normal_of(g, 0.0, -np.ones(3)), RuntimeError),
    ("log_normal, std", lambda g: random_cpu.log_normal(g, (3,), np.float32, 0, 0), RuntimeError),
    ("random, uint16", lambda g: random_cpu.random(g, (3,), np.uint16), NotImplementedError),
    ("randperm, n", lambda g: random_cpu.randperm(g, -1), RuntimeError),
    ("randperm, half", lambda g: random_cpu.randperm(g, 5000, np.float16), RuntimeError),
    ("randperm, uint8", lambda g: random_cpu.randperm(g, 300, np.uint8), RuntimeError),
    ("randperm, bool", lambda g: random_cpu.randperm(g, 2, np.bool_), NotImplementedError),
    ("bernoulli, p", lambda g: random_cpu.bernoulli(g, 1.5, (3,), np.float32), RuntimeError),
    ("bernoulli, array", lambda g: random_cpu.bernoulli(g, np.array([1.5])), RuntimeError),
    ("bernoulli, integer p", lambda g: random_cpu.bernoulli(g, np.array([1])), NotImplementedError),
    ("exponential, rate", lambda g: random_cpu.exponential(g, (3,), np.float32, 0), RuntimeError),
    ("exponential, integers", lambda g: random_cpu.exponential(g, (3,), np.int32), RuntimeError),
    ("geometric, p", lambda g: random_cpu.geometric(g, (3,), np.float32, 1.0), RuntimeError),
    ("cauchy, sigma", lambda g: random_cpu.cauchy(g, (3,), np.float32, 0, 0), RuntimeError),
    ("multinomial, negative", lambda g: random_cpu.multinomial(g, np.array([1.0, -1.0]), 1), RuntimeError),
    ("multinomial, infinite", lambda g: random_cpu.multinomial(g, np.array([np.inf]), 1, True), RuntimeError),
    ("multinomial, zeros", lambda g: random_cpu.multinomial(g, np.zeros(2), 1), RuntimeError),
    ("multinomial, dims", lambda g: random_cpu.multinomial(g, np.ones((2, 2, 2)), 1), RuntimeError),
    ("multinomial, too many", lambda g: random_cpu.multinomial(g, np.ones(2), 3), RuntimeError),
    ("multinomial, none", lambda g: random_cpu.multinomial(g, np.ones(2), 0), RuntimeError),
    ("poisson, rate", lambda g: random_cpu.poisson(g, np.array([-1.0])), RuntimeError),
    ("poisson, integers", lambda g: random_cpu.poisson(g, np.array([1])), NotImplementedError),
    ("binomial, integers", lambda g: random_cpu.binomial(g, np.array([1]), np.array([1.0])), ValueError),
)


@pytest.mark.parametrize(("draw", "error"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_errors_leave_the_stream(draw: Draw, error: type[Exception]) -> None:
    gen = Mt19937(0)
    before = gen.get_state().tobytes()
    with pytest.raises(error):
        draw(gen)
    assert gen.get_state().tobytes() == before
