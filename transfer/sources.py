"""Files that are served in place.

Owns what the service needs to know of a shared file and the rule that a changed file is not served
under its old id. Knows no gRPC and no catalog: the peer implements Shares.
"""

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from identity.files import read_exactly
from transfer.bitmap import full_bitmap
from transfer.errors import SourceChanged
from transfer.hashing import Fingerprint, open_regular, read_into
from transfer.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Source:
    """A file that holds a content, wholly or in part."""

    path: Path
    manifest: Manifest
    fingerprint: Fingerprint | None
    """What the file was when hashed; None for a partial file, which its download guards."""
    have: Callable[[], int] | None = None
    """The verified chunks of a partial file, read anew each time; None when it is whole."""
    positions: int = 0
    """Of a folder in part: the chunks of its listing and its units, which `have` counts too."""

    def verified(self) -> int:
        """Return the chunks that may be served."""
        if self.have is None:
            return full_bitmap(self.manifest.chunk_count)
        return self.have()

    def holds(self, chunk: int) -> bool:
        """Tell whether a chunk of this very file may be served."""
        return chunk < self.manifest.chunk_count and bool(self.verified() >> chunk & 1)


@dataclass(frozen=True, slots=True)
class PackSource:
    """A small file that is asked for together with others."""

    path: Path | str
    """As text where there are very many: making path objects costs as much as reading the files."""
    content_id: bytes
    fingerprint: Fingerprint
    is_shared: bool
    """In a shared folder; else in one that is being fetched."""


class Shares(Protocol):
    """What this peer serves; implemented by the peer's catalog and its running downloads."""

    def open_source(self, content_id: bytes) -> Source | None:
        """Return the file that holds a content, or None."""

    def pack_sources(self, content_ids: Sequence[bytes]) -> list[PackSource | None]:
        """Return the small files of folders that hold these contents, None where there is none."""

    def source_changed(self, content_id: bytes, path: Path) -> None:
        """Note that a file is no longer what was shared, and share it no more."""


class OpenSource:
    """A source with its file open; SourceUnreadable and SourceChanged as soon as it differs."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._descriptor = open_regular(source.path)
        try:
            self.check()
        except SourceChanged:
            self.close()
            raise

    def read(self, offset: int, length: int) -> bytes:
        """Read a span and check afterwards that the file did not change meanwhile."""
        try:
            data = read_exactly(self._descriptor, offset, length)
        except OSError as error:
            raise SourceChanged("the source can no longer be read") from error
        if len(data) != length:
            raise SourceChanged("the source became shorter")
        self.check()
        return data

    def read_after(self, head: bytes, offset: int, length: int) -> bytes:
        """Return a head with a span after it, without copying what is read; as `read`."""
        # The bytes of a BytesIO can be written to, and are given away as they are.
        buffer = io.BytesIO(bytes(len(head) + length))
        with buffer.getbuffer() as whole, whole[len(head) :] as span:
            whole[: len(head)] = head
            try:
                count = read_into(self._descriptor, offset, span)
            except OSError as error:
                raise SourceChanged("the source can no longer be read") from error
        if count != length:
            raise SourceChanged("the source became shorter")
        self.check()
        return buffer.getvalue()

    def check(self) -> None:
        """Raise SourceChanged when the file is no longer what was shared."""
        expected = self.source.fingerprint
        if expected is not None and Fingerprint.of(os.fstat(self._descriptor)) != expected:
            raise SourceChanged

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
