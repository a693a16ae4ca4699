"""What users name, made into what is trained: recipes, presets, references and sources."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from matgraft.errors import InputError
from matgraft.models.files import load_source
from matgraft.models.model import Model
from matgraft.models.references import References
from matgraft.training.graft import REFERENCE_MODES, ReferenceMode
from matgraft.training.portfolio import PORTFOLIO, Candidate
from matgraft.training.recipe import PRESETS, Recipe
from matgraft.training.schemes import SCHEMES

AUTO = "auto"
SOURCES = ("mp-schnet", "mp-schnet-total-energy")
"""Sources of a contest, unless others are named; the first is that of a single recipe."""


def recipes(preset: str) -> tuple[Recipe, Recipe]:
    """The recipes of a preset: for a random start, and for a start from a source."""
    if preset not in PRESETS:
        raise InputError(f"no preset named {preset!r}; there are {', '.join(PRESETS)}.")
    return PRESETS[preset]


def reference_mode(text: str) -> ReferenceMode | References:
    """A reference mode by name, or the reference energies in a JSON file."""
    if text in REFERENCE_MODES:
        return text  # type: ignore[return-value]
    if text.endswith(".json"):
        return References.read(text)
    raise InputError(
        f"--reference {text!r}: write {', '.join(REFERENCE_MODES)}, or a JSON file of energies by element."
    )


def sources_of(source: str | Path | None, recipe: str) -> list[Model]:
    """The models that ``--source`` names, separated by commas.

    Raises
    ------
    InputError
        No such model; several for a recipe that starts from one; unequal cutoffs.
    """
    if source is None:
        return []
    names = str(source).split(",")
    if names == [AUTO]:
        names = list(SOURCES if recipe == AUTO else SOURCES[:1])
    if len(names) > 1 and recipe != AUTO:
        raise InputError(f"--source {source}: recipe {recipe} starts from one source; name it.")
    sources = [load_source(name.strip()) for name in names]
    if len({one.cutoff for one in sources}) > 1:
        cutoffs = ", ".join(f"{one.cutoff:g}" for one in sources)
        raise InputError(f"--source {source}: their cutoffs of {cutoffs} A differ. Name others.")
    return sources


def starts(sources: list[Model], preset: str) -> list[Model]:
    """Sources as grafts start from them: with a guess of unknown elements, but for the published preset."""
    return sources if preset == "paper" else [one.acquainted() for one in sources]


def named_method(recipe: str, preset: str, reference: ReferenceMode | References = "auto") -> Candidate:
    """A transfer scheme by name, trained by the preset's settings; or a candidate of the contest.

    Parameters
    ----------
    recipe : str
        ``auto`` gives a candidate of that name, for a contest instead of a fit.
    preset : str
    reference : {"auto", "labels", "residual", "none"} or References
        Of a scheme.

    Returns
    -------
    Candidate
        It starts from the first source, if it needs one.

    Raises
    ------
    InputError
        No such scheme, candidate or preset; settings that a candidate has of its own.
    """
    for_direct, for_graft = recipes(preset)
    if recipe in SCHEMES:
        scheme = SCHEMES[recipe]
        settings = for_direct if scheme.start == "random" else for_graft
        found = Candidate(recipe, scheme.description, "network", reference, recipe, settings)
    else:
        candidates = {one.name: one for one in PORTFOLIO}
        if recipe not in (AUTO, *candidates):
            known = ", ".join(dict.fromkeys([AUTO, *SCHEMES, *candidates]))
            raise InputError(f"no recipe named {recipe!r}; there are {known}.")
        if preset != "default" or reference != "auto":
            raise InputError(
                f"recipe {recipe} brings settings and references of its own: with --preset or "
                f"--reference, give --recipe {', '.join(SCHEMES)}."
            )
        found = candidates.get(recipe, Candidate(AUTO, "", "references"))
    return replace(found, source=0 if found.needs_source else None)
