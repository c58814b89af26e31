"""The partial folder beside a target: `.shoal-<16 hex>.part`, with all that a get has of a tree.

Owns its lock, what of it and of an existing target is believed, writing verified contents, syncing
and journaling them in batches. Blocking: callers run it in a thread, one call at a time. How it
becomes the target is in tree_finish.py. Knows no network.

In it lie `listing`, `journal`, `manifests/` (those of large files) and `tree/`, whose files have
their final paths. Links are not made before the end, and every way is opened part by part without
following any: nothing is ever written outside.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from identity.files import read_exactly, write_at
from transfer.bitmap import full_bitmap
from transfer.errors import BadManifest, DiskFull, TargetBusy
from transfer.hashing import Fingerprint
from transfer.manifest import (
    Manifest,
    TreeManifest,
    chunk_size_for,
    content_id_of_chunk,
    decode_manifest,
)
from transfer.partial import part_path_for, target_error
from transfer.safe_folder import SafeFolder, read_all
from transfer.syncing import SYNC_THREADS, sync_files
from transfer.tree import EntryKind, Tree
from transfer.tree_journal import RECORD_FILES_MAX, TreeJournal
from transfer.tree_plan import Content, Plan

COPY_BYTES = 1024 * 1024
LISTING = "listing"
FILES = "tree"
"""The names of what lies in a partial folder."""


@dataclass(slots=True)
class Holding:
    """What of one content is here."""

    chunks: int = 0
    """Chunks that are verified and written, as bits."""
    path: str = ""
    """The file that holds them."""
    in_target: bool = False
    """That file lies in the existing target, not in the partial folder."""


@dataclass(slots=True)
class _State:
    """What is known of the tree while it is fetched."""

    tree: Tree
    plan: Plan
    done: dict[int, Fingerprint] = field(default_factory=dict)
    """Entry → its finished file in the partial folder."""
    kept: dict[int, Fingerprint] = field(default_factory=dict)
    """Entry → its unchanged file in the existing target."""
    holdings: dict[int, Holding] = field(default_factory=dict)
    """Content → what is here of it."""
    manifests: dict[int, Manifest] = field(default_factory=dict)
    """Content → manifest, of large ones."""


class TreePart:
    """An open, locked partial folder."""

    def __init__(
        self, target: Path, content_id: bytes, *, updates: bool, path: Path | None = None
    ) -> None:
        """Open or make it, at a path of its own where one is given.

        TargetBusy, TargetUnwritable, DiskFull.
        """
        self.target = target
        self.path = path or part_path_for(target, content_id)
        self.base: SafeFolder | None = None
        self._lock = -1
        try:
            self._lock = _open_locked(self.path)
            (self.path / FILES).mkdir(exist_ok=True)
            (self.path / "manifests").mkdir(exist_ok=True)
            self.files = SafeFolder(self.path / FILES)
            if updates:
                self.base = SafeFolder(target)
        except OSError as error:
            self.close()
            raise target_error(error, target) from error
        self.journal = TreeJournal(self.path / "journal")
        self._state: _State | None = None
        self._pending: dict[int, Fingerprint] = {}
        self._syncing: Future[None] | None = None
        self._synced: dict[int, Fingerprint] = {}
        self._syncers = ThreadPoolExecutor(SYNC_THREADS + 1, thread_name_prefix="shoal-sync")

    @property
    def listing_path(self) -> Path:
        return self.path / LISTING

    @property
    def state(self) -> _State:
        assert self._state is not None
        return self._state

    def close(self) -> None:
        """Unlock and close; the folder stays. A second call does nothing."""
        for folder in (getattr(self, "files", None), self.base):
            if folder is not None:
                folder.close()
        syncers = getattr(self, "_syncers", None)
        if syncers is not None:
            syncers.shutdown()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # What is there

    def begin(self, tree: Tree, plan: Plan) -> None:
        """Take the tree that is to be fetched, and what the journal says."""
        self._state = _State(tree, plan)
        self._journaled = self.journal.load()

    @property
    def has_begun(self) -> bool:
        return self._state is not None

    def has_files(self) -> bool:
        """Tell whether anything may be here already, in this folder or in the target."""
        with os.scandir(self.path / FILES) as found:
            return self.base is not None or next(found, None) is not None

    def adopt(self, contents: Iterable[int]) -> int:
        """Look which of these contents are here, in part or whole; return how many bytes were read.

        A file is believed when its journaled fingerprint is still that; others are read.
        """
        read_bytes = 0
        try:
            for place in contents:
                read_bytes += self._adopt(place, self.state.plan.contents[place])
        except OSError as error:
            raise target_error(error, self.target) from error
        return read_bytes

    def adopted(self) -> None:
        """End the looking: the journal is written anew with what was believed."""
        try:
            self.journal.begin(self.state.done)
        except OSError as error:
            raise target_error(error, self.target) from error

    def require_room(self, missing_bytes: int) -> None:
        """Raise DiskFull now rather than after the download."""
        status = os.fstatvfs(self._lock)
        if status.f_bavail * status.f_frsize < missing_bytes:
            raise DiskFull(f"not enough room for {self.target.name!a}")

    def _adopt(self, place: int, content: Content) -> int:
        state = self.state
        read_bytes = 0
        missing: list[int] = []
        for number in content.entries:
            entry = state.tree.entries[number]
            for folder, found in ((self.files, state.done), (self.base, state.kept)):
                status = None if folder is None else folder.look(entry.path)
                if folder is None or status is None or status.st_size != content.size_bytes:
                    continue
                fingerprint = Fingerprint.of(status)
                in_part = folder is self.files
                if not (in_part and self._journaled.get(number) == fingerprint):
                    read_bytes += content.size_bytes
                    if not self._verify(folder, entry.path, place, content, fingerprint):
                        continue
                found[number] = fingerprint
                state.holdings[place] = Holding(
                    full_bitmap(_chunks(content)), entry.path, in_target=not in_part
                )
                break
            else:
                missing.append(number)
        if missing and self.is_whole(place):
            self._copy(place, missing)
        return read_bytes

    def _verify(
        self, folder: SafeFolder, path: str, place: int, content: Content, expected: Fingerprint
    ) -> bool:
        """Read a file and tell whether it is the content; note the chunks of a large one."""
        try:
            descriptor = folder.read(path)
        except OSError:
            return False
        try:
            if content.is_small:
                data = read_all(descriptor, content.size_bytes)
                return content_id_of_chunk(data) == content.content_id
            manifest = _manifest_of(descriptor, content.size_bytes)
            unchanged = Fingerprint.of(os.fstat(descriptor)) == expected
        finally:
            os.close(descriptor)
        if unchanged and manifest.content_id == content.content_id:
            self.state.manifests[place] = manifest
            return True
        first = self.state.tree.entries[content.entries[0]].path
        if folder is self.files and path == first:
            known = self.manifest_of(place)
            if known is not None:
                chunks = sum(
                    1 << chunk
                    for chunk in range(known.chunk_count)
                    if known.digest(chunk) == manifest.digest(chunk)
                )
                self.state.holdings[place] = Holding(chunks, path)
        return False

    # Manifests of large contents

    def manifest_of(self, place: int) -> Manifest | None:
        """Return the manifest of a large content, kept from an earlier get too."""
        known = self.state.manifests.get(place)
        if known is None:
            content_id = self.state.plan.contents[place].content_id
            try:
                data = (self.path / "manifests" / content_id.hex()).read_bytes()
                known = decode_manifest(data, content_id)
            except (FileNotFoundError, BadManifest):
                return None
            self.state.manifests[place] = known
        return known

    def kept_manifest(self, tree_id: bytes) -> TreeManifest | None:
        """Return the tree's manifest where its listing is here, and verifies."""
        return kept_manifest(self.path, tree_id)

    def keep_tree_manifest(self, manifest: TreeManifest) -> None:
        """Remember the tree's manifest, now that its listing is here."""
        self._keep(manifest)

    def keep_manifest(self, place: int, manifest: Manifest) -> None:
        """Remember the verified manifest of a large content."""
        self.state.manifests[place] = manifest
        self._keep(manifest)

    def _keep(self, manifest: Manifest) -> None:
        path = self.path / "manifests" / manifest.content_id.hex()
        try:
            path.with_suffix(".new").write_bytes(manifest.encode())
            path.with_suffix(".new").replace(path)
        except OSError as error:
            raise target_error(error, self.target) from error

    # Writing

    def is_whole(self, place: int) -> bool:
        """Tell whether a content is here from its first to its last byte."""
        holding = self.state.holdings.get(place)
        if holding is None:
            return False
        return holding.chunks == full_bitmap(_chunks(self.state.plan.contents[place]))

    def write_small(self, place: int, data: memoryview) -> None:
        """Write a verified small content to each of its paths."""
        if self.is_whole(place):
            return
        state = self.state
        content = state.plan.contents[place]
        try:
            for number in content.entries:
                if number not in state.done and number not in state.kept:
                    self._write_file(number, lambda out: write_at(out, data, 0))
            first = state.tree.entries[content.entries[0]].path
            state.holdings[place] = Holding(1, first)
        except OSError as error:
            raise target_error(error, self.target) from error

    def write_empty(self, number: int) -> None:
        """Make an empty file."""
        self._write_file(number, lambda _: None)

    def write_piece(self, place: int, chunk: int, pieces: Sequence[memoryview]) -> None:
        """Write a verified chunk of a large content; its other paths follow with the last one."""
        state = self.state
        content, manifest = state.plan.contents[place], state.manifests[place]
        number = content.entries[0]
        entry = state.tree.entries[number]
        holding = state.holdings.setdefault(place, Holding(0, entry.path))
        if holding.chunks >> chunk & 1:
            return
        try:
            out = self.files.write(
                holding.path, executable=entry.kind is EntryKind.EXECUTABLE, truncate=False
            )
            try:
                offset, _ = manifest.span(chunk)
                if os.fstat(out).st_size != content.size_bytes:
                    os.ftruncate(out, content.size_bytes)
                for piece in pieces:
                    write_at(out, piece, offset)
                    offset += len(piece)
                holding.chunks |= 1 << chunk
                if self.is_whole(place):
                    self._written(number, Fingerprint.of(os.fstat(out)))
            finally:
                os.close(out)
            if self.is_whole(place):
                self._copy(place, content.entries[1:])
        except OSError as error:
            raise target_error(error, self.target) from error

    def _copy(self, place: int, numbers: Sequence[int]) -> None:
        """Write a content that is here to its other paths."""
        state = self.state
        holding, size = state.holdings[place], state.plan.contents[place].size_bytes
        wanted = [each for each in numbers if each not in state.done and each not in state.kept]
        if not wanted:
            return
        folder = self.base if holding.in_target else self.files
        assert folder is not None
        source = folder.read(holding.path)
        try:
            for number in wanted:
                self._write_file(number, lambda out: _copy_all(source, out, size))
        finally:
            os.close(source)

    def _write_file(self, number: int, fill: Callable[[int], None]) -> None:
        entry = self.state.tree.entries[number]
        out = self.files.write(
            entry.path, executable=entry.kind is EntryKind.EXECUTABLE, truncate=True
        )
        try:
            fill(out)
            self._written(number, Fingerprint.of(os.fstat(out)))
        finally:
            os.close(out)

    # Syncing and journaling

    def _written(self, number: int, fingerprint: Fingerprint) -> None:
        self.state.done[number] = fingerprint
        self._pending[number] = fingerprint
        if len(self._pending) >= RECORD_FILES_MAX:
            self.flush(wait=False)

    def flush(self, *, wait: bool) -> None:
        """Begin to sync what was written; journal the batch before, and with `wait` this one."""
        try:
            self._journal_synced()
            self._synced, self._pending = self._pending, {}
            # As text: thousands of path objects cost as much as their files.
            root, entries = os.fspath(self.path / FILES), self.state.tree.entries
            paths = [f"{root}/{entries[number].path}" for number in self._synced]
            # A thread of its own waits for those that sync.
            self._syncing = self._syncers.submit(
                sync_files, paths, self.files.descriptor, self._syncers
            )
            if wait:
                self._journal_synced()
        except OSError as error:
            raise target_error(error, self.target) from error

    def _journal_synced(self) -> None:
        if self._syncing is not None:
            self._syncing.result()
        if self._synced:
            self.journal.add(self._synced)
        self._syncing, self._synced = None, {}

    def sync_folders(self, folders: Sequence[Path]) -> None:
        """Make the names in these folders durable."""
        sync_files(folders, self.files.descriptor, self._syncers)

    def remove(self) -> None:
        """Take the partial folder away with all that is left in it."""
        shutil.rmtree(self.path, ignore_errors=True)


