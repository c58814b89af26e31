"""Networks as graphs for tests of the lookup, and a plain reference lookup to compare with."""

from __future__ import annotations

import heapq
import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from dht.lookup import Ask, Candidate, Done, Goal, Lookup, LookupConfig, Wait
from identity.address import Address

OWN_ID = b"\xff" * 20
TARGET = bytes(20)
STEPS_MAX = 20_000


def peer_id(number: int) -> bytes:
    return number.to_bytes(20, "big")


def candidate(number: int, *, port: int | None = None, block: int | None = None) -> Candidate:
    """Make a candidate at a private address, or in a numbered public address block."""
    host = "10.0.0.1" if block is None else f"20.{block // 250}.{block % 250}.7"
    return Candidate(peer_id(number), Address(host, port or 1 + number))


def number_of(found: Candidate) -> int:
    return int.from_bytes(found.peer_id, "big")


def lookup_of(
    seeds: Sequence[int], *, goal: Goal = Goal.READ, now: float = 0.0, **config: float
) -> Lookup:
    return Lookup(
        TARGET,
        [candidate(number) for number in seeds],
        own_id=OWN_ID,
        goal=goal,
        config=LookupConfig(**config),  # type: ignore[arg-type]
        now=now,
    )


def asked(lookup: Lookup, now: float) -> list[int]:
    """Take all requests that the lookup wants sent now."""
    numbers = []
    while isinstance(step := lookup.next(now), Ask):
        numbers.append(number_of(step.candidate))
    return numbers


@dataclass
class World:
    """A network as a graph: whom each peer names, where it is, and how it behaves."""

    names: dict[int, list[int]]
    dead: set[int] = field(default_factory=set)
    slow: set[int] = field(default_factory=set)
    malformed: set[int] = field(default_factory=set)
    blocks: dict[int, int] = field(default_factory=dict)
    """Public address blocks by peer; who is not here has a private address."""
    moved: dict[int, dict[int, Candidate]] = field(default_factory=dict)
    """Where liars say that somebody is: by liar, by peer."""

    def candidate(self, number: int) -> Candidate:
        return candidate(number, block=self.blocks.get(number))

    def reply(self, number: int) -> list[Candidate]:
        moved = self.moved.get(number, {})
        return [moved.get(named) or self.candidate(named) for named in self.names.get(number, [])]

    def named_by(self, teller: int, k: int) -> set[int]:
        """Return whom a teller's answer adds: the first k, itself not among them."""
        others = dict.fromkeys(name for name in self.names[teller] if name != teller)
        return {*list(others)[:k]}

    def is_silent(self, number: int) -> bool:
        return number in self.dead or number not in self.names

    def lookup(self, seeds: Sequence[int], goal: Goal, **config: float) -> Lookup:
        return Lookup(
            TARGET,
            [self.candidate(seed) for seed in seeds],
            own_id=OWN_ID,
            goal=goal,
            config=LookupConfig(**config),  # type: ignore[arg-type]
            now=0.0,
        )


def run(world: World, lookup: Lookup, rng: random.Random) -> float:
    """Run a lookup on a virtual clock, checking its invariants; return how long it took."""
    now, turn = 0.0, 0
    arrivals: list[tuple[float, int, Candidate]] = []
    for _ in range(STEPS_MAX):
        lookup.validate_state()
        match lookup.next(now):
            case Done():
                return now
            case Ask(sent):
                turn += 1
                if not world.is_silent(number_of(sent)):
                    least_s, most_s = (0.6, 1.9) if number_of(sent) in world.slow else (0.001, 0.4)
                    heapq.heappush(arrivals, (now + rng.uniform(least_s, most_s), turn, sent))
            case Wait(until_s):
                assert until_s > now, "a wait that does not end"
                if not arrivals or arrivals[0][0] > until_s:
                    assert until_s != float("inf"), "waits for ever"
                    now = until_s
                    continue
                now, _, sent = heapq.heappop(arrivals)
                _arrive(world, lookup, sent, now)
    raise AssertionError("the lookup does not end")


def _arrive(world: World, lookup: Lookup, sent: Candidate, now: float) -> None:
    number = number_of(sent)
    if sent.address != world.candidate(number).address:
        lookup.on_failure(sent.peer_id, now, sent.address)  # somebody else answered there
    elif number in world.malformed:
        lookup.on_bad(sent.peer_id, now)
    else:
        lookup.on_reply(sent.peer_id, world.reply(number), now, sent.address)


