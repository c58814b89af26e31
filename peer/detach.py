"""Start a peer in the background: a process of its own session, its stderr in the home's log.

Owns the hand-over: it returns the child's ready line, or the words with which it failed. Secrets
travel through stdin and the environment, never as arguments, which everybody on the machine sees.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from peer.failures import ExitCode, Failure
from peer.home import Home

_READY_TIMEOUT_S = 30.0
_LINE_BYTES_MAX = 4096
_LOG_BYTES_MAX = 1024 * 1024
_WORDS_BYTES_MAX = 8192
_PLAIN_OPTIONS = (
    ("--network", "network_file"),
    ("--listen", "listen"),
    ("--metrics", "metrics_port"),
    ("--health", "health_port"),
)


class StartFailed(Failure):
    """The peer in the background did not start."""

    exit_code = ExitCode.INTERNAL  # where its own is not known


def join_detached(home: Home, command: Sequence[str], given: Mapping[str, Any]) -> str:
    """Run the given join in the background; returns its ready line, or raises StartFailed."""
    return _start(
        home,
        [*command, "--home", str(home.path), *_join_arguments(given)],
        stdin_text=f"{given['invite']}\n" if given["invite"] else "",
        environment={"SHOAL_QUEUE": given["queue"]} if given["queue"] else {},
    )


def _start(
    home: Home, command: Sequence[str], *, stdin_text: str, environment: Mapping[str, str]
) -> str:
    """Start a process of its own session and wait for its ready line.

    Raises StartFailed with the child's own message, hint and exit code when it ended first.
    """
    home.ensure()
    log = _open_log(home)
    try:
        start = os.fstat(log).st_size
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            with child.stdin as pipe:
                pipe.write(stdin_text.encode())
        except BrokenPipeError:
            pass  # it ended at once; its log says why
        with child.stdout as pipe:
            line = _first_line(pipe.fileno(), time.monotonic() + _READY_TIMEOUT_S)
        if line.startswith("ready "):
            child.returncode = 0  # it lives on; we are not the one to wait for it
            # What it warned of while starting is for the person who started it.
            sys.stderr.write(_words(home, start))
            return line
        raise _failure(home, child, start)
    finally:
        os.close(log)


def _join_arguments(given: Mapping[str, Any]) -> list[str]:
    """Spell out a parsed join again, without its secrets and with no table."""
    words = [given["command"], "--no-table"]
    for option, name in _PLAIN_OPTIONS:
        if given.get(name) is not None:
            words += [option, str(given[name])]
    if given["advertise"] is not None:
        address = given["advertise"]
        text = str(address)
        words += ["--advertise", text if address.port else text.rpartition(":")[0]]
    if given["nickname"] is not None:
        words += ["--name", given["nickname"]]
    for address in given["bootstrap"]:
        words += ["--bootstrap", str(address)]
    for path in given["shares"]:
        words += ["--share", str(path)]
    for option, name in (("--limit-up", "limit_up"), ("--limit-down", "limit_down")):
        if given.get(name) is not None:
            words += [option, str(given[name])]
    if given["no_mailbox"]:
        words.append("--no-mailbox")
    if given["invite"]:
        words.append("-")
    return words


def _words(home: Home, log_start: int) -> str:
    """What the child wrote to its log since it was started."""
    with home.log_path.open("rb") as log:
        log.seek(log_start)
        return log.read(_WORDS_BYTES_MAX).decode(errors="replace")


def _open_log(home: Home) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    if home.log_path.exists() and home.log_path.stat().st_size > _LOG_BYTES_MAX:
        home.log_path.replace(home.log_path.with_suffix(".log.1"))
    return os.open(home.log_path, flags, 0o600)


def _first_line(descriptor: int, deadline: float) -> str:
    """Read one line, or what came before the end or the deadline."""
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while b"\n" not in data and len(data) < _LINE_BYTES_MAX:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                break
            part = os.read(descriptor, _LINE_BYTES_MAX)
            if not part:
                break
            data += part
    return data.partition(b"\n")[0].decode(errors="replace")


def _failure(home: Home, child: subprocess.Popen[bytes], log_start: int) -> StartFailed:
    try:
        code = child.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        child.terminate()
        child.wait(timeout=15.0)
        return StartFailed(
            f"the peer was not ready within {_READY_TIMEOUT_S:.0f} s",
            hint=f"see {home.log_path}",
            exit_code=ExitCode.TIMED_OUT,
        )
    words = _words(home, log_start).splitlines()
    messages = [line.removeprefix("shoal: ") for line in words if line.startswith("shoal: ")]
    hints = [line.removeprefix("hint: ") for line in words if line.startswith("hint: ")]
    known = code in set(ExitCode) and code != ExitCode.DONE
    return StartFailed(
        messages[-1] if messages else f"the peer ended at once (exit {code})",
        hint=hints[-1] if hints else f"see {home.log_path}",
        exit_code=ExitCode(code) if known else ExitCode.INTERNAL,
    )
