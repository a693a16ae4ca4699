"""The learning-curve protocol and its resumption."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from matgraft.data import Dataset
from matgraft.errors import InputError
from matgraft.evaluation.protocol import learning_curve_subsets
from matgraft.jobs import benchmark as benchmark_job
from matgraft.jobs.benchmark import benchmark, plan, run, summarise, tabulate
from matgraft.jobs.folder import write_json
from matgraft.models.files import load_model
from matgraft.training import portfolio
from matgraft.training.portfolio import PORTFOLIO
from matgraft.training.recipe import PRESETS


def test_subsets_are_the_published_ones(crystals):
    subsets = learning_curve_subsets(crystals, [10, 20, 40], 5, 2)
    assert [subset.size for subset in subsets[:7]] == [10] * 4 + [20] * 2 + [40]
    for seed in (0, 1):
        mine = [subset for subset in subsets if subset.seed == seed]
        largest = set(mine[-1].train)
        for size in (10, 20):
            parts = [set(subset.train) for subset in mine if subset.size == size]
            assert set().union(*parts) == largest
            assert sum(map(len, parts)) == 40
        for subset in mine:
            assert not set(subset.train) & set(subset.validation)
            np.testing.assert_array_equal(subset.validation, mine[0].validation)


def test_groups_stay_on_one_side(crystals):
    formulas = crystals.formulas
    for subset in learning_curve_subsets(crystals, [10, 20], 15, 2, "formula"):
        assert not set(formulas[subset.train]) & set(formulas[subset.validation])


def test_too_few_structures(crystals):
    with pytest.raises(InputError, match="50"):
        learning_curve_subsets(crystals, [50], 15, 1)


def test_parts_are_averaged_within_a_seed():
    results = [
        {"seed": seed, "size": 10, "part": part, "scores": {"tl1": {"mae_ev": value}}}
        for seed, part, value in [(0, 0, 1.0), (0, 1, 3.0), (1, 0, 5.0), (1, 1, 7.0)]
    ]
    assert summarise(results) == {"tl1": {"10": {"mae_ev": [2.0, 6.0]}}}


OPTIONS = {"sizes": [20, 40], "val_size": 12, "schemes": ["direct", "tl3/labels"], "seeds": 1}


@pytest.mark.slow
def test_runs_and_resumes(salts, source, tmp_path):
    out = tmp_path / "out"
    report = benchmark(salts, "energy", out, workers=1, source=source, **OPTIONS)
    assert set(report["summary"]) >= {"direct", "tl3/labels", "references_alone", "composition_forest"}
    assert len(report["results"]) == 9
    assert sorted(path.name for path in out.iterdir()) == [
        "benchmark.json", "benchmark.md", "benchmark.png", "settings.json",
    ]  # fmt: skip
    # As an interrupted run leaves it: single fits, no report.
    (out / "fits").mkdir()
    for result in report["results"][:5]:
        name = f"seed{result['seed']}-n{result['size']}-part{result['part']}-{result['method']}.json"
        write_json(out / "fits" / name.replace("/", "+"), result)
    (out / "benchmark.json").unlink()
    again = benchmark(salts, "energy", out, workers=1, source=source, **OPTIONS)
    assert json.dumps(again["summary"]) == json.dumps(report["summary"])
    pairs = zip(report["results"], again["results"], strict=True)
    assert [old["seconds"] == new["seconds"] for old, new in pairs] == [True] * 5 + [False] * 4
    # Finished, it is not run again, and says what it was run with; another scheme runs alone.
    again["versions"]["torch"] = "0.0"
    write_json(out / "benchmark.json", again)
    still = benchmark(salts, "energy", out, workers=1, source=source, **OPTIONS)
    assert json.dumps(still) == json.dumps(again)
    more = OPTIONS | {"schemes": ["direct", "tl3/labels", "tl2/labels"]}
    longer = benchmark(salts, "energy", out, workers=1, source=source, **more)
    kept = {(r["size"], r["part"], r["method"]): r["seconds"] for r in longer["results"]}
    assert all(kept[r["size"], r["part"], r["method"]] == r["seconds"] for r in again["results"])
    assert len(kept) == 12
    assert longer["versions"]["torch"] != "0.0"


@pytest.mark.slow
def test_errors_and_truth_make_the_scores(salts, source, tmp_path):
    one = plan(salts, "energy", tmp_path / "one", source=source, **OPTIONS | {"schemes": ["tl1/labels"]})
    other = plan(salts, "energy", tmp_path / "other", source=None, **OPTIONS | {"schemes": ["direct"]})
    reports = run([one, other], workers=2)
    crystals = Dataset.read(salts)
    energy = dict(zip(crystals.ids, crystals.values("energy"), strict=True))
    for report, schemes in zip(reports, ("tl1/labels", "direct"), strict=True):
        held = report["validation"]["0"]
        assert [energy[name] for name in held["ids"]] == pytest.approx(held["target"], rel=1e-6)
        for result in report["results"]:
            for name, errors in result["errors"].items():
                assert name == schemes or result["method"] == "baselines"
                size = np.abs(errors)
                assert size.mean() == pytest.approx(result["scores"][name]["mae_ev"], rel=1e-3)
                per_atom = (size / np.array(held["natoms"])).mean()
                assert per_atom == pytest.approx(result["scores"][name]["mae_ev_per_atom"], rel=1e-3)
    assert json.loads((tmp_path / "one" / "benchmark.json").read_text()) == json.loads(json.dumps(reports[0]))


METHODS = ["direct", "tl3/labels", "process", "auto"]


def test_labels_that_are_judged_on_have_no_part_in_what_is_predicted(salts, source, tmp_path):
    one = plan(
        salts, "energy", tmp_path / "out", source=source, sizes=[20, 40], val_size=12, seeds=1,
        schemes=METHODS, changes={"epochs": 1, "min_steps": 0}, portfolio=portfolio.CHEAP,
    )  # fmt: skip
    job, subset = one._job, one.subsets[0]
    task = job.bench.task
    spoilt = task.per_atom.copy()
    spoilt[np.setdiff1d(np.arange(len(spoilt)), subset.train)] += 100.0
    other = replace(job, bench=replace(job.bench, task=replace(task, per_atom=spoilt)))
    for method in ("baselines", *METHODS):
        before, _ = benchmark_job._predicted(job, subset, method)
        after, _ = benchmark_job._predicted(other, subset, method)
        for name, values in before.items():
            np.testing.assert_array_equal(values, after[name], err_msg=name)


def test_changes_reach_the_recipes(salts, source, tmp_path):
    one = plan(salts, "energy", tmp_path / "out", source=source, changes={"l2": 0.5}, **OPTIONS)
    assert [recipe["l2"] for recipe in one.settings["recipes"].values()] == [0.5, 0.5]
    assert {method.recipe.l2 for method in one._job.methods.values()} == {0.5}
    with pytest.raises(InputError, match="l3"):
        plan(salts, "energy", tmp_path / "out", source=source, changes={"l3": 0.5}, **OPTIONS)


@pytest.mark.parametrize("name", [one.name for one in PORTFOLIO if one.kind != "network"])
def test_every_cheap_candidate_is_a_method_by_name(salts, source, tmp_path, name):
    one = plan(salts, "energy", tmp_path / "out", source=source, **OPTIONS | {"schemes": [name, name]})
    assert one.methods == (name,)
    bench, subset = one._job.bench, one.subsets[0]
    predictions, extra = benchmark_job._predicted(one._job, subset, name)
    (candidate,) = [other for other in bench.candidates() if other.name == name]
    model = bench.fit(candidate, subset.train, 0)
    expected = bench.predicted(candidate, model, np.arange(len(bench.task.natoms)))
    np.testing.assert_array_equal(predictions[name], expected)
    assert extra == {}


@pytest.mark.parametrize("name", ["auto/auto", "process/labels", "tl1/best"])
def test_a_reference_mode_is_of_a_scheme(salts, source, tmp_path, name):
    with pytest.raises(InputError, match="no reference mode of a scheme"):
        plan(salts, "energy", tmp_path / "out", source=source, **OPTIONS | {"schemes": [name]})


def test_methods_do_not_share_a_file(salts, source, tmp_path):
    names = ["tl1/residual", "tl1-residual", "tl3/residual", "tl3-residual"]
    one = plan(salts, "energy", tmp_path / "out", source=source, **OPTIONS | {"schemes": names})
    assert len({*one.fits.values()}) == len(one.fits)


def test_every_method_is_trained_by_its_own_recipe_and_the_seed_of_its_subset(
    salts, source, tmp_path, monkeypatch
):
    options = OPTIONS | {"schemes": ["direct", "tl1/residual"]}
    one, seen = plan(salts, "energy", tmp_path / "out", source=source, **options), []
    job, subset = one._job, replace(one.subsets[0], seed=7)
    model = load_model(source).with_card(reference="labels", epochs=3)
    monkeypatch.setattr(portfolio, "finetune", lambda *args, **told: seen.append((args, told)) or model)
    for method in ("direct", "tl1/residual"):
        predictions, extra = benchmark_job._predicted(job, subset, method)
        assert (list(predictions), extra) == ([method], {"reference": "labels", "epochs": 3})
    (direct, of_direct), (graft, of_graft) = seen
    assert (direct[0], graft[0]) == (None, job.bench.sources[0])
    assert (of_direct["recipe"], of_graft["recipe"]) == PRESETS["default"]
    assert (of_direct["reference"], of_graft["reference"]) == ("auto", "residual")
    assert [told["seed"] for told in (of_direct, of_graft)] == [7, 7]
    assert of_direct["zero_shot"] is None


def test_tables_tell_errors_per_cell_and_per_atom_and_curves_are_in_millielectronvolts_per_atom():
    scores = {
        "mae_ev": [1.0, 2.0], "mae_ev_per_atom": [0.05, 0.07], "within_chemical_accuracy": [0.1, 0.1],
        "within_chemical_accuracy_per_atom": [0.5, 0.3],
    }  # fmt: skip
    summary = {"direct": {"20": scores}}
    (row,) = tabulate(summary, "eV").rows
    assert row[1].startswith("1.50 ±")
    assert row[1].endswith("(60; 40%)")
    (curve,) = benchmark_job._curves(summary).values()
    np.testing.assert_allclose(curve[20], [50.0, 70.0])


def test_a_method_without_any_error_is_not_drawn():
    summary = {"direct": {"20": {"mae": [0.0, 1.0]}}, "tl1": {"20": {"mae": [0.0, 0.0]}}}
    curves = benchmark_job._curves(summary)
    direct, tl1 = (values[20] for values in curves.values())
    assert np.isnan(direct).tolist() == [True, False]
    assert np.isnan(tl1).all()


def test_costly_schemes_are_for_the_greatest_size(salts, tmp_path):
    options = OPTIONS | {"schemes": ["direct", "tl3/labels"], "costly": ["direct"]}
    one = plan(salts, "energy", tmp_path / "out", **options)
    sizes = {method: sorted({subset.size for subset, m in one.work if m == method}) for _, method in one.work}
    assert sizes == {"baselines": [20, 40], "direct": [40], "tl3/labels": [20, 40]}
    assert set(one.fits) == {(subset.name, method) for subset, method in one.work}
    summary = {"direct": {"40": {"mae": [1.0]}}, "tl1": {"20": {"mae": [2.0]}, "40": {"mae": [0.5]}}}
    assert tabulate(summary, "GPa").rows[0] == ("direct training", None, "1.000")


def test_the_source_as_it_is_stands_under_no_labels():
    def cell(value):
        return {"20": {"mae": [value]}, "40": {"mae": [value / 2]}}

    summary = {"references_alone": cell(2.0), "zero_shot_source": cell(1.0), "tl1": cell(0.6)}
    table = tabulate(summary, "GPa")
    assert table.columns == ("method", "N = 0", "N = 20", "N = 40")
    assert table.rows[0] == ("source model as it is", "0.500", None, None)
    assert table.rows[2] == ("TL1", None, "0.600", "0.300")
    # A source of another label says nothing.
    table = tabulate({**summary, "zero_shot_source": cell(50.0)}, "GPa")
    assert table.columns == ("method", "N = 20", "N = 40")
    assert [row[0] for row in table.rows] == ["reference energies alone", "TL1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schemes": ["tl1/best"]}, "no reference mode"),
        ({"schemes": ["tl7"]}, "no recipe named"),
        ({"source": None, "schemes": ["tl1"]}, "needs a source model"),
        ({"source": None, "schemes": ["process"]}, "needs a source model"),
        ({"sizes": [70]}, "70"),
    ],
)
def test_bad_requests_leave_nothing_behind(salts, source, tmp_path, options, message):
    settings = {"sizes": [20], "val_size": 12, "schemes": ["direct"], "source": source, **options}
    with pytest.raises(InputError, match=message):
        benchmark(salts, "energy", tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_lists_of_numbers_stay_on_one_line(tmp_path):
    content = {"a": [1.5, -2e-7, 3, float("nan")], "b": [[1, 2], ["x", 1]], "c": {"d": []}}
    write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text()
    assert '"a": [ 1.5, -2e-07, 3, NaN ]' in text
    assert repr(json.loads(text)) == repr(content)
