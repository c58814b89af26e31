"""The five calls of stock Kademlia, for nodes that know no other; open networks only.

Owns what a stock node hears: our id, the closest contacts and stock nodes, never a value.
Must not know sockets. A stock node proves nothing: it is pinged back once, kept in a small table
of its own, told to other stock nodes, and never chosen to store.
"""

import asyncio
from collections.abc import Callable
from typing import assert_never

import msgspec

from dht import wire
from dht.dialling import DialLimits
from dht.errors import BadMessage, DhtError, Dropped, NoAnswer
from dht.hints import Scope, address_to_tell, scope_of
from dht.limits import DoubleLimit, Limits, RateLimit, source_of
from dht.protocol import ShoalProtocol
from dht.routing import StockContacts, Table
from identity.address import Address

PINGS_MAX = 32
"""Strangers pinged back at once."""


class StockDesk:
    """Answer stock calls; see the module."""

    def __init__(
        self,
        table: Table,
        stock: StockContacts,
        limits: Limits,
        *,
        clock: Callable[[], float],
        on_stranger: Callable[[bytes, Address], None],
    ) -> None:
        self._table = table
        self._stock = stock
        self._calls = RateLimit(limits.stock)
        self._bytes = DoubleLimit(limits.stock_bytes, limits.stock_bytes_all)
        self._clock = clock
        self._on_stranger = on_stranger

    def answer(
        self, call: wire.Call, arguments: msgspec.Raw, message_id: bytes, address: Address
    ) -> bytes:
        """Return the frame that answers a stock call; BadMessage, Dropped."""
        source, now = source_of(address), self._clock()
        if not self._calls.allows(source, now=now):
            raise Dropped("stock-rate")
        value = self._value(call, arguments, address)
        reply = wire.pack_stock_reply(message_id, value)
        if not self._bytes.allows(source, now=now, amount=len(reply)):
            raise Dropped("stock-bytes")
        return reply

    def _value(self, call: wire.Call, arguments: msgspec.Raw, address: Address) -> object:
        match call:
            case wire.Call.STUN:
                wire.read_stock_arguments(arguments, 0)
                return [address.host, address.port]
            case wire.Call.PING:
                self._welcome(wire.read_stock_arguments(arguments, 1)[0], address)
                return self._table.node.id
            case wire.Call.FIND_NODE | wire.Call.FIND_VALUE:
                asker, key = wire.read_stock_arguments(arguments, 2)
                asker_id = self._welcome(asker, address)
                return self._closest(_id(key), asker_id, address)
            case wire.Call.STORE:
                self._welcome(wire.read_stock_arguments(arguments, 3)[0], address)
                return False
            case (
                wire.Call.FIND_RECORDS
                | wire.Call.STORE_RECORDS
                | wire.Call.HELLO
                | wire.Call.DIAL_BACK
                | wire.Call.PROBE
            ):
                raise Dropped("unknown-call")
            case _:
                assert_never(call)

    def _welcome(self, claimed: object, address: Address) -> bytes:
        node_id = _id(claimed)
        if node_id == self._table.node.id or self._table.contact(node_id) is not None:
            return node_id
        if node_id in self._stock and self._is_same(node_id, address):
            self._stock.seen(node_id, address.host, address.port, self._clock())
        else:
            self._on_stranger(node_id, address)
        return node_id

    def _is_same(self, node_id: bytes, address: Address) -> bool:
        known = self._stock.closest(node_id, 1, self._clock())
        return bool(known) and known[0].id == node_id and known[0].ip == address.host

    def _closest(self, key: bytes, asker_id: bytes, asker: Address) -> list[list[object]]:
        k = wire.CONTACTS_MAX
        told: list[tuple[int, list[object]]] = []
        target = int.from_bytes(key, "big")
        is_near = scope_of(asker.host) is Scope.LOOPBACK
        for contact in self._table.closest(key, k, exclude=asker_id, failures_max=0):
            address = address_to_tell(contact.address, contact.advertised, asker_is_near=is_near)
            if address is not None:
                told.append((contact.long_id ^ target, [contact.id, address.host, address.port]))
        told.extend(
            (node.long_id ^ target, [node.id, node.ip, node.port])
            for node in self._stock.closest(key, k, self._clock(), exclude=asker_id)
            if is_near or scope_of(node.ip) > Scope.LOOPBACK
        )
        told.sort(key=lambda each: each[0])
        return [row for _, row in told[:k]]


class StockPinger:
    """Ping stock nodes back, once each, before they are told to others."""

    def __init__(
        self,
        protocol: ShoalProtocol,
        stock: StockContacts,
        dials: DialLimits,
        *,
        clock: Callable[[], float],
        timeout_s: float,
    ) -> None:
        self._dials = dials
        self._protocol = protocol
        self._stock = stock
        self._clock = clock
        self._timeout_s = timeout_s
        self._under_way: set[Address] = set()

    def may_ping(self, address: Address) -> bool:
        """Tell whether a stranger is pinged now: its address may be forged."""
        if address in self._under_way or len(self._under_way) >= PINGS_MAX:
            return False
        return self._dials.allows(address, now=self._clock())

    async def ping(self, node_id: bytes, address: Address) -> None:
        """Ask a stranger for its id; it enters the stock table when that is what it claimed."""
        self._under_way.add(address)
        own_id = self._protocol.source_node.id
        answered: asyncio.Future[msgspec.Raw | None] = asyncio.get_running_loop().create_future()
        message_id = b""
        try:
            message_id = self._protocol.ask(
                address,
                lambda message: wire.pack_stock_call(message, wire.Call.PING, own_id),
                lambda _, value: None if answered.done() else answered.set_result(value),
            )
            async with asyncio.timeout(self._timeout_s):
                value = await answered
            if value is None:
                raise NoAnswer("the node was closed")
            self._dials.answered(address)
            if wire.read_peer_id(value) == node_id:
                self._stock.seen(node_id, address.host, address.port, self._clock())
        except TimeoutError:
            self._dials.silent(address, now=self._clock())
            self._protocol.drops["stock-silent"] += 1
        except DhtError:
            self._protocol.drops["stock-silent"] += 1
        finally:
            self._protocol.forget(message_id)
            self._under_way.discard(address)


def _id(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != 20:
        raise BadMessage("a stock id has 20 bytes")
    return value
