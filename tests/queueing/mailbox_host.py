"""A mailbox host in a process of its own: listener, service and spool, as a peer wires them.

Run: python mailbox_host.py FOLDER SEED PORT SENDER_LIMIT_BYTES DELIVERY_BYTES_MAX. Prints
"PEER_ID PORT" when ready; ends when its stdin closes. It serves Nudge and Return too.
"""

import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from identity.keys import show_peer_id
from identity.tls import make_tls
from queueing.mailbox_service import MailboxHooks, MailboxService
from queueing.spool import Spool
from queueing.spool_index import SpoolConfig
from rpc.caller import caller_of
from rpc.listener import RpcListener
from tests.queueing.letters import NETWORK, NETWORK_ID, identity


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


async def nothing_of_ours(_receipt: bytes) -> bool:
    return False


async def main(
    folder: Path, seed: str, port: int, sender_limit_bytes: int, delivery_bytes_max: int
) -> None:
    own = identity(seed)
    spool = await Spool.open(
        folder, NETWORK_ID, wall_ms=wall_ms,
        config=SpoolConfig(
            sender_limit_bytes=sender_limit_bytes, delivery_bytes_max=delivery_bytes_max
        ),
    )  # fmt: skip
    hooks = MailboxHooks(
        accepts=lambda _sender, _recipient: True,
        on_held=lambda _recipient, _expires_ms: None,
        on_nudge=lambda _host: None,
        on_receipt=nothing_of_ours,
    )
    service = MailboxService(
        spool, own, NETWORK_ID, lambda context: caller_of(context, NETWORK).peer_id, hooks,
        wall_ms=wall_ms,
    )  # fmt: skip
    listener = RpcListener(make_tls(own, NETWORK), NETWORK)
    listener.add(service.handler())
    bound = await listener.start("127.0.0.1", port)
    print(show_peer_id(own.peer_id), bound, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await listener.stop()
    await spool.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6])))
