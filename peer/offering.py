"""What a peer shares from its start: what it shared before, and the files and folders of `--share`.

Owns the order: what was shared first, then single files, then folders, which are watched until the
end. Must not know how files are hashed or records published.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from identity.errors import ShoalError
from peer.core import Core
from peer.errors import BadInput
from peer.failures import failure_of
from peer.home import Home
from peer.sharing import Sharing, check_source
from peer.watched import Watched
from peer.watching import FolderWatch

FOLDERS_MAX = 64

_log = logging.getLogger(__name__)


class Offering:
    """The shares of a running peer's start; `run` is a task of the peer."""

    def __init__(
        self, core: Core, sharing: Sharing, paths: Sequence[Path], note: Callable[[str, str], None]
    ) -> None:
        self._core = core
        self._sharing = sharing
        self._note = note
        folders = outermost([path for path in paths if path.is_dir()])
        self._files = [path for path in paths if not path.is_dir()]
        self.watches = [FolderWatch(core, sharing, folder, note) for folder in folders]

    async def run(self) -> None:
        """Offer everything, then watch the folders until cancelled."""
        watched = Watched(self._core.database).paths_in([each.folder for each in self.watches])
        try:
            for line in await self._sharing.resume(watched=watched):
                self._note(line, "`shoal put` shares it anew")
        except ShoalError as error:
            failure = failure_of(error)
            self._note(f"not all is shared: {failure.message}", failure.hint)
        for path in self._files:
            await self._put(path)
        async with asyncio.TaskGroup() as group:
            for watch in self.watches:
                group.create_task(self._watch(watch))

    async def _put(self, path: Path) -> None:
        try:
            published = await self._sharing.put(path, None)
        except ShoalError as error:
            failure = failure_of(error)
            self._note(f"not shared: {failure.message}", failure.hint)
        else:
            _log.info("shared %r on %d peers", published.share.name, published.stored_on)

    async def _watch(self, watch: FolderWatch) -> None:
        try:
            await watch.run()
        except (ShoalError, OSError) as error:  # the home's disk is full, say: the peer goes on
            failure = failure_of(error)
            self._note(f"{watch.folder} is watched no longer: {failure.message}", failure.hint)


def check_shares(paths: Sequence[Path], home: Home) -> None:
    """Refuse what cannot be shared from the start; raises BadInput."""
    folders = [path for path in paths if path.is_dir()]
    for path in paths:
        if path not in folders:
            check_source(path)
        elif home.path.exists() and path.samefile(home.path):
            raise BadInput(f"{path} is this peer's home, which holds its key")
    if len(folders) > FOLDERS_MAX:
        raise BadInput(f"{len(folders)} folders are too many to watch; {FOLDERS_MAX} can be")


def outermost(folders: Sequence[Path]) -> list[Path]:
    """Leave out folders that lie inside others or come twice: they are watched with those."""
    distinct = list(dict.fromkeys(folders))
    return [each for each in distinct if not any(other in each.parents for other in distinct)]
