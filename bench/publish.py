"""What publishing many files costs: `make bench-publish`.

One peer publishes the records of many files in a network of real peers on loopback, over UDP and
real gRPC, its schedule in a real database. Counted at the publisher: calls, bytes both ways (UDP
from the protocol's counters, gRPC from the kernel's count of its TCP connections), time, and the
longest turn of its event loop. Set against: one lookup and k stores a record, and each record's
bytes once for each storer.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.lag import loop_lag
from bench.machine import machine
from bench.storers import make_peer, network_of
from bench.tcp import TcpCounter
from dht.acks import Receipt
from dht.lookup import Candidate, Goal
from dht.node import DhtNode
from dht.records import (
    ContentPayload,
    NamePayload,
    Payload,
    Record,
    WordPayload,
    encode_record,
    sign_record,
)
from dht.words import indexed_words
from identity.address import Address
from identity.keys import Identity
from peer.database import Database
from peer.garbage import keep_turns_short
from peer.memory import DhtMemory

SAMPLE_LOOKUPS = 20
SAMPLE_RECORDS = 200
SIZE_BYTES = 1_000_000
CONSONANTS = "bdfgklmnprst"
VOWELS = "aeiou"
TICK_S = 0.005
LOOK_S = 0.25
UDP_HEADERS_BYTES = 28
"""IPv4 and UDP, a datagram."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What one publish of many records took."""

    records: int
    storers: float
    """Other peers that acknowledged a record, on average."""
    record_bytes: int
    """Of all records, each once."""
    lookup_requests: float
    """Of one lookup for one key, on average."""
    lookups: int
    udp_datagrams: int
    """Sent by the publisher: its requests and their repeats, and its answers to others."""
    grpc_calls: int
    udp_bytes: int
    tcp_bytes: int
    seconds: float
    cpu_seconds: float
    longest_turn_ms: float

    @property
    def calls(self) -> int:
        """What the publisher sent: datagrams and gRPC calls."""
        return self.udp_datagrams + self.grpc_calls

    @property
    def naive_calls(self) -> float:
        """One lookup and one store call a storer, for each record by itself."""
        return self.records * (self.lookup_requests + self.storers)

    @property
    def calls_ratio(self) -> float:
        """How many times fewer calls these were."""
        return self.naive_calls / self.calls

    @property
    def bytes_ratio(self) -> float:
        """All bytes both ways, datagrams' headers included, against records times storers."""
        headers = 2 * self.udp_datagrams * UDP_HEADERS_BYTES
        return (self.udp_bytes + self.tcp_bytes + headers) / (self.record_bytes * self.storers)


def payloads_of(files: int) -> list[Payload]:
    """The records of many shared files: a name, a content and three words, each in a few names."""
    here = (Address("127.0.0.1", 4100),)
    payloads: list[Payload] = []
    for number in range(files):
        name = f"{_word(number // 5)} {_word(number * 7 // 5 + 3)} {number:05}"
        content_id = number.to_bytes(32, "big")
        payloads += [NamePayload(name, content_id, SIZE_BYTES, here)]
        payloads += [ContentPayload(content_id, here)]
        payloads += [
            WordPayload(word, name, content_id, SIZE_BYTES) for word in indexed_words(name)
        ]
    return payloads


