"""Who reaches a handler, tried with real sockets and with everything an attacker can hold."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from identity.network import Network
from identity.tls import TlsMaterial, make_tls, server_name
from rpc.config import CHANNEL_OPTIONS
from tests.rpc.echo import CHAT, COLLECT, COUNT, GENERATE, UNARY, Echo, call
from tests.support.forgery import forged_tls, other_members_key, other_purpose
from tests.support.identities import identity, listening, network, pool, rpc_pair, tls

NETWORK = network()
OUTSIDERS = [Network("tests", bytes(32)), network(name="another"), network(private=False)]


def bare_channel(
    port: int, own: TlsMaterial | None, root_pem: bytes, name: str
) -> grpc.aio.Channel:
    """A channel without any of our own checks: what an attacker would use."""
    credentials = grpc.ssl_channel_credentials(
        root_pem,
        own.private_key_pem if own else None,
        own.certificate_pem if own else None,
    )
    options = (("grpc.ssl_target_name_override", name), *CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(f"ipv4:127.0.0.1:{port}", credentials, options)


async def refusal(channel: grpc.aio.Channel) -> grpc.StatusCode:
    async with channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel)
    return caught.value.code()


async def test_a_handler_learns_who_calls() -> None:
    echo = Echo(NETWORK)
    async with rpc_pair(echo.handler()) as pair:
        assert await call(pair.channel, b"hi") == pair.client.peer_id + b"hi"


async def test_every_kind_of_method_works_behind_the_guard() -> None:
    echo = Echo(NETWORK)
    async with rpc_pair(echo.handler()) as pair:
        count: Any = pair.channel.unary_stream(COUNT)
        generate: Any = pair.channel.unary_stream(GENERATE)
        collect: Any = pair.channel.stream_unary(COLLECT)
        chat: Any = pair.channel.stream_stream(CHAT)
        assert [part async for part in count(b"abc", timeout=5)] == [b"a", b"b", b"c"]
        assert [part async for part in generate(b"abc", timeout=5)] == [b"a", b"b", b"c"]
        assert await collect(iter([b"a", b"b"]), timeout=5) == b"ab"
        assert [part async for part in chat(iter([b"ab", b"cd"]), timeout=5)] == [b"ba", b"dc"]


async def test_an_unknown_method_is_unimplemented() -> None:
    async with rpc_pair(Echo(NETWORK).handler()) as pair:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(pair.channel, method="/shoal.test.Echo/Missing")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("outside", OUTSIDERS, ids=lambda n: f"{n.name}-{n.is_private}")
async def test_an_outsider_reaches_no_handler(outside: Network) -> None:
    echo = Echo(NETWORK)
    async with listening(1, echo.handler()) as (_, address):
        own = make_tls(identity(2), outside)
        name = server_name(identity(1).peer_id)
        leaf = tls(1, NETWORK).certificate_pem  # even one who got hold of the server's leaf
        code = await refusal(bare_channel(address.port, own, leaf, name))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert echo.calls == 0


async def test_a_caller_without_certificate_or_tls_reaches_no_handler() -> None:
    echo = Echo(NETWORK)
    async with listening(1, echo.handler()) as (_, address):
        leaf, name = tls(1, NETWORK).certificate_pem, server_name(identity(1).peer_id)
        codes = [
            await refusal(bare_channel(address.port, None, leaf, name)),
            await refusal(
                grpc.aio.insecure_channel(f"ipv4:127.0.0.1:{address.port}", CHANNEL_OPTIONS)
            ),
        ]
    assert codes == [grpc.StatusCode.UNAVAILABLE] * 2
    assert echo.calls == 0


@pytest.mark.parametrize("binding", [other_members_key, other_purpose, lambda spki: b""])
@pytest.mark.parametrize("method", [UNARY, COUNT, GENERATE, COLLECT, CHAT])
async def test_a_member_with_a_forged_binding_reaches_no_handler(
    binding: Callable[[bytes], bytes], method: str
) -> None:
    echo = Echo(NETWORK)
    async with listening(3, echo.handler()) as (_, address):
        leaf, name = tls(3, NETWORK).certificate_pem, server_name(identity(3).peer_id)
        channel = bare_channel(address.port, forged_tls(binding=binding), leaf, name)
        async with channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, method=method)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert echo.calls == 0


async def test_a_pinned_leaf_is_refused_under_another_name() -> None:
    async with listening(1, Echo(NETWORK).handler()) as (_, address):
        leaf, other = tls(1, NETWORK).certificate_pem, server_name(identity(2).peer_id)
        code = await refusal(bare_channel(address.port, tls(3, NETWORK), leaf, other))
    assert code is grpc.StatusCode.UNAVAILABLE


async def test_a_pinned_leaf_excludes_other_leaves_of_the_network() -> None:
    """A member can sign a leaf with any name: only the pin, not the authority, is trusted."""
    impostor = forged_tls(binding=other_members_key)  # named as identity 1
    async with listening(impostor, Echo(NETWORK).handler()) as (_, address):
        leaf, name = tls(1, NETWORK).certificate_pem, server_name(identity(1).peer_id)
        code = await refusal(bare_channel(address.port, tls(3, NETWORK), leaf, name))
        authority = tls(1, NETWORK).ca_pem
        trusting = bare_channel(address.port, tls(3, NETWORK), authority, name)
        async with trusting:  # the proof that the attack is real
            assert await call(trusting)
    assert code is grpc.StatusCode.UNAVAILABLE


async def test_a_proxy_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("https_proxy", "http_proxy", "grpc_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with rpc_pair(Echo(NETWORK).handler()) as pair:
        assert await call(pair.channel) == pair.client.peer_id + b"x"


async def test_probes_and_calls_write_nothing_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    async with rpc_pair(Echo(NETWORK).handler()) as pair:
        for _ in range(5):
            assert await pair.pool.probe(pair.address) == pair.server.peer_id
        await call(pair.channel)
        # What the listener has to say about a probe, it says before it has served a later one.
        assert await pair.pool.probe(pair.address) == pair.server.peer_id
        shown = capfd.readouterr().err
    assert shown == ""


async def test_the_listener_speaks_nothing_older_than_the_probe() -> None:
    """The probe insists on TLS 1.3; a listener that could not would be reachable for nobody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    async with listening(1, Echo(NETWORK).handler()) as (_, address):
        _, writer = await asyncio.open_connection(
            address.host, address.port, ssl=context, server_hostname="0.0.0.0"
        )
        spoken = writer.get_extra_info("ssl_object").version()
        writer.transport.abort()
    assert spoken == "TLSv1.3"


async def test_two_members_build_authorities_that_interoperate() -> None:
    echo = Echo(NETWORK)
    server, client = make_tls(identity(1), NETWORK), make_tls(identity(2), NETWORK)
    async with listening(server, echo.handler()) as (_, address), pool(client) as channels:
        channel = await channels.connect(identity(1).peer_id, [address])
        assert await call(channel) == identity(2).peer_id + b"x"
