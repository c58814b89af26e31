"""A process that holds nodes of one system for a benchmark: `python -m bench.host SYSTEM COUNT`.

Owns its nodes and two JSON lines: on stdout the port of its first node, then the end of joining.
On stdin it reads the port to join through (0: its own first node is the first of all) and, at the
end of the input, that it may go. Nobody else speaks to it.
"""

import asyncio
import json
import signal
import sys
from collections.abc import Sequence

from bench.systems import system_of
from bench.systems.base import Node
from peer.garbage import keep_turns_short

JOINS_AT_ONCE_MAX = 8
"""Nodes of one process that join at the same time, in every system."""
LIFE_MAX_S = 900
"""A host ends by itself after this, should nobody end it."""


async def join_all(nodes: Sequence[Node], port: int) -> None:
    """Let nodes join through a port of loopback, a few at a time."""
    slots = asyncio.Semaphore(JOINS_AT_ONCE_MAX)

    async def join(node: Node) -> None:
        async with slots:
            await node.join(port)

    await asyncio.gather(*(join(node) for node in nodes))


async def _host(name: str, count: int) -> None:
    system = system_of(name)
    lines = await input_lines()
    nodes = [await system.make_node() for _ in range(count)]
    say({"port": nodes[0].port})
    port = int(await lines.readline())
    await join_all(nodes if port else nodes[1:], port or nodes[0].port)
    keep_turns_short()  # as every running peer does; the same for all systems
    say({"joined": count})
    await lines.read()


async def input_lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    return reader


def say(line: dict[str, int]) -> None:
    print(json.dumps(line), flush=True)


def run_loop(system_name: str) -> asyncio.Runner:
    """Return a runner with the event loop that a system's Python side runs on."""
    if system_of(system_name).uses_uvloop:
        import uvloop

        return asyncio.Runner(loop_factory=uvloop.new_event_loop)
    return asyncio.Runner()


def main(arguments: Sequence[str]) -> None:
    """Run a host; the arguments are the system's name and the number of nodes."""
    name, count = arguments
    signal.alarm(LIFE_MAX_S)
    with run_loop(name) as runner:
        runner.run(_host(name, int(count)))


if __name__ == "__main__":
    main(sys.argv[1:])
