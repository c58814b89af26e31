"""Throw random and mutated datagrams at a node that works: nothing escapes, nothing grows.

`python -m tests.fuzz.datagrams --count 1000000 --seed 1`. Two nodes of one network talk through
this module instead of sockets: whatever one sends, the other takes, and what it answers is mutated
on its way back, sealed again where the network is private, so that replies to real requests reach
the deep code too. Between them come requests of all calls with valid tokens and sound signatures,
mutated likewise, what was captured earlier, and noise. Prints seed, rate, counters and memory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from dht import wire
from dht.errors import BadMessage, DhtError
from dht.limits import Limits, Rate
from dht.node import DhtConfig, DhtNode
from dht.records import ContentPayload, encode_record, sign_record
from dht.seal import SESSION_BYTES, Sealer, sealer_of
from dht.storage import StorageLimits
from identity.address import Address
from identity.errors import ShoalError
from identity.keys import Identity
from identity.network import BootstrapNode, Network
from tests.dht.nodes import OPEN, PRIVATE, address_of, file_payloads, make_node, until
from tests.dht.sink import Sink, bodies, hello_for, token_for

PLENTY = Rate(1e9, 1e9)
NO_LIMITS = Limits(PLENTY, PLENTY, PLENTY, PLENTY, PLENTY, PLENTY, PLENTY, PLENTY, PLENTY, PLENTY)
CONFIG = DhtConfig(
    limits=NO_LIMITS, call_timeout_s=0.2, resend_s=0.05, handoff_s=0.05, flush_s=60.0
)
SOURCES = 2_000
RECORDS = 500
CORPUS_MAX = 512
RUNNING_MAX = 6
BREATH = 25
"""Datagrams between two turns of the node's own tasks."""
WORK = 250
"""Datagrams between two pieces of work that the node is given."""
GROWTH_BYTES_MAX = 10 * 1024 * 1024
HEADS = bytes((0xC0, 0xC1, 0xC4, 0xC5, 0xC6, 0xC7, 0xCA, 0xCF, 0xD9, 0xDB, 0xDC, 0xDD, 0xDF, 0xFF))
"""First bytes of msgpack values that promise much, or nothing that is allowed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    network: str
    count: int
    seconds: float
    growth_bytes: int
    rss_bytes: int
    counters: dict[str, int]


class Escaped(Exception):  # noqa: N818 - it says what happened
    """A datagram raised something past the node."""


def mutated(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Change a datagram in one to four places, or not at all."""
    out = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        place = rng.randrange(len(out) + 1)
        match rng.randrange(8):
            case 0 if out:
                out[place % len(out)] ^= 1 << rng.randrange(8)
            case 1 if out:
                out[place % len(out)] = rng.randrange(256)
            case 2 if out:
                out[place % len(out)] = rng.choice(HEADS)
            case 3:
                del out[place:]
            case 4:
                del out[place : place + rng.randrange(1, 40)]
            case 5:
                out[place:place] = rng.randbytes(rng.randrange(1, 40))
            case 6:
                out[place:place] = out[place : place + rng.randrange(1, 300)]
            case _ if others:
                other = rng.choice(others)
                out[place:] = other[min(place, len(other)) :]
    return bytes(out[: wire.DATAGRAM_BYTES_MAX + 100])


