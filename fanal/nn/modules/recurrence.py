"""The recurrences themselves: loops over time, written in ordinary operators.

The product with the inputs does not depend on the recurrence, so it is one matrix product for all steps, with both
biases where they are only added.
`steps` are the projected inputs of each time step, (B, gates * H); for packed sequences B falls with time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import fanal
from fanal import Tensor
from fanal.nn import functional as F

State = tuple[Tensor, ...]  # (h,) or (h, c), (B, H) each
Step = Callable[[Tensor, State], State]


def lstm_step(gates: Tensor, c: Tensor, w_hr: Tensor | None) -> State:
    """Return the next (h, c) from the gates i, f, g, o (B, 4 H). Source: Hochreiter & Schmidhuber 1997."""
    i, f, g, o = gates.chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if w_hr is None else F.linear(h, w_hr)), c


def gru_step(x: Tensor, recurrent: Tensor, h: Tensor) -> Tensor:
    """Return the next h from the parts r, z, n (B, 3 H) of input and state. Source: Cho et al. 2014."""
    x_r, x_z, x_n = x.chunk(3, 1)
    h_r, h_z, h_n = recurrent.chunk(3, 1)
    r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
    n = (x_n + r * h_n).tanh()
    return n + z * (h - n)


def step_of(mode: str, w_hh: Tensor, b_hh: Tensor | None, w_hr: Tensor | None) -> Step:
    """Return the function (projected input, state) -> state of a kind of layer."""
    if mode == "LSTM":
        return lambda x, s: lstm_step(x + F.linear(s[0], w_hh, b_hh), s[1], w_hr)
    if mode == "GRU":
        return lambda x, s: (gru_step(x, F.linear(s[0], w_hh, b_hh), s[0]),)
    if mode == "RNN_TANH":
        return lambda x, s: ((x + F.linear(s[0], w_hh, b_hh)).tanh(),)
    return lambda x, s: ((x + F.linear(s[0], w_hh, b_hh)).relu(),)


def forward_in_time(steps: Sequence[Tensor], state: State, step: Step) -> tuple[list[Tensor], State]:
    """Run from the first step; sequences that end early leave the batch with their last state."""
    outputs: list[Tensor] = []
    ended: list[State] = []
    for x in steps:
        batch = x.size(0)
        if batch < state[0].size(0):
            ended.append(tuple(s[batch:] for s in state))
            state = tuple(s[:batch] for s in state)
        state = step(x, state)
        outputs.append(state[0])
    if ended:
        parts = [state, *reversed(ended)]  # the longest sequences come first
        state = tuple(fanal.cat(same, 0) for same in zip(*parts, strict=True))
    return outputs, state


def backward_in_time(steps: Sequence[Tensor], initial: State, step: Step) -> tuple[list[Tensor], State]:
    """Run from the last step; shorter sequences join with their initial state where they end."""
    outputs: list[Tensor] = []
    state = tuple(s[: steps[-1].size(0)] for s in initial)
    for x in reversed(steps):
        batch, known = x.size(0), state[0].size(0)
        if batch > known:
            state = tuple(
                fanal.cat((s, first[known:batch]), 0) for s, first in zip(state, initial, strict=True)
            )
        state = step(x, state)
        outputs.append(state[0])
    return outputs[::-1], state


def run_layers(
    mode: str,
    input: Tensor,
    batch_sizes: list[int] | None,
    initial: State,
    weights: Sequence[Sequence[dict[str, Any]]],
    dropout: float,
) -> tuple[Tensor, State]:
    """Run stacked layers, each with one or two directions.

    Shapes: input (T, B, I), or packed (sum of batch_sizes, I); initial (layers * directions, B, H) each ->
    output (T, B, directions * H) or packed, last state as initial. `weights` by layer and direction.
    """
    last: list[State] = []
    for layer, directions in enumerate(weights):
        if layer and dropout:
            input = F.dropout(input, dropout, True)
        results = []
        for direction, w in enumerate(directions):
            b_ih, b_hh = w["bias_ih"], w["bias_hh"]
            if b_hh is not None and mode != "GRU":  # there one gate multiplies its bias
                b_ih, b_hh = b_ih + b_hh, None
            projected = F.linear(input, w["weight_ih"], b_ih)
            steps = projected.unbind(0) if batch_sizes is None else projected.split(batch_sizes, 0)
            step = step_of(mode, w["weight_hh"], b_hh, w["weight_hr"])
            state = tuple(s[layer * len(directions) + direction] for s in initial)
            outputs, state = (backward_in_time if direction else forward_in_time)(steps, state, step)
            results.append(fanal.stack(outputs, 0) if batch_sizes is None else fanal.cat(outputs, 0))
            last.append(state)
        input = results[0] if len(results) == 1 else fanal.cat(results, -1)
    return input, tuple(fanal.stack(same, 0) for same in zip(*last, strict=True))
