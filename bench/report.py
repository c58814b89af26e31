"""Figures of a benchmark as a table with ratios. Owns its layout; measures nothing."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LABEL_CHARS = 30
CELL_CHARS = 15


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: what is measured, its unit, and whether less of it is better."""

    name: str
    unit: str
    less_is_better: bool = True

    def ratio(self, ours: float, theirs: float) -> float:
        """How many times better ours is; below 1 it is worse."""
        better, worse = (theirs, ours) if self.less_is_better else (ours, theirs)
        return better / worse if worse else float("inf")


def medians(repetitions: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over the repetitions of one system."""
    return {name: statistics.median(each[name] for each in repetitions) for name in repetitions[0]}


def table(
    figures: Sequence[Figure],
    columns: Mapping[str, Mapping[str, float]],
    *,
    ours: str,
    against: Sequence[str],
) -> str:
    """Lay out one row a figure: a column a system, then how many times better `ours` is."""
    rivals = [name for name in against if name in columns and ours in columns]
    heads = [*columns, *(f"{ours}/{name}" for name in rivals)]
    lines = [_line("", heads), _line("", ["-" * (CELL_CHARS - 2)] * len(heads))]
    for figure in figures:
        cells = [_number(column.get(figure.name)) for column in columns.values()]
        for rival in rivals:
            mine, other = columns[ours].get(figure.name), columns[rival].get(figure.name)
            if mine is None or other is None:
                cells.append("-")
            else:
                cells.append(f"{figure.ratio(mine, other):.2f}x")
        lines.append(_line(f"{figure.name}, {figure.unit}", cells))
    return "\n".join(lines)


def _line(label: str, cells: Sequence[str]) -> str:
    return (label.ljust(LABEL_CHARS) + "".join(cell.rjust(CELL_CHARS) for cell in cells)).rstrip()


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
