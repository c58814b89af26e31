"""A service for the tests of rpc: it answers with the caller's id and what was sent."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from identity.network import Network
from rpc.caller import caller_of

UNARY = "/shoal.test.Echo/Unary"
COUNT = "/shoal.test.Echo/Count"
GENERATE = "/shoal.test.Echo/Generate"
COLLECT = "/shoal.test.Echo/Collect"
CHAT = "/shoal.test.Echo/Chat"
POUR = "/shoal.test.Echo/Pour"
HANG = "/shoal.test.Echo/Hang"

Context = grpc.aio.ServicerContext[bytes, bytes]


class Echo:
    """Counts the calls that reached it."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.calls = 0
        self.pouring = 0
        self.poured = 0

    def handler(self) -> grpc.GenericRpcHandler:
        methods: dict[str, Any] = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Count": grpc.unary_stream_rpc_method_handler(self._count),
            "Generate": grpc.unary_stream_rpc_method_handler(self._generate),
            "Collect": grpc.stream_unary_rpc_method_handler(self._collect),
            "Chat": grpc.stream_stream_rpc_method_handler(self._chat),
            "Pour": grpc.unary_stream_rpc_method_handler(self._pour),
            "Hang": grpc.unary_unary_rpc_method_handler(self._hang),
        }
        return grpc.method_handlers_generic_handler("shoal.test.Echo", methods)

    async def _unary(self, request: bytes, context: Context) -> bytes:
        self.calls += 1
        return caller_of(context, self._network).peer_id + request

    async def _count(self, request: bytes, context: Context) -> None:
        self.calls += 1
        for byte in request:
            await context.write(bytes([byte]))

    async def _generate(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        self.calls += 1
        for byte in request:
            yield bytes([byte])

    async def _collect(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        self.calls += 1
        return b"".join([request async for request in requests])

    async def _chat(self, requests: AsyncIterator[bytes], context: Context) -> None:
        self.calls += 1
        async for request in requests:
            await context.write(request[::-1])

    async def _pour(self, request: bytes, context: Context) -> None:
        self.calls += 1
        self.pouring += 1
        try:
            while True:
                await context.write(request)
                self.poured += 1
        finally:
            self.pouring -= 1

    async def _hang(self, request: bytes, context: Context) -> bytes:
        self.calls += 1
        await asyncio.Event().wait()
        return b""


async def call(channel: grpc.aio.Channel, request: bytes = b"x", method: str = UNARY) -> bytes:
    """One unary call, bounded in time."""
    unary: Any = channel.unary_unary(method)
    answer: bytes = await unary(request, timeout=5)
    return answer


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Poll until the condition holds; TimeoutError when it does not in time."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is polled has no event
            await asyncio.sleep(0.01)
