"""Reachability: two witnesses on hosts of their own decide, and few are asked, rarely."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dht.reachability import (
    AskWitness,
    Reach,
    Reachability,
    ReachConfig,
    Rest,
    Witness,
    place_of,
    witnesses_of,
)
from identity.address import Address

CONFIG = ReachConfig()
OWN = frozenset({"192.168.1.1"})
TWO = CONFIG.agreeing_min


def witness(host: str, port: int = 4100) -> Witness:
    return Witness(host.encode().ljust(20, b"-")[:20], Address(host, port))


def lan(count: int) -> list[Witness]:
    return [witness(f"192.168.1.{number + 2}") for number in range(count)]


def ask(machine: Reachability, contacts: list[Witness], now: float = 0.0) -> list[Witness]:
    """Everybody that is to be asked now."""
    asked = []
    while isinstance(step := machine.next(contacts, OWN, now=now), AskWitness):
        asked.append(step.witness)
    return asked


def rest(machine: Reachability, contacts: list[Witness], now: float) -> float:
    step = machine.next(contacts, OWN, now=now)
    assert isinstance(step, Rest), step
    return step.until_s


def judge(machine: Reachability, contacts: list[Witness], now: float, *, reached: bool) -> None:
    for each in ask(machine, contacts, now):
        machine.reported(each, reached=reached, now=now)


@pytest.mark.parametrize(
    ("reached", "state"), [(True, Reach.REACHABLE), (False, Reach.UNREACHABLE)]
)
def test_two_that_agree_decide_and_no_third_is_asked(reached: bool, state: Reach) -> None:
    machine = Reachability()
    asked = ask(machine, lan(5))
    assert len(asked) == 2
    machine.reported(asked[0], reached=reached, now=1.0)
    assert machine.state is Reach.UNKNOWN
    machine.reported(asked[1], reached=reached, now=1.0)
    assert machine.state is state
    assert ask(machine, lan(5), 1.0) == []


def test_a_third_is_asked_when_two_disagree_and_when_one_says_nothing() -> None:
    machine = Reachability()
    one, two = ask(machine, lan(5))
    machine.reported(one, reached=True, now=1.0)
    machine.reported(two, reached=False, now=1.0)
    [three] = ask(machine, lan(5), 1.0)
    machine.unanswered(three)
    [four] = ask(machine, lan(5), 1.0)
    assert len({one, two, three, four}) == 4
    machine.reported(four, reached=False, now=2.0)
    assert machine.state is Reach.UNREACHABLE


def test_a_round_that_agrees_on_nothing_changes_nothing_and_is_repeated_ever_more_rarely() -> None:
    machine = Reachability()
    judge(machine, lan(2), 0.0, reached=True)
    now, pauses = CONFIG.recheck_s, []
    for _ in range(12):
        while asked := ask(machine, lan(9), now):
            for each in asked:
                machine.unanswered(each)
        pauses.append(rest(machine, lan(9), now) - now)
        now += pauses[-1]
    assert machine.state is Reach.REACHABLE
    assert pauses[:3] == [10.0, 20.0, 40.0]
    assert pauses[-1] == CONFIG.retry_max_s


def test_reachable_is_asked_about_after_hours_and_unreachable_after_seconds() -> None:
    machine = Reachability()
    judge(machine, lan(3), 0.0, reached=True)
    assert rest(machine, lan(3), 1.0) == CONFIG.recheck_s
    now = CONFIG.recheck_s
    judge(machine, lan(3), now, reached=False)
    assert machine.state is Reach.UNREACHABLE
    assert rest(machine, lan(3), now) == now + CONFIG.retry_min_s
    now += CONFIG.retry_min_s
    judge(machine, lan(3), now, reached=False)
    assert rest(machine, lan(3), now) == now + 2 * CONFIG.retry_min_s
    now += 2 * CONFIG.retry_min_s
    judge(machine, lan(3), now, reached=True)
    assert machine.state is Reach.REACHABLE


def test_another_address_of_ours_is_judged_at_once() -> None:
    machine = Reachability()
    judge(machine, lan(3), 0.0, reached=True)
    assert ask(machine, lan(3), 5.0) == []
    machine.moved()
    assert len(ask(machine, lan(3), 5.0)) == TWO
    assert machine.state is Reach.REACHABLE, "till somebody knows better"


def test_who_is_alone_or_loses_its_witnesses_counts_as_reachable_again() -> None:
    machine = Reachability()
    assert rest(machine, [], 0.0) == math.inf
    assert rest(machine, lan(1), 0.0) == math.inf
    assert machine.state is Reach.UNKNOWN
    judge(machine, lan(2), 0.0, reached=False)
    assert machine.state is Reach.UNREACHABLE
    assert rest(machine, lan(1), CONFIG.retry_min_s) == math.inf
    assert machine.state is Reach.UNKNOWN


def test_contacts_on_our_own_host_loopback_and_link_local_are_no_witnesses() -> None:
    contacts = [
        witness("127.0.0.1", 1),
        witness("127.0.0.1", 2),
        witness("::1"),
        witness("192.168.1.1", 7),
        witness("169.254.1.1"),
        witness("192.168.1.9"),
    ]
    assert witnesses_of(contacts, OWN) == [contacts[-1]]


def test_one_host_and_one_public_block_have_one_voice() -> None:
    same_host = [witness("192.168.1.2", port) for port in range(1, 9)]
    assert witnesses_of(same_host, OWN) == same_host[:1]
    same_block = [witness(f"8.8.8.{number}") for number in range(1, 9)]
    assert witnesses_of(same_block, OWN) == same_block[:1]


def test_neighbours_in_the_house_do_not_judge_where_the_world_can() -> None:
    public = [witness("8.8.8.8"), witness("9.9.9.9")]
    assert witnesses_of([*lan(3), *public], OWN) == public
    assert witnesses_of([*lan(3), public[0]], OWN) == [*lan(3), public[0]]


def test_a_late_report_of_an_earlier_round_and_of_a_stranger_count_for_nothing() -> None:
    machine = Reachability()
    one, two = ask(machine, lan(4))
    machine.moved()
    machine.reported(one, reached=False, now=1.0)
    machine.reported(two, reached=False, now=1.0)
    machine.reported(witness("192.168.1.200"), reached=False, now=1.0)
    assert machine.state is Reach.UNKNOWN


def test_a_node_that_does_not_ask_stays_unknown() -> None:
    machine = Reachability(ReachConfig(asks=False))
    assert rest(machine, lan(5), 0.0) == math.inf
    assert machine.state is Reach.UNKNOWN


class Rounds(RuleBasedStateMachine):
    """Whatever witnesses say or do not say, and whenever: bounded rounds, agreed verdicts."""

    @initialize(count=st.integers(0, 8))
    def begin(self, count: int) -> None:
        self.machine = Reachability()
        self.contacts = lan(count)
        self.now = 0.0
        self.open: list[Witness] = []
        self.round: dict[str, bool | None] = {}

    @rule(later_s=st.floats(0, 50_000))
    def time_passes(self, later_s: float) -> None:
        self.now += later_s

    @rule(count=st.integers(0, 8))
    def contacts_come_and_go(self, count: int) -> None:
        self.contacts = lan(count)

    @rule()
    def asks(self) -> None:
        step = self.machine.next(self.contacts, OWN, now=self.now)
        if isinstance(step, AskWitness):
            place = place_of(step.witness.address)
            if self.round and not self.machine._asked.keys() & self.round.keys():
                self.round = {}
            assert place not in {place_of(each.address) for each in self.open}
            self.open.append(step.witness)
            self.round[place] = None
        else:
            assert step.until_s > self.now

    @rule(reached=st.one_of(st.none(), st.booleans()))
    def answers(self, reached: bool | None) -> None:
        if not self.open:
            return
        each = self.open.pop(0)
        before = self.machine.state
        votes = list(self.machine._asked.values())
        if reached is None:
            self.machine.unanswered(each)
        else:
            self.machine.reported(each, reached=reached, now=self.now)
        if self.machine.state is not before:
            assert reached is not None
            assert self.machine.state is (Reach.REACHABLE if reached else Reach.UNREACHABLE)
            assert votes.count(reached) == TWO - 1, "one more made two"
        if not self.machine._open:
            self.open.clear()

    @rule()
    def moves(self) -> None:
        self.machine.moved()
        self.open.clear()

    @invariant()
    def a_round_is_bounded(self) -> None:
        machine = getattr(self, "machine", None)
        if machine is not None:
            assert len(machine._asked) <= CONFIG.witnesses_max
            assert machine._open <= machine._asked.keys()


TestRounds = Rounds.TestCase


@given(st.lists(st.sampled_from(["8.8.8.1", "8.8.8.2", "9.9.9.9", "192.168.1.1", "192.168.1.2"])))
def test_witnesses_are_contacts_each_in_a_place_of_its_own(hosts: list[str]) -> None:
    contacts = [witness(host, 1 + number) for number, host in enumerate(hosts)]
    chosen = witnesses_of(contacts, OWN)
    assert set(chosen) <= set(contacts)
    assert len({place_of(each.address) for each in chosen}) == len(chosen)
