"""What the steps of random training loops are made of, as text: batches, losses, kinds of steps, and what happens between.

The names a step uses: `net`, `ps` (its parameters), `opt`, `x` and `y` (the batch), `out`, `loss`, `k` (the number of the step),
and what an earlier part of the loop left: `losses`, `kept` (lists), `best`, `total` (numbers). `@slot` is where others go.
"""
from __future__ import annotations

LOSSES = {
    "numbers": [
        "F.mse_loss(out, y)", "(out - y).pow(2).mean()", "F.smooth_l1_loss(out, y)", "((out - y) ** 2).sum() / len(y)",
        "F.huber_loss(out, y, delta=0.7)", "F.mse_loss(out, y, reduction='none').mean(1).max()", "F.l1_loss(out, y)",
        "((out - y).square().mean(1) * m.linspace(0.5, 1.5, len(y))).sum()", "m.log(m.cosh(out - y)).mean()",
        "nn.MSELoss()(out, y)", "(out - y).norm()", "1 - F.cosine_similarity(out, y).mean()", "m.sqrt(F.mse_loss(out, y) + 1e-6)",
        "m.nn.functional.gaussian_nll_loss(out, y, F.softplus(out) + 0.1)"],
    "classes": [
        "F.cross_entropy(out, y)", "F.cross_entropy(out, y, label_smoothing=0.1)", "nn.CrossEntropyLoss(reduction='sum')(out, y)",
        "F.cross_entropy(out, y, weight=m.tensor([0.5, 1.0, 2.0]))", "F.nll_loss(out.log_softmax(1), y)",
        "-out.log_softmax(1)[m.arange(len(y)), y].mean()", "F.multi_margin_loss(out, y)",
        "F.cross_entropy(out, y, reduction='none').topk(2)[0].mean()", "F.cross_entropy(out, y, ignore_index=0, reduction='sum')",
        "F.kl_div(out.log_softmax(1), F.one_hot(y, 3).to(out.dtype) * 0.9 + 0.03, reduction='batchmean')",
        "F.binary_cross_entropy_with_logits(out, F.one_hot(y, 3).to(out.dtype))",
        "(1 - out.softmax(1).gather(1, y[:, None])).pow(2).mean()"],
}

# (before the loop, its head, what makes the batch): `{b}` is a size, N the number of rows.
BATCHES = [
    ("", "for k in range({steps}):", "x, y = X, Y"),
    ("", "for k in range({steps}):", "x, y = X, Y"),
    ("", "for k in range({steps}):", "i = k * {b} % (N - {b})\nx, y = X[i:i + {b}], Y[i:i + {b}]"),
    ("", "for k in range({steps}):", "i = m.randperm(N)[:{b}]\nx, y = X[i], Y[i]"),
    ("", "for k in range({steps}):", "i = m.randint(0, N, ({b},))\nx, y = X[i], Y[i]"),
    ("", "for k in range({steps}):", "i = np.random.choice(N, {b}, replace=False)\nx, y = X[i], Y[i]"),
    ("", "for k in range({steps}):", "i = random.sample(range(N), {b})\nx, y = X[i], Y[i]"),
    ("", "for k in range({steps}):", "n = (5, 3, 7, 4)[k % 4]\nx, y = X[:n], Y[:n]"),
    ("", "for k in range({steps}):", "n = random.randint(3, 8)\nx, y = X[:n], Y[:n]"),
    ("", "for k in range({steps}):", "x, y = X.clone(), Y.clone()"),
    ("batches = list(zip(X.split({b}), Y.split({b})))", "for k, (x, y) in enumerate(batches * {epochs}):", ""),
    ("batches = [(X[i:i + {b}], Y[i:i + {b}]) for i in range(0, N, {b})]", "for k in range({steps}):",
     "x, y = batches[k % len(batches)]"),
    ("k = -1", "for epoch in range({epochs}):\n    for i in range(0, N, {b}):", "k += 1\nx, y = X[i:i + {b}], Y[i:i + {b}]"),
    ("k = -1", "for epoch in range({epochs}):\n    order = m.randperm(N)\n    for i in order.split({b}):", "k += 1\nx, y = X[i], Y[i]"),
    ("loader = m.utils.data.DataLoader(m.utils.data.TensorDataset(X, Y), batch_size={b}, shuffle=True)\nk = -1",
     "for epoch in range({epochs}):\n    for x, y in loader:", "k += 1"),
    ("loader = m.utils.data.DataLoader(m.utils.data.TensorDataset(X, Y), {b}, shuffle=True, drop_last=True)\nk = -1",
     "for epoch in range({epochs}):\n    for x, y in loader:", "k += 1"),
    ("train, held = m.utils.data.random_split(m.utils.data.TensorDataset(X, Y), [N - 3, 3])\n"
     "loader = m.utils.data.DataLoader(train, batch_size={b}, shuffle=True)\nk = -1",
     "for epoch in range({epochs}):\n    for x, y in loader:", "k += 1"),
]

