"""Limits of bytes a second over many streams together, up and down, gets and pushes alike.

Times are taken where the bytes move: what a busy machine needs to connect is no part of a rate.
"""

import asyncio
import contextlib
from pathlib import Path

import pytest

from rpc.pace import Pace
from rpc.turns import BURST_S
from tests.transfer.peers import CHUNK, get, random_bytes, running_peer
from transfer.service import ServiceConfig

RATE = 6_000_000
BURST_BYTES = RATE * BURST_S


class Moves:
    """When bytes moved."""

    def __init__(self) -> None:
        self.at: list[tuple[float, int]] = []

    def note(self, size: int) -> None:
        self.at.append((asyncio.get_running_loop().time(), size))

    @property
    def rate(self) -> float:
        """Bytes a second from the first move to the last, but for the burst at the beginning."""
        times = [moment for moment, _ in self.at]
        moved = sum(size for _, size in self.at) - BURST_BYTES
        return moved / (max(times) - min(times))


class NotedPace(Pace):
    """A limit that notes what it lets through."""

    def __init__(self, moves: Moves) -> None:
        super().__init__(RATE)
        self._moves = moves

    async def received(self, size_bytes: int) -> None:
        self._moves.note(0)
        await super().received(size_bytes)
        self._moves.note(size_bytes)


async def test_limit_up_is_exact_over_many_readers_together(tmp_path: Path) -> None:
    source, moves = tmp_path / "source", Moves()
    source.write_bytes(random_bytes(8 * CHUNK))
    async with contextlib.AsyncExitStack() as stack:
        holder = await stack.enter_async_context(
            running_peer(
                config=ServiceConfig(upload_bytes_per_s=RATE),
                on_upload=lambda _peer, _content, size: moves.note(size),
            )
        )
        readers = [await stack.enter_async_context(running_peer()) for _ in range(3)]
        manifest = await holder.share(source)
        for reader in readers:
            await reader.channel_to(holder)
        await asyncio.gather(
            *(
                get(reader, manifest, tmp_path / f"copy-{number}", [holder.holder])
                for number, reader in enumerate(readers)
            )
        )
    assert sum(size for _, size in moves.at) == 24 * CHUNK
    assert moves.rate == pytest.approx(RATE, rel=0.1)


async def test_limit_down_is_exact_over_many_holders_and_downloads_together(
    tmp_path: Path,
) -> None:
    sources, moves = [tmp_path / "one", tmp_path / "two"], Moves()
    for seed, source in enumerate(sources):
        source.write_bytes(random_bytes(12 * CHUNK, seed))
    pace = NotedPace(moves)
    async with contextlib.AsyncExitStack() as stack:
        holders = [await stack.enter_async_context(running_peer()) for _ in range(3)]
        reader = await stack.enter_async_context(running_peer())
        for holder in holders:
            manifests = [await holder.share(source) for source in sources]
            await reader.channel_to(holder)
        results = await asyncio.gather(
            *(
                get(
                    reader,
                    manifest,
                    tmp_path / f"copy-{number}",
                    [holder.holder for holder in holders],
                    pace=pace,
                )
                for number, manifest in enumerate(manifests)
            )
        )
    assert sum(size for _, size in moves.at) == sum(each.fetched_bytes for each in results)
    assert moves.rate == pytest.approx(RATE, rel=0.1)
