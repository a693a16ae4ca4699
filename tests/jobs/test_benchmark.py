"""The learning-curve protocol and its resumption."""

from __future__ import annotations

import json

import numpy as np
import pytest

from matgraft.errors import InputError
from matgraft.evaluation.protocol import learning_curve_subsets
from matgraft.jobs.benchmark import benchmark, summarise


def test_subsets_are_the_published_ones(crystals):
    subsets = learning_curve_subsets(crystals, [10, 20, 40], 15, 2)
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


def test_too_few_structures(crystals):
    with pytest.raises(InputError, match="50"):
        learning_curve_subsets(crystals, [50], 15, 1)


def test_parts_are_averaged_within_a_seed():
    results = [
        {"seed": seed, "size": 10, "part": part, "scores": {"tl1": {"mae_ev": value}}}
        for seed, part, value in [(0, 0, 1.0), (0, 1, 3.0), (1, 0, 5.0), (1, 1, 7.0)]
    ]
    assert summarise(results) == {"tl1": {"10": {"mae_ev": [2.0, 6.0]}}}


@pytest.mark.slow
def test_runs_and_resumes(salts, source, tmp_path):
    options = {
        "sizes": [20, 40],
        "val_size": 12,
        "schemes": ["direct", "tl3/labels"],
        "seeds": 1,
        "source": source,
    }
    report = benchmark(salts, "energy", tmp_path / "out", workers=1, **options)
    assert set(report["summary"]) >= {"direct", "tl3/labels", "references_alone", "source_plus_references"}
    assert len(report["results"]) == 9
    for name in ("benchmark.json", "benchmark.md", "benchmark.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    fits = sorted((tmp_path / "out" / "fits").iterdir())
    fits[0].unlink()
    kept = {path: path.stat().st_mtime_ns for path in fits[1:]}
    again = benchmark(salts, "energy", tmp_path / "out", workers=1, **options)
    assert json.dumps(again["summary"]) == json.dumps(report["summary"])
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schemes": ["tl1/best"]}, "no reference mode"),
        ({"schemes": ["tl7"]}, "no scheme named"),
        ({"source": None, "schemes": ["tl1"]}, "needs? a source|starts from a source"),
        ({"sizes": [70]}, "70"),
    ],
)
def test_bad_requests_leave_nothing_behind(salts, source, tmp_path, options, message):
    settings = {"sizes": [20], "val_size": 12, "schemes": ["direct"], "source": source, **options}
    with pytest.raises(InputError, match=message):
        benchmark(salts, "energy", tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
