"""Random states of CUDA devices: there are none."""

from __future__ import annotations

from fanal.cuda import get_rng_state_all, manual_seed, manual_seed_all, set_rng_state_all

__all__ = ["get_rng_state_all", "manual_seed", "manual_seed_all", "set_rng_state_all"]
