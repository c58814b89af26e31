import io
import subprocess
import sys
from pathlib import Path

import pytest

from console.progress import Bars

ROOT = Path(__file__).resolve().parents[2]


def event(name: str, done: int) -> dict[str, object]:
    return {"name": name, "phase": "fetching", "done_bytes": done, "size_bytes": 2000, "peers": 2}


def test_bar_shows_phase_name_and_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    bars = Bars(stream, shown=True)
    for done in (0, 1000, 2000):
        bars.update(event("[/red]\u202ex", done))
    bars.stop()
    shown = stream.getvalue()
    assert "fetching [/red]\\u202ex" in shown
    assert "from 2 peers" in shown
    assert "\u202e" not in shown


def test_bar_of_a_folder_shows_files_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    bars = Bars(stream, shown=True)
    for done in (0, 1000):
        bars.update({**event("many", done), "files_done": 5 * done, "files": 10_000})
    bars.stop()
    assert "5,000 of 10,000 files  from 2 peers" in stream.getvalue()


def test_endless_names_make_no_endless_bars() -> None:
    bars = Bars(io.StringIO(), shown=True)
    for number in range(1000):
        bars.update(event(f"n{number}", 1))
    assert len(bars._tasks) <= 16
    bars.stop()


def test_unseen_bars_load_nothing() -> None:
    code = (
        "import io, sys; from console.progress import Bars\n"
        "bars = Bars(io.StringIO(), shown=False); bars.update({}); bars.stop()\n"
        "sys.exit('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
