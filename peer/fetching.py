"""Search and get: from words or a name to offers, from an offer to a verified file.

Owns what a person's `get` argument may mean, the search for holders while a download runs, and
what is said when there are none. Must not know chunks or datagrams. Used by the running peer and
by the short-lived client alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dht.errors import BadQuery
from dht.reachability import Reach
from dht.words import words_of
from identity.address import Address
from identity.keys import short_peer_id
from peer.announcing import Announcing
from peer.catalog import Listed
from peer.core import Core
from peer.errors import Ambiguous, AmbiguousName, BadInput, NoHolderReachable, NotFound
from peer.finding import Holder, Offer, merge_holders, offers_of
from peer.parts import PartJournal
from peer.proving import Proving
from transfer.candidates import CandidateConfig
from transfer.candidates import Holder as TransferHolder
from transfer.download import Download, DownloadConfig, DownloadResult, Progress
from transfer.errors import BadContentId, IsFolder, NoHolders, TimedOut
from transfer.manifest import (
    Manifest,
    decode_manifest,
    parse_content_id,
    parse_content_prefix,
    show_content_id,
)
from transfer.names import check_name
from transfer.partial import part_path_for
from transfer.session import SessionConfig
from transfer.sources import PackSource, Source
from transfer.swarm_config import SwarmConfig
from transfer.tree_download import TreeDownload

SEARCH_LIMIT_MAX = 300
OFFERS_SHOWN = 8
HOLDERS_SHOWN = 4
NO_HOLDER_TIMEOUT_S = 30.0
GIVE_UP_S = 5.0
"""Without --timeout, a get whose holders all failed asks the DHT again for this long."""
ATTEMPTS_MAX = 2
"""Tries to reach a holder in a row; the search then names it again while it goes on."""
ANNOUNCED_BYTES_MIN = 4 * 1024 * 1024
"""Smaller files are here before anybody hears of them; a folder's size is not known yet."""
RATE_PER_HOLDER_MIN_BYTES_PER_S = 256 * 1024
ASK_AGAIN_MIN_S = 0.5
ASK_AGAIN_MAX_S = 5.0

