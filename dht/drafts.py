"""Our own records on their way: drafts to sign, and their plans as rows on disk.

Owns the shapes that the publishing schedule hands out and takes back, and the settings of how
often. Must not know when anything is due: that is `dht.schedule`'s.
"""

from dataclasses import dataclass

import msgspec

from dht.records import DAY_MS, Payload, Record, encode_payload, kind_of, sign_record
from identity.keys import Identity


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """How often our records are published."""

    drafts_max: int = 200_000
    """Records of our own; more raise ScheduleFull."""
    republish_ms_max: int = 12 * 60 * 60 * 1000
    """Republish at half life, but no later: storers go long before 30 days are over."""
    jitter: float = 0.1
    """Spread of the republishing times, so that peers that joined together do not burst."""
    retry_ms: int = 5_000
    """The first retry after a failure; doubles each time."""
    retry_ms_max: int = 10 * 60 * 1000
    """The longest pause between retries."""
    in_flight_ms_max: int = 60_000
    """A draft without a report for so long is due again."""
    hold_ms: int = 600_000
    """A draft held for a long publish is due by itself after this."""
    stale_pause_ms: int = 60_000
    """A storer's claim of a newer sequence is heeded once in this time for each draft."""
    sequence_ahead_ms_max: int = 366 * DAY_MS
    """Claims further ahead of our clock are lies: they would use up the sequence numbers."""

    def __post_init__(self) -> None:
        assert 0 <= self.jitter < 0.5
        assert 0 < self.retry_ms <= self.retry_ms_max
        assert min(self.drafts_max, self.republish_ms_max, self.in_flight_ms_max) > 0

    @property
    def along_ms(self) -> int:
        """How much earlier than due a draft goes along with a sweep: as far as jitter spreads."""
        return int(2 * self.jitter * self.republish_ms_max)


@dataclass(frozen=True, slots=True)
class Draft:
    """One of our records, ready to be signed by `sign_draft`."""

    draft_id: bytes
    key: bytes
    payload: Payload
    sequence: int
    issued_ms: int
    expires_ms: int
    withdrawn: bool


class ScheduleRow(msgspec.Struct, frozen=True, array_like=True):
    """One draft as a shell persists it; `draft_id` is its row's key."""

    draft_id: bytes
    kind: int
    payload: bytes
    sequence: int
    due_ms: int
    until_ms: int | None
    failures: int
    withdrawn: bool
    issued_ms: int = 0


@dataclass(frozen=True, slots=True)
class ScheduleChanges:
    """Rows to put and rows to delete."""

    saved: tuple[ScheduleRow, ...]
    deleted: tuple[bytes, ...]


def sign_draft(identity: Identity, network_id: bytes, draft: Draft) -> Record:
    """Sign what `due` handed out."""
    return sign_record(
        identity,
        network_id,
        draft.payload,
        sequence=draft.sequence,
        issued_ms=draft.issued_ms,
        expires_ms=draft.expires_ms,
        withdrawn=draft.withdrawn,
    )


class Plan(msgspec.Struct, gc=False):
    """The state behind a draft; `until_ms` is a given expiry or the end of a withdrawal.

    Neither plans nor payloads are the garbage collector's business: it would go through hundreds
    of thousands of them, and keep the event loop for as long.
    """

    draft_id: bytes
    key: bytes
    payload: Payload
    sequence: int = 0
    due_ms: int = 0
    until_ms: int | None = None
    failures: int = 0
    withdrawn: bool = False
    stale_ms: int | None = None
    again: bool = False
    issued_ms: int = 0
    in_flight: bool = False


def is_over(plan: Plan, now_ms: int) -> bool:
    """Tell whether a draft has come to its given end."""
    return plan.until_ms is not None and plan.until_ms <= now_ms


def row_of(plan: Plan) -> ScheduleRow:
    """Give the row that a shell persists."""
    return ScheduleRow(
        plan.draft_id,
        kind_of(plan.payload),
        encode_payload(plan.payload),
        plan.sequence,
        plan.due_ms,
        plan.until_ms,
        plan.failures,
        plan.withdrawn,
        plan.issued_ms,
    )