STEPS = [
    # The plain ones, with zero_grad at the three places where it stands.
    "{batch}\n@start\nopt.zero_grad({none})\nout = net(x)\n{loss}\n@mid\nloss.backward()\n@post\nopt.step()\n@end",
    "{batch}\n@start\nout = net(x)\n{loss}\n@mid\nopt.zero_grad({none})\nloss.backward()\n@post\nopt.step()\n@end",
    "{batch}\n@start\nout = net(x)\n{loss}\n@mid\nloss.backward()\n@post\nopt.step()\nopt.zero_grad({none})\n@end",
    "{batch}\n@start\nnet.zero_grad({none})\nout = net(x)\n{loss}\n@mid\nloss.backward()\n@post\nopt.step()\n@end",
    "{batch}\n@start\nfor p in ps:\n    p.grad = None\nout = net(x)\n{loss}\n@mid\nloss.backward()\n@post\nopt.step()\n@end",
    # Accumulation, micro-batches, closures.
    "{batch}\n@start\nout = net(x)\n{loss}\n@mid\n(loss / 2).backward()\n@post\nif k % 2 == 1:\n    opt.step()\n"
    "    opt.zero_grad({none})\n@end",
    "{batch}\n@start\nopt.zero_grad({none})\nwhole = x, y\nfor x, y in zip(x.split(3), y.split(3)):\n    if len(x) < 2:\n        continue\n"
    "    out = net(x)\n    {loss}\n    (loss * 0.5).backward()\n    total += loss.item()\nx, y = whole\n@post\nopt.step()\n@end",
    "{batch}\n@start\nopt.zero_grad({none})\nloss = 0\nfor a, b in zip(x.chunk(2), y.chunk(2)):\n    x, y, earlier = a, b, loss\n"
    "    out = net(x)\n    {loss}\n    loss = loss + earlier\n@mid\nloss.backward()\n@post\nopt.step()\n@end",
    "{batch}\n@start\ndef closure():\n    nonlocal out\n    opt.zero_grad({none})\n    out = net(x)\n    {loss}\n    loss.backward()\n    return loss\n"
    "loss = opt.step(closure)\n@end",
    # By hand.
    "{batch}\n@start\nfor p in ps:\n    p.grad = None\nout = net(x)\n{loss}\n@mid\nloss.backward()\n@post\nwith m.no_grad():\n"
    "    for p in ps:\n        if p.grad is not None:\n            {byhand}\n@end",
    "{batch}\n@start\nout = net(x)\n{loss}\n@mid\ngs = m.autograd.grad(loss, ps, allow_unused=True)\nwith m.no_grad():\n"
    "    for p, g in zip(ps, gs):\n        if g is not None:\n            p -= 0.05 * g\n@end",
    "{batch}\n@start\nopt.zero_grad()\nout = net(x)\n{loss}\n@mid\nfor p, g in zip(ps, m.autograd.grad(loss, ps, allow_unused=True)):\n"
    "    p.grad = g\n@post\nopt.step()\n@end",
    # Several backwards.
    "{batch}\n@start\nopt.zero_grad({none})\nout = net(x)\n{loss}\n@mid\nloss.backward(retain_graph=True)\n"
    "extra = out.square().mean() * 0.1\nextra.backward()\n@post\nopt.step()\n@end",
    "{batch}\n@start\nopt.zero_grad({none})\nout = net(x)\n{loss}\nextra = net(x).square().mean() * 0.1\nextra.backward()\n@mid\n"
    "loss.backward()\n@post\nopt.step()\n@end",
    "{batch}\n@start\nopt.zero_grad({none})\nout = net(x)\n{loss}\n@mid\nm.autograd.backward([loss, out.mean()])\n@post\nopt.step()\n@end",
    "{batch}\n@start\nopt.zero_grad({none})\nout = net(x)\n{loss}\n@mid\nout.backward(m.autograd.grad(loss, out, retain_graph=True)[0])\n"
    "@post\nopt.step()\n@end",
    # Gradients of gradients.
    "{batch}\n@start\nopt.zero_grad({none})\nout = net(x)\n{loss}\n"
    "gs = m.autograd.grad(loss, ps, create_graph=True, allow_unused=True)\n"
    "loss = loss + 0.1 * sum(g.square().sum() for g in gs if g is not None)\n@mid\nloss.backward()\n@post\nopt.step()\n@end",
    "{batch}\n@start\nopt.zero_grad({none})\nout = net(x)\n{loss}\nw = dict(net.named_parameters())\n"
    "gs = m.autograd.grad(loss, list(w.values()), create_graph=True, allow_unused=True)\n"
    "fast = {n: p if g is None else p - 0.1 * g for (n, p), g in zip(w.items(), gs)}\n"
    "out = m.func.functional_call(net, fast, (x,))\n{loss}\n@mid\nloss.backward()\n@post\nopt.step()\n@end",
    # Both of two views, a teacher.
    "{batch}\n@start\nopt.zero_grad({none})\nout = net(x)\nother = net(x.flip(0)).flip(0)\n{loss}\n"
    "loss = loss + F.mse_loss(out, other)\n@mid\nloss.backward()\n@post\nopt.step()\n@end",
    "{batch}\n@start\nopt.zero_grad({none})\nwith m.no_grad():\n    t = net(x)\nout = net(x)\n{loss}\n"
    "loss = loss + F.mse_loss(out, t * 0.9)\n@mid\nloss.backward()\n@post\nopt.step()\n@end",
]
ON_NUMBERS = [  # x is of floats
    "{batch}\n@start\nopt.zero_grad({none})\nx = x.clone().requires_grad_()\nout = net(x)\n{loss}\n"
    "g, = m.autograd.grad(out.sum(), x, create_graph=True)\nloss = loss + 0.1 * (g.flatten(1).norm(dim=1) - 1).pow(2).mean()\n"
    "@mid\nloss.backward()\n@post\nopt.step()\n@end",
    "{batch}\n@start\nx = x.clone().requires_grad_()\nout = net(x)\n{loss}\nloss.backward()\nnear = (x + 0.1 * x.grad.sign()).detach()\n"
    "opt.zero_grad({none})\nout = net(near)\n{loss}\n@mid\nloss.backward()\n@post\nopt.step()\n@end",
    "{batch}\n@start\nopt.zero_grad({none})\nmix = random.random()\nx = mix * x + (1 - mix) * x.flip(0)\nout = net(x)\n{loss}\n"
    "first, y, rest = loss, y.flip(0), loss\n{loss}\nloss = mix * first + (1 - mix) * loss\n@mid\nloss.backward()\n@post\nopt.step()\n@end",
]
PURE = [  # networks that write and ask nothing
    "{batch}\n@start\nw = {n: p.detach() for n, p in net.named_parameters()}\ndef measured(w, x, y):\n"
    "    out = m.func.functional_call(net, w, (x,))\n    {loss}\n    return loss\ngs, loss = m.func.grad_and_value(measured)(w, x, y)\n"
    "for n, p in net.named_parameters():\n    p.grad = gs[n]\n@post\nopt.step()\n@end",
    "{batch}\n@start\nw = {n: p.detach() for n, p in net.named_parameters()}\ndef single(w, x, y):\n"
    "    out, y = m.func.functional_call(net, w, (x[None],)), y[None]\n    {loss}\n    return loss\n"
    "gs = m.func.vmap(m.func.grad(single), (None, 0, 0))(w, x, y)\nloss = sum(g.mean() for g in gs.values())\n"
    "for n, p in net.named_parameters():\n    g = gs[n]\n    s = g.flatten(1).norm(dim=1)\n"
    "    p.grad = (g / (1 + s).view(-1, *[1] * p.dim())).mean(0)\n@post\nopt.step()\n@end",
]
HALF = [  # under autocast
    "{batch}\n@start\nopt.zero_grad({none})\nwith m.autocast('cpu', dtype=m.bfloat16):\n    out = net(x)\n    {loss}\n@mid\nloss.backward()\n"
    "@post\nopt.step()\n@end",
    "{batch}\n@start\nopt.zero_grad({none})\nwith m.autocast('cpu', dtype=m.bfloat16):\n    out = net(x)\nout = out.float()\n{loss}\n@mid\n"
    "scaler.scale(loss).backward()\nscaler.unscale_(opt)\n@post\nscaler.step(opt)\nscaler.update()\n@end",
]
BY_HAND = ["p -= 0.05 * p.grad", "p.sub_(p.grad, alpha=0.05)", "p.data -= 0.05 * p.grad", "p.data = p.data - 0.05 * p.grad",
           "p.copy_(p - 0.05 * p.grad)", "p.add_(p.grad, alpha=-0.05)", "p.data.add_(-0.05 * p.grad.data)",
           "p.set_(p - 0.05 * p.grad)"]

