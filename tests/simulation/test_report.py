import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.report import Bound, Check, Curve, Plot, Report, mean, percentile, show


def test_a_report_reads_as_a_table_that_markdown_takes() -> None:
    report = Report()
    report.table("Some figures", ("what", "ms"), [("get", 1.0), ("publish", 12_345)])
    report.at_most("get", 1.0, 2.0, "ms")
    report.at_least("found", 50.0, 99.9, "%")
    assert report.text() == (
        "**Some figures**\n\n"
        "| what    |     ms |\n"
        "| ------- | -----: |\n"
        "| get     |   1.00 |\n"
        "| publish | 12,345 |\n\n"
        "**Figures to reach**\n\n"
        "| figure | is      | bound     |        |\n"
        "| ------ | ------- | --------- | ------ |\n"
        "| get    | 1.00 ms | ≤ 2.00 ms | ok     |\n"
        "| found  | 50.00 % | ≥ 99.90 % | MISSED |\n"
    )
    assert [check.name for check in report.missed] == ["found"]


@pytest.mark.parametrize(
    ("figure", "bound", "is_met"),
    [
        (1.0, Bound.AT_MOST, True),
        (1.1, Bound.AT_MOST, False),
        (1.0, Bound.AT_LEAST, True),
        (0.9, Bound.AT_LEAST, False),
        (1.0, Bound.EQUAL, True),
        (0.9, Bound.EQUAL, False),
        (math.nan, Bound.AT_MOST, False),
        (math.nan, Bound.AT_LEAST, False),
        (math.nan, Bound.EQUAL, False),
    ],
)
def test_a_figure_is_within_its_bound_or_missed(figure: float, bound: Bound, is_met: bool) -> None:
    assert Check("x", figure, bound, 1.0).is_met is is_met


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_nothing_measured_is_no_figure() -> None:
    assert math.isnan(percentile([], 0.5))
    assert math.isnan(mean([]))
    assert show(math.nan) == "none"


def test_a_plot_gives_the_same_bytes_each_time(tmp_path: Path) -> None:
    plotting = pytest.importorskip("simulation.plot", reason="matplotlib is not installed")
    plot = Plot("p", "title", "x", "y", [Curve("a", [(1, 2), (10, 3)])], is_log_x=True)
    first = plotting.draw(plot, tmp_path / "one").read_bytes()
    assert first == plotting.draw(plot, tmp_path / "two").read_bytes()
    assert b"title" in first
    assert b"<dc:date>" not in first
