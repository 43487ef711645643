"""Generated kernels against the interpreter: values, kernel counts, and bits that do not depend on how they ran."""
from __future__ import annotations

import numpy as np
import pytest
from harness import check, contents, inp, program_of, run

from fanal.core.backends.cpu.backend import default
from fanal.core.backends.cpu.irtext import Writer
from fanal.core.base import dtype as dt
from fanal.core.compiler.pipeline import lower
from fanal.core.ir import prims as P
from fanal.core.ir.prims.point import ELEMENTARY
from fanal.core.ir.prims.special import FORMULAS
from fanal.core.ir.prims.special_pairs import PAIRS
from fanal.core.ir.row import ROWS

FLOATS = (dt.float32, dt.float64, dt.float16, dt.bfloat16)
INTS = (dt.int8, dt.uint8, dt.int16, dt.uint16, dt.int32, dt.uint32, dt.int64, dt.uint64)
TOLERANCE = {dt.float32: 2e-6, dt.float64: 1e-14, dt.float16: 2e-3, dt.bfloat16: 1.6e-2}
KINDS = {"special": [(k,) for k in FORMULAS], "special2": [(k,) for k in PAIRS],
         "elementary": [(k,) for k in ELEMENTARY]}
POINTS = [r for r in ROWS.values() if r.kind == "point" and r.code is not None]


def num(x, value):
    return P.num(x, value)


def softmax(x):
    dim = (len(x.shape) - 1,)
    e = P.exp(P.sub(x, P.spread_back(P.max_of(x, dim), x, dim)))
    return P.div(e, P.spread_back(P.sum_(e, dim), x, dim))


def mean(x, dims):
    n = int(np.prod([x.shape[d] for d in dims]))
    return P.div(P.sum_(x, dims), num(x, n))


def layer_norm(x, w, b):
    dim = (len(x.shape) - 1,)
    d = P.sub(x, P.spread_back(mean(x, dim), x, dim))
    var = mean(P.mul(d, d), dim)
    r = P.div(num(x, 1), P.sqrt(P.add(var, num(x, 1e-5))))
    return P.add(P.mul(P.mul(d, P.spread_back(r, x, dim)), w), b), r


def gelu(x):
    return P.mul(P.mul(x, num(x, 0.5)), P.add(num(x, 1), P.erf(P.mul(x, num(x, 0.70710678)))))


@pytest.mark.parametrize("row", POINTS, ids=lambda r: r.name)
def test_every_point_row(row):
    skip = {"convert", "bitcast", "conj", "real", "imag"}
    if row.name in skip:
        return
    low, high = row.domain or (-2, 2)
    logic = row.name in ("and", "or", "not", "shl", "shr", "idiv")
    floats_only = row.name not in (
        "add", "sub", "mul", "max", "min", "neg", "abs", "sign", "eq", "lt", "le", "where", "and", "or",
        "not", "shl", "shr", "idiv", "fmod", "floor", "ceil", "trunc", "round")
    inputs, outputs = [], []
    for d in (() if logic else FLOATS) + (() if floats_only else INTS):
        args = [inp((5, 37), d, low if d.is_signed or d.category > 1 else abs(low), high) for _ in range(row.arity)]
        if row.name == "where":
            args[0] = inp((5, 37), dt.bool_)
        if row.name == "fmod" and d.category == 1:
            args[1] = inp((5, 37), d, 1, 9)
        inputs += args
        outputs += [row(*args, *kind) for kind in KINDS.get(row.name, ((),))]
    for x in outputs:
        tol = TOLERANCE.get(x.dtype, 0)
        check(inputs, [x], rtol=tol, atol=tol / 20, exact=row.exact and row.name not in ("fmod",))


BOOLEAN = ["and", "or", "not", "add", "mul", "sub", "max", "min", "eq", "lt", "le", "where"]


@pytest.mark.parametrize("row", BOOLEAN)
def test_bool(row):
    r = ROWS[row]
    args = [inp((3, 21), dt.bool_) for _ in range(r.arity)]
    check(args, [r(*args)], exact=True, kernels=1)


