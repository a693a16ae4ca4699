"""How a network is trained: settings, checked once."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from matgraft.settings import Settings


class Recipe(Settings):
    """Settings of one training run.

    Attributes
    ----------
    epochs, batch_size, max_pairs : int
        Passes over the training set; structures and atom pairs in a batch at the most.
    optimizer : {"adam", "adamw"}
    rate, rate_min : float
        Learning rate at the start, and the least that the schedule goes down to.
    schedule : {"plateau", "cosine"}
        Multiply by ``plateau_factor`` after more than ``plateau_patience`` epochs without a lower training
        loss, or one half cosine over all epochs after ``warmup`` epochs of linear growth.
    l2 : float
        L2 coefficient; in the gradient for ``adam``, decoupled for ``adamw``.
    loss : {"mse", "mae", "huber"}
        ``huber`` is quadratic below ``huber_delta`` (in the network's units).
    average : float
        Decay of an exponential moving average of the weights; 0 for none.
    swa_epochs : int
        Stochastic weight averaging (Izmailov et al. 2018): so many last epochs at the constant rate
        ``swa_rate``, the result being the plain mean of all weights met on the way.
    swa_rate : float
    spacing : float
        Distance between the grid points of the tabulated filters while training, in Angstrom.
    jitter : float
        Standard deviation of the noise on every distance while training, in Angstrom. Relaxed crystals lie
        at a minimum of the energy, so that small displacements change the label to second order only.
    further_weight : float
        Weight of each further property of a source with several, beside the first.
    forces : float
        Weight of the error of forces beside that of the label, in Angstrom: a label per atom that is wrong by
        this times an energy counts like a force that is wrong by this energy per Angstrom. 0 learns from
        labels alone. Epochs are chosen by labels in any case.
    validation : float
        Share of the training set that is held out to choose the best epoch; 0 trains on everything.
    patience : int
        Stop after so many epochs without a better validation error; 0 for never.
    min_steps : int
        Small training sets get more epochs, until there are so many optimiser steps.
    """

    what: ClassVar[str] = "training settings"

    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    max_pairs: int = Field(default=100_000, gt=0)
    optimizer: Literal["adam", "adamw"] = "adamw"
    rate: float = Field(gt=0)
    rate_min: float = Field(default=1e-6, ge=0)
    schedule: Literal["plateau", "cosine"] = "cosine"
    plateau_patience: int = Field(default=25, gt=0)
    plateau_factor: float = Field(default=0.8, gt=0, lt=1)
    warmup: float = Field(default=0.0, ge=0)
    l2: float = Field(default=0.0, ge=0)
    loss: Literal["mse", "mae", "huber"] = "huber"
    huber_delta: float = Field(default=0.1, gt=0)
    average: float = Field(default=0.0, ge=0, lt=1)
    swa_epochs: int = Field(default=0, ge=0)
    swa_rate: float = Field(default=2e-4, gt=0)
    spacing: float = Field(default=0.011, gt=0)
    jitter: float = Field(default=0.0, ge=0)
    further_weight: float = Field(default=0.3, ge=0)
    forces: float = Field(default=0.0, ge=0)
    validation: float = Field(default=0.0, ge=0, lt=1)
    patience: int = Field(default=0, ge=0)
    min_steps: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _rates_in_order(self) -> Recipe:
        if self.rate_min > self.rate:
            raise ValueError(f"rate_min {self.rate_min} is above rate {self.rate}")
        if self.swa_epochs >= self.epochs or (self.swa_epochs and not self.average):
            raise ValueError("swa_epochs must be fewer than epochs, and needs average > 0 before")
        if self.jitter and self.forces:
            raise ValueError("jitter moves atoms as if no force pulled; learn from forces without it")
        return self

    def for_size(self, n: int) -> Recipe:
        """The recipe for ``n`` structures: more epochs, if ``epochs`` would give fewer than ``min_steps``."""
        steps_per_epoch = math.ceil(n / self.batch_size)
        return self.model_copy(
            update={"epochs": max(self.epochs, math.ceil(self.min_steps / steps_per_epoch))}
        )


PRETRAIN = Recipe(
    epochs=160, batch_size=64, rate=1e-3, warmup=0.5, l2=0.05, huber_delta=0.05, average=0.999, jitter=0.03,
    swa_rate=2.5e-4,
)  # fmt: skip
DIRECT = Recipe(epochs=60, batch_size=16, rate=1e-3, warmup=1.0, l2=0.05, average=0.99, min_steps=1000)
FINETUNE = Recipe(epochs=10, batch_size=16, rate=2e-4, warmup=1.0, l2=0.05, loss="mae", average=0.99)
PAPER = Recipe(
    epochs=1000, batch_size=32, optimizer="adam", rate=1e-4, schedule="plateau", l2=1e-3, loss="mse",
    validation=0.1, patience=100,
)  # fmt: skip

PRESETS = {"default": (DIRECT, FINETUNE), "paper": (PAPER, PAPER)}
"""Recipes for a random start and for a start from a source: ours, and the published one."""
