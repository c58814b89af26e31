"""The schedule over long times: what is swept together, and tombstones that last."""

import gc
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.records import ContentPayload, NamePayload, check_record
from dht.schedule import Draft, PublishSchedule, ScheduleConfig, sign_draft
from tests.support.records import (
    ALICE,
    CONTENT_ID,
    HERE,
    HOUR_MS,
    NETWORK_ID,
    NOW_MS,
)

NAME = NamePayload("a.txt", CONTENT_ID, 5, (HERE,))


def make_schedule(**config: int) -> PublishSchedule:
    return PublishSchedule(NETWORK_ID, ALICE.public_key, random.Random(7), ScheduleConfig(**config))


def only(drafts: list[Draft]) -> Draft:
    (draft,) = drafts
    return draft


# --- sweeps -------------------------------------------------------------------------------------


def stored_schedule(count: int) -> PublishSchedule:
    """A schedule whose drafts were all stored, one a minute."""
    schedule = make_schedule()
    for number in range(count):
        draft_id = schedule.add(ContentPayload(bytes([number]) * 32), now_ms=NOW_MS)
        now_ms = NOW_MS + number * 60_000
        schedule.take([draft_id], now_ms=now_ms)
        schedule.stored(draft_id, 1, now_ms=now_ms)
    return schedule


def test_what_is_due_soon_goes_along_with_what_is_due_now() -> None:
    schedule = stored_schedule(20)
    due_ms = schedule.next_due_ms()
    assert due_ms is not None
    assert len({row.due_ms for row in schedule.rows()}) == 20
    assert schedule.due(due_ms - 1, 100) == []
    assert len(schedule.due(due_ms, 100)) == 20


def test_neither_what_is_in_flight_nor_what_waits_for_a_retry_goes_along() -> None:
    schedule = stored_schedule(3)
    failed, in_flight, _ = (row.draft_id for row in schedule.rows())
    due_ms = min(row.due_ms for row in schedule.rows()[2:])
    schedule.take([failed], now_ms=due_ms - 1000)
    schedule.failed(failed, now_ms=due_ms - 1000)
    schedule.take([in_flight], now_ms=due_ms - 500)
    assert len(schedule.due(due_ms, 100)) == 1


def test_draft_that_was_just_swept_does_not_go_along_again() -> None:
    schedule = stored_schedule(5)
    due_ms = schedule.next_due_ms()
    assert due_ms is not None
    for draft in schedule.due(due_ms, 100):
        schedule.stored(draft.draft_id, 1, now_ms=due_ms)
    schedule.add(NAME, now_ms=due_ms)
    assert len(schedule.due(due_ms, 100)) == 1


def test_draft_that_met_a_busy_storer_is_tried_again_soon() -> None:
    schedule = make_schedule(retry_ms=1000)
    draft_id = schedule.add(NAME, now_ms=NOW_MS)
    only(schedule.due(NOW_MS, 10))
    schedule.stored(draft_id, 3, now_ms=NOW_MS, busy=True)
    assert len(schedule.due(NOW_MS + 1100, 10)) == 1


def test_lost_record_is_due_at_once() -> None:
    schedule = stored_schedule(2)
    lost = schedule.rows()[0].draft_id
    schedule.lost(lost, now_ms=NOW_MS + HOUR_MS)
    schedule.lost(b"?" * 20, now_ms=NOW_MS + HOUR_MS)
    assert only(schedule.due(NOW_MS + HOUR_MS, 10)).draft_id == lost


def test_changes_are_given_out_in_pieces_each_once() -> None:
    schedule = make_schedule()
    for number in range(5):
        schedule.add(ContentPayload(bytes([number]) * 32), now_ms=NOW_MS)
    pieces = [schedule.take_changes(2).saved for _ in range(4)]
    assert [len(piece) for piece in pieces] == [2, 2, 1, 0]
    assert len({row.draft_id for piece in pieces for row in piece}) == 5


def test_what_is_held_for_a_publish_is_handed_out_by_no_sweep_until_that_is_given_up() -> None:
    schedule = make_schedule()
    held = schedule.add(NAME, now_ms=NOW_MS)
    schedule.hold([held, b"?" * 20], now_ms=NOW_MS)
    assert schedule.due(NOW_MS + 1, 10) == []
    assert only(schedule.take([held], now_ms=NOW_MS + 1)).draft_id == held
    schedule.hold([held], now_ms=NOW_MS)
    assert only(schedule.due(NOW_MS + ScheduleConfig().hold_ms, 10)).draft_id == held


@pytest.mark.parametrize("swept", range(0, 40, 7))
def test_one_due_draft_among_many_is_found_in_short_looks(
    swept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = stored_schedule(40)
    monkeypatch.setattr("dht.schedule.LOOK_MAX", 6)
    rows = schedule.rows()
    for wanted in rows[::9]:
        schedule.lost(rows[swept].draft_id, now_ms=NOW_MS + HOUR_MS)
        while schedule.has_due(NOW_MS + HOUR_MS):
            for draft in schedule.due(NOW_MS + HOUR_MS, 100):
                schedule.stored(draft.draft_id, 1, now_ms=NOW_MS + HOUR_MS)
        schedule.lost(wanted.draft_id, now_ms=NOW_MS + HOUR_MS)
        found: list[bytes] = []
        looks = 0
        while schedule.has_due(NOW_MS + HOUR_MS):
            found += [draft.draft_id for draft in schedule.due(NOW_MS + HOUR_MS, 100)]
            looks += 1
        assert found == [wanted.draft_id]
        assert looks <= 40 // 6 + 2


def test_drafts_are_none_of_the_garbage_collectors_business() -> None:
    gc.collect()
    before = len(gc.get_objects())
    schedule = make_schedule()
    for number in range(2_000):
        draft_id = schedule.add(
            NamePayload(f"{number}.txt", number.to_bytes(32, "big"), 5, (HERE,)), now_ms=NOW_MS
        )
        schedule.stored(draft_id, 1, now_ms=NOW_MS)
    gc.collect()
    assert len(gc.get_objects()) - before < 500


# --- tombstones ---------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "withdraw"]), st.integers(-540_000, HOUR_MS)),
        min_size=1,
        max_size=20,
    ),
    st.booleans(),
)
def test_tombstone_outlives_all_that_was_published_before_whatever_the_clock_does(
    steps: list[tuple[str, int]], restarts: bool
) -> None:
    """The clock may go back by as much as storers tolerate it to be ahead (10 min, 1 to spare)."""
    schedule = make_schedule()
    latest_ms = last_expiry_ms = 0
    now_ms = NOW_MS
    for action, step_ms in steps:
        now_ms = max(now_ms + step_ms, latest_ms - 540_000)
        latest_ms = max(latest_ms, now_ms)
        if action == "add":
            schedule.add(NAME, now_ms=now_ms)
        else:
            schedule.withdraw(NAME, now_ms=now_ms)
        if restarts:
            again = make_schedule()
            assert again.load(schedule.rows()) == 1
            schedule = again
        draft = only(schedule.take([schedule.draft_id_of(NAME)], now_ms=now_ms))
        record = sign_draft(ALICE, NETWORK_ID, draft)
        check_record(record, NETWORK_ID, now_ms=now_ms)
        if draft.withdrawn:
            assert record.expires_ms >= last_expiry_ms
        last_expiry_ms = max(last_expiry_ms, record.expires_ms)
