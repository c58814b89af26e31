"""When this peer publishes its own records again.

Owns the drafts of our records: payload, sequence and due time. Pure: it is given the wall time in
milliseconds and a random.Random. It must not know storers, sockets, SQLite or our private key: a
shell signs what `due` hands out, sends it and reports what became of it.

Inputs: `add`, `withdraw`, `withdraw_drafts`, and a shell's reports `stored`, `failed`, `stale`,
`lost`, `reachable`. Outputs: `due`, `take`, `next_due_ms`; `rows` and `take_changes` for a shell
that persists.

States of a draft: waiting (until `due_ms`) → in flight (handed out; comes back by itself after
`in_flight_ms_max`, so that a lost report only delays) → waiting for its next republishing, or for a
retry. A withdrawn draft goes the same way and is forgotten once one other peer has its tombstone.

When anything is due, what is due soon goes along: neighbouring keys have the same storers, so that
one long sweep costs far fewer calls than many short ones.

Invariants: one draft an identity; each hand-out has a higher sequence than all before it; a draft
that lives on is published again before the records that others keep have expired; a tombstone
expires no earlier than anything that was published before it, whatever our clock did meanwhile.
"""

import bisect
import hashlib
import itertools
import random
from collections.abc import Iterable, Sequence

from dht.drafts import (
    Draft,
    Plan,
    ScheduleChanges,
    ScheduleConfig,
    ScheduleRow,
    is_over,
    row_of,
    sign_draft,
)
from dht.due import DueTimes
from dht.errors import BadRecord, ScheduleFull
from dht.records import (
    CLOCK_AHEAD_MAX_MS,
    INTEGER_MAX,
    LIFETIME_MS,
    Kind,
    Payload,
    WordPayload,
    decode_payload,
    encode_payload,
    identifying,
    in_shard,
    key_of,
    kind_of,
    sub_key_of,
)
from identity.encoding import length_prefixed

__all__ = [
    "Draft",
    "PublishSchedule",
    "ScheduleChanges",
    "ScheduleConfig",
    "ScheduleRow",
    "sign_draft",
]

