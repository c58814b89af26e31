"""When this peer publishes its own records again.

Owns the drafts of our records: payload, sequence and due time. Pure: it is given the wall time in
milliseconds and a random.Random. It must not know storers, sockets, SQLite or our private key: a
shell signs what `due` hands out, sends it and reports what became of it.

Inputs: `add`, `withdraw`, `withdraw_all`, and a shell's reports `stored`, `failed`, `stale`,
`reachable`. Outputs: `due`, `next_due_ms`, `rows` and `take_changes` for a shell that persists.

States of a draft: waiting (until `due_ms`) → in flight (handed out; comes back by itself after
`in_flight_ms_max`, so that a lost report only delays) → waiting for its next republishing, or for a
retry. A withdrawn draft goes the same way and is forgotten once one other peer has its tombstone.

Invariants: one draft an identity; each hand-out has a higher sequence than all before it; a draft
that lives on is published again before the records that others keep have expired.
"""

import bisect
import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from dht.errors import BadRecord, ScheduleFull
from dht.records import (
    DAY_MS,
    INTEGER_MAX,
    LIFETIME_MS,
    Kind,
    Payload,
    Record,
    WordPayload,
    decode_payload,
    encode_payload,
    identifying,
    in_shard,
    key_of,
    kind_of,
    sign_record,
    sub_key_of,
)
from identity.encoding import length_prefixed
from identity.keys import Identity

DRAFT_ID_BYTES = 20
LEAVING_KINDS = (Kind.NAME, Kind.CONTENT, Kind.WORD, Kind.MAIL)
BACKOFF_DOUBLINGS_MAX = 16


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


@dataclass(frozen=True, slots=True)
class ScheduleChanges:
    """Rows to put and rows to delete."""

    saved: tuple[ScheduleRow, ...]
    deleted: tuple[bytes, ...]


@dataclass(slots=True)
class _Plan:
    """The state behind a draft; `until_ms` is a given expiry or the end of a withdrawal."""

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


