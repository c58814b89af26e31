"""The swarm scheduler as a transcript, and under random holders."""

import random

from hypothesis import given
from hypothesis import strategies as st

from transfer.scheduler import Command, Done, Request, Stalled, Swarm, Wait
from transfer.swarm_config import SwarmConfig

A, B, C = b"a", b"b", b"c"
SIZE = 512 * 1024


def swarm(chunks: int, config: SwarmConfig | None = None, verified: int = 0) -> Swarm:
    return Swarm(chunks, SIZE, random_source=random.Random(1), verified=verified, config=config)


def requests(state: Swarm, now: float) -> tuple[list[Request], Command]:
    """All requests that are given now, and the command that ends them."""
    given_out = []
    while isinstance(command := state.next(now=now), Request):
        given_out.append(command)
        state.check()
    return given_out, command


def test_nothing_to_fetch_is_done() -> None:
    assert swarm(0).next(now=0.0) == Done()
    assert swarm(3, verified=0b111).next(now=0.0) == Done()


def test_no_holder_is_stalled() -> None:
    assert swarm(1).next(now=0.0) == Stalled()


def test_two_equal_holders_are_asked_for_the_same_number() -> None:
    state = swarm(4)
    for holder in (A, B):
        assert state.holder_added(holder, None, now=0.0)
    asked, _ = requests(state, 0.0)
    assert sorted(request.holder for request in asked) == [A, A, B, B]
    assert len({request.chunk for request in asked}) == 4


def test_no_holder_takes_more_than_its_share_of_what_is_left() -> None:
    state = swarm(2)
    for holder in (A, B):
        state.holder_added(holder, None, now=0.0)
    asked, _ = requests(state, 0.0)
    assert [request.holder for request in asked] == [A, B]


def test_fast_holder_gets_a_larger_window() -> None:
    state = swarm(1000)
    for holder in (A, B):
        state.holder_added(holder, None, now=0.0)
    now = 0.0
    requests(state, now)
    for _ in range(40):
        now += 0.01
        chunk = next(iter(state._holders[A].asked))
        state.chunks_verified(A, [chunk], now=now)
        requests(state, now)
    assert state.asked_of(A) >= 8
    assert state.asked_of(B) == 2


def test_rarest_chunk_comes_first() -> None:
    state = swarm(8)
    state.holder_added(A, 0b1111_1111, now=0.0)
    state.holder_added(B, 0b1110_1111, now=0.0)
    state.holder_added(C, 0b1110_1111, now=0.0)
    asked, _ = requests(state, 0.0)
    assert asked[0] == Request(A, 4)


def test_in_order_the_first_missing_chunk_comes_first() -> None:
    state = swarm(100, SwarmConfig(in_order=True))
    state.holder_added(A, None, now=0.0)
    state.holder_added(B, 0b11 << 98, now=0.0)  # rare elsewhere, and yet in order
    asked: list[Request] = []
    while not isinstance(state.next(now=0.0), Done):
        state.holder_failed(B)
        state.holder_failed(A)  # what it was asked for is the first again
        state.holder_added(A, None, now=0.0)
        some, _ = requests(state, 0.0)
        assert [each.chunk for each in some] == list(
            range(len(asked), min(len(asked) + len(some), 100))
        )
        state.chunks_verified(A, [some[0].chunk], now=0.0)
        asked.append(some[0])
    assert [each.chunk for each in asked] == list(range(100))


def test_bad_chunk_bans_the_holder_and_is_asked_elsewhere() -> None:
    state = swarm(1)
    state.holder_added(A, None, now=0.0)
    assert state.next(now=0.0) == Request(A, 0)
    state.holder_added(B, None, now=0.0)
    state.chunk_bad(A, 0)
    assert state.next(now=0.0) == Request(B, 0)
    assert not state.holder_added(A, None, now=1.0)
    assert not state.chunks_verified(A, [0], now=1.0)
    assert state.chunks_verified(B, [0], now=1.0)
    assert state.next(now=1.0) == Done()


def test_busy_holder_waits_as_long_as_it_said() -> None:
    state = swarm(1)
    state.holder_added(A, None, now=0.0)
    assert state.next(now=0.0) == Request(A, 0)
    state.busy(A, 2.0, now=0.0)
    assert state.next(now=1.0) == Wait(2.0)
    assert state.next(now=2.0) == Request(A, 0)


def test_late_chunk_is_asked_of_a_second_holder_and_counts_once() -> None:
    state = swarm(3)
    state.holder_added(A, None, now=0.0)
    state.holder_added(B, None, now=0.0)
    asked, _ = requests(state, 0.0)
    by_holder: dict[bytes, list[int]] = {A: [], B: []}
    for request in asked:
        by_holder[request.holder].append(request.chunk)
    for chunk in by_holder[B]:
        assert state.chunks_verified(B, [chunk], now=0.1)
    rest, _ = requests(state, 0.1)
    assert rest == []
    rest, _ = requests(state, 3.0)
    assert {request.holder for request in rest} == {B}
    late = rest[0].chunk
    assert late in by_holder[A]
    assert state.chunks_verified(B, [late], now=3.1)
    assert not state.chunks_verified(A, [late], now=3.2)


