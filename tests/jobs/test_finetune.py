"""The main job writes what it promises, and its baselines are what they say."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial

import ase.io
import numpy as np
import pytest
from ase.data import atomic_numbers

from matgraft.data import Dataset, Label
from matgraft.data.writers import write
from matgraft.errors import InputError
from matgraft.jobs import contest as contest_job
from matgraft.jobs import finetune as finetune_job
from matgraft.jobs import methods, verdict
from matgraft.jobs.finetune import run_finetune
from matgraft.jobs.folder import alone
from matgraft.jobs.methods import starts
from matgraft.jobs.verdict import comparison, interval_scores, list_suspects, title
from matgraft.models.files import load_model
from matgraft.training import contest, portfolio
from matgraft.training.recipe import DIRECT

graft = partial(run_finetune, recipe="tl1", intervals=False)
FILES = {
    "closest.safetensors",
    "errors.png",
    "metrics.json",
    "model.json",
    "model.safetensors",
    "parity.png",
    "predictions.csv",
    "references.json",
    "settings.json",
    "training",
    "training.png",
}


def read_predictions(path):
    with open(path) as handle:
        return list(csv.DictReader(handle))


def test_only_the_published_preset_starts_from_random_embeddings_of_unknown_elements(source):
    """The source knows Ti, V, Fe and O."""
    model = load_model(source)
    ours, published = (starts([model], preset)[0].network.embedding.weight for preset in ("default", "paper"))
    for symbol, same in (("Fe", True), ("Cr", False)):
        z = atomic_numbers[symbol]
        assert bool((ours[z] == published[z]).all()) is same


def test_interval_scores_by_hand():
    said = interval_scores(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 10.0]))
    assert said == {"coverage": 0.9, "held": 2 / 3, "mean_half_width": 4.0, "median_half_width": 1.0}


@pytest.mark.parametrize("scheme", ["tl1", "tl2", "tl3"])
def test_writes_everything_and_beats_nothing_by_accident(salts, source, tmp_path, scheme):
    out = tmp_path / "out"
    result = graft(salts, "energy", out, source=source, recipe=scheme, val="12", direct=True)
    assert {path.name for path in out.iterdir()} == FILES
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(result.metrics))
    assert (metrics["n_train"], metrics["n_val"]) == (48, 12)
    assert set(metrics["baselines"]) == {
        "references_alone",
        "composition_forest",
        "zero_shot_source",
        "source_plus_references",
        "direct",
    }
    keys = {"mae_ev", "mae_ev_per_atom", "rmse_ev", "within_chemical_accuracy"}
    assert keys <= set(metrics)
    assert all(keys <= set(scores) for scores in metrics["baselines"].values())
    rows = read_predictions(out / "predictions.csv")
    assert len(rows) == 12
    errors = [abs(float(row["target"]) - float(row["prediction"])) for row in rows]
    assert np.mean(errors) == pytest.approx(metrics["mae_ev"])
    # The source's label is 4 eV per atom above the target's.
    assert metrics["baselines"]["zero_shot_source"]["mae_ev_per_atom"] == pytest.approx(4.0, abs=0.2)
    assert metrics["baselines"]["source_plus_references"]["mae_ev_per_atom"] < 0.2


def test_saved_model_predicts_what_the_run_reported(salts, source, tmp_path):
    graft(salts, "energy", tmp_path / "out", source=source, val="12")
    rows = read_predictions(tmp_path / "out" / "predictions.csv")
    dataset = Dataset.read(salts)
    where = {name: i for i, name in enumerate(dataset.ids)}
    held = dataset[[where[row["id"]] for row in rows]]
    predicted = load_model(tmp_path / "out").predict(held).values
    np.testing.assert_allclose(predicted, [float(row["prediction"]) for row in rows], atol=1e-4)


def test_repeating_gives_the_same_and_other_settings_are_refused(salts, source, tmp_path):
    first = graft(salts, "energy", tmp_path / "out", source=source, val="12").metrics
    assert graft(salts, "energy", tmp_path / "out", source=source, val="12").metrics == first
    with pytest.raises(InputError, match="seed differ"):
        graft(salts, "energy", tmp_path / "out", source=source, val="12", seed=1)


def test_validation_file_and_id_list(salts, source, tmp_path):
    dataset = Dataset.read(salts)
    ids = dataset.ids[:9]
    (tmp_path / "val.txt").write_text("\n".join(ids))
    graft(salts, "energy", tmp_path / "a", source=source, val=str(tmp_path / "val.txt"))
    assert {row["id"] for row in read_predictions(tmp_path / "a" / "predictions.csv")} == set(ids)
    write(dataset[:9], tmp_path / "val.extxyz")
    write(dataset[9:], tmp_path / "train.extxyz")
    graft(
        tmp_path / "train.extxyz", "energy", tmp_path / "b", source=source, val=str(tmp_path / "val.extxyz")
    )
    assert {row["id"] for row in read_predictions(tmp_path / "b" / "predictions.csv")} == set(ids)
    with pytest.raises(InputError, match="cannot both train and validate"):
        graft(salts, "energy", tmp_path / "c", source=source, val=str(tmp_path / "val.extxyz"))


def test_crystals_by_other_names_do_not_validate(salts, source, tmp_path):
    dataset = Dataset.read(salts)
    renamed = replace(dataset[:9], ids=np.array([f"v{k}" for k in range(9)]))
    write(renamed, tmp_path / "val.extxyz")
    first = dataset.ids[0]
    with pytest.raises(InputError, match=f"9 structures are also in .*v0 = {first}.*cannot both"):
        graft(salts, "energy", tmp_path / "out", source=source, val=str(tmp_path / "val.extxyz"))


def test_repeated_structures_are_told(salts, source, tmp_path, caplog):
    dataset = Dataset.read(salts)
    quick = dict(source=source, recipe="residual", val="0.2")
    graft(dataset, "energy", tmp_path / "one", **quick)
    assert "more than once" not in caplog.text
    again = dataset[:2].with_label("energy", dataset.labels["energy"][:2] + 0.25)
    again = replace(again, ids=np.array(["again", "too"]))
    graft(Dataset.concatenate([dataset, again]), "energy", tmp_path / "both", **quick)
    assert f"2 structures stand in the data more than once, first {dataset.ids[0]} = again" in caplog.text
    assert "labels up to 0.25 eV apart" in caplog.text


@pytest.mark.parametrize("recipe", ["tl1", "tl3-residual"])
def test_forces_are_learnt_and_judged(salts, source, tmp_path, recipe):
    dataset = Dataset.read(salts)
    forces = np.random.default_rng(0).normal(size=dataset.positions.shape)
    dataset = replace(dataset, forces=forces)
    result = graft(dataset, "energy", tmp_path / "out", source=source, recipe=recipe, forces=True)
    found = result.metrics["forces"]
    held = np.isin(dataset.ids, [row["id"] for row in read_predictions(tmp_path / "out" / "predictions.csv")])
    part = dataset[held]
    models = [result.model, load_model(source)]
    errors = [np.abs(np.concatenate(m.forces(part).forces) - part.forces).mean() for m in models]
    assert list(found["mae"].values()) == pytest.approx(errors, rel=1e-5)
    assert found["n"] == part.forces.size
    assert found["mean_absolute"] == pytest.approx(np.abs(part.forces).mean())
    assert (tmp_path / "out" / "forces.png").is_file()
    assert result.model.card["recipe"]["forces"] == portfolio.FORCES
    without = graft(dataset, "energy", tmp_path / "without", source=source, recipe=recipe)
    assert "forces" not in without.metrics
    with pytest.raises(InputError, match="forces differ"):
        graft(dataset, "energy", tmp_path / "without", source=source, recipe=recipe, forces=True)


def test_forces_that_cannot_be_learnt_are_refused(salts, source, tmp_path, caplog):
    dataset = Dataset.read(salts)
    known = replace(dataset, forces=np.ones_like(dataset.positions))
    write(known[:9], tmp_path / "val.extxyz")
    with pytest.raises(InputError, match="no forces among the"):
        graft(
            dataset[9:],
            "energy",
            tmp_path / "a",
            source=source,
            val=str(tmp_path / "val.extxyz"),
            forces=True,
        )
    with pytest.raises(InputError, match="recipe process trains no network"):
        graft(known, "energy", tmp_path / "b", source=source, recipe="process", forces=True)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()
    some = Dataset.concatenate([dataset[:12], known[12:]])
    result = graft(some, "energy", tmp_path / "c", source=source, recipe="tl3-residual", forces=True)
    assert "structures to train on come with forces" in caplog.text
    held = [row["id"] for row in read_predictions(tmp_path / "c" / "predictions.csv")]
    part = some[np.isin(some.ids, held) & some.has_forces]
    assert result.metrics["forces"]["n"] == part.forces.size < 3 * some[np.isin(some.ids, held)].natoms.sum()


def test_labels_that_are_no_numbers_are_refused(salts, source, tmp_path):
    dataset = Dataset.read(salts)
    energies = dataset.values("energy").copy()
    energies[3] = np.nan
    with pytest.raises(InputError, match=f"{dataset.ids[3]}.*NaN or infinite"):
        graft(dataset.with_label("energy", energies), "energy", tmp_path / "out", source=source)
    assert not (tmp_path / "out").exists()


def test_an_edited_id_list_is_another_run(salts, source, tmp_path):
    ids = Dataset.read(salts).ids
    (tmp_path / "val.txt").write_text("\n".join(ids[:9]))
    graft(salts, "energy", tmp_path / "out", source=source, val=str(tmp_path / "val.txt"))
    (tmp_path / "val.txt").write_text("\n".join(ids[9:18]))
    with pytest.raises(InputError, match=r"\(val differ\)"):
        graft(salts, "energy", tmp_path / "out", source=source, val=str(tmp_path / "val.txt"))


def test_validation_file_is_read_as_the_training_file(salts, source, tmp_path, caplog):
    dataset = Dataset.read(salts)
    structures = list(dataset)
    for k, (atoms, energy) in enumerate(zip(structures, dataset.values("energy"), strict=True)):
        atoms.info |= {"id": f"s{k}", "y": energy / len(atoms)}
    ase.io.write(tmp_path / "train.extxyz", structures[9:])
    ase.io.write(tmp_path / "val.extxyz", structures[:9])
    train = Dataset.read(tmp_path / "train.extxyz", "y", kind="atom", unit="eV/atom")
    done = graft(train, "y", tmp_path / "out", source=source, val=str(tmp_path / "val.extxyz"))
    assert done.model.label == train.specs["y"]
    structures[0].info.pop("y")
    ase.io.write(tmp_path / "val.extxyz", structures[:9])
    with pytest.raises(InputError, match="s0"):
        graft(train, "y", tmp_path / "less", source=source, val=str(tmp_path / "val.extxyz"))
    done = graft(
        train, "y", tmp_path / "less", source=source, val=str(tmp_path / "val.extxyz"), missing="drop"
    )
    assert "1 of 9 structures have no 'y': s0. They are left out" in caplog.text
    assert done.metrics["n_val"] == 8


def test_two_at_once_do_not_share_a_folder(salts, source, tmp_path):
    graft(salts, "energy", tmp_path / "out", source=source, val="12")
    with alone(tmp_path / "out"), pytest.raises(InputError, match="another run is at work here"):
        graft(salts, "energy", tmp_path / "out", source=source, val="12")


def test_grouped_split_keeps_formulas_apart(salts, source, tmp_path):
    graft(salts, "energy", tmp_path / "out", source=source, val="20", group="formula")
    dataset = Dataset.read(salts)
    held = {row["id"] for row in read_predictions(tmp_path / "out" / "predictions.csv")}
    inside = np.isin(dataset.ids, list(held))
    assert not set(dataset.formulas[inside]) & set(dataset.formulas[~inside])


@pytest.mark.parametrize(("recipe", "name"), [("auto", "run_contest"), ("residual", "cross_validate")])
def test_groups_reach_the_folds(crystals, source, cheap, tmp_path, monkeypatch, recipe, name):
    seen, real = [], getattr(finetune_job, name)

    def noted(*args):
        seen.append(args[-1])
        return real(*args)

    monkeypatch.setattr(finetune_job, name, noted)
    options = {"source": source, "val": "20", "group": "formula", "recipe": recipe, "workers": 1}
    run_finetune(crystals, "energy", tmp_path / "out", **options)
    np.testing.assert_array_equal(seen, [crystals.formulas])


def test_a_group_too_large_for_folds_leaves_nothing_behind(crystals, source, tmp_path):
    most_of_one = crystals[np.r_[0:60:3, 1, 2, 4, 5]]
    with pytest.raises(InputError, match="would be left out together"):
        run_finetune(most_of_one, "energy", tmp_path / "out", source=source, val="2", group="formula")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "enthalpy"}, "Labels here: energy"),
        ({"recipe": "tl9"}, "no recipe named"),
        ({"source": None, "recipe": "tl1"}, "needs a source model"),
        ({"source": None, "recipe": "direct", "reference": "residual"}, "use reference labels"),
        ({"source": "nowhere"}, "Shipped"),
        ({"val": "60"}, "fewer"),
        ({"val": "nothing.extxyz"}, "nothing.extxyz"),
        ({"preset": "fast"}, "no preset named"),
        ({"arch": "arch9"}, "no architecture named"),
        ({"recipe": "tl3", "arch": "wide"}, "which recipe tl3 has none of"),
        ({"reference": "best"}, "auto, labels, residual, none"),
        ({"reference": "nothing.json"}, "nothing.json"),
        ({"source": None, "recipe": "direct", "reference": "residual"}, "needs a source model"),
    ],
)
def test_bad_requests_leave_nothing_behind(salts, source, tmp_path, options, message):
    settings = {"target": "energy", "source": source, "val": "12", **options}
    with pytest.raises(InputError, match=message):
        graft(salts, out=tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_given_reference_energies(salts, source, tmp_path):
    given = {"O": -4.0, "Ti": -5.0, "V": -5.0, "Fe": -5.0}
    (tmp_path / "references.json").write_text(json.dumps(given))
    options = {"source": source, "val": "12", "reference": str(tmp_path / "references.json")}
    graft(salts, "energy", tmp_path / "out", **options)
    assert json.loads((tmp_path / "out" / "references.json").read_text()) == given


def test_suggested_reference_energies_are_believed_as_far_as_the_labels_agree(crystals, source, tmp_path):
    """Titanium is in no label: with its energy suggested it is predicted, and still marked."""
    shift = {"O": -430.0, "Ti": -1600.0, "V": -2000.0, "Fe": -3200.0}
    counts = crystals.composition()
    energies = crystals.values("energy") + sum(
        energy * counts[:, atomic_numbers[symbol]] for symbol, energy in shift.items()
    )
    dataset = crystals.with_label("energy", energies)
    ids = dataset.ids[::3]
    (tmp_path / "val.txt").write_text("\n".join(ids))
    (tmp_path / "known.json").write_text(json.dumps(shift))
    options = {"source": source, "val": str(tmp_path / "val.txt"), "recipe": "residual"}
    without = graft(dataset, "energy", tmp_path / "without", **options)
    suggested = {**options, "references": tmp_path / "known.json"}
    result = graft(dataset, "energy", tmp_path / "with", **suggested)
    assert result.metrics["mae_ev_per_atom"] < 1 < 20 < without.metrics["mae_ev_per_atom"]
    assert set(result.model.predict(dataset[::3]).unreferenced) == {("Ti",)}
    assert "Ti" not in json.loads((tmp_path / "with" / "references.json").read_text())
    settings = json.loads((tmp_path / "with" / "settings.json").read_text())["settings"]
    assert settings["references"] == shift
    with pytest.raises(InputError, match="name one of them"):
        run_finetune(
            dataset, "energy", tmp_path / "both", **{**suggested, "recipe": "tl1"},
            reference=str(tmp_path / "known.json"),
        )  # fmt: skip


def test_an_intensive_label(salts, source, tmp_path, crystals):
    gap = crystals.with_label(
        "bulk_modulus", np.linspace(1, 2, len(crystals)), Label("bulk_modulus", "GPa", "intensive")
    )
    write(gap, tmp_path / "gap.extxyz")
    metrics = graft(
        tmp_path / "gap.extxyz", "bulk_modulus", tmp_path / "out", source=source, val="12"
    ).metrics
    assert {"mae", "rmse", "median"} <= set(metrics)
    assert metrics["unit"] == "GPa"
    assert metrics["reference"] in ("labels", "residual")


@pytest.fixture
def cheap(monkeypatch):
    """A contest without networks, in this process."""
    monkeypatch.setattr(finetune_job, "Bench", partial(portfolio.Bench, portfolio=portfolio.CHEAP))


def test_a_contest_chooses_tells_and_is_saved(salts, source, cheap, tmp_path):
    result = run_finetune(salts, "energy", tmp_path / "out", source=source, val="12", workers=1)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"contest", "contest.png", "model.json"}
    story = result.metrics["contest"]
    assert {one["name"] for one in story["candidates"]} == {
        "references", "residual", "process", "process-residual",
    }  # fmt: skip
    assert result.metrics["mae_ev"] <= 1.1 * result.metrics["baselines"]["source_plus_references"]["mae_ev"]
    rows = read_predictions(tmp_path / "out" / "predictions.csv")
    dataset = Dataset.read(salts)
    where = {name: i for i, name in enumerate(dataset.ids)}
    predicted = load_model(tmp_path / "out").predict(dataset[[where[row["id"]] for row in rows]]).values
    np.testing.assert_allclose(predicted, [float(row["prediction"]) for row in rows], atol=1e-4)


@pytest.mark.parametrize("recipe", ["tl1", "residual", "auto"])
def test_labels_that_are_held_out_have_no_part_in_a_graft(
    crystals, source, cheap, tmp_path, monkeypatch, recipe
):
    (tmp_path / "val.txt").write_text("\n".join(crystals.ids[48:]))
    told: dict[str, np.ndarray] = {}

    def noted(*args, write=finetune_job.write_verdict):
        told.update(args[5])
        return write(*args)

    monkeypatch.setattr(finetune_job, "write_verdict", noted)
    options = {"source": source, "val": str(tmp_path / "val.txt"), "recipe": recipe, "workers": 1}
    first = run_finetune(crystals, "energy", tmp_path / "out", **options).model
    before = dict(told)
    spoilt = crystals.values("energy") + 100.0 * (np.arange(60) >= 48)
    second = run_finetune(
        crystals.with_label("energy", spoilt), "energy", tmp_path / "other", **options
    ).model
    assert before.keys() == told.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(values, told[name], err_msg=name)
    assert first.content_hash() == second.content_hash()
    np.testing.assert_array_equal(first.intervals.scores, second.intervals.scores)
    assert first.intervals.lacking == second.intervals.lacking


def test_every_source_is_a_baseline_by_its_name(salts, source, cheap, tmp_path, monkeypatch):
    brief = DIRECT.changed(epochs=1)
    monkeypatch.setattr(methods, "recipes", lambda preset: (brief, brief))
    other = load_model(source).with_card(name="other").save(tmp_path / "other")
    options = {"source": f"{source},{other}", "val": "12", "workers": 1, "direct": True}
    result = run_finetune(salts, "energy", tmp_path / "out", **options)
    names = [name.partition(" @ ")[2] for name in result.metrics["baselines"] if " @ " in name]
    assert len(names) == 4
    assert len({*names}) == 2
    shown = [row[0] for row in result.table.rows]
    assert "source + robust references (other)" in shown
    assert "direct training" in shown
    # As good as nothing for total energies.
    assert "source model as it is (other)" not in shown
    assert "source model as it is (other)" in result.table.caption
    assert (tmp_path / "out" / "parity.png").is_file()


def test_an_interrupted_contest_goes_on(salts, source, cheap, tmp_path, monkeypatch):
    options = {"source": source, "val": "12", "workers": 1}
    first = run_finetune(salts, "energy", tmp_path / "out", **options).metrics
    kept = sorted((tmp_path / "out" / "contest").iterdir())
    assert len(kept) == 4 * contest.FOLDS
    kept[0].unlink()
    fitted = []
    before = contest_job.write_json
    monkeypatch.setattr(
        contest_job, "write_json", lambda path, text: (fitted.append(path), before(path, text))
    )
    assert run_finetune(salts, "energy", tmp_path / "out", **options).metrics == first
    assert fitted == kept[:1]


def test_a_wrong_label_is_listed(crystals, source, cheap, tmp_path, caplog):
    energies = crystals.values("energy").copy()
    energies[5] *= 27.2
    wrong = crystals.with_label("energy", energies)
    (tmp_path / "val.txt").write_text("\n".join(crystals.ids[50:]))
    options = {"source": source, "val": str(tmp_path / "val.txt"), "workers": 1}
    run_finetune(wrong, "energy", tmp_path / "out", **options)
    rows = read_predictions(tmp_path / "out" / "suspects.csv")
    assert rows[0]["id"] == "salt-5"
    assert float(rows[0]["error_in_ninth_deciles"]) > 5
    assert "salt-5" in caplog.text


def test_suspects_are_listed_worst_first_with_what_was_said_and_predicted(crystals, tmp_path):
    """Half of the errors are 0.02, nine in ten 0.1 or less: what is off by more than 0.5 is suspect."""
    rows = np.arange(10, 40)
    error = np.where(np.arange(30) < 24, -0.02, 0.1)
    error[[4, 20]] = 0.6, -2.0
    truth = -np.arange(30.0)
    held = contest.Contest(rows, rows, {}, truth, {}, truth + error)
    list_suspects(tmp_path / "suspects.csv", crystals, held)
    first, second = read_predictions(tmp_path / "suspects.csv")
    assert (first.pop("id"), second.pop("id")) == ("salt-30", "salt-14")
    keys = "label_per_atom", "predicted_per_atom", "error_in_ninth_deciles"
    for row, expected in ((first, (-20.0, -22.0, 20.0)), (second, (-4.0, -3.4, 6.0))):
        assert {name: float(value) for name, value in row.items()} == pytest.approx(
            dict(zip(keys, expected, strict=True))
        )


def test_the_table_of_methods_tells_errors_per_cell_and_per_atom():
    score = {
        "mae_ev": 1.2345, "mae_ev_per_atom": 0.067, "within_chemical_accuracy": 0.1,
        "within_chemical_accuracy_per_atom": 0.42,
    }  # fmt: skip
    table = comparison({"tl1": score}, Label("energy"), 48, 12)
    assert list(table.columns) == ["method", "MAE (eV)", "MAE (meV/atom)", "within 43 meV/atom"]
    assert [list(row) for row in table.rows] == [["TL1", "1.234", "67", "42%"]]
    assert "48 labels, judged on 12" in table.title


def test_errors_are_drawn_per_atom(salts, source, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(verdict, "error_distribution", lambda path, errors, *rest: drawn.update(errors))
    graft(salts, "energy", tmp_path / "out", source=source, recipe="residual", val="12")
    dataset = Dataset.read(salts)
    natoms = dict(zip(dataset.ids, dataset.natoms, strict=True))
    expected = [
        (float(row["prediction"]) - float(row["target"])) / natoms[row["id"]]
        for row in read_predictions(tmp_path / "out" / "predictions.csv")
    ]
    np.testing.assert_allclose(drawn[title("residual")], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "residual"}, "brings settings and references of its own"),
        ({"preset": "paper"}, "brings settings and references of its own"),
        ({"recipe": "process", "source": None}, "needs a source model"),
        ({"val": "50"}, "10 labelled structures are too few for a contest"),
        ({"recipe": "tl1", "source": "mp-schnet,mp-schnet-multi"}, "starts from one source"),
    ],
)
def test_what_does_not_go_with_a_contest(salts, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run_finetune(salts, "energy", tmp_path / "out", **{"val": "12", **options})
    assert not (tmp_path / "out").exists()


def test_one_candidate_alone(salts, source, tmp_path):
    result = run_finetune(
        salts, "energy", tmp_path / "out", source=source, val="12", recipe="process-residual"
    )
    assert result.metrics["recipe"] == "process-residual"
    assert result.metrics["mae_ev_per_atom"] < 0.2


@pytest.mark.parametrize("recipe", ["tl3", "residual"])
def test_intervals_of_a_single_recipe_rest_on_fits_without_the_fold(salts, source, tmp_path, recipe):
    options = {"source": source, "val": "12", "recipe": recipe, "workers": 1}
    result = run_finetune(salts, "energy", tmp_path / "out", **options)
    kept = {path.name for path in (tmp_path / "out" / "folds").iterdir()}
    assert kept == {f"{recipe}-source0-fold{fold}.json" for fold in range(contest.FOLDS)}
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made >= {"intervals.png", "intervals.safetensors"}
    half_width = result.model.predict(Dataset.read(salts)).half_width
    assert np.isfinite(half_width).all()
    assert 0.5 <= result.metrics["intervals"]["held"] <= 1.0
    without = run_finetune(salts, "energy", tmp_path / "without", **options, intervals=False)
    assert without.model.intervals is None
    assert without.metrics["mae_ev"] == result.metrics["mae_ev"]
    assert not (tmp_path / "without" / "folds").exists()


def test_too_few_labels_for_intervals_are_told(salts, source, tmp_path, caplog):
    result = run_finetune(salts, "energy", tmp_path / "out", source=source, val="48", recipe="residual")
    assert result.model.intervals is None
    assert "12 labels are too few for intervals" in caplog.text


def test_a_split_that_tears_groups_apart_is_refused(salts, source, tmp_path):
    dataset = Dataset.read(salts)
    (tmp_path / "val.txt").write_text("\n".join(dataset.ids[:9]))
    with pytest.raises(InputError, match="both train and validate"):
        graft(salts, "energy", tmp_path / "a", source=source, val=str(tmp_path / "val.txt"), group="formula")
