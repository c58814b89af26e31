"""Which files of a partial folder are on the disk: a file of appended, checked records.

Owns the record's bytes. A record is written once its files are synced, and holds for each its place
in the listing and its fingerprint: a resumed get believes a file whose fingerprint is still that,
and reads the others again. What was cut short by a crash is not believed. Blocking.
"""

import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from transfer.hashing import Fingerprint

RECORD_FILES_MAX = 256
JOURNAL_BYTES_MAX = 64 * 1024 * 1024
"""What is read of a journal at most; a whole tree's is a tenth of it."""

_LENGTH = struct.Struct(">I")
_FILE = struct.Struct(">IQqQ")
_CHECK_BYTES = 16


class TreeJournal:
    """An append-only journal in the partial folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[int, Fingerprint]:
        """Return what was journaled, by place in the listing; nothing where there is none."""
        try:
            with self._path.open("rb") as file:
                data = file.read(JOURNAL_BYTES_MAX)
        except FileNotFoundError:
            return {}
        known: dict[int, Fingerprint] = {}
        at = 0
        while at + _LENGTH.size <= len(data):
            (length,) = _LENGTH.unpack_from(data, at)
            body = data[at + _LENGTH.size : at + _LENGTH.size + length]
            at += _LENGTH.size + length + _CHECK_BYTES
            if length % _FILE.size or data[at - _CHECK_BYTES : at] != _check(body):
                break
            for place, *fingerprint in _FILE.iter_unpack(body):
                known[place] = Fingerprint(*fingerprint)
        return known

    def begin(self, known: Mapping[int, Fingerprint]) -> None:
        """Write the journal anew: what stands behind a torn record would not be found."""
        part = self._path.with_name(self._path.name + ".new")
        places = list(known.items())
        with part.open("wb") as file:
            for at in range(0, len(places), RECORD_FILES_MAX):
                file.write(_record(dict(places[at : at + RECORD_FILES_MAX])))
        part.replace(self._path)

    def add(self, files: Mapping[int, Fingerprint]) -> None:
        """Append a record of at most RECORD_FILES_MAX files that are synced, durably."""
        assert len(files) <= RECORD_FILES_MAX
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.write(descriptor, _record(files))
            getattr(os, "fdatasync", os.fsync)(descriptor)
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        """Take the journal away; the files then speak for themselves."""
        with suppress(FileNotFoundError):
            self._path.unlink()


def _record(files: Mapping[int, Fingerprint]) -> bytes:
    body = b"".join(
        _FILE.pack(place, each.size_bytes, each.mtime_ns, each.inode)
        for place, each in files.items()
    )
    return _LENGTH.pack(len(body)) + body + _check(body)


def _check(body: bytes) -> bytes:
    return blake3(body).digest(length=_CHECK_BYTES)
