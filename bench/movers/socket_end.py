"""One end of a plain copy over TLS: `python -m bench.movers.socket_end serve|take ...`.

What Python could reach at best with one connection, a hash and a write: no frames, no holders, no
names. `serve PEM PATH` prints its port and sends the file or folder to whoever connects; `take PEM
PORT FOLDER` prints `ready`, waits for a line, copies, prints `done`.
"""

import mmap
import os
import socket
import ssl
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

BLOCK_BYTES = 512 * 1024
_HEAD = struct.Struct(">HQ")
"""Before each file: bytes of its name, then of its data; zero and zero end it all."""


def serve(pem: str, source: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True) as stream:
            for name, path in _files(source):
                _send(stream, name.encode(), path)
            stream.sendall(_HEAD.pack(0, 0))
            stream.recv(1)


def take(pem: str, port: int, folder: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(pem)
    print("ready", flush=True)
    sys.stdin.readline()
    with (
        socket.create_connection(("127.0.0.1", port)) as connection,
        context.wrap_socket(connection) as stream,
    ):
        _take_all(stream, folder)
    print("done", flush=True)


def _take_all(stream: ssl.SSLSocket, folder: Path) -> None:
    buffer = bytearray(BLOCK_BYTES)
    view = memoryview(buffer)
    while True:
        _fill(stream, view[: _HEAD.size])
        name_bytes, size = _HEAD.unpack_from(buffer)
        if not name_bytes:
            return
        _fill(stream, view[:name_bytes])
        path = folder / "result" / buffer[:name_bytes].decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        hasher = blake3()
        with path.open("wb", buffering=0) as file:
            while size:
                part = view[: min(size, BLOCK_BYTES)]
                _fill(stream, part)
                hasher.update(part)
                file.write(part)
                size -= len(part)


def _fill(stream: ssl.SSLSocket, view: memoryview) -> None:
    done = 0
    while done < len(view):
        count = stream.recv_into(view[done:])
        if not count:
            raise EOFError("the other end is gone")
        done += count


def _send(stream: ssl.SSLSocket, name: bytes, path: Path) -> None:
    size = path.stat().st_size
    stream.sendall(_HEAD.pack(len(name), size) + name)
    if not size:
        return
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data,
        memoryview(data) as view,
    ):
        for at in range(0, size, BLOCK_BYTES):
            with view[at : at + BLOCK_BYTES] as part:
                stream.sendall(part)


def _files(source: Path) -> Iterator[tuple[str, Path]]:
    if source.is_file():
        yield "file", source
    for root, _, names in os.walk(source):
        for name in names:
            path = Path(root, name)
            yield str(path.relative_to(source)), path


def main(arguments: list[str]) -> None:
    match arguments:
        case ["serve", pem, source]:
            serve(pem, Path(source))
        case ["take", pem, port, folder]:
            take(pem, int(port), Path(folder))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
