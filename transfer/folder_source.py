"""Reading a folder on disk as the stream in which it is delivered.

Owns opening its files and noticing that one changed. Blocking, for one thread at a time; no copy of
the folder is made, and no link is followed. The format is in folder_stream.py.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from identity.files import read_exactly
from transfer.errors import SourceChanged
from transfer.folder_stream import MANIFEST, head_of, parts_of, parts_start, stream_bytes
from transfer.hashing import Fingerprint, ProgressCallback
from transfer.safe_folder import SafeFolder
from transfer.tree_paths import shown_path
from transfer.tree_plan import plan_of
from transfer.tree_walk import HashedTree, TreeFile

PIECE_BYTES = 512 * 1024
"""What is read of a large file at a time."""

_NOWHERE = -1


class FolderSource:
    """The stream of one folder; to be closed."""

    def __init__(
        self, root: Path, hashed: HashedTree, on_read: ProgressCallback | None = None
    ) -> None:
        """Open the folder; SourceChanged where it is gone."""
        self._on_read = on_read
        self._tree = hashed.tree
        self._plan = plan_of(hashed.tree)
        self._files = {file.path: file for file in hashed.files}
        self.size_bytes = stream_bytes(hashed.tree.manifest, self._plan)
        self.files_done = 0
        """Files whose contents were read, twins too."""
        self._name = root.name
        self._open: tuple[int, int] | None = None
        self._at = _NOWHERE
        self._pieces: Iterator[bytes] = iter(())
        self._ahead = bytearray()
        try:
            self._folder = SafeFolder(root)
        except OSError as error:
            raise SourceChanged(f"{root.name!a} cannot be read: {error.strerror}") from error
        self._seek(0)

    def read(self, length_bytes: int, /) -> bytes:
        """Return the next bytes, fewer only at the end; SourceChanged."""
        at, self._at = self._at, _NOWHERE
        while len(self._ahead) < length_bytes:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._ahead += piece
        data = bytes(memoryview(self._ahead)[:length_bytes])
        del self._ahead[:length_bytes]
        self._at = at + len(data)
        if self._on_read is not None:
            self._on_read(self._at, self.size_bytes)
        return data

    def read_at(self, offset: int, length_bytes: int) -> bytes:
        """Return a span; cheap where the last one ended, and at any place once."""
        if offset != self._at:
            self._seek(offset)
        return self.read(length_bytes)

    def check(self) -> None:
        """Do nothing: each file was looked at before and after it was read."""

    def close(self) -> None:
        """Close all; a second call does nothing."""
        self._close_file()
        self._folder.close()

    def _seek(self, offset: int) -> None:
        self._close_file()
        self.files_done = 0
        self._ahead = bytearray()
        self._at = offset
        self._pieces = self._from(offset)

    def _from(self, offset: int) -> Iterator[bytes]:
        """Yield the stream from an offset on; what lies before it is not read."""
        manifest = self._tree.manifest
        if offset < parts_start(manifest):
            yield (head_of(manifest) + self._tree.listing)[offset:]
        left = max(0, offset - parts_start(manifest))
        for part in parts_of(self._plan):
            content = self._plan.contents[part.content]
            skipped = min(left, part.size_bytes)
            left -= skipped
            if skipped == part.size_bytes:
                pass
            elif part.chunk == MANIFEST:
                described = self._file_of(part.content).manifest
                assert described is not None, "a large file has its manifest"
                yield described[skipped:]
            else:
                start = part.offset + skipped
                yield from self._span(part.content, start, part.size_bytes - skipped)
            if part.chunk != MANIFEST and part.offset + part.size_bytes == content.size_bytes:
                self.files_done += len(content.entries)

    def _span(self, place: int, start: int, length: int) -> Iterator[bytes]:
        file = self._file_of(place)
        descriptor = self._opened(place, file)
        for at in range(start, start + length, PIECE_BYTES):
            wanted = min(PIECE_BYTES, start + length - at)
            try:
                data = read_exactly(descriptor, at, wanted)
                now = Fingerprint.of(os.fstat(descriptor))
            except OSError as error:
                raise _changed(file.path) from error
            if len(data) != wanted or now != file.fingerprint:
                raise _changed(file.path)
            yield data

    def _opened(self, place: int, file: TreeFile) -> int:
        """Return the open file of a content; only the last one stays open."""
        if self._open is not None and self._open[0] == place:
            return self._open[1]
        self._close_file()
        try:
            descriptor = self._folder.read(file.path)
        except OSError as error:
            raise _changed(file.path) from error
        self._open = (place, descriptor)
        if Fingerprint.of(os.fstat(descriptor)) != file.fingerprint:
            raise _changed(file.path)
        return descriptor

    def _close_file(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def _file_of(self, place: int) -> TreeFile:
        number = self._plan.contents[place].entries[0]
        return self._files[self._tree.entries[number].path]


def _changed(path: str) -> SourceChanged:
    return SourceChanged(f"{shown_path(path)} changed or is gone since the folder was read")
