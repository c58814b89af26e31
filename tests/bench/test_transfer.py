import json
import sys
from pathlib import Path

import pytest

from bench import transfer
from bench.movers import NAMES, mover_of
from bench.movers.base import Load, Moved, Usage
from bench.movers.load import digest_of, make_file, make_folder
from bench.movers.process import MemoryWatch, Process, peak_rss_bytes, run_metered
from tests.support.waiting import until

SIZE = 1_500_000


def row(mb_per_s: float, first_byte_ms: float | None = None) -> transfer.Row:
    return transfer.Row(mb_per_s, 1 / 60, 1.5, 2.5, 60.0, 90.0, first_byte_ms)


def test_table_shows_medians_and_how_many_times_as_fast_shoal_is() -> None:
    rows = {
        "shoal": [row(300, 40), row(500, 42), row(400, 90)],
        "libtorrent": [row(100), row(200), row(900)],
        "socket": [row(800)],
    }
    shown = transfer.show(
        transfer.Plan(movers=("shoal",)),
        [transfer.Measured("1 GB", rows, {"wormhole": "it is not installed"})],
    )
    assert "| shoal | 400 (300–500) | 1.00x | 1.50 | 2.50 | 60 | 90 |" in shown
    assert "| libtorrent | 200 (100–900) | 2.00x |" in shown
    assert "- wormhole: not measured: it is not installed" in shown
    assert "- 2.00x as fast as libtorrent, at least 2x: reached" in shown
    assert "- 0.50x as fast as socket, at least 0.8x: MISSED" in shown
    assert "- first byte written after 42 ms, at most 50: reached" in shown


def test_many_files_are_judged_by_files_a_second() -> None:
    load = Load(Path("pictures"), 4_096_000, 1_000, b"")
    moved = Moved(2.0, Usage(1.0, 50_000_000), Usage(2.0, 60_000_000), None)
    rows = {"shoal": [transfer.row_of(moved, load)], "aria2": [row(1.0)], "socket": [row(9.0)]}
    shown = transfer.show(
        transfer.Plan(movers=("shoal",)), [transfer.Measured("1,000 files of 4 KiB", rows, {})]
    )
    assert "| shoal | 500 (500–500) |" in shown
    assert "- 500.00 files/s, at least 2,000: MISSED" in shown
    assert "- 2.05x as fast as aria2, at least 1x: reached" in shown
    assert "as fast as socket" not in shown


def test_plain_copy_brings_a_file_and_a_folder(tmp_path: Path) -> None:
    loads = [
        make_file(tmp_path / "file", SIZE),
        make_folder(tmp_path / "folder", files=120, file_bytes=100),
    ]
    for load in loads:
        measured = transfer.move_once(mover_of("socket"), load, tmp_path)
        assert measured.mb_per_s > 0
        assert measured.receiver_rss_mb > 1


def test_what_arrives_damaged_ends_the_run(tmp_path: Path) -> None:
    load = make_file(tmp_path / "file", SIZE)

    class Damaging:
        name = "damaging"

        def version(self) -> str:
            return "none"

        def move(self, load: Load, folder: Path) -> Moved:
            result = folder / "result"
            result.write_bytes(load.path.read_bytes()[:-1] + b"?")
            return Moved(1.0, Usage(0, 0), Usage(0, 0), result)

    with pytest.raises(SystemExit, match="not what was sent"):
        transfer.move_once(Damaging(), load, tmp_path)
    assert not (tmp_path / "run").exists()


def test_digest_of_a_folder_covers_names_and_borders_of_files(tmp_path: Path) -> None:
    contents = [{"a": b"12", "b": b"3"}, {"a": b"1", "b": b"23"}, {"a": b"12", "c": b"3"}]
    digests = set()
    for number, files in enumerate(contents):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        digests.add(digest_of(folder))
    assert len(digests) == 3


def test_a_command_is_charged_with_its_time_and_memory(tmp_path: Path) -> None:
    program = "import time\nb = b'x' * 80_000_000\nt = time.process_time\nwhile t() < 0.4: pass"
    seconds, usage = run_metered([sys.executable, "-c", program], tmp_path)
    assert seconds > 0.3
    assert 0.4 <= usage.cpu_s < 5
    assert usage.rss_bytes > 80_000_000
    with pytest.raises(RuntimeError, match="broken"):
        run_metered([sys.executable, "-c", "raise SystemExit('broken')"], tmp_path)


def test_memory_of_a_process_that_ended_meanwhile_is_known(tmp_path: Path) -> None:
    program = "b = b'x' * 80_000_000\nprint('ready', flush=True)\ninput()"
    with Process([sys.executable, "-c", program], tmp_path) as process:
        assert process.hear() == "ready"
        watch = MemoryWatch(process.pid)
        until(lambda: watch.peak_bytes > 80_000_000)
        process.say("end")
        until(lambda: peak_rss_bytes(process.pid) == 0)
        assert watch.end() > 80_000_000


def test_an_absent_program_is_named_and_the_others_go_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("bench.movers.process.SYSTEM_PATH", str(tmp_path))
    plan = transfer.Plan(movers=("iperf3", "socket"), runs=1, folder=str(tmp_path))
    load = make_file(tmp_path / "file", SIZE)
    measured = transfer.measure("1.5 MB", load, plan, tmp_path)
    assert measured.missing == {"iperf3": "iperf3 is not installed"}
    assert [*measured.rows] == ["socket"]


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("12", 12), ("500M", 500_000_000), ("20g", 20_000_000_000)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert transfer.size_of(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1T", "200G"])
def test_sizes_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(SystemExit):
        transfer.main(["--size", text])


def test_an_unknown_system_is_named() -> None:
    with pytest.raises(SystemExit, match="carrier pigeon"):
        transfer.main(["--only", "carrier pigeon"])
    with pytest.raises(KeyError):
        mover_of("carrier pigeon")
    assert {"shoal", "libtorrent", "wormhole", "aria2", "socket", "iperf3"} <= set(NAMES)


def test_all_figures_of_a_run_are_written(tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.json"
    given = ["--only", "socket", "--runs", "2", "--size", "1M", "--files", "0"]
    transfer.main([*given, "--folder", str(tmp_path), "--json", str(out)])
    written = json.loads(out.read_text())
    assert written["plan"]["size_bytes"] == 1_000_000
    assert len(written["loads"][0]["rows"]["socket"]) == 2
    assert "| socket |" in capsys.readouterr().out
