"""Random loops about what changes around a backward: which tensors are leaves, whose .grad are there, which views and
losses were made before, what is read where, and which loops ran before in the process."""
from __future__ import annotations

import random
from typing import Any

_CONDITIONS = ("True", "True", "True", "k % 3 != 1", "k % 2 == 0", "k % 4 < 2", "k > 4", "k % 5 != 2")
_VIEWS = ("{p}[1:]", "{p}.view(2, 2)", "{p}[:2]", "{p}.detach()", "{p}.chunk(2)[1]", "{p} * 2", "{p}[1:][1:]",
          "{p}.unbind()[2]", "{p}.clone()", "{p}.sigmoid().view(2, 2)")
_LEAVES = "[m.arange(1., 5.).requires_grad_(), m.full((4,), 0.5).requires_grad_(), m.ones(()).requires_grad_()]"


def source(seed: int) -> str:
    """Return a function `run(m)` as text: a loop over three leaves that logs what can be seen of them."""
    r = random.Random(seed)
    lines = [f"def run(m):\n    ps, out = {_LEAVES}, []",
             f"    optimizer = m.optim.{r.choice(['SGD', 'Adam', 'AdamW'])}(ps, lr=0.01)",
             f"    for k in range({r.choice([10, 16])}):\n        loss = ps[2] * 2"]
    made = 0
    # Not both: PyTorch lets a view be part of a leaf that became one later, once the leaf was written (gaps.txt).
    kinds = ["view", "view", "read", "use", "use", "show", "grad", "other", "swap", *r.choice([["toggle"], ["write"]])]
    for _ in range(r.randint(4, 9)):
        kind = r.choice(kinds)
        p, v = f"ps[{r.randint(0, 1)}]", f"v{r.randrange(made)}" if made else ""
        text = {
            "toggle": f"{p}.requires_grad_({r.choice(_CONDITIONS)})",
            "read": "m.ones(3).sum().item()",
            "use": f"loss = loss + ({v} * 3).sum()" if v and r.random() < 0.8 else f"loss = loss + {p}.square().sum()",
            "write": f"with m.no_grad(): {p}.mul_(0.9)",
            "show": f"out.append({v}.sum().item())" if v else "pass",
            "grad": r.choice([f"{p}.grad = None", f"out.append({p}.grad is None)", "optimizer.zero_grad()",
                              f"if {p}.grad is not None: {p}.grad.mul_(0.5)",
                              f"if {p}.grad is not None: loss = loss + ({p}.grad * {p}).sum()"]),
            "other": f"({p}.square().sum() + ps[2]).backward()",
            "swap": "ps[0], ps[1] = ps[1], ps[0]",
        }.get(kind)
        if text is None:
            lines.append(f"        v{made} = " + r.choice(_VIEWS).format(p=p))
            made += 1
        else:
            condition = r.choice(_CONDITIONS)
            lines.append(f"        {text}" if condition == "True" else f"        if {condition}:\n            {text}")
    if r.random() < 0.2:
        lines.append("        if k % 3 == 2: loss.item()")
    lines.append("        loss.backward()" if r.random() < 0.8 else
                 "        loss.backward(retain_graph=True)\n        loss.backward()")
    if r.random() < 0.6:
        lines.append("        out.append([None if p.grad is None else p.grad.sum().item() for p in ps])")
    lines += [f"        {r.choice(['', '', 'if k % 2: ', 'if k % 3: '])}optimizer.step()",
              f"        {r.choice(['', '', 'if k % 2: '])}optimizer.zero_grad({r.choice(['', 'set_to_none=False'])})"]
    if r.random() < 0.3:
        lines.append("        out.append([p.detach().sum().item() for p in ps])")
    lines.append("    return out + [p.detach().sum().item() for p in ps]")
    return "\n".join(lines)


def run(text: str, m: Any) -> Any:
    """Return what the loop logs in a library, or the class of the error it ends with."""
    names: dict[str, Any] = {}
    exec(text, names)
    try:
        return names["run"](m)
    except RuntimeError as e:
        return type(e)


def agree(a: Any, b: Any) -> bool:
    """Tell whether two logs are equal, but for the rounding of float32."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(agree, a, b))
    if type(a) is type(b) is float:
        return abs(a - b) <= 1e-4 * max(1.0, abs(a)) or (a != a and b != b)
    return bool(a == b)
