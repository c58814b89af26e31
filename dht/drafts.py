"""Our own records on their way: drafts to sign, and their plans as rows on disk.

Owns the shapes that the publishing schedule hands out and takes back, and the settings of how
often. Must not know when anything is due: that is `dht.schedule`'s.
"""

from dataclasses import dataclass

import msgspec

from dht.records import DAY_MS, Payload, Record, sign_record
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