ALL = (dt.bool_, *INTS, *FLOATS)


@pytest.mark.parametrize("of", ALL, ids=lambda d: d.name)
def test_convert(of):
    x = inp((131,), of, -100 if of.is_signed else 0, 100)
    outputs = [P.convert(x, to) for to in ALL if to is not of and not (of.category == 2 and to in (dt.uint64,))]
    check([x], outputs, exact=True)


def test_convert_edges():
    x = inp((16,), dt.float64)
    contents[x] = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e300, -1e300, 65519.99, 65520.0, 1e-8, 6e-8, 2.0 ** 63,
                            300.5, -1.5, 1 + 2.0 ** -11 + 2.0 ** -40, 1e-45])
    check([x], [P.convert(x, t) for t in (dt.float32, dt.float16, dt.int64, dt.bool_, dt.int32, dt.uint8)], exact=True)
    y = inp((16,), dt.float32)
    with np.errstate(over="ignore"):
        contents[y] = contents[x].astype(np.float32)
    check([y], [P.convert(y, t) for t in (dt.float16, dt.int8, dt.float64)], exact=True)
    check([y], [P.convert(y, dt.bfloat16)], rtol=0, atol=0)


def test_nan_and_signed_zero():
    a, b = inp((8,)), inp((8,))
    contents[a] = np.array([np.nan, 1, 0, -0.0, np.inf, -np.inf, np.nan, 2], np.float32)
    contents[b] = np.array([1, np.nan, -0.0, 0, -np.inf, np.inf, np.nan, 3], np.float32)
    check([a, b], [P.max_(a, b), P.min_(a, b), P.lt(a, b), P.le(a, b), P.eq(a, b), P.ne(a, b), P.sign(a)], exact=True)


SHAPES = [((), ()), ((1,), (1,)), ((7,), (7,)), ((5, 1), (1, 9)), ((4, 3, 17), (3, 1)), ((2, 1, 5, 1), (3, 1, 33)),
          ((40000,), (1,)), ((3, 0, 2), (1, 2)), ((64, 128), (128,)), ((2, 3, 4, 5), (3, 1, 1))]


@pytest.mark.parametrize("a,b", SHAPES, ids=str)
def test_broadcast(a, b):
    x, y = inp(a), inp(b)
    check([x, y], [P.add(P.mul(x, y), num(x, 3.25))], exact=True)


def test_views():
    x = inp((4, 6, 10))
    views = [P.permute(x, (2, 0, 1)), P.reshape(x, (24, 10)), P.reshape(P.permute(x, (1, 0, 2)), (6, 40)),
             P.slice_(x, (1, 0, 3), (4, 6, 10), (1, 2, 3)), P.flip(x, (0, 2)), P.broadcast(x, (3, 4, 6, 10)),
             P.reshape(P.permute(P.reshape(x, (4, 6, 2, 5)), (0, 2, 1, 3)), (8, 30)),
             P.window(x, (2,), (3,), (2,), (2,)), P.window(x, (1, 2), (2, 3), (1, 2), (1, 1)),
             P.slice_(P.reshape(P.permute(x, (2, 1, 0)), (240,)), (7,), (203,), (3,)),
             P.permute(P.flip(P.slice_(x, (0, 1, 0), (4, 5, 10), (2, 1, 1)), (1,)), (1, 2, 0))]
    for v in views:
        check([x], [v], exact=True)
        check([x], [P.add(P.mul(v, v), num(v, 1))], exact=True)


def test_sources():
    x = inp((3, 20), dt.int64)
    i = P.iota((3, 20), 1, dt.int64)
    check([x], [P.add(x, i), P.iota((3, 20), 0, dt.float32), P.full((2, 2), 7.5, dt.float64)], exact=True)
    seed, off = inp((), dt.int64), inp((), dt.int64)
    contents[seed], contents[off] = np.array(-(1 << 61) + 12345), np.array(1 << 40)
    check([seed, off], [P.philox(seed, off, (7, 33))], exact=True, kernels=1)
    keep = P.lt(P.convert(P.shr(P.philox(seed, off, (7, 33)), P.full((), 8, dt.uint32)), dt.float32),
                P.full((), 8000000.0, dt.float32))
    check([seed, off], [P.permute(keep, (1, 0))], exact=True)