DRAFT_ID_BYTES = 20
LEAVING_KINDS = (Kind.NAME, Kind.CONTENT, Kind.WORD, Kind.MAIL)
BACKOFF_DOUBLINGS_MAX = 16
ENDS_MAX = 256
"""Drafts that one call forgets at their end; the next one goes on."""
LOOK_MAX = 2_048
"""Drafts that one call looks through for due ones, so that it takes some milliseconds."""
SORTED_SHARE = 8
"""Up to this fraction of all drafts, sorting those wanted is cheaper than going through all."""


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
        self._plans: dict[bytes, Plan] = {}
        self._by_kind: dict[Kind, set[bytes]] = {kind: set() for kind in Kind}
        # (key, draft id) in order: a sweep visits neighbouring keys, which have the same storers.
        self._order: list[tuple[bytes, bytes]] = []
        self._swept: tuple[bytes, bytes] = (b"", b"")
        self._due = DueTimes()
        self._ends = DueTimes()
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
            self._set_end(plan, expires_ms)
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

    def leaving(self, kinds: Sequence[Kind] = LEAVING_KINDS) -> list[bytes]:
        """List the drafts of these kinds that are not withdrawn yet, in key order.

        `peer` records are left out by default: who is away must still be found and sent to. Publish
        one with a `here_until_ms` in the past instead.
        """
        return [plan.draft_id for plan in self._of_kinds(kinds) if not plan.withdrawn]

    def withdraw_drafts(self, draft_ids: Iterable[bytes], *, now_ms: int) -> None:
        """Plan tombstones for these drafts; unknown ones are ignored."""
        for draft_id in draft_ids:
            plan = self._plans.get(draft_id)
            if plan is not None and not plan.withdrawn:
                self._withdraw(plan, now_ms)

    def payloads(self, kinds: Sequence[Kind] = tuple(Kind)) -> list[Payload]:
        """List what is published, withdrawals left out, in the order of keys."""
        return [plan.payload for plan in self._of_kinds(kinds) if not plan.withdrawn]

    def _of_kinds(self, kinds: Sequence[Kind]) -> list[Plan]:
        """List the drafts of these kinds in key order, without a look at the payloads of others."""
        if len(kinds) == len(self._by_kind):
            return [self._plans[draft_id] for _, draft_id in self._order]
        wanted = set[bytes]().union(*(self._by_kind[kind] for kind in kinds))
        return [self._plans[draft_id] for draft_id in self.in_order(wanted)]

    def _plan_for(self, payload: Payload) -> Plan:
        draft_id = self.draft_id_of(payload)
        plan = self._plans.get(draft_id)
        if plan is None:
            key = key_of(self._network_id, payload, self._public_key)
            plan = Plan(draft_id, key, payload)
            self._insert(plan)
        return plan

    def _insert(self, plan: Plan) -> None:
        if len(self._plans) >= self._config.drafts_max:
            raise ScheduleFull
        self._plans[plan.draft_id] = plan
        self._by_kind[kind_of(plan.payload)].add(plan.draft_id)
        self._deleted.pop(plan.draft_id, None)
        bisect.insort(self._order, (plan.key, plan.draft_id))

    def _withdraw(self, plan: Plan, now_ms: int) -> None:
        self._set_end(plan, now_ms + LIFETIME_MS[kind_of(plan.payload)])
        plan.payload = identifying(plan.payload)
        plan.withdrawn = True
        plan.failures = 0
        self._set_due(plan, now_ms)

    def _set_due(self, plan: Plan, due_ms: int) -> None:
        plan.due_ms = due_ms
        plan.in_flight = False
        self._changed[plan.draft_id] = None
        self._due.set(plan.draft_id, due_ms)

    def _set_end(self, plan: Plan, until_ms: int | None) -> None:
        plan.until_ms = until_ms
        if until_ms is None:
            self._ends.drop(plan.draft_id)
        else:
            self._ends.set(plan.draft_id, until_ms)

    # --- what to publish now --------------------------------------------------------------------

    def next_due_ms(self) -> int | None:
        """Tell when `due` can have something, never later than it has; None without drafts."""
        return self._due.earliest()

    def due(self, now_ms: int, limit: int) -> list[Draft]:
        """Hand out at most `limit` due drafts, and what goes along, in the order of their keys.

        Each counts as in flight until it is reported on. A sweep goes on where the last one
        stopped, so that failing drafts on low keys starve nobody.
        """
        self._forget_ended(now_ms)
        if not self.has_due(now_ms):
            return []
        start = bisect.bisect_right(self._order, self._swept)
        # Keys below the last one swept come in the next call: each call is one ordered run.
        drafts = self._take(range(start, len(self._order)), now_ms, limit)
        if drafts or len(self._order) - start > LOOK_MAX:
            return drafts
        self._swept = (b"", b"")
        return self._take(range(start), now_ms, limit)

    def has_due(self, now_ms: int) -> bool:
        """Tell whether something is due, though `due` may have to be called again to find it."""
        next_ms = self.next_due_ms()
        return next_ms is not None and self._is_due(next_ms, now_ms)

    def hold(self, draft_ids: Iterable[bytes], *, now_ms: int) -> None:
        """Leave drafts to whoever is about to `take` them: no sweep hands them out meanwhile."""
        for draft_id in draft_ids:
            plan = self._plans.get(draft_id)
            if plan is not None:
                self._set_due(plan, now_ms + self._config.hold_ms)
                plan.in_flight = True

    def key_of(self, draft_id: bytes) -> bytes | None:
        """Return the key of a draft, None for an unknown one."""
        plan = self._plans.get(draft_id)
        return None if plan is None else plan.key

    def take(self, draft_ids: Iterable[bytes], *, now_ms: int) -> list[Draft]:
        """Hand out these drafts now, due or not, in key order: for a publish somebody waits on."""
        plans = [self._plans[draft_id] for draft_id in self.in_order(draft_ids)]
        return [self._hand_out(plan, now_ms) for plan in plans if not is_over(plan, now_ms)]

    def in_order(self, draft_ids: Iterable[bytes]) -> list[bytes]:
        """Return the known ones of these drafts in the order of their keys, each once."""
        wanted = {draft_id for draft_id in draft_ids if draft_id in self._plans}
        if len(wanted) * SORTED_SHARE > len(self._order):
            return [draft_id for _, draft_id in self._order if draft_id in wanted]
        return [
            draft_id for _, draft_id in sorted((self._plans[each].key, each) for each in wanted)
        ]

    def _take(self, places: range, now_ms: int, limit: int) -> list[Draft]:
        drafts: list[Draft] = []
        for number in places[:LOOK_MAX]:
            if len(drafts) == limit:
                break
            place = self._order[number]
            plan = self._plans[place[1]]
            if self._is_due(plan.due_ms, now_ms) or self._goes_along(plan, now_ms):
                drafts.append(self._hand_out(plan, now_ms))
            self._swept = place
        return drafts

    def _goes_along(self, plan: Plan, now_ms: int) -> bool:
        """Take along what was stored and is to be republished soon; retries keep their pauses."""
        soon = plan.due_ms <= now_ms + self._config.along_ms
        return soon and not plan.in_flight and not plan.failures

    def _is_due(self, due_ms: int, now_ms: int) -> bool:
        """Take a due time beyond anything we plan as due: it was set by a clock that was ahead."""
        return not now_ms < due_ms <= now_ms + 2 * self._config.republish_ms_max

    def _hand_out(self, plan: Plan, now_ms: int) -> Draft:
        plan.sequence = min(max(now_ms, plan.sequence + 1), INTEGER_MAX)
        plan.again = False
        self._set_due(plan, now_ms + self._config.in_flight_ms_max)
        plan.in_flight = True
        issued_ms = now_ms
        if plan.withdrawn:  # else it would expire before a record issued by a clock that was ahead
            issued_ms = max(now_ms, min(plan.issued_ms, now_ms + CLOCK_AHEAD_MAX_MS))
        plan.issued_ms = max(plan.issued_ms, issued_ms)
        expires_ms = issued_ms + LIFETIME_MS[kind_of(plan.payload)]
        if plan.until_ms is not None and not plan.withdrawn:
            expires_ms = min(expires_ms, plan.until_ms)
        return Draft(
            plan.draft_id,
            plan.key,
            plan.payload,
            plan.sequence,
            issued_ms,
            expires_ms,
            plan.withdrawn,
        )

    def _forget_ended(self, now_ms: int) -> None:
        """Forget mail records past their expiry, and tombstones of what has expired by itself."""
        for draft_id in self._ends.over(now_ms, ENDS_MAX):
            self._forget(self._plans[draft_id])

    def _forget(self, plan: Plan) -> None:
        del self._plans[plan.draft_id]
        self._by_kind[kind_of(plan.payload)].discard(plan.draft_id)
        self._due.drop(plan.draft_id)
        self._ends.drop(plan.draft_id)
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
        busy: bool = False,
    ) -> None:
        """Report how many other peers acknowledged a draft; none at all is a failure.

        Not so where `has_shard`: they have no room and the record is in its shard. It is tried
        again when it is next due, and a withdrawal is done: what they refused they do not have.
        A failure it is, too, where a storer was too `busy` for it.
        With the draft's `sequence`, a report on an older one is ignored: it says nothing about the
        one that is on its way by now.
        """
        plan = self._plans.get(draft_id)
        if plan is None or (sequence is not None and sequence < plan.sequence):
            return
        if (acks == 0 and not has_shard) or (busy and not plan.again):
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

    def lost(self, draft_id: bytes, *, now_ms: int) -> None:
        """Report that a storer does not have what it acknowledged: it is published again now."""
        plan = self._plans.get(draft_id)
        if plan is not None:
            self._set_due(plan, now_ms)

    def sequence_of(self, draft_id: bytes) -> int:
        """Return the sequence with which a draft was handed out last."""
        plan = self._plans.get(draft_id)
        return 0 if plan is None else plan.sequence

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
        return [row_of(self._plans[draft_id]) for _, draft_id in self._order]

    def take_changes(self, limit: int | None = None) -> ScheduleChanges:
        """Give out what changed since the last calls, once; `limit` rows of each kind at most."""
        changed = list(itertools.islice(self._changed, limit))
        deleted = tuple(itertools.islice(self._deleted, limit))
        for draft_id in changed:
            del self._changed[draft_id]
        for draft_id in deleted:
            del self._deleted[draft_id]
        return ScheduleChanges(tuple(row_of(self._plans[each]) for each in changed), deleted)

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
            self._set_end(plan, row.until_ms)
            self._set_due(plan, row.due_ms)
            del self._changed[plan.draft_id]
            loaded += 1
        return loaded

    def _plan_of(self, row: ScheduleRow) -> Plan | None:
        try:
            payload = decode_payload(Kind(row.kind), row.payload)
        except (BadRecord, ValueError):
            return None
        if row.draft_id != self.draft_id_of(payload) or not 0 <= row.sequence <= INTEGER_MAX:
            return None
        return Plan(
            draft_id=row.draft_id,
            key=key_of(self._network_id, payload, self._public_key),
            payload=payload,
            sequence=row.sequence,
            failures=max(0, row.failures),
            withdrawn=row.withdrawn,
            issued_ms=min(max(0, row.issued_ms), INTEGER_MAX),
        )