def kept_manifest(path: Path, tree_id: bytes) -> TreeManifest | None:
    """Return a tree's manifest where its listing is in this partial folder, and verifies."""
    try:
        data = (path / "manifests" / tree_id.hex()).read_bytes()
        manifest = decode_manifest(data, tree_id)
        if not isinstance(manifest, TreeManifest):
            return None
        descriptor = os.open(path / LISTING, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            is_whole = os.fstat(descriptor).st_size == manifest.size_bytes
            listing = _manifest_of(descriptor, manifest.size_bytes)
        finally:
            os.close(descriptor)
    except (OSError, BadManifest):
        return None
    return manifest if is_whole and listing.digests == manifest.digests else None


def _chunks(content: Content) -> int:
    return -(-content.size_bytes // chunk_size_for(content.size_bytes))


def _manifest_of(descriptor: int, size_bytes: int) -> Manifest:
    """Hash an open file; what is missing at its end counts as another content."""
    step = chunk_size_for(size_bytes)
    digests: list[bytes] = []
    for start in range(0, size_bytes, step):
        hasher = blake3()
        end = min(start + step, size_bytes)
        for at in range(start, end, COPY_BYTES):
            hasher.update(read_exactly(descriptor, at, min(COPY_BYTES, end - at)))
        digests.append(hasher.digest())
    return Manifest.of(size_bytes, digests)


def _copy_all(source: int, out: int, size_bytes: int) -> None:
    for at in range(0, size_bytes, COPY_BYTES):
        data = read_exactly(source, at, min(COPY_BYTES, size_bytes - at))
        write_at(out, data, at)


def _open_locked(path: Path) -> int:
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another get may have finished and removed the folder between our open and our lock.
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise TargetBusy("another get has just finished this target")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
