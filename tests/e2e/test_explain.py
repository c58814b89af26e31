"""`shoal explain` between real peers: each hop, the verdict, the exit codes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.failures import ExitCode
from tests.support.processes import PeerProcess, joined, run_shoal

Peers = list[PeerProcess]
HOP_CELLS = 11
RECORD_CELLS = 9


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    with joined(tmp_path_factory.mktemp("explain"), "ada", "bob", "carol") as peers:
        yield peers


def put(peer: PeerProcess, name: str) -> str:
    (peer.folder / "source").write_bytes(b"song")
    [result] = peer.json("put", "source", "--as", name)
    return str(result["content_id"])


def test_found_name_shows_hops_record_and_verdict_off_a_terminal(peers: Peers) -> None:
    ada, bob, carol = peers
    content_id = put(bob, "Blue Whale.txt")
    done = carol.run("explain", "Blue Whale.txt")
    assert (done.code, done.stderr) == (0, "")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    hops = [cells for cells in lines if cells[0].isdigit()]
    assert {cells[1] for cells in hops} == {ada.id, bob.id}
    assert {cells[2] for cells in hops} == {ada.address, bob.address}
    assert {cells[7] for cells in hops} == {"answered"}
    assert {len(cells) for cells in hops} == {HOP_CELLS}
    [record] = [cells for cells in lines if cells[0] == "record"]
    assert len(record) == RECORD_CELLS
    assert record[1:5] == ["Blue Whale.txt", content_id, "4", bob.id]
    assert record[6:] == ["3", "yes", bob.address]
    verdicts = [cells[1] for cells in lines if cells[0] == "verdict"]
    assert verdicts[0].startswith("found: 1 record of the name 'Blue Whale.txt'")


@pytest.mark.parametrize("arguments", [["--word", "whale"], ["--peer", "bob"], ["b3:ID"]])
def test_word_peer_and_content_are_explained(peers: Peers, arguments: list[str]) -> None:
    _, bob, carol = peers
    content_id = put(bob, "Blue Whale.txt")
    words = [content_id if word == "b3:ID" else word for word in arguments]
    # Whoever joined after a record was published is handed it a moment later.
    *hops, last = carol.poll(
        "explain",
        *words,
        until=lambda rows: [record["on_closest"] for record in rows[-1]["records"]] == [3],
    )
    assert all(hop["outcome"] == "answered" for hop in hops)
    [record] = last["records"]
    assert (record["publisher"], last["closest"]) == (bob.id, 3)


def test_missing_name_shows_who_was_asked_and_exits_3(peers: Peers) -> None:
    done = peers[2].run("explain", "nothing like it")
    assert done.code == ExitCode.NOT_FOUND
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["shoal", "hint"]
    assert "verdict\tnot found: none of the 3 closest peers" in done.stdout
    as_json = peers[2].run("--json", "explain", "nothing like it")
    assert as_json.code == ExitCode.NOT_FOUND
    *hops, last = as_json.items
    assert len(hops) == last["answered"] == 2
    assert (last["found"], last["records"]) == (0, [])


def test_name_of_somebody_else_moves_no_cursor(peers: Peers) -> None:
    _, bob, carol = peers
    name = "evil\u202etxt.exe"
    put(bob, name)
    done = carol.run("explain", name)
    assert done.code == 0
    assert "\u202e" not in done.stdout
    assert "evil\\u202etxt.exe" in done.stdout


def test_killed_holder_is_silent_and_not_reachable(tmp_path: Path) -> None:
    with joined(tmp_path, "ada", "bob") as [ada, bob]:
        put(bob, "a.txt")
        bob.kill()
        *hops, last = ada.json("explain", "a.txt")
        assert [(hop["id"], hop["outcome"]) for hop in hops] == [(bob.id, "silent")]
        [record] = last["records"]
        assert record["reachable"] is False
        assert (record["on_closest"], last["closest"]) == (1, 1)


def test_without_a_peer_exits_9_and_two_meanings_are_a_usage_error(tmp_path: Path) -> None:
    assert run_shoal(tmp_path, "explain", "a.txt").code == ExitCode.NO_PEER
    assert run_shoal(tmp_path, "explain", "--word", "--peer", "a").code == ExitCode.USAGE
