"""`put --to` through RabbitMQ, by real processes and a real broker of this file's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest

from console.stage import free_port
from identity.keys import parse_peer_id
from identity.network import parse_network_file
from queueing.rabbitmq_messages import receipts_queue
from tests.support import waiting
from tests.support.broker import PrivateBroker
from tests.support.deliveries import (
    await_received,
    await_state,
    configure,
    digest_of,
    files_holding,
    inbox_files,
    send,
    write_file,
)
from tests.support.processes import PeerProcess, private_network, seed_of

PASSWORD = "unmistakable-password"
USER = "queue-user"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A network whose bootstrap node keeps no mail and knows no broker."""
    folder = tmp_path_factory.mktemp("queue")
    file = private_network(folder)
    with PeerProcess(folder, "seed") as seed:
        seed.join("--no-mailbox", network=file, listen=seed_of(file))
        yield file


def receipts_at(url: str, network: Path, sender: PeerProcess) -> int:
    """How many receipts wait at the broker: a file is received a moment before its receipt goes."""
    network_id = parse_network_file(network.read_bytes()).network.network_id
    queue = receipts_queue(network_id, parse_peer_id(sender.id))
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        declared = connection.channel().queue_declare(queue, passive=True)
        return int(declared.method.message_count)


@pytest.fixture(scope="module")
def url(broker_control: PrivateBroker) -> str:
    """The URL of an account whose password can be told from everything else."""
    broker_control.control("add_user", USER, PASSWORD)
    broker_control.control("set_permissions", USER, ".*", ".*", ".*")
    return f"amqp://{USER}:{PASSWORD}@127.0.0.1:{broker_control.ports.amqp}/%2F"


def test_file_and_receipt_pass_through_the_broker_though_both_are_never_there_together(
    broker_control: PrivateBroker, url: str, network: Path, tmp_path: Path
) -> None:
    name, secret = "unmistakable-name.txt", b"an unmistakable sentence; "
    source = tmp_path / name
    source.write_bytes(secret * 60_000)
    queue = {"SHOAL_QUEUE": url}
    with PeerProcess(tmp_path, "ada") as ada, PeerProcess(tmp_path, "bob") as bob:
        bob.join("--no-mailbox", network=network, extra=queue)
        assert bob.terminate() == 0
        ada.join("--no-mailbox", network=network, extra=queue)

        sent = send(ada, source, bob.id)

        assert (sent["state"], sent["held_by"]) == ("stored", ["rabbitmq"])
        assert ada.terminate() == 0
        kept = sum(p.stat().st_size for p in broker_control.folder.rglob("*") if p.is_file())
        assert kept > source.stat().st_size
        assert files_holding(broker_control.folder, secret) == []
        assert files_holding(broker_control.folder, name.encode()) == []

        bob.join("--no-mailbox", network=network, extra=queue)
        line = await_received(bob, sent)
        assert (line["name"], line["from"]) == (name, ada.id)
        assert digest_of(line["path"]) == digest_of(source)
        waiting.until(lambda: receipts_at(url, network, ada), what="bob's receipt at the broker")
        assert bob.terminate() == 0

        ada.join("--no-mailbox", network=network, extra=queue)
        await_state(ada, sent, "delivered")
        for peer in (ada, bob):
            assert PASSWORD not in peer.log
            assert files_holding(peer.home, PASSWORD.encode()) == []


def test_killed_and_restarted_peers_and_broker_lose_and_double_nothing(
    broker_control: PrivateBroker, url: str, network: Path, tmp_path: Path
) -> None:
    source = write_file(tmp_path, "survivor.bin", 1_500_000)
    queue = {"SHOAL_QUEUE": url}
    with PeerProcess(tmp_path, "ada") as ada, PeerProcess(tmp_path, "bob") as bob:
        bob.join("--no-mailbox", network=network, extra=queue)
        bob.kill()
        ada.join("--no-mailbox", network=network, extra=queue)
        sent = send(ada, source, bob.id)
        assert sent["state"] == "stored"
        ada.kill()
        broker_control.kill()
        broker_control.start()
        bob.join("--no-mailbox", network=network, extra=queue)
        line = await_received(bob, sent)
        assert digest_of(line["path"]) == digest_of(source)
        bob.kill()
        ada.join("--no-mailbox", network=network, extra=queue)
        bob.join("--no-mailbox", network=network, extra=queue)
        await_state(ada, sent, "delivered")
        marker = send(ada, write_file(tmp_path, "marker", 1), bob.id)
        await_received(bob, marker)
        assert inbox_files(bob) == ["marker", "survivor.bin"]


def test_broker_of_the_network_file_is_used(
    broker_control: PrivateBroker, network: Path, tmp_path: Path
) -> None:
    with_queue = tmp_path / "with-queue.json"
    plain = json.loads(network.read_text())
    address = f"127.0.0.1:{broker_control.ports.amqp}"
    with_queue.write_text(json.dumps({**plain, "queue": {"amqp": f"amqp://{address}/"}}))
    with PeerProcess(tmp_path, "ada") as ada, PeerProcess(tmp_path, "bob") as bob:
        bob.join("--no-mailbox", network=with_queue)
        assert bob.terminate() == 0
        ada.join("--no-mailbox", network=with_queue)
        assert ada.json("status")[0]["queue"] == address
        sent = send(ada, write_file(tmp_path, "by the file", 100), bob.id, "--via", "queue")
        assert sent["held_by"] == ["rabbitmq"]
        assert ada.terminate() == 0
        bob.join("--no-mailbox", network=with_queue)
        await_received(bob, sent)


