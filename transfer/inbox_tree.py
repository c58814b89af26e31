"""A folder that arrives in the inbox, from the first byte of its stream to its name.

Owns the partial folder of an arrival, what of it is believed in a later attempt, and the steps by
which it becomes one folder in the inbox. Blocking work runs in threads. Knows no network and no
sender; the stream is that of folder_stream.py.

The partial folder is `.shoal-<16 hex>.part`, laid out and journaled as that of a get
(tree_part.py): each file is verified before it is written, and believed in a later attempt while it
verifies. A finished folder never replaces anything: `name` becomes `name (2)`.

The last step has two halves, as a file's has, so that whoever keeps a journal can write it in
between. `place` completes the folder, puts the mark into it, an empty file of the partial folder's
name, syncs all of it, and renames it into the inbox; `release` takes away the mark and what is left
of the partial folder. An arrival whose partial folder has no files any more looks for its mark in
the inbox: after a crash nothing comes twice.

States: arriving (with `tree/`) -> placed (without it; the mark is in a folder of the inbox) ->
released (no partial folder).
"""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from identity.files import write_at
from transfer.errors import (
    BadContent,
    BadManifest,
    Refused,
    TargetUnwritable,
    TransferError,
    UnsafeTree,
)
from transfer.folder_stream import (
    MANIFEST,
    Came,
    Described,
    FolderReader,
    Found,
    Listed,
    parts_of,
    parts_start,
)
from transfer.inbox_room import InboxRoom, count_of
from transfer.names import NAME_TRIES_MAX, numbered
from transfer.partial import sync_folder, target_error
from transfer.threads import run_to_end
from transfer.tree import Tree, decode_tree
from transfer.tree_finish import complete
from transfer.tree_part import FILES, LISTING, TreePart, kept_manifest
from transfer.tree_plan import plan_of
from transfer.tree_walk import PART_NAME

WHOLE = 2**64 - 1
"""What is committed of a folder that is whole, however long its stream is."""
ADOPT_FILES_MAX = 256


@dataclass(frozen=True, slots=True)
class TreeFacts:
    """What is told of a folder."""

    size_bytes: int
    """Sum of the sizes of all files."""
    files: int

    @classmethod
    def of(cls, tree: Tree) -> "TreeFacts":
        return cls(tree.manifest.tree_bytes, sum(entry.is_file for entry in tree.entries))


