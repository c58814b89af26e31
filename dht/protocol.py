"""The datagram endpoint: `kademlia`'s protocol class with its receive path replaced.

Owns the socket's two directions, the requests that wait for an answer, and the counters of
drops. It must not know records, lookups or tables: requests go to the handler it is given,
answers to whoever asked, at once. Nothing that arrives raises past `datagram_received`, and no
task is made for a datagram. The stock class made two tasks a datagram, believed answers from
anywhere, broke on cancelled requests and turned a misspelt method into a remote call.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import NoReturn, Protocol

import msgspec
from kademlia.protocol import KademliaProtocol
from rpcudp.protocol import RPCProtocol

from dht import wire
from dht.errors import BadMessage, Dropped, NoAnswer, NotListening
from dht.hello import BadHello
from dht.hints import source_of_datagram
from dht.routing import Table
from identity.address import Address

OUTSTANDING_MAX = 4_096
HELD_MAX = 256
"""Datagrams that wait for the loop's next turn; what else comes is taken at once."""
_RESPONSE = wire.FrameKind.RESPONSE
"""Looked up once: a member of an Enum takes as long as the rest of what is done with a frame."""


class Sealer(Protocol):
    """Turns plain frames into datagrams and back; None: not from our network."""

    overhead_bytes: int

    def seal(self, data: bytes) -> bytes: ...

    def open(self, data: bytes) -> bytes | None: ...


class RequestHandler(Protocol):
    """Answers a request with a whole frame, or not at all."""

    def answer(
        self, request: wire.Request, message_id: bytes, address: Address, size_bytes: int
    ) -> bytes | None: ...


OnAnswer = Callable[[bytes, msgspec.Raw | None], None]
"""Hears the message id and the value of a response; None: the endpoint was closed."""


class ShoalProtocol(KademliaProtocol):  # type: ignore[misc]
    """A `kademlia` protocol whose datagrams are sealed, checked, bounded and counted."""

    def __init__(
        self,
        table: Table,
        sealer: Sealer,
        handler: RequestHandler,
        *,
        entropy: Callable[[int], bytes],
        drops: Counter[str],
    ) -> None:
        RPCProtocol.__init__(self)
        self.router = table
        self.source_node = table.node
        self.storage = None
        self.drops = drops
        self.sent = 0
        self.received = 0
        self.sent_bytes = 0
        self.received_bytes = 0
        self._sealer = sealer
        self._handler = handler
        self._entropy = entropy
        self._waiting: dict[bytes, tuple[OnAnswer, Address]] = {}
        self._held: list[tuple[bytes, tuple[str, int]]] | None = None
        self._is_v6 = False

    def __getattr__(self, name: str) -> NoReturn:
        """Raise for an unknown attribute; the stock class would return a remote call."""
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def room_bytes(self) -> int:
        """The largest plain frame that fits a datagram."""
        return room_bytes(self._sealer)

    @property
    def is_open(self) -> bool:
        """Whether datagrams can be sent."""
        return self.transport is not None and not self.transport.is_closing()

    # asyncio's side

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        """Keep the transport, and whether it speaks IPv6."""
        self.transport = transport
        name = transport.get_extra_info("sockname")
        self._is_v6 = name is not None and len(name) == 4

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """End all waiting requests."""
        waiting = dict(self._waiting)
        self._waiting.clear()
        for message_id, (on_answer, _) in waiting.items():
            on_answer(message_id, None)

    def error_received(self, exc: OSError) -> None:  # noqa: ARG002
        """Count a send that the system refused; the request's timeout does the rest."""
        self.drops["send-error"] += 1

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Take one datagram; whatever is wrong with it becomes a counter."""
        if self._held is not None and len(self._held) < HELD_MAX:
            self._held.append((data, addr))
            return
        self.received += 1
        self.received_bytes += len(data)
        address = source_of_datagram(addr[0], addr[1])
        if address is None:
            self.drops["source"] += 1
            return
        plain = self._sealer.open(data)
        if plain is None:
            self.drops["sealed"] += 1
            return
        try:
            self._take(plain, address)
        except BadMessage:
            self.drops["malformed"] += 1
        except BadHello as error:
            self.drops[f"hello-{error.reason}"] += 1
        except Dropped as error:
            self.drops[error.reason] += 1
        except NotListening:
            self.drops["closing"] += 1

    # Our side

    def hold_back(self) -> None:
        """Take what else comes in this turn of the loop in its next: the woken go first.

        A loop hands over dozens of datagrams in one turn, and whoever waits for what the first
        brought would wait for all of them.
        """
        if self._held is None:
            self._held = []
            asyncio.get_running_loop().call_soon(self._take_held)

    def _take_held(self) -> None:
        held, self._held = self._held, None
        for data, addr in held or ():
            self.datagram_received(data, addr)

    def ask(self, address: Address, build: Callable[[bytes], bytes], on_answer: OnAnswer) -> bytes:
        """Send a request and return its id; `on_answer` hears the first answer from its address.

        `build` makes the frame for the fresh message id. Nothing is heard after `forget`.
        """
        if len(self._waiting) >= OUTSTANDING_MAX:
            raise NoAnswer("too many requests are waiting for answers")
        message_id = self._entropy(wire.MESSAGE_ID_BYTES)
        self._waiting[message_id] = (on_answer, address)
        self.send(build(message_id), address)
        return message_id

    def forget(self, message_id: bytes) -> None:
        """Wait no longer for the answer to a request."""
        self._waiting.pop(message_id, None)

    def send(self, plain: bytes, address: Address) -> None:
        """Seal a frame and send it, unless the endpoint is closed."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self.sent += 1
        host = address.host
        if self._is_v6 and ":" not in host:
            host = f"::ffff:{host}"
        data = self._sealer.seal(plain)
        self.sent_bytes += len(data)
        transport.sendto(data, (host, address.port))

    def _take(self, plain: bytes, address: Address) -> None:
        frame = wire.split_frame(plain)
        if frame.kind is _RESPONSE:
            self._take_response(frame, address)
            return
        request = wire.read_request(frame.value)
        reply = self._handler.answer(request, frame.message_id, address, len(plain))
        if reply is not None:
            self.send(reply, address)

    def _take_response(self, frame: wire.Frame, address: Address) -> None:
        waiting = self._waiting.get(frame.message_id)
        if waiting is None:
            self.drops["unasked"] += 1
        elif waiting[1] != address:
            self.drops["wrong-address"] += 1
        else:
            del self._waiting[frame.message_id]
            waiting[0](frame.message_id, frame.value)


def room_bytes(sealer: Sealer) -> int:
    """How large a plain frame may be to fit a datagram once it is sealed."""
    return wire.DATAGRAM_BYTES_MAX - sealer.overhead_bytes