def test_unreachable_broker_leaves_the_mail_to_mailboxes_or_fails_where_it_is_the_sole_means(
    network: Path, tmp_path: Path
) -> None:
    down = f"amqp://{USER}:{PASSWORD}@127.0.0.1:{free_port()}/"
    source = write_file(tmp_path, "either way.txt", 1000)
    names = ("ada", "bob", "host")
    ada, bob, host = (PeerProcess(tmp_path, name) for name in names)
    with ada, bob, host:
        bob.join(network=network)
        assert bob.terminate() == 0
        host.join(network=network)
        ada.join("-v", network=network, extra={"SHOAL_QUEUE": down})

        sent = send(ada, source, bob.id)
        assert (sent["state"], sent["held_by"]) == ("stored", [host.id])

        failed = ada.run("put", str(source), "--to", bob.id, "--via", "queue", "--as", "sole")
        assert failed.code == 11
        assert "hint: " in failed.stderr
        assert PASSWORD not in failed.stderr + failed.stdout + ada.log
        assert [row["state"] for row in ada.json("outbox")] == ["stored", "spooled"]

        missing = host.run("put", str(source), "--to", bob.id, "--via", "queue")
        assert missing.code == 11
        by_mailbox = send(ada, source, bob.id, "--via", "mailbox")
        assert by_mailbox["held_by"] == [host.id]


def test_large_file_lies_with_mailboxes_and_is_announced_by_the_broker(
    url: str, network: Path, tmp_path: Path
) -> None:
    source = write_file(tmp_path, "large.bin", 1_500_000)
    ada, bob, host = (PeerProcess(tmp_path, name) for name in ("ada", "bob", "host"))
    with ada, bob, host:
        bob.join("--no-mailbox", network=network, extra={"SHOAL_QUEUE": url})
        assert bob.terminate() == 0
        host.join(network=network)
        configure(ada, '[queue]\ndelivery_bytes_max = "1MiB"\n')
        ada.join("--no-mailbox", network=network, extra={"SHOAL_QUEUE": url})
        sent = send(ada, source, bob.id)
        assert (sent["state"], sent["held_by"]) == ("stored", [host.id, "rabbitmq"])
        bob.join("--no-mailbox", network=network, extra={"SHOAL_QUEUE": url})
        line = await_received(bob, sent)
        assert digest_of(line["path"]) == digest_of(source)
        await_state(ada, sent, "delivered")


def test_password_of_the_broker_shows_nowhere(url: str, network: Path, tmp_path: Path) -> None:
    secret = tmp_path / "queue-url"
    secret.write_text(url + "\n")
    secret.chmod(0o600)
    host = url.rpartition("@")[2].partition("/")[0]
    with PeerProcess(tmp_path, "ada") as ada:
        ada.join("-v", "--queue", f"@{secret}", network=network)
        (status,) = ada.json("status")
        assert status["queue"] == host
        shown = Path(f"/proc/{ada.pid}/cmdline").read_bytes()
        assert PASSWORD.encode() not in shown
        assert PASSWORD not in json.dumps(status) + ada.log + ada.run("invite").stdout
    assert files_holding(ada.home, PASSWORD.encode()) == []
    with PeerProcess(tmp_path, "bob") as bob:
        configure(bob, f'[queue]\namqp = "{url}"\n')
        bob.join("-v", network=network)
        assert bob.json("status")[0]["queue"] == host
        assert PASSWORD not in bob.log
    assert files_holding(bob.home, PASSWORD.encode()) == ["config.toml"]


@pytest.mark.parametrize(
    ("queue", "told"),
    [
        ({"amqp": f"amqp://{USER}:{PASSWORD}@127.0.0.1:5672/shoal"}, "credentials"),
        ({"amqp": "http://127.0.0.1:5672/"}, "amqp"),
    ],
)
def test_network_file_with_a_bad_queue_is_refused(
    queue: dict[str, str], told: str, network: Path, tmp_path: Path
) -> None:
    file = tmp_path / "bad.json"
    file.write_text(json.dumps({**json.loads(network.read_text()), "queue": queue}))
    peer = PeerProcess(tmp_path, "ada")
    done = peer.run("join", "--no-table", "--listen", "127.0.0.1:0", "--network", str(file))
    assert done.code == 2
    assert told in done.stderr
    assert PASSWORD not in done.stderr
    assert "Traceback" not in done.stderr


def test_config_with_credentials_that_others_can_read_is_refused(
    url: str, network: Path, tmp_path: Path
) -> None:
    peer = PeerProcess(tmp_path, "ada")
    configure(peer, f'[queue]\namqp = "{url}"\n')
    (peer.home / "config.toml").chmod(0o644)
    done = peer.run("join", "--no-table", "--listen", "127.0.0.1:0", "--network", str(network))
    assert done.code == 2
    assert "chmod 600" in done.stderr
    assert PASSWORD not in done.stderr
