"""The tour of the README on hosts of their own: an invite, a file for all, one for the absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.hosts import hosts, why_no_hosts
from tests.support.processes import PeerProcess, run_shoal


def test_three_hosts_share_find_and_deliver_over_their_own_addresses(tmp_path: Path) -> None:
    if reason := why_no_hosts():
        pytest.skip(reason)
    with hosts(tmp_path, 3) as (one, two, three):
        network = tmp_path / "network.json"
        seed = f"{one.address}:4100"
        assert (
            run_shoal(tmp_path, "network", "new", "t", "--seed", seed, "-o", str(network)).code == 0
        )
        with (
            PeerProcess(tmp_path, "ada", cli=one.cli) as ada,
            PeerProcess(tmp_path, "bob", cli=two.cli) as bob,
            PeerProcess(tmp_path, "carol", cli=three.cli) as carol,
        ):
            ada.join(network=network, listen=None)
            assert ada.address == seed
            [shown] = ada.json("invite")
            for peer, host in ((bob, two), (carol, three)):
                peer.join(shown["invite"], listen=None)
                assert peer.address == f"{host.address}:4100"
            data = os.urandom(3_000_000)
            (ada.folder / "whale song.bin").write_bytes(data)
            [put] = ada.json("put", "whale song.bin")
            assert put["stored_on"] == 2
            assert [hit["name"] for hit in carol.json("search", "whale")] == ["whale song.bin"]
            [got] = bob.json("get", "whale song.bin")
            assert Path(got["path"]).read_bytes() == data
            bob.terminate()
            [sent] = ada.json("put", "whale song.bin", "--as", "letter.bin", "--to", "bob")
            assert (sent["state"], sent["held_by"]) == ("stored", [carol.id])
            ada.terminate()
            bob.join(listen=None)
            bob.poll("inbox", until=lambda rows: [row["name"] for row in rows] == ["letter.bin"])
            assert (bob.home / "inbox" / "letter.bin").read_bytes() == data
