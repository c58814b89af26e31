"""The asyncio side of a broker connection.

Owns the hand-over between the main loop and a `Wire`'s thread: futures for what was asked, a queue
for what arrived. That queue is bounded by the prefetch count, since the broker hands over no more
than that unsettled; publications are bounded by the publisher's window, which all deposits share.
Must not know envelopes.
"""

import asyncio
import collections
import contextlib
import itertools
from collections.abc import Callable
from typing import Any, assert_never

from queueing.errors import Blocked, QueueError, Unavailable
from queueing.rabbitmq_config import RabbitConfig
from queueing.rabbitmq_url import AmqpUrl
from queueing.rabbitmq_wire import (
    Arrived,
    Confirmed,
    Counted,
    Ended,
    Event,
    Message,
    Opened,
    Outcome,
    Publication,
    Wire,
)

_JOIN_TIMEOUT_S = 5.0


class BrokerLink:
    """One open connection to the broker; once lost it stays lost, and says why.

    Every method is called on the loop that opened it. After a loss each of them raises the
    QueueError that ended the connection; so do all futures that were still open.
    """

    def __init__(self, url: AmqpUrl, config: RabbitConfig) -> None:
        self._url = url
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._wire = Wire(url, config, self._tell)
        self._open: asyncio.Future[None] = self._loop.create_future()
        self._end: asyncio.Future[None] = self._loop.create_future()
        self._cause: QueueError | None = None
        self._numbers = itertools.count(1)
        self._requests = itertools.count(1)
        self._publications: dict[int, asyncio.Future[Outcome]] = {}
        self._answers: dict[int, asyncio.Future[int]] = {}
        self._messages: collections.deque[Message] = collections.deque()
        self._message_came = asyncio.Event()

    @classmethod
    async def open(cls, url: AmqpUrl, config: RabbitConfig) -> "BrokerLink":
        """Connect; Unavailable, NotPermitted."""
        link = cls(url, config)
        link._wire.start()
        try:
            async with asyncio.timeout(2 * config.connect_timeout_s):
                await link._open
        except TimeoutError as error:
            await link.close()
            raise Unavailable(f"the broker at {url} does not answer") from error
        except BaseException:
            await link.close()
            raise
        return link

    @property
    def is_lost(self) -> bool:
        """Tell whether the connection has ended."""
        return self._cause is not None

    def publish(
        self, queue: str, headers: dict[str, Any], body: bytes, expiration: str
    ) -> asyncio.Future[Outcome]:
        """Publish a persistent, mandatory message; the future holds what became of it."""
        self._check()
        number = next(self._numbers)
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._publications[number] = future
        publication = Publication(number, queue, headers, body, expiration)
        self._wire.submit(lambda: self._wire.publish(publication))
        return future

    async def declare(self, queue: str, sign: str = "") -> int:
        """Make sure that a durable queue exists; the number of messages ready. NotPermitted.

        A new one is a quorum queue where there is a queue named `sign`.
        """
        return await self._ask(lambda request: self._wire.declare(request, queue, sign=sign))

    async def look(self, queue: str) -> int:
        """Return how many messages are ready in a queue that need not exist; NoMailbox."""
        return await self._ask(lambda request: self._wire.look(request, queue))

    async def ready(self, queue: str) -> int:
        """Return how many messages wait on the broker, not counting those handed over."""
        return await self._ask(lambda request: self._wire.count(request, queue))

    def consume(self, queue: str) -> None:
        """Begin to receive, up to the prefetch count ahead of `settle`."""
        self._check()
        self._wire.submit(lambda: self._wire.consume(queue, self._config.prefetch_max))

    async def received(self, timeout_s: float) -> list[Message]:
        """Return a batch of the messages at hand, waiting a while for the first; maybe none."""
        if not self._messages:
            self._check()
            self._message_came.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._message_came.wait()
            except TimeoutError:
                return []
        self._check()
        count = min(len(self._messages), self._config.batch_max)
        return [self._messages.popleft() for _ in range(count)]

    def settle(self, poison: list[int], last: int | None) -> None:
        """Drop the poison, acknowledge all else up to the tag `last`."""
        self._wire.submit(lambda: self._wire.settle(poison, last))

    async def close(self) -> None:
        """End connection and thread; what was not settled goes back into its queue."""
        self._wire.stop(Unavailable("the queue was closed"))
        try:
            async with asyncio.timeout(_JOIN_TIMEOUT_S):
                await asyncio.shield(self._end)
        except TimeoutError:
            # A daemon thread that hangs in a dead socket keeps nobody alive, nor waiting.
            self._lose(Unavailable("the queue was closed"))
            return
        await asyncio.to_thread(self._wire.join, _JOIN_TIMEOUT_S)

    def block(self) -> None:
        """Give up a connection on which the broker has stopped to confirm."""
        self._wire.stop(Blocked(f"the broker at {self._url} confirms nothing"))

    async def _ask(self, action: Callable[[int], None]) -> int:
        self._check()
        request = next(self._requests)
        future: asyncio.Future[int] = self._loop.create_future()
        self._answers[request] = future
        self._wire.submit(lambda: action(request))
        try:
            async with asyncio.timeout(self._config.confirm_timeout_s):
                return await future
        except TimeoutError as error:
            raise Unavailable(f"the broker at {self._url} does not answer") from error
        finally:
            self._answers.pop(request, None)

    def _check(self) -> None:
        if self._cause is not None:
            raise self._cause

    def _tell(self, event: Event) -> None:
        """Take an event in the wire's thread; a closed loop leaves nobody to be told."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._hear, event)

    def _hear(self, event: Event) -> None:
        match event:
            case Opened():
                if not self._open.done():
                    self._open.set_result(None)
            case Confirmed(outcomes):
                for number, outcome in outcomes:
                    confirmed = self._publications.pop(number, None)
                    if confirmed is not None and not confirmed.done():
                        confirmed.set_result(outcome)
            case Arrived(message):
                self._messages.append(message)
                self._message_came.set()
            case Counted(request, ready):
                self._answer(request, ready)
            case Ended(cause):
                self._lose(cause)
            case _:
                assert_never(event)

    def _answer(self, request: int, ready: int | QueueError) -> None:
        future = self._answers.get(request)
        if future is None or future.done():
            return
        if isinstance(ready, QueueError):
            future.set_exception(ready)
        else:
            future.set_result(ready)

    def _lose(self, cause: QueueError) -> None:
        self._cause = cause
        # Messages not yet read go back to the broker with the connection.
        self._messages.clear()
        self._message_came.set()
        waiting: list[asyncio.Future[Any]] = [self._open]
        waiting += [*self._publications.values(), *self._answers.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(cause)
                future.exception()  # nobody need look at it: every method raises the cause too
        self._publications.clear()
        if not self._end.done():
            self._end.set_result(None)
