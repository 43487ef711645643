"""Transforms, constraints and their registries against PyTorch."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fanal
from fanal.core.base import knobs

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs, "compile", False)


RNG = np.random.default_rng(4)
REAL, POSITIVE = RNG.normal(size=(2, 6)), RNG.gamma(2.0, size=(2, 6)) + 0.1
MATRIX = RNG.normal(size=(2, 3, 3))


def _simple(name: str) -> Callable[[Any], Any]:
    return lambda lib: getattr(lib.distributions.transforms, name)()


TRANSFORMS: dict[str, tuple[Callable[[Any], Any], np.ndarray]] = {
    **{n: (_simple(n), REAL) for n in (
        "AbsTransform", "ExpTransform", "SigmoidTransform", "SoftplusTransform", "TanhTransform",
        "SoftmaxTransform", "StickBreakingTransform", "CorrCholeskyTransform",
    )},
    "LowerCholeskyTransform": (_simple("LowerCholeskyTransform"), MATRIX),
    "PositiveDefiniteTransform": (_simple("PositiveDefiniteTransform"), MATRIX),
    "Power": (lambda lib: lib.distributions.PowerTransform(lib.tensor(1.5, dtype=lib.float64)), POSITIVE),
    "Affine": (lambda lib: lib.distributions.AffineTransform(1.5, -2.0, event_dim=1), REAL),
    "Affine tensors": (lambda lib: lib.distributions.AffineTransform(lib.tensor(POSITIVE), lib.tensor(REAL)), REAL),
    "Reshape": (lambda lib: lib.distributions.ReshapeTransform((6,), (2, 3)), REAL),
    "Compose": (lambda lib: lib.distributions.ComposeTransform(
        [lib.distributions.AffineTransform(0.0, 2.0), lib.distributions.StickBreakingTransform()]), REAL),
    "Independent": (lambda lib: lib.distributions.IndependentTransform(lib.distributions.ExpTransform(), 1), REAL),
    "Cat": (lambda lib: lib.distributions.CatTransform(
        [lib.distributions.ExpTransform(), lib.distributions.SigmoidTransform()], dim=1, lengths=[2, 4]), REAL),
    "Stack": (lambda lib: lib.distributions.StackTransform(
        [lib.distributions.ExpTransform(), lib.distributions.SigmoidTransform()], dim=0), REAL),
    "CumulativeDistribution": (lambda lib: lib.distributions.CumulativeDistributionTransform(
        lib.distributions.Normal(lib.tensor(0.5, dtype=lib.float64), 2.0)), REAL),
}  # fmt: skip


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_transform(name: str) -> None:
    make, x = TRANSFORMS[name]
    seen = []
    for lib in (torch, fanal):
        t, value = make(lib), lib.tensor(x)
        y = t(value)
        back = t.inv(y)
        assert t.inv.inv is t and (t == make(lib)) == (make(torch) == make(torch))
        cached = t.with_cache()
        z = cached(value)
        assert cached.inv(z) is value or name in ("Compose",)
        shape = tuple(t.forward_shape(value.shape))
        assert shape == tuple(y.shape) and tuple(t.inverse_shape(y.shape)) == tuple(value.shape)
        numbers = [y, back]
        if t.bijective:
            numbers += [t.log_abs_det_jacobian(value, y), t.inv.log_abs_det_jacobian(y, value)]
        texts = [repr(t), repr(t.inv), str(t.bijective), str(t.domain.event_dim), str(t.codomain.event_dim)]
        seen.append((numbers, texts))
        again = pickle.loads(pickle.dumps(t))
        np.testing.assert_array_equal(again(value).numpy(), y.numpy())
    (expected, texts), (got, our_texts) = seen
    assert our_texts == texts
    for e, g in zip(expected, got, strict=True):
        np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=1e-9, atol=1e-12)


def test_wrong_shapes() -> None:
    for lib in (torch, fanal):
        D = lib.distributions
        for call, error in (
            (lambda: D.ReshapeTransform((2,), (3,)), "different numbers of elements"),
            (lambda: D.ReshapeTransform((6,), (2, 3)).forward_shape((5,)), "Shape mismatch"),
            (lambda: D.CorrCholeskyTransform().forward_shape((4,)), "not a flattened lower-diagonal number"),
            (lambda: D.CorrCholeskyTransform().inverse_shape((3, 4)), "not square"),
            (lambda: D.StickBreakingTransform().forward_shape(()), "Too few dimensions on input"),
            (lambda: D.ExpTransform(cache_size=2), "cache_size must be 0 or 1"),
        ):
            with pytest.raises(ValueError, match=error):
                call()


def _constraints(lib: Any) -> list[Any]:
    c = lib.distributions.constraints
    return [
        c.boolean, c.one_hot, c.nonnegative_integer, c.positive_integer, c.integer_interval(0, 3), c.real,
        c.real_vector, c.positive, c.nonnegative, c.greater_than(1.0), c.greater_than_eq(1.0), c.less_than(2.0),
        c.multinomial(4), c.unit_interval, c.interval(-1.0, 2.0), c.half_open_interval(0.0, 1.0), c.simplex,
        c.lower_triangular, c.lower_cholesky, c.corr_cholesky, c.square, c.symmetric, c.positive_semidefinite,
        c.positive_definite, c.independent(c.positive, 1), c.cat([c.positive, c.real], 0, [1, 2]),
        c.stack([c.positive, c.real, c.real], 0), c.MixtureSameFamilyConstraint(c.unit_interval), c.dependent,
    ]  # fmt: skip


def test_constraints() -> None:
    """The same values are inside, and the same transforms lead there."""
    values = [
        np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]),
        np.array([[2.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [3.0, np.nan, 1.0]]),
        np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.6, 0.8]]),
    ]
    for t, f in zip(_constraints(torch), _constraints(fanal), strict=True):
        assert repr(f) == repr(t)
        if repr(t) == "Dependent()":
            for lib, region in ((torch, t), (fanal, f)):
                assert lib.distributions.constraints.is_dependent(region)
                assert region(event_dim=1).event_dim == 1
                with pytest.raises(NotImplementedError, match="cannot be determined statically"):
                    _ = region.event_dim
                with pytest.raises(ValueError, match="dependent constraint"):
                    region.check(None)
            continue
        assert (f.event_dim, f.is_discrete) == (t.event_dim, t.is_discrete), repr(t)
        for v in values:
            if np.isnan(v).any() and "Positive" in repr(t):
                continue
            np.testing.assert_array_equal(f.check(fanal.tensor(v)).numpy(), t.check(torch.tensor(v)).numpy(), repr(t))
        for registry in ("biject_to", "transform_to"):
            made = []
            for lib, region in ((torch, t), (fanal, f)):
                try:
                    made.append(repr(getattr(lib.distributions, registry)(region)))
                except NotImplementedError as e:
                    made.append(str(e))
            assert made[0] == made[1]


def test_registry() -> None:
    for lib in (torch, fanal):
        D = lib.distributions
        registry = D.constraint_registry.ConstraintRegistry()
        registry.register(D.constraints.positive, lambda c: D.ExpTransform())
        assert registry(D.constraints.positive) == D.ExpTransform()
        with pytest.raises(NotImplementedError, match="Cannot transform _Real constraints"):
            registry(D.constraints.real)
        with pytest.raises(TypeError, match="Constraint subclass or instance"):
            registry.register(3, lambda c: None)


def test_modules_have_pytorchs_names() -> None:
    from importlib import import_module

    for name in torch.distributions.__all__:
        ours, theirs = getattr(fanal.distributions, name), getattr(torch.distributions, name)
        module = getattr(theirs, "__module__", "")
        if isinstance(theirs, type) and module.startswith("torch.distributions"):
            assert getattr(import_module(module.replace("torch", "fanal", 1)), name) is ours


def test_a_transform_that_is_a_module():
    """The parameters of a flow: bases that follow Transform and Distribution are initialised as well."""
    def weights(m):
        class Scale(m.distributions.Transform, m.nn.Module):
            domain = codomain = m.distributions.constraints.real
            __hash__ = m.nn.Module.__hash__

            def __init__(self):
                super().__init__(cache_size=1)
                self.weight = m.nn.Parameter(m.tensor(2.0))

        class Named(m.distributions.Distribution, m.nn.Module):
            arg_constraints = {}

            def __init__(self):
                super().__init__()
                self.weight = m.nn.Parameter(m.tensor(3.0))

        return [[p.tolist() for p in kind().parameters()] for kind in (Scale, Named)]

    assert weights(fanal) == weights(torch)
