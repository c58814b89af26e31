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

NETWORKS = {4: ("10.213.77.", 24), 6: ("fd0a:d54d::", 64)}
"""The first part of the addresses of each family, and the length of the prefix."""
_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Host:
    """A namespace with one address; `cli` is the command as it runs there."""

    namespace: str
    address: str
    cli: Path
    port: str
    """Its end on the bridge."""

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """Drop on the bridge whatever goes to or comes from this host: nobody is told."""
        rules = f"""table bridge {self.port} {{
            chain cut {{
                type filter hook forward priority 0; policy accept;
                iifname "{self.port}" drop
                oifname "{self.port}" drop
            }}
        }}"""
        _run("nft", "-f", "-", stdin=rules)
        try:
            yield
        finally:
            _run("nft", "delete", "table", "bridge", self.port)

    @contextlib.contextmanager
    def walled(self) -> Iterator[None]:
        """Let in what answers this host, and drop what comes unasked: a stateful firewall."""
        rules = """table inet wall {
            chain in {
                type filter hook input priority 0; policy drop;
                iifname "lo" accept
                ct state established,related accept
            }
        }"""
        inside = ("ip", "netns", "exec", self.namespace, "nft")
        _run(*inside, "-f", "-", stdin=rules)
        try:
            yield
        finally:
            _run(*inside, "delete", "table", "inet", "wall")


def why_no_cuts() -> str:
    """Why hosts cannot be made and cut off here; empty when they can."""
    if reason := why_no_hosts():
        return reason
    if shutil.which("nft") is None:
        return "needs nftables"
    name = f"shoal{secrets.token_hex(2)}"
    try:
        _run("nft", "add", "table", "bridge", name)
        _run("nft", "delete", "table", "bridge", name)
    except subprocess.CalledProcessError as error:
        return f"may filter no bridge: {error.stderr.decode().strip()}"
    return ""


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
def hosts(folder: Path, count: int, *, version: int = 4) -> Iterator[list[Host]]:
    """Make hosts of one IP version that reach each other and nothing else; take them away again."""
    name = f"shoal{secrets.token_hex(2)}"
    made: list[Host] = []
    _ip("link", "add", name, "type", "bridge")
    try:
        _ip("link", "set", name, "up")
        for number in range(1, count + 1):
            made.append(_host(folder, name, number, version))  # noqa: PERF401 - what was made is taken away
        yield made
    finally:
        for host in made:
            _ip("netns", "del", host.namespace)
        _ip("link", "del", name)


def _host(folder: Path, bridge: str, number: int, version: int) -> Host:
    namespace, outside = f"{bridge}-{number}", f"{bridge}v{number}"
    prefix, length = NETWORKS[version]
    address = f"{prefix}{number}"
    _ip("netns", "add", namespace)
    _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    _ip("link", "set", outside, "master", bridge)
    _ip("link", "set", outside, "up")
    inside = ("-n", namespace)
    # Nobody else has the address, and looking for a duplicate takes a second.
    options = ["nodad"] if version == 6 else []
    _ip(*inside, "addr", "add", f"{address}/{length}", "dev", "eth0", *options)
    _ip(*inside, "link", "set", "eth0", "up")
    _ip(*inside, "link", "set", "lo", "up")
    _ip(f"-{version}", *inside, "route", "add", "default", "dev", "eth0")
    cli = folder / f"{namespace}.py"
    words = ["ip", "netns", "exec", namespace, sys.executable, str(CLI)]
    # exec, so that the process id is that of the command itself.
    cli.write_text(f"import os, sys\nos.execvp('ip', {words!r} + sys.argv[1:])\n")
    return Host(namespace, address, cli, outside)


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*words: str, stdin: str = "") -> None:
    subprocess.run(words, input=stdin.encode(), check=True, capture_output=True, timeout=_TIMEOUT_S)
