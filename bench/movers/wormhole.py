"""magic-wormhole: both commands, a mailbox server of our own on loopback, direct transit."""

import importlib.metadata
import importlib.util
import sys
import time
from pathlib import Path

from bench.movers.base import Load, Moved, NotMeasured
from bench.movers.process import LINE_TIMEOUT_S, Meter, Process, run_metered
from bench.movers.waiting import PAUSE_S, until_listening
from console.stage import free_port

CODE = "4-bench-loopback"
NO_RELAY = "tcp:127.0.0.1:9"
"""Nobody listens there: what arrives came directly."""


class WormholeMover:
    """`wormhole send` and `wormhole receive`, whole commands with their start and key exchange."""

    name = "wormhole"

    def __init__(self) -> None:
        for package in ("wormhole", "wormhole_mailbox_server"):
            if importlib.util.find_spec(package) is None:
                raise NotMeasured(f"the package {package} is not installed")

    def version(self) -> str:
        return f"magic-wormhole {importlib.metadata.version('magic-wormhole')}"

    def move(self, load: Load, folder: Path) -> Moved:
        port = free_port()
        listen = f"--port=tcp:{port}:interface=127.0.0.1"
        twist = [sys.executable, "-m", "twisted", "wormhole-mailbox", listen]
        relay = f"--relay-url=ws://127.0.0.1:{port}/v1"
        wormhole = [sys.executable, "-m", "wormhole", relay, f"--transit-helper={NO_RELAY}"]
        send = ["send", "--hide-progress", "--code", CODE, str(load.path)]
        take = ["receive", "--hide-progress", "--accept-file", "-o", str(folder / "result"), CODE]
        with Process(twist, folder):
            until_listening(port)
            with Process([*wormhole, *send], folder) as sender:
                _until_offered(sender)
                sending = Meter(sender.pid)
                seconds, receiver = run_metered([*wormhole, *take], folder)
                sent = sending.usage()
        return Moved(seconds, sent, receiver, folder / "result")


def _until_offered(sender: Process) -> None:
    deadline = time.monotonic() + LINE_TIMEOUT_S
    while "wormhole receive" not in sender.words():
        if time.monotonic() > deadline:
            raise RuntimeError(f"wormhole offers nothing: {sender.words()}")
        time.sleep(PAUSE_S)
