"""Leaf discovery: a bare TLS handshake that shows which peer listens at an address.

Owns: the probe, and the staggered race over a peer's addresses.
Must not know: gRPC, or who is wanted where.

gRPC can pin a certificate but not show the one it met. So we fetch the leaf by a handshake of our
own that trusts nobody, check it ourselves, and let gRPC trust exactly this leaf.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from identity.address import Address, ip_of
from identity.errors import ForeignCertificate
from identity.network import Network
from identity.tls import TlsMaterial, verify_leaf
from rpc.errors import ForeignNetwork, RpcError, Unreachable, WrongPeer

Result = TypeVar("Result")

# An IP address as the server's name sends no name at all. gRPC logs each name that is not its own.
NO_NAME = "0.0.0.0"  # noqa: S104


@dataclass(frozen=True, slots=True)
class Pin:
    """A peer's leaf, the address that was asked, and the numeric one where it was met."""

    peer_id: bytes
    leaf_pem: bytes
    asked: Address
    address: Address


def probe_context(tls: TlsMaterial) -> ssl.SSLContext:
    """Return the TLS settings of a probe. Blocking: ssl takes our key from a file only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # verify_leaf decides, once the handshake is done
    context.set_alpn_protocols(["h2"])
    # Our own leaf is shown so that the listener completes the handshake instead of logging.
    with tempfile.NamedTemporaryFile(prefix="shoal-") as file:  # 0600
        file.write(tls.private_key_pem + tls.certificate_pem)
        file.flush()
        context.load_cert_chain(Path(file.name))
    return context


async def probe(address: Address, context: ssl.SSLContext, network: Network) -> Pin:
    """Return the pin of the peer at the address; raises Unreachable or ForeignNetwork.

    Unbounded in time: the caller sets the deadline.
    """
    try:
        leaf_der, met = await _fetch_leaf(address, context)
    except ssl.SSLError as error:
        raise Unreachable(f"{address} answers, but does not speak our TLS") from error
    except (OSError, EOFError, ValueError, OverflowError) as error:  # also hosts that are no names
        raise Unreachable(f"{address} does not answer: {_reason(error)}") from error
    try:
        peer_id, _ = verify_leaf(leaf_der, network)
    except ForeignCertificate as error:
        raise ForeignNetwork(f"{address} belongs to another network: {error}") from error
    return Pin(peer_id, ssl.DER_cert_to_PEM_cert(leaf_der).encode(), address, met)


async def race(
    addresses: Sequence[Address],
    attempt: Callable[[Address], Awaitable[Result]],
    *,
    stagger_s: float,
) -> Result:
    """Try the addresses in order, each with a head start over the next; the first success wins.

    A failure starts the next at once. When all fail, raises the most telling of their errors:
    WrongPeer, then ForeignNetwork, then Unreachable.
    """
    waiting = list(addresses)
    running: set[asyncio.Future[Result]] = set()
    failures: list[RpcError] = []
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(attempt(waiting.pop(0))))
            done, running = await asyncio.wait(
                running,
                timeout=stagger_s if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                try:
                    return task.result()
                except RpcError as error:
                    failures.append(error)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    raise _most_telling(failures)


def _most_telling(failures: Sequence[RpcError]) -> RpcError:
    for kind in (WrongPeer, ForeignNetwork):
        for failure in failures:
            if isinstance(failure, kind):
                return failure
    return failures[0] if failures else Unreachable("no address of this peer is known")


async def _fetch_leaf(address: Address, context: ssl.SSLContext) -> tuple[bytes, Address]:
    _, writer = await asyncio.open_connection(
        address.host, address.port, ssl=context, server_hostname=NO_NAME
    )
    try:
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        host, port, *_ = writer.get_extra_info("peername")
        leaf_der = tls.getpeercert(binary_form=True)
    finally:
        # Not close(): that would wait for the other side's goodbye.
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if leaf_der is None:
        raise EOFError("it shows no certificate")
    return leaf_der, Address(str(ip_of(host) or host), port)  # mapped IPv4 as IPv4


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # asyncio's own texts repeat the address
    return str(error) or "the connection was closed"
