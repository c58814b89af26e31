"""The sessions of one download: begun as holders are named, ended when they are of no use.

Owns the running sessions, the candidates that wait, and what became of the search. Must not know
chunks or files. Which candidate is next is decided in candidates.py.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterable, Callable, Mapping

from identity.errors import ShoalError
from transfer.candidates import Candidates, Holder, SessionEnd
from transfer.scheduler import Swarm
from transfer.session import HolderSession

LOOK_S = 0.25
"""How often holders that wait for their turn are looked at."""


class Gathering:
    """`feed` and `run` are two tasks of the download; both end by being cancelled."""

    def __init__(
        self, holders: AsyncIterable[Holder], candidates: Candidates, wake: asyncio.Event
    ) -> None:
        self._holders = holders
        self._candidates = candidates
        self._wake = wake
        self._change = asyncio.Event()
        self._sessions: dict[bytes, HolderSession] = {}
        self._search_ended = False
        self.search_error: ShoalError | None = None

    @property
    def sessions(self) -> Mapping[bytes, HolderSession]:
        """The running ones, by peer."""
        return self._sessions

    @property
    def is_over(self) -> bool:
        """Whether nobody is talked to, nobody waits, and nobody more will be named."""
        return self._search_ended and not self._sessions and not len(self._candidates)

    async def feed(self) -> None:
        """Take note of each holder that the search yields."""
        try:
            async for holder in self._holders:
                running = self._sessions.get(holder.peer_id)
                if running is not None:
                    running.addresses_changed(holder.addresses)
                else:
                    self._candidates.named(holder, now=time.monotonic())
                    self._change.set()
        except ShoalError as error:
            self.search_error = error
        finally:
            self._search_ended = True
            self._wake.set()

    async def run(
        self,
        group: asyncio.TaskGroup,
        begin: Callable[[Holder], HolderSession],
        swarm: Callable[[], Swarm | None],
    ) -> None:
        """Begin sessions as the candidates' rules say, and end those that make room."""
        while True:
            self._change.clear()
            now = time.monotonic()
            serving = sum(session.serves for session in self._sessions.values())
            while holder := self._candidates.next(
                running=len(self._sessions), serving=serving, now=now
            ):
                session = begin(holder)
                self._sessions[holder.peer_id] = session
                session.task = group.create_task(session.run())
            self._make_room(swarm(), now)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S if len(self._candidates) else None):
                    await self._change.wait()

    def _make_room(self, swarm: Swarm | None, now: float) -> None:
        if swarm is None:
            return
        worse = self._candidates.worse(
            [peer for peer, session in self._sessions.items() if session.serves],
            lambda peer: swarm.is_useful(peer) or swarm.asked_of(peer) > 0,
            is_idle=not swarm.in_flight,
            now=now,
        )
        if worse is not None:
            self._sessions[worse].cancel()

    def ended(self, holder: Holder, end: SessionEnd) -> None:
        """Forget a session."""
        self._sessions.pop(holder.peer_id, None)
        self._candidates.ended(holder, end, now=time.monotonic())
        self._change.set()

    def cancel(self) -> None:
        """End all sessions."""
        for session in self._sessions.values():
            session.cancel()
