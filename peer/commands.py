"""The commands that a running peer answers, and the two that also work without one.

Owns reading a command's arguments and turning what the parts return into views. Must not know
sockets (control.py) nor terminals (console). Arguments come from a process of the same person, but
are checked all the same: an older or newer `shoal` may be on the other end.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from dht.records import NICKNAME_BYTES_MAX
from identity.errors import InvalidPeerId, ShoalError
from identity.keys import parse_peer_id, show_peer_id
from identity.network import BootstrapNode
from peer.ahead import in_order
from peer.arguments import Arguments
from peer.catalog import Share
from peer.contacts import Pin
from peer.core import Core
from peer.doctor import Doctor
from peer.errors import AmbiguousName, BadInput, NotFound
from peer.explaining import Explaining
from peer.fetching import SEARCH_LIMIT_MAX, Fetching, Wanted, target_of
from peer.finding import Offer
from peer.presence import Presence
from peer.reporting import Emit, Reporter
from peer.sending import Sending, Terms
from peer.sharing import Published, Sharing, why_changed
from peer.streaming import discard, telling_ready, temporary_target
from peer.views import (
    ContactView,
    FoundView,
    GetView,
    InviteView,
    Progress,
    PutView,
    ShareView,
    Snapshot,
    StatusView,
)
from queueing.rabbitmq_health import QueueHealth
from transfer.download import DownloadResult
from transfer.download import Progress as DownloadProgress
from transfer.hashing import HashedFile
from transfer.manifest import show_content_id

PUT_GROUP_MAX = 256
"""Files of one `put` whose records are published together."""
PUT_GROUP_S = 2.0
"""After so long a group is published, though there are more files to hash."""
LOOKUPS_MAX = 16
"""Of one command at a time."""


class FetchCommands:
    """`search` and `get`, for the running peer and the short-lived client alike."""

    def __init__(
        self,
        core: Core,
        fetching: Fetching,
        presence: Presence,
        *,
        sharing: Sharing | None = None,
    ) -> None:
        self._core = core
        self._fetching = fetching
        self._presence = presence
        self._sharing = sharing

    async def search(self, arguments: Arguments, reporter: Reporter) -> None:
        """Send the offers that match, best first."""
        limit = min(max(arguments.get("limit", int) or SEARCH_LIMIT_MAX, 1), SEARCH_LIMIT_MAX)
        for offer in await self._fetching.search(arguments.texts("words"), limit):
            await reporter.item(found_view(offer))

    async def get(self, arguments: Arguments, reporter: Reporter) -> None:
        """Fetch a content, share it on, and send where it is."""
        wanted = await self._wanted(arguments, reporter)
        to_stdout = arguments.get("stdout", bool) or False
        if to_stdout:
            target = temporary_target(self._core.home)
        else:
            folder = arguments.get("folder", str) or str(Path.cwd())
            target = target_of(arguments.get("target", str), folder, wanted.name)
        with self._fetching.kept(wanted.content_id):
            try:
                result = await self._download(wanted, target, arguments, reporter)
            except BaseException:
                if to_stdout:
                    discard(target, wanted.content_id)
                raise
            if self._is_shared_on(arguments):
                await self._share_on(wanted, result, reporter)
        await reporter.result(get_view(wanted, result))

    def _is_shared_on(self, arguments: Arguments) -> bool:
        to_stdout = arguments.get("stdout", bool) or False
        wanted = arguments.get("share", bool) is not False
        return self._sharing is not None and wanted and not to_stdout

    async def _wanted(self, arguments: Arguments, reporter: Reporter) -> Wanted:
        try:
            return await self._fetching.wanted(
                arguments.take("what", str),
                arguments.get("from", str),
                self._presence.resolve,
            )
        except AmbiguousName as error:
            for offer in error.offers:  # to choose from
                await reporter.item(found_view(offer))
            raise

    async def _download(
        self,
        wanted: Wanted,
        target: Path,
        arguments: Arguments,
        reporter: Reporter,
    ) -> DownloadResult:
        bad: list[str] = []
        to_stdout = arguments.get("stdout", bool) or False
        async with reporter.progressing() as tell, telling_ready(reporter) as tell_ready:

            def progress(state: DownloadProgress) -> None:
                tell(
                    Progress(
                        wanted.name,
                        "fetching",
                        state.done_bytes,
                        state.size_bytes,
                        len(state.by_holder),
                        state.files_done,
                        state.files,
                    )
                )

            try:
                return await self._fetching.download(
                    wanted,
                    target,
                    overwrite=to_stdout or bool(arguments.get("overwrite", bool)),
                    timeout_s=_timeout_s(arguments),
                    on_progress=progress,
                    on_bad_holder=lambda peer_id: bad.append(show_peer_id(peer_id)),
                    on_begin=tell_ready if to_stdout else None,
                    in_order=to_stdout,
                    takes_folder=not to_stdout,
                    shares=self._is_shared_on(arguments),
                )
            finally:
                for peer in bad:
                    await reporter.note(f"{peer} sent data that did not verify and was dropped")

    async def _share_on(self, wanted: Wanted, result: DownloadResult, reporter: Reporter) -> None:
        assert self._sharing is not None
        other = self._core.catalog.share(wanted.name)
        # A share whose file is gone, or was replaced by this one, stands for nothing.
        is_updated = other is not None and result.tree is not None and other.path == result.path
        if other is not None and (is_updated or why_changed(other) is not None):
            other = None
        if other is not None and other.content_id == result.content_id:
            return
        if other is not None:
            await reporter.note(
                f"the file is there, but is not shared on: {wanted.name!r} means another file here",
                hint=f"`shoal put {result.path} --as NAME` shares it under another name",
            )
            return
        try:
            if result.tree is not None:
                await self._sharing.offer_folder(result.path, wanted.name, result.tree)
                return
            hashed = HashedFile(result.manifest, result.fingerprint)
            await self._sharing.offer(result.path, wanted.name, hashed)
        except ShoalError as error:
            await reporter.note(f"the file is there, but is not shared on: {error}")


@dataclasses.dataclass(frozen=True, slots=True)
class PeerFacts:
    """What the running peer tells of itself."""

    status: Callable[[], StatusView]
    snapshot: Callable[[], Snapshot]
    invite: Callable[[], str]
    leave: Callable[[], None]
    bootstrap: Sequence[BootstrapNode]
    """The nodes that it joined through, or tried to."""
    queue: Callable[[], Awaitable[QueueHealth | None]]


class Commands:
    """All commands of a running peer; `run` is the control socket's handler."""

    def __init__(
        self,
        core: Core,
        *,
        fetching: Fetching,
        sharing: Sharing,
        sending: Sending,
        presence: Presence,
        facts: PeerFacts,
    ) -> None:
        self._core = core
        self._sharing = sharing
        self._sending = sending
        self._presence = presence
        self._facts = facts
        fetch = FetchCommands(core, fetching, presence, sharing=sharing)
        self._handlers: dict[str, Callable[[Arguments, Reporter], Awaitable[None]]] = {
            "search": fetch.search,
            "explain": Explaining(core, fetching, presence).explain,
            "get": fetch.get,
            "put": self._put,
            "shares": self._shares,
            "unshare": self._unshare,
            "peers": self._peers,
            "status": self._status,
            "doctor": Doctor(core, presence, facts.status, facts.bootstrap, facts.queue).doctor,
            "snapshot": self._snapshot,
            "invite": self._invite,
            "leave": self._leave,
            "inbox": self._inbox,
            "outbox": self._outbox,
            "outbox_cancel": self._outbox_cancel,
            "contact_add": self._contact_add,
            "contact_list": self._contact_list,
            "contact_remove": self._contact_remove,
        }

    async def run(self, command: str, arguments: dict[str, Any], emit: Emit) -> None:
        """Run one command; its errors are the caller's to report."""
        handler = self._handlers.get(command)
        if handler is None:
            raise BadInput(
                f"the running peer does not know the command {command!r}",
                hint="it may be an older version: `shoal leave`, then `shoal join`",
            )
        await handler(Arguments(arguments), Reporter(emit))

    # Sharing and sending

    async def _put(self, arguments: Arguments, reporter: Reporter) -> None:
        paths = [Path(text) for text in arguments.texts("paths")]
        name, recipient = arguments.get("as", str), arguments.get("to", str)
        if not paths:
            raise BadInput("nothing to put", hint="shoal put PATH...")
        if name is not None and len(paths) > 1:
            raise BadInput("--as names one file, but several are given")
        if recipient is None:
            await self._put_all(paths, name, reporter)
            return
        peer_id = await self._presence.resolve(recipient)
        terms = Terms(
            expires_s=arguments.get("expires_s", int),
            wait=bool(arguments.get("wait", bool)),
            via=arguments.texts("via"),
        )
        await self._sending.put_all_to(paths, name, peer_id, reporter, terms)

    async def _put_all(self, paths: list[Path], name: str | None, reporter: Reporter) -> None:
        """Offer files in groups, whose records are published together; results as they come."""
        group: dict[str, Share] = {}
        began = time.monotonic()
        try:
            async with aclosing(self._hashed(paths, name, reporter)) as hashed:
                async for share in hashed:
                    is_late = time.monotonic() - began > PUT_GROUP_S
                    if group and (share.name in group or is_late or len(group) >= PUT_GROUP_MAX):
                        await self._offer(group, reporter)
                        began = time.monotonic()
                    group[share.name] = share
        except ShoalError:
            if group:  # what came before a file that cannot be shared is shared all the same
                await self._offer(group, reporter)
            raise
        await self._offer(group, reporter)

    async def _hashed(
        self, paths: list[Path], name: str | None, reporter: Reporter
    ) -> AsyncGenerator[Share, None]:
        """Hash files on all processors; they come in their order."""
        async with reporter.progressing() as tell:

            def hash_one(path: Path) -> Callable[[], Coroutine[Any, Any, Share]]:
                def progress(done_bytes: int, size_bytes: int) -> None:
                    tell(Progress(name or path.name, "hashing", done_bytes, size_bytes))

                return lambda: self._sharing.hash(path, name, progress)

            async with aclosing(in_order(map(hash_one, paths))) as hashed:
                async for share in hashed:
                    yield share

    async def _offer(self, group: dict[str, Share], reporter: Reporter) -> None:
        """Offer and publish a group, and tell of each of its files; the group is empty then."""
        shares = list(group.values())
        group.clear()
        published = await self._sharing.offer_all(shares)
        if any(each.stored_on == 0 for each in published):
            await self._explain_unstored(reporter)
        for each in published:
            await self._tell_put(each, reporter)

    async def _tell_put(self, published: Published, reporter: Reporter) -> None:
        share, weakest = published.share, published.weakest
        if published.replaced is not None:
            await reporter.note(
                f"{share.name!r} meant {published.replaced} here until now; that is withdrawn"
            )
        if published.missing:
            await reporter.note(
                f"{published.missing} of the peers that acknowledged records of {share.name!r}"
                " do not have them",
                hint="they are published again; `shoal explain NAME` shows who has what",
            )
        await reporter.result(
            PutView(
                share.name,
                share.size_bytes,
                show_content_id(share.content_id),
                published.stored_on,
                None if weakest is None else weakest.found_on,
                None if weakest is None else weakest.closest,
            )
        )

    async def _explain_unstored(self, reporter: Reporter) -> None:
        doubt_s = abs(self._core.dht.clock_doubt_ms) // 1000
        if doubt_s:
            await reporter.note(
                f"this machine's clock and the other peers' are {doubt_s} s apart,"
                " so they refuse the records",
                hint="set the clock here or there; the records are then published",
            )
        else:
            await reporter.note(
                "no other peer has the records yet",
                hint="they are published as soon as another peer is there",
            )

    async def _shares(self, _: Arguments, reporter: Reporter) -> None:
        shares = self._core.catalog.shares()
        slots = asyncio.Semaphore(LOOKUPS_MAX)

        async def holders(content_id: bytes) -> int:
            async with slots:
                found = await self._core.holders_of_content(content_id)
            return len({each.peer_id for each in found} - {self._core.identity.peer_id}) + 1

        async with asyncio.TaskGroup() as group:
            counts = [group.create_task(holders(share.content_id)) for share in shares]
        for share, count in zip(shares, counts, strict=True):
            await reporter.item(
                ShareView(
                    share.name,
                    share.size_bytes,
                    show_content_id(share.content_id),
                    count.result(),
                )
            )

    async def _unshare(self, arguments: Arguments, reporter: Reporter) -> None:
        share = await self._sharing.unshare(arguments.take("name", str))
        await reporter.result(
            ShareView(share.name, share.size_bytes, show_content_id(share.content_id), 0)
        )

    async def _inbox(self, _: Arguments, reporter: Reporter) -> None:
        for view in self._sending.inbox():
            await reporter.item(view)

    async def _outbox(self, _: Arguments, reporter: Reporter) -> None:
        for view in await self._sending.outbox():
            await reporter.item(view)

    async def _outbox_cancel(self, arguments: Arguments, reporter: Reporter) -> None:
        await reporter.result(await self._sending.cancel(arguments.take("id", str)))

    # Peers

    async def _peers(self, _: Arguments, reporter: Reporter) -> None:
        for view in await self._presence.current():
            await reporter.item(view)

    async def _status(self, _: Arguments, reporter: Reporter) -> None:
        await reporter.result(await self._sending.told_by_status(self._facts.status()))

    async def _snapshot(self, _: Arguments, reporter: Reporter) -> None:
        await self._core.dht.check(None)
        await reporter.result(self._facts.snapshot())

    async def _invite(self, _: Arguments, reporter: Reporter) -> None:
        await reporter.result(InviteView(self._facts.invite()))

    async def _leave(self, _: Arguments, _reporter: Reporter) -> None:
        self._facts.leave()

    async def _contact_add(self, arguments: Arguments, reporter: Reporter) -> None:
        nickname = arguments.take("nickname", str)
        if not nickname.strip() or len(nickname.encode()) > NICKNAME_BYTES_MAX:
            raise BadInput(f"a nickname has 1 to {NICKNAME_BYTES_MAX} bytes")
        text = arguments.take("id", str)
        try:
            peer_id = parse_peer_id(text)
        except InvalidPeerId as error:
            raise BadInput(str(error), hint="`shoal peers` lists whole ids") from error
        self._core.contacts.add(nickname, peer_id, may_send=True)
        await reporter.result(ContactView(nickname, show_peer_id(peer_id)))

    async def _contact_list(self, _: Arguments, reporter: Reporter) -> None:
        for pin in self._core.contacts.pins():
            await reporter.item(contact_view(pin))

    async def _contact_remove(self, arguments: Arguments, reporter: Reporter) -> None:
        nickname = arguments.take("nickname", str)
        pin = self._core.contacts.pinned(nickname)
        if pin is None or not self._core.contacts.remove(nickname):
            raise NotFound(f"no contact is named {nickname!r}", hint="`shoal contact list`")
        await reporter.result(contact_view(pin))


def _timeout_s(arguments: Arguments) -> float | None:
    timeout_s = arguments.get("timeout_s", float)
    if timeout_s is not None and not 0 < timeout_s < math.inf:
        raise BadInput(f"{timeout_s} s is no time to wait", hint="--timeout takes seconds")
    return timeout_s


def contact_view(pin: Pin) -> ContactView:
    """Show whom a nickname means."""
    return ContactView(pin.nickname, show_peer_id(pin.peer_id), added=pin.may_send)


def found_view(offer: Offer) -> FoundView:
    """Show an offer as a line of `search`."""
    return FoundView(
        offer.name, offer.size_bytes, show_content_id(offer.content_id), len(offer.holders)
    )


def get_view(wanted: Wanted, result: DownloadResult) -> GetView:
    """Show a finished download."""
    return GetView(
        path=str(result.path),
        size=result.size_bytes,
        content_id=show_content_id(result.content_id),
        sources=result.sources,
        fetched_bytes=result.fetched_bytes,
        seconds=round(result.seconds, 3),
        name=wanted.name,
        source_bytes={show_peer_id(p): count for p, count in result.by_holder.items()},
    )