def test_chunk_that_came_from_the_second_is_not_asked_for_again_while_the_first_owes_it() -> None:
    state = swarm(4)
    state.holder_added(A, None, now=0.0)
    state.holder_added(B, None, now=0.0)
    first, _ = requests(state, 0.0)
    for request in first:
        if request.holder == B:
            state.chunks_verified(B, [request.chunk], now=0.1)
    owed = {request.chunk for request in first if request.holder == A}
    now, asked_again = 0.1, []
    while not isinstance(state.next(now=now), Done):
        now += 0.3
        late, _ = requests(state, now)
        asked_again += [request.chunk for request in late]
        for request in late:
            state.chunks_verified(B, [request.chunk], now=now)
        assert now < 20
    assert sorted(asked_again) == sorted(owed)


def test_no_more_chunks_come_twice_than_allowed_while_all_holders_are_slow() -> None:
    state = swarm(200)
    holders = [bytes([number]) for number in range(6)]
    for holder in holders:
        state.holder_added(holder, None, now=0.0)
    chaos, now, twice, flying = random.Random(3), 0.0, 0, []
    while not isinstance(command := state.next(now=now), Done):
        if isinstance(command, Request):
            flying.append((now + chaos.expovariate(0.5), command.holder, command.chunk))
            continue
        now += 0.05
        for arrival in sorted(each for each in flying if each[0] <= now):
            flying.remove(arrival)
            twice += not state.chunks_verified(arrival[1], [arrival[2]], now=now)
        state.check()
    assert twice + len(flying) <= 0.05 * 200


def test_failed_holder_gives_its_chunks_back_and_may_return() -> None:
    state = swarm(1)
    state.holder_added(A, None, now=0.0)
    assert state.next(now=0.0) == Request(A, 0)
    state.holder_failed(A)
    assert state.next(now=0.0) == Stalled()
    state.holder_added(A, None, now=1.0)
    assert state.next(now=1.0) == Request(A, 0)


def test_holder_that_misses_a_chunk_is_not_asked_for_it_again() -> None:
    state = swarm(1)
    state.holder_added(A, None, now=0.0)
    state.next(now=0.0)
    state.chunk_missing(A, 0)
    assert state.next(now=0.0) == Stalled()
    state.holder_has(A, 0b1)
    assert state.next(now=0.0) == Request(A, 0)


def test_bytes_in_flight_are_bounded_over_all_holders() -> None:
    state = swarm(100, SwarmConfig(in_flight_bytes_max=5 * SIZE))
    for number in range(10):
        state.holder_added(bytes([number]), None, now=0.0)
    asked, _ = requests(state, 0.0)
    assert len(asked) == 5


def test_holders_beyond_the_bound_are_not_added() -> None:
    state = swarm(1, SwarmConfig(holders_max=1))
    assert state.holder_added(A, None, now=0.0)
    assert not state.holder_added(B, None, now=0.0)


def quick(
    chunks: int, *, breaks: int = 0, run_bytes_max: int = 4 * SIZE, chunk_s: float = 0.001
) -> tuple[Swarm, list[Request]]:
    """A holder that has shown how fast it is, and what it is asked for next."""
    state = Swarm(chunks, SIZE, random_source=random.Random(1), breaks=breaks)
    state.holder_added(A, None, now=0.0, run_bytes_max=run_bytes_max)
    now = 0.0
    flying, _ = requests(state, now)
    for _ in range(30):
        now += chunk_s * flying[0].count
        state.chunks_verified(A, flying.pop(0).chunks, now=now)
        flying += requests(state, now)[0]
    return state, flying


def test_quick_holder_is_asked_for_runs_that_grow_with_what_is_known_of_it() -> None:
    state, flying = quick(200)
    assert {request.count for request in flying} == {4}
    assert sum(request.count for request in flying) == state.in_flight <= 16


def test_holder_that_answers_no_runs_is_asked_for_single_chunks() -> None:
    _, flying = quick(200, run_bytes_max=0)
    assert {request.count for request in flying} == {1}


def test_slow_holder_is_asked_for_single_chunks() -> None:
    _, flying = quick(200, chunk_s=0.016)
    assert {request.count for request in flying} == {1}


def test_no_run_goes_over_a_break() -> None:
    breaks = sum(1 << chunk for chunk in range(0, 200, 3))
    _, flying = quick(200, breaks=breaks)
    assert {request.count for request in flying} <= {1, 2, 3}
    for request in flying:
        assert not any(breaks >> chunk & 1 for chunk in request.chunks[1:])
    assert any(request.count == 3 for request in flying)


