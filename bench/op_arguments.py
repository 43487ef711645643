"""Arguments of operators at a small and a large size, from PyTorch's operator database.

Small: the largest of an entry's samples. Large: a sample whose shapes are enlarged until PyTorch needs some milliseconds
or a tensor has a million elements. Values are repeated, so indices and probabilities stay valid; PyTorch itself says
which way to enlarge gives a valid call. Where repeating makes no sense (matrices would become singular, a kernel would
grow with its image, sizes are numbers), `LARGE` has a maker, a function of the edge n of an n x n tensor.
"""
from __future__ import annotations

import fnmatch
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import randint, randn

ELEMENTS = 1 << 20
SECONDS = 0.003  # a call of the large size takes about this long, or has ELEMENTS elements


class Arguments(NamedTuple):
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def tensors(x: Any) -> list[torch.Tensor]:
    """Return the tensors in nested arguments or results."""
    if isinstance(x, torch.Tensor):
        return [x]
    return [t for i in (x.values() if isinstance(x, dict) else x) for t in tensors(i)] \
        if isinstance(x, (list, tuple, dict)) else []


def mapped(f: Callable[[Any], Any], x: Any) -> Any:
    """Apply `f` to what is in nested arguments; it returns None for what it leaves to this function."""
    y = f(x)
    if y is not None:
        return y
    if isinstance(x, dict):
        return {k: mapped(f, v) for k, v in x.items()}
    return type(x)(mapped(f, i) for i in x) if type(x) in (list, tuple) else x


def elements(x: Any) -> int:
    """Return the elements of the largest tensor in `x`."""
    return max((t.numel() for t in tensors(x)), default=0)


def samples(op: Any, dtype: torch.dtype) -> Iterator[Arguments]:
    """Yield the first samples of an entry that have elements and are not sparse."""
    def fits(call: Arguments) -> bool:
        found = tensors(call)
        return all(t.layout == torch.strided and t.device.type == "cpu" for t in found) and (not found or elements(call) > 0)
    calls = (Arguments((s.input, *s.args), s.kwargs) for s in op.sample_inputs("cpu", dtype))
    yield from itertools.islice(filter(fits, calls), 60)


def small(op: Any, name: str, dtype: torch.dtype) -> Arguments | None:
    """Return the arguments of the small size, or None for an entry that has none that are dense."""
    maker = maker_of(name)
    if maker is not None and name in NUMBERS:
        return made(maker, 10)
    return max(samples(op, dtype), key=elements, default=None)


def large(op: Any, name: str, dtype: torch.dtype, call: Arguments, run: Callable[..., Any]) -> Arguments | None:
    """Return the arguments of the large size, or None if there is no way to enlarge them."""
    maker = maker_of(name)
    if maker is not None:
        return grown(lambda k: made(maker, 16 * k), run)
    best = None
    candidates = sorted(itertools.islice(samples(op, dtype), 12), key=elements, reverse=True)
    for sample, way in itertools.product([call, *candidates[:3]], WAYS):
        found = grown(lambda k: way(sample, k), run)
        if found is not None and (best is None or elements(found) > elements(best)):
            best = found
        if best is not None and elements(best) >= ELEMENTS // 4:
            break
    return best if best is not None and elements(best) >= 32 * elements(call) else None


def grown(make: Callable[[int], Arguments], run: Callable[..., Any]) -> Arguments | None:
    """Return the first of make(2), make(4), ... that is large, or the last that is valid."""
    found = None
    for k in (2 ** i for i in range(1, 21)):
        try:
            call = make(k)
            if elements(call) > 4 * ELEMENTS:
                break
            begin = time.thread_time()
            result = run(*call.args, **call.kwargs)
        except Exception:
            break
        found, spent = call, time.thread_time() - begin
        if spent > SECONDS or max(elements(call), elements(result)) >= ELEMENTS:
            break
    return found


def made(maker: Callable[[int], tuple], n: int) -> Arguments:
    """Call a maker: it returns the arguments, the last one a dict if there are keywords."""
    torch.manual_seed(0)
    args = tuple(maker(n))  # results with names are no plain tuples
    return Arguments(args[:-1], args[-1]) if type(args[-1]) is dict else Arguments(args, {})


# ---- enlarging a sample k times in each direction

