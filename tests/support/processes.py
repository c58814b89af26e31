"""Run real `shoal` processes: each peer in a home of its own, always ended by whoever began it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from console.stage import free_port
from tests.support import waiting

CLI = Path(__file__).resolve().parents[2] / "cli.py"
READY_TIMEOUT_S = 20.0
COMMAND_TIMEOUT_S = 45.0
END_TIMEOUT_S = 12.0


@dataclasses.dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended."""

    stdout: str
    stderr: str
    code: int

    @property
    def items(self) -> list[dict[str, Any]]:
        """The JSON lines on stdout."""
        return [json.loads(line) for line in self.stdout.splitlines()]


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment that knows nothing of whoever runs the tests."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    folder = {"HOME": str(home), "SHOAL_HOME": str(home / "home"), "TMPDIR": str(home)}
    return {**kept, "PYTHONWARNINGS": "ignore", **folder, **(extra or {})}


def run_shoal(
    folder: Path,
    *arguments: str | bytes,
    stdin: str | None = None,
    extra: Mapping[str, str] | None = None,
    timeout_s: float = COMMAND_TIMEOUT_S,
    cli: Path = CLI,
) -> Completed:
    """Run one command to its end in a folder, with that folder's home."""
    done = subprocess.run(
        [sys.executable, str(cli), *arguments],
        cwd=folder,
        env=environment(folder, extra),
        input=(stdin or "").encode(),
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    return Completed(done.stdout.decode(), done.stderr.decode(), done.returncode)


def private_network(folder: Path, *, seed_port: int | None = None, is_open: bool = False) -> Path:
    """Write a network file through the command; its seed is loopback and a free port."""
    path = folder / "network.json"
    seed = f"127.0.0.1:{seed_port or free_port()}"
    options = ["--open"] if is_open else []
    done = run_shoal(folder, "network", "new", "test", "--seed", seed, "-o", str(path), *options)
    assert done.code == 0, done.stderr
    return path


def seed_of(network: Path) -> str:
    """The HOST:PORT at which the first bootstrap node of a network file is to listen."""
    node = json.loads(network.read_text())["bootstrap"][0]
    return f"{node['host']}:{node['port']}"


@contextlib.contextmanager
def peers_in(folder: Path, *names: str, cli: Path = CLI) -> Iterator[list[PeerProcess]]:
    """Peers that are not started yet; what still runs in the end is killed: that is quick."""
    peers = [PeerProcess(folder, name, cli=cli) for name in names]
    try:
        yield peers
    finally:
        for peer in peers:
            if peer.is_started:
                peer.kill()


@contextlib.contextmanager
def joined(folder: Path, *names: str, is_open: bool = False) -> Iterator[list[PeerProcess]]:
    """A network of running peers; the first is the bootstrap node, `network.json` its file."""
    network = private_network(folder, is_open=is_open)
    with peers_in(folder, *names) as peers:
        peers[0].join(network=network, listen=seed_of(network))
        for peer in peers[1:]:
            peer.start(network=network)
        for peer in peers[1:]:
            peer.wait_ready()
        yield peers


class PeerProcess:
    """A running peer; a context manager that ends what it started, whatever happens."""

    def __init__(self, folder: Path, name: str = "peer", *, cli: Path = CLI) -> None:
        self.cli = cli
        self.folder = folder / name
        self.folder.mkdir(exist_ok=True)
        self.home = self.folder / "home"
        self.name = name
        self.id = ""
        self.address = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: Queue[str] = Queue()
        self._extra: dict[str, str] = {}

    def start(
        self,
        *arguments: str,
        network: Path | None = None,
        listen: str | None = "127.0.0.1:0",
        extra: Mapping[str, str] | None = None,
        stdin: str | None = None,
        command: str = "join",
    ) -> PeerProcess:
        """Begin to join, or run the operator's `bootstrap`, and return at once."""
        assert self._process is None, "it runs already"
        self._extra = dict(extra or {})
        words = [command, "--no-table", "--name", self.name]
        if listen is not None:
            words += ["--listen", listen]
        if network is not None:
            words += ["--network", str(network)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(self.cli), *words, *arguments],
                cwd=self.folder,
                env=environment(self.folder, self._extra),
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        if stdin is not None:
            assert self._process.stdin is not None
            with self._process.stdin as stream:
                stream.write(stdin.encode())
        self._lines = Queue()
        reader = threading.Thread(target=_pump, args=(self._process, self._lines), daemon=True)
        reader.start()
        return self

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> PeerProcess:
        """Wait for the ready line, and remember what it says."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except Empty:
            line = ""
        words = line.split()
        assert words[:1] == ["ready"], f"{self.name} is not ready: {line!r}\n{self.log}"
        self.id, self.address = words[1], words[2]
        return self

    def join(
        self,
        *arguments: str,
        network: Path | None = None,
        listen: str | None = "127.0.0.1:0",
        extra: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> PeerProcess:
        """Join and wait until ready."""
        started = self.start(*arguments, network=network, listen=listen, extra=extra, stdin=stdin)
        return started.wait_ready()

    @property
    def is_started(self) -> bool:
        """Whether it was started and is not yet known to have ended."""
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it said on stderr so far."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def run(
        self,
        *arguments: str | bytes,
        stdin: str | None = None,
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> Completed:
        """Run a command against this peer, in its folder."""
        return run_shoal(self.folder, *arguments, stdin=stdin, timeout_s=timeout_s, cli=self.cli)

    def json(self, *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> list[dict[str, Any]]:
        """Run a command that must succeed, and return its JSON objects."""
        done = self.run("--json", *arguments, timeout_s=timeout_s)
        assert done.code == 0, f"{arguments}: exit {done.code}\n{done.stderr}\n{self.log}"
        return done.items

    def poll(
        self,
        *arguments: str,
        until: Callable[[Sequence[dict[str, Any]]], bool],
        timeout_s: float = 20.0,
    ) -> list[dict[str, Any]]:
        """Repeat a listing until it is as wanted."""
        items: list[dict[str, Any]] = []

        def as_wanted() -> bool:
            items[:] = self.json(*arguments)
            return until(items)

        waiting.until(as_wanted, timeout_s, f"{arguments} of {self.name}")
        return items

    def wait_end(self, timeout_s: float = END_TIMEOUT_S) -> int:
        """Wait until it ended by itself; returns the exit code."""
        assert self._process is not None
        code = self._process.wait(timeout=timeout_s)
        self._process = None
        return code

    def signal(self, number: int) -> None:
        """Send a signal and return at once."""
        assert self._process is not None
        self._process.send_signal(number)

    def terminate(self, timeout_s: float = END_TIMEOUT_S) -> int:
        """Ask for a clean leave with SIGTERM, and wait for it."""
        self.signal(signal.SIGTERM)
        return self.wait_end(timeout_s)

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        assert self._process is not None
        self._process.kill()
        self.wait_end()

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        self.signal(signal.SIGCONT)  # a stopped one would not hear the next
        self.signal(signal.SIGTERM)
        try:
            self.wait_end()
        except subprocess.TimeoutExpired:
            self.kill()


def _pump(process: subprocess.Popen[bytes], lines: Queue[str]) -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            lines.put(line.decode(errors="replace").rstrip("\n"))
    lines.put("")
