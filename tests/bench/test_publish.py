"""Publishing many files costs few calls and few bytes: real nodes, real gRPC, scaled down."""

import asyncio
import json

from bench import publish
from bench.storers import BenchPeer, make_peer, network_of
from dht.config import DhtConfig
from dht.records import key_of
from tests.dht.nodes import until

PEERS = 24
FILES = 100
RECORDS_A_FILE = 5


async def peers_of(count: int) -> list[BenchPeer]:
    config = DhtConfig(handoff_s=0.02)
    peers = [await make_peer(network_of(b"n" * 32), config=config) for _ in range(count)]
    for peer in peers[1:]:
        await peer.join(peers[0].port)
    return peers


async def test_many_files_need_a_twentieth_of_the_calls_and_hardly_more_than_their_bytes() -> None:
    peers = await peers_of(PEERS)
    try:
        node = peers[-1].node
        await until(lambda: len(node.engine.table) >= 20)
        payloads = publish.payloads_of(FILES)
        costs = await publish.measure(node, payloads, both_ends=True)
        assert costs.records == FILES * RECORDS_A_FILE
        assert costs.storers >= 19.9
        assert costs.calls_ratio >= 20
        assert costs.bytes_ratio <= 1.2
        assert costs.tcp_bytes > 0.9 * costs.record_bytes * costs.storers
        stored = sum(len(peer.node.store) for peer in peers)
        assert stored >= costs.records * costs.storers
        for payload in payloads[:: len(payloads) // 5]:
            key = key_of(node.network.network_id, payload, b"")
            ids = sorted(
                (peer.node.peer_id for peer in peers if peer is not peers[-1]),
                key=lambda peer_id: int.from_bytes(peer_id, "big") ^ int.from_bytes(key, "big"),
            )
            holders = {
                p.node.peer_id
                for p in peers
                if p.node.store.find(key, now_ms=node.now_ms()).records
            }
            assert set(ids[:20]) <= holders
    finally:
        await asyncio.gather(*(peer.close() for peer in peers))


def test_a_tiny_run_with_storers_of_their_own_shows_all_figures(tmp_path, capsys) -> None:
    publish.main(
        ["--files", "12", "--peers", "5", "--processes", "2", "--json", str(tmp_path / "out")]
    )
    shown = capsys.readouterr().out
    assert "12 files, 60 records" in shown
    assert "4.0 storers a record" in shown
    written = json.loads((tmp_path / "out").read_text())
    assert written["costs"]["storers"] == 4.0
    assert written["costs"]["tcp_bytes"] > 60 * 4 * 200
