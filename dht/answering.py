"""Answers to the requests of others: our three calls, and the stock ones on open networks.

Owns the rule what may be answered to whom and how large: without a valid token for its address
a request of ours gets at most its own size back. Must not know sockets, lookups or schedules.
A request never admits anybody to the table; it only names newcomers to greet.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from dht import acks, wire
from dht.errors import BadMessage
from dht.hello import SeenHellos, check_hello
from dht.hints import address_to_tell, pack_contact
from dht.limits import RateLimit, source_of
from dht.records import Kind, Record, decode_record, encode_record
from dht.routing import Table
from dht.self_view import SelfView
from dht.storage import RecordStore, Stored, Verdict, entry_id_of
from dht.tokens import AddressTokens
from identity.address import Address

BIN_HEAD_BYTES = 3
"""What msgpack writes before a record or contact, at most."""
ARRAY_HEADS_BYTES = 4
"""What the two arrays of a page may need beyond those of an empty page."""
TOLD_FAILURES_MAX = 0
"""Contacts with more failures in a row are not told to others."""


GREETED_US_MAX = 1_024
"""Peers whose hello we checked and whose next request we wait for."""


class StockAnswerer(Protocol):
    """Answers the stock calls with the value to send back, or None."""

    def answer(self, call: wire.Call, arguments: msgspec.Raw, address: Address) -> object: ...


class Answerer:
    """Decide what each request gets; see the module for the rules."""

    def __init__(
        self,
        own: SelfView,
        table: Table,
        store: RecordStore,
        tokens: AddressTokens,
        hellos: RateLimit,
        *,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        room_bytes: int,
        stock: StockAnswerer | None,
        on_newcomer: Callable[[bytes, Address, bool], None],
        on_stored: Callable[[Record, bytes], None],
        drops: Counter[str],
    ) -> None:
        self._own = own
        self._table = table
        self._store = store
        self._tokens = tokens
        self._hellos = hellos
        self._clock = clock
        self._wall_ms = wall_ms
        self._room_bytes = room_bytes
        self._stock = stock
        self._on_newcomer = on_newcomer
        self._on_stored = on_stored
        self._drops = drops
        self._seen = SeenHellos()
        self._greeted_us: OrderedDict[bytes, None] = OrderedDict()

    def answer(
        self, request: wire.Request, message_id: bytes, address: Address, size_bytes: int
    ) -> bytes | None:
        """Return the frame that answers a request of size_bytes, or None.

        Raises BadMessage and BadHello, which the protocol counts.
        """
        if self._own.leaving:
            return self._drop("leaving")
        try:
            call = wire.Call(request.name)
        except ValueError:
            return self._drop("unknown-call")
        if call not in wire.OUR_CALLS:
            return self._answer_stock(call, request.arguments, message_id, address)
        arguments = wire.read_arguments(request.arguments)
        sender = arguments.sender
        if sender.peer_id == self._own.peer_id:
            return self._drop("ourselves")
        trusted = self._tokens.valid(
            sender.token, address.host, address.port, sender.peer_id, self._clock()
        )
        proof = None
        if not trusted:
            if sender.hello is None:
                return self._fit(wire.pack_reply(message_id, wire.Status.TOKEN, None), size_bytes)
            proof = self._prove(sender, address)
            if proof is None:
                return None
        else:
            self._notice(sender.peer_id, address)
        budget_bytes = self._room_bytes if trusted else min(size_bytes, self._room_bytes)
        reply = self._body_of(call, arguments, message_id, address, proof, budget_bytes)
        return self._fit(reply, budget_bytes)

    def find(
        self, body: wire.FindRecords, asker_id: bytes, asker_host: str, room_bytes: int
    ) -> wire.FoundRecords:
        """Collect a page of records and the closest contacts into room_bytes.

        The first record goes before contacts; the others share what the contacts leave.
        """
        contacts = self._contacts(body, asker_id, asker_host)
        page = self._page(body)
        encoded = [encode_record(record) for record in page]
        first_bytes = len(encoded[0]) + BIN_HEAD_BYTES if encoded else 0
        first_fits = first_bytes <= room_bytes
        left_bytes = room_bytes - (first_bytes if first_fits else 0)
        told: list[bytes] = []
        for contact in contacts:
            if len(contact) + BIN_HEAD_BYTES > left_bytes:
                break
            left_bytes -= len(contact) + BIN_HEAD_BYTES
            told.append(contact)
        taken = 1 if encoded and first_fits else 0
        while 0 < taken < min(len(encoded), wire.RECORDS_MAX):
            if len(encoded[taken]) + BIN_HEAD_BYTES > left_bytes:
                break
            left_bytes -= len(encoded[taken]) + BIN_HEAD_BYTES
            taken += 1
        cursor = b""
        if taken < len(page):
            cursor = entry_id_of(page[taken - 1]) if taken else body.cursor or b"\0"
        return wire.FoundRecords(tuple(encoded[:taken]), cursor, tuple(told))

    def store(self, encoded: Sequence[bytes], source_block: str, sender_id: bytes) -> list[Stored]:
        """Judge a batch; a client keeps nothing."""
        if self._own.client:
            return [Stored(Verdict.FULL) for _ in encoded]
        now_ms = self._wall_ms()
        stored: list[Stored] = []
        for data in encoded:
            verdict = self._store.store(data, now_ms=now_ms, source_block=source_block)
            stored.append(verdict)
            if verdict.verdict is Verdict.OK:
                self._on_stored_record(data, sender_id)
        return stored

    def acknowledge(
        self,
        encoded: Sequence[bytes],
        stored: Sequence[Stored],
        requester_id: bytes,
        message_id: bytes,
    ) -> wire.StoredRecords:
        """Sign what became of a batch."""
        return acks.sign(
            self._own.identity,
            self._own.network.network_id,
            requester_id=requester_id,
            message_id=message_id,
            encoded=encoded,
            stored=stored,
        )

    def _body_of(
        self,
        call: wire.Call,
        arguments: wire.CallArguments,
        message_id: bytes,
        address: Address,
        proof: wire.Proof | None,
        budget_bytes: int,
    ) -> bytes:
        if call is wire.Call.HELLO:
            return wire.pack_reply(message_id, wire.Status.OK, proof)
        if call is wire.Call.FIND_RECORDS:
            find = wire.read_find(arguments.body)
            head_bytes = len(wire.pack_reply(message_id, wire.Status.OK, proof, _EMPTY_PAGE))
            room_bytes = budget_bytes - head_bytes - ARRAY_HEADS_BYTES
            found = self.find(find, arguments.sender.peer_id, address.host, room_bytes)
            return wire.pack_reply(message_id, wire.Status.OK, proof, wire.pack_body(found))
        batch = wire.read_store(arguments.body)
        if proof is not None:  # whose address is not yet known stores nothing in its block's name
            return wire.pack_reply(message_id, wire.Status.TOKEN, proof)
        sender_id = arguments.sender.peer_id
        stored = self.store(batch.records, address.block, sender_id)
        body = self.acknowledge(batch.records, stored, sender_id, message_id)
        return wire.pack_reply(message_id, wire.Status.OK, None, wire.pack_body(body))

    def _prove(self, sender: wire.Sender, address: Address) -> wire.Proof | None:
        hello = sender.hello
        assert hello is not None, "the caller looked"
        now = self._clock()
        if not self._hellos.allows(source_of(address), now=now):
            return self._drop("hello-rate")
        peer_id = check_hello(hello, self._own.network.network_id, self._own.peer_id)
        if peer_id != sender.peer_id:
            return self._drop("hello-sender")
        if not self._seen.first_time(peer_id, hello.nonce):
            return self._drop("hello-replayed")
        self._greeted_us[peer_id] = None
        while len(self._greeted_us) > GREETED_US_MAX:
            self._greeted_us.popitem(last=False)
        token = self._tokens.make(address.host, address.port, peer_id, now)
        return wire.Proof(self._own.answer(hello, address), token, max(0, self._wall_ms()))

    def _notice(self, peer_id: bytes, address: Address) -> None:
        """Name a newcomer: unknown, elsewhere than known, or just started (it said hello)."""
        known = self._table.contact(peer_id)
        said_hello = self._greeted_us.pop(peer_id, None) is not None
        if known is None or known.address != address or said_hello:
            self._on_newcomer(peer_id, address, said_hello)

    def _contacts(self, body: wire.FindRecords, asker_id: bytes, asker_host: str) -> list[bytes]:
        if not body.contacts_wanted:
            return []
        closest = self._table.closest(
            body.key, body.contacts_wanted, exclude=asker_id, failures_max=TOLD_FAILURES_MAX
        )
        packed: list[bytes] = []
        for contact in closest:
            told = address_to_tell(contact.address, contact.advertised, asker_host)
            compact = None if told is None else pack_contact(contact.peer_id, told)
            if compact is not None:
                packed.append(compact)
        return packed

    def _page(self, body: wire.FindRecords) -> tuple[Record, ...]:
        if not body.kinds or self._own.client:
            return ()
        kinds = [Kind(number) for number in body.kinds if number in _KINDS]
        if not kinds:
            return ()
        page = self._store.find(
            body.key,
            kinds,
            now_ms=self._wall_ms(),
            words=body.words,
            after=body.cursor,
            limit=wire.RECORDS_MAX + 1,
            withdrawn=body.withdrawn,
        )
        return page.records

    def _answer_stock(
        self, call: wire.Call, arguments: msgspec.Raw, message_id: bytes, address: Address
    ) -> bytes | None:
        if self._stock is None:
            return self._drop("stock-call")
        value = self._stock.answer(call, arguments, address)
        return None if value is None else wire.pack_stock_reply(message_id, value)

    def _on_stored_record(self, data: bytes, sender_id: bytes) -> None:
        self._on_stored(decode_record(data), sender_id)

    def _fit(self, reply: bytes, budget_bytes: int) -> bytes | None:
        return reply if len(reply) <= budget_bytes else self._drop("unpadded")

    def _drop(self, reason: str) -> None:
        self._drops[reason] += 1


_KINDS = frozenset(int(kind) for kind in Kind)
_EMPTY_PAGE = wire.pack_body(wire.FoundRecords(cursor=bytes(20)))
