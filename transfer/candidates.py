"""Which holders a download talks to, out of all that are named to it: pure, given the time.

Inputs: `named` (the search found a holder, maybe again), `ended` (a session is over). Outputs:
`next`, the holder with which a session is to begin now, and `worse`, the running one that makes
room for somebody untried. Each connection costs both sides handshakes: `enough` holders that serve
are talked to at once, further ones one by one while the download lasts, so that a short download
among many peers stays cheap and a long one uses all of them. Who is tried first is drawn, so that
readers of one file do not all begin with the same holders.

A holder that could not be reached may be named again, one that had nothing after a while; one that
lied or whose file changed never.
"""

import enum
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

from identity.address import Address


@dataclass(frozen=True, slots=True)
class Holder:
    """A peer that says it has the content, and where it listens."""

    peer_id: bytes
    addresses: tuple[Address, ...]


class SessionEnd(enum.Enum):
    """Why a session is over."""

    UNREACHABLE = enum.auto()
    """It could not be reached, or the connection kept breaking."""
    GONE = enum.auto()
    """It does not have the content."""
    CHANGED = enum.auto()
    """Its file is no longer the content, or is gone."""
    BAD = enum.auto()
    """It sent bytes that do not verify, or broke the protocol."""
    CANCELLED = enum.auto()
    """The download is over, or somebody else takes its place."""


@dataclass(frozen=True, slots=True)
class CandidateConfig:
    """How many holders are talked to, and how soon; checked when built."""

    holders_max: int = 64
    """Sessions at a time."""
    enough: int = 8
    """Sessions that begin at once, and holders that serve before new ones become rare."""
    hasten_s: float = 0.25
    """Between two beginnings while fewer serve: others may be silent."""
    linger_s: float = 5.0
    """Between two beginnings when enough serve."""
    useless_s: float = 5.0
    """A holder without anything that is missing for so long makes room,"""
    useless_idle_s: float = 1.0
    """sooner while nobody at all can be asked for anything."""
    gone_s: float = 3.0
    """A holder that had nothing is not tried again before."""
    candidates_max: int = 1_024
    """Holders that wait; further ones are heard of again by the next search."""

    def __post_init__(self) -> None:
        assert 1 <= self.enough <= self.holders_max


class Candidates:
    """The holders of one download that have no session now."""

    def __init__(self, config: CandidateConfig, *, random_source: random.Random) -> None:
        self._config = config
        self._random = random_source
        self._waiting: list[Holder] = []
        self._ended: dict[bytes, tuple[SessionEnd, float]] = {}
        self._began_at = float("-inf")
        self._useless_since: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def named(self, holder: Holder, *, now: float) -> None:
        """Let a holder wait for its turn, with its newest addresses."""
        for place, waiting in enumerate(self._waiting):
            if waiting.peer_id == holder.peer_id:
                self._waiting[place] = holder
                return
        end, at = self._ended.get(holder.peer_id, (SessionEnd.UNREACHABLE, now))
        match end:
            case SessionEnd.BAD | SessionEnd.CHANGED:
                return
            case SessionEnd.GONE if now - at < self._config.gone_s:
                return
        if len(self._waiting) < self._config.candidates_max:
            self._waiting.insert(self._random.randint(0, len(self._waiting)), holder)

    def ended(self, holder: Holder, end: SessionEnd, *, now: float) -> None:
        """Note why a session is over; one that made room waits at the end of the line."""
        self._ended[holder.peer_id] = (end, now)
        self._useless_since.pop(holder.peer_id, None)
        if end is SessionEnd.CANCELLED:
            self._waiting.append(holder)

    def next(self, *, running: int, serving: int, now: float) -> Holder | None:
        """Return the holder with which a session begins now."""
        config = self._config
        if not self._waiting or running >= config.holders_max:
            return None
        if running >= config.enough:
            pause_s = config.hasten_s if serving < config.enough else config.linger_s
            if now - self._began_at < pause_s:
                return None
        self._began_at = now
        return self._waiting.pop(0)

    def worse(
        self,
        running: Collection[bytes],
        is_useful: Callable[[bytes], bool],
        *,
        is_idle: bool,
        now: float,
    ) -> bytes | None:
        """Return a running holder that makes room for one that waits, if any has to."""
        for holder in running:
            if is_useful(holder):
                self._useless_since.pop(holder, None)
            else:
                self._useless_since.setdefault(holder, now)
        if not self._waiting or len(running) < self._config.enough:
            return None
        longest = min(self._useless_since.items(), key=lambda entry: entry[1], default=None)
        patience_s = self._config.useless_idle_s if is_idle else self._config.useless_s
        if longest is None or now - longest[1] < patience_s:
            return None
        return longest[0]

    def end_of(self, holder: bytes) -> SessionEnd | None:
        """Return why the last session with a holder is over."""
        ended = self._ended.get(holder)
        return None if ended is None else ended[0]

    @property
    def ends(self) -> set[SessionEnd]:
        """The ends that there were, of holders without a session."""
        return {end for end, _ in self._ended.values()}