def _word(number: int) -> str:
    """A pronounceable word for a number."""
    syllables = []
    for _ in range(3):
        number, rest = divmod(number, len(CONSONANTS) * len(VOWELS))
        syllables.append(CONSONANTS[rest % len(CONSONANTS)] + VOWELS[rest // len(CONSONANTS)])
    return "".join(syllables)


async def measure(node: DhtNode, payloads: Sequence[Payload], *, both_ends: bool) -> Costs:
    """Publish once and count; `both_ends`: all connections end twice in this process."""
    lookup_requests = await _lookup_requests(node)
    tcp = TcpCounter()
    tcp.look()
    before, tcp_before = node.counters(), tcp.total()
    grpc_calls = _count_bulk(node)
    began, cpu_began = time.monotonic(), time.process_time()
    looking = asyncio.create_task(_keep_looking(tcp))
    async with loop_lag(TICK_S) as lag:
        report = await node.publish(payloads)
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu_began
    looking.cancel()
    tcp.look()
    after, tcp_after = node.counters(), tcp.total()

    def grown(name: str) -> int:
        return after.get(name, 0) - before.get(name, 0)

    tcp_bytes = tcp_after.sent - tcp_before.sent
    if not both_ends:
        tcp_bytes += tcp_after.received - tcp_before.received
    return Costs(
        records=len(payloads),
        storers=statistics.fmean(report.stored_on),
        record_bytes=_record_bytes(node, payloads),
        lookup_requests=lookup_requests,
        lookups=grown("publish-lookups"),
        udp_datagrams=grown("datagrams-sent"),
        grpc_calls=len(grpc_calls),
        udp_bytes=grown("bytes-sent") + grown("bytes-received"),
        tcp_bytes=tcp_bytes,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        longest_turn_ms=lag.longest_s * 1000,
    )


async def _lookup_requests(node: DhtNode) -> float:
    """Look some keys up one by one, after a first one that says hello to most."""
    for number in range(SAMPLE_LOOKUPS):
        await node.engine.reader.closest(_sample_key(number), Goal.WRITE)
    before = node.counters()["datagrams-sent"]
    for number in range(SAMPLE_LOOKUPS):
        await node.engine.reader.closest(_sample_key(SAMPLE_LOOKUPS + number), Goal.WRITE)
    return (node.counters()["datagrams-sent"] - before) / SAMPLE_LOOKUPS


def _sample_key(number: int) -> bytes:
    return hashlib.sha256(b"sample %d" % number).digest()[:20]


def _record_bytes(node: DhtNode, payloads: Sequence[Payload]) -> int:
    """The encoded size of all records, from an even sample."""
    now_ms = node.now_ms()
    # An odd step, so that it does not fall into step with the kinds of a file's records.
    sample = payloads[:: len(payloads) // SAMPLE_RECORDS // 2 * 2 + 1]
    identity, network_id = Identity.generate(), node.network.network_id
    sizes = [
        len(
            encode_record(
                sign_record(identity, network_id, each, sequence=now_ms, issued_ms=now_ms)
            )
        )
        for each in sample
    ]
    return round(statistics.fmean(sizes) * len(payloads))


def _count_bulk(node: DhtNode) -> list[int]:
    """Note the length of each batch that goes over gRPC from now on."""
    lengths: list[int] = []
    bulk = node.engine.publisher.bulk
    if bulk is not None:
        store = bulk.store

        async def counted(candidate: Candidate, records: Sequence[Record]) -> Receipt:
            lengths.append(len(records))
            return await store(candidate, records)

        bulk.store = counted  # type: ignore[method-assign]
    return lengths


async def _keep_looking(tcp: TcpCounter) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        tcp.look()


# The whole size: storers in processes of their own


@dataclass(frozen=True, slots=True)
class Plan:
    """How large a run is."""

    files: int = 10_000
    peers: int = 100
    processes: int = 2


async def run(plan: Plan) -> Costs:
    """Start the storers, join them, publish once."""
    seed = os.urandom(32)
    share, rest = divmod(plan.peers - 1, plan.processes)
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        port = 0
        for number in range(plan.processes):
            host = stack.enter_context(_storers(share + (number < rest)))
            heard = _tell(host, {"key": seed.hex(), "port": port})
            port = port or heard["port"]
            _hear(host)  # all have joined
        database = Database(Path(folder) / "shoal.db")
        peer = await make_peer(network_of(seed), persistence=DhtMemory(database))
        try:
            await peer.join(port)
            keep_turns_short()  # as every running peer does
            return await measure(peer.node, payloads_of(plan.files), both_ends=False)
        finally:
            await peer.close()
            database.close()


@contextlib.contextmanager
def _storers(count: int) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.storers", str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.communicate()  # the end of its input is the end of the process


def _tell(process: "subprocess.Popen[str]", line: dict[str, object]) -> dict[str, int]:
    assert process.stdin is not None
    process.stdin.write(json.dumps(line) + "\n")
    process.stdin.flush()
    return _hear(process)


def _hear(process: "subprocess.Popen[str]") -> dict[str, int]:
    assert process.stdout is not None
    heard: dict[str, int] = json.loads(process.stdout.readline())
    return heard


def show(plan: Plan, costs: Costs) -> str:
    """Lay the figures out, one a line."""
    size_bytes = costs.record_bytes / costs.records
    what = f"{plan.files:,} files, {costs.records:,} records of {size_bytes:.0f} bytes"
    sent = f"{costs.udp_datagrams:,} datagrams and {costs.grpc_calls:,} gRPC calls"
    rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    lines = [
        f"{what}, {plan.peers} peers, {costs.storers:.1f} storers a record",
        f"calls            {costs.calls:,} ({sent}; {costs.lookups} lookups)",
        f"  one by one     {costs.naive_calls:,.0f} ({costs.lookup_requests:.1f} for each lookup)",
        f"  fewer by       {costs.calls_ratio:,.0f}x",
        f"bytes            {costs.udp_bytes:,} in datagrams, {costs.tcp_bytes:,} in TCP streams",
        f"  to the records {costs.bytes_ratio:.3f}x (records x storers; datagrams with headers)",
        f"time             {costs.seconds:.1f} s; the publisher's CPU: {costs.cpu_seconds:.1f} s",
        f"longest turn     {costs.longest_turn_ms:.0f} ms of CPU time",
        f"publisher's RSS  at most {rss_mib} MiB",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Run once and print."""
    usual = Plan()
    parser = argparse.ArgumentParser(prog="python -m bench.publish", description=__doc__)
    parser.add_argument("--files", type=int, default=usual.files)
    parser.add_argument("--peers", type=int, default=usual.peers)
    parser.add_argument("--processes", type=int, default=usual.processes)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    plan = Plan(options.files, options.peers, options.processes)
    costs = asyncio.run(run(plan))
    print("; ".join(f"{name} {value}" for name, value in machine().items()))
    print(show(plan, costs))
    if options.json is not None:
        figures = {"machine": machine(), "plan": asdict(plan), "costs": asdict(costs)}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
