"""The caretaker: sees to it that hosts keep what they promised, and let go of what has ended.

Owns when which host is asked for proofs, what follows from the answers, and who is told of ends
and moves. Must not know where copies are placed anew (the courier has the mailbox store do it), nor
the DHT. Time and randomness are given.

- A host that answers is audited about every `audit_ms`: some chunks of what it promised, drawn at
  random, against the sealed copy in our spool. One call of a few hundred bytes.
- A wrong proof costs a host all that it keeps for us, and our trust for `shun_ms`; what it says
  itself to have lost costs it that delivery, and the same.
- A host that is silent is asked more often, and after `silent_max_ms` its copies count no more.
  While we reach nobody at all, nobody is silent.
- Ended deliveries are told to each host that ever had some of it, until it has heard or the
  delivery expires: this is how a host that was away at the receipt or the cancel drops its copy.
"""

import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

from identity.keys import Identity, show_peer_id
from queueing.audit import NONCE_BYTES, Answer, Challenge, Finding, judge, proof_of
from queueing.errors import BadEnvelope, BadReceipt, QueueError, Unavailable
from queueing.journal import Journal
from queueing.kept import KeptMail
from queueing.mailbox_client import Host, MailboxClient
from queueing.mailbox_wire import CHALLENGES_MAX, ENDED_MAX
from queueing.placements import HOSTS_PER_DELIVERY_MAX, WatchedHost
from queueing.receipt import check_promise, check_receipt, make_promise
from queueing.spool import Spool
from queueing.states import is_end

WRONG_PROOF = "gave a wrong proof of what it promised to keep"
LOST = "lost a delivery that it promised to keep"


class Locator(Protocol):
    """Finds where a peer is now."""

    async def locate(self, peer_id: bytes) -> Host | None:
        """Return where a host is now; None when nobody knows."""
        ...


@dataclass(frozen=True, slots=True)
class CaretakerConfig:
    """How often hosts are asked, and how long they are waited for."""

    copies_wanted: int = 3
    """As many as the mailbox store places."""
    audit_ms: int = 30 * 60 * 1000
    """Between two audits of one host, give or take a half."""
    silent_retry_ms: int = 5 * 60 * 1000
    """The same while it is silent."""
    silent_max_ms: int = 60 * 60 * 1000
    """A host that is silent for longer is one that went: its copies are placed anew."""
    shun_ms: int = 7 * 24 * 3600 * 1000
    """A host that broke a promise gets no deliveries for so long."""
    hosts_max: int = 16
    """Hosts audited in one round."""
    challenges_max: int = 8
    """Chunks asked for in one audit."""
    tell_base_ms: int = 15_000
    """First pause after a host could not be told of ends; doubles."""
    tell_max_ms: int = 30 * 60 * 1000

    def __post_init__(self) -> None:
        assert 0 < self.challenges_max <= CHALLENGES_MAX


@dataclass(frozen=True, slots=True)
class Copies:
    """The copies of one delivery whose keepers' promises stand."""

    held_by: tuple[str, ...]
    """Peer ids as shown."""
    are_short: bool
    """There should be more."""


@dataclass(slots=True)
class AuditResult:
    """What a round of audits came to."""

    lost: set[bytes] = field(default_factory=set)
    """Deliveries that have one copy less than was believed."""
    receipts: list[bytes] = field(default_factory=list)
    """What hosts gave instead of proofs; unchecked."""


