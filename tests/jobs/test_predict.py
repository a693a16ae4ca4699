"""Predicting files."""

from __future__ import annotations

import csv
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import write
from small import SMALL

from matgraft.data import Dataset, Label
from matgraft.data.writers import write as write_dataset
from matgraft.errors import InputError
from matgraft.graphs.closest import closest
from matgraft.jobs import predict as job
from matgraft.jobs.folder import alone
from matgraft.jobs.predict import predict
from matgraft.models.domain import Domain
from matgraft.models.files import load_model
from matgraft.models.model import Model
from matgraft.models.references import References
from matgraft.models.schnet import SchNet
from matgraft.training.intervals import calibrated


def model_of(seed):
    torch.manual_seed(seed)
    references = References.given({"O": -4.3, "Ti": -7.1, "V": -8.2, "Fe": -6.4})
    species = frozenset({"O", "Ti", "V", "Fe"})
    return Model(SchNet(SMALL), Label("energy"), references, 0.3, species, {"name": "tiny"})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return model_of(0).save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def calls(monkeypatch):
    """Sizes of the chunks that were computed."""
    sizes = []

    def recorded(dataset, cutoff, original=job.build_graphs):
        sizes.append(len(dataset))
        return original(dataset, cutoff)

    monkeypatch.setattr(job, "build_graphs", recorded)
    return sizes


def lines(path):
    with open(path) as handle:
        return list(csv.DictReader(handle))


def interrupt_after(monkeypatch, n):
    """Ctrl-C once ``n`` chunks are written."""
    written = []

    def write_chunk(self, path, original=job.Results.write):
        if len(written) == n:
            raise KeyboardInterrupt
        written.append(path)
        original(self, path)

    monkeypatch.setattr(job.Results, "write", write_chunk)


def test_predictions_csv(salts, source, tmp_path):
    done = predict(source, [salts], tmp_path / "new" / "p.csv")
    rows = lines(tmp_path / "new" / "p.csv")
    dataset = Dataset.read(salts)
    assert [row["id"] for row in rows] == dataset.ids.tolist()
    prediction = load_model(source).predict(dataset)
    np.testing.assert_array_equal([float(row["prediction"]) for row in rows], prediction.values)
    np.testing.assert_array_equal([float(row["per_atom"]) for row in rows], prediction.per_atom)
    assert {row["unit"] for row in rows} == {"eV"}
    assert [row["formula"] for row in rows] == dataset.formulas.tolist()
    assert (done.n, done.skipped, done.skipped_list) == (60, 0, None)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["p.csv"]


def test_a_model_with_intervals_says_how_far_off_it_may_be(crystals, salts, tmp_path):
    model = model_of(0)
    features = model.features(model.graphs(crystals))
    per_atom = np.linspace(0.01, 0.2, len(crystals))
    found = calibrated(crystals.composition(), features, per_atom, model.label)
    model = model.with_intervals(found)
    predict(model, [salts], tmp_path / "p.csv")
    rows = lines(tmp_path / "p.csv")
    prediction = model.predict(crystals)
    lower, upper, strange = (
        np.array([float(row[k]) for row in rows]) for k in ("lower", "upper", "strangeness")
    )
    np.testing.assert_allclose((upper - lower) / 2, prediction.half_width)
    np.testing.assert_allclose((upper + lower) / 2, prediction.values)
    np.testing.assert_array_equal(strange, prediction.strangeness)


def test_intervals_of_another_coverage(crystals, salts, tmp_path, caplog):
    model = model_of(0)
    with pytest.raises(InputError, match="no intervals"):
        predict(model, [salts], tmp_path / "p.csv", coverage=0.5)
    features = model.features(model.graphs(crystals))
    errors = np.linspace(0.01, 0.2, len(crystals))
    model = model.with_intervals(calibrated(crystals.composition(), features, errors, model.label))
    for wrong in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="no probability"):
            predict(model, [salts], tmp_path / "p.csv", coverage=wrong)
    predict(model, [salts], tmp_path / "p.csv", coverage=0.5)
    widths = [float(row["upper"]) - float(row["lower"]) for row in lines(tmp_path / "p.csv")]
    np.testing.assert_allclose(widths, 2 * model.predict(crystals, coverage=0.5).half_width)
    assert "infinite" not in caplog.text
    predict(model, [salts], tmp_path / "q.csv", coverage=0.5, workers=2, chunk_size=30)
    assert (tmp_path / "q.csv").read_bytes() == (tmp_path / "p.csv").read_bytes()
    predict(model, [salts], tmp_path / "p.csv", coverage=0.999)
    assert "too few labels to promise a coverage of 0.999" in caplog.text


