import dataclasses
import io
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from console.table import LiveTable, table_of
from peer.views import (
    PeerState,
    PeerView,
    Snapshot,
    StatusView,
    TransferView,
    snapshot_from_json,
    to_json,
)

ROOT = Path(__file__).resolve().parents[2]
STATUS = StatusView(
    id="k5ta7q3mzd2xw4yfh6jplc3vbn5es2gr",
    nickname="ada",
    address="192.0.2.10:4100",
    network="class",
    pid=1,
    peers_active=1,
    peers_known=2,
    shares=3,
    uptime_s=61.0,
    private=True,
    mailbox=True,
    queue="broker",
    version="1",
)
BOB = PeerView("b" * 32, "bob", "192.0.2.11:1", PeerState.ACTIVE, "2026-01-01T00:00:00Z", 1.5)
CAROL = PeerView("c" * 32, "carol", "192.0.2.12:1", PeerState.INACTIVE, "2026-01-01T00:00:00Z")
AT_ONE = 1767229200.0  # 2026-01-01T01:00:00Z


def drawn(snapshot: Snapshot, width: int = 120) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(table_of(snapshot, wall_s=AT_ONE))
    return stream.getvalue()


def test_active_and_inactive_peers_are_told_apart() -> None:
    lines = drawn(Snapshot(STATUS, (CAROL, BOB))).splitlines()
    bob = next(line for line in lines if "bob" in line)
    carol = next(line for line in lines if "carol" in line)
    assert "● active" in bob
    assert "1.5 ms" in bob
    assert "○ inactive" in carol
    assert "1 h ago" in carol
    assert lines.index(bob) < lines.index(carol)


def test_invite_is_shown_where_there_is_one() -> None:
    assert "shoal join shoal1-abc" in drawn(Snapshot(STATUS, invite="shoal1-abc"))
    assert "to join" not in drawn(Snapshot(STATUS))


def test_running_transfers_show_rate_size_and_peers() -> None:
    transfer = TransferView("film.mp4", "download", 1, 734_000_000, 96_500_000.0, 3)
    line = next(
        text for text in drawn(Snapshot(STATUS, (), (transfer,))).splitlines() if "film" in text
    )
    assert "734 MB" in line
    assert "96.5 MB/s" in line
    assert "download" in line


def test_names_of_others_are_neither_markup_nor_control() -> None:
    forged = "[/red]\x1b[31m\u202eevil[bold]"
    peer = dataclasses.replace(BOB, nickname=forged, address=forged, id=forged)
    transfer = TransferView(forged, forged, 1, 2, 3.0, 1)
    status = dataclasses.replace(STATUS, nickname=forged, network=forged, queue=forged)
    text = drawn(Snapshot(status, (peer,), (transfer,), invite=forged), width=300)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("[/red]\\x1b[31m\\u202eevil[bold]") >= 5


def test_long_lists_are_cut_and_say_so() -> None:
    peers = tuple(dataclasses.replace(BOB, nickname=f"n{number}") for number in range(1000))
    text = drawn(Snapshot(STATUS, peers, (TransferView("x", "y", 0, 0, 0.0, 0),) * 50))
    assert len(text.splitlines()) < 60
    assert "more" in text


def test_snapshot_survives_the_control_socket() -> None:
    transfer = TransferView("film.mp4", "download", 1, 2, 3.0, 4)
    snapshot = Snapshot(STATUS, (BOB, CAROL), (transfer,), "invite")
    assert snapshot_from_json(to_json(snapshot)) == snapshot
    newer = to_json(snapshot)
    newer["status"]["from_the_future"] = 1
    assert snapshot_from_json(newer) == snapshot


def test_live_table_draws_over_itself_and_goes_away() -> None:
    stream = io.StringIO()
    table = LiveTable(stream)
    table.start()
    table.update(Snapshot(STATUS, (BOB,)))
    table.say("a note \x1b[31m")
    table.stop()
    assert "a note" in stream.getvalue()


def test_picture_in_the_documents_is_the_real_table(tmp_path: Path) -> None:
    out = tmp_path / "table.svg"
    command = [sys.executable, str(ROOT / "tools" / "table_svg.py"), str(out)]
    subprocess.run(command, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    svg = out.read_text()
    assert svg.startswith("<svg")
    for word in ("class-2026", "carol", "inactive", "lecture-07.mp4"):
        assert word in svg
    assert (ROOT / "docs/table.svg").read_text() == svg, "make svg"