class Reference:
    """The k closest, found plainly: one request after the other, with endless patience.

    It states the rules of the lookup once more, without any bookkeeping: each time it looks at
    all that has happened.
    """

    def __init__(self, world: World, seeds: Sequence[int], config: LookupConfig) -> None:
        self.world = world
        self.config = config
        self.seeds = set(seeds)
        self.answered: list[int] = []
        self.failed: set[int] = set()
        self.malformed: set[int] = set()
        self.doubtful_requests = 0

    def closest(self) -> list[int]:
        while True:
            unasked = [number for number in self._window() if number not in self.answered]
            if not unasked:
                return spread_plainly(sorted(self.answered), self.config.k, self.world.blocks)
            number = unasked[0]
            self.doubtful_requests += self._is_doubtful(number)
            if self.world.is_silent(number):
                self.failed.add(number)
            elif number in self.world.malformed:
                self.malformed.add(number)
            else:
                self.answered.append(number)

    def _named_by(self, teller: int) -> set[int]:
        return self.world.named_by(teller, self.config.k)

    def _tellers(self, number: int) -> list[int]:
        return [teller for teller in self.answered if number in self._named_by(teller)]

    def _is_doubtful(self, number: int) -> bool:
        if number in self.seeds:
            return False
        tellers = self._tellers(number)
        block = self.world.blocks.get(number)
        fellows = {one for one in self.world.blocks if self.world.blocks[one] == block}
        failures = len(fellows & (self.failed | self.malformed))
        is_spent = self._is_overdrawn(fellows, self.config.block_failures_max, self.malformed)
        return all(
            self._is_overdrawn(self._named_by(each), self.config.teller_failures_max)
            for each in tellers
        ) or (is_spent and len(tellers) <= failures)

    def _is_overdrawn(
        self, numbers: set[int], failures_max: int, bad: Collection[int] = ()
    ) -> bool:
        failures, answers = len(numbers & {*self.failed, *bad}), len(numbers & {*self.answered})
        return failures >= failures_max and failures > answers

    def _share(self, number: int, others: Sequence[int]) -> int:
        block = self.world.blocks.get(number)
        return sum(block is not None and self.world.blocks.get(one) == block for one in others)

    def _window(self) -> list[int]:
        known = set(self.seeds).union(*(self._named_by(teller) for teller in self.answered))
        left = sorted(known - self.failed - self.malformed)
        doubtful = [one for one in left if one not in self.answered and self._is_doubtful(one)]
        good: list[int] = []
        others: list[int] = []
        for one in left:
            if one not in doubtful:
                crowded = self._share(one, good) >= self.config.block_contacts_max
                (others if crowded else good).append(one)
        allowed = self.config.doubtful_requests_max - self.doubtful_requests
        window = [*good[: self.config.k], *others][: self.config.k]
        return window if len(window) == self.config.k else [*window, *doubtful[:allowed]]


def reference_closest(world: World, seeds: Sequence[int], **config: float) -> list[int]:
    """Find the k closest plainly; see Reference."""
    limits = LookupConfig(**config)  # type: ignore[arg-type]
    return Reference(world, seeds, limits).closest()


def spread_plainly(ordered: Iterable[int], k: int, blocks: dict[int, int]) -> list[int]:
    """Choose the first k, one a public block; fill up with the others; in order."""
    numbers = list(ordered)
    firsts: dict[object, int] = {}
    for number in numbers:
        firsts.setdefault(blocks.get(number, ("private", number)), number)
    chosen = list(firsts.values())[:k]
    others = [number for number in numbers if number not in chosen]
    return sorted([*chosen, *others[: k - len(chosen)]])


@st.composite
def worlds(draw: st.DrawFn, *, with_slow: bool) -> tuple[World, list[int]]:
    """Draw any graph: names at random, some of nobody; peers dead, slow, malformed, crowded."""
    size = draw(st.integers(1, 40))
    blocks_count = draw(st.sampled_from([0, 1, 3, 12]))
    rng = random.Random(draw(st.integers(0, 2**32)))
    numbers = rng.sample(range(1, 4 * size + 1), size)
    nobody = rng.sample(range(1000, 1010), rng.randint(0, 5)) + rng.sample(range(1, 200), 5)
    world = World(
        {
            number: rng.sample([*numbers, *nobody], rng.randint(0, min(size, 12)))
            for number in numbers
        }
    )
    world.dead = {number for number in numbers if rng.random() < 0.2}
    world.malformed = {number for number in numbers if rng.random() < 0.1}
    if blocks_count:
        public = [number for number in (*numbers, *nobody) if rng.random() < 0.8]
        world.blocks = {number: rng.randrange(blocks_count) for number in public}
    if with_slow:
        world.slow = {number for number in numbers if rng.random() < 0.2}
    return world, rng.sample(numbers, rng.randint(1, min(size, 5)))
