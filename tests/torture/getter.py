"""Receiving processes to be killed: each line on stdin is a download, run in a fork.

A line is JSON: peer_id, port, content_id, target, database, window. What is printed is JSON too:
`{"pid"}` when the fork is there, `{"begun"}` when its download begins, and `{"exit"}` when it is
gone (negative: by that signal). Forking spares each run the imports; nothing of grpc runs before.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from identity.address import Address
from peer.database import Database
from peer.parts import PartJournal
from tests.transfer.peers import each, running_peer
from transfer.candidates import Holder
from transfer.download import Download, DownloadConfig
from transfer.swarm_config import SwarmConfig


async def fetch(order: dict[str, Any]) -> None:
    """Run one download with the journal that a real peer has."""
    holder = Holder(bytes.fromhex(order["peer_id"]), (Address("127.0.0.1", order["port"]),))
    database = Database(Path(order["database"]))
    async with running_peer() as reader:
        download = Download(
            bytes.fromhex(order["content_id"]),
            Path(order["target"]),
            holders=each([holder]),
            connect=reader.pool.connect,
            journal=PartJournal(database),
            config=DownloadConfig(
                swarm=SwarmConfig(window_max=order["window"]), journal_interval_s=0.05
            ),
        )
        tell(begun=True)
        await download.run()
    database.close()


def tell(**what: object) -> None:
    """Write one line at once, so that lines of two processes do not mix."""
    os.write(1, json.dumps(what).encode() + b"\n")


def main() -> None:
    """Fork for each order, one at a time."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                asyncio.run(fetch(json.loads(line)))
                status = 0
            finally:
                os._exit(status)
        tell(pid=pid)
        _, status = os.waitpid(pid, 0)
        tell(exit=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