def test_unseen_species_are_marked_and_warned_about(source, tmp_path, caplog):
    for symbol in ("Ti", "Ag"):
        write(tmp_path / f"{symbol}O.cif", bulk(f"{symbol}O", "rocksalt", a=4.4))
    with caplog.at_level(logging.WARNING):
        done = predict(source, [tmp_path / "TiO.cif", tmp_path / "AgO.cif"], tmp_path / "p.csv")
    assert "Ag" in caplog.text
    assert done.with_unseen_species == 1
    rows = lines(tmp_path / "p.csv")
    assert {row["formula"]: row["unseen_species"] for row in rows} == {"OTi": "", "AgO": "Ag"}
    assert {row["formula"]: row["unreferenced_species"] for row in rows} == {"OTi": "", "AgO": "Ag"}


def test_what_no_label_contained_is_warned_about_once(tmp_path, caplog):
    """Vanadium: known to the source, in no label. Silver: known to neither."""
    model = model_of(0)
    model = replace(model, references=replace(model.references, assumed=frozenset({23})))
    for symbol in ("Ti", "V", "Ag"):
        write(tmp_path / f"{symbol}O.cif", bulk(f"{symbol}O", "rocksalt", a=4.4))
    files = [tmp_path / f"{symbol}O.cif" for symbol in ("Ti", "V", "Ag")]
    with caplog.at_level(logging.WARNING):
        predict(model, files, tmp_path / "p.csv")
    first, second = caplog.messages
    assert "1 of 3 structures contain elements that the model never saw (Ag)" in first
    assert "1 of 3 structures contain elements that no label of the target contained (V)" in second
    assert {row["too_close"] for row in lines(tmp_path / "p.csv")} == {"?"}


def test_squeezed_structures_are_marked(crystals, tmp_path, caplog):
    model = model_of(0)
    model = replace(model, closest=closest(model.graphs(crystals)))
    for a in (4.4, 3.2):
        write(tmp_path / f"{a}.cif", bulk("TiO", "rocksalt", a=a))
    folder = model.save(tmp_path / "model")
    with caplog.at_level(logging.WARNING):
        predict(folder, [tmp_path / "4.4.cif", tmp_path / "3.2.cif"], tmp_path / "p.csv")
    assert "1 of 2 structures have atoms nearer than any that the model learnt from" in caplog.text
    assert [row["too_close"] for row in lines(tmp_path / "p.csv")] == ["", "O-O O-Ti Ti-Ti"]


def test_what_a_source_did_not_learn_from_is_marked(crystals, tmp_path, caplog):
    model = model_of(0)
    features = model.features(model.graphs(crystals))
    model = replace(model, domain=Domain.of(features[:40], features[40:]))
    for a in (4.3, 3.2):
        write(tmp_path / f"{a}.cif", bulk("TiO", "rocksalt", a=a))
    folder = model.save(tmp_path / "model")
    with caplog.at_level(logging.WARNING):
        predict(folder, [tmp_path / "4.3.cif", tmp_path / "3.2.cif"], tmp_path / "p.csv")
    assert (
        "1 of 2 structures are unlike the crystals that the model learnt from, the first is 3.2"
        in caplog.text
    )
    near, far = lines(tmp_path / "p.csv")
    assert float(near["strangeness"]) < 1 < float(far["strangeness"])
    assert "lower" not in near


def test_many_structures_one_by_one_agree_to_the_last_bit(salts, source):
    model, dataset = load_model(source), Dataset.read(salts)
    assert [model.predict(atoms).values[0] for atoms in dataset] == model.predict(dataset).values.tolist()


