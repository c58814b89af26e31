"""Which candidates of a lookup count: the window of the k closest that are not doubted.

Owns what is remembered of one candidate and the choice of the window. Pure; must not know when
anybody is asked or when the lookup ends (`dht.lookup`), nor why somebody is doubted (`dht.doubt`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from dht.candidates import LookupConfig, Standing
from dht.doubt import Doubts, Hint
from identity.address import Address


@dataclass(slots=True, eq=False)
class Entry:
    """One candidate of a lookup."""

    peer_id: bytes
    distance: int
    hint: Hint
    """Where it was asked last, or was first heard of."""
    hints: dict[Address, Hint]
    untried: list[Hint]
    standing: Standing = Standing.HEARD
    outstanding: list[tuple[float, Hint]] = field(default_factory=list)
    """When and where the requests without reply or failure were sent, oldest first."""
    soft_deadline: float = math.inf
    tries: int = 0
    is_bad: bool = False

    def choose(self, doubts: Doubts) -> Hint:
        """Return the hint to try next: not doubtful, ours, named by most tellers."""
        if len(self.untried) == 1:
            return self.untried[0]
        return max(
            self.untried,
            key=lambda hint: (not doubts.is_doubtful(hint), hint.is_ours, doubts.named(hint)),
        )

    def linger_end(self, linger_s: float) -> float:
        """Return until when a silent one still holds up a lookup that lingers this long."""
        own_s = self.hint.candidate.linger_s
        return self.soft_deadline + (linger_s if own_s is None else min(own_s, linger_s))


_HEARD, _ANSWERED = Standing.HEARD, Standing.ANSWERED
_LATE, _DEAD = Standing.LATE, Standing.DEAD
"""Looked up once: the window is chosen over and over."""


def choose_window(
    ordered: Sequence[Entry],
    config: LookupConfig,
    doubts: Doubts,
    *,
    doubtful_max: int,
    linger_s: float,
    now: float,
) -> tuple[list[Entry], float, bool]:
    """Return the k entries that count, until when that holds, and whether nobody was passed over.

    Those without a fault, in order of distance; where there are fewer than k, those crowded out by
    their block and then the silent, up to k; then the doubtful, `doubtful_max` of them unasked.
    Late ones still waited for come on top: whoever may take their place is asked meanwhile.
    """
    good: list[Entry] = []
    crowded: list[Entry] = []
    silent: list[Entry] = []
    doubtful: list[Entry] = []
    shares: dict[str, int] = {}
    until, late = math.inf, 0
    block_max, k = config.block_contacts_max, config.k
    for entry in ordered:
        standing = entry.standing
        if standing is _DEAD:
            continue
        hint = entry.hint
        if standing is not _ANSWERED:
            if standing is _LATE:
                linger_end = entry.linger_end(linger_s)
                if now >= linger_end:
                    continue
                until = min(until, linger_end)
            elif standing is _HEARD:
                untried = entry.untried
                hint = untried[0] if len(untried) == 1 else entry.choose(doubts)
            if doubts.any_failed and doubts.is_doubtful(hint):
                doubtful.append(entry)
                continue
            if hint.candidate.is_silent:
                silent.append(entry)
                continue
        block = hint.block
        if block:
            share = shares.get(block, 0)
            if share >= block_max:
                crowded.append(entry)
                continue
            shares[block] = share + 1
        good.append(entry)
        if standing is _LATE:
            late += 1
        elif len(good) - late >= k:
            return good, until, not (crowded or silent or doubtful)
    asked = [each for each in doubtful if each.standing is not Standing.HEARD]
    unasked = [each for each in doubtful if each.standing is Standing.HEARD]
    window = [*good, *crowded, *silent][: k + late]
    if len(window) < k + late:
        window += [*asked, *unasked[:doubtful_max]]
    return window, until, not (crowded or silent or doubtful)
