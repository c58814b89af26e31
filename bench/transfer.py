"""Shoal's transfers beside other systems, in one run on loopback: `make bench-transfer`.

Owns the order of the run and what stands in its output. Each run takes the systems in turn, each
with fresh processes: one large file from one end to the other, then a folder of many small ones.
What arrived is hashed and compared every time.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.machine import machine
from bench.movers import NAMES, mover_of
from bench.movers.base import Load, Moved, Mover, NotMeasured
from bench.movers.load import digest_of, make_file, make_folder

RUNS_MAX = 20
SIZE_MAX_BYTES = 100_000_000_000
FILES_MAX = 100_000
UNITS = {"K": 1_000, "M": 1_000_000, "G": 1_000_000_000}
OURS = "shoal"
MEMORY_FOLDER = Path("/dev/shm")
GOALS = (
    ("libtorrent-encrypted", 3.0),
    ("libtorrent", 2.0),
    ("socket", 0.8),
)
"""How many times as fast as these Shoal is to be with one file and one holder."""
FIRST_BYTE_GOAL_MS = 50.0
FILES_GOAL_HZ = 2_000.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is moved, by whom and how often."""

    movers: tuple[str, ...] = NAMES
    runs: int = 5
    size_bytes: int = 1_000_000_000
    """Of the one file; 0 leaves it out."""
    files: int = 10_000
    """In the folder; 0 leaves it out."""
    file_bytes: int = 4_096
    is_sparse: bool = False
    """The one file is all zeros and takes no room, for sizes that would not fit twice."""
    folder: str | None = None
    """Where the files lie; None for memory where there is room, else the temporary folder."""


@dataclass(frozen=True, slots=True)
class Row:
    """One transfer in figures."""

    mb_per_s: float
    files_per_s: float
    sender_cpu_s_per_gb: float
    receiver_cpu_s_per_gb: float
    sender_rss_mb: float
    receiver_rss_mb: float
    first_byte_ms: float | None


@dataclass(slots=True)
class Measured:
    """All that came of one load."""

    title: str
    rows: dict[str, list[Row]]
    missing: dict[str, str]
    """System → why it was not measured."""


def run_all(plan: Plan) -> list[Measured]:
    """Measure each system of the plan with each load, alternating between the systems."""
    with tempfile.TemporaryDirectory(prefix="shoal-bench-", dir=place_of(plan)) as name:
        folder = Path(name)
        print(f"  files lie in {folder}", file=sys.stderr)
        all_ = []
        if plan.size_bytes:
            load = make_file(folder / "holiday-film.bin", plan.size_bytes, is_sparse=plan.is_sparse)
            all_.append(measure(_size(plan.size_bytes), load, plan, folder))
            load.path.unlink()
        if plan.files:
            load = make_folder(folder / "holiday-pictures", plan.files, plan.file_bytes)
            title = f"{plan.files:,} files of {_size(plan.file_bytes)}"
            all_.append(measure(title, load, plan, folder))
        return all_


def measure(title: str, load: Load, plan: Plan, folder: Path) -> Measured:
    """Move one load by each system, as often as planned."""
    measured = Measured(title, {}, {})
    for run in range(plan.runs):
        for name in plan.movers:
            if name in measured.missing:
                continue
            try:
                row = move_once(mover_of(name), load, folder)
            except NotMeasured as why:
                measured.missing[name] = str(why)
                continue
            measured.rows.setdefault(name, []).append(row)
            done = f"{name} {run + 1}/{plan.runs}: {row.mb_per_s:.0f} MB/s"
            print(f"  {title}: {done}", file=sys.stderr)
    return measured


def move_once(mover: Mover, load: Load, folder: Path) -> Row:
    """Move a load once; what arrived must be what was sent."""
    place = folder / "run"
    place.mkdir()
    try:
        moved = mover.move(load, place)
        if moved.result is not None and digest_of(moved.result) != load.digest:
            raise SystemExit(f"{mover.name}: what arrived is not what was sent")
        return row_of(moved, load)
    finally:
        shutil.rmtree(place)


