"""A network of one: everything works with nobody else there, and says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import PeerProcess, private_network, run_shoal


@pytest.fixture(scope="module")
def ada(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeerProcess]:
    folder = tmp_path_factory.mktemp("alone")
    with PeerProcess(folder, "ada") as peer:
        peer.join(network=private_network(folder))
        (peer.folder / "lonely notes.txt").write_text("for whoever comes\n")
        yield peer


def test_put_alone_says_that_nobody_else_has_the_records(ada: PeerProcess) -> None:
    done = ada.run("--json", "put", "lonely notes.txt")
    assert done.code == 0
    assert done.items[0]["stored_on"] == 0
    assert "no other peer has the records yet" in done.stderr


def test_own_share_is_found_and_fetched_from_ourselves(ada: PeerProcess, tmp_path: Path) -> None:
    ada.json("put", "lonely notes.txt")
    assert [hit["name"] for hit in ada.json("search", "lonely")] == ["lonely notes.txt"]
    target = tmp_path / "copy.txt"
    [got] = ada.json("get", "lonely notes.txt", "-o", str(target), "--no-share")
    assert target.read_text() == "for whoever comes\n"
    assert got["sources"] == 1


def test_starting_alone_is_said_and_is_no_error(ada: PeerProcess) -> None:
    assert ada.json("peers") == []
    assert ada.json("status")[0]["peers_active"] == 0


def test_command_without_a_peer_says_how_to_start_one(tmp_path: Path) -> None:
    done = run_shoal(tmp_path, "peers")
    assert done.code == 9
    assert "shoal join" in done.stderr
