import io

import numpy as np
import pytest
from rich.console import Console

from matgraft.evaluation.tables import Table, number, spread


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0412, "0.0412"),
        (0.041, "0.0410"),
        (3.724, "3.72"),
        (-12.36, "-12.4"),
        (1234.6, "1235"),
        (80000.4, "80,000"),
        (1.234e-7, "1.23e-07"),
        (0.0, "0"),
        (float("nan"), "nan"),
        (400, "400"),
        (np.int64(14_000), "14,000"),
        (np.float32(0.5), "0.500"),
    ],
)
def test_numbers_are_written_for_readers(value, shown):
    assert number(value) == shown


def test_spread_is_mean_and_sample_standard_deviation():
    assert spread([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert spread(np.array([3.61, 3.83]), digits=3) == f"3.720 ± {0.11 * np.sqrt(2):.3f}"


def test_spread_of_one_repeat_claims_none():
    assert spread([3.724]) == "3.72"


def test_spread_counts_what_it_leaves_out():
    assert spread([1.0, 3.0, np.nan]) == "2.00 ± 1.41 (2 of 3)"
    assert spread([]) == spread([np.nan]) == "–"  # noqa: RUF001


TABLE = Table(
    ["method", "labels", "MAE (eV)", "within"],
    [["direct [tl_0]", 100, "3.70 ± 0.11", "31 %"], ["graft|x", 14_000, 0.0412, None]],
    "FeTiV",
    "Five seeds.",
)


def test_markdown():
    assert TABLE.markdown() == (
        "**FeTiV**\n"
        "\n"
        "| method           | labels |    MAE (eV) | within |\n"
        "| ---------------- | -----: | ----------: | -----: |\n"
        "| direct \\[tl\\_0\\] |    100 | 3.70 ± 0.11 |   31 % |\n"
        "| graft\\|x         | 14,000 |      0.0412 |      – |\n"  # noqa: RUF001
        "\n"
        "*Five seeds.*\n"
    )


def test_text():
    assert TABLE.text() == (
        "FeTiV\n"
        "\n"
        "method         labels     MAE (eV)  within\n"
        "-------------  ------  -----------  ------\n"
        "direct [tl_0]     100  3.70 ± 0.11    31 %\n"
        "graft|x        14,000       0.0412       –\n"  # noqa: RUF001
        "\n"
        "Five seeds.\n"
    )


def test_rich_takes_no_cell_for_markup():
    stream = io.StringIO()
    Console(file=stream, width=100).print(TABLE.rich())
    assert "direct [tl_0]" in stream.getvalue()
    assert "14,000" in stream.getvalue()


def test_a_table_without_rows_is_a_header():
    assert Table(["a", "b"], []).markdown() == "| a   | b   |\n| --- | --- |\n"
    assert Table(["a", "b"], []).text() == "a  b\n-  -\n"


def test_truth_is_yes_or_no():
    assert Table(["resumed"], [[True], [np.False_]]).text().split() == ["resumed", "-------", "yes", "no"]


def test_rows_must_fit_the_columns():
    with pytest.raises(ValueError, match="row 1 has 1 cells for 2 columns"):
        Table(["a", "b"], [[1, 2], [3]])
