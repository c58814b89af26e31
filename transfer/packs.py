"""Reading many small files of a folder in one go.

Owns what answers a request for a pack: all bytes or the first content that cannot be had, and the
rule that a file that changed is not served under its old id. Blocking. Knows no gRPC.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from transfer.errors import SourceUnreadable
from transfer.hashing import Fingerprint, open_regular
from transfer.safe_folder import read_all
from transfer.sources import PackSource
from transfer.tree import PACK_BYTES_MAX
from transfer.wire import FrameStatus


@dataclass(frozen=True, slots=True)
class PackRead:
    """The contents of a pack one after the other, or why there are none."""

    status: FrameStatus
    data: bytes = b""
    failed: int = 0
    """Which content of the pack the status is about, when it is not DATA."""


def read_pack_blocking(sources: Sequence[PackSource | None], changed: Sequence[bool]) -> PackRead:
    """Read the files; `changed` says of which contents this peer knows that they are gone."""
    if sum(source.fingerprint.size_bytes for source in sources if source) > PACK_BYTES_MAX:
        return PackRead(FrameStatus.MISSING)
    parts: list[bytes] = []
    for place, source in enumerate(sources):
        if source is None:
            status = FrameStatus.CHANGED if changed[place] else FrameStatus.MISSING
            return PackRead(status, failed=place)
        data = _read(source)
        if data is None:
            status = FrameStatus.CHANGED if source.is_shared else FrameStatus.MISSING
            return PackRead(status, failed=place)
        parts.append(data)
    return PackRead(FrameStatus.DATA, b"".join(parts))


def _read(source: PackSource) -> bytes | None:
    """Return a file's bytes; None when it is not, before and after, what was shared."""
    try:
        descriptor = open_regular(source.path)
    except SourceUnreadable:
        return None
    try:
        if Fingerprint.of(os.fstat(descriptor)) != source.fingerprint:
            return None
        data = read_all(descriptor, source.fingerprint.size_bytes)
        if Fingerprint.of(os.fstat(descriptor)) != source.fingerprint:
            return None
        return data if len(data) == source.fingerprint.size_bytes else None
    except OSError:
        return None
    finally:
        os.close(descriptor)
