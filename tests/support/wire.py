"""A TCP relay that notes what moves through it: rates as a network sees them."""

import asyncio
import contextlib
from dataclasses import dataclass, field

READ_BYTES = 32 * 1024
SMALL_BYTES = 8_000
"""Less is a handshake, an acknowledgement or a farewell."""


@dataclass
class Moved:
    """Bytes of one direction, with the times at which they came by."""

    at: list[tuple[float, int]] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return sum(size for _, size in self.at)

    @property
    def span_s(self) -> float:
        """From the first piece to the last, but for small ones before and after."""
        times = [moment for moment, size in self.at if size >= SMALL_BYTES]
        return times[-1] - times[0]

    def most_in(self, span_s: float) -> int:
        """Return the most bytes of any such span."""
        most = moved = start = 0
        for moment, size in self.at:
            moved += size
            while self.at[start][0] <= moment - span_s:
                moved -= self.at[start][1]
                start += 1
            most = max(most, moved)
        return most


class Relay:
    """Relays connections to a port; `there` is what its callers send, `back` what they get."""

    def __init__(self) -> None:
        self.there, self.back = Moved(), Moved()
        self.port = 0
        self._to: tuple[str, int] = ("", 0)
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, host: str, port: int):
        relay = cls()
        relay._to = (host, port)
        server = await asyncio.start_server(relay._take, "127.0.0.1", 0, limit=READ_BYTES)
        relay.port = server.sockets[0].getsockname()[1]
        try:
            yield relay
        finally:
            server.close()
            for task in relay._tasks:
                task.cancel()
            await asyncio.gather(*relay._tasks, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._to, limit=READ_BYTES)
        for source, target, moved in (
            (reader, far_writer, self.there),
            (far_reader, writer, self.back),
        ):
            task = asyncio.create_task(_pass_on(source, target, moved))
            self._tasks.add(task)


async def _pass_on(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, moved: Moved
) -> None:
    target.transport.set_write_buffer_limits(0)
    with contextlib.suppress(OSError):
        try:
            while data := await source.read(READ_BYTES):
                moved.at.append((asyncio.get_running_loop().time(), len(data)))
                target.write(data)
                await target.drain()
        finally:
            target.close()
