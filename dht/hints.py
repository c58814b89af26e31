"""Which addresses may be told to whom, which are believed, and how they are packed.

Owns: scopes of addresses, the compact form of a contact (id, family, ip, port).
Must not know: sockets, tables, who is proven. An address from somebody else is a hint:
it is asked with a hello before it counts for anything.
"""

import enum
import ipaddress
from functools import lru_cache

from dht.errors import BadMessage
from dht.lookup import Candidate
from identity.address import PARSED_HOSTS_MAX, Address, ip_of

COMPACT_V4_BYTES = 20 + 1 + 4 + 2
COMPACT_V6_BYTES = 20 + 1 + 16 + 2
PARSED_CONTACTS_MAX = 4_096
"""Sources and compact contacts whose parsed form is kept: the same ones come again and again,
dozens of times in one lookup."""


class Scope(enum.IntEnum):
    """From how far away an address can be reached; a larger value reaches further."""

    UNUSABLE = 0
    """A name, or link-local, unspecified, multicast or reserved: never told, never dialled."""
    LOOPBACK = 1
    PRIVATE = 2
    PUBLIC = 3


@lru_cache(maxsize=PARSED_HOSTS_MAX)
def scope_of(host: str) -> Scope:
    """Tell from how far away a host can be reached."""
    ip = ip_of(host)
    if ip is None or ip.is_link_local or ip.is_unspecified or ip.is_multicast:
        return Scope.UNUSABLE
    if ip.version == 4 and not ip.packed[0]:
        return Scope.UNUSABLE  # 0.0.0.0/8, "this network" (RFC 1122)
    if ip.is_loopback:
        return Scope.LOOPBACK
    if ip.is_global:
        return Scope.PUBLIC
    return Scope.PRIVATE if not ip.is_reserved else Scope.UNUSABLE


def address_to_tell(
    seen: Address, advertised: Address | None, *, asker_is_near: bool
) -> Address | None:
    """Choose the address of a contact that is of use to an asker, or None.

    Near is who asks from our loopback: they alone are told of a contact there as such. All others
    hear what it advertises, provided that it reaches further than this machine.
    """
    if asker_is_near or scope_of(seen.host) > Scope.LOOPBACK:
        return seen
    if advertised is not None and scope_of(advertised.host) > Scope.LOOPBACK:
        return advertised
    return None


def is_believable(host: str, teller_host: str) -> bool:
    """Tell whether to try a host that somebody at teller_host gave us.

    Only those who are on this machine themselves may send us to our loopback.
    """
    match scope_of(host):
        case Scope.UNUSABLE:
            return False
        case Scope.LOOPBACK:
            return scope_of(teller_host) is Scope.LOOPBACK
        case Scope.PRIVATE | Scope.PUBLIC:
            return True


@lru_cache(maxsize=PARSED_CONTACTS_MAX)
def source_of_datagram(host: str, port: int) -> Address | None:
    """Return where a datagram came from; None for what is no place to answer to."""
    if port == 0 or ip_of(host.partition("%")[0]) is None:
        return None
    return Address(plain_host(host), port)


@lru_cache(maxsize=PARSED_HOSTS_MAX)
def plain_host(host: str) -> str:
    """Return a socket's host without zone, and mapped IPv4 as IPv4."""
    ip = ip_of(host.partition("%")[0])
    return host if ip is None else str(ip)


def pack_contact(peer_id: bytes, address: Address) -> bytes | None:
    """Pack a contact into 27 (IPv4) or 39 (IPv6) bytes; None when it has no IP address."""
    place = _packed_host(address.host)
    return None if place is None else peer_id + place + address.port.to_bytes(2, "big")


@lru_cache(maxsize=PARSED_CONTACTS_MAX)
def unpack_contact(data: bytes) -> Candidate:
    """Unpack a compact contact; BadMessage when the length or the family is wrong."""
    family = data[20] if len(data) > 20 else 0
    expected = {4: COMPACT_V4_BYTES, 6: COMPACT_V6_BYTES}.get(family)
    port = int.from_bytes(data[-2:], "big")
    if expected != len(data) or port == 0:
        raise BadMessage("malformed compact contact")
    host = str(ipaddress.ip_address(data[21:-2]))
    return Candidate(data[:20], Address(plain_host(host), port), None)


@lru_cache(maxsize=PARSED_HOSTS_MAX)
def _packed_host(host: str) -> bytes | None:
    """The family and the packed IP address of a host; None for a name."""
    ip = ip_of(host)
    return None if ip is None else bytes((ip.version,)) + ip.packed
