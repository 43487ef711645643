"""Optimizers, as torch.optim."""
from fanal.optim.adam import Adam as Adam
from fanal.optim.adamw import AdamW as AdamW
from fanal.optim.optimizer import Optimizer as Optimizer
from fanal.optim.sgd import SGD as SGD
