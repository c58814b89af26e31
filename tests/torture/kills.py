"""SIGKILL of a receiving process at random moments, again and again until its file is there.

Owns the killing, the count of bytes that the holder sent, and the comparison of the files. Between
two kills a new process resumes what the last one left, with the real journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.torture.tally import Tally
from tests.transfer.peers import CHUNK, TestPeer, running_peer
from transfer.manifest import Manifest
from transfer.service import ServiceConfig

ROOT = Path(__file__).parents[2]
CHUNKS = 64
WINDOW = 4
"""Chunks that a receiver may have in flight: what a kill may cost."""
RATE_BYTES_PER_S = 120_000_000
END_TIMEOUT_S = 30.0


class Getter:
    """The process that forks receivers; see getter.py."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def begin(self, order: dict[str, Any]) -> int:
        """Start a receiver; returns its process id once its download begins."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        await self._process.stdin.drain()
        first, second = await self._line(), await self._line()
        return int({**first, **second}["pid"])

    async def ended(self) -> int:
        """Wait until the receiver is gone; returns its exit code, negative for a signal."""
        return int((await self._line())["exit"])

    async def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(END_TIMEOUT_S):
            line = await self._process.stdout.readline()
        assert line, "the getter ended"
        told: dict[str, Any] = json.loads(line)
        return told


@contextlib.asynccontextmanager
async def running_getter() -> AsyncIterator[Getter]:
    """Run the forking process; ended in any case."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.torture.getter",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        yield Getter(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def kill_receivers(folder: Path, *, kills: int, seed: int) -> Tally:
    """Kill that many receivers; each file that they began is finished and compared."""
    tally = Tally("SIGKILL of the receiver", seed)
    rng = random.Random(seed)
    source = folder / "source"
    source.write_bytes(rng.randbytes(CHUNKS * CHUNK - 17))
    sent = 0

    def count(_peer: bytes, _content: bytes, size: int) -> None:
        nonlocal sent
        sent += size

    limited = ServiceConfig(upload_bytes_per_s=RATE_BYTES_PER_S)
    whole_s = CHUNKS * CHUNK / RATE_BYTES_PER_S
    refetched = files = 0
    async with running_peer(config=limited, on_upload=count) as holder, running_getter() as getter:
        manifest = await holder.share(source)
        while tally.runs < kills:
            target = folder / f"copy-{files}"
            files, sent, killed = files + 1, 0, 0
            while not target.exists() or killed == 0:
                pid = await getter.begin(_order(holder, manifest, target, folder))
                is_last = tally.runs + killed >= kills
                delay_s = END_TIMEOUT_S if is_last else rng.uniform(0, 1.2 * whole_s)
                code = await _end(getter, pid, delay_s)
                if code == -signal.SIGKILL:
                    killed += 1
                elif code:
                    tally.lost += 1
                    tally.notes.append(f"file {files}: a receiver ended with {code}")
                    return tally
                elif killed == 0:
                    target.unlink()  # it was done before the kill: no run
                    sent = 0
            tally.runs += killed
            again = sent - manifest.size_bytes
            refetched += again
            if target.read_bytes() != source.read_bytes():
                tally.damaged += 1
                tally.notes.append(f"file {files} differs")
            if again > killed * WINDOW * CHUNK:
                tally.damaged += 1
                tally.notes.append(f"file {files}: {again} bytes again after {killed} kills")
            target.unlink()
    tally.notes.append(
        f"{files} files of {CHUNKS} chunks; fetched again {refetched / CHUNK / tally.runs:.2f}"
        f" chunks a kill, {WINDOW} allowed"
    )
    return tally


async def _end(getter: Getter, pid: int, delay_s: float) -> int:
    """Kill a receiver after a while, unless it ends by itself before."""
    ending = asyncio.create_task(getter.ended())
    done, _ = await asyncio.wait([ending], timeout=delay_s)
    if not done:
        # It may have ended just now: its id is not given to another one so soon.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return await ending


def _order(holder: TestPeer, manifest: Manifest, target: Path, folder: Path) -> dict[str, Any]:
    return {
        "peer_id": holder.peer_id.hex(),
        "port": holder.address.port,
        "content_id": manifest.content_id.hex(),
        "target": str(target),
        "database": str(folder / "shoal.db"),
        "window": WINDOW,
    }
