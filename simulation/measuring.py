"""Reads and publishes of simulated peers, timed on the virtual clock.

Owns what is measured of one read or publish. Must not know what the figures are compared with.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dht.records import Kind, NamePayload, name_key
from dht.tracing import Account, Event, Held, Outcome, Recorder
from simulation.report import mean, percentile
from simulation.world import Peer, World

Result = TypeVar("Result")
CONTENT_ID_BYTES = 32


@dataclass(frozen=True, slots=True)
class Offer:
    """A name that a peer published."""

    name: str
    holder: Peer
    payload: NamePayload
    key: bytes


@dataclass(frozen=True, slots=True)
class ReadResult:
    """One read of a name."""

    offer: Offer
    reader: Peer
    took_s: float
    first_s: float | None
    """When the first good record was there; None when none came."""
    holders: frozenset[bytes]
    """The publishers of the live records that it returned."""
    requests: int
    """Requests of the lookup, without repeats of lost datagrams and without page reads."""
    sent: int
    """Datagrams that the reader sent meanwhile."""
    hops: int
    """Referrals until the closest peer that answered was known: 1 when it was a contact."""

    @property
    def is_found(self) -> bool:
        """Whether the holder's record came."""
        return self.offer.holder.identity.peer_id in self.holders


@dataclass(frozen=True, slots=True)
class PublishResult:
    """One publish of a name."""

    offer: Offer
    took_s: float
    stored_on: int
    sent: int


class _Watch:
    """Records a read, and when its first record came."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.recorder = Recorder()
        self.first_at: float | None = None
        self._now = now

    def __call__(self, event: Event) -> None:
        if isinstance(event, Held) and self.first_at is None and not event.record.withdrawn:
            self.first_at = self._now()
        self.recorder(event)


async def publish(world: World, holder: Peer, name: str) -> PublishResult:
    """Let a peer publish a name, and time it."""
    content_id = world.random(f"content/{name}").randbytes(CONTENT_ID_BYTES)
    payload = NamePayload(name, content_id, 1_000_000, (holder.address,))
    before, sent = world.now(), holder.port.sent
    report = await holder.running.publish([payload])
    took_s = world.now() - before
    offer = Offer(name, holder, payload, name_key(world.config.network.network_id, name))
    return PublishResult(offer, took_s, report.stored_on_min, holder.port.sent - sent)


async def read(world: World, reader: Peer, offer: Offer, *, is_watched: bool = True) -> ReadResult:
    """Let a peer read a name to the end, and time it.

    A watched read follows the pages of all storers: where a name has many records, time reads that
    nobody watches. They have no first record, requests and hops.
    """
    node = reader.running
    key = offer.key
    watch = _Watch(world.now)
    known = frozenset(each.peer_id for each in node.engine.table.contacts())
    before, sent = world.now(), reader.port.sent
    hits = await node.read(key, (Kind.NAME,), trace=watch if is_watched else None)
    took_s = world.now() - before
    account = watch.recorder.account()
    return ReadResult(
        offer,
        reader,
        took_s,
        None if watch.first_at is None else watch.first_at - before,
        frozenset(record.publisher for record, _ in hits),
        len(account.hops),
        reader.port.sent - sent,
        hops_of(account, known),
    )


def hops_of(account: Account, known: frozenset[bytes]) -> int:
    """Count the requests that led from whom the reader knew to the closest peer that answered.

    1: it was known itself; 0: nobody answered.
    """
    answered = {
        hop.peer_id: hop for hop in account.hops if hop.outcome in (Outcome.ANSWERED, Outcome.LATE)
    }
    peer_id = next(iter(account.closest), None)
    hops = 0
    while peer_id is not None and peer_id in answered and hops <= len(answered):
        hops += 1
        peer_id = None if peer_id in known else answered[peer_id].named_by
    return hops


async def paced(gap_s: float, count: int, work: Callable[[int], Awaitable[Result]]) -> list[Result]:
    """Start works 0, 1, 2 ... at even gaps, and return all results in their order."""
    tasks: list[asyncio.Future[Result]] = []
    for number in range(count):
        tasks.append(asyncio.ensure_future(work(number)))
        await asyncio.sleep(gap_s)
    return list(await asyncio.gather(*tasks))


def milliseconds(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Return p50, p90, p99 and the largest of times in seconds, in whole milliseconds."""
    shares = (0.5, 0.9, 0.99, 1.0)
    return tuple(1000 * percentile(values, share) for share in shares)  # type: ignore[return-value]


def share(count: int, whole: int) -> float:
    """Return a share in percent."""
    return 100 * count / whole if whole else 0.0


__all__ = [
    "Offer",
    "PublishResult",
    "ReadResult",
    "hops_of",
    "mean",
    "milliseconds",
    "paced",
    "publish",
    "read",
    "share",
]
