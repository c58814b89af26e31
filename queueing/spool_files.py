"""The files of a spool: one per delivery, its sealed chunks end to end at fixed offsets.

Owns names, verified writes, and the order fsync -> rename -> fsync of the folder that makes a
delivery whole. Synchronous: the spool calls it in threads. Must not know the index or asyncio.

What an interrupted deposit has is not journaled: after a restart a chunk is there when its digest
says so, which costs one read at several GB/s and can never be wrong after a crash. While the
process lives it remembers which chunks it has checked and written, and reads none of them again.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from identity.files import sync_folder, write_at
from queueing.envelope import OuterManifest
from queueing.errors import BadEnvelope

_PARTIAL_SUFFIX = ".partial"


class SpoolFiles:
    """The chunk files below one folder."""

    def __init__(self, folder: Path) -> None:
        self._sealed = folder / "sealed"
        self._staging = folder / "staging"
        for made in (folder, self._sealed, self._staging):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        # One byte a chunk of each partial file that this process began: 1 when it is there.
        self._written: dict[bytes, bytearray] = {}

    def sweep(self, held: Iterable[bytes], partial: Iterable[bytes]) -> set[bytes]:
        """Delete what belongs to no delivery; return the held ones whose file is gone."""
        shutil.rmtree(self._staging)
        self._staging.mkdir(mode=0o700)
        whole = {delivery_id.hex(): delivery_id for delivery_id in held}
        begun = {delivery_id.hex() for delivery_id in partial}
        present = set()
        for path in sorted(self._sealed.iterdir()):
            name = path.name.removesuffix(_PARTIAL_SUFFIX)
            if path.name in whole:
                present.add(path.name)
            elif path.name in begun:  # a crash came between the rename and the index
                path.rename(self._sealed / (name + _PARTIAL_SUFFIX))
            elif name not in begun:
                path.unlink()
        return {delivery_id for name, delivery_id in whole.items() if name not in present}

    def free_bytes(self) -> int:
        """Return how much of the disk is free."""
        return shutil.disk_usage(self._sealed).free

    def staging_path(self, seal_id: bytes) -> Path:
        """Return where a letter is sealed before its delivery id is known."""
        return self._staging / seal_id.hex()

    def adopt(self, manifest: OuterManifest, staged: Path) -> None:
        """Make a file that was just sealed and fsynced the partial file of a delivery."""
        staged.replace(self._partial(manifest.delivery_id))
        self._written[manifest.delivery_id] = bytearray(b"\1") * manifest.count

    def begin(self, manifest: OuterManifest) -> list[int]:
        """Create the file where needed and return the chunks that it lacks."""
        path = self._partial(manifest.delivery_id)
        path.touch(mode=0o600)
        if manifest.delivery_id not in self._written:
            self._written[manifest.delivery_id] = self._look(path, manifest)
        return _zeros(self._written[manifest.delivery_id])

    def write(self, manifest: OuterManifest, index: int, sealed: bytes) -> bool:
        """Write a chunk after checking it, BadEnvelope; False when the file is gone meanwhile."""
        if not manifest.chunk_is_good(index, sealed):
            raise BadEnvelope("a sealed chunk is damaged")
        try:
            descriptor = os.open(self._partial(manifest.delivery_id), os.O_WRONLY)
        except FileNotFoundError:
            return False
        try:
            write_at(descriptor, sealed, manifest.sealed_offset(index))
        finally:
            os.close(descriptor)
        written = self._written.get(manifest.delivery_id)
        if written is not None:
            written[index] = 1
        return True

    def finish(self, manifest: OuterManifest) -> bool:
        """Make a partial file durable and whole; False when it lacks chunks or is gone."""
        path = self._partial(manifest.delivery_id)
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            written = self._written.get(manifest.delivery_id) or self._look(path, manifest)
            if _zeros(written) or os.fstat(descriptor).st_size != manifest.sealed_bytes:
                return False
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        path.rename(self._whole(manifest.delivery_id))
        sync_folder(self._sealed)
        self._written.pop(manifest.delivery_id, None)
        return True

    def read(self, manifest: OuterManifest, index: int) -> bytes:
        """Return a checked chunk of a whole delivery; BadEnvelope when the disk lost it."""
        sealed = self.read_fresh(manifest, index)
        if not manifest.chunk_is_good(index, sealed):
            raise BadEnvelope("a chunk was damaged on disk")
        return sealed

    def read_fresh(self, manifest: OuterManifest, index: int) -> bytes:
        """Return a chunk that was written a moment ago, unchecked; BadEnvelope when it is gone."""
        try:
            with self._whole(manifest.delivery_id).open("rb", buffering=0) as file:
                return os.pread(
                    file.fileno(), manifest.sealed_size(index), manifest.sealed_offset(index)
                )
        except FileNotFoundError as error:
            raise BadEnvelope("the delivery is no longer here") from error

    def delete(self, delivery_id: bytes) -> None:
        """Delete what there is of a delivery."""
        self._written.pop(delivery_id, None)
        for path in (self._whole(delivery_id), self._partial(delivery_id)):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _look(self, path: Path, manifest: OuterManifest) -> bytearray:
        """Return one byte a chunk, 1 where the file holds it, by its digest."""
        with path.open("rb") as file:
            return bytearray(
                manifest.chunk_is_good(index, file.read(manifest.sealed_size(index)))
                for index in range(manifest.count)
            )

    def _whole(self, delivery_id: bytes) -> Path:
        return self._sealed / delivery_id.hex()

    def _partial(self, delivery_id: bytes) -> Path:
        return self._sealed / (delivery_id.hex() + _PARTIAL_SUFFIX)


def _zeros(written: bytearray) -> list[int]:
    return [index for index, is_there in enumerate(written) if not is_there]