ResolvePeer = Callable[[str], Awaitable[bytes]]
"""Turns PEER into an id; see peer.resolve."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """A content to fetch, the name it goes by, and who is known to have it."""

    content_id: bytes
    name: str
    size_bytes: int | None
    holders: tuple[Holder, ...]


class Fetching:
    """Finds and downloads for one command at a time or several."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.own_address: Address | None = None
        """Where this peer itself listens; set once it does."""
        self._journal = PartJournal(core.database)
        self._proving = Proving(core.dht)
        self.running: dict[bytes, Download] = {}
        """Downloads under way, so that what they have is served on."""
        self.announcing: Announcing | None = None
        """Set by a peer that serves others."""
        self._kept: Counter[bytes] = Counter()

    # Finding

    async def search(self, words: Sequence[str], limit: int) -> list[Offer]:
        """Return offers whose names hold all words, best first (see peer.finding); BadInput."""
        began = time.monotonic()
        try:
            hits = await self._core.dht.search(words, SEARCH_LIMIT_MAX)
        except BadQuery as error:
            raise BadInput(str(error), hint=error.hint) from error
        found = [
            Offer(
                hit.filename,
                hit.content_id,
                hit.size_bytes,
                tuple(Holder(peer_id, ()) for peer_id in hit.holders),
            )
            for hit in hits
        ]
        ranked = await self._proving.rank(found, took_s=time.monotonic() - began)
        offers = ranked[:limit]
        self._remember(offers)
        return offers

    async def offers_named(self, name: str) -> list[Offer]:
        """Return the contents that are offered under exactly this name, best first."""
        began = time.monotonic()
        found = await self._core.dht.find_name(unicodedata.normalize("NFC", name))
        named = offers_of((item.record, item.payload) for item in found)
        offers = await self._proving.rank(named, took_s=time.monotonic() - began)
        self._remember(offers)
        return offers

    async def wanted(self, what: str, from_peer: str | None, resolve: ResolvePeer) -> Wanted:
        """Say which content an argument of `get` means; NotFound, Ambiguous, BadInput."""
        if what.startswith("b3:") and from_peer is None:
            return await self._wanted_by_id_or_name(what)
        offers = await self.offers_named(what)
        if not offers and from_peer is None and "@" in what:
            name, _, peer = what.rpartition("@")
            if name and peer:
                return await self._wanted_from(name, peer, resolve)
        if from_peer is not None:
            return await self._wanted_from(what, from_peer, resolve, offers)
        return self._only(what, offers)

    async def _wanted_by_id_or_name(self, what: str) -> Wanted:
        """An id first; a file may be named like one all the same."""
        try:
            return self.wanted_by_id(what)
        except (NotFound, BadInput):
            offers = await self.offers_named(what)
            if not offers:
                raise
            return self._only(what, offers)

    def wanted_by_id(self, what: str) -> Wanted:
        """Say which content a `b3:` text means; NotFound, Ambiguous, BadInput."""
        try:
            content_id = parse_content_id(what)
        except BadContentId:
            return self._wanted_by_prefix(what)
        listed = self._core.catalog.listed_with_prefix(content_id.hex())
        name = listed[0].name if listed else content_id.hex()[:16]
        size_bytes = listed[0].size_bytes if listed else None
        return Wanted(content_id, name, size_bytes, ())

    def _wanted_by_prefix(self, what: str) -> Wanted:
        try:
            prefix = parse_content_prefix(what)
        except BadContentId as error:
            raise BadInput(f"{what!r} is no content id", hint=error.hint) from error
        listed = self._core.catalog.listed_with_prefix(prefix)
        match list({entry.content_id: entry for entry in reversed(listed)}.values()):
            case []:
                raise NotFound(
                    f"no content that was listed, shared or fetched here begins with {what}",
                    hint="give the whole id, or search for it first",
                )
            case [entry]:
                return Wanted(entry.content_id, entry.name, entry.size_bytes, ())
            case several:
                ids = ", ".join(show_content_id(entry.content_id) for entry in several)
                raise Ambiguous(
                    f"{what} means {len(several)} contents: {ids}", hint="give more of the id"
                )

    async def _wanted_from(
        self, name: str, peer: str, resolve: ResolvePeer, offers: list[Offer] | None = None
    ) -> Wanted:
        peer_id = await resolve(peer)
        if offers is None:
            offers = await self.offers_named(name)
        theirs = [o for o in offers if any(h.peer_id == peer_id for h in o.holders)]
        if not theirs:
            raise NotFound(
                f"{peer} offers nothing under the name {name!r}",
                hint=f"`shoal search {name}` shows who has what",
            )
        return self._only(name, theirs)

    @staticmethod
    def _only(name: str, offers: list[Offer]) -> Wanted:
        match offers:
            case []:
                words = " ".join(words_of(name)) or "WORD"
                raise NotFound(
                    f"nothing is offered under the name {name!r}",
                    hint=f"names match exactly; by words: `shoal search {words}`",
                )
            case [offer]:
                return Wanted(offer.content_id, offer.name, offer.size_bytes, offer.holders)
            case several:
                listed = "; ".join(
                    f"{show_content_id(o.content_id)} from "
                    + ", ".join(short_peer_id(h.peer_id) for h in o.holders[:HOLDERS_SHOWN])
                    for o in several[:OFFERS_SHOWN]
                )
                raise AmbiguousName(
                    f"{len(several)} contents are offered as {name!r}: {listed}", several
                )

    def _remember(self, offers: Sequence[Offer]) -> None:
        if offers:
            self._core.catalog.remember(
                [Listed(offer.content_id, offer.name, offer.size_bytes) for offer in offers]
            )

    # Downloading

    async def download(
        self,
        wanted: Wanted,
        target: Path,
        *,
        overwrite: bool,
        timeout_s: float | None,
        on_progress: Callable[[Progress], None] | None = None,
        on_bad_holder: Callable[[bytes], None] | None = None,
        on_begin: Callable[[Download], None] | None = None,
        in_order: bool = False,
        takes_folder: bool = True,
        shares: bool = False,
    ) -> DownloadResult:
        """Fetch a content into its target; raises TransferError, NotFound, NoHolderReachable.

        `in_order` is for whoever reads what is there while the rest comes. A folder is fetched
        too, or refused. `shares`: others may know meanwhile what is here.
        """
        announcing = self.announcing if shares else None
        source = _HolderSearch(self._core, wanted, self._own_holders(wanted), timeout_s)
        options: dict[str, Any] = {
            "holders": source,
            "connect": self._core.connect,
            "journal": self._journal,
            "overwrite": overwrite,
            "on_progress": on_progress,
            "on_bad_holder": on_bad_holder,
            "pace": self._core.paces.gets.down,
            "on_described": announcing and (lambda: self._announce(wanted.content_id)),
            "config": self._config(
                timeout_s, in_order=in_order, spreads=announcing is not None and not in_order
            ),
        }
        manifest = self._own_manifest(wanted.content_id)
        # A partial folder is there: what it became part of can be no file.
        is_folder = part_path_for(target, wanted.content_id).is_dir()
        try:
            if not is_folder:
                try:
                    download = Download(wanted.content_id, target, manifest=manifest, **options)
                    if on_begin is not None:
                        on_begin(download)
                    return await self._run(download, wanted, source)
                except IsFolder as found:
                    if not takes_folder:
                        raise BadInput(
                            f"{wanted.name!r} is a folder, which is no single file to write out",
                            hint="leave -o out, or give it the path of the folder to make",
                        ) from found
                    manifest = found.manifest
            folder = TreeDownload(wanted.content_id, target, manifest=manifest, **options)
            return await self._run(folder, wanted, source)
        except NoHolders as error:
            raise self._nobody(wanted, source) from error

    def _announce(self, content_id: bytes) -> None:
        download = self.running.get(content_id)
        size_bytes = 0 if download is None else download.progress.size_bytes
        if self.announcing and (not size_bytes or size_bytes >= ANNOUNCED_BYTES_MIN):
            self.announcing.begin(content_id)

    def _config(self, timeout_s: float | None, *, in_order: bool, spreads: bool) -> DownloadConfig:
        return DownloadConfig(
            no_holder_timeout_s=max(NO_HOLDER_TIMEOUT_S, timeout_s or 0.0),
            timeout_s=timeout_s,
            spreads=spreads and self._core.dht.reach is not Reach.UNREACHABLE,
            candidates=_candidates_for(self._core.paces.gets.down.rate_bytes_per_s),
            session=SessionConfig(attempts_max=ATTEMPTS_MAX, own_id=self._core.identity.peer_id),
            swarm=SwarmConfig(in_order=in_order),
        )

    async def _run(
        self, download: Download, wanted: Wanted, source: _HolderSearch
    ) -> DownloadResult:
        """Run a download, whose content is served on meanwhile."""
        source.moved = lambda: download.progress.fetched_bytes
        source.talks = lambda: download.talks
        self.running.setdefault(wanted.content_id, download)
        is_kept = False
        try:
            result = await download.run()
            is_kept = wanted.content_id in self._kept
            return result
        except TimedOut as error:
            if download.progress.fetched_bytes:
                raise
            raise self._nobody(wanted, source) from error
        finally:
            if not is_kept and self.running.get(wanted.content_id) is download:
                del self.running[wanted.content_id]

    @contextlib.contextmanager
    def kept(self, content_id: bytes) -> Iterator[None]:
        """Serve a finished download on, without a gap, until the caller has shared it."""
        self._kept[content_id] += 1
        try:
            yield
        finally:
            self._kept[content_id] -= 1
            if not self._kept[content_id]:
                del self._kept[content_id]
                self.running.pop(content_id, None)
                if self.announcing is not None:
                    self.announcing.end(content_id)

    def inner_source(self, content_id: bytes) -> Source | None:
        """Return a large file of a folder that is being fetched, or None."""
        found = (each.inner_source(content_id) for each in self._folders())
        return next((source for source in found if source is not None), None)

    def inner_pack_source(self, content_id: bytes) -> PackSource | None:
        """Return a small file of a folder that is being fetched, or None."""
        found = (each.inner_pack_source(content_id) for each in self._folders())
        return next((source for source in found if source is not None), None)

    def _folders(self) -> list[TreeDownload]:
        return [each for each in self.running.values() if isinstance(each, TreeDownload)]

    def _nobody(self, wanted: Wanted, source: _HolderSearch) -> Exception:
        if not source.known:
            return NotFound(
                f"nobody offers {show_content_id(wanted.content_id)}",
                hint="by words: `shoal search WORD...`",
            )
        count = len(source.known)
        holders = "1 holder is" if count == 1 else f"{count} holders are"
        return NoHolderReachable(
            f"{wanted.name!r}: {holders} known, none can be reached and still has it"
        )

    def _own_manifest(self, content_id: bytes) -> Manifest | None:
        shares = self._core.catalog.shares_of(content_id)
        return decode_manifest(shares[0].manifest) if shares else None

    def _own_holders(self, wanted: Wanted) -> tuple[Holder, ...]:
        """Fetch a file that is shared here from ourselves, by the same verified way."""
        if self.own_address is None or not self._core.catalog.shares_of(wanted.content_id):
            return ()
        return (Holder(self._core.identity.peer_id, (self.own_address,)),)