REDUCTIONS = [
    ((5, 40), (1,)), ((5, 40), (0,)), ((40,), (0,)), ((6, 7, 9), (0, 2)), ((6, 7, 9), (1,)), ((6, 7, 9), (0, 1, 2)),
    ((3, 70000), (1,)), ((70000, 3), (0,)), ((100000,), (0,)), ((4, 5, 6, 7), (0, 2)), ((4, 5, 6, 7), (1, 3)),
    ((2, 300, 17), (1,)), ((9, 1000, 49), (0, 2)), ((1, 5, 1), (0, 1)), ((300, 1100), (0,)), ((4, 3, 5), (2,)),
    ((0, 5), (0,)), ((5, 0), (1,)), ((40, 3, 2, 2), (0,))]


@pytest.mark.parametrize("shape,dims", REDUCTIONS, ids=str)
def test_reductions(shape, dims):
    x = inp(shape)
    outputs = [P.sum_(x, dims)] + ([P.max_of(x, dims), P.min_of(x, dims)] if x.size else [])
    for y in outputs:
        check([x], [y], 1e-4, 1e-2)  # NumPy's own column sums are this far off
    check([x], [P.sqrt(P.abs_(mean(P.mul(x, x), dims)))] if x.size else [outputs[0]], 1e-5, 1e-5)


@pytest.mark.parametrize("d", ALL, ids=lambda d: d.name)
def test_reduce_dtypes(d):
    x = inp((6, 35), d, -3 if d.is_signed else 0, 3)
    for dims in ((0,), (1,), (0, 1)):
        outputs = [P.sum_(x, dims), P.max_of(x, dims), P.min_of(x, dims)]
        if d is not dt.float16 and d is not dt.bfloat16:
            outputs.append(P.prod(x, dims))
        tol = {dt.float32: 1e-5, dt.float64: 1e-13, dt.float16: 2e-3, dt.bfloat16: 2e-2}.get(d, 0)
        check([x], outputs, tol, tol)


def test_max_propagates_nan():
    x = inp((3, 50))
    contents[x][1, 44] = np.nan
    for dims in ((0,), (1,), (0, 1)):
        check([x], [P.max_of(x, dims), P.min_of(x, dims)], exact=True)


def test_softmax_is_one_kernel():
    for shape in ((4, 10), (3, 5, 100), (2, 9000), (1, 17)):
        x = inp(shape)
        check([x], [softmax(x)], kernels=1)


def test_softmax_backward_is_one_kernel():
    y, g = inp((8, 50)), inp((8, 50))
    s = P.sum_(P.mul(y, g), (1,))
    check([y, g], [P.mul(y, P.sub(g, P.spread_back(s, y, (1,))))], kernels=1)


def test_log_softmax_is_one_kernel():
    x = inp((8, 50))
    d = P.sub(x, P.spread_back(P.max_of(x, (1,)), x, (1,)))
    check([x], [P.sub(d, P.spread_back(P.log(P.sum_(P.exp(d), (1,))), x, (1,)))], kernels=1)


def test_layer_norm_is_one_kernel():
    x, w, b = inp((6, 4, 96)), inp((96,)), inp((96,))
    y, r = layer_norm(x, w, b)
    check([x, w, b], [y], kernels=1)
    check([x, w, b], [y, r], kernels=1)


def test_layer_norm_backward():
    x, w, g, r = inp((24, 96)), inp((96,)), inp((24, 96)), inp((24,), low=0.5)
    m = inp((24,))
    h = P.mul(P.sub(x, P.spread_back(m, x, (1,))), P.spread_back(r, x, (1,)))
    t = P.mul(g, w)
    a, c = mean(t, (1,)), mean(P.mul(t, h), (1,))
    dx = P.sub(P.sub(t, P.spread_back(a, x, (1,))), P.mul(h, P.spread_back(c, x, (1,))))
    dx = P.mul(dx, P.spread_back(r, x, (1,)))
    check([x, w, g, r, m], [dx], kernels=1)
    check([x, w, g, r, m], [dx, P.sum_(P.mul(g, h), (0,)), P.sum_(g, (0,))], kernels=2, rtol=1e-4)


