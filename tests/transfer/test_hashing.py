"""Hashing real files."""

import asyncio
import os
import threading
from pathlib import Path

import pytest
from blake3 import blake3

from bench.lag import loop_lag
from tests.dht.nodes import until
from tests.transfer.peers import CHUNK, random_bytes
from transfer import hashing
from transfer.errors import SourceChanged, SourceUnreadable
from transfer.hashing import ChunkHasher, hash_file, hash_file_blocking, hashing_threads
from transfer.sources import OpenSource, Source

LAG_MAX_S = 0.05


def sparse(path: Path, size: int) -> None:
    path.touch()
    os.truncate(path, size)


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


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


@pytest.mark.parametrize("size", [0, 1, CHUNK, 4 * CHUNK + 1])
@pytest.mark.parametrize("chunks_a_piece", [1, 2])
async def test_what_somebody_else_reads_gets_the_id_of_the_hashed_file(
    tmp_path: Path, size: int, chunks_a_piece: int
) -> None:
    source, data = tmp_path / "source", random_bytes(size)
    source.write_bytes(data)
    seen: list[tuple[int, int]] = []
    hasher = ChunkHasher(size, lambda done, total: seen.append((done, total)))
    piece = chunks_a_piece * CHUNK
    for offset in reversed(range(0, size, piece)):
        hasher.feed(offset, data[offset : offset + piece])
    assert hasher.content_id() == (await hash_file(source)).manifest.content_id
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


async def test_large_file_is_hashed_by_several_threads_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "SPAN_BYTES", 2 * CHUNK)
    source, data = tmp_path / "source", random_bytes(9 * CHUNK + 1)
    source.write_bytes(data)
    together = threading.Barrier(hashing_threads(), timeout=20)
    read = os.preadv
    met: set[int] = set()

    def meet_once(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        thread = threading.get_ident()
        if thread not in met and len(met) < hashing_threads():
            met.add(thread)
            together.wait()  # never passed by a single thread
        return read(descriptor, buffers, offset)

    monkeypatch.setattr(hashing.os, "preadv", meet_once)
    seen: list[tuple[int, int]] = []
    hashed = await hash_file(source, lambda done, total: seen.append((done, total)))
    assert len(met) == hashing_threads() >= 2
    chunks = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    assert hashed.manifest.digests == b"".join(blake3(chunk).digest() for chunk in chunks)
    assert seen == sorted(seen)
    assert seen[-1] == (len(data), len(data))
    assert hash_file_blocking(source).manifest == hashed.manifest


async def test_small_file_does_not_wait_for_the_end_of_a_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "SPAN_BYTES", CHUNK)
    large, small = tmp_path / "large", tmp_path / "small"
    sparse(large, 400 * CHUNK)
    small.write_bytes(b"x")
    began = asyncio.Event()
    loop = asyncio.get_running_loop()
    done: list[int] = []

    def progress(done_bytes: int, _: int) -> None:
        done[:] = [done_bytes]
        loop.call_soon_threadsafe(began.set)

    hashing_large = asyncio.create_task(hash_file(large, progress))
    await began.wait()
    await hash_file(small)
    assert done[0] < 400 * CHUNK
    hashing_large.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hashing_large


@pytest.mark.parametrize("ends", ["cancelled", "changed"])
async def test_hashing_that_is_given_up_ends_soon_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr(hashing, "SPAN_BYTES", CHUNK)
    source = tmp_path / "source"
    sparse(source, 400 * CHUNK)
    opened = open_files()
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    def progress(_: int, __: int) -> None:
        if ends == "changed":
            os.truncate(source, 0)
        loop.call_soon_threadsafe(began.set)

    running = asyncio.create_task(hash_file(source, progress))
    await began.wait()
    if ends == "cancelled":
        running.cancel()
    with pytest.raises((asyncio.CancelledError, SourceChanged)):
        await running
    # Another thread may be at the end of its span; the file is closed after that.
    await until(lambda: open_files() == opened)


async def test_hashing_leaves_the_event_loop_free(tmp_path: Path) -> None:
    large, small = tmp_path / "large", [tmp_path / str(number) for number in range(300)]
    sparse(large, 512 * CHUNK)
    for path in small:
        path.write_bytes(path.name.encode())
    async with loop_lag() as lag:
        await asyncio.gather(*map(hash_file, [large, *small]))
    assert lag.ticks > 10
    assert lag.longest_s < LAG_MAX_S


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
