"""What is to be done about a folder's files: the pure state machine behind `--share DIR`.

Inputs: `known` at the start, `look` (what a scan found, and the time), and what became of a file:
`settled`, `withdrawn`, `lost`. Output of a look: files to offer and files to withdraw, and when to
look again.

A file is unknown, or known in a state of its bytes:

    OFFERED    it is shared
    CLASHING   its name is another file's: tried again when it changes, or `lost` (the name is free)
    REFUSED    it cannot be shared as it is: tried again when it changes
    UNSHARED   the person unshared it: left alone until it is gone, or put again

Whatever differs from what is known is acted on when two looks, `quiet_s` apart, saw the same: a
file may still be written, or be away for the moment between a removal and a rename. A file whose
ctime is older than that needs no second look: a restart offers at once. One that keeps changing
for `stale_s` is withdrawn, for it is not any more what was shared.

Invariants: a file is to be offered only as a scan saw it, quiet; never while UNSHARED; nothing is
withdrawn because of a partial scan. Names are not judged here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from enum import Enum

from peer.scanning import Scan, Seen

QUIET_S = 1.0
STALE_S = 10.0
_NS = 1_000_000_000


class State(Enum):
    """What is known of a file."""

    OFFERED = "offered"
    CLASHING = "clashing"
    REFUSED = "refused"
    UNSHARED = "unshared"


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """A file as it was when it was last dealt with."""

    seen: Seen
    state: State


@dataclasses.dataclass(slots=True)
class _Differing:
    seen: Seen | None
    since: float
    first: float
    is_withdrawn: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What a look asks for."""

    offer: tuple[tuple[str, Seen], ...] = ()
    withdraw: tuple[str, ...] = ()
    """Gone, or no longer what was shared."""
    look_at: float | None = None
    """When to look again, even if nothing rings."""


class Settling:
    """One folder's files; see the module for inputs, outputs and states."""

    def __init__(
        self,
        known: Mapping[str, Known] | None = None,
        *,
        quiet_s: float = QUIET_S,
        stale_s: float = STALE_S,
    ) -> None:
        self._known = dict(known or {})
        self._differing: dict[str, _Differing] = {}
        self._quiet_s = quiet_s
        self._stale_s = stale_s

    @property
    def waiting(self) -> int:
        """Files that are not dealt with yet."""
        return len(self._differing)

    def known(self, path: str) -> Known | None:
        """Return what is known of a file."""
        return self._known.get(path)

    def count(self, state: State) -> int:
        """Return how many files are in a state."""
        return sum(known.state is state for known in self._known.values())

    def look(self, found: Scan, *, now: float, wall_ns: int) -> Plan:
        """Compare with what is known; `wall_ns` is the clock that ctimes are told by."""
        offer: list[tuple[str, Seen]] = []
        withdraw: list[str] = []
        settled_ns = wall_ns - int(self._quiet_s * _NS)
        for path, seen in found.files.items():
            known = self._known.get(path)
            if known is not None and (known.seen == seen or known.state is State.UNSHARED):
                self._differing.pop(path, None)
                continue
            if self._is_quiet(path, seen, now) or seen.ctime_ns < settled_ns:
                offer.append((path, seen))
            elif known is not None and self._is_stale(path, now):
                withdraw.append(path)
        if not found.is_partial:
            gone = [p for p in (*self._known, *self._differing) if p not in found.files]
            for path in dict.fromkeys(gone):
                if path not in self._known:
                    del self._differing[path]
                elif self._is_quiet(path, None, now):
                    withdraw.append(path)
        return Plan(tuple(offer), tuple(withdraw), self._look_at(now))

    # What became of a file

    def settled(self, path: str, known: Known) -> None:
        """It was dealt with, and this is known of it now."""
        self._known[path] = known
        self._differing.pop(path, None)

    def withdrawn(self, path: str) -> None:
        """It is shared no longer since it is gone or keeps changing; as it is, it is unknown."""
        self._known.pop(path, None)
        differing = self._differing.get(path)
        if differing is not None and differing.seen is None:
            del self._differing[path]

    def lost(self, paths: Iterable[str]) -> None:
        """They are not shared any more, or what kept them from it is over: offer them anew."""
        for path in paths:
            self._known.pop(path, None)

    def _look_at(self, now: float) -> float | None:
        """When the next file is quiet; what is overdue (it could not be dealt with) waits a bit."""
        if not self._differing:
            return None
        soonest = min(each.since for each in self._differing.values()) + self._quiet_s
        return max(soonest, now + self._quiet_s / 2)

    def _is_quiet(self, path: str, seen: Seen | None, now: float) -> bool:
        """Note what a look saw of a differing file; True once it has been so for long enough."""
        differing = self._differing.get(path)
        if differing is None:
            self._differing[path] = _Differing(seen, now, now)
            return False
        if differing.seen != seen:
            differing.seen, differing.since = seen, now
            return False
        return now - differing.since >= self._quiet_s

    def _is_stale(self, path: str, now: float) -> bool:
        differing = self._differing[path]
        if differing.is_withdrawn or now - differing.first < self._stale_s:
            return False
        differing.is_withdrawn = True
        return True
