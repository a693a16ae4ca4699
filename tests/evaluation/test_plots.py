import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from pictures import is_picture, overlapping, words

from matgraft.data import Label
from matgraft.errors import InputError
from matgraft.evaluation import plots, style
from matgraft.evaluation.plots import (
    contest_chart,
    convergence,
    error_distribution,
    interval_chart,
    learning_curves,
    parity,
    training_curve,
)
from matgraft.models.intervals import conformal_quantile


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize(("n", "methods"), [(5, 1), (117, 2), (400, 3), (3000, 4), (100_000, 1)])
def test_parity_from_few_to_many_points(tmp_path, drawn, rng, n, methods):
    target = rng.normal(-7, 1.2, n)
    predictions = {f"method {i}": target + rng.standard_t(3, n) * 0.1 for i in range(methods)}
    path = parity(tmp_path / "deep" / "parity.png", target, predictions, "eV/atom", "Oxides")
    assert path == tmp_path / "deep" / "parity.png"
    assert is_picture(path)
    mae = np.abs(predictions["method 0"] - target).mean()
    assert f"MAE {plots.number(mae)} eV/atom" in words(drawn[0])
    assert "reference (eV/atom), " in words(drawn[0])
    assert not overlapping(drawn[0])
    axes = drawn[0].axes
    assert len({ax.get_xlim() for ax in axes} | {ax.get_ylim() for ax in axes}) == 1
    boxes = [ax.get_window_extent() for ax in axes]
    assert all(box.width == pytest.approx(box.height, rel=1e-3) for box in boxes)


def test_parity_counts_what_is_outside_or_not_finite(tmp_path, drawn, rng):
    target = rng.normal(0, 1, 200)
    wild = target.copy()
    wild[:3] = 1e6
    wild[3] = np.nan
    parity(tmp_path / "p.png", target, {"graft": target, "direct": wild}, "eV")
    assert "3 beyond the frame\n1 not finite" in words(drawn[0])
    assert f"MAE {plots.number(np.nanmean(np.abs(wild - target)))} eV" in words(drawn[0])
    assert drawn[0].axes[0].get_xlim()[1] < 10


@pytest.mark.parametrize("value", [0.0, -80_000.0])
def test_parity_of_equal_values(tmp_path, value):
    target = np.full(6, value)
    assert is_picture(parity(tmp_path / "p.png", target, {"mean": target, "graft": target + 0.1}, ""))


def test_parity_refuses_what_it_cannot_show(tmp_path):
    target = np.arange(3.0)
    with pytest.raises(ValueError, match="1 to 4 methods, not 5"):
        parity(tmp_path / "p.png", target, dict.fromkeys("abcde", target), "eV")
    with pytest.raises(ValueError, match="a: 2 predictions for 3"):
        parity(tmp_path / "p.png", target, {"a": target[:2]}, "eV")
    with pytest.raises(ValueError, match="No finite reference"):
        parity(tmp_path / "p.png", target * np.nan, {"a": target}, "eV")
    assert not list(tmp_path.iterdir())


def test_error_distribution_says_the_share_within_the_threshold(tmp_path, drawn, rng):
    errors = {"direct": rng.normal(0, 0.4, 500), "graft": rng.normal(0.01, 0.05, 400)}
    path = error_distribution(tmp_path / "e.png", errors, "eV", 0.04336)
    assert is_picture(path)
    said = words(drawn[0])
    assert "chemical accuracy, 0.0434 eV" in said
    for e in errors.values():
        assert f"{100 * (np.abs(e) <= 0.04336).mean():.0f} %" in said
    assert not overlapping(drawn[0])


def test_cumulative_curve_is_the_empirical_distribution(tmp_path, drawn):
    errors = np.array([0.1, -0.2, 0.3, -0.4])
    error_distribution(tmp_path / "e.png", {"a": errors}, "eV", None)
    x, y = drawn[0].axes[1].lines[0].get_data()
    for size, share in zip((0.1, 0.2, 0.3, 0.4), (25, 50, 75, 100), strict=True):
        assert y[x <= size + 1e-12].max() == share


