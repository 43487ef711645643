"""Recurrent layers."""

from __future__ import annotations

import math
import numbers
import warnings
from typing import Any

import fanal
from fanal import Tensor
from fanal.core.ops.recurrence import packing_of
from fanal.nn import init
from fanal.nn.modules.module import Module
from fanal.nn.modules.rnn_cell import GRUCell, LSTMCell, RNNCell, RNNCellBase
from fanal.nn.parameter import Parameter
from fanal.nn.utils.rnn import PackedSequence

__all__ = ["GRU", "GRUCell", "LSTM", "LSTMCell", "RNN", "RNNBase", "RNNCell", "RNNCellBase"]

_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
_KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def apply_permutation(tensor: Tensor, permutation: Tensor, dim: int = 1) -> Tensor:
    """Reorder a state along its batch dimension."""
    return tensor.index_select(dim, permutation)


class RNNBase(Module):
    """What RNN, LSTM and GRU share: the weights and the way of sequences through the layers.

    Layer k has weight_ih_lk (gates * H, I), weight_hh_lk (gates * H, H), bias_ih_lk, bias_hh_lk (gates * H)
    and, with `proj_size`, weight_hr_lk (proj, H); the backward direction has the same with the suffix
    _reverse.
    """

    __constants__ = [
        "mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional",
        "proj_size",
    ]  # fmt: skip
    __jit_unused_properties__ = ["all_weights"]

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if not isinstance(dropout, numbers.Number) or not 0 <= dropout <= 1 or isinstance(dropout, bool):
            raise ValueError(
                "dropout should be a number in range [0, 1] representing the probability of an "
                "element being zeroed"
            )
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
                stacklevel=2,
            )  # fmt: skip
        for name, value, kind in (
            ("bias", bias, bool), ("batch_first", batch_first, bool), ("input_size", input_size, int),
            ("hidden_size", hidden_size, int),
        ):  # fmt: skip
            if not isinstance(value, kind):
                raise TypeError(f"{name} should be of type {kind.__name__}, got: {type(value).__name__}")
        for name, value in (
            ("input_size", input_size),
            ("hidden_size", hidden_size),
            ("num_layers", num_layers),
        ):
            if value <= 0:
                raise ValueError(f"{name} must be greater than zero")
        if proj_size < 0:
            raise ValueError("proj_size should be a positive integer or zero to disable projections")
        if proj_size >= hidden_size:
            raise ValueError("proj_size has to be smaller than hidden_size")
        if mode not in _GATES:
            raise ValueError("Unrecognized RNN mode: " + mode)
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size

        gates, state_size = _GATES[mode] * hidden_size, proj_size or hidden_size
        directions = 2 if bidirectional else 1
        for layer in range(num_layers):
            in_size = input_size if layer == 0 else state_size * directions
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (gates, in_size),
                "weight_hh": (gates, state_size),
            }
            if bias:
                shapes |= {"bias_ih": (gates,), "bias_hh": (gates,)}
            if proj_size:
                shapes["weight_hr"] = (proj_size, hidden_size)
            for suffix in ("", "_reverse")[:directions]:
                for kind, shape in shapes.items():
                    setattr(
                        self,
                        f"{kind}_l{layer}{suffix}",
                        Parameter(fanal.empty(shape, device=device, dtype=dtype)),
                    )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    @property
    def _all_weights(self) -> list[list[str]]:
        """The names of the parameters, by layer and direction."""
        kinds = [k for k in _KINDS if (self.bias or "bias" not in k) and (self.proj_size or k != "weight_hr")]
        suffixes = ("", "_reverse") if self.bidirectional else ("",)
        return [[f"{k}_l{layer}{s}" for k in kinds] for layer in range(self.num_layers) for s in suffixes]

    @property
    def _flat_weights_names(self) -> list[str]:
        return [name for names in self._all_weights for name in names]

    @property
    def _flat_weights(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._flat_weights_names]

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """Return the parameters, by layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def flatten_parameters(self) -> None:
        """Do nothing: the engine packs weights by itself."""

    def check_input(self, input: Tensor, batch_sizes: Any) -> None:
        """Raise unless dtype, number of dimensions and number of features are right."""
        weight = self.weight_ih_l0
        if input.dtype != weight.dtype and not fanal.is_autocast_enabled(input.device.type):
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({weight.dtype}). "
                "Convert input: "
                f"input.to({weight.dtype}), or convert model: model.to({input.dtype})"
            )
        dims = 2 if batch_sizes is not None else 3
        if input.dim() != dims:
            raise RuntimeError(f"input must have {dims} dimensions, got {input.dim()}")
        if self.input_size != input.size(-1):
            raise RuntimeError(
                "input.size(-1) must be equal to input_size. "
                f"Expected {self.input_size}, got {input.size(-1)}"
            )

    def _state_shape(self, batch: int, size: int) -> tuple[int, int, int]:
        return self.num_layers * (2 if self.bidirectional else 1), batch, size

    def _batch(self, input: Tensor, batch_sizes: Any) -> int:
        if batch_sizes is not None:
            return int(batch_sizes[0])
        return input.size(0 if self.batch_first else 1)

    def get_expected_hidden_size(self, input: Tensor, batch_sizes: Any) -> tuple[int, int, int]:
        """Return the shape that h_0 must have."""
        return self._state_shape(self._batch(input, batch_sizes), self.proj_size or self.hidden_size)

    def get_expected_cell_size(self, input: Tensor, batch_sizes: Any) -> tuple[int, int, int]:
        """Return the shape that c_0 must have."""
        return self._state_shape(self._batch(input, batch_sizes), self.hidden_size)

    def check_hidden_size(
        self, hx: Tensor, expected_hidden_size: tuple[int, ...], msg: str = "Expected hidden size {}, got {}"
    ) -> None:
        """Raise unless a state has its shape."""
        if tuple(hx.shape) != tuple(expected_hidden_size):
            raise RuntimeError(msg.format(expected_hidden_size, list(hx.size())))

    def check_forward_args(self, input: Tensor, hidden: Any, batch_sizes: Any) -> None:
        """Raise unless input and state fit the module."""
        self.check_input(input, batch_sizes)
        self.check_hidden_size(hidden, self.get_expected_hidden_size(input, batch_sizes))

    def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
        """Reorder a state by a permutation of the batch."""
        return hx if permutation is None else apply_permutation(hx, permutation)

    def extra_repr(self) -> str:
        s = f"{self.input_size}, {self.hidden_size}"
        if self.proj_size != 0:
            s += f", proj_size={self.proj_size}"
        if self.num_layers != 1:
            s += f", num_layers={self.num_layers}"
        if self.bias is not True:
            s += f", bias={self.bias}"
        if self.batch_first is not False:
            s += f", batch_first={self.batch_first}"
        if self.dropout != 0:
            s += f", dropout={self.dropout}"
        if self.bidirectional is not False:
            s += f", bidirectional={self.bidirectional}"
        return s

    def __setstate__(self, state: dict[str, Any]) -> None:
        state.setdefault("proj_size", 0)
        # Names and lists of weights are derived here; PyTorch pickles them.
        drop = ("all_weights", "_all_weights", "_flat_weights", "_flat_weights_names", "_flat_weight_refs")
        super().__setstate__({k: v for k, v in state.items() if k not in drop})

    def _zero_state(self, input: Tensor, batch_sizes: Any) -> Any:
        shape = self.get_expected_hidden_size(input, batch_sizes)
        return fanal.zeros(shape, dtype=input.dtype, device=input.device)

    def _check_state_dims(self, hx: Any, batched: bool) -> Any:
        """Return the state with a batch dimension."""
        if batched:
            if hx.dim() != 3:
                raise RuntimeError(
                    f"For batched 3-D input, hx should also be 3-D but got {hx.dim()}-D tensor"
                )
            return hx
        if hx.dim() != 2:
            raise RuntimeError(f"For unbatched 2-D input, hx should also be 2-D but got {hx.dim()}-D tensor")
        return hx.unsqueeze(1)

    def _as_tuple(self, hx: Any) -> tuple[Tensor, ...]:
        return (hx,)

    def _from_tuple(self, state: tuple[Tensor, ...]) -> Any:
        return state[0]

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """Run over sequences (T, B, I), (B, T, I) with `batch_first`, (T, I), or a PackedSequence."""
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        if input.dim() not in (2, 3):
            # RNN says "tensor", the other two do not.
            noun = " tensor" if self.mode.startswith("RNN") else ""
            raise ValueError(
                f"{self._kind()}: Expected input to be 2D or 3D, got {input.dim()}D{noun} instead"
            )
        batched, batch_dim = input.dim() == 3, 0 if self.batch_first else 1
        if not batched:
            input = input.unsqueeze(batch_dim)
        hx = self._zero_state(input, None) if hx is None else self._check_state_dims(hx, batched)
        self.check_forward_args(input, hx, None)
        output, *state = self._run(input, hx, batch_first=self.batch_first)
        if not batched:
            output, state = output.squeeze(batch_dim), [s.squeeze(1) for s in state]
        return output, self._from_tuple(tuple(state))

    def _forward_packed(self, packed: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        data, batch_sizes, sorted_indices, unsorted_indices = packed
        hx = self._zero_state(data, batch_sizes) if hx is None else self.permute_hidden(hx, sorted_indices)
        self.check_forward_args(data, hx, batch_sizes)
        output, *state = self._run(data, packing_of(batch_sizes.tolist()), hx)
        result = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
        return result, self.permute_hidden(self._from_tuple(tuple(state)), unsorted_indices)

    def _run(self, *sequences: Any, **more: bool) -> tuple[Tensor, ...]:
        """Return the output and the last states."""
        layers = getattr(fanal, self.mode.lower())
        return layers(
            *sequences, self._flat_weights, self.bias, self.num_layers, self.dropout, self.training, self.bidirectional,
            **more,
        )  # fmt: skip

    def _kind(self) -> str:
        return self.mode.partition("_")[0]


class RNN(RNNBase):
    """Run h = tanh(W_ih x + b_ih + W_hh h + b_hh), or with relu, over sequences.

    Shapes: (T, B, I), h_0 (layers * directions, B, H) -> (T, B, directions * H), h_n.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        if len(args) > 3:
            nonlinearity, args = args[3], args[:3] + args[4:]
        else:
            nonlinearity = kwargs.pop("nonlinearity", "tanh")
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        super().__init__("RNN_" + nonlinearity.upper(), *args, **kwargs)
        self.nonlinearity = nonlinearity


