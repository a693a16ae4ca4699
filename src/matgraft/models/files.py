"""Model folders: where they are found, and how they are opened."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from matgraft.data import Label
from matgraft.errors import InputError
from matgraft.models.blend import BLEND, MEMBERS, Blend
from matgraft.models.domain import Domain
from matgraft.models.intervals import Intervals
from matgraft.models.model import CARD, FORMAT, VERSION, WEIGHTS, Model
from matgraft.models.predictor import CLOSEST, DOMAIN, INTERVALS, Predictor
from matgraft.models.process import GaussianProcess
from matgraft.models.references import References
from matgraft.models.schnet import Architecture, SchNet


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    folder = resources.files("matgraft.models") / "shipped"
    return (
        sorted(entry.name for entry in folder.iterdir() if (entry / CARD).is_file())
        if folder.is_dir()
        else []
    )


def load_model(name: str | Path) -> Predictor:
    """Open a model.

    Parameters
    ----------
    name : str or Path
        A shipped model's name, or a folder that :meth:`Model.save`, ``finetune`` or ``pretrain`` wrote. One
        with several properties gives the first; ``NAME:LABEL`` names another.

    Raises
    ------
    InputError
        No such model; a truncated file; a file of a newer version; a pickle (never opened).
    """
    folder, label = _located(str(name)), None
    if folder is None and ":" in str(name):
        stem, label = str(name).rsplit(":", 1)
        folder = _located(stem)
    if folder is None:
        raise InputError(
            f"{name}: no model here (a folder with {WEIGHTS} and {CARD}), and no shipped model of that name. "
            f"Shipped: {', '.join(shipped_models()) or 'none'}."
        )
    model = _load(folder, label)
    for name in (CLOSEST, DOMAIN, INTERVALS):
        path = folder / name
        # What a blend has of the others is with its members.
        if not path.is_file() or (name != INTERVALS and not isinstance(model, Model)):
            continue
        try:
            tensors = load_file(path)
            if name == INTERVALS:
                model = model.with_intervals(Intervals.from_tensors(tensors))
            elif isinstance(model, Model) and name == DOMAIN:
                model = replace(model, domain=Domain.from_tensors(tensors))
            elif isinstance(model, Model):
                model = replace(model, closest=tensors["closest"].numpy())
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: damaged ({error}). Copy the model again, or delete this file."
            ) from error
    return model


def load_source(name: str | Path) -> Model:
    """A model that another can be grafted on: like :func:`load_model`, but a network and no more.

    Raises
    ------
    InputError
        Also for a blend, and for a model with a Gaussian process: training would move the features that it
        rests on, and leave it behind.
    """
    model = load_model(name)
    if not isinstance(model, Model):
        raise InputError(
            f"{name}: a blend of several models cannot be a source. Name one: {Path(name) / MEMBERS / '0'}."
        )
    if model.process is not None:
        raise InputError(
            f"{name}: a model with a Gaussian process on its features cannot be a source. Name the source "
            "that it was itself grafted on, or fine-tune a network (--recipe tl1) and name that."
        )
    return model


def _located(name: str) -> Path | None:
    folder = Path(name)
    if name in shipped_models() and not folder.exists():
        folder = Path(str(resources.files("matgraft.models") / "shipped" / name))
    if folder.is_file():
        if folder.name not in (WEIGHTS, CARD):
            raise InputError(
                f"{folder}: not a matgraft model. A model is a folder with {WEIGHTS} and {CARD}; "
                "pickled files (.pt, .pth, .pkl) are never opened because they can run code."
            )
        folder = folder.parent
    is_model = (folder / CARD).is_file() and ((folder / WEIGHTS).is_file() or (folder / MEMBERS).is_dir())
    return folder if is_model else None


def _load(folder: Path, wanted: str | None) -> Predictor:
    try:
        card = json.loads((folder / CARD).read_text())
        if card["format"] not in (FORMAT, BLEND):
            raise InputError(
                f"{folder / CARD}: format {card['format']!r} is neither {FORMAT!r} nor {BLEND!r}."
            )
        if card["version"] > VERSION:
            raise InputError(
                f"{folder / CARD}: written by a newer matgraft (model version {card['version']}, "
                f"this one reads up to {VERSION}). Upgrade matgraft."
            )
        if card["format"] == BLEND:
            return _load_blend(folder, card, wanted)
        network = SchNet(Architecture(**card["architecture"]))
        properties = [card, *card.get("further", [])]
        labels = [Label(**one["label"]) for one in properties]
        names = [label.name for label in labels]
        if wanted is not None and wanted not in names:
            raise InputError(f"{folder}: no property {wanted!r} in this model; there is {', '.join(names)}.")
        k = 0 if wanted is None else names.index(wanted)
        stored = properties[k]["references"]
        # Models of before have none.
        span = properties[k].get("span")
        references = References.given(stored["energies"], stored.get("assumed", ()))
        model = Model(
            network=network,
            label=labels[k],
            references=replace(references, fallback=float(stored["fallback"])),
            scale=float(properties[k]["scale"]),
            span=None if span is None else (float(span[0]), float(span[1])),
            species=frozenset(card["species"]),
            card=card["card"],
        )
    except (LookupError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{folder / CARD}: not a readable model card ({type(error).__name__}: {error})."
        ) from error
    try:
        tensors = load_file(folder / WEIGHTS)
        process = GaussianProcess.from_tensors(tensors)
        network.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("process.")})
    except (OSError, SafetensorError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{folder / WEIGHTS}: damaged, or not safetensors weights of this architecture ({reason}). "
            "Copy the model again; pickled weights are never opened."
        ) from error
    network = network.head(k) if network.arch.outputs > 1 else network
    network.eval()
    return replace(model, network=network, process=process)


def _load_blend(folder: Path, card: dict, wanted: str | None) -> Blend:
    weights = tuple(float(weight) for weight in card["weights"])
    members = tuple(_load_member(folder / MEMBERS / str(k)) for k in range(len(weights)))
    if not members or wanted not in (None, members[0].label.name):
        raise InputError(f"{folder}: no property {wanted!r} in this blend of {len(members)} models.")
    return Blend(members, weights, card["card"])


def _load_member(folder: Path) -> Model:
    member = load_model(folder)
    if not isinstance(member, Model):
        raise InputError(f"{folder}: a blend inside a blend. Copy the model again.")
    return member
