"""Hosts of their own on one machine: Linux network namespaces on one bridge (root only)."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import CLI

NETWORK = "10.213.77"
_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Host:
    """A namespace with one address; `cli` is the command as it runs there."""

    namespace: str
    address: str
    cli: Path


def why_no_hosts() -> str:
    """Why hosts cannot be made here; empty when they can."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        return "needs Linux and iproute2"
    if os.geteuid() != 0:
        return "needs root"
    name = f"shoal{secrets.token_hex(2)}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
        _ip("link", "add", name, "type", "bridge")
        _ip("link", "del", name)
    except subprocess.CalledProcessError as error:
        return f"may make no network namespaces: {error.stderr.decode().strip()}"
    return ""


@contextlib.contextmanager
def hosts(folder: Path, count: int) -> Iterator[list[Host]]:
    """Make hosts that reach each other and nothing else, and take them away again."""
    name = f"shoal{secrets.token_hex(2)}"
    made: list[Host] = []
    _ip("link", "add", name, "type", "bridge")
    try:
        _ip("link", "set", name, "up")
        for number in range(1, count + 1):
            made.append(_host(folder, name, number))  # noqa: PERF401 - what was made is taken away
        yield made
    finally:
        for host in made:
            _ip("netns", "del", host.namespace)
        _ip("link", "del", name)


def _host(folder: Path, bridge: str, number: int) -> Host:
    namespace, outside = f"{bridge}-{number}", f"{bridge}v{number}"
    address = f"{NETWORK}.{number}"
    _ip("netns", "add", namespace)
    _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    _ip("link", "set", outside, "master", bridge)
    _ip("link", "set", outside, "up")
    inside = ("-n", namespace)
    _ip(*inside, "addr", "add", f"{address}/24", "dev", "eth0")
    _ip(*inside, "link", "set", "eth0", "up")
    _ip(*inside, "link", "set", "lo", "up")
    _ip(*inside, "route", "add", "default", "dev", "eth0")
    cli = folder / f"{namespace}.py"
    words = ["ip", "netns", "exec", namespace, sys.executable, str(CLI)]
    # exec, so that the process id is that of the command itself.
    cli.write_text(f"import os, sys\nos.execvp('ip', {words!r} + sys.argv[1:])\n")
    return Host(namespace, address, cli)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=_TIMEOUT_S)
