"""Copies at hosts: proven, made up for where they went, let go of at the end. Real sockets."""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from queueing.audit import Answer
from queueing.caretaker import LOST, WRONG_PROOF
from queueing.journal import OutboxRow
from queueing.mailbox_service import MailboxService
from queueing.receipt import make_promise
from queueing.states import State
from tests.queueing.letters import HOUR_MS, NETWORK_ID, content_of, receipt_for
from tests.queueing.village import CARE, MINUTE_MS, Village, Villager


@dataclass
class Scene:
    """Alice sends to Bob, who is away; three hosts keep it, a fourth could."""

    village: Village
    alice: Villager
    bob: Villager
    hosts: list[Villager]
    spare: Villager

    async def pass_time(self, minutes: int, *, step: int = 5) -> None:
        """Let the sender's courier do its rounds meanwhile."""
        for _step in range(0, minutes, step):
            self.village.clock.now_ms += step * MINUTE_MS
            await self.alice.courier.tend()

    def host_of(self, name: str) -> Villager:
        return next(each for each in self.village.hosts if each.name == name)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as closing:
        village = Village(tmp_path, closing)
        hosts = [await village.host(f"host {n}") for n in range(3)]
        alice, bob = await village.settle("alice"), await village.settle("bob")
        await alice.start()
        spare = await village.settle("spare")
        yield Scene(village, alice, bob, hosts, spare)


async def _join(scene: Scene) -> None:
    """Let the spare host appear."""
    await scene.spare.start()
    scene.village.hosts.append(scene.spare)


async def test_hosts_that_keep_their_promise_are_audited_and_left_alone(scene: Scene) -> None:
    row = await scene.alice.send(scene.bob, content_of(1_300_000))
    await scene.pass_time(60)
    assert scene.alice.caretaker.audits["passed"] >= 9
    assert scene.alice.caretaker.audits["failed"] == 0
    assert set((await scene.alice.row(row)).held_by) == {each.name for each in scene.hosts}
    assert await scene.alice.caretaker.noted() == {}