class PublishSchedule:
    """Plan when each of our records is published; see the module for states and invariants."""

    def __init__(
        self,
        network_id: bytes,
        public_key: bytes,
        rng: random.Random,
        config: ScheduleConfig | None = None,
    ) -> None:
        self._network_id = network_id
        self._public_key = public_key
        self._rng = rng
        self._config = config or ScheduleConfig()
        self._plans: dict[bytes, _Plan] = {}
        # (key, draft id) in order: a sweep visits neighbouring keys, which have the same storers.
        self._order: list[tuple[bytes, bytes]] = []
        self._swept: tuple[bytes, bytes] = (b"", b"")
        self._next_due_ms: int | None = None
        self._changed: dict[bytes, None] = {}
        self._deleted: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._plans)

    def draft_id_of(self, payload: Payload) -> bytes:
        """Name the draft of a payload: a hash of its record's key, kind and sub-key."""
        key = key_of(self._network_id, payload, self._public_key)
        parts = length_prefixed(key, bytes([kind_of(payload)]), sub_key_of(payload))
        return hashlib.sha256(parts).digest()[:DRAFT_ID_BYTES]

    # --- what we want published -----------------------------------------------------------------

    def add(
        self,
        payload: Payload,
        *,
        now_ms: int,
        expires_ms: int | None = None,
        urgent: bool = True,
    ) -> bytes:
        """Plan a record and return its draft id; it replaces an older draft of the same identity.

        It is due now; when not `urgent`, an unchanged draft keeps its due time (after a restart).
        With `expires_ms` (a mail's expiry) it is not published beyond that. Raises BadRecord for a
        payload that no storer would take, and ScheduleFull.
        """
        decode_payload(kind_of(payload), encode_payload(payload))
        plan = self._plan_for(payload)
        same = plan.payload == payload and plan.until_ms == expires_ms and not plan.withdrawn
        if urgent or not same or plan.sequence == 0:
            plan.payload = payload
            plan.until_ms = expires_ms
            plan.withdrawn = False
            plan.failures = 0
            self._set_due(plan, now_ms)
        return plan.draft_id

    def withdraw(self, payload: Payload, *, now_ms: int) -> bytes:
        """Plan a tombstone, due now, even where no draft is known (a lost schedule)."""
        decode_payload(kind_of(payload), encode_payload(payload))
        plan = self._plan_for(payload)
        self._withdraw(plan, now_ms)
        return plan.draft_id

    def add_shard(self, draft_id: bytes, *, now_ms: int, urgent: bool) -> bytes | None:
        """Plan a word also under its shard, its own key having no room; return what is due there.

        None where it waits there already for its next publishing, unless this is `urgent`, and
        where there is no shard: the draft is no word, in its shard itself, or a withdrawal.
        """
        plan = self._plans.get(draft_id)
        if plan is None or plan.withdrawn or not isinstance(plan.payload, WordPayload):
            return None
        if plan.payload.shard:
            return None
        shard_id = self.add(
            in_shard(plan.payload), now_ms=now_ms, expires_ms=plan.until_ms, urgent=urgent
        )
        return shard_id if self._is_due(self._plans[shard_id].due_ms, now_ms) else None

    def shards_of(self, payloads: Iterable[Payload]) -> list[Payload]:
        """List the words among these payloads that are published under their shards, too."""
        sharded = [
            in_shard(each) for each in payloads if isinstance(each, WordPayload) and not each.shard
        ]
        return [each for each in sharded if self.draft_id_of(each) in self._plans]

    def withdraw_all(self, *, now_ms: int, kinds: Sequence[Kind] = LEAVING_KINDS) -> list[bytes]:
        """Plan tombstones for all drafts of these kinds and return their ids, in key order.

        `peer` records are left out by default: who is away must still be found and sent to. Publish
        one with a `here_until_ms` in the past instead.
        """
        leaving = [
            plan
            for plan in (self._plans[draft_id] for _, draft_id in self._order)
            if not plan.withdrawn and kind_of(plan.payload) in kinds
        ]
        for plan in leaving:
            self._withdraw(plan, now_ms)
        return [plan.draft_id for plan in leaving]

    def payloads(self) -> list[Payload]:
        """List what is published, withdrawals left out, in the order of keys."""
        plans = [self._plans[draft_id] for _, draft_id in self._order]
        return [plan.payload for plan in plans if not plan.withdrawn]

    def _plan_for(self, payload: Payload) -> _Plan:
        draft_id = self.draft_id_of(payload)
        plan = self._plans.get(draft_id)
        if plan is None:
            key = key_of(self._network_id, payload, self._public_key)
            plan = _Plan(draft_id, key, payload)
            self._insert(plan)
        return plan

    def _insert(self, plan: _Plan) -> None:
        if len(self._plans) >= self._config.drafts_max:
            raise ScheduleFull
        self._plans[plan.draft_id] = plan
        self._deleted.pop(plan.draft_id, None)
        bisect.insort(self._order, (plan.key, plan.draft_id))

    def _withdraw(self, plan: _Plan, now_ms: int) -> None:
        plan.until_ms = now_ms + LIFETIME_MS[kind_of(plan.payload)]
        plan.payload = identifying(plan.payload)
        plan.withdrawn = True
        plan.failures = 0
        self._set_due(plan, now_ms)

    def _set_due(self, plan: _Plan, due_ms: int) -> None:
        plan.due_ms = due_ms
        if self._next_due_ms is None or due_ms < self._next_due_ms:
            self._next_due_ms = due_ms
        self._changed[plan.draft_id] = None

    # --- what to publish now --------------------------------------------------------------------

    def next_due_ms(self) -> int | None:
        """Tell when `due` can have something, never later than it has; None without drafts."""
        return self._next_due_ms

    def due(self, now_ms: int, limit: int) -> list[Draft]:
        """Hand out at most `limit` due drafts in the order of their keys.

        Each counts as in flight until it is reported on. A sweep goes on where the last one
        stopped, so that failing drafts on low keys starve nobody.
        """
        if self._next_due_ms is None or not self._is_due(self._next_due_ms, now_ms):
            return []
        self._forget_ended(now_ms)
        start = bisect.bisect_right(self._order, self._swept)
        # Keys below the last one swept come in the next call: each call is one ordered run.
        drafts = self._take(self._order[start:], now_ms, limit)
        if not drafts:
            drafts = self._take(self._order[:start], now_ms, limit)
        self._next_due_ms = min((plan.due_ms for plan in self._plans.values()), default=None)
        return drafts

    def take(self, draft_ids: Iterable[bytes], *, now_ms: int) -> list[Draft]:
        """Hand out these drafts now, due or not, in key order: for a publish somebody waits on."""
        wanted = set(draft_ids)
        plans = [self._plans[draft_id] for _, draft_id in self._order if draft_id in wanted]
        return [self._hand_out(plan, now_ms) for plan in plans if not _is_over(plan, now_ms)]

    def _take(self, order: list[tuple[bytes, bytes]], now_ms: int, limit: int) -> list[Draft]:
        drafts: list[Draft] = []
        for place in order:
            if len(drafts) == limit:
                break
            plan = self._plans[place[1]]
            if self._is_due(plan.due_ms, now_ms):
                drafts.append(self._hand_out(plan, now_ms))
                self._swept = place
        return drafts

    def _is_due(self, due_ms: int, now_ms: int) -> bool:
        """Take a due time beyond anything we plan as due: it was set by a clock that was ahead."""
        return not now_ms < due_ms <= now_ms + 2 * self._config.republish_ms_max

    def _hand_out(self, plan: _Plan, now_ms: int) -> Draft:
        plan.sequence = min(max(now_ms, plan.sequence + 1), INTEGER_MAX)
        plan.again = False
        self._set_due(plan, now_ms + self._config.in_flight_ms_max)
        expires_ms = now_ms + LIFETIME_MS[kind_of(plan.payload)]
        if plan.until_ms is not None and not plan.withdrawn:
            expires_ms = min(expires_ms, plan.until_ms)
        return Draft(
            plan.draft_id,
            plan.key,
            plan.payload,
            plan.sequence,
            now_ms,
            expires_ms,
            plan.withdrawn,
        )

    def _forget_ended(self, now_ms: int) -> None:
        """Forget mail records past their expiry, and tombstones of what has expired by itself."""
        for plan in [plan for plan in self._plans.values() if _is_over(plan, now_ms)]:
            self._forget(plan)

    def _forget(self, plan: _Plan) -> None:
        del self._plans[plan.draft_id]
        del self._order[bisect.bisect_left(self._order, (plan.key, plan.draft_id))]
        self._changed.pop(plan.draft_id, None)
        self._deleted[plan.draft_id] = None
        if len(self._deleted) > self._config.drafts_max:
            # A row left on disk is only published or withdrawn once more after a restart.
            del self._deleted[next(iter(self._deleted))]

    # --- what became of it ----------------------------------------------------------------------

    def stored(
        self,
        draft_id: bytes,
        acks: int,
        *,
        now_ms: int,
        sequence: int | None = None,
        has_shard: bool = False,
    ) -> None:
        """Report how many other peers acknowledged a draft; none at all is a failure.

        Not so where `has_shard`: they have no room and the record is in its shard. It is tried
        again when it is next due, and a withdrawal is done: what they refused they do not have.
        With the draft's `sequence`, a report on an older one is ignored: it says nothing about the
        one that is on its way by now.
        """
        plan = self._plans.get(draft_id)
        if plan is None or (sequence is not None and sequence < plan.sequence):
            return
        if acks == 0 and not has_shard:
            self.failed(draft_id, now_ms=now_ms)
        elif plan.again:
            plan.failures = 0
            self._set_due(plan, now_ms)  # a storer has a newer one: again, above its sequence
        elif plan.withdrawn:
            self._forget(plan)
        else:
            plan.failures = 0
            half_life_ms = LIFETIME_MS[kind_of(plan.payload)] // 2
            pause_ms = min(half_life_ms, self._config.republish_ms_max)
            self._set_due(plan, now_ms + self._jittered(pause_ms))

    def failed(self, draft_id: bytes, *, now_ms: int) -> None:
        """Report that nobody stored a draft: it is retried, more and more rarely."""
        plan = self._plans.get(draft_id)
        if plan is None:
            return
        doublings = min(plan.failures, BACKOFF_DOUBLINGS_MAX)
        pause_ms = min(self._config.retry_ms << doublings, self._config.retry_ms_max)
        plan.failures += 1
        self._set_due(plan, now_ms + self._jittered(pause_ms))

    def stale(self, draft_id: bytes, sequence: int, *, now_ms: int) -> bool:
        """Report that a storer has a newer record of ours; True when the draft is due again.

        Call it before `stored`. The next sequence is above the claim. A claim beyond reason, or one
        soon after another, is ignored: a lying storer must not drive us.
        """
        plan = self._plans.get(draft_id)
        if plan is None or sequence > now_ms + self._config.sequence_ahead_ms_max:
            return False
        if plan.stale_ms is not None and now_ms < plan.stale_ms + self._config.stale_pause_ms:
            return False
        plan.stale_ms = now_ms
        plan.again = True
        plan.sequence = max(plan.sequence, sequence)
        self._set_due(plan, now_ms)
        return True

    def reachable(self, *, now_ms: int) -> None:
        """Report the first contact after being alone: what failed is due now."""
        for plan in self._plans.values():
            if plan.failures:
                plan.failures = 0
                self._set_due(plan, now_ms)

    def _jittered(self, pause_ms: int) -> int:
        spread = self._config.jitter
        return max(1, int(pause_ms * self._rng.uniform(1 - spread, 1 + spread)))

    # --- rows -----------------------------------------------------------------------------------

    def rows(self) -> list[ScheduleRow]:
        """Give out all drafts to be persisted, in the order of keys."""
        return [_row_of(self._plans[draft_id]) for _, draft_id in self._order]

    def take_changes(self) -> ScheduleChanges:
        """Give out what changed since the last call, once."""
        saved = tuple(_row_of(self._plans[draft_id]) for draft_id in self._changed)
        changes = ScheduleChanges(saved, tuple(self._deleted))
        self._changed.clear()
        self._deleted.clear()
        return changes

    def load(self, rows: Iterable[ScheduleRow]) -> int:
        """Take back persisted drafts and return how many were good; due times stay as they were."""
        loaded = 0
        for row in rows:
            plan = self._plan_of(row)
            if plan is None or plan.draft_id in self._plans:
                continue
            if len(self._plans) >= self._config.drafts_max:
                break
            self._insert(plan)
            self._set_due(plan, row.due_ms)
            del self._changed[plan.draft_id]
            loaded += 1
        return loaded

    def _plan_of(self, row: ScheduleRow) -> _Plan | None:
        try:
            payload = decode_payload(Kind(row.kind), row.payload)
        except (BadRecord, ValueError):
            return None
        if row.draft_id != self.draft_id_of(payload) or not 0 <= row.sequence <= INTEGER_MAX:
            return None
        return _Plan(
            draft_id=row.draft_id,
            key=key_of(self._network_id, payload, self._public_key),
            payload=payload,
            sequence=row.sequence,
            until_ms=row.until_ms,
            failures=max(0, row.failures),
            withdrawn=row.withdrawn,
        )


def _is_over(plan: _Plan, now_ms: int) -> bool:
    return plan.until_ms is not None and plan.until_ms <= now_ms


def _row_of(plan: _Plan) -> ScheduleRow:
    return ScheduleRow(
        plan.draft_id,
        kind_of(plan.payload),
        encode_payload(plan.payload),
        plan.sequence,
        plan.due_ms,
        plan.until_ms,
        plan.failures,
        plan.withdrawn,
    )
