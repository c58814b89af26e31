"""A whole swarm on a virtual clock: real schedulers and real holding back, modelled uplinks.

Owns the model: each peer has an uplink that sends one chunk at a time, in turns to the streams
that ask; whom a reader knows comes to it bit by bit, as does what partial holders have. Readers
keep what they got and serve it on. All from one seed.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable

from tests.transfer.peers import CHUNK
from transfer.bitmap import full_bitmap
from transfer.scheduler import Request, Swarm, Wait
from transfer.session import SessionConfig, have_pause_s
from transfer.spreading import Spreading
from transfer.wire import RUN_BYTES_MAX

CONTENT = bytes(32)
LATENCY_S = 0.002
SLOTS = 16
BUSY_S = 0.5
PATIENCE_S = 5.0
WHOLE_FEW = 3
EVENTS_MAX = 2_000_000


@dataclasses.dataclass(slots=True)
class Peer:
    """A holder, a reader, or both."""

    peer_id: bytes
    chunk_s: float
    """What its uplink needs for a chunk."""
    swarm: Swarm | None = None
    """A reader's; a seed has none."""
    spreading: Spreading = dataclasses.field(default_factory=Spreading)
    sent: int = 0
    received: int = 0
    patience_s: float = PATIENCE_S
    asking_at: float = 0.0
    waiting: deque[tuple[Peer, range]] = dataclasses.field(default_factory=deque)
    is_sending: bool = False
    wake_at: float = float("inf")

    def have(self, count: int) -> int:
        return full_bitmap(count) if self.swarm is None else self.swarm.verified