def test_what_is_left_of_a_run_that_is_missing_is_asked_for_again() -> None:
    state, flying = quick(200)
    run = flying[0]
    first, gap, *rest = run.chunks
    assert state.chunks_verified(A, [first], now=1.0) == [first]
    state.chunk_missing(A, gap)
    state.unanswered(A, rest)
    state.check()
    for request in flying[1:]:
        state.chunks_verified(A, request.chunks, now=1.0)
    asked = [chunk for request in requests(state, 1.0)[0] for chunk in request.chunks]
    assert set(rest) <= set(asked)
    assert gap not in asked


class Simulated:
    """A random swarm: holders of different rates that lie, fail, are busy, or have a part.

    Some answer runs, and in a run the first chunks may come, and one be bad or missing.
    """

    def __init__(self, chunks: int, holders: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.chunks = chunks
        self.breaks = self.random.getrandbits(chunks) & self.random.getrandbits(chunks)
        config = SwarmConfig(
            run_target_s=self.random.choice((0.02, 10.0)),
            in_flight_bytes_max=self.random.randint(1, 40) * SIZE,
        )
        self.state = Swarm(
            chunks,
            SIZE,
            random_source=self.random,
            breaks=self.breaks,
            config=config,
        )
        self.now = 0.0
        self.accepted: list[int] = []
        self.flying: list[tuple[float, bytes, range]] = []
        self.longest = 1
        self.liars = {bytes([n]) for n in range(1, holders) if self.random.random() < 0.3}
        self.have: dict[bytes, int | None] = {}
        for number in range(holders):
            peer = bytes([number])
            full = number == 0 or self.random.random() < 0.5
            self.have[peer] = None if full else self.random.getrandbits(chunks)
            self.add(peer)
        self.rates = {peer: self.random.uniform(0.01, 2.0) for peer in self.have}

    def run(self) -> None:
        for _ in range(self.chunks * 60 + 600):
            match self.state.next(now=self.now):
                case Request(holder, chunk, count) as request:
                    assert holder not in self.state.banned
                    have = self.have[holder]
                    assert all(have is None or have >> each & 1 for each in request.chunks)
                    assert count <= (4 if holder[0] % 2 == 0 else 1)
                    assert not self.breaks >> chunk + 1 & (1 << count - 1) - 1
                    self.longest = max(self.longest, count)
                    delay = self.rates[holder] * self.random.uniform(0.5, 2)
                    self.flying.append((self.now + delay, holder, request.chunks))
                case Done():
                    return
                case Stalled():
                    self.bring_back()
                case Wait(until):
                    self.pass_time(until)
            self.state.check()
        raise AssertionError("the swarm does not end")

    def pass_time(self, until: float) -> None:
        assert until > self.now
        if not self.flying or min(entry[0] for entry in self.flying) > until:
            self.now = until
            return
        arrival = min(self.flying, key=lambda entry: entry[0])
        self.flying.remove(arrival)
        self.now = max(self.now, arrival[0])
        self.arrive(arrival[1], arrival[2])

    def add(self, peer: bytes) -> None:
        run_bytes_max = 4 * SIZE if peer[0] % 2 == 0 else 0
        self.state.holder_added(peer, self.have[peer], now=self.now, run_bytes_max=run_bytes_max)

    def verified(self, holder: bytes, chunks: range) -> None:
        for chunk in self.state.chunks_verified(holder, chunks, now=self.now):
            assert holder not in self.state.banned
            self.accepted.append(chunk)

    def arrive(self, holder: bytes, chunks: range) -> None:
        dice, there = self.random.random(), self.random.randrange(len(chunks))
        if holder in self.liars and dice < 0.5:
            self.verified(holder, chunks[:there])
            self.state.chunk_bad(holder, chunks[there])
        elif dice < 0.02 and holder != b"\0":
            self.verified(holder, chunks[:there])
            self.state.chunk_missing(holder, chunks[there])
            self.state.unanswered(holder, chunks[there + 1 :])
            have = self.have[holder]
            self.have[holder] = (2**self.chunks - 1 if have is None else have) & ~(
                1 << chunks[there]
            )
        elif dice < 0.05:
            self.forget(holder)
            self.state.holder_failed(holder)
        elif dice < 0.1:
            self.forget(holder)
            self.state.busy(holder, self.random.uniform(0, 3), now=self.now)
        else:
            self.verified(holder, chunks)

    def forget(self, holder: bytes) -> None:
        self.flying = [entry for entry in self.flying if entry[1] != holder]

    def bring_back(self) -> None:
        """The honest whole holder comes back: the union is complete again."""
        self.now += 0.1
        self.add(b"\0")


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 1 << 32))
def test_any_swarm_ends_with_each_chunk_accepted_once(chunks: int, holders: int, seed: int) -> None:
    simulated = Simulated(chunks, holders, seed)
    simulated.run()
    assert sorted(simulated.accepted) == list(range(chunks))
