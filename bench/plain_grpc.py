"""Plain gRPC uploads with fsync, the measure for mailboxes: `python -m bench.plain_grpc WHAT ...`.

Owns a service of one method that writes what comes and fsyncs, and a client that uploads one file
to several such services at once. TLS with a throw-away certificate, or none. Prints JSON lines.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import uvloop

from bench.host import input_lines, say

FRAME_BYTES = 512 * 1024
METHOD = "/bench.Plain/Upload"
OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.so_reuseport", 0))


async def serve(folder: Path, tls: Path | None) -> None:
    """Take uploads until the end of the input."""
    numbers = iter(range(sys.maxsize))

    async def upload(frames: AsyncIterator[bytes], _context: Any) -> bytes:
        path = folder / f"upload-{os.getpid()}-{next(numbers)}"
        size = 0
        with path.open("wb", buffering=0) as file:
            async for frame in frames:
                size += file.write(frame)
            await asyncio.to_thread(os.fsync, file.fileno())
        path.unlink()
        return size.to_bytes(8, "big")

    server = grpc.aio.server(options=OPTIONS)
    handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_unary_rpc_method_handler(upload)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("bench.Plain", {"Upload": handler}),)
    )
    if tls is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pem = tls.read_bytes()  # of each the library takes what it looks for
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(pem, pem)]))
    await server.start()
    say({"port": port})
    await (await input_lines()).read()
    await server.stop(0)


async def send(path: Path, ports: Sequence[int], tls: Path | None) -> float:
    """Upload a file to all ports at once; the seconds until all have fsynced it."""

    def frames() -> Any:
        with path.open("rb") as file:
            while frame := file.read(FRAME_BYTES):
                yield frame

    async def upload(port: int) -> int:
        target = f"127.0.0.1:{port}"
        if tls is None:
            channel = grpc.aio.insecure_channel(target, OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(tls.read_bytes())
            channel = grpc.aio.secure_channel(target, credentials, OPTIONS)
        async with channel:
            return int.from_bytes(await channel.stream_unary(METHOD)(frames()), "big")

    began = time.perf_counter()
    sizes = await asyncio.gather(*(upload(port) for port in ports))
    seconds = time.perf_counter() - began
    assert set(sizes) == {path.stat().st_size}, "an upload is not whole"
    return seconds


def main(arguments: Sequence[str]) -> None:
    """Serve, or send once."""
    parser = argparse.ArgumentParser(prog="python -m bench.plain_grpc", description=__doc__)
    parser.add_argument("what", choices=("serve", "send"))
    parser.add_argument("path", type=Path, help="folder of the server, file of the client")
    parser.add_argument("ports", type=int, nargs="*")
    parser.add_argument("--tls", type=Path, help="file with certificate and key")
    given = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if given.what == "serve":
            runner.run(serve(given.path, given.tls))
        else:
            seconds = runner.run(send(given.path, given.ports, given.tls))
            print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1:])
