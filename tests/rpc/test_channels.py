import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
import pytest
import uvloop

from identity.address import Address
from identity.network import Network
from identity.tls import make_tls
from rpc.channels import ChannelPool
from rpc.config import RpcConfig
from rpc.errors import ForeignNetwork, RpcError, Unreachable, WrongPeer
from rpc.probe import probe
from tests.rpc.echo import HANG, Echo, call, until
from tests.support.forgery import forged_tls, other_members_key
from tests.support.identities import identity, listening, network, pool, rpc_pair

NETWORK = network()
SERVER = identity(1).peer_id
READY = grpc.ChannelConnectivity.READY


@pytest.fixture
async def channels() -> AsyncIterator[ChannelPool]:
    async with pool(2) as made:
        yield made


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[Address]:
    """The addresses that were probed, in order."""
    asked: list[Address] = []
    real = probe

    def counted(address: Address, *rest: Any) -> Coroutine[Any, Any, Any]:
        asked.append(address)
        return real(address, *rest)

    monkeypatch.setattr("rpc.channels.probe", counted)
    return asked


@contextlib.contextmanager
def silent_port() -> Any:
    """Accepts connections and never says a word."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield Address("127.0.0.1", server.getsockname()[1])


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_discovery_pinning_and_calls_work_on_both_loops(run: Callable[[Any], None]) -> None:
    async def story() -> None:
        async with rpc_pair(Echo(NETWORK).handler()) as pair:
            assert await call(pair.channel) == pair.client.peer_id + b"x"
            assert await pair.pool.probe(pair.address) == pair.server.peer_id
            with pytest.raises(WrongPeer):
                await pair.pool.connect(identity(9).peer_id, [pair.address])
            with pytest.raises(Unreachable):
                await pair.pool.probe(Address("127.0.0.1", 1))
            async with pool(3, of=Network("tests", bytes(32))) as outsider:
                with pytest.raises(ForeignNetwork):
                    await outsider.probe(pair.address)

    run(story())


@pytest.mark.parametrize("private", [True, False])
async def test_open_and_private_networks_use_one_path(private: bool) -> None:
    of = network(private)
    async with rpc_pair(Echo(of).handler(), of=of) as pair:
        assert await call(pair.channel) == pair.client.peer_id + b"x"


async def test_another_network_another_peer_and_a_forger_are_told_apart(
    channels: ChannelPool,
) -> None:
    foreign = make_tls(identity(1), Network("tests", bytes(32)))
    forger = forged_tls(binding=other_members_key)
    async with (
        listening(foreign) as (_, at_foreign),
        listening(3) as (_, at_other),
        listening(forger) as (_, at_forger),
    ):
        with pytest.raises(ForeignNetwork):
            await channels.connect(SERVER, [at_foreign])
        with pytest.raises(WrongPeer):
            await channels.connect(SERVER, [at_other])
        with pytest.raises(ForeignNetwork):
            await channels.connect(SERVER, [at_forger])
        with pytest.raises(WrongPeer):
            await channels.connect(SERVER, [at_foreign, at_other, Address("127.0.0.1", 1)])
        async with listening(1, Echo(NETWORK).handler()) as (_, right):
            everywhere = [Address("127.0.0.1", 1), at_foreign, at_other, at_forger, right]
            assert await call(await channels.connect(SERVER, everywhere))


async def test_silence_is_unreachable_when_the_time_is_over(channels: ChannelPool) -> None:
    with silent_port() as silent:
        with pytest.raises(Unreachable):
            await channels.probe(silent, timeout_s=0.2)
        with pytest.raises(Unreachable):
            await channels.connect(SERVER, [silent], timeout_s=0.2)


async def test_a_silent_address_delays_the_good_one_by_the_stagger_only() -> None:
    config = RpcConfig(stagger_s=0.02)
    with silent_port() as silent:
        async with (
            listening(1, Echo(NETWORK).handler()) as (_, good),
            pool(2, config=config) as channels,
        ):
            assert await call(await channels.connect(SERVER, [silent, good], timeout_s=5))


async def test_a_port_that_speaks_no_tls_is_unreachable(channels: ChannelPool) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ready\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        with pytest.raises(Unreachable):
            await channels.probe(Address("127.0.0.1", server.sockets[0].getsockname()[1]))


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "no\x00host", "999.1.1.1", "unknown.invalid"])
async def test_hosts_that_are_no_hosts_are_unreachable(host: str, channels: ChannelPool) -> None:
    with pytest.raises(Unreachable):
        await channels.probe(Address(host, 4100))


async def test_a_peer_without_addresses_is_unreachable(channels: ChannelPool) -> None:
    with pytest.raises(Unreachable):
        await channels.connect(SERVER, [])


async def test_a_restart_with_the_same_leaf_keeps_the_pin(
    channels: ChannelPool, probes: list[Address]
) -> None:
    async with listening(1, Echo(NETWORK).handler()) as (_, address):
        channel = await channels.connect(SERVER, [address])
        await call(channel)
    await until(lambda: channel.get_state() is not READY)
    assert probes == [address]
    async with listening(1, Echo(NETWORK).handler(), port=address.port):
        channel = await channels.connect(SERVER, [address])
        await call(channel)
    await until(lambda: channel.get_state() is not READY)
    with pytest.raises(Unreachable):
        await channels.connect(SERVER, [address])


async def test_a_forgotten_channel_is_reopened_by_discovery_and_an_idle_one_by_its_pin(
    probes: list[Address],
) -> None:
    config = RpcConfig(idle_s=1.0)
    async with (
        listening(1, Echo(NETWORK).handler()) as (_, address),
        pool(2, config=config) as channels,
    ):
        channel = await channels.connect(SERVER, [address])
        await call(channel)
        await until(lambda: channel.get_state() is grpc.ChannelConnectivity.IDLE)
        assert await call(await channels.connect(SERVER, [address]))
        assert probes == [address]
        channels.forget(SERVER)
        assert await call(await channels.connect(SERVER, [address]))
        assert probes == [address, address]


async def test_a_new_leaf_is_discovered_once(channels: ChannelPool, probes: list[Address]) -> None:
    async with listening(1, Echo(NETWORK).handler()) as (_, address):
        await call(await channels.connect(SERVER, [address]))
    renewed = make_tls(identity(1), NETWORK)
    async with listening(renewed, Echo(NETWORK).handler(), port=address.port):
        assert await call(await channels.connect(SERVER, [address]))
        assert await call(await channels.connect(SERVER, [address]))
    assert probes == [address, address]


async def test_a_peer_that_moved_is_found_at_its_new_address(channels: ChannelPool) -> None:
    async with listening(1, Echo(NETWORK).handler()) as (_, old):
        await call(await channels.connect(SERVER, [old]))
    async with listening(3, port=old.port), listening(1, Echo(NETWORK).handler()) as (_, new):
        assert await call(await channels.connect(SERVER, [new]))


async def test_a_stranger_at_the_old_address_is_the_wrong_peer(channels: ChannelPool) -> None:
    async with listening(1, Echo(NETWORK).handler()) as (_, address):
        await call(await channels.connect(SERVER, [address]))
    echo = Echo(NETWORK)
    async with listening(3, echo.handler(), port=address.port):
        with pytest.raises(WrongPeer):
            await channels.connect(SERVER, [address])
    assert echo.calls == 0


async def test_tasks_that_connect_at_once_share_one_channel(
    channels: ChannelPool, probes: list[Address]
) -> None:
    async with listening(1, Echo(NETWORK).handler()) as (_, address):
        made = await asyncio.gather(*(channels.connect(SERVER, [address]) for _ in range(10)))
        assert len(set(map(id, made))) == 1
    assert probes == [address]
    assert channels._connecting == {}


async def test_a_full_pool_lets_the_longest_unused_go() -> None:
    config = RpcConfig(channels_max=2, eviction_grace_s=0.1)
    numbers = (1, 3, 4)
    async with contextlib.AsyncExitStack() as stack:
        channels = await stack.enter_async_context(pool(2, config=config))
        at: dict[int, Address] = {}
        for n in numbers:
            _, at[n] = await stack.enter_async_context(listening(n, Echo(NETWORK).handler()))
        made = {n: await channels.connect(identity(n).peer_id, [at[n]]) for n in (1, 3)}
        assert await channels.connect(identity(1).peer_id, [at[1]]) is made[1]  # used again
        await channels.connect(identity(4).peer_id, [at[4]])
        assert list(channels._entries) == [identity(1).peer_id, identity(4).peer_id]
        assert await call(made[1])
        assert await call(await channels.connect(identity(3).peer_id, [at[3]]))


async def test_a_call_on_an_evicted_channel_may_finish() -> None:
    echo = Echo(NETWORK)
    config = RpcConfig(channels_max=1, eviction_grace_s=20)
    async with (
        listening(1, echo.handler()) as (_, first),
        listening(3, Echo(NETWORK).handler()) as (_, second),
        pool(2, config=config) as channels,
    ):
        channel = await channels.connect(SERVER, [first])
        hanging = asyncio.create_task(call(channel, method=HANG))
        await until(lambda: echo.calls == 1)
        await channels.connect(identity(3).peer_id, [second])
        _, pending = await asyncio.wait([hanging], timeout=0.2)
        assert pending == {hanging}
        async with asyncio.timeout(2):  # neither the grace nor the call's deadline
            await channels.close()
            with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                await hanging


async def test_a_closed_pool_connects_no_more(channels: ChannelPool) -> None:
    async with listening(1, Echo(NETWORK).handler()) as (_, address):
        await channels.connect(SERVER, [address])
        await channels.close()
        await channels.close()
        with pytest.raises(RpcError):
            await channels.connect(SERVER, [address])


async def test_a_cancelled_connect_leaves_nothing_behind(channels: ChannelPool) -> None:
    with silent_port() as silent:
        task = asyncio.create_task(channels.connect(SERVER, [silent], timeout_s=30))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert channels._connecting == {}
    assert channels._entries == {}
