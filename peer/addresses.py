"""Where this peer listens and which addresses it tells others.

Owns the choice of port (one number for UDP and TCP) and of the advertised address. Must not know
the DHT's or gRPC's insides: it is given what binds.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable

from identity.address import Address, ip_of
from identity.errors import ShoalError
from peer.errors import BadInput

DEFAULT_PORT = 4100
DEFAULT_LISTEN = Address("0.0.0.0", DEFAULT_PORT)  # noqa: S104 - a peer is there to be reached
PORTS_TRIED_MAX = 100
# Any address that is routed off the machine will do: connecting a UDP socket sends nothing.
ROUTE_PROBES = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))

Bind = Callable[[str, int], Awaitable[int]]


async def bind_one_port(
    listen: Address | None,
    *,
    bind_first: Bind,
    unbind_first: Callable[[], Awaitable[None]],
    bind_second: Bind,
    in_use: tuple[type[ShoalError], ...],
) -> int:
    """Bind two sockets, UDP and TCP, to one number and return it.

    An address that was asked for is taken or refused (port in use); the default is the first
    free port from 4100 on; port 0 takes any that is free for both.
    """
    host = (listen or DEFAULT_LISTEN).host
    if listen is not None and listen.port:
        candidates = [listen.port]
    elif listen is not None:
        candidates = [0] * PORTS_TRIED_MAX
    else:
        candidates = list(range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED_MAX))
    for candidate in candidates[:-1]:
        try:
            return await _bind_both(host, candidate, bind_first, unbind_first, bind_second, in_use)
        except in_use:
            continue
    return await _bind_both(host, candidates[-1], bind_first, unbind_first, bind_second, in_use)


async def _bind_both(
    host: str,
    port: int,
    bind_first: Bind,
    unbind_first: Callable[[], Awaitable[None]],
    bind_second: Bind,
    in_use: tuple[type[ShoalError], ...],
) -> int:
    bound = await bind_first(host, port)
    try:
        return await bind_second(host, bound)
    except in_use:
        await unbind_first()
        raise


def advertised_addresses(host: str, port: int, advertise: Address | None) -> tuple[Address, ...]:
    """Return the addresses to tell others, one a family, the asked one first.

    The default route's address stands for a wildcard; loopback only when listening there or when
    nothing else exists. Port 0 of `advertise` stands for the port that we listen on. A name is
    looked up here, which may take a moment: others believe no names. BadInput where it has no
    address.
    """
    if advertise is not None:
        return _looked_up(advertise.host, advertise.port or port)
    if host not in ("0.0.0.0", "::", ""):  # noqa: S104
        return _looked_up(host, port)
    families = [socket.AF_INET] if host == "0.0.0.0" else [socket.AF_INET, socket.AF_INET6]  # noqa: S104
    found = [_route_address(family) for family in families]
    addresses = tuple(Address(host, port) for host in found if host is not None)
    return addresses or (Address("127.0.0.1", port),)


def _looked_up(host: str, port: int) -> tuple[Address, ...]:
    if ip_of(host) is not None:
        return (Address(host, port),)
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInput(
            f"{host!r} has no address to tell others: {reason}",
            hint="name one that can be looked up, or write the IP address itself",
        ) from error
    by_family = {family: str(place[0]) for family, _, _, _, place in reversed(rows)}
    return tuple(Address(found, port) for found in by_family.values())


def _route_address(family: socket.AddressFamily) -> str | None:
    target = dict(ROUTE_PROBES)[family]
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            host = str(probe.getsockname()[0])
    except OSError:
        return None
    address = ipaddress.ip_address(host.split("%")[0])
    return None if address.is_link_local or address.is_unspecified or address.is_loopback else host
