"""What the operator sets up: as a plan, and on a real broker with the management plugin."""

import asyncio
import json
import re
import shlex
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.broker import Broker
from queueing.errors import NotPermitted, QueueError, Unavailable
from queueing.rabbitmq import RabbitStore, reachable
from queueing.rabbitmq_config import RabbitConfig
from queueing.rabbitmq_management import ManagementApi, management_url
from queueing.rabbitmq_messages import dead_queue, mail_queue, receipts_queue
from queueing.rabbitmq_setup import (
    Account,
    QueueLimits,
    QueueType,
    account_steps,
    network_steps,
    queue_type_for,
    removal_steps,
    user_of,
)
from queueing.rabbitmq_url import (
    AmqpUrl,
    BadAmqpUrl,
    amqp_url_with_password,
    parse_amqp_url,
)
from tests.queueing.rabbit_mail import Parties, sealed_chunks_of
from tests.support.broker import PrivateBroker, free_ports

PEER_IDS = st.binary(min_size=20, max_size=20)
LIMITS = QueueLimits()


def test_a_cluster_is_three_running_nodes() -> None:
    up, down = {"running": True}, {"running": False}
    assert queue_type_for([]) is QueueType.CLASSIC
    assert queue_type_for([up, up, down]) is QueueType.CLASSIC
    assert queue_type_for([up, up, down, up]) is QueueType.QUORUM


@pytest.mark.parametrize(("hosts", "kind"), [("a", "classic"), ("a,b,c", "quorum")])
def test_lines_are_those_of_a_cluster_where_its_nodes_are_named(hosts: str, kind: str) -> None:
    url = parse_amqp_url(f"amqp://{hosts}/shoal")
    nobody = management_url(f"http://127.0.0.1:{free_ports(1)[0]}", url)
    told = Broker(bytes(32), url, nobody, None, LIMITS.queue_bytes_max).set_up(
        None, lambda *_: None
    )
    assert (told["done"], told["queue_type"]) == (False, kind)
    assert any('"x-queue-type"' in line and kind in line for line in told["lines"])


@given(st.binary(min_size=32, max_size=32), PEER_IDS, PEER_IDS)
def test_rights_of_an_account_match_its_own_queues_and_no_others(
    network_id: bytes, own: bytes, other: bytes
) -> None:
    steps = account_steps(network_id, "/", own, Account("user", "secret"), QueueType.CLASSIC)
    (rights,) = [step.body for step in steps if step.path.startswith("permissions/")]
    assert rights["write"] == r"^amq\.default$"
    for right in (rights["configure"], rights["read"]):
        assert re.search(right, mail_queue(network_id, own))
        assert re.search(right, receipts_queue(network_id, own))
        assert not re.search(right, dead_queue(network_id))
        assert not re.search(right, "amq.default")
        if other != own:
            assert not re.search(right, mail_queue(network_id, other))


@given(st.text(min_size=1), st.text())
def test_url_with_password_reads_back_as_it_was(user: str, password: str) -> None:
    url = AmqpUrl("::1", 5671, tls=True, virtual_host="a/b", user=user, password=password)
    cluster = replace(url, others=(("two", 5671), ("::2", 7)))
    assert parse_amqp_url(amqp_url_with_password(url)) == url
    assert parse_amqp_url(amqp_url_with_password(cluster)) == cluster


def test_management_address_follows_the_broker_unless_told_otherwise() -> None:
    broker = parse_amqp_url("amqps://ada:secret@broker.example/shoal")
    assert str(management_url(None, broker)) == "https://broker.example:15671"
    told = management_url("http://bob:other@10.0.0.1:8080/", broker)
    assert (str(told), told.user, told.password) == ("http://10.0.0.1:8080", "bob", "other")
    assert "secret" not in repr(management_url(None, broker))
    for bad in ("ftp://x", "http://", "http://h/path", "http://h:port", "hunter2"):
        with pytest.raises(BadAmqpUrl) as caught:
            management_url(bad, broker)
        assert "hunter2" not in str(caught.value)


# On a real broker.


