"""The schedule of our own records: when each is due, with which sequence, until when."""

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dht.errors import BadRecord, ScheduleFull
from dht.records import (
    LIFETIME_MS,
    ContentPayload,
    Kind,
    MailPayload,
    NamePayload,
    Payload,
    PeerPayload,
    WordPayload,
    check_record,
    in_shard,
    kind_of,
)
from dht.schedule import (
    Draft,
    PublishSchedule,
    ScheduleConfig,
    ScheduleRow,
    sign_draft,
)
from dht.storage import RecordStore, Verdict
from tests.support.records import (
    ALICE,
    BOB,
    CONTENT_ID,
    DAY_MS,
    HERE,
    HOUR_MS,
    NETWORK_ID,
    NOW_MS,
    one_of_each_kind,
)

HALF_LIFE_MS = DAY_MS // 2
NAME = NamePayload("a.txt", CONTENT_ID, 5, (HERE,))


def make_schedule(**config: int) -> PublishSchedule:
    return PublishSchedule(NETWORK_ID, ALICE.public_key, random.Random(7), ScheduleConfig(**config))


def only(drafts: list[Draft]) -> Draft:
    (draft,) = drafts
    return draft


@pytest.mark.parametrize("payload", one_of_each_kind(), ids=lambda p: type(p).__name__)
def test_what_is_handed_out_can_be_signed_and_is_taken(payload: Payload) -> None:
    schedule = make_schedule()
    schedule.add(payload, now_ms=NOW_MS)
    draft = only(schedule.due(NOW_MS, 10))
    record = sign_draft(ALICE, NETWORK_ID, draft)
    assert check_record(record, NETWORK_ID, now_ms=NOW_MS) == payload
    assert record.key == draft.key
    assert record.expires_ms == NOW_MS + LIFETIME_MS[record.kind]


def test_a_stored_draft_is_due_again_at_half_life_give_or_take_a_tenth() -> None:
    schedule = make_schedule()
    for number in range(50):
        schedule.add(ContentPayload(bytes([number]) * 32), now_ms=NOW_MS)
    for draft in schedule.due(NOW_MS, 100):
        schedule.stored(draft.draft_id, 3, now_ms=NOW_MS)
    earliest_ms, latest_ms = HALF_LIFE_MS * 9 // 10, HALF_LIFE_MS * 11 // 10
    due_ms = [row.due_ms - NOW_MS for row in schedule.rows()]
    assert earliest_ms <= min(due_ms) < max(due_ms) <= latest_ms
    assert len(set(due_ms)) > 40
    assert schedule.due(NOW_MS + earliest_ms - 1, 100) == []
    assert len(schedule.due(NOW_MS + latest_ms, 100)) == 50


