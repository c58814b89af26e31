"""How often contacts are asked whether they live, and buckets refreshed.

Owns the pace, which follows the network: where contacts keep being gone they are asked often, in a
quiet network hardly ever. Pure; must not know sockets or tables.

A contact says by itself that it lives: by its answers, which prove it, and by asking us, which is
enough for a while. So of two contacts only one asks, and each answer serves both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from dht.contacts import Contact

SLOWER: Final = 1.02
"""The pace after an answer: times this."""
FASTER: Final = 0.8
"""The pace when a contact has gone: in balance where one in twelve has gone when it is asked."""
HEARD_QUIETS: Final = 4.0
"""A contact that only asks us is asked after this many times the pace: it may be one that hears
nothing."""
REFRESH_QUIETS: Final = 2.0


@dataclass(frozen=True, slots=True)
class PulseConfig:
    """The limits of the pace."""

    quiet_min_s: float = 900.0
    """A contact unheard of for this long is asked, where many go."""
    quiet_start_s: float = 3600.0
    """The same at first."""
    quiet_max_s: float = 7200.0
    """The same in a network in which nobody goes."""

    def __post_init__(self) -> None:
        assert 0 < self.quiet_min_s <= self.quiet_start_s <= self.quiet_max_s


class Pulse:
    """The pace at which one node asks its contacts whether they live.

    Inputs: `answered`, `gone`. Outputs: `quiet_s`, `refresh_s`, `due`. Invariant: the pace stays
    between quiet_min_s and quiet_max_s.
    """

    def __init__(self, config: PulseConfig | None = None) -> None:
        self._config = config or PulseConfig()
        self.quiet_s = self._config.quiet_start_s

    @property
    def refresh_s(self) -> float:
        """Return after which time without a lookup of ours a bucket is stale."""
        return REFRESH_QUIETS * self.quiet_s

    def answered(self) -> None:
        """Note that a contact that was asked whether it lives has answered."""
        self.quiet_s = min(self.quiet_s * SLOWER, self._config.quiet_max_s)

    def gone(self) -> None:
        """Note that a contact has gone without a word."""
        self.quiet_s = max(self.quiet_s * FASTER, self._config.quiet_min_s)

    def due(self, contacts: Iterable[Contact], now: float, limit: int) -> list[Contact]:
        """Return the contacts to ask now, at most so many, the longest quiet first."""
        seen_min = now - self.quiet_s
        # All contacts come by here every half minute, and nearly all have been seen of late.
        unseen = [each for each in contacts if each.last_seen is None or each.last_seen <= seen_min]
        quiet = [each for each in unseen if self._is_due(each, now)]
        return sorted(quiet, key=lambda each: _time(each.last_seen))[:limit]

    def _is_due(self, contact: Contact, now: float) -> bool:
        """Tell whether a contact that has not answered of late is to be asked."""
        seen, heard = _time(contact.last_seen), _time(contact.last_heard)
        return now - heard >= self.quiet_s or now - seen >= HEARD_QUIETS * self.quiet_s


def _time(at: float | None) -> float:
    return -math.inf if at is None else at