@pytest.fixture
def api(managed_broker: PrivateBroker) -> Iterator[ManagementApi]:
    url = management_url(managed_broker.management, parse_amqp_url(managed_broker.url))
    with ManagementApi(url) as opened:
        yield opened


def told_of(broker: PrivateBroker, path: str) -> Any:
    request = urllib.request.Request(f"{broker.management}/api/{path}")
    request.add_header("Authorization", "Basic Z3Vlc3Q6Z3Vlc3Q=")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


async def policy_of(broker: PrivateBroker, queue: str) -> dict[str, Any]:
    """The policy in force, by name; the broker tells it a moment after it applies."""
    async with asyncio.timeout(10):
        while True:
            told = await asyncio.to_thread(told_of, broker, f"queues/%2F/{queue}")
            if told.get("policy"):
                return told
            await asyncio.sleep(0.1)


async def test_policy_is_in_force_on_queues_that_peers_make(
    managed_broker: PrivateBroker, api: ManagementApi, tmp_path: Path
) -> None:
    parties = Parties()
    api.run(network_steps(parties.network_id, "/", queue_type_for(api.nodes()), LIMITS))
    store = RabbitStore(parse_amqp_url(managed_broker.url), parties.network_id, tmp_path / "s")
    await store.deposit(*parties.seal(tmp_path))
    await store.close()
    told = await policy_of(
        managed_broker, mail_queue(parties.network_id, parties.recipient.peer_id)
    )
    assert told["type"] == "classic"
    assert told["effective_policy_definition"] == {
        "dead-letter-exchange": "",
        "dead-letter-routing-key": dead_queue(parties.network_id),
        "max-length-bytes": LIMITS.queue_bytes_max,
        "message-ttl": LIMITS.lifetime_ms,
        "overflow": "reject-publish",
    }
    api.run(network_steps(parties.network_id, "/", QueueType.CLASSIC, LIMITS))  # again: no change


async def test_poison_goes_to_the_dead_letter_and_is_remembered(
    managed_broker: PrivateBroker, api: ManagementApi, tmp_path: Path
) -> None:
    parties = Parties()
    api.run(network_steps(parties.network_id, "/", QueueType.CLASSIC, LIMITS))
    url = parse_amqp_url(managed_broker.url)
    stores = [RabbitStore(url, parties.network_id, tmp_path / name) for name in ("one", "two")]
    sender, recipient = stores
    assert (await recipient.health()).dead == 0
    await sender.deposit(*parties.seal(tmp_path))
    queue = mail_queue(parties.network_id, parties.recipient.peer_id)

    def publish() -> None:
        connection = pika.BlockingConnection(pika.URLParameters(managed_broker.url))
        channel = connection.channel()
        for body in (b"no mail at all", b"nor is this"):
            channel.basic_publish("", queue, body)
        connection.close()

    def buried() -> list[tuple[str, bytes]]:
        connection = pika.BlockingConnection(pika.URLParameters(managed_broker.url))
        channel, found = connection.channel(), []
        while True:
            method, properties, body = channel.basic_get(dead_queue(parties.network_id))
            if method is None:
                connection.close()
                return found
            found.append((properties.headers["x-death"][0]["reason"], body))

    await asyncio.to_thread(publish)
    taken = [found async for found in recipient.collect(parties.recipient.peer_id)]
    assert len(taken) == 1
    async with asyncio.timeout(10):
        while (health := await recipient.health()).dead != 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert [(what, count) for what, count, _ in health.poison] == [("malformed", 2)]
    assert await asyncio.to_thread(buried) == [
        ("rejected", b"no mail at all"),
        ("rejected", b"nor is this"),
    ]
    for store in stores:
        await store.close()


