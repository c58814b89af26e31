"""Publishing to RabbitMQ: a window of confirms, and what is unconfirmed again after a loss.

Owns the one connection that this peer publishes over, and connecting again with jitter. Must not
know the staging folder or how mail is collected.
"""

import asyncio
import collections
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from queueing.envelope import OuterManifest
from queueing.errors import (
    Blocked,
    Expired,
    MailboxFull,
    NoMailbox,
    NotPermitted,
    QueueError,
    Unavailable,
)
from queueing.rabbitmq_config import RabbitConfig
from queueing.rabbitmq_link import BrokerLink
from queueing.rabbitmq_messages import (
    ChunkMail,
    Mail,
    ManifestMail,
    encode_mail,
    expiration,
    quorum_sign,
)
from queueing.rabbitmq_nodes import BrokerNodes
from queueing.rabbitmq_window import Window
from queueing.rabbitmq_wire import Outcome
from queueing.shared_chunks import in_turn, one_ahead
from queueing.store import ChunkSource
from rpc.pace import Pace


@dataclass(slots=True)
class Counters:
    """What was dropped, for metrics."""

    poison: int = 0
    stops: int = 0
    """Times that a reader left its queue for want of room; it comes back when there is some."""
    reconnects: int = 0
    restored: int = 0
    """Queues that a killed broker had lost, and that were filled again."""


@dataclass(slots=True)
class Deposit:
    """How far one deposit has come."""

    queue: str
    manifest: OuterManifest
    chunks: ChunkSource
    missing: set[int]
    announced: bool = False


class Patience:
    """How often and after which pauses a lost connection is made again."""

    def __init__(self, config: RabbitConfig, randomness: random.Random) -> None:
        self._config = config
        self._random = randomness
        self.is_over = False
        """Set when the store is closed: nothing is tried again."""

    def gives_up(self, attempt: int, link: BrokerLink | None) -> bool:
        """Tell whether another connection would not help: none was lost, or too many were."""
        if self.is_over:
            return True
        if link is None:
            return attempt in (0, self._config.reconnects_max)
        return attempt == self._config.reconnects_max or not link.is_lost

    def pause_s(self, attempt: int) -> float:
        """Full jitter: many peers that lost one broker do not come back together."""
        highest = self._config.reconnect_base_s * 2**attempt
        return self._random.uniform(0, min(self._config.reconnect_pause_max_s, highest))


