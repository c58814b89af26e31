"""Answers to the requests of others: our own calls, and the stock ones on open networks.

Owns the rule what may be answered to whom and how large: without a valid token for its address
a request of ours gets at most its own size back, and over the rates nothing at all. Must not know
sockets, lookups or schedules.
A request never admits anybody to the table; it only names newcomers to greet.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import msgspec

from dht import wire
from dht.desk import RecordDesk
from dht.errors import Dropped
from dht.hello import SeenHellos, check_hello
from dht.limits import RequestLimits
from dht.routing import Table
from dht.self_view import SelfView
from dht.tokens import AddressTokens
from identity.address import Address

ARRAY_HEADS_BYTES = 4
"""What the two arrays of a page may need beyond those of an empty page."""
_OUR_CALLS = {str(call): call for call in wire.OUR_CALLS}
_STOCK_CALLS = {str(call): call for call in wire.Call if call not in wire.OUR_CALLS}
_FIND_RECORDS, _PROBE = wire.Call.FIND_RECORDS, wire.Call.PROBE
"""Looked up once: members of an Enum are slow to come by."""
GREETED_US_MAX = 1_024
"""Peers whose hello we checked and whose next request we wait for."""


class StockAnswerer(Protocol):
    """Answers the stock calls with the frame to send back; BadMessage, Dropped."""

    def answer(
        self, call: wire.Call, arguments: msgspec.Raw, message_id: bytes, address: Address
    ) -> bytes: ...


class Dialler(Protocol):
    """Dials back whoever asks and has shown a token."""

    def answer(self, body: wire.DialBack, asker_id: bytes, host: str) -> wire.DialledBack: ...


class Answerer:
    """Decide what each request gets; see the module for the rules."""

    def __init__(
        self,
        own: SelfView,
        table: Table,
        desk: RecordDesk,
        tokens: AddressTokens,
        limits: RequestLimits,
        dialler: Dialler,
        *,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        room_bytes: int,
        stock: StockAnswerer | None,
        on_newcomer: Callable[[bytes, Address, bool], None],
        on_probe: Callable[[wire.Probe], None],
    ) -> None:
        self._own = own
        self._table = table
        self._desk = desk
        self._tokens = tokens
        self._limits = limits
        self._dialler = dialler
        self._clock = clock
        self._wall_ms = wall_ms
        self._room_bytes = room_bytes
        self._stock = stock
        self._on_newcomer = on_newcomer
        self._on_probe = on_probe
        self._seen = SeenHellos()
        self._greeted_us: OrderedDict[bytes, bool] = OrderedDict()

    def answer(
        self, request: wire.Request, message_id: bytes, address: Address, size_bytes: int
    ) -> bytes | None:
        """Return the frame that answers a request of size_bytes, or None.

        Raises BadMessage, BadHello and Dropped, which the protocol counts.
        """
        if self._own.leaving:
            raise Dropped("leaving")
        call = _OUR_CALLS.get(request.name)
        if call is None:
            call = _STOCK_CALLS.get(request.name)
            if call is None:
                raise Dropped("unknown-call")
            if self._stock is None:
                raise Dropped("stock-call")
            return self._stock.answer(call, request.arguments, message_id, address)
        arguments = wire.read_arguments(request.arguments)
        if call is _PROBE:
            self._on_probe(wire.read_probe(arguments.body))
            return None
        return self._answer_ours(call, arguments, message_id, address, size_bytes)

    def _answer_ours(
        self,
        call: wire.Call,
        arguments: wire.CallArguments,
        message_id: bytes,
        address: Address,
        size_bytes: int,
    ) -> bytes:
        sender = arguments.sender
        if sender.peer_id == self._own.peer_id:
            raise Dropped("ourselves")
        now = self._clock()
        trusted = self._tokens.valid(sender.token, address.host, address.port, sender.peer_id, now)
        proof = None
        if not trusted:
            if not self._limits.unproven(now=now):
                raise Dropped("unproven-rate")
            if sender.hello is None:
                return self._fit(wire.pack_reply(message_id, wire.Status.TOKEN, None), size_bytes)
            proof = self._prove(sender, address)
            self._table.heard(sender.peer_id, address, now)
            self._remember_greeting(call, arguments)
        elif self._limits.request(address, sender.peer_id, size_bytes, now=now):
            is_known = self._table.heard(sender.peer_id, address, now)
            self._notice(sender.peer_id, address, is_known=is_known)
        else:
            raise Dropped("request-rate")
        budget_bytes = self._room_bytes if trusted else min(size_bytes, self._room_bytes)
        reply = self._body_of(call, arguments, message_id, address, proof, budget_bytes)
        return self._fit(reply, budget_bytes)

    def _body_of(
        self,
        call: wire.Call,
        arguments: wire.CallArguments,
        message_id: bytes,
        address: Address,
        proof: wire.Proof | None,
        budget_bytes: int,
    ) -> bytes:
        if call is _FIND_RECORDS:
            find = wire.read_find(arguments.body)
            proof_bytes = 0 if proof is None else len(wire.pack_body(proof)) - 1  # else nil
            room_bytes = budget_bytes - _EMPTY_REPLY_BYTES - proof_bytes - ARRAY_HEADS_BYTES
            found = self._desk.find(find, arguments.sender.peer_id, address.host, room_bytes)
            return wire.pack_found_reply(message_id, proof, found)
        if call is wire.Call.HELLO:
            return wire.pack_reply(message_id, wire.Status.OK, proof)
        if proof is not None:  # whose address is not yet known stores nothing in its block's name
            return wire.pack_reply(message_id, wire.Status.TOKEN, proof)
        sender_id = arguments.sender.peer_id
        if call is wire.Call.DIAL_BACK:
            dial = wire.read_dial_back(arguments.body)
            dialled = self._dialler.answer(dial, sender_id, address.host)
            return wire.pack_reply(message_id, wire.Status.OK, None, wire.pack_body(dialled))
        batch = wire.read_store(arguments.body)
        stored = self._desk.store(batch.records, address.block, sender_id)
        body = self._desk.acknowledge(batch.records, stored, sender_id, message_id)
        return wire.pack_reply(message_id, wire.Status.OK, None, wire.pack_body(body))

    def _prove(self, sender: wire.Sender, address: Address) -> wire.Proof:
        hello = sender.hello
        assert hello is not None, "the caller looked"
        now = self._clock()
        if not self._limits.hello(address, now=now):
            raise Dropped("hello-rate")
        peer_id = check_hello(hello, self._own.network.network_id, self._own.peer_id)
        if peer_id != sender.peer_id:
            raise Dropped("hello-sender")
        if not self._seen.first_time(peer_id, hello.nonce):
            raise Dropped("hello-replayed")
        token = self._tokens.make(address.host, address.port, peer_id, now)
        return wire.Proof(self._own.answer(hello, address), token, max(0, self._wall_ms()))

    def _remember_greeting(self, call: wire.Call, arguments: wire.CallArguments) -> None:
        """Note who greets us unasked, having just started perhaps: it is greeted in return."""
        if call is wire.Call.HELLO and wire.read_say_hello(arguments.body).in_return:
            return
        self._greeted_us[arguments.sender.peer_id] = True
        while len(self._greeted_us) > GREETED_US_MAX:
            self._greeted_us.popitem(last=False)

    def _notice(self, peer_id: bytes, address: Address, *, is_known: bool) -> None:
        """Name a newcomer: unknown, elsewhere than known, or just started (it said hello)."""
        said_hello = self._greeted_us.pop(peer_id, False)
        if not is_known or said_hello:
            self._on_newcomer(peer_id, address, said_hello)

    def _fit(self, reply: bytes, budget_bytes: int) -> bytes:
        if len(reply) > budget_bytes:
            raise Dropped("unpadded")
        return reply


_EMPTY_PAGE = wire.pack_body(wire.FoundRecords(cursor=bytes(20)))
_EMPTY_REPLY_BYTES = len(
    wire.pack_reply(bytes(wire.MESSAGE_ID_BYTES), wire.Status.OK, None, _EMPTY_PAGE)
)
