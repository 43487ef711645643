"""Random training loops: whole programs as people write them, of networks (`loop_layers`), steps and what happens between
them (`loop_steps`), and loops of other shapes (`loop_families`). Several follow each other, as in a notebook.

    python loop_programs.py SEED      prints program number SEED
"""
from __future__ import annotations

import random
import re
import sys
from textwrap import indent
from typing import Any

from loop_families import FAMILIES
from loop_layers import ACTS, HELPERS, INPUTS, SIZES, TABLES, TO_VECTOR
from loop_steps import (
    BATCHES,
    BY_HAND,
    EVENTS,
    HALF,
    LOSSES,
    ON_NUMBERS,
    OPTIMIZERS,
    PARAMETERS,
    PURE,
    SCHEDULERS,
    STEPS,
)

CONDITIONS = ("", "", "", "", "k % 3 == 2", "k % 2 == 0", "k % 4 < 2", "k > 4", "k == 5", "k in (3, 4)", "k % 5 != 2",
              "loss_seen > 1", "random.random() < 0.3", "k == 2 or k > 7")
# What a network does that no function may do that is mapped or differentiated as one.
IMPURE = ("register", "Norm1d", "Norm2d", "self.{n}", ".item()", "any()", "float(", "Drop", "rand", "aux", "seen", "shown", "Lazy",
          "checkpoint", "spectral", "vmap", "[i]", "x.shape[0]", "parametri", "for ", "Embedding", "m.zeros", "empty", "float",
          ".apply", "[x > 1]", "_(", "with ")
# What is another thing in every step.
IRREGULAR = ("random.", ".item() >", "any()", "m.where(c ==", "float(x", "if k", "best", "k %", "k == ", "k * ", "k > ", "k < ",
             "if loss", "before", "continue", "self.train", "kept", "losses", "epoch", "opt = ", "total", "clear()")
# What needs a copy of the whole network, and what a network may have that cannot be copied.
UNCOPIED = ("shown", "register_hook", "hook(", "aux", "self.{n}_s", "weight_norm", "spectral", "parametri", "self.{n} = None")
HEAD = """
m.set_default_dtype(m.{dtype})
m.manual_seed({seed})
nn, F, checkpoint = m.nn, m.nn.functional, m.utils.checkpoint.checkpoint
losses, kept, best, total, loss_seen = [], [], 1e9, 0.0, 2.0
out, loss = m.zeros(4, 3), m.zeros(())"""


