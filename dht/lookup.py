"""One Kademlia lookup as a pure state machine: whom to ask next, and when it is done.

Owns the order of candidates, the soft and hard timeouts and the stop rule. Knows no message, no
socket, no record and no routing table: it is given seeds, replies, failures and the time. Whom to
believe how far is `dht.doubt`.
Source: Maymounkov & Mazières, "Kademlia", section 2.3; the shape of rust-libp2p's
`query/peers/closest.rs`; the soft timeout that opens a slot as in libtorrent.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import assert_never

from dht.candidates import (
    Ask,
    Candidate,
    Done,
    Goal,
    LookupConfig,
    PassedOver,
    Standing,
    Step,
    Wait,
)
from dht.doubt import Account, Doubts, Hint, spread
from dht.sights import Sights
from dht.window import Entry, choose_window
from identity.address import Address
from identity.keys import PEER_ID_BYTES

__all__ = [
    "Ask",
    "Candidate",
    "Done",
    "Goal",
    "Lookup",
    "LookupConfig",
    "PassedOver",
    "Standing",
    "Step",
    "Wait",
]

_HEARD, _ASKED, _ANSWERED = Standing.HEARD, Standing.ASKED, Standing.ANSWERED
"""Looked up once: a member of an Enum takes as long as all else that is done with it here."""


class Lookup:
    """Find the k peers closest to a target that answer.

    Inputs: `next(now)`, `on_reply`, `on_failure`, `on_bad`, `hurry`. Outputs: Ask, Wait, Done;
    `closest()`, `late()`, `passed_over()`.
    Candidate states: HEARD -> ASKED -> ANSWERED; ASKED -> LATE (soft timeout) -> ANSWERED or DEAD;
    ASKED -> DEAD (failure, hard timeout, bad reply). A LATE or failed one with an address not yet
    tried is HEARD again. A DEAD one is quarantined until the lookup ends, but for an address of it
    not yet tried; a bad one for good. Done is final: afterwards every input is ignored.

    Invariants: at most alpha candidates are ASKED, at most k when the neighbourhood is found (the
    last `fruitless_max` replies brought nobody closer) or there is something to show; no peer is
    asked twice at one address; at most `requests_max` requests; HEARD candidates are bounded; one
    peer adds at most k, each at one address, never itself and never us; whoever is silent delays
    no request to anybody else.
    The window is the k closest that are neither DEAD nor LATE: only they are asked. Nearer ones
    that are LATE by at most `linger_s` are in it beyond the k: they hold up the end, but no request
    to whoever takes their place. Of a public address block at most `block_contacts_max` are in it,
    and none known to be silent: these fill it up, in this order, where there are too few others.
    Then the doubtful, too, are asked (`dht.doubt`), at most `doubtful_requests_max` of them.
    It ends when the first k (REFRESH: beta) of the window have answered; with fewer, when all that
    are left are DEAD or LATE and somebody has answered; with no answer, when all are DEAD.
    """

    def __init__(
        self,
        target: bytes,
        seeds: Sequence[Candidate],
        *,
        own_id: bytes,
        goal: Goal,
        config: LookupConfig | None = None,
        linger_s: float | None = None,
        soft_timeout_s: float | None = None,
        now: float,
    ) -> None:
        """Begin; `linger_s` and `soft_timeout_s` stand in for those of the config."""
        self.target = target
        self.goal = goal
        self.started = now
        self.requests = 0
        self._own_id = own_id
        self._config = config or LookupConfig()
        self._slots = self._config.alpha
        self._wanted = self._config.beta if goal is Goal.REFRESH else self._config.k
        self._target_number = int.from_bytes(target, "big")
        self._linger_s = self._config.linger_s if linger_s is None else linger_s
        usual_s = self._config.soft_timeout_s if soft_timeout_s is None else soft_timeout_s
        self._soft_timeout_s = min(usual_s, self._config.hard_timeout_s)
        self._entries: dict[bytes, Entry] = {}
        self._order: list[Entry] = []
        self._distances: list[int] = []
        self._sights = Sights(self._config.candidates_max)
        self._open: dict[bytes, Entry] = {}
        self._in_flight = 0
        self._fruitless = 0
        self._hurry_s = math.inf
        self._hurry_expiry = math.inf
        self._expiry = math.inf
        self._doubts = Doubts(self._config)
        self._doubtful_requests = 0
        self._has_answer = False
        self._window_cache: list[Entry] | None = None
        self._window_until = math.inf
        self._is_plain = False
        """Nobody is doubted in the window: an answer changes nothing in who is in it."""
        self._done = False
        for seed in seeds[: self._config.candidates_max]:
            self._hear(seed, None)

    @property
    def is_done(self) -> bool:
        return self._done

    @property
    def in_flight(self) -> int:
        """Return how many candidates hold one of the alpha slots."""
        return self._in_flight

    @property
    def is_hurried(self) -> bool:
        """Return whether `hurry` was called."""
        return self._hurry_s < math.inf

    def next(self, now: float) -> Step:
        """Return what to do now; call again until it says Wait or Done."""
        if self._done:
            return Done()
        self._expire(now)
        exhausted = self.requests >= self._config.requests_max
        may_ask = not exhausted and self._in_flight < self._slots
        answered, is_waiting = 0, False
        for place, entry in enumerate(self._window(now)):
            standing = entry.standing
            if standing is _ANSWERED:
                if answered == place:
                    answered += 1
                    if answered == self._wanted:
                        return self._end()
            elif standing is _HEARD:
                if may_ask:
                    return self._ask(entry, now)
                is_waiting = is_waiting or not exhausted
            elif not is_waiting:  # ASKED or LATE
                is_waiting = self._holds_up(entry, now)
        # Late ones hold up a lookup that has nothing to show; otherwise nobody waits for them.
        if not is_waiting and (self._has_answer or not self._open):
            return self._end()
        return Wait(self._next_deadline(now))

    def _set_slots(self) -> None:
        is_near = self._fruitless >= self._config.fruitless_max or self.is_hurried
        self._slots = max(self._config.k, self._config.alpha) if is_near else self._config.alpha

    def _holds_up(self, entry: Entry, now: float) -> bool:
        """Say whether one of the window that was asked is still worth waiting for."""
        if self._has_answer and entry.hint.candidate.is_silent:
            return False
        return now < self._hurry_end(entry)

    def _hurry_end(self, entry: Entry) -> float:
        return entry.outstanding[-1][0] + self._hurry_s

    def on_reply(
        self,
        peer_id: bytes,
        candidates: Sequence[Candidate],
        now: float,
        address: Address | None = None,
    ) -> None:
        """Take a good reply and the candidates in it; one that was asked counts even if late.

        `address` says where it was asked; without it, where it was asked last.
        """
        entry = self._entries.get(peer_id)
        if self._done or entry is None or not entry.outstanding:
            return
        self._expire(now)
        if not entry.outstanding:
            return
        hint = entry.hint if address is None else entry.hints.get(address, entry.hint)
        entry.hint = hint
        self._doubts.answered(hint)
        was_asked = entry.standing is Standing.ASKED
        self._close(entry, Standing.ANSWERED, keep_window=was_asked and self._is_plain)
        self._has_answer = True
        closest = self._order[0]
        self._hear_from(peer_id, candidates)
        self._fruitless = self._fruitless + 1 if self._order[0] is closest else 0
        self._set_slots()
        self._forget_farthest()

    def on_failure(self, peer_id: bytes, now: float, address: Address | None = None) -> None:
        """Take a request as failed: unreachable, refused, or timed out in the caller's eyes.

        Where a peer was asked at several addresses, `address` says which request it was; without
        it, the oldest.
        """
        entry = self._open.get(peer_id)
        if self._done or entry is None:
            return
        self._expire(now)
        for request in entry.outstanding:
            if address is None or request[1].candidate.address == address:
                entry.outstanding.remove(request)
                self._fail(entry, request[1])
                return

    def on_bad(self, peer_id: bytes, now: float) -> None:
        """Quarantine a peer whose reply was malformed or a lie; the lookup goes on without it."""
        entry = self._entries.get(peer_id)
        if self._done or entry is None:
            return
        self._expire(now)
        entry.is_bad = True
        self._doubts.bad(entry.hint)
        self._close(entry, Standing.DEAD)

    def hurry(self, wait_s: float) -> None:
        """Ask all of the window now and wait for each no longer than this: there is something."""
        if wait_s < self._hurry_s:
            self._hurry_s, self._hurry_expiry = wait_s, -math.inf
            self._set_slots()
            self._linger_s = 0.0
            self._window_cache = None

    def late(self) -> list[Candidate]:
        """Return those who were asked and are silent past their soft timeout, closest first."""
        return [each.hint.candidate for each in self._order if each.standing is Standing.LATE]

    def closest(self) -> list[Candidate]:
        """Return the k closest that answered, closest first, spread over address blocks."""
        return [entry.hint.candidate for entry in self._closest()]

    def passed_over(self) -> list[tuple[Candidate, PassedOver]]:
        """Return those nearer than the last of the closest that were never asked, and why not."""
        chosen = self._closest()
        is_full = len(chosen) >= self._config.k
        nearer = chosen[-1].distance if is_full else math.inf
        passed = [
            each
            for each in self._order
            if each.standing is Standing.HEARD and not each.tries and each.distance < nearer
        ]
        hints = [each.choose(self._doubts) for each in passed]
        return [(hint.candidate, self._why_passed_over(hint)) for hint in hints]

    def answered(self) -> list[Candidate]:
        """Return all that answered, closest first."""
        answered = (each for each in self._order if each.standing is Standing.ANSWERED)
        return [each.hint.candidate for each in answered]

    def crowded(self) -> list[Candidate]:
        """Return those within the reach of `closest` not asked for their block's share alone."""
        closest = self.closest()
        reach = self._entries[closest[-1].peer_id].distance if closest else 0
        return [
            each.hint.candidate
            for each in self._order
            if each.standing is Standing.HEARD and each.distance < reach and each.hint.block
        ]

    def standing_of(self, peer_id: bytes) -> Standing | None:
        """Return where a peer stands, None when the lookup never heard of it (or forgot it)."""
        entry = self._entries.get(peer_id)
        return None if entry is None else entry.standing

    def validate_state(self) -> None:
        """Assert the invariants of the class docstring that can be seen in one moment."""
        config = self._config
        asked = [each for each in self._order if each.standing is Standing.ASKED]
        assert len(asked) == self._in_flight <= max(config.alpha, config.k)
        assert self.requests <= config.requests_max
        assert self._doubtful_requests <= config.doubtful_requests_max
        assert self._own_id not in self._entries
        assert len(self._order) == len(self._entries) <= config.candidates_max + config.requests_max
        assert self._distances == [each.distance for each in self._order]
        assert all(a < b for a, b in zip(self._distances, self._distances[1:], strict=False))
        for peer_id, entry in self._entries.items():
            assert (peer_id in self._open) == bool(entry.outstanding)
            assert len(entry.hints) <= config.addresses_heard_max
            assert entry.tries <= config.addresses_max
            match entry.standing:
                case Standing.HEARD:
                    assert entry.untried
                case Standing.ASKED | Standing.LATE:
                    assert entry.outstanding
                case Standing.ANSWERED | Standing.DEAD:
                    assert not entry.outstanding
                case _:
                    assert_never(entry.standing)

    # The window and the stop rule

    def _window(self, now: float) -> list[Entry]:
        """Return the k that have answered, may be asked, or still hold up the end."""
        if self._window_cache is None or now >= self._window_until:
            self._window_cache, self._window_until, self._is_plain = choose_window(
                self._order,
                self._config,
                self._doubts,
                doubtful_max=self._config.doubtful_requests_max - self._doubtful_requests,
                linger_s=self._linger_s,
                now=now,
            )
        return self._window_cache

    def _closest(self) -> list[Entry]:
        answered = [entry for entry in self._order if entry.standing is Standing.ANSWERED]
        return spread(
            answered,
            self._config.k,
            block_of=lambda entry: entry.hint.block,
            block_contacts_max=self._config.block_contacts_max,
        )

    def _why_passed_over(self, hint: Hint) -> PassedOver:
        if self._doubts.is_doubtful(hint):
            return PassedOver.DOUBTED
        if self.requests >= self._config.requests_max:
            return PassedOver.LIMIT
        return PassedOver.SILENT_BEFORE if hint.candidate.is_silent else PassedOver.CROWDED

    def _end(self) -> Done:
        self._done = True
        return Done()

    # Requests

    def _ask(self, entry: Entry, now: float) -> Ask:
        hint = entry.choose(self._doubts)
        entry.untried.remove(hint)
        entry.hint = hint
        entry.tries += 1
        if entry.tries >= self._config.addresses_max:
            entry.untried.clear()
        entry.standing = Standing.ASKED
        entry.outstanding.append((now, hint))
        self._open[entry.peer_id] = entry
        soft_s = hint.candidate.soft_timeout_s
        soft_s = (
            self._soft_timeout_s if soft_s is None else min(soft_s, self._config.hard_timeout_s)
        )
        entry.soft_deadline = now + soft_s
        self._expiry = min(self._expiry, entry.soft_deadline)
        self._hurry_expiry = min(self._hurry_expiry, now + self._hurry_s)
        self._in_flight += 1
        self.requests += 1
        if self._doubts.is_doubtful(hint):
            self._doubtful_requests += 1
        return Ask(hint.candidate)

    def _expire(self, now: float) -> None:
        """Move the silent on: past the soft deadline LATE, past the hard one failed."""
        if now < self._expiry:
            return
        hard_s = self._config.hard_timeout_s
        for entry in list(self._open.values()):
            while entry.outstanding and now >= entry.outstanding[0][0] + hard_s:
                self._fail(entry, entry.outstanding.pop(0)[1])
            if entry.standing is Standing.ASKED and now >= entry.soft_deadline:
                self._doubts.failed(entry.hint)
                self._stand(entry, Standing.HEARD if entry.untried else Standing.LATE)
        self._expiry = min((self._deadline(each) for each in self._open.values()), default=math.inf)

    def _fail(self, entry: Entry, hint: Hint) -> None:
        """Decide where a candidate stands after a request to it, taken out already, has failed."""
        self._doubts.failed(hint)
        if not entry.outstanding:
            self._open.pop(entry.peer_id, None)
        if entry.untried:
            self._stand(entry, Standing.HEARD)
        elif not entry.outstanding:
            self._stand(entry, Standing.DEAD)

    def _close(self, entry: Entry, standing: Standing, *, keep_window: bool = False) -> None:
        entry.outstanding.clear()
        entry.untried.clear()
        self._open.pop(entry.peer_id, None)
        self._stand(entry, standing, keep_window=keep_window)

    def _stand(self, entry: Entry, standing: Standing, *, keep_window: bool = False) -> None:
        if entry.standing is Standing.ASKED:
            self._in_flight -= 1
        entry.standing = standing
        if not keep_window:
            self._window_cache = None

    def _deadline(self, entry: Entry) -> float:
        """Return when a request that is open changes the entry's standing by itself."""
        hard_deadline = entry.outstanding[0][0] + self._config.hard_timeout_s
        if entry.standing is Standing.ASKED:
            return min(entry.soft_deadline, hard_deadline)
        return hard_deadline

    def _next_deadline(self, now: float) -> float:
        """Return when something may change by itself; never too late, and seldom too early."""
        if now >= self._hurry_expiry:
            ends = [self._hurry_end(each) for each in self._open.values()]
            self._hurry_expiry = min((end for end in ends if end > now), default=math.inf)
        return min(self._window_until, self._expiry, self._hurry_expiry)

    # Candidates

    def _hear_from(self, peer_id: bytes, candidates: Sequence[Candidate]) -> None:
        """Take what one reply names; most of it is known already, where it was heard of before."""
        teller = self._doubts.teller()
        hints = self._sights.hints(candidates)
        if hints is None or len(hints) > self._config.k or self._entries[peer_id].hint in hints:
            for candidate in self._distinct(peer_id, candidates):
                self._hear(candidate, teller)
        else:
            self._doubts.told(teller, hints)

    def _distinct(self, peer_id: bytes, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the first k that one peer names, each once, and never itself."""
        named: dict[bytes, Candidate] = {}
        for candidate in candidates:
            if candidate.peer_id != peer_id:
                named.setdefault(candidate.peer_id, candidate)
        return list(named.values())[: self._config.k]

    def _hear(self, candidate: Candidate, teller: Account | None) -> None:
        peer_id, address = candidate.peer_id, candidate.address
        entry = self._entries.get(peer_id)
        if entry is None:
            if len(peer_id) == PEER_ID_BYTES and peer_id != self._own_id:
                self._add(candidate, teller)
            return
        hint = entry.hints.get(address)
        if hint is not None:
            if teller is not None:
                self._doubts.told(teller, (hint,))
                self._sights.know(candidate, hint)
            return
        closed = entry.standing is Standing.ANSWERED or entry.is_bad
        if closed or len(entry.hints) >= self._config.addresses_heard_max:
            return
        entry.hints[address] = hint = self._hint(candidate, teller)
        self._sights.give_up()
        if entry.tries < self._config.addresses_max:
            entry.untried.append(hint)
            if entry.standing in (Standing.LATE, Standing.DEAD):
                entry.standing = Standing.HEARD
            self._window_cache = None

    def _add(self, candidate: Candidate, teller: Account | None) -> None:
        peer_id = candidate.peer_id
        hint = self._hint(candidate, teller)
        distance = int.from_bytes(peer_id, "big") ^ self._target_number
        self._sights.know(candidate, hint)
        entry = Entry(peer_id, distance, hint, {candidate.address: hint}, [hint])
        self._entries[peer_id] = entry
        place = bisect.bisect_left(self._distances, distance)
        self._distances.insert(place, distance)
        self._order.insert(place, entry)
        self._window_cache = None

    def _hint(self, candidate: Candidate, teller: Account | None) -> Hint:
        tellers = [] if teller is None else [teller]
        return Hint(candidate, candidate.address.block, teller is None, tellers)

    def _forget_farthest(self) -> None:
        """Keep the candidates bounded: the farthest unasked go, the doubtful first."""
        excess = len(self._order) - self._config.candidates_max
        if excess <= 0:
            return
        unasked = [
            each
            for each in reversed(self._order)
            if each.standing is Standing.HEARD and not each.outstanding and not each.tries
        ]
        unasked.sort(key=lambda each: not self._doubts.is_doubtful(each.choose(self._doubts)))
        self._sights.forget()
        for entry in unasked[:excess]:
            del self._entries[entry.peer_id]
        self._order = [each for each in self._order if each.peer_id in self._entries]
        self._distances = [each.distance for each in self._order]
        self._window_cache = None