def test_gelu_is_one_kernel():
    x = inp((16, 100))
    check([x], [gelu(x)], kernels=1)


def test_adam_is_one_kernel_per_parameter():
    shapes = [(64, 32), (64,), (10, 64)]
    lr = inp((), dt.float64)
    inputs, outputs, writes = [lr], [], {}
    for s in shapes:
        p, g, m, v = (inp(s) for _ in range(4))
        contents[v] = np.abs(contents[v])
        new_m = P.add(P.mul(m, num(m, 0.9)), P.mul(g, num(g, 0.1)))
        new_v = P.add(P.mul(v, num(v, 0.999)), P.mul(P.mul(g, g), num(g, 0.001)))
        new_p = P.sub(p, P.div(P.mul(new_m, P.convert(lr, dt.float32)), P.add(P.sqrt(new_v), num(v, 1e-8))))
        at = len(inputs)
        for o, j in ((new_p, 0), (new_m, 2), (new_v, 3)):
            writes[len(outputs)] = at + j
            outputs.append(o)
        inputs += [p, g, m, v]
    check(inputs, outputs, writes=writes, kernels=3)
    lowered = lower(program_of(inputs, outputs, writes), default())
    assert len({s.kernel.name for s in lowered.steps}) == 1
    assert not lowered.buffers


def test_write_that_is_read_later_is_copied():
    x, y = inp((50,)), inp((50,))
    a = P.add(x, y)
    b = P.mul(P.sum_(a, (0,)), x)  # needs the old x after a is known
    check([x, y], [a, b], writes={0: 0})
    check([x, y], [x, P.add(x, y)], writes={0: 1, 1: 0})


def test_another_size_compiles_nothing():
    names = []
    for n, c in ((32, 128), (7, 130), (1000, 1001)):
        x, w, b = inp((n, c)), inp((c,)), inp((c,))
        y, _ = layer_norm(x, w, b)
        lowered = lower(program_of([x, w, b], [y, softmax(x), P.sum_(gelu(x), (0,))]), default())
        names.append({s.kernel.name for s in lowered.steps})
    assert names[0] == names[1]
    assert len(names[0]) <= 3


def test_bits_do_not_depend_on_the_partition():
    for shape, dims in REDUCTIONS:
        x = inp(shape)
        outputs = [P.sum_(x, dims), P.exp(x)]
        one, _ = run([x], outputs)
        many, _ = run([x], outputs, parts=5)
        for a, b in zip(one, many):
            assert a.tobytes() == b.tobytes()


def test_bits_do_not_depend_on_fusion():
    for shape, dims in REDUCTIONS:
        x = inp(shape)
        y = P.mul(P.add(x, num(x, 0.3)), x)
        s = P.sum_(y, dims)
        (fused,), _ = run([x], [P.exp(P.mul(s, num(x, 1e-4)))])
        (stored,), _ = run([x], [y])
        z = inp(shape)
        contents[z] = stored
        (total,), _ = run([z], [P.sum_(z, dims)])
        t = inp(total.shape)
        contents[t] = total
        (apart,), _ = run([t], [P.exp(P.mul(t, num(t, 1e-4)))])
        assert fused.tobytes() == apart.tobytes(), (shape, dims)
    x = inp((50, 333))
    (whole,), _ = run([x], [softmax(x)])
    m = P.max_of(x, (1,))
    (top,), _ = run([x], [m])
    t = inp((50,))
    contents[t] = top
    e = P.exp(P.sub(x, P.spread_back(t, x, (1,))))
    (powers,), _ = run([x, t], [e])
    q = inp((50, 333))
    contents[q] = powers
    (parts,), _ = run([q], [P.div(q, P.spread_back(P.sum_(q, (1,)), q, (1,)))])
    assert whole.tobytes() == parts.tobytes()


