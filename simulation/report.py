"""What a scenario found out: tables, checks against bounds, curves for plots; and their text.

Owns the form of the output: the same figures give the same bytes. Must not know how figures came
about. Tables are Markdown, so that documents can hold them as they are printed.
"""

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

Cell = str | int | float


class Bound(enum.Enum):
    """Which side of its bound a figure must be on."""

    AT_MOST = "≤"
    AT_LEAST = "≥"
    EQUAL = "="


@dataclass(frozen=True, slots=True)
class Check:
    """A figure that a scenario must reach."""

    name: str
    figure: float
    bound: Bound
    limit: float
    unit: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the figure is within its bound; NaN never is."""
        match self.bound:
            case Bound.AT_MOST:
                return self.figure <= self.limit
            case Bound.AT_LEAST:
                return self.figure >= self.limit
            case Bound.EQUAL:
                return self.figure == self.limit


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of figures under named columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of one line of a plot."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture; `name` is its file's, without the ending."""

    name: str
    title: str
    x: str
    y: str
    curves: Sequence[Curve]
    is_log_x: bool = False
    is_log_y: bool = False


@dataclass(slots=True)
class Report:
    """All that one scenario found out."""

    tables: list[Table] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Add a table."""
        self.tables.append(Table(title, columns, rows))

    def at_most(self, name: str, figure: float, limit: float, unit: str = "") -> None:
        """Add a figure that must not be above its limit."""
        self.checks.append(Check(name, figure, Bound.AT_MOST, limit, unit))

    def at_least(self, name: str, figure: float, limit: float, unit: str = "") -> None:
        """Add a figure that must not be below its limit."""
        self.checks.append(Check(name, figure, Bound.AT_LEAST, limit, unit))

    def equal(self, name: str, figure: float, limit: float, unit: str = "") -> None:
        """Add a figure that must be exact."""
        self.checks.append(Check(name, figure, Bound.EQUAL, limit, unit))

    @property
    def missed(self) -> list[Check]:
        """The checks whose figures are out of bounds."""
        return [check for check in self.checks if not check.is_met]

    def text(self) -> str:
        """Return all tables, the checks last, as Markdown."""
        tables = list(self.tables)
        if self.checks:
            rows = [
                [
                    check.name,
                    _with_unit(check.figure, check.unit),
                    f"{check.bound.value} {_with_unit(check.limit, check.unit)}",
                    "ok" if check.is_met else "MISSED",
                ]
                for check in self.checks
            ]
            tables.append(Table("Figures to reach", ("figure", "is", "bound", ""), rows))
        return "\n\n".join(_text_of(table) for table in tables) + "\n"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile; NaN of nothing."""
    if not values:
        return math.nan
    rank = max(1, math.ceil(share * len(values)))
    return sorted(values)[rank - 1]


def mean(values: Sequence[float]) -> float:
    """Return the mean; NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def show(value: Cell) -> str:
    """Show a figure with three significant digits or more; whole numbers with groups."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "none"
    if value == 0 or abs(value) >= 1_000:
        return f"{value:,.0f}"
    decimals = 3 if abs(value) < 1 else 2 if abs(value) < 100 else 1
    return f"{value:.{decimals}f}"


def _with_unit(value: float, unit: str) -> str:
    return f"{show(value)} {unit}".rstrip()


def _text_of(table: Table) -> str:
    rows = [[show(cell) for cell in row] for row in table.rows]
    lines = [list(table.columns), *rows]
    widths = [max(3, *(len(line[index]) for line in lines)) for index in range(len(table.columns))]
    left = [all(isinstance(row[index], str) for row in table.rows) for index in range(len(widths))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(cells, widths, left, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if is_left else "-" * (width - 1) + ":"
        for width, is_left in zip(widths, left, strict=True)
    ]
    return "\n".join([f"**{table.title}**", "", line(table.columns), line(rule), *map(line, rows)])
