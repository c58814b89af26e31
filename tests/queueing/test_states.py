"""The outbox's states: an end is an end."""

from hypothesis import given
from hypothesis import strategies as st

from queueing.states import ENDS, Event, State, advance, is_end


@given(events=st.lists(st.sampled_from(list(Event)), max_size=12))
def test_an_end_is_never_left(events: list[Event]) -> None:
    state = State.SPOOLED
    for event in events:
        before, state = state, advance(state, event)
        assert state is before or not is_end(before)


@given(events=st.lists(st.sampled_from(list(Event)), max_size=12))
def test_delivered_comes_from_a_receipt_only(events: list[Event]) -> None:
    state = State.SPOOLED
    for event in events:
        state = advance(state, event)
    if state is State.DELIVERED:
        assert Event.RECEIPT_DELIVERED in events
    if Event.RECEIPT_DELIVERED not in events and Event.RECEIPT_REFUSED not in events:
        assert state not in (State.DELIVERED, State.REFUSED)


def test_every_event_has_its_place_in_every_open_state() -> None:
    for state in set(State) - ENDS:
        for event in Event:
            assert isinstance(advance(state, event), State)
    assert advance(State.SPOOLED, Event.DEPOSITED) is State.STORED
