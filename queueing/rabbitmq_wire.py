"""The pika side of a broker connection: everything in here runs in that connection's own thread.

Owns pika: one connection with one channel in confirm mode, and the I/O loop that drives it.
pika copies inbound frames several times and must not stall the main loop, hence the thread. Only
`Wire.submit` and `Wire.stop` may be called from elsewhere; `tell` is called in the thread and must
only hand over. Must not know asyncio, stores or envelopes.
"""

import enum
import logging
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop
from pika.exceptions import (
    ChannelClosedByBroker,
    ConnectionBlockedTimeout,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from queueing.errors import (
    Blocked,
    MailboxFull,
    NoMailbox,
    NotPermitted,
    QueueError,
    TooLarge,
    Unavailable,
)
from queueing.rabbitmq_config import RabbitConfig
from queueing.rabbitmq_pika import Connection
from queueing.rabbitmq_url import AmqpUrl

# pika reports every failure as an error with a traceback, besides raising it; ours go to a person.
logging.getLogger("pika").setLevel(logging.CRITICAL)

_PERSISTENT = 2
_GOODBYE_TIMEOUT_S = 2.0
_CAUSES_MAX = 16


class Outcome(enum.Enum):
    """What became of one published message."""

    CONFIRMED = enum.auto()
    REFUSED = enum.auto()
    """Nacked; AMQP gives no reason, a full queue being the usual one."""
    RETURNED = enum.auto()
    """No such queue."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message as the broker handed it over; unchecked."""

    tag: int
    headers: Mapping[str, Any] | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Publication:
    """One message to publish; `number` counts from 1 without a gap, as the broker's confirms do."""

    number: int
    queue: str
    headers: dict[str, Any]
    body: bytes
    expiration: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The channel is up and confirms are on."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """These publications are done."""

    outcomes: list[tuple[int, Outcome]]


@dataclass(frozen=True, slots=True)
class Arrived:
    """The consumer got a message."""

    message: Message


@dataclass(frozen=True, slots=True)
class Counted:
    """A request is answered with the number of messages ready in a queue."""

    request: int
    ready: int | QueueError


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection is no more; nothing follows."""

    cause: QueueError


Event = Opened | Confirmed | Arrived | Counted | Ended


class Wire:
    """One connection, from its thread's start to its end; never connects a second time."""

    def __init__(self, url: AmqpUrl, config: RabbitConfig, tell: Callable[[Event], None]) -> None:
        self._url = url
        self._tell = tell
        self._parameters = _parameters(url, config)
        self._loop = IOLoop()
        self._connection: Any = None
        self._channel: Any = None
        self._cause: QueueError | None = None
        self._unconfirmed: dict[int, Outcome] = {}
        self._thread = threading.Thread(target=self._run, name=f"amqp {url}", daemon=True)

    def start(self) -> None:
        """Start the thread, which connects; events tell the rest."""
        self._thread.start()

    def submit(self, action: Callable[[], None]) -> None:
        """Run one of the actions below in the thread; dropped once the connection has ended."""
        self._loop.add_callback_threadsafe(action)

    def stop(self, cause: QueueError) -> None:
        """End the connection; `Ended(cause)` follows."""
        self.submit(lambda: self._end(cause))

    def join(self, timeout_s: float) -> None:
        """Wait for the thread's end."""
        self._thread.join(timeout_s)

    # Actions, for `submit`.

    def publish(self, publication: Publication) -> None:
        """Publish, persistent and mandatory."""
        if not self._usable():
            return
        self._unconfirmed[publication.number] = Outcome.CONFIRMED
        properties = pika.BasicProperties(
            delivery_mode=_PERSISTENT,
            expiration=publication.expiration,
            headers=publication.headers,
            message_id=str(publication.number),
        )
        self._channel.basic_publish(
            "", publication.queue, publication.body, properties, mandatory=True
        )

    def look(self, request: int, queue: str) -> None:
        """Count what is ready in a queue that need not exist; NoMailbox where it does not."""

        def answer(ready: int | QueueError) -> None:
            self._tell(Counted(request, ready))

        self._declare(queue, answer, answer)

    def declare(self, request: int, queue: str, *, sign: str) -> None:
        """Make sure a durable queue exists, on channels of its own: a refusal closes a channel.

        Asks first and creates only what is missing, so that an operator may have made the queue
        with a type and limits of his own. Where there is a queue named `sign`, a new one is a
        quorum queue.
        """

        def answer(ready: int | QueueError) -> None:
            self._tell(Counted(request, ready))

        def create(arguments: dict[str, Any]) -> None:
            self._declare(queue, answer, answer, arguments)

        def missing(refusal: QueueError) -> None:
            if not isinstance(refusal, NoMailbox):
                answer(refusal)
            elif not sign:
                create({})
            else:
                quorum = {"x-queue-type": "quorum"}
                self._declare(sign, lambda _ready: create(quorum), lambda _refusal: create({}))

        self._declare(queue, answer, missing)

    def count(self, request: int, queue: str) -> None:
        """Ask how many messages are ready; answered in order with the messages before it."""
        if self._usable():
            self._channel.queue_declare(
                queue,
                passive=True,
                callback=lambda frame: self._tell(Counted(request, frame.method.message_count)),
            )

    def consume(self, queue: str, prefetch: int) -> None:
        """Have messages handed over, at most `prefetch` that are not settled, to us alone."""
        if not self._usable():
            return
        self._channel.basic_qos(prefetch_count=prefetch)
        self._channel.add_on_cancel_callback(
            lambda _frame: self._end(Unavailable("the queue was deleted on the broker"))
        )
        self._channel.basic_consume(queue, self._on_message, exclusive=True)

    def settle(self, poison: list[int], last: int | None) -> None:
        """Drop the poison for good, then acknowledge everything up to `last`."""
        if not self._usable():
            return
        for tag in poison:
            self._channel.basic_reject(tag, requeue=False)
        if last is not None and last not in poison:
            self._channel.basic_ack(last, multiple=True)

    def _declare(
        self,
        queue: str,
        done: Callable[[int], None],
        refused: Callable[[QueueError], None],
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Declare on a channel of its own, passively without arguments."""
        if not self._usable():
            return

        def declared(frame: Any) -> None:
            done(frame.method.message_count)
            side.close()

        def closed(_channel: Any, reason: Exception) -> None:
            if isinstance(reason, ChannelClosedByBroker):
                refused(_failure(reason, self._url))

        def opened(channel: Any) -> None:
            channel.add_on_close_callback(closed)
            channel.queue_declare(
                queue,
                passive=arguments is None,
                durable=True,
                arguments=arguments,
                callback=declared,
            )

        side = self._connection.channel(on_open_callback=opened)

    # What pika calls.

    def _run(self) -> None:
        try:
            self._connection = Connection(
                self._parameters,
                on_open_callback=self._on_connection,
                on_open_error_callback=self._on_end,
                on_close_callback=self._on_end,
                custom_ioloop=self._loop,
            )
            self._loop.start()
        except Exception as error:  # noqa: BLE001 - the edge of the thread: told, never lost
            self._cause = self._cause or Unavailable(
                f"the connection to {self._url} broke: {error}"
            )
        finally:
            self._loop.close()
            self._tell(Ended(self._cause or Unavailable(f"lost the broker at {self._url}")))

    def _on_connection(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.add_on_close_callback(self._on_channel_end)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=lambda _frame: self._tell(Opened()))

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        last = method.delivery_tag
        # Both dict and confirms are in order of the numbers, so the covered ones stand in front.
        numbers = [last]
        if method.multiple:
            numbers = [number for number in self._unconfirmed if number <= last]
        accepted = isinstance(method, pika.spec.Basic.Ack)
        outcomes = [(number, self._unconfirmed.pop(number)) for number in numbers]
        if not accepted:
            outcomes = [(number, Outcome.REFUSED) for number in numbers]
        self._tell(Confirmed(outcomes))

    def _on_return(self, _channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        # The broker returns an unroutable message first, and confirms it afterwards.
        self._unconfirmed[int(properties.message_id)] = Outcome.RETURNED

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._tell(Arrived(Message(method.delivery_tag, properties.headers, body)))

    def _on_channel_end(self, _channel: Any, reason: Exception) -> None:
        self._end(_failure(reason, self._url))

    def _on_end(self, _connection: Any, reason: BaseException | str) -> None:
        self._cause = self._cause or _failure(reason, self._url)
        self._loop.stop()

    def _usable(self) -> bool:
        return self._channel is not None and self._channel.is_open

    def _end(self, cause: QueueError) -> None:
        self._cause = self._cause or cause
        connection = self._connection
        if connection is None or connection.is_closed:
            self._loop.stop()
        elif not connection.is_closing:
            # A broker that blocks us does not read our goodbye either; pika waits for ever.
            self._loop.call_later(_GOODBYE_TIMEOUT_S, self._hang_up)
            connection.close()

    def _hang_up(self) -> None:
        if not self._connection.is_closed:
            self._connection._adapter_disconnect_stream()  # noqa: SLF001 - no public call does it


def _parameters(url: AmqpUrl, config: RabbitConfig) -> pika.ConnectionParameters:
    options = None
    if url.tls:
        try:
            context = ssl.create_default_context(cafile=config.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise NotPermitted(
                f"the certificate authority {config.ca_file} cannot be read: {error}",
                hint="`[queue] ca_file` names a file with PEM certificates",
            ) from error
        options = pika.SSLOptions(context, url.host)
    return pika.ConnectionParameters(
        host=url.host,
        port=url.port,
        virtual_host=url.virtual_host,
        credentials=pika.PlainCredentials(url.user, url.password, erase_on_connect=False),
        ssl_options=options,
        connection_attempts=1,
        socket_timeout=config.connect_timeout_s,
        stack_timeout=config.connect_timeout_s,
        heartbeat=config.heartbeat_s,
        blocked_connection_timeout=config.blocked_timeout_s,
    )


def _failure(reason: BaseException | str, url: AmqpUrl) -> QueueError:
    """Say in our words why a connection or channel ended."""
    for cause in _causes(reason):
        match cause:
            case ConnectionBlockedTimeout():
                return Blocked(f"the broker at {url} takes no messages: a memory or disk alarm")
            case ProbableAuthenticationError() | ProbableAccessDeniedError():
                return NotPermitted(
                    f"the broker at {url} refuses the login",
                    hint="check user, password and virtual host of the queue",
                )
            case pika.exceptions.ConnectionClosedByBroker(reply_code=403 | 530):
                return NotPermitted(
                    f"the broker at {url} refuses the login: {cause.reply_text}",
                    hint="check user, password and virtual host of the queue",
                )
            case ChannelClosedByBroker():
                return _channel_failure(cause.reply_code, cause.reply_text, url)
    return Unavailable(f"the broker at {url} cannot be reached: {_last_words(reason)}")


def _channel_failure(code: int, text: str, url: AmqpUrl) -> QueueError:
    match code:
        case 403 if "exclusive" in text:
            return Unavailable("another process collects from this queue at present")
        case 403 | 405:
            return NotPermitted(f"the broker at {url} does not permit it: {text}")
        case 404 if "down or inaccessible" in text:
            return Unavailable(f"the queue lies on a node of {url}'s cluster that is down")
        case 404:
            return NoMailbox("the broker has no queue for this peer")
        case 406 if "size" in text:
            return TooLarge(f"the broker at {url} takes no message of this size")
        case 311 | 506:
            return MailboxFull(f"the broker at {url} has no room: {text}")
    return Unavailable(f"the broker at {url} closed the channel: {text}")


def _causes(reason: BaseException | str) -> list[BaseException]:
    """Return what pika wrapped in what, outermost first."""
    found: list[BaseException] = []
    waiting: list[object] = [reason]
    while waiting and len(found) < _CAUSES_MAX:
        item = waiting.pop(0)
        if isinstance(item, BaseException):
            found.append(item)
            inner = [*getattr(item, "exceptions", ()), getattr(item, "exception", None)]
            waiting += [*inner, *item.args]
    return found


def _last_words(reason: BaseException | str) -> str:
    causes = _causes(reason)
    if not causes:
        return str(reason)
    innermost = causes[-1]
    return getattr(innermost, "strerror", None) or str(innermost) or type(innermost).__name__
