"""The files that are moved, and whether what arrived is them. Owns both."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from bench.movers.base import Load

BLOCK_BYTES = 1_000_000
FOLDER_WIDTH = 100
"""Files in one subfolder."""


def make_file(path: Path, size_bytes: int, *, is_sparse: bool = False) -> Load:
    """Write bytes that do not compress, or leave out all of them."""
    source = random.Random(size_bytes)
    with path.open("wb") as file:
        if is_sparse:
            file.truncate(size_bytes)
            size_bytes = 0
        for at in range(0, size_bytes, BLOCK_BYTES):
            file.write(source.randbytes(min(BLOCK_BYTES, size_bytes - at)))
    return Load(path, path.stat().st_size, 1, digest_of(path))


def make_folder(path: Path, files: int, file_bytes: int) -> Load:
    """Write many small files into subfolders."""
    source = random.Random(files)
    for number in range(files):
        part = path / f"part-{number // FOLDER_WIDTH:03}"
        if number % FOLDER_WIDTH == 0:
            part.mkdir(parents=True)
        (part / f"file-{number:05}.bin").write_bytes(source.randbytes(file_bytes))
    return Load(path, files * file_bytes, files, digest_of(path))


def digest_of(path: Path) -> bytes:
    """Hash a file, or the names and contents of a folder; this also warms the page cache."""
    hasher = blake3()
    for name, file in _files(path):
        hasher.update(f"{name}\0{file.stat().st_size}\0".encode())
        hasher.update_mmap(file)
    return hasher.digest()


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield "", path
        return
    for root, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(root, name)
            yield str(file.relative_to(path)), file
