"""Random loops about buffers that get a history by being written to, and are held while values are read: states of an
encoder written one by one, losses that are added up, views of either, buffers that go on from step to step."""
from __future__ import annotations

import random

_CONDITIONS = ("True", "True", "True", "True", "k % 3 != 1", "k % 2 == 0", "k > 4")
_SHAPE = "m.zeros(3, 4)"


def source(seed: int) -> str:
    """Return a function `run(m)` as text, as `leaf_programs` does: a loop over two leaves and two buffers."""
    r = random.Random(seed)
    lines = ["def run(m):",
             "    ps, out = [m.arange(1., 5.).mul(0.1).requires_grad_(), m.full((4,), 0.5).requires_grad_()], []",
             f"    b0, b1, total = {_SHAPE}, {_SHAPE}, m.zeros(())",
             f"    optimizer = m.optim.{r.choice(['SGD', 'Adam'])}(ps, lr=0.01)",
             f"    for k in range({r.choice([8, 14])}):",
             "        h = ps[0] * 1.5"]
    for b, new in (("b0", _SHAPE), ("b1", _SHAPE), ("total", "m.zeros(())")):
        lines.append("        " + r.choice([f"{b} = {new}"] * 3 + [f"{b} = {b}.detach()", f"{b} = {b}.detach() * 0.5"]))
    views = 0
    for _ in range(r.randint(5, 12)):
        b, p, i = r.choice(["b0", "b0", "b1"]), f"ps[{r.randint(0, 1)}]", r.randint(0, 2)
        v = f"v{r.randrange(views)}" if views else b
        kind = r.choice(["write", "write", "write", "read", "read", "read", "add", "use", "view", "state", "view write", "show"])
        text = {
            "write": r.choice([f"{b}[{i}] = h", f"{b}[{i}] = h * {p}", f"{b}[{i}] += {p}", f"{b}[:, {i}] = h.sum()",
                               f"{b}.add_({p})", f"{b}[{i}].copy_(h.tanh())", f"{b}[1:] = {p}.sigmoid()",
                               f"{b}.mul_({p})", f"{b} += h", f"{b}.zero_()"]),
            "read": r.choice(["m.ones(3).sum().item()", f"out.append({b}.sum().item())", "out.append(total.item())",
                              "out.append(h.tolist())", f"out.append({b}.detach().argmax().item())",
                              f"out.append({b}[{i}].tolist())", f"out.append({b}.requires_grad)"]),
            "add": r.choice([f"total += ({b} * {p}).sum()", "total += h.square().mean()", f"total += {v}.sum()",
                             f"total = total + {b}.sum()"]),
            "use": r.choice([f"h = ({b} @ {p}).sum() * h.tanh()", f"h = h + {b}.softmax(0)[{i}]", f"h = {b}.mean(0) + h",
                             f"h = ({v} * 2).sum() + {p}"]),
            "state": "h = (h * ps[1]).tanh()",
            "view write": r.choice([f"{v} *= 0.5", f"{v}.add_(1)"]),
            "show": f"out.append({v}.sum().item())",
        }.get(kind)
        if text is None:
            text = f"v{views} = " + r.choice([f"{b}[{i}]", f"{b}.view(-1)", f"{b}.t()", f"{b}[1:]", f"{b}.view(4, 3)[0]"])
            views += 1
            lines.append("        " + text)
            continue
        condition = r.choice(_CONDITIONS)
        lines.append(f"        {text}" if condition == "True" else f"        if {condition}:\n            {text}")
    lines.append(f"        loss = total + {r.choice(['h.sum()', 'b0.sum()', '(b0 * b1).sum()', 'b0.square().mean() + b1.sum()'])}")
    lines.append(r.choice(["        pass", "        out.append(loss.item())"]))
    lines.append(r.choice(["        loss.backward()"] * 3 +
                          ["        loss.backward(retain_graph=True)\n        loss.backward()",
                           "        g, = m.autograd.grad(loss, ps[:1], allow_unused=True)\n        out.append(None if g is None else g.tolist())",
                           "        if k % 3: loss.backward()"]))
    lines += ["        out.append([None if p.grad is None else p.grad.tolist() for p in ps])",
              f"        {r.choice(['', 'if k % 2: '])}optimizer.step()",
              f"        {r.choice(['', 'if k % 2: '])}optimizer.zero_grad()",
              f"        {r.choice(['pass', 'out.append(b0.tolist())', 'out.append([b0.requires_grad, b1.requires_grad])'])}",
              "    return out + [p.tolist() for p in (*ps, b0, b1, total)]"]
    return "\n".join(lines)
