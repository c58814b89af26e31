"""`--share DIR`: a folder whose files are shared as they come, change and go.

Owns one folder's turns: hear, look, compare, hash, offer or withdraw. What is seen is scanning's to
say, what is to be done settling's, what is remembered watched's. Must not know how records travel.

Each turn looks through the whole folder, so that it does not matter what was heard: an overflow of
the kernel's queue or a missed event is only a later turn. Looking takes a twentieth of the time at
most.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from identity.errors import ShoalError
from peer.ahead import in_order
from peer.bell import Bell
from peer.catalog import Share
from peer.core import Core
from peer.scanning import Scan, Seen, scan, shared_name
from peer.settling import QUIET_S, Known, Plan, Settling, State
from peer.sharing import Sharing, why_changed
from peer.watched import Watched
from transfer.errors import SourceChanged

GROUP_MAX = 256
"""Files whose records are published together."""
GROUP_S = 2.0
OFFER_MAX = 1_024
"""Files that one turn offers; what changed or went meanwhile has its turn then."""
DEBOUNCE_S = 0.2
"""What rings in a burst is looked at once."""
LOOKING_SHARE = 20
"""A look that took one second is followed by at least so many without one."""
RESCAN_S = 60.0
"""How often it is looked through though nothing rang."""
POLL_S = 5.0
"""The same where not everything is heard."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class _Hashed:
    """A file that was hashed, or why it could not be."""

    path: str
    seen: Seen
    share: Share | None
    error: ShoalError | None = None