def test_one_wild_method_does_not_flatten_the_others(tmp_path, drawn, rng):
    errors = {"wild": rng.normal(0, 50, 300), "graft": rng.normal(0, 0.05, 300), "exact": np.zeros(300)}
    error_distribution(tmp_path / "e.png", errors, "eV", 0.04336, "target accuracy")
    assert drawn[0].axes[0].get_xlim()[1] < 1
    assert "beyond the frame" in words(drawn[0])
    assert "target accuracy" in words(drawn[0])


@pytest.mark.parametrize("errors", [[0.0], [0.0, 0.0], [1e-9, -1e5], [np.nan, 0.2]])
def test_error_distribution_of_awkward_errors(tmp_path, errors):
    assert is_picture(error_distribution(tmp_path / "e.png", {"a": np.array(errors)}, "eV", 0.04336))


def test_error_distribution_refuses_what_it_cannot_show(tmp_path):
    with pytest.raises(ValueError, match="No method"):
        error_distribution(tmp_path / "e.png", {}, "eV", None)
    with pytest.raises(ValueError, match="a: no finite error"):
        error_distribution(tmp_path / "e.png", {"a": np.array([np.nan])}, "eV", None)
    with pytest.raises(ValueError, match="must be positive"):
        error_distribution(tmp_path / "e.png", {"a": np.ones(2)}, "eV", 0.0)


def test_learning_curves_draw_mean_and_deviation(tmp_path, drawn, rng):
    sizes = [25, 50, 100, 200, 400]
    table = {
        name: {n: scale * n**-0.4 * (1 + rng.normal(0, 0.1, 5)) for n in sizes}
        for name, scale in {
            "ridge on composition": 1.7,
            "direct": 2.0,
            "graft (TL1)": 0.4,
            "TL2": 0.401,
        }.items()
    }
    path = learning_curves(tmp_path / "l.png", table, "eV/atom", "Oxides")
    assert is_picture(path)
    ax = drawn[0].axes[0]
    curve = next(line for line in ax.lines if len(line.get_xdata()) == len(sizes))
    np.testing.assert_allclose(curve.get_ydata(), [v.mean() for v in table["ridge on composition"].values()])
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert "mean absolute error (eV/atom)" in words(drawn[0])
    assert all(str(n) in words(drawn[0]) for n in sizes)
    assert not overlapping(drawn[0])


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([0.2, 0.4], 0.3 - 0.02**0.5, 0.3 + 0.02**0.5), ([0.01, 0.59], 0.01, 0.3 + 0.1682**0.5)],
)
def test_the_band_is_one_sample_deviation(tmp_path, drawn, values, low, high):
    learning_curves(tmp_path / "l.png", {"a": {10: values, 20: values}}, "eV")
    band = drawn[0].axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((low, high))


def test_learning_curves_of_unequal_lengths(tmp_path, drawn):
    table = {"a": {100: np.array([0.3, np.nan])}, "b": {25: [0.5], 100: [0.3]}, "c": {50: [0.1, 5.0]}}
    assert is_picture(learning_curves(tmp_path / "l.png", table, "eV"))
    assert "1 not finite" in words(drawn[0])
    assert not overlapping(drawn[0])


def test_learning_curves_refuse_what_has_no_logarithm(tmp_path):
    with pytest.raises(ValueError, match="a, 25 labels"):
        learning_curves(tmp_path / "l.png", {"a": {25: np.array([0.0])}}, "eV")
    with pytest.raises(ValueError, match="No finite error"):
        learning_curves(tmp_path / "l.png", {"a": {25: np.array([np.nan])}}, "eV")


@pytest.mark.parametrize("n", [13, 20, 400])
def test_coverage_in_the_chart_is_that_of_the_intervals(tmp_path, drawn, rng, n):
    scores, difficulty = np.sort(rng.exponential(size=n)), rng.uniform(0.5, 2.0, 300)
    errors = rng.exponential(size=300) * difficulty
    width = difficulty * conformal_quantile(scores, 0.9)
    assert is_picture(interval_chart(tmp_path / "i.png", errors, width, scores, "eV"))
    promised, reached = drawn[0].axes[0].lines[1].get_data()
    for level in (0.25, 0.5, 0.8):
        held = (errors <= difficulty * conformal_quantile(scores, level)).mean()
        assert reached[np.argmin(np.abs(promised - 100 * level))] == pytest.approx(100 * held)


