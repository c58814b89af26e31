"""A get of a folder in a process of its own, to be killed: PEER_ID_HEX PORT CONTENT_ID_HEX TARGET.

Prints the bytes fetched.
"""

import asyncio
import sys
from pathlib import Path

from identity.address import Address
from tests.transfer.peers import running_peer
from tests.transfer.trees import get_folder
from transfer.candidates import Holder


async def main(peer_id: str, port: str, content_id: str, target: str) -> None:
    holder = Holder(bytes.fromhex(peer_id), (Address("127.0.0.1", int(port)),))
    async with running_peer() as reader:
        result = await get_folder(reader, bytes.fromhex(content_id), Path(target), [holder])
    print(result.fetched_bytes)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
