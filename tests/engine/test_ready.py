"""A factorisation that fails raises where the code is ready for it, else when its value is computed."""
from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

import fanal as torch

BAD, GOOD = -torch.eye(3), torch.eye(3)


def factor(a: torch.Tensor = BAD) -> torch.Tensor:
    return torch.linalg.cholesky(a)


def directly() -> object:
    try:
        return torch.linalg.cholesky(BAD)
    except (KeyError, RuntimeError):
        return None


def by_any_name() -> object:
    try:
        return torch.linalg.cholesky(BAD)
    except KeyError:
        return 0
    except:  # noqa: E722
        return None


def suppressed() -> object:
    with contextlib.suppress(RuntimeError):
        return torch.linalg.cholesky(BAD)
    return None


def further_out() -> object:
    try:
        try:
            return factor()
        except KeyError:
            return 0
    except torch.linalg.LinAlgError:
        return None


def whatever_it_is() -> object:
    try:
        return factor()
    except Exception:
        return None


def another_error() -> object:
    try:
        return torch.linalg.cholesky(BAD)
    except KeyError:
        return None


def in_the_end() -> object:
    try:
        return torch.linalg.cholesky(BAD)
    finally:
        torch.eye(2)


@pytest.mark.parametrize("f", [directly, by_any_name, suppressed, further_out])
def test_handlers_get_their_error(f: Callable[[], object]) -> None:
    for _ in range(3):  # recorded, then followed
        assert f() is None
        assert factor(GOOD).sum().item() == 3  # and all goes on


@pytest.mark.parametrize("f", [whatever_it_is, another_error, in_the_end])
def test_others_get_it_when_the_value_is_read(f: Callable[[], object]) -> None:
    def read(y: torch.Tensor) -> float:
        return y.sum().item()

    for _ in range(3):
        y = f()
        assert isinstance(y, torch.Tensor)
        with pytest.raises(torch.linalg.LinAlgError, match="order 1 is not positive-definite") as e:
            read(y)
        assert "test_ready.py" in e.value.__notes__[0]
        assert factor(GOOD).sum().item() == 3


def test_factorisations_in_a_row_are_one_program() -> None:
    from fanal.core.engine.ledger import ledger
    before = 0
    for _ in range(3):
        before = ledger.flushes
        kept = [factor(GOOD) for _ in range(10)]
        assert kept[3].sum().item() == 3
    assert ledger.flushes == before + 1
