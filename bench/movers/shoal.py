"""Shoal: running peers of a private network, asked over their control sockets."""

import contextlib
import importlib.util
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.movers.base import Load, Moved, NotMeasured
from bench.movers.process import Meter
from console.stage import Actor, free_port
from peer.control_client import call
from peer.home import Home
from peer.version import VERSION

CLI = Path(__file__).resolve().parents[2] / "cli.py"
LOOK_S = 0.001
FIRST_BYTE_MAX_S = 1.0
"""How long the first byte is looked for."""


class ShoalMover:
    """A bootstrap node, holders that share the same file in place, and a peer that gets it."""

    def __init__(self, holders: int) -> None:
        self.name = "shoal" if holders == 1 else f"shoal-{holders}"
        self._holders = holders

    def version(self) -> str:
        return f"shoal {VERSION}"

    def move(self, load: Load, folder: Path) -> Moved:
        if load.is_folder and importlib.util.find_spec("transfer.tree") is None:
            raise NotMeasured("this version shares no folder as a whole")
        names = [f"holder-{number}" for number in range(self._holders)]
        with _network(folder, ["bootstrap", *names, "receiver"]) as actors:
            *holders, receiver = actors[1:]
            for holder in holders:
                _call(holder, "put", {"paths": [str(load.path)]})
            target = folder / "result"
            arguments = {"what": load.path.name, "folder": str(folder), "target": str(target)}
            sending = Meter(*(_pid(holder) for holder in holders))
            receiving = Meter(_pid(receiver))
            with _first_byte(folder) as first_byte_s:
                began = time.monotonic()
                _call(receiver, "get", arguments)
                seconds = time.monotonic() - began
            sender, taker = sending.usage(), receiving.usage()
        first_s = first_byte_s[0] - began if first_byte_s else None
        return Moved(seconds, sender, taker, target, first_s)


@contextlib.contextmanager
def _network(folder: Path, names: list[str]) -> Iterator[list[Actor]]:
    command = [sys.executable, str(CLI)]
    actors = [Actor(name, folder / name, command) for name in names]
    seed = f"127.0.0.1:{free_port()}"
    file = folder / "network.json"
    actors[0].run("network", "new", "bench", "--seed", seed, "-o", str(file))
    try:
        actors[0].start("--listen", seed, "--network", str(file))
        actors[0].wait_ready()
        for actor in actors[1:]:
            actor.start("--listen", "127.0.0.1:0", "--network", str(file))
        for actor in actors[1:]:
            actor.wait_ready()
        yield actors
    finally:
        for actor in actors:
            actor.ask_to_end()
        for actor in actors:
            actor.end()


def _call(actor: Actor, command: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    call(Home(actor.folder / "home"), command, arguments, events.append)
    return [event["result"] for event in events if "result" in event]


def _pid(actor: Actor) -> int:
    return int(_call(actor, "status", {})[0]["pid"])


@contextlib.contextmanager
def _first_byte(folder: Path) -> Iterator[list[float]]:
    """Look for data in the partial file; the moment stands in the list, if it was seen."""
    seen: list[float] = []

    def watch() -> None:
        deadline = time.monotonic() + FIRST_BYTE_MAX_S
        while not seen and time.monotonic() < deadline:
            for part in folder.glob(".shoal-*.part"):
                with contextlib.suppress(OSError):
                    if part.stat().st_blocks:
                        seen.append(time.monotonic())
            time.sleep(LOOK_S)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        watcher.join()