class Fuzz:
    """One run against one node; see the module."""

    def __init__(
        self, node: DhtNode, friend: DhtNode, network: Network, rng: random.Random
    ) -> None:
        self._node = node
        self._friend = friend
        self._rng = rng
        self._sinks = {node: Sink(node), friend: Sink(friend)}
        # Datagrams are opened under one session of the fuzzer's own and sealed under another.
        self._reader: Sealer = sealer_of(network, rng.randbytes(SESSION_BYTES))
        self._writer: Sealer = sealer_of(network, rng.randbytes(SESSION_BYTES))
        self._corpus: list[bytes] = []
        self._sources = [
            Address(f"10.{rng.randrange(256)}.{rng.randrange(256)}.7", 1 + rng.randrange(65_000))
            for _ in range(SOURCES)
        ]
        self._strangers = [Identity.from_seed(rng.randbytes(32)) for _ in range(64)]
        self._records = [self._record(rng.choice(self._strangers)) for _ in range(RECORDS)]
        self._running: set[asyncio.Task[None]] = set()
        self._number = 0
        self.errors: list[object] = []
        self.thrown = 0

    async def run(self, count: int) -> None:
        """Throw `count` datagrams; Escaped when one gets past the node."""
        end = self.thrown + count
        while self.thrown < end:
            if self.thrown % WORK < 3:
                self._give_work()
            if self.thrown % BREATH == 0:
                await asyncio.sleep(0)
                self._carry()
                self._check_alive()
            self._throw(*self._next())
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()

    def reconnect(self) -> None:
        """Give both nodes their sockets back."""
        for node, sink in self._sinks.items():
            node.engine.protocol.transport = sink._behind

    def _next(self) -> tuple[bytes, Address]:
        rng = self._rng
        source = rng.choice(self._sources)
        match rng.randrange(10):
            case 0:
                return rng.randbytes(rng.randrange(1_300)), source
            case 1 | 2 if self._corpus:
                return self._seal(mutated(rng.choice(self._corpus), rng, self._corpus)), source
            case 3:
                return mutated(self._seal(self._sound_call(source)), rng, self._corpus), source
            case _:
                return self._seal(mutated(self._sound_call(source), rng, self._corpus)), source

    def _sound_call(self, source: Address) -> bytes:
        """A request as an honest peer would make it, with a token or a hello."""
        rng, node = self._rng, self._node
        if rng.random() < 0.1:
            call = rng.choice([each for each in wire.Call if each not in wire.OUR_CALLS])
            arguments = [rng.randbytes(20) for _ in range(rng.randrange(4))]
            return wire.pack_stock_call(rng.randbytes(20), call, *arguments)
        who = self._strangers[source.port % len(self._strangers)]
        record = rng.choice(self._records)
        call, body = rng.choice(list(bodies(rng, rng.randbytes(20), record).items()))
        if rng.random() < 0.05:
            sender = wire.Sender(who.peer_id, b"", hello_for(node, who, rng))
        else:
            sender = wire.Sender(who.peer_id, token_for(node, source, who.peer_id))
        size = rng.choice((0, rng.randrange(1_200), 1_159))
        return wire.pack_call(rng.randbytes(20), call, sender, body, size)

    def _record(self, who: Identity) -> bytes:
        now_ms = self._node.now_ms()
        payload = ContentPayload(self._rng.randbytes(32))
        network_id = self._node.network.network_id
        return encode_record(
            sign_record(who, network_id, payload, sequence=now_ms, issued_ms=now_ms)
        )

    def _carry(self) -> None:
        """Carry what the nodes sent each other; the friend's words are mutated on their way."""
        to_friend, self._sinks[self._node].sent = self._sinks[self._node].sent, []
        for data, address in to_friend:
            if address == address_of(self._friend):
                home = address_of(self._node)
                self._friend.engine.protocol.datagram_received(data, (home.host, home.port))
        answers, self._sinks[self._friend].sent = self._sinks[self._friend].sent, []
        for data, address in answers:
            if address != address_of(self._node):
                continue
            plain = self._reader.open(data)
            if plain is None:
                continue
            self._capture(plain)
            self._throw(
                self._seal(mutated(plain, self._rng, self._corpus)), address_of(self._friend)
            )

    def _capture(self, plain: bytes) -> None:
        if len(self._corpus) < CORPUS_MAX:
            self._corpus.append(plain)
        else:
            self._corpus[self._rng.randrange(CORPUS_MAX)] = plain

    def _seal(self, plain: bytes) -> bytes:
        return self._writer.seal(plain)

    def _throw(self, data: bytes, source: Address) -> None:
        self.thrown += 1
        try:
            self._node.engine.protocol.datagram_received(data, (source.host, source.port))
        except Exception as error:
            raise Escaped(f"datagram {self.thrown} from {source}: {data.hex()}") from error

    def _give_work(self) -> None:
        """Let both nodes do something, so that there are real requests and replies."""
        if len(self._running) >= RUNNING_MAX:
            return
        self._number += 1
        node, friend, number = self._node, self._friend, self._number
        content_id = (number % 50).to_bytes(32, "big")
        works: list[Callable[[], Coroutine[Any, Any, object]]] = [
            lambda: node.find_content(content_id),
            lambda: node.publish(file_payloads(f"whale {number % 50}.txt", content_id)),
            lambda: node.search(["whale"]),
            lambda: node.hello_address(address_of(friend)),
            lambda: friend.publish(file_payloads(f"song {number % 50}.txt", content_id)),
            lambda: friend.find_content(content_id),
            lambda: friend.engine.caller.hello(address_of(node)),
        ]

        async def work() -> None:
            with contextlib.suppress(ShoalError):
                await works[number % len(works)]()

        task = asyncio.create_task(work())
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.errors.append(task.exception())

    def _check_alive(self) -> None:
        for node in (self._node, self._friend):
            task = node.engine._task
            if task is None or task.done():
                raise Escaped(f"the node ended: {task}")
        if self.errors:
            raise Escaped(str(self.errors[0]))


