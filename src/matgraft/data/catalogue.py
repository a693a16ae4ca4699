"""Known data sets: what they are, whose they are, and where this machine keeps them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from matgraft.data.checks import list_ids
from matgraft.data.dataset import Dataset, Label
from matgraft.data.formats.common import read_text, typed
from matgraft.data.formats.extxyz import read_extxyz
from matgraft.data.formats.npz import read_npz
from matgraft.errors import InputError

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent / "shipped"
FOLDER_VARIABLE = "MATGRAFT_DATA"

_MP = "Materials Project, https://materialsproject.org"
_MP_CITATION = "Jain et al., APL Materials 1, 011002 (2013), doi:10.1063/1.4812323"
_MP_THEORY = "PBE/PBE+U (Materials Project)"


@dataclass(frozen=True)
class Entry:
    """One known data set.

    Attributes
    ----------
    name, description : str
    size : int
        Number of structures.
    file : str
        File name, the same wherever it is kept.
    sha256 : str
        Checksum of the file.
    licence, attribution, citation : str
    labels : mapping of str to Label
        What the labels mean.
    select : mapping of str to value
        Columns and the values that they must have: the data set is that part of the file.
    structures : str
        Name of the data set that owns the structures, for a file of labels only.
    """

    name: str
    description: str
    size: int
    file: str
    sha256: str
    licence: str
    attribution: str
    citation: str
    labels: Mapping[str, Label] = field(default_factory=dict)
    select: Mapping[str, str | bool] = field(default_factory=dict)
    structures: str = ""


def _labels(*specs: Label, level_of_theory: str, origin: str) -> dict[str, Label]:
    return {spec.name: replace(spec, level_of_theory=level_of_theory, origin=origin) for spec in specs}


def _per_atom(name: str) -> Label:
    return Label(name, "eV/atom", "atom")


_TMO = Entry(
    name="tmo-oxides",
    description="pure transition-metal oxides of Fe, Ti, V (517) and Cr, Mn (146) with total energies",
    size=663,
    file="tmo_target.npz",
    sha256="98f172cfe10a2db1dd54cca0c5cf4467b987b2aa59d28c846942dd072fd3ee6e",
    licence="CC-BY 4.0",
    attribution=_MP,
    citation=_MP_CITATION,
    labels=_labels(
        Label("energy", "eV", "cell"),
        _per_atom("e_form_per_atom"),
        Label("band_gap_pbe", "eV", "intensive"),
        level_of_theory=_MP_THEORY,
        origin=_MP,
    ),
)

ENTRIES = {
    entry.name: entry
    for entry in (
        _TMO,
        replace(
            _TMO,
            name="tmo-oxides-fetiv",
            description="the oxides of Fe, Ti and V among tmo-oxides",
            size=517,
            select={"group": "FeTiV"},
        ),
        replace(
            _TMO,
            name="tmo-oxides-clean",
            description="those of tmo-oxides whose geometry is that of the label",
            size=251,
            select={"clean": True},
        ),
        Entry(
            name="tmo-unlabelled",
            description="transition-metal oxides without a label: candidates for calculations and screening",
            size=1416,
            file="tmo_unlabelled.npz",
            sha256="7ef1f86efa42d46d4b388dee15998f67bbc7bfcf3d1eea8641ce019d957c75fd",
            licence="CC-BY 4.0",
            attribution=_MP,
            citation=_MP_CITATION,
        ),
        Entry(
            name="mp-source",
            description="crystals of 89 elements with formation energies, total energies and band gaps",
            size=60405,
            file="mp_source.npz",
            sha256="c141e87bf937d1b46813fbf9203e5dd6b913ce08727c548bb9838c99712e0582",
            licence="CC-BY 4.0",
            attribution=_MP,
            citation=_MP_CITATION,
            labels=_labels(
                _per_atom("e_form_per_atom"),
                _per_atom("e_form_mp2020"),
                _per_atom("e_form_crysxpp"),
                _per_atom("e_form_megnet2018"),
                _per_atom("e_total_per_atom_mp2020"),
                _per_atom("e_total_per_atom_mpf2021"),
                Label("band_gap_pbe", "eV", "intensive"),
                Label("e_fermi", "eV", "intensive"),
                level_of_theory=_MP_THEORY,
                origin=_MP,
            ),
        ),
        Entry(
            name="mp-unlabelled",
            description="further crystals without a label: a pool to screen",
            size=90163,
            file="mp_unlabelled.npz",
            sha256="93b14b75fb0e38e69d876a7b80e2a0a19e5ccdf9cfac3ea45b46974dd453ad73",
            licence="CC-BY 4.0",
            attribution=_MP,
            citation=_MP_CITATION,
        ),
        Entry(
            name="mp-properties",
            description="dielectric, elastic, piezoelectric constants of part of mp-source; filter outliers",
            size=10828,
            file="mp_properties.csv.gz",
            sha256="45df2025bdf15beabd5d070778a415388b62b09a23312a58d91d08132f141990",
            licence="CC-BY 4.0",
            attribution=_MP,
            citation=_MP_CITATION,
            labels=_labels(
                Label("refractive_index_n", "", "intensive"),
                Label("eps_electronic", "", "intensive"),
                Label("eps_total", "", "intensive"),
                Label("piezo_max_eij_C_per_m2", "C/m^2", "intensive"),
                Label("log10_K_VRH_GPa", "log10(GPa)", "intensive"),
                Label("log10_G_VRH_GPa", "log10(GPa)", "intensive"),
                Label("poisson", "", "intensive"),
                Label("elastic_anisotropy", "", "intensive"),
                level_of_theory=_MP_THEORY,
                origin=_MP,
            ),
            structures="mp-source",
        ),
        Entry(
            name="tio2-qe-pbe",
            description="TiO2 and reduced titanium oxides with Quantum ESPRESSO total energies",
            size=1000,
            file="tio2_qe_pbe.npz",
            sha256="086716dac5debab3ccef901ca75d1b964fba38364045ce4a75b4bef6bc968c68",
            licence="MIT",
            attribution="Artrith and Urban, as distributed with aenet-PyTorch",
            citation="Artrith & Urban, Comput. Mater. Sci. 114, 135 (2016)",
            labels=_labels(
                Label("energy", "eV", "cell"),
                level_of_theory="PBE, ultrasoft pseudopotentials (Quantum ESPRESSO)",
                origin="Artrith & Urban 2016",
            ),
        ),
        Entry(
            name="tmo-qe-pbe",
            description="small oxides of Ti, V, Cr, Mn, Fe with free energies by our own DFT",
            size=250,
            file="tmo_qe_pbe.extxyz",
            sha256="e01a52a7fc21742219c91df2d6d0ff0a6fa6e267033b28364dd076219588aa3b",
            licence="CC-BY 4.0",
            attribution=f"matgraft, with Quantum ESPRESSO and PseudoDojo; structures from and after {_MP}",
            citation="Giannozzi et al., J. Phys.: Condens. Matter 29, 465901 (2017); " + _MP_CITATION,
            labels=_labels(
                Label("free_energy", "eV", "cell"),
                Label("internal_energy", "eV", "cell"),
                level_of_theory="PBE (Quantum ESPRESSO, PseudoDojo; matgraft label --protocol fast)",
                origin="matgraft",
            ),
        ),
        Entry(
            name="jarvis-oxides",
            description="oxides with OptB88vdW energies and band gaps on Materials Project geometries",
            size=6391,
            file="jarvis_oxides_optb88.npz",
            sha256="5d21af183412fd5bb81cce9a13e561c106dea223aadae32e8466091694181246",
            licence="NIST terms of use (labels), CC-BY 4.0 (geometries)",
            attribution=f"JARVIS-DFT, NIST, https://jarvis.nist.gov; {_MP}",
            citation="Choudhary et al., npj Comput. Mater. 6, 173 (2020), doi:10.1038/s41524-020-00440-1",
            labels=_labels(
                _per_atom("e_form_per_atom"),
                _per_atom("e_total_per_atom"),
                Label("band_gap_optb88", "eV", "intensive"),
                level_of_theory="OptB88vdW",
                origin="JARVIS-DFT",
            ),
        ),
    )
}


def entry(name: str) -> Entry:
    """The entry of that name, or an error that offers the nearest ones."""
    if name not in ENTRIES:
        near = get_close_matches(name, ENTRIES, n=3) or sorted(ENTRIES)
        raise InputError(f"no known data set is called {name!r}. Did you mean {' or '.join(near)}?")
    return ENTRIES[name]


def labels_of(file: str) -> Mapping[str, Label]:
    """What the labels in a file of that name mean; empty if the file is not a known one."""
    return next((known.labels for known in ENTRIES.values() if known.file == file), {})


def folders() -> list[Path]:
    """Where data sets are looked for, in that order."""
    named = [Path(os.environ[FOLDER_VARIABLE])] if os.environ.get(FOLDER_VARIABLE) else []
    return [SHIPPED, *named, Path(), Path("../shared/data"), Path.home() / ".cache" / "matgraft"]


def shipped(name: str) -> Path:
    """The file of a data set that comes with the package."""
    path = SHIPPED / entry(name).file
    if not path.is_file():
        inside = ", ".join(sorted(n for n, known in ENTRIES.items() if (SHIPPED / known.file).is_file()))
        raise InputError(f"data set {name!r} does not come with the package. These do: {inside}.")
    return path


def locate(name: str) -> Path:
    """The file of a known data set on this machine, its checksum verified.

    Raises
    ------
    InputError
        If it is in none of the :func:`folders`, or is not the file it should be.
    """
    known = entry(name)
    path = next((folder / known.file for folder in folders() if (folder / known.file).is_file()), None)
    if path is None:
        raise InputError(
            f"data set {name!r} is not on this machine: no {known.file} in "
            f"{', '.join(str(folder) for folder in folders())}. Copy that file "
            f"(SHA-256 {known.sha256[:12]}..., derived from {known.attribution}; {known.citation}) into "
            f"~/.cache/matgraft, or name its folder in the environment variable {FOLDER_VARIABLE}."
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != known.sha256:
        raise InputError(
            f"{path}: its SHA-256 is {found[:12]}... where {name!r} has {known.sha256[:12]}...: the "
            "file is damaged or another version. Copy it again, or rename it to use it as data of your own."
        )
    return path


def load(name: str) -> Dataset:
    """Open a known data set by name."""
    known, path = entry(name), locate(name)
    ds = _read(path, known)
    for column, value in known.select.items():
        ds = ds[ds.columns[column] == value]
    return replace(ds, source=name)


def _read(path: Path, known: Entry) -> Dataset:
    if known.structures:
        return _join(path, known)
    return read_npz(path, known.labels) if path.suffix == ".npz" else read_extxyz(path)


def _join(path: Path, known: Entry) -> Dataset:
    """The structures that a file of labels speaks of, with those labels only."""
    header, *rows = (line.split(",") for line in read_text(path).splitlines() if line)
    base = load(known.structures)
    position = {name: i for i, name in enumerate(base.ids)}
    without = [row[0] for row in rows if row[0] not in position]
    if without:
        log.warning(
            "%s: %d of %d ids have no structure in %s and are left out: %s",
            path,
            len(without),
            len(rows),
            known.structures,
            list_ids(without),
        )
    rows = [row for row in rows if row[0] in position]
    ds = base[[position[row[0]] for row in rows]]
    labels = {name: typed([row[k] for row in rows]).astype(np.float64) for k, name in enumerate(header) if k}
    return replace(ds, labels=labels, specs={name: known.labels[name] for name in labels})
