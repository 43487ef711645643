"""Random programs whose data come in another size every round, as batches of many lengths do.

They are those of `programs`, written with a size that is a variable: `b`, what the first dimension of the data is.
"""
from __future__ import annotations

import re
from typing import Any

import programs
from programs import run

NEAR = range(16, 32)  # sizes that one plan mostly serves
FAR = (1, 2, 5, 12, 33, 64)


class Size(int):
    """A size when the program is written, and what it is called there."""

    text: str

    def __new__(cls, value: int, text: str) -> Size:
        size = super().__new__(cls, value)
        size.text = text
        return size

    def __repr__(self) -> str:
        return self.text

    def __format__(self, spec: str) -> str:
        return self.text


def _written(name: str, sign: str, turned: bool) -> Any:
    of_int = getattr(int, name)

    def method(self: Size, other: Any) -> Size:
        a, b = (other, self) if turned else (self, other)
        return Size(of_int(self, other), f"({a!r} {sign} {b!r})")
    return method


for _name, _sign in (("add", "+"), ("sub", "-"), ("mul", "*"), ("floordiv", "//")):
    setattr(Size, f"__{_name}__", _written(f"__{_name}__", _sign, False))
    setattr(Size, f"__r{_name}__", _written(f"__r{_name}__", _sign, True))
Size.__neg__ = lambda self: Size(-int(self), f"(-{self!r})")  # type: ignore[method-assign]
Size.__str__ = Size.__repr__  # type: ignore[method-assign]


class Writer(programs.Writer):
    """Writes a program for data of any size."""

    def begin(self) -> str:
        b = Size(17, "b")
        self.emit("b = data[0].shape[0]")
        shapes: list[tuple[int, ...]] = [self.r.choice([(b, 4), (b, 6), (b, 3, 4), (4, b), (b,)]) for _ in range(2)]
        shapes[0] = (b, *(n for n in shapes[0] if n is not b))
        params = [tuple(1 if n is b else n for n in s) for s in shapes]
        self.tensors += [(f"data[{i}]", s, False) for i, s in enumerate(shapes)]
        self.tensors += [(f"params[{i}]", s, False) for i, s in enumerate(params)]
        for i, s in enumerate(shapes):
            self.new(f"data[{i}] * params[{i}]", s)
        sizes = self.r.sample(NEAR, 6)
        sizes += [sizes[0], self.r.choice(FAR), self.r.choice(NEAR)]
        data = [tuple(None if n is b else n for n in s) for s in shapes]
        return f"SHAPES, PARAMS = {data!r}, {params!r}\nSIZES = {sizes!r}\n"


def leaving_history(seed: int, size: int = 8) -> str:
    """Return program number `seed`. Odd ones use the rich vocabulary."""
    return Writer(seed, size, seed % 2 == 1).program()


def source(seed: int, size: int = 8) -> str:
    """Return program number `seed`, whose results leave no history behind."""
    text = leaving_history(seed, size)
    return re.sub(r"return (\[.*\])", r"return [t.detach().clone() for t in \1]", text)


__all__ = ["leaving_history", "run", "source"]
