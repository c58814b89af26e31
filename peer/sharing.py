"""Offering files: put, unshare, and what is published for a share.

Owns the rule that what the catalog offers and what the DHT's schedule publishes agree. Must not
know how records travel.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import stat
import unicodedata
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from dht.node import Confirmed, PublishReport
from dht.records import ContentPayload, NamePayload, Payload, WordPayload
from dht.words import indexed_words
from identity.address import Address
from identity.errors import ShoalError
from peer.catalog import Share
from peer.core import Core
from peer.errors import BadInput, NotFound
from peer.piped import sweep
from peer.tree_catalog import TreeCatalog
from peer.trees import Trees
from peer.watched import Watched
from transfer.hashing import Fingerprint, HashedFile, hash_file
from transfer.manifest import show_content_id
from transfer.names import check_name
from transfer.tree_walk import HashedTree

READ_BACK_RECORDS_MAX = 48
"""Records of one put that are read back: all of some ten files, else an even sample."""
LOOK_MAX = 256
"""Files whose fingerprint is looked at in one go, in a thread."""

HashProgress = Callable[[int, int], None]

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """A share and on how many other peers its records were acknowledged."""

    share: Share
    stored_on: int
    replaced: str | None = None
    """The content id that the name meant at this peer before, when it was another."""
    confirmed: Sequence[Confirmed] = ()
    """What reading its records back showed: of all of them, or of a sample."""

    @property
    def weakest(self) -> Confirmed | None:
        """The record that was found on the fewest peers."""
        return min(self.confirmed, key=lambda each: each.found_on, default=None)

    @property
    def missing(self) -> int:
        """How many peers acknowledged a record and do not have it, at most of one record."""
        return max((each.missing for each in self.confirmed), default=0)


class Sharing:
    """The peer's shares: the catalog's rows and the records that follow from them."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._addresses: tuple[Address, ...] = ()
        self._watched = Watched(core.database)
        self._is_closed = False
        self.trees = Trees(core.catalog, TreeCatalog(core.database, core.home.path / "trees"))

    def close(self) -> None:
        """Share nothing from now on, as an operator's peer; BadInput where something is shared."""
        if self._core.catalog.share_count():
            raise BadInput(
                "this home shares files, and an operator's peer shares none",
                hint="name another folder with --home, or `shoal unshare` them first",
            )
        self._is_closed = True

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The addresses that records of shares carry."""
        return self._addresses

    def advertise(self, addresses: Sequence[Address]) -> None:
        """Set the addresses that records of shares carry."""
        self._addresses = tuple(addresses)

    async def put(
        self, path: Path, name: str | None, on_progress: HashProgress | None = None
    ) -> Published:
        """Hash a file or folder, offer and publish it; returns when records are acknowledged.

        Raises BadInput, UnsafeName, SourceUnreadable, SourceChanged, FileTooLarge, TreeTooLarge.
        """
        [published] = await self.offer_all([await self.hash(path, name, on_progress)])
        return published

    async def hash(
        self, path: Path, name: str | None, on_progress: HashProgress | None = None
    ) -> Share:
        """Hash a file or a folder for `offer_all`; raises what `put` raises."""
        self._check_open()
        shown = check_name(unicodedata.normalize("NFC", path.name if name is None else name))
        check_source(path)
        if path.is_dir():
            return await self.trees.hash(path, shown, on_progress)
        return share_of(path, shown, await hash_file(path, on_progress))

    async def offer(self, path: Path, name: str, hashed: HashedFile) -> Published:
        """Offer a file whose manifest is known already, and publish it."""
        [published] = await self.offer_all([share_of(path, name, hashed)])
        return published

    async def offer_folder(self, root: Path, name: str, hashed: HashedTree) -> Published:
        """Offer a folder whose files are hashed already, and publish it."""
        [published] = await self.offer_all([await self.trees.share_of(root, name, hashed)])
        return published

    async def offer_all(
        self, shares: Sequence[Share], *, read_back: bool = True
    ) -> list[Published]:
        """Offer files of distinct names, and publish their records together."""
        self._check_open()
        former = [self._core.catalog.share(share.name) for share in shares]
        replaced = [
            before if before is not None and before.content_id != share.content_id else None
            for share, before in zip(shares, former, strict=True)
        ]
        self._core.catalog.add_shares(shares)
        for before in former:
            self._discard_piped(before)
        self.trees.offered(shares)
        for before in replaced:
            if before is not None:
                await self._core.dht.withdraw(self._payloads_to_withdraw(before))
            await asyncio.sleep(0)
        if any(each.is_folder for each in (*shares, *replaced) if each is not None):
            await self.trees.sweep()
        payloads = [self.payloads(share) for share in shares]
        flat = [payload for some in payloads for payload in some]
        try:
            report = await self._core.dht.publish(flat)
        except ShoalError:
            for share in shares:
                self._core.catalog.remove_share(share)
            raise
        confirmed: Sequence[Confirmed | None] = [None] * len(flat)
        if read_back:
            confirmed = await self._read_back(flat, report)
        published: list[Published] = []
        place = 0
        for share, before, some in zip(shares, replaced, payloads, strict=True):
            there = slice(place, place + len(some))
            place += len(some)
            published.append(
                Published(
                    share,
                    min(report.stored_on[there]),
                    None if before is None else show_content_id(before.content_id),
                    [each for each in confirmed[there] if each is not None],
                )
            )
        return published

    async def _read_back(
        self, payloads: Sequence[Payload], report: PublishReport
    ) -> list[Confirmed | None]:
        """Read records back: all of a few files, an even sample of many."""
        step = -(-len(payloads) // READ_BACK_RECORDS_MAX)
        some = range(0, len(payloads), step)
        sample = PublishReport(
            tuple(report.stored_on[each] for each in some),
            tuple(report.stored_here[each] for each in some),
            tuple(report.storers[each] for each in some) if report.storers else (),
        )
        confirmed: list[Confirmed | None] = [None] * len(payloads)
        sampled = [payloads[each] for each in some]
        confirmed[::step] = await self._core.dht.read_back(sampled, sample)
        return confirmed

    async def unshare(self, name: str) -> Share:
        """Stop offering a name and withdraw its records; raises NotFound."""
        name = unicodedata.normalize("NFC", name)
        share = self._core.catalog.share(name)
        if share is None:
            raise NotFound(
                f"{name!r} is not shared here", hint="`shoal shares` lists what is offered"
            )
        self._watched.unshare(share.path)
        await self._drop(share)
        return share

    def _check_open(self) -> None:
        if self._is_closed:
            raise BadInput(
                "an operator's peer shares nothing",
                hint="share from a peer of your own: shoal join",
            )

    async def drop_all(self, shares: Sequence[Share]) -> int:
        """Stop offering shares and withdraw their records; return how many.

        One whose name was put anew meanwhile stays.
        """
        dropped = [share for share in shares if self._core.catalog.remove_share(share)]
        payloads: list[Payload] = []
        for share in dropped:
            self._discard_piped(share)
            payloads += self._payloads_to_withdraw(share)
        if payloads:
            await self._core.dht.withdraw(payloads)
        if any(share.is_folder for share in dropped):
            await self.trees.sweep()
        return len(dropped)

    async def resume(self, *, watched: Collection[str] = ()) -> list[str]:
        """After a start: drop shares whose file changed or went, plan the records of the rest.

        The paths of `watched` are not looked at: whoever watches them does. Returns a line for each
        share that was dropped. What the schedule says is not due yet is not sent again; what is due
        goes out in the background.
        """
        dropped: list[str] = []
        kept: list[Share] = []
        shares = self._core.catalog.shares()
        sweep(self._core.home, {share.path for share in shares})
        for start in range(0, len(shares), LOOK_MAX):
            some = shares[start : start + LOOK_MAX]
            reasons = await asyncio.to_thread(_look, some, watched)
            for share, looked in zip(some, reasons, strict=True):
                reason = looked
                if reason is None and share.is_folder:
                    reason = await self.trees.why_changed(share)
                if reason is None:
                    kept.append(share)
                elif await self._drop(share):
                    dropped.append(f"{share.name!r} is no longer shared: {reason}")
        for share in kept:
            # Commands are served already: what was put or unshared meanwhile has the last word.
            if self._core.catalog.share(share.name) == share:
                await self._core.dht.plan(self.payloads(share))
            await asyncio.sleep(0)
        await self.trees.sweep()
        return dropped

    async def drop_changed(self, content_id: bytes, path: Path) -> None:
        """Stop offering a content whose file changed while it was served, or its folder."""
        for share, inner in self.trees.shares_with(content_id, path):
            if await self._drop(share):
                _log.warning(
                    "%s changed, so the folder is no longer offered: %r", inner, share.name
                )
        for share in self._core.catalog.shares_of(content_id):
            if share.path == path and await self._drop(share):
                _log.warning("a shared file changed and is no longer offered: %r", share.name)

    def payloads(self, share: Share) -> list[Payload]:
        """Return what is published for a share: its name, its content and its words."""
        words = [
            WordPayload(word, share.name, share.content_id, share.size_bytes)
            for word in indexed_words(share.name)
        ]
        return [
            NamePayload(share.name, share.content_id, share.size_bytes, self._addresses),
            ContentPayload(share.content_id, self._addresses),
            *words,
        ]

    async def _drop(self, share: Share) -> bool:
        """Stop offering a share; False when its name was put anew meanwhile and so stays."""
        return await self.drop_all([share]) == 1

    def _discard_piped(self, share: Share | None) -> None:
        """Delete what came on stdin and is shared no longer: it was nowhere else."""
        if share is None or share.path.parent != self._core.home.piped:
            return
        if not self._core.catalog.is_shared(share.path):
            share.path.unlink(missing_ok=True)

    def _payloads_to_withdraw(self, share: Share) -> list[Payload]:
        """Leave the content record out while the same content is offered under another name."""
        still = self._core.catalog.shares_of(share.content_id)
        names_it = any(other.name == share.name for other in still)
        return [
            payload
            for payload in self.payloads(share)
            if not (isinstance(payload, ContentPayload) and still)
            and not (isinstance(payload, NamePayload | WordPayload) and names_it)
        ]


def share_of(path: Path, name: str, hashed: HashedFile) -> Share:
    """The share of a file that was hashed."""
    manifest, fingerprint = hashed.manifest, hashed.fingerprint
    return Share(
        name=name,
        path=path,
        content_id=manifest.content_id,
        size_bytes=manifest.size_bytes,
        mtime_ns=fingerprint.mtime_ns,
        inode=fingerprint.inode,
        manifest=manifest.encode(),
    )


def check_source(path: Path) -> None:
    """Refuse what is neither a file nor a folder; raises BadInput."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise BadInput(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"{path} cannot be read: {reason}") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise BadInput(f"{path} is neither a regular file nor a folder")


def _look(shares: Sequence[Share], watched: Collection[str]) -> list[str | None]:
    return [None if str(share.path) in watched else why_changed(share) for share in shares]


def why_changed(share: Share) -> str | None:
    """Tell why a share's file is not what was shared; None when it still is.

    Of a folder only whether it is there: see `Trees.why_changed` for its files.
    """
    if share.is_folder:
        return None if share.path.is_dir() else f"{share.path} is gone"
    try:
        now = Fingerprint.of(share.path.stat())
    except OSError as error:
        return f"{share.path}: {error.strerror}"
    expected = Fingerprint(share.size_bytes, share.mtime_ns, share.inode)
    return None if now == expected else f"{share.path} changed"