@pytest.mark.parametrize("payload", one_of_each_kind(), ids=lambda p: type(p).__name__)
def test_every_kind_is_republished_long_before_others_forget_it(payload: Payload) -> None:
    schedule = make_schedule()
    draft_id = schedule.add(payload, now_ms=NOW_MS)
    only(schedule.due(NOW_MS, 10))
    schedule.stored(draft_id, 1, now_ms=NOW_MS)
    due_ms = schedule.next_due_ms()
    again = only(schedule.due(NOW_MS + HALF_LIFE_MS * 11 // 10, 10))
    assert due_ms is not None
    assert due_ms < NOW_MS + LIFETIME_MS[kind_of(payload)]
    assert again.expires_ms == again.issued_ms + LIFETIME_MS[kind_of(payload)]


def test_due_drafts_come_in_the_order_of_keys_and_a_sweep_goes_round() -> None:
    schedule = make_schedule(in_flight_ms_max=1)
    for number in range(10):
        schedule.add(ContentPayload(bytes([number]) * 32), now_ms=NOW_MS)
    keys = [row.draft_id for row in schedule.rows()]
    seen = []
    for step in range(4):
        drafts = schedule.due(NOW_MS + step, 4)
        assert [draft.key for draft in drafts] == sorted(draft.key for draft in drafts)
        seen += [draft.draft_id for draft in drafts]
    # Though the first ones are due again at once, the last ones are not starved.
    assert seen[:10] == keys
    assert seen[10:] == keys[:4]


def test_a_draft_in_flight_is_not_handed_out_twice_but_comes_back_if_no_report_comes() -> None:
    schedule = make_schedule(in_flight_ms_max=1000)
    schedule.add(NAME, now_ms=NOW_MS)
    first = only(schedule.due(NOW_MS, 10))
    assert schedule.due(NOW_MS + 999, 10) == []
    second = only(schedule.due(NOW_MS + 1000, 10))
    assert second.sequence > first.sequence


def test_failures_are_retried_more_and_more_rarely() -> None:
    schedule = make_schedule(retry_ms=1000, retry_ms_max=8000)
    draft_id = schedule.add(NAME, now_ms=NOW_MS)
    pauses = []
    now_ms = NOW_MS
    for _ in range(6):
        only(schedule.due(now_ms, 10))
        schedule.stored(draft_id, 0, now_ms=now_ms)
        due_ms = schedule.next_due_ms()
        assert schedule.due(now_ms + 1, 10) == []
        assert due_ms is not None
        due_ms = schedule.rows()[0].due_ms
        pauses.append(due_ms - now_ms)
        now_ms = due_ms
    for pause_ms, nominal_ms in zip(pauses, (1000, 2000, 4000, 8000, 8000, 8000), strict=True):
        assert nominal_ms * 0.9 - 1 <= pause_ms <= nominal_ms * 1.1


def test_the_first_contact_makes_what_failed_due_at_once() -> None:
    schedule = make_schedule()
    failed = schedule.add(NAME, now_ms=NOW_MS)
    stored = schedule.add(ContentPayload(CONTENT_ID), now_ms=NOW_MS)
    assert len(schedule.due(NOW_MS, 10)) == 2
    schedule.failed(failed, now_ms=NOW_MS)
    schedule.stored(stored, 1, now_ms=NOW_MS)
    schedule.reachable(now_ms=NOW_MS + 1)
    assert only(schedule.due(NOW_MS + 1, 10)).draft_id == failed


def test_a_stale_answer_raises_the_sequence_above_the_storers() -> None:
    schedule = make_schedule()
    draft_id = schedule.add(NAME, now_ms=NOW_MS)
    only(schedule.due(NOW_MS, 10))
    ahead = NOW_MS + 2 * DAY_MS
    assert schedule.stale(draft_id, ahead, now_ms=NOW_MS)
    schedule.stored(draft_id, 5, now_ms=NOW_MS)
    draft = only(schedule.due(NOW_MS, 10))
    assert draft.sequence == ahead + 1
    assert draft.issued_ms == NOW_MS


def test_a_lying_storer_neither_drives_us_nor_uses_up_the_sequence_numbers() -> None:
    schedule = make_schedule()
    draft_id = schedule.add(NAME, now_ms=NOW_MS)
    only(schedule.due(NOW_MS, 10))
    assert not schedule.stale(draft_id, 2**63 - 1, now_ms=NOW_MS)
    assert schedule.stale(draft_id, NOW_MS + 1, now_ms=NOW_MS)
    draft = only(schedule.due(NOW_MS, 10))
    assert not schedule.stale(draft_id, draft.sequence + 1, now_ms=NOW_MS)
    schedule.stored(draft_id, 5, now_ms=NOW_MS)
    assert schedule.due(NOW_MS + HOUR_MS, 10) == []


def test_reports_about_unknown_drafts_are_ignored() -> None:
    schedule = make_schedule()
    schedule.stored(b"x" * 20, 1, now_ms=NOW_MS)
    schedule.failed(b"x" * 20, now_ms=NOW_MS)
    assert not schedule.stale(b"x" * 20, 1, now_ms=NOW_MS)
    assert schedule.rows() == []


# --- withdrawal ---------------------------------------------------------------------------------


def test_a_withdrawal_is_published_until_one_other_peer_has_it_then_forgotten() -> None:
    schedule = make_schedule()
    draft_id = schedule.add(NAME, now_ms=NOW_MS)
    first = only(schedule.due(NOW_MS, 10))
    schedule.stored(draft_id, 1, now_ms=NOW_MS)
    assert schedule.withdraw(NAME, now_ms=NOW_MS) == draft_id
    assert schedule.payloads() == []
    gone = only(schedule.due(NOW_MS, 10))
    assert gone.withdrawn
    assert gone.sequence > first.sequence
    schedule.stored(draft_id, 0, now_ms=NOW_MS)
    later_ms = NOW_MS + 10_000
    assert only(schedule.due(later_ms, 10)).withdrawn
    schedule.stored(draft_id, 1, now_ms=later_ms)
    assert len(schedule) == 0
    assert schedule.due(later_ms + DAY_MS, 10) == []


def test_a_tombstone_that_met_a_newer_record_is_not_forgotten() -> None:
    schedule = make_schedule()
    draft_id = schedule.withdraw(NAME, now_ms=NOW_MS)
    only(schedule.due(NOW_MS, 10))
    assert schedule.stale(draft_id, NOW_MS + 5, now_ms=NOW_MS)
    schedule.stored(draft_id, 19, now_ms=NOW_MS)
    again = only(schedule.due(NOW_MS, 10))
    assert again.withdrawn
    assert again.sequence == NOW_MS + 6


def test_a_tombstone_beats_the_record_at_a_storer() -> None:
    schedule = make_schedule()
    store = RecordStore(NETWORK_ID)
    schedule.add(NAME, now_ms=NOW_MS)
    for step in range(2):
        record = sign_draft(ALICE, NETWORK_ID, only(schedule.due(NOW_MS + step, 10)))
        assert store.store(record, now_ms=NOW_MS).verdict is Verdict.OK
        schedule.withdraw(NAME, now_ms=NOW_MS + 1)
    assert store.find(record.key, now_ms=NOW_MS).records == ()


def test_leaving_withdraws_all_but_peer_records() -> None:
    schedule = make_schedule()
    for payload in one_of_each_kind():
        schedule.add(payload, now_ms=NOW_MS)
    left = schedule.leaving()
    schedule.withdraw_drafts(left, now_ms=NOW_MS)
    assert len(left) == 5
    assert [kind_of(payload) for payload in schedule.payloads()] == [Kind.PEER, Kind.PEER]
    withdrawn = [draft for draft in schedule.due(NOW_MS, 10) if draft.withdrawn]
    assert [draft.draft_id for draft in withdrawn] == left


def test_what_is_added_again_after_a_withdrawal_is_live_and_newer() -> None:
    schedule = make_schedule()
    schedule.add(NAME, now_ms=NOW_MS)
    schedule.withdraw(NAME, now_ms=NOW_MS)
    gone = only(schedule.due(NOW_MS, 10))
    schedule.add(NAME, now_ms=NOW_MS, urgent=False)
    back = only(schedule.due(NOW_MS, 10))
    assert not back.withdrawn
    assert back.payload == NAME
    assert back.sequence > gone.sequence


# --- expiry -------------------------------------------------------------------------------------


def test_a_mail_record_never_outlives_its_mail() -> None:
    schedule = make_schedule()
    expires_ms = NOW_MS + 20 * HOUR_MS
    draft_id = schedule.add(MailPayload(BOB.peer_id), now_ms=NOW_MS, expires_ms=expires_ms)
    assert only(schedule.due(NOW_MS, 10)).expires_ms == expires_ms
    schedule.stored(draft_id, 1, now_ms=NOW_MS)
    again = only(schedule.due(NOW_MS + 14 * HOUR_MS, 10))
    assert again.expires_ms == expires_ms
    schedule.stored(draft_id, 1, now_ms=NOW_MS + 14 * HOUR_MS)
    assert schedule.due(NOW_MS + 50 * HOUR_MS, 10) == []
    assert len(schedule) == 0
    assert schedule.take([draft_id], now_ms=NOW_MS) == []


def test_a_tombstone_nobody_took_is_forgotten_when_the_record_has_expired_anyway() -> None:
    schedule = make_schedule()
    schedule.withdraw(NAME, now_ms=NOW_MS)
    assert schedule.due(NOW_MS + DAY_MS, 10) == []
    assert len(schedule) == 0


# --- adding -------------------------------------------------------------------------------------


def test_an_unchanged_draft_keeps_its_due_time_unless_urgent() -> None:
    schedule = make_schedule()
    draft_id = schedule.add(NAME, now_ms=NOW_MS)
    only(schedule.due(NOW_MS, 10))
    schedule.stored(draft_id, 1, now_ms=NOW_MS)
    schedule.add(NAME, now_ms=NOW_MS + 1, urgent=False)
    assert schedule.due(NOW_MS + 1, 10) == []
    moved = NamePayload("a.txt", CONTENT_ID, 5)
    assert schedule.add(moved, now_ms=NOW_MS + 1, urgent=False) == draft_id
    assert only(schedule.due(NOW_MS + 1, 10)).payload == moved
    schedule.add(moved, now_ms=NOW_MS + 2)
    assert len(schedule.due(NOW_MS + 2, 10)) == 1


def test_take_hands_out_the_named_drafts_in_key_order() -> None:
    schedule = make_schedule()
    drafts = [schedule.add(payload, now_ms=NOW_MS) for payload in one_of_each_kind()]
    taken = schedule.take([*drafts[:3], b"x" * 20], now_ms=NOW_MS)
    assert [draft.key for draft in taken] == sorted(draft.key for draft in taken)
    assert {draft.draft_id for draft in taken} == set(drafts[:3])
    assert {draft.draft_id for draft in schedule.due(NOW_MS, 10)} == set(drafts[3:])


def test_a_payload_no_storer_would_take_and_one_too_many_are_refused() -> None:
    schedule = make_schedule(drafts_max=1)
    for bad in (NamePayload("../x", CONTENT_ID, 1), PeerPayload("", (), CONTENT_ID, 1)):
        with pytest.raises(BadRecord):
            schedule.add(bad, now_ms=NOW_MS)
        with pytest.raises(BadRecord):
            schedule.withdraw(bad, now_ms=NOW_MS)
    schedule.add(NAME, now_ms=NOW_MS)
    schedule.add(NAME, now_ms=NOW_MS)
    with pytest.raises(ScheduleFull):
        schedule.add(ContentPayload(CONTENT_ID), now_ms=NOW_MS)


# --- clocks and restarts ------------------------------------------------------------------------


def test_a_clock_set_back_neither_lowers_sequences_nor_stops_publishing() -> None:
    schedule = make_schedule()
    draft_id = schedule.add(NAME, now_ms=NOW_MS)
    first = only(schedule.due(NOW_MS, 10))
    schedule.stored(draft_id, 1, now_ms=NOW_MS)
    back_ms = NOW_MS - 2 * DAY_MS
    draft = only(schedule.due(back_ms, 10))
    assert draft.sequence == first.sequence + 1
    assert draft.issued_ms == back_ms


def test_a_restart_republishes_only_what_is_due_and_goes_on_counting() -> None:
    schedule = make_schedule()
    done = schedule.add(NAME, now_ms=NOW_MS)
    schedule.add(ContentPayload(CONTENT_ID), now_ms=NOW_MS)
    gone = schedule.withdraw(MailPayload(BOB.peer_id), now_ms=NOW_MS)
    sequence = {draft.draft_id: draft.sequence for draft in schedule.due(NOW_MS, 10)}[done]
    schedule.stored(done, 2, now_ms=NOW_MS)
    schedule.failed(gone, now_ms=NOW_MS)
    again = make_schedule()
    assert again.load(schedule.rows()) == 3
    assert again.rows() == schedule.rows()
    assert again.take_changes().saved == ()
    drafts = again.due(NOW_MS + HOUR_MS, 10)
    assert done not in {draft.draft_id for draft in drafts}
    assert [draft.withdrawn for draft in drafts if draft.draft_id == gone] == [True]
    assert len(drafts) == 2
    late = {draft.draft_id: draft for draft in again.due(NOW_MS + DAY_MS, 10)}
    assert late[done].sequence > sequence


def test_damaged_rows_are_left_out() -> None:
    schedule = make_schedule()
    schedule.add(NAME, now_ms=NOW_MS)
    (good,) = schedule.rows()
    damaged = [
        ScheduleRow(good.draft_id, 9, good.payload, 1, NOW_MS, None, 0, False),
        ScheduleRow(good.draft_id, good.kind, b"\xc1", 1, NOW_MS, None, 0, False),
        ScheduleRow(b"x" * 20, good.kind, good.payload, 1, NOW_MS, None, 0, False),
        ScheduleRow(good.draft_id, good.kind, good.payload, -1, NOW_MS, None, 0, False),
    ]
    again = make_schedule()
    assert again.load([*damaged, good, good]) == 1
    assert again.rows() == [good]


def test_the_journal_of_forgotten_drafts_is_bounded() -> None:
    schedule = make_schedule(drafts_max=2)
    for number in range(5):
        draft_id = schedule.withdraw(ContentPayload(bytes([number]) * 32), now_ms=NOW_MS)
        schedule.stored(draft_id, 1, now_ms=NOW_MS)
    assert len(schedule.take_changes().deleted) == 2


# --- properties ---------------------------------------------------------------------------------

PAYLOADS = [ContentPayload(bytes([number]) * 32) for number in range(4)]
actions = st.lists(
    st.tuples(
        st.sampled_from(["add", "withdraw", "due", "stored", "failed", "stale", "reachable"]),
        st.integers(0, 3),
        st.integers(0, 30 * HOUR_MS),
    ),
    max_size=60,
)


@example([("add", 1, 0), ("failed", 1, 0), ("stale", 1, 0), ("stored", 1, 0)], random.Random(1))
@given(actions, st.randoms(use_true_random=False))
def test_sequences_only_grow_and_a_disk_that_follows_the_changes_equals_the_rows(
    steps: list[tuple[str, int, int]], rng: random.Random
) -> None:
    schedule = PublishSchedule(NETWORK_ID, ALICE.public_key, rng)
    disk: dict[bytes, ScheduleRow] = {}
    sequences: dict[bytes, int] = {}
    now_ms = NOW_MS
    for action, number, pause_ms in steps:
        now_ms += pause_ms
        draft_id = schedule.draft_id_of(PAYLOADS[number])
        match action:
            case "add":
                schedule.add(PAYLOADS[number], now_ms=now_ms)
            case "withdraw":
                schedule.withdraw(PAYLOADS[number], now_ms=now_ms)
            case "stored":
                schedule.stored(draft_id, number, now_ms=now_ms)
            case "failed":
                schedule.failed(draft_id, now_ms=now_ms)
            case "stale":
                schedule.stale(draft_id, now_ms + number, now_ms=now_ms)
            case "reachable":
                schedule.reachable(now_ms=now_ms)
            case _:
                due_ms = schedule.next_due_ms()
                drafts = schedule.due(now_ms, 2)
                assert not drafts or (due_ms is not None and due_ms <= now_ms)
                for draft in drafts:
                    assert draft.sequence > sequences.get(draft.draft_id, -1)
                    assert draft.issued_ms == now_ms < draft.expires_ms
                    sequences[draft.draft_id] = draft.sequence
        changes = schedule.take_changes()
        disk.update({row.draft_id: row for row in changes.saved})
        for gone in changes.deleted:
            disk.pop(gone, None)
            # A tombstone is out: what is added later starts from the clock, which has gone on.
            sequences.pop(gone, None)
        assert sorted(disk.values(), key=lambda row: row.draft_id) == sorted(
            schedule.rows(), key=lambda row: row.draft_id
        )


WORD = WordPayload("algebra", "Linear Algebra.pdf", CONTENT_ID, 7)


def test_a_word_without_room_goes_on_in_its_shard_and_is_tried_again_when_due() -> None:
    schedule = make_schedule()
    word = schedule.add(WORD, now_ms=NOW_MS)
    schedule.due(NOW_MS, 10)
    shard = schedule.add_shard(word, now_ms=NOW_MS, urgent=False)
    assert shard == schedule.draft_id_of(in_shard(WORD))
    schedule.stored(word, 0, now_ms=NOW_MS, has_shard=True)
    assert [draft.draft_id for draft in schedule.due(NOW_MS, 10)] == [shard]
    schedule.stored(shard, 3, now_ms=NOW_MS)
    assert schedule.due(NOW_MS + 9 * HOUR_MS, 10) == []
    again = {draft.draft_id for draft in schedule.due(NOW_MS + 14 * HOUR_MS, 10)}
    assert again == {word, shard}


def test_a_word_that_is_in_its_shard_is_sent_there_again_only_for_somebody_who_waits() -> None:
    schedule = make_schedule()
    word = schedule.add(WORD, now_ms=NOW_MS)
    shard = schedule.add_shard(word, now_ms=NOW_MS, urgent=False)
    assert shard is not None
    schedule.take([shard], now_ms=NOW_MS)
    schedule.stored(shard, 3, now_ms=NOW_MS)
    assert schedule.add_shard(word, now_ms=NOW_MS + 1, urgent=False) is None
    assert schedule.add_shard(word, now_ms=NOW_MS + 1, urgent=True) == shard


def test_shards_are_for_words_that_are_offered_and_only_once() -> None:
    schedule = make_schedule()
    name = schedule.add(NAME, now_ms=NOW_MS)
    sharded = schedule.add(in_shard(WORD), now_ms=NOW_MS)
    gone = schedule.withdraw(WORD, now_ms=NOW_MS)
    for draft_id in (name, sharded, gone, b"x" * 20):
        assert schedule.add_shard(draft_id, now_ms=NOW_MS, urgent=True) is None
    assert schedule.shards_of([WORD, NAME, in_shard(WORD)]) == [in_shard(WORD)]
    assert make_schedule().shards_of([WORD]) == []


def test_a_withdrawal_is_done_where_nobody_has_room_for_what_it_withdraws() -> None:
    schedule = make_schedule()
    draft_id = schedule.withdraw(WORD, now_ms=NOW_MS)
    schedule.take([draft_id], now_ms=NOW_MS)
    schedule.stored(draft_id, 0, now_ms=NOW_MS, has_shard=True)
    assert len(schedule) == 0


def test_drafts_of_some_kinds_are_listed_in_key_order_and_forgotten_with_their_drafts() -> None:
    schedule = make_schedule()
    payloads = [ContentPayload(bytes([number]) * 32) for number in range(40)]
    payloads += [MailPayload(bytes([number]) * 20) for number in range(3)]
    for payload in payloads:
        schedule.add(payload, now_ms=NOW_MS, expires_ms=NOW_MS + DAY_MS)
    in_order = schedule.payloads()
    for kind in (Kind.CONTENT, Kind.MAIL):
        assert schedule.payloads((kind,)) == [each for each in in_order if kind_of(each) is kind]
    assert len(schedule.leaving((Kind.CONTENT, Kind.MAIL))) == len(payloads)
    schedule.due(NOW_MS + DAY_MS, 100)
    assert schedule.payloads((Kind.MAIL,)) == schedule.payloads() == []