class Model:
    """Seeds and readers of one file; `run` until every reader has it."""

    def __init__(
        self, *, seeds: int, readers: int, chunks: int, seed: int, chunk_s: float = 0.01
    ) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.chunks = chunks
        self.longest_run = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        speed = [chunk_s * self.random.uniform(0.9, 1.1) for _ in range(seeds + readers)]
        self.seeds = [Peer(bytes([0, n]), speed[n]) for n in range(seeds)]
        self.readers = [
            Peer(
                bytes([1, n]),
                speed[seeds + n],
                Swarm(chunks, CHUNK, random_source=random.Random(self.random.random())),
            )
            for n in range(readers)
        ]

    def run(self, *, know_s: float | None = 1.5) -> Model:
        """Let every reader find all others within some time, or never; seeds at once."""
        for reader in self.readers:
            start_s = self.random.uniform(0, 0.2)
            for peer in self.seeds:
                self._at(start_s, lambda r=reader, p=peer: self._join(r, p))
            for peer in self.readers:
                if peer is not reader and know_s is not None:
                    when_s = start_s + self.random.uniform(0.3, know_s)
                    self._at(when_s, lambda r=reader, p=peer: self._join(r, p))
        for _ in range(EVENTS_MAX):
            if all(not reader.swarm.missing for reader in self.readers):
                return self
            assert self._events, "nothing happens any more and files are missing"
            self.now, _, event = heapq.heappop(self._events)
            event()
        raise AssertionError("the swarm does not end")

    # --- sessions ---

    def _at(self, when_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when_s, next(self._order), event))

    def _ask_have(self, reader: Peer, holder: Peer) -> int | None:
        assert reader.swarm is not None
        if reader.swarm.in_flight:
            reader.asking_at = self.now
        if holder.swarm is not None:
            have = holder.have(self.chunks)
            return None if have == full_bitmap(self.chunks) else have
        few = reader.swarm.whole_holders <= WHOLE_FEW
        spreads = few and self.now - reader.asking_at <= reader.patience_s
        if few and not spreads:
            reader.patience_s /= 2
        return holder.spreading.asked(
            CONTENT, self.chunks, reader.peer_id, spreads=spreads, now=self.now
        )

    def _join(self, reader: Peer, holder: Peer) -> None:
        assert reader.swarm is not None
        have = self._ask_have(reader, holder)
        reader.swarm.holder_added(holder.peer_id, have, now=self.now, run_bytes_max=RUN_BYTES_MAX)
        self._poll_later(reader, holder)
        self._pump(reader)

    def _poll_later(self, reader: Peer, holder: Peer) -> None:
        assert reader.swarm is not None
        pause_s = have_pause_s(reader.swarm, holder.peer_id, SessionConfig())
        self._at(self.now + pause_s, lambda: self._poll(reader, holder))

    def _poll(self, reader: Peer, holder: Peer) -> None:
        assert reader.swarm is not None
        if reader.swarm.missing:
            reader.swarm.holder_has(holder.peer_id, self._ask_have(reader, holder))
            self._pump(reader)
            self._poll_later(reader, holder)

    def _pump(self, reader: Peer) -> None:
        assert reader.swarm is not None
        while isinstance(command := reader.swarm.next(now=self.now), Request):
            holder = self._peer(command.holder)
            asking = {id(peer) for peer, _ in holder.waiting} | {id(reader)}
            if len(asking) > SLOTS:
                reader.swarm.busy(holder.peer_id, BUSY_S, now=self.now)
                continue
            holder.waiting.append((reader, command.chunks))
            self.longest_run = max(self.longest_run, command.count)
            self._at(self.now + LATENCY_S, lambda h=holder: self._send(h))
        reader.swarm.check()
        if isinstance(command, Wait) and command.until < reader.wake_at:
            reader.wake_at = command.until
            self._at(command.until, lambda: self._wake(reader))

    def _wake(self, reader: Peer) -> None:
        if reader.wake_at <= self.now:
            reader.wake_at = float("inf")
            self._pump(reader)

    def _peer(self, peer_id: bytes) -> Peer:
        return (self.seeds, self.readers)[peer_id[0]][peer_id[1]]

    # --- uplinks ---

    def _send(self, holder: Peer) -> None:
        if holder.is_sending or not holder.waiting:
            return
        reader, chunks = holder.waiting.popleft()
        count = next(
            (n for n, chunk in enumerate(chunks) if not self._gives(holder, reader, chunk)),
            len(chunks),
        )
        given, rest = chunks[:count], chunks[count:]
        if not given:
            self._at(self.now + LATENCY_S, lambda: self._missing(reader, holder, rest))
            self._at(self.now, lambda: self._send(holder))
            return
        # Others take their turn before the next chunks of this reader.
        holder.waiting = deque(sorted(holder.waiting, key=lambda waiting: waiting[0] is reader))
        holder.is_sending = True
        holder.sent += len(given)
        spent_s = holder.chunk_s * len(given) * self.random.uniform(0.8, 1.2)
        self._at(self.now + spent_s, lambda: self._sent(reader, holder, given, rest))

    def _gives(self, holder: Peer, reader: Peer, chunk: int) -> bool:
        return bool(holder.have(self.chunks) >> chunk & 1) and (
            holder.swarm is not None
            or holder.spreading.give(CONTENT, reader.peer_id, chunk, now=self.now)
        )

    def _sent(self, reader: Peer, holder: Peer, chunks: range, rest: range) -> None:
        holder.is_sending = False
        self._at(self.now + LATENCY_S, lambda: self._arrived(reader, holder, chunks))
        if rest:
            self._at(self.now + LATENCY_S, lambda: self._missing(reader, holder, rest))
        self._send(holder)

    def _missing(self, reader: Peer, holder: Peer, chunks: range) -> None:
        assert reader.swarm is not None
        reader.swarm.chunk_missing(holder.peer_id, chunks[0])
        reader.swarm.unanswered(holder.peer_id, chunks[1:])
        self._pump(reader)

    def _arrived(self, reader: Peer, holder: Peer, chunks: range) -> None:
        assert reader.swarm is not None
        reader.received += len(chunks)
        reader.swarm.chunks_verified(holder.peer_id, chunks, now=self.now)
        self._pump(reader)