class _HolderSearch:
    """The holders of one download: those known first, then whoever the DHT names later.

    Ends when nothing moved for a while (GIVE_UP_S, or the person's timeout) and no holder is
    talked to, so that a download whose holders all failed can say so; at once when the DHT names
    nobody (any more), unless the person set a timeout and so is willing to wait for a holder.
    """

    def __init__(
        self, core: Core, wanted: Wanted, own: tuple[Holder, ...], timeout_s: float | None
    ) -> None:
        self._core = core
        self._wanted = wanted
        self._own = own
        self._give_up_s = GIVE_UP_S if timeout_s is None else timeout_s
        self._waits = timeout_s is not None
        self.known: set[bytes] = set()
        self.moved: Callable[[], int] = lambda: 0
        self.talks: Callable[[], bool] = lambda: False

    async def __aiter__(self) -> AsyncIterator[TransferHolder]:
        for holder in self._usable(self._wanted.holders):
            yield holder
        pause_s = ASK_AGAIN_MIN_S
        moved, moved_at = self.moved(), time.monotonic()
        while True:
            found = await self._core.holders_of_content(self._wanted.content_id)
            if self.moved() != moved:
                moved, moved_at = self.moved(), time.monotonic()
            left_s = moved_at + self._give_up_s - time.monotonic()
            if left_s <= 0 and not self.talks():
                return
            for holder in self._usable(merge_holders(found, self._wanted.holders)):
                yield holder
            if not found and not moved and not self._waits:
                return
            await asyncio.sleep(min(pause_s, max(left_s, ASK_AGAIN_MIN_S)))
            pause_s = min(pause_s * 1.6, ASK_AGAIN_MAX_S)

    def _usable(self, holders: Sequence[Holder]) -> list[TransferHolder]:
        me = self._core.identity.peer_id
        # Ourselves at our own address only: what our records say is for others.
        usable = [*self._own, *(holder for holder in holders if holder.peer_id != me)]
        self.known.update(holder.peer_id for holder in usable)
        return [TransferHolder(holder.peer_id, holder.addresses) for holder in usable]


def _candidates_for(rate_bytes_per_s: int | None) -> CandidateConfig:
    """Talk to few holders under a low limit: none shall wait so long for us that it gives up."""
    if rate_bytes_per_s is None:
        return CandidateConfig()
    most = max(1, rate_bytes_per_s // RATE_PER_HOLDER_MIN_BYTES_PER_S)
    config = CandidateConfig()
    return CandidateConfig(
        enough=min(config.enough, most), holders_max=min(config.holders_max, most)
    )


def target_of(target: str | None, folder: str, name: str) -> Path:
    """Return where a download goes; an unsafe remote name is refused before it is a path."""
    if target is None:
        return Path(folder) / check_name(name)
    path = Path(target)
    return path / check_name(name) if path.is_dir() else path