async def fuzz(network: Network, count: int, seed: int, *, warm_up: int) -> Outcome:
    """Run against one network; Escaped, or an AssertionError when the node answers no more."""
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()
    limits = StorageLimits(records_max=2_000)
    nodes = [make_node(network, config=CONFIG, limits=limits) for _ in range(2)]
    node, friend = nodes
    try:
        for each in nodes:
            await each.listen("127.0.0.1", 0)
        await friend.bootstrap([BootstrapNode(address_of(node))])
        await until(lambda: len(node.engine.table) == len(friend.engine.table) == 1)
        run = Fuzz(node, friend, network, rng)
        loop.set_exception_handler(lambda _, context: run.errors.append(context))
        await run.run(warm_up)
        before, began = rss_bytes(), time.perf_counter()
        await run.run(count)
        seconds, after = time.perf_counter() - began, rss_bytes()
        run.reconnect()
        with contextlib.suppress(DhtError, BadMessage):  # the first may still meet an old session
            await friend.engine.caller.hello(address_of(node))
        assert await friend.engine.caller.hello(address_of(node)) == node.peer_id
        assert not run.errors, run.errors[0]
        return Outcome(network.name, count, seconds, after - before, after, node.counters())
    finally:
        for each in nodes:
            await each.close()


def rss_bytes() -> int:
    """Resident memory now; where the system does not tell, the most there was."""
    with contextlib.suppress(OSError):
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.fuzz.datagrams")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    for network in (OPEN, PRIVATE):
        count = options.count // 2
        try:
            outcome = asyncio.run(
                fuzz(network, count, options.seed, warm_up=max(20_000, count // 5))
            )
        except Escaped as error:
            print(f"FAILED with seed {options.seed}: {error}", file=sys.stderr)
            raise
        print(
            f"{outcome.network}: {outcome.count} datagrams in {outcome.seconds:.0f} s"
            f" ({outcome.count / outcome.seconds:.0f}/s), RSS {outcome.rss_bytes / 1e6:.0f} MB,"
            f" {outcome.growth_bytes / 1e6:+.1f} MB since the warm-up, still answers"
        )
        for name, number in sorted(outcome.counters.items()):
            print(f"  {name} {number}")
        if outcome.growth_bytes > GROWTH_BYTES_MAX:
            print(f"FAILED: memory grows, seed {options.seed}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
