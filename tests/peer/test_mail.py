"""Records of mail: published while something waits, withdrawn when nothing does any more."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from identity.keys import Identity
from peer import mail as mail_module
from peer.background import Background
from peer.config import Config
from peer.core import Core
from peer.inbox import Inbox
from peer.mail import Mail
from peer.received import ReceivedJournal
from peer.serving import Acceptance
from queueing.journal import OutboxRow
from tests.peer.cores import address_of, cores_of
from transfer.hashing import hash_file_blocking
from transfer.inbox import InboxFolder

ABSENT = Identity.generate()


class Post:
    """A core with its mail."""

    def __init__(self, core: Core, mail: Mail) -> None:
        self.core = core
        self.mail = mail

    async def send(self, path: Path) -> OutboxRow:
        hashed = hash_file_blocking(path)
        sent = await self.mail.courier.send(
            path,
            name=path.name,
            content_id=hashed.manifest.content_id,
            size=hashed.manifest.size_bytes,
            recipient=ABSENT.peer_id,
            recipient_sealing_key=ABSENT.sealing_public_key,
            expires_ms=self.core.dht.now_ms() + 3_600_000,
            only=(),
        )
        self.mail.lies_here(ABSENT.peer_id, sent.row.expires_ms)
        return sent.row


@pytest.fixture
async def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Post, Core]]:
    monkeypatch.setattr(mail_module, "TIDY_AFTER_S", 0.01)
    async with cores_of(tmp_path / "homes", "ada", "bob") as [ada, bob]:
        background = Background()
        acceptance = Acceptance(Config(), ada.file.network, ada.contacts)
        inbox = Inbox(
            ada.identity.peer_id,
            acceptance,
            InboxFolder(ada.home.inbox, 1 << 30),
            ReceivedJournal(ada.database),
            file_bytes_max=1 << 30,
            on_received=lambda _row: None,
        )
        mail = await Mail.open(
            ada,
            inbox,
            acceptance,
            background,
            queue_url=None,
            keeps_mail=True,
            on_change=lambda _row: None,
        )
        mail.advertise([address_of(ada)])
        running = asyncio.create_task(mail.run())
        yield Post(ada, mail), bob
        running.cancel()
        await asyncio.wait([running])
        await background.close()
        await mail.close()


async def hosts_seen_by(core: Core) -> list[bytes]:
    return [found.publisher for found in await core.dht.find_mail(ABSENT.peer_id)]


async def until_seen(core: Core, hosts: list[bytes]) -> None:
    async with asyncio.timeout(10.0):
        while await hosts_seen_by(core) != hosts:
            pass  # each look takes a round trip


async def test_mail_record_stands_until_the_last_delivery_has_ended(
    pair: tuple[Post, Core], tmp_path: Path
) -> None:
    ada, bob = pair
    path = tmp_path / "letter.txt"
    path.write_bytes(b"for you")
    first, second = await ada.send(path), await ada.send(path)
    await until_seen(bob, [ada.core.identity.peer_id])
    await ada.mail.courier.cancel(first.delivery_id)
    await ada.mail._withdraw_idle()
    assert await hosts_seen_by(bob) == [ada.core.identity.peer_id]
    await ada.mail.courier.cancel(second.delivery_id)
    await until_seen(bob, [])


async def test_record_of_mail_that_ended_while_nobody_looked_is_withdrawn_in_time(
    pair: tuple[Post, Core], tmp_path: Path
) -> None:
    ada, bob = pair
    path = tmp_path / "letter.txt"
    path.write_bytes(b"for you")
    row = await ada.send(path)
    await until_seen(bob, [ada.core.identity.peer_id])
    await ada.mail._spool.drop(row.delivery_id)  # as a recipient's settlement does
    await ada.mail._withdraw_idle()
    assert await hosts_seen_by(bob) == []
    again = await ada.send(path)
    await until_seen(bob, [ada.core.identity.peer_id])
    assert again.delivery_id != row.delivery_id


async def test_mail_that_comes_while_records_are_compared_keeps_its_record(
    pair: tuple[Post, Core], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob = pair
    path = tmp_path / "letter.txt"
    path.write_bytes(b"for you")
    row = await ada.send(path)
    await until_seen(bob, [ada.core.identity.peer_id])
    await ada.mail._spool.drop(row.delivery_id)
    recipients = ada.mail._spool.recipients

    async def look_away() -> dict[bytes, int]:
        found = await recipients()
        new = await ada.send(path)
        await ada.mail._announce(ABSENT.peer_id, new.expires_ms)
        return found

    monkeypatch.setattr(ada.mail._spool, "recipients", look_away)
    await ada.mail._withdraw_idle()
    assert await hosts_seen_by(bob) == [ada.core.identity.peer_id]
