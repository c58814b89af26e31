"""A broker with several nodes, some of which do not answer, and one that elects a leader."""

import asyncio
import random
from pathlib import Path

import pytest
from pika.exceptions import ChannelClosedByBroker

from queueing.errors import MailboxFull, NoMailbox, NotPermitted, QueueError, Unavailable
from queueing.rabbitmq import RabbitStore
from queueing.rabbitmq_config import RabbitConfig
from queueing.rabbitmq_messages import mail_queue
from queueing.rabbitmq_nodes import BrokerNodes
from queueing.rabbitmq_publisher import Counters, Deposit, Patience, Publisher
from queueing.rabbitmq_url import AmqpUrl, parse_amqp_url
from queueing.rabbitmq_wire import Outcome, _failure
from rpc.pace import Pace
from tests.queueing.rabbit_mail import Parties, now_ms, sealed_chunks_of
from tests.support.broker import free_ports

QUICK = RabbitConfig(connect_timeout_s=1.0, reconnect_base_s=0.001, reconnect_pause_max_s=0.001)


def beside_closed_ports(broker: str, count: int) -> AmqpUrl:
    """Name nodes that are down, then the one that runs."""
    down = ",".join(f"127.0.0.1:{port}" for port in free_ports(count))
    return parse_amqp_url(broker.replace("@", f"@{down},"))


async def test_mail_passes_by_whichever_node_answers(broker: str, tmp_path: Path) -> None:
    parties = Parties()
    url = beside_closed_ports(broker, 2)
    store = RabbitStore(url, parties.network_id, tmp_path / "staging", config=QUICK)
    manifest, chunks = parties.seal(tmp_path)
    await store.deposit(manifest, chunks)
    (delivery,) = [found async for found in store.collect(parties.recipient.peer_id)]
    assert await sealed_chunks_of(delivery) == chunks.chunks
    await store.close()


async def test_node_that_answered_is_asked_first_from_then_on(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = BrokerNodes(beside_closed_ports(broker, 1), QUICK)
    await (await nodes.open()).close()
    asked: list[str] = []
    opened = "queueing.rabbitmq_nodes.BrokerLink.open"

    async def note(url: AmqpUrl, _config: RabbitConfig) -> None:
        asked.append(str(url))

    monkeypatch.setattr(opened, note)
    await nodes.open()
    assert asked == [str(parse_amqp_url(broker))]


async def test_login_that_one_node_refuses_is_not_tried_at_the_others(broker: str) -> None:
    wrong = broker.replace("guest:guest@", "guest:wrong@")
    server = wrong.partition("@")[2].partition("/")[0]
    with pytest.raises(NotPermitted):
        await BrokerNodes(parse_amqp_url(wrong.replace("@", f"@{server},")), QUICK).open()


async def test_broker_without_a_node_that_answers_is_unavailable() -> None:
    first, second = free_ports(2)
    url = parse_amqp_url(f"amqp://127.0.0.1:{first},127.0.0.1:{second}")
    with pytest.raises(Unavailable, match=str(first)):
        await BrokerNodes(url, QUICK).open()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("NOT_FOUND - no queue 'q' in vhost '/'", NoMailbox),
        (
            "NOT_FOUND - home node 'a@b' of durable queue 'q' in vhost '/' is down or inaccessible",
            Unavailable,
        ),
    ],
)
def test_queue_on_a_node_that_is_down_is_not_one_that_is_missing(
    text: str, kind: type[QueueError]
) -> None:
    refusal = _failure(ChannelClosedByBroker(404, text), parse_amqp_url("amqp://host"))
    assert type(refusal) is kind


class RefusingLink:
    """A cluster's queue as it is while no leader is elected; no broker does that at will."""

    is_lost = False

    def __init__(self, refusals: int, *, is_cluster: bool) -> None:
        self.refusals = refusals
        self.is_cluster = is_cluster
        self.published: list[object] = []

    async def open(self) -> "RefusingLink":
        return self

    async def close(self) -> None:
        pass

    async def look(self, _queue: str) -> int:
        if not self.is_cluster:
            raise NoMailbox
        return 0

    def publish(
        self, _queue: str, headers: dict[str, object], *_: object
    ) -> asyncio.Future[Outcome]:
        outcome = Outcome.CONFIRMED
        if headers.get("index") == 1 and self.refusals:
            self.refusals -= 1
            outcome = Outcome.REFUSED
        self.published.append(headers.get("index"))
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        answer.set_result(outcome)
        return answer


@pytest.mark.parametrize(
    ("refusals", "is_cluster", "failure"),
    [(2, True, None), (QUICK.refusals_max + 1, True, MailboxFull), (1, False, MailboxFull)],
)
async def test_refusal_of_a_cluster_is_believed_when_it_is_repeated(
    tmp_path: Path, refusals: int, is_cluster: bool, failure: type[QueueError] | None
) -> None:
    parties = Parties()
    manifest, chunks = parties.seal(tmp_path)
    link = RefusingLink(refusals, is_cluster=is_cluster)
    patience = Patience(QUICK, random.Random(0))
    publisher = Publisher(link, parties.network_id, QUICK, patience, Counters(), now_ms, Pace())
    queue = mail_queue(parties.network_id, parties.recipient.peer_id)
    deposit = Deposit(queue, manifest, chunks, set(range(manifest.count)))
    if failure is None:
        await publisher.deliver(deposit)
        assert not deposit.missing
        # The manifest once; of the chunks only what was refused, and what came after it.
        assert link.published.count(None) == link.published.count(0) == 1
    else:
        with pytest.raises(failure):
            await publisher.deliver(deposit)
    assert link.refusals == 0


class SlowLink(RefusingLink):
    """Confirms what it was given a little later, and knows how much it never had at once."""

    def __init__(self) -> None:
        super().__init__(0, is_cluster=False)
        self.unconfirmed = self.most = 0

    def publish(
        self, queue: str, headers: dict[str, object], *rest: object
    ) -> asyncio.Future[Outcome]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome] = loop.create_future()
        self.unconfirmed += 1
        self.most = max(self.most, self.unconfirmed)
        loop.call_later(0.001, self.confirm, answer)
        return answer

    def confirm(self, answer: asyncio.Future[Outcome]) -> None:
        self.unconfirmed -= 1
        answer.set_result(Outcome.CONFIRMED)


async def test_deposits_at_once_share_one_window(tmp_path: Path) -> None:
    link, parties = SlowLink(), Parties()
    config = RabbitConfig(window_max=2)
    patience = Patience(config, random.Random(0))
    publisher = Publisher(link, parties.network_id, config, patience, Counters(), now_ms, Pace())
    deposits = []
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        manifest, chunks = parties.seal(tmp_path / str(number), size=4_000_000)
        deposits.append(Deposit("queue", manifest, chunks, set(range(manifest.count)), True))
    await asyncio.gather(*map(publisher.deliver, deposits))
    assert link.most == 2
    assert not any(deposit.missing for deposit in deposits)
