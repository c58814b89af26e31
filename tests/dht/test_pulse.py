"""How often contacts are asked whether they live: as often as it is worth."""

import random

from hypothesis import given
from hypothesis import strategies as st

from dht.contacts import Contact
from dht.pulse import HEARD_QUIETS, Pulse, PulseConfig
from identity.address import Address

CONFIG = PulseConfig(quiet_min_s=100.0, quiet_start_s=200.0, quiet_max_s=400.0)


def contact(number: int, *, seen: float | None, heard: float | None = None) -> Contact:
    made = Contact(number.to_bytes(20, "big"), Address("10.0.0.1", 1 + number), last_seen=seen)
    made.last_heard = heard
    return made


def numbers(contacts: list[Contact]) -> list[int]:
    return [each.long_id for each in contacts]


def test_quiet_contacts_are_asked_the_longest_quiet_first_and_few_at_a_time() -> None:
    contacts = [contact(1, seen=50.0), contact(2, seen=0.0), contact(3, seen=500.0)]
    contacts.append(contact(4, seen=None))
    pulse = Pulse(CONFIG)
    assert numbers(pulse.due(contacts, 600.0, 9)) == [4, 2, 1]
    assert numbers(pulse.due(contacts, 600.0, 2)) == [4, 2]
    assert pulse.due(contacts[:1], 249.0, 9) == []


def test_contact_that_asks_us_is_not_asked_for_a_while_but_not_for_ever() -> None:
    pulse = Pulse(CONFIG)
    talker = contact(1, seen=0.0, heard=200.0)
    assert pulse.due([talker], 200.0, 9) == []
    assert pulse.due([talker], 399.0, 9) == []
    assert pulse.due([talker], 400.0, 9) == [talker]
    talker.last_heard = HEARD_QUIETS * 200.0 - 1.0
    assert pulse.due([talker], HEARD_QUIETS * 200.0 - 1.0, 9) == []
    assert pulse.due([talker], HEARD_QUIETS * 200.0, 9) == [talker]


@given(st.lists(st.booleans(), max_size=400))
def test_pace_stays_within_its_limits(answers: list[bool]) -> None:
    pulse = Pulse(CONFIG)
    for is_there in answers:
        (pulse.answered if is_there else pulse.gone)()
        assert CONFIG.quiet_min_s <= pulse.quiet_s <= CONFIG.quiet_max_s


def test_pace_follows_how_many_go() -> None:
    def settled(share_gone: float) -> float:
        pulse, rng = Pulse(CONFIG), random.Random(1)
        for _ in range(2_000):
            (pulse.gone if rng.random() < share_gone else pulse.answered)()
        return pulse.quiet_s

    assert settled(0.0) == CONFIG.quiet_max_s
    assert settled(0.01) > 300.0
    assert settled(0.25) < 120.0
