"""A swarm of real processes, forked from one that has done the imports: FOLDER SEEDS READERS SEED.

Each process is a peer with listener and channels of its own. A holder writes a file when it serves,
which the others read at their next look, as they would see its record in the DHT. A reader that is
done serves on until the file `stop` is there; at its end each writes what it sent and fetched.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from identity.address import Address
from tests.transfer.peers import TestPeer, poll, running_peer
from transfer.candidates import Holder
from transfer.download import Download, DownloadConfig
from transfer.hashing import hash_file

LOOK_S = 0.4
"""Between two looks for holders."""
STOP_TIMEOUT_S = 600.0


class Member:
    """One process of the swarm."""

    def __init__(self, folder: Path, number: int, seed: int) -> None:
        self._folder = folder
        self._number = number
        self._seed = seed
        self._sent = 0

    async def seed(self) -> None:
        """Share the source until all is over."""
        async with running_peer(on_upload=self._count) as peer:
            await peer.share(self._folder / "source")
            self._announce(peer)
            await self._until_stopped()
        self._write("result", sent=self._sent, fetched=0)

    async def read(self) -> None:
        """Fetch the source while serving on, then serve until all is over."""
        async with running_peer(on_upload=self._count) as peer:
            manifest = (await hash_file(self._folder / "source")).manifest
            download = Download(
                manifest.content_id,
                self._folder / f"copy-{self._number}",
                holders=self._look(peer),
                connect=peer.pool.connect,
                config=DownloadConfig(spreads=True),
                on_described=lambda: self._announce(peer),
                random_source=random.Random(f"{self._seed} {self._number}"),
            )
            peer.shares.sources[manifest.content_id] = download.source
            result = await download.run()
            self._write("done", seconds=result.seconds)
            await self._until_stopped()
        self._write("result", sent=self._sent, fetched=result.fetched_bytes)

    def _count(self, _peer: bytes, _content: bytes, size: int) -> None:
        self._sent += size

    def _announce(self, peer: TestPeer) -> None:
        self._write("holder", peer_id=peer.peer_id.hex(), port=peer.address.port)

    def _write(self, what: str, **content: object) -> None:
        path = self._folder / f"{what}-{self._number}.json"
        part = path.with_suffix(".new")
        part.write_text(json.dumps(content))
        part.replace(path)

    async def _look(self, peer: TestPeer) -> AsyncIterator[Holder]:
        while True:
            for path in sorted(self._folder.glob("holder-*.json")):
                told = json.loads(path.read_text())
                peer_id = bytes.fromhex(told["peer_id"])
                if peer_id != peer.peer_id:
                    yield Holder(peer_id, (Address("127.0.0.1", told["port"]),))
            await asyncio.sleep(LOOK_S)

    async def _until_stopped(self) -> None:
        await poll((self._folder / "stop").exists, STOP_TIMEOUT_S)


def main(folder: Path, seeds: int, readers: int, seed: int) -> None:
    """Fork all members and wait for their ends."""
    children = []
    for number in range(seeds + readers):
        pid = os.fork()
        if pid == 0:
            status = 1
            with contextlib.suppress(KeyboardInterrupt):
                try:
                    member = Member(folder, number, seed)
                    asyncio.run(member.seed() if number < seeds else member.read())
                    status = 0
                finally:
                    os._exit(status)
        children.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in children]
    sys.exit(int(any(statuses)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
