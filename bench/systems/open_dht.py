"""OpenDHT (C++, a thread or two a node) behind the benchmark's calls.

Its callbacks run in its own threads: times are taken there, the event loop only hears of the end.
"""

import asyncio
import importlib.metadata
import time
from typing import TypeVar

import opendht

from bench.systems.base import Got, Item

Result = TypeVar("Result")

JOIN_POLL_S = 0.002
JOIN_TIMEOUT_S = 30.0
NO_LIMIT = -1
"""All nodes share one address here, which its limit of requests an address would punish."""


class OpenDhtSystem:
    """`opendht.DhtRunner` with its defaults but for the rate limits."""

    name = "opendht"
    uses_uvloop = True

    def version(self) -> str:
        """The package's version."""
        return f"opendht {importlib.metadata.version('opendht')}"

    async def make_node(self) -> "OpenDhtNode":
        """Make a running node."""
        config = opendht.DhtConfig()
        config.setRateLimit(NO_LIMIT, NO_LIMIT)
        runner = opendht.DhtRunner()
        runner.run(port=0, ipv4="127.0.0.1", ipv6="", config=config)
        return OpenDhtNode(runner)


class OpenDhtNode:
    """One OpenDHT node; a get ends when its search says that it is done."""

    def __init__(self, runner: opendht.DhtRunner) -> None:
        self._runner = runner

    @property
    def port(self) -> int:
        port: int = self._runner.getBound().getPort()
        return port

    def distance(self, item: Item) -> int:
        return _number(_key(item)) ^ _number(self._runner.getNodeId())

    async def join(self, port: int) -> None:
        """Returns when a contact counts as good, which is what OpenDHT calls connected."""
        self._runner.bootstrap("127.0.0.1", str(port))
        async with asyncio.timeout(JOIN_TIMEOUT_S):
            # Its state has no callback in Python.
            while "[good]" not in self._runner.getRoutingTablesLog(2):  # noqa: ASYNC110
                await asyncio.sleep(JOIN_POLL_S)

    async def store(self, item: Item) -> bool:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[bool] = loop.create_future()

        def on_done(is_stored: bool, nodes: object) -> None:  # noqa: ARG001
            loop.call_soon_threadsafe(_settle, ended, is_stored)

        self._runner.put(_key(item), opendht.Value(item.value), on_done)
        return await ended

    async def get(self, item: Item) -> Got:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Got] = loop.create_future()
        began = time.perf_counter()
        first_s: list[float] = []

        def on_value(value: opendht.Value) -> bool:
            if not first_s and value.data == item.value:
                first_s.append(time.perf_counter() - began)
            return True

        def on_done(is_good: bool, nodes: object) -> None:  # noqa: ARG001
            got = Got(first_s[0] if first_s else None, time.perf_counter() - began)
            loop.call_soon_threadsafe(_settle, ended, got)

        self._runner.get(_key(item), on_value, on_done)
        return await ended

    async def close(self) -> None:
        self._runner.shutdown()


def _settle(future: asyncio.Future[Result], result: Result) -> None:
    if not future.done():
        future.set_result(result)


def _key(item: Item) -> opendht.InfoHash:
    return opendht.InfoHash.get(item.name)


def _number(info_hash: opendht.InfoHash) -> int:
    return int(str(info_hash), 16)
