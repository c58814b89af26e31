"""Which holders a download talks to."""

import random

from hypothesis import given
from hypothesis import strategies as st

from identity.address import Address
from transfer.candidates import CandidateConfig, Candidates, Holder, SessionEnd

CONFIG = CandidateConfig(enough=2, holders_max=4)


def holder(number: int, port: int = 1) -> Holder:
    return Holder(bytes([number]), (Address("127.0.0.1", port),))


def candidates(*numbers: int) -> Candidates:
    made = Candidates(CONFIG, random_source=random.Random(1))
    for number in numbers:
        made.named(holder(number), now=0.0)
    return made


def test_enough_begin_at_once_and_others_one_by_one() -> None:
    waiting = candidates(1, 2, 3, 4, 5)
    assert waiting.next(running=0, serving=0, now=0.0)
    assert waiting.next(running=1, serving=0, now=0.0)
    assert waiting.next(running=2, serving=0, now=0.1) is None
    assert waiting.next(running=2, serving=0, now=0.25), "the first two may be silent"
    assert waiting.next(running=3, serving=3, now=1.0) is None, "three serve: that is enough"
    assert waiting.next(running=3, serving=3, now=5.3), "in the long run all are used"
    assert waiting.next(running=4, serving=4, now=99.0) is None, "up to the bound"


def test_newest_address_of_a_waiting_holder_counts() -> None:
    waiting = candidates(1)
    waiting.named(holder(1, port=2), now=1.0)
    assert waiting.next(running=0, serving=0, now=1.0) == holder(1, port=2)
    assert len(waiting) == 0


def test_liar_never_comes_back_and_one_that_had_nothing_after_a_while() -> None:
    waiting = candidates()
    for end in (SessionEnd.BAD, SessionEnd.CHANGED):
        waiting.ended(holder(1), end, now=0.0)
        waiting.named(holder(1), now=1_000.0)
        assert len(waiting) == 0
    waiting.ended(holder(2), SessionEnd.GONE, now=0.0)
    waiting.named(holder(2), now=1.0)
    assert len(waiting) == 0
    waiting.named(holder(2), now=3.0)
    assert len(waiting) == 1
    waiting.ended(holder(3), SessionEnd.UNREACHABLE, now=3.0)
    waiting.named(holder(3), now=3.0)
    assert len(waiting) == 2


def test_useless_holder_makes_room_only_for_somebody_and_waits_again() -> None:
    waiting = candidates()
    running = [b"\1", b"\2"]

    def worse(now: float, *, is_idle: bool = False) -> bytes | None:
        return waiting.worse(running, lambda peer: peer == b"\1", is_idle=is_idle, now=now)

    assert worse(0.0) is None
    assert worse(10.0) is None, "nobody waits"
    waiting.named(holder(3), now=10.0)
    assert worse(10.0) == b"\2"
    waiting.ended(holder(2), SessionEnd.CANCELLED, now=10.0)
    assert len(waiting) == 2
    running = [b"\1", b"\3"]
    assert worse(11.0) is None
    assert worse(12.0) is None
    assert worse(12.0, is_idle=True) == b"\3", "sooner when nobody can be asked for anything"


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(SessionEnd)), max_size=60))
def test_no_holder_waits_twice_and_none_that_lied_waits(
    events: list[tuple[int, SessionEnd]],
) -> None:
    made = candidates(*range(10))
    running: dict[int, Holder] = {}
    for now, (number, end) in enumerate(events):
        chosen = made.next(running=len(running), serving=0, now=float(now))
        if chosen is not None:
            assert chosen.peer_id[0] not in running
            running[chosen.peer_id[0]] = chosen
        assert len(running) <= CONFIG.holders_max
        if number in running:
            made.ended(running.pop(number), end, now=float(now))
        elif made.end_of(bytes([number])) is SessionEnd.BAD:
            made.named(holder(number), now=float(now))
            assert number not in [each.peer_id[0] for each in made._waiting]
