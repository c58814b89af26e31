"""Measurements for `doctor`, and for a join that finds nobody: files, disk, ports, addresses.

Owns how something is measured, and for how long. What a measurement means is peer.checkup's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from pathlib import Path

from dht.hints import plain_host
from dht.node import DhtNode
from identity.address import Address, ip_of
from identity.network import BootstrapNode
from peer.checkup import Attempt, NodeFound, PortState, SecretFile, Space, Tls
from peer.home import Home
from rpc.channels import ChannelPool
from rpc.errors import ForeignNetwork, RpcError

RESOLVE_TIMEOUT_S = 3.0
HELLO_TIMEOUT_S = 2.0
TLS_TIMEOUT_S = 2.0
RESOLVED_MAX = 4
"""Addresses tried of one bootstrap host name."""


async def probe_tls(
    channels: ChannelPool, address: Address, *, timeout_s: float = TLS_TIMEOUT_S
) -> tuple[Tls, bytes | None]:
    """Find out over TLS whether a peer of our network is at an address, and which."""
    try:
        return Tls.OURS, await channels.probe(address, timeout_s=timeout_s)
    except ForeignNetwork:
        return Tls.FOREIGN, None
    except RpcError as error:
        refused = isinstance(error.__cause__, ConnectionRefusedError)
        return (Tls.ABSENT if refused else Tls.SILENT), None


async def probe_node(dht: DhtNode, channels: ChannelPool, node: BootstrapNode) -> list[NodeFound]:
    """Try each address of a bootstrap node over UDP and TLS at once."""
    addresses = await _resolved(node.address)
    if not addresses:
        return [NodeFound(node.address, None)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_probe(dht, channels, node, each)) for each in addresses]
    return [task.result() for task in tasks]


async def _probe(
    dht: DhtNode, channels: ChannelPool, node: BootstrapNode, address: Address
) -> NodeFound:
    if node.peer_id == dht.peer_id or dht.engine.membership.destinations.is_own(address):
        return NodeFound(node.address, address, is_own=True)
    tls = asyncio.create_task(probe_tls(channels, address))
    try:
        began = time.perf_counter()
        met = await dht.hello_address(address, timeout_s=HELLO_TIMEOUT_S)
        took_ms = (time.perf_counter() - began) * 1000
        found, tls_id = await tls
    finally:
        tls.cancel()
    return NodeFound(
        node.address,
        address,
        wanted_id=node.peer_id,
        udp_id=None if met is None else met.peer_id,
        udp_ms=None if met is None else took_ms,
        tls=found,
        tls_id=tls_id,
    )


async def _resolved(address: Address) -> list[Address]:
    if ip_of(address.host) is not None:
        return [address]
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            rows = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
    except (OSError, TimeoutError):
        return []
    hosts = dict.fromkeys(plain_host(str(row[4][0])) for row in rows)
    return [Address(host, address.port) for host in hosts][:RESOLVED_MAX]


def try_to_listen(listen: Address) -> list[Attempt]:
    """Bind UDP and TCP as a peer would, and let both go at once. Blocking, for a moment."""
    kinds = (("UDP", socket.SOCK_DGRAM), ("TCP", socket.SOCK_STREAM))
    return [_attempt(listen, protocol, kind) for protocol, kind in kinds]


def _attempt(listen: Address, protocol: str, kind: socket.SocketKind) -> Attempt:
    try:
        rows = socket.getaddrinfo(listen.host, listen.port, type=kind)
        family, _, number, _, target = rows[0]
        with contextlib.closing(socket.socket(family, kind, number)) as attempt:
            if kind is socket.SOCK_STREAM:  # connections in TIME_WAIT are no listener
                attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind(target)
            if kind is socket.SOCK_STREAM:
                attempt.listen(1)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        state = PortState.TAKEN if taken else PortState.REFUSED
        return Attempt(protocol, state, error.strerror or str(error))
    return Attempt(protocol, PortState.FREE)


def secret_files(home: Home) -> list[SecretFile]:
    """Look at the modes of the files that hold keys."""
    paths = (home.key_path, home.path / "tls.key", home.network_path)
    return [SecretFile(str(path), _mode(path)) for path in paths]


def spaces(home: Home) -> list[Space]:
    """Look at what is free where the home, the inbox and the spool lie, or will lie."""
    named = (("home", home.path), ("inbox", home.inbox), ("spool", home.spool))
    return [Space(name, _free_bytes(path)) for name, path in named]


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except OSError:
        return None


def _free_bytes(path: Path) -> int | None:
    for place in (path, *path.parents):  # what is not there yet will lie where its parent does
        try:
            found = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return found.f_bavail * found.f_frsize
    return None
