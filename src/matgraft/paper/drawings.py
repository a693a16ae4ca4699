"""The study's figures that explain, Figs. 1 and 4 to 7, drawn from the code and from numbers, not by hand.

Every figure takes a path, writes the file and returns the path; the ending chooses the format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise, product
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.spacegroup import crystal
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Route
from numpy.polynomial import Polynomial
from torch import nn

from matgraft.evaluation.style import COLOURS, FAINT, INK, MARKERS, SMALL, dark, even_ticks, figure, mixed
from matgraft.models.radial import GaussianBasis
from matgraft.models.schnet import Architecture, FilterNetwork, Interaction, SchNet, ShiftedSoftplus
from matgraft.training.schemes import SCHEMES, Scheme

FIGURE_5 = Architecture(interactions=3, features=64, filters=64)
"""The network of Fig. 5."""

SLOPE = 0.1 * Polynomial.fromroots([5, 7, 10])
VALLEYS = SLOPE.integ(lbnd=10)
"""The function of Fig. 6: a local minimum at 5, a hill at 7, the lowest point at 10."""

BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, GREY = COLOURS
Point = tuple[float, float]
_ELEMENTS = {"Ti": SKY, "O": ORANGE}
_CONVOLUTION = "continuous-filter\nconvolution"
_KINDS = {"embedding": GREEN, "interaction": BLUE, _CONVOLUTION: PINK, "atom-wise": YELLOW, "dense": YELLOW}
_SIGNS = {"+", "⊙"}
_STEP = 0.46


def self_consistency(path: str | Path) -> Path:
    """The loop that solves the Kohn-Sham equations, eqs. (6) to (14), Fig. 1."""
    left, middle, right = 1.12, 3.5, 5.88
    top, centre, bottom = 2.5, 1.5, 0.5
    steps: dict[str, tuple[Point, str, str]] = {
        "guess": ((left, top), "guess of the density\n$n(r)$ from free atoms", GREEN),
        "potential": ((middle, top), r"$V_\mathrm{eff} = V_\mathrm{ext} + V_\mathrm{Hartree}[n]$" + "\n"
                      + r"$+\, V_\mathrm{xc}[n]$", PINK),
        "equations": ((right, top), "Kohn-Sham equations\n"
                      + r"$H_\mathrm{eff}\,\psi_i = \epsilon_i\,\psi_i$", BLUE),
        "occupations": ((right, centre), "occupations $f_i$ by\nsmearing at the Fermi level", BLUE),
        "density": ((right, bottom), "new density\n" + r"$n'(r) = \Sigma_i\, f_i\, |\psi_i(r)|^2$", GREEN),
        "converged": ((middle, bottom), "converged?\nestimated error < tolerance", YELLOW),
        "mixing": ((middle, centre), "mixing of densities\n" + r"$n \leftarrow n + \beta\,(n' - n)$", GREEN),
        "energy": ((left, bottom), "energy $E[n]$ and\nfree energy $F = E - TS$", ORANGE),
    }  # fmt: skip
    width, height = 1.94, 0.5
    with _canvas(path, 7.0, 3.0) as ax:
        for place, text, colour in steps.values():
            _box(ax, place, text, colour, width, height)
        loop = ("potential", "equations", "occupations", "density", "converged", "mixing", "potential")
        for a, b in (("guess", "potential"), *pairwise(loop), ("converged", "energy")):
            start, end = np.array(steps[a][0]), np.array(steps[b][0])
            reach = np.sign(end - start) * (width / 2, height / 2)
            _arrow(ax, tuple(start + reach), tuple(end - reach))
        ax.text(middle + 0.08, (bottom + centre) / 2, "no", va="center")
        ax.text((left + middle) / 2, bottom + 0.12, "yes", ha="center", va="center")
    return Path(path)


def approach(path: str | Path) -> Path:
    """From the atoms of a crystal through a network to a property, Fig. 4."""
    atoms = rutile()
    with _canvas(path, 7.0, 2.6) as ax:
        _crystal(ax, atoms, (0.56, 0.5))
        _matrix(ax, atoms, (2.5, 1.92))
        _neurons(ax, (5.15, 1.22))
        _box(ax, (6.48, 1.22), "property,\nfor example\nfree energy", GREEN, 0.9, 0.66)
        for left, right in ((2.08, 2.32), (4.36, 4.6), (5.66, 5.98)):
            _arrow(ax, (left, 1.22), (right, 1.22))
        for x, heading in ((1.1, "crystal"), (3.45, "Z and R"), (5.15, "network"), (6.48, "prediction")):
            ax.text(x, 2.42, heading, ha="center", va="center", fontweight="bold")
    return Path(path)


def network(path: str | Path, arch: Architecture = FIGURE_5) -> Path:
    """SchNet, its interaction block and its continuous-filter convolution, Fig. 5.

    The boxes are the layers of the network that is built from ``arch``.
    """
    whole, inner, filters = stacks(arch)
    height = _STEP * max(len(whole), len(filters) + 1) + 0.1
    with _canvas(path, 7.0, height) as ax:
        top = height - 0.05 - _STEP / 2
        left = _column(ax, 1.1, top, whole)
        middle = _column(ax, 3.32, top - 0.8 * _STEP, inner)
        right = _column(ax, 5.9, top - 0.8 * _STEP, filters)
        blocks = [y for y, text in zip(left, whole, strict=True) if text == "interaction"]
        for y in blocks:
            _skip(ax, 1.1, y)
        ax.text(1.98, top, "R", ha="center", va="center")
        for y in blocks:
            _arrow(ax, (1.98, top - 0.12), (1.98, y), (1.8, y))
        entry = right[filters.index("⊙")]
        ax.text(4.78, right[0], "xⱼ", ha="center", va="center")
        _arrow(ax, (4.78, right[0] - 0.12), (4.78, entry), (5.8, entry))
        _zoom(ax, (1.8, blocks[0]), (2.42, 4.22), middle, "interaction")
        convolution = middle[inner.index(_CONVOLUTION)]
        _zoom(ax, (4.02, convolution), (4.45, 6.95), right, "continuous-filter convolution")
    return Path(path)


def stacks(arch: Architecture) -> tuple[list[str], list[str], list[str]]:
    """The columns of Fig. 5 from top to bottom: network, interaction block, convolution."""
    # Shapes are enough, and drawing weights would disturb the random numbers of the caller.
    with torch.device("meta"):
        schnet = SchNet(arch)
    whole = ["Z"]
    for layer in _layers(schnet):
        if layer is not schnet.basis:
            whole += [_label(layer), "+"] if isinstance(layer, Interaction) else [_label(layer)]
    block = next(layer for layer in _layers(schnet) if isinstance(layer, Interaction))
    dense = [_label(layer).replace("atom-wise", "dense") for layer in _layers(block.filter)]
    whole += [f"{arch.pooling} over atoms", "property"]
    inner = ["xᵢ", *map(_label, _layers(block)), "vᵢ"]
    filters = ["distance dᵢⱼ", _label(schnet.basis), *dense, f"cosine cutoff {arch.cutoff:g} Å"]
    return whole, inner, [*filters, "⊙", "sum over j", "new xᵢ"]


def descent(path: str | Path) -> Path:
    """Gradient descent that stops in a local minimum, and momentum that escapes it, Fig. 6."""
    with figure(path, 7.0, 3.0) as fig:
        axes = fig.subplots(1, 2, sharex=True, sharey=True)
        for i, (ax, title, momentum) in enumerate(
            zip(axes, ("gradient descent", "with momentum"), (0.0, 0.8), strict=True)
        ):
            steps = minimise(SLOPE, start=3.0, rate=0.15, momentum=momentum)
            _walk(ax, steps, COLOURS[i], MARKERS[i])
            ax.set_title(title)
            ax.set_xlabel("x")
            ax.xaxis.set_major_locator(even_ticks(6))
        axes[0].set_ylabel("f(x)")
    return Path(path)


def minimise(
    slope: Callable[[float], float], start: float, rate: float, momentum: float = 0.0, steps: int = 60
) -> np.ndarray:
    """Points that eqs. (23) and (24) visit from rest; without momentum they are those of eq. (22).

    Parameters
    ----------
    slope : callable
        Derivative of the function.
    start, rate, momentum : float
        First point, ``alpha`` and ``eta``.
    steps : int

    Returns
    -------
    ndarray, shape (steps + 1,)
    """
    points, velocity = [start], 0.0
    for _ in range(steps):
        velocity = momentum * velocity - rate * slope(points[-1])
        points.append(points[-1] + velocity)
    return np.array(points)


def schemes(path: str | Path) -> Path:
    """Which parts of the network each transfer scheme moves, Fig. 7; those that move from the start."""
    transfers = [
        scheme
        for scheme in SCHEMES.values()
        if scheme.start == "source" and not any(rate.from_epoch for rate in scheme.rates)
    ]
    height = 0.62 * len(transfers) + 0.55
    with _canvas(path, 7.0, height) as ax:
        for row, scheme in enumerate(transfers):
            y = height - 0.8 - 0.62 * row
            ax.text(0.2, y, scheme.name.upper(), va="center", fontweight="bold")
            for column, (part, state) in enumerate(states(scheme).items()):
                x = 1.7 + 2.15 * column
                _part(ax, (x, y), state)
                if column:
                    _arrow(ax, (x - 1.3, y), (x - 0.85, y))
                if not row:
                    ax.text(x, height - 0.25, part, ha="center", va="center", fontweight="bold")
    return Path(path)


def states(scheme: Scheme) -> dict[str, str]:
    """``fine-tuned`` or ``frozen`` for the embedding, the interaction blocks and the output layers."""
    with torch.device("meta"):
        names = [name for name, _ in SchNet(FIGURE_5).named_parameters()]
    words = {"embedding": "embedding", "interactions": "interaction blocks", "output": "output layers"}
    found = {}
    for part, said in words.items():
        moving = {scheme.rate(name).factor > 0 for name in names if name.split(".")[0] == part}
        found[said] = "partly frozen" if len(moving) > 1 else "fine-tuned" if moving.pop() else "frozen"
    return found


def rutile() -> Atoms:
    """TiO2 with six atoms per cell, the crystal of Fig. 4."""
    return crystal(
        ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90]
    )


@contextmanager
def _canvas(path: str | Path, width: float, height: float) -> Iterator[Axes]:
    """A page without axes, measured in inches."""
    with figure(path, width, height) as fig:
        fig.set_layout_engine("none")
        ax = fig.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        ax.set(xlim=(0, width), ylim=(0, height))
        yield ax


def _box(
    ax: Axes, centre: Point, text: str, colour: str, width: float = 1.4, height: float = 0.3
) -> FancyBboxPatch:
    x, y = centre
    box = FancyBboxPatch(
        (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.05",
        facecolor=mixed(colour, "white", 0.8), edgecolor=dark(colour), linewidth=1.0, zorder=2,
    )  # fmt: skip
    ax.add_patch(box)
    ax.text(x, y, text, ha="center", va="center", fontsize=SMALL, linespacing=1.1, zorder=4, parse_math=True)
    return box


def _arrow(ax: Axes, *corners: Point) -> None:
    arrow = FancyArrowPatch(
        path=Route(corners), arrowstyle="-|>,head_length=3.5,head_width=1.8", color=INK, linewidth=0.9,
        joinstyle="miter", zorder=1.5,
    )  # fmt: skip
    ax.add_patch(arrow)


def _crystal(ax: Axes, atoms: Atoms, corner: Point) -> None:
    """The cell in oblique projection, with the images that close its faces in a paler shade."""
    oblique = 0.3 * np.array([[1, 0], [0, 1], [-0.34, 0.14]])
    corners = np.array(list(product((0, 1), repeat=3)))
    lattice = np.asarray(atoms.cell)
    for a, b in product(corners, repeat=2):
        if (b - a).sum() == np.abs(b - a).sum() == 1:
            ax.plot(*(np.array([a, b]) @ lattice @ oblique + corner).T, color=FAINT, linewidth=0.8, zorder=1)
    # The unshifted atoms come first, so their places in the list are those in the matrix.
    every = (atoms.get_scaled_positions() + corners[:, None]).reshape(-1, 3)
    shown = np.flatnonzero((every < 1 + 1e-6).all(axis=1))
    places = every[shown] @ lattice
    flat = places @ oblique + corner
    lengths = np.linalg.norm(places[:, None] - places, axis=2)
    for i, j in np.argwhere((lengths > 0.1) & (lengths < 2.1)):
        ax.plot(*flat[[i, j]].T, color=INK, linewidth=1.1, zorder=1.2)
    for k, (x, y), depth in zip(shown, flat, places[:, 2], strict=True):
        number = str(k + 1) if k < len(atoms) else ""
        _atom(ax, (x, y), atoms.symbols[k % len(atoms)], number, 3 - depth / 10, pale=not number)
    for x, symbol in ((0.95, "Ti"), (1.5, "O")):
        _atom(ax, (x, 0.17), symbol)
        ax.text(x + 0.15, 0.17, symbol, va="center", fontsize=SMALL)


def _atom(
    ax: Axes, place: Point, symbol: str, number: str = "", zorder: float = 3, pale: bool = False
) -> None:
    colour = _ELEMENTS[symbol]
    face = mixed(colour, "white", 0.85 if pale else 0.35)
    ax.add_patch(Circle(place, 0.1, facecolor=face, edgecolor=dark(colour), zorder=zorder))
    ax.text(*place, number, ha="center", va="center_baseline", fontsize=SMALL, zorder=zorder)


def _matrix(ax: Axes, atoms: Atoms, corner: Point) -> None:
    """One line per atom: its atomic number and its Cartesian coordinates."""
    x, top = corner
    columns, step = x + np.array([0.42, 0.86, 1.28, 1.7]), 0.24
    for column, heading in ((x + 0.34, "Z"), (x + 1.12, "R (Å)")):
        ax.text(column, top + 0.15, heading, ha="center", va="center", fontsize=SMALL)
    for row, (atom, place) in enumerate(zip(atoms, atoms.positions, strict=True)):
        y = top - step * (row + 0.5)
        _atom(ax, (x, y), atom.symbol, str(row + 1))
        for column, value in zip(columns, (f"{atom.number}", *(f"{v:.2f}" for v in place)), strict=True):
            ax.text(column, y, value, ha="right", va="center", fontsize=SMALL)
    bottom = top - step * len(atoms)
    for edge, inwards in ((x + 0.17, 0.06), (x + 1.8, -0.06)):
        ax.plot(edge + np.array([inwards, 0, 0, inwards]), [top, top, bottom, bottom], color=INK, linewidth=1)


def _neurons(ax: Axes, centre: Point) -> None:
    """The emblem of a network: layers of units, each joined to all of the next."""
    x, y = centre
    _box(ax, centre, "", BLUE, 1.06, 1.44)
    layers = [
        [(x + across, y + 0.3 * (k - (units - 1) / 2)) for k in range(units)]
        for across, units in zip((-0.36, -0.12, 0.12, 0.36), (3, 4, 4, 1), strict=True)
    ]
    for before, after in pairwise(layers):
        for a, b in product(before, after):
            ax.plot(*zip(a, b, strict=True), color=mixed(BLUE, "white", 0.3), linewidth=0.6, zorder=2.5)
    for unit in chain(*layers):
        ax.add_patch(Circle(unit, 0.06, facecolor="white", edgecolor=dark(BLUE), zorder=3))


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The parts of a module in order, containers opened."""
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _layers(child)
        else:
            yield child


