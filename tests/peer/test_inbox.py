"""The peer's inbox: one letter, one file, whichever way it comes and wherever a crash falls."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from identity.keys import Identity
from peer.config import Config
from peer.contacts import Contacts
from peer.database import Database
from peer.inbox import Inbox
from peer.received import Received, ReceivedJournal
from peer.serving import Acceptance
from queueing.envelope import OuterManifest, open_letter, seal_file
from tests.queueing.letters import NETWORK, NETWORK_ID
from transfer.hashing import hash_file_blocking
from transfer.inbox import InboxFile, InboxFolder
from transfer.push import PushOffer

CONTENT = b"what was written " * 1000
NAME = "letter.txt"
SEAL_ID = secrets.token_bytes(16)
ADA, BOB = Identity.generate(), Identity.generate()


class Crash(BaseException):
    """The process ends here: nothing after it is done, nobody may catch it."""


class SigningReceipts:
    async def take_push(
        self, sender: bytes, seal_id: bytes, content_id: bytes, delivery_id: bytes
    ) -> bytes:
        return b"receipt"


@dataclass(frozen=True)
class Life:
    """One run of the process over the same home."""

    inbox: Inbox
    database: Database

    def end(self) -> None:
        self.database.close()


def start(home: Path) -> Life:

    database = Database(home / "shoal.db")
    inbox = Inbox(
        BOB.peer_id,
        Acceptance(Config(), NETWORK, Contacts(database)),
        InboxFolder(home / "inbox", 1 << 30, free_floor_bytes=0),
        ReceivedJournal(database),
        file_bytes_max=1 << 30,
        on_received=lambda _row: None,
    )
    inbox.receipts = SigningReceipts()
    return Life(inbox, database)


async def by_push(inbox: Inbox, source: Path) -> None:
    offer = PushOffer(SEAL_ID, NAME, hash_file_blocking(source).manifest)
    accept = await inbox.offer(ADA, offer)
    try:
        if accept.committed_bytes < len(CONTENT):
            await accept.sink.write(accept.committed_bytes, CONTENT[accept.committed_bytes :])
        assert await accept.sink.finish() == b"receipt"
    finally:
        await accept.sink.close()


async def by_letter(inbox: Inbox, source: Path) -> None:
    file = await inbox.begin(open_letter(BOB, NETWORK_ID, sealed(source)))
    try:
        if file.committed_bytes < len(CONTENT):
            await file.write(file.committed_bytes, CONTENT[file.committed_bytes :])
        assert Path(await file.finish()).name == NAME
    finally:
        await file.abort()


def sealed(source: Path) -> OuterManifest:
    content_id = hash_file_blocking(source).manifest.content_id
    return seal_file(
        ADA, NETWORK_ID, BOB.peer_id, BOB.sealing_public_key, source, NAME, content_id,
        len(CONTENT), created_ms=1, expires_ms=10**12, seal_id=SEAL_ID,
        sink=lambda _index, _sealed: None,
    )  # fmt: skip


WAYS: list[Callable[[Inbox, Path], Awaitable[None]]] = [by_push, by_letter]


def crash_before_naming(patch: pytest.MonkeyPatch) -> None:
    def crash(_file: InboxFile, _content_id: object) -> None:
        raise Crash

    patch.setattr(InboxFile, "_place", crash)


def crash_before_journal(patch: pytest.MonkeyPatch) -> None:
    def crash(_journal: ReceivedJournal, **_values: object) -> None:
        raise Crash

    patch.setattr(ReceivedJournal, "add", crash)


def crash_after_journal(patch: pytest.MonkeyPatch) -> None:
    def crash(_file: InboxFile, _placed: Path) -> None:
        raise Crash

    patch.setattr(InboxFile, "_release", crash)


@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("second", WAYS)
@pytest.mark.parametrize(
    "crash_at", [crash_before_naming, crash_before_journal, crash_after_journal]
)
async def test_letter_that_comes_again_after_a_crash_is_one_file(
    first: Callable[[Inbox, Path], Awaitable[None]],
    second: Callable[[Inbox, Path], Awaitable[None]],
    crash_at: Callable[[pytest.MonkeyPatch], None],
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch)
        life = start(tmp_path)
        with pytest.raises(Crash):
            await first(life.inbox, source)
        life.end()

    life = start(tmp_path)
    await second(life.inbox, source)
    await first(life.inbox, source)

    assert [path.name for path in (tmp_path / "inbox").iterdir()] == [NAME]
    assert (tmp_path / "inbox" / NAME).read_bytes() == CONTENT
    rows: list[Received] = life.inbox.journal.all()
    assert [(row.name, Path(row.path).name) for row in rows] == [(NAME, NAME)]
    life.end()


async def test_what_a_person_does_with_a_finished_file_is_left_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    with pytest.MonkeyPatch.context() as patch:
        crash_before_journal(patch)
        life = start(tmp_path)
        with pytest.raises(Crash):
            await by_letter(life.inbox, source)
        life.end()
    with (tmp_path / "inbox" / NAME).open("ab") as file:
        file.write(b"a note of mine")

    life = start(tmp_path)
    await by_letter(life.inbox, source)

    assert (tmp_path / "inbox" / NAME).read_bytes() == CONTENT + b"a note of mine"
    assert len(list((tmp_path / "inbox").iterdir())) == 1
    life.end()
