"""What a few labels can be learned with: candidates, from references alone to networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from matgraft.errors import InputError
from matgraft.models.model import Model, run_network
from matgraft.models.references import References
from matgraft.models.schnet import ARCHITECTURES, Architecture, SchNet
from matgraft.training.graft import ReferenceMode, Task, finetune, fit_references, symbols
from matgraft.training.loop import Report
from matgraft.training.process import MOST, fit_process
from matgraft.training.recipe import DIRECT, FINETUNE, Recipe

COLD = FINETUNE
HOT = FINETUNE.changed(epochs=20, rate=5e-4)
LONG = FINETUNE.changed(epochs=40, rate=5e-4)
MANY = 160
"""Labels from which on long training may pay, and gentle training no longer does. With fewer, long training
fits their accidents."""
FORCES = 0.3
"""Weight of forces, of a task that has them, in Angstrom; chosen on development splits of TiO2."""
BY_NAME = math.inf
"""For a recipe that a contest leaves out: with its relatives in the blend it costs time and adds nothing."""


@dataclass(frozen=True)
class Candidate:
    """One way to a predictor.

    Attributes
    ----------
    name : str
        As on the command line.
    words : str
        What is done, for a chemist.
    kind : {"references", "process", "network"}
        Reference energies and no more; a Gaussian process on frozen features; a network that is trained.
    reference : {"labels", "residual", "none", "auto"} or References
        References on the labels alone, on what a source leaves over, or only a mean; or the better of the
        first two; or given ones.
    scheme : str, optional
        Of a network.
    recipe : Recipe, optional
    source : int, optional
        Which of the sources it starts from; None for none.
    least, most : float
        It takes part in a contest with at least ``least`` and fewer than ``most`` labels.
    """

    name: str
    words: str
    kind: Literal["references", "process", "network"]
    reference: ReferenceMode | References = "labels"
    scheme: str = ""
    recipe: Recipe | None = None
    source: int | None = None
    least: float = 0
    most: float = math.inf

    @property
    def needs_source(self) -> bool:
        if self.kind == "network":
            return self.scheme != "direct"
        return self.kind == "process" or self.reference == "residual"


def _network(
    name: str,
    words: str,
    scheme: str,
    reference: str,
    recipe: Recipe,
    least: float = 0,
    most: float = math.inf,
) -> Candidate:
    return Candidate(name, words, "network", reference, scheme, recipe, least=least, most=most)  # type: ignore[arg-type]


PORTFOLIO = (
    Candidate("references", "reference energies of the elements, no network", "references"),
    Candidate("residual", "the source as it is, with robust reference energies", "references", "residual"),
    Candidate("process", "Gaussian process on the source's features", "process", most=MOST),
    Candidate(
        "process-residual",
        "the source, and a Gaussian process on what it leaves over",
        "process",
        "residual",
        most=MOST,
    ),
    _network("tl3-residual", "the source's output layers go on learning", "tl3", "residual", HOT),
    _network("tl1-residual", "the source goes on learning, gently", "tl1", "residual", COLD, most=MANY),
    _network("tl1-residual-hot", "the source goes on learning", "tl1", "residual", HOT, BY_NAME),
    _network("tl1-residual-long", "the source goes on learning, for long", "tl1", "residual", LONG, MANY),
    _network(
        "staged-residual", "the source goes on learning, from the top down", "staged", "residual", HOT, MANY
    ),
    _network("tl1-labels-hot", "the source's weights on another scale", "tl1", "labels", HOT),
    _network(
        "tl1-labels-long", "the source's weights on another scale, for long", "tl1", "labels", LONG, BY_NAME
    ),
    _network("direct", "a network from random weights, without the source", "direct", "labels", DIRECT),
)
"""From the cheapest to the most costly. TL2 is not among them: it cannot be told from TL1 (results/paper)."""

CHEAP = tuple(one for one in PORTFOLIO if one.kind != "network")


def require_room(candidate: Candidate, n: int) -> None:
    """Raise InputError if a candidate cannot take so many labels."""
    if candidate.kind == "process" and n >= MOST:
        raise InputError(
            f"{n} labels are too many for a Gaussian process, which takes fewer than {MOST:,}. "
            "Name another --recipe."
        )


@dataclass(frozen=True)
class Bench:
    """A task, and what the sources say of its structures.

    Attributes
    ----------
    task : Task
    sources : tuple of Model
    arch : Architecture
        Of direct training.
    portfolio : tuple of Candidate
    """

    task: Task
    sources: tuple[Model, ...] = ()
    arch: Architecture = ARCHITECTURES["arch1"]
    portfolio: tuple[Candidate, ...] = PORTFOLIO

    @cached_property
    def zero_shot(self) -> tuple[np.ndarray, ...]:
        """Each source's prediction per atom, shape (n,)."""
        return tuple(self.task.predicted_by(source) for source in self.sources)

    @cached_property
    def features(self) -> tuple[np.ndarray, ...]:
        """Each source's features, shape (n, d)."""
        return tuple(source.features(self.task.graphs) for source in self.sources)

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """Work out what these need, before other processes get the bench: each would do so again."""
        _ = self.zero_shot
        if any(candidate.kind == "process" for candidate in candidates):
            _ = self.features

    def candidates(self) -> list[Candidate]:
        """The portfolio for each source; what needs none, once."""
        found = []
        for one in self.portfolio:
            one = self.adapted(one)
            if not one.needs_source:
                found.append(one)
            else:
                found += [replace(one, source=k) for k in range(len(self.sources))]
        return found

    def adapted(self, candidate: Candidate) -> Candidate:
        """The candidate for this label: elements do not add up to one that is no energy, so that networks
        learn it without references."""
        if (candidate.kind, candidate.reference, self.task.label.kind) == ("network", "labels", "intensive"):
            return replace(candidate, reference="none")
        return candidate

    @property
    def learns_forces(self) -> bool:
        """Whether networks learn from the forces of the task, too."""
        return self.task.pulls is not None

    def learning(self, recipe: Recipe) -> Recipe:
        """The recipe as networks of this bench are trained by it."""
        return recipe.changed(forces=FORCES) if self.learns_forces else recipe

    @cached_property
    def names(self) -> list[str]:
        """What the sources are called, each differently."""
        names = [source.card.get("name", "your own") for source in self.sources]
        return [name if names.count(name) == 1 else f"{name} ({k})" for k, name in enumerate(names, start=1)]

    def called(self, candidate: Candidate) -> str:
        """Name of the candidate, and of its source if it has one."""
        k = candidate.source
        return candidate.name if k is None else f"{candidate.name} @ {self.names[k]}"

    def fit(
        self,
        candidate: Candidate,
        rows: np.ndarray,
        seed: int,
        folder: Path | None = None,
        report: Report | None = None,
    ) -> Model:
        """Train a candidate on the labels of ``rows``.

        Parameters
        ----------
        candidate : Candidate
        rows : ndarray of int
        seed : int
        folder, report
            Of a network; see :func:`matgraft.training.graft.finetune`.
        """
        require_room(candidate, len(rows))
        task = self.task
        source = None if candidate.source is None else self.sources[candidate.source]
        zero_shot = None if candidate.source is None else self.zero_shot[candidate.source]
        if candidate.kind == "network":
            assert candidate.recipe is not None
            return finetune(
                source,
                task,
                rows=rows,
                scheme=candidate.scheme,
                reference=candidate.reference,
                recipe=self.learning(candidate.recipe),
                arch=self.arch,
                seed=seed,
                folder=folder,
                report=report,
                zero_shot=zero_shot,
            )
        references = References.none()
        if candidate.kind == "references" or candidate.reference == "residual":
            assert isinstance(candidate.reference, str)
            references = fit_references(task, rows, candidate.reference, source, zero_shot)
        # Intervals of references alone rest on a network, too: on one that knows crystals, if there is one.
        torch.manual_seed(seed)
        of = source or (self.sources[0] if self.sources else None)
        model = Model(
            network=SchNet(self.arch) if of is None else of.network,
            label=task.label,
            references=references,
            scale=source.scale if source is not None and candidate.reference == "residual" else 0.0,
            species=symbols(task.composition[rows]) | (source.species if source is not None else frozenset()),
            closest=task.closest(rows, source),
            span=None if source is None else source.span,
        )
        if candidate.kind == "references":
            return model
        assert candidate.source is not None
        left_over = task.per_atom[rows] - self.predicted(candidate, model, rows)
        means = (task.prior.filled,) if task.prior is not None and candidate.reference == "labels" else ()
        features = self.features[candidate.source][rows]
        shift, process = fit_process(task.composition[rows], left_over, features, means)
        return replace(model, references=references + shift, process=process)

    def predicted(self, candidate: Candidate, model: Model, rows: np.ndarray) -> np.ndarray:
        """What a fitted candidate says of structures ``rows``, per atom; the sources are not run again."""
        if candidate.kind == "network":
            outputs = run_network(model.network, self.task.graphs, rows)
            return model.said(self.task.composition[rows], outputs, np.zeros((len(rows), 0)))
        values = model.references.per_atom(self.task.composition[rows])
        k = candidate.source
        if k is not None and model.scale:
            inside = self.sources[k].references.per_atom(self.task.composition[rows])
            values += self.zero_shot[k][rows] - inside
        if k is not None and model.process is not None:
            values += model.process(self.features[k][rows])
        return values