OPTIMIZERS = [
    "SGD({ps}, lr=0.05)", "SGD({ps}, lr=0.05, momentum=0.9)", "SGD({ps}, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01)",
    "SGD({ps}, lr=0.05, momentum=0.5, dampening=0.1)", "Adam({ps}, lr=0.01)", "Adam({ps}, lr=0.01, weight_decay=0.1, amsgrad=True)",
    "AdamW({ps}, lr=0.01)", "AdamW({ps}, lr=0.01, foreach=False)", "RMSprop({ps}, lr=0.01)", "Adagrad({ps}, lr=0.02)",
    "RMSprop({ps}, lr=0.01, momentum=0.5, centered=True)", "Adam({ps}, lr=0.01, foreach=True)", "NAdam({ps}, lr=0.01)",
    "Adamax({ps}, lr=0.01)", "Adadelta({ps}, lr=0.5)", "RAdam({ps}, lr=0.01)", "ASGD({ps}, lr=0.05)", "Adam({ps}, lr=0.01, betas=(0.5, 0.9))",
    "Adam({ps}, lr=0.01, maximize=False, capturable=False)", "SGD({ps}, lr=m.tensor(0.05))"]
PARAMETERS = ["net.parameters()", "net.parameters()", "ps", "list(net.parameters())[1:]", "net.named_parameters()",
              "[p for p in net.parameters() if p.dim() > 1]",
              "[{'params': [p for p in ps if p.dim() > 1], 'weight_decay': 0.1}, {'params': [p for p in ps if p.dim() <= 1], 'lr': 0.02}]",
              "[{'params': ps[:2]}, {'params': ps[2:], 'lr': 0.003}]", "[{'params': [p]} for p in ps]"]
