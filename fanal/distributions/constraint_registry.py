"""From constraints to transforms: `biject_to` gives bijections, `transform_to` maps that suit optimisers.

Both map the real numbers into the region: transform_to(Normal.arg_constraints["scale"])(x) is a valid scale
for any x.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Number
from typing import Any

from fanal.distributions import constraints as c
from fanal.distributions import transforms as t

__all__ = ["ConstraintRegistry", "biject_to", "transform_to"]


class ConstraintRegistry:
    """A table from classes of constraints to functions that make a transform from a constraint."""

    def __init__(self) -> None:
        self._registry: dict[type, Callable[[Any], t.Transform]] = {}

    def register(self, constraint: Any, factory: Callable | None = None) -> Callable:
        """Register a factory for a class of constraints (or that of an object); without one, as a decorator.

        Raises: TypeError for what is no constraint.
        """
        if factory is None:
            return lambda factory: self.register(constraint, factory)
        kind = type(constraint) if isinstance(constraint, c.Constraint) else constraint
        if not (isinstance(kind, type) and issubclass(kind, c.Constraint)):
            raise TypeError(
                f"Expected constraint to be either a Constraint subclass or instance, but got {constraint}"
            )
        self._registry[kind] = factory
        return factory

    def __call__(self, constraint: Any) -> t.Transform:
        """Return the transform of a constraint. Raises: NotImplementedError where none is registered."""
        factory = self._registry.get(type(constraint))
        if factory is None:
            raise NotImplementedError(f"Cannot transform {type(constraint).__name__} constraints")
        return factory(constraint)


biject_to = ConstraintRegistry()
transform_to = ConstraintRegistry()


def _interval(region: Any) -> t.Transform:
    low, high = region.lower_bound, region.upper_bound
    if isinstance(low, Number) and isinstance(high, Number) and (low, high) == (0, 1):
        return t.SigmoidTransform()
    return t.ComposeTransform([t.SigmoidTransform(), t.AffineTransform(low, high - low)])


def _shifted_exp(bound: Any, slope: int) -> t.Transform:
    return t.ComposeTransform([t.ExpTransform(), t.AffineTransform(bound, slope)])


for _registry in (biject_to, transform_to):

    def _independent(region: Any, of: ConstraintRegistry = _registry) -> t.Transform:
        return t.IndependentTransform(of(region.base_constraint), region.reinterpreted_batch_ndims)

    def _cat(region: Any, of: ConstraintRegistry = _registry) -> t.Transform:
        return t.CatTransform([of(part) for part in region.cseq], region.dim, region.lengths)

    def _stack(region: Any, of: ConstraintRegistry = _registry) -> t.Transform:
        return t.StackTransform([of(part) for part in region.cseq], region.dim)

    _registry.register(c.real, lambda region: t.identity_transform)
    _registry.register(c.independent, _independent)
    for _kind in (c.greater_than, c.greater_than_eq):
        _registry.register(_kind, lambda region: _shifted_exp(region.lower_bound, 1))
    _registry.register(c.less_than, lambda region: _shifted_exp(region.upper_bound, -1))
    for _kind in (c.interval, c.half_open_interval):
        _registry.register(_kind, _interval)
    _registry.register(c.corr_cholesky, lambda region: t.CorrCholeskyTransform())
    _registry.register(c.cat, _cat)
    _registry.register(c.stack, _stack)

biject_to.register(c.simplex, lambda region: t.StickBreakingTransform())
transform_to.register(c.simplex, lambda region: t.SoftmaxTransform())
transform_to.register(c.lower_cholesky, lambda region: t.LowerCholeskyTransform())
for _kind in (c.positive_definite, c.positive_semidefinite):
    transform_to.register(_kind, lambda region: t.PositiveDefiniteTransform())