class InboxTree:
    """A folder in arrival: write in order, then `place` and `release`, or `close`."""

    def __init__(
        self, target: Path, part: Path, room: InboxRoom, size_bytes_max: int, content_id: bytes
    ) -> None:
        self._target = target
        self._part_path = part
        self._room = room
        self._size_bytes_max = size_bytes_max
        self._reader = FolderReader(content_id)
        self._part: TreePart | None = None
        self._placed: Path | None = None
        self._has_failed = False
        self.facts: TreeFacts | None = None
        """Known from when the listing is there."""
        self.committed_bytes = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return self._placed is not None or (self._reader.is_whole and not self._has_failed)

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        """Take the next bytes of the stream; what is committed already may come again.

        BadContent, BadManifest, UnsafeTree, Refused for what is never taken; QuotaFull, DiskFull.
        """
        assert offset <= self.committed_bytes, "a stream comes in order"
        news = memoryview(data)[self.committed_bytes - offset :]
        if news:
            await run_to_end(lambda: self._take(news))
            self.committed_bytes += len(news)

    async def place(self, _content_id: bytes | None = None) -> Path:
        """Make the folder durable and visible, with its mark; returns where it is."""
        if self._placed is not None:
            return self._placed
        if not self.is_whole:
            raise BadContent("the folder is incomplete")
        return await run_to_end(self._place)

    async def release(self) -> None:
        """Take the mark from a placed folder: from now on another arrival is another folder."""
        placed = self._placed
        assert placed is not None
        await run_to_end(lambda: self._release(placed))

    async def close(self) -> None:
        """End this attempt; an unfinished folder stays for the next one. Twice does nothing."""
        await run_to_end(self.close_blocking)

    def close_blocking(self) -> None:
        """Journal what was written, and let go of the partial folder."""
        part, self._part = self._part, None
        if part is None:
            return
        if part.has_begun and self._placed is None:
            with suppress(TransferError):
                part.flush(wait=True)
        part.close()
        self._room.end(self._part_path, self._placed)

    def begin(self, content_id: bytes, size_bytes: int) -> None:
        """Open the partial folder, or find where an earlier attempt placed it."""
        self._target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._placed = find_placed(self._part_path)
        if self._placed is not None:
            self.committed_bytes = WHOLE
            self.facts = _facts_of(self._placed, self._part_path, content_id)
            return
        self._part = TreePart(self._target, content_id, updates=False, path=self._part_path)
        self._room.promise(self._part_path, size_bytes)
        manifest = self._part.kept_manifest(content_id)
        if manifest is not None:
            self._resume(decode_tree(self._part.listing_path.read_bytes(), manifest))

    def _resume(self, tree: Tree) -> None:
        """Believe what verifies, and go on at the first part that is missing."""
        part = self._open_part
        plan = plan_of(tree)
        self._admit(tree)
        part.begin(tree, plan)
        for at in range(0, len(plan.contents), ADOPT_FILES_MAX):
            part.adopt(range(at, min(len(plan.contents), at + ADOPT_FILES_MAX)))
        part.adopted()
        offset, first = parts_start(tree.manifest), 0
        for each in parts_of(plan):
            if each.chunk == MANIFEST:
                is_here = part.manifest_of(each.content) is not None
            else:
                holding = part.state.holdings.get(each.content)
                is_here = holding is not None and bool(holding.chunks >> each.chunk & 1)
            if not is_here:
                break
            offset, first = offset + each.size_bytes, first + 1
        self._reader = FolderReader.resumed(tree, plan, first, part.manifest_of)
        self.committed_bytes = WHOLE if self._reader.is_whole else offset

    @property
    def _open_part(self) -> TreePart:
        assert self._part is not None, "the arrival is over"
        return self._part

    def _take(self, data: memoryview) -> None:
        part = self._open_part
        self._has_failed = True
        try:
            for found in self._reader.feed(data):
                self._write(part, found)
        except OSError as error:
            raise target_error(error, self._target) from error
        self._has_failed = False

    def _write(self, part: TreePart, found: Found) -> None:
        match found:
            case Listed(tree, plan):
                self._admit(tree)
                _write_listing(part.listing_path, tree.listing)
                part.keep_tree_manifest(tree.manifest)
                part.begin(tree, plan)
                part.adopted()
            case Described(content, manifest):
                part.keep_manifest(content, manifest)
            case Came(content, chunk, data):
                if part.state.plan.contents[content].is_small:
                    part.write_small(content, memoryview(data))
                else:
                    part.write_piece(content, chunk, [memoryview(data)])

    def _admit(self, tree: Tree) -> None:
        """Make room for all files, or refuse, now that the listing says what comes."""
        self.facts = TreeFacts.of(tree)
        if self.facts.size_bytes > self._size_bytes_max:
            raise Refused("the folder is larger than the receiver takes")
        if any(PART_NAME.fullmatch(entry.path.partition("/")[0]) for entry in tree.entries):
            raise UnsafeTree("the folder holds a name that partial files have here")
        size_bytes = self.facts.size_bytes + tree.manifest.size_bytes
        self._room.promise(self._part_path, size_bytes, files=len(tree.entries))

    def _place(self) -> Path:
        part = self._open_part
        folder, root = self._target.parent, part.path / FILES
        try:
            mark = root / part.path.name
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            complete(part)
            part.files.forget()
            sync_folder(folder)  # the partial folder leads the way to the mark
            for attempt in range(1, NAME_TRIES_MAX + 1):
                target = folder / numbered(self._target.name, attempt)
                # An empty folder would be replaced, which loses nothing: this is for its name.
                if os.path.lexists(target):
                    continue
                root.rename(target)
                self._placed = target
                sync_folder(folder)
                return target
        except OSError as error:
            raise target_error(error, self._target) from error
        raise TargetUnwritable(f"the inbox has too many things named {self._target.name!a}")

    def _release(self, placed: Path) -> None:
        self.close_blocking()
        try:
            _remove_mark(placed, self._part_path.name)
            _remove(self._part_path)
        except OSError as error:
            raise target_error(error, self._target) from error


def open_tree(
    target: Path,
    part: Path,
    content_id: bytes,
    room: InboxRoom,
    size_bytes: int,
    *,
    size_bytes_max: int,
) -> InboxTree:
    """Begin or resume the arrival of a folder; QuotaFull, DiskFull, TargetBusy and others."""
    arrival = InboxTree(target, part, room, size_bytes_max, content_id)
    try:
        arrival.begin(content_id, size_bytes)
    except OSError as error:
        arrival.close_blocking()
        raise target_error(error, target) from error
    except BaseException:
        arrival.close_blocking()
        raise
    return arrival


def find_placed(part: Path) -> Path | None:
    """Return the folder of the inbox in which an earlier attempt left its mark."""
    if not part.is_dir() or (part / FILES).exists():
        return None
    with os.scandir(part.parent) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and os.path.lexists(Path(entry, part.name)):
                return Path(entry)
    return None


def remove_tree(part: Path) -> None:
    """Take away a partial folder, and its mark where it was placed before; OSError."""
    placed = find_placed(part)
    if placed is not None:
        _remove_mark(placed, part.name)
    _remove(part)


def _remove_mark(placed: Path, name: str) -> None:
    """Take the mark from a folder, durably, before anything else of its arrival goes."""
    with suppress(FileNotFoundError):
        (placed / name).unlink()
        sync_folder(placed)


def _remove(part: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(part)


def _facts_of(placed: Path, part: Path, content_id: bytes) -> TreeFacts:
    """Tell what came, by the listing that is still there; else by what lies in the folder."""
    manifest = kept_manifest(part, content_id)
    if manifest is not None:
        with suppress(OSError, BadManifest):
            return TreeFacts.of(decode_tree((part / LISTING).read_bytes(), manifest))
    count = count_of(placed)
    return TreeFacts(count.size_bytes, count.files)


def _write_listing(path: Path, listing: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_at(descriptor, listing, 0)
    finally:
        os.close(descriptor)
