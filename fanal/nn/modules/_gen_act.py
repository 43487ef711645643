head = '''"""Activations."""
from __future__ import annotations

from typing import Any

import fanal
from fanal import Tensor
from fanal.nn import functional as F
from fanal.nn import init
from fanal.nn.modules.module import Module
from fanal.nn.parameter import Parameter
'''
body = '''

class _Inplace(Module):
    """An activation whose only option is to overwrite its input."""

    __constants__ = ["inplace"]
    inplace: bool

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


def _inplace(module: Module) -> str:
    return ", inplace=True" if module.inplace else ""
'''
def inplace(name, fn, doc):
    return f'''

class {name}(_Inplace):
    """{doc}"""

    def forward(self, input: Tensor) -> Tensor:
        return F.{fn}(input, inplace=self.inplace)
'''
def plain(name, expr, doc):
    return f'''

class {name}(Module):
    """{doc}"""

    def forward(self, input: Tensor) -> Tensor:
        return {expr}
'''
def opts(name, args, call, rep, doc, consts=None):
    names=[a.split(":")[0] for a in args]
    sig=", ".join(args)
    sets="\n".join(f"        self.{n} = {n}" for n in names)
    return f'''

class {name}(Module):
    """{doc}"""

    __constants__ = {str(consts or names).replace("'",'"')}

    def __init__(self, {sig}) -> None:
        super().__init__()
{sets}

    def forward(self, input: Tensor) -> Tensor:
        return {call}

    def extra_repr(self) -> str:
        return {rep}
'''
s=head
names=[]
parts=[body]
A=parts.append
A(opts("Threshold",["threshold: float","value: float","inplace: bool = False"],"F.threshold(input, self.threshold, self.value, self.inplace)",'f"threshold={self.threshold}, value={self.value}" + _inplace(self)',"Keep x where x > threshold, else `value`."))
A(inplace("ReLU","relu","Apply max(0, x)."))
A(opts("RReLU",["lower: float = 1.0 / 8","upper: float = 1.0 / 3","inplace: bool = False"],"F.rrelu(input, self.lower, self.upper, self.training, self.inplace)",'f"lower={self.lower}, upper={self.upper}" + _inplace(self)',"Apply leaky ReLU with slopes drawn from U(lower, upper) while training, their mean otherwise."))
A('''

class Hardtanh(Module):
    """Clamp to [min_val, max_val]."""

    __constants__ = ["min_val", "max_val", "inplace"]

    def __init__(
        self,
        min_val: float = -1.0,
        max_val: float = 1.0,
        inplace: bool = False,
        min_value: float | None = None,
        max_value: float | None = None,
    ) -> None:
        super().__init__()
        self.min_val = min_val if min_value is None else min_value  # min_value and max_value are the older names
        self.max_val = max_val if max_value is None else max_value
        self.inplace = inplace
        if self.max_val <= self.min_val:
            raise AssertionError(f"max_val must be larger than min_val, got {self.max_val} <= {self.min_val}")

    def forward(self, input: Tensor) -> Tensor:
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}" + _inplace(self)


class ReLU6(Hardtanh):
    """Apply min(max(0, x), 6)."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.0, 6.0, inplace)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""
''')
A(plain("Sigmoid","fanal.sigmoid(input)","Apply 1 / (1 + exp(-x))."))
A(inplace("Hardsigmoid","hardsigmoid","Apply min(max(0, x + 3), 6) / 6.").replace("(_Inplace)","(_Inplace)")+"\n    def extra_repr(self) -> str:\n        return \"\"\n")
A(plain("Tanh","fanal.tanh(input)","Apply tanh."))
A(inplace("SiLU","silu","Apply x * sigmoid(x) (also called swish)."))
A(inplace("Mish","mish","Apply x * tanh(softplus(x))."))
A(inplace("Hardswish","hardswish","Apply x * min(max(0, x + 3), 6) / 6.")+"\n    def extra_repr(self) -> str:\n        return \"\"\n")
A(opts("ELU",["alpha: float = 1.0","inplace: bool = False"],"F.elu(input, self.alpha, self.inplace)",'f"alpha={self.alpha}" + _inplace(self)',"Apply x where x > 0, else alpha * (exp(x) - 1)."))
A(opts("CELU",["alpha: float = 1.0","inplace: bool = False"],"F.celu(input, self.alpha, self.inplace)",'f"alpha={self.alpha}" + _inplace(self)',"Apply max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."))
A(inplace("SELU","selu","Apply the self-normalising ELU. Source: Klambauer et al. 2017."))
A(opts("GLU",["dim: int = -1"],"F.glu(input, self.dim)",'f"dim={self.dim}"',"Apply a * sigmoid(b), a and b the halves of the input along `dim`."))
A(opts("GELU",['approximate: str = "none"'],"F.gelu(input, approximate=self.approximate)",'f"approximate={self.approximate!r}"',"Apply x * Φ(x); `approximate=\\"tanh\\"` takes the usual approximation.".replace('\\"',"'")))
A(opts("Hardshrink",["lambd: float = 0.5"],"F.hardshrink(input, self.lambd)",'f"{self.lambd}"',"Keep x where |x| > lambd, else 0."))
A(opts("LeakyReLU",["negative_slope: float = 1e-2","inplace: bool = False"],"F.leaky_relu(input, self.negative_slope, self.inplace)",'f"negative_slope={self.negative_slope}" + _inplace(self)',"Apply x where x > 0, else negative_slope * x."))
A(plain("LogSigmoid","F.logsigmoid(input)","Apply log(sigmoid(x))."))
A(opts("Softplus",["beta: float = 1.0","threshold: float = 20.0"],"F.softplus(input, self.beta, self.threshold)",'f"beta={self.beta}, threshold={self.threshold}"',"Apply log(1 + exp(beta * x)) / beta; linear where beta * x > threshold."))
A(opts("Softshrink",["lambd: float = 0.5"],"F.softshrink(input, self.lambd)",'str(self.lambd)',"Move x towards 0 by lambd, as far as 0."))
A('''

class PReLU(Module):
    """Apply leaky ReLU with a learned slope, one for all channels or one for each (dimension 1)."""

    __constants__ = ["num_parameters"]

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.init = init
        self.weight = Parameter(fanal.empty(num_parameters, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.constant_(self.weight, self.init)

    def forward(self, input: Tensor) -> Tensor:
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"
''')
A(plain("Softsign","F.softsign(input)","Apply x / (1 + |x|)."))
A(plain("Tanhshrink","F.tanhshrink(input)","Apply x - tanh(x)."))
for n,f,d in (("Softmin","softmin","Apply softmax of -x along `dim`."),("Softmax","softmax","Apply exp(x) / sum(exp(x)) along `dim`."),("LogSoftmax","log_softmax","Apply log(softmax(x)) along `dim`.")):
    A(opts(n,["dim: int | None = None"],f"F.{f}(input, self.dim, _stacklevel=5)",'f"dim={self.dim}"',d).replace('''
    def forward''','''
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("dim", None)

    def forward'''))
A('''

class Softmax2d(Module):
    """Apply softmax over the channels at each place. Shapes: (N, C, H, W) or (C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (3, 4):
            raise ValueError(f"Softmax2d: expected input to be 3D or 4D, got {input.dim()}D instead")
        return F.softmax(input, -3, _stacklevel=5)
''')
src="".join(parts)
import re
cl=sorted(c for c in re.findall(r"^class (\w+)",src,re.M) if not c.startswith("_"))
s+="\n__all__ = [\n"+"".join(f'    "{c}",\n' for c in cl)+"]\n"+src
open("activation.py","w").write(s)