def _label(layer: nn.Module) -> str:
    match layer:
        case nn.Embedding():
            return f"embedding {layer.embedding_dim}"
        case nn.Linear():
            return f"atom-wise {layer.out_features}"
        case GaussianBasis():
            return f"{len(layer)} Gaussians"
        case ShiftedSoftplus():
            return "shifted softplus"
        case Interaction():
            return "interaction"
        case FilterNetwork():
            return _CONVOLUTION
    return type(layer).__name__


def _column(ax: Axes, x: float, top: float, texts: Sequence[str]) -> list[float]:
    """Layers below each other, between what enters and what leaves, joined by arrows; their heights."""
    heights = [top - _STEP * k for k in range(len(texts))]
    reach = [_layer(ax, (x, y), text) for y, text in zip(heights[1:-1], texts[1:-1], strict=True)]
    for y, text in ((heights[0], texts[0]), (heights[-1], texts[-1])):
        ax.text(x, y, text, ha="center", va="center")
    reach = [0.11, *reach, 0.11]
    for (upper, above), (lower, below) in pairwise(zip(heights, reach, strict=True)):
        _arrow(ax, (x, upper - above), (x, lower + below))
    return heights


def _layer(ax: Axes, place: Point, text: str) -> float:
    """A box, or a sign in a circle; how far it reaches above and below its centre."""
    if text in _SIGNS:
        ax.add_patch(Circle(place, 0.1, facecolor="white", edgecolor=INK, zorder=2))
        ax.text(*place, text, ha="center", va="center_baseline", zorder=3)
        return 0.1
    height = 0.36 if "\n" in text else 0.28
    kind = next((colour for name, colour in _KINDS.items() if text.startswith(name)), GREY)
    _box(ax, place, text, kind, height=height)
    return height / 2