async def test_on_a_cluster_peers_make_quorum_queues_and_mail_passes_through_them(
    managed_broker: PrivateBroker, api: ManagementApi, tmp_path: Path
) -> None:
    parties = Parties()
    api.run(network_steps(parties.network_id, "/", QueueType.QUORUM, LIMITS))
    url = parse_amqp_url(managed_broker.url)
    sender, recipient = (
        RabbitStore(url, parties.network_id, tmp_path / name) for name in ("sender", "recipient")
    )
    manifest, chunks = parties.seal(tmp_path)
    await sender.deposit(manifest, chunks)
    queue = mail_queue(parties.network_id, parties.recipient.peer_id)
    told = await asyncio.to_thread(told_of, managed_broker, f"queues/%2F/{queue}")
    assert told["type"] == "quorum"
    (policy, _) = network_steps(parties.network_id, "/", QueueType.QUORUM, LIMITS)[:2]
    assert policy.body["definition"]["delivery-limit"] >= 1000
    (delivery,) = [found async for found in recipient.collect(parties.recipient.peer_id)]
    assert await sealed_chunks_of(delivery) == chunks.chunks
    receipt = parties.receipt(manifest)
    await delivery.ack(receipt)
    assert await sender.receipts(parties.sender.peer_id, [manifest.delivery_id]) == [receipt]
    await sender.close()
    await recipient.close()


def attempts(channel: Any, queue: str) -> dict[str, Any]:
    """Everything by which somebody could get at another's mail."""
    return {
        "get": lambda: channel.basic_get(queue),
        "consume": lambda: channel.basic_consume(queue, lambda *_: None),
        "purge": lambda: channel.queue_purge(queue),
        "delete": lambda: channel.queue_delete(queue),
        "bind": lambda: channel.queue_bind(queue, "amq.fanout"),
        "declare": lambda: channel.queue_declare(f"{queue}x", durable=True),
        "spy": lambda: channel.exchange_declare("shoal.spy", "fanout"),
        "firehose": lambda: channel.queue_bind(queue, "amq.rabbitmq.trace", "#"),
    }


def refused(url: str, queue: str) -> set[str]:
    names = set()
    for name in attempts(None, queue):
        connection = pika.BlockingConnection(pika.URLParameters(url))
        try:
            attempts(connection.channel(), queue)[name]()
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code == 403:
                names.add(name)
        finally:
            connection.close()
    return names


async def test_account_of_one_peer_cannot_get_at_anothers_queue_and_suffices_for_its_own(
    managed_broker: PrivateBroker, api: ManagementApi, tmp_path: Path
) -> None:
    parties = Parties()
    urls = {}
    for peer in (parties.sender, parties.recipient):
        account = Account(user_of(parties.network_id, peer.peer_id), f"secret-{peer.peer_id.hex()}")
        api.run(account_steps(parties.network_id, "/", peer.peer_id, account, QueueType.CLASSIC))
        server = f"127.0.0.1:{managed_broker.ports.amqp}"
        urls[peer.peer_id] = f"amqp://{account.user}:{account.password}@{server}/%2F"
    sender, recipient = (
        RabbitStore(parse_amqp_url(url), parties.network_id, tmp_path / peer_id.hex())
        for peer_id, url in urls.items()
    )
    manifest, chunks = parties.seal(tmp_path)
    await sender.deposit(manifest, chunks)
    queue = mail_queue(parties.network_id, parties.recipient.peer_id)
    all_of_them = set(attempts(None, queue))
    spied = await asyncio.to_thread(refused, urls[parties.sender.peer_id], queue)
    assert spied == all_of_them
    with pytest.raises(NotPermitted):
        _ = [found async for found in sender.collect(parties.recipient.peer_id)]
    (delivery,) = [found async for found in recipient.collect(parties.recipient.peer_id)]
    receipt = parties.receipt(manifest)
    await delivery.ack(receipt)
    assert await sender.receipts(parties.sender.peer_id, [manifest.delivery_id]) == [receipt]
    api.run(removal_steps(user_of(parties.network_id, parties.sender.peer_id)))
    api.run(removal_steps(user_of(parties.network_id, parties.sender.peer_id)))  # gone already
    with pytest.raises(NotPermitted):
        await reachable(urls[parties.sender.peer_id])
    await sender.close()
    await recipient.close()