def test_order_chunks_and_workers_change_nothing(crystals, salts, source, tmp_path):
    predict(source, [salts], tmp_path / "whole.csv", sort="prediction")
    shuffled = crystals[np.random.default_rng(1).permutation(len(crystals))]
    write_dataset(shuffled, tmp_path / "shuffled.extxyz")
    for workers, size in ((1, 1), (1, 7), (2, 23)):
        out = tmp_path / f"{workers}-{size}.csv"
        predict(
            source, [tmp_path / "shuffled.extxyz"], out, sort="prediction", workers=workers, chunk_size=size
        )
        assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_ranking(crystals, source, tmp_path):
    twins = replace(crystals, ids=np.asarray([f"twin-{name}" for name in crystals.ids]))
    write_dataset(Dataset.concatenate([twins, crystals]), tmp_path / "a.extxyz")
    predict(source, [tmp_path / "a.extxyz"], tmp_path / "p.csv", sort="per_atom")
    rows = lines(tmp_path / "p.csv")
    values = [float(row["per_atom"]) for row in rows]
    assert values == sorted(values)
    assert [int(row["rank"]) for row in rows] == list(range(1, 121))
    # Equal structures have equal numbers, and then the id decides.
    assert all(b["id"] == f"twin-{a['id']}" for a, b in zip(rows[::2], rows[1::2], strict=True))
    predict(source, [tmp_path / "a.extxyz"], tmp_path / "q.csv", sort="per_atom", descending=True, top=4)
    best = lines(tmp_path / "q.csv")
    assert [float(row["per_atom"]) for row in best] == values[::-1][:4]
    assert [row["rank"] for row in best] == ["1", "2", "3", "4"]
    assert best[1]["id"] == f"twin-{best[0]['id']}"


def test_graphs_of_one_chunk_at_a_time(salts, source, tmp_path, calls):
    predict(source, [salts], tmp_path / "p.csv", chunk_size=8)
    assert calls == [8] * 7 + [4]


def test_an_interrupted_run_goes_on(salts, source, tmp_path, calls, monkeypatch):
    predict(source, [salts], tmp_path / "whole.csv", chunk_size=8)
    (tmp_path / "p.csv").write_text("of yesterday")
    with monkeypatch.context() as patched:
        interrupt_after(patched, 5)
        with pytest.raises(KeyboardInterrupt):
            predict(source, [salts], tmp_path / "p.csv", chunk_size=8)
    assert (tmp_path / "p.csv").read_text() == "of yesterday"
    torn = tmp_path / "p.csv.part" / "000001.npz"
    torn.write_bytes(torn.read_bytes()[:100])
    calls.clear()
    predict(source, [salts], tmp_path / "p.csv", chunk_size=8)
    assert calls == [8, 8, 8, 4]
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not (tmp_path / "p.csv.part").exists()


@pytest.mark.parametrize("changed", ["coverage", "intervals", "elements without a label"])
def test_all_lines_of_a_table_are_told_alike(changed, crystals, salts, tmp_path, monkeypatch):
    """What an interrupted run has left is not gone on with in other words."""
    model = model_of(0)
    features = model.features(model.graphs(crystals))
    widths = np.linspace(0.01, 0.2, len(crystals))
    narrow, wide = (calibrated(crystals.composition(), features, k * widths, model.label) for k in (1, 2))
    model = model.with_intervals(narrow)
    options = {"chunk_size": 8, "coverage": 0.5}
    with monkeypatch.context() as patched:
        interrupt_after(patched, 5)
        with pytest.raises(KeyboardInterrupt):
            predict(model, [salts], tmp_path / "p.csv", **options)
    if changed == "coverage":
        options["coverage"] = 0.9
    elif changed == "intervals":
        model = model.with_intervals(wide)
    else:
        model = replace(model, references=replace(model.references, assumed=frozenset({8})))
    predict(model, [salts], tmp_path / "p.csv", **options)
    predict(model, [salts], tmp_path / "whole.csv", **options)
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("changed", ["model", "structures"])
def test_another_model_or_input_starts_anew(changed, crystals, source, tmp_path, calls, monkeypatch, caplog):
    write_dataset(crystals, tmp_path / "a.extxyz")
    with monkeypatch.context() as patched:
        interrupt_after(patched, 5)
        with pytest.raises(KeyboardInterrupt):
            predict(source, [tmp_path / "a.extxyz"], tmp_path / "p.csv", chunk_size=8)
    if changed == "model":
        model = model_of(1)
    else:
        model = source
        write_dataset(crystals[:-1], tmp_path / "a.extxyz")
    calls.clear()
    predict(model, [tmp_path / "a.extxyz"], tmp_path / "p.csv", chunk_size=8)
    assert f"changed: {changed}. Starting anew" in caplog.text
    assert len(calls) == 8
    model = model if isinstance(model, Model) else load_model(model)
    expected = model.predict(Dataset.read(tmp_path / "a.extxyz")).values
    assert [float(row["prediction"]) for row in lines(tmp_path / "p.csv")] == expected.tolist()