def row_of(moved: Moved, load: Load) -> Row:
    """Turn a transfer into figures."""
    gb = load.size_bytes / 1e9
    return Row(
        mb_per_s=load.size_bytes / 1e6 / moved.seconds,
        files_per_s=load.files / moved.seconds,
        sender_cpu_s_per_gb=moved.sender.cpu_s / gb,
        receiver_cpu_s_per_gb=moved.receiver.cpu_s / gb,
        sender_rss_mb=moved.sender.rss_bytes / 1e6,
        receiver_rss_mb=moved.receiver.rss_bytes / 1e6,
        first_byte_ms=None if moved.first_byte_s is None else moved.first_byte_s * 1e3,
    )


def place_of(plan: Plan) -> str:
    """The folder for all files: memory, unless there is no room or another was given."""
    if plan.folder is not None:
        return plan.folder
    needed = 4 * (plan.size_bytes + plan.files * plan.file_bytes)
    if MEMORY_FOLDER.is_dir() and shutil.disk_usage(MEMORY_FOLDER).free > needed:
        return str(MEMORY_FOLDER)
    return tempfile.gettempdir()


# Output


def show(plan: Plan, all_: Sequence[Measured]) -> str:
    """Lay out everything that a reader needs to judge the figures, as Markdown."""
    lines = [*(f"- {name}: {value}" for name, value in machine().items())]
    lines += [f"- versions: {'; '.join(_versions(plan.movers))}", *_conditions(plan)]
    for measured in all_:
        lines += ["", f"**{measured.title}**", "", *_table(measured)]
        lines += [f"- {name}: not measured: {why}" for name, why in measured.missing.items()]
    goals = [line for measured in all_ for line in _goals(measured)]
    if goals:
        lines += ["", "**Goals**", "", *goals]
    return "\n".join(lines)


def _conditions(plan: Plan) -> list[str]:
    return [
        f"- files in {place_of(plan)}, loopback, each end a process of its own",
        f"- medians of {plan.runs} runs, lowest to highest in brackets, systems in turn",
    ]