def test_joins():
    x, y, z = inp((4, 6)), inp((4, 3)), inp((4, 6))
    check([x, y], [P.concat([x, P.mul(y, y), x], 1)], exact=True)
    check([x, z], [P.concat([P.permute(x, (1, 0)), P.permute(z, (1, 0))], 0), P.pad(P.add(x, z), (1, 0), (2, 3), 0.5)],
          exact=True)
    inner = P.update_slice(P.neg(x), P.neg(y), (0, 2), (4, 5), (1, 1))
    check([x, y], [P.update_slice(x, y, (0, 1), (4, 6), (1, 2)), P.add(inner, x)], exact=True)
    i = inp((5, 2), dt.int16)
    check([i], [P.pad(i, (0, 1), (1, 0), -7)], exact=True)


def test_joins_of_all_parts_of_a_value_are_that_value():
    x = inp((4, 6, 3, 5))
    for d in range(4):
        parts = [P.permute(P.slice_(x, *zip(*((0, n, 1) if k != d else (at, at + 1, 1) for k, n in enumerate(x.shape)))),
                           (1, 0, 3, 2)) for at in range(x.shape[d])]
        for to in (0, 1, 2, 3):
            whole = to == (1, 0, 3, 2)[d]
            check([x], [P.neg(P.concat(parts, to))], exact=True, kernels=1 if whole else None)
            if to == 0:  # as torch.stack joins them
                flat = [P.reshape(p, (1, *(n for n in p.shape if n != 1))) for p in parts]
                check([x], [P.neg(P.concat(flat, 0))], exact=True, kernels=1)
        check([x], [P.neg(P.concat(parts[::-1], 0))], exact=True)
    rows = [P.reshape(P.slice_(x, (0, 0, at, 0), (4, 6, at + 1, 5), (1,) * 4), (24, 5)) for at in range(3)]
    check([x], [P.neg(P.concat(rows, 1))], exact=True, kernels=1)
    flat = [P.reshape(P.slice_(x, (0, at, 0, 0), (4, at + 3, 3, 5), (1,) * 4), (4, 45)) for at in (0, 3)]
    check([x], [P.neg(P.concat(flat, 1))], exact=True, kernels=1)
    a, b = inp((4, 6)), inp((4, 6))
    cut = [P.slice_(v, (0, at), (4, at + 3), (1, 1)) for v, at in ((a, 0), (b, 3))]
    check([a, b], [P.neg(P.concat(cut, 1))], exact=True)


def test_fold():
    for shape, dims, sizes, steps, gaps in (((2, 9, 8), (1, 2), (3, 2), (2, 2), (1, 1)),
                                            ((3, 10), (1,), (3,), (1,), (2,)),
                                            ((1, 2, 6, 6), (2, 3), (2, 2), (2, 2), (1, 1))):
        x = inp(shape)
        g = P.window(x, dims, sizes, steps, gaps)
        check([x], [P.fold(P.mul(g, g), shape, dims, sizes, steps, gaps)])


def test_take_and_gather():
    x, i, j = inp((7, 5, 3)), inp((2, 4), dt.int64, -5, 4), inp((7, 2, 3), dt.int32, -5, 4)
    for dim in (0, 1):
        check([x, i], [P.add(P.take(x, i, dim), P.num(x, 1))], exact=True, kernels=2)
    check([x, j], [P.gather(x, P.convert(j, dt.int64), 1)], exact=True)
    table, tokens = inp((50, 40)), inp((3, 8), dt.int64, 0, 49)
    check([table, tokens], [P.mul(P.take(table, tokens, 0), P.num(table, 2))], exact=True)