class FolderWatch:
    """One watched folder; `run` is a task of the peer."""

    def __init__(
        self,
        core: Core,
        sharing: Sharing,
        folder: Path,
        note: Callable[[str, str], None],
        *,
        quiet_s: float = QUIET_S,
    ) -> None:
        self.folder = folder
        self._core = core
        self._sharing = sharing
        self._note = note
        self._watched = Watched(core.database)
        self._quiet_s = quiet_s
        self._settling = Settling()
        self._told = ("", "")
        self.turns = 0
        """Looks so far."""

    @property
    def waiting(self) -> int:
        """Files that are not dealt with yet."""
        return self._settling.waiting

    async def run(self) -> None:
        """Keep what is shared as the folder is, until cancelled."""
        await self._remember()
        bell = Bell()
        try:
            while True:
                await self._turn(bell)
        finally:
            bell.close()

    async def _turn(self, bell: Bell) -> None:
        bell.hush()
        began = time.monotonic()
        self._settling.lost(self._watched.lost(self.folder))
        found, plan, is_new = await asyncio.to_thread(self._look, bell)
        took_s = time.monotonic() - began
        self._take_up_again()
        # In this order: what was renamed keeps its name all the time.
        await self._offer(sorted(plan.offer)[:OFFER_MAX])
        await self._withdraw(plan.withdraw)
        self._tell(found, bell)
        self.turns += 1
        if len(plan.offer) > OFFER_MAX:
            return
        await bell.wait(self._pause_s(plan, bell, is_new=is_new))
        await asyncio.sleep(max(DEBOUNCE_S, took_s * LOOKING_SHARE))

    def _pause_s(self, plan: Plan, bell: Bell, *, is_new: bool) -> float:
        if is_new:
            return 0.0  # what changed between the look and the listening was not heard
        pause_s = POLL_S if bell.trouble else RESCAN_S
        if plan.look_at is not None:
            pause_s = min(pause_s, max(0.0, plan.look_at - time.monotonic()))
        return pause_s

    def _look(self, bell: Bell) -> tuple[Scan, Plan, bool]:
        """Look and compare, in a thread: it may take a second."""
        found = scan(self.folder, self._core.home.path)
        plan = self._settling.look(found, now=time.monotonic(), wall_ns=time.time_ns())
        return found, plan, bell.listen(found.folders)

    async def _remember(self) -> None:
        """Take over what earlier runs knew, page by page."""
        known: dict[str, Known] = {}
        last = ""
        while page := self._watched.page(self.folder, last):
            known.update(page)
            last = page[-1][0]
            await asyncio.sleep(0)
        self._settling = Settling(known, quiet_s=self._quiet_s)

    # Withdrawing

    async def _withdraw(self, paths: Sequence[str]) -> None:
        for start in range(0, len(paths), GROUP_MAX):
            some = paths[start : start + GROUP_MAX]
            try:
                await self._sharing.drop_all(self._core.catalog.shares_at(some))
            finally:
                self._watched.forget(some)
                for path in some:
                    self._settling.withdrawn(path)
            _log.info("%d files of %s are no longer shared", len(some), self.folder)

    # Offering

    def _take_up_again(self) -> None:
        """What was left out and is put by hand is a file of the folder like others again."""
        files: list[tuple[str, Known]] = []
        for path in self._watched.put_again(self.folder):
            known = self._settling.known(path)
            if known is not None:
                files.append((path, Known(known.seen, State.OFFERED)))
        self._settle(files)

    async def _offer(self, files: Sequence[tuple[str, Seen]]) -> None:
        """Hash and offer files in groups; what cannot be shared is settled as such."""
        wanted = await self._wanted(files)
        group: list[_Hashed] = []
        began = time.monotonic()
        works = [self._hashing(path, seen) for path, seen in wanted]
        async with aclosing(in_order(works)) as hashed:
            async for each in hashed:
                if each.share is not None:
                    group.append(each)
                elif isinstance(each.error, SourceChanged):
                    continue  # it is looked at again
                else:
                    _log.info("not shared: %s", each.error)
                    self._settle([(each.path, Known(each.seen, State.REFUSED))])
                if len(group) >= GROUP_MAX or time.monotonic() - began > GROUP_S:
                    await self._offer_group(group)
                    group, began = [], time.monotonic()
        await self._offer_group(group)

    async def _wanted(self, files: Sequence[tuple[str, Seen]]) -> list[tuple[str, Seen]]:
        """Return what is to be hashed: not what is shared already, nor what has no free name."""
        wanted: list[tuple[str, Seen]] = []
        names: set[str] = set()
        settled: list[tuple[str, Known]] = []
        for number, (path, seen) in enumerate(files):
            if number % GROUP_MAX == 0:
                await asyncio.sleep(0)
            state = self._state_before(path, seen, names)
            if state is None:
                names.add(shared_name(path))
                wanted.append((path, seen))
            else:
                settled.append((path, Known(seen, state)))
        for start in range(0, len(settled), GROUP_MAX):
            self._settle(settled[start : start + GROUP_MAX])
            await asyncio.sleep(0)
        return wanted

    def _state_before(self, path: str, seen: Seen, names: set[str]) -> State | None:
        """Say how a file is settled without a look into it; None when it is to be hashed."""
        if self._watched.is_unshared(path):
            return State.UNSHARED
        name = shared_name(path)
        share = self._core.catalog.share(name)
        if share is not None and str(share.path) == path:
            is_same = (share.size_bytes, share.mtime_ns, share.inode) == _identity(seen)
            # Without a row it was put by hand, or we were killed before we wrote one.
            return State.OFFERED if is_same and self._settling.known(path) is None else None
        if name in names or (share is not None and why_changed(share) is None):
            return State.CLASHING
        return None

    def _hashing(self, path: str, seen: Seen) -> Callable[[], Coroutine[Any, Any, _Hashed]]:
        async def work() -> _Hashed:
            try:
                share = await self._sharing.hash(Path(path), shared_name(path))
            except ShoalError as error:
                return _Hashed(path, seen, None, error)
            if (share.size_bytes, share.mtime_ns, share.inode) == _identity(seen):
                return _Hashed(path, seen, share)
            # It was replaced since the look, perhaps by a link to somewhere else.
            return _Hashed(path, seen, None, SourceChanged(f"{path} changed"))

        return work

    async def _offer_group(self, group: Sequence[_Hashed]) -> None:
        shares: list[Share] = []
        files: list[tuple[str, Known]] = []
        for each in group:
            assert each.share is not None
            # While it was hashed the person may have unshared it, or given its name to another.
            state = State.OFFERED
            other = self._core.catalog.share(each.share.name)
            if self._watched.is_unshared(each.path):
                state = State.UNSHARED
            elif other is not None and other.path != each.share.path:
                state = State.CLASHING if why_changed(other) is None else State.OFFERED
            if state is State.OFFERED:
                shares.append(each.share)
            files.append((each.path, Known(each.seen, state)))
        if shares:
            try:
                await self._sharing.offer_all(shares, read_back=False)
            except ShoalError as error:
                self._note(f"not all of {self.folder} is shared: {error}", "")
                files = [(path, Known(known.seen, State.REFUSED)) for path, known in files]
        self._settle(files)

    def _settle(self, files: Sequence[tuple[str, Known]]) -> None:
        if not files:
            return
        self._watched.save(self.folder, files)
        for path, known in files:
            self._settling.settled(path, known)

    # Telling

    def _tell(self, found: Scan, bell: Bell) -> None:
        """Say what is not shared, and what is not heard, when that changes."""
        left_out = dict(sorted(found.left_out.items()))
        left_out["files whose name another has"] = self._settling.count(State.CLASHING)
        left_out["files that cannot be read"] = self._settling.count(State.REFUSED)
        said = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
        if (said, bell.trouble) == self._told:
            return
        if said and said != self._told[0]:
            self._note(f"of {self.folder} these are not shared: {said}", "")
        if bell.trouble and bell.trouble != self._told[1]:
            self._note(
                f"not every change of {self.folder} is heard: {bell.trouble}",
                f"it is looked through every {POLL_S:.0f} s instead",
            )
        self._told = (said, bell.trouble)


def _identity(seen: Seen) -> tuple[int, int, int]:
    """What a share remembers of its file."""
    return seen.size_bytes, seen.mtime_ns, seen.inode
