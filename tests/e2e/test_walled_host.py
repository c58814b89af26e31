"""A peer behind a firewall: a client that does all but offer, and a peer again once let in."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from tests.support.hosts import Host, hosts, why_no_cuts
from tests.support.processes import CLI, PeerProcess, run_shoal
from tests.support.waiting import until

FAST = """import functools, runpy, sys
import dht.node, peer.mail
from dht.limits import Limits, Rate
from dht.reachability import ReachConfig
dht.node.DhtConfig = functools.partial(
    dht.node.DhtConfig,
    reach=ReachConfig(retry_min_s=1.0, retry_max_s=1.0),
    limits=Limits(dial_backs=Rate(10.0, 10.0)),
)
peer.mail.UNREACHED_COLLECT_S = 1.0
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""
"""The real command, asking every second, for its mail too: the test need not wait longer."""


def impatient(host: Host, folder: Path) -> Path:
    script = folder / "fast.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(CLI.parent)!r})\n{FAST}")
    cli = folder / f"impatient-{host.namespace}.py"
    cli.write_text(host.cli.read_text().replace(repr(str(CLI)), f"{str(script)!r}, {str(CLI)!r}"))
    return cli


def reachability(peer: PeerProcess) -> str:
    [status] = peer.json("status")
    return str(status["reachability"])


def contacts(peer: PeerProcess) -> int:
    [status] = peer.json("status")
    return int(status["contacts"])


def test_walled_peer_is_a_client_that_does_all_but_offer_and_a_full_peer_once_let_in(
    tmp_path: Path,
) -> None:
    if reason := why_no_cuts():
        pytest.skip(reason)
    with hosts(tmp_path, 3) as (one, two, three), contextlib.ExitStack() as running:
        network = tmp_path / "network.json"
        seed = f"{one.address}:4100"
        made = run_shoal(tmp_path, "network", "new", "t", "--seed", seed, "-o", str(network))
        assert made.code == 0, made.stderr
        wall = contextlib.ExitStack()
        wall.enter_context(three.walled())
        running.enter_context(wall)
        ada, bob, carol = (
            running.enter_context(PeerProcess(tmp_path, name, cli=cli))
            for name, cli in (
                ("ada", impatient(one, tmp_path)),
                ("bob", impatient(two, tmp_path)),
                ("carol", impatient(three, tmp_path)),
            )
        )
        ada.join(network=network, listen=None)
        bob.join(network=network, listen=None)
        carol.join(network=network, listen=None)
        until(lambda: reachability(carol) == "no", 30.0, "carol finds out")
        assert "let UDP and TCP port 4100 through" in carol.log
        until(lambda: contacts(ada) == contacts(bob) == 1, 10.0, "nobody's table has carol")

        data = os.urandom(300_000)
        (ada.folder / "whale song.bin").write_bytes(data)
        [put] = ada.json("put", "whale song.bin")
        assert put["stored_on"] == 1, "carol stores nothing"
        assert [hit["name"] for hit in carol.json("search", "whale")] == ["whale song.bin"]
        [got] = carol.json("get", "whale song.bin")
        assert Path(got["path"]).read_bytes() == data
        (carol.folder / "mine.txt").write_bytes(b"from behind the wall")
        [put] = carol.json("put", "mine.txt")
        assert put["stored_on"] == 2
        assert [hit["name"] for hit in bob.json("search", "mine")] == ["mine.txt"]
        carol.json("put", "mine.txt", "--as", "letter.txt", "--to", "bob")
        bob.poll("inbox", until=lambda rows: [row["name"] for row in rows] == ["letter.txt"])
        bob.json("put", str(ada.folder / "whale song.bin"), "--as", "answer.bin", "--to", "carol")
        carol.poll("inbox", until=lambda rows: [row["name"] for row in rows] == ["answer.bin"])

        wall.close()
        until(lambda: reachability(carol) == "yes", 30.0, "carol is reached")
        until(lambda: contacts(ada) == contacts(bob) == 2, 10.0, "all have carol in their tables")
        [got] = bob.json("get", "mine.txt")
        assert Path(got["path"]).read_bytes() == b"from behind the wall"