class Writer:
    """Writes one program."""

    def __init__(self, seed: int) -> None:
        self.r = random.Random(f"loops {seed}")
        self.half = self.r.random() < 0.06
        self.float32 = self.half or self.r.random() < 0.05
        self.text: list[str] = []
        self.layers: list[str] = []  # the text of the network's layers

    def fill(self, text: str, **fixed: Any) -> str:
        """Return a text with what is in braces filled in, each the same wherever it stands."""
        r = self.r
        drawn: dict[str, Any] = {
            "e": lambda: r.choice(SIZES), "act": lambda: r.choice(ACTS), "c": lambda: r.choice((0.2, 0.3, 0.5, 0.9)),
            "b": lambda: r.choice((3, 4, 5)), "t": lambda: r.choice((3, 4, 6)), "steps": lambda: r.choice((8, 12, 16)),
            "epochs": lambda: r.choice((3, 5)), "none": lambda: r.choice(("", "", "set_to_none=False")),
            "rnn": lambda: r.choice(("LSTM", "GRU", "RNN")), "norm": lambda: r.choice(("BatchNorm1d(6)", "LayerNorm(6)", "Tanh()")),
            "other": lambda: r.choice(("Adam", "SGD", "RMSprop", "AdamW")), "hard": lambda: r.choice(("k % 3 == 2", "False")),
            "draw": lambda: r.choice(("True", "False")), "turn": lambda: r.choice(("n // 2 == k % 3", "k % 4 > 1 or n > 1", "n >= k % 3")),
            "inner": lambda: r.choice((1, 2)), "create": lambda: r.choice(("True", "True", "k > 3")), "opt": lambda: "opt",
            "byhand": lambda: r.choice(BY_HAND)}

        def value(match: re.Match[str]) -> str:
            name = match[1]
            if name not in fixed:
                if name not in drawn:
                    return match[0]
                fixed[name] = drawn[name]()
            return str(fixed[name])
        return re.sub(r"\{(\w+)\}", value, text)

    def network(self, name: str, pure: bool) -> str:
        """Write a class; return what its data are."""
        r, init, forward = self.r, [], ["self.aux = []"]
        while True:
            source, (kind, size), first, entry = r.choice(INPUTS)
            if not (pure and first) and (name == "Net" or not first):
                break
        d, count, fixed = 0, 0, {"l": "self.l0", "n": "l0"}
        source, first, entry, out = self.joined(source, first, entry, size, N=9, **fixed)
        d = eval(out)
        init += first.split("\n") if first else []
        forward += entry.split("\n") if entry else []
        for _ in range(r.randint(1, 6)):
            row = r.choice(TABLES[kind])
            if (len(row) > 3 and not eval(row[3], {"d": d})) or (pure and any(w in row[0] + row[1] for w in IMPURE)):
                continue
            if kind == "v" and d < 4:
                row = TABLES["v"][0]
            count += 1
            a, b, out = self.joined(row[0], row[1], row[2], l=f"self.l{count}", n=f"l{count}", d=d)
            self.layers.append(row[0] + row[1])
            init += a.split("\n") if a else []
            forward += b.split("\n")
            found = eval(out, {"d": d})
            kind, d = found if isinstance(found, tuple) else (kind, found)
        if kind in TO_VECTOR:
            forward.append(TO_VECTOR[kind])
        init.append(f"self.head = nn.Linear({d}, 3)")
        forward.append(r.choice(["return self.head(x)", "return self.head(x)", "x = self.head(x)\nreturn x"]))
        body = "\n".join(["super().__init__()", *init])
        self.write(*(text.strip() for n, text in HELPERS.items() if re.search(rf"\b{n}\b", "\n".join(init + forward))),
                   f"class {name}(nn.Module):", indent("def __init__(self):", " " * 4), indent(body, " " * 8),
                   indent("def forward(self, x):", " " * 4), indent("\n".join(forward), " " * 8))
        return source

    def joined(self, *texts: str, **fixed: Any) -> list[str]:
        """Fill several texts at once."""
        return self.fill("\0".join(texts), **fixed).split("\0")

    def write(self, *lines: str) -> None:
        self.text += [line for line in lines if line]

    def program(self) -> str:
        r = self.r
        self.write(self.fill(HEAD, dtype="float32" if self.float32 else "float64", seed=r.randint(0, 99)).strip())
        family = r.choice(list(FAMILIES)) if r.random() < 0.3 and not self.half else ""
        pure = r.random() < 0.1
        if family:
            before, step = self.joined(*FAMILIES[family])
            self.write(before.strip())
            heads = [("", f"for k in range({r.choice((8, 10, 12))}):", "")] * 3
            steps = [step.strip()] * 3
        else:
            source = self.network("Net", pure)
            target = r.choice(list(LOSSES))
            self.write(f"N, X = 9, {source}", "Y = m.randn(9, 3)" if target == "numbers" else "Y = m.randint(0, 3, (9,))",
                       "net = Net()", "net(X[:4])" if any("Lazy" in x for x in self.layers) else "")
            loss = r.choice(LOSSES[target])
            if any("aux" in x for x in self.layers):
                loss += " + sum(net.aux)\nnet.aux = []"
            recurrent = any(w in x for x in self.layers for w in ("LSTM", "GRU", "RNN"))  # none of those under autocast (gaps.txt)
            choices = HALF if self.half and not recurrent else PURE if pure and not recurrent else STEPS * 2 + ON_NUMBERS * ("randn" in source)
            heads = [r.choice(BATCHES) for _ in range(3)]
            if any("weight_norm" in x for x in self.layers):  # PyTorch's second derivatives miss a part (gaps.txt)
                choices = [c for c in choices if "create_graph" not in c]
            steps = [r.choice(choices) for _ in range(3)]
            steps = [self.insert(s, "{loss}", f"loss = {loss}") for s in steps]
        self.write("ps = list(net.parameters())", "scaler = m.amp.GradScaler('cpu', init_scale=1024.0)" if self.half else "",
                   "opt = m.optim." + self.fill("SGD({ps}, lr=0.1)" if family == "sparse table" or self.half else r.choice(OPTIMIZERS),
                                                ps=r.choice(PARAMETERS[:3] if self.half else PARAMETERS)))
        schedule = r.choice(SCHEDULERS) if r.random() < 0.25 else ""
        if schedule:
            self.write(f"sched = m.optim.lr_scheduler.{schedule}")
        for n in range(r.choice((1, 1, 1, 2, 2, 3))):
            self.loop(heads[n], steps[n], schedule, family)
        self.write("log.state(net, opt)", "log(m.randn(2))" if "Dropout" not in str(self.layers) else "")
        body = "\n".join(self.text)
        return f"def run(m, log):\n{indent(body, '    ')}\n"

    def insert(self, text: str, place: str, what: str) -> str:
        """Put lines where a place stands by itself, as deep as it stands."""
        return re.sub(rf"^( *){re.escape(place)}$", lambda f: indent(what, f[1]), text, flags=re.M)

    def events(self, family: str) -> list[tuple[str, str, str]]:
        """Return what happens in a loop: (slot, before it, text)."""
        r, found = self.r, []
        uncopied = any(w in x for x in self.layers for w in UNCOPIED) or family in ("policy", "autoencoder")
        for _ in range(r.choice((0, 1, 2, 3, 4, 5, 6, 8, 12))):
            slot, before, text = r.choice(EVENTS)
            whole = before + text
            if before and any(before.split()[:2] == b.split()[:2] for _, b, _ in found):
                continue  # one of its names
            if uncopied and ("deepcopy(net)" in whole or "AveragedModel" in whole):
                continue
            if (self.float32 and "float64" in whole) or (family and ("net(" in whole or "out" in whole)):
                continue
            if family == "sparse table" and slot != "end":
                continue
            if text:
                condition = r.choice(CONDITIONS)
                text = f"if {condition}:\n{indent(text, '    ')}" if condition else text
            found.append((slot, before, text))
        return found

    def loop(self, head: tuple[str, str, str], step: str, schedule: str, family: str) -> None:
        r = self.r
        before, line, batch = self.joined(*head)
        step = self.insert(self.fill(step), "{batch}", batch or "pass")
        events = self.events(family)
        for slot in ("start", "mid", "post", "end"):
            step = self.insert(step, f"@{slot}", "\n".join(t for s, _, t in events if s == slot and t) or "pass")
        for _, b, _ in events:
            self.write(b)
        self.write(before, line)
        depth = 4 * (line.count("\n") + 1)
        lines = [step]
        if "loss_seen" in step:
            lines.append("loss_seen = loss.item()")
        if schedule:
            lines.append("sched.step()")
        lines.append(r.choice(("log.state(net, opt)", "log.state(net, opt)", "log.state(net, opt)",
                               "if k % 3 == 2:\n    log.state(net, opt)", "log(loss)", "log.later(*ps)", "pass")))
        text = "\n".join(lines)
        regular = not any(w in t for w in IRREGULAR for t in (text, before + line, *self.layers))
        self.write(indent(re.sub(r"^ *pass\n", "", text, flags=re.M), " " * depth),
                   indent(f"log.tick({regular})", " " * depth))
        if r.random() < 0.2:
            self.write("log.state(net, opt)")


def source(seed: int) -> str:
    """Return program number `seed`: a function `run(m, log)` as text."""
    return Writer(seed).program()


if __name__ == "__main__":
    print(source(int(sys.argv[1])))