def test_interval_chart_of_no_error_at_all(tmp_path):
    none = np.zeros(20)
    assert is_picture(interval_chart(tmp_path / "i.png", none, none, none, "eV"))


def test_contest_chart_has_room_for_the_others_beside_one_that_diverged(tmp_path, drawn):
    candidates = [
        {"words": f"way {k}", "source": None, "error_per_atom": error, "weight": k == 0, "folds": 5}
        for k, error in enumerate([0.1, 0.2, 1e12])
    ]
    story = {"error_per_atom": 0.1, "candidates": candidates}
    assert is_picture(contest_chart(tmp_path / "c.png", story, Label("energy")))
    assert drawn[0].axes[0].get_xlim()[1] < 2000
    assert not overlapping(drawn[0])


def history(epochs: int) -> list[dict]:
    return [
        {
            "epoch": i,
            "train_loss": 0.4 * 0.9**i + 0.01,
            "validation_mae": 0.3 * 0.9**i + 0.05,
            "rate": 1e-3 * 0.95**i,
        }
        for i in range(epochs)
    ]


@pytest.mark.parametrize("epochs", [1, 2, 60, 3000])
def test_training_curve(tmp_path, drawn, epochs):
    assert is_picture(training_curve(tmp_path / "t.png", history(epochs), "eV/atom"))
    assert len(drawn[0].axes) == 2
    assert drawn[0].axes[0].get_yscale() == "log"
    assert "lowest validation MAE" in words(drawn[0])
    assert not overlapping(drawn[0])


def test_training_curve_without_validation_or_rate(tmp_path, drawn):
    rows = [{"epoch": i, "train_loss": 0.5**i} for i in range(5)]
    assert is_picture(training_curve(tmp_path / "t.png", rows))
    assert len(drawn[0].axes) == 1
    assert "MAE" not in words(drawn[0])


def test_training_curve_read_back_from_csv(tmp_path, drawn):
    rows = [{key: str(value) for key, value in row.items()} for row in history(30)]
    rows[3]["train_loss"] = "nan"
    rows[4]["validation_mae"] = ""
    assert is_picture(training_curve(tmp_path / "t.png", rows))
    assert "loss not finite in 1 epoch" in words(drawn[0])
    assert not overlapping(drawn[0])


def test_training_curve_of_a_run_that_failed(tmp_path):
    rows = [{"epoch": 0, "train_loss": np.inf, "validation_mae": np.nan, "rate": 0.0}]
    assert is_picture(training_curve(tmp_path / "t.png", rows))
    with pytest.raises(ValueError, match="history is empty"):
        training_curve(tmp_path / "t.png", [])


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_ending_chooses_the_format(tmp_path, ending):
    path = training_curve(str(tmp_path / f"t.{ending}"), history(5))
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert path.read_bytes().startswith(start)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot draw \.jpg"):
        training_curve(tmp_path / "t.jpg", history(5))


def test_a_failed_drawing_leaves_the_old_file(tmp_path, monkeypatch):
    path = training_curve(tmp_path / "t.png", history(5))
    before = path.read_bytes()

    def fails(self, name, **_):
        name.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fails)
    with pytest.raises(OSError, match="disk full"):
        training_curve(path, history(9))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t.png"]


def test_drawing_is_repeatable_and_ignores_the_users_style(tmp_path):
    first = training_curve(tmp_path / "a.png", history(20)).read_bytes()
    with matplotlib.rc_context({"font.size": 25, "axes.facecolor": "black"}):
        assert training_curve(tmp_path / "b.png", history(20)).read_bytes() == first
        assert matplotlib.rcParams["font.size"] == 25


def test_names_are_no_formulas(tmp_path, drawn):
    error_distribution(
        tmp_path / "e.png", {"cost $1 and $2_x": np.ones(3), "_hidden": np.ones(3)}, "eV", None
    )
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels == ["cost $1 and $2_x", "_hidden"]


def test_no_pyplot():
    code = "import sys, matgraft.evaluation.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("low", [3e-7, 0.0101, 0.11, 1.0, 37.0])