def test_lines_for_rabbitmqctl_do_what_the_api_does(
    managed_broker: PrivateBroker, api: ManagementApi
) -> None:
    by_api, by_lines = Parties(), Parties()

    def state(parties: Parties) -> str:
        api.check_virtual_host("/")
        name, peer = parties.network_id[:8].hex(), parties.recipient.peer_id
        queues = [
            {key: each[key] for key in ("name", "durable", "auto_delete", "type", "arguments")}
            for each in told_of(managed_broker, "queues/%2F")
            if name in each["name"]
        ]
        policies = [p for p in told_of(managed_broker, "policies/%2F") if name in p["name"]]
        rights = told_of(managed_broker, f"permissions/%2F/{user_of(parties.network_id, peer)}")
        text = json.dumps([sorted(queues, key=str), sorted(policies, key=str), rights])
        own = mail_queue(parties.network_id, peer).rpartition(".")[2]
        return text.replace(name, "NETWORK").replace(own, "PEER")

    for parties in (by_api, by_lines):
        peer_id = parties.recipient.peer_id
        account = Account(user_of(parties.network_id, peer_id), "a pass'word")
        policy, _, dead, _ = network_steps(parties.network_id, "/", QueueType.QUORUM, LIMITS)
        user, rights = account_steps(parties.network_id, "/", peer_id, account, QueueType.QUORUM)[
            :2
        ]
        steps = [policy, dead, user, rights]  # one of each kind: each line costs a second
        if parties is by_api:
            api.run(steps)
            continue
        for step in steps:
            words = shlex.split(step.line.partition(" || ")[0])
            assert words[0] == "rabbitmqctl"
            managed_broker.control(*words[1:])
        pika.BlockingConnection(
            pika.ConnectionParameters(
                "127.0.0.1",
                managed_broker.ports.amqp,
                credentials=pika.PlainCredentials(account.user, account.password),
            )
        ).close()
    assert state(by_lines) == state(by_api)


def test_refusals_of_the_management_api_are_told_in_words(managed_broker: PrivateBroker) -> None:
    broker = parse_amqp_url(managed_broker.url.replace("guest:guest@", "guest:hunter2@"))
    with (
        ManagementApi(management_url(managed_broker.management, broker)) as wrong,
        pytest.raises(NotPermitted) as caught,
    ):
        wrong.nodes()
    assert "hunter2" not in str(caught.value)
    nobody = management_url(f"http://127.0.0.1:{free_ports(1)[0]}", broker)
    with ManagementApi(nobody) as silent, pytest.raises(Unavailable):
        silent.nodes()
    broker = parse_amqp_url(managed_broker.url)
    with (
        ManagementApi(management_url(managed_broker.management, broker)) as known,
        pytest.raises(QueueError, match="no virtual host"),
    ):
        known.check_virtual_host("nowhere")


async def test_mail_passes_over_tls_by_an_authority_that_is_named(
    managed_broker: PrivateBroker, tmp_path: Path
) -> None:
    parties = Parties()
    url = parse_amqp_url(managed_broker.tls_url)
    trusting = RabbitConfig(ca_file=managed_broker.ca_file)
    store = RabbitStore(url, parties.network_id, tmp_path / "tls", config=trusting)
    manifest, chunks = parties.seal(tmp_path)
    await store.deposit(manifest, chunks)
    (delivery,) = [found async for found in store.collect(parties.recipient.peer_id)]
    assert await sealed_chunks_of(delivery) == chunks.chunks
    await store.close()


async def test_broker_of_an_unknown_authority_or_another_name_is_not_talked_to(
    managed_broker: PrivateBroker, tmp_path: Path
) -> None:
    with pytest.raises(Unavailable, match="certificate verify failed"):
        await reachable(managed_broker.tls_url)
    named = managed_broker.tls_url.replace("127.0.0.1", "localhost")
    with pytest.raises(Unavailable, match="certificate verify failed"):
        await reachable(named, ca_file=managed_broker.ca_file)
    await reachable(managed_broker.tls_url, ca_file=managed_broker.ca_file)
    with pytest.raises(NotPermitted, match="cannot be read"):
        await reachable(managed_broker.tls_url, ca_file=tmp_path / "no such file")