def test_one_that_is_at_work_is_not_taken_for_interrupted(salts, source, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        interrupt_after(patched, 5)
        with pytest.raises(KeyboardInterrupt):
            predict(source, [salts], tmp_path / "p.csv", chunk_size=8)
    kept = sorted((tmp_path / "p.csv.part").iterdir())
    with alone(tmp_path / "p.csv.part"), pytest.raises(InputError, match="another run is at work here"):
        predict(model_of(1), [salts], tmp_path / "p.csv", chunk_size=8)
    assert sorted((tmp_path / "p.csv.part").iterdir()) == kept


def test_a_foreign_folder_is_left_alone(salts, source, tmp_path):
    (tmp_path / "p.csv.part").mkdir()
    (tmp_path / "p.csv.part" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="not written by this command"):
        predict(source, [salts], tmp_path / "p.csv")
    assert (tmp_path / "p.csv.part" / "thesis.tex").read_text() == "mine"


@pytest.fixture
def folder(crystals, tmp_path):
    """Twelve CIF files, four of them bad, each in its own way."""
    where = tmp_path / "cifs"
    where.mkdir()
    for k in range(12):
        write(where / f"s{k:02}.cif", crystals.atoms(k))
    (where / "s02.cif").write_text("data_x\n_cell_length_a 4\n")
    text = (where / "s05.cif").read_text()
    (where / "s05.cif").write_text(text.replace("1.0000", "0.5000"))
    overlapping = crystals.atoms(8)
    overlapping.positions[1] = overlapping.positions[0] + 0.1
    write(where / "s08.cif", overlapping)
    (where / "s09.cif").write_text("")
    return where


def test_a_bad_structure_stops_everything(folder, source, tmp_path):
    with pytest.raises(InputError, match=r"s02\.cif.*--skip-bad"):
        predict(source, [folder], tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()
    assert not (tmp_path / "p.csv.part").exists()


@pytest.mark.parametrize(("workers", "size"), [(1, 1000), (1, 1), (2, 5)])
def test_bad_structures_are_skipped_and_listed(folder, source, tmp_path, workers, size):
    out = tmp_path / "p.csv"
    done = predict(source, [folder], out, skip_bad=True, workers=workers, chunk_size=size)
    bad = ["s02", "s05", "s08", "s09"]
    good = [f"s{k:02}" for k in range(12) if f"s{k:02}" not in bad]
    rows = lines(out)
    assert [row["id"] for row in rows] == good
    alone = [load_model(source).predict(Dataset.read(folder / f"{name}.cif")).values[0] for name in good]
    assert [float(row["prediction"]) for row in rows] == alone
    listed = {row["id"]: row for row in lines(tmp_path / "p.skipped.csv")}
    assert sorted(listed) == bad
    for name, reason in zip(bad, ("block", "occupancy 0.5", "atoms overlap", "empty"), strict=True):
        assert listed[name]["file"] == str(folder / f"{name}.cif")
        assert reason in listed[name]["reason"]
    assert (done.n, done.skipped, done.skipped_list) == (8, 4, tmp_path / "p.skipped.csv")
    for name in bad:
        (folder / f"{name}.cif").unlink()
    predict(source, [folder], out)
    assert not (tmp_path / "p.skipped.csv").exists()


def test_finished_chunks_survive_a_bad_structure(folder, source, tmp_path, calls):
    (folder / "s02.cif").unlink()
    with pytest.raises(InputError, match=r"s05\.cif"):
        predict(source, [folder], tmp_path / "p.csv", chunk_size=2)
    assert calls == [2, 2, 1]
    calls.clear()
    assert predict(source, [folder], tmp_path / "p.csv", chunk_size=2, skip_bad=True).skipped == 3
    assert len(calls) == 3


def test_all_bad(source, tmp_path):
    (tmp_path / "a.cif").write_text("nothing")
    assert predict(source, [tmp_path / "a.cif"], tmp_path / "p.csv", skip_bad=True).n == 0
    assert lines(tmp_path / "p.csv") == []
    assert len(lines(tmp_path / "p.skipped.csv")) == 1


@pytest.mark.parametrize("size", [1000, 50])
def test_repeated_ids(crystals, source, tmp_path, size):
    for name, part in (("a", crystals), ("b", crystals[40:][::-1])):
        write_dataset(part, tmp_path / f"{name}.extxyz")
    files = [tmp_path / "a.extxyz", tmp_path / "b.extxyz"]
    where = rf"15 more; salt-59 stands in {files[0]} and in {files[1]}"
    with pytest.raises(InputError, match=rf"used more than once: salt-59, salt-58.*{where}"):
        predict(source, files, tmp_path / "p.csv", chunk_size=size)
    done = predict(source, files, tmp_path / "p.csv", chunk_size=size, skip_bad=True)
    assert (done.n, done.skipped) == (60, 20)
    assert {row["file"] for row in lines(done.skipped_list)} == {str(files[1])}
    assert [row["id"] for row in lines(tmp_path / "p.csv")] == crystals.ids.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sort": "colour"}, "cannot sort by 'colour'"),
        ({"top": 3}, "--sort"),
        ({"descending": True}, "--sort"),
        ({"sort": "prediction", "top": 0}, "at least 1"),
        ({"workers": 0}, "at least 1"),
    ],
)
def test_bad_options_leave_nothing(salts, source, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        predict(source, [salts], tmp_path / "out" / "p.csv", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_the_way(salts, source, tmp_path):
    with pytest.raises(InputError, match="in the way"):
        predict(source, [salts], tmp_path)


def test_a_bad_file_name_leaves_nothing(source, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.cif: no such file"):
        predict(source, ["nowhere.cif"], tmp_path / "out" / "p.csv")
    assert not (tmp_path / "out").exists()


def test_the_lists_of_skipped_structures_of_two_runs_are_two(salts, source, tmp_path):
    (tmp_path / "bad.xyz").write_text("1\n\nQq 0 0 0\n")
    done = predict(source, [salts, tmp_path / "bad.xyz"], tmp_path / "run.v1", skip_bad=True)
    assert done.skipped_list == tmp_path / "run.v1.skipped.csv"
    predict(source, [salts], tmp_path / "run.v2")
    assert done.skipped_list.exists()


def test_inputs_are_never_written_over(salts, source, tmp_path):
    mine = tmp_path / "mine.extxyz"
    mine.write_bytes(salts.read_bytes())
    (tmp_path / "link.csv").symlink_to(mine)
    for out in (mine, tmp_path / "link.csv"):
        with pytest.raises(InputError, match="one of the inputs"):
            predict(source, [mine], out)
    assert mine.read_bytes() == salts.read_bytes()


def test_a_second_run_with_the_same_output_is_refused_while_the_first_lasts(
    salts, source, tmp_path, monkeypatch
):
    def write_chunk(self, path, original=job.Results.write):
        with pytest.raises(InputError, match="another run"):
            predict(source, [salts], tmp_path / "p.csv")
        original(self, path)

    monkeypatch.setattr(job.Results, "write", write_chunk)
    assert predict(source, [salts], tmp_path / "p.csv").n == 60
