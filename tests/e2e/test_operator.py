"""`shoal bootstrap` by real processes: the role, its broker as a mailbox, accounts, listeners."""

from __future__ import annotations

import contextlib
import re
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pika
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from console.stage import free_port
from identity.keys import parse_peer_id
from identity.network import parse_network_file
from queueing.rabbitmq_messages import receipts_queue
from queueing.rabbitmq_url import parse_amqp_url
from tests.support.broker import PrivateBroker
from tests.support.deliveries import (
    await_received,
    await_state,
    digest_of,
    files_holding,
    send,
    write_file,
)
from tests.support.processes import PeerProcess, private_network, run_shoal, seed_of


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return private_network(tmp_path)


@pytest.fixture
def operator(managed_broker: PrivateBroker, network: Path, tmp_path: Path) -> Iterator[PeerProcess]:
    """An operator's peer whose broker nobody else has an account on."""
    with PeerProcess(tmp_path, "operator") as peer:
        peer.start(
            "--metrics",
            "0",
            "--health",
            "0",
            command="bootstrap",
            network=network,
            listen=seed_of(network),
            extra={"SHOAL_QUEUE": managed_broker.url},
        )
        yield peer.wait_ready()


def metrics_of(operator: PeerProcess) -> dict[str, float]:
    told = re.search(r"metrics at (http://127\.0\.0\.1:\d+/metrics)", operator.log)
    assert told is not None, operator.log
    with urllib.request.urlopen(told[1], timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


def test_peers_without_an_account_deliver_through_the_operators_broker(
    managed_broker: PrivateBroker, operator: PeerProcess, network: Path, tmp_path: Path
) -> None:
    source = write_file(tmp_path, "for-bob.bin", 1_500_000)
    with PeerProcess(tmp_path, "ada") as ada, PeerProcess(tmp_path, "bob") as bob:
        bob.join("--no-mailbox", network=network)
        assert bob.terminate() == 0
        ada.join("--no-mailbox", network=network)
        sent = send(ada, source, bob.id)
        assert (sent["state"], sent["held_by"]) == ("stored", [operator.id])
        forwarded = 'shoal_queue_total{what="forwarded"}'
        operator.poll("status", until=lambda _: metrics_of(operator)[forwarded] == 1)
        for way in ("down", "up"):  # from the sender, and on to the broker
            assert metrics_of(operator)[f'shoal_moved_bytes_total{{what="mail-{way}"}}'] > 1_500_000
        assert ada.terminate() == 0
        sealed = operator.home / "spool" / "desk" / "sealed"
        assert list(sealed.iterdir()) == []  # it is on the broker, not here

        bob.join("--no-mailbox", network=network)
        line = await_received(bob, sent)
        assert digest_of(line["path"]) == digest_of(source)
        assert bob.terminate() == 0
        ada.join("--no-mailbox", network=network)
        await_state(ada, sent, "delivered")


def test_what_is_left_on_the_broker_reaches_a_recipient_without_an_account(
    managed_broker: PrivateBroker, operator: PeerProcess, network: Path, tmp_path: Path
) -> None:
    source = write_file(tmp_path, "over-amqp.bin", 700_000)
    with PeerProcess(tmp_path, "ada") as ada, PeerProcess(tmp_path, "bob") as bob:
        bob.join("--no-mailbox", network=network)
        assert bob.terminate() == 0
        ada.join("--no-mailbox", network=network, extra={"SHOAL_QUEUE": managed_broker.url})
        sent = send(ada, source, bob.id, "--via", "queue")
        assert sent["held_by"] == ["rabbitmq"]
        bob.join("--no-mailbox", network=network)
        line = await_received(bob, sent)
        assert digest_of(line["path"]) == digest_of(source)
        await_state(ada, sent, "delivered")
        network_id = parse_network_file(network.read_bytes()).network.network_id
        queue = receipts_queue(network_id, parse_peer_id(ada.id))
        with contextlib.closing(
            pika.BlockingConnection(pika.URLParameters(managed_broker.url))
        ) as connection:
            connection.channel().basic_publish("", queue, b"no receipt at all")

        def is_told(items: Sequence[dict[str, Any]]) -> bool:
            (check,) = [item for item in items if item["check"] == "queue"]
            return check["state"] == "warning" and "1 malformed" in check["seen"]

        assert bob.terminate() == 0
        marker = send(ada, source, bob.id, "--via", "queue", "--as", "marker")
        # A cancel looks for a receipt first, and so reads the sender's queue of receipts.
        assert ada.run("outbox", "cancel", marker["delivery_id"]).code == 0
        ada.poll("doctor", until=is_told)


def test_operator_shares_nothing_and_tells_how_it_does(operator: PeerProcess) -> None:
    refused = operator.run("put", str(write_file(operator.folder, "mine.txt", 10)))
    assert (refused.code, "shares nothing" in refused.stderr) == (2, True)
    figures = metrics_of(operator)
    assert figures["shoal_ready"] == 1
    assert figures["shoal_mail_limit_bytes"] == 100 * 1024**3
    told = re.search(r"gRPC health at (127\.0\.0\.1:\d+)", operator.log)
    assert told is not None
    with grpc.insecure_channel(told[1], options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service="shoal.Peer"), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_home_that_shares_files_is_no_operators_home(network: Path, tmp_path: Path) -> None:
    with PeerProcess(tmp_path, "ada") as ada:
        ada.join(network=network, listen=seed_of(network))
        assert ada.run("put", str(write_file(tmp_path, "mine.txt", 10))).code == 0
        assert ada.terminate() == 0
        done = ada.run("bootstrap", "--no-table", "--listen", "127.0.0.1:0")
    assert done.code == 2
    assert "shares files" in done.stderr


def test_operator_sets_the_broker_up_and_makes_an_account_that_is_shown_once(
    managed_broker: PrivateBroker, network: Path, tmp_path: Path
) -> None:
    peer_id = "a" * 32
    options = ["--network", str(network), "--management", managed_broker.management]
    extra = {"SHOAL_QUEUE": managed_broker.url}

    def bootstrap(*arguments: str, at: list[str] = options) -> tuple[str, str]:
        done = run_shoal(tmp_path, "bootstrap", "-v", *at, *arguments, extra=extra)
        assert done.code == 0, done.stderr
        return done.stdout, done.stderr

    told, _ = bootstrap("--setup-queue")
    assert "classic" in told
    account, log = bootstrap("--add-queue-user", peer_id)
    url = parse_amqp_url(account)
    assert account.startswith("amqp://")
    assert url.user.endswith(peer_id)
    assert len(account.splitlines()) == 1
    assert url.password not in log
    assert files_holding(tmp_path, url.password.encode()) == []
    again, _ = bootstrap("--add-queue-user", peer_id)
    assert parse_amqp_url(again).password != url.password
    assert "removed" in bootstrap("--remove-queue-user", peer_id)[0]

    away = ["--network", str(network), "--management", f"http://127.0.0.1:{free_port()}"]
    lines, why = bootstrap("--setup-queue", at=away)
    assert all(line.startswith("rabbitmqctl ") for line in lines.splitlines())
    assert "nothing is done yet" in why
    lines, why = bootstrap("--add-queue-user", peer_id, at=away)
    *steps, account = lines.splitlines()
    assert [line.split()[1] for line in steps][:2] == ["add_user", "set_permissions"]
    assert parse_amqp_url(account).password not in why


def test_wrong_use_of_bootstrap_is_a_usage_error(network: Path, tmp_path: Path) -> None:
    for words, told in (
        (["--setup-queue", "--add-queue-user", "a" * 32], "one at a time"),
        (["--queue-type", "quorum"], "are for setting up"),
        (["--setup-queue", "--network", str(network)], "no broker is named"),
        (["--add-queue-user", "nobody", "--network", str(network), "--queue", "amqp://h"], "id"),
    ):
        done = run_shoal(tmp_path, "bootstrap", *words)
        assert done.code == 2, words
        assert told in done.stderr
        assert "hint: " in done.stderr
