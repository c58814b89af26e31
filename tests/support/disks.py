"""Disks of a few megabytes, in memory: to be filled by a test. Only root on Linux has them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


def may_mount() -> bool:
    """Whether this process can have a small disk."""
    return sys.platform == "linux" and os.geteuid() == 0


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a file system of its own on a folder, made where it is absent; skips but for root."""
    if not may_mount():
        pytest.skip("only root on Linux can mount a small disk")
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(64 * 1024)):
            pass
    with contextlib.suppress(OSError), (disk / "filler 2").open("wb", buffering=0) as file:
        while file.write(bytes(512)):
            pass
