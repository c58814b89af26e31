"""What a host does with the mail of others when it leaves: it hands it to hosts that stay.

Owns the choice of heirs and the order. Must not know the DHT, nor when the peer leaves. Whatever is
not handed over in time stays on this disk: its sender finds the host silent and places it anew.

A delivery is let go of only after another host has promised to keep it that had nothing of it
before; where all that would take it had it already, handing over would cost a copy.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from identity.errors import ShoalError
from queueing.errors import QueueError, Unavailable
from queueing.mailbox_client import Host, MailboxClient
from queueing.mailbox_store import HostFinder
from queueing.mailbox_wire import ENDED_MAX
from queueing.spool import Spool
from queueing.spool_index import Row


@dataclass(frozen=True, slots=True)
class HandOverConfig:
    """Bounds of one hand-over."""

    deliveries_max: int = 1_000
    at_once_max: int = 4
    heirs_max: int = 6
    """Hosts tried for one delivery."""


class HandOver:
    """Hands over what this peer keeps for others; use it once, at a clean leave."""

    def __init__(
        self,
        client: MailboxClient,
        finder: HostFinder,
        spool: Spool,
        own_id: bytes,
        *,
        config: HandOverConfig = HandOverConfig(),
    ) -> None:
        self._client = client
        self._finder = finder
        self._spool = spool
        self._own_id = own_id
        self._config = config
        self._near: dict[bytes, list[Host]] = {}
        self._silent: set[bytes] = set()

    async def run(self, timeout_s: float) -> int:
        """Hand over as much as the time allows, the smallest first; return how many."""
        rows = deque(await self._spool.kept_for_others(self._config.deliveries_max))
        moved: dict[bytes, list[tuple[bytes, bytes]]] = {}

        async def work() -> None:
            while rows:
                row = rows.popleft()
                with contextlib.suppress(ShoalError):  # then it stays here
                    promise = await self._hand_over(row)
                    if promise:
                        moved.setdefault(row.sender, []).append((row.delivery_id, promise))

        await _in_time([work() for _ in range(self._config.at_once_max)], timeout_s * 2 / 3)
        await _in_time([self._tell(*each) for each in moved.items()], timeout_s / 3)
        return sum(map(len, moved.values()))

    async def _hand_over(self, row: Row) -> bytes:
        """Return the heir's promise; empty where no host took it that did not have it."""
        manifest = await self._spool.manifest(row.delivery_id)
        if manifest is None:
            return b""
        for heir in await self._heirs(row):
            try:
                kept = await self._client.deposit(
                    heir, manifest, self._spool.source(manifest), handed_over=True
                )
            except Unavailable:
                self._silent.add(heir.peer_id)
                continue
            except QueueError:  # full, say
                continue
            if not kept.had_it:
                await self._spool.forget(row.delivery_id)
                return kept.signed
        return b""

    async def _heirs(self, row: Row) -> list[Host]:
        if row.recipient not in self._near:
            self._near[row.recipient] = list(await self._finder.hosts_near(row.recipient))
        passed_over = {self._own_id, row.sender, row.recipient, *self._silent}
        near = [each for each in self._near[row.recipient] if each.peer_id not in passed_over]
        return near[: self._config.heirs_max]

    async def _tell(self, sender_id: bytes, moved: Sequence[tuple[bytes, bytes]]) -> None:
        """Tell a sender that is there; one that is away hears it from the heir."""
        with contextlib.suppress(ShoalError):
            sender = await self._finder.locate(sender_id)
            if sender is None:
                return
            for start in range(0, len(moved), ENDED_MAX):
                await self._client.moved(sender, moved[start : start + ENDED_MAX])


async def _in_time(work: Sequence[Coroutine[Any, Any, None]], timeout_s: float) -> None:
    """Run all at once, as far as the time allows."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