class LSTM(RNNBase):
    """Run a long short-term memory over sequences. Source: Hochreiter & Schmidhuber 1997.

    Shapes: (T, B, I), (h_0, c_0) -> (T, B, directions * H), (h_n, c_n); H is proj_size in outputs where that
    is set.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)

    def _zero_state(self, input: Tensor, batch_sizes: Any) -> Any:
        shape = self.get_expected_cell_size(input, batch_sizes)
        return super()._zero_state(input, batch_sizes), fanal.zeros(
            shape, dtype=input.dtype, device=input.device
        )

    def _check_state_dims(self, hx: Any, batched: bool) -> Any:
        wanted, kind = (3, "batched 3-D") if batched else (2, "unbatched 2-D")
        if hx[0].dim() != wanted or hx[1].dim() != wanted:
            raise RuntimeError(
                f"For {kind} input, hx and cx should also be {wanted}-D but got "
                f"({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
            )
        return hx if batched else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))

    def check_forward_args(self, input: Tensor, hidden: Any, batch_sizes: Any) -> None:
        """Raise unless input and states fit the module."""
        self.check_input(input, batch_sizes)
        shapes = (
            self.get_expected_hidden_size(input, batch_sizes),
            self.get_expected_cell_size(input, batch_sizes),
        )
        for i, shape in enumerate(shapes):
            self.check_hidden_size(hidden[i], shape, f"Expected hidden[{i}] size {{}}, got {{}}")

    def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
        """Reorder both states by a permutation of the batch."""
        return hx if permutation is None else tuple(apply_permutation(h, permutation) for h in hx)

    def _as_tuple(self, hx: Any) -> tuple[Tensor, ...]:
        return tuple(hx)

    def _from_tuple(self, state: tuple[Tensor, ...]) -> Any:
        return state


class GRU(RNNBase):
    """Run a gated recurrent unit over sequences. Source: Cho et al. 2014.

    Shapes: (T, B, I), h_0 (layers * directions, B, H) -> (T, B, directions * H), h_n.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        super().__init__("GRU", *args, **kwargs)