@pytest.mark.parametrize("mode", ["set", "add", "mul", "max", "min"])
def test_put_and_scatter(mode):
    x, i, v = inp((6, 70)), inp((9,), dt.int64, -6, 5), inp((9, 70))
    check([x, i, v], [P.put(P.neg(x), i, P.mul(v, v), 0, mode)])
    v2 = inp((6, 9))
    i2 = inp((9,), dt.int64, -70, 69)
    check([x, i2, v2], [P.put(x, i2, v2, 1, mode)])
    j, u = inp((4, 9), dt.int64, -6, 5), inp((4, 9))
    for dim in (0, 1):
        check([x, j, u], [P.scatter(x, j, u, dim, mode)])
    n, w = inp((6, 70), dt.int32), inp((9, 70), dt.int32)
    check([n, i, w], [P.put(n, i, w, 0, mode)], exact=True)


@pytest.mark.parametrize("shape", [(1100, 1000), (3, 400000), (40, 70)])
def test_a_number_of_each_row_is_read_where_the_row_is(shape):
    x, i = inp(shape), inp((shape[0], 1), dt.int64)
    contents[i] = np.arange(shape[0])[:, None] * 7 % shape[1] - 3
    picked = P.gather(x, i, 1)
    powers = P.exp(P.sub(x, P.spread_back(P.max_of(x, (1,)), x, (1,))))
    check([x, i], [P.sum_(powers, (1,)), picked], rtol=1e-4)
    check([x, i], [P.sum_(x, (1,)), picked], rtol=1e-3, atol=1e-3)
    if shape[0] > 1000:
        lowered = lower(program_of([x, i], [P.sum_(powers, (1,)), picked]), default())
        assert any("exp" in step.label and "gather" in step.label for step in lowered.steps)


@pytest.mark.parametrize("shape", [(3, 5), (40, 70), (17, 300), (5, 2500)])
@pytest.mark.parametrize("d", [dt.float32, dt.float64, dt.bfloat16], ids=lambda d: d.name)
def test_what_follows_from_the_sums_of_rows_is_computed_for_many_rows_at_once(shape, d):
    x, t = inp(shape, d), inp((shape[0], 1), dt.int64, 0, shape[1] - 1)
    powers = P.exp(P.sub(x, P.spread_back(P.max_of(x, (1,)), x, (1,))))
    total = P.log(P.sum_(powers, (1,)))
    p = P.mul(powers, P.spread_back(P.exp(P.neg(total)), x, (1,)))
    hit = P.eq(P.reshape(P.iota((shape[1],), 0, dt.int64), (1, shape[1])), t)
    contents[t].ravel()[:3] = [-1, shape[1], 2 ** 32 + 2]  # none of the indices
    y = P.sub(p, P.where(hit, num(p, 1), num(p, 0)))
    eps = {dt.float32: 1e-5, dt.float64: 1e-12, dt.bfloat16: 3e-2}[d]
    check([x, t], [y], rtol=eps, atol=eps / 10, kernels=1)
    (source,) = (s.kernel.source() for s in lower(program_of([x, t], [y]), default()).steps)
    assert ("llvm.fma.f32(" in source or "llvm.fma.f64(" in source) == (d is dt.bfloat16)


def test_bad_index_is_reported():
    x, i = inp((7, 5)), inp((4,), dt.int64, 0, 6)
    for bad in (7, -8):
        contents[i][2] = bad
        with pytest.raises(IndexError, match=f"index {bad} is out of bounds for dimension with size 7"):
            run([x, i], [P.take(x, i, 0)])
        with pytest.raises(IndexError, match=str(bad)):
            run([x, i], [P.put(x, i, P.take(x, P.full((4,), 0, dt.int64), 0), 0, "add")])


@pytest.mark.parametrize("d", [dt.float32, dt.int64, dt.bool_, dt.float16, dt.uint8], ids=lambda d: d.name)
def test_argmax(d):
    x = inp((5, 33, 4), d, 0, 6)
    for dim in (0, 1, 2):
        check([x], [P.argmax(x, dim), P.argmin(x, dim)], exact=True)
    if d is dt.float32:
        contents[x][2, 20, 1] = contents[x][2, 25, 1] = np.nan
        check([x], [P.argmax(x, 1), P.argmin(x, 1)], exact=True)


