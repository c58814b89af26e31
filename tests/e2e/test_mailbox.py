"""`put --to` a peer that is away, by real processes: kept by others, whoever dies meanwhile."""

from __future__ import annotations

import datetime
from pathlib import Path

from dht.config import DhtConfig
from dht.node import DhtNode
from dht.records import PeerPayload
from identity.address import Address
from identity.keys import Identity
from identity.network import parse_network_file
from tests.support.deliveries import (
    await_received,
    await_state,
    digest_of,
    files_holding,
    inbox_files,
    send,
    write_file,
)
from tests.support.processes import PeerProcess, joined
from tests.transfer.trees import make_folder, picture

WEEK = datetime.timedelta(days=7)
SOON_S = 10.0
"""What needs no timer to run out: a rejoin and what follows from it."""


def test_file_and_folder_arrive_though_sender_left_and_a_host_was_killed(tmp_path: Path) -> None:
    name, secret = "unmistakable-name.txt", b"an unmistakable sentence; "
    source = tmp_path / name
    source.write_bytes(secret * 60_000)
    folder = make_folder(tmp_path / "unmistakable-folder", small=300, large=1)
    (folder / "part1" / name).write_bytes(secret * 100)
    with joined(tmp_path, "host-1", "host-2", "host-3", "ada", "bob") as peers:
        first, second, third, ada, bob = peers
        hosts = peers[:3]
        assert bob.terminate() == 0

        sent = send(ada, source, bob.id)

        assert (sent["state"], sent["to"]) == ("stored", bob.id)
        assert 2 <= len(sent["held_by"]) <= 3
        assert set(sent["held_by"]) <= {host.id for host in hosts}
        expires = datetime.datetime.fromisoformat(sent["expires"])
        left = expires - datetime.datetime.now(datetime.UTC)
        assert abs(left - WEEK) < datetime.timedelta(minutes=2)
        (row,) = ada.json("outbox")
        assert {key: row[key] for key in sent} == sent
        of_folder = send(ada, folder, bob.id)
        assert (of_folder["name"], of_folder["state"], of_folder["files"]) == (
            folder.name,
            "stored",
            305,
        )
        assert ada.terminate() == 0
        keepers = [host for host in hosts if host.id in sent["held_by"]]
        for host in keepers:
            assert files_holding(host.home, sent["delivery_id"].encode()) != []
        for host in hosts:
            assert files_holding(host.home, secret) == []
            assert files_holding(host.home, name.encode()) == []
            assert files_holding(host.home, b"unmistakable") == []
            assert "unmistakable" not in host.log
        next(host for host in (second, third) if host in keepers).kill()

        bob.join(network=tmp_path / "network.json")

        line = await_received(bob, sent)
        assert (line["name"], line["from"], line["size"]) == (name, ada.id, len(secret) * 60_000)
        assert digest_of(line["path"]) == digest_of(source)
        line = await_received(bob, of_folder)
        assert (line["name"], line["from"], line["files"]) == (folder.name, ada.id, 305)
        assert line["size"] == of_folder["size"]
        assert picture(Path(line["path"])) == picture(folder)
        assert inbox_files(bob) == [folder.name, name]
        assert bob.terminate() == 0
        ada.join(network=tmp_path / "network.json")
        await_state(ada, sent, "delivered")
        await_state(ada, of_folder, "delivered")
        for host in keepers:
            assert files_holding(host.home, secret) == []
        assert first.json("inbox") == []


def test_alone_with_the_recipient_the_file_waits_at_the_sender(tmp_path: Path) -> None:
    source = write_file(tmp_path, "for later.bin", 700_000)
    with joined(tmp_path, "ada", "bob") as (ada, bob):
        assert bob.terminate() == 0

        done = ada.run("--json", "put", str(source), "--to", "bob")

        (sent,) = done.items
        assert (done.code, sent["state"], sent["held_by"]) == (0, "spooled", [])
        assert "hint: " in done.stderr
        bob.join(network=tmp_path / "network.json")
        line = await_received(bob, sent, SOON_S)
        assert digest_of(line["path"]) == digest_of(source)
        await_state(ada, sent, "delivered", SOON_S)
        assert inbox_files(bob) == ["for later.bin"]


