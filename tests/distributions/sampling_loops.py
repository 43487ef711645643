"""Two training loops that sample in every step: a variational autoencoder, and REINFORCE on a bandit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def autoencoder(torch: Any, validate: bool | None = None) -> Callable[[], Any]:
    """Normal.rsample and kl_divergence. Source: Kingma & Welling, "Auto-encoding variational Bayes" (2014)."""
    nn, D = torch.nn, torch.distributions
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(12, 8), nn.Linear(4, 12)
    opt = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-2)
    x = torch.tensor((np.random.default_rng(0).uniform(size=(16, 12)) > 0.5).astype("float32"))

    def step() -> Any:
        opt.zero_grad()
        mean, log_scale = encoder(x).chunk(2, -1)
        posterior = D.Normal(mean, log_scale.exp(), validate_args=validate)
        prior = D.Normal(torch.zeros_like(mean), torch.ones_like(mean), validate_args=validate)
        pixels = D.Independent(
            D.Bernoulli(logits=decoder(posterior.rsample()), validate_args=validate), 1, validate_args=validate
        )
        loss = (D.kl_divergence(posterior, prior).sum(-1) - pixels.log_prob(x)).mean()
        loss.backward()
        opt.step()
        return loss.detach()

    return step


def reinforce(torch: Any) -> Callable[[], Any]:
    """Categorical.sample and log_prob. Source: Williams, "Simple statistical gradient-following algorithms" (1992)."""
    nn, D = torch.nn, torch.distributions
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))
    opt = torch.optim.SGD(policy.parameters(), lr=0.05)
    rng = np.random.default_rng(0)
    states, best = rng.normal(size=(8, 6)).astype("float32"), rng.integers(0, 4, size=8)

    def step() -> Any:
        choice = D.Categorical(logits=policy(torch.tensor(states)))
        action = choice.sample()
        reward = torch.tensor((action.numpy() == best).astype("float32"))
        loss = -(choice.log_prob(action) * (reward - 0.3)).mean() - 0.01 * choice.entropy().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.detach()

    return step
