"""Learning-rate schedules against PyTorch: rates to the last bit, state dicts, warnings.

Averages of weights.
"""

import warnings

import numpy as np
import pytest
import torch

import fanal


class Falling:
    """A callable object: its attributes belong to the state dict."""

    def __init__(self):
        self.base = 0.9

    def __call__(self, step):
        return self.base**step


MAKERS = {
    "LambdaLR": lambda S, o: S.LambdaLR(o, lambda e: 0.95**e),
    "LambdaLR objects": lambda S, o: S.LambdaLR(o, [Falling(), Falling()]),
    "MultiplicativeLR": lambda S, o: S.MultiplicativeLR(o, lambda e: 0.95),
    "StepLR": lambda S, o: S.StepLR(o, 3),
    "MultiStepLR": lambda S, o: S.MultiStepLR(o, [2, 5, 5]),
    "ConstantLR": lambda S, o: S.ConstantLR(o),
    "LinearLR": lambda S, o: S.LinearLR(o),
    "ExponentialLR": lambda S, o: S.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda S, o: S.PolynomialLR(o, 7, 2.0),
    "CosineAnnealingLR": lambda S, o: S.CosineAnnealingLR(o, 4, 0.01),
    "ChainedScheduler": lambda S, o: S.ChainedScheduler([S.ConstantLR(o), S.ExponentialLR(o, 0.9)]),
    "SequentialLR": lambda S, o: S.SequentialLR(
        o, [S.ConstantLR(o, total_iters=2), S.ExponentialLR(o, 0.9), S.CosineAnnealingLR(o, 4)], [3, 7]
    ),
    "ReduceLROnPlateau": lambda S, o: S.ReduceLROnPlateau(o, patience=1, cooldown=1),
    "ReduceLROnPlateau max": lambda S, o: S.ReduceLROnPlateau(o, "max", patience=0, threshold_mode="abs"),
    "CyclicLR": lambda S, o: S.CyclicLR(o, 0.01, 0.1, 3),
    "CyclicLR halved": lambda S, o: S.CyclicLR(o, 0.01, 0.1, 3, 5, mode="triangular2"),
    "CyclicLR power": lambda S, o: S.CyclicLR(o, 0.01, 0.1, 3, mode="exp_range", gamma=0.9),
    "CosineAnnealingWarmRestarts": lambda S, o: S.CosineAnnealingWarmRestarts(o, 3, 2, 0.001),
    "OneCycleLR": lambda S, o: S.OneCycleLR(o, 0.1, 15),
    "OneCycleLR three": lambda S, o: S.OneCycleLR(
        o, [0.1, 0.2], epochs=3, steps_per_epoch=5, three_phase=True, anneal_strategy="linear"
    ),
}


def optimizer(m, adam=False):
    p = [m.zeros(2, requires_grad=True), m.zeros(3, requires_grad=True)]
    groups = [{"params": [p[0]]}, {"params": [p[1]], "lr": 0.3}]
    return m.optim.Adam(groups, lr=0.1) if adam else m.optim.SGD(groups, lr=0.1, momentum=0.9)


def run(m, make, adam, resume=False):
    o = optimizer(m, adam)
    s, seen = make(m.optim.lr_scheduler, o), []
    for t in range(14):
        if resume and t == 7:
            saved = s.state_dict(), o.state_dict()
            o = optimizer(m, adam)
            s = make(m.optim.lr_scheduler, o)
            o.load_state_dict(saved[1])
            s.load_state_dict(saved[0])
        o.step()
        s.step(1.0 + t % 5) if "Plateau" in type(s).__name__ else s.step()
        seen.append((s.get_last_lr(), [g.get("momentum", g.get("betas")) for g in o.param_groups]))
    return seen, s.state_dict()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_rates_and_state(name, adam):
    theirs, their_state = run(torch, MAKERS[name], adam)
    ours, our_state = run(fanal, MAKERS[name], adam)
    assert ours == theirs
    assert list(our_state) == list(their_state)
    assert run(fanal, MAKERS[name], adam, resume=True)[0] == theirs


