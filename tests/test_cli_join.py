"""`shoal join` as a process: the ready line, signals, the background, the table on a terminal."""

import contextlib
import os
import pty
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.failures import ExitCode
from peer.home import Home
from tests.support.processes import (
    CLI,
    PeerProcess,
    environment,
    private_network,
    run_shoal,
)

READY = re.compile(r"ready [a-z2-7]{32} 127\.0\.0\.1:\d+")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A private network whose bootstrap node is not there."""
    return private_network(tmp_path)


@contextlib.contextmanager
def detached(folder: Path, *arguments: str, stdin: str | None = None) -> Iterator[str]:
    """Join in the background; make sure that the peer is gone in the end."""
    done = run_shoal(folder, "join", "--detach", "--listen", "127.0.0.1:0", *arguments, stdin=stdin)
    home = Home(folder / "home")
    try:
        assert done.code == 0, done.stderr
        yield done.stdout
    finally:
        pid = home.running_pid()
        if pid:
            os.kill(pid, signal.SIGTERM)
            home.wait_until_free()


def test_peer_leaves_cleanly_on_sigterm_and_gives_its_home_back(
    tmp_path: Path, network: Path
) -> None:
    with PeerProcess(tmp_path, "ada") as ada:
        ada.join(network=network)
        assert Home(ada.home).running_pid() == ada.pid
        began = time.monotonic()
        assert ada.terminate() == 0
        assert time.monotonic() - began < 10
    assert Home(ada.home).running_pid() is None
    assert "Traceback" not in ada.log


def test_second_join_in_one_home_names_the_first(tmp_path: Path, network: Path) -> None:
    with PeerProcess(tmp_path, "ada") as ada:
        ada.join(network=network)
        done = ada.run("join", "--listen", "127.0.0.1:0", "--no-table")
        assert (done.code, done.stdout) == (ExitCode.USAGE, "")
        assert str(ada.pid) in done.stderr
        assert ada.json("status")[0]["pid"] == ada.pid


def test_leave_returns_when_the_peer_is_gone(tmp_path: Path, network: Path) -> None:
    with PeerProcess(tmp_path, "ada") as ada:
        ada.join(network=network)
        assert ada.run("leave").code == 0
        assert Home(ada.home).running_pid() is None
        assert ada.wait_end() == 0
        assert ada.run("leave").code == ExitCode.NO_PEER


def test_detached_peer_runs_on_and_its_secrets_are_no_arguments(
    tmp_path: Path, network: Path
) -> None:
    with PeerProcess(tmp_path, "ada") as ada:
        invite = ada.join(network=network).json("invite")[0]["invite"]
    with detached(tmp_path, "--name", "bob", "-", stdin=f"{invite}\n") as stdout:
        assert READY.fullmatch(stdout.strip())
        pid = run_shoal(tmp_path, "--json", "status").items[0]["pid"]
        if sys.platform == "linux":
            assert invite.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        log = Home(tmp_path / "home").log_path
        assert log.stat().st_mode & 0o777 == 0o600
        assert invite not in log.read_text()
        assert run_shoal(tmp_path, "leave").code == 0


def test_failed_start_in_the_background_passes_its_words_and_code_on(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text(
        '{"version": 1, "network": "x", "bootstrap": [], "nettwork": 1}'
    )
    done = run_shoal(tmp_path, "join", "--detach", "--network", "broken.json")
    assert (done.code, done.stdout) == (ExitCode.USAGE, "")
    assert "nettwork" in done.stderr.splitlines()[0]
    assert Home(tmp_path / "home").running_pid() is None


def test_table_is_drawn_on_a_terminal_with_the_ready_line_on_stdout(
    tmp_path: Path, network: Path
) -> None:
    mother, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(CLI), "join", "--network", str(network), "--listen", "127.0.0.1:0"],
        cwd=tmp_path,
        env={**environment(tmp_path), "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=child,
    )
    os.close(child)
    try:
        text = _read_until(mother, "to join:", 20.0)
        process.send_signal(signal.SIGINT)
        text += _read_until(mother, "nothing says this", 12.0)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(mother)
    assert process.stdout is not None
    with process.stdout as stdout:
        assert READY.fullmatch(stdout.read().decode().strip())
    assert "shoal1-" in text
    assert "Traceback" not in text


def test_peer_leaves_cleanly_when_its_terminal_is_closed(tmp_path: Path, network: Path) -> None:
    mother, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(CLI), "join", "--network", str(network), "--listen", "127.0.0.1:0"],
        cwd=tmp_path,
        env={**environment(tmp_path), "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    try:
        assert "to join:" in _read_until(mother, "to join:", 20.0)
        os.close(mother)
        process.send_signal(signal.SIGHUP)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def _read_until(descriptor: int, wanted: str, timeout_s: float) -> str:
    """Read from a terminal until a text was seen, or it was closed."""
    text, deadline = "", time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while wanted not in text:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                break
            try:
                part = os.read(descriptor, 65536)
            except OSError:
                break
            if not part:
                break
            text += part.decode(errors="replace")
    return text


def test_detached_peer_tells_its_starter_that_it_is_alone(tmp_path: Path) -> None:
    network = private_network(tmp_path)  # nobody listens at its seed
    words = ("join", "--detach", "--listen", "127.0.0.1:0", "--network", str(network))
    done = run_shoal(tmp_path, *words)
    try:
        assert done.stdout.startswith("ready ")
        assert "this peer is alone for now" in done.stderr
    finally:
        run_shoal(tmp_path, "leave")
    try:
        assert run_shoal(tmp_path, "-q", *words).stderr == ""
    finally:
        run_shoal(tmp_path, "leave")