async def test_an_hour_of_audits_costs_few_bytes_however_much_is_kept(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _number in range(20):
        await scene.alice.send(scene.bob)
    sent_bytes, calls, call = 0, 0, scene.alice.client._call

    async def counted(host, method, request, kind):
        nonlocal sent_bytes, calls
        reply = await call(host, method, request, kind)
        sent_bytes, calls = sent_bytes + request.ByteSize() + reply.ByteSize(), calls + 1
        return reply

    monkeypatch.setattr(scene.alice.client, "_call", counted)
    await scene.pass_time(60)
    per_host = HOUR_MS / CARE.audit_ms * 2  # the shortest pause is half of the usual one
    assert len(scene.hosts) <= calls <= len(scene.hosts) * per_host
    assert sent_bytes / calls < 800


async def test_a_host_that_lost_a_delivery_is_found_out_and_another_gets_it(scene: Scene) -> None:
    row = await scene.alice.send(scene.bob)
    scene.hosts[0].damage(row)
    await _join(scene)
    await scene.pass_time(30)
    held_by = set((await scene.alice.row(row)).held_by)
    assert held_by == {each.name for each in (*scene.hosts[1:], scene.spare)}
    assert await scene.spare.keeps(row)
    assert await scene.alice.caretaker.noted() == {scene.hosts[0].own.peer_id: LOST}


async def test_a_host_that_invents_a_proof_loses_all_that_it_keeps_and_gets_no_more(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await scene.alice.send(scene.bob), await scene.alice.send(scene.bob)
    liar = scene.hosts[0]
    _answers(monkeypatch, scene, liar, lambda _delivery_id: Answer(proof=secrets.token_bytes(32)))
    await _join(scene)
    await scene.pass_time(30)
    for row in (first, second, await scene.alice.send(scene.bob)):
        held_by = (await scene.alice.row(row)).held_by
        assert len(held_by) == 3
        assert liar.name not in held_by
    assert await scene.alice.caretaker.noted() == {liar.own.peer_id: WRONG_PROOF}
    scene.village.clock.now_ms += CARE.shun_ms
    assert await scene.alice.caretaker.noted() == {}


async def test_a_receipt_that_the_recipient_did_not_sign_is_a_wrong_proof(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await scene.alice.send(scene.bob)
    liar = scene.hosts[0]
    manifest = await liar.spool.manifest(row.delivery_id)
    assert manifest is not None
    forged = receipt_for(liar.own, manifest)
    _answers(monkeypatch, scene, liar, lambda _delivery_id: Answer(receipt=forged))
    await scene.pass_time(30)
    now = await scene.alice.row(row)
    assert (now.state, liar.name in now.held_by) == (State.STORED, False)


async def test_a_receipt_that_comes_instead_of_a_proof_ends_the_delivery(scene: Scene) -> None:
    row = await scene.alice.send(scene.bob)
    manifest = await scene.hosts[0].spool.manifest(row.delivery_id)
    assert manifest is not None
    await scene.hosts[0].spool.settle(row.delivery_id, receipt_for(scene.bob.own, manifest))
    await scene.pass_time(30)
    assert (await scene.alice.row(row)).state is State.DELIVERED
    assert [await each.keeps(row) for each in scene.hosts] == [False] * 3, "all were told"


async def test_a_silent_host_counts_until_it_has_been_silent_for_long(scene: Scene) -> None:
    row = await scene.alice.send(scene.bob)
    await scene.hosts[0].stop()
    await _join(scene)
    await scene.pass_time(40)
    assert scene.hosts[0].name in (await scene.alice.row(row)).held_by
    await scene.pass_time(60)
    held_by = set((await scene.alice.row(row)).held_by)
    assert held_by == {each.name for each in (*scene.hosts[1:], scene.spare)}
    assert await scene.alice.caretaker.noted() == {}, "to go is no breach"


async def test_while_we_reach_nobody_nobody_is_silent(scene: Scene) -> None:
    row = await scene.alice.send(scene.bob)
    await scene.hosts[0].stop()
    await _join(scene)
    scene.village.is_connected = False
    await scene.pass_time(240)
    assert scene.hosts[0].name in (await scene.alice.row(row)).held_by
    assert not await scene.spare.keeps(row)


async def test_with_no_keeper_left_it_is_spooled_until_somebody_takes_it(scene: Scene) -> None:
    row = await scene.alice.send(scene.bob)
    for each in scene.hosts:
        await each.stop()
    await scene.pass_time(120)
    now = await scene.alice.row(row)
    assert (now.state, now.held_by) == (State.SPOOLED, ())
    await _join(scene)
    await scene.alice.courier.retry(hurried=True)
    now = await scene.alice.row(row)
    assert (now.state, now.held_by) == (State.STORED, (scene.spare.name,))


async def test_copies_that_were_too_few_are_made_up_when_hosts_appear(scene: Scene) -> None:
    await scene.hosts[0].stop()
    row = await scene.alice.send(scene.bob)
    assert len(row.held_by) == 2
    await _join(scene)
    await scene.pass_time(35)
    assert len((await scene.alice.row(row)).held_by) == 3


async def test_claim_on_the_broker_is_named_beside_the_copies_that_are_counted_again(
    scene: Scene,
) -> None:
    row = await scene.alice.send(scene.bob)
    claimed = replace(row, held_by=(*row.held_by, "rabbitmq"))
    await scene.alice.journal.update(claimed, 0)
    await scene.alice.courier.recount(row.delivery_id)
    assert await scene.alice.row(row) == claimed
    await scene.hosts[0].stop()
    await _join(scene)
    await scene.pass_time(120)
    *keepers, last = (await scene.alice.row(row)).held_by
    assert set(keepers) == {each.name for each in (*scene.hosts[1:], scene.spare)}
    assert last == "rabbitmq"


async def test_a_host_that_was_away_at_the_receipt_drops_its_copy_when_it_is_back(
    scene: Scene,
) -> None:
    row = await scene.alice.send(scene.bob)
    away = scene.hosts[0]
    await away.stop()
    assert len((await scene.bob.courier.receive_all()).received) == 1
    await scene.alice.courier.poll_receipts()
    assert (await scene.alice.row(row)).state is State.DELIVERED
    await scene.alice.courier.tend()
    await away.start()
    assert await away.keeps(row)
    await scene.alice.caretaker.is_back(away.own.peer_id)
    await scene.alice.courier.tend()
    assert not await away.keeps(row)
    assert await scene.alice.journal.placements.hosts_of(row.delivery_id) == []
    assert len((await scene.bob.courier.receive_all()).received) == 0


async def test_a_cancel_reaches_a_host_that_was_away(scene: Scene) -> None:
    row = await scene.alice.send(scene.bob)
    away = scene.hosts[0]
    await away.stop()
    await scene.alice.courier.cancel(row.delivery_id)
    assert [await each.keeps(row) for each in scene.hosts] == [True, False, False]
    await scene.alice.courier.tend()
    await away.start()
    await scene.pass_time(60)
    assert not await away.keeps(row)
    assert (await scene.bob.courier.receive_all()).received == []


async def test_a_host_that_leaves_hands_over_and_the_sender_knows(scene: Scene) -> None:
    row = await scene.alice.send(scene.bob, content_of(700_000))
    await _join(scene)
    assert await scene.hosts[0].leave() == 1
    assert not await scene.hosts[0].keeps(row)
    held_by = set((await scene.alice.row(row)).held_by)
    assert held_by == {each.name for each in (*scene.hosts[1:], scene.spare)}
    for each in scene.hosts[1:]:
        await each.stop()
    assert len((await scene.bob.courier.receive_all()).received) == 1, "from the heir alone"


async def test_a_sender_that_was_away_hears_of_the_move_from_the_heir(scene: Scene) -> None:
    row = await scene.alice.send(scene.bob)
    await scene.alice.stop()
    await _join(scene)
    assert await scene.hosts[0].leave() == 1
    assert scene.spare.name not in (await scene.alice.row(row)).held_by
    await scene.alice.start()
    await scene.spare.caretaker.tell_taken_over(scene.alice.host, scene.spare.spool)
    assert scene.spare.name in (await scene.alice.row(row)).held_by
    assert await scene.spare.journal.placements.taken_over(scene.alice.own.peer_id, 9) == []


async def test_nothing_is_handed_to_hosts_that_have_it(scene: Scene) -> None:
    row = await scene.alice.send(scene.bob)
    assert await scene.hosts[0].leave() == 0
    assert await scene.hosts[0].keeps(row), "to hand it over would cost a copy"


async def test_a_move_is_believed_for_ones_own_copy_and_a_signed_promise_only(
    scene: Scene,
) -> None:
    row = await scene.alice.send(scene.bob)
    eve, victim = scene.spare, scene.hosts[0]
    until_ms = row.expires_ms

    def promise(signer: Villager, delivery_id: bytes = row.delivery_id, less_ms: int = 0) -> bytes:
        return make_promise(
            signer.own, NETWORK_ID, delivery_id=delivery_id, made_ms=1, until_ms=until_ms - less_ms
        )

    good = promise(eve)
    for bad in (b"", good[:-1] + bytes([good[-1] ^ 1]), promise(eve, less_ms=1),
                promise(eve, bytes(32)), promise(scene.bob), promise(scene.alice)):  # fmt: skip
        assert not await scene.alice.caretaker.heed_move(victim.own.peer_id, row.delivery_id, bad)
    assert not await scene.alice.caretaker.heed_move(eve.own.peer_id, bytes(32), promise(eve))
    before = await scene.alice.journal.placements.keepers(row.delivery_id)
    assert set(before) == {each.own.peer_id for each in scene.hosts}
    # Eve says that she has it: that strikes nobody off, and she is audited as everybody else.
    assert await scene.alice.caretaker.heed_move(eve.own.peer_id, row.delivery_id, good)
    await _join(scene)
    await scene.pass_time(60)
    assert set((await scene.alice.row(row)).held_by) == {each.name for each in scene.hosts}


async def test_the_crash_of_a_sender_between_promise_and_journal_costs_no_second_copy(
    scene: Scene,
) -> None:
    row = await scene.alice.send(scene.bob)
    manifest = await scene.alice.spool.manifest(row.delivery_id)
    assert manifest is not None
    await _join(scene)
    kept = await scene.alice.store.deposit(manifest, scene.alice.spool.source(manifest))
    assert kept.held_by == row.held_by
    assert not await scene.spare.keeps(row)


def _answers(monkeypatch, scene: Scene, liar: Villager, answer) -> None:
    """Have a host answer each challenge as it likes."""
    prove = MailboxService._prove

    async def lie(self, caller, nonce, challenge):
        made = await prove(self, caller, nonce, challenge)
        if self._identity is not liar.own:
            return made
        made.Clear()
        lied = answer(challenge.delivery_id)
        if lied.receipt:
            made.receipt = lied.receipt
        else:
            made.proof = lied.proof
        return made

    monkeypatch.setattr(MailboxService, "_prove", lie)


async def test_deliveries_known_to_an_older_version_are_placed_and_audited(
    scene: Scene, tmp_path: Path
) -> None:
    """Its placements held no promise: they are asked for again, and nothing is sent twice."""
    row: OutboxRow = await scene.alice.send(scene.bob)
    for each in scene.hosts:
        await scene.alice.journal.placements.strike(each.own.peer_id)
    await scene.alice.courier.recount(row.delivery_id)
    now = await scene.alice.row(row)
    assert (now.state, set(now.held_by)) == (State.STORED, {each.name for each in scene.hosts})
