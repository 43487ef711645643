"""Optimizers, as torch.optim."""

import importlib
from typing import Any

from fanal.core.base.missing import absent
from fanal.optim._adafactor import Adafactor as Adafactor
from fanal.optim._muon import Muon as Muon
from fanal.optim.adadelta import Adadelta as Adadelta
from fanal.optim.adagrad import Adagrad as Adagrad
from fanal.optim.adam import Adam as Adam
from fanal.optim.adamax import Adamax as Adamax
from fanal.optim.adamw import AdamW as AdamW
from fanal.optim.asgd import ASGD as ASGD
from fanal.optim.lbfgs import LBFGS as LBFGS
from fanal.optim.nadam import NAdam as NAdam
from fanal.optim.optimizer import Optimizer as Optimizer
from fanal.optim.radam import RAdam as RAdam
from fanal.optim.rmsprop import RMSprop as RMSprop
from fanal.optim.rprop import Rprop as Rprop
from fanal.optim.sgd import SGD as SGD
from fanal.optim.sparse_adam import SparseAdam as SparseAdam

__all__ = [
    "ASGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "LBFGS",
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
    "SparseAdam",
    "lr_scheduler",
    "swa_utils",
]


def __getattr__(name: str) -> Any:
    if name in ("lr_scheduler", "swa_utils"):  # swa_utils stands above nn
        return importlib.import_module(f"fanal.optim.{name}")
    raise absent("torch.optim", name)
