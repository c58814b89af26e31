"""Files to send and what became of them: content, digests from disk, the state of a delivery."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.processes import PeerProcess


def write_file(folder: Path, name: str, size_bytes: int, seed: int = 1) -> Path:
    """Write repeatable content; another seed gives other content."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(random.Random(seed).randbytes(size_bytes))
    return path


def digest_of(path: Path | str) -> str:
    """Hash a file as it lies on the disk."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def configure(peer: PeerProcess, text: str) -> None:
    """Write a peer's config.toml before it joins."""
    peer.home.mkdir(mode=0o700, exist_ok=True)
    path = peer.home / "config.toml"
    path.write_text(text)
    path.chmod(0o600)


def send(peer: PeerProcess, path: Path, recipient: str, *options: str) -> dict[str, Any]:
    """Run `put --to`, which must succeed; return its JSON object."""
    (sent,) = peer.json("put", str(path), "--to", recipient, *options)
    return sent


def await_received(
    peer: PeerProcess, delivery: Mapping[str, Any], timeout_s: float = 20.0
) -> dict[str, Any]:
    """Wait until a delivery is in a peer's inbox, and return its line."""

    def of_delivery(items: Any) -> list[dict[str, Any]]:
        return [item for item in items if item["delivery_id"] == delivery["delivery_id"]]

    items = peer.poll("inbox", until=lambda items: bool(of_delivery(items)), timeout_s=timeout_s)
    (line,) = of_delivery(items)
    return line


def await_state(
    peer: PeerProcess, delivery: Mapping[str, Any], state: str, timeout_s: float = 20.0
) -> dict[str, Any]:
    """Wait until the outbox shows a delivery in a state, and return its line."""

    def in_state(items: Any) -> list[dict[str, Any]]:
        return [
            item
            for item in items
            if item["delivery_id"] == delivery["delivery_id"] and item["state"] == state
        ]

    items = peer.poll("outbox", until=lambda items: bool(in_state(items)), timeout_s=timeout_s)
    (line,) = in_state(items)
    return line


def inbox_files(peer: PeerProcess) -> list[str]:
    """Return the names of everything in a peer's inbox folder, partial files included."""
    folder = peer.home / "inbox"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def files_holding(folder: Path, needle: bytes) -> list[str]:
    """Return the files below a folder in whose bytes or names a text occurs."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (needle in path.read_bytes() or needle in path.name.encode())
    ]