def _repeated(t: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    t = t.detach().resolve_conj().resolve_neg()
    tiled = t.repeat([-(-new // max(old, 1)) for new, old in zip(shape, t.shape)])
    return tiled[tuple(slice(n) for n in shape)].contiguous()


def every_size(call: Arguments, k: int, numbers: bool = False) -> Arguments:
    """Enlarge every dimension that is not 1; tuples of sizes among the arguments too, if asked."""
    sizes = {n for t in tensors(call) for n in t.shape if n > 2}

    def enlarged(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            dims = sum(n > 1 for n in x.shape)
            return _repeated(x, tuple(round(n * step) if n > 1 else 1 for n in x.shape)) if dims else x
        if numbers and type(x) in (tuple, list, torch.Size) and x and all(type(i) is int and i in sizes | {-1, 1} for i in x):
            return type(x)(round(i * step) if i > 1 else i for i in x)
        return None
    most = max((sum(n > 1 for n in t.shape) for t in tensors(call)), default=0)
    step = k ** (2 / most) if most else 1
    return mapped(enlarged, call._asdict()) and Arguments(*mapped(enlarged, call._asdict()).values())


def first_size(call: Arguments, k: int) -> Arguments:
    """Enlarge the first dimension of the tensors that share it with the first tensor."""
    n = tensors(call)[0].shape[0]
    f = lambda x: (_repeated(x, (n * k * k, *x.shape[1:])) if x.ndim and x.shape[0] == n else x) \
        if isinstance(x, torch.Tensor) else None
    return Arguments(*mapped(f, call._asdict()).values())


def last_size(call: Arguments, k: int) -> Arguments:
    """Enlarge the last dimension of the tensors that share it with the first tensor."""
    n = tensors(call)[0].shape[-1]
    f = lambda x: (_repeated(x, (*x.shape[:-1], n * k * k)) if x.ndim and x.shape[-1] == n else x) \
        if isinstance(x, torch.Tensor) else None
    return Arguments(*mapped(f, call._asdict()).values())


WAYS = (lambda c, k: every_size(c, k, numbers=True), every_size, first_size, last_size)


# ---- makers

def general(n: int) -> torch.Tensor:
    """A well-conditioned n x n matrix, smaller the more work is cubic."""
    return randn(n, n) / n ** 0.5 + 2 * torch.eye(n)


def definite(n: int) -> torch.Tensor:
    """A symmetric positive definite matrix."""
    a = randn(n, n)
    return a @ a.T / n + torch.eye(n)


def images(n: int, dims: int, channels: int = 16) -> torch.Tensor:
    """A batch of n * n elements with `channels` channels and `dims` dimensions of space."""
    batch = 4 if n >= 32 else 2
    edge = max(round((n * n / (batch * channels)) ** (1 / dims)), 6)
    return randn(batch, channels, *[edge] * dims)


def convolution(dims: int) -> Callable[[int], tuple]:
    return lambda n: (images(n, dims), randn(16, 16, *[3] * dims) / 16, randn(16), {"padding": 1})


def transposed(dims: int) -> Callable[[int], tuple]:
    return lambda n: (images(n, dims), randn(16, 16, *[3] * dims) / 16, randn(16), {"stride": 2})


def resized(mode: str, dims: int = 2, **options: Any) -> Callable[[int], tuple]:
    return lambda n: (images(n // 2, dims), {"scale_factor": 2.0, "mode": mode, **options})


def pooled(dims: int, *args: Any, **kwargs: Any) -> Callable[[int], tuple]:
    return lambda n: (images(n, dims), *args, kwargs)


def unpooled(dims: int) -> Callable[[int], tuple]:
    pool = getattr(torch.nn.functional, f"max_pool{dims}d")
    return lambda n: (*pool(images(n, dims), 2, return_indices=True), 2)


def sequence(n: int) -> torch.Tensor:
    return randn(max(n * n // 64, 64))


def attention(n: int) -> tuple:
    return tuple(randn(4, 4, n, 64) for _ in range(3))


def windows(n: int) -> tuple:
    return (n * n,)


def factored(n: int) -> tuple:
    return torch.linalg.lu_factor(general(n))


def indexed(n: int) -> tuple:
    return randn(n, n), -1, torch.randperm(n)


NUMBERS = {"arange", "linspace", "logspace", "ones", "zeros", "full", "empty", "eye", "randn", "randint", "triu_indices",
           "tril_indices", "new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided", "empty_strided",
           "empty_permuted", *(f"signal.windows.{w}" for w in (
               "hamming", "hann", "bartlett", "blackman", "cosine", "exponential", "gaussian", "kaiser", "general_cosine",
               "general_hamming", "nuttall"))}

LARGE: dict[str, Callable[[int], tuple]] = {
    # sizes that are numbers
    "arange": windows, "linspace": lambda n: (0, 1, n * n), "logspace": lambda n: (0, 1, n * n),
    "ones": lambda n: ((n, n),), "zeros": lambda n: ((n, n),), "full": lambda n: ((n, n), 1.5),
    "empty": lambda n: ((n, n),), "eye": lambda n: (n,), "randn": lambda n: ((n, n),),
    "randint": lambda n: (10, (n, n)), "tri[ul]_indices": lambda n: (n, n),
    "new_zeros": lambda n: (randn(2), (n, n)), "new_ones": lambda n: (randn(2), (n, n)),
    "new_empty": lambda n: (randn(2), (n, n)), "new_full": lambda n: (randn(2), (n, n), 1.5),
    "new_empty_strided": lambda n: (randn(2), (n, n), (1, n)), "empty_strided": lambda n: ((n, n), (1, n)),
    "empty_permuted": lambda n: ((n, n), (1, 0)),
    "signal.windows.general_cosine": lambda n: (n * n, {"a": [0.46, 0.23, 0.31]}), "signal.windows.*": windows,
    # matrices
    "linalg.*solve_triangular": lambda n: (general(n).triu(), randn(n, n), {"upper": True}),
    "triangular_solve": lambda n: (randn(n, n), general(n).triu()),
    "linalg.solve*": lambda n: (general(n), randn(n, 16)),
    "linalg.lu_solve": lambda n: (*factored(n), randn(n, 16)),
    "lu_solve": lambda n: (randn(n, 16), *factored(n)),
    "lu_unpack": factored,
    "cholesky_solve": lambda n: (randn(n, 16), torch.linalg.cholesky(definite(n))),
    "cholesky_inverse": lambda n: (torch.linalg.cholesky(definite(n)),),
    "*cholesky*": lambda n: (definite(n),),
    "linalg.ldl_solve": lambda n: (*torch.linalg.ldl_factor(definite(n)), randn(n, 16)),
    "linalg.ldl*": lambda n: (definite(n),),
    "linalg.lstsq*": lambda n: (randn(2 * n, n), randn(2 * n, 4)),
    "linalg.householder_product": lambda n: torch.geqrf(randn(n, n)),
    "ormqr": lambda n: (*torch.geqrf(randn(n, n)), randn(n, n)),
    "linalg.eigh": lambda n: (definite(n),), "linalg.eigvalsh": lambda n: (definite(n),),
    "linalg.*(hermitian)": lambda n: (definite(n), {"hermitian": True}),
    "linalg.pinv (singular)": lambda n: (randn(n, n // 4), randn(n, n // 4)),
    "linalg.matrix_power": lambda n: (general(n), 5),
    "linalg.multi_dot": lambda n: ([randn(n, n // 2), randn(n // 2, n), randn(n, n)],),
    "linalg.tensorinv": lambda n: (general(n).reshape(n, 4, n // 4), {"ind": 1}),
    "linalg.tensorsolve": lambda n: (general(n).reshape(n, 4, n // 4), randn(n)),
    **dict.fromkeys(["linalg.inv*", "linalg.det", "linalg.slogdet", "logdet", "linalg.lu*", "lu", "linalg.eig*",
                     "linalg.cond", "linalg.matrix_rank", "linalg.pinv", "pinverse", "linalg.svd*", "svd", "linalg.qr",
                     "qr", "geqrf", "linalg.matrix_exp", "matrix_exp"], lambda n: (general(n),)),
    # kernels that slide over images
    **{f"nn.functional.conv{d}d": convolution(d) for d in (1, 2, 3)},
    **{f"nn.functional.conv_transpose{d}d": transposed(d) for d in (1, 2, 3)},
    **{f"nn.functional.avg_pool{d}d": pooled(d, 3, 2, 1) for d in (1, 2, 3)},
    **{f"nn.functional.max_pool{d}d": pooled(d, 3, 2, 1) for d in (1, 2, 3)},
    **{f"nn.functional.adaptive_*_pool{d}d": pooled(d, 5) for d in (1, 2, 3)},
    **{f"nn.functional.lp_pool{d}d": pooled(d, 2.0, 3) for d in (1, 2, 3)},
    **{f"nn.functional.fractional_max_pool{d}d": pooled(d, 2, output_ratio=0.5) for d in (2, 3)},
    **{f"nn.functional.max_unpool{d}d*": unpooled(d) for d in (1, 2, 3)},
    "nn.functional.interpolate (linear)": resized("linear", 1),
    "nn.functional.interpolate (trilinear)": resized("trilinear", 3),
    **{f"nn.functional.interpolate ({m})": resized(m) for m in
       ("nearest", "nearest-exact", "bilinear", "bicubic", "area")},
    "nn.functional.upsample_*": lambda n: (images(n // 2, 2), {"scale_factor": 2}),
    "nn.functional.unfold": lambda n: (images(n // 3, 2), 3, {"padding": 1}),
    "nn.functional.fold": lambda n: (randn(4, 36, (n // 12) ** 2), (n // 12 + 2, n // 12 + 2), 3),
    "nn.functional.grid_sample": lambda n: (images(n, 2), torch.rand(4, n // 8, n // 8, 2) * 2 - 1, {"align_corners": False}),
    "nn.functional.affine_grid": lambda n: (randn(4, 2, 3), (4, 1, n // 2, n // 2), {"align_corners": False}),
    "nn.functional.pixel_shuffle": lambda n: (images(n, 2), 4),
    "nn.functional.pixel_unshuffle": lambda n: (randn(4, 4, n // 4 * 2, n // 4 * 2), 2),
    "nn.functional.channel_shuffle": lambda n: (images(n, 2), 4),
    "nn.functional.local_response_norm": lambda n: (images(n, 2), 5),
    # networks
    "nn.functional.layer_norm": lambda n: (randn(n, n), (n,), randn(n), randn(n)),
    "native_layer_norm": lambda n: (randn(n, n), (n,), randn(n), randn(n), 1e-5),
    "nn.functional.rms_norm": lambda n: (randn(n, n), (n,), randn(n)),
    "nn.functional.linear": lambda n: (randn(n, n), randn(n, n), randn(n)),
    "nn.functional.bilinear": lambda n: (randn(n, 32), randn(n, 32), randn(16, 32, 32), randn(16)),
    "nn.functional.scaled_dot_product_attention": attention,
    "nn.functional.multi_head_attention_forward": lambda n: (
        randn(n, 4, 64), randn(n, 4, 64), randn(n, 4, 64), 64, 4, randn(192, 64) / 8, randn(192), None, None, False, 0.0,
        randn(64, 64) / 8, randn(64)),
    "nn.functional.linear_cross_entropy*": lambda n: (randn(n, 64), randn(n, 64) / 8, randint(n, (n,))),
    "nn.functional.cross_entropy": lambda n: (randn(n, n), randint(n, (n,))),
    "nn.functional.nll_loss": lambda n: (randn(n, n), randint(n, (n,))),
    "nn.functional.ctc_loss": lambda n: (
        randn(50, n // 4, 20).log_softmax(-1), randint(1, 20, (n // 4, 20)), (50,) * (n // 4), (20,) * (n // 4)),
    "nn.functional.embedding": lambda n: (randint(n, (n, n // 8)), randn(n, 64)),
    "nn.functional.embedding_bag": lambda n: (randint(n, (n, 16)), randn(n, 64)),
    "nn.functional.one_hot": lambda n: (randint(64, (n * n // 64,)), 64),
    "nn.functional.pdist": lambda n: (randn(n, 32),),
    "cdist": lambda n: (randn(n, 32), randn(n, 32)),
    # indices
    "index_select": indexed, "index_fill": lambda n: (*indexed(n), 2.0),
    "index_copy": lambda n: (*indexed(n), randn(n, n)), "index_add": lambda n: (*indexed(n), randn(n, n)),
    "index_put": lambda n: (randn(n, n), (torch.randperm(n),), randn(n, n)),
    "gather": lambda n: (randn(n, n), 0, randint(n, (n, n))),
    "take": lambda n: (randn(n, n), randint(n * n, (n, n))),
    "take_along_dim": lambda n: (randn(n, n), randint(n, (n, n)), 0),
    "put": lambda n: (randn(n, n), torch.randperm(n * n), randn(n * n)),
    "scatter": lambda n: (randn(n, n), 0, randn(n, n).argsort(0), randn(n, n)),
    "scatter_add": lambda n: (randn(n, n), 0, randint(n, (n, n)), randn(n, n)),
    **{f"scatter_reduce ({r})": lambda n, r=r: (randn(n, n), 0, randint(n, (n, n)), randn(n, n), r)  # type: ignore[misc]
       for r in ("sum", "prod", "mean", "amin", "amax")},
    "repeat_interleave": lambda n: (randn(n, n), 2, {"dim": 1}),
    "searchsorted": lambda n: (sequence(n).sort().values, sequence(n)),
    "bucketize": lambda n: (sequence(n), sequence(n).sort().values),
    "bincount": lambda n: (randint(1000, (n * n,)),),
    "histc": lambda n: (randn(n, n), 100, -3, 3), "histogram": lambda n: (randn(n * n), 100),
    "histogramdd": lambda n: (randn(n * n // 2, 2), [20, 20]),
    "unique": lambda n: (randint(n, (n * n,)),), "unique_consecutive": lambda n: (randint(4, (n * n,)),),
    "unravel_index": lambda n: (randint(n * n, (n * n,)), (n, n)),
    "multinomial": lambda n: (torch.rand(n, 64), 16),
    "as_strided": lambda n: (randn(n * n), (n, n), (1, n)), "as_strided_copy": lambda n: (randn(n * n), (n, n), (1, n)),
    "as_strided (partial_views)": lambda n: (randn(n * n), (n // 2, n), (1, n)),
    "as_strided_scatter": lambda n: (randn(n * n), randn(n, n), (n, n), (1, n)),
    # products, combinations, transforms
    "mm": lambda n: (general(n), general(n)), "matmul": lambda n: (general(n), general(n)),
    "__rmatmul__": lambda n: (general(n), general(n)),
    "addmm*": lambda n: (randn(n, n), general(n), general(n)),
    "bmm*": lambda n: (randn(16, n // 4, n // 4), randn(16, n // 4, n // 4)),
    "baddbmm": lambda n: tuple(randn(16, n // 4, n // 4) for _ in range(3)),
    "addbmm": lambda n: (randn(n // 4, n // 4), randn(16, n // 4, n // 4), randn(16, n // 4, n // 4)),
    "tensordot": lambda n: (randn(n, n // 8, 8), randn(n // 8, 8, n), {"dims": 2}),
    "einsum": lambda n: ("bij,bjk->bik", randn(16, n // 4, n // 4), randn(16, n // 4, n // 4)),
    "inner": lambda n: (randn(n, n), randn(n, n)), "outer": lambda n: (randn(n), randn(n)),
    "kron": lambda n: (randn(n // 8, n // 8), randn(8, 8)),
    "cartesian_prod": lambda n: (randn(n), randn(n)), "combinations": lambda n: (randn(n),),
    "meshgrid (variadic_tensors)": lambda n: (randn(n), randn(n), {"indexing": "ij"}),
    "meshgrid (list_of_tensors)": lambda n: ([randn(n), randn(n)], {"indexing": "ij"}),
    "broadcast_tensors": lambda n: (randn(n, 1), randn(n)), "block_diag": lambda n: (randn(n // 2, n // 2), randn(n // 2, n // 2)),
    "diagflat": lambda n: (randn(n),), "diag_embed": lambda n: (randn(8, n // 2),),
    "linalg.vander": lambda n: (randn(n * n // 16), {"N": 16}), "vander": lambda n: (randn(n * n // 16), 16),
    "stft": lambda n: (randn(4, n * n // 8), 256, {"window": torch.hann_window(256), "return_complex": True}),
    "istft": lambda n: (torch.stft(randn(4, n * n // 8), 256, window=torch.hann_window(256), return_complex=True), 256,
                        {"window": torch.hann_window(256)}),
    **{f"fft.{inverse}{kind}fft": lambda n: (randn(n, n),) for inverse in ("", "i") for kind in ("", "r", "h")},
    **{f"fft.{inverse}{kind}fft{d}": lambda n: (randn(n, n),) for inverse in ("", "i") for kind in ("", "r", "h") for d in "2n"},
    "trapz": lambda n: (randn(n, n),), "trapezoid": lambda n: (randn(n, n),), "cumulative_trapezoid": lambda n: (randn(n, n),),
    "tile": lambda n: (randn(n, n // 4), (1, 4)), "repeat": lambda n: (randn(n, n // 4), (1, 4)),
    "unflatten": lambda n: (randn(n, n), 1, (n // 4, 4)),
    "quantile": lambda n: (randn(n, n), 0.5, {"dim": 1}), "nanquantile": lambda n: (randn(n, n), 0.5, {"dim": 1}),
}

def maker_of(name: str) -> Callable[[int], tuple] | None:
    """Return the maker of an entry: the first whose pattern fits."""
    return next((m for pattern, m in LARGE.items() if name == pattern or fnmatch.fnmatch(name, pattern)), None)


def shapes(call: Arguments) -> str:
    """Write the shapes of a call in a few words."""
    def text(x: Any) -> str:
        if isinstance(x, torch.Tensor):
            return "x".join(map(str, x.shape)) or "0-d"
        if isinstance(x, (list, tuple)):
            return "(" + " ".join(map(text, x[:6])) + ("" if len(x) <= 6 else " ...") + ")"
        return f"{x:.4g}" if isinstance(x, float) and math.isfinite(x) else str(x)
    words = [text(a) for a in call.args] + [f"{k}={text(v)}" for k, v in call.kwargs.items() if k not in ("device", "dtype")]
    return " ".join(words)[:100]
