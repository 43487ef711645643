"""Training loops that are more than a network and a batch, as text: (before the loop, a step). See `loop_steps`."""
from __future__ import annotations

FAMILIES: dict[str, tuple[str, str]] = {
    "truncated": ("""
rnn, head = nn.{rnn}(3, 5, batch_first=True), nn.Linear(5, 2)
net = nn.ModuleList([rnn, head])
X, Y, hidden = m.randn(8, 12, 3), m.randn(8, 12, 2), None""", """
x, y = X, Y
if k % 4 == 0:
    hidden = None
@start
for t in range(0, 12, {t}):
    {opt}.zero_grad({none})
    h, hidden = rnn(x[:, t:t + {t}], hidden)
    out = head({act}(h))
    loss = F.mse_loss(out, y[:, t:t + {t}])
    @mid
    loss.backward()
    @post
    {opt}.step()
    hidden = hidden.detach() if m.is_tensor(hidden) else tuple(a.detach() for a in hidden)
@end"""),
    "teacher forcing": ("""
embed, cell, head = nn.Embedding(7, 4), nn.GRUCell(4, 6), nn.Linear(6, 7)
net = nn.ModuleList([embed, cell, head])
X = Y = m.randint(0, 7, (8, 6))""", """
x = y = X[k % 3:k % 3 + 4]
@start
h, token, loss = m.zeros(len(x), 6), x[:, 0], 0
for t in range(1, {t}):
    h = cell(embed(token), h)
    out = head(h)
    loss = loss + F.cross_entropy(out, y[:, t])
    token = y[:, t] if random.random() < 0.5 else out.argmax(1)
{opt}.zero_grad({none})
@mid
loss.backward()
@post
{opt}.step()
@end"""),
    "adversaries": ("""
net = nn.Sequential(nn.Linear(3, 6), nn.{norm}, nn.ReLU(), nn.Linear(6, 4))
critic = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.2), nn.Linear(6, 1))
X, Y, real, fake = m.randn(12, 3), m.randn(12, 4), m.ones(6, 1), m.zeros(6, 1)
other = m.optim.{other}(critic.parameters(), lr=0.01)
bce = nn.BCEWithLogitsLoss()""", """
i = k % 2 * 6
x, y = m.randn(6, 3), Y[i:i + 6]
@start
out = net(x)
other.zero_grad({none})
judged = bce(critic(y), real) + bce(critic(out.detach()), fake)
judged.backward()
other.step()
{opt}.zero_grad({none})
loss = bce(critic(out), real)
@mid
loss.backward()
@post
{opt}.step()
@end"""),
    "penalised critic": ("""
net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
maker = nn.Linear(3, 4)
X, Y = m.randn(12, 4), m.randn(12, 4)
other = m.optim.{other}(maker.parameters(), lr=0.01)""", """
x, y = m.randn(6, 3), Y[k % 6:k % 6 + 6]
@start
{opt}.zero_grad({none})
made = maker(x).detach()
a = m.rand(6, 1)
mix = (a * y + (1 - a) * made).requires_grad_()
out = net(mix)
g, = m.autograd.grad(out, mix, m.ones_like(out), create_graph=True)
loss = net(made).mean() - net(y).mean() + {c} * (g.norm(2, 1) - 1).square().mean()
@mid
loss.backward()
@post
{opt}.step()
for p in maker.parameters():
    p.grad = None
if k % 2:
    other.zero_grad({none})
    (-net(maker(x)).mean()).backward()
    other.step()
@end"""),
    "autoencoder": ("""
class Coder(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.mean, self.spread, self.leave = nn.Linear(5, 6), nn.Linear(6, 2), nn.Linear(6, 2), nn.Linear(2, 5)
    def forward(self, x):
        h = {act}(self.enter(x))
        mean, spread = self.mean(h), self.spread(h)
        z = mean + m.randn_like(mean) * (0.5 * spread).exp()
        self.cost = -0.5 * (1 + spread - mean.pow(2) - spread.exp()).sum(1).mean()
        return self.leave(z)
net = Coder()
X = Y = m.randn(9, 5)""", """
x = y = X[m.randperm(9)[:6]]
@start
{opt}.zero_grad({none})
out = net(x)
loss = F.mse_loss(out, y) + 0.1 * min(1, k / 5) * net.cost
@mid
loss.backward()
@post
{opt}.step()
@end"""),
    "values": ("""
net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
target = copy.deepcopy(net)
X, Y = m.randn(20, 4), m.randn(20, 4)
memory = [(X[i], i % 2, float(i % 3), Y[i], i % 7 == 0) for i in range(20)]""", """
batch = random.sample(memory, 6)
x, y = m.stack([b[0] for b in batch]), m.stack([b[3] for b in batch])
done = m.tensor([b[4] for b in batch])
@start
out = net(x)
chosen = out.gather(1, m.tensor([[b[1]] for b in batch]))[:, 0]
with m.no_grad():
    after = target(y).max(1)[0]
after[done] = 0.0
loss = F.smooth_l1_loss(chosen, m.tensor([b[2] for b in batch]) + 0.9 * after)
{opt}.zero_grad({none})
@mid
loss.backward()
@post
{opt}.step()
if {hard}:
    target.load_state_dict(net.state_dict())
else:
    for a, b in zip(target.parameters(), net.parameters()):
        a.data.copy_(0.1 * b.data + 0.9 * a.data)
@end"""),
    "policy": ("""
class Actor(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.choice, self.value = nn.Linear(3, 6), nn.Linear(6, 2), nn.Linear(6, 1)
    def forward(self, x):
        h = {act}(self.body(x))
        return self.choice(h).log_softmax(-1), self.value(h)
net = Actor()
X = Y = m.randn(9, 3)""", """
x, y = X[0], Y
place, chosen, values, rewards = m.zeros(3), [], [], []
@start
for t in range({steps}):
    out, value = net(place + X[t % 9])
    action = int(m.multinomial(out.detach().exp(), 1)) if {draw} else out.argmax().item()
    place = place * 0.5 + (0.3 if action else -0.3)
    chosen.append(out[action])
    values.append(value[0])
    rewards.append(float(place.abs().sum()))
returns, r = [], 0.0
for reward in reversed(rewards):
    r = reward + 0.9 * r
    returns.insert(0, r)
returns = m.tensor(returns)
values = m.stack(values)
returns = (returns - returns.mean()) / (returns.std() + 1e-3)
loss = -(m.stack(chosen) * (returns - values.detach())).sum() + F.mse_loss(values, returns)
{opt}.zero_grad({none})
@mid
loss.backward()
@post
{opt}.step()
@end"""),
    "contrast": ("""
net = nn.Sequential(nn.Linear(5, 6), nn.{norm}, nn.Tanh(), nn.Linear(6, 4))
slow = copy.deepcopy(net).requires_grad_(False)
queue, X = F.normalize(m.randn(8, 4), dim=1), m.randn(12, 5)
Y, at = X, 0""", """
x = X[m.randperm(12)[:4]]
y = x + 0.1 * m.randn_like(x)
@start
with m.no_grad():
    for a, b in zip(slow.parameters(), net.parameters()):
        a.mul_(0.9).add_(b, alpha=0.1)
    keys = F.normalize(slow(y), dim=1)
out = F.normalize(net(x), dim=1)
scores = m.cat([(out * keys).sum(1, keepdim=True), out @ queue.clone().t()], 1) / 0.2
loss = F.cross_entropy(scores, m.zeros(4, dtype=m.long))
{opt}.zero_grad({none})
@mid
loss.backward()
@post
{opt}.step()
queue[at:at + 4] = keys
at = (at + 4) % 8
@end"""),
    "sparse table": ("""
class Pairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Embedding(9, 4, sparse=True), nn.Embedding(9, 4, sparse={c} > 0.3)
        self.bias = nn.Parameter(m.zeros(9))
    def forward(self, x):
        return (self.left(x[:, 0]) * self.right(x[:, 1])).sum(1) + self.bias[x[:, 0]]
net = Pairs()
X, Y = m.randint(0, 9, (12, 2)), m.randn(12)""", """
i = k * 5 % 8
x, y = X[i:i + 4], Y[i:i + 4]
opt.zero_grad()
out = net(x)
loss = F.mse_loss(out, y)
loss.backward()
opt.step()
@end"""),
    "layers in turn": ("""
net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6), nn.{norm}, nn.Linear(6, 2))
X, Y = m.randn(10, 5), m.randn(10, 2)
each = [m.optim.{other}(f.parameters(), lr=0.02) for f in net if list(f.parameters())]""", """
x, y = X, Y
@start
for n, f in enumerate(net):
    f.requires_grad_({turn})
for o in each:
    o.zero_grad({none})
out = net(x)
loss = F.mse_loss(out, y)
@mid
if loss.requires_grad:
    loss.backward()
    each[k % len(each)].step()
@end"""),
    "in backward": ("""
net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))
X, Y = m.randn(10, 5), m.randn(10, 2)
each = {p: m.optim.{other}([p], lr=0.02) for p in net.parameters()}
def arrived(p):
    each[p].step()
    each[p].zero_grad()
for p in net.parameters():
    p.register_post_accumulate_grad_hook(arrived)""", """
x, y = X[k % 5:k % 5 + 5], Y[k % 5:k % 5 + 5]
@start
out = net(x)
loss = F.mse_loss(out, y)
@mid
loss.backward()
@end"""),
    "inner steps": ("""
net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1))
X, Y = m.randn(10, 2), m.randn(10, 1)""", """
x, y = X, Y
@start
{opt}.zero_grad({none})
loss = 0
for task in range(2):
    a, b = X[task::2], Y[task::2] * (task + 1)
    fast = list(net.parameters())
    for _ in range({inner}):
        h = F.linear({act}(F.linear(a, fast[0], fast[1])), fast[2], fast[3])
        gs = m.autograd.grad(F.mse_loss(h, b), fast, create_graph={create})
        fast = [p - 0.1 * g for p, g in zip(fast, gs)]
    out = F.linear({act}(F.linear(a, fast[0], fast[1])), fast[2], fast[3])
    loss = loss + F.mse_loss(out, b)
@mid
loss.backward()
@post
{opt}.step()
@end"""),
    "fields": ("""
net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
X = Y = m.linspace(0, 1, 7)[:, None]""", """
x = y = X.clone().requires_grad_()
@start
{opt}.zero_grad({none})
out = net(x)
first, = m.autograd.grad(out.sum(), x, create_graph=True)
second, = m.autograd.grad(first.sum(), x, create_graph=True)
loss = (second + out).square().mean() + (net(m.zeros(1, 1)) - 1).square().sum()
@mid
loss.backward()
@post
{opt}.step()
@end"""),
    "style": ("""
net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3))
with m.no_grad():
    Y = net(m.randn(1, 2, 7, 7))
X = m.randn(4, 2, 7, 7)
image = m.randn(1, 2, 7, 7, requires_grad=True)
painter = m.optim.{other}([image], lr=0.1)""", """
x, y = image, Y
@start
painter.zero_grad({none})
out = net(x)
gram = out.flatten(2) @ out.flatten(2).mT / 9
loss = F.mse_loss(out, y) + gram.square().mean() * 0.1
@mid
loss.backward()
painter.step()
with m.no_grad():
    image.clamp_(-1, 1)
log(image)
@end"""),
}
