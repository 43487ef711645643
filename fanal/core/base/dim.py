"""Sizes that may differ next time: integers that remember how they follow from the few that a step was given.

Under `with dims:` every size that follows from a named one is a `Dim`: an int that carries a polynomial in the
names and in quotients. What Python decides about it (`n == 1`, `n < 512`) is noted as a condition. Afterwards
the computation is the same for all other sizes that meet the conditions: put them in, and read off every size,
stride and offset. A use that no polynomial expresses (text, a float, a shift) fixes the size, by a condition too.

What escapes are conversions that CPython makes without asking: `range(n)`, slice.indices, NumPy, math. Code that
computes sizes uses `fixed`, `limits`, `index` and `whole` there, and `engine.naming` compares what was recorded.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Monomial = tuple[int, ...]  # the atoms multiplied, sorted; () is one
Form = tuple[tuple[Monomial, int], ...]  # terms with factors that are not zero, sorted

_FAR = 1 << 62
_FEW = 8  # conditions that are tested one by one


class Dims:
    """The names of a recorded step, what follows from them, and the conditions under which it does.

    Atoms are names and quotients. Outside of a `with` block a Dim is an int like any other.
    """

    def __init__(self) -> None:
        self.open = False
        self.names: list[int] = []  # their values now
        self.atoms: list[tuple[Form, Form] | int] = []  # a name by its number, or a quotient rounded down
        self.monomials: dict[Monomial, int] = {(): 0}  # numbered as in `numbers`
        self._values: dict[int, int] = {}  # of the atoms that were asked for
        self._numbers: np.ndarray | None = None
        self._computed: tuple[tuple[int, int], Callable] | None = None  # for so many atoms and monomials
        self.conditions: dict[Form, tuple[int, int, bool]] = {}  # the least, the most, and whether zero is allowed
        self._quotients: dict[tuple[Form, Form], int] = {}
        self._tests: tuple[Any, ...] | None = None
        self.late: frozenset[int] = frozenset()  # names that get their values last, all at once

    def __enter__(self) -> Dims:
        self.open = True
        return self

    def __exit__(self, *exc: object) -> None:
        self.open = False

    def name(self, value: int, limits: tuple[int, int] | None = None) -> Dim:
        """Return a new name for `value`, which may stand for any number, or any within limits, see `near`."""
        self.names.append(value)
        self.atoms.append(len(self.names) - 1)
        form = ((self._numbered((len(self.atoms) - 1,)), 1),)
        if limits is not None:
            self.condition(form, *limits)
        return self._dim(value, form)

    def _numbered(self, m: Monomial) -> Monomial:
        self.monomials.setdefault(m, len(self.monomials))
        return m

    def _dim(self, value: int, form: Form) -> Dim:
        d = int.__new__(Dim, value)
        d.dims, d.form = self, form
        return d

    def made(self, value: int, terms: dict[Monomial, int]) -> int:
        """Return what has this value now and is the sum of these terms."""
        form = tuple(sorted((m, c) for m, c in terms.items() if c))
        return self._dim(value, form) if any(m for m, _ in form) else value

    def sum(self, value: int, a: Form, b: Form, times: int) -> int:
        """Return a + times * b."""
        if times == -1 and a == b:
            return value
        if len(b) == 1 and not b[0][0] and a and a[-1][0]:  # a constant, as in most sums: that term comes first
            constant, rest = b[0][1] * times, a
            if not a[0][0]:
                constant, rest = constant + a[0][1], a[1:]
            return self._dim(value, (((), constant), *rest) if constant else rest)
        terms = dict(a)
        for m, c in b:
            terms[m] = terms.get(m, 0) + c * times
        return self.made(value, terms)

    def product(self, value: int, a: Form, b: Form) -> int:
        """Return a * b."""
        if len(b) == 1 and not b[0][0] and a and a[-1][0]:  # by a constant
            return self._dim(value, tuple([(m, c * b[0][1]) for m, c in a]))
        terms: dict[Monomial, int] = {}
        for x, c in a:
            for y, d in b:
                m = self._numbered(tuple(sorted(x + y)))
                terms[m] = terms.get(m, 0) + c * d
        return self.made(value, terms)

    def quotient(self, value: int, a: Form, b: Form) -> int:
        """Return a // b: a polynomial where that leaves no rest, else a new atom. It says that b is not 0."""
        if any(m for m, _ in b):
            self.condition(b, zero=False)
        terms = _divided(dict(a), dict(b))
        if terms is not None:
            return self.made(value, {self._numbered(m): c for m, c in terms.items()})
        at = self._quotients.get((a, b))
        if at is None:
            at = self._quotients[a, b] = len(self.atoms)
            self.atoms.append((a, b))
        return self._dim(value, ((self._numbered((at,)), 1),))

    def condition(self, form: Form, least: int = -_FAR, most: int = _FAR, zero: bool = True) -> None:
        """Note that a form is within limits, and whether it may be zero."""
        a, b, z = self.conditions.get(form, (-_FAR, _FAR, True))
        now = max(a, least), min(b, most), z and zero
        if now != (a, b, z):
            self.conditions[form] = now
            self._tests = None

    def come_late(self, names: set[int]) -> None:
        """Let names get their values last, which say where something begins: conditions on these are asked with others.

        That one is not zero is none: what begins there is cut out like all others.
        """
        self.late, self._tests = frozenset(names), None
        for at in (k for k, atom in enumerate(self.atoms) if atom in self.late):
            form = (((at,), 1),)
            if self.conditions.get(form) == (-_FAR, _FAR, False):
                del self.conditions[form]

    def names_in(self, form: Form) -> set[int]:
        """Return the names that a form follows from."""
        found: set[int] = set()
        for i in (i for m, _ in form for i in m):
            atom = self.atoms[i]
            found |= {atom} if isinstance(atom, int) else self.names_in(atom[0]) | self.names_in(atom[1])
        return found

    def set(self, values: Sequence[int]) -> None:
        """Give the names these values: what `Formulas` return follows."""
        self.names[:] = values
        self._values.clear()
        self._numbers = None

    def value(self, form: Form) -> int:
        """Return what a form is for the present values of the names."""
        return sum([c * self._product(m) for m, c in form])

    def _product(self, m: Monomial) -> int:
        product = 1
        for i in m:
            known = self._values.get(i)
            product *= self._atom(i) if known is None else known
        return product

    def _atom(self, i: int) -> int:
        a = self.atoms[i]
        if isinstance(a, int):
            found = self.names[a]
        else:
            divisor = self.value(a[1])
            found = self.value(a[0]) // divisor if divisor else 0  # by a condition it is not
        self._values[i] = found
        return found

    @property
    def numbers(self) -> np.ndarray:
        """The value of every monomial now."""
        if self._numbers is None or len(self._numbers) != len(self.monomials):
            count = len(self.atoms), len(self.monomials)
            if self._computed is None or self._computed[0] != count:
                every = ", ".join("*".join(f"a{i}" for i in m) or "1" for m in self.monomials)
                self._computed = count, self._computation(f"[{every}]")
            self._numbers = np.array(self._computed[1](self.names), np.int64)
        return self._numbers

    def _computation(self, result: str) -> Callable[[list[int]], Any]:
        """Return a function of the values of the names that returns this Python code; a0, a1, ... are the atoms."""
        lines = ["def computation(names):"]
        for i, atom in enumerate(self.atoms):
            if isinstance(atom, int):
                lines.append(f"    a{i} = names[{atom}]")
            else:
                lines += [f"    d = {_text(atom[1])}", f"    a{i} = ({_text(atom[0])}) // d if d else 0"]
        scope: dict[str, Any] = {}
        exec("\n".join([*lines, f"    return {result}"]), scope)
        return scope["computation"]

    def hold(self, count: int | None = None) -> bool:
        """Tell whether the present values of the names, or of the first few that are not late, meet the conditions."""
        everything = count is None or (count == len(self.names) and not self.late)
        if not self.conditions or (len(self.conditions) <= _FEW and everything):
            return all([self._meets(form, *limits) for form, limits in self.conditions.items()])
        if self._tests is None:
            last: list[int] = []  # by atom: the last name that it follows from
            for atom in self.atoms:
                last.append(max(_last(form, last) for form in atom) if not isinstance(atom, int) else
                            len(self.names) if atom in self.late else atom)
            tests = [_test(_text(form), *limits) for form, limits in self.conditions.items()]
            self._tests = self._computation(" and ".join(tests)), [_last(form, last) for form in self.conditions]
        holds, lasts = self._tests
        if everything:
            return bool(holds(self.names))
        return all(self._meets(form, *limits) for (form, limits), last in zip(self.conditions.items(), lasts)
                   if last < count)

    def hold_or_meet(self) -> bool:
        """Tell whether the conditions hold, but that sizes which were different, or one more than the other, are equal.

        What is right for sizes that may differ is right for these as well.
        """
        return all(self._meets(form, *limits) or (limits[0] <= 1 and not self.value(form))
                   for form, limits in self.conditions.items())

    def _meets(self, form: Form, least: int, most: int, zero: bool) -> bool:
        value = self.value(form)
        return least <= value <= most and (zero or value != 0)