def test_contractions_with_tails():
    x, w, b = inp((3, 8, 40)), inp((24, 40)), inp((24,))
    d = P.dot(x, P.reshape(P.permute(w, (1, 0)), (1, 40, 24)))
    y = P.max_(P.add(d, b), num(d, 0))
    check([x, w, b], [y], kernels=1)
    check([x, w, b], [y, d, P.lt(num(d, 0), y)])
    check([x, w], [P.lt(num(d, 0), d)])
    q, k = inp((2, 12, 4, 8)), inp((2, 12, 4, 8))
    s = P.dot(P.permute(q, (0, 2, 1, 3)), P.permute(k, (0, 2, 3, 1)))
    check([q, k], [softmax(P.mul(s, num(s, 0.3)))], kernels=2)
    image, f, bias = inp((2, 3, 10, 10)), inp((6, 3, 3, 3)), inp((6,))
    c = P.conv(image, f, (1, 1), (1, 1), (1, 1), 1)
    check([image, f, bias], [P.add(c, P.reshape(bias, (1, 6, 1, 1)))], rtol=1e-4, atol=1e-4)
    h, g = inp((8, 40), dt.bfloat16), inp((40, 16), dt.bfloat16)
    check([h, g], [P.tanh(P.dot(h, g))], rtol=2e-2, atol=1e-2)


def test_host_steps():
    x = inp((4, 5), dt.complex64)
    check([x], [P.mul(x, x)], host=1)
    y = inp((4, 5))
    check([y], [P.add(P.scan(P.neg(y), "add", 1), y)], host=0)
    check([y], [P.argsort(y, 1, False, 0, y.shape[1])], host=1)
    n = inp((4, 5), dt.int64, 1, 9)
    check([n], [P.idiv(P.full((4, 5), 100, dt.int64), n)], host=0)


def test_short_reductions_are_written_out():
    x = inp((40, 8))
    check([x], [P.sum_(P.mul(x, x), (1,))], kernels=1)
    y = inp((3, 9, 20))
    windows = P.window(y, (1, 2), (3, 5), (2, 2), (1, 1))
    check([y], [P.sum_(windows, (3, 4))], kernels=1)
    check([x], [P.div(x, P.spread_back(P.max_of(x, (1,)), x, (1,)))])


@pytest.mark.parametrize("d", [dt.float32, dt.float64, dt.bfloat16, dt.uint8], ids=lambda d: d.name)
def test_transposes(d):
    for shape, dims in (((64, 128), (1, 0)), ((70, 93), (1, 0)), ((3, 40, 50), (0, 2, 1)),
                        ((9, 30, 2, 17), (3, 2, 1, 0)), ((20, 5, 60), (2, 1, 0)), ((4, 11, 33, 8), (0, 3, 1, 2))):
        x = inp(shape, d, 0, 100)
        y = P.permute(x, dims)
        check([x], [P.add(y, y)], exact=True)
    x, b = inp((6, 40, 50)), inp((6, 50, 40))
    y = P.permute(x, (0, 2, 1))
    check([x, b], [softmax(P.add(y, b)), P.sum_(y, (0, 1))], rtol=1e-4)


def test_updates_in_place_behind_reductions_and_products():
    x, g, w = inp((40, 24)), inp((40, 16)), inp((16, 24))
    b, h = inp((16,)), inp((40, 16))
    step = P.dot(P.permute(g, (1, 0)), x)
    new_w = P.sub(w, P.mul(step, num(w, 0.1)))
    new_b = P.sub(b, P.mul(P.sum_(g, (0,)), num(b, 0.1)))
    new_h = P.add(h, softmax(h))
    outputs, writes = [new_w, new_b, new_h], {0: 2, 1: 3, 2: 4}
    check([x, g, w, b, h], outputs, writes=writes, kernels=3)
    r = inp((30,))
    y = inp((30, 50))
    scale = P.add(r, P.max_of(y, (1,)))
    check([r, y], [scale, P.mul(y, P.spread_back(r, y, (1,)))], writes={0: 0, 1: 1})
    check([r, y], [P.add(y, P.spread_back(P.sum_(P.mul(y, y), (1,)), y, (1,))), P.permute(y, (1, 0))], writes={0: 1})


