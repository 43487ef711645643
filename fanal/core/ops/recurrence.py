"""Recurrent layers and cells: LSTM, GRU and the plain recurrence.

The product with the inputs does not depend on the recurrence, so it is one matrix product for all steps, with
both biases where they are only added. What remains is one `recur` a layer and direction, also for packed sequences: of
a padded batch, in which states stay where sequences have ended.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fanal.core.base.dim import varies
from fanal.core.base.state import state as modes
from fanal.core.ir import prims as P
from fanal.core.ir.body import Body, record
from fanal.core.ir.prims.derivative import saving
from fanal.core.ir.program import Node
from fanal.core.ops.build import dense, public, read, result
from fanal.core.ops.dropout import dropped
from fanal.core.ops.pointwise import relu_node, sigmoid_node
from fanal.core.ops.shape import transpose
from fanal.core.tensor.tensor import wrap_array

State = tuple[Node, ...]  # (h,) or (h, c), (B, H) each


def _linear(x: Node, w: Node, b: Node | None) -> Node:
    y = P.dot(x, P.permute(w, (1, 0)))
    return y if b is None else P.add(y, b)


def _chunks(x: Node, count: int) -> list[Node]:
    n = x.shape[1] // count
    return [P.span(x, 1, k * n, (k + 1) * n) for k in range(count)]


def _lstm(gates: Node, c: Node) -> State:
    """Return the next (h, c) from the gates i, f, g, o (B, 4 H). Source: Hochreiter & Schmidhuber 1997."""
    i, f, g, o = _chunks(gates, 4)
    c = P.add(P.mul(sigmoid_node(f), c), P.mul(sigmoid_node(i), P.tanh(g)))
    return P.mul(sigmoid_node(o), P.tanh(c)), c


def _gru(x: Node, recurrent: Node, h: Node) -> Node:
    """Return the next h from the parts r, z, n (B, 3 H) of input and state. Source: Cho et al. 2014."""
    x_r, x_z, x_n = _chunks(x, 3)
    h_r, h_z, h_n = _chunks(recurrent, 3)
    r, z = sigmoid_node(P.add(x_r, h_r)), sigmoid_node(P.add(x_z, h_z))
    n = P.tanh(P.add(x_n, P.mul(r, h_n)))
    return P.add(n, P.mul(z, P.sub(h, n)))


_STEPS: dict[str, Callable[..., State]] = {  # (state..., projected input, what _recurrent_weights gives) -> next state
    "lstm": lambda h, c, x, w: _lstm(P.add(x, _linear(h, w, None)), c),
    "gru": lambda h, x, w, b=None: (_gru(x, _linear(h, w, b), h),),
    "rnn_tanh": lambda h, x, w: (P.tanh(P.add(x, _linear(h, w, None))),),
    "rnn_relu": lambda h, x, w: (relu_node(P.add(x, _linear(h, w, None))),),
}


def _projected_lstm(h: Node, c: Node, x: Node, w: Node, w_hr: Node) -> State:
    h, c = _STEPS["lstm"](h, c, x, w)
    return _linear(h, w_hr, None), c


def _body(kind: str, given: tuple, counts: tuple[int, int]) -> Body:
    """Return one step of a layer, for states, inputs and weights of these shapes and dtypes."""
    return (_new_body if varies(given) else _known_body)(kind, given, counts)


def _new_body(kind: str, given: tuple, counts: tuple[int, int]) -> Body:
    nodes = [P.input_(*make) for make in given]
    states, steps, weights = nodes[: counts[0]], nodes[counts[0] : sum(counts)], nodes[sum(counts) :]
    step = _projected_lstm if kind == "lstm" and len(weights) == 2 else _STEPS[kind]

    def go_on(*inputs: Node) -> tuple[State, State]:
        new = step(*inputs[: len(states)], inputs[len(states)], *inputs[sum(counts) :])
        if len(steps) == 2:
            new = tuple([P.where(inputs[len(states) + 1], n, old) for n, old in zip(new, inputs)])
        return new, ()
    return record(go_on, states, steps, weights)


_known_body = functools.lru_cache(maxsize=256)(_new_body)


class Packing(NamedTuple):
    """Where the rows of packed sequences are in a padded batch of T steps of B sequences: data, made by the host."""

    rows: Any  # (T, B): the row at a step of a sequence, any where there is none
    there: Any  # (T, B): whether there is one
    places: Any  # of every row: its step and sequence as one number


def packing_of(sizes: Sequence[int], batch_first: bool = False) -> Packing:
    """Return the packing of sequences of which so many go on at each step; (B, T) with `batch_first`."""
    counts = np.array(sizes)
    there = np.arange(sizes[0]) < counts[:, None]
    rows = np.where(there, (np.cumsum(counts) - counts)[:, None] + np.arange(sizes[0]), 0)
    if batch_first:
        there, rows = np.ascontiguousarray(there.T), np.ascontiguousarray(rows.T)
    return Packing(*map(wrap_array, (rows, there, np.flatnonzero(there))))


def _sweep(kind: str, x: Node, state: State, weights: Sequence[Node], reverse: bool, there: Node | None = None,
           ) -> tuple[Node, State]:
    """Run over x (T, B, gates * H); return the outputs (T, B, H) and the last state.

    Where nothing is `there`, (T, B, 1), a state stays as it is.
    """
    steps = (x,) if there is None else (x, there)
    inputs = (*state, *steps, *weights)
    n = len(state)
    given = tuple([(i.shape[1:] if n <= k < n + len(steps) else i.shape, i.dtype) for k, i in enumerate(inputs)])
    body = _body(kind, given, (n, len(steps)))
    if modes.grad and any(i.needs_grad for i in inputs):
        body = saving(body)
    track = P.Track(body, reverse, x.shape[0], P.recur(inputs, body, reverse))
    return track.get("after", 0), tuple(track.get("last", k) for k in range(n))


def _layers(kind: str, x: Node, packing: Sequence[Node] | None, initial: State, params: Sequence[Node], biases: bool,
            layers: int, dropout: float, directions: int) -> tuple[Node, State]:
    """Run stacked layers over x (T, B, I) or packed; states are (layers * directions, B, H) each."""
    per = len(params) // (layers * directions)
    last: list[State] = []
    for layer in range(layers):
        if layer and dropout:
            x = dropped(x, dropout, x.shape)
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            w_ih, w_hh, *rest = params[k * per : (k + 1) * per]
            weights, bias = [w_hh], None
            if biases:
                b_ih, b_hh, *rest = rest
                if kind == "gru":  # a gate multiplies what the state gives, bias and all
                    weights, bias = [w_hh, b_hh], b_ih
                else:
                    bias = P.add(b_ih, b_hh)
            rows = P.reshape(x, (-1 if not x.size else x.size // x.shape[-1], x.shape[-1]))
            projected = _linear(rows, w_ih, bias)
            state = tuple(P.reshape(P.span(s, 0, k, k + 1), s.shape[1:]) for s in initial)
            if packing is None:
                projected = P.reshape(projected, (*x.shape[:-1], w_ih.shape[0]))
                y, state = _sweep(kind, projected, state, [*weights, *rest], bool(direction))
            else:
                rows, there, places = packing
                there = P.reshape(there, (*there.shape, 1))
                projected = P.take(projected, rows, 0)
                projected = P.where(there, projected, P.num(projected, 0))
                y, state = _sweep(kind, projected, state, [*weights, *rest], bool(direction), there)
                y = P.take(P.reshape(y, (y.shape[0] * y.shape[1], y.shape[2])), places, 0)
            outputs.append(y)
            last.append(state)
        x = P.concat(outputs, len(x.shape) - 1)
    stacked = (P.concat([P.reshape(s, (1, *s.shape)) for s in same], 0) for same in zip(*last, strict=True))
    return x, tuple(stacked)


def _call(kind: str, args: tuple, named: dict[str, Any]) -> tuple:
    """Run layers with the arguments of torch.lstm and its like: of padded or of packed sequences."""
    names = ("params", "has_biases", "num_layers", "dropout", "train", "bidirectional")
    packed = "batch_sizes" in named or (len(args) > 3 and not isinstance(args[3], bool))
    names = ("data", "batch_sizes", "hx", *names) if packed else ("input", "hx", *names, "batch_first")
    given = dict(zip(names, args)) | named
    if given.keys() != {*names} or len(args) + len(named) != len(names):
        raise TypeError(f"{kind}() takes the arguments {', '.join(names)}")
    x, hx, sizes = given["data" if packed else "input"], given["hx"], given.get("batch_sizes")
    if packed:
        if not isinstance(sizes, Packing):
            sizes = packing_of(sizes if isinstance(sizes, (list, tuple)) else sizes.tolist())
        sizes = tuple(map(read, sizes))
    hx = hx if isinstance(hx, (list, tuple)) else (hx,)
    if kind == "lstm" and len(hx) != 2:
        raise RuntimeError("lstm expects two hidden states")
    first = bool(given.get("batch_first"))
    steps = read(transpose(x, 0, 1) if first else x)
    if not (packed or steps.shape[0]):
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    y, state = _layers(kind, steps, sizes, tuple(map(read, hx)), [read(p) for p in given["params"]],
                       given["has_biases"], given["num_layers"], given["dropout"] if given["train"] else 0.0,
                       1 + given["bidirectional"])
    output = dense(y, x)
    return (transpose(output, 0, 1) if first else output, *(dense(s, x) for s in state))


@public(method=False)
def lstm(input: Any, *args: Any, **named: Any) -> tuple:
    """Run a long short-term memory over sequences. Source: Hochreiter & Schmidhuber 1997.

    Arguments: input, (h_0, c_0), params, has_biases, num_layers, dropout, train, bidirectional, batch_first; or data
    and batch_sizes of a packed sequence instead of input, without batch_first. params are the weights of `nn.LSTM`.
    Shapes: (T, B, I), (layers * directions, B, H) twice -> (T, B, directions * H), h_n, c_n.
    """
    return _call("lstm", (input, *args), named)


@public(method=False)
def gru(input: Any, *args: Any, **named: Any) -> tuple:
    """Run a gated recurrent unit over sequences. Source: Cho et al. 2014.

    The arguments are those of `lstm`, with one state. Shapes: (T, B, I), h_0 -> (T, B, directions * H), h_n.
    """
    return _call("gru", (input, *args), named)


@public(method=False)
def rnn_tanh(input: Any, *args: Any, **named: Any) -> tuple:
    """Run h = tanh(W_ih x + b_ih + W_hh h + b_hh) over sequences, with the arguments of `gru`."""
    return _call("rnn_tanh", (input, *args), named)


@public(method=False)
def rnn_relu(input: Any, *args: Any, **named: Any) -> tuple:
    """Run h = relu(W_ih x + b_ih + W_hh h + b_hh) over sequences, with the arguments of `gru`."""
    return _call("rnn_relu", (input, *args), named)


def _cell(input: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> tuple[Node, Node]:
    """Return what the input and what the state gives."""
    biases = (None if b is None else read(b) for b in (b_ih, b_hh))
    x, recurrent = (_linear(read(a), read(w), b) for a, w, b in zip((input, h), (w_ih, w_hh), biases))
    return x, recurrent


@public(method=False)
def lstm_cell(input: Any, hx: Sequence, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> tuple:
    """Return the next (h, c) of a long short-term memory. Shapes: (B, I), ((B, H), (B, H)) -> (B, H), (B, H)."""
    return tuple(dense(n, input) for n in _lstm(P.add(*_cell(input, hx[0], w_ih, w_hh, b_ih, b_hh)), read(hx[1])))


@public(method=False)
def gru_cell(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
    """Return the next h of a gated recurrent unit. Shapes: (B, I), (B, H) -> (B, H)."""
    return result(_gru(*_cell(input, hx, w_ih, w_hh, b_ih, b_hh), read(hx)), hx, input)


@public(method=False)
def rnn_tanh_cell(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
    """Return tanh(W_ih x + b_ih + W_hh h + b_hh). Shapes: (B, I), (B, H) -> (B, H)."""
    return dense(P.tanh(P.add(*_cell(input, hx, w_ih, w_hh, b_ih, b_hh))), input)


@public(method=False)
def rnn_relu_cell(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
    """Return relu(W_ih x + b_ih + W_hh h + b_hh). Shapes: (B, I), (B, H) -> (B, H)."""
    return dense(relu_node(P.add(*_cell(input, hx, w_ih, w_hh, b_ih, b_hh))), input)
