"""IPv6: peers on both families or on IPv6 alone, on loopback and on hosts without IPv4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from console.stage import free_port
from tests.support.hosts import hosts, why_no_hosts
from tests.support.processes import PeerProcess, peers_in, run_shoal
from tests.support.waiting import until


def network_at(folder: Path, seed: str) -> Path:
    path = folder / "network.json"
    done = run_shoal(folder, "network", "new", "t", "--seed", seed, "-o", str(path))
    assert done.code == 0, done.stderr
    return path


def everybody_fetches_from_everybody(peers: Sequence[PeerProcess]) -> None:
    for peer in peers:
        (peer.folder / f"song of {peer.name}").write_bytes(peer.name.encode())
        [put] = peer.json("put", f"song of {peer.name}")
        assert put["stored_on"] == len(peers) - 1
    for peer in peers:
        for other in peers:
            if other is not peer:
                [got] = peer.json("get", f"song of {other.name}", "--no-share")
                assert Path(got["path"]).read_bytes() == other.name.encode()


def test_peers_on_both_families_and_on_ipv6_alone_join_put_and_get(tmp_path: Path) -> None:
    port = free_port()
    network = network_at(tmp_path, f"[::1]:{port}")
    with peers_in(tmp_path, "seed", "both", "six") as peers:
        peers[0].join(network=network, listen=f"[::1]:{port}")
        for peer, host in zip(peers[1:], ("::", "::1"), strict=True):
            peer.start(network=network, listen=f"[{host}]:0")
        for peer in peers[1:]:
            peer.wait_ready()
            assert "alone" not in peer.log
        everybody_fetches_from_everybody(peers)


def test_hosts_without_ipv4_join_put_and_get(tmp_path: Path) -> None:
    if reason := why_no_hosts():
        pytest.skip(reason)
    with hosts(tmp_path, 3, version=6) as machines:
        network = network_at(tmp_path, f"[{machines[0].address}]:4100")
        peers = [
            PeerProcess(tmp_path, name, cli=machine.cli)
            for name, machine in zip(("seed", "both", "six"), machines, strict=True)
        ]
        with peers[0], peers[1], peers[2]:
            peers[0].join(network=network, listen="[::]:4100")
            peers[1].join(network=network, listen="[::]:4100")
            peers[2].join(network=network, listen=f"[{machines[2].address}]:4100")
            for peer, machine in zip(peers, machines, strict=True):
                assert peer.address == f"[{machine.address}]:4100"
            everybody_fetches_from_everybody(peers)
            invite = peers[0].json("invite")[0]["invite"]
            peers[1].terminate()
            with PeerProcess(tmp_path, "invited", cli=machines[1].cli) as invited:
                invited.join(invite, listen="[::]:4100")
                until(lambda: len(invited.json("search", "song")) == 2)
