"""The peer's inbox: one letter, one file or folder, whichever way and wherever a crash falls."""

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
from peer.inbox import Inbox, LetterFile
from peer.received import ReceivedJournal
from peer.serving import Acceptance
from queueing.envelope import OuterManifest, open_letter, seal_file
from queueing.errors import Refused as LetterRefused
from tests.queueing.letters import NETWORK, NETWORK_ID
from tests.transfer.trees import make_folder, picture
from transfer.folder_source import FolderSource
from transfer.hashing import hash_file_blocking
from transfer.inbox import InboxFile, InboxFolder
from transfer.inbox_tree import InboxTree
from transfer.manifest import Manifest
from transfer.push import PushOffer
from transfer.tree_walk import HashedTree, hash_tree

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


@dataclass(frozen=True)
class Parcel:
    """What is sent: a file, or a folder as its stream."""

    path: Path
    manifest: Manifest
    stream: bytes
    tree: HashedTree | None = None

    @classmethod
    async def of_file(cls, folder: Path) -> Parcel:
        path = folder / "source"
        path.write_bytes(CONTENT)
        return cls(path, hash_file_blocking(path).manifest, CONTENT)

    @classmethod
    async def of_folder(cls, folder: Path) -> Parcel:
        path = make_folder(folder / "source", small=3, large=1)
        hashed = await hash_tree(path)
        source = FolderSource(path, hashed)
        stream = source.read(source.size_bytes)
        source.close()
        return cls(path, hashed.tree.manifest, stream, hashed)

    def content(self) -> FolderSource:
        assert self.tree is not None
        return FolderSource(self.path, self.tree)

    def arrived_at(self, path: Path) -> bool:
        if self.tree is not None:
            return picture(path) == picture(self.path)
        return path.read_bytes() == CONTENT


async def by_push(inbox: Inbox, parcel: Parcel) -> None:
    offer = PushOffer(SEAL_ID, NAME, parcel.manifest)
    accept = await inbox.offer(ADA, offer)
    try:
        if accept.committed_bytes < len(parcel.stream):
            await accept.sink.write(accept.committed_bytes, parcel.stream[accept.committed_bytes :])
        assert accept.sink.is_whole
        assert await accept.sink.finish() == b"receipt"
    finally:
        await accept.sink.close()


async def by_letter(inbox: Inbox, parcel: Parcel) -> None:
    file = await inbox.begin(open_letter(BOB, NETWORK_ID, sealed(parcel)))
    try:
        if file.committed_bytes < len(parcel.stream):
            await file.write(file.committed_bytes, parcel.stream[file.committed_bytes :])
        assert Path(await file.finish()).name == NAME
    finally:
        await file.abort()


def sealed(parcel: Parcel) -> OuterManifest:
    return seal_file(
        ADA, NETWORK_ID, BOB.peer_id, BOB.sealing_public_key,
        parcel.path if parcel.tree is None else parcel.content, NAME, parcel.manifest.content_id,
        len(parcel.stream), created_ms=1, expires_ms=10**12, seal_id=SEAL_ID,
        sink=lambda _index, _sealed: None, is_folder=parcel.tree is not None,
    )  # fmt: skip


WAYS: list[Callable[[Inbox, Parcel], Awaitable[None]]] = [by_push, by_letter]
KINDS: list[Callable[[Path], Awaitable[Parcel]]] = [Parcel.of_file, Parcel.of_folder]


def crash_before_naming(patch: pytest.MonkeyPatch) -> None:
    def crash(_file: InboxFile, _content_id: object) -> None:
        raise Crash

    patch.setattr(InboxFile, "_place", crash)
    patch.setattr(InboxTree, "_place", lambda _file: crash(_file, None))


def crash_before_journal(patch: pytest.MonkeyPatch) -> None:
    def crash(_journal: ReceivedJournal, **_values: object) -> None:
        raise Crash

    patch.setattr(ReceivedJournal, "add", crash)


def crash_after_journal(patch: pytest.MonkeyPatch) -> None:
    def crash(_file: InboxFile, _placed: Path) -> None:
        raise Crash

    patch.setattr(InboxFile, "_release", crash)
    patch.setattr(InboxTree, "_release", crash)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("second", WAYS)
@pytest.mark.parametrize(
    "crash_at", [crash_before_naming, crash_before_journal, crash_after_journal]
)
async def test_letter_that_comes_again_after_a_crash_is_taken_once(
    kind: Callable[[Path], Awaitable[Parcel]],
    first: Callable[[Inbox, Parcel], Awaitable[None]],
    second: Callable[[Inbox, Parcel], Awaitable[None]],
    crash_at: Callable[[pytest.MonkeyPatch], None],
    tmp_path: Path,
) -> None:
    parcel = await kind(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch)
        life = start(tmp_path)
        with pytest.raises(Crash):
            await first(life.inbox, parcel)
        life.end()

    life = start(tmp_path)
    await second(life.inbox, parcel)
    await first(life.inbox, parcel)

    assert [path.name for path in (tmp_path / "inbox").iterdir()] == [NAME]
    assert parcel.arrived_at(tmp_path / "inbox" / NAME)
    [row] = life.inbox.journal.all()
    assert (row.name, row.path) == (NAME, str(tmp_path / "inbox" / NAME))
    size = parcel.tree.tree.manifest.tree_bytes if parcel.tree else len(CONTENT)
    assert (row.size_bytes, row.files) == (size, 7 if parcel.tree else None)
    life.end()


async def test_what_a_person_does_with_a_finished_file_is_left_alone(tmp_path: Path) -> None:
    source = await Parcel.of_file(tmp_path)
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


async def test_letter_of_a_folder_that_does_not_verify_is_refused_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    parcel = await Parcel.of_folder(tmp_path)
    life = start(tmp_path)
    for stream, what in (
        (parcel.stream[:-1] + bytes([parcel.stream[-1] ^ 1]), "verify"),
        (parcel.stream[:-1], "incomplete"),
    ):
        file = await life.inbox.begin(open_letter(BOB, NETWORK_ID, sealed(parcel)))
        with pytest.raises(LetterRefused, match=what):
            await _write_and_finish(file, stream)
        await file.abort()
        assert list((tmp_path / "inbox").iterdir()) == []
    assert life.inbox.journal.all() == []
    life.end()


async def _write_and_finish(file: LetterFile, stream: bytes) -> None:
    await file.write(0, stream)
    await file.finish()
