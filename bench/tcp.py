"""How many bytes went over this process's TCP connections, as the kernel counted them.

Owns the reading of Linux's TCP_INFO for every TCP socket that the process has open: what gRPC, TLS
and HTTP/2 really sent, whoever else uses the machine. Counts are of the stream: TCP and IP headers
come on top, 40 to 60 bytes a segment. Must not know what the connections are for.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_INFO_BYTES = 256
_ACKED_OFFSET = 120  # of struct tcp_info: tcpi_bytes_acked, then tcpi_bytes_received
_IS_LINUX = os.path.isdir("/proc/self/fd")  # noqa: PTH112


@dataclass(frozen=True, slots=True)
class TcpBytes:
    """Bytes of all connections since they were opened."""

    sent: int
    received: int


class TcpCounter:
    """Adds up all connections seen: `look` often enough that none closes unseen."""

    def __init__(self) -> None:
        self._seen: dict[str, TcpBytes] = {}

    def look(self) -> None:
        """Note how far each open connection is."""
        for name, count in _open_connections():
            self._seen[name] = count

    def total(self) -> TcpBytes:
        """Sum over all connections as they were last seen."""
        counts = self._seen.values()
        return TcpBytes(sum(each.sent for each in counts), sum(each.received for each in counts))


def _open_connections() -> Iterator[tuple[str, TcpBytes]]:
    if not _IS_LINUX:
        return
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            name = str(entry.readlink())
            if not name.startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as copy:
                inet = copy.family in (socket.AF_INET, socket.AF_INET6)
                if not inet or copy.type != socket.SOCK_STREAM:
                    continue
                info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
                yield name, TcpBytes(*struct.unpack_from("=QQ", info, _ACKED_OFFSET))
