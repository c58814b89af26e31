"""A get in a process of its own, to be killed: PEER_ID_HEX PORT CONTENT_ID_HEX TARGET.

Prints bytes fetched and the process's peak RSS in KiB.
"""

import asyncio
import sys
from pathlib import Path

from identity.address import Address
from tests.transfer.peers import MemoryJournal, each, running_peer
from transfer.candidates import Holder
from transfer.download import Download


async def main(peer_id: str, port: str, content_id: str, target: str) -> None:
    holder = Holder(bytes.fromhex(peer_id), (Address("127.0.0.1", int(port)),))
    async with running_peer() as reader:
        download = Download(
            bytes.fromhex(content_id),
            Path(target),
            holders=each([holder]),
            connect=reader.pool.connect,
            journal=MemoryJournal(),
        )
        result = await download.run()
    print(result.fetched_bytes, peak_rss_kibibytes())


def peak_rss_kibibytes() -> int:
    """Read the peak of this program; getrusage would give the parent's where that was larger."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
