"""Waiting for a server of a measured system, with a deadline."""

import socket
import time

from bench.movers.process import LINE_TIMEOUT_S

PAUSE_S = 0.05


def until_listening(port: int) -> None:
    """Return as soon as somebody accepts connections on a port of loopback."""
    deadline = time.monotonic() + LINE_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_S)
        else:
            return