def _versions(movers: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for name in movers:
        try:
            found[mover_of(name).version()] = None
        except NotMeasured:
            continue
    return list(found)


HEADS = (
    "system",
    "MB/s",
    "shoal is",
    "CPU s/GB sender",
    "receiver",
    "peak RSS MB sender",
    "receiver",
)


def _table(measured: Measured) -> list[str]:
    many = measured.title.partition(" ")[2].startswith("files")
    heads = [HEADS[0], "files/s" if many else "MB/s", *HEADS[2:]]
    lines = ["| " + " | ".join(heads) + " |", "| --- " + "| ---: " * (len(heads) - 1) + "|"]
    ours = measured.rows.get(OURS)
    for name, rows in measured.rows.items():
        speeds = [row.files_per_s if many else row.mb_per_s for row in rows]
        middle = statistics.median(speeds)
        ratio = f"{speed_ratio(ours, rows):.2f}x" if ours else "-"
        cells = [
            name,
            f"{middle:,.0f} ({min(speeds):,.0f}–{max(speeds):,.0f})",
            ratio,
            f"{statistics.median(row.sender_cpu_s_per_gb for row in rows):.2f}",
            f"{statistics.median(row.receiver_cpu_s_per_gb for row in rows):.2f}",
            f"{max(row.sender_rss_mb for row in rows):,.0f}",
            f"{max(row.receiver_rss_mb for row in rows):,.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def speed_ratio(ours: Sequence[Row], theirs: Sequence[Row]) -> float:
    """How many times as fast ours is, by medians."""
    return statistics.median(row.mb_per_s for row in ours) / statistics.median(
        row.mb_per_s for row in theirs
    )


def _goals(measured: Measured) -> list[str]:
    """Say of each goal whether it is reached."""
    ours = measured.rows.get(OURS)
    if not ours:
        return []
    lines = []
    if ours[0].files_per_s > ours[0].mb_per_s:
        files_hz = statistics.median(row.files_per_s for row in ours)
        lines.append(_goal("files/s", files_hz, FILES_GOAL_HZ, ""))
        for name, rows in measured.rows.items():
            if name not in (OURS, "socket") and not name.startswith(f"{OURS}-"):
                lines.append(_goal(f"as fast as {name}", speed_ratio(ours, rows), 1.0, "x"))
        return lines
    for name, goal in GOALS:
        if name in measured.rows:
            ratio = speed_ratio(ours, measured.rows[name])
            lines.append(_goal(f"as fast as {name}", ratio, goal, "x"))
    first = [row.first_byte_ms for row in ours if row.first_byte_ms is not None]
    if first:
        took_ms = statistics.median(first)
        reached = "reached" if took_ms <= FIRST_BYTE_GOAL_MS else "MISSED"
        wanted = f"at most {FIRST_BYTE_GOAL_MS:.0f}"
        lines.append(f"- first byte written after {took_ms:.0f} ms, {wanted}: {reached}")
    return lines


def _goal(what: str, value: float, goal: float, unit: str) -> str:
    reached = "reached" if value >= goal else "MISSED"
    return f"- {value:,.2f}{unit} {what}, at least {goal:,g}{unit}: {reached}"


def _size(size_bytes: int) -> str:
    if size_bytes % 1024 == 0 and size_bytes < 1_000_000:
        return f"{size_bytes // 1024} KiB"
    unit, of = next(
        ((unit, of) for unit, of in reversed(UNITS.items()) if size_bytes >= of), ("", 1)
    )
    return f"{size_bytes / of:g} {unit}B"


# Command line


def size_of(text: str) -> int:
    """Read a size such as 500M; ValueError."""
    unit = UNITS.get(text[-1:].upper(), 1)
    size = int(text[:-1] if unit > 1 else text) * unit
    if not 0 <= size <= SIZE_MAX_BYTES:
        raise ValueError(f"a size between 0 and {SIZE_MAX_BYTES // UNITS['G']}G")
    return size


def _plan_of(arguments: argparse.Namespace) -> Plan:
    movers = tuple(arguments.only.split(","))
    unknown = [name for name in movers if name not in NAMES]
    if unknown:
        raise SystemExit(f"no system {unknown[0]!r}; there are {', '.join(NAMES)}")
    return Plan(
        movers=movers,
        runs=min(max(1, arguments.runs), RUNS_MAX),
        size_bytes=arguments.size,
        files=min(max(0, arguments.files), FILES_MAX),
        is_sparse=arguments.sparse,
        folder=arguments.folder,
    )


def parser() -> argparse.ArgumentParser:
    """Build what reads the command line."""
    plan = Plan()
    parser = argparse.ArgumentParser(prog="bench.transfer", description=__doc__)
    parser.add_argument("--only", default=",".join(NAMES), help="which, with commas between")
    parser.add_argument("--runs", type=int, default=plan.runs)
    parser.add_argument("--size", type=size_of, default="1G", help="of the file; 0 for none")
    parser.add_argument("--files", type=int, default=plan.files, help="in the folder; 0 for none")
    parser.add_argument("--sparse", action="store_true", help="a file of zeros, for large sizes")
    parser.add_argument("--folder", help="where the files lie, on a disk for instance")
    parser.add_argument("--json", type=Path, help="write all figures of all runs here")
    return parser


def main(given: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    arguments = parser().parse_args(given)
    plan = _plan_of(arguments)
    began = time.monotonic()
    all_ = run_all(plan)
    print(show(plan, all_))
    print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr)
    if arguments.json is not None:
        whole = {
            "machine": machine(),
            "versions": _versions(plan.movers),
            "plan": asdict(plan),
            "loads": [asdict(measured) for measured in all_],
        }
        arguments.json.write_text(json.dumps(whole, indent=1), "utf-8")


if __name__ == "__main__":
    main()
