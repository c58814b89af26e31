"""From a folder on disk to its tree.

Owns the walk, what of a folder can be shared at all, and hashing many small files in few turns.
Knows no network. Never follows a link: what is read is what lies in the folder.
"""

import asyncio
import os
import re
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from transfer.errors import SourceChanged, SourceUnreadable, TreeTooLarge, UnsafeTree
from transfer.hashing import Fingerprint, ProgressCallback, hash_file
from transfer.manifest import TREE_ENTRIES_MAX, content_id_of_chunk
from transfer.safe_folder import SafeFolder, read_all
from transfer.tree import SMALL_BYTES_MAX, Entry, EntryKind, Tree
from transfer.tree_paths import DEPTH_MAX, shown_path

HASHED_TOGETHER_MAX = 256
"""Small files that a thread hashes before it tells how far it is."""
THREADS_MAX = 4
PROGRESS_INTERVAL_S = 0.1
PART_NAME = re.compile(r"\.shoal-[0-9a-f]{16}\.part")
"""Partial downloads of our own, which no tree holds."""


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One file of a tree as it lies on the disk."""

    path: str
    content_id: bytes
    fingerprint: Fingerprint
    manifest: bytes | None
    """Canonical bytes where the file has several chunks; else its content alone gives them."""


@dataclass(frozen=True, slots=True)
class HashedTree:
    """A tree and the files that it was made from, in the order of its entries."""

    tree: Tree
    files: tuple[TreeFile, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """What the walk saw."""

    files: list[tuple[str, Fingerprint, bool]]
    """Path, fingerprint, whether it is executable."""
    others: list[Entry]


async def hash_tree(root: Path, progress: ProgressCallback | None = None) -> HashedTree:
    """Walk and hash a folder; UnsafeTree, TreeTooLarge, SourceUnreadable, SourceChanged."""
    found = await asyncio.to_thread(_walk, root)
    count = _Progress(progress, sum(fingerprint.size_bytes for _, fingerprint, _ in found.files))
    small = [item for item in found.files if item[1].size_bytes <= SMALL_BYTES_MAX]
    batches = [
        small[at : at + HASHED_TOGETHER_MAX] for at in range(0, len(small), HASHED_TOGETHER_MAX)
    ]
    hashed: dict[str, TreeFile] = {}
    loop = asyncio.get_running_loop()
    threads = min(THREADS_MAX, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads, thread_name_prefix="shoal-tree") as pool:
        works = [loop.run_in_executor(pool, _hash_small, root, batch) for batch in batches]
        try:
            for work in works:
                for file in await work:
                    hashed[file.path] = file
                    count.add(file.fingerprint.size_bytes)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    for path, fingerprint, _ in found.files:
        if path not in hashed:
            hashed[path] = await _hash_large(root, path, fingerprint)
            count.add(fingerprint.size_bytes)
    return await asyncio.to_thread(_assemble, found, hashed)


def _assemble(found: _Found, hashed: dict[str, TreeFile]) -> HashedTree:
    entries = list(found.others)
    for path, fingerprint, is_executable in found.files:
        kind = EntryKind.EXECUTABLE if is_executable else EntryKind.FILE
        entries.append(Entry(path, kind, fingerprint.size_bytes, hashed[path].content_id))
    tree = Tree.of(entries)
    return HashedTree(tree, tuple(hashed[entry.path] for entry in tree.entries if entry.is_file))


def _walk(root: Path) -> _Found:
    found = _Found([], [])
    try:
        folder = SafeFolder(root)
    except OSError as error:
        raise SourceUnreadable(f"cannot read {root.name!a}: {error.strerror}") from error
    try:
        _walk_into(folder, "", found)
    finally:
        folder.close()
    return found


def _walk_into(root: SafeFolder, path: str, found: _Found) -> None:
    """Collect what lies in a folder; depth first, so that the way to it stays open."""
    if path.count("/") >= DEPTH_MAX:
        raise UnsafeTree(f"the path {shown_path(path)} is more than {DEPTH_MAX} folders deep")
    try:
        names = sorted(os.listdir(root.folder(path)))  # noqa: PTH208 - by descriptor
    except OSError as error:
        raise SourceUnreadable(f"cannot read {shown_path(path)}: {error.strerror}") from error
    is_empty = True
    for name in names:
        if PART_NAME.fullmatch(name):
            continue
        is_empty = False
        below = f"{path}/{name}" if path else name
        try:
            status = os.stat(name, dir_fd=root.folder(path), follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                _walk_into(root, below, found)
            else:
                _take(root, below, status, found)
        except OSError as error:
            raise SourceUnreadable(f"cannot read {shown_path(below)}: {error.strerror}") from error
        if len(found.files) + len(found.others) > TREE_ENTRIES_MAX:
            raise TreeTooLarge(f"a folder has at most {TREE_ENTRIES_MAX:,} entries")
    if is_empty and path:
        found.others.append(Entry(path, EntryKind.FOLDER))


def _take(root: SafeFolder, path: str, status: os.stat_result, found: _Found) -> None:
    _require_text(path)
    if stat.S_ISREG(status.st_mode):
        is_executable = bool(status.st_mode & stat.S_IXUSR)
        found.files.append((path, Fingerprint.of(status), is_executable))
    elif stat.S_ISLNK(status.st_mode):
        folder, name = root.place(path)
        found.others.append(Entry(path, EntryKind.LINK, target=os.readlink(name, dir_fd=folder)))
    else:
        raise UnsafeTree(
            f"{shown_path(path)} is neither a file, a folder nor a link",
            hint="take it out of the folder: it cannot be shared",
        )


def _require_text(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UnsafeTree(
            f"unsafe path {shown_path(path)}: it is not valid Unicode", hint="rename it"
        ) from None


def _hash_small(root: Path, batch: Sequence[tuple[str, Fingerprint, bool]]) -> list[TreeFile]:
    folder = SafeFolder(root)
    try:
        return [_hash_one(folder, path, fingerprint) for path, fingerprint, _ in batch]
    finally:
        folder.close()


def _hash_one(folder: SafeFolder, path: str, fingerprint: Fingerprint) -> TreeFile:
    try:
        descriptor = folder.read(path)
        try:
            data = read_all(descriptor, fingerprint.size_bytes)
            after = Fingerprint.of(os.fstat(descriptor))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SourceUnreadable(f"cannot read {shown_path(path)}: {error.strerror}") from error
    if after != fingerprint or len(data) != fingerprint.size_bytes:
        raise SourceChanged(f"{shown_path(path)} changed while it was read")
    return TreeFile(path, content_id_of_chunk(data), fingerprint, None)


async def _hash_large(root: Path, path: str, fingerprint: Fingerprint) -> TreeFile:
    """Hash a file by its path; had a link led elsewhere, it were another inode."""
    hashed = await hash_file(root / path)
    if hashed.fingerprint != fingerprint:
        raise SourceChanged(f"{shown_path(path)} changed while it was read")
    manifest = hashed.manifest
    return TreeFile(path, manifest.content_id, fingerprint, manifest.encode())


class _Progress:
    """Tells how many bytes are hashed, not too often."""

    def __init__(self, tell: ProgressCallback | None, size_bytes: int) -> None:
        self._tell = tell
        self._size_bytes = size_bytes
        self._done_bytes = 0
        self._told_at = 0.0

    def add(self, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        now = time.monotonic()
        if self._tell is not None and now - self._told_at >= PROGRESS_INTERVAL_S:
            self._told_at = now
            self._tell(self._done_bytes, self._size_bytes)
