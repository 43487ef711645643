"""Random tensors from PyTorch's CPU generator: the same seed gives the same numbers.

Numbers are drawn when the call is made, so the stream does not depend on when pending work runs. Dropout draws in
kernels, from the counter of `engine.rng`, which is seeded together with the default generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fanal.core import random as draws
from fanal.core.base import device as devices
from fanal.core.base import dtype as dt
from fanal.core.base.layout import strided
from fanal.core.base.shape import Shape, is_contiguous
from fanal.core.engine.handle import Handle
from fanal.core.engine.level import SAME, for_each, own_draws
from fanal.core.engine.record import flush, session, unfollowable
from fanal.core.engine.rng import rng
from fanal.core.ir.prims import broadcast, full, given
from fanal.core.ops.build import assign, check_inplace, kept_strides, public, read, unsupported, wrap
from fanal.core.ops.create import shape_in, shape_of
from fanal.core.ops.factory import placed, scalar_of
from fanal.core.ops.vmap import examples, whole
from fanal.core.random.mt19937 import Mt19937
from fanal.core.tensor.alias import own_memory
from fanal.core.tensor.tensor import compute, strides_of, wrap_array


def _dense(a: np.ndarray) -> np.ndarray:
    """Return an array in C order (np.ascontiguousarray would give a 0-d array a dimension)."""
    return np.asarray(a, order="C")


class Generator:
    """A stream of random numbers on the CPU, as torch.Generator."""

    __slots__ = ("__weakref__", "_mt")
    __module__ = "torch._C"

    def __init__(self, device: Any = "cpu") -> None:
        if devices.resolve(device) is not devices.CPU:
            raise RuntimeError(
                f"Device type {devices.device(device).type} is not supported for torch.Generator() api."
            )
        self._mt = Mt19937()

    @property
    def device(self) -> devices.device:
        return devices.CPU

    def manual_seed(self, seed: int) -> Generator:
        """Restart from a seed and return the generator."""
        try:
            self._mt.manual_seed(seed)
        except ValueError:
            raise RuntimeError("Overflow when unpacking long long") from None
        self._reseeded()
        return self

    def seed(self) -> int:
        """Restart from a seed of the operating system and return it."""
        found = self._mt.seed()
        self._reseeded()
        return found

    def _reseeded(self) -> None:
        if self is default_generator:
            rng.reset(self._mt.initial_seed())

    def initial_seed(self) -> int:
        """Return the seed the stream started from."""
        return self._mt.initial_seed()

    def get_state(self) -> Any:
        """Return the state as a byte tensor, in PyTorch's layout; the counter of dropout goes with the object."""
        t = wrap_array(self._mt.get_state(), dt.uint8)
        if self is default_generator:
            t._counter = (rng.seed, rng.offset)
        return t

    def set_state(self, new_state: Any) -> Generator:
        """Continue from a state."""
        if not isinstance(new_state, Handle) or new_state._dtype is not dt.uint8:
            raise TypeError("RNG state must be a torch.ByteTensor")
        self._mt.set_state(compute(new_state))
        if self is default_generator:
            rng.reset(*getattr(new_state, "_counter", (self._mt.initial_seed(), 0)))
        return self

    def clone_state(self) -> Generator:
        """Return a generator that continues with the same numbers."""
        g = Generator()
        g._mt = self._mt.clone()
        return g

    def graphsafe_get_state(self) -> Generator:
        """Return a generator that continues with the same numbers."""
        return self.clone_state()

    def graphsafe_set_state(self, state: Generator) -> Generator:
        """Continue where another generator stands."""
        self._mt = state._mt.clone()
        return self

    def __reduce__(self) -> tuple:
        return _restored, (compute(self.get_state()),)


def _restored(state: np.ndarray) -> Generator:
    g = Generator()
    g._mt.set_state(state)
    return g


default_generator: Generator = Generator()


def stream(generator: Any) -> Mt19937:
    """Return the numbers of a generator, of the default one for None."""
    if generator is None:
        return default_generator._mt
    if not isinstance(generator, Generator):
        raise TypeError(f"argument 'generator' must be torch.Generator, not {type(generator).__name__}")
    return generator._mt


def _note() -> None:
    """A draw inside a recorded event cannot be repeated by following it."""
    if session.depth:
        unfollowable("random numbers were drawn by Python")


@public("manual_seed", method=False, event=False)
def manual_seed(seed: int) -> Generator:
    """Restart all generators from a seed."""
    return default_generator.manual_seed(int(seed))


@public("seed", method=False, event=False)
def seed() -> int:
    """Restart all generators from a seed of the operating system and return it."""
    return default_generator.seed()


