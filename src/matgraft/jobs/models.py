"""Model cards."""

from __future__ import annotations

from pathlib import Path

from matgraft.evaluation.tables import Table
from matgraft.models.files import load_model, shipped_models


def catalogue() -> Table:
    """Shipped models: what they predict and how wrong they are."""
    rows = []
    for name in shipped_models():
        model = load_model(name)
        metrics = model.card["metrics"]
        rows.append(
            (
                name,
                model.label.name,
                model.label.unit,
                model.card["n_train"],
                round(metrics["validation"]["mae_ev_per_atom"], 4),
                ", ".join(model.card["exclude_elements"]) or "none",
                model.card["licence"],
            )
        )
    return Table(("name", "predicts", "unit", "crystals", "validation MAE", "without", "licence"), rows)


def card(name: str | Path) -> dict:
    """Everything a model says of itself."""
    model = load_model(name)
    return {
        "label": vars(model.label),
        **model.description(),
        "species": sorted(model.species),
        "references": model.references.as_dict(assumed=False),
        **model.card,
    }


def table_of(content: dict) -> Table:
    """A card as a table, histories left out."""

    def text(value: object) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key} {text(entry)}" for key, entry in value.items())
        if isinstance(value, list):
            return " ".join(map(text, value))
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return Table(
        ("", content.get("name", "model")), [(k, text(v)) for k, v in content.items() if k != "history"]
    )
