"""A holder in a process of its own: SOURCE. Prints peer id and port, serves until it is killed.

With a second argument it prints its peak RSS in KiB once its stdin is closed.
"""

import asyncio
import sys
from pathlib import Path

from tests.transfer.get_process import peak_rss_kibibytes
from tests.transfer.peers import running_peer
from transfer.service import ServiceConfig


async def main(source: str, *_: str) -> None:
    limited = ServiceConfig(upload_bytes_per_s=None if _ else 8_000_000)
    async with running_peer(config=limited) as holder:
        await holder.share(Path(source))
        print(holder.peer_id.hex(), holder.address.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)
    print(peak_rss_kibibytes(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
