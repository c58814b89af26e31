"""Records of mail: published while something waits, withdrawn when nothing does any more."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from identity.keys import Identity
from peer import mail as mail_module
from peer.background import Background
from peer.config import Config, MailboxConfig
from peer.core import Core
from peer.inbox import Inbox
from peer.mail import Mail
from peer.received import ReceivedJournal
from peer.serving import Acceptance
from queueing.errors import MailboxFull
from queueing.journal import OutboxRow
from tests.peer.cores import address_of, cores_of
from tests.queueing.letters import HOUR_MS, seal
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


async def mail_of(core: Core, background: Background) -> Mail:
    inbox = Inbox(
        core.identity.peer_id,
        Acceptance(Config(), core.file.network, core.contacts),
        InboxFolder(core.home.inbox, 1 << 30),
        ReceivedJournal(core.database),
        file_bytes_max=1 << 30,
        on_received=lambda _row: None,
    )
    return await Mail.open(
        core,
        inbox,
        Acceptance(Config(), core.file.network, core.contacts),
        background,
        queue_url=None,
        keeps_mail=True,
        is_desk=False,
        on_change=lambda _row: None,
    )


@pytest.fixture
async def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Post, Core]]:
    monkeypatch.setattr(mail_module, "TIDY_AFTER_S", 0.01)
    monkeypatch.setattr(mail_module, "TIDY_S", 1.0)  # what is still being ended is looked at again
    async with cores_of(tmp_path / "homes", "ada", "bob") as [ada, bob]:
        background = Background()
        mail = await mail_of(ada, background)
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
    async with asyncio.timeout(30.0):
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


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("quota_bytes", "quota-bytes"),
        ("sender_quota_bytes", "sender-quota-bytes"),
        ("recipient_quota_bytes", "recipient-quota-bytes"),
        ("free_bytes_min", "free-bytes-min"),
    ],
)
async def test_each_quota_of_the_configuration_holds_and_is_told(
    tmp_path: Path, setting: str, told: str
) -> None:
    limit_bytes = 1 << 60 if setting == "free_bytes_min" else 6_000
    async with cores_of(tmp_path / "homes", "ada") as [ada]:
        ada.config = Config(mailbox=MailboxConfig(**{setting: limit_bytes}))
        mail = await mail_of(ada, Background())
        try:
            now_ms = ada.dht.now_ms()
            sender, network_id = Identity.generate(), ada.file.network.network_id
            deposits = [
                seal(sender, ABSENT, b"x", created_ms=now_ms, expires_ms=now_ms + HOUR_MS,
                     network_id=network_id)
                for _number in range(2)
            ]  # fmt: skip
            if setting != "free_bytes_min":  # the padding makes 4 KiB of each
                await mail._spool.deposit(*deposits[0])
            with pytest.raises(MailboxFull):
                await mail._spool.deposit(*deposits[1])
            figures = await mail.figures()
            assert figures[told] == limit_bytes
            assert figures["deliveries"] == (setting != "free_bytes_min")
        finally:
            await mail.close()
