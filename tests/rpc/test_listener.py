import asyncio
import contextlib
import socket

import grpc
import pytest

from identity.address import Address
from rpc.config import RpcConfig
from rpc.errors import CannotListen, PortInUse
from rpc.listener import RpcListener
from tests.rpc.echo import HANG, POUR, Echo, call, until
from tests.support.identities import identity, listening, network, pool, rpc_pair, tls

NETWORK = network()


def listener() -> RpcListener:
    return RpcListener(tls(2, NETWORK), NETWORK)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
async def test_a_port_taken_by_another_peer_is_in_use(host: str) -> None:
    async with listening(1, host=host) as (_, address):
        with pytest.raises(PortInUse, match=str(address.port)):
            await listener().start(host, address.port)


async def test_a_port_taken_by_another_program_is_in_use() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        for host in ("127.0.0.1", "0.0.0.0"):
            with pytest.raises(PortInUse):
                await listener().start(host, port)


async def test_nothing_is_written_when_a_port_is_in_use(capfd: pytest.CaptureFixture[str]) -> None:
    async with listening(1) as (_, address):
        with pytest.raises(PortInUse):
            await listener().start("127.0.0.1", address.port)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("host", "port"), [("192.0.2.1", 0), ("no such host", 0), ("a..b", 0), ("127.0.0.1", 65_536)]
)
async def test_a_host_that_is_not_ours_cannot_be_listened_on(host: str, port: int) -> None:
    with pytest.raises(CannotListen) as caught:
        await listener().start(host, port)
    assert not isinstance(caught.value, PortInUse)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::1"])
async def test_wildcard_and_ipv6_hosts_are_served(host: str) -> None:
    async with listening(1, Echo(NETWORK).handler(), host=host) as (_, bound), pool(2) as channels:
        address = Address("::1" if ":" in host else "127.0.0.1", bound.port)
        channel = await channels.connect(identity(1).peer_id, [address])
        assert await call(channel)


async def test_a_stopped_listener_ends_calls_and_frees_its_port() -> None:
    echo = Echo(NETWORK)
    async with rpc_pair(echo.handler()) as pair:
        hanging = asyncio.create_task(call(pair.channel, method=HANG))
        await until(lambda: echo.calls == 1)
        await pair.listener.stop(0)
        with pytest.raises(grpc.aio.AioRpcError):
            await hanging
        await pair.listener.stop(0)  # a second time does nothing
        async with listening(3, port=pair.address.port) as (_, address):
            assert address.port == pair.address.port


async def test_calls_over_the_limit_are_refused_as_exhausted() -> None:
    echo = Echo(NETWORK)
    async with rpc_pair(echo.handler(), config=RpcConfig(concurrent_calls_max=1)) as pair:
        hanging = asyncio.create_task(call(pair.channel, method=HANG))
        await until(lambda: echo.calls == 1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(pair.channel)
        hanging.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await hanging
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_reader_that_goes_away_in_the_middle_leaves_no_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    echo, poured = Echo(NETWORK), [0]

    def stands_still() -> bool:
        poured.append(echo.poured)
        return poured[-1] == poured[-2]

    short_window = RpcConfig(read_bytes_per_s=1)
    async with rpc_pair(echo.handler(), config=short_window) as pair:
        for number in range(10):
            reading = pair.channel.unary_stream(POUR)(bytes(20_000))
            for _ in range(1 + number % 7):
                await reading.read()
            await until(stands_still)
            reading.cancel()
        await until(lambda: echo.calls == 10 and not echo.pouring)
    assert [record.getMessage() for record in caplog.records] == []


async def test_a_message_over_the_limit_is_refused() -> None:
    async with rpc_pair(
        Echo(NETWORK).handler(), config=RpcConfig(message_bytes_max=10_000)
    ) as pair:
        assert await call(pair.channel, bytes(9_000))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(pair.channel, bytes(11_000))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("field", ["message_bytes_max", "idle_s", "channels_max"])
def test_limits_must_be_positive(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        RpcConfig(**{field: 0})
