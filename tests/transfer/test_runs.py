"""Chunks in a row that one request asks for and one frame answers."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rpc.pace import Pace
from tests.transfer.peers import CHUNK, QUICK, TestPeer, get, random_bytes, running_peer
from transfer import service
from transfer.download import DownloadConfig
from transfer.errors import BadContent
from transfer.hashing import hash_file
from transfer.manifest import Manifest
from transfer.service import ServiceConfig
from transfer.session import FETCH_METHOD, FetchCall
from transfer.sources import Source
from transfer.swarm_config import SwarmConfig
from transfer.wire import (
    RUN_BYTES_MAX,
    RUN_FRAME_BYTES_MAX,
    FetchFrame,
    FetchRequest,
    FrameStatus,
    decode_frame,
    encode_fetch_request,
)

CHUNKS = 40
PATIENT = dataclasses.replace(QUICK, no_holder_timeout_s=20.0)
ALWAYS = dataclasses.replace(PATIENT, swarm=SwarmConfig(run_target_s=10.0))
"""Runs of every holder whose rate is known, however slow the machine is."""


class Sizes:
    """How many bytes each frame had that a holder sent."""

    def __init__(self) -> None:
        self.all: list[int] = []

    def __call__(self, _peer: bytes, _content: bytes, size: int) -> None:
        self.all.append(size)


async def _get(
    reader: TestPeer, manifest: Manifest, target: Path, *holders: TestPeer, **options: Any
) -> Any:
    options.setdefault("config", ALWAYS)
    return await get(reader, manifest, target, [each.holder for each in holders], **options)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(random_bytes(CHUNKS * CHUNK - 17))
    return path


async def _sizes_of_a_get(source: Path, config: DownloadConfig = ALWAYS, **limits: Any) -> Sizes:
    sizes = Sizes()
    limited = ServiceConfig(**limits)
    async with running_peer(config=limited, on_upload=sizes) as holder, running_peer() as reader:
        manifest = await holder.share(source)
        target = source.with_name("copy")
        result = await _get(reader, manifest, target, holder, config=config)
    assert target.read_bytes() == source.read_bytes()
    assert sum(sizes.all) == result.fetched_bytes == result.size_bytes
    return sizes


async def test_quick_holder_answers_most_of_a_file_in_runs(source: Path) -> None:
    sizes = await _sizes_of_a_get(source)
    assert max(sizes.all) == RUN_FRAME_BYTES_MAX
    assert len(sizes.all) <= CHUNKS // 2


async def test_holder_from_before_runs_is_asked_for_single_chunks(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "RUN_BYTES_MAX", 0)  # says nothing of runs, and answers none
    sizes = await _sizes_of_a_get(source)
    assert len(sizes.all) == CHUNKS


async def test_slow_holder_is_asked_for_single_chunks(source: Path) -> None:
    never = dataclasses.replace(PATIENT, swarm=SwarmConfig(run_target_s=0.0))
    sizes = await _sizes_of_a_get(source, never)
    assert len(sizes.all) == CHUNKS


async def test_run_under_a_limit_of_rate_flows_in_small_frames(source: Path) -> None:
    sizes = await _sizes_of_a_get(source, upload_bytes_per_s=200_000_000)
    assert max(sizes.all) == Pace(200_000_000).piece_bytes(RUN_BYTES_MAX) <= 64 * 1024


async def _answers(holder: TestPeer, reader: TestPeer, request: FetchRequest) -> list[FetchFrame]:
    """What a holder says to one request, up to a status or the last byte."""
    call: FetchCall = (await reader.channel_to(holder)).stream_stream(FETCH_METHOD)()
    await call.write(encode_fetch_request(request))
    frames: list[FetchFrame] = []
    try:
        while sum(len(each.data) for each in frames) < request.count * CHUNK:
            message = await call.read()
            assert isinstance(message, bytes)
            frame = decode_frame(message)
            assert frame is not None
            frames.append(frame)
            if frame.status is not FrameStatus.DATA:
                break
    finally:
        call.cancel()
    return frames


async def test_partial_holder_answers_a_run_up_to_the_first_chunk_that_it_lacks(
    source: Path,
) -> None:
    async with running_peer() as holder, running_peer() as reader:
        manifest = await holder.share(source, have=0b1011)
        run = FetchRequest(7, manifest.content_id, 0, count=4)
        data, missing = await _answers(holder, reader, run)
        assert (data.status, data.offset) == (FrameStatus.DATA, 0)
        assert bytes(data.data) == source.read_bytes()[: 2 * CHUNK]
        assert (missing.status, missing.offset) == (FrameStatus.MISSING, 2 * CHUNK)
        [alone] = await _answers(holder, reader, dataclasses.replace(run, chunk=2))
        assert (alone.status, alone.offset) == (FrameStatus.MISSING, 0)
        last = dataclasses.replace(run, chunk=CHUNKS - 1)
        [beyond] = await _answers(holder, reader, last)
        assert beyond.status is FrameStatus.MISSING


async def test_single_chunk_is_answered_as_before_there_were_runs(source: Path) -> None:
    async with running_peer() as holder, running_peer() as reader:
        manifest = await holder.share(source)
        [frame] = await _answers(holder, reader, FetchRequest(7, manifest.content_id, 3))
        assert bytes(frame.data) == source.read_bytes()[3 * CHUNK : 4 * CHUNK]


def _promising(source: Path, manifest: Manifest, lacks: int) -> Callable[[], Source]:
    """A partial file that names all chunks when it is asked what it has, and lacks one."""
    answers = iter((-1 & (1 << CHUNKS) - 1,))
    rest = (1 << CHUNKS) - 1 & ~(1 << lacks)
    return lambda: Source(source, manifest, None, have=lambda: next(answers, rest))


async def test_chunk_that_is_missing_inside_a_run_comes_from_elsewhere_and_the_rest_is_kept(
    source: Path, tmp_path: Path
) -> None:
    async with running_peer() as most, running_peer() as other, running_peer() as reader:
        manifest = await other.share(source, have=1 << 21)
        most.shares.sources[manifest.content_id] = _promising(source, manifest, 21)
        result = await _get(reader, manifest, tmp_path / "copy", most, other)
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert result.by_holder[other.peer_id] == CHUNK
    assert result.fetched_bytes == result.size_bytes


async def test_bad_chunk_in_a_run_drops_the_holder_and_keeps_the_good_ones(
    source: Path, tmp_path: Path
) -> None:
    lie = tmp_path / "lie"
    lie.write_bytes(source.read_bytes())
    with lie.open("r+b") as file:
        file.seek(30 * CHUNK + 5)
        file.write(b"not what it was")
    reported: list[bytes] = []
    first = dataclasses.replace(ALWAYS, swarm=SwarmConfig(run_target_s=10.0, in_order=True))
    async with running_peer() as liar, running_peer() as honest, running_peer() as reader:
        manifest = (await hash_file(source)).manifest
        await liar.share_as(lie, manifest)
        with pytest.raises(BadContent):
            await _get(
                reader,
                manifest,
                tmp_path / "copy",
                liar,
                config=first,
                on_bad_holder=reported.append,
            )
        await honest.share(source)
        result = await _get(reader, manifest, tmp_path / "copy", honest)
    assert reported == [liar.peer_id]
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    # What came before the bad chunk, of its own run too, was kept.
    assert result.fetched_bytes <= (CHUNKS - 30) * CHUNK


async def test_run_that_ends_inside_a_chunk_is_a_lie(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = service._FetchStream._send_chunks

    async def cut(self: Any, request: FetchRequest, chunks: range, *rest: Any) -> int:
        sent = await whole(self, request, chunks[:1], *rest)
        return sent - (len(chunks) > 1)

    monkeypatch.setattr(service._FetchStream, "_send_chunks", cut)
    monkeypatch.setattr(service.TransferService, "given", lambda *given: given[3][:-1] or given[3])
    reported: list[bytes] = []
    async with running_peer() as liar, running_peer() as reader:
        manifest = await liar.share(source)
        with pytest.raises(BadContent):
            await _get(reader, manifest, tmp_path / "copy", liar, on_bad_holder=reported.append)
    assert reported == [liar.peer_id]