def _text(form: Form) -> str:
    """Return a form as Python code."""
    return " + ".join(f"{c}{''.join(f'*a{i}' for i in m)}" for m, c in form) or "0"


def _test(text: str, least: int, most: int, zero: bool) -> str:
    """Return a condition on a form as Python code."""
    return f"{least} <= {text} <= {most}" + ("" if zero else f" and ({text})")


def _last(form: Form, last: list[int]) -> int:
    return max((last[i] for m, _ in form for i in m), default=-1)


def near(value: int, several: bool = False) -> tuple[int, int]:
    """Return the limits of the sizes that are planned together: 0, 1, 2 to 7, 8 to 31, 32 to 127, ...

    Where several sizes vary, a quarter to four times the present one: of the combinations of fixed limits that several
    sizes lie between, too many would be planned.
    """
    if value < 2:
        return value, value
    if several:
        return max(2, value // 4), 4 * value
    least = 1 << value.bit_length() // 2 * 2 - 1
    return least, 4 * least - 1


def _divided(a: dict[Monomial, int], b: dict[Monomial, int]) -> dict[Monomial, int] | None:
    """Return a / b as a polynomial, or None if there is a rest."""
    def order(m: Monomial) -> tuple[int, Monomial]:
        return len(m), m
    found: dict[Monomial, int] = {}
    first = max(b, key=order)
    while a:
        most = max(a, key=order)
        m = _without(most, first)
        if m is None or a[most] % b[first]:
            return None
        found[m] = factor = a[most] // b[first]
        for k, c in b.items():
            to = tuple(sorted(m + k))
            a[to] = a.get(to, 0) - factor * c
            if not a[to]:
                del a[to]
        if most in a:
            return None  # the order of terms is lost: no such luck
    return found


def _without(m: Monomial, by: Monomial) -> Monomial | None:
    """Return m / by, or None if `by` does not divide it."""
    rest = list(m)
    for i in by:
        if i not in rest:
            return None
        rest.remove(i)
    return tuple(rest)


class Formulas:
    """Integers that follow from names, computed all at once."""

    def __init__(self, dims: Dims, wanted: Sequence[Dim]) -> None:
        self.dims = dims
        terms = [(dims.monomials[m], c) for d in wanted for m, c in d.form]
        self.starts = np.cumsum([0, *(len(d.form) for d in wanted[:-1])], dtype=np.int64)
        self.which = np.array([k for k, _ in terms], np.int64)
        self.factors = np.array([c for _, c in terms], np.int64)

    def values(self) -> np.ndarray:
        """Return the numbers for the present values of the names."""
        if not len(self.which):
            return self.which
        return np.add.reduceat(self.dims.numbers[self.which] * self.factors, self.starts)


class Dim(int):
    """An int that follows from named sizes."""

    dims: Dims
    form: Form

    def now(self) -> int:
        """Return what it is for the present values of the names."""
        return self.dims.value(self.form)

    def fixed(self) -> int:
        """Return the plain int, noting that it must be the same next time."""
        value = plain(self)
        if self.dims.open:
            self.dims.condition((self - value).form, 0, 0)
        return value

    def __reduce__(self) -> tuple:
        return int, (plain(self),)

    def __hash__(self) -> int:
        return int.__hash__(self)

    def _minus(self, other: Any) -> Form | None:
        """Return self - other as a form, empty if it is always the same; None where no condition is noted."""
        if not self.dims.open or not isinstance(other, int):
            return None
        d = self - other
        return d.form if type(d) is Dim else ()

    def __add__(self, other: Any) -> Any:
        form = _form(other, self.dims)
        return self.fixed() + other if form is None else \
            self.dims.sum(int.__add__(self, other), self.form, form, 1)

    def __sub__(self, other: Any) -> Any:
        form = _form(other, self.dims)
        return self.fixed() - other if form is None else \
            self.dims.sum(int.__sub__(self, other), self.form, form, -1)

    def __rsub__(self, other: Any) -> Any:
        form = _form(other, self.dims)
        return other - self.fixed() if form is None else \
            self.dims.sum(int.__rsub__(self, other), form, self.form, -1)

    def __mul__(self, other: Any) -> Any:
        form = _form(other, self.dims)
        return self.fixed() * other if form is None else \
            self.dims.product(int.__mul__(self, other), self.form, form)

    def __floordiv__(self, other: Any) -> Any:
        form = _form(other, self.dims)
        return self.fixed() // other if not form else \
            self.dims.quotient(int.__floordiv__(self, other), self.form, form)

    def __rfloordiv__(self, other: Any) -> Any:
        form = _form(other, self.dims)
        return other // self.fixed() if form is None else \
            self.dims.quotient(int.__rfloordiv__(self, other), form, self.form)

    def __mod__(self, other: Any) -> Any:
        return self - self // other * other

    def __rmod__(self, other: Any) -> Any:
        return other - other // self * self

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __neg__(self) -> int:
        return 0 - self

    def __pos__(self) -> int:
        return self

    def __abs__(self) -> int:
        return -self if self < 0 else self

    def __bool__(self) -> bool:
        return self != 0

    def __eq__(self, other: object) -> bool:
        form = self._minus(other)
        if form is None:
            return (self.fixed() if isinstance(other, float) else plain(self)) == other
        holds = int.__eq__(self, other)  # type: ignore[operator]
        if form:
            self.dims.condition(form, *((0, 0) if holds else (-_FAR, _FAR)), zero=holds)
        return holds

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: Any) -> bool:
        form = self._minus(other)
        if form is None:
            return (plain(self) if isinstance(other, int) else self.fixed()) < other
        holds = int.__lt__(self, other)
        if form:
            self.dims.condition(form, *((-_FAR, -1) if holds else (0, _FAR)))
        return holds

    def __gt__(self, other: Any) -> bool:
        form = self._minus(other)
        if form is None:
            return (plain(self) if isinstance(other, int) else self.fixed()) > other
        holds = int.__gt__(self, other)
        if form:
            self.dims.condition(form, *((1, _FAR) if holds else (-_FAR, 0)))
        return holds

    def __ge__(self, other: Any) -> bool:
        return not self < other

    def __le__(self, other: Any) -> bool:
        return not self > other

    __radd__, __rmul__ = __add__, __mul__