def test_in_an_open_network_without_mailboxes_the_sender_delivers_itself(tmp_path: Path) -> None:
    source = write_file(tmp_path, "open.bin", 1000)
    with joined(tmp_path, "ada", "bob", "carol", is_open=True) as (ada, bob, _carol):
        bob.json("contact", "add", "ada", ada.id)
        assert bob.terminate() == 0
        sent = send(ada, source, "bob")
        assert sent["state"] == "spooled"
        bob.join(network=tmp_path / "network.json")
        assert digest_of(await_received(bob, sent, SOON_S)["path"]) == digest_of(source)
        await_state(ada, sent, "delivered", SOON_S)


def test_nothing_is_lost_or_doubled_whoever_is_killed_at_each_step(tmp_path: Path) -> None:
    network = tmp_path / "network.json"
    source = write_file(tmp_path, "survivor.bin", 1_300_000)
    with joined(tmp_path, "ada", "bob") as (ada, bob), PeerProcess(tmp_path, "host") as host:
        assert bob.terminate() == 0
        sent = send(ada, source, "bob")
        assert sent["state"] == "spooled"

        ada.kill()  # with the only copy
        ada.join(network=network, listen=ada.address)
        assert [row["state"] for row in ada.json("outbox")] == ["spooled"]

        host.join(network=network)  # a mailbox that appears later takes it
        stored = await_state(ada, sent, "stored", SOON_S)
        assert stored["held_by"] == [host.id]

        ada.kill()
        host.kill()
        host.join(network=network, listen=host.address)
        # The only bootstrap node is the sender, and the recipient has never met the host.
        bob.join("--bootstrap", host.address, network=network)
        line = await_received(bob, sent, SOON_S)
        assert digest_of(line["path"]) == digest_of(source)
        bob.kill()

        bob.join(network=network)
        ada.join(network=network, listen=ada.address)
        await_state(ada, sent, "delivered")
        marker = send(ada, write_file(tmp_path, "marker", 1), "bob")
        await_received(bob, marker)
        assert sorted(inbox_files(bob)) == ["marker", "survivor.bin"]
        assert [line["name"] for line in bob.json("inbox")] == ["survivor.bin", "marker"]


async def test_recipient_killed_long_ago_can_still_be_sent_to(tmp_path: Path) -> None:
    """Its record then says that it is not here any more: `here_until` has passed."""
    network = tmp_path / "network.json"
    source = write_file(tmp_path, "to the absent.txt", 3000)
    with joined(tmp_path, "host", "ada", "bob") as (host, ada, bob):
        bob.kill()
        await _publish_absence(bob, network)
        for text in (bob.id, bob.name):
            sent = send(ada, source, text)
            assert (sent["state"], sent["to"]) == ("stored", bob.id)
            assert sent["held_by"] == [host.id]
        bob.join(network=network)
        assert digest_of(await_received(bob, sent)["path"]) == digest_of(source)


async def _publish_absence(bob: PeerProcess, network: Path) -> None:
    """Publish, with the recipient's own key, that it was here until a moment ago."""
    identity = Identity.load_or_create(bob.home / "identity.key")
    file = parse_network_file(network.read_bytes())
    node = DhtNode(identity, file.network, nickname=bob.name, config=DhtConfig(client=True))
    await node.listen("127.0.0.1", 0)
    try:
        assert await node.bootstrap(file.bootstrap)
        report = await node.publish(
            [
                PeerPayload(
                    nickname=bob.name,
                    addresses=(Address.parse(bob.address),),
                    sealing_key=identity.sealing_public_key,
                    here_until_ms=node.now_ms() - 1,
                    under_nickname=under_nickname,
                )
                for under_nickname in (False, True)
            ]
        )
        assert report.stored_on_min >= 2
        found = await node.find_peer(identity.peer_id)
        assert found is not None
        assert found.payload.here_until_ms < node.now_ms()
    finally:
        await node.close()
