"""One step of a recurrent layer."""

from __future__ import annotations

import math
from typing import Any

import fanal
from fanal import Tensor
from fanal.nn import init
from fanal.nn.modules.module import Module
from fanal.nn.parameter import Parameter

__all__ = ["GRUCell", "LSTMCell", "RNNCell", "RNNCellBase"]


class RNNCellBase(Module):
    """What the cells share.

    Weight_ih (chunks * H, I), weight_hh (chunks * H, H), bias_ih, bias_hh (chunks * H).
    """

    __constants__ = ["input_size", "hidden_size", "bias"]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        num_chunks: int,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows = num_chunks * hidden_size
        self.weight_ih = Parameter(fanal.empty((rows, input_size), device=device, dtype=dtype))
        self.weight_hh = Parameter(fanal.empty((rows, hidden_size), device=device, dtype=dtype))
        for name in ("bias_ih", "bias_hh"):
            value = Parameter(fanal.empty(rows, device=device, dtype=dtype)) if bias else None
            self.register_parameter(name, value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    def extra_repr(self) -> str:
        s = f"{self.input_size}, {self.hidden_size}"
        if self.bias is not True:
            s += f", bias={self.bias}"
        if self.__dict__.get("nonlinearity", "tanh") != "tanh":
            s += f", nonlinearity={self.nonlinearity}"
        return s

    @property
    def _weights(self) -> tuple[Tensor | None, ...]:
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh

    def _check_input(self, input: Tensor) -> None:
        if input.dim() not in (1, 2):
            raise ValueError(
                f"{type(self).__name__}: Expected input to be 1D or 2D, got {input.dim()}D instead"
            )

    def _check_sizes(self, input: Tensor, hx: Tensor, number: str) -> None:
        """Raise unless input (B, I) and state (B, H) fit."""
        if input.size(1) != self.input_size:
            raise RuntimeError(
                f"input has inconsistent input_size: got {input.size(1)} expected {self.input_size}"
            )
        if input.size(0) != hx.size(0):
            raise RuntimeError(
                f"Input batch size {input.size(0)} doesn't match hidden{number} batch size {hx.size(0)}"
            )
        if hx.size(1) != self.hidden_size:
            raise RuntimeError(
                f"hidden{number} has inconsistent hidden_size: got {hx.size(1)}, expected {self.hidden_size}"
            )

    def _batched(self, input: Tensor, hx: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return input and state with a batch dimension, after checking both."""
        self._check_input(input)
        if hx is not None and hx.dim() not in (1, 2):
            raise ValueError(
                f"{type(self).__name__}: Expected hidden to be 1D or 2D, got {hx.dim()}D instead"
            )
        alone = input.dim() == 1
        input = input.unsqueeze(0) if alone else input
        if hx is None:
            hx = fanal.zeros(input.size(0), self.hidden_size, dtype=input.dtype, device=input.device)
        elif alone:
            hx = hx.unsqueeze(0)
        self._check_sizes(input, hx, "0")
        return input, hx


class RNNCell(RNNCellBase):
    """Compute h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or with relu. Shapes: (B, I), (B, H) -> (B, H)."""

    __constants__ = ["input_size", "hidden_size", "bias", "nonlinearity"]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        x, h = self._batched(input, hx)
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        cell = fanal.rnn_tanh_cell if self.nonlinearity == "tanh" else fanal.rnn_relu_cell
        result = cell(x, h, *self._weights)
        return result if input.dim() == 2 else result.squeeze(0)


class LSTMCell(RNNCellBase):
    """Compute one step of `LSTM`. Shapes: (B, I), ((B, H), (B, H)) -> ((B, H), (B, H))."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        self._check_input(input)
        for i, state in enumerate(hx or ()):
            if state.dim() not in (1, 2):
                raise ValueError(f"LSTMCell: Expected hx[{i}] to be 1D or 2D, got {state.dim()}D instead")
        alone = input.dim() == 1
        x = input.unsqueeze(0) if alone else input
        if hx is None:
            h = c = fanal.zeros(x.size(0), self.hidden_size, dtype=x.dtype, device=x.device)
        else:
            h, c = (s.unsqueeze(0) for s in hx) if alone else hx
        self._check_sizes(x, h, "0")
        self._check_sizes(x, c, "1")
        h, c = fanal.lstm_cell(x, (h, c), *self._weights)
        return (h.squeeze(0), c.squeeze(0)) if alone else (h, c)


class GRUCell(RNNCellBase):
    """Compute one step of `GRU`. Shapes: (B, I), (B, H) -> (B, H)."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        x, h = self._batched(input, hx)
        result = fanal.gru_cell(x, h, *self._weights)
        return result if input.dim() == 2 else result.squeeze(0)
