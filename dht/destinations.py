"""Where datagrams may go from here: families, our own addresses, host names, hints of others.

Owns which addresses are worth a try. Must not know contacts, messages or what is sent there.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from dht.hints import Scope, is_believable, plain_host, scope_of
from dht.self_view import SelfView
from identity.address import PARSED_HOSTS_MAX, Address, ip_of
from identity.network import BootstrapNode

RESOLVED_MAX = 4
"""Addresses tried of one host name."""


class Destinations:
    """Judge and resolve addresses for one node; nothing is known of the socket before it listens.

    `bound` is where the UDP socket is bound.
    """

    def __init__(self, own: SelfView, drops: Counter[str]) -> None:
        self._own = own
        self._drops = drops
        self.bound: Address | None = None

    def believe(self, hint: Address, teller_host: str) -> bool:
        """Tell whether to try an address that another peer gave us."""
        bound_host = None if self.bound is None else self.bound.host
        return _is_credible(hint.host, teller_host, bound_host) and not self.is_own(hint)

    def usable(self, addresses: Sequence[Address], *, knows_local: bool) -> list[Address]:
        """Keep the addresses of a record that are worth a dial from here.

        Loopback only where we listen there ourselves or know somebody there.
        """
        local = self.bound is not None and scope_of(self.bound.host) is Scope.LOOPBACK
        least = Scope.LOOPBACK if local or knows_local else Scope.PRIVATE
        usable = [
            each for each in addresses if scope_of(each.host) >= least and not self.is_own(each)
        ]
        self._drops["hint-unusable"] += len(addresses) - len(usable)
        return usable

    def is_own(self, address: Address) -> bool:
        """Tell whether an address is this node's own."""
        bound = self.bound
        if bound is None or address.port != bound.port:
            return address in self._own.advertised
        ip = ip_of(bound.host)
        everywhere = ip is not None and ip.is_unspecified
        return (
            address.host == bound.host
            or (everywhere and scope_of(address.host) is Scope.LOOPBACK)
            or address.host in {each.host for each in self._own.advertised}
        )

    async def of_bootstrap(self, nodes: Sequence[BootstrapNode]) -> dict[Address, bytes | None]:
        """Return the addresses of bootstrap nodes, and who is expected there; not our own."""
        targets: dict[Address, bytes | None] = {}
        for node in nodes:
            for address in await self.resolve(node.address):
                if not self.is_own(address) and node.peer_id != self._own.peer_id:
                    targets.setdefault(address, node.peer_id)
        return targets

    async def resolve(self, address: Address) -> list[Address]:
        """Return the IP addresses of a host that our socket reaches; none for an unknown name."""
        if ip_of(address.host) is not None:
            found = [Address(plain_host(address.host), address.port)]
            return [each for each in found if self._can_send(each)]
        loop = asyncio.get_running_loop()
        try:
            rows = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
        except OSError:
            self._drops["name-unresolved"] += 1
            return []
        hosts = dict.fromkeys(plain_host(str(row[4][0])) for row in rows)
        found = [Address(host, address.port) for host in hosts]
        return [each for each in found if self._can_send(each)][:RESOLVED_MAX]

    def _can_send(self, address: Address) -> bool:
        return _can_send(address.host, None if self.bound is None else self.bound.host)


@lru_cache(maxsize=PARSED_HOSTS_MAX)
def _is_credible(host: str, teller_host: str, bound_host: str | None) -> bool:
    """Judge a hint's host once for each teller's: a lookup meets the same ones dozens of times."""
    return _can_send(host, bound_host) and is_believable(host, teller_host)


def _can_send(host: str, bound_host: str | None) -> bool:
    """A socket reaches its own family; both when it listens on all IPv6 addresses."""
    ip = ip_of(host)
    own = None if bound_host is None else ip_of(bound_host)
    if ip is None or scope_of(host) is Scope.UNUSABLE:
        return False
    if own is None:
        return True
    return ip.version == own.version or (own.version == 6 and own.is_unspecified)