@pytest.mark.parametrize("ratio", [1.05, 1.4, 3.0, 12.0, 400.0, 1e9])
def test_log_axes_have_a_few_ticks(low, ratio):
    ticks = style.log_ticks(low, low * ratio)
    assert 2 <= len(ticks) <= 8
    assert ticks.min() >= low
    assert ticks.max() <= low * ratio
    labels = [style.plain(t) for t in ticks]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.001, "0.001"), (0.05, "0.05"), (1.0, "1"), (1500.0, "1500"), (2e4, "20,000"), (1e-6, "10⁻⁶")],
)
def test_tick_labels(value, shown):
    assert style.plain(value) == shown


def loops(rng, *lengths):
    """Loops that gain about a digit every two iterations."""
    found = {}
    for k, length in enumerate(lengths):
        accuracy = 10.0 ** (1 - 0.5 * np.arange(length)) * rng.lognormal(0, 0.3, length)
        found[f"mp-{k} (Fe2O3)"] = list(zip(-900 * k + 0.3 * accuracy, accuracy, strict=True))
    return found


@pytest.mark.parametrize("lengths", [(9,), (14, 9), (14, 9, 22, 17, 11, 15), (1,), (2, 1)])
def test_convergence_of_one_and_of_many_loops(tmp_path, drawn, rng, lengths):
    traces = loops(rng, *lengths)
    assert is_picture(convergence(tmp_path / "trace.png", traces))
    said = words(drawn[0])
    assert all(name in said for name in traces)
    assert {"estimated error (eV)", "distance to last energy (eV)", "iteration"} <= set(said.split("\n"))
    assert not overlapping(drawn[0])
    assert drawn[0].get_figwidth() < 5


def test_convergence_leaves_out_what_has_no_logarithm(tmp_path, drawn):
    """Iterations keep their numbers; the last energy has no distance to itself."""
    trace = [(-9.0, 4.0), (-10.5, 0.0), (-10.5, np.nan), (-10.25, 1e-3), (-10.5, 1e-6)]
    convergence(tmp_path / "trace.png", {"a": trace, "never began": []})
    above, below = (ax.get_lines() for ax in drawn[0].axes)
    assert [len(above), len(below)] == [1, 1]
    np.testing.assert_allclose(above[0].get_xydata(), [[1, 4], [4, 1e-3], [5, 1e-6]])
    np.testing.assert_allclose(below[0].get_xydata(), [[1, 1.5], [4, 0.25]])
    with pytest.raises(ValueError, match="No iteration"):
        convergence(tmp_path / "none.png", {"a": []})
    assert not (tmp_path / "none.png").exists()


def test_long_names_do_not_collide(tmp_path, drawn, rng):
    names = [f"fine-tuned from a much larger source, scheme TL{i}, averaged" for i in range(4)]
    target = rng.normal(0, 1, 50)
    values = {name: target + rng.normal(0, 0.1, 50) for name in names}
    title = "A title that goes on and on, far longer than the figure is wide, so that it has to be broken"
    parity(tmp_path / "p.png", target, values, "eV", title)
    error_distribution(tmp_path / "e.png", {k: v - target for k, v in values.items()}, "eV", 0.04336)
    learning_curves(tmp_path / "l.png", {k: {10: [0.2], 90: [0.1]} for k in names}, "eV", title)
    convergence(tmp_path / "c.png", {name: [(0, 1), (1, 0.1), (1.1, 0.01)] for name in names})
    assert [overlapping(figure) for figure in drawn] == [[], [], [], []]


def test_overlaps_are_seen(tmp_path, drawn):
    training_curve(tmp_path / "t.png", history(5))
    drawn[0].axes[0].text(1.0, 0.1, "here")
    drawn[0].axes[0].text(1.0, 0.1, "there")
    assert overlapping(drawn[0]) == [("here", "there")]


def test_labels_move_apart_as_little_as_possible():
    np.testing.assert_allclose(style.apart(np.array([0.5, 0.1, 0.9]), 0.1), [0.5, 0.1, 0.9])
    np.testing.assert_allclose(style.apart(np.array([0.5, 0.5]), 0.1), [0.45, 0.55])
    placed = style.apart(np.array([0.3, 0.31, 0.29, 0.8]), 0.1)
    np.testing.assert_allclose(np.diff(np.sort(placed))[:2], 0.1)
    np.testing.assert_allclose(placed[:3].mean(), 0.3)
