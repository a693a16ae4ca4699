from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text
from pictures import boxes, is_picture, overlapping

from matgraft.models.schnet import SchNet
from matgraft.paper import drawings
from matgraft.paper.drawings import FIGURE_5, SLOPE, VALLEYS, minimise
from matgraft.training.schemes import SCHEMES, Rate, Scheme

FIGURES = ("self_consistency", "approach", "network", "descent", "schemes")


@pytest.mark.parametrize("name", FIGURES)
def test_texts_are_legible(tmp_path, drawn, name):
    path = getattr(drawings, name)(tmp_path / "deep" / f"{name}.png")
    assert path == tmp_path / "deep" / f"{name}.png"
    assert is_picture(path)
    (figure,) = drawn
    assert figure.get_figwidth() <= 7
    placed = boxes(figure)
    assert placed
    for text, place in placed:
        assert figure.bbox.containsx(place.x0), text
        assert figure.bbox.containsx(place.x1), text
        assert figure.bbox.containsy(place.y0), text
        assert figure.bbox.containsy(place.y1), text
    assert not overlapping(figure)
    assert min(text.get_fontsize() for text in figure.findobj(Text)) >= 8


@pytest.mark.parametrize("name", FIGURES)
def test_texts_stay_in_their_boxes(tmp_path, drawn, name):
    getattr(drawings, name)(tmp_path / "f.png")
    frames = [patch.get_window_extent() for patch in drawn[0].findobj(FancyBboxPatch)]
    for text, place in boxes(drawn[0]):
        around = [f for f in frames if f.contains(*place.get_points().mean(axis=0))]
        for frame in around:
            assert frame.x0 + 2 < place.x0 < place.x1 < frame.x1 - 2, text
            assert frame.y0 < place.y0 < place.y1 < frame.y1, text


@pytest.mark.parametrize("name", FIGURES)
def test_pages_without_axes_have_no_ticks(tmp_path, drawn, name):
    getattr(drawings, name)(tmp_path / "f.pdf")
    assert all(ax.axison == (name == "descent") for ax in drawn[0].axes)


def test_the_matrix_is_the_drawn_crystal(tmp_path, drawn):
    drawings.approach(tmp_path / "f.png")
    atoms = drawings.rutile()
    assert atoms.get_chemical_formula() == "O4Ti2"
    said = [text for text, _ in boxes(drawn[0])]
    for value, count in zip(
        *np.unique([f"{r:.2f}" for r in atoms.positions.ravel()], return_counts=True), strict=True
    ):
        assert said.count(value) == count
    assert (said.count("22"), said.count("8")) == (2, 4)
    assert all(said.count(str(k)) == 2 for k in (1, 2, 3, 4, 5, 6))


def test_the_network_is_drawn_from_its_layers():
    whole, inner, filters = drawings.stacks(FIGURE_5)
    assert whole == [
        *("Z", "embedding 64", *["interaction", "+"] * 3, "atom-wise 32", "shifted softplus", "atom-wise 1"),
        *("mean over atoms", "property"),
    ]
    assert inner[1:-1] == [
        *("atom-wise 64", "continuous-filter\nconvolution", "atom-wise 64"),
        *("shifted softplus", "atom-wise 64"),
    ]
    assert filters[1:6] == ["50 Gaussians", "dense 64", "shifted softplus", "dense 64", "cosine cutoff 5 Å"]


def test_another_network_is_another_picture(tmp_path, drawn, monkeypatch):
    arch = replace(
        FIGURE_5,
        interactions=4,
        features=30,
        filters=20,
        radial="published",
        pooling="sum",
        outputs=2,
        cutoff=6.5,
    )
    drawings.network(tmp_path / "f.png", arch)
    said = [text for text, _ in boxes(drawn[0])]
    assert said.count("interaction") == 4 + 1
    assert {"embedding 30", "atom-wise 20", "dense 20", "atom-wise 15", "atom-wise 2"} <= set(said)
    assert {"301 Gaussians", "cosine cutoff 6.5 Å", "sum over atoms"} <= set(said)

    class Deeper(SchNet):
        def __init__(self, arch):
            super().__init__(arch)
            self.output.append(torch.nn.Tanh())

    monkeypatch.setattr(drawings, "SchNet", Deeper)
    assert "Tanh" in drawings.stacks(FIGURE_5)[0]


def test_drawing_leaves_the_random_numbers_alone(tmp_path):
    before = torch.get_rng_state()
    drawings.network(tmp_path / "n.png")
    drawings.schemes(tmp_path / "s.png")
    assert torch.equal(torch.get_rng_state(), before)


def test_momentum_escapes_the_local_minimum(tmp_path, drawn):
    assert SLOPE(5) == pytest.approx(0)
    assert SLOPE.deriv()(5) > 0
    assert VALLEYS(10) == pytest.approx(0)
    assert VALLEYS(5) > 0.5
    drawings.descent(tmp_path / "f.png")
    plain, momentum = (ax.lines[1].get_xdata() for ax in drawn[0].axes)
    assert plain[0] == momentum[0]
    assert plain[-1] == pytest.approx(5, abs=1e-3)
    assert momentum[-1] == pytest.approx(10, abs=0.02)
    assert max(plain) < 5.01
    assert {"start", "end, x = 5.0", "end, x = 10.0", "x", "f(x)"} <= set(
        [text for text, _ in boxes(drawn[0])]
    )


def test_steps_follow_the_equations():
    np.testing.assert_allclose(minimise(lambda x: 2 * x, 1.0, 0.1, steps=3), [1, 0.8, 0.64, 0.512])
    # By hand: v = -0.2; then 0.5 (-0.2) - 0.1 (1.6) = -0.26.
    np.testing.assert_allclose(minimise(lambda x: 2 * x, 1.0, 0.1, 0.5, steps=2), [1, 0.8, 0.54])


def test_schemes_are_those_of_the_training(tmp_path, drawn, monkeypatch):
    parts = ("embedding", "interaction blocks", "output layers")
    moving = {"tl1": (True, True, True), "tl2": (False, True, True), "tl3": (False, False, True)}
    for name, moves in moving.items():
        said = ("fine-tuned" if m else "frozen" for m in moves)
        assert drawings.states(SCHEMES[name]) == dict(zip(parts, said, strict=True))
    partly = Scheme(name="tl4", rates=(Rate(parameters="interactions.0"),))
    assert drawings.states(partly) == dict(zip(parts, ("frozen", "partly frozen", "frozen"), strict=True))

    monkeypatch.setitem(SCHEMES, "tl4", partly)
    drawings.schemes(tmp_path / "f.png")
    said = [text for text, _ in boxes(drawn[0])]
    assert {"TL1", "TL2", "TL3", "TL4"} <= set(said)
    assert (said.count("fine-tuned"), said.count("frozen"), said.count("partly frozen")) == (6, 5, 1)
    hatched = [patch for patch in drawn[0].findobj(FancyBboxPatch) if patch.get_hatch()]
    assert len(hatched) == 6