def test_pooling_is_pointwise():
    x = inp((2, 3, 12, 40))
    w = P.window(x, (2, 3), (2, 2), (2, 2), (1, 1))
    check([x], [P.max_of(P.max_(w, num(x, 0)), (4, 5))], kernels=1, exact=True)
    check([x], [P.mul(P.sum_(w, (4, 5)), num(x, 0.25))], kernels=1)
    g = inp((2, 3, 6, 20))
    y = P.max_of(w, (4, 5))
    hit = P.where(P.eq(w, P.spread_back(y, w, (4, 5))), P.spread_back(g, w, (4, 5)), num(x, 0))
    check([x, g, ], [P.fold(hit, x.shape, (2, 3), (2, 2), (2, 2), (1, 1))], exact=True)
    odd = inp((2, 7, 9), dt.bfloat16)
    check([odd], [P.sum_(P.window(odd, (1, 2), (3, 3), (2, 2), (1, 1)), (3, 4))], rtol=1e-2, atol=1e-2)
    check([x], [P.argmax(P.reshape(w, (2, 3, 6, 20, 4)), 4)], exact=True, kernels=1)
    nan = inp((30, 5))
    contents[nan][3:20, 2:4] = np.nan
    check([nan], [P.argmax(nan, 1), P.argmin(nan, 1)], exact=True, kernels=2)
    tiles = P.neg(P.window(odd, (1, 2), (2, 3), (2, 3), (1, 1)))
    check([odd], [P.fold(tiles, odd.shape, (1, 2), (2, 3), (2, 3), (1, 1))], exact=True)


def _sum_like_a_row(terms: np.ndarray) -> np.float32:
    """Add numbers by the tree of a row: four vectors in turn, then by halves."""
    terms = np.concatenate([terms, np.zeros(-len(terms) % 16, np.float32)]).reshape(-1, 16)
    a, b, c, d = (np.zeros(16, np.float32) for _ in range(4))
    for x in terms:
        a, b, c, d = b, c, d, a + x
    v = (a + b) + (c + d)
    while len(v) > 1:
        v = v[:len(v) // 2] + v[len(v) // 2:]
    return np.float32(0) + v[0]


@pytest.mark.parametrize("name", ["exp", "tanh", "log"])
@pytest.mark.parametrize("n", [5, 16, 64, 100, 127, 128, 192, 207, 256, 700])
def test_vectors_abreast_have_the_bits_of_others(name, n):
    x = inp((3, n), low=0.1)
    point = P.elementary(x, name) if name in ELEMENTARY else ROWS[name](x)
    (terms, sums), _ = run([x], [point, P.sum_(point, (1,))])
    (alone,), _ = run([x], [P.sum_(point, (1,))])
    assert alone.tobytes() == sums.tobytes()
    assert alone.ravel().tolist() == [_sum_like_a_row(row) for row in terms]


def test_what_is_written_abreast_takes_turns():
    w = Writer(default().target, set())

    def chain(k):
        return w.let(f"fneg float {w.let(f'fneg float %x{k}')}")
    assert w.abreast([lambda k=k: chain(k) for k in range(2)]) == ["%v2", "%v4"]
    assert [line.split()[0] for line in w.lines] == ["%v1", "%v3", "%v2", "%v4"]
    w.lines.clear()

    def branching(k):
        w.when("%c", lambda: chain(k))
    w.abreast([lambda k=k: branching(k) for k in range(2)])
    assert [line.split()[-1] for line in w.lines if "fneg" in line][::2] == ["%x0", "%x1"]


@pytest.mark.skipif(not default().target.masks, reason="nothing is asked for ahead")
def test_passes_ask_for_every_line_of_a_row():
    x = inp((40, 64))  # the last pass has little to do and one vector at hand
    (source,) = (s.kernel.source() for s in lower(program_of([x], [softmax(x)]), default()).steps)
    asked = [loop.count("call void @llvm.prefetch") for loop in source.split("\nloop")]
    assert [n for n in asked if n] == [6, 3, 1]  # of eight lines, of four, and one for four of one
