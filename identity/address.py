"""Addresses of peers: a host and the one port that a peer uses for UDP and TCP.

Owns: their text form, and which of them are public and count as one block.
Must not know: sockets, name resolution, or who is reachable where.
"""

import ipaddress
import re
from functools import lru_cache
from typing import Annotated, Self

import msgspec

from identity.errors import InvalidAddress

HOST_CHARS_MAX = 253
PORT_MAX = 65_535
BLOCK_PREFIX_V4 = 24
BLOCK_PREFIX_V6 = 48
PARSED_HOSTS_MAX = 16_384

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?")
# ASCII only: int() would take other scripts' digits, signs, spaces and underscores as well.
_PORT = re.compile(r"[0-9]{1,5}")


class Address(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """Where a peer listens. Decoding checks lengths and range only; `parse` checks the host too."""

    host: Annotated[str, msgspec.Meta(min_length=1, max_length=HOST_CHARS_MAX)]
    port: Annotated[int, msgspec.Meta(ge=1, le=PORT_MAX)]

    @classmethod
    def parse(cls, text: str, default_port: int | None = None) -> Self:
        """Read ``host:port``, ``[v6]:port``, or with a default port the host alone.

        Raises InvalidAddress.
        """
        host, port_text = _split(text.strip())
        if port_text is None:
            if default_port is None:
                raise InvalidAddress(f"the port is missing in {text!r}")
            return cls(check_host(host), default_port)
        if _PORT.fullmatch(port_text) is None or not 1 <= int(port_text) <= PORT_MAX:
            raise InvalidAddress(f"the port must be 1 to {PORT_MAX} in {text!r}")
        return cls(check_host(host), int(port_text))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True for loopback addresses and the name localhost."""
        ip = ip_of(self.host)
        return self.host == "localhost" if ip is None else ip.is_loopback

    @property
    def is_public(self) -> bool:
        """True for addresses routed on the internet; names are not public, they are unknown."""
        ip = ip_of(self.host)
        return ip is not None and ip.is_global and not ip.is_multicast

    @property
    def family(self) -> int:
        """4 or 6, or 0 for a name."""
        ip = ip_of(self.host)
        return 0 if ip is None else ip.version

    @property
    def block(self) -> str:
        """The public address block, such as ``192.0.2.0/24``; empty when not public."""
        return block_of(self.host)


def check_host(host: str) -> str:
    """Return the host when it is an IP address or a plausible name; raise InvalidAddress."""
    if ip_of(host) is not None:
        return host
    digits_and_dots = host.replace(".", "").isdigit()
    if len(host) > HOST_CHARS_MAX or digits_and_dots or _NAME.fullmatch(host) is None:
        raise InvalidAddress(f"{host!r} is neither an IP address nor a host name")
    return host


@lru_cache(maxsize=PARSED_HOSTS_MAX)
def ip_of(host: str) -> IpAddress | None:
    """The IP address that a host text stands for (mapped IPv4 as IPv4), or None for a name."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return ip if mapped is None else mapped


@lru_cache(maxsize=PARSED_HOSTS_MAX)
def block_of(host: str) -> str:
    """The public address block of a host, such as ``192.0.2.0/24``; empty when not public."""
    ip = ip_of(host)
    if ip is None or not ip.is_global or ip.is_multicast:
        return ""
    prefix = BLOCK_PREFIX_V4 if ip.version == 4 else BLOCK_PREFIX_V6
    return str(ipaddress.ip_network((ip, prefix), strict=False))


def _split(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or ":" not in host:
            raise InvalidAddress(f"{text!r} is not an address")
        return host, rest[1:] if rest else None
    if text.count(":") > 1:  # an IPv6 address without brackets: its port cannot be told apart
        return text, None
    host, colon, port = text.partition(":")
    return host, port if colon else None
