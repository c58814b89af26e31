"""Private RabbitMQ brokers for tests: a folder, ports and an epmd of their own, on loopback.

Owns starting, ending and disturbing a broker, and the fixtures `broker` (shared, only used) and
`broker_control` (this test's own, may be killed and starved). Knows nothing of queueing.

Run as a program it serves tools/check.sh: `python -m tests.support.broker start FOLDER` prints the
AMQP URL, `... stop FOLDER` ends that broker and its epmd.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.certificates import write_certificates

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
CONTROL = Path("/usr/lib/rabbitmq/bin/rabbitmqctl")
START_TIMEOUT_S = 45.0
STOP_TIMEOUT_S = 30.0
PID_TIMEOUT_S = 5.0
EPMD_TRIES_MAX = 10
STARTS_MAX = 3
POLL_INTERVAL_S = 0.2


class BrokerError(RuntimeError):
    """The private RabbitMQ did not do what was asked; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Ports:
    amqp: int
    distribution: int
    epmd: int
    amqps: int = 0
    """Of the operator's brokers only, as the next."""
    management: int = 0


class PrivateBroker:
    """One broker in `folder`: mnesia, log, cookie and pid file all lie there."""

    def __init__(self, folder: Path, ports: Ports) -> None:
        self.folder = folder
        self.ports = ports

    @property
    def name(self) -> str:
        """What other nodes call it."""
        return f"shoal{self.ports.amqp}@localhost"

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.ports.amqp}/%2F"

    @property
    def tls_url(self) -> str:
        return f"amqps://guest:guest@127.0.0.1:{self.ports.amqps}/%2F"

    @property
    def management(self) -> str:
        return f"http://127.0.0.1:{self.ports.management}"

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    @classmethod
    def create(cls, folder: Path, *, managed: bool = False) -> "PrivateBroker":
        """Choose free ports, remember them in the folder, start, and wait until it serves.

        `managed`: with the management plugin and a TLS listener, by a certificate authority of
        this broker's own. Tried again with other ports: what was free may be taken by now.
        """
        for attempt in range(STARTS_MAX):
            broker = cls._prepare(folder / f"try-{attempt}", managed=managed)
            (folder / "current").write_text(broker.folder.name, encoding="utf-8")
            try:
                broker.start()
            except (BrokerError, subprocess.TimeoutExpired):
                broker.discard()
                if attempt == STARTS_MAX - 1:
                    raise
            else:
                return broker
        raise AssertionError("the last attempt raises")

    @classmethod
    def _prepare(cls, folder: Path, *, managed: bool) -> "PrivateBroker":
        folder.mkdir(parents=True)
        plugins = "[rabbitmq_management]" if managed else "[]"
        (folder / "enabled_plugins").write_text(f"{plugins}.\n", encoding="utf-8")
        ports = Ports(*free_ports(5 if managed else 3))
        (folder / "ports.json").write_text(json.dumps(dataclasses.astuple(ports)), encoding="utf-8")
        broker = cls(folder, ports)
        if managed:
            write_certificates(folder)
            (folder / "rabbitmq.conf").write_text(_managed_settings(broker), encoding="utf-8")
        return broker

    @classmethod
    def open(cls, folder: Path) -> "PrivateBroker | None":
        """Return the broker that was last started in the folder, if any was."""
        current = folder / "current"
        if not current.exists():
            return None
        own = folder / current.read_text("utf-8")
        return cls(own, Ports(*json.loads((own / "ports.json").read_text("utf-8"))))

    def start(self) -> None:
        """Start and wait; one start on the same files serves a restart as well."""
        # An old pid file would make `await_startup` look at the process that was killed.
        self._pid_file.unlink(missing_ok=True)
        self._run(SERVER, "-detached", timeout_s=START_TIMEOUT_S)
        deadline = time.monotonic() + START_TIMEOUT_S
        # It fails at once while the node is not yet registered with epmd: so ask again.
        while self._run(CONTROL, "await_startup", timeout_s=START_TIMEOUT_S, check=False):
            if time.monotonic() > deadline or self._has_died():
                raise BrokerError(self._log_end())
            _pause()

    def stop(self) -> None:
        """End the broker, then its own epmd; both may be gone already."""
        if self._run(CONTROL, "shutdown", timeout_s=STOP_TIMEOUT_S, check=False):
            # Interrupted while it started, it may not have written its pid yet.
            deadline = time.monotonic() + PID_TIMEOUT_S
            while not self._pid_file.exists() and time.monotonic() < deadline:
                _pause()
            self._signal(signal.SIGKILL)
        self.end_epmd()

    def discard(self) -> None:
        """End the broker at once: its files are about to be removed."""
        if not self._pid_file.exists():
            self.stop()
            return
        self.kill()
        self.end_epmd()

    def restart(self) -> None:
        self._run(CONTROL, "shutdown", timeout_s=STOP_TIMEOUT_S)
        self.start()

    def kill(self) -> None:
        """End the broker as a power cut would; what it had only in memory is lost."""
        self._signal(signal.SIGKILL)

    def starve(self) -> None:
        """Raise the memory alarm: publishers are blocked until `feed`."""
        self._run(CONTROL, "set_vm_memory_high_watermark", "0", timeout_s=STOP_TIMEOUT_S)

    def feed(self) -> None:
        self._run(CONTROL, "set_vm_memory_high_watermark", "0.4", timeout_s=STOP_TIMEOUT_S)

    def control(self, *arguments: str) -> None:
        self._run(CONTROL, *arguments, timeout_s=STOP_TIMEOUT_S)

    @property
    def _pid_file(self) -> Path:
        return self.folder / "broker.pid"

    def _has_died(self) -> bool:
        try:
            return not _alive(int(self._pid_file.read_text("ascii")))
        except (OSError, ValueError):
            return False  # not started yet, or half written

    def _signal(self, number: signal.Signals) -> None:
        if not self._pid_file.exists():
            return
        pid = int(self._pid_file.read_text("ascii").strip())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while _alive(pid) and time.monotonic() < deadline:
            _pause()

    def end_epmd(self) -> None:
        # It listens on a port of this broker alone, so nobody else is harmed.
        for _ in range(EPMD_TRIES_MAX):
            done = subprocess.run(
                ["epmd", "-kill"],
                env=self._environment(),
                capture_output=True,
                check=False,
                timeout=STOP_TIMEOUT_S,
            )
            if done.returncode == 0:
                return
            _pause()

    def _run(self, program: Path, *arguments: str, timeout_s: float, check: bool = True) -> int:
        done = subprocess.run(
            [str(program), *arguments],
            env=self._environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=timeout_s,
        )
        if check and done.returncode:
            raise BrokerError(done.stderr.decode(errors="replace") + self._log_end())
        return done.returncode

    def _environment(self) -> dict[str, str]:
        folder = str(self.folder)
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return kept | {
            "HOME": folder,
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(self.ports.epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # Ours alone, so it may be ended even while a dying node is still registered with it.
            "ERL_EPMD_RELAXED_COMMAND_CHECK": "1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.ports.amqp),
            "RABBITMQ_DIST_PORT": str(self.ports.distribution),
            "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": str(self._pid_file),
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq",
        }

    def _log_end(self) -> str:
        logs = sorted((self.folder / "log").glob("*.log"))
        return "\n".join(log.read_text("utf-8", errors="replace")[-2000:] for log in logs)


def installed() -> bool:
    return SERVER.exists() and CONTROL.exists()


def free_ports(count: int) -> list[int]:
    """Ports free a moment ago on loopback; all are held together, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]


@contextlib.contextmanager
def temporary_broker(*, managed: bool = False) -> Iterator[PrivateBroker]:
    folder = Path(tempfile.mkdtemp(prefix="shoal-rabbit-"))
    try:
        yield PrivateBroker.create(folder, managed=managed)
    finally:
        if broker := PrivateBroker.open(folder):
            broker.discard()
        shutil.rmtree(folder, ignore_errors=True)


def require_broker() -> None:
    """Skip where no RabbitMQ can be had; with CI=true its absence is a failure."""
    if installed():
        return
    reason = f"no RabbitMQ here: {SERVER} is missing (Debian: apt-get install rabbitmq-server)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def broker() -> Iterator[str]:
    """AMQP URL of a broker that tests share and must not disturb; use a network of your own."""
    given = os.environ.get("SHOAL_TEST_AMQP")
    if given:
        yield given
        return
    require_broker()
    with temporary_broker() as started:
        yield started.url


@pytest.fixture(scope="module")
def broker_control() -> Iterator[PrivateBroker]:
    """Give a broker of this module's own, to be restarted, killed and starved at will."""
    require_broker()
    with temporary_broker() as started:
        yield started


@pytest.fixture(scope="module")
def managed_broker() -> Iterator[PrivateBroker]:
    """Give a broker of this module's own with the management plugin and a TLS listener."""
    require_broker()
    with temporary_broker(managed=True) as started:
        yield started


def settings_text(settings: Mapping[str, object]) -> str:
    """Write a rabbitmq.conf."""
    return "".join(f"{name} = {value}\n" for name, value in settings.items())


def _managed_settings(broker: PrivateBroker) -> str:
    """Write what the environment cannot say: RabbitMQ's own listeners, all on loopback."""
    folder, ports = broker.folder, broker.ports
    settings = {
        "listeners.ssl.1": f"127.0.0.1:{ports.amqps}",
        "ssl_options.cacertfile": folder / "ca.pem",
        "ssl_options.certfile": folder / "server.pem",
        "ssl_options.keyfile": folder / "server.key",
        "ssl_options.verify": "verify_none",
        "management.tcp.ip": "127.0.0.1",
        "management.tcp.port": ports.management,
        # Statistics are old by so much; the default of 5 s would be the length of a test.
        "collect_statistics_interval": 500,
    }
    return settings_text(settings)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def _pause() -> None:
    # The wait between two looks at another process; every caller has a deadline or a count.
    threading.Event().wait(POLL_INTERVAL_S)


def main(arguments: list[str]) -> None:
    match arguments:
        case ["start", folder]:
            print(PrivateBroker.create(Path(folder)).url)
        case ["stop", folder]:
            if broker := PrivateBroker.open(Path(folder)):
                broker.stop()
        case _:
            sys.exit("usage: python -m tests.support.broker start|stop FOLDER")


if __name__ == "__main__":
    main(sys.argv[1:])