class Caretaker:
    """Looks after copies of this peer's deliveries at their hosts."""

    def __init__(
        self,
        client: MailboxClient,
        locator: Locator,
        journal: Journal,
        spool: Spool,
        network_id: bytes,
        identity: Identity,
        *,
        wall_ms: Callable[[], int],
        is_connected: Callable[[], bool] = lambda: True,
        rng: random.Random | None = None,
        config: CaretakerConfig = CaretakerConfig(),
    ) -> None:
        self._client = client
        self._locator = locator
        self._journal = journal
        self._book = journal.placements
        self._spool = spool
        self._network_id = network_id
        self._identity = identity
        self._wall_ms = wall_ms
        self._is_connected = is_connected
        self._rng = rng or random.Random()
        self._config = config
        self.audits: dict[str, int] = {"passed": 0, "failed": 0, "unanswered": 0}
        """Challenges since the start, and calls that nobody answered."""

    async def audit(self) -> AuditResult:
        """Audit each host whose time has come."""
        result = AuditResult()
        now_ms = self._wall_ms()
        for watched in await self._book.watched(now_ms, self._config.hosts_max):
            if watched.next_audit_ms is None:  # new: asked at some time that it cannot know
                first_ms = now_ms + round(self._config.audit_ms * self._rng.random())
                await self._book.plan_audit(watched.host, first_ms)
                continue
            await self._audit_host(watched, result)
        return result

    async def copies(self, delivery_id: bytes) -> Copies:
        """Return who keeps a delivery, as far as is known."""
        keepers = await self._book.keepers(delivery_id)
        return Copies(
            tuple(show_peer_id(keeper) for keeper in keepers),
            are_short=len(keepers) < self._config.copies_wanted,
        )

    async def tell_ends(self) -> None:
        """Tell hosts of deliveries that have ended."""
        due = await self._book.to_tell(self._wall_ms())
        for host_id, of_host in groupby(due, key=lambda each: each.host):
            told = list(of_host)
            try:
                host = await self._locate(host_id)
                for start in range(0, len(told), ENDED_MAX):
                    ids = [each.delivery_id for each in told[start : start + ENDED_MAX]]
                    receipts = await self._receipts(ids)
                    await self._client.farewell(host, [(each, receipts[each]) for each in ids])
                    await self._book.told(host_id, ids)
            except QueueError:
                attempts = min(max(each.attempts for each in told), 16)
                pause_ms = min(self._config.tell_base_ms << attempts, self._config.tell_max_ms)
                await self._book.tell_later(host_id, self._wall_ms() + self._jittered(pause_ms))

    async def heed_move(self, host_id: bytes, delivery_id: bytes, signed: bytes) -> bool:
        """Take a host's word on who keeps a delivery of ours; whether that changed anything.

        Of the others' copies it changes nothing: a host speaks for its own. Another's promise is
        believed for its signature, as one of our own deposit, and audited as such.
        """
        row = await self._journal.get(delivery_id)
        if row is None:
            return False
        try:
            promise = check_promise(signed, self._network_id, delivery_id=delivery_id)
        except BadReceipt:
            return False
        too_short = promise.until_ms < row.expires_ms
        if too_short or promise.keeper_id in (self._identity.peer_id, row.recipient):
            return False
        if promise.keeper_id != host_id:
            await self._book.forget(delivery_id, host_id)
        hosts = await self._book.hosts_of(delivery_id)
        if promise.keeper_id in hosts or len(hosts) < HOSTS_PER_DELIVERY_MAX:
            await self._book.promise(delivery_id, promise.keeper_id, row.expires_ms, signed)
        return not is_end(row.state)

    async def tell_taken_over(self, sender: Host, kept: KeptMail) -> None:
        """Tell a sender that is there of deliveries that we took over from hosts that left."""
        while taken := await self._book.taken_over(sender.peer_id, ENDED_MAX):
            moved = [
                (
                    delivery_id,
                    make_promise(
                        self._identity,
                        self._network_id,
                        delivery_id=delivery_id,
                        made_ms=self._wall_ms(),
                        until_ms=expires_ms,
                    ),
                )
                for delivery_id, expires_ms in taken
                if await kept.manifest(delivery_id) is not None
            ]
            if moved:
                await self._client.moved(sender, moved)
            await self._book.sender_knows([delivery_id for delivery_id, _expires_ms in taken])

    async def is_back(self, peer_id: bytes) -> None:
        """Let a peer that shows itself be told and audited without waiting."""
        await self._book.is_back(peer_id)

    async def noted(self) -> Mapping[bytes, str]:
        """Return which hosts get no deliveries at present, and why."""
        return await self._book.noted(self._wall_ms())

    async def _audit_host(self, watched: WatchedHost, result: AuditResult) -> None:
        nonce = secrets.token_bytes(NONCE_BYTES)
        expected = await self._challenges(nonce, watched.host)
        challenges = list(expected)
        next_ms = self._wall_ms() + self._jittered(self._config.audit_ms)
        if not challenges:
            await self._book.plan_audit(watched.host, next_ms)
            return
        try:
            host = await self._locate(watched.host)
            answers = await self._client.audit(host, nonce, challenges)
        except BadEnvelope:
            answers = [Answer(proof=b"unreadable") for _each in challenges]
        except QueueError:
            await self._note_silence(watched, result)
            return
        await self._book.plan_audit(watched.host, next_ms)
        proven = []
        for challenge, answer in zip(challenges, answers, strict=True):
            match await self._finding(challenge, answer, expected[challenge]):
                case Finding.PROVEN:
                    proven.append(challenge.delivery_id)
                case Finding.SETTLED:
                    result.receipts.append(answer.receipt)
                    proven.append(challenge.delivery_id)
                case Finding.GONE:
                    await self._distrust(watched.host, LOST, challenge.delivery_id, result)
                case Finding.WRONG:
                    await self._distrust(watched.host, WRONG_PROOF, None, result)
        self.audits["passed"] += len(proven)
        await self._book.audited(watched.host, proven, self._wall_ms())

    async def _finding(self, challenge: Challenge, answer: Answer, expected: bytes) -> Finding:
        """Judge an answer; a receipt that the recipient did not sign is a wrong proof."""
        finding = judge(answer, expected)
        if finding is not Finding.SETTLED:
            return finding
        row = await self._journal.get(challenge.delivery_id)
        assert row is not None, "only deliveries of the outbox are audited, and rows stay long"
        try:
            check_receipt(
                answer.receipt,
                self._network_id,
                delivery_id=row.delivery_id,
                recipient_id=row.recipient,
            )
        except BadReceipt:
            return Finding.WRONG
        return finding

    async def _challenges(self, nonce: bytes, host_id: bytes) -> dict[Challenge, bytes]:
        """Draw chunks that a host must have; return what it must answer to each."""
        expected = {}
        for delivery_id in await self._book.least_audited(host_id, self._config.challenges_max):
            manifest = await self._spool.manifest(delivery_id)
            if manifest is None:  # it ended meanwhile
                continue
            index = self._rng.randrange(manifest.count)
            try:
                sealed = await self._spool.read(manifest, index)
            except BadEnvelope:  # our own copy is damaged: there is nothing to compare with
                continue
            expected[Challenge(delivery_id, index)] = proof_of(
                nonce, host_id, delivery_id, index, sealed
            )
        return expected

    async def _note_silence(self, watched: WatchedHost, result: AuditResult) -> None:
        self.audits["unanswered"] += 1
        config, now_ms = self._config, self._wall_ms()
        since_ms = watched.silent_since_ms or now_ms
        if not self._is_connected():
            since_ms = 0  # it is we who are away
        elif now_ms - since_ms >= config.silent_max_ms:
            result.lost.update(await self._book.strike(watched.host))
        pause_ms = min(config.silent_retry_ms, config.audit_ms)
        await self._book.plan_audit(
            watched.host, now_ms + self._jittered(pause_ms), silent_since_ms=since_ms
        )

    async def _distrust(
        self, host_id: bytes, note: str, delivery_id: bytes | None, result: AuditResult
    ) -> None:
        self.audits["failed"] += 1
        await self._book.note(host_id, note, self._wall_ms() + self._config.shun_ms)
        result.lost.update(await self._book.strike(host_id, delivery_id))

    async def _receipts(self, delivery_ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the receipt for each delivery; empty for one that was taken back."""
        found = {}
        for delivery_id in delivery_ids:
            receipts = await self._spool.receipts(self._identity.peer_id, [delivery_id])
            found[delivery_id] = receipts[0] if receipts else b""
        return found

    async def _locate(self, peer_id: bytes) -> Host:
        host = await self._locator.locate(peer_id)
        if host is None:
            raise Unavailable("nobody knows where the host is")
        return host

    def _jittered(self, pause_ms: int) -> int:
        return round(pause_ms * self._rng.uniform(0.5, 1.5))
