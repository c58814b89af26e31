"""Hashing real files."""

import os
from pathlib import Path

import pytest

from tests.transfer.peers import CHUNK, random_bytes
from transfer.errors import SourceChanged, SourceUnreadable
from transfer.hashing import hash_file
from transfer.sources import OpenSource, Source


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1])
async def test_every_chunk_of_a_hashed_file_verifies(tmp_path: Path, size: int) -> None:
    source, data = tmp_path / "source", random_bytes(size)
    source.write_bytes(data)
    seen: list[tuple[int, int]] = []
    hashed = await hash_file(source, lambda done, total: seen.append((done, total)))
    assert hashed.manifest.size_bytes == size
    for chunk in range(hashed.manifest.chunk_count):
        offset, length = hashed.manifest.span(chunk)
        assert hashed.manifest.verifies(chunk, data[offset : offset + length])
    assert seen[-1:] == ([(size, size)] if size else [])


async def test_file_that_grows_while_it_is_hashed_has_changed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(3 * CHUNK))

    def grow(done: int, total: int) -> None:
        with source.open("ab") as file:
            file.write(b"more")

    with pytest.raises(SourceChanged):
        await hash_file(source, grow)


async def test_file_that_shrinks_while_it_is_hashed_has_changed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(3 * CHUNK))
    with pytest.raises(SourceChanged):
        await hash_file(source, lambda done, total: os.truncate(source, CHUNK))


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "nul"])
async def test_what_is_no_readable_file_is_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "nul":
            path = tmp_path / "a\0b"
    with pytest.raises(SourceUnreadable):
        await hash_file(path)


async def test_open_source_notices_a_change_in_place(tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(bytes(100))
    hashed = await hash_file(path)
    opened = OpenSource(Source(path, hashed.manifest, hashed.fingerprint))
    assert opened.read(0, 100) == bytes(100)
    path.write_bytes(b"x" * 100)
    os.utime(path, ns=(1, 1))
    with pytest.raises(SourceChanged):
        opened.read(0, 100)
    opened.close()
    opened.close()
    with pytest.raises(SourceChanged):
        OpenSource(Source(path, hashed.manifest, hashed.fingerprint))
