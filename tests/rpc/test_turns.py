"""The rule of a rate that kinds of traffic share, under arbitrary demand."""

import math
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rpc.turns import (
    BURST_S,
    PIECE_MAX_BYTES,
    PIECE_MIN_BYTES,
    Ticket,
    Turns,
    piece_bytes,
)

RATE = 1_000_000
PIECE = 20_000


@dataclass
class Line:
    """Drives a rule as the shell does: grants when asked and when its time has come."""

    turns: Turns
    now: float = 0.0
    granted: list[tuple[float, Ticket]] = field(default_factory=list)

    def ask(self, lane: int, size: int = PIECE) -> Ticket:
        ticket = self.turns.ask(lane, size, now=self.now)
        self.grant()
        return ticket

    def grant(self) -> None:
        self.granted += [(self.now, each) for each in self.turns.grant(now=self.now)]

    def run(self, until: float) -> None:
        while (wait_s := self.turns.wait_s(now=self.now)) is not None:
            if self.now + wait_s > until:
                break
            self.now += wait_s
            self.grant()
        self.now = until

    def keep_asking(self, streams: list[tuple[int, int]], *, until: float) -> None:
        """Have streams of (lane, size) ask again as soon as they had their turn."""
        for lane, size in streams:
            self.ask(lane, size)
        done = 0
        while self.now < until:
            for _, ticket in self.granted[done:]:
                self.turns.ask(ticket.lane, ticket.size_bytes, now=self.now)
                done += 1
            self.now += self.turns.wait_s(now=self.now) or 0.0
            self.grant()

    def moved(self, lane: int) -> int:
        return sum(each.size_bytes for _, each in self.granted if each.lane == lane)


def line(lanes: int = 2, rate: int = RATE) -> Line:
    return Line(Turns(rate, lanes, now=0.0))


class AnyDemand(RuleBasedStateMachine):
    """Whoever asks, cancels and looks late: never too much, never out of turn, nobody forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.line = line(3)
        self.waiting: list[deque[Ticket]] = [deque(), deque(), deque()]
        self.seen = 0
        self.noted: list[tuple[float, int]] = []

    def settle(self) -> None:
        for _, ticket in self.line.granted[self.seen :]:
            assert self.waiting[ticket.lane].popleft() is ticket, "served in order"
        self.seen = len(self.line.granted)

    @rule(lane=st.integers(0, 2), size=st.integers(0, 100_000))
    def ask(self, lane: int, size: int) -> None:
        ticket = self.line.turns.ask(lane, size, now=self.line.now)
        self.waiting[lane].append(ticket)
        self.line.grant()
        self.settle()

    @rule(seconds=st.floats(0, 0.5))
    def wait(self, seconds: float) -> None:
        self.line.run(self.line.now + seconds)
        self.settle()

    @rule(lane=st.integers(0, 2), size=st.integers(1, 100_000))
    def note(self, lane: int, size: int) -> None:
        self.line.turns.note(lane, size, now=self.line.now)
        self.noted.append((self.line.now, size))

    @precondition(lambda self: any(self.waiting))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from([lane for lane in self.waiting if lane]))
        ticket = data.draw(st.sampled_from(list(lane)))
        lane.remove(ticket)
        self.line.turns.cancel(ticket)
        self.line.grant()
        self.settle()

    @invariant()
    def never_more_than_the_rate(self) -> None:
        times = [(at, each.size_bytes) for at, each in self.line.granted]
        for start, (begin, _) in enumerate(times[-20:], max(0, len(times) - 20)):
            moved = sum(size for _, size in times[start:])
            span_s = self.line.now - begin
            largest = max(size for _, size in times[start:])
            assert moved <= RATE * (span_s + BURST_S) + largest + 1

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        wait_s = self.line.turns.wait_s(now=self.line.now)
        assert (wait_s is not None) == any(self.waiting)
        largest = 100_000 * (1 + len(self.noted))
        assert wait_s is None or wait_s <= largest / RATE


TestAnyDemand = AnyDemand.TestCase
TestAnyDemand.settings = settings(max_examples=30, stateful_step_count=30)


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=60))
def test_rate_is_used_up_while_anybody_waits(sizes: list[int]) -> None:
    state = line()
    tickets = [state.ask(0, size) for size in sizes]
    state.run(math.inf)
    last = state.granted[-1][0]
    assert [each for _, each in state.granted] == tickets
    assert last == pytest.approx(sum(sizes[:-1]) / RATE, abs=0.001 * len(sizes))


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(4_000, PIECE), st.integers(4_000, PIECE))
def test_two_lanes_share_equally_however_many_wait_and_whatever_their_sizes(
    first: int, second: int, small: int, large: int
) -> None:
    state = line()
    state.keep_asking([(0, small)] * first + [(1, large)] * second, until=1.0)
    assert abs(state.moved(0) - state.moved(1)) <= 3 * PIECE
    assert state.moved(0) + state.moved(1) == pytest.approx(RATE, rel=0.05)


def test_lane_alone_has_all_of_the_rate() -> None:
    state = line()
    state.keep_asking([(1, PIECE)], until=1.0)
    assert state.moved(1) == pytest.approx(RATE, rel=0.05)


def test_lane_that_was_quiet_has_no_claim_on_what_passed() -> None:
    state = line()
    for _ in range(50):
        state.ask(0)
    state.run(1.0)
    for _ in range(50):
        state.ask(0)
        state.ask(1)
    state.run(1.5)
    assert abs(state.moved(1) - 250_000) <= 2 * PIECE


def test_newcomer_of_another_lane_waits_for_one_piece_not_for_the_queue() -> None:
    state = line()
    for _ in range(1_000):
        state.ask(0)
    state.run(0.5)
    asked_at = state.now
    ticket = state.ask(1)
    while not ticket.is_granted:
        state.run(state.now + 0.001)
    assert state.now - asked_at <= 2 * PIECE / RATE + 0.002


def test_cancelled_reservation_is_there_for_others() -> None:
    state = line()
    first = state.ask(0, 500_000)
    second = state.ask(0, 500_000)
    assert first.is_granted
    assert not second.is_granted
    state.turns.cancel(first)
    state.grant()
    assert second.is_granted


def test_bytes_that_moved_unasked_are_waited_for() -> None:
    state = line()
    state.turns.note(0, 500_000, now=0.0)
    ticket = state.ask(1)
    assert not ticket.is_granted
    state.run(0.49)
    assert not ticket.is_granted
    state.run(0.51)
    assert ticket.is_granted


def test_unused_rate_is_not_saved_up_for_ever() -> None:
    state = line()
    state.run(1_000.0)
    for _ in range(100):
        state.ask(0)
    assert state.moved(0) <= RATE * BURST_S + PIECE


def test_late_look_costs_those_that_wait_nothing() -> None:
    state = line()
    for _ in range(100):
        state.ask(0)
    state.now = 1.0
    state.grant()
    assert state.moved(0) == pytest.approx(RATE, abs=PIECE)


@given(st.integers(1, 1 << 40))
def test_piece_is_a_fiftieth_of_a_second_within_bounds(rate: int) -> None:
    piece = piece_bytes(rate)
    assert PIECE_MIN_BYTES <= piece <= PIECE_MAX_BYTES
    assert piece <= max(rate / 50, PIECE_MIN_BYTES)