def messages(m, act):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        o = optimizer(m)
        act(o, m.optim.lr_scheduler.StepLR(o, 1))
    return [str(w.message) for w in seen]


@pytest.mark.parametrize(
    "act",
    [
        lambda o, s: s.step(),
        lambda o, s: (o.step(), s.step()),
        lambda o, s: s.get_lr(),
        lambda o, s: (o.step(), s.step(3)),
        lambda o, s: (setattr(o, "step", lambda: None), s.step()),
    ],
)
def test_warnings(act):
    assert messages(fanal, act) == messages(torch, act)


ERRORS = [
    lambda S, o: S.StepLR(3, 1),
    lambda S, o: S.StepLR(o, 1, last_epoch=2),
    lambda S, o: S.LambdaLR(o, [abs]),
    lambda S, o: S.MultiplicativeLR(o, 0.5),
    lambda S, o: S.ConstantLR(o, 2.0),
    lambda S, o: S.SequentialLR(o, [S.ExponentialLR(o, 0.9)], [3]),
    lambda S, o: S.ChainedScheduler([]),
    lambda S, o: S.ReduceLROnPlateau(o, "best"),
    lambda S, o: S.OneCycleLR(o, 0.1),
    lambda S, o: S.CosineAnnealingWarmRestarts(o, 0),
    lambda S, o: S.CyclicLR(o, 0.1, 0.2, mode="none"),
]


@pytest.mark.parametrize("make", ERRORS)
def test_errors(make):
    with pytest.raises(Exception) as theirs:
        make(torch.optim.lr_scheduler, optimizer(torch))
    with pytest.raises(type(theirs.value)) as ours:
        make(fanal.optim.lr_scheduler, optimizer(fanal))
    assert str(ours.value) == str(theirs.value)


def test_a_rate_as_tensor_stays_the_same_tensor():
    lr = fanal.tensor(0.5)
    w = fanal.zeros(2, requires_grad=True)
    o = fanal.optim.SGD([w], lr=lr)
    s = fanal.optim.lr_scheduler.ExponentialLR(o, 0.5)
    o.step()
    s.step()
    assert o.param_groups[0]["lr"] is lr and lr.item() == 0.25


@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_swalr(strategy):
    out = []
    for m in (torch, fanal):
        o = optimizer(m)
        s, seen = m.optim.swa_utils.SWALR(o, 0.05, 4, strategy), []
        for _ in range(8):
            o.step()
            s.step()
            seen.append(s.get_last_lr())
        out.append((seen, list(s.state_dict())))
    assert out[0] == out[1]


@pytest.mark.parametrize("how", ["mean", "ema", "multi ema", "multi mean", "buffers"])
def test_averaged_model(how):
    torch.manual_seed(0)
    models = [m.nn.Sequential(m.nn.Linear(3, 2), m.nn.BatchNorm1d(2)) for m in (torch, fanal)]
    models[1].load_state_dict({k: fanal.tensor(v.numpy()) for k, v in models[0].state_dict().items()})
    out = []
    for m, model in zip((torch, fanal), models):
        S = m.optim.swa_utils
        kwargs = {
            "mean": {},
            "ema": {"avg_fn": S.get_ema_avg_fn(0.9)},
            "buffers": {"use_buffers": True},
            "multi ema": {"multi_avg_fn": S.get_ema_multi_avg_fn(0.9)},
            "multi mean": {"multi_avg_fn": S.get_swa_multi_avg_fn()},
        }[how]
        average = S.AveragedModel(model, **kwargs)
        for _ in range(3):
            average.update_parameters(model)
            with m.no_grad():
                for p in model.parameters():
                    p.mul_(1.1)
        rng = np.random.default_rng(0)
        S.update_bn([m.tensor(rng.normal(size=(4, 3)).astype("float32")) for _ in range(3)], average)
        out.append({k: np.asarray(v.tolist()) for k, v in average.state_dict().items()})
    assert list(out[0]) == list(out[1])
    for k in out[0]:
        np.testing.assert_allclose(out[1][k], out[0][k], 1e-5, 1e-6)