@public("initial_seed", method=False, event=False)
def initial_seed() -> int:
    """Return the seed the default generator started from."""
    return default_generator.initial_seed()


@public("get_rng_state", method=False, event=False)
def get_rng_state() -> Any:
    """Return the state of the default generator as a byte tensor."""
    return default_generator.get_state()


@public("set_rng_state", method=False, event=False)
def set_rng_state(new_state: Any) -> None:
    """Continue the default generator from a state."""
    default_generator.set_state(new_state)


def _made(
    shape: Shape, d: dt.dtype, draw: Callable[[Shape], np.ndarray], device: Any, requires_grad: bool
) -> Any:
    if devices.resolve(device) is devices.META:
        return placed(wrap(full(shape, 0, d)), device, requires_grad)
    _note()
    levels = own_draws()
    t = wrap_array(_dense(draw((*[level.size for level in levels], *shape))), d)
    return placed(examples(t, levels), device, requires_grad)


def _drawn_from(d: dt.dtype, draw: Callable[..., np.ndarray], *operands: Any) -> Any:
    """Return numbers whose distribution depends on the values of tensors, in dtype `d`."""
    values = [_dense(compute(whole(x), SAME)) if isinstance(x, Handle) else x for x in operands]
    _note()
    return examples(wrap_array(_dense(draw(*values)), d), own_draws())


@public(method=False, out="fill", event=False)
def rand(
    *size: Any,
    generator: Any = None,
    dtype: Any = None,
    layout: Any = strided,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
    names: Any = None,
) -> Any:
    """Return numbers drawn uniformly from [0, 1)."""
    d = dtype or dt.get_default()
    if d.category < 2:
        raise unsupported("check_uniform_bounds", d)
    return _made(shape_of(size), d, lambda s: draws.uniform(stream(generator), s, d.np), device, requires_grad)


@public(method=False, out="fill", event=False)
def randn(
    *size: Any,
    generator: Any = None,
    dtype: Any = None,
    layout: Any = strided,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
    names: Any = None,
) -> Any:
    """Return numbers drawn from the standard normal distribution."""
    d = dtype or dt.get_default()
    if d.category < 2:
        raise unsupported("normal_kernel_cpu", d)
    return _made(shape_of(size), d, lambda s: draws.normal(stream(generator), s, d.np), device, requires_grad)


