"""The peer's inbox: letters become files and folders here, whichever way they come.

Owns the order acceptance, quota, file, journal for a push and for a sealed letter alike, as the
Inbox that transfer asks for and the InboxSink that queueing asks for. A letter is named by
(sender, seal id): the partial file, the journal's row and the receipt all hang on that name, so
that a push that broke off and the same letter out of a mailbox end in one file.

The order is: file or folder durable, named and marked -> journal -> mark taken away. A crash
between any two is made good when the letter comes again, as it does until it is acknowledged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from identity.encoding import length_prefixed
from peer.received import Received, ReceivedJournal
from peer.serving import Acceptance
from queueing.envelope import Letter
from queueing.errors import MailboxFull, QueueError
from queueing.errors import Refused as LetterRefused
from queueing.receiver import push_delivery_id
from transfer.errors import (
    BadContent,
    BadManifest,
    DiskFull,
    QuotaFull,
    Refused,
    TransferError,
    UnsafeName,
)
from transfer.inbox import InboxFile, InboxFolder
from transfer.inbox_tree import WHOLE, InboxTree
from transfer.manifest import Manifest
from transfer.push import Accept, Caller, PushOffer


@dataclasses.dataclass(frozen=True, slots=True)
class Arrival:
    """A letter in arrival, whichever way it comes."""

    sender: bytes
    seal_id: bytes
    delivery_id: bytes
    name: str
    size_bytes: int
    """Of a folder what is known before its listing is there; of a file all."""
    content_id: bytes
    is_folder: bool

    @property
    def key(self) -> bytes:
        """The name of its partial file or folder: one letter with one content, one of them."""
        kind = (b"folder",) if self.is_folder else ()
        return length_prefixed(self.sender, self.seal_id, self.content_id, *kind)


class PushReceipts(Protocol):
    """Journals a pushed file that is durable, and signs its receipt (queueing's Receiver)."""

    async def take_push(
        self, sender: bytes, seal_id: bytes, content_id: bytes, delivery_id: bytes
    ) -> bytes: ...


class Inbox:
    """Takes letters into the inbox folder."""

    def __init__(
        self,
        own_id: bytes,
        acceptance: Acceptance,
        folder: InboxFolder,
        journal: ReceivedJournal,
        *,
        file_bytes_max: int,
        on_received: Callable[[Received], None],
    ) -> None:
        self._own_id = own_id
        self._acceptance = acceptance
        self._folder = folder
        self.journal = journal
        self._file_bytes_max = file_bytes_max
        self._on_received = on_received
        self.receipts: PushReceipts | None = None
        """Set once, when the receiver that needs this inbox is built."""

    # A push (transfer's Inbox)

    async def offer(self, caller: Caller, offer: PushOffer) -> Accept:
        """Accept a pushed file, or raise Refused, QuotaFull, DiskFull, UnsafeName."""
        arrival = Arrival(
            sender=caller.peer_id,
            seal_id=offer.seal_id,
            delivery_id=push_delivery_id(
                caller.peer_id, self._own_id, offer.seal_id, offer.content_id
            ),
            name=offer.name,
            size_bytes=offer.size_bytes,
            content_id=offer.content_id,
            is_folder=offer.is_folder,
        )
        if self.journal.find(arrival.sender, arrival.seal_id) is not None:
            await self._folder.discard(arrival.key)
            whole = WHOLE if offer.is_folder else offer.size_bytes
            return Accept(whole, _PushSink(self, arrival, None))
        self._check(arrival)
        file = await self._open(arrival, offer.manifest)
        return Accept(file.committed_bytes, _PushSink(self, arrival, file))

    # A sealed letter (queueing's InboxSink)

    async def begin(self, letter: Letter) -> LetterFile:
        """Make room for an unsealed letter; queueing's Refused, or a QueueError to try later."""
        arrival = Arrival(
            sender=letter.sender_id,
            seal_id=letter.seal_id,
            delivery_id=letter.manifest.delivery_id,
            name=letter.name,
            size_bytes=letter.size,
            content_id=letter.content_id,
            is_folder=letter.is_folder,
        )
        done = self.journal.find(arrival.sender, arrival.seal_id)
        try:
            if done is not None:
                await self._folder.discard(arrival.key)
                return LetterFile(self, arrival, None, done.path)
            self._check(arrival)
            file = await self._open(arrival)
        except TransferError as error:
            raise _of_letter(error) from error
        return LetterFile(self, arrival, file, "")

    def _check(self, arrival: Arrival) -> None:
        refusal = self._acceptance.refusal(arrival.sender)
        if refusal is not None:
            raise Refused(refusal)
        if arrival.size_bytes > self._file_bytes_max:
            what = "folder" if arrival.is_folder else "file"
            raise Refused(f"the {what} is larger than the receiver takes")

    async def _open(
        self, arrival: Arrival, manifest: Manifest | None = None
    ) -> InboxFile | InboxTree:
        if not arrival.is_folder:
            return await self._folder.open(arrival.key, arrival.name, arrival.size_bytes, manifest)
        return await self._folder.open_folder(
            arrival.key,
            arrival.name,
            arrival.content_id,
            arrival.size_bytes,
            size_bytes_max=self._file_bytes_max,
        )

    async def discard(self, arrival: Arrival) -> None:
        """Delete what arrived of a letter that is refused."""
        await self._folder.discard(arrival.key)

    async def complete(self, arrival: Arrival, file: InboxFile | InboxTree) -> str:
        """Make what is whole visible and journal it durably, in this order; return its path."""
        path = await file.place(arrival.content_id)
        facts = file.facts if isinstance(file, InboxTree) else None
        self.journal.add(
            sender=arrival.sender,
            seal_id=arrival.seal_id,
            delivery_id=arrival.delivery_id,
            name=arrival.name,
            size_bytes=arrival.size_bytes if facts is None else facts.size_bytes,
            path=path,
            files=None if facts is None else facts.files,
        )
        row = self.journal.find(arrival.sender, arrival.seal_id)
        assert row is not None, "journaled just now"
        await file.release()
        self._on_received(row)
        return row.path


class _PushSink:
    """A pushed file or folder on its way; without a file, one that came in before."""

    def __init__(self, inbox: Inbox, arrival: Arrival, file: InboxFile | InboxTree | None) -> None:
        self._inbox = inbox
        self._arrival = arrival
        self._file = file

    @property
    def is_whole(self) -> bool:
        return self._file is None or self._file.is_whole

    async def write(self, offset: int, data: bytes) -> None:
        assert self._file is not None, "of a file that came in before nothing is missing"
        await self._file.write(offset, data)

    async def finish(self) -> bytes:
        if self._file is not None:
            await self._inbox.complete(self._arrival, self._file)
        assert self._inbox.receipts is not None
        arrival = self._arrival
        return await self._inbox.receipts.take_push(
            arrival.sender, arrival.seal_id, arrival.content_id, arrival.delivery_id
        )

    async def close(self) -> None:
        if self._file is not None:
            await self._file.close()


class LetterFile:
    """An unsealed letter on its way; without a file, one that came in before."""

    def __init__(
        self, inbox: Inbox, arrival: Arrival, file: InboxFile | InboxTree | None, path: str
    ) -> None:
        self._inbox = inbox
        self._arrival = arrival
        self._file = file
        self._path = path
        self._is_refused = False

    @property
    def committed_bytes(self) -> int:
        """How much of the content is there already."""
        size_bytes = self._arrival.size_bytes
        return size_bytes if self._file is None else min(self._file.committed_bytes, size_bytes)

    async def write(self, offset: int, data: bytes) -> None:
        """Take the next content, of a folder also what is there already.

        MailboxFull where the disk or the quota is full, LetterRefused for what is never taken.
        """
        assert self._file is not None, "of a letter that came in before nothing is missing"
        try:
            await self._file.write(offset, data)
        except TransferError as error:
            raise self._told(error) from error

    async def finish(self) -> str:
        """Check, fsync, rename, journal; return where the file lies."""
        if self._file is None:
            return self._path
        try:
            return await self._inbox.complete(self._arrival, self._file)
        except TransferError as error:
            raise self._told(error) from error

    async def abort(self) -> None:
        """Let go of what is partial; it stays for the next try, unless there is none."""
        if self._file is not None:
            await self._file.close()
            if self._is_refused:
                await self._inbox.discard(self._arrival)

    def _told(self, error: TransferError) -> QueueError:
        told = _of_letter(error)
        self._is_refused = isinstance(told, LetterRefused)
        return told


def _of_letter(error: TransferError) -> QueueError:
    """Say whether a letter is refused for good, or kept by its store and tried again."""
    if isinstance(error, Refused | UnsafeName | BadContent | BadManifest):
        return LetterRefused(str(error))
    if isinstance(error, QuotaFull | DiskFull):
        return MailboxFull(str(error), hint=error.hint)
    return QueueError(str(error), hint=error.hint)
