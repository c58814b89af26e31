"""Who is asked for which chunk: the pure state machine of a swarm download.

Inputs: `holder_added`, `holder_has`, `holder_failed`, `chunks_verified`, `chunk_bad`,
`chunk_missing`, `unanswered`, `busy`, each with the time where it matters. Output: `next(now)`,
called until it returns something else than Request:

    Request(holder, chunk, count)  ask this holder for these chunks; they are now in flight
    Wait(until)                    nothing to do before an input or that time
    Stalled                        chunks are missing and no usable holder has any of them
    Done                           every chunk is verified

A holder is usable, busy until a time, or banned (it sent a bad chunk) and then never asked again.
A failed holder is forgotten and may be added again. Each chunk is missing until verified; missing
and asked of nobody means pending.

Invariants (`check`): a chunk is accepted once; banned holders have nothing in flight; a holder has
at most its window in flight, all of them at most `in_flight_bytes_max`; a chunk is asked of at most
`copies_max` holders at a time.

How it chooses: the emptiest window first, its size following the measured rate; rarest chunk first
among those that partial holders have, else from a random start onwards, so that downloaders differ
and disks read in order; `in_order` takes the first that is missing. No window is larger than a
fair share of what is missing: equal holders end together. What comes late is asked of a second
holder that should be faster. Sets of chunks are bits of an int.

A run is several chunks in a row that one request asks for. Only a holder that answers runs gets
one, and only as long a one as it sends within `run_target_s`: half its window or share at most, so
that something is always on the way, and all of one rarity.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from transfer.swarm_config import SwarmConfig


@dataclass(frozen=True, slots=True)
class Request:
    """Ask a holder for a chunk, or a run that begins with it."""

    holder: bytes
    chunk: int
    count: int = 1

    @property
    def chunks(self) -> range:
        return range(self.chunk, self.chunk + self.count)


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before the next input or this time."""

    until: float


@dataclass(frozen=True, slots=True)
class Stalled:
    """No usable holder has a missing chunk."""


@dataclass(frozen=True, slots=True)
class Done:
    """Every chunk is verified."""


Command = Request | Wait | Stalled | Done


@dataclass(slots=True)
class _Holder:
    peer: bytes
    have: int
    complete: bool
    order: int
    run_max: int
    """Chunks that it answers at a time."""
    asked: dict[int, float] = field(default_factory=dict)
    """Chunk → when it was asked for, in the order of asking."""
    busy_until: float = 0.0
    moved_at: float = 0.0
    """When this holder last completed a chunk, or was asked after being idle."""
    chunk_s: float = 0.0
    """Seconds a chunk takes, smoothed; zero while unknown."""
    completed: int = 0
    """Chunks since it was added: a window grows by at most one a chunk."""


