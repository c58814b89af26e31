"""Hosts of mail that die, leave, lose or alter what they keep, by real processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.deliveries import (
    await_received,
    await_state,
    configure,
    digest_of,
    files_holding,
    send,
    write_file,
)
from tests.support.processes import PeerProcess, peers_in, private_network, seed_of

VIGILANT = "[delivery]\naudit_s = 1\nhost_silent_s = 2\n"
"""A sender's settings that let a test see in seconds what takes hours."""
CARE_S = 40.0
"""A silent host is asked again and again, each time in vain for some seconds."""


@contextmanager
def hosts_and_sender(folder: Path, hosts: int) -> Iterator[tuple[list[PeerProcess], PeerProcess]]:
    """A network of hosts, and Ada, who audits them every second; Bob is away."""
    network = private_network(folder)
    names = [f"host-{number}" for number in range(hosts)]
    with peers_in(folder, *names, "ada", "bob") as peers:
        *keepers, ada, bob = peers
        configure(ada, VIGILANT)
        keepers[0].join(network=network, listen=seed_of(network))
        for peer in peers[1:]:
            peer.start(network=network)
        for peer in peers[1:]:
            peer.wait_ready()
        assert bob.terminate() == 0
        yield peers, ada


def holding(peers: list[PeerProcess], delivery: dict[str, Any]) -> list[str]:
    """Return the ids of peers on whose disk the sealed chunks lie."""
    name = delivery["delivery_id"]
    return [peer.id for peer in peers if (peer.home / "spool/sealed" / name).exists()]


def await_keepers(ada: PeerProcess, delivery: dict[str, Any], wanted: set[str]) -> None:
    """Wait until the outbox names these hosts and no others."""

    def named(items: Any) -> bool:
        (row,) = [item for item in items if item["delivery_id"] == delivery["delivery_id"]]
        return row["state"] == "stored" and set(row["held_by"]) == wanted

    ada.poll("outbox", until=named, timeout_s=CARE_S)


def test_what_a_host_lost_or_took_away_is_placed_at_others(tmp_path: Path) -> None:
    source = write_file(tmp_path, "kept.bin", 1_300_000)
    with hosts_and_sender(tmp_path, hosts=5) as (peers, ada):
        hosts = peers[:5]
        sent = send(ada, source, "bob")
        assert len(sent["held_by"]) == 3
        keepers = [host for host in hosts if host.id in sent["held_by"]]
        spare = {host.id for host in hosts} - set(sent["held_by"])

        # One loses what it keeps and goes on as if nothing were amiss; another is killed.
        sealed = keepers[0].home / "spool/sealed" / sent["delivery_id"]
        sealed.write_bytes(bytes(sealed.stat().st_size))
        keepers[1].kill()

        await_keepers(ada, sent, {keepers[2].id, *spare})
        assert set(holding(hosts, sent)) >= spare
        (status,) = ada.json("status")
        assert status["hosts_noted"].keys() == {keepers[0].id}
        assert status["mail"]["audits-failed"] == 1
        assert status["mail"]["audits-passed"] > 0


def test_a_clean_leave_hands_over_and_any_one_of_the_others_may_lie(tmp_path: Path) -> None:
    source = write_file(tmp_path, "handed on.bin", 1_300_000)
    network = tmp_path / "network.json"
    with hosts_and_sender(tmp_path, hosts=4) as (peers, ada):
        hosts, bob = peers[:4], peers[5]
        sent = send(ada, source, "bob")
        heir = next(host for host in hosts if host.id not in sent["held_by"])
        first = hosts[0]  # the bootstrap node stays
        leaving, liar, *_ = [h for h in hosts if h.id in sent["held_by"] and h is not first]

        assert leaving.terminate() == 0

        await_keepers(ada, sent, {*sent["held_by"], heir.id} - {leaving.id})
        assert leaving.id not in holding(hosts, sent)
        (status,) = heir.json("status")
        assert status["mail"]["deliveries"] == 1
        assert status["mail"]["bytes"] > 1_300_000
        # The sender goes, one host alters what it keeps, another is killed: one good copy is left.
        ada.kill()
        sealed = liar.home / "spool/sealed" / sent["delivery_id"]
        sealed.write_bytes(bytes(sealed.stat().st_size))
        for host in hosts:
            if host.is_started and host not in (first, liar, heir):
                host.kill()
        bob.join(network=network)
        assert digest_of(await_received(bob, sent)["path"]) == digest_of(source)


def test_a_host_that_was_away_at_the_receipt_or_cancel_lets_go_when_it_is_back(
    tmp_path: Path,
) -> None:
    received, cancelled = (write_file(tmp_path, name, 5_000) for name in ("one", "two"))
    network = tmp_path / "network.json"
    with hosts_and_sender(tmp_path, hosts=3) as (peers, ada):
        hosts, bob = peers[:3], peers[4]
        sent, taken_back = (send(ada, path, "bob") for path in (received, cancelled))
        away = hosts[2]
        away.kill()
        ada.json("outbox", "cancel", taken_back["delivery_id"])
        bob.join(network=network)
        await_received(bob, sent)
        await_state(ada, sent, "delivered")
        assert bob.terminate() == 0
        assert holding([away], sent) == holding([away], taken_back) == [away.id]

        away.join(network=network, listen=away.address)

        for delivery in (sent, taken_back):
            away.poll("status", until=lambda _, each=delivery: not holding([away], each))
        bob.join(network=network)
        assert [line["name"] for line in bob.json("inbox")] == ["one"]
        assert files_holding(away.home / "spool/sealed", b"") == []


def test_a_sender_whose_room_is_used_up_is_told_and_keeps_the_rest_itself(tmp_path: Path) -> None:
    network = private_network(tmp_path)
    with peers_in(tmp_path, "host", "ada", "bob") as (host, ada, bob):
        configure(host, "[mailbox]\nsender_quota_bytes = '10KB'\n")
        host.join(network=network, listen=seed_of(network))
        for peer in (ada, bob):
            peer.start(network=network)
        for peer in (ada, bob):
            peer.wait_ready()
        assert bob.terminate() == 0
        first = send(ada, write_file(tmp_path, "first", 4_000), "bob")
        assert first["held_by"] == [host.id]
        done = ada.run("--json", "put", str(write_file(tmp_path, "second", 9_000)), "--to", "bob")
        (second,) = done.items
        assert (done.code, second["state"], second["held_by"]) == (0, "spooled", [])
        assert "has used up its room" in done.stderr
        (status,) = host.json("status")
        assert status["mail"]["deliveries"] == 1
        assert status["mail"]["sender-quota-bytes"] == 10_000
        bob.join(network=network)
        for sent in (first, second):
            await_received(bob, sent)
