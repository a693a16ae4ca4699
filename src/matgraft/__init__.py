"""matgraft: graft a network pre-trained on many crystals onto a property for which you own a few labels."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matgraft.data import Dataset, Label
    from matgraft.errors import InputError
    from matgraft.jobs.benchmark import benchmark
    from matgraft.jobs.predict import predict
    from matgraft.jobs.pretrain import pretrain
    from matgraft.models.files import load_model
    from matgraft.models.model import Model
    from matgraft.training.graft import finetune
    from matgraft.training.recipe import Recipe
    from matgraft.training.schemes import Rate, Scheme

__version__ = version("matgraft")

_HOME = {
    "Dataset": "data",
    "Label": "data",
    "InputError": "errors",
    "benchmark": "jobs.benchmark",
    "predict": "jobs.predict",
    "pretrain": "jobs.pretrain",
    "Model": "models.model",
    "load_model": "models.files",
    "finetune": "training.graft",
    "Recipe": "training.recipe",
    "Rate": "training.schemes",
    "Scheme": "training.schemes",
}

__all__ = [
    "Dataset",
    "InputError",
    "Label",
    "Model",
    "Rate",
    "Recipe",
    "Scheme",
    "benchmark",
    "finetune",
    "load_model",
    "predict",
    "pretrain",
]


def __getattr__(name: str) -> object:
    # Lazily, so that `matgraft --help` does not wait for torch.
    if name in _HOME:
        return getattr(import_module(f"matgraft.{_HOME[name]}"), name)
    raise AttributeError(f"module 'matgraft' has no attribute {name!r}")