class Swarm:
    """State of one download; see the module for inputs, outputs and invariants."""

    RARITY_LEVELS = 8
    RATE_WEIGHT = 0.3
    BUSY_MIN_S = 0.05

    def __init__(
        self,
        chunk_count: int,
        chunk_size_bytes: int,
        *,
        random_source: random.Random,
        verified: int = 0,
        breaks: int = 0,
        config: SwarmConfig | None = None,
    ) -> None:
        """Take what to fetch; no run goes over one of `breaks`, chunks that continue no other."""
        self._config = config or SwarmConfig()
        self._breaks = breaks
        self._count = chunk_count
        self.chunk_size_bytes = chunk_size_bytes
        self._all = (1 << chunk_count) - 1
        self._missing = self._all & ~verified
        self._pending = self._missing
        self._start = random_source.randrange(chunk_count) if chunk_count else 0
        self._holders: dict[bytes, _Holder] = {}
        self._banned: set[bytes] = set()
        self._copies: dict[int, int] = {}
        self._levels: list[int] = [self._all]
        self._added = 0
        self._late_check_at = 0.0
        self._vain = 0
        self._silent_s = self._config.late_silent_s

    @property
    def verified(self) -> int:
        """The verified chunks as bits."""
        return self._all & ~self._missing

    @property
    def banned(self) -> frozenset[bytes]:
        return frozenset(self._banned)

    @property
    def in_flight(self) -> int:
        """Requests in flight at all holders."""
        return sum(self._copies.values())

    @property
    def missing(self) -> int:
        """How many chunks are not verified."""
        return self._missing.bit_count()

    @property
    def partial_holders(self) -> int:
        """How many holders have a part."""
        return sum(not holder.complete for holder in self._holders.values())

    @property
    def whole_holders(self) -> int:
        """How many holders have everything."""
        return len(self._holders) - self.partial_holders

    def is_useful(self, holder: bytes) -> bool:
        """Tell whether a holder has something that nobody was asked for yet."""
        found = self._holders.get(holder)
        return found is not None and bool(found.have & self._pending)

    def is_missing(self, chunk: int) -> bool:
        return bool(self._missing >> chunk & 1)

    def asked_of(self, holder: bytes) -> int:
        """How many requests are in flight at a holder."""
        found = self._holders.get(holder)
        return len(found.asked) if found else 0

    # --- inputs ---

    def holder_added(
        self, holder: bytes, have: int | None, *, now: float, run_bytes_max: int = 0
    ) -> bool:
        """Add a holder of these chunks, None for all; False when it is banned or one too many."""
        if holder in self._banned:
            return False
        if holder not in self._holders and len(self._holders) >= self._config.holders_max:
            return False
        self.holder_failed(holder)
        self._added += 1
        bits = self._all if have is None else have & self._all
        run_max = max(1, run_bytes_max // self.chunk_size_bytes)
        self._holders[holder] = _Holder(
            holder, bits, have is None, self._added, run_max, busy_until=now, moved_at=now
        )
        self._rank()
        return True

    def holder_has(self, holder: bytes, have: int | None) -> None:
        """Replace what a partial holder has."""
        found = self._holders.get(holder)
        if found is not None:
            found.complete = have is None
            found.have = self._all if have is None else have & self._all
            self._rank()

    def holder_failed(self, holder: bytes) -> None:
        """Forget a holder; what it was asked for is pending again."""
        found = self._holders.pop(holder, None)
        if found is not None:
            self._release_all(found)
            self._rank()

    def chunks_verified(self, holder: bytes, chunks: Sequence[int], *, now: float) -> list[int]:
        """Accept verified chunks that came together; those that nobody sent before are returned."""
        found = self._holders.get(holder)
        if found is not None:
            asked = [chunk for chunk in chunks if chunk in found.asked]
            if asked:
                self._measure(found, found.asked[asked[0]], len(asked), now)
            for chunk in asked:
                self._release(found, chunk)
        accepted = []
        for chunk in chunks:
            if holder in self._banned or not self.is_missing(chunk):
                self._came_in_vain()
                continue
            self._missing &= ~(1 << chunk)
            self._pending &= ~(1 << chunk)
            accepted.append(chunk)
        return accepted

    def chunk_bad(self, holder: bytes, chunk: int) -> None:
        """Ban a holder whose chunk did not verify."""
        assert 0 <= chunk < max(1, self._count)
        self._banned.add(holder)
        self.holder_failed(holder)

    def ban(self, holder: bytes) -> None:
        """Never ask this holder again."""
        self._banned.add(holder)
        self.holder_failed(holder)

    def chunk_missing(self, holder: bytes, chunk: int) -> None:
        """Note that a holder does not have the chunk that it was asked for."""
        found = self._holders.get(holder)
        if found is not None and chunk in found.asked:
            self._release(found, chunk)
            found.complete = False
            found.have &= ~(1 << chunk)
            self._rank()

    def unanswered(self, holder: bytes, chunks: Sequence[int]) -> None:
        """Take back what a holder was asked for and will not answer, though it may have it."""
        found = self._holders.get(holder)
        if found is not None:
            for chunk in chunks:
                if chunk in found.asked:
                    self._release(found, chunk)

    def busy(self, holder: bytes, retry_after_s: float, *, now: float) -> None:
        """Leave a holder alone for the time that it asks for, within bounds."""
        found = self._holders.get(holder)
        if found is not None:
            self._release_all(found)
            wait_s = min(max(retry_after_s, self.BUSY_MIN_S), self._config.busy_max_s)
            found.busy_until = now + wait_s

    # --- output ---

    def next(self, *, now: float) -> Command:
        """Return the next command."""
        if not self._missing:
            return Done()
        request = self._pending_request(now)
        if request is None and now >= self._late_check_at:
            request = self._late_request(now)
            if request is None:
                self._late_check_at = now + self._config.late_check_s
        if request is not None:
            self._ask(request, now)
            return request
        wakes = [
            holder.busy_until
            for holder in self._holders.values()
            if holder.busy_until > now and holder.have & self._missing
        ]
        if self._copies:
            wakes.append(max(self._late_check_at, now + self.BUSY_MIN_S))
        return Wait(min(wakes)) if wakes else Stalled()

    def check(self) -> None:
        """Assert the invariants."""
        asked: dict[int, int] = {}
        for holder in self._holders.values():
            assert holder.peer not in self._banned
            assert len(holder.asked) <= self._config.window_max
            for chunk in holder.asked:
                asked[chunk] = asked.get(chunk, 0) + 1
        assert asked == self._copies
        assert all(copies <= self._config.copies_max for copies in asked.values())
        in_flight = sum(asked.values()) * self.chunk_size_bytes
        assert in_flight <= max(self._config.in_flight_bytes_max, self.chunk_size_bytes)
        held = sum(1 << chunk for chunk in asked)
        assert self._pending == self._missing & ~held

    # --- choosing ---

    def _pending_request(self, now: float) -> Request | None:
        if not self._pending:
            return None
        for holder, run in self._ready(now):
            some = self._rarest(holder.have & self._pending)
            if some:
                chunk = self._first(some)
                return Request(holder.peer, chunk, self._in_a_row(some, chunk, run))
        return None

    def _late_request(self, now: float) -> Request | None:
        """Find the chunk that is latest at its holder and a holder that should be sooner."""
        config = self._config
        asked_twice = self.in_flight - len(self._copies)
        least_silent_s = 0.0
        if self._vain + asked_twice + 1 > self._vain_allowed():
            if asked_twice:
                return None
            slowest_s = max((holder.chunk_s for holder in self._holders.values()), default=0.0)
            least_silent_s = max(self._silent_s, 4 * slowest_s)
        for holder, _ in self._ready(now):
            if holder.have & self._pending:
                continue
            own_s = (len(holder.asked) + 1) * holder.chunk_s
            latest_s, latest = config.late_factor * own_s + config.late_slack_s, None
            for chunk, remaining_s in self._in_flight_elsewhere(holder, now, least_silent_s):
                if remaining_s > latest_s and self._copies[chunk] < config.copies_max:
                    latest_s, latest = remaining_s, chunk
            if latest is not None:
                return Request(holder.peer, latest)
        return None

    def _in_flight_elsewhere(
        self, holder: _Holder, now: float, least_silent_s: float
    ) -> Iterator[tuple[int, float]]:
        """Yield the chunks others were asked for with the seconds that they should still take.

        A holder that is overdue is expected to take as long again as it has been silent.
        """
        for other in self._holders.values():
            if other is holder:
                continue
            silent_s = now - other.moved_at
            if silent_s < least_silent_s:
                continue
            for position, chunk in enumerate(other.asked, start=1):
                if chunk in holder.asked or not holder.have & self._missing & 1 << chunk:
                    continue
                expected_s = position * other.chunk_s
                yield chunk, max(expected_s - silent_s, silent_s if silent_s > expected_s else 0.0)

    def _ready(self, now: float) -> list[tuple[_Holder, int]]:
        """Holders with room and how long a run they may get, the emptiest window first."""
        in_flight = self.in_flight
        free = self._config.in_flight_bytes_max // self.chunk_size_bytes - in_flight
        if in_flight and free <= 0:
            return []
        usable = [holder for holder in self._holders.values() if holder.busy_until <= now]
        share = -(-self._missing.bit_count() // max(1, len(usable)))
        ready = []
        for holder in usable:
            window, wanted = self._window(holder), self._pending & holder.have
            # A fair share of what is missing bounds new requests, not late ones.
            room = min(window, share) if wanted else window
            run = self._run(holder, room, wanted)
            # What is on the way makes room for a whole run, rather than ever shorter ones.
            if len(holder.asked) + run <= room:
                run = min(run, max(1, free))
                ready.append((len(holder.asked) / window, holder.order, holder, run))
        ready.sort(key=lambda entry: entry[:2])
        return [(holder, run) for _, _, holder, run in ready]

    def _run(self, holder: _Holder, room: int, wanted: int) -> int:
        if holder.run_max == 1 or not holder.chunk_s:
            return 1
        by_rate = int(self._config.run_target_s / holder.chunk_s)
        return max(1, min(holder.run_max, by_rate, room // 2, wanted.bit_count()))

    def _window(self, holder: _Holder) -> int:
        config = self._config
        by_bytes = max(1, config.window_bytes_max // self.chunk_size_bytes)
        # One quick chunk may be luck or a limiter's burst: grow step by step, as TCP does.
        bound = min(config.window_min + holder.completed, config.window_max, by_bytes)
        by_rate = int(config.window_target_s / holder.chunk_s) + 1 if holder.chunk_s else 0
        # A slow holder is asked for one at a time: what waits there could come from elsewhere.
        least = 1 if holder.chunk_s > 2 * config.window_target_s else config.window_min
        return min(max(by_rate, least), bound)

    def _rarest(self, candidates: int) -> int:
        """Those of some chunks that fewest partial holders have; all where order counts."""
        if self._config.in_order:
            return candidates
        return next((some for level in self._levels if (some := candidates & level)), 0)

    def _first(self, some: int) -> int:
        """The chunk to begin with, among some that are equally good."""
        behind = 0 if self._config.in_order else some >> self._start
        return self._start + _lowest(behind) if behind else _lowest(some)

    def _in_a_row(self, some: int, chunk: int, run: int) -> int:
        """How many of these chunks follow each other from one on, as far as a run may go."""
        count, row, breaks = 1, some >> chunk, self._breaks >> chunk
        while count < run and row >> count & 1 and not breaks >> count & 1:
            count += 1
        return count

    # --- bookkeeping ---

    def _ask(self, request: Request, now: float) -> None:
        holder = self._holders[request.holder]
        if not holder.asked:
            holder.moved_at = now
        for chunk in request.chunks:
            holder.asked[chunk] = now
            self._copies[chunk] = self._copies.get(chunk, 0) + 1
            self._pending &= ~(1 << chunk)

    def _release(self, holder: _Holder, chunk: int) -> None:
        del holder.asked[chunk]
        self._copies[chunk] -= 1
        if not self._copies[chunk]:
            del self._copies[chunk]
            self._pending |= (1 << chunk) & self._missing

    def _release_all(self, holder: _Holder) -> None:
        for chunk in list(holder.asked):
            self._release(holder, chunk)

    def _measure(self, holder: _Holder, asked_at: float, count: int, now: float) -> None:
        """Learn from chunks that came together how long one takes."""
        spent_s = max(now - max(asked_at, holder.moved_at), 1e-4) / count
        # Seconds are averaged and not rates, so that one quick chunk among slow ones weighs little.
        known, weight = holder.chunk_s, 1 - (1 - self.RATE_WEIGHT) ** count
        holder.chunk_s = known + weight * (spent_s - known) if known else spent_s
        holder.completed += count
        holder.moved_at = now

    def _vain_allowed(self) -> float:
        there = self._count - self._missing.bit_count()
        return self._config.vain_min + self._config.vain_share * there

    def _came_in_vain(self) -> None:
        self._vain += 1
        if self._vain > self._vain_allowed():
            self._silent_s = min(4 * self._silent_s, self._config.late_silent_max_s)

    def _rank(self) -> None:
        """Sort the chunks by how many partial holders have them: level i, exactly i of them."""
        at_least = [self._all] + [0] * (self.RARITY_LEVELS - 1)
        for holder in self._holders.values():
            if not holder.complete:
                for level in range(self.RARITY_LEVELS - 1, 0, -1):
                    at_least[level] |= at_least[level - 1] & holder.have
        above = [*at_least[1:], 0]
        levels = zip(at_least, above, strict=True)
        self._levels = [lower & ~upper for lower, upper in levels if lower & ~upper]


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1