SCHEDULERS = [
    "StepLR(opt, 3, 0.5)", "ExponentialLR(opt, 0.9)", "CosineAnnealingLR(opt, 10)", "LambdaLR(opt, lambda e: 1 / (1 + e))",
    "OneCycleLR(opt, max_lr=0.05, total_steps=200, cycle_momentum=False)", "MultiStepLR(opt, [3, 6], 0.3)", "LinearLR(opt)",
    "CosineAnnealingWarmRestarts(opt, 4)",
    "SequentialLR(opt, [m.optim.lr_scheduler.LinearLR(opt, 0.1, total_iters=3), m.optim.lr_scheduler.ExponentialLR(opt, 0.9)], [3])"]

# What else happens in a step: (slot, before the loop, text).
EVENTS = [
    # Reads and bookkeeping.
    ("mid", "", "log(loss.item())"),
    ("mid", "", "log(float(loss))"),
    ("end", "", "log(loss.item())"),
    ("end", "", "losses.append(loss.item())"),
    ("end", "", "losses.append(loss.detach())"),
    ("mid", "", "losses.append(loss.detach().clone())"),
    ("end", "", "losses.append(loss)"),
    ("mid", "", "total += loss.item() * len(x)"),
    ("mid", "", "total = total + loss.detach()"),
    ("end", "", "total += loss"),
    ("end", "", "kept.append(out)"),
    ("end", "", "kept = [out.detach()]"),
    ("end", "", "log(str(loss.item())[:5])"),
    ("mid", "", "if not m.isfinite(loss):\n    continue"),
    ("mid", "", "if loss.item() > 1.5:\n    loss = loss * 0.5"),
    ("mid", "", "loss = loss * 0.5 if loss > 1 else loss"),
    ("end", "", "if loss.item() < best:\n    best = loss.item()\n    saved = copy.deepcopy(net.state_dict())\n    log('best')"),
    ("end", "", "if loss < best:\n    best = loss.detach()\n    saved = {n: t.clone() for n, t in net.state_dict().items()}"),
    ("start", "saved = copy.deepcopy(net.state_dict())", "net.load_state_dict(saved)"),
    ("end", "saved = {n: t.clone() for n, t in net.state_dict().items()}", "net.load_state_dict(saved)"),
    ("mid", "", "log((out.argmax(-1) == 1).sum().item())"),
    ("end", "", "log(out.max(-1)[1].tolist())"),
    ("end", "", "log(out.detach().mean(), out.detach().std())"),
    ("end", "", "log(k, len(x), str(tuple(out.shape)))"),
    ("end", "", "del loss, out"),
    ("end", "", "gc.collect()"),
    # Evaluation.
    ("end", "", "net.eval()\nwith m.no_grad():\n    log(net(X[:4]))\nnet.train()"),
    ("end", "", "net.eval()\nwith m.inference_mode():\n    log(net(X[:4]).sum().item())\nnet.train()"),
    ("start", "", "with m.no_grad():\n    log(net(X[:5]).mean().item())"),
    ("mid", "", "net.eval()\nwith m.no_grad():\n    held = net(X[2:6])\nnet.train()\nlog(held)"),
    ("end", "", "with m.inference_mode():\n    held = net(X)\nlog(held.mean())"),
    ("end", "", "log(net(X[:3]))"),
    ("start", "", "net.train(k % 4 < 2)"),
    ("start", "", "net.eval()"),
    ("start", "", "net.train()"),
    # Losses.
    ("mid", "", "loss = loss + 0.01 * sum(p.pow(2).sum() for p in ps)"),
    ("mid", "", "loss = loss + 0.01 * sum(p.abs().sum() for p in net.parameters())"),
    ("mid", "anchor = [p.detach().clone() for p in ps]", "loss = loss + 0.1 * sum(((p - a) ** 2).sum() for p, a in zip(ps, anchor))"),
    ("mid", "", "loss = loss + 0.1 * m.cat([p.flatten() for p in ps]).norm()"),
    ("mid", "weight = nn.Parameter(m.zeros(()))\nother = m.optim.SGD([weight], lr=0.1)",
     "loss = loss * m.exp(-weight) + weight\nother.zero_grad()\n"),
    ("mid", "", "loss = loss / 2"),
    ("mid", "", "loss *= 0.5"),
    ("mid", "memory = m.zeros(())", "memory = 0.9 * memory + 0.1 * loss.detach()\nloss = loss - memory * 0.1 * loss"),
    ("mid", "running = None", "running = loss.item() if running is None else 0.9 * running + 0.1 * loss.item()\nlog(running)"),
    ("mid", "", "if kept and kept[-1].shape == out.shape:\n    loss = loss + F.mse_loss(out, kept[-1].detach()) * 0.1\nkept.append(out.detach())"),
    ("mid", "", "loss = loss + out.detach().mean() * out.mean()"),
    ("mid", "", "loss = loss + (ps[0] * ps[0].detach()).mean()"),
    # Hooks.
    ("mid", "", "out.retain_grad()"),
    ("mid", "", "out.register_hook(lambda g: g * 0.5)"),
    ("mid", "", "out.register_hook(lambda g: kept.append(g.detach()))"),
    ("mid", "handle = ps[0].register_hook(lambda g: g.clamp(-0.05, 0.05))", ""),
    ("mid", "", "handle = ps[-1].register_hook(lambda g: g * 2)\nloss.register_hook(lambda g: handle.remove())"),
    ("mid", "for p in ps:\n    p.register_post_accumulate_grad_hook(lambda p: setattr(p, 'grad', p.grad * 0.5))", ""),
    ("end", "handle = net.register_forward_hook(lambda module, args, out: out * 0.9)", "handle.remove()"),
    ("end", "shown = []\nnet.register_forward_hook(lambda module, args, out: shown.append(out.detach()))", "log(shown[-1])"),
    ("start", "", "handle = ps[0].register_hook(lambda g: g + 0.01)\nkept.append(handle)"),
    # Gradients.
    ("post", "", "nn.utils.clip_grad_norm_(ps, 1.0)"),
    ("post", "", "log(nn.utils.clip_grad_norm_(net.parameters(), 0.1).item())"),
    ("post", "", "nn.utils.clip_grad_norm_(ps, 0.5, norm_type=float('inf'))"),
    ("post", "", "nn.utils.clip_grad_value_(ps, 0.1)"),
    ("post", "", "for p in ps:\n    if p.grad is not None:\n        p.grad.mul_(0.5)"),
    ("post", "", "for p in ps:\n    if p.grad is not None:\n        p.grad = p.grad * 0.5"),
    ("post", "", "for p in ps:\n    if p.grad is not None:\n        p.grad.data.clamp_(-0.1, 0.1)"),
    ("post", "", "for p in ps:\n    if p.grad is not None:\n        p.grad += 0.1 * p.detach()"),
    ("post", "", "for p in ps:\n    if p.grad is not None:\n        p.grad.add_(m.randn_like(p.grad), alpha=0.01)"),
    ("post", "", "log(sum(p.grad.norm().item() ** 2 for p in ps if p.grad is not None))"),
    ("post", "", "log([p.grad.abs().max() for p in ps if p.grad is not None])"),
    ("post", "", "kept.append(ps[0].grad)"),
    ("post", "", "kept = [p.grad for p in ps]"),
    ("post", "", "ps[0].grad = None"),
    ("post", "", "if ps[0].grad is not None:\n    ps[0].grad.zero_()"),
    ("post", "", "if ps[0].grad is not None:\n    ps[0].grad[0] = 0"),
    ("post", "", "if ps[0].grad is not None:\n    ps[0].grad = ps[0].grad.clone()"),
    ("post", "", "ps[-1].grad = m.ones_like(ps[-1]) * 0.1"),
    ("post", "before = None", "g = m.cat([p.grad.flatten() for p in ps if p.grad is not None])\n"
     "if before is not None and before.shape == g.shape:\n    log(m.dot(g, before) / (g.norm() * before.norm() + 1))\nbefore = g"),
    ("post", "", "total_norm = m.stack([p.grad.norm() for p in ps if p.grad is not None]).norm()\nif total_norm > 1:\n"
     "    for p in ps:\n        if p.grad is not None:\n            p.grad.div_(total_norm)"),
    ("post", "", "if k % 5 == 3:\n    opt.zero_grad()\n    continue"),
    ("end", "", "opt.zero_grad()"),
    ("end", "", "opt.zero_grad(set_to_none=False)"),
    ("start", "", "for p in ps:\n    if p.grad is not None:\n        p.grad.detach_()\n        p.grad.zero_()"),
    # Parameters.
    ("end", "", "with m.no_grad():\n    for p in ps:\n        p.clamp_(-0.5, 0.5)"),
    ("end", "", "for p in ps:\n    p.data.clamp_(-1, 1)"),
    ("end", "", "for p in ps:\n    p.data = p.data * 0.99"),
    ("end", "", "with m.no_grad():\n    ps[0].mul_(0.99)"),
    ("end", "", "with m.no_grad():\n    ps[0] /= ps[0].norm() + 1"),
    ("end", "", "with m.no_grad():\n    for p in ps:\n        p.add_(m.randn_like(p), alpha=0.01)"),
    ("end", "", "with m.no_grad():\n    ps[0][0] = 0.1"),
    ("start", "", "with m.no_grad():\n    ps[0].view(-1)[:2].fill_(0.3)"),
    ("start", "", "nn.init.normal_(ps[0], std=0.3)"),
    ("end", "mask = None", "if mask is None:\n    mask = (ps[0].detach().abs() > 0.1).to(ps[0].dtype)\nps[0].data.mul_(mask)"),
    ("start", "", "for p in ps[:2]:\n    p.requires_grad_(False)"),
    ("start", "", "for p in ps[:2]:\n    p.requires_grad_(True)"),
    ("start", "", "ps[-1].requires_grad = k % 4 < 2"),
    ("end", "w = ps[0].detach()", "log(w.sum())"),
    ("end", "", "kept.append(ps[0].detach().clone())"),
    ("end", "", "kept.append(ps[0].data)"),
    ("end", "", "old = nn.utils.parameters_to_vector(ps).detach()\nnn.utils.vector_to_parameters(old * 0.99, ps)"),
    # Copies.
    ("end", "ema = [p.detach().clone() for p in ps]", "with m.no_grad():\n    for a, b in zip(ema, ps):\n        a.mul_(0.9).add_(b, alpha=0.1)"),
    ("end", "ema = copy.deepcopy(net)", "with m.no_grad():\n    for a, b in zip(ema.parameters(), net.parameters()):\n"
     "        a.lerp_(b, 0.1)\n    log(ema(X[:4]))"),
    ("end", "ema = copy.deepcopy(net)", "for a, b in zip(ema.parameters(), net.parameters()):\n    a.data.mul_(0.9).add_(0.1 * b.data)"),
    ("end", "ema = copy.deepcopy(net)", "for a, b in zip(ema.parameters(), net.parameters()):\n    a.data = 0.9 * a.data + 0.1 * b.data"),
    ("end", "ema = copy.deepcopy(net.state_dict())", "for n, t in net.state_dict().items():\n    if t.dtype.is_floating_point:\n"
     "        ema[n] = 0.9 * ema[n] + 0.1 * t\nlog(list(ema.values()))"),
    ("end", "ema = m.optim.swa_utils.AveragedModel(net)", "ema.update_parameters(net)\nlog(list(ema.parameters()))"),
    ("mid", "teacher = copy.deepcopy(net).eval().requires_grad_(False)",
     "loss = loss + F.mse_loss(out, teacher(x))\nif k % 3 == 2:\n    teacher.load_state_dict(net.state_dict())"),
    ("end", "", "net = copy.deepcopy(net)\nps = list(net.parameters())\nopt = m.optim.SGD(ps, lr=0.05, momentum=0.9)"),
    ("end", "", "file = io.BytesIO()\nm.save(net.state_dict(), file)\nfile.seek(0)\nnet.load_state_dict(m.load(file))"),
    ("end", "", "file = io.BytesIO()\nm.save({'net': net.state_dict(), 'opt': opt.state_dict()}, file)\nfile.seek(0)\n"
     "found = m.load(file)\nnet.load_state_dict(found['net'])\nopt.load_state_dict(found['opt'])"),
    ("end", "", "x = pickle.loads(pickle.dumps(x))"),
    # Optimizers.
    ("start", "", "for g in opt.param_groups:\n    g['lr'] = 0.05 * 0.9 ** k"),
    ("start", "", "opt.param_groups[0]['lr'] *= 0.5"),
    ("start", "", "opt.param_groups[0]['weight_decay'] = 0.01 * (k % 3)"),
    ("start", "", "opt = m.optim.Adam(ps, lr=0.01)"),
    ("start", "", "opt = m.optim.SGD(ps, lr=0.05, momentum=0.9)"),
    ("end", "", "opt.load_state_dict(opt.state_dict())"),
    ("end", "", "opt.load_state_dict(copy.deepcopy(opt.state_dict()))"),
    ("end", "", "for s in opt.state.values():\n    for n, t in s.items():\n        if m.is_tensor(t) and t.dim():\n            t.mul_(0.5)"),
    ("end", "", "opt.state.clear()"),
    ("end", "extra = nn.Parameter(m.ones(3))", "if k == 2:\n    opt.add_param_group({'params': [extra], 'lr': 0.01})\n"
     "(extra * X.flatten()[:3]).sum().backward()"),
    ("end", "other = m.optim.SGD(ps[:1], lr=0.01)", "other.step()"),
    ("end", "", "log(opt.param_groups[0]['lr'])"),
    ("end", "", "opt.step()"),
    # What goes wrong, and goes on.
    ("start", "", "try:\n    net(X[:2, :1].float()).sum().item()\nexcept (RuntimeError, IndexError, ValueError, TypeError):\n    log('refused')"),
    ("start", "", "try:\n    F.mse_loss(net(X[:3]), m.ones(2, 5)).backward()\nexcept RuntimeError:\n    log('refused')"),
    ("mid", "", "try:\n    if k % 3 == 1:\n        raise KeyboardInterrupt\n    log(out.sum().item())\nexcept KeyboardInterrupt:\n    log('stopped')"),
    ("mid", "", "try:\n    (out @ m.ones(11, 2)).sum().backward()\nexcept RuntimeError:\n    log('refused')"),
    ("mid", "", "try:\n    loss.backward(m.ones(3))\nexcept RuntimeError:\n    log('refused')"),
    ("start", "def stop(*args):\n    raise ZeroDivisionError", "handle = net.register_forward_pre_hook(stop)\ntry:\n    net(x)\n"
     "except ZeroDivisionError:\n    log('stopped')\nhandle.remove()"),
    ("mid", "def stop(*args):\n    raise ZeroDivisionError", "other = net(X[:4])\nother.register_hook(stop)\ntry:\n    other.sum().backward()\n"
     "except ZeroDivisionError:\n    log('stopped')"),
    # The rest.
    ("start", "", "m.manual_seed(k)"),
    ("end", "", "log(m.randn(2))"),
    ("end", "", "m.set_default_dtype(m.float32)\nlog(m.ones(2) * 0.5, m.full((2,), 0.5))\nm.set_default_dtype(m.float64)"),
    ("end", "found = []", "thread = threading.Thread(target=lambda: found.append(ps[0].detach().sum().item()))\nthread.start()\nthread.join()\nlog(found[-1])"),
    ("end", "", "with m.no_grad():\n    log(net(X[k % 5:k % 5 + 4]).sum().item())"),
    ("end", "", "a = ps[0].detach().numpy()\nlog(float(a.sum()))"),
    ("start", "", "x = m.from_numpy(x.numpy().copy())"),
    ("mid", "", "v = out.detach()[:2]\nlog(v.sum())\ndel v"),
    ("end", "state = m.zeros(3)", "state[k % 3] = loss.item()\nlog(state)"),
    ("end", "state = m.zeros(3)", "state = m.cat([state[1:], loss.detach().view(1)])\nlog(state.mean())"),
    ("end", "state = m.zeros(200)", "state[k] = loss.detach()\nlog(state[:k + 1].mean())"),
]
