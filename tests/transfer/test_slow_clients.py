"""Clients that hold a connection, a stream or a slot and do nothing with it."""

import asyncio
import contextlib
import ssl
from pathlib import Path

import grpc

from identity.tls import make_tls
from rpc.config import RpcConfig
from rpc.listener import RpcListener
from tests.transfer.peers import NETWORK, TestPeer, get, poll, random_bytes, running_peer
from transfer.manifest import Manifest
from transfer.service import ServiceConfig
from transfer.session import FETCH_METHOD, FetchCall
from transfer.wire import FetchRequest, encode_fetch_request

CHUNK = 512 * 1024


async def open_stream(reader: TestPeer, holder: TestPeer, manifest: Manifest) -> FetchCall:
    """Open a Fetch stream and have one chunk answered on it."""
    channel = await reader.channel_to(holder)
    call: FetchCall = channel.stream_stream(FETCH_METHOD)()
    await call.write(encode_fetch_request(FetchRequest(1, manifest.content_id, 0)))
    assert isinstance(await call.read(), bytes)
    return call


async def test_raw_clients_that_say_nothing_or_drip_are_cut_off(tmp_path: Path) -> None:
    async with running_peer() as peer:
        tls = make_tls(peer.identity, NETWORK)
        listener = RpcListener(tls, NETWORK, RpcConfig(handshake_timeout_s=0.5))
        port = await listener.start("127.0.0.1", 0)
        try:
            silent, first = await asyncio.open_connection("127.0.0.1", port)
            dripping, drops = await asyncio.open_connection("127.0.0.1", port)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            certificate = tmp_path / "leaf.pem"
            certificate.write_bytes(tls.certificate_pem + tls.private_key_pem)
            context.load_cert_chain(certificate)
            context.set_alpn_protocols(["h2"])
            mute, third = await asyncio.open_connection("127.0.0.1", port, ssl=context)

            async def drip() -> None:
                hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
                with contextlib.suppress(ConnectionError):
                    for byte in hello:
                        drops.write(bytes([byte]))
                        await drops.drain()
                        await asyncio.sleep(0.05)

            dripped = asyncio.create_task(drip())
            async with asyncio.timeout(8):
                for stream in (silent, dripping, mute):
                    with contextlib.suppress(ConnectionError):
                        while await stream.read(4096):
                            pass
            dripped.cancel()
            for writer in (first, drops, third):
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        finally:
            await listener.stop(0)


async def test_idle_stream_gives_its_slot_to_whoever_asks(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(4 * CHUNK))
    config = ServiceConfig(upload_slots_max=1, upload_slots_per_peer_max=1, slot_idle_s=0.1)
    async with (
        running_peer(config=config) as holder,
        running_peer() as idler,
        running_peer() as reader,
    ):
        manifest = await holder.share(source)
        call = await open_stream(idler, holder, manifest)
        result = await get(reader, manifest, tmp_path / "copy", [holder.holder])
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert result.sources == 1


async def test_stream_that_is_not_read_gives_its_slot_to_whoever_asks(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(64 * CHUNK))
    config = ServiceConfig(upload_slots_max=1, upload_slots_per_peer_max=1, slot_stuck_s=0.2)
    async with (
        running_peer(config=config) as holder,
        running_peer() as idler,
        running_peer() as reader,
    ):
        manifest = await holder.share(source)
        call = await open_stream(idler, holder, manifest)
        for number in range(64):
            request = FetchRequest(number + 2, manifest.content_id, number)
            await call.write(encode_fetch_request(request))
        result = await get(reader, manifest, tmp_path / "copy", [holder.holder])
        call.cancel()
        assert await poll(lambda: holder.service.uploads == 0)
    assert result.size_bytes == 64 * CHUNK


async def test_peer_gets_no_more_streams_than_it_may(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(CHUNK))
    config = ServiceConfig(upload_slots_max=8, upload_slots_per_peer_max=2, slot_idle_s=60)
    async with running_peer(config=config) as holder, running_peer() as reader:
        manifest = await holder.share(source)
        calls = [await open_stream(reader, holder, manifest) for _ in range(2)]
        channel = await reader.channel_to(holder)
        third: FetchCall = channel.stream_stream(FETCH_METHOD)()
        assert await third.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert holder.service.uploads == 2
        for call in calls:
            call.cancel()
