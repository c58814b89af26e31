"""A network of one system over several processes: two hosts, and the askers in this one.

Owns the host processes and their end. Every system is spread alike: the nodes that will fall
silent have a process of their own, which is stopped (SIGSTOP): their sockets stay open and swallow
what comes. Must not know what is measured.
"""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.host import join_all
from bench.systems import system_of
from bench.systems.base import Item, Node
from peer.garbage import keep_turns_short

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 30.0
JOIN_TIMEOUT_S = 60.0
END_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Layout:
    """How many nodes there are, and where."""

    nodes: int = 100
    silent_share: float = 0.3
    askers: int = 4
    """Nodes in the measuring process, counted among all."""

    def __post_init__(self) -> None:
        assert self.askers >= 2, "an item is stored by one asker and read by another"
        assert self.steady >= 1
        assert self.silent >= 1

    @property
    def silent(self) -> int:
        """Nodes that fall silent."""
        return round(self.nodes * self.silent_share)

    @property
    def steady(self) -> int:
        """Nodes in the other host process."""
        return self.nodes - self.silent - self.askers


@dataclass(slots=True)
class BenchNetwork:
    """A network that has joined; `askers` are in this process."""

    askers: list[Node]
    join_s: float
    _fading: asyncio.subprocess.Process

    def asker_for(self, item: Item) -> Node:
        """Return the asker farthest from an item: hardly ever one that stores it itself."""
        return max(self.askers, key=lambda node: node.distance(item))

    def storer_for(self, item: Item) -> Node:
        """Return an asker that will not read the item."""
        reader = self.asker_for(item)
        others = [node for node in self.askers if node is not reader]
        return others[item.number % len(others)]

    def silence(self) -> None:
        """Stop the process of the nodes that fall silent."""
        self._fading.send_signal(signal.SIGSTOP)


@contextlib.asynccontextmanager
async def network_of(name: str, layout: Layout) -> AsyncIterator[BenchNetwork]:
    """Start the processes of one network and let all nodes join; end them afterwards."""
    system = system_of(name)
    hosts: list[asyncio.subprocess.Process] = []
    askers: list[Node] = []
    try:
        for count in (layout.steady, layout.silent):
            hosts.append(await _start(name, count))  # noqa: PERF401 - each must be ended
        ports = [await _hear(host, "port", START_TIMEOUT_S) for host in hosts]
        askers.extend([await system.make_node() for _ in range(layout.askers)])
        began = time.perf_counter()
        await _join(hosts, askers, ports[0])
        join_s = time.perf_counter() - began
        keep_turns_short()  # as every running peer does, and the hosts here; for all systems
        yield BenchNetwork(askers, join_s, hosts[1])
    finally:
        for node in askers:
            await node.close()
        await asyncio.gather(*(_end(host) for host in hosts))


async def _join(
    hosts: Sequence[asyncio.subprocess.Process], askers: Sequence[Node], port: int
) -> None:
    """Everybody joins at once through the first node of the first host."""
    for host, through in zip(hosts, (0, port), strict=True):
        assert host.stdin is not None
        host.stdin.write(f"{through}\n".encode())
    async with asyncio.timeout(JOIN_TIMEOUT_S):
        await asyncio.gather(
            join_all(askers, port), *(_hear(host, "joined", JOIN_TIMEOUT_S) for host in hosts)
        )


async def _start(name: str, count: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.host",
        name,
        str(count),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def _hear(host: asyncio.subprocess.Process, field: str, timeout_s: float) -> int:
    assert host.stdout is not None
    async with asyncio.timeout(timeout_s):
        line = await host.stdout.readline()
    if not line:
        raise RuntimeError("a host process ended early; its error stands above")
    return int(json.loads(line)[field])


async def _end(host: asyncio.subprocess.Process) -> None:
    """Let a host go, stopped or not."""
    with contextlib.suppress(ProcessLookupError):
        host.kill()
    async with asyncio.timeout(END_TIMEOUT_S):
        await host.wait()
