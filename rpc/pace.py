"""Bytes a second of one direction, over everything that moves that way.

Owns waiting for a turn and the counts of what moved. Must not know what moves: transfers and mail
each hold a Pace, and those made `beside` each other share one limit. Whatever waits here can be
cancelled and gives back what it had booked.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from rpc.config import window_bytes
from rpc.turns import Ticket, Turns, piece_bytes

LANES_MAX = 4
FRAME_MIN_BYTES = 4 * 1024
"""Whoever asks for shorter frames does not get them."""


@dataclass(slots=True)
class _Meter:
    """What the lanes of one direction share."""

    rate_bytes_per_s: int | None
    lanes: int = 0
    turns: Turns | None = None
    waiting: dict[Ticket, asyncio.Future[None]] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None

    async def turn(self, turns: Turns, lane: int, size_bytes: int) -> None:
        """Wait for the turn of one piece."""
        loop = asyncio.get_running_loop()
        ticket = turns.ask(lane, size_bytes, now=loop.time())
        self.grant(turns)
        if ticket.is_granted:
            return
        self.waiting[ticket] = loop.create_future()
        try:
            await self.waiting[ticket]
        except asyncio.CancelledError:
            turns.cancel(ticket)
            self.grant(turns)
            raise
        finally:
            self.waiting.pop(ticket, None)

    def grant(self, turns: Turns) -> None:
        """Wake those whose turn it is, and come again when it is the next one's."""
        loop = asyncio.get_running_loop()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        for ticket in turns.grant(now=loop.time()):
            future = self.waiting.get(ticket)
            if future is not None and not future.done():
                future.set_result(None)
        wait_s = turns.wait_s(now=loop.time())
        if wait_s is not None:
            self.timer = loop.call_later(wait_s, self.grant, turns)

    def started(self) -> Turns | None:
        """Return the rule, begun with the first byte; None without a limit."""
        if self.turns is None and self.rate_bytes_per_s is not None:
            now = asyncio.get_running_loop().time()
            self.turns = Turns(self.rate_bytes_per_s, LANES_MAX, now=now)
        return self.turns


class Pace:
    """One kind of traffic in one direction: waits for its turn, and counts what moved."""

    def __init__(
        self, rate_bytes_per_s: int | None = None, *, beside: "Pace | None" = None
    ) -> None:
        """Begin a limit, or take an equal share of the one that `beside` has; None: no limit."""
        assert rate_bytes_per_s is None or (rate_bytes_per_s > 0 and beside is None)
        self._meter: _Meter = (
            _Meter(rate_bytes_per_s) if beside is None else beside._meter  # noqa: SLF001
        )
        self._lane = self._meter.lanes
        self._meter.lanes += 1
        assert self._meter.lanes <= LANES_MAX
        self.moved_bytes = 0
        """What was let through since the start."""

    @property
    def rate_bytes_per_s(self) -> int | None:
        """The limit of all lanes together."""
        return self._meter.rate_bytes_per_s

    def piece_bytes(self, most_bytes: int) -> int:
        """Return how much to move at a time: less under a limit, so that it flows evenly."""
        rate = self._meter.rate_bytes_per_s
        return most_bytes if rate is None else min(most_bytes, piece_bytes(rate))

    def frame_bytes(self, most_bytes: int, wanted_bytes: int = 0) -> int:
        """Return how long frames are: what their reader wants (0: any), less under a limit here."""
        own_bytes = self.piece_bytes(most_bytes)
        return max(FRAME_MIN_BYTES, min(wanted_bytes, own_bytes)) if wanted_bytes else own_bytes

    def wanted_frame_bytes(self, most_bytes: int) -> int:
        """Return how long frames shall be that are read here; 0, any, without a limit."""
        return 0 if self.rate_bytes_per_s is None else self.piece_bytes(most_bytes)

    async def take(self, size_bytes: int) -> None:
        """Wait until so many bytes may be sent; large ones a piece at a time.

        Whoever is cancelled meanwhile sends none of them, and gives back what it had booked.
        """
        await self._wait(size_bytes, is_there=False)

    async def received(self, size_bytes: int, booked_bytes: int = 0) -> None:
        """Count bytes that came, and wait until more may be read; cancelled or not, they came.

        `booked_bytes` of them were booked before.
        """
        self.moved_bytes += min(size_bytes, booked_bytes)
        self.book(min(0, size_bytes - booked_bytes))
        if size_bytes > booked_bytes:
            await self._wait(size_bytes - booked_bytes, is_there=True)
        else:
            await self.caught_up()

    def note(self, size_bytes: int) -> None:
        """Count bytes that need not wait; those that come after wait for them too."""
        self.moved_bytes += size_bytes
        self.book(size_bytes)

    async def caught_up(self) -> None:
        """Wait until what was noted, here and elsewhere, is within the limit."""
        turns = self._meter.started()
        if turns is not None:
            await self._meter.turn(turns, self._lane, 0)

    @contextlib.contextmanager
    def reading(self, expected_bytes: int = 0) -> Iterator["Reading"]:
        """Read a stream of which so many bytes will come, or have been asked for so far."""
        stream = Reading(self)
        stream.expect(expected_bytes)
        try:
            yield stream
        finally:
            stream.expect(-stream.expected_bytes)

    def book(self, size_bytes: int) -> None:
        """Book bytes that are counted elsewhere, or give them back."""
        turns = self._meter.started()
        if turns is not None and size_bytes:
            turns.note(self._lane, size_bytes, now=asyncio.get_running_loop().time())

    async def _wait(self, size_bytes: int, *, is_there: bool) -> None:
        turns = self._meter.started()
        if turns is None:
            self.moved_bytes += size_bytes
            return
        done = 0
        try:
            while done < size_bytes:
                piece = self.piece_bytes(size_bytes - done)
                await self._meter.turn(turns, self._lane, piece)
                done += piece
                self.moved_bytes += piece
        except asyncio.CancelledError:
            self.note(size_bytes - done if is_there else -done)
            raise


class Reading:
    """One stream that is read at a pace.

    What lies in its window has come over the line though nobody has read it: so much is booked
    ahead, as long as so much is still to come.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        rate = pace.rate_bytes_per_s
        self._window_bytes = 0 if rate is None else window_bytes(rate)
        self._ahead_bytes = 0
        self.expected_bytes = 0
        """What is still to come."""

    def expect(self, size_bytes: int) -> None:
        """Hear of bytes that will come, or (negative) of some that will not."""
        self._pace.book(-self._take_off(-size_bytes))

    async def received(self, size_bytes: int) -> None:
        """Count bytes that came, and wait until more may be read; cancelled or not, they came."""
        booked_bytes = self._take_off(size_bytes)
        await self._pace.received(size_bytes, booked_bytes)

    def _take_off(self, size_bytes: int) -> int:
        """Return by how much less is booked ahead once so much less is to come."""
        self.expected_bytes = max(0, self.expected_bytes - size_bytes)
        before, self._ahead_bytes = self._ahead_bytes, min(self._window_bytes, self.expected_bytes)
        return before - self._ahead_bytes


@dataclass(frozen=True, slots=True)
class BothWays:
    """One kind of traffic in both directions; without a limit unless given paces."""

    up: Pace = field(default_factory=Pace)
    """Bytes to others."""
    down: Pace = field(default_factory=Pace)
    """Bytes from others."""

    @classmethod
    def beside(cls, other: "BothWays") -> "BothWays":
        """Return what shares its limits equally with another kind of traffic."""
        return cls(Pace(beside=other.up), Pace(beside=other.down))
