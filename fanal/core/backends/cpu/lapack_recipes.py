"""How each use of the row `lapack` is done by LAPACK.

A recipe says which routines are called, what space they need, and how the parts of one result come about. Matrices here
are row-major, LAPACK's are column-major: what lies in memory as A is A^T to LAPACK. Where the transposed problem
gives the same parts (Cholesky, inverse, singular values, triangular systems), nothing is turned.

Source: LAPACK Users' Guide (Anderson et al., 1999); workspaces as its reference implementation documents them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fanal.core.backends.cpu.irtext import Value
from fanal.core.backends.cpu.lapack_ir import Caller
from fanal.core.base.dtype import dtype as DType

_BLOCK = 64  # columns that LAPACK works on at a time: workspace for more brings nothing


class Sizes(NamedTuple):
    """The first operand is (m, n), the last (., k)."""

    m: int
    n: int
    k: int
    dtype: DType

    @property
    def least(self) -> int:
        return min(self.m, self.n)

    def elements(self, count: int) -> int:
        return count * self.dtype.itemsize

    def reals(self, count: int) -> int:
        return count * self.dtype.to_real().itemsize

    def singular(self) -> list[int]:
        """A copy, singular values, and what gesdd needs: work, rwork, iwork."""
        low, high = self.least, max(self.m, self.n)
        work = 4 * low * low + 7 * low + high + _BLOCK * (self.m + self.n)
        rwork = max(5 * low * low + 7 * low, 2 * high * low + 2 * low * low + low)
        return [self.elements(self.m * self.n), self.reals(low), self.elements(work), self.reals(rwork), 64 * low]


class Recipe(NamedTuple):
    """calls: (complex, *options) -> names of routines, without the letter of the dtype. spaces: (Sizes, *options) ->
    bytes of each piece of memory. emit: (Caller, *options) writes one matrix."""

    calls: Callable[..., tuple[str, ...]]
    spaces: Callable[..., list[int]]
    emit: Callable[..., None]


RECIPES: dict[str, Recipe] = {}


def _recipe(name: str, calls: Callable[..., tuple[str, ...]], spaces: Callable[..., list[int]]) -> Callable:
    def register(emit: Callable[..., None]) -> Callable[..., None]:
        RECIPES[name] = Recipe(calls, spaces, emit)
        return emit

    return register


# Systems of equations.


@_recipe("cholesky", lambda c: ("potrf",), lambda s: [])
def _cholesky(e: Caller) -> None:
    w, n, out = e.w, e.n, e.part(e.n, e.n)
    e.copy(out, e.inputs[0], n, n)
    e.call(0, e.char("U"), e.int(n), out, e.int(n), e.info, letters=1)
    e.clear(out, n, n, above=True)

    def minor(i: Value, first: Value) -> tuple:  # NaN passes through LAPACK unnoticed
        x = e.load_real(out, w.mul(w.mul(i, w.add(n, "1")), str(e.parts)))
        bad = w.let(f"and i1 {w.let(f'fcmp ule {e.real} {x}, 0.0')}, {w.let(f'icmp eq i64 {first}, 0')}")
        return (w.select(bad, w.add(i, "1"), first),)

    (found,) = w.loop("0", n, "1", minor, [("i64", e.failed())])
    e.finish(found, (out, w.mul(n, n)))


@_recipe("from_cholesky", lambda c, upper: ("potri",), lambda s, upper: [])
def _from_cholesky(e: Caller, upper: bool) -> None:
    w, n, out = e.w, e.n, e.part(e.n, e.n)
    e.copy(out, e.inputs[0], n, n)
    e.call(0, e.char("L" if upper else "U"), e.int(n), out, e.int(n), e.info, letters=1)

    def mirror(r: Value, c: Value) -> None:
        places = [w.mul(w.add(w.mul(i, n), j), str(e.parts)) for i, j in ((r, c), (c, r))]
        of, to = places[::-1] if upper else places
        e.store_real(out, to, e.load_real(out, of))
        if e.complex:
            e.store_real(out, w.add(to, "1"), w.let(f"fneg {e.real} {e.load_real(out, w.add(of, '1'))}"))

    e.each(n, lambda r: e.each(r, lambda c: mirror(r, c)))
    e.finish(e.failed(), (out, w.mul(n, n)))


def _factored(e: Caller, at: Value, pivots: Value, again: Value) -> Value:
    """Factor what lies at `at`, A^T to LAPACK; return info, which is that of the factors of A itself."""
    n = e.int(e.n)
    e.call(0, n, n, at, n, pivots, e.info)

    def place() -> None:
        e.turn(again, e.inputs[0], e.n, e.n)
        e.call(0, n, n, again, n, pivots, e.info)
        e.store_int(e.info, "0", e.w.max(e.failed(), "1"))

    e.w.when(e.w.let(f"icmp ne i64 {e.failed()}, 0"), place)
    return e.failed()


@_recipe("inverse", lambda c: ("getrf", "getri"),
         lambda s: [8 * s.n, s.elements(s.n * s.n), s.elements(_BLOCK * s.n)])
def _inverse(e: Caller) -> None:
    n, out, (pivots, again, work) = e.n, e.part(e.n, e.n), e.spaces
    e.copy(out, e.inputs[0], n, n)
    info = _factored(e, out, pivots, again)
    length = e.int(e.w.mul(n, str(_BLOCK)))
    regular = e.w.let(f"icmp eq i64 {info}, 0")
    by = e.int(n)
    e.w.when(regular, lambda: e.call(1, by, out, by, pivots, work, length, e.info))
    e.finish(info, (out, e.w.mul(n, n)))


@_recipe("solve", lambda c: ("getrf", "getrs"),
         lambda s: [8 * s.n, s.elements(s.n * s.n), s.elements(s.n * s.n), s.elements(s.n * s.k)])
def _solve(e: Caller) -> None:
    n, k, out, (pivots, a, again, x) = e.n, e.k, e.part(e.n, e.k), e.spaces
    e.copy(a, e.inputs[0], n, n)
    info = _factored(e, a, pivots, again)
    e.turn(x, e.inputs[1], n, k)
    by = e.int(n)
    e.call(1, e.char("T"), by, e.int(k), a, by, pivots, x, by, e.info, letters=1)
    e.turn(out, x, k, n)
    e.finish(info, (out, e.w.mul(n, k)))


@_recipe("triangular", lambda c, upper, unit: ("trsm",), lambda s, upper, unit: [])
def _triangular(e: Caller, upper: bool, unit: bool) -> None:
    out = e.part(e.n, e.k)
    e.copy(out, e.inputs[1], e.n, e.k)
    letters = [e.char(c) for c in ("R", "L" if upper else "U", "N", "U" if unit else "N")]
    k, n = e.int(e.k), e.int(e.n)
    e.call(0, *letters, k, n, e.one(), e.inputs[0], n, out, k, letters=4)


@_recipe("lu", lambda c: ("getrf",), lambda s: [8 * s.least, s.elements(s.m * s.n)])
def _lu(e: Caller) -> None:
    m, n, (pivots, a) = e.m, e.n, e.spaces
    least = e.w.min(m, n)
    out, places = e.part(m, n), e.part(least)
    e.turn(a, e.inputs[0], m, n)
    rows = e.int(m)
    e.call(0, rows, e.int(n), a, rows, pivots, e.info)
    e.turn(out, a, n, m)
    e.put_ints(places, pivots, least)
    e.finish(e.failed())


@_recipe("row_order", lambda c, rows, back: (), lambda s, rows, back: [8 * rows])
def _row_order(e: Caller, rows: int, back: bool) -> None:
    w, (order,) = e.w, e.spaces
    e.each(e.width, lambda i: e.store_int(order, i, i))

    def exchange(i: Value) -> None:
        p = w.max(w.min(w.sub(e.get_int(e.inputs[0], i), "1"), w.sub(e.width, "1")), "0")
        x, y = e.load_int(order, i), e.load_int(order, p)
        e.store_int(order, p, x)
        e.store_int(order, i, y)

    def store(i: Value) -> None:
        to = e.load_int(order, i)
        e.put_int(e.result, *((to, i) if back else (i, to)))

    e.each(e.n, exchange)
    e.each(e.width, store)


@_recipe("ldl", lambda c, hermitian: ("hetrf" if c and hermitian else "sytrf",),
         lambda s, hermitian: [8 * s.n, s.elements(s.n * s.n), s.elements(_BLOCK * s.n)])
def _ldl(e: Caller, hermitian: bool) -> None:
    n, (pivots, a, work) = e.n, e.spaces
    out, places = e.part(n, n), e.part(n)
    e.turn(a, e.inputs[0], n, n)
    size = e.int(n)
    e.call(0, e.char("L"), size, a, size, pivots, work, e.int(e.w.mul(n, str(_BLOCK))), e.info, letters=1)
    e.turn(out, a, n, n)
    e.clear(out, n, n, above=True)
    e.put_ints(places, pivots, n)
    e.finish(e.failed())


@_recipe("ldl_solve", lambda c, hermitian: ("hetrs" if c and hermitian else "sytrs",),
         lambda s, hermitian: [8 * s.n, s.elements(s.n * s.n), s.elements(s.n * s.k)])
def _ldl_solve(e: Caller, hermitian: bool) -> None:
    n, k, (pivots, f, x) = e.n, e.k, e.spaces
    e.turn(f, e.inputs[0], n, n)
    e.each(n, lambda i: e.store_int(pivots, i, e.get_int(e.inputs[1], i)))
    e.turn(x, e.inputs[2], n, k)
    size = e.int(n)
    e.call(0, e.char("L"), size, e.int(k), f, size, pivots, x, size, e.info, letters=1)
    e.turn(e.part(n, k), x, k, n)


# Orthogonal factors.


@_recipe("qr", lambda c, full: ("geqrf", "orgqr"),
         lambda s, full: [s.elements(s.m * max(s.m, s.n)), s.elements(s.least), s.elements(_BLOCK * max(s.m, s.n))])
def _qr(e: Caller, full: bool) -> None:
    w, m, n, (a, tau, work) = e.w, e.m, e.n, e.spaces
    least = w.min(m, n)
    cols = m if full else least
    q, r = e.part(m, cols), e.part(cols, n)
    e.turn(a, e.inputs[0], m, n)
    rows, length = e.int(m), e.int(w.mul(w.max(m, n), str(_BLOCK)))
    e.call(0, rows, e.int(n), a, rows, tau, work, length, e.info)
    e.turn(r, a, n, cols, step=m)
    e.clear(r, cols, n, above=False)
    e.call(1, rows, e.int(cols), e.int(least), a, rows, tau, work, length, e.info)
    e.turn(q, a, cols, m)


@_recipe("least_squares", lambda c: ("gelsy",),
         lambda s: [s.elements(s.m * s.n), s.elements(max(s.m, s.n) * s.k), 8 * s.n, 8,
                    s.elements(2 * s.least + 2 * s.n + _BLOCK * (s.n + s.k + 1)), s.reals(2 * s.n)])
def _least_squares(e: Caller) -> None:
    w, m, n, k, (a, x, places, rank, work, rwork) = e.w, e.m, e.n, e.k, e.spaces
    high = w.max(m, n)
    e.turn(a, e.inputs[0], m, n)
    e.turn(x, e.inputs[2], m, k, to_step=high)
    e.each(n, lambda i: e.store_int(places, i, "0"))  # every column may be exchanged
    length = w.add(w.mul(w.add(w.min(m, n), n), "2"), w.mul(w.add(w.add(n, k), "1"), str(_BLOCK)))
    rows = e.int(m)
    e.call(0, rows, e.int(n), e.int(k), a, rows, x, e.int(high), places, e.inputs[1], rank, work, e.int(length),
           *([rwork] if e.complex else []), e.info)
    e.turn(e.part(n, k), x, k, n, step=high)
    e.put_int(e.part("1"), "0", e.load_int(rank, "0"))


@_recipe("reflectors", lambda c: ("geqrf",), lambda s: [s.elements(s.m * s.n), s.elements(_BLOCK * s.n)])
def _reflectors(e: Caller) -> None:
    w, m, n, (a, work) = e.w, e.m, e.n, e.spaces
    h, tau = e.part(m, n), e.part(w.min(m, n))
    e.turn(a, e.inputs[0], m, n)
    rows = e.int(m)
    e.call(0, rows, e.int(n), a, rows, tau, work, e.int(w.mul(n, str(_BLOCK))), e.info)
    e.turn(h, a, n, m)


# Spectra.


def _eigh_spaces(s: Sizes) -> list[int]:
    n = s.n
    square = s.elements(n * n)
    work, rwork = s.elements(2 * n * n + (_BLOCK + 6) * n + 1), s.reals(2 * n * n + 5 * n + 1)
    return [square, s.reals(n), work, rwork, 8 * (5 * n + 3)]


def _symmetric(e: Caller, vectors: bool) -> None:
    w, n, (a, values, work, rwork, iwork) = e.w, e.n, e.spaces
    e.turn(a, e.inputs[0], n, n)
    square, size = w.mul(w.mul(n, n), "2"), e.int(n)
    lengths = [w.add(w.add(square, w.mul(n, str(_BLOCK + 6))), "1"), w.add(w.add(square, w.mul(n, "5")), "1"),
               w.add(w.mul(n, "5"), "3")]
    tail: list[Value] = [work, e.int(lengths[0])]
    if e.complex:
        tail += [rwork, e.int(lengths[1])]
    e.call(0, e.char("V" if vectors else "N"), e.char("L"), size, a, size, values, *tail, iwork, e.int(lengths[2]),
           e.info, letters=2)
    parts = [(e.part(n), n)]
    e.put_reals(parts[0][0], values, n)
    if vectors:
        parts.append((e.part(n, n), w.mul(n, n)))
        e.turn(parts[1][0], a, n, n)
    e.finish(e.failed(), *parts)


for _name, _vectors in (("eigh", True), ("eigvalsh", False)):
    _recipe(_name, lambda c: ("syevd",), _eigh_spaces)(lambda e, vectors=_vectors: _symmetric(e, vectors))


@_recipe("svd", lambda c, full: ("gesdd",), lambda s, full: s.singular())
def _svd(e: Caller, full: bool) -> None:
    w, m, n, (a, values, work, rwork, iwork) = e.w, e.m, e.n, e.spaces
    least = w.min(m, n)
    rows, cols = (m, n) if full else (least, least)
    u, s, vh = e.part(m, rows), e.part(least), e.part(cols, n)
    e.copy(a, e.inputs[0], m, n)
    _gesdd(e, "A" if full else "S", a, values, (vh, e.int(n), u, e.int(rows)), work, rwork, iwork)
    e.put_reals(s, values, least)
    e.finish(_converged(e), (u, w.mul(m, rows)), (s, least), (vh, w.mul(cols, n)))


@_recipe("svdvals", lambda c: ("gesdd",), lambda s: s.singular())
def _svdvals(e: Caller) -> None:
    least, (a, values, work, rwork, iwork) = e.w.min(e.m, e.n), e.spaces
    s = e.part(least)
    e.copy(a, e.inputs[0], e.m, e.n)
    none = e.int("1")
    _gesdd(e, "N", a, values, (a, none, a, none), work, rwork, iwork)
    e.put_reals(s, values, least)
    e.finish(_converged(e), (s, least))


def _gesdd(e: Caller, job: str, a: Value, values: Value, vectors: tuple, work: Value, rwork: Value,
           iwork: Value) -> None:
    w, low, high = e.w, e.w.min(e.m, e.n), e.w.max(e.m, e.n)
    length = w.add(w.add(w.mul(w.mul(low, low), "4"), w.mul(low, "7")),
                   w.add(high, w.mul(w.add(e.m, e.n), str(_BLOCK))))
    rows = e.int(e.n)
    e.call(0, e.char(job), rows, e.int(e.m), a, rows, values, *vectors, work, e.int(length),
           *([rwork] if e.complex else []), iwork, e.info, letters=1)


def _converged(e: Caller) -> Value:
    """Return info, where NaN in the matrix, a wrong argument to LAPACK, counts as a failure."""
    found = e.failed()
    return e.w.select(e.w.let(f"icmp slt i64 {found}, 0"), "1", found)


def _eig_spaces(s: Sizes) -> list[int]:
    square = s.elements(s.n * s.n)
    return [square, square, 2 * s.elements(s.n), s.elements((_BLOCK + 8) * s.n), s.reals(2 * s.n)]


def _general(e: Caller, vectors: bool) -> None:
    w, n, (a, v, values, work, rwork) = e.w, e.n, e.spaces
    count = w.mul(n, n)

    def finite(i: Value, all_: Value) -> tuple:  # LAPACK may not end on what is not
        x = e.load_real(e.inputs[0], i)
        zero = w.let(f"fcmp oeq {e.real} {w.let(f'fsub {e.real} {x}, {x}')}, 0.0")
        return (w.let(f"and i1 {all_}, {zero}"),)

    (sound,) = w.loop("0", w.mul(count, str(e.parts)), "1", finite, [("i1", "true")])
    e.turn(a, e.inputs[0], n, n)
    size, one = e.int(n), e.int("1")
    imaginary = w.at(values, n, e.real_size)
    found, tail = ([values], [rwork]) if e.complex else ([values, imaginary], [])
    operands = (e.char("N"), e.char("V" if vectors else "N"), size, a, size, *found, v, one, v, size, work,
                e.int(w.mul(n, str(_BLOCK + 8))), *tail, e.info)
    w.when(sound, lambda: e.call(0, *operands, letters=2), lambda: e.store_int(e.info, "0", "1"))
    real, e.complex, e.parts, e.size = not e.complex, True, 2, 2 * e.real_size  # results are complex
    parts = [(e.part(n), n)]
    if real:
        e.each(n, lambda i: e.put(parts[0][0], i, e.load_real(values, i), e.load_real(imaginary, i)))
    else:
        e.copy(parts[0][0], values, n)
    if vectors:
        parts.append((e.part(n, n), count))
        if real:
            _conjugate_pairs(e, parts[1][0], v, imaginary)
        else:
            e.turn(parts[1][0], v, n, n)
    e.finish(e.failed(), *parts)


def _conjugate_pairs(e: Caller, out: Value, v: Value, imaginary: Value) -> None:
    """Store eigenvectors of a real matrix: of a pair, one column has the real parts and the next the imaginary."""
    w = e.w

    def column(j: Value) -> None:
        y = e.load_real(imaginary, j)
        first, second = w.let(f"fcmp ogt {e.real} {y}, 0.0"), w.let(f"fcmp olt {e.real} {y}, 0.0")
        re = w.select(second, w.sub(j, "1"), j)
        im = w.select(first, w.add(j, "1"), j)

        def row(i: Value) -> None:
            x = e.load_real(v, w.add(w.mul(im, e.n), i))
            turned = w.select(second, w.let(f"fneg {e.real} {x}"), "0.0", e.real)
            x = w.select(first, x, turned, e.real)
            e.put(out, w.add(w.mul(i, e.n), j), e.load_real(v, w.add(w.mul(re, e.n), i)), x)

        e.each(e.n, row)

    e.each(e.n, column)


for _name, _vectors in (("eig", True), ("eigvals", False)):
    _recipe(_name, lambda c: ("geev",), _eig_spaces)(lambda e, vectors=_vectors: _general(e, vectors))


# Determinants.


def _product(e: Caller, normed: bool) -> tuple[Value, Value, Value]:
    """Factor, and return the product of the pivots (real, imaginary), each of them of length 1 if `normed`, and the
    sum of their logarithms, in double precision."""
    w, n, real, (a, pivots) = e.w, e.n, e.real, e.spaces
    e.copy(a, e.inputs[0], n, n)
    size = e.int(n)
    e.call(0, size, size, a, size, pivots, e.info)

    def turn(i: Value, re: Value, im: Value, total: Value) -> tuple:
        at = w.mul(w.mul(i, w.add(n, "1")), str(e.parts))
        x, y = e.load_real(a, at), e.load_real(a, w.add(at, "1")) if e.complex else "0.0"
        if normed:
            x, y, total = _unit(e, x, y, total)
        swapped = w.let(f"icmp ne i64 {e.load_int(pivots, i)}, {w.add(i, '1')}")
        x, y = (v if v == "0.0" else w.select(swapped, w.let(f"fneg {real} {v}"), v, real) for v in (x, y))
        if not e.complex:
            return w.let(f"fmul {real} {re}, {x}"), im, total
        products = [w.let(f"fmul {real} {p}, {q}") for p, q in ((re, x), (im, y), (re, y), (im, x))]
        return (w.let(f"fsub {real} {products[0]}, {products[1]}"),
                w.let(f"fadd {real} {products[2]}, {products[3]}"), total)

    re, im, total = w.loop("0", n, "1", turn, [(real, "1.0"), (real, "0.0"), ("double", "0.0")])
    return re, im, total


def _unit(e: Caller, x: Value, y: Value, total: Value) -> tuple[Value, Value, Value]:
    w, real = e.w, e.real
    wide = [w.cast(real, "double", v) for v in ((x, y) if e.complex else (x,))]
    if e.complex:
        size = w.call("double", "hypot", *(("double", v) for v in wide))
        zero = w.let(f"fcmp oeq double {size}, 0.0")
        found = [w.cast("double", real, w.let(f"fdiv double {v}, {size}")) for v in wide]
        x, y = (w.select(zero, "0.0", v, real) for v in found)
    else:
        size = w.call("double", "llvm.fabs.f64", ("double", wide[0]))
        sign = w.call(real, f"llvm.copysign.{'f32' if real == 'float' else 'f64'}", (real, "1.0"), (real, x))
        x = w.select(w.let(f"fcmp oeq {real} {x}, 0.0"), "0.0", sign, real)
    return x, y, w.let(f"fadd double {total}, {w.call('double', 'llvm.log.f64', ('double', size))}")


def _det_spaces(s: Sizes) -> list[int]:
    return [s.elements(s.n * s.n), 8 * s.n]


@_recipe("det", lambda c: ("getrf",), _det_spaces)
def _det(e: Caller) -> None:
    re, im, _ = _product(e, normed=False)
    e.put(e.part("1"), "0", re, im)


@_recipe("slogdet", lambda c: ("getrf",), _det_spaces)
def _slogdet(e: Caller) -> None:
    re, im, total = _product(e, normed=True)
    e.put(e.part("1"), "0", re, im)
    e.put(e.part("1"), "0", e.w.cast("double", e.real, total))
