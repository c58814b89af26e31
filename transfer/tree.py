"""Folders: the listing of a tree, its canonical bytes, and the pieces in which it is fetched.

Owns the codec of a listing and the rules that make it canonical. Pure; knows no file and no
network. A tree's content id is that of its TreeManifest (manifest.py), which describes the listing
as if it were a file: so a listing of any length is fetched and verified in chunks.

Listing (docs/protocol/transfer.md): entries in the order of their paths' bytes, each: kind, 1 byte
· length of the path, 2 bytes · path, UTF-8, parts joined by `/` · then for a file (`f`, executable
`x`) its size, 8 bytes, and content id, 32 bytes; for a link (`l`) the length of its target,
2 bytes, and the target; for an empty folder (`d`) nothing. Other folders follow from the paths.
"""

import dataclasses
import enum
import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence

from transfer.errors import BadManifest, TreeTooLarge
from transfer.manifest import (
    CHUNK_SIZE_MIN_BYTES,
    CONTENT_ID_BYTES,
    FILE_SIZE_MAX_BYTES,
    LISTING_BYTES_MAX,
    TREE_BYTES_MAX,
    TREE_ENTRIES_MAX,
    TreeManifest,
    chunk_size_for,
    content_id_of_chunk,
    digest_of,
)
from transfer.tree_paths import check_layout

PACK_FILES_MAX = 128
"""Small files that are asked for together."""
PACK_BYTES_MAX = CHUNK_SIZE_MIN_BYTES
"""Their bytes."""
SMALL_BYTES_MAX = CHUNK_SIZE_MIN_BYTES
"""A file up to this size is one chunk; its content id alone verifies it."""
EMPTY_CONTENT_ID = content_id_of_chunk(b"")

_HEAD = struct.Struct(">cH")
_FILE = struct.Struct(f">Q{CONTENT_ID_BYTES}s")
_TARGET = struct.Struct(">H")


class EntryKind(enum.Enum):
    """What an entry of a folder is."""

    FILE = b"f"
    EXECUTABLE = b"x"
    LINK = b"l"
    FOLDER = b"d"


_KINDS = {kind.value: kind for kind in EntryKind}


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a folder; size and content id of a file, target of a link."""

    path: str
    kind: EntryKind
    size_bytes: int = 0
    content_id: bytes = b""
    target: str = ""

    @property
    def is_file(self) -> bool:
        return self.kind in (EntryKind.FILE, EntryKind.EXECUTABLE)


@dataclasses.dataclass(frozen=True, slots=True)
class Tree:
    """A folder: its manifest and its entries in canonical order."""

    manifest: TreeManifest
    entries: tuple[Entry, ...]
    listing: bytes = dataclasses.field(repr=False)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> "Tree":
        """Build a tree from entries in any order; UnsafeTree, TreeTooLarge."""
        ordered = tuple(sorted(entries, key=lambda entry: entry.path.encode()))
        if len(ordered) > TREE_ENTRIES_MAX:
            raise TreeTooLarge(f"a folder has at most {TREE_ENTRIES_MAX:,} entries")
        _check(ordered)
        listing = b"".join(_encode(entry) for entry in ordered)
        if len(listing) > LISTING_BYTES_MAX:
            raise TreeTooLarge("the names in the folder are too long in all")
        tree_bytes = sum(entry.size_bytes for entry in ordered)
        if tree_bytes > TREE_BYTES_MAX:
            raise TreeTooLarge("the folder holds more than 1 TiB")
        manifest = TreeManifest(len(listing), _digests(listing), len(ordered), tree_bytes)
        return cls(manifest, ordered, listing)


def decode_tree(listing: bytes, manifest: TreeManifest) -> Tree:
    """Parse a listing that was verified against its manifest; BadManifest, UnsafeTree."""
    entries = tuple(_entries_in(listing))
    if len(entries) != manifest.entry_count:
        raise BadManifest("a folder has another number of entries than it says")
    if sum(entry.size_bytes for entry in entries) != manifest.tree_bytes:
        raise BadManifest("a folder has another size than it says")
    paths = [entry.path.encode() for entry in entries]
    if any(one >= other for one, other in itertools.pairwise(paths)):
        raise BadManifest("the entries of a folder are not in order")
    _check(entries)
    return Tree(manifest, entries, listing)


def _check(entries: Sequence[Entry]) -> None:
    links = {entry.path: entry.target for entry in entries if entry.kind is EntryKind.LINK}
    check_layout((entry.path for entry in entries), links)


def _digests(listing: bytes) -> bytes:
    size = chunk_size_for(len(listing))
    view = memoryview(listing)
    return b"".join(digest_of(view[at : at + size]) for at in range(0, len(listing), size))


def _encode(entry: Entry) -> bytes:
    path = entry.path.encode()
    head = _HEAD.pack(entry.kind.value, len(path)) + path
    match entry.kind:
        case EntryKind.FILE | EntryKind.EXECUTABLE:
            return head + _FILE.pack(entry.size_bytes, entry.content_id)
        case EntryKind.LINK:
            target = entry.target.encode()
            return head + _TARGET.pack(len(target)) + target
        case EntryKind.FOLDER:
            return head


def _entries_in(listing: bytes) -> Iterator[Entry]:
    at, count = 0, 0
    try:
        while at < len(listing):
            entry, at = _decode(listing, at)
            count += 1
            if at > len(listing) or count > TREE_ENTRIES_MAX:
                raise BadManifest("a folder's listing is cut short or too long")
            yield entry
    except (struct.error, UnicodeDecodeError, KeyError) as error:
        raise BadManifest("a folder's listing is malformed") from error


def _decode(listing: bytes, at: int) -> tuple[Entry, int]:
    """Read the entry at a place and return it with the place of the next one."""
    letter, length = _HEAD.unpack_from(listing, at)
    kind = _KINDS[letter]
    at += _HEAD.size
    path = listing[at : at + length].decode()
    at += length
    match kind:
        case EntryKind.FILE | EntryKind.EXECUTABLE:
            size_bytes, content_id = _FILE.unpack_from(listing, at)
            if size_bytes > FILE_SIZE_MAX_BYTES:
                raise BadManifest("a file in a folder is too large")
            if (size_bytes == 0) != (content_id == EMPTY_CONTENT_ID):
                raise BadManifest("an empty file in a folder has a content")
            return Entry(path, kind, size_bytes, content_id), at + _FILE.size
        case EntryKind.LINK:
            (length,) = _TARGET.unpack_from(listing, at)
            at += _TARGET.size
            target = listing[at : at + length].decode()
            return Entry(path, kind, target=target), at + length
        case EntryKind.FOLDER:
            return Entry(path, kind), at