@public(method=False, out="fill", event=False)
def randint(
    *args: Any,
    low: Any = None,
    high: Any = None,
    size: Any = None,
    generator: Any = None,
    dtype: Any = None,
    layout: Any = strided,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Any:
    """Return integers drawn from [low, high); low is 0 by default."""
    rest = list(args)
    if size is None and rest:
        size = rest.pop()
    if len(rest) == 2:
        low, high = rest
    elif len(rest) == 1:
        low, high = (low, rest[0]) if high is None else (rest[0], high)
    if high is None or size is None:
        raise TypeError("randint() received an invalid combination of arguments")
    lo, hi = int(scalar_of(low)) if low is not None else 0, int(scalar_of(high))
    d = dtype or dt.int64
    return _made(
        shape_in(size), d, lambda s: draws.randint(stream(generator), s, lo, hi, d.np), device, requires_grad
    )


@public(method=False, out="fill", event=False)
def randperm(
    n: int,
    *,
    generator: Any = None,
    dtype: Any = None,
    layout: Any = strided,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Any:
    """Return a random permutation of 0, ..., n - 1."""
    d = dtype or dt.int64

    def permutations(s: Shape) -> np.ndarray:
        rows = [draws.randperm(stream(generator), n, d.np) for _ in range(math.prod(s[:-1]))]
        return np.reshape(rows, s).astype(d.np, copy=False)

    return _made((n,), d, permutations, device, requires_grad)


@public(method=False, out=True, event=False)
def normal(
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Any = None,
    *,
    generator: Any = None,
    dtype: Any = None,
    layout: Any = strided,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Any:
    """Return numbers drawn from normal distributions; mean and std are numbers or tensors."""
    if size is not None:
        d = dtype or dt.get_default()
        return _made(
            shape_in(size),
            d,
            lambda s: draws.normal(stream(generator), s, d.np, float(mean), float(std)),
            device,
            requires_grad,
        )
    if not isinstance(mean, Handle) and not isinstance(std, Handle):
        raise TypeError("normal() received an invalid combination of arguments: give a size, or a tensor")
    like = mean if isinstance(mean, Handle) else std
    m, s = (x if isinstance(x, Handle) else float(x) for x in (mean, std))
    return _drawn_from(like._dtype, lambda m, s: draws.normal_of(stream(generator), m, s), m, s)


@public(out="alone", event=False)
def multinomial(input: Any, num_samples: int, replacement: bool = False, *, generator: Any = None) -> Any:
    """Return indices drawn by weight from a vector, or from each row of a matrix."""
    if not 1 <= len(input._shape) <= 2:
        raise RuntimeError("prob_dist must be 1 or 2 dim")

    def draw(weights: np.ndarray) -> np.ndarray:
        rows = weights.reshape(-1, weights.shape[-1]) if weights.ndim > 2 else weights  # of all examples of vmap
        found = draws.multinomial(stream(generator), rows, num_samples, replacement)
        return found.reshape(*weights.shape[:-1], num_samples)

    return _drawn_from(dt.int64, draw, input)


@public(out=True, event=False)
def bernoulli(input: Any, p: Any = None, *, generator: Any = None) -> Any:
    """Return 0 or 1, drawn with the probabilities in input (or p)."""
    d = input._dtype
    if p is None:
        if not d.is_floating_point:
            raise RuntimeError(f"\"bernoulli_tensor_cpu_p_\" not implemented for '{dt.scalar_name(d)}'")
        p = input
    if isinstance(p, Handle):
        each = p if p._shape == input._shape else wrap(broadcast(read(p), input._shape))
        return _drawn_from(d, lambda p: _bernoulli(p.shape, d, p, generator), each)
    return _made(input._shape, d, lambda s: _bernoulli(s, d, p, generator), None, False)


def _bernoulli(shape: Shape, d: dt.dtype, p: Any, generator: Any, **out: Any) -> np.ndarray:
    if isinstance(p, np.ndarray):
        p = _dense(p)
    _note()
    return _dense(draws.bernoulli(stream(generator), p, shape, d.np, **out))


@public(method=False, event=False)
def poisson(input: Any, generator: Any = None) -> Any:
    """Return Poisson numbers of the given rates."""
    return _drawn_from(input._dtype, lambda rate: draws.poisson(stream(generator), rate), input)


@public(method=False, event=False)
def binomial(count: Any, prob: Any, generator: Any = None) -> Any:
    """Return numbers of successes in `count` trials of probability `prob`."""

    def draw(count: np.ndarray, prob: np.ndarray) -> np.ndarray:
        return draws.binomial(stream(generator), *map(_dense, np.broadcast_arrays(count, prob)))

    return _drawn_from(count._dtype, draw, count, prob)


@public("_standard_gamma", method=False, event=False)
def standard_gamma(alpha: Any, generator: Any = None) -> Any:
    """Return gamma numbers of shape parameter `alpha` and scale 1."""
    return _drawn_from(alpha._dtype, lambda a: draws.standard_gamma(stream(generator), a), alpha)


@public("_sample_dirichlet", method=False, event=False)
def sample_dirichlet(alpha: Any, generator: Any = None) -> Any:
    """Return points of the simplex, with concentrations `alpha` along the last dimension."""
    _note()
    d = alpha._dtype
    weights = draws.standard_gamma(stream(generator), _dense(compute(alpha).astype(np.float64)))
    info = np.finfo(d.np)
    parts = (weights / weights.sum(-1, keepdims=True)).astype(d.np)
    return wrap_array(_dense(parts.clip(info.tiny, 1 - info.epsneg)), d)


def _ordered(shape: Shape, strides: Shape, draw: Callable[[Shape], np.ndarray]) -> np.ndarray:
    """Draw in the order of memory, and return the numbers in the order of dimensions."""
    order = sorted(range(len(shape)), key=lambda i: (-strides[i], i))
    a = draw(tuple(shape[d] for d in order))
    return _dense(np.transpose(a, [order.index(d) for d in range(len(shape))]))


def _like(name: str, draw: Callable) -> None:
    def fn(
        input: Any,
        *limits: Any,
        dtype: Any = None,
        layout: Any = None,
        device: Any = None,
        requires_grad: bool = False,
        memory_format: Any = None,
        generator: Any = None,
        pin_memory: bool = False,
        **named: Any,
    ) -> Any:
        d = dtype or input._dtype
        st = kept_strides(input._shape, input)
        if (device is None and input._storage.meta) or devices.resolve(device) is devices.META:
            return placed(wrap(full(input._shape, 0, d)), "meta", requires_grad)
        _note()
        if name == "randn_like":
            named["contiguous"] = st is None
        one = lambda s: draw(stream(generator), s, d, *limits, **named)
        if session.levels:
            return _made(input._shape, d, one, "cpu", requires_grad)
        a = _ordered(input._shape, st, one) if st else _dense(one(input._shape))
        return placed(wrap(given(a, d), st), "cpu", requires_grad)

    fn.__name__, fn.__doc__ = name, f"Return a tensor in the shape of input, filled as by {name[:-5]}."
    public(name, method=False, event=False)(fn)


def _randint_like(g: Mt19937, s: Shape, d: dt.dtype, low: Any = None, high: Any = None) -> np.ndarray:
    lo, hi = (0, low) if high is None else (low or 0, high)
    return draws.randint(g, s, int(scalar_of(lo)), int(scalar_of(hi)), d.np)


_like("rand_like", lambda g, s, d: draws.uniform(g, s, d.np))
_like("randn_like", lambda g, s, d, contiguous: draws.normal(g, s, d.np, contiguous=contiguous))
_like("randint_like", _randint_like)


def _fill(t: Any, draw: Callable[..., np.ndarray]) -> Any:
    """Write fresh numbers into a tensor, in place: those of draw(shape), or of draw(shape, out=memory)."""
    if session.depth:
        _note()
    elif not t._storage.meta:
        flush("numbers are drawn in place")
    check_inplace(t)
    if t._storage.meta:
        return t
    if own_draws():
        return assign(t, for_each(t._shape, lambda s: given(_dense(draw(s)), t._dtype)))
    if is_contiguous(t._shape, strides_of(t)):
        return assign(t, given(_dense(draw(t._shape, out=own_memory(t))), t._dtype))
    return assign(t, given(_ordered(t._shape, strides_of(t), draw), t._dtype))


@public(function=False, event=False)
def uniform_(self: Any, from_: float = 0.0, to: float = 1.0, *, generator: Any = None, **named: Any) -> Any:
    """Fill with numbers drawn uniformly from [from, to)."""
    lo = named.pop("from", from_)
    if lo > to:
        raise RuntimeError(
            f"uniform_ expects to return a [from, to) range, but found from={lo:g} > to={to:g}"
        )
    return _fill(self, lambda s, **o: draws.uniform(stream(generator), s, self._dtype.np, lo, to, **o))


@public(function=False, event=False)
def normal_(self: Any, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Any:
    """Fill with numbers drawn from a normal distribution."""
    plain = is_contiguous(self._shape, strides_of(self))
    return _fill(
        self,
        lambda s, **o: draws.normal(
            stream(generator), s, self._dtype.np, float(mean), float(std), contiguous=plain, **o
        ),
    )


@public(function=False, event=False)
def random_(self: Any, from_: Any = None, to: Any = None, *, generator: Any = None, **named: Any) -> Any:
    """Fill with integers from [from, to); without limits, from all that the dtype represents exactly."""
    low = named.pop("from", from_)
    if low is None and to is None:
        return _fill(self, lambda s, **o: draws.random(stream(generator), s, self._dtype.np, **o))
    if to is None and "from" not in named and from_ is not None:
        low, to = 0, low
    return _fill(
        self,
        lambda s, **o: draws.randint(
            stream(generator), s, int(low or 0), None if to is None else int(to), self._dtype.np, **o
        ),
    )


@public(function=False, event=False)
def bernoulli_(self: Any, p: Any = 0.5, *, generator: Any = None) -> Any:
    """Fill with 0 and 1, drawn with probability p (a number, or a tensor that broadcasts)."""
    if isinstance(p, Handle):
        wide = np.broadcast_to(compute(p), self._shape)
        order = sorted(range(len(self._shape)), key=lambda i: (-strides_of(self)[i], i))
        return _fill(self, lambda s, **o: _bernoulli(s, self._dtype, np.transpose(wide, order), generator, **o))
    return _fill(self, lambda s, **o: _bernoulli(s, self._dtype, float(p), generator, **o))


@public(function=False, event=False)
def exponential_(self: Any, lambd: float = 1.0, *, generator: Any = None) -> Any:
    """Fill with numbers drawn from an exponential distribution."""
    return _fill(self, lambda s, **o: draws.exponential(stream(generator), s, self._dtype.np, lambd, **o))


@public(function=False, event=False)
def geometric_(self: Any, p: float, *, generator: Any = None) -> Any:
    """Fill with numbers of trials up to the first success."""
    return _fill(self, lambda s, **o: draws.geometric(stream(generator), s, self._dtype.np, p, **o))


@public(function=False, event=False)
def cauchy_(self: Any, median: float = 0.0, sigma: float = 1.0, *, generator: Any = None) -> Any:
    """Fill with numbers drawn from a Cauchy distribution."""
    return _fill(self, lambda s, **o: draws.cauchy(stream(generator), s, self._dtype.np, median, sigma, **o))


@public(function=False, event=False)
def log_normal_(self: Any, mean: float = 1.0, std: float = 2.0, *, generator: Any = None) -> Any:
    """Fill with numbers whose logarithm is normal."""
    return _fill(self, lambda s, **o: draws.log_normal(stream(generator), s, self._dtype.np, mean, std, **o))


public("Generator", method=False, event=False)(Generator)
