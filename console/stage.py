"""The stage of the demo: real `shoal` processes, each in a home of its own, always cleared away.

Standard library only, and nothing of Shoal: whatever is shown went through the command.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

READY_TIMEOUT_S = 20.0
COMMAND_TIMEOUT_S = 30.0
_LEAVE_TIMEOUT_S = 10.0
_LOG_CHARS_MAX = 2000
_NOT_INHERITED = ("SHOAL_HOME", "SHOAL_QUEUE", "XDG_RUNTIME_DIR", "XDG_DATA_HOME")


_PORTS = (12_000, 32_000)
_PORTS_TRIED_MAX = 50


class DemoFailed(Exception):  # noqa: N818 - what it is
    """A step did not turn out as it must."""


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """A command that ran: how it is shown, its results and its time."""

    line: str
    results: tuple[dict[str, Any], ...]
    seconds: float


class Actor:
    """One peer: a folder with its home and files, and its process while it runs."""

    def __init__(self, name: str, folder: Path, command: Sequence[str]) -> None:
        self.name = name
        self.folder = folder
        self.address = ""
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None
        self.folder.mkdir()

    def start(self, *arguments: str) -> None:
        """Begin to join; `wait_ready` sees whether it worked."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "join", "--no-table", "--name", self.name, *arguments],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def wait_ready(self) -> str:
        """Wait for the ready line; returns the address in it."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = _read_line(self._process.stdout.fileno(), time.monotonic() + READY_TIMEOUT_S)
        words = line.split()
        if len(words) != 3 or words[0] != "ready":
            raise DemoFailed(f"{self.name} did not become ready{self.words()}")
        self.address = words[2]
        return self.address

    @property
    def pid(self) -> int:
        """The process id of the running peer."""
        assert self._process is not None
        return self._process.pid

    def run(
        self,
        *arguments: str,
        allowed: Sequence[int] = (0,),
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> Done:
        """Run a command in this peer's folder, with --json; any other exit code is a failure."""
        line = f"{self.name}$ shoal {shlex.join(arguments)}"
        began = time.monotonic()
        try:
            done = subprocess.run(
                [*self._command, "--json", *arguments],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DemoFailed(f"{line}: no end after {timeout_s:.0f} s") from error
        seconds = time.monotonic() - began
        if done.returncode not in allowed:
            words = done.stderr.decode(errors="replace").strip()
            raise DemoFailed(f"{line}: exit {done.returncode}: {words}{self.words()}")
        results = tuple(json.loads(text) for text in done.stdout.splitlines())
        return Done(line, results, seconds)

    def poll(
        self, *arguments: str, until: Callable[[dict[str, Any]], bool], timeout_s: float = 15.0
    ) -> Done:
        """Repeat a listing until one of its items is as wanted."""
        began = time.monotonic()
        while True:
            done = self.run(*arguments)
            wanted = tuple(item for item in done.results if until(item))
            seconds = time.monotonic() - began
            if wanted:
                return Done(done.line, wanted, seconds)
            if seconds > timeout_s:
                raise DemoFailed(f"{done.line}: still {list(done.results)}{self.words()}")
            time.sleep(0.1)

    def kill(self) -> None:
        """End the process as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self.join()

    def join(self) -> int:
        """Wait for the process to end."""
        assert self._process is not None
        code = self._process.wait(timeout=_LEAVE_TIMEOUT_S)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None
        return code

    def ask_to_end(self) -> None:
        """Ask for a clean leave, without waiting."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def end(self) -> None:
        """Make sure that the process is gone."""
        if self._process is None:
            return
        try:
            self.join()
        except subprocess.TimeoutExpired:
            self.kill()

    def words(self) -> str:
        """What the peer said on stderr last, to explain a failure."""
        log = self.folder / "log"
        if not log.exists():
            return ""
        text = log.read_text(errors="replace")[-_LOG_CHARS_MAX:].strip()
        return f"\n{self.name} said: {text}" if text else ""

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
        return {**kept, "SHOAL_HOME": str(self.folder / "home"), "HOME": str(self.folder)}


class Stage:
    """A temporary folder and the actors in it; leaving the `with` block clears everything."""

    def __init__(self, command: Sequence[str], *, keep: bool) -> None:
        self._command = command
        self._keep = keep
        self._actors: list[Actor] = []
        self._previous: object = None
        self.folder = Path()

    def __enter__(self) -> Stage:
        self._previous = signal.signal(signal.SIGTERM, _interrupt)
        self.folder = Path(tempfile.mkdtemp(prefix="shoal-demo-"))
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            actor.ask_to_end()
        for actor in self._actors:
            actor.end()
        if not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, self._previous)  # type: ignore[arg-type]

    def actor(self, name: str) -> Actor:
        actor = Actor(name, self.folder / name, self._command)
        self._actors.append(actor)
        return actor


def free_port() -> int:
    """A port of loopback that is free for UDP and TCP just now.

    It lies below those that the system gives to whoever asks for any, so that it stays free.
    """
    for _ in range(_PORTS_TRIED_MAX):
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        ):
            port = random.randrange(*_PORTS)
            try:
                stream.bind(("127.0.0.1", port))
                datagrams.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise DemoFailed("no port of loopback is free")


def _read_line(descriptor: int, deadline: float) -> str:
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while b"\n" not in data:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                break
            part = os.read(descriptor, 4096)
            if not part:
                break
            data += part
    return data.partition(b"\n")[0].decode(errors="replace")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
