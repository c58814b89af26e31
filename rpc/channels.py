"""Channels to other peers, each pinned to the one certificate that it may meet.

Owns: the pool of channels, the pins, and the way from a peer's addresses to a ready channel.
Must not know: services, or where addresses come from.

A connect tries, in this order: the open channel; a new channel with the remembered pin; and once,
after a new discovery of the leaf at the addresses given, a channel with the new pin.
"""

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from identity.address import Address
from identity.keys import short_peer_id
from identity.network import Network
from identity.tls import TlsMaterial, server_name
from rpc.allocator import keep_freed_memory
from rpc.config import RpcConfig, channel_options
from rpc.errors import Unreachable, WrongPeer
from rpc.probe import Pin, probe, probe_context, race

# Of a connect's time, the share that a remembered pin may use up before the leaf is sought anew.
PINNED_SHARE = 0.4


@dataclass(slots=True)
class _Entry:
    """A channel and the pin with which it was made."""

    channel: grpc.aio.Channel
    pin: Pin


class ChannelPool:
    """Pinned channels by peer id: one a peer, at most `channels_max`.

    Channels belong to the pool: callers neither close nor keep them, but connect again for each
    piece of work, which costs nothing while the channel is open. A channel without calls gives
    its connection up after `idle_s`.
    """

    def __init__(
        self,
        tls: TlsMaterial,
        network: Network,
        config: RpcConfig = RpcConfig(),  # noqa: B008
    ) -> None:
        self._tls = tls
        self._network = network
        self._config = config
        self._context: ssl.SSLContext | None = None
        # Both ordered by use, the longest unused first.
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._pins: OrderedDict[bytes, Pin] = OrderedDict()
        self._connecting: dict[bytes, tuple[asyncio.Lock, int]] = {}
        # Channels that were dropped, by the task that closes them.
        self._closing: dict[asyncio.Task[None], grpc.aio.Channel] = {}
        self._closed = False
        keep_freed_memory()

    async def connect(
        self, peer_id: bytes, addresses: Sequence[Address], *, timeout_s: float = 5.0
    ) -> grpc.aio.Channel:
        """Return a channel over which this peer, and nobody else, has answered.

        Addresses are tried staggered, in their order. Raises WrongPeer, ForeignNetwork or
        Unreachable; the latter also when the time is over.
        """
        entry = self._entries.get(peer_id)
        if entry is not None and entry.channel.get_state() is grpc.ChannelConnectivity.READY:
            self._entries.move_to_end(peer_id)
            return entry.channel
        try:
            async with asyncio.timeout(timeout_s):
                return await self._connect_once(peer_id, addresses, timeout_s)
        except TimeoutError as error:
            name = short_peer_id(peer_id)
            raise Unreachable(f"peer {name} did not answer within {timeout_s:g} s") from error

    async def probe(self, address: Address, *, timeout_s: float = 3.0) -> bytes:
        """Return the id of the peer at an address; raises Unreachable or ForeignNetwork."""
        try:
            async with asyncio.timeout(timeout_s):
                pin = await probe(address, self._probe_context(), self._network)
        except TimeoutError as error:
            raise Unreachable(f"{address} did not answer within {timeout_s:g} s") from error
        return pin.peer_id

    def forget(self, peer_id: bytes) -> None:
        """Drop the peer's channel, with the calls on it, and its pin."""
        self._pins.pop(peer_id, None)
        self._drop(peer_id, grace_s=0.0)

    async def close(self) -> None:
        """Close all channels, with the calls on them. May be called again."""
        self._closed = True
        channels = [entry.channel for entry in self._entries.values()] + [*self._closing.values()]
        tasks = [*self._closing]
        self._entries.clear()
        for task in tasks:  # those that wait for their grace to end wait no longer
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in channels:
            await channel.close()

    async def _connect_once(
        self, peer_id: bytes, addresses: Sequence[Address], timeout_s: float
    ) -> grpc.aio.Channel:
        """Let one task at a time connect to a peer; the others then find its channel."""
        lock, users = self._connecting.get(peer_id, (asyncio.Lock(), 0))
        self._connecting[peer_id] = (lock, users + 1)
        try:
            async with lock:
                return await self._connect(peer_id, addresses, timeout_s)
        finally:
            _, users = self._connecting[peer_id]
            if users == 1:
                del self._connecting[peer_id]
            else:
                self._connecting[peer_id] = (lock, users - 1)

    async def _connect(
        self, peer_id: bytes, addresses: Sequence[Address], timeout_s: float
    ) -> grpc.aio.Channel:
        channel = await self._connect_pinned(peer_id, addresses, timeout_s * PINNED_SHARE)
        if channel is not None:
            return channel
        pin = await self._discover(peer_id, addresses)
        self._remember(pin)
        entry = self._open(pin)
        if await _becomes_ready(entry.channel):
            return entry.channel
        self._drop(peer_id, grace_s=0.0)
        name = short_peer_id(peer_id)
        raise Unreachable(f"peer {name} at {pin.address} ended the connection")

    async def _connect_pinned(
        self, peer_id: bytes, addresses: Sequence[Address], timeout_s: float
    ) -> grpc.aio.Channel | None:
        pin = self._pins.get(peer_id)
        if pin is None or (addresses and pin.asked not in addresses):
            # A peer that moved: its open channel, if it still works, was taken before.
            self._drop(peer_id, grace_s=0.0)
            return None
        entry = self._entries.get(peer_id) or self._open(pin)
        try:
            async with asyncio.timeout(timeout_s):
                if await _becomes_ready(entry.channel):
                    self._pins.move_to_end(peer_id)
                    self._entries.move_to_end(peer_id)
                    return entry.channel
        except TimeoutError:
            pass  # the peer may be elsewhere, or have a new leaf: discovery tells
        self._drop(peer_id, grace_s=0.0)
        return None

    async def _discover(self, peer_id: bytes, addresses: Sequence[Address]) -> Pin:
        async def attempt(address: Address) -> Pin:
            pin = await probe(address, self._probe_context(), self._network)
            if pin.peer_id != peer_id:
                wanted, met = short_peer_id(peer_id), short_peer_id(pin.peer_id)
                raise WrongPeer(f"peer {met} answers at {address}, not {wanted}")
            return pin

        return await race(
            addresses[: self._config.addresses_max], attempt, stagger_s=self._config.stagger_s
        )

    def _open(self, pin: Pin) -> _Entry:
        if self._closed:
            raise Unreachable("this peer is about to stop")
        credentials = grpc.ssl_channel_credentials(
            pin.leaf_pem, self._tls.private_key_pem, self._tls.certificate_pem
        )
        family = "ipv4" if pin.address.family == 4 else "ipv6"  # pins are numeric
        target = f"{family}:{str(pin.address).replace('%', '%25')}"  # a URI, and fe80::1%eth0
        name = ("grpc.ssl_target_name_override", server_name(pin.peer_id))
        channel = grpc.aio.secure_channel(
            target, credentials, (name, *channel_options(self._config))
        )
        self._drop(pin.peer_id, grace_s=0.0)
        self._make_room()
        entry = self._entries[pin.peer_id] = _Entry(channel, pin)
        return entry

    def _remember(self, pin: Pin) -> None:
        self._pins[pin.peer_id] = pin
        self._pins.move_to_end(pin.peer_id)
        while len(self._pins) > self._config.pins_max:
            self._pins.popitem(last=False)

    def _make_room(self) -> None:
        """Close channels that gave up their connections, then the longest unused."""
        while len(self._entries) >= self._config.channels_max:
            idle = (i for i, entry in self._entries.items() if self._is_idle(entry))
            oldest = next(iter(self._entries))
            self._drop(next(idle, oldest), grace_s=self._config.eviction_grace_s)

    def _is_idle(self, entry: _Entry) -> bool:
        connecting = entry.pin.peer_id in self._connecting
        return not connecting and entry.channel.get_state() is grpc.ChannelConnectivity.IDLE

    def _drop(self, peer_id: bytes, *, grace_s: float) -> None:
        entry = self._entries.pop(peer_id, None)
        if entry is None:
            return
        if len(self._closing) >= self._config.channels_max:
            grace_s = 0.0
        task = asyncio.get_running_loop().create_task(_close(entry.channel, grace_s))
        self._closing[task] = entry.channel
        task.add_done_callback(self._closing.pop)

    def _probe_context(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = probe_context(self._tls)
        return self._context


async def _becomes_ready(channel: grpc.aio.Channel) -> bool:
    """Wait until the channel is connected, or has failed to for the first time."""
    while True:
        state = channel.get_state(try_to_connect=True)
        match state:
            case grpc.ChannelConnectivity.READY:
                return True
            case grpc.ChannelConnectivity.TRANSIENT_FAILURE | grpc.ChannelConnectivity.SHUTDOWN:
                return False
            case _:
                await channel.wait_for_state_change(state)


async def _close(channel: grpc.aio.Channel, grace_s: float) -> None:
    # Not close(grace_s): once begun, gRPC lets nobody shorten that wait.
    await asyncio.sleep(grace_s)
    await channel.close()
