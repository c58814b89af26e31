"""The state machine of a watched folder: as a transcript, and under random changes."""

import dataclasses

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from peer.scanning import Scan, Seen
from peer.settling import QUIET_S, STALE_S, Known, Plan, Settling, State

NEW = Seen(1, 1, 1, 10**18)
NEWER = dataclasses.replace(NEW, size_bytes=2)
OLD = Seen(1, 1, 1, 1)
WALL_NS = 10**18


def look(state: Settling, now: float, *, is_partial: bool = False, **files: Seen) -> Plan:
    return state.look(Scan(files, is_partial=is_partial), now=now, wall_ns=WALL_NS)


def test_new_file_is_offered_once_two_looks_saw_the_same() -> None:
    state = Settling()
    plan = look(state, 0.0, a=NEW)
    assert (plan.offer, plan.look_at) == ((), QUIET_S)
    assert look(state, QUIET_S, a=NEW).offer == (("a", NEW),)
    state.settled("a", Known(NEW, State.OFFERED))
    assert look(state, 9.0, a=NEW) == Plan()


def test_file_that_is_still_written_is_waited_for() -> None:
    state = Settling()
    for turn in range(5):
        assert look(state, turn * QUIET_S, a=dataclasses.replace(NEW, size_bytes=turn)) == Plan(
            look_at=(turn + 1) * QUIET_S
        )


def test_file_that_has_not_changed_for_long_is_offered_at_the_first_look() -> None:
    assert look(Settling(), 0.0, a=OLD).offer == (("a", OLD),)


def test_known_file_is_left_alone_and_one_whose_mtime_was_set_back_is_not() -> None:
    state = Settling({"a": Known(OLD, State.OFFERED)})
    assert look(state, 0.0, a=OLD) == Plan()
    sneaky = dataclasses.replace(OLD, ctime_ns=2)
    assert look(state, 1.0, a=sneaky).offer == (("a", sneaky),)


def test_gone_file_is_withdrawn_after_two_looks_and_not_for_a_moment() -> None:
    state = Settling({"a": Known(OLD, State.OFFERED)})
    assert look(state, 0.0).withdraw == ()
    assert look(state, 0.5, a=OLD) == Plan()  # it was being replaced
    assert look(state, 2.0).withdraw == ()
    plan = look(state, 2.0 + QUIET_S)
    assert plan.withdraw == ("a",)
    state.withdrawn("a")
    assert look(state, 9.0) == Plan()


def test_what_a_partial_look_does_not_show_is_not_gone() -> None:
    state = Settling({"a": Known(OLD, State.OFFERED)})
    for now in (0.0, 5.0, 50.0):
        assert look(state, now, is_partial=True).withdraw == ()


def test_file_that_keeps_changing_is_withdrawn_once_and_offered_when_it_rests() -> None:
    state = Settling({"log": Known(OLD, State.OFFERED)})
    withdrawn: list[float] = []
    now = 0.0
    while now <= 2 * STALE_S:
        plan = look(state, now, log=dataclasses.replace(NEW, size_bytes=int(now * 10)))
        assert plan.offer == ()
        if plan.withdraw:
            withdrawn.append(now)
            state.withdrawn("log")
        now += QUIET_S / 2
    assert withdrawn == [STALE_S]
    look(state, now, log=NEWER)
    assert look(state, now + QUIET_S, log=NEWER).offer == (("log", NEWER),)


def test_unshared_file_stays_so_though_it_changes_until_it_is_gone() -> None:
    state = Settling({"a": Known(OLD, State.UNSHARED)})
    assert look(state, 0.0, a=dataclasses.replace(OLD, size_bytes=7)) == Plan()
    look(state, 1.0)
    assert look(state, 1.0 + QUIET_S).withdraw == ("a",)
    state.withdrawn("a")
    assert look(state, 9.0, a=OLD).offer == (("a", OLD),)


def test_refused_file_is_tried_again_when_it_changes_or_is_lost() -> None:
    state = Settling({"a": Known(OLD, State.REFUSED)})
    assert look(state, 0.0, a=OLD) == Plan()
    state.lost(["a"])
    assert look(state, 1.0, a=OLD).offer == (("a", OLD),)


def test_what_cannot_be_dealt_with_is_not_looked_at_without_a_pause() -> None:
    state = Settling()
    for turn in range(3):
        now = 100.0 * turn
        plan = look(state, now, a=OLD) if turn else look(state, now, a=NEW)
        assert plan.look_at is not None
        assert plan.look_at >= now + QUIET_S / 2


class Folder(RuleBasedStateMachine):
    """A folder that changes at random, and whoever does what the plans say."""

    def __init__(self) -> None:
        super().__init__()
        self.state = Settling()
        self.now = 0.0
        self.files: dict[str, Seen] = {}
        self.shared: dict[str, Seen] = {}
        self.unshared: set[str] = set()
        self.changed_at: dict[str, float] = {}
        self.count = 0

    names = st.sampled_from("abc")

    @rule(name=names)
    def write(self, name: str) -> None:
        self.count += 1
        self.files[name] = Seen(self.count, 0, 0, WALL_NS)
        self.changed_at[name] = self.now

    @rule(name=names)
    def remove(self, name: str) -> None:
        if self.files.pop(name, None):
            self.changed_at[name] = self.now

    @rule(name=names)
    def unshare(self, name: str) -> None:
        known = self.state.known(name)
        if known is not None and known.state is State.OFFERED:
            self.state.settled(name, Known(known.seen, State.UNSHARED))
            self.shared.pop(name, None)
            self.unshared.add(name)

    @rule(seconds=st.sampled_from([0.1, QUIET_S, STALE_S]), is_partial=st.booleans())
    def turn(self, seconds: float, is_partial: bool) -> None:
        self.now += seconds
        self.act(is_partial)

    def act(self, is_partial: bool) -> Plan:
        plan = look(self.state, self.now, is_partial=is_partial, **self.files)
        for name in plan.withdraw:
            assert name in self.state._known
            assert name not in self.files or self.now - self.changed_at[name] < STALE_S + QUIET_S
            assert not (is_partial and name not in self.files)
            self.shared.pop(name, None)
            self.unshared.discard(name)
            self.state.withdrawn(name)
        for name, seen in plan.offer:
            assert name not in self.unshared
            assert self.files[name] == seen
            assert self.now - self.changed_at[name] >= QUIET_S
            self.shared[name] = seen
            self.state.settled(name, Known(seen, State.OFFERED))
        return plan

    @invariant()
    def is_never_behind_for_long(self) -> None:
        """Left alone, what is shared becomes what is there, in a bounded number of looks."""
        state, files = self.state, dict(self.files)
        known, differing = (
            dict(state._known),
            {name: dataclasses.replace(each) for name, each in state._differing.items()},
        )
        saved = self.now, dict(self.shared), set(self.unshared)
        for _ in range(3):
            plan = self.act(is_partial=False)
            self.now = max(self.now, plan.look_at or self.now)
        assert self.act(is_partial=False) == Plan()
        wanted = {name: seen for name, seen in files.items() if name not in self.unshared}
        assert self.shared == wanted
        state._known, state._differing = known, differing
        self.now, self.shared, self.unshared = saved


TestFolder = Folder.TestCase
TestFolder.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