class Publisher:
    """Publishes on one connection, made when needed and again when lost."""

    def __init__(
        self,
        nodes: BrokerNodes,
        network_id: bytes,
        config: RabbitConfig,
        patience: Patience,
        counters: Counters,
        wall_ms: Callable[[], int],
        pace: Pace,
    ) -> None:
        self._nodes = nodes
        self._pace = pace
        self._sign = quorum_sign(network_id)
        self._config = config
        self._patience = patience
        self._counters = counters
        self._wall_ms = wall_ms
        self._window = Window(config.window_max, config.window_bytes_max, config.confirm_timeout_s)
        self._link: BrokerLink | None = None
        self._connecting = asyncio.Lock()

    async def deliver(self, deposit: Deposit) -> None:
        """Publish a delivery, its manifest first, until the broker has confirmed all of it."""
        await self._persist(lambda link: self._publish_delivery(link, deposit))

    async def publish(
        self, queue: str, mail: Mail, expires_ms: int, *, declare: bool = False
    ) -> None:
        """Publish one message, confirmed; NoMailbox where there is no queue to `declare`."""
        await self._persist(
            lambda link: self._publish_one(link, queue, mail, expires_ms, declare=declare)
        )

    async def look(self, queue: str) -> int:
        """Return how many messages are ready in a queue; NoMailbox where there is none."""
        return await (await self._opened()).look(queue)

    async def close(self) -> None:
        """End the connection; what is under way ends as Unavailable."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _publish_delivery(self, link: BrokerLink, deposit: Deposit) -> None:
        manifest = deposit.manifest
        if not deposit.announced:
            mail = ManifestMail(manifest)
            await self._publish_one(link, deposit.queue, mail, manifest.expires_ms, declare=True)
            deposit.announced = True
        try:
            await self._publish_chunks(link, deposit)
        except NoMailbox:
            await self._restore_queue(link, deposit)
            await self._publish_chunks(link, deposit)

    async def _restore_queue(self, link: BrokerLink, deposit: Deposit) -> None:
        """Chunks came back though the manifest did not: a broker that was killed lost the queue.

        Where it has fewer messages than it confirmed (or they were collected meanwhile), all is
        sent again: the recipient drops what it has.
        """
        try:
            waiting = await link.declare(deposit.queue, self._sign)
        except NotPermitted as error:
            raise NoMailbox("the recipient has no queue on the broker yet") from error
        manifest = deposit.manifest
        if waiting < 1 + manifest.count - len(deposit.missing):
            self._counters.restored += 1
            deposit.missing = set(range(manifest.count))
            mail = ManifestMail(manifest)
            await self._publish_one(link, deposit.queue, mail, manifest.expires_ms)

    async def _publish_chunks(self, link: BrokerLink, deposit: Deposit) -> None:
        """Keep a window of chunks unconfirmed; strike the confirmed ones off `deposit.missing`."""
        config, manifest = self._config, deposit.manifest
        window: collections.deque[tuple[int, asyncio.Future[Outcome]]] = collections.deque()
        window_max = max(1, min(config.window_max, config.window_bytes_max // manifest.chunk_bytes))
        chunks = in_turn(deposit.chunks, sorted(deposit.missing))
        ahead = one_ahead(chunks)
        try:
            async for index, sealed in ahead:
                if len(window) >= window_max:
                    await self._confirm_oldest(link, window, deposit)
                window.append((index, await self._publish_chunk(link, deposit, index, sealed)))
            while window:
                await self._confirm_oldest(link, window, deposit)
        finally:
            await ahead.aclose()
            await chunks.aclose()
            # Also after a loss: what the broker did confirm need not be sent again.
            for index, sent in window:
                if _is_confirmed(sent):
                    deposit.missing.discard(index)

    async def _publish_chunk(
        self, link: BrokerLink, deposit: Deposit, index: int, sealed: bytes
    ) -> asyncio.Future[Outcome]:
        """Publish a chunk once there is room for it beside those of all other deposits."""
        manifest = deposit.manifest
        mail = ChunkMail(manifest.delivery_id, index, manifest.count, sealed)
        await self._pace.take(len(sealed))
        try:
            await self._window.enter(len(sealed))
        except TimeoutError as error:
            link.block()
            raise Blocked("the broker confirms nothing") from error
        try:
            sent = self._publish(link, deposit.queue, mail, manifest.expires_ms)
        except BaseException:
            self._window.leave(len(sealed))
            raise
        sent.add_done_callback(lambda _: self._window.leave(len(sealed)))
        return sent

    async def _confirm_oldest(
        self,
        link: BrokerLink,
        window: collections.deque[tuple[int, asyncio.Future[Outcome]]],
        deposit: Deposit,
    ) -> None:
        index, sent = window[0]
        _demand(await self._confirm(link, sent))
        deposit.missing.discard(index)
        window.popleft()

    async def _publish_one(
        self, link: BrokerLink, queue: str, mail: Mail, expires_ms: int, *, declare: bool = False
    ) -> None:
        outcome = await self._confirm(link, self._publish(link, queue, mail, expires_ms))
        if outcome is Outcome.RETURNED and declare:
            try:
                await link.declare(queue, self._sign)
            except NotPermitted as error:
                raise NoMailbox("the recipient has no queue on the broker yet") from error
            outcome = await self._confirm(link, self._publish(link, queue, mail, expires_ms))
        _demand(outcome)

    def _publish(
        self, link: BrokerLink, queue: str, mail: Mail, expires_ms: int
    ) -> asyncio.Future[Outcome]:
        now_ms = self._wall_ms()
        if expires_ms <= now_ms:
            raise Expired
        encoded = encode_mail(mail)
        if not isinstance(mail, ChunkMail):  # for those it was waited
            self._pace.note(len(encoded.body))
        lifetime = expiration(expires_ms, now_ms)
        return link.publish(queue, encoded.headers, encoded.body, lifetime)

    async def _confirm(self, link: BrokerLink, sent: asyncio.Future[Outcome]) -> Outcome:
        try:
            async with asyncio.timeout(self._config.confirm_timeout_s):
                return await asyncio.shield(sent)
        except TimeoutError:
            link.block()
            return await sent

    async def _persist(self, work: Callable[[BrokerLink], Awaitable[None]]) -> None:
        """Do the work on the publisher's connection, again on a new one each time it is lost.

        A broker that cannot be reached at the first try is Unavailable at once. A queue that
        refuses is full, but on a cluster it may only be without a leader for a moment.
        """
        attempt = refusals = 0
        while True:
            link: BrokerLink | None = None
            try:
                link = await self._opened()
                await work(link)
            except Unavailable:
                if self._patience.gives_up(attempt, link):
                    raise
                self._counters.reconnects += 1
                await asyncio.sleep(self._patience.pause_s(attempt))
                attempt += 1
            except MailboxFull:
                if refusals == self._config.refusals_max or not await self._is_cluster(link):
                    raise
                refusals += 1
                await asyncio.sleep(self._patience.pause_s(refusals + 1))
                if self._link is link:  # a channel goes on asking the leader that it knew
                    await self.close()
            else:
                return

    async def _is_cluster(self, link: BrokerLink | None) -> bool:
        try:
            return link is not None and await link.look(self._sign) >= 0
        except QueueError:
            return False

    async def _opened(self) -> BrokerLink:
        async with self._connecting:
            if self._link is None or self._link.is_lost:
                if self._link is not None:
                    await self._link.close()
                self._link = await self._nodes.open()
            return self._link


def _demand(outcome: Outcome) -> None:
    match outcome:
        case Outcome.CONFIRMED:
            return
        case Outcome.REFUSED:
            raise MailboxFull("the broker refuses the delivery: the recipient's queue is full")
        case Outcome.RETURNED:
            raise NoMailbox("the broker has no queue for the recipient")


def _is_confirmed(sent: asyncio.Future[Outcome]) -> bool:
    if not sent.done() or sent.cancelled() or sent.exception() is not None:
        return False
    return sent.result() is Outcome.CONFIRMED
