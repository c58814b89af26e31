"""A plain copy over one TLS connection in Python: what Shoal is held against."""

import ssl
import sys
import time
from pathlib import Path

from bench.movers.base import Load, Moved
from bench.movers.certificate import write_certificate
from bench.movers.process import TRANSFER_MAX_S, Meter, Process

ROOT = Path(__file__).resolve().parents[2]


class SocketMover:
    """Two processes of bench.movers.socket_end."""

    name = "socket"

    def version(self) -> str:
        return f"Python's ssl with {ssl.OPENSSL_VERSION.split(' ', 2)[1]}"

    def move(self, load: Load, folder: Path) -> Moved:
        pem = str(write_certificate(folder))
        end = [sys.executable, str(ROOT / "bench" / "movers" / "socket_end.py")]
        with Process([*end, "serve", pem, str(load.path)], folder) as server:
            port = server.hear()
            with Process([*end, "take", pem, port, str(folder)], folder) as taker:
                taker.hear()
                sending, receiving = Meter(server.pid), Meter(taker.pid)
                began = time.monotonic()
                taker.say("go")
                taker.hear(TRANSFER_MAX_S)
                seconds = time.monotonic() - began
                sender, receiver = sending.usage(), receiving.usage()
        result = folder / "result"
        return Moved(seconds, sender, receiver, result if load.is_folder else result / "file")
