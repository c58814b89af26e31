"""`network new`: write a network file with a fresh key. Loaded by that command only."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from identity.address import Address
from identity.network import BootstrapNode, Network, NetworkFile, dump_network_file
from peer.failures import ExitCode, Failure

_KEY_BYTES = 32


def write_new_network(
    name: str, *, is_open: bool, seeds: Sequence[Address], path: Path
) -> dict[str, Any]:
    """Write the file, 0600 since the key is in it; ``-`` writes to stdout.

    Never replaces a file: the key of a living network may be in it.
    """
    if not name.strip() or not name.isprintable():
        raise Failure("a network needs a name of printable characters", exit_code=ExitCode.USAGE)
    if any(seed.port == 0 for seed in seeds):
        raise Failure("a seed needs the port it will listen on", exit_code=ExitCode.USAGE)
    network = Network(name=name, key=None if is_open else secrets.token_bytes(_KEY_BYTES))
    nodes = tuple(BootstrapNode(address=seed) for seed in seeds)
    data = dump_network_file(NetworkFile(network=network, bootstrap=nodes))
    if str(path) == "-":
        sys.stdout.write(data.decode())
    else:
        _write(path, data)
    return {"path": str(path), "network": name, "private": network.is_private}


def _write(path: Path, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Failure(
            f"{path} is there already",
            hint="name another file with -o; an existing network file is never replaced",
            exit_code=ExitCode.USAGE,
        ) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
