"""A folder as one stream of bytes: what is delivered to one peer where a file's bytes would be.

Owns the format, and reading it as it comes, from any place on that a sender may begin at. Pure;
knows no file and no network. Every part is verified before it is given out: against the folder's
content id, which stands for the tree's manifest, and by it the listing and all that follows.

Layout (docs/protocol/transfer.md): `shoal folder 1`, two zero bytes, length of the tree's manifest,
4 bytes · that manifest · the listing · the contents in the order in which the listing first names
them, each once, empty ones left out: one of several chunks is preceded by its manifest. So the
whole stream follows from the content id.
"""

import itertools
import struct
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

from transfer.errors import BadContent, BadManifest, TransferError
from transfer.manifest import (
    DIGEST_BYTES,
    LISTING_BYTES_MAX,
    Manifest,
    TreeManifest,
    chunk_size_for,
    content_id_of_chunk,
    decode_manifest,
    file_header,
    tree_header_bytes,
)
from transfer.tree import Tree, decode_tree
from transfer.tree_plan import Content, Plan, plan_of

MAGIC = b"shoal folder 1\0\0"
_HEAD = struct.Struct(f">{len(MAGIC)}sI")
_MANIFEST_BYTES_MAX = tree_header_bytes() + DIGEST_BYTES * -(
    -LISTING_BYTES_MAX // chunk_size_for(LISTING_BYTES_MAX)
)
MANIFEST = -1
"""Stands for a content's manifest where otherwise a chunk's number stands."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the stream after the listing: a chunk of a content, or its manifest."""

    content: int
    """Place in the plan."""
    chunk: int
    offset: int
    """Of the chunk in the content."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Listed:
    """The listing is there."""

    tree: Tree
    plan: Plan


@dataclass(frozen=True, slots=True)
class Described:
    """The manifest of a content of several chunks is there."""

    content: int
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Came:
    """A verified chunk of a content: all of a small one."""

    content: int
    chunk: int
    data: bytes


Found = Listed | Described | Came


def head_of(manifest: TreeManifest) -> bytes:
    """Return what precedes the listing."""
    encoded = manifest.encode()
    return _HEAD.pack(MAGIC, len(encoded)) + encoded


def parts_of(plan: Plan) -> Iterator[Part]:
    """Return what follows the listing, in order."""
    for place, content in enumerate(plan.contents):
        if content.is_small:
            yield Part(place, 0, 0, content.size_bytes)
            continue
        step = chunk_size_for(content.size_bytes)
        yield Part(place, MANIFEST, 0, _manifest_bytes(content))
        for chunk, at in enumerate(range(0, content.size_bytes, step)):
            yield Part(place, chunk, at, min(step, content.size_bytes - at))


def parts_start(manifest: TreeManifest) -> int:
    """Return where the first part begins."""
    return len(head_of(manifest)) + manifest.size_bytes


def stream_bytes(manifest: TreeManifest, plan: Plan) -> int:
    """Return how long the whole stream is."""
    described = sum(_manifest_bytes(each) for each in plan.contents if not each.is_small)
    return parts_start(manifest) + plan.size_bytes + described


class FolderReader:
    """Reads a stream in order; give it what comes, take what is verified.

    States: head, manifest, listing, then part after part, then whole. Invariants: no more than one
    part is kept (64 MiB at most, 512 KiB but for huge files); nothing is given out unverified; once
    it has failed it takes nothing more. `is_whole` exactly when the last byte was read.
    """

    def __init__(self, content_id: bytes) -> None:
        self._content_id = content_id
        self._found: list[Found] = []
        self._buffer = bytearray()
        self._begin(self._read_all())

    @classmethod
    def resumed(
        cls,
        tree: Tree,
        plan: Plan,
        first_part: int,
        manifest_of: Callable[[int], Manifest | None],
    ) -> "FolderReader":
        """Return a reader that begins at a part; it asks for manifests that come before it."""
        reader = cls(tree.manifest.content_id)
        parts = itertools.islice(parts_of(plan), first_part, None)
        reader._begin(reader._read_parts(plan, parts, manifest_of))
        return reader

    def feed(self, data: bytes | memoryview) -> list[Found]:
        """Take the next bytes; BadContent, BadManifest, UnsafeTree."""
        view = memoryview(data)
        while view:
            if self._has_failed:
                raise BadContent("what came before did not verify")
            if self.is_whole:
                raise BadContent("more comes than the folder holds")
            taken = min(self._wanted - len(self._buffer), len(view))
            self._buffer += view[:taken]
            view = view[taken:]
            self._step()
        found, self._found = self._found, []
        return found

    def _begin(self, steps: Generator[int, bytes, None]) -> None:
        self._steps = steps
        self.is_whole = self._has_failed = False
        self._wanted = self._next(None)
        self._step()

    def _step(self) -> None:
        while len(self._buffer) == self._wanted and not self.is_whole:
            part, self._buffer = bytes(self._buffer), bytearray()
            self._wanted = self._next(part)

    def _next(self, part: bytes | None) -> int:
        try:
            return next(self._steps) if part is None else self._steps.send(part)
        except StopIteration:
            self.is_whole = True
            return 0
        except TransferError:
            self._has_failed = True
            raise

    def _read_all(self) -> Generator[int, bytes, None]:
        magic, length = _HEAD.unpack((yield _HEAD.size))
        if magic != MAGIC or length > _MANIFEST_BYTES_MAX:
            raise BadManifest("this is no folder that this version reads")
        manifest = decode_manifest((yield length), self._content_id)
        if not isinstance(manifest, TreeManifest):
            raise BadManifest("a file stands where a folder should")
        listing = yield manifest.size_bytes
        for chunk in range(manifest.chunk_count):
            offset, size = manifest.span(chunk)
            if not manifest.verifies(chunk, memoryview(listing)[offset : offset + size]):
                raise BadContent("the listing of the folder does not verify")
        tree = decode_tree(listing, manifest)
        plan = plan_of(tree)
        self._found.append(Listed(tree, plan))
        yield from self._read_parts(plan, parts_of(plan), lambda _place: None)

    def _read_parts(
        self, plan: Plan, parts: Iterable[Part], manifest_of: Callable[[int], Manifest | None]
    ) -> Generator[int, bytes, None]:
        described: tuple[int, Manifest] | None = None
        for part in parts:
            content = plan.contents[part.content]
            data = yield part.size_bytes
            if part.chunk == MANIFEST:
                manifest = decode_manifest(data, content.content_id)
                if isinstance(manifest, TreeManifest) or manifest.size_bytes != content.size_bytes:
                    raise BadManifest("a file has another size than the folder says")
                described = (part.content, manifest)
                self._found.append(Described(*described))
                continue
            if content.is_small:
                verifies = content_id_of_chunk(data) == content.content_id
            else:
                if described is None or described[0] != part.content:
                    known = manifest_of(part.content)
                    assert known is not None, "a reader resumes where it knows what comes"
                    described = (part.content, known)
                verifies = described[1].verifies(part.chunk, data)
            if not verifies:
                raise BadContent("a file in the folder does not verify")
            self._found.append(Came(part.content, part.chunk, data))


def _manifest_bytes(content: Content) -> int:
    chunks = -(-content.size_bytes // chunk_size_for(content.size_bytes))
    return len(file_header(content.size_bytes)) + DIGEST_BYTES * chunks
