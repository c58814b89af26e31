"""Reading ahead of what is asked for."""

import asyncio
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transfer.peers import random_bytes
from transfer.errors import SourceChanged
from transfer.hashing import hash_file_blocking
from transfer.reading import AHEAD_FRAMES_MAX, ReadAhead
from transfer.sources import OpenSource, Source

SIZE = 10_000
STEP = 1_000
DATA = random_bytes(SIZE)


class CountedSource(OpenSource):
    """A source that says how often its file was read."""

    reads = 0

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        return super().read(offset, length)


def counted(path: Path, *, have: int | None = None) -> CountedSource:
    if not path.exists():
        path.write_bytes(DATA)
    hashed = hash_file_blocking(path)
    if have is None:
        return CountedSource(Source(path, hashed.manifest, hashed.fingerprint))
    return CountedSource(Source(path, hashed.manifest, None, have=lambda: have))


async def test_spans_in_order_take_few_reads(tmp_path: Path) -> None:
    source, ahead = counted(tmp_path / "file"), ReadAhead()
    spans = [bytes(await ahead.span(source, at, STEP)) for at in range(0, SIZE, STEP)]
    assert b"".join(spans) == DATA
    assert source.reads == 1 + -(-(SIZE // STEP - 1) // AHEAD_FRAMES_MAX)
    source.close()


SPANS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, SIZE - 1), st.integers(1, 3 * STEP)), max_size=30
)


@given(SPANS, st.randoms(use_true_random=False))
def test_any_spans_of_any_sources_are_right(
    tmp_path_factory: pytest.TempPathFactory,
    spans: list[tuple[int, int, int]],
    chance: random.Random,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "other").write_bytes(DATA[::-1])
    sources = [(counted(folder / "file"), DATA), (counted(folder / "other"), DATA[::-1])]

    async def read_all() -> None:
        ahead, at = ReadAhead(), 0
        for which, start, length in spans:
            at = at if chance.random() < 0.7 and at < SIZE else start
            source, data = sources[which]
            wanted = data[at : at + length]
            assert bytes(await ahead.span(source, at, len(wanted))) == wanted
            at += len(wanted)

    asyncio.run(read_all())
    for source, _ in sources:
        source.close()


async def test_what_was_read_ahead_is_not_given_once_the_file_changed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    source, ahead = counted(path), ReadAhead()
    for at in (0, STEP):
        await ahead.span(source, at, STEP)
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(SourceChanged):
        await ahead.span(source, 2 * STEP, STEP)
    source.close()


async def test_partial_file_is_not_read_ahead(tmp_path: Path) -> None:
    path = tmp_path / "file"
    source, ahead = counted(path, have=1), ReadAhead()
    for at in (0, STEP):
        await ahead.span(source, at, STEP)
    with path.open("r+b") as file:
        file.seek(2 * STEP)
        file.write(b"new")
    assert bytes(await ahead.span(source, 2 * STEP, 3)) == b"new"
    source.close()