def _skip(ax: Axes, x: float, y: float) -> None:
    """The residual connection of eq. (18), around the block at ``y`` into the sum below it."""
    above, below = y + _STEP / 2, y - _STEP
    _arrow(ax, (x, above), (x - 0.88, above), (x - 0.88, below), (x - 0.1, below))


def _zoom(ax: Axes, source: Point, sides: Point, rows: Sequence[float], heading: str) -> None:
    """A frame around the column that shows what is in the box that ends at ``source``."""
    left, right = sides
    top, bottom = rows[0] + 1.3 * _STEP, rows[-1] - _STEP / 2
    middle = (left + right) / 2
    frame = _box(ax, (middle, (top + bottom) / 2), "", FAINT, right - left, top - bottom)
    frame.set(facecolor="none", edgecolor=FAINT)
    ax.text(middle, rows[0] + 0.8 * _STEP, heading, ha="center", va="center", fontweight="bold")
    x, y = source
    for start, end in ((y + 0.12, top - 0.05), (y - 0.12, bottom + 0.05)):
        ax.plot([x, left], [start, end], color=FAINT, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)


def _walk(ax: Axes, steps: np.ndarray, colour: str, marker: str) -> None:
    x = np.linspace(2.8, 11.2, 300)
    ax.plot(x, VALLEYS(x), color=FAINT, linewidth=1.4, zorder=1.5)
    ax.plot(
        steps, VALLEYS(steps), color=colour, marker=marker, linewidth=0.8, markersize=6,
        markeredgecolor="white", markeredgewidth=0.7, zorder=3,
    )  # fmt: skip
    ends = (
        (0, "start", (10, 0), "left", "center"),
        (-1, f"end, x = {steps[-1]:.1f}", (0, -10), "center", "top"),
    )
    for k, name, shift, ha, va in ends:
        end = (steps[k], VALLEYS(steps[k]))
        ax.plot(*end, "o", markersize=12, fillstyle="none", color=INK, zorder=3)
        ax.annotate(name, end, shift, textcoords="offset points", ha=ha, va=va, color=dark(colour))
    ax.margins(y=0.15)


def _part(ax: Axes, place: Point, state: str) -> None:
    """A part of the network; hatched where it is frozen, so that no reader depends on colour."""
    moves = state == "fine-tuned"
    box = _box(ax, place, state, ORANGE if moves else GREY, 1.7, 0.42)
    if not moves:
        box.set(hatch="////", linestyle="--")
        ax.texts[-1].set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 2})