def _form(x: Any, dims: Dims) -> Form | None:
    """Return an int as a form; None for what is none, and where none is asked for."""
    if not dims.open or not isinstance(x, int):
        return None
    if type(x) is Dim and x.dims is dims:
        return x.form
    value = int.__pos__(x)
    return (((), value),) if int.__ne__(value, 0) else ()


def _fixing(name: str) -> Any:
    of_int = getattr(int, name)

    def method(self: Dim, *args: Any) -> Any:
        return of_int(self.fixed(), *args)
    method.__name__ = name
    return method


for _name in ("truediv", "rtruediv", "pow", "rpow", "lshift", "rlshift", "rshift", "rrshift", "and", "rand", "or",
              "ror", "xor", "rxor", "invert", "int", "float", "trunc", "round", "floor", "ceil", "repr", "str",
              "format"):
    setattr(Dim, f"__{_name}__", _fixing(f"__{_name}__"))
Dim.bit_length = _fixing("bit_length")  # type: ignore[method-assign]


def plain(n: int) -> int:
    """Return the plain int of what may be a Dim: for decisions that change no result, and to be read."""
    return int.__pos__(n) if type(n) is Dim else n


def varies(x: Any) -> bool:
    """Tell whether there is a Dim in a nested tuple."""
    return type(x) is Dim or (isinstance(x, tuple) and any(map(varies, x)))


