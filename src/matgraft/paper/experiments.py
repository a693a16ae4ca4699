"""What is run: every experiment of the study, and what lies beyond its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matgraft.data import Dataset
from matgraft.data.splits import keep_where
from matgraft.errors import InputError
from matgraft.jobs.benchmark import Plan, plan
from matgraft.jobs.benchmark import run as run_benchmarks
from matgraft.jobs.methods import AUTO
from matgraft.training.portfolio import CHEAP, PORTFOLIO

PUBLISHED, OURS = "published", "ours"
SCHEMES = ("direct", "tl1", "tl2", "tl3")
PROCESS = "process"
LABELS_ALONE = ("direct", "tl1/labels", "tl2/labels", "tl3/labels")

FORMATION = "mp-schnet"
TOTAL = "mp-schnet-total-energy"
STUDY = "mp-schnet-arch1"
"""A source with the study's network, trained on the study's label."""
WITHOUT_CRMN = "mp-schnet-no-crmn"
WITHOUT_CRMN_TOTAL = f"{WITHOUT_CRMN}:e_total_per_atom_mp2020"


@dataclass(frozen=True)
class Experiment:
    """One benchmark.

    Attributes
    ----------
    name, title : str
    data, target : str
    keep : tuple of str
        Conditions on the structures; see :func:`matgraft.data.splits.keep_where`.
    sizes : tuple of int
    val_size : int
    schemes : tuple of str
    costly : tuple of str
        Those of the schemes that are run at the greatest number of labels alone.
    source : str or None
        Several with commas: schemes start from the first, ``auto`` compares all.
    recipe : {"published", "ours"}
        Settings of training; with the published ones, reference energies are fitted to the labels alone.
    l2 : bool
        Regularised as the recipe says, or not at all.
    arch : str
    group : str or None
    tables, figures : tuple
        Those of the study that need it; what lies beyond its data is the table ``beyond``.
    """

    name: str
    title: str
    data: str = "tmo-oxides-fetiv"
    target: str = "energy"
    keep: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (100, 200, 400)
    val_size: int = 117
    schemes: tuple[str, ...] = (*SCHEMES, PROCESS)
    costly: tuple[str, ...] = ()
    source: str | None = FORMATION
    recipe: str = OURS
    l2: bool = True
    arch: str = "arch1"
    group: str | None = None
    tables: tuple[str, ...] = ("beyond",)
    figures: tuple[int, ...] = ()


_OXIDES = Experiment(
    "oxides",
    "oxides of Fe, Ti, V",
    schemes=SCHEMES,
    source=TOTAL,
    tables=("1", "2"),
    figures=(8, 10, 11),
)
_EXTENDED = Experiment(
    "extended",
    "oxides of Fe, Ti, V, Cr, Mn; the source has seen no Cr and no Mn",
    data="tmo-oxides",
    sizes=(125, 250, 500),
    val_size=163,
    schemes=SCHEMES,
    source=WITHOUT_CRMN_TOTAL,
    tables=("3", "4"),
    figures=(9, 10, 11, 12),
)
_ARCHITECTURE = replace(_OXIDES, sizes=(400,), schemes=("direct",), source=None, tables=("1",), figures=())


_QUANTUM_ESPRESSO = Experiment(
    "beyond/own-labels",
    "small oxides of our own DFT (Quantum ESPRESSO, PBE)",
    data="tmo-qe-pbe",
    target="free_energy",
    sizes=(50, 100, 200),
    val_size=50,
    schemes=(*SCHEMES, PROCESS, AUTO),
    costly=(AUTO,),
    source=f"{FORMATION},{TOTAL}",
)


def _architectures(recipe: str) -> list[Experiment]:
    """The columns of Table 1 that no other table has."""
    return [
        replace(
            _ARCHITECTURE,
            name=f"{recipe}/{arch}{'-l2' if l2 else ''}",
            title=f"{arch}{' + L2' if l2 else ''}",
            recipe=recipe,
            arch=arch,
            l2=l2,
        )
        for arch, l2 in (("arch1", False), ("arch2", False), ("arch2", True), ("wide", True))
        if recipe == OURS or arch != "wide"
    ]


EXPERIMENTS = (
    replace(_OXIDES, name="published/oxides", recipe=PUBLISHED, source=STUDY, schemes=LABELS_ALONE),
    replace(
        _EXTENDED, name="published/extended", recipe=PUBLISHED, source=WITHOUT_CRMN, schemes=LABELS_ALONE[:3]
    ),
    *_architectures(PUBLISHED),
    *(
        replace(one, name=f"{OURS}/{one.name}", schemes=(*SCHEMES, PROCESS, AUTO), source=sources)
        for one, sources in (
            (_OXIDES, f"{TOTAL},{FORMATION}"),
            (_EXTENDED, f"{WITHOUT_CRMN_TOTAL},{WITHOUT_CRMN}"),
        )
    ),
    *_architectures(OURS),
    Experiment("beyond/oxides-formation-energy", "oxides of Fe, Ti, V, source of formation energies"),
    replace(
        _OXIDES,
        name="beyond/oxides-by-formula",
        title="oxides of Fe, Ti, V, no formula on both sides",
        schemes=(*SCHEMES, PROCESS),
        group="formula",
        tables=("beyond",),
        figures=(),
    ),
    Experiment(
        "beyond/oxides-clean",
        "oxides in the geometry of their label",
        data="tmo-oxides-clean",
        sizes=(40, 80, 160),
        val_size=91,
        source=TOTAL,
    ),
    Experiment(
        "beyond/tio2-quantum-espresso",
        "TiO2 and suboxides, another code (Quantum ESPRESSO)",
        data="tio2-qe-pbe",
        val_size=200,
    ),
    _QUANTUM_ESPRESSO,
    replace(
        _QUANTUM_ESPRESSO,
        name="beyond/own-labels-by-formula",
        title="small oxides of our own DFT, no formula on both sides",
        group="formula",
    ),
    Experiment(
        "beyond/oxides-optb88vdw",
        "oxides, another functional (OptB88vdW formation energies)",
        data="jarvis-oxides",
        target="e_form_per_atom",
        val_size=200,
    ),
    Experiment(
        "beyond/dielectric-constant",
        "electronic dielectric constant",
        data="mp-properties",
        target="eps_electronic",
        keep=("eps_electronic>1", "eps_electronic<100"),
        val_size=200,
    ),
    Experiment(
        "beyond/bulk-modulus",
        "log10 of the bulk modulus in GPa",
        data="mp-properties",
        target="log10_K_VRH_GPa",
        keep=("log10_K_VRH_GPa>0", "log10_K_VRH_GPa<3"),
        val_size=200,
    ),
    Experiment(
        "beyond/piezoelectric-maximum",
        "greatest piezoelectric constant",
        data="mp-properties",
        target="piezo_max_eij_C_per_m2",
        keep=("piezo_max_eij_C_per_m2>=0", "piezo_max_eij_C_per_m2<10"),
        val_size=200,
    ),
)
TABLES = ("1", "2", "3", "4", "beyond")
FIGURES = (1, *range(3, 13))
"""Figure 2 is of one calculation (``matgraft fields``); 1 and 3 to 7 need no experiment."""

_QUICK = {PUBLISHED: {"epochs": 12}, OURS: {"epochs": 4, "min_steps": 60}}
"""A few epochs: everything is run and drawn, nothing is learned."""


def chosen(tables: Sequence[str] = (), figures: Sequence[int] = ()) -> list[Experiment]:
    """Experiments behind some tables and figures; all of them if none is named."""
    for kind, names, known in (("table", tables, TABLES), ("figure", figures, FIGURES)):
        unknown = [str(name) for name in names if name not in known]
        if unknown:
            raise InputError(f"no {kind} {', '.join(unknown)}; there are {', '.join(map(str, known))}.")
    if not tables and not figures:
        return list(EXPERIMENTS)
    return [one for one in EXPERIMENTS if {*one.tables} & {*tables} or {*one.figures} & {*figures}]


def planned(experiment: Experiment, out: Path, preset: str = "full") -> Plan:
    """The benchmark of an experiment, read and checked.

    Parameters
    ----------
    experiment : Experiment
    out : Path
        Folder of the whole study.
    preset : {"full", "quick"}
        ``quick``: two seeds, a few epochs, the two greatest numbers of labels, beyond the study one.
    """
    data = Dataset.read(experiment.data, target=experiment.target, missing="drop")
    data = data[keep_where(data, experiment.keep)]
    changes: dict[str, object] = {} if experiment.l2 else {"l2": 0.0}
    sizes, seeds = experiment.sizes, 5
    if preset == "quick":
        changes |= _QUICK[experiment.recipe]
        sizes, seeds = sizes[-1 if experiment.tables == ("beyond",) else -2 :], 2
    return plan(
        data,
        experiment.target,
        out / experiment.name,
        sizes=sizes,
        val_size=experiment.val_size,
        schemes=experiment.schemes,
        seeds=seeds,
        group=experiment.group,
        source=experiment.source,
        preset="paper" if experiment.recipe == PUBLISHED else "default",
        changes=changes,
        arch=experiment.arch,
        portfolio=CHEAP if preset == "quick" else PORTFOLIO,
        costly=experiment.costly,
    )


def run(
    out: str | Path,
    *,
    tables: Sequence[str] = (),
    figures: Sequence[int] = (),
    preset: str = "full",
    workers: int | None = None,
) -> None:
    """Run what tables and figures need; repeated, go on with what is missing.

    Parameters
    ----------
    out : path
        Gets a folder for each experiment.
    tables : sequence of str
        ``1``, ``2``, ``3``, ``4``, ``beyond``; with ``figures`` empty too, all.
    figures : sequence of int
        Numbers of the study's figures.
    preset : {"full", "quick"}
    workers : int, optional
        Processes of one thread each; default one per core.

    Raises
    ------
    InputError
        No such table, data that are not on this machine, or a folder with results of another preset.
    """
    plans = [planned(one, Path(out), preset) for one in chosen(tables, figures)]
    ours = any(Path(out).glob("*/*/settings.json")) or (Path(out) / "report.html").is_file()
    if Path(out).exists() and not ours and (Path(out).is_file() or any(Path(out).iterdir())):
        raise InputError(f"{out}: exists and was not written by this command. Give another --out folder.")
    Path(out).mkdir(parents=True, exist_ok=True)
    run_benchmarks(plans, workers)