def plainly(x: Any) -> Any:
    """Return a nested tuple with plain ints for Dims."""
    return plain(x) if type(x) is Dim else tuple(map(plainly, x)) if varies(x) else x


def now(x: Any) -> Any:
    """Return a nested tuple with what its Dims are now."""
    return x.now() if type(x) is Dim else tuple(map(now, x)) if type(x) is tuple else x


def fixed(x: Any) -> Any:
    """Return a nested tuple with plain ints for Dims, noting that they must be the same next time."""
    return x.fixed() if type(x) is Dim else tuple(map(fixed, x)) if varies(x) else x


def index(x: Any) -> int:
    """Return x as an int, as operator.index; a Dim stays one. Raises TypeError for what is no integer."""
    return x if type(x) is Dim else operator.index(x)


def whole(x: Any) -> int:
    """Return x as an int, as int; a Dim stays one."""
    return x if type(x) is Dim else int(x)


def limits(s: slice, n: int) -> tuple[int, int, int]:
    """Return start, stop and step of a slice of a dimension of n, as slice.indices. Steps are above zero."""
    if not varies((n, s.start, s.stop, s.step)):
        return s.indices(n)

    def inside(x: Any, otherwise: int) -> int:
        if x is None:
            return otherwise
        x = index(x)
        return max(x + n, 0) if x < 0 else min(x, n)
    return inside(s.start, 0), inside(s.stop, n), 1 if s.step is None else index(s.step)
